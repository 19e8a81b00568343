"""The log against tools that are not ours: openssl, sha256sum, and the reference code."""

from __future__ import annotations

import base64
import os
import re
import shutil
import subprocess
from pathlib import Path

import psycopg
import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from ansible_collections.apgms.release.plugins.module_utils.domain.ledger.checkpoint import (
    COSIGNATURE,
    LOG_SIGNATURE,
    note_key_id,
)
from tests.conftest import ROOT
from tests.ledgers import LedgerWriter, Stack, make_stack

GO_SOURCES = Path("/usr/share/gocode")


@pytest.fixture
def stack(database_url: str, tmp_path: Path) -> Stack:
    made = make_stack(database_url, tmp_path)
    with psycopg.connect(database_url, autocommit=True) as connection:
        writer = LedgerWriter(chains=7)
        writer.load(connection, 500)
        made.snapshot()
        writer.load(connection, 70_000)  # enough for a third level of tiles
    return made


def verifier_key(name: str, kind: bytes, public_pem: bytes) -> str:
    """The form in which the reference code takes a key: ``name+id+base64(kind || key)``."""
    key = serialization.load_pem_public_key(public_pem)
    raw = kind + key.public_bytes(Encoding.Raw, PublicFormat.Raw)
    key_id = note_key_id(name, kind, public_pem).hex()
    return f"{name}+{key_id}+{base64.b64encode(raw).decode()}"


def shell(script: str, folder: Path) -> str:
    done = subprocess.run(
        ["sh", "-ec", script], cwd=folder, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def test_the_log_verifies_with_the_commands_of_the_documentation(
    database_url: str, tmp_path: Path
) -> None:
    stack = make_stack(database_url, tmp_path)
    with psycopg.connect(database_url, autocommit=True) as connection:
        LedgerWriter().load(connection, 300)
    snapshot = stack.snapshot()
    assert snapshot.origin == "apgms.local/prod"
    stack.cosign()
    store = stack.folder / "store"
    shutil.copy(stack.folder / "policy.json", store)
    section = (ROOT / "docs/ledger-log.md").read_text().partition("## Verify a checkpoint")[2]
    checkpoint, cosignature, leaf, rows = re.findall(r"```sh\n(.*?)```", section, re.DOTALL)
    assert shell(checkpoint, store) == "Signature Verified Successfully"
    assert shell(cosignature, store) == "Signature Verified Successfully"
    hashed, stored = shell(leaf, store).splitlines()
    assert hashed.split()[0] == stored
    assert shell(rows, store).split()[0] == snapshot.logged.namespaces["gst"]["rows_sha256"]
    [note] = store.rglob("checkpoint/*")
    note.write_bytes(note.read_bytes().replace(b"\n300\n", b"\n301\n"))
    for block in (checkpoint, cosignature):
        done = subprocess.run(["sh", "-c", block], cwd=store, capture_output=True, check=False)
        assert done.returncode != 0


@pytest.mark.skipif(
    not (shutil.which("go") and GO_SOURCES.exists()),
    reason="golang-go and golang-golang-x-mod-dev are not installed",
)
def test_the_log_verifies_with_the_reference_code(stack: Stack) -> None:
    snapshot = stack.snapshot()
    log = stack.folder / "store" / "log" / snapshot.origin
    stack.cosign()
    key = verifier_key(snapshot.origin, LOG_SIGNATURE, stack.policy.log.key.encode())
    [(name, cosigner)] = stack.policy.log.cosigners.items()
    cosigner_key = verifier_key(name, COSIGNATURE, cosigner.encode())
    segment = (log / "segment" / "0000000000000500-0000000000033268").read_bytes()
    lines = segment.splitlines(keepends=True)
    entry = lines[0] + lines[1 + 12345 - 500]
    environment = {
        **os.environ,
        "GOPATH": str(GO_SOURCES),
        "GO111MODULE": "off",
        "GOFLAGS": "",
        "GOCACHE": str(stack.folder / "go-cache"),
    }
    program = stack.folder / "check_log"
    subprocess.run(
        ["go", "build", "-o", str(program), str(ROOT / "tests/reference/check_log.go")],
        env=environment,
        check=True,
    )

    def check(old: str, position: str, entry: bytes) -> subprocess.CompletedProcess[bytes]:
        return subprocess.run(
            [str(program), str(log), key, cosigner_key, old, position],
            input=entry,
            capture_output=True,
            check=False,
        )

    done = check("500", "12345", entry)
    assert done.returncode == 0, done.stderr
    assert [base64.b64decode(each) for each in done.stdout.split()] == snapshot.consistency
    assert check("500", "12346", entry).returncode != 0
    [cosignature] = (log / "cosignature").rglob("*/*")
    line = cosignature.read_text()
    cosignature.write_text(line[:-12] + ("A" if line[-12] != "A" else "B") + line[-11:])
    assert check("500", "12345", entry).returncode != 0
    cosignature.write_text(line)
    assert check("500", "12345", entry).returncode == 0
    assert check("500", "12345", entry + b" ").returncode != 0
