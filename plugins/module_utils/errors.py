# GNU General Public License v3.0+ (see COPYING)
"""What went wrong, in the five parts that an operator needs."""

from __future__ import annotations

from typing import Any


class ApgmsError(Exception):
    """A refusal or a failure that ends the task with one clear message.

    :param reason: stable machine-readable name of the rule, such as ``flags.malformed``
    :param what: what was refused or failed
    :param where: the file, option, row or address it concerns
    :param why: the evidence: what was expected and what was found
    :param mend: the command or edit that mends it
    :param details: further data for the task's result; never secrets
    """

    def __init__(
        self, reason: str, what: str, *, where: str, why: str, mend: str, **details: Any
    ) -> None:
        super().__init__(f"{what}. Where: {where}. Why: {why}. Mend: {mend}")
        self.reason = reason
        self.details = details


class NotBuilt(ApgmsError):
    """A part of the runbook that does not exist yet."""

    def __init__(self, what: str) -> None:
        super().__init__(
            "not_built",
            f"{what} is not built yet",
            where="this version of apgms.release",
            why="a step that does nothing must not report success",
            mend="do this step by hand as the runbook says, or use a version that has it",
        )
