# GNU General Public License v3.0+ (see COPYING)
"""SSH signatures, made and verified by the ``ssh-keygen`` of this machine."""

from __future__ import annotations

import os
import subprocess
import tempfile
from collections.abc import Iterable
from datetime import UTC
from pathlib import Path

from ..domain.approval.ssh_signature import Expected
from ..errors import ApgmsError

TIMEOUT_SECONDS = 60
"""Long enough to touch a FIDO key."""


def sign(key: str, namespace: str, message: bytes) -> bytes:
    """Return the armoured signature of ``message``.

    :param key: path of a private key, or of a public key whose private half is in the agent
    :raises ApgmsError: ``ssh.cannot_sign``, ``ssh.missing``
    """
    done = _ssh_keygen(["-Y", "sign", "-n", namespace, "-f", key], message)
    if done.returncode != 0 or not done.stdout.startswith(b"-----BEGIN SSH SIGNATURE-----"):
        raise ApgmsError(
            "ssh.cannot_sign",
            "The SSH key could not sign",
            where=key,
            why=_said(done) or "ssh-keygen gave no signature",
            mend=f"ssh-add {key}  # a key with a passphrase signs through the agent",
        )
    return done.stdout


def verify(message: bytes, signature: bytes, expected: Expected) -> str | None:
    """Return why ``ssh-keygen -Y verify`` refuses the signature, or ``None`` where it accepts it.

    :raises ApgmsError: ``ssh.missing``, ``ssh.timeout``
    """
    with tempfile.TemporaryDirectory(prefix="apgms-ssh-") as name:
        folder = Path(name)
        files = ["-f", _file(folder / "allowed_signers", _lines(expected.allowed_signers))]
        files += ["-r", _file(folder / "revoked_keys", _lines(expected.revoked_keys))]
        files += ["-s", _file(folder / "signature", signature)]
        who = ["-I", expected.principal, "-n", expected.namespace]
        at = ["-O", f"verify-time={expected.now.astimezone(UTC):%Y%m%d%H%M%S}"]
        done = _ssh_keygen(["-Y", "verify", *who, *at, *files], message)
    # the status alone proves nothing: it reads 0 where SIGCHLD is ignored, whatever it was
    good = f'Good "{expected.namespace}" signature for {expected.principal} with '
    if done.returncode == 0 and done.stdout.startswith(good.encode()):
        return None
    return _said(done) or f"it ended with {done.returncode}"


def public_key(path: str) -> str:
    """Return the public key ``TYPE BASE64 COMMENT`` that belongs to a key file.

    :raises ApgmsError: ``ssh.unreadable``
    """
    beside = Path(path) if path.endswith(".pub") else Path(f"{path}.pub")
    try:
        return beside.read_text(encoding="utf-8").strip()
    except (OSError, UnicodeDecodeError) as error:
        raise ApgmsError(
            "ssh.unreadable",
            "The public half of an SSH key cannot be read",
            where=str(beside),
            why=str(error),
            mend=f"ssh-keygen -y -f {path} > {beside}",
        ) from None


def _ssh_keygen(arguments: list[str], message: bytes) -> subprocess.CompletedProcess[bytes]:
    environment = {**os.environ, "TZ": "UTC", "LC_ALL": "C", "SSH_ASKPASS_REQUIRE": "never"}
    try:
        return subprocess.run(  # noqa: S603
            ["ssh-keygen", *arguments],  # noqa: S607
            input=message,
            capture_output=True,
            env=environment,
            timeout=TIMEOUT_SECONDS,
            check=False,
            start_new_session=True,  # without a terminal no passphrase prompt can hang
        )
    except FileNotFoundError:
        raise ApgmsError(
            "ssh.missing",
            "ssh-keygen is not installed",
            where="PATH of this machine",
            why="approvals are signed and verified with OpenSSH's own tool",
            mend="apt-get install openssh-client  # or dnf install openssh",
        ) from None
    except OSError as error:
        raise ApgmsError(
            "ssh.cannot_run",
            "ssh-keygen could not be run",
            where="this machine",
            why=str(error),
            mend="ulimit -a  # too few processes, files or too little memory are allowed",
        ) from None
    except subprocess.TimeoutExpired:
        raise ApgmsError(
            "ssh.timeout",
            "ssh-keygen did not answer",
            where=f"ssh-keygen {' '.join(arguments)}",
            why=f"nothing after {TIMEOUT_SECONDS} s; an agent or a FIDO key may be waiting",
            mend="ssh-add -l  # then touch the FIDO key when it blinks",
        ) from None


def _lines(values: Iterable[object]) -> bytes:
    return "".join(f"{value}\n" for value in values).encode("ascii")


def _file(path: Path, data: bytes) -> str:
    path.write_bytes(data)
    return str(path)


def _said(done: subprocess.CompletedProcess[bytes]) -> str:
    return " ".join((done.stderr + b" " + done.stdout).decode("utf-8", "replace").split())
