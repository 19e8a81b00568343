# GNU General Public License v3.0+ (see COPYING)
from __future__ import annotations

DOCUMENTATION = r"""
name: operations_log
type: notification
short_description: Keep a hash-chained log of every action
version_added: 0.1.0
description:
  - Appends one line of canonical JSON for each task result to a file; every line names the SHA-256
    of the line before it, so a later change is found by M(apgms.release.operations_log).
  - Arguments and results of tasks are not logged; only which action ran where, when, on whose
    account, and how it ended.
author: The APGMS release team (@apgms)
options:
  path:
    description: The log file. Its folder is made where it is missing.
    type: path
    default: build/operations.jsonl
    env:
      - name: APGMS_OPERATIONS_LOG
    ini:
      - section: callback_operations_log
        key: path
requirements:
  - enabled through C(callbacks_enabled)
"""

import fcntl
import getpass
from datetime import UTC, datetime
from pathlib import Path
from typing import IO, Any

from ansible.plugins.callback import CallbackBase

from ansible_collections.apgms.release.plugins.module_utils.domain.formats.operations_log import (
    entry_line,
)
from ansible_collections.apgms.release.plugins.module_utils.ports.clock import iso_utc


class CallbackModule(CallbackBase):
    """Writes the operations log."""

    CALLBACK_VERSION = 2.0
    CALLBACK_TYPE = "notification"
    CALLBACK_NAME = "apgms.release.operations_log"
    CALLBACK_NEEDS_ENABLED = True

    def v2_playbook_on_start(self, playbook: Any) -> None:
        self._playbook = Path(playbook._file_name).name

    def v2_runner_on_ok(self, result: Any) -> None:
        outcome = result._result
        self._record(result, "changed" if outcome.get("changed") else "ok")

    def v2_runner_on_failed(self, result: Any, ignore_errors: bool = False) -> None:
        self._record(result, "failed, ignored" if ignore_errors else "failed")

    def v2_runner_on_skipped(self, result: Any) -> None:
        self._record(result, "skipped")

    def v2_runner_on_unreachable(self, result: Any) -> None:
        self._record(result, "unreachable")

    def _record(self, result: Any, outcome: str) -> None:
        task = result._task
        self._append(
            {
                "at": iso_utc(datetime.now(UTC)),
                "actor": getpass.getuser(),
                "playbook": self._playbook,
                "host": result._host.get_name(),
                "task": task.get_name(),
                "action": task.resolved_action or task.action,
                "check_mode": bool(task.check_mode),
                "outcome": outcome,
                "reason": str(result._result.get("reason", "")),
            }
        )

    def _append(self, action: dict[str, Any]) -> None:
        path = Path(self.get_option("path"))
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            with path.open("a+b") as log:
                fcntl.flock(log, fcntl.LOCK_EX)
                log.write(entry_line(_last_line(log), action) + b"\n")
        except OSError as error:
            self._display.warning(
                f"The operations log lacks this run. Where: {path}. Why: {error.strerror}. Mend:"
                f" let {action['actor']} write there, or name another file: APGMS_OPERATIONS_LOG"
            )


def _last_line(log: IO[bytes]) -> bytes | None:
    """Return the last line of an open log, read from its end."""
    end = log.seek(0, 2)
    length = 0
    while length < end:
        length = min(end, length + 4096)
        log.seek(end - length)
        lines = log.read(length).splitlines()
        if len(lines) > 1 or length == end:
            return lines[-1]
    return None
