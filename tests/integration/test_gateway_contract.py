# GNU General Public License v3.0+ (see COPYING)
"""The OpenAPI document and the running sandbox say the same."""

from __future__ import annotations

import base64
import itertools
import json
import time
from collections.abc import Iterator
from typing import Any

import pytest
import requests
import schemathesis
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from openapi_schema_validator import OAS31Validator
from openapi_spec_validator import validate

from tests.conftest import ROOT
from tests.gateway_process import GatewayProcess
from tests.submissions import Submission, make_submission

DOCUMENT = ROOT / "docs" / "gateway.openapi.yaml"
schema = schemathesis.openapi.from_path(DOCUMENT)
_numbers = itertools.count(1)
_made: dict[bytes, Submission] = {}


def _a_body() -> bytes:
    submission = make_submission(f"contract-{next(_numbers)}", rows=1)
    body = b"".join(submission.body.chunks())
    _made[body] = submission
    return body


@schemathesis.serializer("application/x-ndjson")
def _as_it_is(_context: Any, value: Any) -> bytes:
    return value if isinstance(value, bytes) else str(value).encode()


schemathesis.openapi.media_type("application/x-ndjson", st.builds(_a_body))


@pytest.fixture(scope="module")
def process(tmp_path_factory: pytest.TempPathFactory) -> Iterator[GatewayProcess]:
    process = GatewayProcess(tmp_path_factory.mktemp("gateway")).start()
    yield process
    process.stop()


def test_the_document_is_valid_openapi() -> None:
    validate(schema.raw_schema)


@schema.parametrize()
@settings(max_examples=25, deadline=None, suppress_health_check=list(HealthCheck), derandomize=True)
def test_whatever_is_asked_the_answer_is_one_of_the_contract(
    process: GatewayProcess, case: Any
) -> None:
    submission = _made.get(case.body) if isinstance(case.body, bytes) else None
    if submission is not None and case.meta.generation.mode.is_positive:
        case.headers.update(submission.headers)
    # a schema cannot say "exactly one of two query parameters"
    loose = [schemathesis.checks.CHECKS.get_one("positive_data_acceptance")]
    case.call_and_validate(
        base_url=process.url,
        excluded_checks=loose if case.operation.label == "GET /v1/submissions" else [],
    )


def test_among_them_were_submissions_that_it_took(process: GatewayProcess) -> None:
    assert process.counters["accepted_submissions"] > 0


def test_each_answer_of_a_submission_is_one_of_the_contract(process: GatewayProcess) -> None:
    process.plan({"point": "decide", "fault": "reject_rows"})
    submission = make_submission("contract-flow")

    taken = _post(process, submission)
    job_id = taken.json()["job_id"]
    status = _decided(process, job_id)
    receipt = requests.get(f"{process.url}/v1/receipts/{status.json()['receipt_id']}", timeout=5)
    lookup = requests.get(
        f"{process.url}/v1/submissions",
        {"manifest_sha256": submission.manifest.checksum},
        timeout=5,
    )

    assert (taken.status_code, status.json()["state"]) == (202, "partially_accepted")
    assert lookup.json() == status.json()
    schema["/v1/submissions"]["POST"].validate_response(taken)
    schema["/v1/submissions"]["GET"].validate_response(lookup)
    schema["/v1/submissions/{job_id}"]["GET"].validate_response(status)
    schema["/v1/receipts/{receipt_id}"]["GET"].validate_response(receipt)
    payload = json.loads(base64.b64decode(receipt.json()["payload"]))
    components = schema.raw_schema["components"]
    OAS31Validator({"$ref": "#/components/schemas/Receipt", "components": components}).validate(
        payload
    )


def _post(process: GatewayProcess, submission: Submission) -> requests.Response:
    return requests.post(
        f"{process.url}/v1/submissions",
        data=b"".join(submission.body.chunks()),
        headers=submission.headers,
        timeout=5,
    )


def _decided(process: GatewayProcess, job_id: str) -> requests.Response:
    for _ in range(500):
        status = requests.get(f"{process.url}/v1/submissions/{job_id}", timeout=5)
        if status.json()["receipt_id"]:
            return status
        time.sleep(0.01)
    raise AssertionError("the gateway does not decide")
