# GNU General Public License v3.0+ (see COPYING)
"""The ledger log as it stands in the object store: heads, tiles, segments, plans, cosignatures.

``docs/ledger-log.md`` describes each object. The store is the log's record; nothing in it is ever
overwritten.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ...domain.approval.policy import LogPins
from ...domain.formats.canonical import canonical, parse_canonical, sha256_hex
from ...domain.ledger import checkpoint as notes
from ...domain.ledger.extent import Extent, IdRange, Scan, parse_extent, ranges_of, scans
from ...domain.ledger.tree import (
    EMPTY_ROOT,
    HASH_BYTES,
    TILE_WIDTH,
    Tile,
    TreeBuilder,
    consistent,
    damaged_tiles,
    edge_tiles,
    prove_consistency,
    tile_at,
)
from ...errors import ApgmsError
from ...ports.object_store import BRING_BACK, ObjectConflict, ObjectMissing, ObjectStore, read
from .table import CORE_COLUMNS

SNAPSHOT_SCHEMA = "apgms.release/log-snapshot/1"
PLAN_SCHEMA = "apgms.release/log-plan/1"
_COMMON_FIELDS = frozenset({"schema", "origin", "tree_size", "columns"})
FIELDS = {
    PLAN_SCHEMA: _COMMON_FIELDS | {"late", "fresh"},
    SNAPSHOT_SCHEMA: _COMMON_FIELDS | {"root", "previous_size", "segments", "namespaces"},
}
"""What each kind of document must say."""
TILES_KEPT = 256
"""How many tiles, of up to 8 KiB each, a log keeps in memory before it begins anew."""
_SIZE = re.compile(r"[0-9]{16}")
_SEGMENT = re.compile(r"([0-9]{16})-([0-9]{16})")


@dataclass(frozen=True)
class LogHead:
    """A verified checkpoint of a log; ``note`` is empty where the log has none yet."""

    origin: str
    tree_size: int
    root: bytes
    note: bytes


def no_head(origin: str) -> LogHead:
    """Return what stands for the head of a log that has none yet."""
    return LogHead(origin, 0, EMPTY_ROOT, b"")


@dataclass(frozen=True)
class Plan:
    """Which rows the snapshot after a tree size admits, decided before any of them is stored.

    A snapshot that was cut off is taken up again with the same rows, so that what it has stored
    already is what it stores again. ``late`` ids stand below those admitted before, ``fresh`` ones
    above.
    """

    columns: tuple[str, ...]
    late: tuple[Extent, ...]
    fresh: tuple[Extent, ...]

    @property
    def extents(self) -> tuple[Extent, ...]:
        """What is admitted, in order of position."""
        return self.late + self.fresh

    @property
    def size(self) -> int:
        """How many rows are admitted."""
        return sum(one.size for one in self.extents)

    def scans(self, without: Sequence[IdRange] = ()) -> list[Scan]:
        """Return what reads the rows, in order of position.

        :param without: ids between the fresh ones that are not planned
        """
        late = list(scans(ranges_of(self.late)))
        if not self.fresh:
            return late
        span = IdRange(self.fresh[0].first, self.fresh[-1].last)
        return [*late, Scan(span, None, tuple(without))]

    def document(self, origin: str, size: int) -> dict[str, Any]:
        """Return the plan as JSON values; ids are strings."""
        return {
            "schema": PLAN_SCHEMA,
            "origin": origin,
            "tree_size": str(size),
            "columns": list(self.columns),
            "late": [[str(one.first), one.runs] for one in self.late],
            "fresh": [[str(one.first), one.runs] for one in self.fresh],
        }


@dataclass(frozen=True)
class LogSnapshot:
    """What a snapshot says of itself in the log, beside its checkpoint."""

    origin: str
    tree_size: int
    root: bytes
    previous_size: int
    columns: tuple[str, ...]
    segments: tuple[tuple[int, int], ...]
    """The positions of the rows in each: the first, and the one after the last."""
    namespaces: dict[str, Any]
    """Totals and digests, as :class:`.namespaces.Namespaces` gives them."""

    def document(self) -> dict[str, Any]:
        """Return the snapshot as JSON values; sizes and positions are strings."""
        return {
            "schema": SNAPSHOT_SCHEMA,
            "origin": self.origin,
            "tree_size": str(self.tree_size),
            "root": self.root.hex(),
            "previous_size": str(self.previous_size),
            "columns": list(self.columns),
            "segments": [[str(first), str(end)] for first, end in self.segments],
            "namespaces": self.namespaces,
        }

    @property
    def sha256(self) -> str:
        """The digest of the document's canonical bytes."""
        return sha256_hex(canonical(self.document()))


class LedgerLog:
    """The log of one origin in an object store; :func:`.origin.log_in_force` gives the one to use.

    :param digests: the SHA-256 that a database has recorded of ``snapshot/<size>``, by size
    """

    def __init__(
        self,
        store: ObjectStore,
        pins: LogPins,
        origin: str,
        digests: Mapping[int, str] | None = None,
    ) -> None:
        self.store = store
        self.pins = pins
        self.origin = origin
        self._digests = digests or {}
        self._tiles: dict[Tile, bytes] = {}

    @property
    def generation(self) -> int:
        """1 for the policy's own origin, one more for each that a restore opened."""
        return int(self.origin.removeprefix(self.pins.origin).strip("/") or 1)

    def sizes(self) -> list[int]:
        """Return the tree sizes of the checkpoints, ascending."""
        names = (key.rpartition("/")[2] for key in self.store.keys(self.key("checkpoint/")))
        return [int(name) for name in names if _SIZE.fullmatch(name)]

    def segments_from(self, position: int) -> Iterator[tuple[str, int, int]]:
        """Yield the stored segments from a position on, ascending: key, and their two ends."""
        for key in self.store.keys(self.key("segment/")):
            match = _SEGMENT.fullmatch(key.rpartition("/")[2])
            if match and int(match[1]) >= position:
                yield key, int(match[1]), int(match[2])

    def newest(self) -> LogHead:
        """Return the newest checkpoint, its signature verified."""
        sizes = self.sizes()
        return self.head(sizes[-1]) if sizes else no_head(self.origin)

    def head(self, size: int) -> LogHead:
        """Return the checkpoint of a tree size.

        :raises ApgmsError: ``log.checkpoint_invalid``
        """
        key = self.checkpoint_key(size)
        note = read(self.store, key)
        try:
            found = notes.verify(note, self.origin, self.pins.key.encode())
            if found.size != size:
                raise ValueError(f"the tree size is {found.size}")
        except ValueError as error:
            raise ApgmsError(
                "log.checkpoint_invalid",
                "A checkpoint of the ledger log does not verify",
                where=self.at(key),
                why=str(error),
                mend="compare log.key in the policy with the key of apgms_log_key; a checkpoint "
                "that was altered comes back from the object store's own versions or a backup of its "
                "folder; the database has it too, in apgms_release.ledger_checkpoint, column note",
            ) from None
        return LogHead(self.origin, size, found.root, note)

    def cosigned(self, by: str | None = None) -> LogHead | None:
        """Return the newest checkpoint that a cosigner of the policy has confirmed.

        :param by: his name; None for any of them
        """
        folder = self.key("cosignature/")
        names = {key.removeprefix(folder).split("/")[0] for key in self.store.keys(folder)}
        sizes = {int(name) for name in names if _SIZE.fullmatch(name)}
        for head in map(self.head, sorted(sizes, reverse=True)):
            confirmed = self.cosignatures(head)
            if by in confirmed or (by is None and confirmed):
                return head
        return None

    def cosignatures(self, head: LogHead) -> dict[str, int]:
        """Return who has confirmed a checkpoint, and when (seconds since 1970 UTC).

        :raises ApgmsError: ``log.object_damaged``
        """
        found = {}
        for name, pem in self.pins.cosigners.items():
            key = self.cosignature_key(head.tree_size, name)
            try:
                line = read(self.store, key)
                found[name] = notes.verify_cosignature(head.note, line, name, pem.encode())
            except ObjectMissing:
                continue
            except ValueError as error:
                raise object_damaged(self.at(key), str(error)) from None
        return found

    def cosignature_key(self, size: int, name: str) -> str:
        """Return the key of a cosigner's line on the checkpoint of a tree size."""
        pem = self.pins.cosigners[name].encode()
        key_id = notes.note_key_id(name, notes.COSIGNATURE, pem).hex()
        return self.key(f"cosignature/{size:016d}/{key_id}")

    def builder(self, size: int) -> TreeBuilder:
        """Return a builder that continues the tree of ``size`` leaves."""
        return TreeBuilder(size, self.read_tile)

    def read_tile(self, tile: Tile) -> bytes:
        """Return the hashes of a tile.

        :raises ApgmsError: ``log.tile_damaged`` where it has another length
        """
        return self._read_tiles([tile])[0]

    def _read_tiles(self, tiles: list[Tile]) -> list[bytes]:
        if len(self._tiles) + len(tiles) > TILES_KEPT:
            self._tiles.clear()
        wanted = [tile for tile in tiles if tile not in self._tiles]
        stored = self.store.read_many(self.key(tile.path) for tile in wanted)
        for tile, data in zip(wanted, stored, strict=True):
            if len(data) != tile.width * HASH_BYTES:
                where = self.at(self.key(tile.path))
                raise tile_damaged(where, f"{len(data)} bytes for {tile.width} hashes")
            self._tiles[tile] = data
        return [self._tiles[tile] for tile in tiles]

    def leaves(self, first: int, end: int, size: int) -> bytes:
        """Return the leaf hashes at the positions ``first`` to ``end`` - 1 of the tree of ``size``.

        They are joined, 32 bytes each.
        """
        indices = range(first // TILE_WIDTH, -(-end // TILE_WIDTH))
        hashes = b"".join(self._read_tiles([tile_at(0, index, size) for index in indices]))
        begin = (first - indices.start * TILE_WIDTH) * HASH_BYTES
        return hashes[begin : begin + (end - first) * HASH_BYTES]

    def require_tiles(self, first: int, end: int, head: LogHead) -> None:
        """Require of the tiles with the leaves ``first`` to ``end`` - 1 that they give the root.

        :raises ApgmsError: ``log.tile_damaged``
        """
        size = head.tree_size
        if self.builder(size).root() != head.root:
            edge = ", ".join(tile.path for tile in edge_tiles(size))
            raise tile_damaged(
                self.at(self.key("tile/")), f"the right edge ({edge}) has another root"
            )
        indices = range(first // TILE_WIDTH, -(-end // TILE_WIDTH))
        self._require_sound([tile_at(0, index, size) for index in indices], size)

    def _require_sound(self, tiles: Iterable[Tile], size: int) -> None:
        if damaged := damaged_tiles(tiles, size, self.read_tile):
            highest = max(damaged, key=lambda tile: tile.level)
            raise tile_damaged(
                self.at(self.key(highest.path)),
                "its root is not the hash that the tile above it holds",
            )

    def require_prefix(self, old: LogHead, new: LogHead) -> list[bytes]:
        """Return the verified proof that the tree of ``old`` is a prefix of that of ``new``.

        :raises ApgmsError: ``log.forked``, ``log.tile_damaged``
        """
        if old.tree_size == 0:
            return []
        used: list[Tile] = []

        def read_tile(tile: Tile) -> bytes:
            used.append(tile)
            return self.read_tile(tile)

        proof = (
            prove_consistency(old.tree_size, new.tree_size, read_tile)
            if old.tree_size <= new.tree_size
            else []
        )
        if not consistent(old.tree_size, old.root, new.tree_size, new.root, proof):
            raise self._no_prefix(old, new, used)
        return proof

    def _no_prefix(self, old: LogHead, new: LogHead, used: list[Tile]) -> ApgmsError:
        self.require_tiles(0, 0, new)
        self._require_sound(used, new.tree_size)
        return forked(
            self.at(self.key("")),
            f"the tree of {new.tree_size} rows does not begin with the tree of "
            f"{old.tree_size} rows whose root is {old.root.hex()}",
        )

    def tile_objects(self, tiles: Iterable[tuple[Tile, bytes]]) -> list[tuple[str, bytes]]:
        """Return tiles as objects to store: key and bytes."""
        return [(self.key(tile.path), data) for tile, data in tiles]

    def plan(self, size: int) -> Plan | None:
        """Return the plan that a snapshot after ``size`` has left; None where there is none."""
        key = self.plan_key(size)
        try:
            document = self._document(key, PLAN_SCHEMA, size)
        except ObjectMissing:
            return None
        try:
            late, fresh = (
                tuple(parse_extent(first, runs) for first, runs in document[name])
                for name in ("late", "fresh")
            )
            plan = Plan(_columns(document["columns"]), late, fresh)
            if not plan.size:
                raise ValueError("it plans no row")
            _require_in_full(plan.document(self.origin, size), document)
        except (AttributeError, TypeError, ValueError) as error:
            raise object_damaged(self.at(key), str(error)) from None
        return plan

    def put_plan(self, size: int, plan: Plan) -> None:
        """Decide what the snapshot after ``size`` admits."""
        self.store.put_new(self.plan_key(size), canonical(plan.document(self.origin, size)))

    def snapshot(self, size: int) -> LogSnapshot:
        """Return the snapshot that ended at ``size``.

        :raises ApgmsError: ``log.object_damaged``, ``log.object_missing``
        """
        key = self.snapshot_key(size)
        try:
            return _parse_snapshot(self._document(key, SNAPSHOT_SCHEMA, size))
        except ObjectMissing:
            raise object_missing(self.at(key), "its checkpoint is stored, it is not") from None
        except (AttributeError, KeyError, TypeError, ValueError) as error:
            raise object_damaged(self.at(key), str(error)) from None

    def put_snapshot(self, snapshot: LogSnapshot) -> None:
        """Store what a snapshot says of itself."""
        key = self.snapshot_key(snapshot.tree_size)
        self.store.put_new(key, canonical(snapshot.document()))

    def put_head(self, head: LogHead) -> None:
        """Store a checkpoint.

        :raises ApgmsError: ``log.forked`` where another of its size is stored
        """
        key = self.checkpoint_key(head.tree_size)
        try:
            self.store.put_new(key, head.note)
        except ObjectConflict as error:
            raise forked(
                self.at(key),
                f"another head of {head.tree_size} rows is stored there; this one has the root "
                f"{head.root.hex()}",
            ) from error

    def _document(self, key: str, schema: str, size: int) -> dict[str, Any]:
        data = read(self.store, key)
        recorded = self._digests.get(size) if schema == SNAPSHOT_SCHEMA else None
        if recorded not in (None, sha256_hex(data)):
            raise object_damaged(
                self.at(key), f"its SHA-256 is {sha256_hex(data)}; the database recorded {recorded}"
            )
        try:
            document = parse_canonical(data)
        except ValueError as error:
            raise object_damaged(self.at(key), str(error)) from None
        said = document if isinstance(document, dict) else {}
        if missing := FIELDS[schema] - said.keys():
            raise object_damaged(self.at(key), f"it lacks {', '.join(sorted(missing))}")
        names = [said["schema"], said["origin"], said["tree_size"]]
        if names != [schema, self.origin, str(size)]:
            raise object_damaged(self.at(key), f"it says that it is {' '.join(map(str, names))}")
        return said

    def key(self, name: str) -> str:
        """Return the object key of something in this log."""
        return f"log/{self.origin}/{name}"

    def at(self, key: str) -> str:
        """Return where an object is, for messages."""
        return f"{self.store.url}/{key}"

    def plan_key(self, size: int) -> str:
        """Return the key of the plan of the snapshot after ``size``."""
        return self.key(f"plan/{size:016d}")

    def snapshot_key(self, size: int) -> str:
        """Return the key of what the snapshot that ended at ``size`` says of itself."""
        return self.key(f"snapshot/{size:016d}")

    def checkpoint_key(self, size: int) -> str:
        """Return the key of the checkpoint of a tree size."""
        return self.key(f"checkpoint/{size:016d}")

    def segment_key(self, first: int, end: int) -> str:
        """Return the key of the segment with the rows at positions ``first`` to ``end`` - 1."""
        return self.key(f"segment/{first:016d}-{end:016d}")


def _parse_snapshot(said: dict[str, Any]) -> LogSnapshot:
    parsed = LogSnapshot(
        said["origin"],
        int(said["tree_size"]),
        bytes.fromhex(said["root"]),
        int(said["previous_size"]),
        _columns(said["columns"]),
        tuple((int(first), int(end)) for first, end in said["segments"]),
        dict(said["namespaces"]),
    )
    ends = [parsed.previous_size, *(end for _first, end in parsed.segments)]
    begins = [*(first for first, _end in parsed.segments), parsed.tree_size]
    if ends != begins or any(first >= end for first, end in parsed.segments):
        raise ValueError("its segments do not lead from the size before to its own")
    for entry in parsed.namespaces.values():
        bytes.fromhex(entry["rows_sha256"])
        for counted in (entry, *entry["periods"].values()):
            int(counted["balance_cents"]) + counted["rows"]
    _require_in_full(parsed.document(), said)
    return parsed


def _columns(said: Iterable[Any]) -> tuple[str, ...]:
    columns = tuple(said)
    if not all(isinstance(name, str) for name in columns) or not CORE_COLUMNS.keys() <= {*columns}:
        raise ValueError("its columns are not those of a ledger")
    return columns


def _require_in_full(understood: dict[str, Any], said: dict[str, Any]) -> None:
    if understood != said:
        raise ValueError("it says something else than its format has")


def forked(where: str, why: str) -> ApgmsError:
    """Return the refusal of a history that is not the one confirmed before."""
    return ApgmsError(
        "log.forked",
        "The ledger log has two histories; nothing acts on it",
        where=where,
        why=why,
        mend="find out which history is the true one; continuing on a restored database needs a "
        "signed restore statement (docs/ledger-log.md, Restore)",
    )


def object_damaged(where: str, why: str) -> ApgmsError:
    """Return the refusal of an object of the log that is not what was stored."""
    return ApgmsError(
        "log.object_damaged",
        "An object of the ledger log is damaged",
        where=where,
        why=why,
        mend=f"{BRING_BACK}, then run the same command again",
    )


def object_missing(where: str, why: str) -> ApgmsError:
    """Return the refusal of a log that lacks an object which was stored."""
    return ApgmsError(
        "log.object_missing",
        "An object of the ledger log is not in the object store",
        where=where,
        why=why,
        mend=f"{BRING_BACK}, then run the same command again",
    )


def tile_damaged(where: str, why: str) -> ApgmsError:
    """Return the refusal of a tile whose bytes are not those of the tree."""
    return ApgmsError(
        "log.tile_damaged",
        "A hash tile of the ledger log is damaged",
        where=where,
        why=why,
        mend=f"{BRING_BACK}, then: "
        "make ledger-snapshot STACK=$STACK ARGS='-e ledger_snapshot_verify=full'",
    )
