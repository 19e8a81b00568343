# GNU General Public License v3.0+ (see COPYING)
from __future__ import annotations

DOCUMENTATION = r"""
name: runbook
type: stdout
short_description: A run that reads like the runbook
version_added: 0.1.0
description:
  - Prints every role as a numbered step, below it what was checked, what was found, what changed
    and what to do next.
  - A refusal is shown in its parts, what, where, why and the command that mends it. Where the run
    was given another inventory that holds the stack, the command names that one.
  - With C(-v) and more, output is that of P(ansible.builtin.default#callback).
author: The APGMS release team (@apgms)
extends_documentation_fragment:
  - ansible.builtin.default_callback
  - ansible.builtin.result_format_callback
requirements:
  - set as stdout in configuration
"""

import re
import textwrap
from typing import Any

from ansible import constants, context
from ansible.plugins.callback.default import CallbackModule as DefaultCallback

_SPEC_CHECK = re.compile(r"Validating arguments against arg spec '[^']*'(?: - (?P<about>.*))?")
_PARTS = re.compile(r"\s+(Where|Why|Mend): ")
_INVENTORY = re.compile(r"-i inventories/(proto|prod)(?= )")
_INDENT = " " * 4
_WIDTH = 96


class CallbackModule(DefaultCallback):
    """Numbered steps; everything else only where somebody has to read it."""

    CALLBACK_VERSION = 2.0
    CALLBACK_TYPE = "stdout"
    CALLBACK_NAME = "apgms.release.runbook"

    def __init__(self) -> None:
        super().__init__()
        self._step = 0
        self._role: Any = None
        self._play: Any = None

    @property
    def _plain(self) -> bool:
        return bool(self._display.verbosity)

    def v2_playbook_on_play_start(self, play: Any) -> None:
        if self._plain:
            super().v2_playbook_on_play_start(play)
            return
        self._play = play
        mode = " (check mode: nothing is changed)" if play.check_mode else ""
        self._display.display(f"\n{play.get_name().strip()}{mode}", color=constants.COLOR_HIGHLIGHT)

    def v2_playbook_on_task_start(self, task: Any, is_conditional: bool) -> None:
        if self._plain:
            super().v2_playbook_on_task_start(task, is_conditional)
            return
        role = task._role
        if role is not None and role is not self._role:
            self._step += 1
            about = _SPEC_CHECK.search(task.get_name())
            title = about["about"] if about and about["about"] else role.get_name().split(".")[-1]
            self._display.display(f"\n{self._step:2}. {title}", color=constants.COLOR_HIGHLIGHT)
        self._role = role

    def v2_playbook_on_handler_task_start(self, task: Any) -> None:
        self.v2_playbook_on_task_start(task, False)

    def v2_playbook_on_include(self, included_file: Any) -> None:
        if self._plain:
            super().v2_playbook_on_include(included_file)

    def v2_runner_on_start(self, host: Any, task: Any) -> None:
        if self._plain:
            super().v2_runner_on_start(host, task)

    def v2_runner_on_ok(self, result: Any) -> None:
        if self._plain:
            super().v2_runner_on_ok(result)
            return
        found, task = result._result, result._task
        name = task.get_name().rpartition(" : ")[2]
        action = task.action.rpartition(".")[2]
        if _SPEC_CHECK.search(name) or action.startswith("include"):
            return
        if action == "debug":
            self._say(found.get("msg", ""))
            return
        self._handle_warnings(found)
        if found.get("changed"):
            self._line("changed", name, constants.COLOR_CHANGED)
        else:
            self._line("ok", name, constants.COLOR_OK)

    def v2_runner_on_skipped(self, result: Any) -> None:
        if self._plain:
            super().v2_runner_on_skipped(result)

    def v2_runner_on_failed(self, result: Any, ignore_errors: bool = False) -> None:
        if self._plain:
            super().v2_runner_on_failed(result, ignore_errors)
            return
        found = result._result
        self._handle_warnings(found)
        name = result._task.get_name().rpartition(" : ")[2]
        word = "no matter" if ignore_errors else "STOPPED"
        self._line(word, name, constants.COLOR_ERROR)
        self._refusal(str(found.get("msg", "no message")))
        for stream in ("stdout", "stderr", "module_stderr"):
            self._paragraph("  Said:", str(found.get(stream, "")), 10)

    def v2_runner_on_unreachable(self, result: Any) -> None:
        if self._plain:
            super().v2_runner_on_unreachable(result)
            return
        self._line("UNREACHABLE", result._host.get_name(), constants.COLOR_UNREACHABLE)
        self._refusal(str(result._result.get("msg", "")))

    def v2_runner_retry(self, result: Any) -> None:
        if self._plain:
            super().v2_runner_retry(result)
            return
        self._line("waiting", str(result._result.get("msg", result._task.get_name())))

    def v2_runner_item_on_ok(self, result: Any) -> None:
        if self._plain:
            super().v2_runner_item_on_ok(result)

    def v2_runner_item_on_skipped(self, result: Any) -> None:
        if self._plain:
            super().v2_runner_item_on_skipped(result)

    def v2_runner_item_on_failed(self, result: Any) -> None:
        if self._plain:
            super().v2_runner_item_on_failed(result)
            return
        self._refusal(str(result._result.get("msg", "")))

    def v2_playbook_on_stats(self, stats: Any) -> None:
        if self._plain:
            super().v2_playbook_on_stats(stats)
            return
        self._display.display("")
        for host in sorted(stats.processed):
            if host == "localhost" and len(stats.processed) > 1:
                continue
            totals = stats.summarize(host)
            stopped = totals["failures"] or totals["unreachable"]
            self._display.display(
                f"{host}: {'stopped' if stopped else 'done'},"
                f" {self._step} steps, changed={totals['changed']}",
                color=constants.COLOR_ERROR if stopped else constants.COLOR_OK,
            )

    def _line(self, word: str, text: str, color: str | None = None) -> None:
        self._display.display(f"{_INDENT}{word:8} {text}", color=color)

    def _say(self, message: Any) -> None:
        for line in message if isinstance(message, list) else [message]:
            self._paragraph("found", str(line), 9)

    def _refusal(self, message: str) -> None:
        """Print a message in its parts, wrapped; a command to copy stays on one line."""
        what, *parts = _PARTS.split(message)
        self._paragraph("  What:" if parts else "", what, 10)
        for label, text in zip(parts[::2], parts[1::2], strict=True):
            if label == "Mend":
                self._commands(f"  {label}:", text, 10)
            else:
                self._paragraph(f"  {label}:", text, 10)

    def _paragraph(self, label: str, text: str, margin: int) -> None:
        for line in text.splitlines():
            for part in textwrap.wrap(
                line, _WIDTH - margin, break_on_hyphens=False, break_long_words=False
            ):
                self._display.display(f"{_INDENT}{label:{margin}}{part}".rstrip())
                label = ""

    def _commands(self, label: str, text: str, margin: int) -> None:
        for command in _INVENTORY.sub(self._inventory, text).split("; "):
            self._display.display(f"{_INDENT}{label:{margin}}{command}")
            label = ""

    def _inventory(self, named: re.Match[str]) -> str:
        """Return the inventories of this run where they hold the stack, else the one named."""
        given = context.CLIARGS.get("inventory") or ()
        groups = self._play.get_variable_manager().get_vars(play=self._play)["groups"]
        if not given or named[1] not in groups:
            return named[0]
        return " ".join(f"-i {source}" for source in given)
