from __future__ import annotations

import random

import pytest

from ansible_collections.apgms.release.plugins.module_utils.domain.ledger.extent import (
    EXTENT_IDS,
    Extent,
    IdRange,
    Scan,
    at_places,
    compress,
    differences,
    expand,
    extents,
    parse_extent,
    scans,
    whole,
)


def ids_of(found: list[Extent]) -> list[int]:
    return [each for one in found for each in expand(one.ranges())]


def test_runs_say_in_turn_how_many_ids_are_there_and_missing() -> None:
    [one] = extents([[5, 6, 7, 10]])
    assert one == Extent(5, 10, 4, "3 2 1")
    assert list(one.ranges()) == [IdRange(5, 7), IdRange(10, 10)]
    assert parse_extent("5", "3 2 1") == one


@pytest.mark.parametrize("kept", [0.02, 0.5, 0.95, 1.0])
def test_any_ids_come_back_from_their_extents(kept: float) -> None:
    chance = random.Random(1)
    ids = [each for each in range(-500, 9000) if chance.random() < kept]
    portions = [ids[:1700], ids[1700:1701], [], ids[1701:]]
    found = extents(portions)
    assert ids_of(found) == ids
    assert [parse_extent(str(one.first), one.runs) for one in found] == found
    assert all(one.gapless or one.size <= EXTENT_IDS for one in found)
    assert sum(one.size for one in found) == len(ids)


def test_neighbours_without_a_gap_are_one_extent() -> None:
    assert extents([range(1, 5001), range(5001, 7000)]) == [whole(1, 6999)]
    ids = [*range(1, 4500), *range(4501, 9000)]
    assert [one.gapless for one in extents([ids])] == [True, False, True]


@pytest.mark.parametrize("runs", ["", "0", "1 1", "1 0 1", "3 -1 1", "1  1 1", "x", "1 1 0"])
def test_runs_that_are_none_are_refused(runs: str) -> None:
    with pytest.raises(ValueError):
        parse_extent("1", runs)


def test_ids_as_ranges() -> None:
    assert compress([]) == []
    assert compress([1, 2, 3, 7, 9, 10]) == [IdRange(1, 3), IdRange(7, 7), IdRange(9, 10)]


def test_a_scan_reads_ascending_ranges() -> None:
    ranges = [IdRange(5, 6), IdRange(7, 9), IdRange(20, 20), IdRange(3, 3)]
    assert list(scans(ranges)) == [
        Scan(IdRange(5, 20), (IdRange(5, 9), IdRange(20, 20))),
        Scan(IdRange(3, 3)),
    ]


def some_ids(chance: random.Random, kept: float) -> list[int]:
    ends = [-(2**63), -(2**63) + 1, 2**63 - 2, 2**63 - 1]
    return [each for each in sorted([*ends, *range(200)]) if chance.random() < kept]


@pytest.mark.parametrize("seed", range(40))
def test_differences_are_those_of_sets(seed: int) -> None:
    chance = random.Random(seed)
    ones, others = (some_ids(chance, chance.choice([0.0, 0.1, 0.5, 0.9, 1.0])) for _ in range(2))
    found = list(differences(compress(ones), compress(others)))
    for which, ids, rest in ((True, ones, others), (False, others, ones)):
        alone = [each for each, is_first in found if is_first == which]
        assert list(expand(alone)) == sorted(set(ids) - set(rest))


@pytest.mark.parametrize("seed", range(40))
def test_ids_at_places(seed: int) -> None:
    chance = random.Random(seed)
    ids = some_ids(chance, 0.7)
    ends = sorted(chance.sample(range(len(ids) + 20), 8))
    places = list(zip(ends[::2], ends[1::2], strict=True))
    cut = [IdRange(each, each) for each in ids] if seed % 2 else compress(ids)
    found = list(at_places(cut, places))
    assert found == [compress(ids[first:end]) for first, end in places]


def test_huge_ranges_cost_nothing() -> None:
    huge = [IdRange(1, 2**60), IdRange(2**61, 2**62)]
    assert list(differences(huge, [IdRange(5, 5)]))[1:] == [
        (IdRange(6, 2**60), True),
        (huge[1], True),
    ]
    assert list(at_places(huge, [(2**60 - 1, 2**60 + 1)])) == [
        [IdRange(2**60, 2**60), IdRange(2**61, 2**61)]
    ]
