# GNU General Public License v3.0+ (see COPYING)
"""Every fault of the sandbox, and what is known after it; then the same command again."""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from ansible_collections.apgms.release.plugins.module_utils.domain.release.receipt import (
    verify_receipt,
)
from ansible_collections.apgms.release.plugins.module_utils.errors import ApgmsError
from ansible_collections.apgms.release.plugins.module_utils.ports.gateway import (
    Attempt,
    Disposition,
    GatewayUnavailable,
    State,
    Status,
)
from ansible_collections.apgms.release.plugins.module_utils.ports.gateway_http import (
    HttpGateway,
    open_gateway,
)
from ansible_collections.apgms.release.plugins.module_utils.ports.http import (
    MAX_RETRY_AFTER_SECONDS,
    Limits,
)
from services.gateway.faults import FAULTS
from tests.gateway_process import GatewayProcess
from tests.submissions import Submission, make_submission

_names = itertools.count(1)


@pytest.fixture(scope="module")
def process(tmp_path_factory: pytest.TempPathFactory) -> Iterator[GatewayProcess]:
    process = GatewayProcess(tmp_path_factory.mktemp("gateway")).start()
    yield process
    process.stop()


@pytest.fixture
def port(process: GatewayProcess) -> HttpGateway:
    process.plan()
    return open_gateway(process.url, process.pins, limits=Limits(connect=2, stall=5, answer=1))


@pytest.fixture
def submission() -> Submission:
    return make_submission(f"fault-{next(_names)}")


def _submit(port: HttpGateway, submission: Submission) -> Attempt:
    return port.submit(submission.idempotency_key, submission.body)


def _decided(port: HttpGateway, job_id: str | None) -> Status:
    assert job_id is not None
    for _ in range(500):
        status = port.status(job_id)
        if status.receipt_id:
            return status
        time.sleep(0.01)
    raise AssertionError("the gateway does not decide")


def _accepted(port: HttpGateway, process: GatewayProcess, submission: Submission) -> None:
    """Send again as the release does, and see that this was accepted exactly once."""
    attempt = _submit(port, submission)
    assert attempt.disposition is Disposition.TAKEN
    status = _decided(port, attempt.job_id)
    receipt = port.receipt(str(status.receipt_id))
    verified = verify_receipt(receipt, process.pins.keys, submission.sent, where="receipt")
    assert verified.outcome == "accepted"
    assert process.counters["manifests_taken_more_than_once"] == 0
    assert process.counters["rows_accepted_more_than_once"] == 0


UNKNOWN, NOT_SENT = Disposition.UNKNOWN, Disposition.NOT_SENT
SUBMIT_FAULTS: list[tuple[dict[str, Any], Disposition, bool]] = [
    ({"fault": "reset"}, UNKNOWN, False),
    ({"fault": "reset_mid_upload"}, UNKNOWN, False),
    ({"fault": "lose_response"}, UNKNOWN, True),
    ({"fault": "lose_response", "taken": False}, UNKNOWN, False),
    ({"fault": "html"}, UNKNOWN, True),
    ({"fault": "html", "taken": False}, UNKNOWN, False),
    ({"fault": "nothing"}, UNKNOWN, True),
    ({"fault": "half_body"}, UNKNOWN, True),
    ({"fault": "slow_drip", "seconds": 20}, UNKNOWN, True),
    ({"fault": "slow_drip", "seconds": 0.2}, Disposition.TAKEN, True),
    ({"fault": "redirect"}, UNKNOWN, True),
    ({"fault": "redirect", "taken": False}, UNKNOWN, False),
    ({"fault": "retry_later", "status": 429, "taken": False}, UNKNOWN, False),
    ({"fault": "retry_later", "status": 503, "taken": True}, UNKNOWN, True),
    ({"fault": "retry_later", "status": 500, "taken": True}, UNKNOWN, True),
    ({"fault": "retry_later", "status": 408, "taken": False}, UNKNOWN, False),
    ({"fault": "foreign_acknowledgement"}, UNKNOWN, True),
    ({"fault": "already_running"}, Disposition.RUNNING, False),
    ({"fault": "key_reused"}, Disposition.REFUSED, False),
    ({"fault": "duplicate_without_pointer"}, Disposition.DUPLICATE, False),
]


@pytest.mark.parametrize(
    ("fault", "expected", "taken"), SUBMIT_FAULTS, ids=[str(case[0]) for case in SUBMIT_FAULTS]
)
def test_after_a_fault_of_the_submission_what_is_known_is_true(
    process: GatewayProcess,
    port: HttpGateway,
    submission: Submission,
    fault: dict[str, Any],
    expected: Disposition,
    taken: bool,
) -> None:
    process.plan({"point": "submit", **fault})

    attempt = _submit(port, submission)

    assert attempt.disposition is expected
    assert process.fired == [f"submit:{fault['fault']}"]
    found = port.lookup(manifest_sha256=submission.manifest.checksum)
    assert (found is not None) == taken
    _accepted(port, process, submission)


def test_the_table_covers_every_fault_of_the_submission() -> None:
    assert {case[0]["fault"] for case in SUBMIT_FAULTS} == set(FAULTS["submit"])


def test_a_refused_connection_sends_nothing_or_is_unknown(
    process: GatewayProcess, port: HttpGateway, submission: Submission
) -> None:
    process.plan({"point": "connect", "fault": "refuse"})

    assert _submit(port, submission).disposition in (NOT_SENT, UNKNOWN)
    _accepted(port, process, submission)


def test_a_gateway_that_is_down_gets_nothing_sent(
    process: GatewayProcess, port: HttpGateway, submission: Submission
) -> None:
    process.kill()
    try:
        attempt = _submit(port, submission)
        with pytest.raises(GatewayUnavailable) as caught:
            port.identity()
    finally:
        process.start()

    assert attempt.disposition is NOT_SENT
    assert caught.value.reason == "gateway.unreachable"
    _accepted(port, process, submission)


@pytest.mark.parametrize(
    ("retry_after", "least", "most"),
    [
        ("seconds", 1, 1),
        ("date", 0.5, 3),
        ("past", 0, 0),
        ("huge", MAX_RETRY_AFTER_SECONDS, MAX_RETRY_AFTER_SECONDS),
    ],
)
def test_the_pace_asked_for_is_honoured_within_bounds(
    process: GatewayProcess,
    port: HttpGateway,
    submission: Submission,
    retry_after: str,
    least: float,
    most: float,
) -> None:
    fault = {"fault": "retry_later", "status": 429, "retry_after": retry_after, "taken": False}
    process.plan({"point": "submit", **fault}, {"point": "lookup", **fault})

    attempt = _submit(port, submission)
    with pytest.raises(GatewayUnavailable) as caught:
        port.lookup(idempotency_key=submission.idempotency_key)

    assert attempt.retry_after_seconds is not None
    assert least <= attempt.retry_after_seconds <= most
    assert caught.value.retry_after_seconds is not None
    assert least <= caught.value.retry_after_seconds <= most


@pytest.mark.parametrize("retry_after", ["garbage", "none"])
def test_an_unreadable_pace_is_no_pace(
    process: GatewayProcess, port: HttpGateway, submission: Submission, retry_after: str
) -> None:
    process.plan({"point": "submit", "fault": "retry_later", "retry_after": retry_after})

    assert _submit(port, submission).retry_after_seconds is None


QUESTION_FAULTS = {
    "reset": "gateway.unreachable",
    "lose_response": "gateway.unreachable",
    "half_body": "gateway.unreachable",
    "html": "gateway.malformed_answer",
    "nothing": "gateway.malformed_answer",
    "redirect": "gateway.redirected",
    "retry_later": "gateway.busy",
}


@pytest.mark.parametrize("point", ["identity", "lookup", "status", "receipt"])
@pytest.mark.parametrize(("fault", "reason"), QUESTION_FAULTS.items())
def test_a_question_without_a_reliable_answer_may_be_asked_again(
    process: GatewayProcess, port: HttpGateway, point: str, fault: str, reason: str
) -> None:
    job_id, receipt_id = _known(process, port)
    ask: Callable[[], object] = {
        "identity": port.identity,
        "lookup": lambda: port.lookup(manifest_sha256=make_submission("known").manifest.checksum),
        "status": lambda: port.status(job_id),
        "receipt": lambda: port.receipt(receipt_id),
    }[point]
    process.plan({"point": point, "fault": fault})

    with pytest.raises(GatewayUnavailable) as caught:
        ask()

    assert caught.value.reason == reason
    assert ask()


def test_an_answer_that_drips_too_slowly_is_no_answer(
    process: GatewayProcess, port: HttpGateway
) -> None:
    process.plan({"point": "identity", "fault": "slow_drip", "seconds": 20})

    with pytest.raises(GatewayUnavailable) as caught:
        port.identity()

    assert caught.value.reason == "gateway.unreachable"


def _known(process: GatewayProcess, port: HttpGateway) -> tuple[str, str]:
    process.plan()
    status = _decided(port, _submit(port, make_submission("known")).job_id)
    return status.job_id, str(status.receipt_id)


def test_a_late_acknowledgement_leaves_the_state_open(
    process: GatewayProcess, port: HttpGateway, submission: Submission
) -> None:
    job_id = _decided(port, _submit(port, submission).job_id).job_id
    process.plan(
        {"point": "status", "fault": "still_running"}, {"point": "lookup", "fault": "still_running"}
    )

    late = port.status(job_id)
    looked_up = port.lookup(manifest_sha256=submission.manifest.checksum)

    assert (late.state, late.state.final, late.receipt_id) == (State.RUNNING, False, None)
    assert looked_up is not None
    assert not looked_up.state.final
    assert port.status(job_id).state is State.ACCEPTED


@pytest.mark.parametrize("point", ["status", "lookup"])
def test_accepted_then_rejected_names_no_receipt_for_the_acceptance(
    process: GatewayProcess, port: HttpGateway, submission: Submission, point: str
) -> None:
    process.plan({"point": "decide", "fault": "reject_all"})
    job_id = _decided(port, _submit(port, submission).job_id).job_id
    process.plan({"point": point, "fault": "accepted_early"})

    early = port.status(job_id) if point == "status" else _look(port, submission)
    final = port.status(job_id)

    assert early is not None
    assert (early.state, early.receipt_id) == (State.ACCEPTED, None)
    assert (final.state, final.accepted_count) == (State.REJECTED, 0)
    assert final.receipt_id is not None


def _look(port: HttpGateway, submission: Submission) -> Status | None:
    return port.lookup(idempotency_key=submission.idempotency_key)


def test_not_found_then_accepted_is_taken_once(
    process: GatewayProcess, port: HttpGateway, submission: Submission
) -> None:
    process.plan(
        {"point": "submit", "fault": "lose_response"}, {"point": "lookup", "fault": "not_found"}
    )

    attempt = _submit(port, submission)

    assert attempt.disposition is UNKNOWN
    assert _look(port, submission) is None
    assert _look(port, submission) is not None
    _accepted(port, process, submission)


def test_a_job_or_receipt_that_is_not_found_may_be_asked_for_again(
    process: GatewayProcess, port: HttpGateway
) -> None:
    job_id, receipt_id = _known(process, port)
    process.plan(
        {"point": "status", "fault": "not_found"}, {"point": "receipt", "fault": "not_found"}
    )

    with pytest.raises(GatewayUnavailable) as job:
        port.status(job_id)
    with pytest.raises(GatewayUnavailable) as receipt:
        port.receipt(receipt_id)

    assert (job.value.reason, receipt.value.reason) == (
        "gateway.unknown_job",
        "gateway.not_issued",
    )
    assert port.receipt(receipt_id)


@pytest.mark.parametrize(
    ("fault", "reason"),
    [
        ("replayed_receipt", "receipt.other_submission"),
        ("foreign_receipt", "receipt.unpinned_key"),
        ("forged_receipt", "receipt.bad_signature"),
        ("altered_receipt", "receipt.bad_signature"),
    ],
)
def test_a_receipt_that_proves_nothing_is_refused(
    process: GatewayProcess, port: HttpGateway, submission: Submission, fault: str, reason: str
) -> None:
    _known(process, port)
    receipt_id = str(_decided(port, _submit(port, submission).job_id).receipt_id)
    process.plan({"point": "receipt", "fault": fault})

    with pytest.raises(ApgmsError) as caught:
        _verified(process, port, receipt_id, submission)

    assert caught.value.reason == reason
    assert _verified(process, port, receipt_id, submission)


def _verified(
    process: GatewayProcess, port: HttpGateway, receipt_id: str, submission: Submission
) -> str:
    data = port.receipt(receipt_id)
    return verify_receipt(data, process.pins.keys, submission.sent, where="receipt").receipt_id


def test_a_duplicate_acknowledgement_says_the_same_in_other_bytes(
    process: GatewayProcess, port: HttpGateway, submission: Submission
) -> None:
    receipt_id = str(_decided(port, _submit(port, submission).job_id).receipt_id)
    process.plan({"point": "receipt", "fault": "duplicate_receipt"})

    again, first = port.receipt(receipt_id), port.receipt(receipt_id)

    assert again != first
    assert [
        verify_receipt(data, process.pins.keys, submission.sent, where="receipt").receipt_id
        for data in (again, first)
    ] == [receipt_id, receipt_id]


def test_partial_acceptance_lists_what_was_rejected(
    process: GatewayProcess, port: HttpGateway, submission: Submission
) -> None:
    process.plan({"point": "decide", "fault": "reject_rows", "rows": 2})

    status = _decided(port, _submit(port, submission).job_id)
    data = port.receipt(str(status.receipt_id))
    receipt = verify_receipt(data, process.pins.keys, submission.sent, where="receipt")

    assert status.state is State.PARTIALLY_ACCEPTED
    assert receipt.rejections == status.rejections
    assert [(row.tax_type, row.rpt_id, row.amount_cents) for row in receipt.rejections] == [
        ("GST", "1", 1000),
        ("GST", "2", 1001),
    ]
    assert (receipt.accepted_count, receipt.accepted_cents) == (4, 4005)


def test_rejections_come_in_pages(process: GatewayProcess, port: HttpGateway) -> None:
    process.plan({"point": "decide", "fault": "reject_rows", "rows": 250})
    submission = make_submission(f"paged-{next(_names)}", rows=200)

    page = _decided(port, _submit(port, submission).job_id)
    pages = [page]
    while page.next_rejection:
        page = port.status(page.job_id, page.next_rejection)
        pages.append(page)

    assert [len(page.rejections) for page in pages] == [100, 100, 50]
    assert len({(r.tax_type, r.rpt_id) for page in pages for r in page.rejections}) == 250


@pytest.mark.parametrize("point", ["status", "lookup"])
def test_the_status_of_another_submission_is_no_answer(
    process: GatewayProcess, port: HttpGateway, submission: Submission, point: str
) -> None:
    job_id = _decided(port, _submit(port, submission).job_id).job_id
    process.plan({"point": point, "fault": "foreign_acknowledgement"})

    with pytest.raises(GatewayUnavailable) as caught:
        port.status(job_id) if point == "status" else _look(port, submission)

    assert caught.value.reason == "gateway.malformed_answer"


@pytest.mark.parametrize("seed", range(8))
def test_the_same_bytes_under_the_same_key_get_through_any_faults_once(
    process: GatewayProcess, port: HttpGateway, submission: Submission, seed: int
) -> None:
    process.plan_seed(seed, 0.6)

    verified = None
    for _ in range(200):
        try:
            verified = verified or _try_once(process, port, submission)
        except ApgmsError:
            continue

    fired = process.fired
    process.plan()
    assert verified, f"seed {seed}: {fired}"
    assert fired
    assert process.counters["manifests_taken_more_than_once"] == 0
    assert process.counters["rows_accepted_more_than_once"] == 0


def _try_once(process: GatewayProcess, port: HttpGateway, submission: Submission) -> str | None:
    found = port.lookup(manifest_sha256=submission.manifest.checksum)
    if found is None:
        _submit(port, submission)
    elif found.receipt_id:
        return _verified(process, port, found.receipt_id, submission)
    return None


def test_the_same_seed_brings_the_same_faults(process: GatewayProcess, port: HttpGateway) -> None:
    schedules = []
    for seed in (7, 7, 8):
        process.plan_seed(seed, 0.5, ["lookup"])
        for _ in range(20):
            try:
                port.lookup(idempotency_key="no-such-key-1234")
            except GatewayUnavailable:
                continue
        schedules.append(process.fired)

    assert schedules[0] == schedules[1] != schedules[2]
    assert schedules[0]
