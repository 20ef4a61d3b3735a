"""Rule sets of five fields and packets for them, in the manner of ClassBench: access lists, firewalls, IP chains.

    make("fw", 10_000, seed) --> rules: uint32[n, 5, 2]      trace("new cells", rules, count, seed) --> packets: uint32[5, count]

A rule is a low and a high bound (both inside) for source, destination, source port, destination port and protocol; addresses
are prefixes; the first rule that holds decides, and the last one holds always. Nothing here comes from ClassBench itself: the
flavours have its well known features (which fields are wild, how long prefixes are, which ports), as the tables below say.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final, NamedTuple

import numpy as np
from numpy.random import Generator
from numpy.typing import NDArray

from netlab.linux import matches as m
from netlab.linux import targets as t
from netlab.linux.packet import ICMP, TCP, UDP
from netlab.linux.rules import Chain, Hook, Rule, Ruleset, Table

U32: Final = 0xFFFFFFFF
SRC, DST, SPORT, DPORT, PROTOCOL = range(5)
FULL: Final = np.array([U32, U32, 65535, 65535, 255], np.uint32)
ANY, HIGH, EXACT, RANGE = range(4)  # of ports: all, from 1024 on, one, some others
WELL_KNOWN: Final = np.array(
    [80, 443, 53, 22, 25, 21, 123, 110, 143, 161, 389, 445, 1433, 3306, 5432, 6379, 8080, 8443, 9090, 1521]
)
TRACES: Final = ("uniform flows", "Zipf flows", "adversarial", "new cells")
FLOWS: Final = 50_000  # that are repeated


class Flavour(NamedTuple):
    """How the rules of a set are drawn: chances of lengths of prefixes, kinds of ports, protocols."""

    src: Mapping[int, float]
    dst: Mapping[int, float]
    sport: tuple[float, float, float, float]  # ANY, HIGH, EXACT, RANGE
    dport: tuple[float, float, float, float]
    protocol: Mapping[int, float]  # 0: any


FLAVOURS: Final = {
    "acl": Flavour(
        {0: 0.08, 8: 0.03, 16: 0.10, 20: 0.06, 24: 0.22, 27: 0.11, 28: 0.10, 30: 0.05, 32: 0.25},
        {16: 0.03, 20: 0.04, 24: 0.25, 26: 0.08, 28: 0.15, 30: 0.10, 32: 0.35},
        (0.97, 0.02, 0.01, 0.0), (0.16, 0.06, 0.68, 0.10), {TCP: 0.75, UDP: 0.18, ICMP: 0.03, 0: 0.04},
    ),
    "fw": Flavour(
        {0: 0.38, 8: 0.05, 12: 0.03, 16: 0.12, 20: 0.04, 24: 0.15, 28: 0.05, 32: 0.18},
        {0: 0.24, 8: 0.04, 16: 0.12, 21: 0.05, 24: 0.19, 27: 0.06, 32: 0.30},
        (0.55, 0.22, 0.15, 0.08), (0.25, 0.12, 0.43, 0.20), {TCP: 0.62, UDP: 0.24, ICMP: 0.04, 0: 0.10},
    ),
    "ipc": Flavour(
        {0: 0.14, 8: 0.03, 16: 0.12, 22: 0.06, 24: 0.20, 28: 0.12, 32: 0.33},
        {0: 0.09, 8: 0.03, 16: 0.11, 22: 0.07, 24: 0.22, 28: 0.13, 32: 0.35},
        (0.76, 0.08, 0.12, 0.04), (0.36, 0.08, 0.46, 0.10), {TCP: 0.55, UDP: 0.27, ICMP: 0.05, 0: 0.13},
    ),
}  # fmt: skip


def make(flavour: str, count: int, seed: int) -> NDArray[np.uint32]:
    """A rule set: uint32[count, 5, 2], no rule twice; broad rules stand mostly behind narrow ones, the last one takes all."""
    rng = np.random.default_rng([seed, count, *flavour.encode()])
    like = FLAVOURS[flavour]
    nets = np.unique(np.concatenate([_addresses(rng, count), _addresses(rng, count // 4)]))
    found = np.empty((0, 5, 2), np.uint32)
    while len(found) < count - 1:
        drawn = _draw(rng, like, nets, count)
        found = np.unique(np.concatenate([found, drawn]).reshape(-1, 10), axis=0).reshape(-1, 5, 2)
    found = rng.permutation(found)[: count - 1]
    wide = np.log2(found[:, :, 1].astype(float) - found[:, :, 0] + 1).sum(axis=1)
    order = np.argsort(wide + rng.normal(0, 12, len(found)), kind="stable")
    last = np.stack([np.zeros(5, np.uint32), FULL], axis=1)
    return np.concatenate([found[order], last[None]])


def _addresses(rng: Generator, count: int) -> NDArray[np.uint32]:
    """Hosts in few networks, as addresses are: some networks and subnets are much fuller than others."""
    sites = rng.integers(1 << 8, 224 << 8, max(8, int(count**0.5) // 2))
    site = sites[np.minimum(rng.zipf(1.3, count) - 1, len(sites) - 1)]
    subnet = np.minimum(rng.zipf(1.3, count) - 1, 255) * 37 + site
    return (site << 16 | (subnet & 255) << 8 | rng.integers(0, 256, count)).astype(np.uint32)


def _pick(rng: Generator, chances: Mapping[int, float], count: int) -> NDArray[np.int64]:
    return rng.choice(np.array(list(chances)), count, p=np.array(list(chances.values())))


def _draw(rng: Generator, like: Flavour, nets: NDArray[np.uint32], count: int) -> NDArray[np.uint32]:
    rules = np.empty((count, 5, 2), np.uint32)
    for field, lengths in ((SRC, like.src), (DST, like.dst)):
        host = (1 << (32 - _pick(rng, lengths, count))) - 1
        address = rng.choice(nets, count).astype(np.int64)
        rules[:, field, 0], rules[:, field, 1] = address & ~host & U32, (address | host) & U32
    for field, chances in ((SPORT, like.sport), (DPORT, like.dport)):
        kind = rng.choice(4, count, p=chances)
        one = np.where(rng.random(count) < 0.7, rng.choice(WELL_KNOWN, count), rng.integers(1, 65536, count))
        low = rng.integers(0, 64_000, count)
        width = 2 ** rng.integers(1, 11, count) - rng.integers(0, 2, count)
        rules[:, field, 0] = np.choose(kind, (0, 1024, one, low))
        rules[:, field, 1] = np.choose(kind, (65535, 65535, one, low + width))
    protocol = _pick(rng, like.protocol, count)
    rules[:, PROTOCOL, 0], rules[:, PROTOCOL, 1] = protocol, np.where(protocol == 0, 255, protocol)
    portless = (protocol != TCP) & (protocol != UDP)  # iptables asks for ports of a protocol that has them
    rules[portless, SPORT : DPORT + 1] = (0, 65535)
    rules = rules[(rules[:, :4, 1] - rules[:, :4, 0] < FULL[:4]).any(axis=1)]
    return np.unique(rules.reshape(-1, 10), axis=0).reshape(-1, 5, 2)


# -- packets -----------------------------------------------------------------------------------------------------------


def trace(law: str, rules: NDArray[np.uint32], count: int, seed: int) -> NDArray[np.uint32]:
    """Packets of new flows or of repeated ones: uint32[5, count].

    `uniform flows`, `Zipf flows`: FLOWS flows, made from rules all over the list, one in twenty from none, repeated.
    `adversarial`: just beside a rule of the last tenth, and so mostly deep in the list. `new cells`: no two packets in the same
    cell, that is, with the same answers to all bounds of all rules; fewer than `count` where there are not as many.
    """
    rng = np.random.default_rng([seed, len(rules), *law.encode()])
    if law in ("uniform flows", "Zipf flows"):
        flows = _inside(rng, rules, FLOWS)
        number = rng.integers(0, FLOWS, count) if law[0] == "u" else np.minimum(rng.zipf(1.1, count) - 1, FLOWS - 1)
        return np.ascontiguousarray(flows[:, number])
    if law == "adversarial":
        packets = _inside(rng, rules[-len(rules) // 10 :], count).astype(np.int64)
        field = rng.integers(0, 5, count)
        packets[field, np.arange(count)] += rng.choice((-1, 1), count)
        return np.clip(packets, 0, FULL[:, None]).astype(np.uint32)
    packets = _inside(rng, rules, count + count // 2)
    _, first = np.unique(_cells(rules, packets), return_index=True)
    return np.ascontiguousarray(packets[:, rng.permutation(first)[:count]])


def _inside(rng: Generator, rules: NDArray[np.uint32], count: int) -> NDArray[np.uint32]:
    """Packets for which some rule surely holds: at a corner of it or anywhere in it; one in twenty from nowhere."""
    rule = rules[rng.integers(0, len(rules), count)].astype(np.int64)
    low, high = rule[:, :, 0], rule[:, :, 1]
    packets = np.where(rng.random((count, 5)) < 0.2, low, rng.integers(low, high + 1))
    nowhere = rng.random(count) < 0.05
    packets[nowhere] = rng.integers(0, FULL.astype(np.int64) + 1, (int(nowhere.sum()), 5))
    packets[:, PROTOCOL] = np.where(rng.random(count) < 0.9, low[:, PROTOCOL].clip(1), packets[:, PROTOCOL])
    wild = (low[:, PROTOCOL] == 0) & ~nowhere
    packets[wild, PROTOCOL] = rng.choice((TCP, UDP, ICMP, 47), int(wild.sum()))
    return packets.T.astype(np.uint32)


def _cells(rules: NDArray[np.uint32], packets: NDArray[np.uint32]) -> NDArray[np.uint64]:
    """A number for the cell of each packet (a hash of five numbers of intervals: uint64[n])."""
    cell = np.zeros(packets.shape[1], np.uint64)
    for field in range(5):
        bounds = np.unique(np.concatenate([rules[:, field, 0], rules[:, field, 1].astype(np.uint64) + 1]))
        number = np.searchsorted(bounds, packets[field], side="right").astype(np.uint64)
        cell = (cell ^ number) * np.uint64(0x9E3779B97F4A7C15)
        cell ^= cell >> np.uint64(29)
    return cell


# -- the same rules for iptables ---------------------------------------------------------------------------------------


def ruleset(rules: NDArray[np.uint32]) -> Ruleset:
    """The rules as a filter table's INPUT chain: odd ones drop, even ones accept."""
    written = []
    for number, rule in enumerate(rules.tolist()):
        (src, src_high), (dst, dst_high), sport, dport, (protocol, protocol_high) = rule
        found: list[m.Match] = []
        if src_high - src < U32:
            found.append(m.Source(4, src, U32 ^ (src_high - src)))
        if dst_high - dst < U32:
            found.append(m.Destination(4, dst, U32 ^ (dst_high - dst)))
        if protocol == protocol_high:
            found.append(m.Protocol(protocol))
        ports = [None if span == [0, 65535] else m.PortRange(*span) for span in (sport, dport)]
        if any(ports):
            found.append((m.Tcp if protocol == TCP else m.Udp)(sport=ports[0], dport=ports[1]))
        written.append(Rule(tuple(found), t.Drop() if number % 2 else t.Accept()))
    chain = Chain("INPUT", tuple(written), Hook.INPUT, 0, "ACCEPT")
    return Ruleset((Table("ip", "filter", {"INPUT": chain}),))
