# GNU General Public License v3.0+ (see COPYING)
"""Rules that a site adds in its inventory: JMESPath expressions that must be true of a document.

A document is the result of the smoke test, or a manifest. An expression holds when it yields
``true`` and nothing else: a misspelt member yields null, and must not pass for a success.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from ...errors import ApgmsError
from ...libraries import jmespath


@dataclass(frozen=True)
class SiteRule:
    """A rule of the site."""

    name: str
    expression: str


@dataclass(frozen=True)
class SiteVerdict:
    """What the expression of a rule yielded."""

    rule: SiteRule
    found: Any

    @property
    def holds(self) -> bool:
        """Say whether the rule holds."""
        return self.found is True


def parse_site_rules(expressions: Iterable[tuple[str, str]], where: str) -> list[SiteRule]:
    """Return the rules of (name, expression), each compiled once to find what is malformed.

    :param where: the variable that holds them, for the message
    :raises ApgmsError: ``site_rules.malformed``
    """
    rules = [SiteRule(name, expression) for name, expression in expressions]
    for rule in rules:
        try:
            jmespath.compile(rule.expression)
        except jmespath.exceptions.JMESPathError as error:
            raise _malformed(rule, where, error) from None
    return rules


def apply_site_rules(rules: Iterable[SiteRule], document: Any, where: str) -> list[SiteVerdict]:
    """Return what each rule finds in ``document``.

    :raises ApgmsError: ``site_rules.malformed`` where a function gets arguments that it cannot take
    """
    verdicts = []
    for rule in rules:
        try:
            found = jmespath.search(rule.expression, document)
        except jmespath.exceptions.JMESPathError as error:
            raise _malformed(rule, where, error) from None
        verdicts.append(SiteVerdict(rule, found))
    return verdicts


def _malformed(rule: SiteRule, where: str, error: Exception) -> ApgmsError:
    return ApgmsError(
        "site_rules.malformed",
        f"The site rule {rule.name!r} cannot be evaluated",
        where=f"{where}: {rule.expression}",
        why=" ".join(str(error).split()),
        mend="correct the JMESPath expression; it must yield true when the rule holds",
    )
