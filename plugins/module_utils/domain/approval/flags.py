# GNU General Public License v3.0+ (see COPYING)
"""The configuration of a run: SEED, SMOKE, DRY_RUN, the stack, the window and the rollback target.

The inventory decides. Every other place where an operator can state the same variables must agree
with it: ``docs/flags.md`` lists them and the rules.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass
from typing import Any

from ...errors import ApgmsError
from ..release.manifest import PURPOSES, Flags
from ..release.rollback_target import BEGINNING
from .window import parse_window_id

FLAGS = ("SEED", "SMOKE", "DRY_RUN")
WATCHED = (
    *FLAGS,
    "STACK",
    "RELEASE_WINDOW",
    "ROLLBACK_TARGET",
    "PROTO_KILL_SWITCH",
    "PROTO_KILL_SWITCH_REASON",
)

_WORDS = {
    "1": True, "true": True, "yes": True, "on": True,
    "0": False, "false": False, "no": False, "off": False,
}  # fmt: skip


@dataclass(frozen=True)
class Setting:
    """One variable as one place states it."""

    name: str
    value: object
    source: str
    """The place in the operator's words, such as ``.env.prod line 3``."""
    mend: str
    """What takes this statement away or corrects it."""


@dataclass(frozen=True)
class Problem:
    """A setting that a run must not start with."""

    reason: str
    variable: str
    source: str
    why: str
    mend: str


@dataclass(frozen=True)
class Inventory:
    """What the inventory states, and the file where an operator corrects it."""

    stack: str
    flags: Mapping[str, object]
    release_window: object = None
    rollback_target: object = None
    file: str = "the inventory"


@dataclass(frozen=True)
class Configuration:
    """The configuration that all places agree on."""

    stack: str
    purpose: str
    flags: Flags
    release_window: str | None
    rollback_target: str | None
    kill_switch: str | None
    """Why PROTO_KILL_SWITCH stops what would act, and the place that says so; None where it is off.

    It does not stop the run: a rollback and asking the gateway go on. The modules that act refuse.
    """

    def as_result(self) -> dict[str, Any]:
        """Return it as JSON values, the flags under the names that the manifest uses."""
        return {
            "stack": self.stack,
            "purpose": self.purpose,
            "flags": {
                "seed": self.flags.seed,
                "smoke": self.flags.smoke,
                "dryRun": self.flags.dry_run,
            },
            "release_window": self.release_window,
            "rollback_target": self.rollback_target,
            "kill_switch": self.kill_switch,
        }


def parse_flag(value: object) -> bool:
    """Return the truth of a flag: 1/true/yes/on, 0/false/no/off in any case, booleans, 0 and 1.

    :raises ValueError: for everything else
    """
    if isinstance(value, bool):
        return value
    if isinstance(value, int) and not isinstance(value, bool) and value in (0, 1):
        return value == 1
    if isinstance(value, str) and value.lower() in _WORDS:
        return _WORDS[value.lower()]
    raise ValueError(f"{_shown(value)} is none of 1, true, yes, on, 0, false, no, off")


def kill_switch_engaged(value: object) -> bool:
    """Return whether PROTO_KILL_SWITCH stops what would act: unless unset, empty or off, it does."""
    if is_empty(value):
        return False
    try:
        return parse_flag(value)
    except ValueError:
        return True


def is_empty(value: object) -> bool:
    """Tell whether a variable is there without a value."""
    return value is None or value == ""


def unlawful(stack: str, purpose: str, flags: Flags) -> Iterator[tuple[str, str]]:
    """Yield each variable that a stack and purpose do not allow, with the rule it breaks.

    The modules that act check the flags of a manifest with this, whatever a playbook checked.
    """
    if purpose not in PURPOSES[stack]:
        yield "purpose", f"a {stack} run is a {' or a '.join(PURPOSES[stack])}, not a {purpose}"
        return
    live = purpose == "release"
    if flags.dry_run == live:
        yield "DRY_RUN", f"a {stack} {purpose} requires DRY_RUN={int(not live)}"
    if stack == "prod":
        for name, value in (("SEED", flags.seed), ("SMOKE", flags.smoke)):
            if value:
                yield name, f"a prod {purpose} requires {name}=0"


def require_lawful(stack: str, purpose: str, flags: Flags, *, where: str) -> None:
    """Check the flags of a manifest.

    :raises ApgmsError: ``flags.forbidden``
    """
    found = list(unlawful(stack, purpose, flags))
    if found:
        raise ApgmsError(
            "flags.forbidden",
            f"The flags are not those of a {stack} {purpose}",
            where=where,
            why="; ".join(why for _reason, why in found),
            mend="correct apgms_flags in the inventory and build the bundle again",
        )


def resolve(inventory: Inventory, purpose: str, settings: Iterable[Setting]) -> Configuration:
    """Return the configuration of a run, or refuse with everything that is wrong with it.

    :raises ApgmsError: the reason is that of the first problem, ``details["problems"]`` holds all:
        ``flags.unknown``, ``flags.unstated``, ``flags.malformed``, ``flags.forbidden``,
        ``flags.disagree``, ``stack.disagree``, ``window.malformed``, ``window.disagree``,
        ``rollback_target.malformed``, ``rollback_target.disagree``
    """
    settings = list(settings)
    flags, problems = _inventory_flags(inventory)
    if not problems:
        problems += _forbidden(inventory, purpose, flags)
    problems += _disagreeing_flags(inventory, flags, settings)
    problems += _disagreeing_stack(inventory, settings)
    window, found = _agreed(_WINDOW, inventory.release_window, inventory, settings)
    target, more = _agreed(_TARGET, inventory.rollback_target, inventory, settings)
    problems += found + more
    if problems:
        raise _refused(inventory.stack, purpose, problems)
    return Configuration(
        inventory.stack, purpose, _as_flags(flags), window, target, _kill_switch(settings)
    )


def from_variables(variables: Mapping[str, object]) -> list[Setting]:
    """Return what extra variables and AWX survey answers of the operator's names state."""
    return [
        Setting(
            name,
            variables[name],
            "the extra or survey variables",
            f"leave {name} out of -e and out of the AWX job's variables",
        )
        for name in WATCHED
        if name in variables
    ]


def from_environment(environment: Mapping[str, object]) -> list[Setting]:
    """Return what the process environment states."""
    return [
        Setting(
            name,
            environment[name],
            "the process environment",
            f"unset {name}" if name in FLAGS else f"correct or unset {name}",
        )
        for name in WATCHED
        if name in environment
    ]


def from_env_file(path: str, text: str) -> list[Setting]:
    """Return what a dotenv file states, line by line.

    A line is ``NAME=VALUE``, perhaps after ``export``, the value perhaps in quotes and before a
    comment. Lines that do not concern the operator's variables are not looked into; a line that
    names one in any other form is malformed, since shells and Compose read it differently.
    """
    found = []
    for number, line in enumerate(re.split("\n|\r(?!\n)", text), start=1):
        source, mend = f"{path} line {number}", f"correct or delete line {number} of {path}"
        for name, value in _read_line(line):
            found.append(Setting(name, value, source, mend))
    return found


class _Ambiguous:
    """The value of a line that names a variable in another form; its text may hold a secret."""

    def __repr__(self) -> str:
        return "an ambiguous line, not NAME=VALUE,"


_NAMES = "|".join(WATCHED)
_MENTION = re.compile(rf"(?<![\w.?/=:@%+-])({_NAMES})(?!\w)(?:\s*[=:+]|\[|\s*$)")
_ASSIGNMENT = re.compile(
    rf"(?:export[ \t]+)?({_NAMES})="
    r"(?:\"([^\"\\$`]*)\"|'([^']*)'|([^\s\"'\\$`;&|]*))(?:[ \t]+#.*|[ \t]*)"
)


def _read_line(line: str) -> Iterator[tuple[str, object]]:
    if line.lstrip().startswith("#"):
        return
    match = _ASSIGNMENT.fullmatch(line)
    if match:
        yield match[1], match[2] or match[3] or match[4] or ""
        return
    for name in _MENTION.findall(line):
        yield name, _Ambiguous()


def _inventory_flags(inventory: Inventory) -> tuple[dict[str, bool], list[Problem]]:
    """Return the flags that the inventory states readably, and what is wrong with the others."""
    flags: dict[str, bool] = {}
    problems = []
    for name in inventory.flags.keys() - set(FLAGS):
        why = f"there is no flag {name!r}, only {', '.join(FLAGS)}"
        problems.append(_of_inventory("flags.unknown", inventory, str(name), why))
    for name in FLAGS:
        value = inventory.flags.get(name)
        if is_empty(value) and inventory.stack == "proto":
            flags[name] = False
            continue
        try:
            flags[name] = parse_flag(value)
        except ValueError as error:
            reason = "flags.unstated" if is_empty(value) else "flags.malformed"
            problems.append(_of_inventory(reason, inventory, name, str(error)))
    return flags, problems


def _of_inventory(reason: str, inventory: Inventory, name: str, why: str) -> Problem:
    variable = f"apgms_flags.{name}"
    return Problem(reason, name, variable, why, f"set {variable} in {inventory.file}")


def _as_flags(flags: Mapping[str, bool]) -> Flags:
    return Flags(*(flags[name] for name in FLAGS))


def _forbidden(inventory: Inventory, purpose: str, flags: Mapping[str, bool]) -> Iterator[Problem]:
    for name, why in unlawful(inventory.stack, purpose, _as_flags(flags)):
        yield _of_inventory("flags.forbidden", inventory, name, why)


def _disagreeing_flags(
    inventory: Inventory, flags: Mapping[str, bool], settings: list[Setting]
) -> Iterator[Problem]:
    for setting in settings:
        unstated = is_empty(setting.value) and inventory.stack == "proto"
        if setting.name not in FLAGS or unstated:
            continue
        try:
            value = parse_flag(setting.value)
        except ValueError as error:
            yield _of_setting("flags.malformed", setting, str(error))
            continue
        if value != flags.get(setting.name, value):
            why = f"it says {int(value)}, the inventory says {int(not value)}"
            yield _of_setting("flags.disagree", setting, why)


def _disagreeing_stack(inventory: Inventory, settings: list[Setting]) -> Iterator[Problem]:
    for setting in settings:
        unstated = is_empty(setting.value) and inventory.stack == "proto"
        if setting.name == "STACK" and not unstated and setting.value != inventory.stack:
            why = f"it says {_shown(setting.value)}, the inventory says {inventory.stack}"
            yield _of_setting("stack.disagree", setting, why)


def _kill_switch(settings: list[Setting]) -> str | None:
    """Return the first place that turns the kill switch on, with the reason that any place gives."""
    reasons = [s.value for s in settings if s.name == "PROTO_KILL_SWITCH_REASON" and s.value]
    for setting in settings:
        if setting.name == "PROTO_KILL_SWITCH" and kill_switch_engaged(setting.value):
            reason = _shown(reasons[0]) if reasons else "no reason given"
            return f"{reason}, in {setting.source}"
    return None


def _of_setting(reason: str, setting: Setting, why: str) -> Problem:
    return Problem(reason, setting.name, setting.source, why, setting.mend)


@dataclass(frozen=True)
class _Agreed:
    """A variable that any place may state, if all that do state the same."""

    variable: str
    inventory_variable: str
    area: str
    parse: Callable[[object], str]


def _agreed(
    kind: _Agreed, own: object, inventory: Inventory, settings: list[Setting]
) -> tuple[str | None, list[Problem]]:
    name, mend = kind.inventory_variable, f"set {kind.inventory_variable} in {inventory.file}"
    statements = [Setting(kind.variable, own, name, mend)]
    statements += [setting for setting in settings if setting.name == kind.variable]
    agreed: tuple[str, str] | None = None
    problems = []
    for setting in statements:
        if is_empty(setting.value):
            continue
        try:
            value = kind.parse(setting.value)
        except ValueError as error:
            problems.append(_of_setting(f"{kind.area}.malformed", setting, str(error)))
            continue
        agreed = agreed or (value, setting.source)
        if value != agreed[0]:
            why = f"it says {value}, but {agreed[1]} says {agreed[0]}"
            problems.append(_of_setting(f"{kind.area}.disagree", setting, why))
    return agreed and agreed[0], problems


def _parse_window(value: object) -> str:
    text = str(value) if isinstance(value, int) and not isinstance(value, bool) else value
    if not isinstance(text, str):
        raise ValueError(f"{_shown(value)} is not 12 digits, YYYYMMDDHHMM")
    parse_window_id(text)
    return text


def _parse_target(value: object) -> str:
    if isinstance(value, str) and BEGINNING.fullmatch(value):
        return value
    raise ValueError(
        f"{_shown(value)} is no manifest checksum: 64 hexadecimal digits in lower case, or at least"
        " the first 12 of them"
    )


_WINDOW = _Agreed("RELEASE_WINDOW", "apgms_release_window", "window", _parse_window)
_TARGET = _Agreed("ROLLBACK_TARGET", "apgms_rollback_target", "rollback_target", _parse_target)


def _shown(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 80 else f"{text[:77]}..."


def _refused(stack: str, purpose: str, problems: list[Problem]) -> ApgmsError:
    return ApgmsError(
        problems[0].reason,
        f"The {stack} {purpose} does not start: its settings are wrong or contradict each other",
        where="; ".join(dict.fromkeys(problem.source for problem in problems)),
        why="; ".join(f"{p.variable} in {p.source}: {p.why}" for p in problems),
        mend="; ".join(dict.fromkeys(problem.mend for problem in problems)),
        problems=[asdict(problem) for problem in problems],
    )
