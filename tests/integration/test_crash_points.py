"""A run is struck at each of its steps, then run again; exactly one acceptance is left."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.faults.crash_points import BLOWS, points, strike
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


def test_all_points(prepared: Stack, tmp_path: Path) -> None:
    with prepared.copy(tmp_path / "first", seed=1000) as stack:
        found = points(stack, stack.bundle())
    print(*found, sep="\n")
    for number, point in enumerate(found):
        for blow in BLOWS[:1]:
            print(number, point, blow, flush=True)
            with prepared.copy(tmp_path / f"{number}-{blow}", seed=2000+number) as stack:
                strike(stack, stack.bundle(), number, blow)
