"""Services asked of a real Docker Engine, with containers made from a static busybox."""

from __future__ import annotations

import io
import shutil
import tarfile
import time
import uuid
from collections.abc import Iterator
from typing import Any

import docker
import pytest

from ansible_collections.apgms.release.plugins.module_utils.errors import ApgmsError
from ansible_collections.apgms.release.plugins.module_utils.usecases.stack.services import (
    compose_services,
)

pytestmark = pytest.mark.docker

BUSYBOX = shutil.which("busybox")
PROJECT = f"apgms-test-{uuid.uuid4().hex[:8]}"


@pytest.fixture(scope="module")
def engine() -> Any:
    try:
        client = docker.from_env()
        client.ping()
    except docker.errors.DockerException as error:
        pytest.skip(f"no Docker Engine: {error}")
    if BUSYBOX is None:
        pytest.skip("no static busybox to make an image of (Debian's busybox-static)")
    return client


@pytest.fixture(scope="module")
def image(engine: Any) -> Iterator[str]:
    archive = io.BytesIO()
    with tarfile.open(fileobj=archive, mode="w") as tar:
        tar.add(BUSYBOX, "bin/busybox")
        link = tarfile.TarInfo("bin/sh")
        link.type, link.linkname = tarfile.SYMTYPE, "busybox"
        tar.addfile(link)
    tag = f"{PROJECT}:latest"
    engine.api.import_image_from_data(archive.getvalue(), repository=PROJECT, tag="latest")
    yield tag
    engine.images.remove(tag, force=True)


@pytest.fixture
def start(engine: Any, image: str) -> Iterator[Any]:
    started = []

    def run(service: str, command: str, health: str | None = None) -> Any:
        container = engine.containers.run(
            image, ["/bin/busybox", "sh", "-c", command], detach=True, network_mode="none",
            labels={"com.docker.compose.project": PROJECT, "com.docker.compose.service": service},
            healthcheck=health and {"test": ["CMD", "/bin/busybox", health],
                                    "interval": 200_000_000, "retries": 1},
        )  # fmt: skip
        started.append(container)
        return container

    yield run
    for container in started:
        container.remove(force=True)


def wait_for_health(container: Any, wanted: str) -> None:
    for _attempt in range(100):
        container.reload()
        if container.attrs["State"].get("Health", {}).get("Status") == wanted:
            return
        time.sleep(0.1)
    pytest.fail(f"the container never became {wanted}")


def test_running_services_are_up_and_absent_ones_are_not(start: Any) -> None:
    start("gateway", "busybox sleep 60")
    gateway, postgres = compose_services(PROJECT, ["gateway", "postgres"])
    assert (gateway.up, gateway.state) == (True, "running, no health check")
    assert (postgres.up, postgres.state) == (False, "no container")


def test_a_service_is_up_only_when_its_health_check_passes(start: Any) -> None:
    wait_for_health(start("well", "busybox sleep 60", health="true"), "healthy")
    wait_for_health(start("ill", "busybox sleep 60", health="false"), "unhealthy")
    assert [service.up for service in compose_services(PROJECT, ["well", "ill"])] == [True, False]


def test_one_stopped_replica_is_enough_to_be_down(start: Any) -> None:
    start("worker", "busybox sleep 60")
    start("worker", "exit 3").wait()
    (worker,) = compose_services(PROJECT, ["worker"])
    assert (worker.up, worker.state) == (False, "exited, no health check")


def test_an_engine_that_is_not_there_is_one_message(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DOCKER_HOST", "unix:///nowhere/docker.sock")
    with pytest.raises(ApgmsError) as error:
        compose_services(PROJECT, ["gateway"])
    assert error.value.reason == "services.docker_unreachable"
