from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ansible_collections.apgms.release.plugins.module_utils.domain.release.retry import (
    LONGEST_SECONDS,
    SHORTEST_SECONDS,
    pause,
    retried,
)

NOW = datetime(2026, 3, 2, 10, 0, tzinfo=UTC)
FAR = NOW + timedelta(days=1)
tries = st.integers(1, 10_000)
asked = st.none() | st.floats(0, 3600)


@given(tries, asked, st.floats(-100, 5000))
def test_never_reaches_the_deadline(number: int, seconds: float | None, left: float) -> None:
    deadline = NOW + timedelta(seconds=left)
    found = pause(number, seconds, NOW, deadline)
    assert found is None or NOW + timedelta(seconds=found) < deadline


@given(tries, st.floats(0, 3600))
def test_the_gateways_own_pace_is_kept(number: int, seconds: float) -> None:
    assert pause(number, seconds, NOW, FAR) == max(seconds, SHORTEST_SECONDS)


@given(tries)
def test_without_one_it_slows_down_up_to_a_limit(number: int) -> None:
    first, second = pause(number, None, NOW, FAR), pause(number + 1, None, NOW, FAR)
    assert first is not None
    assert second is not None
    assert first <= second <= LONGEST_SECONDS


def test_the_pauses_double() -> None:
    assert [pause(number, None, NOW, FAR) for number in range(1, 9)] == [
        1, 2, 4, 8, 16, 32, 60, 60,
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("status", "expected"),
    [(200, False), (301, False), (400, False), (404, False), (408, True), (409, False),
     (422, False), (425, True), (429, True), (500, True), (503, True), (599, True), (600, False)],
)  # fmt: skip
def test_only_passing_faults_are_retried(status: int, expected: bool) -> None:
    assert retried(status) is expected
