# GNU General Public License v3.0+ (see COPYING)
"""The third-party libraries of the core, all of them, in one place.

A library that is absent does not break the import of the core. Its first use raises an
:class:`ApgmsError` that names the library, the interpreter and the mending command.
"""

from __future__ import annotations

import importlib
import sys
from typing import TYPE_CHECKING, Any

from .errors import ApgmsError

__all__ = [
    "boto3",
    "botocore",
    "cryptography_exceptions",
    "docker",
    "ec",
    "ed25519",
    "hashes",
    "jmespath",
    "psycopg",
    "serialization",
    "sql",
    "x509",
]  # fmt: skip


class _Missing:
    def __init__(self, package: str, error: ImportError) -> None:
        self._package = package
        self._error = error

    def __getattr__(self, name: str) -> Any:
        raise ApgmsError(
            "library.missing",
            f"The Python library {self._package} cannot be imported",
            where=f"{sys.executable} (Python {sys.version.split()[0]})",
            why=str(self._error),
            mend=f"{sys.executable} -m pip install {self._package}",
        ) from self._error


def _load(module: str, package: str | None = None) -> Any:
    try:
        return importlib.import_module(module)
    except ImportError as error:
        return _Missing(package or module, error)


if TYPE_CHECKING:
    import boto3
    import botocore
    import docker
    import jmespath
    import psycopg
    from cryptography import exceptions as cryptography_exceptions
    from cryptography import x509
    from cryptography.hazmat.primitives import hashes, serialization
    from cryptography.hazmat.primitives.asymmetric import ec, ed25519
    from psycopg import sql
else:
    boto3 = _load("boto3")
    botocore = _load("botocore")
    _load("botocore.config")
    _load("botocore.exceptions")
    cryptography_exceptions = _load("cryptography.exceptions", "cryptography")
    docker = _load("docker")
    ec = _load("cryptography.hazmat.primitives.asymmetric.ec", "cryptography")
    ed25519 = _load("cryptography.hazmat.primitives.asymmetric.ed25519", "cryptography")
    hashes = _load("cryptography.hazmat.primitives.hashes", "cryptography")
    serialization = _load("cryptography.hazmat.primitives.serialization", "cryptography")
    x509 = _load("cryptography.x509", "cryptography")
    jmespath = _load("jmespath")
    psycopg = _load("psycopg", "psycopg[binary]")
    sql = _load("psycopg.sql", "psycopg[binary]")
