"""Random packets as a hook sees them, for the matching core: whatever a match may ask about is drawn."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from random import Random
from typing import Any

from msgspec.structs import replace

from netlab.lab.fuzz_generate import MARKS
from netlab.linux import matches, targets
from netlab.linux.addr import Ip, prefix
from netlab.linux.conntrack import Connection, CtState, CtView
from netlab.linux.netns import Netns
from netlab.linux.packet import TCP, UDP, Flow, Packet
from netlab.linux.rules import Hook, Rule
from netlab.match.bases import bases
from netlab.match.program import Program
from netlab.match.view import View

_IN = {Hook.PREROUTING, Hook.INPUT, Hook.FORWARD}
_OUT = {Hook.OUTPUT, Hook.POSTROUTING, Hook.FORWARD}
_MACS = ("", "", "02:00:00:00:01:02", "02:00:00:00:02:02", "ff:ff:ff:ff:ff:ff", "01:00:5e:00:00:01")


def view_of(rng: Random, packet: Packet, other: Packet, netns: Netns, hook: Hook) -> View:
    """A packet at a hook with everything around it drawn at random; its connection may be that of an `other` packet."""

    def often(percent: int) -> bool:
        return rng.random() * 100 < percent

    devices = [*netns.devices, "eth7"]
    macs = {"src_mac": rng.choice(_MACS), "dst_mac": rng.choice(_MACS)}
    packet = replace(packet, mark=rng.choice(MARKS) if often(50) else packet.mark, sport_random=often(8), **macs)
    fields: dict[str, Any] = {
        "indev": rng.choice(devices) if hook in _IN or (hook is Hook.POSTROUTING and often(70)) else "",
        "outdev": rng.choice(devices) if hook in _OUT else "",
        "attached": often(20),
        "local": hook is Hook.OUTPUT or (hook is Hook.POSTROUTING and often(50)),
    }
    if often(10):
        fields |= {"physin": "eth1", "physout": rng.choice(("eth0", ""))}
    return View(packet, hook, netns, ct=_ct(rng, packet, other), **fields)


def _ct(rng: Random, packet: Packet, other: Packet) -> CtView | None:
    if rng.random() < 0.1:
        return None
    state = rng.choice((CtState.NEW, CtState.NEW, CtState.NEW, *CtState))
    if state in (CtState.INVALID, CtState.UNTRACKED):
        return CtView(state)
    flow = packet.flow if rng.random() < 0.8 else other.flow
    back = flow.reversed() if rng.random() < 0.6 else Flow(flow.protocol, other.dst, 80, flow.src, 4000)
    bits = {name: rng.random() < 0.3 for name in ("confirmed", "seen_reply", "assured", "snat", "dnat", "random_port")}
    bits |= {name: rng.random() < 0.15 for name in ("src_done", "dst_done")}
    connection = Connection(flow, back, mark=rng.choice(MARKS) if rng.random() < 0.5 else 0, **bits)  # type: ignore[arg-type]
    return CtView(state, connection, rng.random() < 0.3)


class Words:
    """The values that a ruleset and its sets speak of, so that random packets meet the rules; and some that it does not."""

    def __init__(self, netns: Netns, family: int) -> None:
        top = 1 << (32 if family == 4 else 128)
        self.family = family
        self.addresses = {0, 1, top - 1}
        self.addresses |= {a.ip.value for d in netns.devices.values() for a in d.addresses if a.ip.family == family}
        self.ports, self.marks, self.protocols = {0, 80, 65535}, {0}, {TCP, UDP, 1 if family == 4 else 58}
        for rule in _rules(netns, family):
            for part in (*rule.matches, rule.target):
                self._learn(part)
        for held in netns.sets.values():
            for entry in held.entries[:200]:
                for text in entry.parts:
                    self._part(text)
        self.addresses |= {a + d for a in list(self.addresses)[:3000] for d in (-1, 1) if 0 <= a + d < top}

    def _part(self, text: str) -> None:
        try:
            net = prefix(text.split("-")[0])
        except ValueError:
            port = text.rpartition(":")[2].split("-")[0]
            if port.isdigit() and int(port) < 65536:
                self.ports.add(int(port))
            return
        if net.family == self.family:
            self.addresses |= {net.value, net.value + net.size - 1}

    def _learn(self, part: object) -> None:
        match part:
            case matches.Source(value=value) | matches.Destination(value=value):
                self.addresses.add(value)
            case matches.Tcp() | matches.Udp() | matches.Sctp():
                self.ports |= {n for r in (part.sport, part.dport) if r is not None for n in (r.low, r.high)}
            case matches.Multiport(ports=ports):
                self.ports |= {n for r in ports for n in (r.low, r.high)}
            case matches.Protocol(protocol=protocol):
                self.protocols.add(protocol)
            case matches.Mark(value=value) | matches.Connmark(value=value) | targets.SetMark(value=value):
                self.marks |= {value, value ^ 1}
            case targets.Dnat(to=to) if to.low is not None:
                self.addresses.add(to.low.value)
                self.ports.add(to.port_low or 0)
            case _:
                pass

    def packet(self, rng: Random) -> Packet:
        src, dst = (Ip(self.family, rng.choice(self._list("addresses"))) for _ in range(2))
        protocol = rng.choice(self._list("protocols"))
        fields: dict[str, int] = {"ttl": rng.choice((1, 64, 255)), "length": rng.choice((60, 84, 1500))}
        if protocol in (TCP, UDP, 132):
            fields |= {"sport": rng.choice(self._list("ports")), "dport": rng.choice(self._list("ports"))}
        elif protocol in (1, 58):
            fields |= {"icmp_type": rng.choice((0, 3, 8, 128, 133, 136)), "icmp_code": rng.choice((0, 0, 1))}
        return Packet(src, dst, protocol, tcp_flags=rng.choice((2, 2, 16, 18, 4)), mark=rng.choice(self._list("marks")), **fields)

    def _list(self, name: str) -> list[int]:
        values = getattr(self, name)
        if not isinstance(values, list):
            values = sorted(values)
            setattr(self, name, values)
        return values


def _rules(netns: Netns, family: int) -> Iterator[Rule]:
    tables = {id(base.table): base.table for hook in Hook for base in bases(netns, family, hook)}
    for table in tables.values():
        for chain in table.chains.values():
            yield from chain.rules


def routed(rng: Random, program: Program, view: View) -> View:
    """The packet, now and then with the key of a rule of the program, so that long chains are met in their middle."""
    if rng.random() < 0.3 or program.numbering.count == 0:
        return view
    rule = program.numbering.spot(rng.randrange(program.numbering.count)).rule
    changes: dict[str, Any] = {}
    devices: dict[str, str] = {}
    for match in rule.matches:
        match match:
            case matches.Destination(family=family, value=value, negate=False):
                changes["dst"] = Ip(family, value)
            case matches.Source(family=family, value=value, negate=False):
                changes["src"] = Ip(family, value)
            case matches.Protocol(protocol=protocol, negate=False):
                changes["protocol"] = protocol
            case matches.Tcp(dport=ports, not_dport=False) | matches.Udp(dport=ports, not_dport=False) if ports is not None:
                changes["dport"] = ports.low
            case matches.InInterface(name=name, negate=False) if view.indev:
                devices["indev"] = name.rstrip("+")
            case matches.OutInterface(name=name, negate=False) if view.outdev:
                devices["outdev"] = name.rstrip("+")
            case _:
                pass
    return dataclasses.replace(view, packet=replace(view.packet, **changes), **devices)
