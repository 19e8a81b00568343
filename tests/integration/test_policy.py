# GNU General Public License v3.0+ (see COPYING)
"""The policy in force: first use, succession, and every way to get another one accepted."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from ansible_collections.apgms.release.plugins.module_utils.errors import ApgmsError
from ansible_collections.apgms.release.plugins.module_utils.ports.database import connect
from ansible_collections.apgms.release.plugins.module_utils.usecases.policy import (
    load_policy,
    pin_policy,
)

from services.keys import Keys, make_keys, policy_document, write_policy


@pytest.fixture(scope="module")
def keys(tmp_path_factory: pytest.TempPathFactory) -> Keys:
    return make_keys(tmp_path_factory.mktemp("keys"), "prod")


@pytest.fixture
def connection(database_url: str) -> Iterator[Any]:
    with connect(database_url, None, purpose="test") as connection:
        yield connection


@pytest.fixture
def write(keys: Keys, tmp_path: Path) -> Callable[..., str]:
    """Write a policy with changes to its members, signed by ``signers``; return its path."""

    def write(signers: tuple[str, ...] | None = None, **changes: Any) -> str:
        return str(write_policy(keys, tmp_path, policy_document(keys, **changes), signers))

    return write


def refusal(connection: Any, path: str, stack: str = "prod") -> ApgmsError:
    with pytest.raises(ApgmsError) as error:
        load_policy(connection, path, stack)
    return error.value


def test_first_use_pins_version_and_digest(connection: Any, write: Callable[..., str]) -> None:
    first = pin_policy(connection, write(), "prod")
    again = pin_policy(connection, write(), "prod")
    assert first.before is None
    assert first.signers == ("approver", "auditor")
    assert again.before is not None
    assert again.before.digest == first.policy.digest == again.policy.digest


def test_pinned_policy_needs_no_signature_files_any_more(
    connection: Any, write: Callable[..., str]
) -> None:
    load_policy(connection, write(), "prod")
    assert load_policy(connection, write(signers=()), "prod").version == 1


def test_first_policy_must_be_signed_by_its_own_quorum(
    connection: Any, write: Callable[..., str]
) -> None:
    error = refusal(connection, write(signers=("auditor",)))
    assert error.reason == "policy.unsigned"
    assert "1 of 2 persons" in str(error)


def test_successor_signed_by_the_quorum_before_it_takes_over(
    connection: Any, write: Callable[..., str]
) -> None:
    first = load_policy(connection, write(), "prod")
    second = pin_policy(connection, write(version=2, previous=first.digest), "prod")
    assert second.before is not None
    assert (second.before.version, second.policy.version) == (1, 2)
