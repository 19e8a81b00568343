"""Releases against a real database and a real gateway process."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.faults.stack import Stack
from tests.gateway_process import GatewayProcess


@pytest.fixture
def stack(database_url: str, gateway: GatewayProcess, tmp_path: Path) -> Stack:
    return Stack(tmp_path / "prod", database_url, gateway).prepare()


def test_a_release_is_acknowledged_and_a_further_run_changes_nothing(stack: Stack) -> None:
    manifest = stack.bundle()
    first = stack.release(manifest)
    assert (first.before, first.after.state) == (None, "ACKNOWLEDGED")
    again = stack.release(manifest)
    assert again.before == again.after == first.after
    assert stack.gateway.counters["submissions"] == 1
