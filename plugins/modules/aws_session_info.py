#!/usr/bin/python
# GNU General Public License v3.0+ (see COPYING)
from __future__ import annotations

DOCUMENTATION = r"""
module: aws_session_info
short_description: Tell whose AWS session is in use
version_added: 0.1.0
description:
  - Asks AWS STS for the caller's identity and refuses a session of any other account than the
    expected one.
author: The APGMS release team (@apgms)
attributes:
  check_mode:
    support: full
    description: The module only reads.
  diff_mode:
    support: none
    description: The module changes nothing.
options:
  profile:
    description: Name of the AWS profile.
    type: str
    required: true
  account:
    description: The account that the session must belong to, 12 digits.
    type: str
    required: true
  sts_endpoint:
    description: Endpoint of an STS server other than AWS.
    type: str
requirements:
  - boto3
"""

EXAMPLES = r"""
- name: The session is the production account's
  apgms.release.aws_session_info:
    profile: apgms-prod
    account: "111122223333"
"""

RETURN = r"""
account:
  description: The account of the session.
  returned: success
  type: str
arn:
  description: The caller's ARN.
  returned: success
  type: str
"""

from ansible_collections.apgms.release.plugins.module_utils.boundary import (
    Call,
    Outcome,
    run_module,
)
from ansible_collections.apgms.release.plugins.module_utils.ports.aws import (
    caller_identity,
    require_account,
)


def act(call: Call) -> Outcome:
    options = call.options
    identity = caller_identity(options["profile"], options["sts_endpoint"])
    require_account(identity, options["account"], options["profile"])
    return Outcome(changed=False, result={"account": identity.account, "arn": identity.arn})


def main() -> None:
    run_module(
        act,
        {
            "profile": {"type": "str", "required": True},
            "account": {"type": "str", "required": True},
            "sts_endpoint": {"type": "str"},
        },
    )


if __name__ == "__main__":
    main()
