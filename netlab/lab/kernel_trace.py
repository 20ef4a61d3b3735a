"""The kernel's own trace of a packet: which rules it walked, in the kernel's order, in every namespace.

    table inet netlab_trace (prerouting, output; priority -500): meta nftrace set 1 --> NFT_MSG_TRACE --> Pass, Pass, ...

A Pass is one packet's way through one namespace, from PREROUTING or OUTPUT on; the rule of netlab's own table, which sets the
mark, is its first event and tells the packet's header. Law: events keep the kernel's order; a rule's number is its place in the
kernel's own list of its chain; neighbour discovery, multicast reports and their like are told apart by their header. nf_tables
only (iptables-nft and nft): iptables-legacy writes its trace to the kernel log, which belongs to the host.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence

import msgspec

from netlab.errors import BugError
from netlab.lab.frames import decode
from netlab.lab.netlink import message, number, text
from netlab.linux.packet import ICMPV6, Packet
from netlab.trace.steps import AnyStep, Decapsulated, Hop, Received, RuleStep, Sent, Transmitted

TABLE = "netlab_trace"
START = f"""table inet {TABLE} {{
  chain prerouting {{ type filter hook prerouting priority -500; meta nftrace set 1; }}
  chain output {{ type filter hook output priority -500; meta nftrace set 1; }}
}}
"""
STOP = f"delete table inet {TABLE}\n"

Rule = tuple[str, str, int]  # table, chain, number of the rule

IGMP = 2
_HOUSEKEEPING_V6 = (130, 131, 132, 133, 134, 135, 136, 137, 143)  # RFC 2710, 3810, 4861
_FAMILIES = {1: "inet", 2: "ip", 10: "ip6"}  # NFPROTO_*
_IPTABLES = ("raw", "mangle", "nat", "filter", "security")

# enum nft_trace_attributes, nft_rule_attributes, nft_verdict_attributes, nft_trace_types (<linux/netfilter/nf_tables.h>)
_TRACE_TABLE, _TRACE_CHAIN, _TRACE_HANDLE, _TRACE_TYPE, _TRACE_ID = 1, 2, 3, 4, 6
_TRACE_NETWORK, _TRACE_TRANSPORT = 8, 9
_RULE_TABLE, _RULE_CHAIN, _RULE_HANDLE = 1, 2, 3
_TYPE_RULE = 3


class Pass(msgspec.Struct, frozen=True):
    """One packet's way through one namespace: how it began ("prerouting", "output"), and the rules that it met."""

    begins: str
    packet: Packet | None
    rules: tuple[Rule, ...] = ()


class Mismatch(msgspec.Struct, frozen=True):
    """The first place where two sequences part: the pass (from 0), the rule in it (from 0), and what either side has there."""

    number: int
    place: int
    said: Rule | None
    found: Rule | None
    before: Rule | None = None  # the last on which both agree


def table_name(family: str, name: str) -> str:
    """A table as a RuleStep names it: those of iptables by name, those of nft by family and name (trace/nftables.py table_name).

    >>> table_name("ip", "nat"), table_name("ip", "kube-proxy"), table_name("inet", "filter")
    ('nat', 'nft ip kube-proxy', 'nft inet filter')
    """
    return name if family in ("ip", "ip6") and name in _IPTABLES else f"nft {family} {name}"


def rule_numbers(messages: Iterable[str]) -> dict[tuple[str, str, int], Rule]:
    """(table with family, chain, handle) -> the rule, out of a dump of all rules (NFT_MSG_GETRULE), which is in order."""
    counted: Counter[tuple[str, str]] = Counter()
    found: dict[tuple[str, str, int], Rule] = {}
    for raw in messages:
        _, family, given = message(raw)
        table, chain = text(given.get(_RULE_TABLE)), text(given.get(_RULE_CHAIN))
        full = f"{_FAMILIES.get(family, str(family))} {table}"
        counted[full, chain] += 1
        named = table_name(*full.split(" ", 1))
        found[full, chain, number(given.get(_RULE_HANDLE))] = (named, chain, counted[full, chain])
    return found


def passes(messages: Sequence[str], numbers: Mapping[tuple[str, str, int], Rule]) -> list[Pass]:
    """The passes of one namespace, by their beginning.

    Packets overlap: what REJECT answers is made, sent, and traced while its rule is still at work. So an event belongs to the
    pass that its trace id began last. The id is a hash of the packet's buffer and of the device that it came in through
    (nf_tables_trace.c nft_trace_init): a bridge that hands a packet up changes it, so a new id goes on with the last packet
    that came in.
    """
    begun: list[tuple[str, Packet | None, list[Rule]]] = []
    current: dict[int, list[Rule]] = {}
    incoming: list[Rule] | None = None
    renamed: dict[int, list[Rule]] = {}
    for raw in messages:
        _, family, event = message(raw)
        if number(event.get(_TRACE_TYPE)) != _TYPE_RULE or _TRACE_HANDLE not in event:
            continue  # the end of a chain: nf_trace_fill_rule_info gives no handle then
        table, chain = text(event.get(_TRACE_TABLE)), text(event.get(_TRACE_CHAIN))
        identity = number(event.get(_TRACE_ID))
        if table == TABLE:
            rules: list[Rule] = []
            header = event.get(_TRACE_NETWORK, b"") + event.get(_TRACE_TRANSPORT, b"")
            begun.append((chain, decode(header), rules))
            current[identity] = rules
            if chain == "prerouting":
                incoming = rules
                renamed.clear()
            continue
        full = f"{_FAMILIES.get(family, str(family))} {table}"
        handle = number(event.get(_TRACE_HANDLE))
        rule = numbers.get((full, chain, handle))
        if rule is None:
            raise BugError(f"the kernel traced a rule that it does not list: {full} {chain} handle {handle}")
        belongs = renamed.get(identity, current.get(identity))
        if belongs is None:
            if incoming is None:
                raise BugError(f"the kernel traced a packet whose begin was not seen, at {full} {chain} handle {handle}")
            belongs = renamed[identity] = incoming
        belongs.append(rule)
    return [
        Pass(begins, packet, tuple(rules)) for begins, packet, rules in begun if packet is None or not is_housekeeping(packet)
    ]


def is_housekeeping(packet: Packet) -> bool:
    """Is this neighbour discovery or a multicast report: not part of any flow, and no walk speaks of it?"""
    if packet.protocol == IGMP or packet.dst.is_multicast:
        return True
    return packet.protocol == ICMPV6 and packet.icmp_type in _HOUSEKEEPING_V6


def predicted_passes(hops: Iterable[Hop]) -> dict[str, list[tuple[Rule, ...]]]:
    """The same out of a walk: a pass begins where a packet is made or comes in; passes that meet no rule are left out."""
    found: dict[str, list[list[Rule]]] = {}
    for hop in hops:
        here = found.setdefault(hop.where, [])
        here.append([])
        for step in hop.steps:
            if begins_pass(step, hop.where):
                here.append([])
            elif isinstance(step, RuleStep):
                here[-1].append((step.table, step.chain, step.number))
    return {where: [tuple(rules) for rules in made if rules] for where, made in found.items()}


def begins_pass(step: AnyStep, where: str) -> bool:
    """Whether a packet is made or comes in with this step in namespace `where`; it does so with every hop, too."""
    match step:
        case Sent() | Received() | Decapsulated():
            return True
        case Transmitted(device=device, to=to):
            return to == f"{where}/{device}"  # lo
        case _:
            return False


def first_mismatch(said: Sequence[tuple[Rule, ...]], found: Sequence[tuple[Rule, ...]]) -> Mismatch | None:
    """Where two lists of passes part first; None where they are the same.

    >>> first_mismatch([(("nat", "OUTPUT", 1),)], [(("nat", "OUTPUT", 2),)])
    Mismatch(number=0, place=0, said=('nat', 'OUTPUT', 1), found=('nat', 'OUTPUT', 2), before=None)
    >>> first_mismatch([], [()]) is None
    True
    """
    said, found = [rules for rules in said if rules], [rules for rules in found if rules]
    for n in range(max(len(said), len(found))):
        ours = said[n] if n < len(said) else ()
        theirs = found[n] if n < len(found) else ()
        for place in range(max(len(ours), len(theirs))):
            a = ours[place] if place < len(ours) else None
            b = theirs[place] if place < len(theirs) else None
            if a != b:
                return Mismatch(n, place, a, b, ours[place - 1] if place else None)
    return None
