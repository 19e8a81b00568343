from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from ansible_collections.apgms.release.plugins.module_utils.errors import ApgmsError
from ansible_collections.apgms.release.plugins.module_utils.ports.signer import open_signer

MAKE = {
    "ed25519": ["-algorithm", "ed25519"],
    "ecdsa-p256": ["-algorithm", "EC", "-pkeyopt", "ec_paramgen_curve:P-256"],
}
VERIFY = {"ed25519": ["-rawin"], "ecdsa-p256": ["-rawin", "-digest", "sha256"]}


def make_key(path: Path, algorithm: str) -> Path:
    subprocess.run(["openssl", "genpkey", *MAKE[algorithm], "-out", path], check=True)
    return path


@pytest.mark.parametrize("algorithm", MAKE)
def test_openssl_verifies_what_a_key_file_signs(tmp_path: Path, algorithm: str) -> None:
    signer = open_signer(str(make_key(tmp_path / "key.pem", algorithm)), algorithm)
    (tmp_path / "message").write_bytes(b"checkpoint")
    (tmp_path / "signature").write_bytes(signer.sign(b"checkpoint"))
    (tmp_path / "public.pem").write_bytes(signer.public_pem)
    subprocess.run(
        ["openssl", "pkeyutl", "-verify", "-pubin", "-inkey", "public.pem", *VERIFY[algorithm],
         "-in", "message", "-sigfile", "signature"],
        cwd=tmp_path, check=True, capture_output=True,
    )  # fmt: skip


def test_the_key_id_is_the_digest_of_the_public_key(tmp_path: Path) -> None:
    path = make_key(tmp_path / "key.pem", "ed25519")
    der = subprocess.run(
        ["openssl", "pkey", "-in", path, "-pubout", "-outform", "DER"],
        check=True, capture_output=True,
    ).stdout  # fmt: skip
    digest = subprocess.run(
        ["openssl", "dgst", "-sha256", "-r"], input=der, check=True, capture_output=True
    ).stdout.split()[0]
    assert open_signer(str(path), "ed25519").key_id == digest.decode()


def test_a_key_of_the_wrong_kind_is_refused(tmp_path: Path) -> None:
    path = make_key(tmp_path / "key.pem", "ed25519")
    with pytest.raises(ApgmsError, match="ecdsa-p256 is needed here") as error:
        open_signer(str(path), "ecdsa-p256")
    assert error.value.reason == "signer.wrong_kind"


@pytest.mark.parametrize("content", [None, b"", b"not a key"])
def test_an_unreadable_key_is_one_message(tmp_path: Path, content: bytes | None) -> None:
    path = tmp_path / "key.pem"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(ApgmsError) as error:
        open_signer(str(path), "ed25519")
    assert error.value.reason == "signer.unreadable"


def test_kms_says_that_it_is_not_built() -> None:
    with pytest.raises(ApgmsError) as error:
        open_signer("awskms:///alias/apgms-prod", "ecdsa-p256")
    assert error.value.reason == "not_built"
