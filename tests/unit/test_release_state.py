from __future__ import annotations

import pytest

from ansible_collections.apgms.release.plugins.module_utils.domain.release.release_state import (
    MOVES,
    OPEN,
    TERMINAL,
    ForbiddenMove,
    State,
    after_refusal,
    require_move,
)
from ansible_collections.apgms.release.plugins.module_utils.ports.schema.releases import MIGRATIONS


def test_no_way_leads_out_of_a_terminal_state() -> None:
    for before in TERMINAL:
        for after in State:
            with pytest.raises(ForbiddenMove, match=f"from {before} to {after}"):
                require_move(before, after)


def test_a_terminal_state_is_reached_only_where_bytes_may_have_arrived() -> None:
    before_any_byte = {State.INTENT, State.SENDING}
    for before in before_any_byte:
        assert not MOVES[before] & TERMINAL
    for before in set(State) - before_any_byte - TERMINAL:
        assert MOVES[before] >= TERMINAL


def test_every_state_that_is_not_terminal_leads_to_one() -> None:
    reached = set(TERMINAL)
    while more := {state for state in State if MOVES[state] & reached} - reached:
        reached |= more
    assert reached == set(State)


def test_only_a_known_absence_lets_another_release_begin() -> None:
    assert set(State) - OPEN - TERMINAL == {State.NOT_TAKEN}
    assert all(state.open for state in OPEN)
    assert not any(state.open for state in TERMINAL)


def test_a_refusal_proves_nothing_about_an_attempt_before_it() -> None:
    assert after_refusal(State.UNKNOWN) is State.UNKNOWN
    assert after_refusal(State.INTENT) is State.NOT_TAKEN


def test_the_table_knows_the_same_states() -> None:
    (schema,) = MIGRATIONS.values()
    assert all(f"'{state}'" in schema for state in State)
