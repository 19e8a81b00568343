# GNU General Public License v3.0+ (see COPYING)
"""Statements and signatures: each function yields, for each mutation, why it does not count."""

from __future__ import annotations

import random
from collections.abc import Iterator
from datetime import timedelta
from typing import Any

from ansible_collections.apgms.release.plugins.module_utils.domain.approval.statement import (
    SUBJECTS,
    parse_statement,
)
from ansible_collections.apgms.release.plugins.module_utils.domain.formats.canonical import (
    canonical,
    sha256_hex,
)
from ansible_collections.apgms.release.plugins.module_utils.errors import ApgmsError
from ansible_collections.apgms.release.plugins.module_utils.usecases.approvals.approvals import (
    consume,
    require_statement,
)
from ansible_collections.apgms.release.plugins.module_utils.usecases.approvals.statements import (
    read_statements,
)
from tests.approvals import NOW
from tests.fuzz.mutations import (
    Pen,
    armor,
    bytes_of,
    meaning,
    mutate_bytes,
    mutate_document,
)
from tests.fuzz.world import Pair, World, stamp

BATCH = 100
"""Statements that stand in the folder at once."""


def texts(world: World, rng: random.Random, count: int) -> Iterator[str | None]:
    """Release statements whose text was changed after signing."""
    sound = world.statement("release")
    data, signature = world.signed(sound)
    cases: list[Pair] = []
    while len(cases) < count:
        changed = (
            mutate_bytes(rng, data) if rng.random() < 0.4 else bytes_of(mutate_document(rng, sound))
        )
        if changed != data:
            cases.append((changed, signature))
    yield from _judged(world, cases)


def signed_wrongly(world: World, rng: random.Random, count: int) -> Iterator[str | None]:
    """Statements with a true signature, wrong in what they say or in who signed them."""
    yield from _judged(world, [_signed_wrongly(world, rng) for _ in range(count)])


def prototypes(world: World, rng: random.Random, count: int) -> Iterator[str | None]:
    """Prototype approvals of other runs, superseded ones, and such of the wrong stack."""
    cases: list[Pair] = []
    for _ in range(count):
        document = world.statement("prototype")
        space = "apgms-approval-proto"
        wrong = rng.choice([*SUBJECTS["prototype"][1:], "stack", "space", "superseded"])
        if wrong == "superseded":
            document["not_before"] = stamp(NOW - timedelta(minutes=rng.randrange(2, 900)))
            document["subject"]["manifest_sha256"] = sha256_hex(rng.randbytes(8))
        elif wrong == "stack":
            document["stack"] = "prod"
        elif wrong == "space":
            space = "apgms-approval-prod"
        else:
            document["subject"][wrong] += rng.choice("0123456789")
        data = canonical(document)
        cases.append((data, world.pens["auditor"].sign(space, data)))
    newest = world.statement("prototype", not_before=stamp(NOW))
    yield from _judged(world, cases, [world.signed(newest)], kind="prototype")


def signatures(world: World, rng: random.Random, count: int) -> Iterator[str | None]:
    """Signature files of a valid text: bytes and parts changed, other keys, other namespaces."""
    data, signature = world.signed(world.statement("release"))
    cases: list[Pair] = []
    while len(cases) < count:
        changed = _changed_signature(world.pens, rng, data, signature)
        if changed is None or meaning(changed) != meaning(signature):
            cases.append((data, changed))
    yield from _judged(world, cases)


def uses(world: World, rng: random.Random, count: int) -> Iterator[str | None]:
    """Good statements that were used, of the operator himself, or of who has signed already."""
    used: list[Pair] = [world.signed(world.statement("release")) for _ in range(5)]
    world.put(used)
    consume(world.connection, read_statements(world.statements)[0], world.manifest.checksum)
    cases = []
    for _ in range(count):
        signer = rng.choice(["olivia2", "audrey2", None])
        cases.append(
            world.signed(world.statement("release", signer)) if signer else rng.choice(used)
        )
    yield from _judged(world, cases, [world.signed(world.statement("release"))])


def permits(world: World, rng: random.Random, count: int) -> Iterator[str | None]:
    """Overrides of other windows, without a reason, or with members of another kind."""
    asked: dict[str, str | None] = {"release_window": "202603020000"}
    for _ in range(count):
        document = world.statement("override", "approver", subject=dict(asked))
        wrong = rng.randrange(3)
        if wrong == 0:
            document["subject"]["release_window"] = f"2026030{rng.randrange(3, 9)}0000"
        elif wrong == 1:
            document["reason"] = " " * rng.randrange(3)
        else:
            document["subject"] = {"lease_token": "202603020000"}
        world.put([world.signed(document)])
        yield _permit_refusal(world, asked)


def _permit_refusal(world: World, asked: dict[str, str | None]) -> str | None:
    try:
        require_statement(
            world.connection, world.policy, world.statements, "override", asked, NOW, "operator"
        )
    except ApgmsError as error:
        reason: str = error.details["refusals"][0]["reason"]
        return reason
    return None


def _signed_wrongly(world: World, rng: random.Random) -> tuple[bytes, bytes]:
    wrong = rng.randrange(9)
    if wrong == 0:
        pen = rng.choice(["stranger", "approver", "operator"])
        return world.signed(world.statement("release"), pen)
    if wrong == 1:
        signer = rng.choice(["former", "early", "late", "narrow", "operator"])
        return world.signed(world.statement("release", signer))
    if wrong == 2:
        signer = rng.choice(["nobody", "mallory", "audrey"])
        return world.signed(world.statement("release", signer), "stranger")
    document = world.statement("release")
    if wrong == 3:
        document["stack"] = "proto"
    elif wrong == 4:
        document["expires_at"] = stamp(NOW - timedelta(seconds=rng.randrange(50)))
    elif wrong == 5:
        document["not_before"] = stamp(NOW + timedelta(seconds=rng.randrange(1, 3000)))
    elif wrong == 6:
        document["expires_at"] = stamp(NOW + timedelta(minutes=rng.randrange(240, 9000)))
    else:
        name = rng.choice(list(document["subject"]))
        document["subject"][name] = sha256_hex(rng.randbytes(8))
    return world.signed(document)


def _changed_signature(
    pens: dict[str, Pen], rng: random.Random, data: bytes, signature: bytes
) -> bytes | None:
    kind = rng.randrange(10)
    if kind == 0:
        return None
    if kind < 4:
        return mutate_bytes(rng, signature)
    if kind < 8:
        parts = pens["auditor"].parts("apgms-approval-prod", data)
        place = rng.randrange(len(parts))
        parts[place] = mutate_bytes(rng, parts[place])
        return armor(parts, rng.choice((1, 1, 1, 0, 2)))
    if kind == 8:
        spaces = ("apgms-approval-proto", "apgms-policy-prod", "apgms-intent-prod", "file", "")
        return pens["auditor"].sign(rng.choice(spaces), data)
    pen = rng.choice([name for name in pens if name != "auditor"])
    return pens[pen].sign("apgms-approval-prod", data)


def _judged(
    world: World,
    cases: list[Any],
    sound: list[tuple[bytes, bytes]] | None = None,
    kind: str = "release",
) -> Iterator[str | None]:
    """Yield why each case does not count, while ``sound`` stands beside it and does."""
    if kind == "release":
        sound = [world.signed(world.statement("prototype")), *(sound or [])]
    for start in range(0, len(cases), BATCH):
        batch = cases[start : start + BATCH]
        names = world.put([*(sound or []), *batch])
        refused, counted = _verdicts(world)
        assert set(names[: len(sound or [])]) <= counted, "a sound statement was refused"
        for name, (data, _) in zip(names[len(sound or []) :], batch, strict=True):
            accepted = name in counted
            yield None if accepted else refused.get(name) or _of_another_kind(data, kind)


def _verdicts(world: World) -> tuple[dict[str, str], set[str]]:
    reviews = world.reviews()
    refused = {
        refusal.where.removesuffix(".sig"): refusal.reason
        for review in reviews
        for refusal in review.refusals
    }
    return refused, {signed.where for review in reviews for signed in review.counted}


def _of_another_kind(data: bytes, kind: str) -> str | None:
    """A statement of another kind is not looked at when this kind is asked for."""
    return "another kind" if parse_statement(data, "case").kind != kind else None
