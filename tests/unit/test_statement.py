# GNU General Public License v3.0+ (see COPYING)
"""The text of statements: one form, every member, nothing to spare."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ansible_collections.apgms.release.plugins.module_utils.domain.approval.policy import KINDS
from ansible_collections.apgms.release.plugins.module_utils.domain.approval.statement import (
    SUBJECTS,
    Statement,
    parse_statement,
)
from ansible_collections.apgms.release.plugins.module_utils.domain.formats.canonical import (
    canonical,
    parse_canonical,
)
from ansible_collections.apgms.release.plugins.module_utils.errors import ApgmsError

NOW = datetime(2026, 3, 2, 10, 0, tzinfo=UTC)
SHA = "ab" * 32


def subject_of(kind: str) -> dict[str, str | None]:
    return {name: SHA if name.endswith("sha256") else "x" for name in SUBJECTS[kind]}


def statement_of(kind: str, **changes: Any) -> Statement:
    members: dict[str, Any] = {
        "kind": kind,
        "stack": "prod",
        "signer": "audrey",
        "not_before": NOW,
        "expires_at": NOW + timedelta(minutes=5),
        "nonce": "cd" * 16,
        "reason": "as agreed",
        "subject": subject_of(kind),
    }
    return Statement(**{**members, **changes})


@given(
    kind=st.sampled_from(sorted(SUBJECTS)),
    stack=st.sampled_from(["proto", "prod"]),
    nonce=st.binary(min_size=16, max_size=16).map(bytes.hex),
    reason=st.text(st.characters(categories=["L", "N", "P"]), min_size=1, max_size=500),
    start=st.datetimes(datetime(2020, 1, 1), datetime(2099, 1, 1)),
    minutes=st.integers(1, 10_000),
)
def test_what_is_written_is_read(
    kind: str, stack: str, nonce: str, reason: str, start: datetime, minutes: int
) -> None:
    start = start.replace(microsecond=0, tzinfo=UTC)
    written = statement_of(
        kind,
        stack=stack,
        nonce=nonce,
        reason=reason,
        not_before=start,
        expires_at=start + timedelta(minutes=minutes),
    )
    assert parse_statement(written.to_bytes(), "test") == written


def test_every_kind_of_statement_can_be_permitted() -> None:
    assert set(SUBJECTS) | {"policy"} == set(KINDS)


def malformed(change: dict[str, Any], remove: str | None = None) -> bytes:
    document = {**parse_canonical(statement_of("release").to_bytes()), **change}
    if remove:
        del document[remove]
    return canonical(document)


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"{}",
        b"[]",
        b"\xff",
        b"[" * 100_000,
        statement_of("release").to_bytes() + b"\n",
        statement_of("release").to_bytes().replace(b'"reason":', b'"reason": '),
        malformed({"schema": "apgms.release/statement/2"}),
        malformed({"kind": "policy"}),
        malformed({"stack": "PROD"}),
        malformed({"signer": "*"}),
        malformed({"nonce": "cd" * 15}),
        malformed({"nonce": "CD" * 16}),
        malformed({"not_before": "2026-03-02T10:00:00+11:00"}),
        malformed({"not_before": "2026-02-30T10:00:00Z"}),
        malformed({"expires_at": "2026-03-02T10:00:00Z"}),
        malformed({"subject": {**subject_of("release"), "note": "x"}}),
        malformed({"subject": {**subject_of("release"), "manifest_sha256": SHA.upper()}}),
        malformed({"subject": {**subject_of("release"), "rates_version": None}}),
        malformed({"subject": {**subject_of("release"), "rates_version": " "}}),
        malformed({"unknown": 1}),
        malformed({}, remove="nonce"),
        statement_of("override", reason="").to_bytes(),
    ],
)
def test_malformed_statement_is_one_refusal(data: bytes) -> None:
    with pytest.raises(ApgmsError) as error:
        parse_statement(data, "test")
    assert error.value.reason == "statement.malformed"
