"""Real parts for the tests: one PostgreSQL a session, one database a test."""

from __future__ import annotations

import itertools
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psycopg
import pytest

from services.postgres import get_server
from tests.gateway_process import GatewayProcess

ROOT = Path(__file__).resolve().parents[1]
APGMS_SCHEMA = ROOT / "services" / "apgms_schema.sql"
SHARED = ROOT.parent / "shared"
"""Other people's data, present on the founders' machines only."""

_numbers = itertools.count(1)
_skips: list[pytest.TestReport] = []


@pytest.fixture(scope="session")
def postgres_url() -> Iterator[str]:
    """A running PostgreSQL whose database ``apgms_template`` holds the APGMS tables."""
    folder = Path(tempfile.mkdtemp(prefix="apgms-pg-"))  # short: a socket path has 107 bytes
    server = get_server(folder, cleanup_mode="stop")
    try:
        url = server.get_uri()
        with psycopg.connect(url, autocommit=True) as connection:
            connection.execute("CREATE DATABASE apgms_template")
        with psycopg.connect(_of_database(url, "apgms_template"), autocommit=True) as connection:
            connection.execute(APGMS_SCHEMA.read_bytes())
        yield url
    finally:
        server.cleanup()
        shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture
def database_url(postgres_url: str) -> Iterator[str]:
    """The URL of a fresh database with empty APGMS tables."""
    with fresh_database(postgres_url) as url:
        yield url


@pytest.fixture(scope="module")
def module_database_url(postgres_url: str) -> Iterator[str]:
    """As ``database_url``, one for a whole test module whose tests leave nothing behind."""
    with fresh_database(postgres_url) as url:
        yield url


@contextmanager
def fresh_database(postgres_url: str) -> Iterator[str]:
    """Yield the URL of a new database with empty APGMS tables; drop it afterwards."""
    name = f"apgms_test_{next(_numbers)}"
    with psycopg.connect(postgres_url, autocommit=True) as connection:
        connection.execute(f"CREATE DATABASE {name} TEMPLATE apgms_template")
    yield _of_database(postgres_url, name)
    with psycopg.connect(postgres_url, autocommit=True) as connection:
        connection.execute(f"DROP DATABASE {name} WITH (FORCE)")


@pytest.fixture
def gateway(tmp_path: Path) -> Iterator[GatewayProcess]:
    """A running sandbox gateway of environment ``production-like``."""
    folder = tmp_path / "gateway"
    folder.mkdir()
    process = GatewayProcess(folder).start()
    yield process
    process.stop()


def _of_database(url: str, name: str) -> str:
    return psycopg.conninfo.make_conninfo(url, dbname=name)


def pytest_addoption(parser: pytest.Parser) -> None:
    group = parser.getgroup("apgms")
    group.addoption("--no-skips", action="store_true", help="a skipped test fails the run")
    group.addoption(
        "--engine-down",
        action="append",
        default=[],
        choices=["docker"],
        help="an engine that was proven unable to start; its tests may be skipped",
    )


def pytest_runtest_logreport(report: pytest.TestReport) -> None:
    if report.skipped:
        _skips.append(report)


def pytest_sessionfinish(session: pytest.Session) -> None:
    if not session.config.getoption("--no-skips"):
        return
    down = set(session.config.getoption("--engine-down"))
    if any(not down & set(report.keywords) for report in _skips):
        session.exitstatus = pytest.ExitCode.TESTS_FAILED
