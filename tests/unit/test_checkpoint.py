from __future__ import annotations

import base64
import subprocess
from pathlib import Path

import pytest

from ansible_collections.apgms.release.plugins.module_utils.domain.ledger.checkpoint import (
    LOG_SIGNATURE,
    Checkpoint,
    cosign,
    note_key_id,
    parse,
    sign,
    verify,
    verify_cosignature,
)
from ansible_collections.apgms.release.plugins.module_utils.ports.signer import (
    Signer,
    open_signer,
)

ORIGIN = "apgms.example/prod"
ROOT = bytes(range(32))
EXAMPLE = (
    "example.com/behind-the-sofa\n20852163\nCsUYapGGPo4dkMgIAUqom/Xajj7h2fB2MPA3j2jxq2I=\n\n"
    "— example.com/behind-the-sofa Az3grlgtzPICa5OS8npVmf1Myq/5IZniMp+ZJurmRDeOoRDe4URYN7u5/Zhcyv2q"
    "1gGzGku9nTo+zyWE+xeMcTOAYQ8=\n"
).encode()
"""The example of the specification (C2SP tlog-cosignature)."""


def make_signer(path: Path) -> Signer:
    command = ["openssl", "genpkey", "-algorithm", "ed25519", "-out", str(path)]
    subprocess.run(command, check=True, capture_output=True)
    return open_signer(str(path), "ed25519")


@pytest.fixture
def signer(tmp_path: Path) -> Signer:
    return make_signer(tmp_path / "log.pem")


@pytest.fixture
def note(signer: Signer) -> bytes:
    return sign(Checkpoint(ORIGIN, 42, ROOT), signer.public_pem, signer.sign)


def test_the_note_has_the_form_of_the_specification(note: bytes, signer: Signer) -> None:
    lines = note.decode().split("\n")
    assert lines[:4] == [ORIGIN, "42", base64.b64encode(ROOT).decode(), ""]
    assert lines[4].startswith(f"— {ORIGIN} ")
    assert lines[5:] == [""]
    checkpoint, [signature] = parse(note)
    assert checkpoint == Checkpoint(ORIGIN, 42, ROOT)
    assert signature.key_id == note_key_id(ORIGIN, LOG_SIGNATURE, signer.public_pem)
    assert len(signature.payload) == 64


def test_the_specifications_example_is_read(signer: Signer) -> None:
    checkpoint, [signature] = parse(EXAMPLE)
    assert (checkpoint.origin, checkpoint.size) == ("example.com/behind-the-sofa", 20852163)
    assert checkpoint.body + b"\n" + signature.line == EXAMPLE


def test_a_signed_note_verifies(note: bytes, signer: Signer) -> None:
    assert verify(note, ORIGIN, signer.public_pem) == Checkpoint(ORIGIN, 42, ROOT)


@pytest.mark.parametrize("place", range(0, 60, 7))
def test_a_changed_byte_anywhere_is_refused(note: bytes, signer: Signer, place: int) -> None:
    changed = note[:place] + bytes([note[place] ^ 1]) + note[place + 1 :]
    with pytest.raises(ValueError):
        verify(changed, ORIGIN, signer.public_pem)


@pytest.mark.parametrize(
    ("old", "new"),
    [
        (b"\n42\n", b"\n042\n"),
        (b"\n42\n", b"\n-1\n"),
        (b"\n42\n", b"\n42\nextra\n"),
        (b"\n\n", b"\n"),
        (b"Hh8=\n\n", b"Hh9=\n\n"),
        (b"=\n\n", b"\n\n"),
        ("\n— ".encode(), b"\n- "),
    ],
)
def test_other_forms_are_malformed(note: bytes, signer: Signer, old: bytes, new: bytes) -> None:
    assert old in note
    with pytest.raises(ValueError):
        parse(note.replace(old, new))


def test_another_key_and_another_origin_are_refused(
    note: bytes, signer: Signer, tmp_path: Path
) -> None:
    other = make_signer(tmp_path / "other.pem")
    with pytest.raises(ValueError, match="no signature of the key"):
        verify(note, ORIGIN, other.public_pem)
    with pytest.raises(ValueError, match="the origin is"):
        verify(note, "apgms.example/proto", signer.public_pem)


def test_a_cosignature_covers_time_and_checkpoint(
    note: bytes, signer: Signer, tmp_path: Path
) -> None:
    auditor = make_signer(tmp_path / "auditor.pem")
    line = cosign(note, "audit.example", auditor.public_pem, 1_760_000_000, auditor.sign)
    assert verify_cosignature(note, line, "audit.example", auditor.public_pem) == 1_760_000_000
    assert parse(note + line)[1][1].name == "audit.example"
    verify(note + line, ORIGIN, signer.public_pem)
    other = sign(Checkpoint(ORIGIN, 43, ROOT), signer.public_pem, signer.sign)
    with pytest.raises(ValueError, match="does not verify"):
        verify_cosignature(other, line, "audit.example", auditor.public_pem)
    with pytest.raises(ValueError, match="the cosignature is by"):
        verify_cosignature(note, line, "audit.example", signer.public_pem)


def test_openssl_verifies_a_note(note: bytes, signer: Signer, tmp_path: Path) -> None:
    (tmp_path / "checkpoint").write_bytes(note)
    (tmp_path / "log.pub").write_bytes(signer.public_pem)
    script = r"""
        sed '/^$/,$d' checkpoint > body
        sed -n 's/^— apgms.example\/prod //p' checkpoint | base64 -d | tail -c 64 > signature
        openssl pkeyutl -verify -pubin -inkey log.pub -rawin -in body -sigfile signature
    """
    done = subprocess.run(["sh", "-ec", script], cwd=tmp_path, capture_output=True, text=True)
    assert done.stdout.strip() == "Signature Verified Successfully", done.stderr
