# GNU General Public License v3.0+ (see COPYING)
"""The kill switch: it stops both what asks the database and what has the environment."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from ansible_collections.apgms.release.plugins.module_utils.errors import ApgmsError
from ansible_collections.apgms.release.plugins.module_utils.libraries import psycopg
from ansible_collections.apgms.release.plugins.module_utils.ports.database import connect
from ansible_collections.apgms.release.plugins.module_utils.ports.schema.migrate import migrate
from ansible_collections.apgms.release.plugins.module_utils.usecases.stack.kill_switch import (
    position,
    require_off,
    turn,
)
from tests.module_process import run_module


@pytest.fixture(scope="module")
def migrated(module_database_url: str) -> Iterator[Any]:
    with connect(module_database_url, None, purpose="test") as connection:
        migrate(connection)
        yield connection


@pytest.fixture
def connection(migrated: Any) -> Iterator[Any]:
    with migrated.transaction(force_rollback=True):
        yield migrated


def test_a_switch_that_was_never_turned_is_off(connection: Any) -> None:
    assert not position(connection, "prod").engaged
    require_off(connection, "prod", {})


def test_the_refusal_says_who_when_and_why(connection: Any) -> None:
    now = turn(connection, "prod", engaged=True, reason="duplicate credits", actor="olivia")
    with pytest.raises(ApgmsError) as caught:
        require_off(connection, "prod", {})
    assert caught.value.reason == "kill_switch.on"
    assert now.at is not None
    assert f"olivia set it at {now.at:%Y-%m-%dT%H:%M:%S}" in str(caught.value)
    assert "duplicate credits" in str(caught.value)
    require_off(connection, "proto", {})


def test_the_first_reason_stands_until_it_is_cleared(connection: Any) -> None:
    first = turn(connection, "prod", engaged=True, reason="first", actor="olivia")
    assert turn(connection, "prod", engaged=True, reason="second", actor="audrey") == first
    cleared = turn(connection, "prod", engaged=False, reason="bank confirmed", actor="audrey")
    assert (cleared.engaged, cleared.reason, cleared.actor) == (False, "bank confirmed", "audrey")
    require_off(connection, "prod", {})


@pytest.mark.parametrize(("reason", "actor"), [(" ", "olivia"), ("why", ""), ("", "")])
@pytest.mark.parametrize("engaged", [True, False])
def test_nobody_turns_it_without_a_reason(
    connection: Any, engaged: bool, reason: str, actor: str
) -> None:
    with pytest.raises(ApgmsError) as caught:
        turn(connection, "prod", engaged=engaged, reason=reason, actor=actor)
    assert caught.value.reason == "kill_switch.unstated"


def test_its_history_cannot_be_rewritten(connection: Any) -> None:
    turn(connection, "prod", engaged=True, reason="why", actor="olivia")
    for statement in (
        "UPDATE apgms_release.kill_switch SET engaged = false",
        "DELETE FROM apgms_release.kill_switch",
        "TRUNCATE apgms_release.kill_switch",
    ):
        with pytest.raises(psycopg.errors.RaiseException), connection.transaction():
            connection.execute(statement)


@pytest.mark.parametrize(
    ("value", "stops"),
    [("true", True), ("1", True), ("stop!", True), ("false", False), ("0", False), ("", False)],
)
def test_the_environment_stops_it_too(connection: Any, value: str, stops: bool) -> None:
    environment = {"PROTO_KILL_SWITCH": value, "PROTO_KILL_SWITCH_REASON": "bank is down"}
    if not stops:
        require_off(connection, "prod", environment)
        return
    with pytest.raises(ApgmsError, match="bank is down") as caught:
        require_off(connection, "prod", environment)
    assert caught.value.reason == "kill_switch.on"


def test_the_module_predicts_and_turns(database_url: str) -> None:
    options = {
        "stack": "prod",
        "database_url": database_url,
        "state": "on",
        "reason": "duplicate credits",
        "operator": "olivia",
    }
    predicted = run_module("kill_switch", options, check=True)
    assert predicted["changed"]
    with psycopg.connect(database_url) as connection:
        found = connection.execute("SELECT to_regclass('apgms_release.kill_switch')").fetchone()
    assert found == (None,)  # not even the table was made
    turned = run_module("kill_switch", options)
    for result in (predicted, turned):
        for side in (result["kill_switch"], result["diff"]["after"]):
            assert side.pop("at")
    assert predicted == turned
    again = run_module("kill_switch", options)
    assert not again["changed"]
    assert again["diff"]["before"] == again["diff"]["after"]
    cleared = run_module("kill_switch", {**options, "state": "off", "reason": "all clear"})
    assert cleared["kill_switch"]["state"] == "off"
    assert cleared["diff"]["before"]["reason"] == "duplicate credits"
    refused = run_module("kill_switch", {**options, "reason": ""})
    assert refused["reason"] == "kill_switch.unstated"
