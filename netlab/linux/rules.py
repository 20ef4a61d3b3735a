"""The rule IR: ONE form for every netfilter ruleset, whoever wrote it (nft's tables: linux/nft.py).

    Ruleset -> Table (family, name) -> Chain (base: hook, priority, policy; or regular) -> Rule (matches, target)

Law: `str(rule)` is the tool's own syntax and `parse(str(rule)) == rule`. A match or target that netlab does not model
is an Unknown* value that keeps its text; nothing is dropped while reading. A Rule knows where it came from.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import msgspec

from netlab.linux.hook import Hook
from netlab.linux.matches import Match
from netlab.linux.nft import NftTable
from netlab.linux.targets import Target
from netlab.refs import Ref


class Rule(msgspec.Struct, frozen=True, gc=False):  # never part of a cycle
    """One rule: every match must hold for the target to run. `target` None only counts packets."""

    matches: tuple[Match, ...] = ()
    target: Target | None = None

    ref: Ref | None = None  # where it was read, or the object it was compiled from; not part of equality

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Rule) and self.matches == other.matches and self.target == other.target

    def __hash__(self) -> int:
        return hash((self.matches, self.target))

    def __str__(self) -> str:
        """The rule as iptables-save prints it, without `-A CHAIN`."""
        parts = [text for m in self.matches if (text := str(m))]
        if self.target is not None:
            parts.append(str(self.target))
        return " ".join(parts)


class Chain(msgspec.Struct, frozen=True, gc=False):
    """A chain. Base chains have `hook`, `priority` and `policy` ("ACCEPT" or "DROP"); regular chains have None."""

    name: str
    rules: tuple[Rule, ...] = ()
    hook: Hook | None = None
    priority: int = 0
    policy: str | None = None


class Table(msgspec.Struct, frozen=True):
    """A table of one family: "ip", "ip6", or (nftables only) "inet"."""

    family: str
    name: str
    chains: Mapping[str, Chain] = {}


class Ruleset(msgspec.Struct, frozen=True):
    """All tables that an IP packet of one family can meet in one namespace; `tables` keeps their order in the dump.

    `tables` are those of iptables, `nft_tables` those of nft (of the family, and inet). `origin` is "expected" (compiled from
    the cluster) or "observed" (read from a node); `nft_origin` that of `nft_tables`.
    """

    tables: tuple[Table, ...] = ()
    origin: str = "expected"
    nft_tables: tuple[NftTable, ...] = ()
    nft_origin: str = "expected"

    def table(self, name: str) -> Table | None:
        for table in self.tables:
            if table.name == name:
                return table
        return None

    def base_chains(self, hook: Hook) -> Iterator[tuple[Table, Chain]]:
        """The base chains at a hook in the order in which netfilter runs them (priority, then registration)."""
        found = [(c.priority, n, t, c) for n, t in enumerate(self.tables) for c in t.chains.values() if c.hook is hook]
        for _, _, table, chain in sorted(found, key=lambda f: f[:2]):
            yield table, chain


def nft_tables(rulesets: Mapping[int, Ruleset]) -> list[NftTable]:
    """The tables of nft that a namespace holds, each once (those of inet are in the rulesets of both families)."""
    found: dict[tuple[str, str], NftTable] = {}
    for family in (4, 6):
        ruleset = rulesets.get(family)
        for table in ruleset.nft_tables if ruleset is not None else ():
            found.setdefault((table.family, table.name), table)
    return list(found.values())


__all__ = ["Chain", "Hook", "Rule", "Ruleset", "Table", "nft_tables"]
