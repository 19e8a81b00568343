"""Random histories of deposits, payouts, releases and rollbacks on a real ledger.

The model is a dictionary of balances, copied at each release; it knows nothing of rows.
"""

from __future__ import annotations

import hashlib
import uuid
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import psycopg
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from ansible_collections.apgms.release.plugins.module_utils.domain.ledger.extent import (
    expand,
    extents,
)
from ansible_collections.apgms.release.plugins.module_utils.domain.release.rollback_plan import (
    balances_digest,
)
from ansible_collections.apgms.release.plugins.module_utils.errors import ApgmsError
from ansible_collections.apgms.release.plugins.module_utils.ports.database import connect
from ansible_collections.apgms.release.plugins.module_utils.ports.schema.migrate import migrate
from ansible_collections.apgms.release.plugins.module_utils.usecases.ledger.rows import (
    LEAST_ID,
    MOST_ID,
)
from ansible_collections.apgms.release.plugins.module_utils.usecases.rollback import (
    ledger as ledger,
)

ORIGIN = "apgms.example/prod"
Key = tuple[str, str, str]
CHAINS: list[Key] = [
    ("53004085616", "GST", "2025Q1"),
    ("53004085616", "PAYGW", "2025Q1"),
    ("12345678901", "GST", "2025Q1"),
    ("12345678901", "GST", "2025Q2"),
]
ONE_NEGATIVE = (
    "CREATE UNIQUE INDEX one_negative ON owa_ledger (abn, tax_type, period_id)"
    " WHERE amount_cents < 0"
)


@dataclass
class History:
    """A stack as its model sees it, beside the real one."""

    connection: Any
    net: bool = False
    balances: dict[Key, int] = field(default_factory=dict)
    releases: list[tuple[int, dict[Key, int]]] = field(default_factory=list)

    def book(self, chain: Key, amount: int) -> None:
        last = self.connection.execute(
            "SELECT balance_after_cents, hash_after FROM owa_ledger"
            " WHERE (abn, tax_type, period_id) = (%s, %s, %s) ORDER BY id DESC LIMIT 1",
            chain,
        ).fetchone() or (0, None)
        balance = last[0] + amount
        receipt = uuid.uuid4().hex
        digest = hashlib.sha256(f"{last[1] or ''}{receipt}{balance}".encode()).hexdigest()
        self.connection.execute(
            "INSERT INTO owa_ledger (abn, tax_type, period_id, transfer_uuid, amount_cents,"
            " balance_after_cents, bank_receipt_hash, prev_hash, hash_after)"
            " VALUES (%s, %s, %s, gen_random_uuid(), %s, %s, %s, %s, %s)",
            [*chain, amount, balance, receipt, last[1], digest],
        )
        self.balances[chain] = self.balances.get(chain, 0) + amount

    def release(self) -> None:
        self.releases.append((self.admit(), dict(self.balances)))

    def admit(self) -> int:
        """Admit the rows to the log as a snapshot does; return the tree size."""
        size, frontier = self.connection.execute(
            "SELECT coalesce(sum(last_id - first_id + 1), 0)::bigint, coalesce(max(last_id), 0)"
            " FROM apgms_release.ledger_extent"
        ).fetchone()
        for first, last in self.connection.execute(
            "SELECT min(id), max(id) FROM (SELECT id, id - row_number() OVER (ORDER BY id) AS"
            " island FROM owa_ledger WHERE id > %s) AS rows GROUP BY island ORDER BY 1",
            [frontier],
        ).fetchall():
            self.connection.execute(
                "INSERT INTO apgms_release.ledger_extent VALUES (%s, %s, %s, %s)",
                [ORIGIN, size, first, last],
            )
            size += last - first + 1
        return size

    def roll_back(self, number: int) -> int:
        """Roll back to a release; the later ones are undone. Return how many rows were appended."""
        tree_size, balances = self.releases[number]
        ledger.prepare(self.connection, ORIGIN, tree_size)
        changes = ledger.planned_chains(self.connection, net=self.net)
        expected = ledger.target_balances_digest(self.connection)
        for change in changes:
            assert change.balance_cents == self.balances.get(change[:3], 0)
            assert change.target_balance_cents == balances.get(change[:3], 0)
        before = count(self.connection, "owa_ledger")
        ledger.append_mirrors(self.connection, net=self.net)
        assert ledger.require_target_balances(self.connection) == expected
        assert expected == balances_digest((*key, balances[key]) for key in sorted(balances))
        appended = count(self.connection, "owa_ledger") - before
        assert appended == sum(change.entries for change in changes)
        self.admit()
        self.balances = dict(balances)
        del self.releases[number + 1 :]
        return appended


def count(connection: Any, table: str) -> int:
    return int(connection.execute(f"SELECT count(*) FROM {table}").fetchone()[0])


def real_balances(connection: Any) -> dict[Key, int]:
    rows = connection.execute(
        "SELECT abn, tax_type, period_id, sum(amount_cents)::bigint FROM owa_ledger"
        " GROUP BY abn, tax_type, period_id"
    )
    return {row[:3]: row[3] for row in rows}


def assert_chains_hold(connection: Any) -> None:
    last: dict[Key, tuple[int, str]] = {}
    for *key, amount, balance, receipt, prev, after in connection.execute(
        "SELECT abn, tax_type, period_id, amount_cents, balance_after_cents, bank_receipt_hash,"
        " prev_hash, hash_after FROM owa_ledger ORDER BY id"
    ):
        before, link = last.get(tuple(key), (0, ""))
        assert balance == before + amount
        assert (prev or "") == link
        assert after == hashlib.sha256(f"{link}{receipt}{balance}".encode()).hexdigest()
        last[tuple(key)] = (balance, after)


@pytest.fixture
def connection(database_url: str) -> Iterator[Any]:
    with connect(database_url, None, purpose="test") as opened:
        migrate(opened)
        with opened.transaction(force_rollback=True):
            yield opened


BOOK = st.tuples(st.just("book"), st.sampled_from(CHAINS), st.integers(-500, 1000))
STEPS = st.lists(
    st.one_of(
        BOOK,
        BOOK,
        st.tuples(st.just("release")),
        st.tuples(st.just("roll back"), st.integers(0, 5)),
    ),
    max_size=25,
)


@given(STEPS, st.booleans())
@settings(
    max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
def test_balances_always_match_the_model(
    connection: Any, steps: list[tuple[Any, ...]], net: bool
) -> None:
    with connection.transaction(force_rollback=True):
        history = History(connection, net)
        for name, *arguments in steps:
            if name == "book":
                history.book(*arguments)
            elif name == "release":
                history.release()
            elif history.releases:
                history.roll_back(arguments[0] % len(history.releases))
            assert real_balances(connection) == {
                key: history.balances.get(key, 0) for key in real_balances(connection)
            }
        assert_chains_hold(connection)
        assert_mirrored_once(connection, net)


def assert_mirrored_once(connection: Any, net: bool) -> None:
    amounts = dict(connection.execute("SELECT id, amount_cents FROM owa_ledger"))
    mirrored: dict[int, int] = {}
    for original, mirror in connection.execute(
        "SELECT m.original_id, l.id FROM apgms_release.mirror m"
        " JOIN owa_ledger l ON l.transfer_uuid = m.mirror_uuid"
    ):
        mirrored[mirror] = mirrored.get(mirror, 0) + amounts[original]
        assert original < mirror
    assert all(amounts[mirror] == -total for mirror, total in mirrored.items())
    if not net:
        assert len(mirrored) == count(connection, "apgms_release.mirror")


def test_a_repeated_rollback_appends_nothing(connection: Any) -> None:
    history = History(connection)
    history.book(CHAINS[0], 100)
    history.release()
    history.book(CHAINS[0], 50)
    history.book(CHAINS[1], 70)
    assert history.roll_back(0) == 2
    assert history.roll_back(0) == 0


def test_roll_back_release_again_roll_back_further(connection: Any) -> None:
    history = History(connection)
    for amount in (100, 200, 300):
        history.book(CHAINS[0], amount)
        history.release()
    assert history.roll_back(1) == 1
    history.book(CHAINS[0], 40)
    history.release()
    assert history.roll_back(0) == 2
    assert real_balances(connection) == {CHAINS[0]: 100}


def test_a_row_admitted_late_below_the_target_is_mirrored(connection: Any) -> None:
    history = History(connection)
    history.book(CHAINS[0], 100)
    connection.execute("SELECT nextval('owa_ledger_id_seq')")
    history.book(CHAINS[1], 30)
    history.release()
    history.book(CHAINS[2], 55)
    connection.execute("UPDATE owa_ledger SET id = 2 WHERE abn = %s", [CHAINS[2][0]])
    connection.execute("INSERT INTO apgms_release.ledger_extent VALUES (%s, 2, 2, 2)", [ORIGIN])
    ledger.prepare(connection, ORIGIN, history.releases[0][0])
    changes = ledger.planned_chains(connection, net=False)
    assert [(change[:3], change.balance_cents) for change in changes] == [(CHAINS[2], 55)]


@pytest.mark.parametrize("size", [0, 1, 2, 3])
def test_a_target_may_end_within_an_extent_that_has_gaps(connection: Any, size: int) -> None:
    history = History(connection)
    for amount in (100, 200, 300):
        history.book(CHAINS[0], amount)
        connection.execute("SELECT nextval('owa_ledger_id_seq')")
    connection.execute(
        "INSERT INTO apgms_release.ledger_extent VALUES (%s, 0, 1, 5, '{1,3,5}')", [ORIGIN]
    )
    ledger.prepare(connection, ORIGIN, size)
    changes = ledger.planned_chains(connection, net=False)
    assert sum(change.originals for change in changes) == 3 - size
    assert {change.target_balance_cents for change in changes} <= {sum((100, 200, 300)[:size])}


@pytest.mark.parametrize("size", [0, 1, 2, 3])
def test_a_target_may_end_within_an_extent(connection: Any, size: int) -> None:
    history = History(connection)
    for amount in (100, 200, 300):
        history.book(CHAINS[0], amount)
    history.admit()
    ledger.prepare(connection, ORIGIN, size)
    changes = ledger.planned_chains(connection, net=False)
    assert sum(change.originals for change in changes) == 3 - size
    assert {change.target_balance_cents for change in changes} <= {sum((100, 200, 300)[:size])}


def book_at(history: History, ids: list[int]) -> None:
    """Book a deposit of 100 for each id, in one chain."""
    for row_id in ids:
        history.book(CHAINS[0], 100)
        history.connection.execute(
            "UPDATE owa_ledger SET id = %s WHERE id = currval('owa_ledger_id_seq')", [row_id]
        )


def admit_as_extents(connection: Any, portions: list[list[int]]) -> None:
    """Record the extents of a snapshot that admits these ids."""
    position = 0
    for one in extents(portions):
        ids = None if one.gapless else list(expand(one.ranges()))
        connection.execute(
            "INSERT INTO apgms_release.ledger_extent VALUES (%s, %s, %s, %s, %s)",
            [ORIGIN, position, one.first, one.last, ids],
        )
        position += one.size


@pytest.mark.parametrize("size", range(6))
def test_a_target_may_end_within_an_extent_with_gaps(connection: Any, size: int) -> None:
    history = History(connection)
    ids = [12, 14, 15, 19, 40]
    book_at(history, ids)
    connection.execute("SELECT setval('owa_ledger_id_seq', 40)")
    admit_as_extents(connection, [ids])
    history.releases = [(size, {CHAINS[0]: 100 * size} if size else {})]
    assert history.roll_back(0) == 5 - size
    assert real_balances(connection) == {CHAINS[0]: 100 * size}
    assert_chains_hold(connection)


@pytest.mark.parametrize("size", range(5))
@pytest.mark.parametrize(
    "portions",
    [[[LEAST_ID, LEAST_ID + 1, MOST_ID - 1, MOST_ID]],
     [[LEAST_ID, LEAST_ID + 1], [MOST_ID - 1, MOST_ID]],
     [[LEAST_ID], [5, 7, MOST_ID]]],
)  # fmt: skip
def test_a_target_may_end_among_ids_at_the_ends_of_64_bits(
    connection: Any, portions: list[list[int]], size: int
) -> None:
    book_at(History(connection), [row_id for ids in portions for row_id in ids])
    admit_as_extents(connection, portions)
    ledger.prepare(connection, ORIGIN, size)
    changes = ledger.planned_chains(connection, net=False)
    assert sum(change.originals for change in changes) == 4 - size
    assert {change.target_balance_cents for change in changes} <= {100 * size}


def test_ids_may_be_of_another_integer_type(connection: Any) -> None:
    connection.execute("ALTER TABLE owa_ledger ALTER COLUMN id TYPE integer")
    history = History(connection)
    history.book(CHAINS[0], 100)
    history.release()
    history.book(CHAINS[0], 20)
    assert history.roll_back(0) == 1


def test_one_negative_row_per_period_takes_one_net_row(connection: Any) -> None:
    connection.execute(ONE_NEGATIVE)
    assert ledger.allows_one_row_per_period(connection)
    history = History(connection, net=True)
    history.book(CHAINS[0], 100)
    history.release()
    history.book(CHAINS[0], 20)
    history.book(CHAINS[0], 30)
    assert history.roll_back(0) == 1
    assert real_balances(connection) == {CHAINS[0]: 100}
    assert count(connection, "apgms_release.mirror") == 2


def test_a_taken_negative_row_makes_the_target_unreachable(connection: Any) -> None:
    connection.execute(ONE_NEGATIVE)
    history = History(connection, net=True)
    history.book(CHAINS[0], 100)
    history.book(CHAINS[0], -60)
    history.release()
    history.book(CHAINS[0], 20)
    with pytest.raises(psycopg.errors.UniqueViolation), connection.transaction():
        history.roll_back(0)
    assert real_balances(connection) == {CHAINS[0]: 60}
    assert count(connection, "apgms_release.mirror") == 0


def test_deposits_only_makes_a_target_below_unreachable(connection: Any) -> None:
    connection.execute(
        "ALTER TABLE owa_ledger ADD rpt_verified boolean NOT NULL DEFAULT false,"
        " ADD release_uuid uuid,"
        " ADD CHECK (amount_cents >= 0 OR (rpt_verified AND release_uuid IS NOT NULL))"
    )
    history = History(connection)
    history.book(CHAINS[0], 100)
    history.release()
    history.book(CHAINS[0], 20)
    with pytest.raises(psycopg.errors.CheckViolation), connection.transaction():
        history.roll_back(0)
    assert real_balances(connection) == {CHAINS[0]: 120}


def test_an_index_over_more_than_the_period_is_not_one_row_per_period(connection: Any) -> None:
    assert not ledger.allows_one_row_per_period(connection)  # owa_ledger_receipt has a fourth


def test_a_chain_that_does_not_add_up_is_named(connection: Any) -> None:
    history = History(connection)
    history.book(CHAINS[0], 100)
    history.release()
    history.book(CHAINS[0], 20)
    connection.execute("UPDATE owa_ledger SET amount_cents = 25 WHERE amount_cents = 20")
    ledger.prepare(connection, ORIGIN, history.releases[0][0])
    with pytest.raises(ApgmsError, match="53004085616 GST 2025Q1") as error:
        ledger.planned_chains(connection, net=False)
    assert error.value.reason == "rollback.does_not_add_up"


def test_numbered_rows_leave_the_sequence_alone(connection: Any) -> None:
    history = History(connection)
    history.book(CHAINS[0], 100)
    history.release()
    history.book(CHAINS[0], 20)
    before = connection.execute("SELECT last_value FROM owa_ledger_id_seq").fetchone()
    with connection.transaction(force_rollback=True):
        ledger.prepare(connection, ORIGIN, history.releases[0][0])
        first_id = ledger.next_free_id(connection)
        ledger.append_mirrors(connection, net=False, first_id=first_id)
    assert connection.execute("SELECT last_value FROM owa_ledger_id_seq").fetchone() == before


def test_a_writer_that_does_not_end_stops_the_rollback(
    connection: Any, database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ledger, "LOCK_TIMEOUT", "50ms")
    history = History(connection)
    with psycopg.connect(database_url) as writer:
        History(writer).book(CHAINS[0], 5)
        with pytest.raises(ApgmsError) as error, connection.transaction():
            ledger.lock_tables(history.connection)
    assert error.value.reason == "rollback.ledger_busy"
