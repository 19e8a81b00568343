#!/usr/bin/python
# GNU General Public License v3.0+ (see COPYING)
from __future__ import annotations

DOCUMENTATION = r"""
module: outbox_deliver
short_description: Deliver the notices of releases and rollbacks
version_added: 0.1.0
description:
  - Notices are queued in the transaction of what they tell. This module posts each one that is not
    delivered yet, as JSON, to the webhook of its topic, and notes the delivery.
  - A notice is delivered at least once; its id is sent as C(Idempotency-Key), so that a receiver
    can tell a repetition.
  - A topic without a webhook keeps its notices queued, and the result names them. A webhook that
    does not take a notice fails the task; the notice stays queued.
author: The APGMS release team (@apgms)
attributes:
  check_mode:
    support: full
    description: Tells which notices would be queued and sent; nothing is sent or noted.
  diff_mode:
    support: full
    description: Shows the queued notices before and after.
extends_documentation_fragment:
  - apgms.release.stack
  - apgms.release.database
options:
  manifest_sha256:
    description:
      - Manifest checksum of an acknowledged release whose notice is to be queued.
      - A release has one notice, however often this is asked for.
    type: str
  webhook_url:
    description: Where notices of releases and rollbacks go, for stakeholders and auditors.
    type: str
  webhook_token:
    description: Bearer token for O(webhook_url).
    type: str
  tracker_url:
    description: Where incidents go, for the tracker.
    type: str
  tracker_token:
    description: Bearer token for O(tracker_url).
    type: str
"""

EXAMPLES = r"""
- name: Tell the stakeholders of the release
  apgms.release.outbox_deliver:
    stack: prod
    database_url: "{{ apgms_database_url }}"
    database_password: "{{ apgms_database_password }}"
    manifest_sha256: "{{ manifest_sha256 }}"
    webhook_url: https://chat.example.org/hooks/apgms
    webhook_token: "{{ lookup('ansible.builtin.env', 'APGMS_WEBHOOK_TOKEN') }}"
"""

RETURN = r"""
delivered:
  description: Ids of the notices delivered by this run.
  returned: always
  type: list
  elements: str
waiting:
  description: Ids of the notices that stay queued since their topic has no webhook.
  returned: always
  type: list
  elements: str
not_taken:
  description: Ids of the notices that a webhook did not take, each with the reason.
  returned: always
  type: dict
"""

from ansible_collections.apgms.release.plugins.module_utils.boundary import (
    DATABASE_SPEC,
    STACK_SPEC,
    Call,
    Outcome,
    run_module,
)
from ansible_collections.apgms.release.plugins.module_utils.ports.database import connect
from ansible_collections.apgms.release.plugins.module_utils.ports.webhook import (
    Webhook,
    open_webhook,
)
from ansible_collections.apgms.release.plugins.module_utils.usecases.acts.outbox import (
    Delivery,
    notify,
    predict,
)


def act(call: Call) -> Outcome:
    options = call.options
    stakeholders = _webhook(options["webhook_url"], options["webhook_token"])
    tracker = _webhook(options["tracker_url"], options["tracker_token"])
    webhooks = {"release": stakeholders, "rollback": stakeholders, "incident": tracker}
    with connect(options["database_url"], options["database_password"], purpose="notify") as opened:
        run = predict if call.check_mode else notify
        before, delivery = run(opened, webhooks, options["manifest_sha256"])
    return Outcome(
        changed=bool(delivery.queued or delivery.delivered),
        result={
            "delivered": delivery.delivered,
            "waiting": delivery.waiting,
            "not_taken": delivery.failed,
        },
        before={"queued": before},
        after={"queued": sorted({*delivery.waiting, *delivery.failed})},
        failure=_failure(delivery),
    )


def _webhook(url: str | None, token: str | None) -> Webhook | None:
    return open_webhook(url, token) if url else None


def _failure(delivery: Delivery) -> str | None:
    if not delivery.failed:
        return None
    reasons = ", ".join(f"{notice}: {why}" for notice, why in delivery.failed.items())
    return (
        f"Not every notice was taken. Where: {reasons}. Why: the webhook refused it or could not be"
        " reached; it stays queued. Mend: run the same command again when the webhook answers"
    )


def main() -> None:
    run_module(
        act,
        {
            **STACK_SPEC,
            **DATABASE_SPEC,
            "manifest_sha256": {"type": "str"},
            "webhook_url": {"type": "str"},
            "webhook_token": {"type": "str", "no_log": True},
            "tracker_url": {"type": "str"},
            "tracker_token": {"type": "str", "no_log": True},
        },
    )


if __name__ == "__main__":
    main()
