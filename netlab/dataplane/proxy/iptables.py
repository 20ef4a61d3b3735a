"""kube-proxy v1.30's iptables mode: the rules that it leaves in a node's mangle, filter and nat tables.

    PREROUTING, OUTPUT -> KUBE-SERVICES -> KUBE-SVC-x (cluster IP) -----------------------+-> KUBE-SEP-y -> DNAT
                             |   |   +---> KUBE-FW-x (source ranges) -> KUBE-EXT-x        |
                             |   +-------> KUBE-EXT-x (external, load balancer IP) -------+-> KUBE-SVC-x or KUBE-SVL-x
                             +-----------> KUBE-NODEPORTS -> KUBE-EXT-x                   |   (Cluster)     (Local)

Law: for one node and family the result equals iptables-save after kube-proxy v1.30's first sync (pkg/proxy/iptables/proxier.go,
syncProxyRules), except for the order in KUBE-SERVICES, KUBE-NODEPORTS, KUBE-EXTERNAL-SERVICES and KUBE-PROXY-FIREWALL: there
kube-proxy writes services in the random order of a Go map, netlab sorted by service name, port name and protocol. Where two
services claim one address and port, which of them gets the traffic is thus chance on a real node and the first by name here.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence

import msgspec

from netlab.dataplane.proxy.endpoints import PROTOCOLS, Backend, ProxiedPort, find_node, node_ip, proxied_ports
from netlab.dataplane.proxy.names import CLUSTER, EXTERNAL, FIREWALL, LOCAL, chain_hash, endpoint_chain
from netlab.dataplane.proxy.node import covers_loopback, nodeport_addresses, nodeport_blocks, pod_network
from netlab.dataplane.proxy.xtables import mark_masq, masquerade_mark, postrouting, source, sources, table
from netlab.kube.cluster import Cluster
from netlab.linux.addr import V4_ALL, V6_ALL, Ip, Prefix, mask_of
from netlab.linux.matches import (
    Addrtype,
    Comment,
    Conntrack,
    Destination,
    Mark,
    Match,
    PortRange,
    Protocol,
    Recent,
    Sctp,
    Source,
    Statistic,
    Tcp,
    Udp,
)
from netlab.linux.rules import Rule, Ruleset
from netlab.linux.targets import Accept, Dnat, Drop, Jump, NatRange, Reject, Target

LARGE_CLUSTER = 1000  # endpoints; above it the comments of per-endpoint rules are left out (largeClusterEndpointsThreshold)

_TO_MARK_MASQ = Jump("KUBE-MARK-MASQ")
_NEW = Conntrack(states=frozenset({"NEW"}))
_ESTABLISHED = Conntrack(states=frozenset({"RELATED", "ESTABLISHED"}))
_FROM_NODE = Addrtype(src_types=frozenset({"LOCAL"}))
_TO_NODE = Addrtype(dst_types=frozenset({"LOCAL"}))
_RECENT_MASK = {4: "255.255.255.255", 6: "ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff"}
_REJECT = {4: Reject("icmp-port-unreachable"), 6: Reject("icmp6-port-unreachable")}
_LAST_RULE = Comment("kubernetes service nodeports; NOTE: this must be the last rule in this chain")


class _Site(msgspec.Struct, frozen=True, gc=False):
    """What is the same for every service on this node; `pods` None where kube-proxy cannot tell pods from the rest."""

    family: int
    mask: int
    address: Ip
    large: bool
    masquerade_all: bool
    pods: Prefix | None


class _Rules:
    """The rules written so far by chain, and the matches that many of them share (equal matches are one object)."""

    def __init__(self) -> None:
        self.filter: dict[str, list[Rule]] = defaultdict(list)
        self.nat: dict[str, list[Rule]] = defaultdict(list)
        self._ports: dict[tuple[str, int], tuple[Protocol, Tcp | Udp | Sctp]] = {}
        self._shares: dict[int, Statistic] = {}

    def port(self, protocol: str, port: int) -> tuple[Protocol, Tcp | Udp | Sctp]:
        """`-p PROTOCOL` and `-m PROTOCOL --dport PORT`; port 0 for `-m PROTOCOL` alone, which matches any port."""
        made = self._ports.get((protocol, port))
        if made is None:
            kind = {"tcp": Tcp, "udp": Udp, "sctp": Sctp}[protocol]
            made = Protocol(PROTOCOLS[protocol]), kind(dport=PortRange(port, port)) if port else kind()
            self._ports[protocol, port] = made
        return made

    def share(self, n: int) -> Statistic:
        """One in n: kube-proxy writes 1/n with ten digits, iptables rounds that to units of 2**-31 (libxt_statistic.c)."""
        made = self._shares.get(n)
        if made is None:
            made = self._shares[n] = Statistic(threshold=int(float(f"{1 / n:.10f}") * 2**31 + 0.5))
        return made


def compile_ruleset(cluster: Cluster, node: str, family: int, *, local_addresses: Sequence[Ip] | None = None) -> Ruleset:
    """The iptables rules that kube-proxy programs on a node.

    Parameters
    ----------
    cluster : Cluster
        Services, slices, nodes, and kube-proxy's options under `proxy`.
    node : str
        The name of the node.
    family : int
        4 (iptables) or 6 (ip6tables). kube-proxy programs both, whatever families the cluster uses.
    local_addresses : sequence of Ip, optional
        The addresses of the node's devices: --nodeport-addresses chooses among them. By default loopback and the addresses
        of the Node object.

    Returns
    -------
    Ruleset
        Tables mangle, filter, nat with their built-in chains; a rule made for a service has its `ref`.

    Raises
    ------
    InputError
        Unknown node, or an option of kube-proxy that cannot work or is not modelled.
    """
    options = cluster.proxy
    ports = proxied_ports(cluster, node, family)
    site = _Site(
        family=family,
        mask=V4_ALL if family == 4 else V6_ALL,
        address=node_ip(find_node(cluster, node), family),
        large=sum(p.total for p in ports) > LARGE_CLUSTER,
        masquerade_all=options.masquerade_all,
        pods=pod_network(cluster, node, family),
    )
    rules = _Rules()
    # Chains that kube-proxy makes whether or not they hold rules.
    for name in ("KUBE-EXTERNAL-SERVICES", "KUBE-FIREWALL", "KUBE-NODEPORTS", "KUBE-PROXY-FIREWALL", "KUBE-SERVICES"):
        rules.filter[name] = []
    for name in ("KUBE-NODEPORTS", "KUBE-SERVICES"):
        rules.nat[name] = []
    _write_frame(rules, masquerade_mark(cluster))
    for port in ports:
        _write_port(rules, site, port)
    _write_nodeport_jump(rules, cluster, node, family, local_addresses)
    return Ruleset(
        (
            table(family, "mangle", {"KUBE-PROXY-CANARY": []}),
            table(family, "filter", rules.filter),
            table(family, "nat", rules.nat),
        )
    )


def _write_frame(rules: _Rules, mark: int) -> None:
    """The jumps from the built-in chains, and the chains that do not depend on services."""

    def jump(chain: str, comment: str, *before: Match) -> Rule:
        return Rule((*before, Comment(comment)), Jump(chain))

    firewall = jump("KUBE-PROXY-FIREWALL", "kubernetes load balancer firewall", _NEW)
    external = jump("KUBE-EXTERNAL-SERVICES", "kubernetes externally-visible service portals", _NEW)
    services = jump("KUBE-SERVICES", "kubernetes service portals", _NEW)
    kubelet = Rule((), Jump("KUBE-FIREWALL"))  # a copy of kubelet's, without a comment
    health = jump("KUBE-NODEPORTS", "kubernetes health check service ports")
    forward = jump("KUBE-FORWARD", "kubernetes forwarding rules")
    # Each jump was put in front of the earlier ones (iptablesJumpChains, EnsureRule with Prepend).
    rules.filter["INPUT"] = [kubelet, firewall, health, external]
    rules.filter["FORWARD"] = [firewall, forward, services, external]
    rules.filter["OUTPUT"] = [kubelet, firewall, services]
    rules.filter["KUBE-PROXY-CANARY"] = []
    rules.filter["KUBE-FORWARD"] = [
        # Left out by kube-proxy where net.netfilter.nf_conntrack_tcp_be_liberal is set, which is not the kernel's default.
        Rule((Conntrack(states=frozenset({"INVALID"})),), Drop()),
        Rule((Comment("kubernetes forwarding rules"), Mark(mark, mark)), Accept()),
        Rule((Comment("kubernetes forwarding conntrack rule"), _ESTABLISHED), Accept()),
    ]
    portals = jump("KUBE-SERVICES", "kubernetes service portals")
    rules.nat["PREROUTING"] = [portals]
    rules.nat["OUTPUT"] = [portals]
    rules.nat["POSTROUTING"] = [jump("KUBE-POSTROUTING", "kubernetes postrouting rules")]
    rules.nat["KUBE-PROXY-CANARY"] = []
    rules.nat["KUBE-MARK-MASQ"] = mark_masq(mark)
    rules.nat["KUBE-POSTROUTING"] = postrouting(mark)


def _write_port(rules: _Rules, site: _Site, p: ProxiedPort) -> None:
    """All rules of one service port, in the order of syncProxyRules."""
    hashed = chain_hash(p.name, p.protocol)
    cluster, local, external, firewall = (Jump(kind + hashed) for kind in (CLUSTER, LOCAL, EXTERNAL, FIREWALL))
    internal = local if p.internal_local else cluster
    use = p.usable
    has_internal = bool(use.local) if p.internal_local else use.any
    has_external = bool(use.local) if p.external_local else use.any
    uses_firewall = use.any and bool(p.load_balancer_ips and p.source_ranges)

    def destination(address: Ip) -> Destination:
        return Destination(site.family, address.value, site.mask)

    def add(chain: list[Rule], matches: tuple[Match, ...], target: Target | None) -> None:
        chain.append(Rule(matches, target, p.ref))

    proto, dport = rules.port(p.protocol, p.port)
    refusal: Target = Drop() if use.any else _REJECT[site.family]
    refused = Comment(f"{p.name} has no local endpoints" if use.any else f"{p.name} has no endpoints")

    # Who captures the traffic: KUBE-SERVICES and KUBE-NODEPORTS in nat; where nobody can, the filter table refuses.
    to_cluster_ip = (destination(p.cluster_ip), proto, Comment(f"{p.name} cluster IP"), dport)
    if has_internal:
        add(rules.nat["KUBE-SERVICES"], to_cluster_ip, internal)
    else:
        add(rules.filter["KUBE-SERVICES"], (to_cluster_ip[0], proto, refused, dport), refusal)
    captures = [(a, "external IP", external) for a in p.external_ips]
    captures += [(a, "loadbalancer IP", firewall if uses_firewall else external) for a in p.load_balancer_ips]
    for address, kind, chain in captures:
        to_address = destination(address)
        if use.any:
            add(rules.nat["KUBE-SERVICES"], (to_address, proto, Comment(f"{p.name} {kind}"), dport), chain)
        if chain is firewall:
            comment = Comment(f"{p.name} traffic not accepted by {FIREWALL}{hashed}")
            add(rules.filter["KUBE-PROXY-FIREWALL"], (to_address, proto, comment, dport), Drop())
        if not has_external:
            add(rules.filter["KUBE-EXTERNAL-SERVICES"], (to_address, proto, refused, dport), refusal)
    if p.node_port:
        _, node_dport = rules.port(p.protocol, p.node_port)
        if use.any:
            # Node ports are not subject to loadBalancerSourceRanges.
            add(rules.nat["KUBE-NODEPORTS"], (proto, Comment(p.name), node_dport), external)
        if not has_external:
            add(rules.filter["KUBE-EXTERNAL-SERVICES"], (proto, refused, _TO_NODE, node_dport), refusal)
    if p.health_check_node_port:
        tcp, health_dport = rules.port("tcp", p.health_check_node_port)
        add(rules.filter["KUBE-NODEPORTS"], (tcp, Comment(f"{p.name} health check node port"), health_dport), Accept())
    if not use.any:
        return

    # Traffic to the cluster IP from outside the pod network is masqueraded, for it may have to leave the node again.
    if has_internal:
        if site.masquerade_all:
            add(rules.nat[internal.chain], to_cluster_ip, _TO_MARK_MASQ)
        elif site.pods is not None:
            add(rules.nat[internal.chain], (source(site.pods, negate=True), *to_cluster_ip), _TO_MARK_MASQ)

    if p.externally_accessible:
        chain_rules = rules.nat[external.chain]
        if not p.external_local:
            add(chain_rules, (Comment(f"masquerade traffic for {p.name} external destinations"),), _TO_MARK_MASQ)
        else:
            # With policy Local the source address is kept, except for what starts in this cluster or on this node: that is
            # treated as if it went out to a load balancer and came back in.
            if site.pods is not None:
                comment = Comment(f"pod traffic for {p.name} external destinations")
                add(chain_rules, (*sources(site.pods), comment), cluster)
            comment = Comment(f"masquerade LOCAL traffic for {p.name} external destinations")
            add(chain_rules, (comment, _FROM_NODE), _TO_MARK_MASQ)
            comment = Comment(f"route LOCAL traffic for {p.name} external destinations")
            add(chain_rules, (comment, _FROM_NODE), cluster)
        if has_external:
            add(chain_rules, (), local if p.external_local else cluster)

    if uses_firewall:
        chain_rules = rules.nat[firewall.chain]
        comment = Comment(f"{p.name} loadbalancer IP")
        for allowed in p.source_ranges:
            add(chain_rules, (*sources(allowed), comment), external)
        if any(site.address in allowed for allowed in p.source_ranges):
            # The VIP is often an address of the node, and then the source of what the node itself sends to it.
            for vip in p.load_balancer_ips:
                add(chain_rules, (Source(site.family, vip.value, site.mask), comment), external)
        add(chain_rules, (Comment(f"other traffic to {p.name} will be dropped by KUBE-PROXY-FIREWALL"),), None)

    _write_endpoints(rules, site, p, cluster.chain, local.chain)


def _write_endpoints(rules: _Rules, site: _Site, p: ProxiedPort, cluster: str, local: str) -> None:
    """KUBE-SVC- and KUBE-SVL-: the choice of an endpoint (writeServiceToEndpointRules); KUBE-SEP-: its DNAT."""
    ref, nat, mask = p.ref, rules.nat, site.mask
    proto, any_port = rules.port(p.protocol, 0)
    named: tuple[Match, ...] = () if site.large else (Comment(p.name),)
    jumps: dict[str, tuple[tuple[Match, ...], Jump]] = {}  # by endpoint: the comment of rules that lead to it, the jump
    for b in p.usable.reachable:
        chain = endpoint_chain(p.name, p.protocol, b.text)
        jumps[b.text] = () if site.large else (Comment(f"{p.name} -> {b.text}"),), Jump(chain)
        recent: tuple[Match, ...] = ()
        if p.affinity is not None:
            recent = (Recent("set", name=chain, mask=_RECENT_MASK[site.family]),)
        nat[chain] = [
            # A pod that reaches itself through its service must see another source address, or it would answer itself.
            Rule((Source(site.family, b.ip.value, mask), *named), _TO_MARK_MASQ, ref),
            Rule((proto, *named, *recent, any_port), Dnat(NatRange(b.ip, port_low=b.port)), ref),
        ]
    lists: tuple[tuple[str, Iterable[Backend]], ...] = ((cluster, p.usable.cluster), (local, p.usable.local))
    for name, chosen in lists:
        choices = [jumps[b.text] for b in chosen]
        if not choices:
            continue
        chain_rules = nat[name]
        if p.affinity is not None:
            for comment, jump in choices:
                recent_match = Recent("rcheck", seconds=p.affinity, reap=True, name=jump.chain, mask=_RECENT_MASK[site.family])
                chain_rules.append(Rule((*comment, recent_match), jump, ref))
        for left, (comment, jump) in zip(range(len(choices), 0, -1), choices, strict=True):
            chain_rules.append(Rule((*comment, rules.share(left)) if left > 1 else comment, jump, ref))


def _write_nodeport_jump(rules: _Rules, cluster: Cluster, node: str, family: int, local_addresses: Sequence[Ip] | None) -> None:
    """The end of KUBE-SERVICES, and what guards 127.0.0.0/8 where node ports work on it."""
    localhost = family == 4 and cluster.proxy.localhost_nodeports and covers_loopback(nodeport_blocks(cluster, 4))
    loopback = Prefix(4, 127 << 24, 8) if family == 4 else Prefix(6, 1, 128)
    outside_loopback = Destination(family, loopback.value, loopback.mask, negate=True)
    if localhost:
        # kube-proxy sets route_localnet for it, which would let neighbours reach 127.0.0.1 (CVE-2020-8558).
        inside = Destination(family, loopback.value, loopback.mask)
        known = Conntrack(states=frozenset({"RELATED", "ESTABLISHED", "DNAT"}), not_states=True)
        matches = (source(loopback, negate=True), inside, Comment("block incoming localnet connections"), known)
        rules.filter["KUBE-FIREWALL"].append(Rule(matches, Drop()))

    services, jump = rules.nat["KUBE-SERVICES"], Jump("KUBE-NODEPORTS")
    addresses = nodeport_addresses(cluster, node, family, local_addresses)
    if addresses is None:
        guard: tuple[Match, ...] = () if localhost else (outside_loopback,)
        services.append(Rule((*guard, _LAST_RULE, _TO_NODE), jump))
        return
    for address in addresses:
        if address.is_loopback and not localhost:
            continue  # kube-proxy logs that it cannot serve node ports there
        services.append(Rule((Destination(family, address.value, mask_of(family, address.bits)), _LAST_RULE), jump))
