"""What runs at each hook of a namespace, in order: base chains of iptables and of nft, and the kernel's functions between them.

    hooks.py (the kernel's own functions) + a ruleset's base chains + IPVS's functions --plan()--> Stages

Law: the order is decided here alone; the walker (trace/netfilter.py) and the matching core (match/) follow it.
"""

from __future__ import annotations

from collections.abc import Iterable

from netlab.linux import nft as n
from netlab.linux.hooks import IPVS_FUNCTIONS, KERNEL_FUNCTIONS, Function
from netlab.linux.matches import Connmark, Conntrack, State, UnknownMatch
from netlab.linux.netns import Netns
from netlab.linux.nft import NftChain, NftTable, Statement
from netlab.linux.rules import Chain, Hook, Ruleset, Table
from netlab.linux.targets import Ct, Dnat, Masquerade, Netmap, Redirect, SetConnmark, Snat, UnknownTarget

_CONNTRACK_TARGETS = frozenset({Dnat, Snat, Masquerade, Redirect, Netmap, SetConnmark, UnknownTarget})
_CONNTRACK_MATCHES = frozenset({Conntrack, State, Connmark, UnknownMatch})
_NO_RULES = Ruleset(())
NatChain = tuple[Table, Chain] | tuple[NftTable, NftChain]


class Stage:
    """One entry of a hook's plan: a base chain of iptables or nft, or a function of the kernel with the nat chains it asks."""

    __slots__ = ("chain", "chains", "function", "nft", "table")

    def __init__(
        self,
        table: Table | None = None,
        chain: Chain | None = None,
        function: Function | None = None,
        chains: tuple[NatChain, ...] = (),
        nft: tuple[NftTable, NftChain] | None = None,
    ) -> None:
        self.table, self.chain, self.function, self.chains, self.nft = table, chain, function, chains, nft


def plan(ruleset: Ruleset, hook: Hook, ipvs: bool = False) -> list[Stage]:
    """What runs at a hook, in order. Without any table not even connection tracking has registered there; IPVS does without.

    Of one priority the kernel runs first what registered last (netfilter/core.c nf_hook_entries_grow). Here iptables registered
    first, then nft's chains in the order of the dump, NAT with the first chain that is of it, and connection tracking with the
    first rule that wants it, which is behind them all. (A dump does not say whether iptables or nft was first.)
    """
    if not ruleset.tables and not ruleset.nft_tables and not ipvs:
        return []
    asked: list[tuple[int, int, NatChain]] = []
    entries: list[tuple[int, int, Stage]] = []
    registered = [(table, chain) for table in ruleset.tables for chain in table.chains.values() if chain.hook is not None]
    nft_registered = nft_base_chains(ruleset)
    first_nat: int | None = None
    for number, (table, chain) in enumerate(registered):
        is_nat = table.name == "nat"
        if is_nat and first_nat is None:
            first_nat = number
        if chain.hook is not hook:
            continue
        if is_nat:
            asked.append((chain.priority, -number, (table, chain)))
        else:
            entries.append((chain.priority, -number, Stage(table, chain)))
    for number, nft in enumerate(nft_registered, len(registered)):
        is_nat = nft[1].type == "nat"
        if is_nat and first_nat is None:
            first_nat = number
        if nft[1].hook is not hook:
            continue
        if is_nat:
            asked.append((nft[1].priority, -number, nft))
        else:
            entries.append((nft[1].priority, -number, Stage(nft=nft)))
    asked.sort(key=lambda e: e[:2])
    nat = tuple(each for _, _, each in asked)
    last = len(registered) + len(nft_registered)
    for priority, function in KERNEL_FUNCTIONS[hook] if wants_conntrack(ruleset) else ():
        if function not in (Function.NAT_DST, Function.NAT_SRC):
            entries.append((priority, -last, Stage(function=function)))
        elif first_nat is not None:
            entries.append((priority, -first_nat, Stage(function=function, chains=nat)))
    entries += [(priority, -last - 1, Stage(function=function)) for priority, function in IPVS_FUNCTIONS[hook] if ipvs]
    entries.sort(key=lambda e: e[:2])
    return [stage for _, _, stage in entries]


def wants_conntrack(ruleset: Ruleset) -> bool:
    """Whether a rule needs connection tracking: it is switched on by the first that does (nf_conntrack_proto.c nf_ct_netns_get).

    The callers are the checkentry functions of xt_conntrack, xt_connmark, xt_CT (but not for --notrack) and the NAT targets;
    what netlab does not model may be another. Without it the nat table is never asked. A rule of nft may ask as well.
    """
    return nft_wants_conntrack(ruleset.nft_tables) or any(
        type(rule.target) in _CONNTRACK_TARGETS
        or (type(rule.target) is Ct and not rule.target.notrack)
        or any(type(match) in _CONNTRACK_MATCHES for match in rule.matches)
        for table in ruleset.tables
        for chain in table.chains.values()
        for rule in chain.rules
    )


def plans(netns: Netns, family: int) -> dict[Hook, list[Stage]]:
    """The plans of all hooks of a namespace for one family, kept in the namespace's cache."""
    ruleset = netns.rulesets.get(family)
    if ruleset is None and not netns.ipvs:
        return {}
    key = f"plans{family}"
    known = netns.cache.get(key)
    if isinstance(known, tuple) and known[0] is ruleset and known[1] is netns.ipvs:
        found: dict[Hook, list[Stage]] = known[2]
        return found
    ipvs = any(service.family == family for service in netns.ipvs)
    made = {hook: plan(ruleset if ruleset is not None else _NO_RULES, hook, ipvs) for hook in Hook}
    netns.cache[key] = (ruleset, netns.ipvs, made)
    return made


def nft_base_chains(ruleset: Ruleset) -> list[tuple[NftTable, NftChain]]:
    """nft's base chains at the five hooks, in the order of the dump; a dormant table has none."""
    return [
        (table, chain)
        for table in ruleset.nft_tables
        if table.family in ("ip", "ip6", "inet") and "dormant" not in table.flags
        for chain in table.chains.values()
        if chain.hook is not None
    ]


def nft_wants_conntrack(tables: Iterable[NftTable]) -> bool:
    """Whether an nft rule switches connection tracking on: nft_ct.c nft_ct_get_init, nft_nat.c, nft_masq.c, nft_redir.c.

    Any rule of any chain does, whether a packet can come to it or not; a nat chain alone does not, nor does `notrack`.
    """
    return any(
        _needs_conntrack(statement)
        for table in tables
        for chain in table.chains.values()
        for rule in chain.rules
        for statement in rule.statements
    )


def _needs_conntrack(statement: Statement) -> bool:
    if isinstance(statement, n.Nat | n.UnknownStatement):
        return True
    return any(isinstance(expression, n.CtKey | n.UnknownExpression) for expression in n.expressions_of(statement))
