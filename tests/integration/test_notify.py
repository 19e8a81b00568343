"""Notices: queued once, delivered at least once, to the webhook of their topic."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest

from ansible_collections.apgms.release.plugins.module_utils.errors import ApgmsError
from ansible_collections.apgms.release.plugins.module_utils.ports.database import connect
from ansible_collections.apgms.release.plugins.module_utils.ports.schema.migrate import migrate
from ansible_collections.apgms.release.plugins.module_utils.ports.webhook import open_webhook
from ansible_collections.apgms.release.plugins.module_utils.usecases.acts.outbox import queue
from tests.module_process import run_module

CHECKSUM = "ab" * 32


class Receiver:
    """A webhook of its own thread that remembers what it took."""

    def __init__(self) -> None:
        self.status = 204
        self.taken: list[tuple[dict[str, str], dict[str, Any]]] = []
        receiver = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["Content-Length"]))
                if receiver.status < 300:
                    receiver.taken.append((dict(self.headers), json.loads(body)))
                self.send_response(receiver.status)
                if receiver.status == 302:
                    self.send_header("Location", receiver.url + "elsewhere")
                self.send_header("Content-Length", "0")
                self.end_headers()

            def log_message(self, *_arguments: Any) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self._server.server_port}/hook"
        threading.Thread(target=self._server.serve_forever, daemon=True).start()

    def stop(self) -> None:
        self._server.shutdown()
        self._server.server_close()


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    receiver = Receiver()
    yield receiver
    receiver.stop()


@pytest.fixture
def queued(database_url: str) -> str:
    """A database with a notice of a rollback and one of its incident."""
    with connect(database_url, None, purpose="test") as connection:
        migrate(connection)
        for topic in ("rollback", "incident"):
            with connection.transaction():
                assert queue(connection, f"{topic}/one", topic, {"incident": {"reason": "ü"}})
                assert not queue(connection, f"{topic}/one", topic, {"incident": {}})
    return database_url


def deliver(database_url: str, *, check: bool = False, **options: Any) -> dict[str, Any]:
    everything = {"stack": "prod", "database_url": database_url, **options}
    return run_module("outbox_deliver", everything, check=check)


def test_notices_go_to_the_webhook_of_their_topic_once(queued: str, receiver: Receiver) -> None:
    first = deliver(queued, webhook_url=receiver.url, webhook_token="hush-hush")
    assert first["changed"]
    assert (first["delivered"], first["waiting"]) == (["rollback/one"], ["incident/one"])
    assert "hush-hush" not in json.dumps(first)
    ((headers, document),) = receiver.taken
    assert headers["Idempotency-Key"] == document["notice_id"] == "rollback/one"
    assert headers["Authorization"] == "Bearer hush-hush"
    assert document["incident"] == {"reason": "ü"}
    again = deliver(queued, webhook_url=receiver.url)
    assert not again["changed"]
    second = deliver(queued, webhook_url=receiver.url, tracker_url=receiver.url)
    assert second["delivered"] == ["incident/one"]
    assert len(receiver.taken) == 2


def test_without_webhooks_notices_stay_queued(queued: str) -> None:
    result = deliver(queued)
    assert (result["changed"], result["delivered"]) == (False, [])
    assert sorted(result["waiting"]) == ["incident/one", "rollback/one"]


def test_check_mode_sends_nothing_and_predicts(queued: str, receiver: Receiver) -> None:
    planned = deliver(queued, check=True, webhook_url=receiver.url)
    assert receiver.taken == []
    done = deliver(queued, webhook_url=receiver.url)
    assert {**planned, "invocation": 0} == {**done, "invocation": 0}


@pytest.mark.parametrize("status", [302, 400, 500])
def test_a_notice_that_is_not_taken_stays_queued_and_fails(
    queued: str, receiver: Receiver, status: int
) -> None:
    receiver.status = status
    result = deliver(queued, webhook_url=receiver.url)
    assert result["failed"]
    assert result["not_taken"] == {"rollback/one": f"HTTP {status}"}
    assert f"HTTP {status}" in result["msg"]
    receiver.status = 200
    assert deliver(queued, webhook_url=receiver.url)["delivered"] == ["rollback/one"]


def test_an_unreachable_webhook_is_told(queued: str) -> None:
    result = deliver(queued, webhook_url="http://127.0.0.1:1/hook")
    assert "refused" in result["msg"]


def test_the_notice_of_a_release_is_queued_once(database_url: str, receiver: Receiver) -> None:
    with connect(database_url, None, purpose="test") as connection:
        migrate(connection)
        connection.execute("SET session_replication_role = replica")
        connection.execute(
            "INSERT INTO apgms_release.release (manifest_sha256, submission_id, idempotency_key,"
            " state, why, endpoint, body_sha256, operator, intent_at, changed_at, attempts,"
            " journal_seq)"
            " VALUES (%s, 's', 'k', 'ACKNOWLEDGED', '', '', '', 'operator', now(), now(), 1, 1)",
            [CHECKSUM],
        )
    options = {"webhook_url": receiver.url, "manifest_sha256": CHECKSUM}
    assert deliver(database_url, **options)["delivered"] == [f"release/{CHECKSUM}"]
    assert not deliver(database_url, **options)["changed"]
    assert receiver.taken[0][1]["state"] == "ACKNOWLEDGED"
    unknown = deliver(database_url, webhook_url=receiver.url, manifest_sha256="cd" * 32)
    assert not unknown["changed"]


@pytest.mark.parametrize(
    "url",
    ["http://example.org/hook", "ftp://example.org", "https://user:secret@example.org/", "nothing"],
)
def test_addresses_that_are_not_safe_are_refused_without_being_shown(url: str) -> None:
    with pytest.raises(ApgmsError) as error:
        open_webhook(url)
    assert error.value.reason == "notify.malformed_url"
    assert "secret" not in str(error.value)
