# GNU General Public License v3.0+ (see COPYING)
"""The catalog file, and which catalog is the newest that covers a period."""

from __future__ import annotations

import json
from collections.abc import Callable
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest

from ansible_collections.apgms.release.plugins.module_utils.domain.tax.periods import (
    parse_period_id,
)
from ansible_collections.apgms.release.plugins.module_utils.domain.tax.rates import (
    Bracket,
    Catalog,
    newest_covering,
    parse_catalog,
)
from ansible_collections.apgms.release.plugins.module_utils.errors import ApgmsError
from ansible_collections.apgms.release.plugins.module_utils.ports.folder_store import FolderStore
from ansible_collections.apgms.release.plugins.module_utils.ports.object_store import ObjectConflict
from ansible_collections.apgms.release.plugins.module_utils.ports.overlay_store import OverlayStore
from ansible_collections.apgms.release.plugins.module_utils.usecases.rates import (
    newest_kept,
    publish,
    pull,
)
from services.rates.__main__ import SHIPPED
from tests.conftest import SHARED

SHIPPED_VERSIONS = ["2020-21", "2024-25"]


def document(version: str = "2024-25", **changes: Any) -> dict[str, Any]:
    shipped = json.loads((SHIPPED / "2024-25" / "catalog.json").read_bytes())
    return {**shipped, "rates_version": version, **changes}


def catalog(version: str = "2024-25", **changes: Any) -> Catalog:
    return parse_catalog(json.dumps(document(version, **changes)).encode())


def write(folder: Path, version: str, **changes: Any) -> Path:
    """A folder to publish from, with one more catalog in it."""
    (folder / version).mkdir(parents=True)
    (folder / version / "catalog.json").write_text(json.dumps(document(version, **changes)))
    return folder


@pytest.fixture
def store(tmp_path: Path) -> FolderStore:
    """An object store with the shipped catalogs."""
    made = FolderStore(tmp_path / "store")
    assert publish(made, SHIPPED) == SHIPPED_VERSIONS
    return made


@pytest.fixture
def kept(tmp_path: Path) -> FolderStore:
    return FolderStore(tmp_path / "libs" / "rates")


@pytest.mark.skipif(not SHARED.exists(), reason="the published figures are not on this machine")
@pytest.mark.parametrize("number", [0, 1])
def test_the_shipped_figures_are_the_published_ones(number: int) -> None:
    facts = json.loads(
        (SHARED / "facts" / "tax_rates.json").read_text(), parse_float=Decimal, parse_int=Decimal
    )
    published = facts["versions"][number]
    version = published["rates_version"]
    shipped = parse_catalog((SHIPPED / version / "catalog.json").read_bytes())
    for name, brackets in shipped.scales.items():
        assert brackets == tuple(Bracket(*row) for row in published[name])
    assert shipped.no_tfn == published["scale4"]
    assert shipped.gst["GST"] == Decimal(facts["gst"]["rate"])
    assert set(shipped.gst) == set(facts["gst"]["codes"])
    assert list(shipped.unverified) == published.get("unverified", [])
    assert str(shipped.effective_from) == published["effective_from"]
    assert str(shipped.effective_to) == published["effective_to"]
    assert str(shipped.published) == published["published"]


def paygw(change: Callable[[dict[str, Any]], None]) -> dict[str, Any]:
    scales: dict[str, Any] = document()["paygw"]
    change(scales)
    return {"paygw": scales}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"schema": "apgms.release/rates/2"}, "schema"),
        ({"effective_from": "2026-07-01"}, "is after"),
        ({"effective_to": "2026-06-31"}, "day is out of range"),
        ({"published": "yesterday"}, "published"),
        ({"extra": 1}, "unknown members"),
        ({"gst": {"GST": "10"}}, "gst"),
        ({"gst": {"GST": 0.1}}, "gst"),
        (paygw(lambda scales: scales.pop("scale6")), "lacks members"),
        (paygw(lambda scales: scales["scale3"].pop()), "exactly the last bound must be null"),
        (paygw(lambda scales: scales["scale3"].clear()), "exactly the last bound must be null"),
        (paygw(lambda scales: scales["scale2"].insert(0, ["900", "0", "0"])), "do not ascend"),
        (paygw(lambda scales: scales["scale2"][1].pop()), "not [bound, a, b]"),
        (paygw(lambda scales: scales["scale2"][1].__setitem__(2, None)), "not [bound, a, b]"),
        (paygw(lambda scales: scales["scale2"][1].__setitem__(1, 0.16)), "scale2"),
    ],
)
def test_a_malformed_catalog_is_named(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError) as error:
        catalog(**changes)
    assert message in str(error.value)


def test_newest_is_the_one_published_last_that_covers_every_period() -> None:
    old = catalog("b", published="2024-06-16")
    new = catalog("a", published="2024-06-17")
    short = catalog("c", published="2025-01-01", effective_to="2025-09-29")
    september, august = parse_period_id("2025-09"), parse_period_id("2025-08")
    assert newest_covering([old, short, new], [september]) == new
    assert newest_covering([old, short, new], [august]) == short
    assert newest_covering([old, short, new], [august, september]) == new
    assert newest_covering([short], [september]) is None


def test_pull_keeps_the_newest_and_then_changes_nothing(
    store: FolderStore, kept: FolderStore, tmp_path: Path
) -> None:
    pulled = pull(store, kept, ["2025-09", "2026-Q2"])
    assert (pulled.before, list(pulled.after)) == ({}, ["2024-25"])
    folder = tmp_path / "libs" / "rates" / "2024-25"
    assert (folder / "catalog.json").read_bytes() == (
        SHIPPED / "2024-25" / "catalog.json"
    ).read_bytes()
    again = pull(store, kept, ["2025-09"])
    assert again.before == again.after == pulled.after
    assert newest_kept(folder.parent, ["2025-09"]) == pulled.catalog
    assert pull(store, kept, ["2024-Q1"]).catalog.rates_version == "2020-21"


def test_in_check_mode_nothing_is_kept(store: FolderStore, kept: FolderStore) -> None:
    predicted = pull(store, OverlayStore(kept), ["2025-09"])
    assert list(kept.keys("")) == []
    assert pull(store, kept, ["2025-09"]) == predicted


def test_publishing_again_changes_nothing_and_never_overwrites(
    store: FolderStore, tmp_path: Path
) -> None:
    assert publish(store, SHIPPED) == []
    with pytest.raises(ObjectConflict):
        publish(store, write(tmp_path / "new", "2024-25", source="elsewhere"))


@pytest.mark.parametrize(
    ("periods", "reason"),
    [
        (["2026-07"], "rates.not_covering"),
        (["2026Q3"], "rates.not_covering"),
        (["2020Q4"], "rates.not_covering"),  # its first twelve days precede the oldest catalog
        (["2024-06", "2024-07"], "rates.not_covering"),
        (["2025-9"], "period.malformed"),
    ],
)
def test_periods_that_no_catalog_covers_are_refused(
    store: FolderStore, kept: FolderStore, periods: list[str], reason: str
) -> None:
    with pytest.raises(ApgmsError) as error:
        pull(store, kept, periods)
    assert error.value.reason == reason
    assert list(kept.keys("")) == []


def test_an_empty_store_is_named(tmp_path: Path, kept: FolderStore) -> None:
    with pytest.raises(ApgmsError, match=r"services\.rates publish") as error:
        pull(FolderStore(tmp_path / "empty"), kept, ["2025-09"])
    assert error.value.reason == "rates.none_published"


def test_a_folder_that_nothing_was_pulled_into_is_named(tmp_path: Path) -> None:
    with pytest.raises(ApgmsError, match="make pull-rates") as error:
        newest_kept(tmp_path, [])
    assert error.value.reason == "rates.none_published"
    assert "one that covers the periods is needed" in str(error.value)


def test_a_folder_without_a_catalog_publishes_nothing(tmp_path: Path, store: FolderStore) -> None:
    with pytest.raises(ApgmsError) as error:
        publish(store, tmp_path / "misspelt")
    assert error.value.reason == "rates.none_to_publish"


@pytest.mark.parametrize("version", SHIPPED_VERSIONS)
@pytest.mark.parametrize(
    ("name", "reason"),
    [("catalog.json", "rates.tampered"), ("rates.bundle.sha256", "rates.tampered")],
)
def test_a_tampered_catalog_refuses_all(
    store: FolderStore, kept: FolderStore, tmp_path: Path, version: str, name: str, reason: str
) -> None:
    file = tmp_path / "store" / "rates" / version / name
    file.write_bytes(file.read_bytes().replace(b"0", b"1", 1) + b"\n")
    with pytest.raises(ApgmsError) as error:
        pull(store, kept, ["2025-09"])
    assert error.value.reason in {reason, "rates.malformed"}
    assert version in str(error.value)
    assert list(kept.keys("")) == []


def test_a_changed_rate_is_found(store: FolderStore, kept: FolderStore, tmp_path: Path) -> None:
    file = tmp_path / "store" / "rates" / "2024-25" / "catalog.json"
    file.write_text(file.read_text().replace('"0.3227"', '"0.3228"'))
    with pytest.raises(ApgmsError) as error:
        pull(store, kept, ["2025-09"])
    assert error.value.reason == "rates.tampered"


@pytest.mark.parametrize("name", ["catalog.json", "rates.bundle.sha256"])
def test_an_incomplete_catalog_refuses_all(
    store: FolderStore, kept: FolderStore, tmp_path: Path, name: str
) -> None:
    (tmp_path / "store" / "rates" / "2020-21" / name).unlink()
    with pytest.raises(ApgmsError, match=f"{name} is missing") as error:
        pull(store, kept, ["2025-09"])
    assert error.value.reason == "rates.incomplete"


def test_a_catalog_in_the_wrong_folder_is_refused(kept: FolderStore, tmp_path: Path) -> None:
    folder = write(tmp_path / "new", "2025-26")
    (folder / "2025-26").rename(folder / "2026-27")
    with pytest.raises(ApgmsError, match="folder 2026-27 says 2025-26") as error:
        publish(kept, folder)
    assert error.value.reason == "rates.malformed"


def test_an_older_catalog_than_the_kept_one_is_refused(
    store: FolderStore, kept: FolderStore, tmp_path: Path
) -> None:
    newer = FolderStore(tmp_path / "newer")
    publish(newer, write(tmp_path / "new", "2025-26", published="2025-06-15"))
    assert pull(newer, kept, ["2025-09"]).catalog.rates_version == "2025-26"
    with pytest.raises(ApgmsError, match="2025-26, kept here, on 2025-06-15") as error:
        pull(store, kept, ["2025-09"])
    assert error.value.reason == "rates.older"


def test_a_version_published_twice_is_refused(
    store: FolderStore, kept: FolderStore, tmp_path: Path
) -> None:
    other = FolderStore(tmp_path / "other")
    publish(other, write(tmp_path / "new", "2024-25", source="elsewhere"))
    pull(other, kept, ["2025-09"])
    with pytest.raises(ApgmsError) as error:
        pull(store, kept, ["2025-09"])
    assert error.value.reason == "rates.republished"
