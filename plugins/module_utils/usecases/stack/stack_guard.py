# GNU General Public License v3.0+ (see COPYING)
"""The first step of every playbook: the right inventory, complete, and flags that all agree."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from pathlib import Path

from ...domain.approval.flags import (
    Configuration,
    Inventory,
    Setting,
    from_env_file,
    from_environment,
    from_variables,
    resolve,
)
from ...errors import ApgmsError
from ...ports.files import read_regular

MAX_BYTES = 1 << 20

_PLACEHOLDER = re.compile(r"\s*|\s*<[^<>]*>\s*|change[-_ ]?me", re.IGNORECASE)


def guard(
    inventory: Inventory,
    purpose: str,
    *,
    groups: Iterable[str],
    required: Mapping[str, object],
    variables: Mapping[str, object],
    environment: Mapping[str, object],
    env_file: str | None,
) -> tuple[Configuration, list[Setting]]:
    """Return the configuration of the run, and what the places besides the inventory stated.

    :param groups: the inventory groups of the host
    :param required: inventory variables that the run needs, with their values
    :param env_file: a dotenv file, which need not exist
    :raises ApgmsError: ``stack.wrong_inventory``, ``inventory.unset``, ``env_file.unreadable``, and
        those of :func:`..domain.flags.resolve`
    """
    _require_own_inventory(inventory.stack, groups)
    _require_values(required, inventory.file)
    settings = [
        *from_variables(variables),
        *from_environment(environment),
        *_from_file(env_file),
    ]
    return resolve(inventory, purpose, settings), settings


def _require_own_inventory(stack: str, groups: Iterable[str]) -> None:
    other = {"proto": "prod", "prod": "proto"}[stack]
    if other in groups:
        raise ApgmsError(
            "stack.wrong_inventory",
            f"This is a run for {stack} with the inventory of {other}",
            where="the -i option, or the inventory of the AWX job template",
            why=f"the host is in the group {other}, but apgms_stack says {stack}",
            mend=f"ansible-playbook -i inventories/{stack} ...",
        )


def _require_values(required: Mapping[str, object], file: str) -> None:
    unset = [name for name, value in required.items() if _is_unset(value)]
    if unset:
        raise ApgmsError(
            "inventory.unset",
            "The inventory is not filled in",
            where=file,
            why=f"without a value: {', '.join(unset)}",
            mend=f"set them in {file}; docs/inventory.md explains each",
            unset=unset,
        )


def _is_unset(value: object) -> bool:
    if isinstance(value, str):
        return _PLACEHOLDER.fullmatch(value) is not None
    return value is None or value == [] or value == {}


def _from_file(path: str | None) -> list[Setting]:
    if path is None:
        return []
    try:
        text = read_regular(Path(path), MAX_BYTES).decode()
    except FileNotFoundError:
        return []
    except (OSError, UnicodeDecodeError) as error:
        raise ApgmsError(
            "env_file.unreadable",
            "The environment file cannot be read",
            where=path,
            why=str(error),
            mend=f"make {path} a readable text file in UTF-8, or delete it",
        ) from None
    return from_env_file(path, text)
