# GNU General Public License v3.0+ (see COPYING)
"""The smoke test of the prototype stack: every part is asked once, and nothing is changed."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Generic, TypeVar

from ...domain.approval.policy import Policy
from ...domain.formats.site_rules import SiteRule, apply_site_rules
from ...errors import ApgmsError
from ...libraries import ed25519
from ...ports.database import rehearsal
from ...ports.gateway import Gateway
from ...ports.object_store import ObjectStore
from ..approvals.policy import load_policy
from .seed import require_proto
from .smoke_probes import (
    Finding,
    probe_bas_labels,
    probe_chain,
    probe_database,
    probe_gateway,
    probe_object_store,
    probe_rates,
    probe_token,
)

if TYPE_CHECKING:
    from ...ports.database import Connection

SCHEMA = "apgms.release/smoke/1"
T = TypeVar("T")


@dataclass(frozen=True)
class SmokePorts:
    """How each part is reached; opening one is part of its probe."""

    database: Callable[[], AbstractContextManager[Connection]]
    store: Callable[[], ObjectStore]
    gateway: Callable[[Policy], Gateway]
    rpt_key: Callable[[], ed25519.Ed25519PrivateKey]


@dataclass(frozen=True)
class SmokeRequest:
    """What is asked for."""

    stack: str
    period_ids: Sequence[str]
    rates_dir: Path
    policy: str
    """Path of the policy."""
    site_rules: Sequence[SiteRule]


def run_smoke(ports: SmokePorts, request: SmokeRequest) -> dict[str, Any]:
    """Return the result: ``summary.status`` is ``pass`` exactly when every probe passes.

    A part that cannot be reached fails its probes; it does not end the test.

    :raises ApgmsError: ``seed.stack``, ``site_rules.malformed``
    """
    require_proto(request.stack)
    with ExitStack() as opened:
        probes = _own_probes(ports, request, opened)
    result = _result(request, probes)
    if request.site_rules:
        result = _result(request, probes + _site_probes(request.site_rules, result))
    return result


def _own_probes(
    ports: SmokePorts, request: SmokeRequest, opened: ExitStack
) -> list[dict[str, Any]]:
    database = _Once(lambda: opened.enter_context(ports.database()))
    policy = _Once(lambda: _policy(database.get(), request))
    store = _Once(ports.store)
    questions: dict[str, Callable[[], Finding]] = {
        "database": lambda: probe_database(database.get()),
        "object_store": lambda: probe_object_store(store.get()),
        "gateway": lambda: probe_gateway(ports.gateway(policy.get()), policy.get()),
        "rates": lambda: probe_rates(store.get(), request.rates_dir, request.period_ids),
        "chain": lambda: probe_chain(database.get()),
        "token": lambda: probe_token(ports.rpt_key(), policy.get()),
        "bas_labels": lambda: probe_bas_labels(
            database.get(), request.rates_dir, request.period_ids
        ),
    }
    return [_probe(name, question) for name, question in questions.items()]


def _policy(connection: Connection, request: SmokeRequest) -> Policy:
    with rehearsal(connection):
        return load_policy(connection, request.policy, request.stack)


def _probe(name: str, question: Callable[[], Finding]) -> dict[str, Any]:
    try:
        finding = question()
    except ApgmsError as error:
        finding = Finding("an answer", f"{error.reason}: {error}", False)
    return {
        "name": name,
        "expected": finding.expected,
        "found": finding.found,
        "status": "pass" if finding.holds else "fail",
    }


def _site_probes(rules: Sequence[SiteRule], result: dict[str, Any]) -> list[dict[str, Any]]:
    return [
        _probe(
            f"site: {verdict.rule.name}",
            lambda verdict=verdict: Finding(  # type: ignore[misc]
                f"{verdict.rule.expression} is true", verdict.found, verdict.holds
            ),
        )
        for verdict in apply_site_rules(rules, result, "smoke_site_rules")
    ]


def _result(request: SmokeRequest, probes: list[dict[str, Any]]) -> dict[str, Any]:
    failed = [probe["name"] for probe in probes if probe["status"] == "fail"]
    return {
        "schema": SCHEMA,
        "stack": request.stack,
        "periods": list(request.period_ids),
        "summary": {
            "status": "fail" if failed else "pass",
            "passed": len(probes) - len(failed),
            "failed": failed,
        },
        "probes": probes,
    }


class _Once(Generic[T]):
    """Something that is opened at its first use; where that fails, it fails each time alike."""

    def __init__(self, make: Callable[[], T]) -> None:
        self._make = make
        self._made: list[T] = []
        self._error: ApgmsError | None = None

    def get(self) -> T:
        if self._error:
            raise self._error
        if not self._made:
            try:
                self._made.append(self._make())
            except ApgmsError as error:
                self._error = error
                raise
        return self._made[0]
