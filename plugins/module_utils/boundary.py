# GNU General Public License v3.0+ (see COPYING)
"""The one file of the core that knows AnsibleModule."""

from __future__ import annotations

import os
import socket
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from ansible.module_utils.basic import AnsibleModule

from .errors import ApgmsError
from .ports.database import connect, rehearsal
from .ports.object_store import ObjectStore
from .ports.overlay_store import OverlayStore
from .ports.stores import open_object_store

if TYPE_CHECKING:
    from .ports.database import Connection

STACK_SPEC: dict[str, Any] = {
    "stack": {"type": "str", "required": True, "choices": ["proto", "prod"]},
}
DATABASE_SPEC: dict[str, Any] = {
    "database_url": {"type": "str", "required": True},
    "database_password": {"type": "str", "no_log": True},
}
OBJECT_STORE_SPEC: dict[str, Any] = {
    "object_store": {"type": "str", "required": True},
    "object_store_endpoint": {"type": "str"},
}
GATEWAY_SPEC: dict[str, Any] = {
    "gateway_url": {"type": "str", "required": True},
    "gateway_ca": {"type": "path"},
    "gateway_client_cert": {"type": "path"},
    "gateway_client_key": {"type": "path", "no_log": False},
    "gateway_token": {"type": "str", "no_log": True},
}
POLICY_SPEC: dict[str, Any] = {
    "policy": {"type": "path", "required": True},
}
APPROVAL_SPEC: dict[str, Any] = {
    "manifest": {"type": "str"},
    "kind": {
        "type": "str",
        "choices": [
            "prototype",
            "release",
            "rehearsal",
            "override",
            "rollback",
            "lock_break",
            "restore",
        ],
    },
    "subject": {"type": "dict"},
}


@dataclass(frozen=True)
class Call:
    """One call of a module: its options and how it was asked to run."""

    options: dict[str, Any]
    check_mode: bool
    warn: Callable[[str], None]


@dataclass(frozen=True)
class Outcome:
    """What a use case did, or in check mode would do.

    ``before`` and ``after`` are the diff: equal exactly when ``changed`` is false.
    """

    changed: bool
    result: dict[str, Any] = field(default_factory=dict)
    before: Any = None
    after: Any = None
    failure: str | None = None


@contextmanager
def open_database(call: Call, purpose: str) -> Iterator[Connection]:
    """Yield a connection to the stack's database; in check mode all writes are rolled back."""
    url, password = call.options["database_url"], call.options["database_password"]
    with connect(url, password, purpose=purpose) as connection:
        if call.check_mode:
            with rehearsal(connection):
                yield connection
        else:
            yield connection


def open_store(call: Call) -> ObjectStore:
    """Return the stack's object store; in check mode all writes stay in memory."""
    store = open_object_store(call.options["object_store"], call.options["object_store_endpoint"])
    return OverlayStore(store) if call.check_mode else store


def holder(operator: str) -> str:
    """Return who asks for the stack's lock: the operator, on this machine, in this process."""
    return f"{operator}@{socket.gethostname()} pid {os.getpid()}"


def run_module(
    act: Callable[[Call], Outcome], argument_spec: dict[str, Any], **constraints: Any
) -> None:
    """Parse the arguments, act, and exit as Ansible expects.

    An outcome with ``failure`` set is a negative verdict: the task fails and its data stays in the
    result.
    """
    module = AnsibleModule(argument_spec=argument_spec, supports_check_mode=True, **constraints)
    call = Call(options=module.params, check_mode=module.check_mode, warn=module.warn)
    try:
        outcome = act(call)
    except ApgmsError as error:
        module.fail_json(msg=str(error), reason=error.reason, **error.details)
    except MemoryError:
        refusal = _out_of_memory()
        module.fail_json(msg=str(refusal), reason=refusal.reason)
    result = {"changed": outcome.changed, **outcome.result}
    if module._diff and (outcome.before is not None or outcome.after is not None):
        result["diff"] = {"before": outcome.before, "after": outcome.after}
    if outcome.failure:
        module.fail_json(msg=outcome.failure, **result)
    module.exit_json(**result)


def _out_of_memory() -> ApgmsError:
    return ApgmsError(
        "host.out_of_memory",
        "The module ran out of memory; its transaction was rolled back",
        where=socket.gethostname(),
        why="the operating system gave no more to this process",
        mend="ulimit -v; free -m  # let it have 512 MiB, then run the same command again",
    )
