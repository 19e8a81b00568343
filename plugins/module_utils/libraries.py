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
]


class _Library:
    """Stands for a module that is imported when it is first used: boto3 alone costs 0.3 s."""

    def __init__(self, module: str, *submodules: str, package: str | None = None) -> None:
        self._modules = (module, *submodules)
        self._package = package or module

    def __getattr__(self, name: str) -> Any:
        try:
            module, *_submodules = [importlib.import_module(each) for each in self._modules]
        except ImportError as error:
            raise ApgmsError(
                "library.missing",
                f"The Python library {self._package} cannot be imported",
                where=f"{sys.executable} (Python {sys.version.split()[0]})",
                why=str(error),
                mend=f"{sys.executable} -m pip install {self._package}",
            ) from error
        value = getattr(module, name)
        setattr(self, name, value)
        return value


if TYPE_CHECKING:
    import boto3
    import botocore
    import docker
    import jmespath
    import psycopg
    from cryptography import exceptions as cryptography_exceptions
    from cryptography.hazmat.primitives import hashes, serialization
    from cryptography.hazmat.primitives.asymmetric import ec, ed25519
    from psycopg import sql
else:
    _PRIMITIVES = "cryptography.hazmat.primitives"
    boto3 = _Library("boto3")
    botocore = _Library("botocore", "botocore.config", "botocore.exceptions")
    cryptography_exceptions = _Library("cryptography.exceptions", package="cryptography")
    docker = _Library("docker")
    ec = _Library(f"{_PRIMITIVES}.asymmetric.ec", package="cryptography")
    ed25519 = _Library(f"{_PRIMITIVES}.asymmetric.ed25519", package="cryptography")
    hashes = _Library(f"{_PRIMITIVES}.hashes", package="cryptography")
    serialization = _Library(f"{_PRIMITIVES}.serialization", package="cryptography")
    jmespath = _Library("jmespath")
    psycopg = _Library("psycopg", package="psycopg[binary]")
    sql = _Library("psycopg.sql", package="psycopg[binary]")
