"""Some seeded schedules, and what they find where a safeguard is taken away."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.faults.actor import Actor
from tests.faults.invariants import Violation, require_never_twice
from tests.faults.safeguards import SAFEGUARDS
from tests.faults.schedule import Schedule
from tests.faults.stack import Stack
from tests.gateway_process import GatewayProcess

_seeds = itertools.count(10_000)


@pytest.fixture(scope="module")
def gateway(tmp_path_factory: pytest.TempPathFactory) -> Iterator[GatewayProcess]:
    process = GatewayProcess(tmp_path_factory.mktemp("gateway")).start()
    yield process
    process.stop()


@pytest.fixture
def prepared(database_url: str, gateway: GatewayProcess, tmp_path: Path) -> Stack:
    return Stack(tmp_path / "base", database_url, gateway).prepare(entities=0, virtual=True)


@pytest.mark.parametrize("seed", range(2))
def test_a_seeded_schedule(prepared: Stack, tmp_path: Path, seed: int) -> None:
    Schedule(prepared.renewed(tmp_path / "prod", seed=seed), seed).run()


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(2, 40))
def test_a_further_seeded_schedule(prepared: Stack, tmp_path: Path, seed: int) -> None:
    Schedule(prepared.renewed(tmp_path / "prod", seed=seed), seed).run()


def second_manifest_after_a_false_not_found(stack: Stack, without: str | None = None) -> str | None:
    """Let the gateway deny what it has taken; return why another manifest of its RPTs stops."""
    mutate = SAFEGUARDS[without](stack) if without else lambda: None
    first, second = stack.bundle("first"), stack.bundle("second")
    stack.gateway.plan(
        {"point": "submit", "fault": "html"},
        {"point": "lookup", "fault": "not_found", "times": 1000},
    )
    denied = Actor(stack, first, "operator", mutate).run()
    assert denied["reason"] == "release.not_finished"
    assert stack.one("SELECT state FROM apgms_release.release") == "NOT_TAKEN"
    stack.gateway.plan()
    reason: str | None = Actor(stack, second, "awx", mutate).run().get("reason")
    require_never_twice(stack)
    return reason


def test_the_claim_stops_a_second_manifest(prepared: Stack, tmp_path: Path) -> None:
    stack = prepared.renewed(tmp_path / "prod", seed=next(_seeds))
    assert second_manifest_after_a_false_not_found(stack) == "release.claimed"


def test_without_the_claim_the_suite_fails(prepared: Stack, tmp_path: Path) -> None:
    stack = prepared.renewed(tmp_path / "prod", seed=next(_seeds))
    with pytest.raises(Violation, match="accepted twice"):
        second_manifest_after_a_false_not_found(stack, "claims")


def test_without_the_intent_row_the_suite_fails(prepared: Stack, tmp_path: Path) -> None:
    stack = prepared.renewed(tmp_path / "prod", seed=next(_seeds))
    with pytest.raises(Violation, match="seed 1: "):
        Schedule(stack, 1, "intent").run()
