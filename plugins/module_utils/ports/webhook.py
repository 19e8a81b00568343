# GNU General Public License v3.0+ (see COPYING)
"""Where notices are sent: one JSON document, one POST; 2xx is delivered, all else is not."""

from __future__ import annotations

import urllib.error
import urllib.request
from dataclasses import dataclass
from http.client import HTTPException
from typing import Any
from urllib.parse import urlsplit

from ..errors import ApgmsError

TIMEOUT_SECONDS = 10
LOOPBACK = frozenset({"127.0.0.1", "::1", "localhost"})


@dataclass(frozen=True)
class Webhook:
    """An address that takes notices, with the bearer token it asks for."""

    url: str
    token: str | None = None

    def post(self, notice_id: str, document: bytes) -> str | None:
        """Send one notice; return why it was not taken, or None.

        The notice's id is the Idempotency-Key: a receiver sees a repeated notice as the same.
        """
        headers = {"Content-Type": "application/json", "Idempotency-Key": notice_id}
        if self.token:
            headers["Authorization"] = f"Bearer {self.token}"
        request = urllib.request.Request(  # noqa: S310 - open_webhook checks the scheme
            self.url, data=document, headers=headers, method="POST"
        )
        try:
            with _OPENER.open(request, timeout=TIMEOUT_SECONDS) as answer:
                return None if 200 <= answer.status < 300 else f"HTTP {answer.status}"
        except urllib.error.HTTPError as error:
            return f"HTTP {error.code}"
        except (OSError, HTTPException) as error:
            return " ".join(str(error).split()) or type(error).__name__


def open_webhook(url: str, token: str | None = None) -> Webhook:
    """Return the webhook at ``url``.

    :raises ApgmsError: ``notify.malformed_url``
    """
    parts = urlsplit(url)
    secure = parts.scheme == "https" or (parts.scheme == "http" and parts.hostname in LOOPBACK)
    if not parts.hostname or not secure or parts.username or parts.password:
        raise ApgmsError(
            "notify.malformed_url",
            "A webhook address cannot be used",
            where=f"the webhook of host {parts.hostname or 'none'}",
            why="it must be https://HOST/PATH without a user (http:// on the loopback only)",
            mend="correct notify_webhook_url or notify_tracker_url in the inventory",
        )
    return Webhook(url, token)


class _NoRedirect(urllib.request.HTTPRedirectHandler):
    """A notice goes where the inventory says and nowhere else."""

    def redirect_request(self, *_arguments: Any, **_more: Any) -> None:
        return None


_OPENER = urllib.request.build_opener(_NoRedirect)
