# GNU General Public License v3.0+ (see COPYING)
"""The states of a release and the ways between them. ``docs/exactly-once.md`` explains each."""

from __future__ import annotations

from enum import StrEnum


class State(StrEnum):
    """What is known about one manifest's way to the authority."""

    INTENT = "INTENT"
    """Claims are taken and the key is fixed; no byte was sent."""
    SENDING = "SENDING"
    """An attempt was allowed; found at the start of a run it means UNKNOWN."""
    UNKNOWN = "UNKNOWN"
    """Bytes may have reached the gateway and nothing reliable is known of them."""
    NOT_TAKEN = "NOT_TAKEN"
    """The gateway has nothing of it; the claims stay."""
    PENDING = "PENDING"
    """The gateway has it as a job and has given no receipt yet."""
    ACKNOWLEDGED = "ACKNOWLEDGED"
    """A verified receipt says that all of it was accepted."""
    PARTIAL = "PARTIAL"
    """A verified receipt says that a part was accepted; the rest is free again."""
    REJECTED = "REJECTED"
    """A verified receipt says that nothing was accepted; all of it is free again."""

    @property
    def terminal(self) -> bool:
        """Whether the release is over."""
        return self in TERMINAL

    @property
    def open(self) -> bool:
        """Whether the outcome at the gateway is still to come: no new intent of the stack."""
        return self in OPEN


TERMINAL = frozenset({State.ACKNOWLEDGED, State.PARTIAL, State.REJECTED})
OPEN = frozenset({State.INTENT, State.SENDING, State.UNKNOWN, State.PENDING})

_TO_RECEIPT = frozenset({State.UNKNOWN, *TERMINAL})
MOVES: dict[State, frozenset[State]] = {
    State.INTENT: frozenset({State.SENDING, State.NOT_TAKEN, State.UNKNOWN}),
    State.SENDING: frozenset({State.INTENT, State.NOT_TAKEN, State.PENDING, State.UNKNOWN}),
    State.UNKNOWN: frozenset({State.SENDING, State.NOT_TAKEN, State.PENDING, *_TO_RECEIPT}),
    State.NOT_TAKEN: frozenset({State.SENDING, State.PENDING, *_TO_RECEIPT}),
    State.PENDING: frozenset({State.PENDING, *_TO_RECEIPT}),
    **{state: frozenset() for state in TERMINAL},
}


class ForbiddenMove(ValueError):
    """There is no such way between two states."""


def require_move(before: State, after: State) -> None:
    """Check that a release may go from ``before`` to ``after``.

    :raises ForbiddenMove: otherwise
    """
    if after not in MOVES[before]:
        raise ForbiddenMove(f"a release does not go from {before} to {after}")


def after_refusal(before: State) -> State:
    """Return the state after an attempt that provably left nothing behind.

    :param before: the state that the attempt started from: an earlier attempt may have arrived
    """
    return State.UNKNOWN if before is State.UNKNOWN else State.NOT_TAKEN
