from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack

import psycopg
import pytest

from ansible_collections.apgms.release.plugins.module_utils.errors import ApgmsError
from ansible_collections.apgms.release.plugins.module_utils.ports.database import (
    connect,
    rehearsal,
)
from ansible_collections.apgms.release.plugins.module_utils.ports.schema.migrate import migrate
from ansible_collections.apgms.release.plugins.module_utils.usecases.acts.lease import current, hold

Connection = psycopg.Connection[tuple[object, ...]]


@pytest.fixture
def two(database_url: str) -> Iterator[tuple[Connection, Connection]]:
    with ExitStack() as stack:
        one = stack.enter_context(connect(database_url, None, purpose="one"))
        other = stack.enter_context(connect(database_url, None, purpose="other"))
        migrate(one)
        yield one, other


def test_second_holder_is_told_who_since_when_on_which_release(
    two: tuple[Connection, Connection],
) -> None:
    with hold(two[0], "prod", "alice@laptop", "release", manifest_sha256="ab" * 32):
        with pytest.raises(ApgmsError) as error, hold(two[1], "prod", "awx", "release"):
            pass
        held = current(two[1], "prod")
    assert held is not None and held["live"]
    assert error.value.reason == "lease.busy"
    for part in ("alice@laptop", "ab" * 32, held["since"].isoformat()[:19], "lease 1"):
        assert part in str(error.value)


def test_free_after_it_was_given_back(two: tuple[Connection, Connection]) -> None:
    with hold(two[0], "prod", "alice", "release"):
        pass
    assert current(two[1], "prod") is None
    with hold(two[1], "prod", "bob", "release") as lease:
        assert lease.token == 2


def test_given_back_also_after_an_error(two: tuple[Connection, Connection]) -> None:
    with pytest.raises(ZeroDivisionError), hold(two[0], "prod", "alice", "release"):
        raise ZeroDivisionError
    assert current(two[1], "prod") is None


def test_session_that_died_frees_the_lease_at_once(
    two: tuple[Connection, Connection],
) -> None:
    with hold(two[0], "prod", "alice", "release"):
        two[1].execute("SELECT pg_terminate_backend(%s)", [two[0].info.backend_pid])
        _wait_until_gone(two[1], two[0].info.backend_pid)
        with hold(two[1], "prod", "bob", "release") as lease:
            assert lease.token == 2


def test_stale_holder_is_refused_by_its_token(two: tuple[Connection, Connection]) -> None:
    with hold(two[0], "prod", "alice", "release", seconds=1) as stale:
        two[1].execute("SELECT pg_sleep(1.1)")
        with (
            hold(two[1], "prod", "bob", "release"),
            pytest.raises(ApgmsError) as error,
            two[0].transaction(),
        ):
            stale.guard()
        assert error.value.reason == "lease.lost"
        assert "bob" in str(error.value)


def test_stale_holder_does_not_give_back_the_lease_of_another(
    two: tuple[Connection, Connection],
) -> None:
    with ExitStack() as held:
        with hold(two[0], "prod", "alice", "release", seconds=1):
            two[1].execute("SELECT pg_sleep(1.1)")
            held.enter_context(hold(two[1], "prod", "bob", "release"))
        holder = current(two[0], "prod")
        assert holder is not None and holder["holder"] == "bob"


def test_guard_renews(two: tuple[Connection, Connection]) -> None:
    with hold(two[0], "prod", "alice", "release", seconds=1) as lease:
        for _ in range(3):
            two[1].execute("SELECT pg_sleep(0.5)")
            with two[0].transaction():
                lease.guard("cd" * 32)
        held = current(two[1], "prod")
        assert held is not None and held["live"] and held["manifest_sha256"] == "cd" * 32


def test_live_lease_is_broken_only_by_its_own_token(
    two: tuple[Connection, Connection],
) -> None:
    with hold(two[0], "prod", "alice", "release") as lease:
        with pytest.raises(ApgmsError), hold(two[1], "prod", "bob", "release", break_token=7):
            pass
        with (
            hold(two[1], "prod", "bob", "release", break_token=lease.token),
            pytest.raises(ApgmsError) as error,
            two[0].transaction(),
        ):
            lease.guard()
    assert error.value.reason == "lease.lost"


def test_holder_that_stops_inside_a_transaction_is_cut_off(
    two: tuple[Connection, Connection],
) -> None:
    with (
        hold(two[0], "prod", "alice", "release", seconds=1) as lease,
        pytest.raises(psycopg.Error),
        two[0].transaction(),
    ):
        lease.guard()
        with hold(two[1], "prod", "bob", "release"):  # waits for the row lock
            two[0].execute("SELECT 1")


def test_rehearsal_leaves_no_trace(two: tuple[Connection, Connection]) -> None:
    with rehearsal(two[0]), hold(two[0], "prod", "alice", "release"):
        pass
    assert two[1].execute("SELECT count(*) FROM apgms_release.lease").fetchone() == (0,)
    assert two[1].execute(
        "SELECT count(*) FROM pg_locks WHERE locktype = 'advisory'"
    ).fetchone() == (0,)


def _wait_until_gone(connection: Connection, pid: int) -> None:
    for _ in range(100):
        found = connection.execute(
            "SELECT count(*) FROM pg_stat_activity WHERE pid = %s", [pid]
        ).fetchone()
        if found == (0,):
            return
        connection.execute("SELECT pg_sleep(0.05)")
    pytest.fail("the session did not end")
