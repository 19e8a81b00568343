# GNU General Public License v3.0+ (see COPYING)
"""The Merkle tree of RFC 6962, cut into the tiles of C2SP tlog-tiles.

A tile holds up to 256 hashes. Those of level 0 are leaf hashes; those of level L are the roots of
full tiles of level L-1. ``size`` is always a number of leaves.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass

HASH_BYTES = 32
TILE_WIDTH = 256
EMPTY_ROOT = hashlib.sha256(b"").digest()


@dataclass(frozen=True)
class Tile:
    """The place of a tile in a tree, and how many hashes it holds (1 to 256)."""

    level: int
    index: int
    width: int

    @property
    def path(self) -> str:
        """The path that C2SP tlog-tiles gives it, such as ``tile/0/x001/067.p/12``."""
        groups = [f"{self.index % 1000:03d}"]
        rest = self.index // 1000
        while rest:
            groups.insert(0, f"x{rest % 1000:03d}")
            rest //= 1000
        partial = "" if self.width == TILE_WIDTH else f".p/{self.width}"
        return f"tile/{self.level}/{'/'.join(groups)}{partial}"


ReadTile = Callable[[Tile], bytes]
"""Returns the hashes of a tile, joined: 32 bytes each."""


def node_hash(left: bytes, right: bytes) -> bytes:
    """Return the hash of an inner node: SHA-256(0x01 || left || right)."""
    return hashlib.sha256(b"\x01" + left + right).digest()


def root_of(hashes: list[bytes]) -> bytes:
    """Return the root over subtree roots of equal size, of which the last may be smaller."""
    if not hashes:
        return EMPTY_ROOT
    sha256 = hashlib.sha256
    while len(hashes) > 1:
        pairs = zip(hashes[::2], hashes[1::2], strict=False)
        above = [sha256(b"\x01" + left + right).digest() for left, right in pairs]
        if len(hashes) % 2:
            above.append(hashes[-1])
        hashes = above
    return hashes[0]


def tile_at(level: int, index: int, size: int) -> Tile:
    """Return the tile as it stands in a tree of ``size`` leaves, full or partial."""
    hashes = size >> (8 * level)
    return Tile(level, index, min(TILE_WIDTH, hashes - index * TILE_WIDTH))


def edge_tiles(size: int) -> Iterator[Tile]:
    """Yield the partial tiles on the right edge of a tree, lowest level first."""
    level = 0
    while size >> (8 * level):
        hashes = size >> (8 * level)
        if hashes % TILE_WIDTH:
            yield Tile(level, hashes // TILE_WIDTH, hashes % TILE_WIDTH)
        level += 1


class TreeBuilder:
    """Appends leaves to a tree and hands out its tiles as they fill; holds one tile a level."""

    def __init__(self, size: int = 0, read_tile: ReadTile | None = None) -> None:
        """Continue the tree of ``size`` leaves whose right edge ``read_tile`` returns."""
        self.size = size
        self._levels: list[list[bytes]] = []
        for tile in edge_tiles(size):
            if read_tile is None:
                raise ValueError("the right edge of a tree that is not empty must be readable")
            self._level(tile.level).extend(_split(read_tile(tile)))

    def append(self, leaves: list[bytes]) -> list[tuple[Tile, bytes]]:
        """Append leaf hashes; return the tiles that they complete, with their bytes."""
        self._level(0).extend(leaves)
        self.size += len(leaves)
        return list(self._full_tiles(0))

    def edge(self) -> Iterator[tuple[Tile, bytes]]:
        """Yield the partial tiles of the tree as it stands, with their bytes."""
        for tile in edge_tiles(self.size):
            yield tile, b"".join(self._levels[tile.level])

    def root(self) -> bytes:
        """Return the root hash of the tree as it stands."""
        below: list[bytes] = []
        for hashes in self._levels:
            if hashes or below:
                below = [root_of(hashes + below)]
        return below[0] if below else EMPTY_ROOT

    def _level(self, level: int) -> list[bytes]:
        while len(self._levels) <= level:
            self._levels.append([])
        return self._levels[level]

    def _full_tiles(self, level: int) -> Iterator[tuple[Tile, bytes]]:
        hashes = self._level(level)
        count = len(hashes) // TILE_WIDTH
        if not count:
            return
        first = (self.size >> (8 * (level + 1))) - count
        for number in range(count):
            full = hashes[number * TILE_WIDTH : (number + 1) * TILE_WIDTH]
            yield Tile(level, first + number, TILE_WIDTH), b"".join(full)
            self._level(level + 1).append(root_of(full))
        del hashes[: count * TILE_WIDTH]
        yield from self._full_tiles(level + 1)


def damaged_tiles(tiles: Iterable[Tile], size: int, read_tile: ReadTile) -> list[Tile]:
    """Return which of ``tiles`` and the tiles above them are not what the tile above them says."""
    damaged: dict[Tile, None] = {}
    for tile in tiles:
        while tile.width == TILE_WIDTH:
            above = tile_at(tile.level + 1, tile.index // TILE_WIDTH, size)
            wanted = _split(read_tile(above))[tile.index % TILE_WIDTH]
            if root_of(_split(read_tile(tile))) != wanted:
                damaged[tile] = None
            tile = above
    return list(damaged)


def subtree_hash(first: int, end: int, size: int, read_tile: ReadTile) -> bytes:
    """Return the hash over the leaves ``first`` to ``end`` (exclusive) of a tree of ``size``.

    The range must be one that RFC 6962 splits to: aligned, and full or at the right edge.
    """
    count = end - first
    if count & (count - 1) == 0:
        return _perfect_hash(first, count, size, read_tile)
    middle = first + _split_point(count)
    return node_hash(
        subtree_hash(first, middle, size, read_tile), subtree_hash(middle, end, size, read_tile)
    )


def prove_consistency(old: int, new: int, read_tile: ReadTile) -> list[bytes]:
    """Return the proof (RFC 6962, 2.1.2) that the tree of ``old`` is a prefix of that of ``new``.

    :raises ValueError: unless ``0 < old <= new``
    """
    if not 0 < old <= new:
        raise ValueError(f"no consistency proof from {old} to {new}")

    def descend(first: int, end: int, known: bool) -> list[bytes]:
        if old == end:
            return [] if known else [subtree_hash(first, end, new, read_tile)]
        middle = first + _split_point(end - first)
        if old <= middle:
            return [*descend(first, middle, known), subtree_hash(middle, end, new, read_tile)]
        return [*descend(middle, end, False), subtree_hash(first, middle, new, read_tile)]

    return descend(0, new, True)


def consistent(old: int, old_root: bytes, new: int, new_root: bytes, proof: list[bytes]) -> bool:
    """Verify a consistency proof (RFC 9162, 2.1.4.2)."""
    if not 0 < old <= new:
        return False
    if old == new:
        return not proof and old_root == new_root
    path = [old_root, *proof] if old & (old - 1) == 0 else list(proof)
    if not path:
        return False
    node, last = old - 1, new - 1
    while node & 1:
        node, last = node >> 1, last >> 1
    from_old = from_new = path[0]
    for sibling in path[1:]:
        if last == 0:
            return False
        if node & 1 or node == last:
            from_old = node_hash(sibling, from_old)
            from_new = node_hash(sibling, from_new)
            while not node & 1 and node:
                node, last = node >> 1, last >> 1
        else:
            from_new = node_hash(from_new, sibling)
        node, last = node >> 1, last >> 1
    return last == 0 and from_old == old_root and from_new == new_root


def _perfect_hash(first: int, count: int, size: int, read_tile: ReadTile) -> bytes:
    level = (count.bit_length() - 1) // 8
    hashes = count >> (8 * level)
    start = first >> (8 * level)
    tile = tile_at(level, start // TILE_WIDTH, size)
    offset = start % TILE_WIDTH * HASH_BYTES
    return root_of(_split(read_tile(tile)[offset : offset + hashes * HASH_BYTES]))


def _split_point(count: int) -> int:
    return 1 << (count - 1).bit_length() - 1


def _split(hashes: bytes) -> list[bytes]:
    return [hashes[at : at + HASH_BYTES] for at in range(0, len(hashes), HASH_BYTES)]
