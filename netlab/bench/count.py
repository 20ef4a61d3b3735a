"""What the kernel looks at for one packet: rules evaluated, sets and maps probed, bytes of rules passed over.

    new flow       client -> ... PREROUTING, FORWARD, POSTROUTING of the node ... -> endpoint
    established    the same packet again, once the endpoint has answered

Law: counted in the walk that explains packets (trace/), which the lab holds against the kernel; nothing is estimated. Where the
endpoint is chosen at random the count is the exact mean over all choices. Only what a rule makes the kernel look at is counted:
neither connection tracking nor routing. Bytes are those of iptables-legacy's entries; other engines keep rules in other forms.
"""

from __future__ import annotations

from fractions import Fraction
from typing import Final

import msgspec

from netlab.bench.entries import entry_bytes
from netlab.bench.site import CLIENT, ENDPOINTS, NODE, request
from netlab.errors import BugError
from netlab.linux import nft as n
from netlab.linux.addr import Ip
from netlab.linux.bridge import Links
from netlab.linux.matches import Destination, Fragment, InInterface, OutInterface, Protocol, SetMatch, Source
from netlab.linux.network import Network
from netlab.linux.nft import NftChain, NftRule, NftTable, SetLiteral, SetName, Statement
from netlab.linux.packet import Packet
from netlab.linux.rules import Chain, Rule, Table
from netlab.match.naive import holds
from netlab.match.view import View
from netlab.trace.choices import Chooser, explore
from netlab.trace.steps import IpvsStep
from netlab.trace.walker import Expected, Walk, reply_to

_IN_ENTRY: Final = (Source, Destination, InInterface, OutInterface, Protocol, Fragment)  # ip_tables.c ip_packet_match
KINDS: Final = ("new", "established")


class Count(msgspec.Struct, frozen=True):
    """Means per packet. `asked`: extensions of iptables (-m) that a rule asks, which it does only where addresses, protocol and
    devices fit. `bytes` None: not known, or not of iptables-legacy."""

    rules: Fraction
    asked: Fraction
    probes: Fraction
    bytes: Fraction | None


class Counts(msgspec.Struct, frozen=True):
    """Of one service: a packet that opens a flow, and one of a flow that has been answered."""

    new: Count
    established: Count


def count(network: Network, service: Ip) -> Counts:
    """Count what a packet to a service makes the node look at.

    Parameters
    ----------
    network : Network
        A `site`.
    service : Ip
        A ClusterIP of it.

    Returns
    -------
    Counts
        Exact means over all endpoints.

    Raises
    ------
    BugError
        The packet does not arrive.
    """
    links = Links(network)
    sized: dict[int, tuple[Rule, int | None]] = {}

    def run(chooser: Chooser) -> tuple[_Tally, _Tally]:
        walk = Walk(network, links, chooser)
        client, behind = network.namespaces[CLIENT], network.namespaces[ENDPOINTS]
        sent = request(service)
        walk.expected = Expected(CLIENT, sent.flow, CLIENT)
        tallies = (_Tally(sized), _Tally(sized))
        arrived = _counted(walk, tallies[0], sent)
        walk.netfilter.tally = None
        back = walk.local_out(behind, reply_to(arrived), ENDPOINTS)
        walk.take_hops()
        if back.kind != "delivered":
            raise BugError(f"the answer from {service} does not come back: {back.reason}")
        _counted(walk, tallies[1], msgspec.structs.replace(sent, src=client.devices["eth0"].addresses[0].ip))
        return tallies

    def unknown(outcome: tuple[_Tally, _Tally], label: str) -> tuple[_Tally, _Tally]:
        raise BugError(f"a rule cannot be decided: {label}")

    found = explore(run, id, unknown)
    new, established = (
        Count(
            sum((w.probability * w.outcome[k].rules for w in found), Fraction(0)),
            sum((w.probability * w.outcome[k].asked for w in found), Fraction(0)),
            sum((w.probability * w.outcome[k].probes for w in found), Fraction(0)),
            None
            if any(w.outcome[k].bytes is None for w in found)
            else sum((w.probability * (w.outcome[k].bytes or 0) for w in found), Fraction(0)),
        )
        for k in range(2)
    )
    return Counts(new, established)


def _counted(walk: Walk, tally: _Tally, packet: Packet) -> Packet:
    """Send a packet from the client and count; the packet as the endpoint gets it."""
    walk.netfilter.tally = tally
    out = walk.local_out(walk.network.namespaces[CLIENT], packet, CLIENT)
    for hop in walk.take_hops():
        for step in hop.steps if hop.where == NODE else ():
            if isinstance(step, IpvsStep):
                # ip_vs_core.c ip_vs_in_hook: the connection, and where there is none ip_vs_service_find
                tally.probes += 2 if step.action == "scheduled" else 1
    if out.kind != "delivered" or out.packet is None:
        raise BugError(f"the packet to {packet.dst} does not arrive: {out.reason}")
    return out.packet


class _Tally:
    """Counts of one packet."""

    def __init__(self, sized: dict[int, tuple[Rule, int | None]]) -> None:
        self.rules = self.asked = self.probes = 0
        self.bytes: int | None = 0
        self._sized = sized  # by id of the rule; the entry holds the rule, so that its id stays its own

    def rule(self, view: View, table: Table, chain: Chain, rule: Rule) -> None:
        self.rules += 1
        known = self._sized.get(id(rule))
        if known is None:
            known = self._sized[id(rule)] = (rule, entry_bytes(rule))
        self.bytes = None if self.bytes is None or known[1] is None else self.bytes + known[1]
        held = True
        for match in rule.matches:  # ip_tables.c ipt_do_table: what stands in the entry first, then extension by extension
            if type(match) in _IN_ENTRY and holds(match, view) is False:
                return
        for match in rule.matches:
            if type(match) not in _IN_ENTRY and held:
                self.asked += 1
                self.probes += type(match) is SetMatch
                held = holds(match, view) is not False

    def nft_rule(self, view: View, table: NftTable, chain: NftChain, rule: NftRule) -> None:
        self.rules += 1
        self.bytes = None

    def nft_statement(self, view: View, table: NftTable, statement: Statement) -> None:
        if isinstance(statement, n.SetChange):
            self.probes += 1
        self.probes += sum(isinstance(expression, SetName | SetLiteral) for expression in n.expressions_of(statement))
