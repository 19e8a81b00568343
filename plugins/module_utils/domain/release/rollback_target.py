# GNU General Public License v3.0+ (see COPYING)
"""Which releases may be rolled back to: last known good means acknowledged and approved."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

from ...errors import ApgmsError
from .manifest import Manifest

BEGINNING = re.compile(r"[0-9a-f]{12,64}")
"""A manifest checksum, or enough of its first digits to type."""


@dataclass(frozen=True)
class PastRelease:
    """A release that was submitted. Times are ISO 8601 in UTC."""

    manifest_sha256: str
    state: str
    intent_at: str
    submission_id: str
    receipt_sha256: str | None
    approved_by: tuple[str, ...]
    undone_by: str | None
    """The incident of the rollback that went behind it."""
    manifest: Manifest | None
    """None where the object store does not hold it any more as it was built."""

    @property
    def why_not(self) -> str | None:
        """Why it is no target of a rollback; None where it is one."""
        if self.state == "PARTIAL":
            return "the authority accepted only part of it"
        if self.state != "ACKNOWLEDGED":
            return f"the authority has not acknowledged it: it is {self.state}"
        if self.undone_by:
            return f"it was rolled back itself, incident {self.undone_by}"
        if not self.approved_by:
            return "no approval of the auditor is recorded for it"
        if self.manifest is None:
            return "its manifest is not in the object store as it was built"
        return None


def find_target(releases: Sequence[PastRelease], checksum: str) -> PastRelease:
    """Return the release that ``checksum`` names, where it may be rolled back to.

    :param checksum: a manifest checksum, or an unambiguous beginning of at least 12 digits
    :raises ApgmsError: ``rollback.malformed_target``, ``rollback.unknown_target``,
        ``rollback.ambiguous_target``, ``rollback.bad_target``
    """
    if not BEGINNING.fullmatch(checksum):
        raise _refused(
            "malformed_target",
            checksum,
            "it is not 12 to 64 lower-case hexadecimal digits of a manifest checksum",
        )
    found = [release for release in releases if release.manifest_sha256.startswith(checksum)]
    if not found:
        raise _refused("unknown_target", checksum, "no release of this stack has this checksum")
    if len(found) > 1:
        both = " and ".join(release.manifest_sha256 for release in found)
        raise _refused("ambiguous_target", checksum, f"{both} begin with it")
    if found[0].why_not:
        raise _refused("bad_target", found[0].manifest_sha256, found[0].why_not)
    return found[0]


def undone_by_target(
    releases: Sequence[PastRelease], target: PastRelease
) -> tuple[PastRelease, ...]:
    """Return the releases that a rollback to ``target`` goes behind, oldest first.

    A release is behind it that was submitted later or stands on a longer ledger; one that an
    earlier rollback went behind is not undone again.
    """

    def place(release: PastRelease) -> int:
        return release.manifest.ledger.tree_size if release.manifest else 0

    return tuple(
        release
        for release in releases
        if release is not target
        and release.undone_by is None
        and (release.intent_at > target.intent_at or place(release) > place(target))
    )


def _refused(name: str, target: str, why: str) -> ApgmsError:
    return ApgmsError(
        f"rollback.{name}",
        "There is no rollback to this target",
        where=f"ROLLBACK_TARGET={target}",
        why=why,
        mend="make rollback STACK=prod TARGET=  # lists the good targets",
    )
