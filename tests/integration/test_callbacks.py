"""What a terminal shows of a run, and what the operations log keeps of it."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from ansible_collections.apgms.release.plugins.module_utils.domain.formats.canonical import (
    parse_canonical,
)
from ansible_collections.apgms.release.plugins.module_utils.usecases.evidence.operations_log import (
    verify_log,
)
from tests.conftest import ROOT

PLAYBOOK = """
- name: Release
  hosts: localhost
  gather_facts: false
  vars: {ansible_connection: local, ansible_python_interpreter: "{{ ansible_playbook_python }}"}
  roles: [careful]
"""
TASKS = """
- name: Look
  ansible.builtin.command: {cmd: "true"}
  changed_when: false
- name: Write
  ansible.builtin.command: {cmd: "true"}
- name: Tell
  ansible.builtin.debug: {msg: [one, two]}
- name: Not now
  ansible.builtin.debug: {msg: hidden}
  when: false
- name: Refuse
  ansible.builtin.fail:
    msg: "It is late. Where: the clock. Why: 23 hours. Mend: sleep 1; try again"
  when: refuse
- name: Break
  ansible.builtin.command: {cmd: sh -c 'echo reason; exit 3'}
"""
SPEC = "argument_specs: {main: {short_description: A careful step., options: {}}}"


@pytest.fixture
def project(tmp_path: Path) -> Path:
    role = tmp_path / "roles" / "careful"
    (role / "tasks").mkdir(parents=True)
    (role / "meta").mkdir()
    (role / "tasks" / "main.yml").write_text(TASKS)
    (role / "meta" / "argument_specs.yml").write_text(SPEC)
    (tmp_path / "play.yml").write_text(PLAYBOOK)
    return tmp_path


def play(
    project: Path, *arguments: str, inventory: str = "localhost,", log: str = "operations.jsonl"
) -> str:
    done = subprocess.run(
        [Path(sys.executable).with_name("ansible-playbook"), "-i", inventory, "play.yml",
         *arguments],
        cwd=project, capture_output=True, text=True, check=False,
        env={**os.environ, "ANSIBLE_CONFIG": str(ROOT / "ansible.cfg"), "ANSIBLE_NOCOLOR": "1",
             "APGMS_OPERATIONS_LOG": str(project / log)},
    )  # fmt: skip
    assert done.returncode == 2
    return done.stdout + done.stderr


def test_a_run_reads_like_the_runbook(project: Path) -> None:
    assert play(project, "-e", '{"refuse": true}') == (
        "\nRelease\n"
        "\n 1. A careful step.\n"
        "    ok       Look\n"
        "    changed  Write\n"
        "    found    one\n"
        "    found    two\n"
        "    STOPPED  Refuse\n"
        "      What:   It is late.\n"
        "      Where:  the clock.\n"
        "      Why:    23 hours.\n"
        "      Mend:   sleep 1\n"
        "              try again\n"
        "\nlocalhost: stopped, 1 steps, changed=1\n"
    )


def test_a_command_that_failed_shows_what_it_said(project: Path) -> None:
    assert "  Said:   reason\n" in play(project, "-e", '{"refuse": false}')


def test_a_command_names_the_inventory_of_this_run(project: Path) -> None:
    """Unless that does not hold the stack which the command is about."""
    (project / "hosts.yml").write_text("proto: {hosts: {localhost: }}\n")
    (project / "roles" / "careful" / "tasks" / "main.yml").write_text(
        "- ansible.builtin.fail:\n"
        "    msg: 'No. Where: x. Why: y. Mend: run -i inventories/proto a.yml;"
        " run -i inventories/prod b.yml'\n"
    )
    shown = play(project, inventory="hosts.yml")
    assert f"Mend:   run -i {project}/hosts.yml a.yml\n" in shown
    assert "run -i inventories/prod b.yml\n" in shown


def test_a_module_that_died_shows_its_last_words(project: Path) -> None:
    (project / "library").mkdir()
    (project / "library" / "dies.py").write_text(
        "#!/usr/bin/python\nraise SystemExit('no memory')\n"
    )
    (project / "roles" / "careful" / "tasks" / "main.yml").write_text("- dies:\n")
    assert "  Said:   no memory\n" in play(project)


def test_check_mode_is_announced(project: Path) -> None:
    shown = play(project, "-e", '{"refuse": true}', "--check")
    assert "Release (check mode: nothing is changed)" in shown


def test_verbose_output_is_ansible_s_own(project: Path) -> None:
    shown = play(project, "-e", '{"refuse": true}', "-v")
    assert "TASK [careful : Look]" in shown
    assert "PLAY RECAP" in shown


def test_the_operations_log_keeps_every_action_and_verifies(project: Path) -> None:
    play(project, "-e", '{"refuse": true}')
    play(project, "-e", '{"refuse": true}')
    log = project / "operations.jsonl"
    entries = [parse_canonical(line) for line in log.read_bytes().splitlines()]
    assert verify_log(log).entries == len(entries) == 12
    by_task = {entry["task"]: entry for entry in entries}
    assert by_task["careful : Write"]["outcome"] == "changed"
    assert by_task["careful : Not now"]["outcome"] == "skipped"
    assert by_task["careful : Refuse"]["outcome"] == "failed"
    assert by_task["careful : Write"]["action"] == "ansible.builtin.command"


def test_a_log_that_cannot_be_written_is_told_once(project: Path) -> None:
    """The run goes on: a kill switch must not wait for a disk."""
    shown = " ".join(play(project, "-e", '{"refuse": true}', log="roles").split())
    assert shown.count("The operations log lacks this run") == 1
    assert "Mend: let " in shown
    assert "STOPPED Refuse" in shown
