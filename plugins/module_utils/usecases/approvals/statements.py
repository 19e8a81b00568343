# GNU General Public License v3.0+ (see COPYING)
"""The folder of signed statements in the inventory: ``NAME.json`` with ``NAME.json.sig``."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

from ...domain.approval.ssh_signature import Refusal
from ...domain.approval.statement import Signed, Statement, parse_statement, refused
from ...errors import ApgmsError
from ...ports.files import mend_reading, read_regular

MAX_BYTES = 1 << 16


def read_statements(folder: str) -> tuple[list[Signed], list[Refusal]]:
    """Return the statements in ``folder``, and why its other ``.json`` files are none.

    :raises ApgmsError: ``statement.no_folder``
    """
    found: list[Signed] = []
    refusals: list[Refusal] = []
    for path in _json_files(Path(folder)):
        try:
            found.append(_read(path))
        except Refusal as error:
            refusals.append(error)
    return found, refusals


def file_name(statement: Statement) -> str:
    """Return the name of a statement's file; its signature has ``.sig`` after it."""
    return f"{statement.kind}-{statement.nonce[:12]}-{statement.signer}.json"


def write_statement(folder: str, signed: Signed) -> str:
    """Write a statement and its signature; return the path of the statement.

    The signature is written first: a statement without one is never seen.

    :raises ApgmsError: ``statement.cannot_write``
    """
    path = Path(folder) / file_name(signed.statement)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        _replace(path.with_name(f"{path.name}.sig"), signed.signature)
        _replace(path, signed.data)
    except OSError as error:
        raise ApgmsError(
            "statement.cannot_write",
            "The signed statement cannot be written",
            where=str(path),
            why=error.strerror or str(error),
            mend=f"make {folder} writable, or set apgms_statements to a folder that is",
        ) from None
    return str(path)


def _json_files(folder: Path) -> list[Path]:
    try:
        return sorted(path for path in folder.iterdir() if path.suffix == ".json")
    except FileNotFoundError:
        return []
    except OSError as error:
        raise ApgmsError(
            "statement.no_folder",
            "The folder of signed statements cannot be read",
            where=str(folder),
            why=error.strerror or str(error),
            mend=mend_reading(
                folder, error, "set apgms_statements to the folder of signed statements"
            ),
        ) from None


def _read(path: Path) -> Signed:
    try:
        data = read_regular(path, MAX_BYTES)
    except OSError as error:
        raise refused("malformed", str(path), error.strerror or str(error)) from None
    statement = parse_statement(data, str(path))
    beside = path.with_name(f"{path.name}.sig")
    try:
        return Signed(statement, data, read_regular(beside, MAX_BYTES), str(path))
    except OSError as error:
        raise refused("unsigned", str(beside), error.strerror or str(error)) from None


def _replace(path: Path, data: bytes) -> None:
    descriptor, name = tempfile.mkstemp(dir=path.parent, prefix=".statement-")
    with os.fdopen(descriptor, "wb") as file:
        file.write(data)
    Path(name).chmod(0o644)
    Path(name).replace(path)
