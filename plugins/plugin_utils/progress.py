# GNU General Public License v3.0+ (see COPYING)
"""Progress of a running module on the terminal, as Ansible itself shows a task's result only."""

from __future__ import annotations

import os
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from ansible.plugins.action import ActionBase
from ansible.utils.display import Display

LOOK_SECONDS = 0.25


class ProgressAction(ActionBase):
    """Runs the module of its name and shows the lines of its ``progress_file`` as they appear.

    Only on the controller's own connection; elsewhere the module runs as usual, without progress.
    """

    supports_check_mode = True
    supports_diff = True

    def run(
        self, tmp: str | None = None, task_vars: dict[str, Any] | None = None
    ) -> dict[str, Any]:
        result: dict[str, Any] = super().run(tmp, task_vars)
        arguments = dict(self._task.args)
        if self._connection.transport != "local" or arguments.get("progress_file"):
            return result | self._execute_module(task_vars=task_vars)
        with _shown() as path:
            arguments["progress_file"] = path
            return result | self._execute_module(module_args=arguments, task_vars=task_vars)


@contextmanager
def _shown() -> Iterator[str]:
    descriptor, path = tempfile.mkstemp(prefix="apgms-progress-")
    os.close(descriptor)
    ended = threading.Event()
    reader = threading.Thread(target=_show, args=(path, ended), daemon=True)
    reader.start()
    try:
        yield path
    finally:
        ended.set()
        reader.join()
        Path(path).unlink()


def _show(path: str, ended: threading.Event) -> None:
    display = Display()
    with Path(path).open(encoding="utf-8") as lines:
        last = False
        while not last:
            last = ended.wait(LOOK_SECONDS)
            for line in lines:
                display.display(f"    {line.rstrip()}")
