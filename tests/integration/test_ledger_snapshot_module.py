"""The modules ledger_snapshot and ledger_cosign as processes: modes and results."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from ansible_collections.apgms.release.plugins.module_utils.errors import ApgmsError
from tests.ledgers import LedgerWriter, Stack, fill, make_stack, run_snapshot
from tests.module_process import run_module


@pytest.fixture
def stack(database_url: str, tmp_path: Path) -> Stack:
    return make_stack(database_url, tmp_path)


def cosign(stack: Stack, key: Path, *, check: bool = False) -> dict[str, Any]:
    return run_module(
        "ledger_cosign",
        {
            "stack": "prod",
            "object_store": stack.store.url,
            "policy": str(stack.folder / "policy.json"),
            "cosign_key": str(key),
        },
        check=check,
    )


def test_check_mode_predicts_what_the_run_does_and_the_second_run_changes_nothing(
    stack: Stack,
) -> None:
    fill(stack, LedgerWriter(), 300)
    predicted = run_snapshot(stack, check=True)
    assert list(stack.store.keys("log/")) == []
    assert stack.execute("SELECT * FROM apgms_release.ledger_checkpoint") == []
    done = run_snapshot(stack)
    assert done == predicted
    assert done["changed"]
    assert done["diff"]["before"]["tree_size"] is None
    assert done["diff"]["after"]["tree_size"] == 300
    assert done["hash_summary"][0] == f"apgms.local/prod: 300 rows, root {done['root']}"
    for options in ({}, {"verify": "full"}):
        again = run_snapshot(stack, **options)
        assert not again["changed"]
        assert again["diff"]["before"] == again["diff"]["after"]
        assert again["checkpoint"] == done["checkpoint"]


def test_the_auditor_confirms_a_checkpoint_once(stack: Stack) -> None:
    fill(stack, LedgerWriter(), 300)
    stack.snapshot()
    predicted = cosign(stack, stack.keys.cosign_key, check=True)
    assert stack.snapshot().cosigned_size == 0
    done = cosign(stack, stack.keys.cosign_key)
    assert done == predicted
    assert (done["changed"], done["tree_size"], done["rebuilt_rows"]) == (True, 300, 300)
    assert not cosign(stack, stack.keys.cosign_key)["changed"]
    fill(stack, LedgerWriter(seed=2), 20)
    assert stack.snapshot().cosigned_size == 300
    assert stack.cosign().rebuilt_rows == 320


def test_nothing_is_confirmed_by_a_stranger_or_before_there_is_anything(stack: Stack) -> None:
    assert cosign(stack, stack.keys.cosign_key)["reason"] == "log.nothing_to_cosign"
    assert cosign(stack, stack.keys.log_key)["reason"] == "log.unknown_cosigner"
    of_proto = replace(stack, policy=replace(stack.policy, stack="proto"))
    with pytest.raises(ApgmsError, match="make ledger-snapshot STACK=proto"):
        of_proto.cosign()


def test_an_archive_that_does_not_give_the_signed_root_is_not_confirmed(stack: Stack) -> None:
    fill(stack, LedgerWriter(), 20)
    stack.snapshot()
    [segment] = (stack.folder / "store/log/apgms.local/prod/segment").iterdir()
    segment.write_bytes(segment.read_bytes().replace(b"2025-01", b"2025-02", 1))
    with pytest.raises(ApgmsError) as caught:
        stack.cosign()
    assert caught.value.reason == "log.segment_damaged"
