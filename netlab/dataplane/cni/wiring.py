"""What a CNI plug-in leaves behind, whoever it is: the one shape that build.py asks every plug-in for.

Law: plain values and functions of nodes and pods; build.py knows no plug-in by name except in its table. What Linux derives
from devices and addresses is not repeated here (linux/derived).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import msgspec

from netlab.kube.objects import Node, Pod
from netlab.linux.addr import Ip, Prefix, mask_of
from netlab.linux.hooks import IPTABLES_TABLES
from netlab.linux.matches import Destination, Source
from netlab.linux.netns import Device, FdbEntry, Neighbour, Route
from netlab.linux.rules import Chain, Rule, Ruleset, Table
from netlab.linux.sets import IpSet


class Wiring(msgspec.Struct, frozen=True):
    """What a plug-in leaves in a namespace, beside what Linux derives from it. Sysctls are named without "net."."""

    devices: tuple[Device, ...] = ()
    routes: tuple[Route, ...] = ()
    neighbours: tuple[Neighbour, ...] = ()
    fdb: tuple[FdbEntry, ...] = ()
    sets: Mapping[str, IpSet] = {}
    sysctls: Mapping[str, int] = {}


class Plugin(msgspec.Struct, frozen=True):
    """A CNI plug-in with the daemons that belong to it, in one cluster.

    `on_node` gets a node, its pods that have a namespace of their own (in the order in which their devices were made) and the
    first free device index; `in_pod` a pod, its node and the index of the veth's end on the node; `add_rules` completes the
    rules that the service proxy wrote for an address family (4 or 6). `outside` are routes that the world beyond the fabric
    has learned: it advertised pods there. `assumptions` and `not_modelled` say what they say, for the node and pods of `on_node`.
    """

    on_node: Callable[[Node, Sequence[Pod], int], Wiring]
    in_pod: Callable[[Node, Pod, int], Wiring]
    add_rules: Callable[[Ruleset, Node, Sequence[Pod], int], Ruleset]
    outside: tuple[Route, ...] = ()
    assumptions: Callable[[Node, Sequence[Pod]], list[str]] = lambda node, pods: []
    not_modelled: tuple[str, ...] = ()


def _nothing_on_node(node: Node, pods: Sequence[Pod], first_index: int) -> Wiring:
    return Wiring()


def _nothing_in_pod(node: Node, pod: Pod, host_index: int) -> Wiring:
    return Wiring()


def _same_rules(ruleset: Ruleset, node: Node, pods: Sequence[Pod], family: int) -> Ruleset:
    return ruleset


NOTHING = Plugin(_nothing_on_node, _nothing_in_pod, _same_rules)  # CNI "none": pods have no network


def with_chains(table: Table, chains: Mapping[str, Chain]) -> Table:
    """A table with chains added or replaced, listed as iptables-save lists them: built-in ones in the order of their hooks,
    the others by name."""
    every = {**table.chains, **chains}
    in_order = sorted(every, key=lambda name: (every[name].hook is None, "" if every[name].hook else name))
    return msgspec.structs.replace(table, chains={name: every[name] for name in in_order})


def empty_table(name: str, family: int) -> Table:
    """A table as iptables makes it: its built-in chains, empty, with policy ACCEPT."""
    chains = {hook.value: Chain(hook.value, (), hook, priority, "ACCEPT") for hook, priority in IPTABLES_TABLES[name].items()}
    return Table("ip" if family == 4 else "ip6", name, chains)


def append_chain(
    ruleset: Ruleset, family: int, table_name: str, base: str, jump: Rule, name: str, rules: Sequence[Rule]
) -> Ruleset:
    """Add chain `name` to a table, and `jump` at the end of the table's base chain; iptables makes the table if need be."""
    table = ruleset.table(table_name)
    if table is None:
        table = empty_table(table_name, family)
        ruleset = msgspec.structs.replace(ruleset, tables=(*ruleset.tables, table))
    old = table.chains[base]
    changed = {base: msgspec.structs.replace(old, rules=(*old.rules, jump)), name: Chain(name, tuple(rules))}
    return with_table(ruleset, with_chains(table, changed))


def with_table(ruleset: Ruleset, table: Table) -> Ruleset:
    """A ruleset with one table replaced by its namesake."""
    return msgspec.structs.replace(ruleset, tables=tuple(table if t.name == table.name else t for t in ruleset.tables))


def source(p: Prefix, negate: bool = False) -> Source:
    """`-s PREFIX`."""
    return Source(p.family, p.value, mask_of(p.family, p.length), negate)


def destination(p: Prefix, negate: bool = False) -> Destination:
    """`-d PREFIX`."""
    return Destination(p.family, p.value, mask_of(p.family, p.length), negate)


def mac_of_ip(ip: Ip) -> str:
    """`0a:58` and the IPv4 address, as the bridge plug-in makes MACs; the low 32 bits of an IPv6 address."""
    return "0a:58:" + (ip.value & 0xFFFFFFFF).to_bytes(4, "big").hex(":")
