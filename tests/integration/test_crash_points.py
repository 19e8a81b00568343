"""A run is struck at each of its steps, then run again; exactly one acceptance is left."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.faults.crash_points import BLOWS, Point, points, strike
from tests.faults.stack import Stack
from tests.gateway_process import GatewayProcess


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
    return Stack(folder, module_database_url, gateway).prepare(entities=0, virtual=True)


@pytest.fixture(scope="module")
def found(prepared: Stack, tmp_path_factory: pytest.TempPathFactory) -> list[Point]:
    stack = prepared.renewed(tmp_path_factory.mktemp("points") / "prod", seed=1)
    return points(stack, stack.bundle())


def test_each_step_is_a_point(found: list[Point]) -> None:
    names = [point.name for point in found if point.side == "before"]
    assert names == [
        "lease.take",
        "release.intent",
        "journal.put release.intent",
        "release.sending",
        "journal.put release.sending",
        "release.send",
        "lease.renew",
        "release.pending",
        "journal.put release.pending",
        "release.put_receipt",
        "release.acknowledged",
        "journal.put release.acknowledged",
        "lease.give_back",
    ]


def test_killed_at_each_point(prepared: Stack, found: list[Point], tmp_path: Path) -> None:
    for number in range(len(found)):
        stack = prepared.renewed(tmp_path / str(number), seed=100 + number)
        strike(stack, stack.bundle(), number, BLOWS[0])


@pytest.mark.slow
@pytest.mark.parametrize("blow", BLOWS[1:])
def test_struck_at_each_point(
    prepared: Stack, found: list[Point], tmp_path: Path, blow: str
) -> None:
    for number in range(len(found)):
        stack = prepared.renewed(
            tmp_path / str(number), seed=200 + 100 * BLOWS.index(blow) + number
        )
        strike(stack, stack.bundle(), number, blow)
