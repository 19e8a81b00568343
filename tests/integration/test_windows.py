# GNU General Public License v3.0+ (see COPYING)
"""Release windows: open, overridden, shut by a rollback and reopened by a corrective dry run."""

from __future__ import annotations

import json
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from ansible_collections.apgms.release.plugins.module_utils.domain.approval.policy import Policy
from ansible_collections.apgms.release.plugins.module_utils.domain.approval.window import Window
from ansible_collections.apgms.release.plugins.module_utils.errors import ApgmsError
from ansible_collections.apgms.release.plugins.module_utils.libraries import psycopg
from ansible_collections.apgms.release.plugins.module_utils.ports.clock import (
    DatabaseClock,
    SystemClock,
)
from ansible_collections.apgms.release.plugins.module_utils.ports.database import connect
from ansible_collections.apgms.release.plugins.module_utils.ports.folder_store import FolderStore
from ansible_collections.apgms.release.plugins.module_utils.ports.object_store import read
from ansible_collections.apgms.release.plugins.module_utils.ports.schema.migrate import migrate
from ansible_collections.apgms.release.plugins.module_utils.usecases.acts.journal import Journal
from ansible_collections.apgms.release.plugins.module_utils.usecases.stack.kill_switch import turn
from ansible_collections.apgms.release.plugins.module_utils.usecases.stack.reopening import (
    Order,
    carry_out,
    predict,
)
from ansible_collections.apgms.release.plugins.module_utils.usecases.stack.windows import (
    close,
    open_closures,
    require_open,
)
from services.keys import make_keys, policy_document, write_policy
from tests.approvals import Desk, make_manifest
from tests.module_process import run_module

SYDNEY = {
    "zone": "Australia/Sydney",
    "calendar": [
        {"name": "evenings", "opens": "18:00", "minutes": 180, "weekdays": ["tue", "wed", "thu"]}
    ],
    "blackouts": [{"first": "2026-12-24", "last": "2026-12-27", "reason": "bank holidays"}],
}
OPEN = datetime(2026, 11, 25, 8, 0, tzinfo=UTC)
"""Wednesday, 19:00 in Sydney."""
WINDOW = "202611251800"
BROKEN = "b" * 40
"""The revision that was rolled back."""
CORRECTED = "c" * 40


@pytest.fixture(scope="module")
def keys_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("keys")


@pytest.fixture
def desk(keys_folder: Path, tmp_path: Path) -> Desk:
    return Desk(make_keys(keys_folder, "prod"), tmp_path)


@pytest.fixture(scope="module")
def migrated(module_database_url: str) -> Iterator[Any]:
    with connect(module_database_url, None, purpose="test") as connection:
        migrate(connection)
        yield connection


@pytest.fixture
def connection(migrated: Any) -> Iterator[Any]:
    with migrated.transaction(force_rollback=True):
        yield migrated


@pytest.fixture
def store(tmp_path: Path) -> FolderStore:
    return FolderStore(tmp_path / "store")


class Site:
    """A stack with a policy of these windows, asked at a time of the test's choosing."""

    def __init__(self, connection: Any, desk: Desk, store: FolderStore) -> None:
        self.connection = connection
        self.desk = desk
        self.store = store
        self.policy: Policy = desk.policy(windows=SYDNEY)

    def ask(self, now: datetime = OPEN, window: str | None = WINDOW, **changes: Any) -> Window:
        return require_open(
            self.connection,
            self.policy,
            "prod",
            now,
            window,
            self.desk.statements,
            **{"operator": "operator", **changes},
        )

    def refusal(self, *args: Any, **kwargs: Any) -> ApgmsError:
        with pytest.raises(ApgmsError) as caught:
            self.ask(*args, **kwargs)
        return caught.value

    def override(self, signer: str = "auditor", window: str = WINDOW, **changes: Any) -> Path:
        times = {"not_before": OPEN - timedelta(hours=1), "expires_at": OPEN + timedelta(hours=2)}
        return self.desk.sign("override", signer, {"release_window": window}, **times | changes)

    def close(self, incident: str = "INC-1", revision: str = BROKEN) -> bool:
        journal = Journal(self.connection, self.store, "prod", SystemClock())
        with self.connection.transaction():
            return close(self.connection, journal, "prod", "wrong rates", incident, revision)

    def journal(self) -> list[dict[str, Any]]:
        keys = self.store.keys("journal/")
        return [json.loads(read(self.store, key)) for key in keys]


@pytest.fixture
def site(connection: Any, desk: Desk, store: FolderStore) -> Site:
    return Site(connection, desk, store)


def test_a_window_of_the_calendar_is_open_for_its_minutes(site: Site) -> None:
    window = site.ask()
    assert (window.id, window.name) == (WINDOW, "evenings")
    assert window.closes_at == datetime(2026, 11, 25, 10, 0, tzinfo=UTC)
    assert site.ask(window.opens_at) == site.ask(window.closes_at - timedelta(microseconds=1))
    early = site.refusal(window.opens_at - timedelta(microseconds=1))
    assert early.reason == "window.not_open_yet"
    assert "2026-11-25 18:00 AEDT" in str(early)
    over = site.refusal(window.closes_at)
    assert over.reason == "window.over"
    assert "export RELEASE_WINDOW=202611261800" in str(over)


@pytest.mark.parametrize(
    ("window", "reason"),
    [
        (None, "window.unstated"),
        ("", "window.unstated"),
        ("20261125", "window.malformed"),
        ("202611251801", "window.not_in_calendar"),
        ("202612241800", "window.blackout"),
        ("202611261800", "window.not_open_yet"),
        ("202611241800", "window.over"),
    ],
)
def test_each_window_that_is_not_open(site: Site, window: str | None, reason: str) -> None:
    assert site.refusal(window=window).reason == reason


def test_without_a_window_the_next_one_is_named(site: Site) -> None:
    assert f"export RELEASE_WINDOW={WINDOW}  # evenings" in str(site.refusal(window=None))


class TestOverride:
    """A signed statement opens a window outside the calendar, with a reason, until it expires."""

    now = datetime(2026, 12, 24, 8, 0, tzinfo=UTC)
    window = "202612241800"

    def sign(self, site: Site, **changes: Any) -> Path:
        times = {
            "not_before": self.now - timedelta(minutes=5),
            "expires_at": self.now + timedelta(minutes=30),
            "window": self.window,
            "reason": "the authority asked for it",
        }
        return site.override(**times | changes)

    def test_it_opens_a_blacked_out_window(self, site: Site) -> None:
        assert site.refusal(self.now, self.window).reason == "window.blackout"
        self.sign(site)
        window = site.ask(self.now, self.window)
        assert window.closes_at == self.now + timedelta(minutes=30)
        assert window.name == "override by auditor: the authority asked for it"

    def test_it_opens_a_window_that_is_over_again(self, site: Site) -> None:
        later = OPEN + timedelta(hours=3)
        site.override(not_before=OPEN, expires_at=later + timedelta(minutes=1))
        assert site.ask(later).closes_at == later + timedelta(minutes=1)

    def test_the_calendar_comes_first(self, site: Site) -> None:
        site.override(expires_at=OPEN + timedelta(minutes=1))
        assert site.ask().name == "evenings"

    @pytest.mark.parametrize(
        ("changes", "words"),
        [
            ({"expires_at": now}, "expired"),
            ({"not_before": now + timedelta(seconds=1)}, "valid from"),
            ({"expires_at": now + timedelta(minutes=240)}, "240 minutes"),
            ({"signer": "operator"}, "may sign intent, not override"),
            ({"space": "apgms-intent-prod"}, "namespace"),
        ],
    )
    def test_one_that_does_not_count_says_why(
        self, site: Site, changes: dict[str, Any], words: str
    ) -> None:
        self.sign(site, **changes)
        refusal = site.refusal(self.now, self.window)
        assert refusal.reason == "window.override_refused"
        assert words in str(refusal)

    def test_an_edited_one_does_not_count(self, site: Site) -> None:
        path = self.sign(site, window="202612261800")
        path.write_bytes(path.read_bytes().replace(b"202612261800", self.window.encode()))
        assert site.refusal(self.now, self.window).reason == "window.override_refused"

    def test_the_operator_cannot_override_for_himself(self, site: Site) -> None:
        self.sign(site)
        refusal = site.refusal(self.now, self.window, operator="auditor")
        assert "one person" in str(refusal)

    @pytest.mark.parametrize("changes", [{"window": "202612261800"}, {"stack": "proto"}])
    def test_one_for_something_else_changes_nothing(
        self, site: Site, changes: dict[str, Any]
    ) -> None:
        self.sign(site, **changes)
        assert site.refusal(self.now, self.window).reason == "window.blackout"

    def test_it_does_not_lift_a_closure(self, site: Site) -> None:
        self.sign(site)
        site.close()
        assert site.refusal(self.now, self.window).reason == "window.closed"


def test_a_rollback_shuts_the_window(site: Site) -> None:
    assert site.close()
    refusal = site.refusal()
    assert refusal.reason == "window.closed"
    assert "INC-1" in str(refusal)
    assert "wrong rates" in str(refusal)
    assert not site.close()  # once per incident
    assert [row["event"] for row in site.journal()] == ["window.closed"]


def test_each_stack_has_its_own_window(site: Site) -> None:
    site.close()
    assert open_closures(site.connection, "proto") == []


def test_a_closure_cannot_be_rewritten(site: Site) -> None:
    site.close()
    for statement in (
        "DELETE FROM apgms_release.window_closure",
        "UPDATE apgms_release.window_closure SET stack = 'proto'",
        "UPDATE apgms_release.window_reopening SET purpose = ''",
    ):
        with pytest.raises(psycopg.errors.RaiseException), site.connection.transaction():
            site.connection.execute(statement)


class TestReopening:
    """Only a later, corrective dry run ends a closure; these run at the real time."""

    @pytest.fixture(autouse=True)
    def _shut(self, site: Site) -> None:
        write_policy(
            site.desk.keys, site.desk.folder, policy_document(site.desk.keys, windows=SYDNEY)
        )
        site.close()

    def order(self, site: Site, **changes: Any) -> Order:
        members = {
            "stack": "prod",
            "policy_path": str(site.desk.folder / "policy.json"),
            "statements_dir": site.desk.statements,
            "operator": "operator",
            "source_revision": CORRECTED,
        }
        return Order(**members | changes)

    def prototype(self, site: Site, revision: str = CORRECTED, **changes: Any) -> Path:
        # statements carry whole seconds: the next one is later than the closure
        begins = DatabaseClock(site.connection).now().replace(microsecond=0) + timedelta(seconds=1)
        times = {"not_before": begins, "expires_at": begins + timedelta(hours=1)}
        manifest = make_manifest(source_revision=revision)
        return site.desk.approve_prototype(manifest, **times | changes)

    def refusal(self, site: Site, **changes: Any) -> ApgmsError:
        with pytest.raises(ApgmsError) as caught:
            carry_out(site.connection, site.store, self.order(site, **changes))
        assert open_closures(site.connection, "prod")
        return caught.value

    def test_nothing_else_opens_it(self, site: Site) -> None:
        assert self.refusal(site).reason == "approval.waiting"

    def test_an_approved_prototype_of_the_corrected_revision_opens_it(self, site: Site) -> None:
        self.prototype(site)
        wait_a_second(site)
        predicted = predict(site.connection, site.store, self.order(site))
        assert open_closures(site.connection, "prod")
        assert len(site.journal()) == 1
        done = carry_out(site.connection, site.store, self.order(site))
        assert done == predicted
        assert done.result()["reopened"] == ["INC-1"]
        assert site.ask().id == WINDOW
        assert site.journal()[-1]["event"] == "window.reopened"
        again = carry_out(site.connection, site.store, self.order(site))
        assert again.result() == {"reopened": [], "dry_run": None}

    def test_not_while_the_kill_switch_is_on(self, site: Site) -> None:
        self.prototype(site)
        wait_a_second(site)
        turn(site.connection, "prod", engaged=True, reason="look first", actor="olivia")
        assert self.refusal(site).reason == "kill_switch.on"
        with pytest.raises(ApgmsError, match="olivia set it"):
            predict(site.connection, site.store, self.order(site))
        turn(site.connection, "prod", engaged=False, reason="looked", actor="olivia")
        assert carry_out(site.connection, site.store, self.order(site)).ended

    def test_one_of_the_same_revision_does_not(self, site: Site) -> None:
        self.prototype(site, BROKEN)
        wait_a_second(site)
        refusal = self.refusal(site, source_revision=BROKEN)
        assert refusal.reason == "window.not_corrective"
        assert "the revision that was rolled back" in str(refusal)

    def test_one_approved_before_the_rollback_does_not(self, site: Site) -> None:
        begins = DatabaseClock(site.connection).now() - timedelta(hours=1)
        self.prototype(site, not_before=begins.replace(microsecond=0))
        refusal = self.refusal(site)
        assert refusal.reason == "window.not_corrective"
        assert "was shut at" in str(refusal)

    def test_one_of_another_revision_than_asked_does_not(self, site: Site) -> None:
        self.prototype(site)
        wait_a_second(site)
        assert self.refusal(site, source_revision="d" * 40).reason == "approval.waiting"

    def test_one_closure_that_it_does_not_answer_keeps_it_shut(self, site: Site) -> None:
        self.prototype(site)
        wait_a_second(site)
        site.close("INC-2", CORRECTED)
        refusal = self.refusal(site)
        assert "INC-2" in str(refusal)
        assert [closure.incident_id for closure in open_closures(site.connection, "prod")] == [
            "INC-1",
            "INC-2",
        ]


def wait_a_second(site: Site) -> None:
    """Until the next whole second, when the prototype approval becomes valid."""
    site.connection.execute(
        "SELECT pg_sleep_until(date_trunc('second', clock_timestamp()) + interval '1 s')"
    )


def test_the_module_tells_the_window(database_url: str, desk: Desk, store: FolderStore) -> None:
    path = write_policy(desk.keys, desk.folder, policy_document(desk.keys))
    today = datetime.now(UTC)
    options = {
        "stack": "prod",
        "database_url": database_url,
        "policy": str(path),
        "statements": desk.statements,
        "release_window": f"{today:%Y%m%d}0000",
    }
    result = run_module("release_window", options)
    assert result["window"]["name"] == "any day"
    assert result["window"]["opens_at"] == f"{today:%Y-%m-%d}T00:00:00.000Z"
    refused = run_module("release_window", {**options, "release_window": "202601010000"})
    assert refused["reason"] == "window.over"
    reopen = {"state": "reopened", "source_revision": CORRECTED, "object_store": store.url}
    assert "operator" in run_module("release_window", options | reopen)["msg"]
    reopen["operator"] = "operator"
    nothing = run_module("release_window", options | reopen)
    assert not nothing["changed"]
    assert nothing["diff"]["before"] == nothing["diff"]["after"]
