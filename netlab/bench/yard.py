"""The yardstick: rules of known number and size that nobody matches, then one that translates; what a rule costs is fitted.

Law: it is made of the same kinds of rules as kube-proxy's, but is not kube-proxy's, so what is predicted from it can be wrong.
"""

from __future__ import annotations

from typing import Final

from netlab.bench.site import FIRST_ENDPOINT, PORT, TARGET_PORT, service_ip, site_with, site_with_ipvs
from netlab.dataplane.proxy.xtables import table
from netlab.linux import nft as n
from netlab.linux.addr import V4_ALL, Ip, ip
from netlab.linux.hook import Hook
from netlab.linux.ipvs import Method, RealServer, VirtualService
from netlab.linux.matches import Comment, Conntrack, Destination, PortRange, Protocol, SetMatch, Source, Udp
from netlab.linux.network import Network
from netlab.linux.nft import NftChain, NftRule, NftSet, NftTable
from netlab.linux.packet import UDP
from netlab.linux.rules import Rule, Ruleset
from netlab.linux.sets import IpSet, SetEntry
from netlab.linux.targets import Accept, Dnat, Drop, Jump, NatRange, Return

DEPTHS: Final = (0, 100, 300, 1_000, 2_000, 3_000, 5_000, 8_000, 12_000, 20_000, 30_000, 50_000, 100_000, 200_000)
_LEAST: Final = 6  # of DEPTHS: beyond any level 2 cache
ASKED: Final = (20, 100)
NFTABLES: Final = ((0, 0), (100, 0), (0, 100), (400, 0), (0, 400))  # (rules, probes of a set)

_ELSEWHERE: Final = ip("172.24.0.0").value  # and on: nobody's
_ASKED: Final = ip("172.30.0.0").value
_PROBED: Final = ip("172.29.0.0").value
_PASSED: Final = ip("172.31.0.0").value
_TARGET: Final = Ip(4, FIRST_ENDPOINT)
_DNAT: Final = Dnat(NatRange(_TARGET, port_low=TARGET_PORT))
_FORWARD: Final = (("INVALID", Drop()), ("ESTABLISHED", Accept()))  # as on any node


def yardstick(engine: str, services: int, sets: bool = False) -> tuple[Network, list[tuple[str, Ip]]]:
    """An engine's yardstick that is long enough for so many services, and whom to send to, with what that measures.

    `sets`: with rules that ask an ipset, as those of policies do.
    """
    match engine:
        case "ipvs":
            return ipvs(), [("one virtual service", service_ip(0))]
        case "nftables":
            return nftables()
        case _:
            return iptables(services, sets)


def iptables(services: int, sets: bool = False) -> tuple[Network, list[tuple[str, Ip]]]:
    """nat PREROUTING: DNAT of addresses behind ever more rules for others; ASKED, PROBED: behind rules that ask."""
    last = next((n for n, depth in enumerate(DEPTHS) if depth >= services), len(DEPTHS) - 1)
    places: list[tuple[str, Ip]] = []
    before = 0
    passed = [Rule((Destination(4, _ASKED, 0xFFFF0000),), Jump("ASKED"))]
    for depth in DEPTHS[: max(last, _LEAST) + 1]:
        passed += [_rule(_ELSEWHERE + k, Return()) for k in range(before, depth)]
        before = depth
        passed.append(_rule(_PASSED + depth % 0x10000, _DNAT))
        places.append((f"{depth} rules", Ip(4, _PASSED + depth % 0x10000)))
    comment = Comment("kubernetes forwarding rules")
    asking = {"ASKED": (_ASKED, Rule((comment, Conntrack(states=frozenset({"NEW"})))))}
    if sets:
        asking["PROBED"] = (_PROBED, Rule((comment, SetMatch("others", ("dst",))), Return()))
        passed.insert(1, Rule((Destination(4, _PROBED, 0xFFFF0000),), Jump("PROBED")))
    chains = {"PREROUTING": passed}
    for name, (net, rule) in asking.items():
        chain = chains.setdefault(name, [])
        for depth in ASKED:
            chain += [rule] * (depth - len(chain))
            chain.append(_rule(net + depth, _DNAT))
            places.append((f"{depth} rules of {name}", Ip(4, net + depth)))
    elsewhere = Rule((Source(4, _ELSEWHERE, V4_ALL),), Return())
    forward = [Rule((Conntrack(states=frozenset({state})),), target) for state, target in _FORWARD]
    nat = table(4, "nat", {**chains, "POSTROUTING": [elsewhere]})
    entries = tuple(SetEntry((str(Ip(4, _ELSEWHERE + k)),)) for k in range(1000))
    others = {"others": IpSet("others", "hash:ip", 4, entries)} if sets else {}
    return site_with(Ruleset((nat, table(4, "filter", {"FORWARD": forward}))), others), places


def _rule(address: int, target: Return | Dnat) -> Rule:
    """As kube-proxy writes it: the comment is two thirds of its bytes."""
    comment = Comment("default/svc-000000:dns cluster IP")
    return Rule((Destination(4, address, V4_ALL), Protocol(UDP), comment, Udp(dport=PortRange(PORT, PORT))), target)


def nftables() -> tuple[Network, list[tuple[str, Ip]]]:
    """Chains of comparisons and of look-ups in a verdict map of 1,000 services, all in vain, then DNAT; an address for each."""
    daddr, saddr = n.Payload("ip", "daddr"), n.Payload("ip", "saddr")
    sport, dport = n.Payload("udp", "sport"), n.Payload("udp", "dport")
    service = n.Concat((daddr, n.Meta("l4proto"), n.Payload("th", "dport")))  # as kube-proxy's maps are asked
    nat = NftRule((n.Compare(dport, "==", n.Value(PORT)), n.Nat("dnat", n.Value(str(_TARGET)), n.Value(TARGET_PORT))))
    chains: dict[str, NftChain] = {}
    first: list[NftRule] = []
    places: list[tuple[str, Ip]] = []
    for k, (rules, probes) in enumerate(NFTABLES):
        address = Ip(4, _PASSED + k)
        chain = [NftRule((n.Compare(saddr, "==", n.Value("192.0.2.99")), n.Verdict("return")))] * rules
        chain += [NftRule((n.Vmap(service, n.SetName("others")),))] * probes
        chains[f"yard-{k}"] = NftChain(f"yard-{k}", (*chain, nat))
        first.append(NftRule((n.Compare(daddr, "==", n.Value(str(address))), n.Verdict("goto", f"yard-{k}"))))
        places.append((f"{rules} rules, {probes} probes", address))
    keys = (n.Concat((n.Value(str(Ip(4, _ELSEWHERE + k))), n.Value("udp"), n.Value(PORT))) for k in range(1000))
    away = tuple(n.Element(key, n.Verdict("drop")) for key in keys)
    others = NftSet("others", ("ipv4_addr", "inet_proto", "inet_service"), ("verdict",), elements=away)
    quiet = NftRule((n.Compare(sport, "==", n.Value(1)), n.Verdict("drop")))
    chains["prerouting"] = NftChain("prerouting", tuple(first), "nat", Hook.PREROUTING, -100, "accept")
    chains["forward"] = NftChain("forward", (quiet,), "filter", Hook.FORWARD, 0, "accept")
    chains["postrouting"] = NftChain("postrouting", (quiet,), "nat", Hook.POSTROUTING, 100, "accept")
    return site_with(Ruleset(nft_tables=(NftTable("ip", "yard", chains, {"others": others}),))), places


def ipvs() -> Network:
    """One virtual service with one real server; of rules only one that switches connection tracking on, as kube-proxy's do."""
    service = VirtualService(UDP, service_ip(0), PORT, "rr", (RealServer(_TARGET, TARGET_PORT, Method.MASQUERADE),))
    drop = Rule((Conntrack(states=frozenset({"INVALID"})),), Drop())
    ruleset = Ruleset((table(4, "filter", {"FORWARD": [drop]}), table(4, "nat", {})))
    return site_with_ipvs(ruleset, (service,))
