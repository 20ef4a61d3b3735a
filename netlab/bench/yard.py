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
from netlab.linux.matches import Comment, Conntrack, Destination, Match, PortRange, Protocol, Udp
from netlab.linux.network import Network
from netlab.linux.nft import NftChain, NftRule, NftSet, NftTable
from netlab.linux.packet import UDP
from netlab.linux.rules import Rule, Ruleset
from netlab.linux.targets import Dnat, Drop, NatRange, Return

# (rules, whether each has a comment) of iptables; (rules, probes of a set) of nft
IPTABLES: Final = ((0, False), (100, True), (1_000, False), (1_000, True), (4_000, True), (10_000, False), (10_000, True))
NFTABLES: Final = ((0, 0), (100, 0), (0, 100), (400, 0), (0, 400))

_ELSEWHERE: Final = ip("172.30.0.0").value
_TARGET: Final = Ip(4, FIRST_ENDPOINT)


def iptables(rules: int, comment: bool) -> Network:
    """`rules` rules for other addresses in nat PREROUTING, then the DNAT of the first service."""
    chain = [_rule(_ELSEWHERE + k, comment, Return()) for k in range(rules)]
    chain.append(_rule(service_ip(0).value, False, Dnat(NatRange(_TARGET, port_low=TARGET_PORT))))
    return site_with(Ruleset((table(4, "nat", {"PREROUTING": chain}),)))


def _rule(address: int, comment: bool, target: Return | Dnat) -> Rule:
    text: tuple[Match, ...] = (Comment("default/svc-000000:dns cluster IP"),) if comment else ()
    port = Udp(dport=PortRange(PORT, PORT))
    return Rule((Destination(4, address, V4_ALL), Protocol(UDP), *text, port), target)


def nftables(rules: int, probes: int) -> Network:
    """`rules` comparisons and `probes` look-ups in a set of 1,000 addresses, all in vain, then the DNAT of the first service."""
    daddr, saddr = n.Payload("ip", "daddr"), n.Payload("ip", "saddr")
    chain = [NftRule((n.Compare(saddr, "==", n.Value("192.0.2.99")), n.Verdict("return")))] * rules
    chain += [NftRule((n.Compare(daddr, "==", n.SetName("others")), n.Verdict("return")))] * probes
    nat = n.Nat("dnat", n.Value(str(_TARGET)), n.Value(TARGET_PORT))
    chain.append(NftRule((n.Compare(n.Payload("udp", "dport"), "==", n.Value(PORT)), nat)))
    others = NftSet("others", ("ipv4_addr",), elements=tuple(n.Element(n.Value(str(Ip(4, _ELSEWHERE + k)))) for k in range(1000)))
    base = NftChain("prerouting", tuple(chain), "nat", Hook.PREROUTING, -100, "accept")
    return site_with(Ruleset(nft_tables=(NftTable("ip", "yard", {"prerouting": base}, {"others": others}),)))


def ipvs() -> Network:
    """One virtual service with one real server; of rules only one that switches connection tracking on, as kube-proxy's do."""
    service = VirtualService(UDP, service_ip(0), PORT, "rr", (RealServer(_TARGET, TARGET_PORT, Method.MASQUERADE),))
    drop = Rule((Conntrack(states=frozenset({"INVALID"})),), Drop())
    ruleset = Ruleset((table(4, "filter", {"FORWARD": [drop]}), table(4, "nat", {})))
    return site_with_ipvs(ruleset, (service,))
