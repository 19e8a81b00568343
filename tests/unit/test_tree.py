from __future__ import annotations

import hashlib

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ansible_collections.apgms.release.plugins.module_utils.domain.ledger.tree import (
    EMPTY_ROOT,
    Tile,
    TreeBuilder,
    consistent,
    edge_tiles,
    prove_consistency,
    root_of,
    tile_at,
)

SIZES = st.integers(1, 700)
LARGE = (65535, 65536, 65537)  # a second level of tiles fills here


def leaf(number: int) -> bytes:
    return hashlib.sha256(b"\x00%d" % number).digest()


LEAVES = [leaf(number) for number in range(65538)]


def root_by_definition(leaves: list[bytes]) -> bytes:
    """MTH of RFC 6962, 2.1, as it stands there."""
    if len(leaves) < 2:
        return leaves[0] if leaves else hashlib.sha256().digest()
    split = 1
    while split * 2 < len(leaves):
        split *= 2
    left, right = root_by_definition(leaves[:split]), root_by_definition(leaves[split:])
    return hashlib.sha256(b"\x01" + left + right).digest()


def build(size: int) -> tuple[TreeBuilder, dict[Tile, bytes]]:
    builder = TreeBuilder()
    tiles = dict(builder.append(LEAVES[:size]))
    tiles |= dict(builder.edge())
    return builder, tiles


def test_the_empty_tree() -> None:
    assert TreeBuilder().root() == EMPTY_ROOT == root_by_definition([])
    assert list(edge_tiles(0)) == []


@settings(deadline=None)
@given(SIZES)
def test_the_root_is_that_of_rfc_6962(size: int) -> None:
    wanted = root_by_definition(LEAVES[:size])
    assert build(size)[0].root() == wanted
    assert root_of(LEAVES[:size]) == wanted


@pytest.mark.parametrize("size", LARGE)
def test_a_tree_of_three_levels(size: int) -> None:
    builder, tiles = build(size)
    assert builder.root() == root_by_definition(LEAVES[:size])
    proof = prove_consistency(65000, size, tiles.__getitem__)
    assert consistent(65000, root_of(LEAVES[:65000]), size, builder.root(), proof)


@settings(deadline=None)
@given(st.lists(st.integers(1, 600), min_size=1, max_size=5))
def test_a_tree_continued_from_its_tiles_is_the_tree_built_at_once(parts: list[int]) -> None:
    stored: dict[Tile, bytes] = {}
    size = 0
    for part in parts:
        builder = TreeBuilder(size, stored.__getitem__)
        stored |= dict(builder.append(LEAVES[size : size + part]))
        stored |= dict(builder.edge())
        size += part
    whole, tiles = build(size)
    assert builder.root() == whole.root()
    assert tiles.items() <= stored.items()


@settings(deadline=None)
@given(SIZES, st.data())
def test_every_prefix_is_proven_and_nothing_else(size: int, data: st.DataObject) -> None:
    builder, tiles = build(size)
    old = data.draw(st.integers(1, size))
    old_root = root_of(LEAVES[:old])
    proof = prove_consistency(old, size, tiles.__getitem__)
    assert consistent(old, old_root, size, builder.root(), proof)
    assert not consistent(old, leaf(-1), size, builder.root(), proof)
    assert not consistent(old, old_root, size, leaf(-1), proof)
    if proof:
        place = data.draw(st.integers(0, len(proof) - 1))
        changed = [*proof[:place], leaf(-1), *proof[place + 1 :]]
        assert not consistent(old, old_root, size, builder.root(), changed)
        assert not consistent(old, old_root, size, builder.root(), proof[:-1])
    assert not consistent(old, old_root, size, builder.root(), [*proof, leaf(-1)])


def test_a_shorter_tree_is_never_consistent_with_a_longer_one() -> None:
    assert not consistent(5, leaf(1), 4, leaf(2), [])
    assert not consistent(0, EMPTY_ROOT, 4, leaf(2), [])


@pytest.mark.parametrize(
    ("tile", "path"),
    [
        (Tile(0, 0, 256), "tile/0/000"),
        (Tile(0, 67, 12), "tile/0/067.p/12"),
        (Tile(1, 1234, 256), "tile/1/x001/234"),
        (Tile(0, 1234067, 256), "tile/0/x001/x234/067"),
    ],
)
def test_tiles_stand_where_tlog_tiles_puts_them(tile: Tile, path: str) -> None:
    assert tile.path == path


@settings(deadline=None)
@given(st.integers(1, 2**40))
def test_edge_tiles_are_the_partial_ones(size: int) -> None:
    tiles = list(edge_tiles(size))
    for tile in tiles:
        assert 0 < tile.width < 256
        assert tile_at(tile.level, tile.index, size) == tile
    assert sum(tile.width << 8 * tile.level for tile in tiles) == size  # its digits to base 256
