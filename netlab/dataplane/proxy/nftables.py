"""kube-proxy's nftables mode: the table `kube-proxy` that it leaves in a node, one per family.

    nat-prerouting, nat-output -> services -- @service-ips ------> service-x | local-x --numgen--> endpoint-y -> dnat
                                     |  \\---------------------> external-x -> service-x or local-x
                                     +-- @service-nodeports -------^
    filter-* -> firewall-check (source ranges), service-endpoints-check, nodeport-endpoints-check, cluster-ips-check
    nat-postrouting -> masquerading (mark 0x4000)

Law: for v1.30 the result equals `nft list ruleset` after kube-proxy's first sync, element for element (pkg/proxy/nftables,
syncProxyRules); `RULES` says what later versions do otherwise. Chains stand in the order of their names, elements in that of
the services' names: kube-proxy's own order is that of a Go map.
"""

from __future__ import annotations

from base64 import b32encode
from collections.abc import Sequence
from hashlib import sha256

import msgspec

from netlab.dataplane.proxy.endpoints import Backend, ProxiedPort, find_node, node_ip, proxied_ports
from netlab.dataplane.proxy.node import nodeport_addresses, pod_network
from netlab.errors import InputError
from netlab.kube.cluster import Cluster
from netlab.linux.addr import Ip, Prefix, host_prefix
from netlab.linux.hook import Hook
from netlab.linux.hooks import FILTER, NAT_DST, NAT_SRC
from netlab.linux.nft import (
    Binary,
    Compare,
    Concat,
    CtKey,
    Element,
    Expression,
    Fib,
    Mangle,
    Meta,
    Nat,
    NftChain,
    NftRule,
    NftSet,
    NftTable,
    Numgen,
    Payload,
    PrefixValue,
    RangeValue,
    RejectStatement,
    SetChange,
    SetLiteral,
    SetName,
    Statement,
    Value,
    Verdict,
    Vmap,
)
from netlab.linux.rules import Ruleset
from netlab.refs import Ref

TABLE = "kube-proxy"
_NAME_MAX = 240  # knftables.NameLengthMax (256) less the longest prefix


class Generation(msgspec.Struct, frozen=True):
    """What differs between versions of kube-proxy's rules.

    `pre_dnat`: the firewall has base chains of its own before DNAT, the other filter chains run at priority filter;
    `unallocated`: what is in the service network and no ClusterIP is dropped; `port_in_masquerade`: the rule that marks traffic
    to a ClusterIP names the port; `firewall_comments`: elements of @firewall-ips have the service's name.
    """

    pre_dnat: bool = False
    unallocated: bool = False
    port_in_masquerade: bool = True
    firewall_comments: bool = True


_FIRST = Generation()
_ALLOCATORS = Generation(unallocated=True, firewall_comments=False)  # MultiCIDRServiceAllocator is on (KEP-1880)
_PRE_DNAT = Generation(pre_dnat=True, unallocated=True, port_in_masquerade=False, firewall_comments=False)
_PRE_DNAT_FIX = Generation(pre_dnat=True, unallocated=True, firewall_comments=False)  # the fix of 1.34, carried back
RULES = {
    "1.30": _FIRST,
    "1.31": _FIRST,
    "1.32": _FIRST,
    "1.33": _ALLOCATORS,
    "1.33.6": _PRE_DNAT_FIX,  # and what follows it in 1.33
    "1.34": _PRE_DNAT,
}
DEFAULT_VERSION = "1.30"


def generation(version: str) -> Generation:
    """The rules of a version: "1.33" (its first release), "v1.33", "v1.33.6".

    Raises
    ------
    InputError
        A version whose rules netlab does not know.
    """
    plain = version.strip().lower().removeprefix("v")
    minor = ".".join(plain.split(".")[:2])
    if minor not in RULES:
        known = ", ".join(name for name in RULES if name.count(".") == 1)
        raise InputError(f'kube-proxy version "{version}" is not modelled', hint=f"nftables mode is known for {known}")
    patch = plain.removeprefix(minor).removeprefix(".").partition("-")[0].partition("+")[0]
    if patch and not patch.isdecimal():
        raise InputError(f'"{version}" is no version of kube-proxy', hint=f"write {minor} or {minor}.2")
    since = [name for name in RULES if name.startswith(f"{minor}.") and int(name.rpartition(".")[2]) <= int(patch or 0)]
    return RULES[since[-1] if since else minor]


def chain_base(port: ProxiedPort, endpoint: str = "") -> str:
    """What follows the prefix of a chain's name: eight characters of a hash, and what was hashed.

    `endpoint` is "ip:port" as the slice spells it (servicePortEndpointChainNameBase: colons become dots).
    """
    service = port.service
    name = f"{service.namespace}/{service.name}/{port.protocol}/{port.name.partition(':')[2]}"
    if endpoint:
        host, _, number = endpoint.rpartition(":")
        name += f"__{host.strip('[]').replace(':', '.')}/{number}"
    return hash_and_truncate(name)


def hash_and_truncate(name: str) -> str:
    """proxier.go hashAndTruncate.

    >>> hash_and_truncate("default/db/tcp/pg")
    'TOUX2DZF-default/db/tcp/pg'
    """
    made = f"{b32encode(sha256(name.encode()).digest())[:8].decode()}-{name}"
    return made if len(made) <= _NAME_MAX else made[: _NAME_MAX - 3] + "..."


_NEW = Compare(CtKey("state"), "in", Value("new"))
_SOURCE_IS_LOCAL = Compare(Fib(("saddr",), "type"), "==", Value("local"))
_DESTINATION_IS_LOCAL = Compare(Fib(("daddr",), "type"), "==", Value("local"))
_L4PROTO, _TH_DPORT = Meta("l4proto"), Payload("th", "dport")
_MARK = Meta("mark")
_TO_MARK = Verdict("jump", "mark-for-masquerade")
_REJECT, _DROP = Verdict("goto", "reject-chain"), Verdict("drop")
_BASE = (
    # name, type, hook, priority, and the priority since `pre_dnat`
    ("filter-prerouting", "filter", Hook.PREROUTING, NAT_DST - 10, NAT_DST - 10),
    ("filter-input", "filter", Hook.INPUT, NAT_DST - 10, FILTER),
    ("filter-forward", "filter", Hook.FORWARD, NAT_DST - 10, FILTER),
    ("filter-output", "filter", Hook.OUTPUT, NAT_DST - 10, FILTER),
    ("filter-output-post-dnat", "filter", Hook.OUTPUT, NAT_DST + 10, NAT_DST - 10),
    ("nat-prerouting", "nat", Hook.PREROUTING, NAT_DST, NAT_DST),
    ("nat-output", "nat", Hook.OUTPUT, NAT_DST, NAT_DST),
    ("nat-postrouting", "nat", Hook.POSTROUTING, NAT_SRC, NAT_SRC),
)
_PRE_DNAT_NAMES = {"filter-prerouting": "filter-prerouting-pre-dnat", "filter-output-post-dnat": "filter-output-pre-dnat"}


def _checks(rules: Generation) -> dict[str, tuple[str, ...]]:
    """Where each base chain jumps (nftablesJumpChains)."""
    if rules.pre_dnat:
        return {
            "filter-prerouting-pre-dnat": ("firewall-check",),
            "filter-input": ("nodeport-endpoints-check", "service-endpoints-check"),
            "filter-forward": ("service-endpoints-check", "cluster-ips-check"),
            "filter-output": ("service-endpoints-check", "cluster-ips-check"),
            "filter-output-pre-dnat": ("firewall-check",),
        }
    return {
        "filter-prerouting": ("firewall-check",),
        "filter-input": ("nodeport-endpoints-check", "service-endpoints-check"),
        "filter-forward": ("service-endpoints-check", "cluster-ips-check"),
        "filter-output": ("service-endpoints-check", "firewall-check"),
        "filter-output-post-dnat": ("cluster-ips-check",),
    }


class _Table:
    """The table of one family while it is written."""

    def __init__(self, family: int, rules: Generation) -> None:
        self.rules = rules
        self.ip = "ip" if family == 4 else "ip6"
        self.addr_type = "ipv4_addr" if family == 4 else "ipv6_addr"
        self.saddr, self.daddr = Payload(self.ip, "saddr"), Payload(self.ip, "daddr")
        self.chains: dict[str, list[NftRule]] = {}
        self.elements: dict[str, dict[Expression, Element]] = {}
        self.affinity: dict[str, int] = {}

    def add(self, chain: str, *statements: Statement, comment: str = "", ref: Ref | None = None) -> None:
        self.chains.setdefault(chain, []).append(NftRule(statements, comment, ref=ref))

    def element(self, name: str, key: tuple[Ip | str | int, ...], data: Verdict | None = None, comment: str = "") -> None:
        """The first claim of a key wins: kube-proxy's transaction fails over two different ones."""
        parts = tuple(Value(part if isinstance(part, int) else str(part)) for part in key)
        made = parts[0] if len(parts) == 1 else Concat(parts)
        self.elements.setdefault(name, {}).setdefault(made, Element(made, data, comment))


def compile_ruleset(
    cluster: Cluster, node: str, family: int, *, local_addresses: Sequence[Ip] | None = None, version: str = DEFAULT_VERSION
) -> Ruleset:
    """The table that kube-proxy programs on a node.

    Parameters
    ----------
    cluster : Cluster
        Services, slices, nodes, and kube-proxy's options under `proxy`.
    node : str
        The name of the node.
    family : int
        4 (`table ip kube-proxy`) or 6 (`table ip6 kube-proxy`). kube-proxy programs both.
    local_addresses : sequence of Ip, optional
        The addresses of the node's devices: --nodeport-addresses chooses among them.
    version : str
        Whose rules: a key of RULES.

    Returns
    -------
    Ruleset
        With one table in `nft_tables`; a rule made for a service has its `ref`.

    Raises
    ------
    InputError
        Unknown node, an option that cannot work, a version that is not modelled.
    """
    options = cluster.proxy
    if not 0 <= options.masquerade_bit <= 31:
        raise InputError(f"masqueradeBit {options.masquerade_bit} is no bit of a mark", hint="use 0 to 31 (the default is 14)")
    rules = generation(version)
    table = _Table(family, rules)
    ports = proxied_ports(cluster, node, family)
    there = find_node(cluster, node)
    addresses = _nodeport_ips(cluster, node, family, local_addresses)
    _write_frame(table, 1 << options.masquerade_bit, addresses is None, _service_cidrs(cluster, family))
    for address in addresses or ():
        table.element("nodeport-ips", (address,))
    pods = pod_network(cluster, node, family, everything=True)
    for port in ports:
        _write_port(table, port, node_ip(there, family), pods, options.masquerade_all)
    return Ruleset(nft_tables=(_made(table, addresses is not None),))


def _service_cidrs(cluster: Cluster, family: int) -> list[Prefix]:
    return [cidr for cidr in cluster.service_cidrs if cidr.family == family]


def _nodeport_ips(cluster: Cluster, node: str, family: int, local_addresses: Sequence[Ip] | None) -> tuple[Ip, ...] | None:
    """The addresses in @nodeport-ips, None where node ports answer on all; by default the node's primary one (KEP-3866).

    Loopback is never served: localhost node ports need route_localnet, which this mode does not set.
    """
    found = nodeport_addresses(cluster, node, family, local_addresses, primary=True)
    return None if found is None else tuple(a for a in found if not a.is_loopback)


def _write_frame(table: _Table, mark: int, nodeports_everywhere: bool, service_cidrs: list[Prefix]) -> None:
    """The chains that do not depend on services (setupNFTables)."""
    for chain, targets in _checks(table.rules).items():
        for target in targets:
            table.add(chain, _NEW, Verdict("jump", target))
    table.add("nat-prerouting", Verdict("jump", "services"))
    table.add("nat-output", Verdict("jump", "services"))
    table.add("nat-postrouting", Verdict("jump", "masquerading"))

    if nodeports_everywhere:
        loopback: Expression = PrefixValue("127.0.0.0", 8) if table.ip == "ip" else Value("::1")
        to_nodeport: tuple[Compare, ...] = (_DESTINATION_IS_LOCAL, Compare(table.daddr, "!=", loopback))
    else:
        to_nodeport = (Compare(table.daddr, "==", SetName("nodeport-ips")),)
    by_port = Concat((_L4PROTO, _TH_DPORT))
    by_address = Concat((table.daddr, _L4PROTO, _TH_DPORT))
    table.add("nodeport-endpoints-check", *to_nodeport, Vmap(by_port, SetName("no-endpoint-nodeports")))
    table.add("service-endpoints-check", Vmap(by_address, SetName("no-endpoint-services")))
    table.add("firewall-check", Vmap(by_address, SetName("firewall-ips")))
    table.add("services", Vmap(by_address, SetName("service-ips")))
    table.add("services", *to_nodeport, Vmap(by_port, SetName("service-nodeports")))

    marked = Binary("&", _MARK, Value(mark))
    table.add("masquerading", Compare(marked, "==", Value(0)), Verdict("return"))
    table.add("masquerading", Mangle(_MARK, Binary("^", _MARK, Value(mark))))
    table.add("masquerading", Nat("masquerade", flags=("fully-random",)))
    table.add("mark-for-masquerade", Mangle(_MARK, Binary("|", _MARK, Value(mark))))
    table.add("reject-chain", RejectStatement())
    to_active = Compare(table.daddr, "==", SetName("cluster-ips"))
    table.add("cluster-ips-check", to_active, RejectStatement(), comment="Reject traffic to invalid ports of ClusterIPs")
    if table.rules.unallocated and service_cidrs:
        inside = Compare(table.daddr, "==", _any_of([_prefix(cidr) for cidr in service_cidrs]))
        table.add("cluster-ips-check", inside, _DROP, comment="Drop traffic to unallocated ClusterIPs")


def _prefix(prefix: Prefix) -> Expression:
    """A prefix as nft prints it: a host's is its address."""
    return Value(str(prefix.address)) if prefix.length == prefix.address.bits else PrefixValue(str(prefix.address), prefix.length)


def _any_of(values: list[Expression]) -> Expression:
    """nft prints a set of one element as that element."""
    return values[0] if len(values) == 1 else SetLiteral(tuple(Element(value) for value in values))


def _intervals(blocks: Sequence[Prefix]) -> Expression:
    """A set of networks as nft lists it: in order, and what overlaps or adjoins is one (nft merges before it loads)."""
    if len(blocks) == 1:
        return _prefix(blocks[0])
    family, merged = blocks[0].family, list[list[int]]()
    for low, high in sorted((block.value, block.value | (1 << block.address.bits - block.length) - 1) for block in blocks):
        if merged and low <= merged[-1][1] + 1:
            merged[-1][1] = max(merged[-1][1], high)
        else:
            merged.append([low, high])
    return SetLiteral(tuple(Element(_interval(family, low, high)) for low, high in merged))


def _interval(family: int, low: int, high: int) -> Expression:
    free = (high - low).bit_length()
    if high - low == (1 << free) - 1 and not low & high - low:
        return _prefix(Prefix(family, low, Ip(family, low).bits - free))
    return RangeValue(Value(str(Ip(family, low))), Value(str(Ip(family, high))))


def _write_port(table: _Table, p: ProxiedPort, node: Ip, pods: Prefix | None, masquerade_all: bool) -> None:
    """All that one service port adds, in the order of syncProxyRules."""
    base = chain_base(p)
    cluster, local, external, firewall = (f"{kind}-{base}" for kind in ("service", "local", "external", "firewall"))
    internal = local if p.internal_local else cluster
    use = p.usable
    has_internal = bool(use.local) if p.internal_local else use.any
    has_external = bool(use.local) if p.external_local else use.any
    uses_firewall = bool(p.load_balancer_ips and p.source_ranges)
    refusal = _DROP if use.any else _REJECT

    def to(address: Ip) -> tuple[Ip | str | int, ...]:
        return (address, p.protocol, p.port)

    table.element("cluster-ips", (p.cluster_ip,))
    if has_internal:
        table.element("service-ips", to(p.cluster_ip), Verdict("goto", internal))
    else:
        table.element("no-endpoint-services", to(p.cluster_ip), refusal, p.name)
    for address in (*p.external_ips, *p.load_balancer_ips):
        if use.any:
            table.element("service-ips", to(address), Verdict("goto", external))
        if not has_external:
            table.element("no-endpoint-services", to(address), refusal, p.name)
    if uses_firewall:
        comment = p.name if table.rules.firewall_comments else ""
        for address in p.load_balancer_ips:
            table.element("firewall-ips", to(address), Verdict("goto", firewall), comment)
        allowed = list(p.source_ranges)
        if any(node in block for block in p.source_ranges):  # what the node itself sends to the VIP may have it as its source
            allowed += [host_prefix(vip) for vip in p.load_balancer_ips]
        table.add(firewall, Compare(table.saddr, "!=", _intervals(allowed)), _DROP, ref=p.ref)
    if p.node_port:
        if use.any:
            table.element("service-nodeports", (p.protocol, p.node_port), Verdict("goto", external))
        if not has_external:
            table.element("no-endpoint-nodeports", (p.protocol, p.node_port), refusal, p.name)
    if not use.any:
        return

    if has_internal and (masquerade_all or pods is not None):
        matches = [Compare(table.daddr, "==", Value(str(p.cluster_ip)))]
        if table.rules.port_in_masquerade:
            matches.append(Compare(Payload(p.protocol, "dport"), "==", Value(p.port)))
        if not masquerade_all and pods is not None:
            matches.append(Compare(table.saddr, "!=", _prefix(pods)))
        table.add(internal, *matches, _TO_MARK, ref=p.ref)
    if p.externally_accessible:
        _write_external(table, p, external, cluster, local if p.external_local else cluster, pods, has_external)
    _write_endpoints(table, p, cluster, local)


def _write_external(
    table: _Table, p: ProxiedPort, external: str, cluster: str, policy: str, pods: Prefix | None, has_external: bool
) -> None:
    """What arrives at a node port, external or load balancer address."""
    if not p.external_local:
        table.add(external, _TO_MARK, ref=p.ref)
    else:
        to_cluster = Verdict("goto", cluster)
        if pods is not None:
            from_pods = Compare(table.saddr, "==", _prefix(pods))
            table.add(external, from_pods, to_cluster, comment="short-circuit pod traffic", ref=p.ref)
        table.add(external, _SOURCE_IS_LOCAL, _TO_MARK, comment="masquerade local traffic", ref=p.ref)
        table.add(external, _SOURCE_IS_LOCAL, to_cluster, comment="short-circuit local traffic", ref=p.ref)
    if has_external:
        table.add(external, Verdict("goto", policy), ref=p.ref)


def _write_endpoints(table: _Table, p: ProxiedPort, cluster: str, local: str) -> None:
    """The choice of an endpoint (writeServiceToEndpointRules), and its DNAT."""
    bases = {b.text: chain_base(p, b.text) for b in p.usable.reachable}

    def choose(chain: str, backends: tuple[Backend, ...]) -> None:
        if not backends:
            return
        chains = [f"endpoint-{bases[b.text]}" for b in backends]
        if p.affinity is not None:
            for b, endpoint in zip(backends, chains, strict=True):
                known = Compare(table.saddr, "==", SetName(f"affinity-{bases[b.text]}"))
                table.add(chain, known, Verdict("goto", endpoint), ref=p.ref)
        elements = tuple(Element(Value(n), Verdict("goto", endpoint)) for n, endpoint in enumerate(chains))
        table.add(chain, Vmap(Numgen("random", len(elements)), SetLiteral(elements)), ref=p.ref)

    choose(cluster, p.usable.cluster)
    choose(local, p.usable.local)
    for b in p.usable.reachable:
        chain = f"endpoint-{bases[b.text]}"
        # a pod that reaches itself through its service must see another source address, or it would answer itself
        table.add(chain, Compare(table.saddr, "==", Value(str(b.ip))), _TO_MARK, ref=p.ref)
        if p.affinity is not None:
            name = f"affinity-{bases[b.text]}"
            table.affinity[name] = p.affinity
            table.add(chain, SetChange("update", name, Element(table.saddr)), ref=p.ref)
        dnat = Nat("dnat", Value(str(b.ip)), Value(b.port))
        table.add(chain, Compare(_L4PROTO, "==", Value(p.protocol)), dnat, ref=p.ref)


def _made(table: _Table, nodeport_set: bool) -> NftTable:
    by_address, by_port = (table.addr_type, "inet_proto", "inet_service"), ("inet_proto", "inet_service")
    named = [
        NftSet("cluster-ips", (table.addr_type,), comment="Active ClusterIPs"),
        NftSet("nodeport-ips", (table.addr_type,), comment="IPs that accept NodePort traffic"),
        _map("no-endpoint-services", by_address, "vmap to drop or reject packets to services with no endpoints"),
        _map("no-endpoint-nodeports", by_port, "vmap to drop or reject packets to service nodeports with no endpoints"),
        _map("firewall-ips", by_address, "destinations that are subject to LoadBalancerSourceRanges"),
        _map("service-ips", by_address, "ClusterIP, ExternalIP and LoadBalancer IP traffic"),
        _map("service-nodeports", by_port, "NodePort traffic"),
    ]
    sets = {
        made.name: msgspec.structs.replace(made, elements=tuple(table.elements.get(made.name, {}).values()))
        for made in named
        if made.name != "nodeport-ips" or nodeport_set
    }
    for name, seconds in sorted(table.affinity.items()):
        # without a size the kernel gives dynamic sets 65535
        sets[name] = NftSet(name, (table.addr_type,), flags=("dynamic", "timeout"), timeout=seconds, size=65535)
    chains = {}
    for name, kind, hook, priority, later in _BASE:
        if table.rules.pre_dnat:
            name, priority = _PRE_DNAT_NAMES.get(name, name), later
        chains[name] = NftChain(name, tuple(table.chains[name]), kind, hook, priority, "accept")
    for name in sorted(table.chains.keys() - chains.keys()):
        about = "helper for @no-endpoint-services / @no-endpoint-nodeports" if name == "reject-chain" else ""
        chains[name] = NftChain(name, tuple(table.chains[name]), comment=about)
    return NftTable(table.ip, TABLE, chains, sets, comment="rules for kube-proxy")


def _map(name: str, key: tuple[str, ...], comment: str) -> NftSet:
    return NftSet(name, key, ("verdict",), comment=comment)
