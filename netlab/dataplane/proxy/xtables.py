"""What the modes of kube-proxy that write iptables rules have in common: the marks for masquerading, and the form of a table.

Law: rule for rule what kube-proxy v1.30 writes in every such mode (pkg/proxy/iptables and pkg/proxy/ipvs, proxier.go).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from netlab.errors import InputError
from netlab.kube.cluster import Cluster
from netlab.linux.addr import Prefix
from netlab.linux.hooks import IPTABLES_TABLES
from netlab.linux.matches import Comment, Mark, Source
from netlab.linux.rules import Chain, Rule, Table
from netlab.linux.targets import Masquerade, NatRange, Return, SetMark


def table(family: int, name: str, rules: Mapping[str, Sequence[Rule]]) -> Table:
    """Built-in chains in the order of their hooks, then the rest by name: the order in which iptables-save prints."""
    chains = {
        hook.value: Chain(hook.value, tuple(rules.get(hook.value, ())), hook, priority, "ACCEPT")
        for hook, priority in IPTABLES_TABLES[name].items()
    }
    for chain in sorted(rules):
        if chain not in chains:
            chains[chain] = Chain(chain, tuple(rules[chain]))
    return Table("ip" if family == 4 else "ip6", name, chains)


def masquerade_mark(cluster: Cluster) -> int:
    """The mark of packets that POSTROUTING masquerades (masqueradeBit)."""
    bit = cluster.proxy.masquerade_bit
    if not 0 <= bit <= 31:
        raise InputError(f"masqueradeBit {bit} is no bit of a mark", hint="use 0 to 31 (the default is 14)")
    return 1 << bit


def mark_masq(mark: int) -> list[Rule]:
    """KUBE-MARK-MASQ."""
    return [Rule((), SetMark(mark, mark))]


def postrouting(mark: int) -> list[Rule]:
    """The end of KUBE-POSTROUTING."""
    return [
        Rule((Mark(mark, mark, negate=True),), Return()),
        Rule((), SetMark(mark, 0)),  # xor: the mark is gone should the packet meet the stack again
        Rule((Comment("kubernetes service traffic requiring SNAT"),), Masquerade(NatRange(random_fully=True))),
    ]


def source(block: Prefix, negate: bool = False) -> Source:
    return Source(block.family, block.value, block.mask, negate)


def sources(block: Prefix) -> tuple[Source, ...]:
    """`-s BLOCK`; iptables keeps nothing of a block that holds every address."""
    return (source(block),) if block.length else ()
