"""Each misbehaviour of the gateway, the state that a release is in afterwards, and its way out."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from ansible_collections.apgms.release.plugins.module_utils.domain.release.manifest import Manifest
from ansible_collections.apgms.release.plugins.module_utils.errors import ApgmsError
from tests.faults.invariants import require_accepted_once
from tests.faults.stack import Stack
from tests.gateway_process import GatewayProcess

_seeds = itertools.count(1)


@pytest.fixture(scope="module")
def gateway(tmp_path_factory: pytest.TempPathFactory) -> Iterator[GatewayProcess]:
    process = GatewayProcess(tmp_path_factory.mktemp("gateway")).start()
    yield process
    process.stop()


@pytest.fixture(scope="module")
def prepared(
    module_database_url: str, gateway: GatewayProcess, tmp_path_factory: pytest.TempPathFactory
) -> Stack:
    folder = tmp_path_factory.mktemp("prepared")
    return Stack(folder / "prod", module_database_url, gateway).prepare(entities=0, virtual=True)


@pytest.fixture
def stack(prepared: Stack, tmp_path: Path) -> Iterator[Stack]:
    yield prepared.renewed(tmp_path / "prod", seed=next(_seeds))
    prepared.gateway.plan()


@pytest.fixture
def manifest(stack: Stack, request: pytest.FixtureRequest) -> Manifest:
    return stack.bundle(request.node.name)


def run(stack: Stack, manifest: Manifest, **changes: Any) -> str:
    """Return the state after one run, or the reason that it stopped for."""
    try:
        return stack.release(manifest, **changes).after.state
    except ApgmsError as error:
        return error.reason


def state(stack: Stack) -> str:
    return str(stack.one("SELECT state FROM apgms_release.release"))


def assert_accepted_once(stack: Stack, manifest: Manifest) -> None:
    assert run(stack, manifest) == "ACKNOWLEDGED"
    taken = stack.taken()
    assert (taken["submissions"], taken["accepted_submissions"]) == (1, 1)
    require_accepted_once(stack, manifest)


def always(point: str, fault: str, **more: Any) -> dict[str, Any]:
    return {"point": point, "fault": fault, "times": 1000, **more}


OVERCOME = [
    {"point": "connect", "fault": "refuse", "times": 3, "skip": 1},
    {"point": "submit", "fault": "reset_mid_upload", "times": 2},
    {"point": "submit", "fault": "reset"},
    {"point": "submit", "fault": "lose_response"},
    {"point": "submit", "fault": "lose_response", "taken": False},
    {"point": "submit", "fault": "html"},
    {"point": "submit", "fault": "nothing"},
    {"point": "submit", "fault": "half_body"},
    {"point": "submit", "fault": "redirect"},
    {"point": "submit", "fault": "slow_drip", "seconds": 0.3},
    *(
        {"point": "submit", "fault": "retry_later", "status": status, "taken": taken}
        for status in (408, 425, 429, 500, 503)
        for taken in (True, False)
    ),
    *(
        {"point": "submit", "fault": "retry_later", "taken": False, "retry_after": form}
        for form in ("date", "past", "garbage", "none")
    ),
    {"point": "identity", "fault": "reset", "skip": 1},
    {"point": "status", "fault": "not_found"},
    {"point": "status", "fault": "still_running", "times": 3},
    {"point": "status", "fault": "html", "times": 2},
    {"point": "status", "fault": "accepted_early"},
    {"point": "receipt", "fault": "not_found", "times": 2},
    {"point": "receipt", "fault": "lose_response"},
    {"point": "receipt", "fault": "half_body"},
    {"point": "receipt", "fault": "duplicate_receipt"},
]


def in_parts(faults: list[Any]) -> list[Any]:
    """Return every other case as it is, the others marked slow."""
    return [
        pytest.param(*(case if isinstance(case, tuple) else [case]), marks=marks)
        for case, marks in zip(faults, itertools.cycle([(), pytest.mark.slow]))
    ]


@pytest.mark.parametrize(
    "fault", in_parts(OVERCOME), ids=lambda fault: "-".join(map(str, fault.values()))
)
def test_one_run_overcomes(stack: Stack, manifest: Manifest, fault: dict[str, Any]) -> None:
    stack.gateway.plan(fault)
    assert run(stack, manifest) == "ACKNOWLEDGED"
    assert fault["point"] in {fired.partition(":")[0] for fired in stack.gateway.fired}
    assert_accepted_once(stack, manifest)


STOPS = [
    ([always("connect", "refuse", skip=1)], "release.not_finished", "INTENT"),
    ([always("submit", "lose_response"), always("lookup", "reset")], "release.not_finished",
     "UNKNOWN"),
    ([always("submit", "html", taken=False)], "release.not_finished", "NOT_TAKEN"),
    ([always("submit", "redirect", taken=False)], "release.not_finished", "NOT_TAKEN"),
    ([always("submit", "already_running")], "release.not_finished", "NOT_TAKEN"),
    ([always("submit", "duplicate_without_pointer")], "release.not_finished", "NOT_TAKEN"),
    ([always("submit", "retry_later", retry_after="huge", taken=False)], "release.not_finished",
     "UNKNOWN"),
    ([always("submit", "key_reused")], "release.refused", "NOT_TAKEN"),
    ([always("status", "still_running")], "release.not_finished", "PENDING"),
    ([always("status", "reset")], "release.not_finished", "PENDING"),
    ([always("receipt", "not_found")], "release.not_finished", "PENDING"),
    ([always("receipt", "foreign_receipt")], "receipt.unpinned_key", "UNKNOWN"),
    ([always("receipt", "forged_receipt")], "receipt.bad_signature", "UNKNOWN"),
    ([always("receipt", "altered_receipt")], "receipt.bad_signature", "UNKNOWN"),
]  # fmt: skip


@pytest.mark.parametrize(
    ("faults", "reason", "after"), in_parts(STOPS), ids=lambda value: str(value)[:60]
)
def test_a_run_stops_and_the_next_goes_on(
    stack: Stack, manifest: Manifest, faults: list[dict[str, Any]], reason: str, after: str
) -> None:
    stack.gateway.plan(*faults)
    assert (run(stack, manifest), state(stack)) == (reason, after)
    stack.gateway.plan()
    assert_accepted_once(stack, manifest)
