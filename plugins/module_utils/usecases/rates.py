# GNU General Public License v3.0+ (see COPYING)
"""Publish, pull and read rates catalogs.

The object store holds ``rates/<rates_version>/``, the controller ``<rates_dir>/<rates_version>/``:
folders with the catalog file and its hash file, read by the same code.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from ..domain.tax.periods import PeriodDays, parse_period_id
from ..domain.tax.rates import (
    CATALOG_NAME,
    HASH_NAME,
    VERSION_FORM,
    Catalog,
    newest_covering,
    parse_catalog,
)
from ..errors import ApgmsError
from ..ports.folder_store import FolderStore
from ..ports.object_store import ObjectStore, read

PUBLISHED = "rates/"
"""Prefix of the published catalogs in the object store."""
KEPT = ""
"""Prefix of the kept catalogs in the rates folder."""
_PUBLISH = (
    "PYTHONPATH=.collections .venv/bin/python -m services.rates publish --object-store THE_STORE;"
    " make pull-rates STACK=$STACK"
)


@dataclass(frozen=True)
class Pulled:
    """The catalog that covers the periods; the kept versions, each with its bundle hash."""

    catalog: Catalog
    before: dict[str, str]
    after: dict[str, str]


def pull(store: ObjectStore, kept: ObjectStore, period_ids: Sequence[str]) -> Pulled:
    """Keep the newest published catalog that covers every period.

    :param kept: the rates folder as a store; an overlay of it in check mode
    :raises ApgmsError: ``rates.none_published``, ``rates.incomplete``, ``rates.tampered``,
        ``rates.malformed``, ``rates.not_covering``, ``rates.older``, ``rates.republished``
    """
    periods = [parse_period_id(period_id) for period_id in period_ids]
    published = read_catalogs(store, PUBLISHED)
    known = read_catalogs(kept, KEPT)
    catalog = _covering(published, periods, f"{store.url}/{PUBLISHED}", mend=_PUBLISH)
    _refuse_older(catalog, newest_covering(known, periods), store.url)
    _refuse_republished(catalog, known, store.url)
    _put(kept, KEPT, catalog)
    before = {item.rates_version: item.bundle_sha256 for item in known}
    return Pulled(catalog, before, {**before, catalog.rates_version: catalog.bundle_sha256})


def publish(store: ObjectStore, folder: Path) -> list[str]:
    """Publish every catalog file below ``folder``; return the versions that were new.

    :raises ApgmsError: ``rates.malformed``, ``rates.none_to_publish``; ``object_store.conflict``
        where a version is taken by other bytes, which is never overwritten
    """
    catalogs = _in_folder(folder)
    if not catalogs:
        raise ApgmsError(
            "rates.none_to_publish",
            "Nothing was published",
            where=str(folder),
            why=f"there is no RATES_VERSION/{CATALOG_NAME} below it",
            mend="name the folder that holds them (docs/rates.md, Publish)",
        )
    return [item.rates_version for item in catalogs if _put(store, PUBLISHED, item)]


def newest_shipped(folder: Path, period_ids: Sequence[str]) -> Catalog:
    """Return the newest catalog file below ``folder`` that covers every period.

    :raises ApgmsError: ``rates.malformed``, ``rates.none_published``, ``rates.not_covering``
    """
    periods = [parse_period_id(period_id) for period_id in period_ids]
    return _covering(_in_folder(folder), periods, str(folder), mend=_PUBLISH)


def newest_kept(rates_dir: Path, period_ids: Sequence[str]) -> Catalog:
    """Return the newest kept catalog that covers every period, verified.

    :raises ApgmsError: ``rates.none_published``, ``rates.not_covering`` and what
        :func:`read_catalogs` raises
    """
    periods = [parse_period_id(period_id) for period_id in period_ids]
    kept = read_catalogs(FolderStore(rates_dir), KEPT)
    return _covering(kept, periods, str(rates_dir), mend="make pull-rates STACK=$STACK")


def read_catalogs(store: ObjectStore, prefix: str) -> list[Catalog]:
    """Return every catalog below ``prefix``, each verified against its hash file.

    One that cannot be verified refuses all: it might be the newest.

    :raises ApgmsError: ``rates.incomplete``, ``rates.tampered``, ``rates.malformed``
    """
    found: dict[str, set[str]] = {}
    for key in store.keys(prefix):
        version, _slash, name = key.removeprefix(prefix).partition("/")
        if VERSION_FORM.fullmatch(version) and name in (CATALOG_NAME, HASH_NAME):
            found.setdefault(version, set()).add(name)
    return [_read_catalog(store, prefix, version, names) for version, names in found.items()]


def _in_folder(folder: Path) -> list[Catalog]:
    files = sorted(folder.glob(f"*/{CATALOG_NAME}"))
    return [_parsed(file.read_bytes(), file.parent.name, str(file)) for file in files]


def _read_catalog(store: ObjectStore, prefix: str, version: str, names: set[str]) -> Catalog:
    where = f"{store.url}/{prefix}{version}"
    missing = {CATALOG_NAME, HASH_NAME} - names
    if missing:
        raise ApgmsError(
            "rates.incomplete",
            "A rates catalog is incomplete",
            where=where,
            why=f"{', '.join(missing)} is missing",
            mend="publish this version again; a kept one: remove its folder and pull again",
        )
    catalog = _parsed(read(store, f"{prefix}{version}/{CATALOG_NAME}"), version, where)
    if read(store, f"{prefix}{version}/{HASH_NAME}") != catalog.hash_file:
        raise ApgmsError(
            "rates.tampered",
            "A rates catalog is not the one that was published",
            where=where,
            why=f"{HASH_NAME} does not name the SHA-256 of {CATALOG_NAME}, {catalog.bundle_sha256}",
            mend=f"(cd {version} && sha256sum -c {HASH_NAME})  # then ask its publisher which"
            " file was changed, and use neither until it is known",
        )
    return catalog


def _parsed(data: bytes, version: str, where: str) -> Catalog:
    try:
        catalog = parse_catalog(data)
        if catalog.rates_version != version:
            raise ValueError(f"the file in folder {version} says {catalog.rates_version}")
    except ValueError as error:
        raise ApgmsError(
            "rates.malformed",
            "A rates catalog cannot be read",
            where=where,
            why=str(error),
            mend="ask its publisher for a correct file; docs/rates.md describes the format",
        ) from None
    return catalog


def _covering(
    catalogs: list[Catalog], periods: list[PeriodDays], where: str, *, mend: str
) -> Catalog:
    catalog = newest_covering(catalogs, periods)
    if catalog:
        return catalog
    wanted = ", ".join(period.period_id for period in periods) or "the periods"
    if not catalogs:
        raise ApgmsError(
            "rates.none_published",
            "There is no rates catalog",
            where=where,
            why=f"no version is there; one that covers {wanted} is needed",
            mend=mend,
        )
    spans = (
        f"{item.rates_version} ({item.effective_from} to {item.effective_to})" for item in catalogs
    )
    raise ApgmsError(
        "rates.not_covering",
        "No rates catalog covers the periods",
        where=where,
        why=f"{wanted} needs one catalog for every day; there is {', '.join(spans)}",
        mend="publish the catalog of these periods, or correct apgms_periods",
    )


def _refuse_older(catalog: Catalog, kept: Catalog | None, url: str) -> None:
    if kept and kept.age > catalog.age:
        raise ApgmsError(
            "rates.older",
            "The published rates catalog is older than the one kept here",
            where=f"{url}/{PUBLISHED}{catalog.rates_version}",
            why=f"it was published on {catalog.published}; {kept.rates_version}, kept here, on"
            f" {kept.published}",
            mend=f"publish {kept.rates_version} there again, or find out who took it away",
        )


def _refuse_republished(catalog: Catalog, known: list[Catalog], url: str) -> None:
    for kept in known:
        if kept.rates_version == catalog.rates_version and kept.data != catalog.data:
            raise ApgmsError(
                "rates.republished",
                "A rates version was published twice with other content",
                where=f"{url}/{PUBLISHED}{catalog.rates_version}",
                why=f"its bundle hash is {catalog.bundle_sha256}, that of the one kept here is"
                f" {kept.bundle_sha256}",
                mend="publish corrected rates under a new rates_version",
            )


def _put(store: ObjectStore, prefix: str, catalog: Catalog) -> bool:
    folder = f"{prefix}{catalog.rates_version}"
    new = store.put_new(f"{folder}/{CATALOG_NAME}", catalog.data)
    return store.put_new(f"{folder}/{HASH_NAME}", catalog.hash_file) or new
