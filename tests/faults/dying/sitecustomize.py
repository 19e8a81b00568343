# GNU General Public License v3.0+ (see COPYING)
"""On PYTHONPATH, kills the process at a point of its steps: ``APGMS_DIE_AT`` counts them from 0."""

from __future__ import annotations

import importlib.abc
import importlib.machinery
import itertools
import os
import signal
import sys
from collections.abc import Sequence
from types import ModuleType
from typing import Any

STEPS = "ansible_collections.apgms.release.plugins.module_utils.usecases.acts.steps"


class Finder(importlib.abc.MetaPathFinder):
    """Finds the module of the steps as anybody would, and changes it once it is loaded."""

    def find_spec(
        self, name: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> importlib.machinery.ModuleSpec | None:
        if name != STEPS:
            return None
        sys.meta_path.remove(self)
        spec = importlib.util.find_spec(name)
        if spec is None or spec.loader is None:
            return None
        real: Any = spec.loader.exec_module

        def exec_module(module: ModuleType) -> None:
            real(module)
            _make_deadly(module)

        spec.loader.exec_module = exec_module  # type: ignore[method-assign]
        return spec


def _make_deadly(module: Any) -> None:
    numbers = itertools.count()

    def reach(_self: Any, _name: str, _side: str) -> None:
        if next(numbers) == int(os.environ["APGMS_DIE_AT"]):
            os.kill(os.getpid(), signal.SIGKILL)

    module.Steps.reach = reach


if "APGMS_DIE_AT" in os.environ:
    sys.meta_path.insert(0, Finder())
