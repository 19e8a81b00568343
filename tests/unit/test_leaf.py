from __future__ import annotations

import hashlib
from collections.abc import Iterator
from typing import Any

import psycopg
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from ansible_collections.apgms.release.plugins.module_utils.domain.ledger.leaf import (
    OUTPUT_SETTINGS,
    leaf_hash,
    leaf_hashes,
    line,
    values,
)
from ansible_collections.apgms.release.plugins.module_utils.ports.database import connect
from ansible_collections.apgms.release.plugins.module_utils.usecases.ledger.rows import (
    copied,
    one_view,
)
from ansible_collections.apgms.release.plugins.module_utils.usecases.ledger.table import (
    ledger_columns,
)

TEXT = st.text(st.characters(exclude_characters="\x00", exclude_categories=["Cs"]))
INT8 = st.integers(-(2**63), 2**63 - 1) | st.sampled_from([-(2**63), 2**63 - 1, 0])
EXTRA = {
    "e_text": ("text", TEXT),
    "e_char": ("char(8)", st.text("ab ", max_size=8)),
    "e_varchar": ("varchar", TEXT),
    "e_bytea": ("bytea", st.binary()),
    "e_bool": ("boolean", st.booleans()),
    "e_int2": ("smallint", st.integers(-(2**15), 2**15 - 1)),
    "e_int4": ("integer", st.integers(-(2**31), 2**31 - 1)),
    "e_int8": ("bigint", INT8),
    "e_numeric": ("numeric", st.decimals(allow_nan=False, allow_infinity=False, places=6)),
    "e_float": ("double precision", st.floats()),
    "e_date": ("date", st.dates()),
    "e_time": ("timestamp", st.datetimes()),
    "e_timetz": ("timestamptz", st.datetimes(timezones=st.timezones())),
    "e_interval": ("interval", st.timedeltas()),
    "e_uuid": ("uuid", st.uuids()),
    "e_json": ("json", TEXT.map(lambda text: psycopg.types.json.Json({"a": text}))),
    "e_jsonb": ("jsonb", TEXT.map(lambda text: psycopg.types.json.Jsonb([text, 1.5, None]))),
    "e_array": ("text[]", st.lists(TEXT | st.none(), max_size=3)),
    "e_inet": ("inet", st.ip_addresses()),
    'e "odd\\name\t': ("int8range", st.none()),
}
ROWS = st.lists(
    st.fixed_dictionaries(
        {name: strategy | st.none() for name, (_type, strategy) in EXTRA.items()}
    ),
    min_size=1,
    max_size=4,
)


OTHER_SETTINGS = {
    "TimeZone": "Australia/Sydney",
    "DateStyle": "German",
    "IntervalStyle": "sql_standard",
    "bytea_output": "escape",
    "extra_float_digits": "-3",
    "client_encoding": "LATIN1",
}


def quoted(name: str) -> str:
    return '"' + name.replace('"', '""') + '"'


@pytest.fixture
def wide_ledger(database_url: str) -> Iterator[Any]:
    with connect(database_url, None, purpose="test") as connection:
        for name, (kind, _strategy) in EXTRA.items():
            connection.execute(f"ALTER TABLE owa_ledger ADD COLUMN {quoted(name)} {kind}")
        yield connection


@given(rows=ROWS, amount=INT8, text=TEXT)
@settings(
    max_examples=15, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
def test_postgresql_and_python_agree_on_every_type(
    wide_ledger: Any, rows: list[dict[str, Any]], amount: int, text: str
) -> None:
    wide_ledger.execute("TRUNCATE owa_ledger")
    names = [*EXTRA, "abn", "tax_type", "period_id", "transfer_uuid", "amount_cents",
             "balance_after_cents", "bank_receipt_hash"]  # fmt: skip
    for number, row in enumerate(rows):
        core = [text, "GST", "2025-09", f"{number:032x}", amount, amount, f"{text}{number}"]
        wide_ledger.execute(
            f"INSERT INTO owa_ledger ({', '.join(map(quoted, names))})"
            f" VALUES ({', '.join(['%s'] * len(names))})",
            [*(row[name] for name in EXTRA), *core],
        )
    with one_view(wide_ledger):
        columns = ledger_columns(wide_ledger)
        found = list(copied(wide_ledger, columns, psycopg.sql.SQL("true")))
        # concat() prints a value as its type does, where a cast to text may not
        texts = ", ".join(
            f"CASE WHEN num_nulls({quoted(name)}) = 0 THEN concat({quoted(name)}) END"
            for name in columns
        )
        printed = wide_ledger.execute(f"SELECT {texts} FROM owa_ledger ORDER BY id").fetchall()
        hashes = wide_ledger.execute(
            "SELECT sha256('\\x00'::bytea || %s::bytea || entry) FROM unnest(%s::bytea[]) entry",
            [line(columns), [line(row) for row in printed]],
        ).fetchall()
    assert [line(row) for row in printed] == found
    assert [tuple(values(row)) for row in found] == printed
    assert [row[0] for row in hashes] == leaf_hashes(line(columns), found)


@given(st.lists(TEXT | st.none(), min_size=1))
def test_a_line_gives_back_its_values(fields: list[str | None]) -> None:
    assert values(line(fields)) == fields
    assert line(fields).count(b"\n") == 1


def test_null_is_not_the_text_that_looks_like_it() -> None:
    assert line([None, "\\N", ""]) == b"\\N\t\\\\N\t\n"


def test_a_leaf_is_the_hash_of_rfc_6962_over_header_and_row() -> None:
    header, row = line(["id", "abn"]), line(["1", "53004085616"])
    wanted = hashlib.sha256(b"\x00id\tabn\n1\t53004085616\n").digest()
    assert leaf_hash(header, row) == wanted
    assert leaf_hashes(header, [row, row]) == [wanted, wanted]


def test_the_settings_of_a_role_do_not_change_leaves(wide_ledger: Any) -> None:
    assert OTHER_SETTINGS.keys() == OUTPUT_SETTINGS.keys()
    for name, value in OTHER_SETTINGS.items():
        wide_ledger.execute(f"SET {name} = '{value}'")
    with one_view(wide_ledger):
        shown = {
            name: wide_ledger.execute(f"SHOW {name}").fetchone()[0] for name in OUTPUT_SETTINGS
        }
    assert shown.pop("DateStyle").startswith("ISO")
    assert shown == {
        "TimeZone": "UTC",
        "IntervalStyle": "postgres",
        "bytea_output": "hex",
        "extra_float_digits": "1",
        "client_encoding": "UTF8",
    }
