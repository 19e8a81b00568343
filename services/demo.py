# GNU General Public License v3.0+ (see COPYING)
"""The whole runbook on the embedded stacks: ``make demo``.

A prototype release that the auditor approves, a production release that is killed after its intent
was committed and resumed, a second production release, and a rollback to the first. Everything that
was started is stopped again. Evidence, logs and keys lie below build/demo.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
import urllib.request
from datetime import UTC, datetime
from pathlib import Path

import psycopg

from ansible_collections.apgms.release.plugins.module_utils.domain.formats.canonical import (
    sha256_hex,
)
from ansible_collections.apgms.release.plugins.module_utils.ports.database import connect
from services.loader import load
from services.local.stacks import LocalStacks

ROOT = Path(__file__).resolve().parents[1]
DEMO = ROOT / "build" / "demo"
INVENTORY = "inventories/local"
VERIFY = ROOT / "roles" / "evidence" / "files" / "verify.sh"
SEED = 7
ENTITIES = 12
INTENT_SECONDS = 60


class DemoError(Exception):
    """A run of the demo did not end as it must."""


class Demo:
    """The demo's stacks, and the playbooks that it runs on them."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.stacks = LocalStacks(folder / "local")
        self.logs = folder / "logs"
        self.evidence = folder / "evidence"
        self._runs = 0
        self._started = time.monotonic()

    def run(self) -> list[str]:
        """Carry out the runbook, in its order; return what happened."""
        self.heading("Start the embedded stacks: PostgreSQL, two gateways")
        self.logs.mkdir(parents=True)
        self.stacks.up()
        self.load(["2025-09"])
        window = f"{datetime.now(UTC):%Y%m%d}0000"

        self.heading("Prototype release; a dry run up to the socket")
        self.play("proto_release", stack="proto")
        prototype = self.manifest("proto")
        self.heading("The auditor approves the prototype")
        self.approve("auditor", prototype, stack="proto", kind="prototype")

        self.heading("Production release: it waits for approval")
        first = self.production_release("first", window)
        self.heading("The same command again: nothing is left to do")
        again = self.play("prod_release", stack="prod", env=self.submission("first", window))
        if "changed=0" not in again:
            raise DemoError("a finished release run again did not report changed=0")

        self.heading("The ledger grows; second production release, killed on its way")
        self.load(["2025-10"])
        second = self.production_release("second", window, kill=True)

        self.heading("Rollback to the first release, by its manifest checksum")
        self.rollback(first)
        accepted = self.accepted_once(first, second)

        self.heading("The evidence, unpacked and verified with stock tools")
        manifests = {"prototype": prototype, "first": first, "second": second}
        for name, manifest in manifests.items():
            self.unpack(name, manifest, stack="proto" if name == "prototype" else "prod")
        return self.summary(manifests, accepted)

    def load(self, periods: list[str]) -> None:
        """Fill the production-like ledger."""
        url = self.stacks.up()["stacks"]["prod"]["database_url"]
        with connect(url, None, purpose="demo") as connection:
            counts = load(
                connection,
                seed=SEED,
                entities=ENTITIES,
                periods=periods,
                rpt_key=self.stacks.keys("prod").rpt_key,
            )
        print(f"    loaded   {', '.join(f'{count} {table}' for table, count in counts.items())}")

    def submission(self, name: str, window: str) -> dict[str, str]:
        """Return the environment of a production release."""
        return {"RELEASE_WINDOW": window, "SUBMISSION_ID": f"demo-{name}"}

    def production_release(self, name: str, window: str, *, kill: bool = False) -> str:
        """Carry out a production release; return its manifest checksum."""
        env = self.submission(name, window)
        waiting = self.play("prod_release", stack="prod", env=env, stops=True)
        if "Waiting for approval" not in waiting:
            raise DemoError("a release that nobody approved did not wait for approval")
        manifest = self.manifest("prod", f"demo-{name}")
        for approver in ("auditor", "approver"):
            self.heading(f"The {approver} approves the {name} release")
            self.approve(approver, manifest, stack="prod", kind="release")
        if kill:
            self.heading("The same command; killed with kill -9 once the intent is committed")
            self.kill_after_intent(manifest, env)
        self.heading("The same command again: it goes on, to the acknowledgement and the handover")
        self.play("prod_release", stack="prod", env=env)
        return manifest

    def approve(self, principal: str, manifest: str, *, stack: str, kind: str) -> None:
        """Sign an approval as its approver does, without a terminal."""
        self.play(
            "approve",
            stack=stack,
            extra={
                "approve_manifest": manifest,
                "approve_kind": kind,
                "approve_signer": principal,
                "approve_key": str(self.stacks.keys(stack).person(principal)),
                "approve_confirm": manifest,
            },
        )

    def kill_after_intent(self, manifest: str, env: dict[str, str]) -> None:
        """Start a production release and kill all its processes once its intent is committed."""
        log = self._next_log("prod_release")
        with log.open("wb") as output:
            process = subprocess.Popen(
                self._command("prod_release", {}),
                env=self._environment("prod", env),
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
                cwd=ROOT,
            )
            state = self._wait_for_intent(manifest, process)
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
        print(f"    killed   with the release in state {state}; log in {_relative(log)}")

    def rollback(self, target: str) -> None:
        """Plan the rollback, sign for it, carry it out, check the ledger."""
        env = {"ROLLBACK_TARGET": target}
        plan = self.play("rollback", stack="prod", env=env, args=["--check", "--diff"])
        digest = re.search(r"Plan ([0-9a-f]{64}) to", plan)
        if digest is None:
            raise DemoError("the plan of the rollback does not say its digest")
        extra = {"rollback_plan_sha256": digest[1], "rollback_reason": "demo"}
        done = self.play("rollback", stack="prod", env=env, extra=extra)
        if "Check the ledger" not in done:
            raise DemoError("the ledger was not checked after the rollback")

    def accepted_once(self, *manifests: str) -> str:
        """Ask the gateway itself how much it accepted; say so."""
        gateway = self.stacks.up()["processes"]["gateway-prod"]["admin_url"]
        with urllib.request.urlopen(f"{gateway}/counters", timeout=10) as answer:  # noqa: S310
            count = json.load(answer)
        expected = len(manifests)
        once = count["rows_accepted_more_than_once"] == 0
        if count["accepted_submissions"] != expected or not once:
            raise DemoError(f"the gateway accepted {count}, not {expected} submissions once each")
        return f"accepted {expected} submissions, and no RPT twice"

    def unpack(self, name: str, manifest: str, *, stack: str) -> None:
        """Unpack what the auditors received of a run, and verify it as they do."""
        store = self.stacks.root / stack / "object-store"
        (path,) = store.glob(f"evidence/{manifest}/*.tar")
        folder = self.evidence / name
        folder.mkdir(parents=True)
        strip = ["--strip-components", "1", "-C", str(folder)]
        subprocess.run(["tar", "-xf", str(path), *strip], check=True)  # noqa: S607
        policy = (self.stacks.root / stack / "policy.json").read_bytes()
        done = subprocess.run(
            ["sh", str(VERIFY), "--policy", sha256_hex(policy), str(folder)],  # noqa: S607
            check=False, capture_output=True, text=True,
        )  # fmt: skip
        print(f"    {name:10} {done.stdout.strip()}")
        if done.returncode:
            raise DemoError(f"the evidence in {_relative(folder)} does not hold: {done.stderr}")

    def summary(self, manifests: dict[str, str], accepted: str) -> list[str]:
        """Return what happened, and where it can be seen."""
        folders = [_relative(self.evidence / name) for name in manifests]
        return [
            f"prototype  {manifests['prototype']}, approved by the auditor",
            f"first      {manifests['first']}, approved, sent, acknowledged, handed over",
            f"second     {manifests['second']}, killed on its way, resumed, acknowledged",
            "rollback   from the second to the first: every balance proven, the ledger checked",
            f"gateway    {accepted}",
            *(f"evidence   sh {folder}/verify.sh {folder}" for folder in folders),
            f"logs       {_relative(self.logs)}, {_relative(self.folder)}/operations.jsonl",
        ]

    def manifest(self, stack: str, submission_id: str | None = None) -> str:
        """Return the manifest checksum of the stack's newest bundle, or of a submission."""
        url = self.stacks.up()["stacks"][stack]["database_url"]
        with psycopg.connect(url) as connection:
            row = connection.execute(
                "SELECT manifest_sha256 FROM apgms_release.bundle"
                " WHERE %(id)s::text IS NULL OR submission_id = %(id)s"
                " ORDER BY frozen_at DESC LIMIT 1",
                {"id": submission_id},
            ).fetchone()
        if row is None:
            raise DemoError(f"there is no bundle of {stack}")
        return str(row[0])

    def heading(self, text: str) -> None:
        """Print what comes next, and how long the demo has run."""
        print(f"\n=== [{time.monotonic() - self._started:4.0f} s] {text}", flush=True)

    def play(
        self,
        playbook: str,
        *,
        stack: str,
        env: dict[str, str] | None = None,
        extra: dict[str, str] | None = None,
        args: list[str] | None = None,
        stops: bool = False,
    ) -> str:
        """Run a playbook; show and keep its output; return it.

        :param stops: whether the run must stop with a refusal
        """
        log = self._next_log(playbook)
        lines = []
        process = subprocess.Popen(
            self._command(playbook, extra or {}, args or []),
            env=self._environment(stack, env or {}),
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            cwd=ROOT,
        )
        assert process.stdout is not None  # noqa: S101 - it was asked for above
        with log.open("w") as copy:
            for line in process.stdout:
                print(line, end="", flush=True)
                copy.write(line)
                lines.append(line)
        if (process.wait() != 0) != stops:
            raise DemoError(f"{playbook} ended with {process.returncode}; log in {_relative(log)}")
        return "".join(lines)

    def _next_log(self, playbook: str) -> Path:
        self._runs += 1
        return self.logs / f"{self._runs:02}-{playbook}.log"

    def _command(
        self, playbook: str, extra: dict[str, str], args: list[str] | None = None
    ) -> list[str]:
        options = [word for item in extra.items() for word in ("-e", "{}={}".format(*item))]
        program = str(Path(sys.executable).with_name("ansible-playbook"))
        return [program, "-i", INVENTORY, f"playbooks/{playbook}.yml", *options, *(args or [])]

    def _environment(self, stack: str, env: dict[str, str]) -> dict[str, str]:
        return {
            **{name: value for name, value in os.environ.items() if name != "PYTHONPATH"},
            "APGMS_LOCAL": str(self.stacks.root),
            "APGMS_OPERATIONS_LOG": str(self.folder / "operations.jsonl"),
            "STACK": stack,
            **env,
        }

    def _wait_for_intent(self, manifest: str, process: subprocess.Popen[bytes]) -> str:
        url = self.stacks.up()["stacks"]["prod"]["database_url"]
        deadline = time.monotonic() + INTENT_SECONDS
        with psycopg.connect(url, autocommit=True) as connection:
            while time.monotonic() < deadline and process.poll() is None:
                row = connection.execute(
                    "SELECT state FROM apgms_release.release WHERE manifest_sha256 = %s",
                    [manifest],
                ).fetchone()
                if row is not None:
                    return str(row[0])
                time.sleep(0.002)
        raise DemoError("the release to be killed never committed its intent")


def _relative(path: Path) -> Path:
    return path.relative_to(ROOT)


def main() -> int:
    demo = Demo(DEMO)
    demo.stacks.down()
    shutil.rmtree(DEMO, ignore_errors=True)
    try:
        happened = demo.run()
    except DemoError as error:
        print(f"\ndemo: FAILED: {error}", file=sys.stderr)
        return 1
    finally:
        print(demo.stacks.down())
    demo.heading("What happened")
    print("".join(f"    {line}\n" for line in happened), end="")
    return 0


if __name__ == "__main__":
    sys.exit(main())
