# GNU General Public License v3.0+ (see COPYING)
"""Flags: every combination of stack, SEED, SMOKE, DRY_RUN, spelling and place, with its verdict.

The verdicts are the two tables SPELLINGS and RUNS, written out by hand from the runbook's
configuration matrix; nothing of the code under test takes part in them.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ansible_collections.apgms.release.plugins.module_utils.domain.approval.flags import (
    Inventory,
    Setting,
    from_env_file,
    from_environment,
    from_variables,
    parse_flag,
    require_lawful,
    resolve,
)
from ansible_collections.apgms.release.plugins.module_utils.domain.release.manifest import Flags
from ansible_collections.apgms.release.plugins.module_utils.errors import ApgmsError

FLAGS = ("SEED", "SMOKE", "DRY_RUN")
MALFORMED = "malformed"
EMPTY = "empty"

# what an operator may write, and what it means
SPELLINGS: list[tuple[object, object]] = [
    (True, True), (1, True), ("1", True), ("true", True), ("yes", True), ("on", True),
    ("True", True), ("TRUE", True), ("Yes", True), ("YES", True), ("ON", True), ("oN", True),
    (False, False), (0, False), ("0", False), ("false", False), ("no", False), ("off", False),
    ("False", False), ("FALSE", False), ("No", False), ("NO", False), ("OFF", False),
    (None, EMPTY), ("", EMPTY),
    (2, MALFORMED), (-1, MALFORMED), (10, MALFORMED), (0.0, MALFORMED), (1.0, MALFORMED),
    ("01", MALFORMED), ("00", MALFORMED), ("1.0", MALFORMED), ("0x1", MALFORMED),
    ("+1", MALFORMED), ("-0", MALFORMED), ("1 ", MALFORMED), (" 1", MALFORMED),
    ("True\n", MALFORMED), ("\ttrue", MALFORMED), ("t", MALFORMED), ("y", MALFORMED),
    ("n", MALFORMED), ("enabled", MALFORMED), ("none", MALFORMED), ("null", MALFORMED),
    ("unset", MALFORMED), ("~", MALFORMED), ("'1'", MALFORMED), ('"0"', MALFORMED),
    ("0\r", MALFORMED), ("0 # off", MALFORMED), ("\uff11", MALFORMED), ("\uff10", MALFORMED),
    ("tru\u0435", MALFORMED), ("\u200b1", MALFORMED), ("1\x00", MALFORMED), ("o\ufb00", MALFORMED),
    ([], MALFORMED), ([1], MALFORMED), ({}, MALFORMED), (b"1", MALFORMED), ("yes,no", MALFORMED),
    ("{{ 1 }}", MALFORMED), ("$DRY_RUN", MALFORMED),
]  # fmt: skip

# every lawful run: (stack, purpose, SEED, SMOKE, DRY_RUN)
RUNS = {
    ("proto", "prototype", False, False, True),
    ("proto", "prototype", False, True, True),
    ("proto", "prototype", True, False, True),
    ("proto", "prototype", True, True, True),
    ("prod", "release", False, False, False),
    ("prod", "rehearsal", False, False, True),
}
PLACES = ("inventory", "variables", "environment", "env_file")


def settings_of(place: str, name: str, value: object) -> list[Setting]:
    if place == "variables":
        return from_variables({name: value})
    if place == "environment":
        return from_environment({name: value})
    return from_env_file(".env.test", f"# stack\n\n{name}={value}\n")


def reasons_of(
    stack: str, purpose: str, flags: dict[str, object], settings: list[Setting]
) -> set[str]:
    try:
        resolve(Inventory(stack, flags), purpose, settings)
    except ApgmsError as error:
        return {problem["reason"] for problem in error.details["problems"]}
    return set()


def meaning(stack: str, spelling: object) -> object:
    """An empty value is unstated on proto, and an error on prod."""
    if spelling == EMPTY:
        return None if stack == "proto" else MALFORMED
    return spelling


@pytest.mark.parametrize(("value", "truth"), SPELLINGS)
def test_each_spelling_has_one_meaning(value: object, truth: object) -> None:
    if truth in (MALFORMED, EMPTY):
        with pytest.raises(ValueError, match="is none of 1, true"):
            parse_flag(value)
    else:
        assert parse_flag(value) is truth


@given(st.text())
def test_no_other_text_is_a_flag(text: str) -> None:
    accepted = {"1", "true", "yes", "on", "0", "false", "no", "off"}
    if {text.upper(), text.lower()} & accepted and text.isascii():
        return
    with pytest.raises(ValueError, match="is none of"):
        parse_flag(text)


@pytest.mark.parametrize("purpose", ["prototype", "release", "rehearsal"])
@pytest.mark.parametrize("stack", ["proto", "prod"])
def test_only_the_lawful_runs_start(stack: str, purpose: str) -> None:
    for values in itertools.product([True, False], repeat=3):
        flags: dict[str, object] = dict(zip(FLAGS, values, strict=True))
        lawful = (stack, purpose, *values) in RUNS
        assert reasons_of(stack, purpose, flags, []) == (set() if lawful else {"flags.forbidden"})


@pytest.mark.parametrize("name", FLAGS)
@pytest.mark.parametrize(("stack", "purpose"), [run[:2] for run in sorted(RUNS)])
def test_each_spelling_in_the_inventory(stack: str, purpose: str, name: str) -> None:
    for run in RUNS:
        if run[:2] != (stack, purpose):
            continue
        for value, spelling in SPELLINGS:
            flags: dict[str, object] = dict(zip(FLAGS, run[2:], strict=True))
            flags[name] = value
            said = meaning(stack, spelling)
            if spelling == EMPTY and stack == "prod":
                expected = {"flags.unstated"}
            elif said == MALFORMED:
                expected = {"flags.malformed"}
            else:
                values = [bool(said) if flag == name else flags[flag] for flag in FLAGS]
                lawful = (stack, purpose, *values) in RUNS
                expected = set() if lawful else {"flags.forbidden"}
            assert reasons_of(stack, purpose, flags, []) == expected, value


@pytest.mark.parametrize("place", PLACES[1:])
@pytest.mark.parametrize("stack", ["proto", "prod"])
def test_every_place_must_agree_with_the_inventory(stack: str, place: str) -> None:
    checked = 0
    for run, name, value, spelling in cases(stack, place):
        flags = dict(zip(FLAGS, run[2:], strict=True))
        said = meaning(stack, spelling)
        if said == MALFORMED:
            expected = {"flags.malformed"}
        elif said is None or said == flags[name]:
            expected = set()
        else:
            expected = {"flags.disagree"}
        found = reasons_of(stack, run[1], flags, settings_of(place, name, value))
        assert found == expected, (run, name, value)
        checked += 1
    assert checked >= 200


def cases(stack: str, place: str) -> Iterator[tuple[Any, str, object, object]]:
    for run in sorted(RUNS):
        for name, (value, spelling) in itertools.product(FLAGS, SPELLINGS):
            if run[0] == stack and (place != "env_file" or writable(value)):
                yield run, name, value, spelling


def writable(value: object) -> bool:
    """A dotenv file holds text; spaces, quotes and comments around a value are its own syntax."""
    return isinstance(value, str) and not set(value) & set(" \t\n'\"#")


def test_an_extra_variable_cannot_turn_a_proto_run_live() -> None:
    with pytest.raises(ApgmsError) as caught:
        resolve(
            Inventory("proto", {"SEED": 1, "SMOKE": 1, "DRY_RUN": 1}),
            "prototype",
            from_variables({"DRY_RUN": "0"}),
        )
    assert caught.value.reason == "flags.disagree"
    assert "DRY_RUN in the extra or survey variables: it says 0, the inventory says 1" in str(
        caught.value
    )


def test_an_exported_seed_cannot_enter_prod() -> None:
    with pytest.raises(ApgmsError, match="SEED in the process environment") as caught:
        resolve(
            Inventory("prod", dict.fromkeys(FLAGS, 0)), "release", from_environment({"SEED": "1"})
        )
    assert "Mend: unset SEED" in str(caught.value)


@pytest.mark.parametrize(
    ("name", "value"), [("STACK", "proto"), ("RELEASE_WINDOW", "2026"), ("ROLLBACK_TARGET", "abc")]
)
def test_what_a_run_needs_is_corrected_rather_than_unset(name: str, value: str) -> None:
    with pytest.raises(ApgmsError) as caught:
        resolve(
            Inventory("prod", dict.fromkeys(FLAGS, 0)), "release", from_environment({name: value})
        )
    assert f"Mend: correct or unset {name}" in str(caught.value)


def test_a_line_of_the_env_file_is_named() -> None:
    with pytest.raises(ApgmsError) as caught:
        resolve(
            Inventory("prod", dict.fromkeys(FLAGS, 0)),
            "release",
            from_env_file("/srv/.env.prod", "A=b\n# DRY_RUN=1\nexport DRY_RUN=1\n"),
        )
    assert "DRY_RUN in /srv/.env.prod line 3: it says 1" in str(caught.value)


@pytest.mark.parametrize("missing", FLAGS)
def test_prod_states_all_three(missing: str) -> None:
    flags: dict[str, object] = {name: 0 for name in FLAGS if name != missing}
    with pytest.raises(ApgmsError) as caught:
        resolve(Inventory("prod", flags), "release", [])
    assert caught.value.reason == "flags.unstated"
    assert f"set apgms_flags.{missing} in the inventory" in str(caught.value)


def test_an_unknown_flag_is_refused() -> None:
    flags = {"SEED": 0, "SMOKE": 0, "DRY_RUN": 1, "DRYRUN": 0}
    assert reasons_of("proto", "prototype", flags, []) == {"flags.unknown"}


def test_everything_wrong_is_listed_at_once() -> None:
    settings = [
        *from_variables({"SMOKE": "maybe", "STACK": "proto"}),
        *from_environment({"SEED": "1", "RELEASE_WINDOW": "20261313"}),
    ]
    with pytest.raises(ApgmsError) as caught:
        resolve(Inventory("prod", {"SEED": 0, "SMOKE": 0}), "release", settings)
    found = {(p["reason"], p["variable"]) for p in caught.value.details["problems"]}
    assert found == {
        ("flags.unstated", "DRY_RUN"),
        ("flags.malformed", "SMOKE"),
        ("flags.disagree", "SEED"),
        ("stack.disagree", "STACK"),
        ("window.malformed", "RELEASE_WINDOW"),
    }


LINES = [
    ("SEED=1", True), ("export SEED=1", True), ("SEED='1'", True), ('SEED="true"', True),
    ("SEED=1   ", True), ("SEED=1 # as agreed", True), ("SEED=\"0\" # off", False),
    ("SEED=", EMPTY), ("SEED=''", EMPTY), ("SEED= # none", EMPTY),
    ("SEED = 1", MALFORMED), ("SEED: 1", MALFORMED), ("SEED:1", MALFORMED), (" SEED=1", MALFORMED),
    ("SEED=1\r", MALFORMED), ("SEED", MALFORMED), ("export SEED", MALFORMED),
    ("SEED+=1", MALFORMED), ("SEED=\"1", MALFORMED), ("SEED='1", MALFORMED),
    ("SEED=$X", MALFORMED), ("SEED=${X:-1}", MALFORMED), ("SEED=`echo 1`", MALFORMED),
    ("SEED=1#", MALFORMED), ("SEED=1;SMOKE=0", MALFORMED), ("A=1 SEED=1", MALFORMED),
    ("A=1;SEED=1", MALFORMED), ("A='x SEED=1'", MALFORMED), ("readonly SEED=1", MALFORMED),
    ("declare -x SEED=1", MALFORMED), ("\ufeffSEED=1", MALFORMED), ("\u00a0SEED=1", MALFORMED),
    ("unset SEED", MALFORMED), ("SEED=\\1", MALFORMED), ("SEED='1'0", MALFORMED),
    ("SEED[0]=1", MALFORMED), ("SEED=\uff11", MALFORMED), ("SEED=\u0661", MALFORMED),
    ("SEED=1\x00", MALFORMED), ("export\tSEED=1", True), ("export SEED=1 SMOKE=0", MALFORMED),
    ("#SEED=1", None), ("  # SEED=1", None), ("SEEDS=1", None), ("MY_SEED=1", None),
    ("SEED_COUNT=5", None), ("seed=1", None), ("URL=http://h/?SEED=1", None), ("", None),
]  # fmt: skip


@pytest.mark.parametrize(("line", "truth"), LINES)
def test_each_form_of_a_line(line: str, truth: object) -> None:
    settings = from_env_file(".env.prod", f"A=1\n{line}\n")
    stated = [setting for setting in settings if setting.name == "SEED"]
    if truth is None:
        assert stated == []
        return
    assert {setting.source for setting in stated} == {".env.prod line 2"}
    found = reasons_of("prod", "release", dict.fromkeys(FLAGS, 0), settings)
    expected = {True: {"flags.disagree"}, False: set[str](), MALFORMED: {"flags.malformed"}}
    assert found == expected.get(truth, {"flags.malformed"})


def test_a_carriage_return_ends_a_comment() -> None:
    stated = from_env_file(".env.prod", "A=1\r\n# as agreed\rSEED=1\n")
    assert [(setting.name, setting.source) for setting in stated] == [("SEED", ".env.prod line 3")]


def test_an_ambiguous_line_is_not_shown() -> None:
    with pytest.raises(ApgmsError) as caught:
        resolve(
            Inventory("prod", dict.fromkeys(FLAGS, 0)),
            "release",
            from_env_file(".env.prod", "PASSWORD=hunter2 SEED=0\n"),
        )
    assert "hunter2" not in str(caught.value)
    assert "hunter2" not in str(caught.value.details)


@pytest.mark.parametrize("place", PLACES[1:])
@pytest.mark.parametrize(
    ("stack", "said", "reason"),
    [
        ("proto", "proto", None), ("prod", "prod", None), ("proto", "", None),
        ("prod", "", "stack.disagree"), ("proto", "prod", "stack.disagree"),
        ("prod", "proto", "stack.disagree"), ("prod", "PROD", "stack.disagree"),
        ("prod", "prod/", "stack.disagree"),
    ],
)  # fmt: skip
def test_the_stack_of_the_environment(
    place: str, stack: str, said: str, reason: str | None
) -> None:
    purpose = {"proto": "prototype", "prod": "release"}[stack]
    flags = {"SEED": 0, "SMOKE": 0, "DRY_RUN": int(stack == "proto")}
    found = reasons_of(stack, purpose, flags, settings_of(place, "STACK", said))
    assert found == ({reason} if reason else set())


CHECKSUM = "ab" * 32


@pytest.mark.parametrize(
    ("name", "value", "reason"),
    [
        ("RELEASE_WINDOW", "202611251800", None),
        ("RELEASE_WINDOW", 202611251800, None),
        ("RELEASE_WINDOW", "", None),
        ("RELEASE_WINDOW", "202402291800", None),
        ("RELEASE_WINDOW", "202602291800", "window.malformed"),
        ("RELEASE_WINDOW", "202613251800", "window.malformed"),
        ("RELEASE_WINDOW", "202611252400", "window.malformed"),
        ("RELEASE_WINDOW", "202611251860", "window.malformed"),
        ("RELEASE_WINDOW", "000011251800", "window.malformed"),
        ("RELEASE_WINDOW", "20261125180", "window.malformed"),
        ("RELEASE_WINDOW", "2026112518000", "window.malformed"),
        ("RELEASE_WINDOW", "202611251800\n", "window.malformed"),
        ("RELEASE_WINDOW", "\uff12\uff10\uff12\uff1611251800", "window.malformed"),
        ("RELEASE_WINDOW", "2026-11-25 18:00", "window.malformed"),
        ("RELEASE_WINDOW", True, "window.malformed"),
        ("RELEASE_WINDOW", 202611251800.0, "window.malformed"),
        ("ROLLBACK_TARGET", CHECKSUM, None),
        ("ROLLBACK_TARGET", "", None),
        ("ROLLBACK_TARGET", CHECKSUM.upper(), "rollback_target.malformed"),
        ("ROLLBACK_TARGET", CHECKSUM[:12], None),
        ("ROLLBACK_TARGET", CHECKSUM[:11], "rollback_target.malformed"),
        ("ROLLBACK_TARGET", CHECKSUM + "a", "rollback_target.malformed"),
        ("ROLLBACK_TARGET", CHECKSUM + "\n", "rollback_target.malformed"),
        ("ROLLBACK_TARGET", "../" + CHECKSUM, "rollback_target.malformed"),
        ("ROLLBACK_TARGET", 7, "rollback_target.malformed"),
    ],
)
def test_window_and_target(name: str, value: object, reason: str | None) -> None:
    found = reasons_of("prod", "release", dict.fromkeys(FLAGS, 0), from_environment({name: value}))
    assert found == ({reason} if reason else set())


def test_window_and_target_are_the_same_everywhere() -> None:
    inventory = Inventory("prod", dict.fromkeys(FLAGS, 0), "202611251800", CHECKSUM, "prod.yml")
    settings = from_environment({"RELEASE_WINDOW": "202611251800", "ROLLBACK_TARGET": CHECKSUM})
    configuration = resolve(inventory, "release", settings)
    assert configuration.release_window == "202611251800"
    assert configuration.rollback_target == CHECKSUM
    other = from_variables({"RELEASE_WINDOW": "202611261800", "ROLLBACK_TARGET": "cd" * 32})
    with pytest.raises(ApgmsError) as caught:
        resolve(inventory, "release", settings + other)
    assert [problem["reason"] for problem in caught.value.details["problems"]] == [
        "window.disagree",
        "rollback_target.disagree",
    ]


@pytest.mark.parametrize(
    ("value", "stops"),
    [
        ("true", True), ("1", True), ("yes", True), ("because of the audit", True), (True, True),
        ("false", False), ("0", False), ("off", False), ("", False), (None, False),
    ],
)  # fmt: skip
@pytest.mark.parametrize("place", ["variables", "environment"])
def test_the_kill_switch_is_told_to_the_run(place: str, value: object, stops: bool) -> None:
    settings = settings_of(place, "PROTO_KILL_SWITCH", value)
    found = resolve(Inventory("prod", dict.fromkeys(FLAGS, 0)), "release", settings).kill_switch
    assert (found is not None) == stops
    assert not stops or f"no reason given, in {settings[0].source}" == found


def test_the_kill_switch_tells_its_reason() -> None:
    settings = from_environment(
        {"PROTO_KILL_SWITCH": "1", "PROTO_KILL_SWITCH_REASON": "bank says so"}
    )
    settings = from_env_file(".env.prod", "A=1\nPROTO_KILL_SWITCH=on\n") + settings[1:]
    found = resolve(Inventory("prod", dict.fromkeys(FLAGS, 0)), "release", settings)
    assert found.as_result()["kill_switch"] == "'bank says so', in .env.prod line 2"


@pytest.mark.parametrize("purpose", ["prototype", "release", "rehearsal"])
@pytest.mark.parametrize("stack", ["proto", "prod"])
def test_a_manifest_is_checked_by_the_same_rule(stack: str, purpose: str) -> None:
    for seed, smoke, dry_run in itertools.product([True, False], repeat=3):
        flags = Flags(seed, smoke, dry_run)
        if (stack, purpose, seed, smoke, dry_run) in RUNS:
            require_lawful(stack, purpose, flags, where="manifest.json")
        else:
            with pytest.raises(ApgmsError) as caught:
                require_lawful(stack, purpose, flags, where="manifest.json")
            assert caught.value.reason == "flags.forbidden"
