# GNU General Public License v3.0+ (see COPYING)
"""What stops a release from sending, before it begins and in the middle; asking goes on."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from ansible_collections.apgms.release.plugins.module_utils.domain.release.manifest import Manifest
from ansible_collections.apgms.release.plugins.module_utils.errors import ApgmsError
from ansible_collections.apgms.release.plugins.module_utils.usecases.acts.journal import Journal
from ansible_collections.apgms.release.plugins.module_utils.usecases.release import release
from ansible_collections.apgms.release.plugins.module_utils.usecases.stack.kill_switch import turn
from ansible_collections.apgms.release.plugins.module_utils.usecases.stack.windows import close
from tests.faults.clock import VirtualClock
from tests.faults.stack import Stack
from tests.gateway_process import GatewayProcess

_seeds = itertools.count(2)


@pytest.fixture(scope="module")
def prepared(module_database_url: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    folder = tmp_path_factory.mktemp("gateway")
    gateway = GatewayProcess(folder).start()
    yield Stack(folder / "prod", module_database_url, gateway).prepare(virtual=True)
    gateway.stop()


@pytest.fixture
def stack(prepared: Stack, tmp_path: Path) -> Iterator[Stack]:
    yield prepared.renewed(tmp_path / "prod", seed=next(_seeds))
    prepared.gateway.plan()


@pytest.fixture
def manifest(stack: Stack, request: pytest.FixtureRequest) -> Manifest:
    return stack.bundle(request.node.name)


def engage(stack: Stack, *, engaged: bool = True) -> None:
    with stack.connection() as connection:
        turn(connection, "prod", engaged=engaged, reason="duplicate credits", actor="olivia")


def shut(stack: Stack) -> None:
    with stack.connection() as connection, connection.transaction():
        journal = Journal(connection, stack.store, "prod", stack.clock(connection))
        close(connection, journal, "prod", "wrong rates", "INC-1", "0123abcd")


def let_the_window_pass(stack: Stack) -> None:
    with stack.connection() as connection:
        VirtualClock(connection).move(timedelta(hours=24))


STOPS: dict[str, Callable[[Stack], None]] = {
    "kill_switch.on": engage,
    "window.closed": shut,
    "window.over": let_the_window_pass,
}


def run(stack: Stack, manifest: Manifest, **changes: Any) -> str:
    """Return the state after one run, or the reason that it stopped for."""
    try:
        return stack.release(manifest, **changes).after.state
    except ApgmsError as error:
        return error.reason


@pytest.mark.parametrize("reason", STOPS)
def test_nothing_begins(stack: Stack, manifest: Manifest, reason: str) -> None:
    STOPS[reason](stack)
    assert run(stack, manifest) == reason
    assert set(stack.taken().values()) == {0}
    assert stack.one("SELECT count(*) FROM apgms_release.release") == 0
    assert stack.one("SELECT count(*) FROM apgms_release.claim") == 0
    assert stack.one("SELECT count(*) FROM apgms_release.used_statement") == 0


@pytest.mark.parametrize("reason", STOPS)
def test_what_was_sent_before_is_still_asked_for(
    stack: Stack, manifest: Manifest, reason: str
) -> None:
    stack.gateway.plan(
        {"point": "submit", "fault": "lose_response"},
        {"point": "lookup", "fault": "reset", "times": 1000},
    )
    assert run(stack, manifest) == "release.not_finished"
    assert stack.one("SELECT state FROM apgms_release.release") == "UNKNOWN"
    stack.gateway.plan()
    STOPS[reason](stack)
    assert run(stack, manifest) == "ACKNOWLEDGED"
    assert stack.taken()["submissions"] == 1


@pytest.mark.parametrize("reason", STOPS)
def test_what_was_not_taken_is_not_sent_again(
    stack: Stack, manifest: Manifest, reason: str
) -> None:
    stack.gateway.plan({"point": "submit", "fault": "html", "taken": False, "times": 1000})
    assert run(stack, manifest) == "release.not_finished"
    stack.gateway.plan()
    STOPS[reason](stack)
    assert run(stack, manifest) == reason
    assert stack.taken()["submissions"] == 0


def test_it_goes_on_when_the_switch_is_cleared(stack: Stack, manifest: Manifest) -> None:
    engage(stack)
    assert run(stack, manifest) == "kill_switch.on"
    engage(stack, engaged=False)
    assert run(stack, manifest) == "ACKNOWLEDGED"


def test_the_environment_of_the_sender_stops_it(
    stack: Stack, manifest: Manifest, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PROTO_KILL_SWITCH", "true")
    assert run(stack, manifest) == "kill_switch.on"
    assert stack.taken()["submissions"] == 0


def test_an_override_sends_after_the_window(stack: Stack, manifest: Manifest) -> None:
    let_the_window_pass(stack)
    with stack.connection() as connection:
        now = stack.clock(connection).now()
    stack.approve(manifest, now)  # the approvals from before have expired
    assert run(stack, manifest) == "window.over"
    stack.sign("override", "auditor", {"release_window": manifest.release_window}, now)
    assert run(stack, manifest) == "ACKNOWLEDGED"


def test_the_switch_stops_between_two_attempts(stack: Stack, manifest: Manifest) -> None:
    stack.gateway.plan({"point": "submit", "fault": "retry_later", "taken": False, "times": 1000})

    def say(line: str) -> None:
        engage(stack)

    with stack.connection() as connection, pytest.raises(ApgmsError) as caught:
        release.release(stack.order(manifest), stack.ports(connection, say=say))
    assert caught.value.reason == "kill_switch.on"
    assert stack.taken()["submissions"] == 0


def test_approvals_that_expired_since_the_intent_send_nothing(
    stack: Stack, manifest: Manifest
) -> None:
    stack.gateway.plan({"point": "submit", "fault": "html", "taken": False, "times": 1000})
    assert run(stack, manifest) == "release.not_finished"
    stack.gateway.plan()
    with stack.connection() as connection:
        VirtualClock(connection).move(timedelta(hours=5))
        now = stack.clock(connection).now()
    stack.sign("override", "auditor", {"release_window": manifest.release_window}, now)
    assert run(stack, manifest) == "approval.waiting"
    assert stack.taken()["submissions"] == 0
    stack.approve(manifest, now)
    assert run(stack, manifest) == "ACKNOWLEDGED"
    used = "SELECT count(*) FROM apgms_release.used_statement WHERE kind = 'release'"
    assert stack.one(used) == 4


def test_an_expiry_does_not_stop_the_asking(stack: Stack, manifest: Manifest) -> None:
    stack.gateway.plan(
        {"point": "submit", "fault": "lose_response"},
        {"point": "lookup", "fault": "reset", "times": 1000},
    )
    assert run(stack, manifest) == "release.not_finished"
    stack.gateway.plan()
    with stack.connection() as connection:
        VirtualClock(connection).move(timedelta(hours=5))
    assert run(stack, manifest) == "ACKNOWLEDGED"
    assert stack.taken()["submissions"] == 1
