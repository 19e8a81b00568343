# GNU General Public License v3.0+ (see COPYING)
"""Signer files, policies, manifests and flags: why each mutation is refused."""

from __future__ import annotations

import random
from collections.abc import Iterator
from functools import partial
from typing import Any

from ansible_collections.apgms.release.plugins.module_utils.domain.approval import flags as rules
from ansible_collections.apgms.release.plugins.module_utils.domain.approval.signers import (
    parse_signer_line,
)
from ansible_collections.apgms.release.plugins.module_utils.domain.approval.statement import (
    parse_statement,
    require_subject,
)
from ansible_collections.apgms.release.plugins.module_utils.domain.formats.canonical import (
    canonical,
    parse_canonical,
)
from ansible_collections.apgms.release.plugins.module_utils.domain.release.manifest import (
    parse_manifest,
)
from ansible_collections.apgms.release.plugins.module_utils.errors import ApgmsError
from ansible_collections.apgms.release.plugins.module_utils.usecases.approvals.policy import (
    load_policy,
)
from tests.approvals import run_of
from tests.fuzz.mutations import STRINGS, bytes_of, mutate_bytes, mutate_document
from tests.fuzz.world import OTHERS, World, public_key, reason_of


def signer_files(world: World, rng: random.Random, count: int) -> Iterator[str | None]:
    """Lines of allowed_signers, in the policy that is in force."""
    lines = world.document["allowed_signers"]
    for _ in range(count):
        position = rng.randrange(len(lines))
        line = lines[position]
        while _same_line(line, lines[position]):
            line = _changed_line(world, rng, lines[position])
        changed = [*lines[:position], line, *lines[position + 1 :]]
        yield _loaded(world, canonical({**world.document, "allowed_signers": changed}))


def policies(world: World, rng: random.Random, count: int) -> Iterator[str | None]:
    """Any part of the policy: edited, swapped, shortened, older, or a successor unsigned."""
    data = canonical(world.document)
    successor = {"version": 3, "previous": world.policy.digest}
    others: list[dict[str, Any]] = [
        successor,
        {**successor, "previous": "ab" * 32},
        {**successor, "version": 4},
        {"version": 1, "previous": None},
        {"stack": "proto"},
        {"quorums": {**world.document["quorums"], "release": {"signatures": 99, "roles": []}}},
    ]
    for _ in range(count):
        kind = rng.randrange(5)
        changed = data
        while changed == data:
            if kind == 0:
                changed = canonical({**world.document, **rng.choice(others)})
            elif kind < 3:
                changed = mutate_bytes(rng, data)
            else:
                changed = bytes_of(mutate_document(rng, world.document))
        yield _loaded(world, changed)


def manifests(world: World, rng: random.Random, count: int) -> Iterator[str | None]:
    """Manifests: refused under their checksum, or another one than the approval names."""
    data = world.manifest.to_bytes()
    checksum = world.manifest.checksum
    document = parse_canonical(data)
    approval = parse_statement(canonical(world.statement("release")), "control")

    def require_approved(changed: bytes) -> None:
        manifest = parse_manifest(changed, where="case", stack="prod")
        subject = {"manifest_sha256": manifest.checksum, **run_of(manifest)}
        require_subject(approval, "prod", subject, "approval")

    for _ in range(count):
        changed = data
        while changed == data:
            kind = rng.randrange(10)
            if kind == 0:
                other = rng.choice([{"stack": "proto"}, {"schema": "apgms.release/manifest/2"}])
                changed = canonical({**document, **other})
            elif kind < 5:
                changed = mutate_bytes(rng, data)
            else:
                changed = bytes_of(mutate_document(rng, document))
        if rng.random() < 0.3:
            yield reason_of(partial(parse_manifest, changed, where="case", checksum=checksum))
        else:
            yield reason_of(partial(require_approved, changed))


def flags(world: World, rng: random.Random, count: int) -> Iterator[str | None]:
    """A flag of either stack, or the stack itself, stated otherwise in any place."""
    del world
    made = 0
    while made < count:
        stack, purpose, word = rng.choice([("prod", "release", "0"), ("proto", "prototype", "1")])
        name = "DRY_RUN" if stack == "proto" else rng.choice(["SEED", "SMOKE", "DRY_RUN", "STACK"])
        value = rng.choice([*_FLAG_VALUES, rng.choice(STRINGS), str(rng.randrange(-9, 99))])
        place = rng.choice(["inventory", "variables", "environment", "file"])
        if rng.random() < 0.2:
            place, value = "inventory", None
        if name == "STACK":
            place, value = "environment", rng.choice(["proto", "PROD", "production"])
        if _same_flag(value, word, place):
            continue
        made += 1
        stated = dict.fromkeys(("SEED", "SMOKE", "DRY_RUN"), word)
        yield reason_of(partial(resolve, stack, purpose, stated, name, value, place))


def resolve(
    stack: str, purpose: str, stated: dict[str, str], name: str, value: Any, place: str
) -> None:
    """Resolve a run whose inventory states ``stated``, and one place says otherwise."""
    inventory: dict[str, Any] = dict(stated)
    settings: list[rules.Setting] = []
    if place == "inventory":
        inventory[name] = value
    elif place == "variables":
        settings = rules.from_variables({name: value})
    elif place == "environment":
        settings = rules.from_environment({name: value})
    else:
        settings = rules.from_env_file(f".env.{stack}", f"{name}={value}\n")
    rules.resolve(rules.Inventory(stack, inventory), purpose, settings)


_FLAG_VALUES: tuple[Any, ...] = (
    0, 1, 2, True, False, None, "0", "1", "true", "True", "YES", "on", "no", "Off", "false", "y",
    "n", "t", "f", "enabled", "01", "1.0", " 1", "1 ", "0x1", "-1", 1.0, [], {}, "true;", "\uff12",
)  # fmt: skip
_WORDS = {"0": ("0", "false", "no", "off"), "1": ("1", "true", "yes", "on")}


def _same_flag(value: Any, word: str, place: str) -> bool:
    """Say whether a value there means ``word``, or nothing at all."""
    if place != "inventory" and (value is None or value == ""):
        return True
    if place == "file":
        return not (isinstance(value, str) and value.isalnum()) or value.lower() in _WORDS[word]
    if isinstance(value, bool):
        return value == (word == "1")
    if isinstance(value, str):
        return value.lower() in _WORDS[word]
    return type(value) is int and str(value) == word


def _loaded(world: World, data: bytes) -> str | None:
    path = world.folder / "changed" / "policy.json"
    path.parent.mkdir(exist_ok=True)
    path.write_bytes(data)
    return reason_of(lambda: load_policy(world.connection, str(path), "prod"))


def _changed_line(world: World, rng: random.Random, line: str) -> str:
    principal, _, rest = line.partition(" ")
    options, _, key = rest.partition(" ")
    other = rng.choice(list(OTHERS))
    patterns = ("*", f"{principal}*", f"?{principal}", f"{principal},{other}", f"!{principal}")
    return rng.choice(
        [
            mutate_bytes(rng, line.encode()).decode("latin-1"),
            f"{rng.choice(patterns)} {rest}",
            f"{principal} cert-authority,{rest}",
            f"{principal} {key}",
            f'{principal} namespaces="{rng.choice(["git", "file", "apgms-*"])}" {key}',
            f'{principal} valid-after="20260101",{rest}',
            f"{principal} no-touch-required,{rest}",
            f"{other} {rest}",
            f"nobody {rest}",
            f"{principal} {options} {public_key(world.keys.person(other))}",
            f"{principal} {options} {world.weak_key}",
            f"{principal} {options} {key}AAAA",
        ]
    )


def _same_line(line: str, other: str) -> bool:
    try:
        return parse_signer_line(line, "case") == parse_signer_line(other, "case")
    except ApgmsError:
        return False
