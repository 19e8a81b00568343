# GNU General Public License v3.0+ (see COPYING)
"""Are the services of a stack up? Docker Compose services, or the processes of the local stack."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from ...errors import ApgmsError
from ...libraries import docker


@dataclass(frozen=True)
class Service:
    """One service: ``up`` is false where it is absent, stopped or fails its health check."""

    name: str
    up: bool
    state: str

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)


def compose_services(project: str, expected: Iterable[str]) -> list[Service]:
    """Return the state of each expected service of a Compose project.

    :raises ApgmsError: ``services.docker_unreachable``
    """
    try:
        containers = docker.from_env().containers.list(
            all=True, filters={"label": f"com.docker.compose.project={project}"}
        )
    except docker.errors.DockerException as error:
        raise ApgmsError(
            "services.docker_unreachable",
            "The Docker Engine cannot be asked",
            where=os.environ.get("DOCKER_HOST", "unix:///var/run/docker.sock"),
            why=str(error),
            mend=f"start the Docker Engine, then: docker compose --project-name {project} ps",
        ) from error
    found: dict[str, list[Service]] = {}
    for container in containers:
        service = _container_service(container)
        found.setdefault(service.name, []).append(service)
    return [_worst(name, found.get(name, [])) for name in expected]


def _container_service(container: Any) -> Service:
    state = container.attrs["State"]
    health = state.get("Health", {}).get("Status", "no health check")
    return Service(
        name=container.labels["com.docker.compose.service"],
        up=state["Status"] == "running" and health in ("healthy", "no health check"),
        state=f"{state['Status']}, {health}",
    )


def _worst(name: str, replicas: list[Service]) -> Service:
    for replica in replicas:
        if not replica.up:
            return replica
    return replicas[0] if replicas else Service(name, up=False, state="no container")


def local_services(services_file: Path, expected: Iterable[str]) -> list[Service]:
    """Return the state of each expected process that ``services_file`` lists.

    :param services_file: written by ``python -m services.local up``:
        ``{"processes": {NAME: {"pid": int}}}``
    :raises ApgmsError: ``services.not_started``
    """
    try:
        processes = json.loads(services_file.read_text())["processes"]
    except (OSError, ValueError, KeyError) as error:
        raise ApgmsError(
            "services.not_started",
            "The local stack has not been started",
            where=str(services_file),
            why=str(error),
            mend="make local-up",
        ) from error
    return [_process_service(name, processes.get(name)) for name in expected]


def _process_service(name: str, process: dict[str, Any] | None) -> Service:
    if process is None:
        return Service(name, up=False, state="never started")
    pid = int(process["pid"])
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return Service(name, up=False, state=f"process {pid} has ended")
    except PermissionError:
        pass
    return Service(name, up=True, state=f"process {pid}")
