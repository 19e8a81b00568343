#!/usr/bin/python
# GNU General Public License v3.0+ (see COPYING)
from __future__ import annotations

DOCUMENTATION = r"""
module: services_info
short_description: Tell whether the services of a stack are up
version_added: 0.1.0
description:
  - Asks the Docker Engine for the containers of a Compose project, or looks at the processes of the
    local stack, and fails where an expected service is not up.
  - A service with a health check counts as up only when that check passes.
author: The APGMS release team (@apgms)
attributes:
  check_mode:
    support: full
    description: The module only reads.
  diff_mode:
    support: none
    description: The module changes nothing.
options:
  engine:
    description:
      - Where the services run.
      - With V(docker) they are containers of the Compose project O(project).
      - With V(local) they are processes listed in O(services_file).
    type: str
    choices: [docker, local]
    required: true
  expected:
    description: Names of the services that must be up.
    type: list
    elements: str
    required: true
  project:
    description: Name of the Compose project.
    type: str
  services_file:
    description: File that C(python -m services.local up) writes.
    type: path
requirements:
  - docker (for O(engine=docker))
"""

EXAMPLES = r"""
- name: All Docker services of the prod profile are up
  apgms.release.services_info:
    engine: docker
    project: apgms-prod
    expected: [postgres, gateway]
"""

RETURN = r"""
services:
  description: Each expected service.
  returned: always
  type: list
  elements: dict
  contains:
    name:
      description: Name of the service.
      type: str
    up:
      description: Whether it runs and is healthy.
      type: bool
    state:
      description: What was found.
      type: str
"""

from pathlib import Path
from typing import Any

from ansible_collections.apgms.release.plugins.module_utils.boundary import (
    Call,
    Outcome,
    run_module,
)
from ansible_collections.apgms.release.plugins.module_utils.usecases.stack.services import (
    Service,
    compose_services,
    local_services,
)


def act(call: Call) -> Outcome:
    options = call.options
    if options["engine"] == "docker":
        services = compose_services(options["project"], options["expected"])
    else:
        services = local_services(Path(options["services_file"]), options["expected"])
    return Outcome(
        changed=False,
        result={"services": [service.as_dict() for service in services]},
        failure=_failure(options, services),
    )


def _failure(options: dict[str, Any], services: list[Service]) -> str | None:
    down = {service.name: service.state for service in services if not service.up}
    if not down:
        return None
    project = options["project"]
    where, mend = (
        (
            f"Compose project {project}",
            f"docker compose --project-name {project} up --detach --wait {' '.join(down)}",
        )
        if options["engine"] == "docker"
        else (options["services_file"], "make local-up")
    )
    why = ", ".join(f"{name} ({state})" for name, state in down.items())
    return f"Services that are not up: {', '.join(down)}. Where: {where}. Why: {why}. Mend: {mend}"


def main() -> None:
    run_module(
        act,
        {
            "engine": {"type": "str", "choices": ["docker", "local"], "required": True},
            "expected": {"type": "list", "elements": "str", "required": True},
            "project": {"type": "str"},
            "services_file": {"type": "path"},
        },
        required_if=[("engine", "docker", ["project"]), ("engine", "local", ["services_file"])],
    )


if __name__ == "__main__":
    main()
