# GNU General Public License v3.0+ (see COPYING)
"""A webhook that takes every notice: ``python -m tests.webhook FOLDER`` prints its address.

It keeps what it took in ``FOLDER/notices.jsonl``.
"""

from __future__ import annotations

import sys
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any


def serve(folder: Path) -> None:
    """Take notices until the process is ended."""

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"]))
            with (folder / "notices.jsonl").open("ab") as notices:
                notices.write(body + b"\n")
            self.send_response(204)
            self.end_headers()

        def log_message(self, *_arguments: Any) -> None:
            pass

    server = HTTPServer(("127.0.0.1", 0), Handler)
    print(f"http://127.0.0.1:{server.server_port}/notices", flush=True)
    server.serve_forever()


if __name__ == "__main__":
    serve(Path(sys.argv[1]))
