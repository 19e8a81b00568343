from __future__ import annotations

import contextlib
import socket
import ssl
import subprocess
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psycopg
import pytest

from ansible_collections.apgms.release.plugins.module_utils.errors import ApgmsError
from ansible_collections.apgms.release.plugins.module_utils.ports.database import columns, connect
from ansible_collections.apgms.release.plugins.module_utils.ports.schema.migrate import migrate


def test_columns_are_read_in_table_order(database_url: str) -> None:
    with connect(database_url, None, purpose="test") as connection:
        found = columns(connection, "owa_ledger")
    assert list(found)[:2] == ["id", "abn"]
    assert found["amount_cents"] == "bigint"


def test_missing_table_is_named(database_url: str) -> None:
    with (
        connect(database_url, None, purpose="test") as connection,
        pytest.raises(ApgmsError, match="no table nowhere") as error,
    ):
        columns(connection, "nowhere")
    assert error.value.reason == "database.missing_table"


def test_a_sandbox_table_is_made_by_the_seed(database_url: str) -> None:
    with (
        connect(database_url, None, purpose="test") as connection,
        pytest.raises(ApgmsError, match="Mend: make seed STACK=proto"),
    ):
        columns(connection, "apgms_sandbox.payroll_line")


def test_unreachable_database_is_one_message() -> None:
    with (
        pytest.raises(ApgmsError) as error,
        connect("postgresql://127.0.0.1:1/apgms", None, purpose="test"),
    ):
        pass
    assert error.value.reason == "database.unreachable"
    mend = "Mend: start PostgreSQL at 127.0.0.1, port 1, or correct apgms_database_url"
    assert mend in str(error.value)


@pytest.mark.parametrize(
    ("wrong", "mend"),
    [
        ({"user": "nobody"}, "Mend: correct the user in apgms_database_url"),
        ({"dbname": "nothere"}, "Mend: correct the name of the database in apgms_database_url"),
        ({"host": "/nowhere"}, "Mend: start PostgreSQL at /nowhere, port 5432"),
    ],
)
def test_what_the_address_has_wrong_is_named(
    database_url: str, wrong: dict[str, Any], mend: str
) -> None:
    url = psycopg.conninfo.make_conninfo(database_url, **wrong)
    with pytest.raises(ApgmsError, match=mend) as error, connect(url, None, purpose="test"):
        pass
    assert error.value.reason == "database.unreachable"


@pytest.fixture
def url_with_password(database_url: str) -> Iterator[str]:
    """The URL of a role that must give its password, which is ``right``."""
    with psycopg.connect(database_url, autocommit=True) as connection:
        row = connection.execute("SHOW hba_file").fetchone()
        hba = Path(row[0] if row else "")
        before = hba.read_text()
        connection.execute("CREATE ROLE guarded LOGIN PASSWORD 'right'")
        hba.write_text(f"local all guarded scram-sha-256\n{before}")
        connection.execute("SELECT pg_reload_conf()")
        yield psycopg.conninfo.make_conninfo(database_url, user="guarded", password=None)
        hba.write_text(before)
        connection.execute("SELECT pg_reload_conf()")
        connection.execute("DROP ROLE guarded")


@pytest.mark.parametrize("password", [None, "wrong"])
def test_a_password_that_is_missing_or_wrong_is_named(
    url_with_password: str, password: str | None
) -> None:
    with (
        pytest.raises(ApgmsError, match="Mend: read -rs APGMS_DATABASE_PASSWORD; ") as error,
        connect(url_with_password, password, purpose="test"),
    ):
        pass
    assert error.value.reason == "database.unreachable"
    with connect(url_with_password, "right", purpose="test"):
        pass


def make_certificate(folder: Path, name: str) -> None:
    files = ["-keyout", folder / f"{name}.key", "-out", folder / name]
    new = ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-subj", "/CN=127.0.0.1"]
    subprocess.run([*new, *files], check=True, capture_output=True)


@contextmanager
def tls_server(folder: Path) -> Iterator[int]:
    """Yield the port of what speaks TLS as PostgreSQL does, with a certificate of nobody's."""
    make_certificate(folder, "server")
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(folder / "server", folder / "server.key")

    def answer() -> None:
        client = listener.accept()[0]
        client.recv(8)  # SSLRequest
        client.sendall(b"S")
        with client, contextlib.suppress(ssl.SSLError, OSError):
            context.wrap_socket(client, server_side=True)

    with socket.create_server(("127.0.0.1", 0)) as listener:
        thread = threading.Thread(target=answer, daemon=True)
        thread.start()
        yield listener.getsockname()[1]


@pytest.mark.parametrize(
    ("authority", "why"),
    [("other", "certificate verify failed"), ("none", "root certificate file")],
)
def test_a_certificate_of_another_authority_is_named(
    tmp_path: Path, authority: str, why: str
) -> None:
    make_certificate(tmp_path, "other")
    with tls_server(tmp_path) as port:
        url = f"postgresql://127.0.0.1:{port}/apgms?sslmode=verify-full&sslrootcert={tmp_path}"
        with (
            pytest.raises(ApgmsError, match=f"{why}.*Mend: have sslrootcert") as error,
            connect(f"{url}/{authority}", None, purpose="test"),
        ):
            pass
    assert error.value.reason == "database.unreachable"


def test_password_in_the_url_is_refused_without_showing_it() -> None:
    with (
        pytest.raises(ApgmsError) as error,
        connect("postgresql://a:hunter2@127.0.0.1:1/apgms", None, purpose="test"),
    ):
        pass
    assert error.value.reason == "database.password_in_url"
    assert "hunter2" not in str(error.value)


def test_migrating_twice_applies_nothing_the_second_time(database_url: str) -> None:
    with connect(database_url, None, purpose="test") as connection:
        migrate(connection)
        assert migrate(connection) == []


def _wait(connection: Any) -> None:
    connection.execute("SELECT pg_sleep(30)")


def _cancelled(connection: Any) -> None:
    threading.Timer(0.2, connection.cancel).start()
    _wait(connection)


def _copy(connection: Any) -> None:
    rows = "SELECT pg_sleep(0.01) FROM generate_series(1, 1000)"
    with connection.cursor().copy(f"COPY ({rows}) TO STDOUT") as copy:
        list(copy)


def _locked_out(connection: Any) -> None:
    with psycopg.connect(connection.info.dsn) as other:
        other.execute("LOCK TABLE owa_ledger")
        connection.execute("SELECT count(*) FROM owa_ledger")


def _idle(connection: Any) -> None:
    with connection.transaction():
        connection.execute("SELECT 1")
        time.sleep(0.3)
        connection.execute("SELECT 2")


@pytest.mark.parametrize(
    ("setting", "act"),
    [
        ("statement_timeout", _wait),
        ("statement_timeout", _copy),
        ("statement_timeout", _cancelled),
        ("lock_timeout", _locked_out),
        ("idle_in_transaction_session_timeout", _idle),
        ("transaction_timeout", _idle),
    ],
)
def test_a_limit_of_the_role_is_named_with_what_lifts_it(
    database_url: str, setting: str, act: Any
) -> None:
    with (
        pytest.raises(ApgmsError) as error,
        connect(database_url, None, purpose="test") as connection,
    ):
        if act is not _cancelled:
            connection.execute(f"SET {setting} = '50ms'")
        act(connection)
    assert error.value.reason == "database.interrupted"
    mend = f"ALTER ROLE CURRENT_USER SET {setting} = 0"
    assert mend in str(error.value)
    with psycopg.connect(database_url) as connection:
        connection.execute(mend)  # type: ignore[arg-type]
        connection.rollback()


@pytest.mark.parametrize(
    ("code", "reason", "mend"),
    [
        ("40P01", "database.interrupted", "Mend: run the same command again"),
        ("53100", "database.refused", "correct what the database names"),
        ("25006", "database.refused", "not a standby"),
        ("42501", "database.refused", "grant the role"),
        ("57P01", "database.unreachable", "start PostgreSQL at"),
    ],
)
def test_each_fault_says_what_it_is(database_url: str, code: str, reason: str, mend: str) -> None:
    with (
        pytest.raises(ApgmsError, match=mend) as error,
        connect(database_url, None, purpose="test") as connection,
    ):
        connection.execute(f"DO $$ BEGIN RAISE SQLSTATE '{code}'; END $$")
    assert error.value.reason == reason
