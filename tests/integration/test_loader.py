# GNU General Public License v3.0+ (see COPYING)
"""The loader and the publisher of rates, as the programs they are."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import psycopg
import pytest

from ansible_collections.apgms.release.plugins.module_utils.domain.tax.abn import has_valid_checksum
from ansible_collections.apgms.release.plugins.module_utils.usecases.prototype.check_seed import (
    broken_rows,
)
from ansible_collections.apgms.release.plugins.module_utils.usecases.prototype.check_seed_rules import (
    AUDIT_RULES,
    LEDGER_RULES,
    TOKEN_RULES,
)
from services.keys import make_keys
from tests.conftest import ROOT


def run(program: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    done = subprocess.run(
        [sys.executable, "-m", f"services.{program}", *arguments],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": ".collections"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert "Traceback" not in done.stderr, done.stderr
    return done


@pytest.fixture
def rpt_key(tmp_path: Path) -> Path:
    return make_keys(tmp_path, "prod").rpt_key


def load(
    database_url: str, rpt_key: Path, *periods: str, entities: int = 4
) -> subprocess.CompletedProcess[str]:
    return run(
        "loader", "--database-url", database_url, "--seed", "7", "--entities", str(entities),
        "--rpt-key", str(rpt_key), "--periods", *periods,
    )  # fmt: skip


def test_a_ledger_grows_period_by_period(database_url: str, rpt_key: Path) -> None:
    first = load(database_url, rpt_key, "2025-09")
    assert first.returncode == 0 and "periods: 8 rows" in first.stdout
    with psycopg.connect(database_url) as connection:
        before = connection.execute("SELECT * FROM owa_ledger ORDER BY id").fetchall()
    second = load(database_url, rpt_key, "2025-10", "2025-Q4")
    assert second.returncode == 0 and "periods: 16 rows" in second.stdout
    with psycopg.connect(database_url) as connection:
        after = connection.execute("SELECT * FROM owa_ledger ORDER BY id").fetchall()
        assert after[: len(before)] == before
        for rule in (*LEDGER_RULES, *TOKEN_RULES, *AUDIT_RULES):
            assert broken_rows(connection, rule, {}, 5) == (0, [])
        abns = [row[0] for row in connection.execute("SELECT DISTINCT abn FROM periods")]
        states = connection.execute("SELECT DISTINCT state FROM periods").fetchall()
        sandbox = connection.execute("SELECT to_regnamespace('apgms_sandbox')").fetchone()
    assert len(abns) == 4 and all(map(has_valid_checksum, abns))
    assert (states, sandbox) == ([("READY_RPT",)], (None,))


@pytest.mark.parametrize(
    ("periods", "entities", "reason"),
    [
        (["2025-09"], 2, "seed.size"),
        (["2026-07"], 4, "rates.not_covering"),
        (["September"], 4, "period.malformed"),
    ],
)
def test_what_cannot_be_loaded_is_one_message(
    database_url: str, rpt_key: Path, periods: list[str], entities: int, reason: str
) -> None:
    done = load(database_url, rpt_key, *periods, entities=entities)
    assert done.returncode == 1
    assert done.stderr.splitlines()[-1].startswith(f"{reason}: ")


def test_the_same_periods_twice_leave_the_ledger_as_it_was(
    database_url: str, rpt_key: Path
) -> None:
    load(database_url, rpt_key, "2025-09")
    again = load(database_url, rpt_key, "2025-10", "2025-09")
    assert again.returncode == 1 and "database.refused" in again.stderr
    with psycopg.connect(database_url) as connection:
        found = connection.execute("SELECT DISTINCT period_id FROM owa_ledger").fetchall()
    assert found == [("2025-09",)]


def test_the_publisher_says_what_is_new_and_sha256sum_agrees(tmp_path: Path) -> None:
    store = f"file://{tmp_path}/store"
    first, again = (run("rates", "publish", "--object-store", store) for _ in range(2))
    assert first.stdout == f"Published 2020-21, 2024-25 to {store}/rates/\n"
    assert again.stdout == f"Published nothing new to {store}/rates/\n"
    for version in ("2020-21", "2024-25"):
        subprocess.run(
            ["sha256sum", "-c", "--strict", "rates.bundle.sha256"],
            cwd=tmp_path / "store" / "rates" / version,
            check=True,
            capture_output=True,
        )


def test_a_malformed_catalog_is_not_published(tmp_path: Path) -> None:
    (tmp_path / "new" / "2025-26").mkdir(parents=True)
    (tmp_path / "new" / "2025-26" / "catalog.json").write_text("{}")
    done = run(
        "rates", "publish", "--object-store", f"file://{tmp_path}/store", "--folder",
        str(tmp_path / "new"),
    )  # fmt: skip
    assert done.returncode == 1 and done.stderr.splitlines()[-1].startswith("rates.malformed: ")
    assert not (tmp_path / "store").exists()
