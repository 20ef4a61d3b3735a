"""kube-proxy v1.30's IPVS mode: virtual services, the addresses that make them local, ipsets, and iptables rules about the sets.

    service address on kube-ipvs0 -> the packet is the node's own -> IPVS (LOCAL_IN or LOCAL_OUT) -> a real server
    nat KUBE-SERVICES: packet in an ipset? -> KUBE-MARK-MASQ    filter KUBE-IPVS-FILTER: other ports of the addresses -> REJECT

Law: for one node and family the result equals `ipvsadm -Sn`, `ipset save` and iptables-save after kube-proxy v1.30's first sync
(pkg/proxy/ipvs/proxier.go, syncProxyRules and writeIptablesRules). kube-proxy goes through services and endpoints in the random
order of Go maps; here they are in the order in which ipvsadm prints them. Where two services claim one address and port, which
of them gets it is thus chance on a real node and the first by name here. Nothing of an earlier life is there: no real server
that waits with weight 0 for its last connections to end (graceful_termination.go), nothing that excludeCIDRs would spare.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence

import msgspec

from netlab.dataplane.proxy.endpoints import PROTOCOLS, Backend, ProxiedPort, find_node, node_ip, proxied_ports
from netlab.dataplane.proxy.node import nodeport_addresses, pod_network
from netlab.dataplane.proxy.xtables import mark_masq, masquerade_mark, postrouting, source, table
from netlab.errors import InputError, did_you_mean
from netlab.kube.cluster import Cluster
from netlab.linux.addr import Ip, Prefix, host_prefix
from netlab.linux.ipvs import SCHEDULERS, Method, RealServer, VirtualService
from netlab.linux.matches import Addrtype, Comment, Conntrack, Ipvs, Mark, Match, Physdev, Protocol, SetMatch
from netlab.linux.netns import Address, Device, DeviceKind
from netlab.linux.rules import Rule, Ruleset
from netlab.linux.sets import IpSet, SetEntry
from netlab.linux.targets import Accept, Drop, Jump, Masquerade, Reject, Return, Target
from netlab.linux.text.ipvsadm import sort_key
from netlab.refs import Ref

DEVICE = "kube-ipvs0"

# The ipsets (ipset.go): name, type, and what kube-proxy says of it in the comments of rules ("" where no rule repeats it).
SETS: Mapping[str, tuple[str, str]] = {
    "KUBE-LOOP-BACK": ("hash:ip,port,ip", "Kubernetes endpoints dst ip:port, source ip for solving hairpin purpose"),
    "KUBE-CLUSTER-IP": ("hash:ip,port", "Kubernetes service cluster ip + port for masquerade purpose"),
    "KUBE-EXTERNAL-IP": ("hash:ip,port", "Kubernetes service external ip + port for masquerade and filter purpose"),
    "KUBE-EXTERNAL-IP-LOCAL": ("hash:ip,port", "Kubernetes service external ip + port with externalTrafficPolicy=local"),
    "KUBE-LOAD-BALANCER": ("hash:ip,port", "Kubernetes service lb portal"),
    "KUBE-LOAD-BALANCER-FW": (
        "hash:ip,port",
        "Kubernetes service load balancer ip + port for load balancer with sourceRange",
    ),
    "KUBE-LOAD-BALANCER-LOCAL": ("hash:ip,port", "Kubernetes service load balancer ip + port with externalTrafficPolicy=local"),
    "KUBE-LOAD-BALANCER-SOURCE-IP": (
        "hash:ip,port,ip",
        "Kubernetes service load balancer ip + port + source IP for packet filter purpose",
    ),
    "KUBE-LOAD-BALANCER-SOURCE-CIDR": (
        "hash:ip,port,net",
        "Kubernetes service load balancer ip + port + source cidr for packet filter purpose",
    ),
    "KUBE-NODE-PORT-TCP": ("bitmap:port", "Kubernetes nodeport TCP port for masquerade purpose"),
    "KUBE-NODE-PORT-LOCAL-TCP": ("bitmap:port", "Kubernetes nodeport TCP port with externalTrafficPolicy=local"),
    "KUBE-NODE-PORT-UDP": ("bitmap:port", "Kubernetes nodeport UDP port for masquerade purpose"),
    "KUBE-NODE-PORT-LOCAL-UDP": ("bitmap:port", "Kubernetes nodeport UDP port with externalTrafficPolicy=local"),
    "KUBE-NODE-PORT-SCTP-HASH": (
        "hash:ip,port",
        "Kubernetes nodeport SCTP port for masquerade purpose with type 'hash ip:port'",
    ),
    "KUBE-NODE-PORT-LOCAL-SCTP-HASH": (
        "hash:ip,port",
        "Kubernetes nodeport SCTP port with externalTrafficPolicy=local with type 'hash ip:port'",
    ),
    "KUBE-HEALTH-CHECK-NODE-PORT": ("bitmap:port", "Kubernetes health check node port"),
    "KUBE-IPVS-IPS": ("hash:ip", ""),
}
_OPTIONS = {"bitmap:port": "range 0-65535"}  # any other: hashsize and maxelem as kube-proxy gives them
_MAX_SET_NAME = 31  # IPSET_MAXNAMELEN without its end; kube-proxy cuts the KUBE-6- names off there

_REJECT = {4: Reject("icmp-port-unreachable"), 6: Reject("icmp6-port-unreachable")}
_LOOPBACK = {4: Prefix(4, 127 << 24, 8), 6: Prefix(6, 1, 128)}
_TO_MARK_MASQ, _TO_NODE = Jump("KUBE-MARK-MASQ"), Addrtype(dst_types=frozenset({"LOCAL"}))
_PAIR, _TRIPLE = ("dst", "dst"), ("dst", "dst", "src")

# Sets that a rule is written about once they hold something: table, chain, target, directions, `-p` (ipsetWithIptablesChain).
_SET_RULES: Sequence[tuple[str, str, str, Target, tuple[str, ...], str]] = (
    ("KUBE-LOOP-BACK", "nat", "KUBE-POSTROUTING", Masquerade(), _TRIPLE, ""),
    ("KUBE-LOAD-BALANCER", "nat", "KUBE-SERVICES", Jump("KUBE-LOAD-BALANCER"), _PAIR, ""),
    ("KUBE-LOAD-BALANCER-LOCAL", "nat", "KUBE-LOAD-BALANCER", Return(), _PAIR, ""),
    ("KUBE-NODE-PORT-LOCAL-TCP", "nat", "KUBE-NODE-PORT", Return(), ("dst",), "tcp"),
    ("KUBE-NODE-PORT-TCP", "nat", "KUBE-NODE-PORT", _TO_MARK_MASQ, ("dst",), "tcp"),
    ("KUBE-NODE-PORT-LOCAL-UDP", "nat", "KUBE-NODE-PORT", Return(), ("dst",), "udp"),
    ("KUBE-NODE-PORT-UDP", "nat", "KUBE-NODE-PORT", _TO_MARK_MASQ, ("dst",), "udp"),
    ("KUBE-NODE-PORT-LOCAL-SCTP-HASH", "nat", "KUBE-NODE-PORT", Return(), _PAIR, "sctp"),
    ("KUBE-NODE-PORT-SCTP-HASH", "nat", "KUBE-NODE-PORT", _TO_MARK_MASQ, _PAIR, "sctp"),
    ("KUBE-LOAD-BALANCER-FW", "filter", "KUBE-PROXY-FIREWALL", Jump("KUBE-SOURCE-RANGES-FIREWALL"), _PAIR, ""),
    ("KUBE-LOAD-BALANCER-SOURCE-CIDR", "filter", "KUBE-SOURCE-RANGES-FIREWALL", Return(), _TRIPLE, ""),
    ("KUBE-LOAD-BALANCER-SOURCE-IP", "filter", "KUBE-SOURCE-RANGES-FIREWALL", Return(), _TRIPLE, ""),
)

_CHAINS = {
    "filter": (
        "KUBE-FORWARD",
        "KUBE-IPVS-FILTER",
        "KUBE-IPVS-OUT-FILTER",
        "KUBE-NODE-PORT",
        "KUBE-PROXY-FIREWALL",
        "KUBE-SOURCE-RANGES-FIREWALL",
    ),
    "nat": ("KUBE-LOAD-BALANCER", "KUBE-MARK-MASQ", "KUBE-NODE-PORT", "KUBE-POSTROUTING", "KUBE-SERVICES"),
}


class Refused(msgspec.Struct, frozen=True, gc=False):
    """A load balancer address that the node itself may not use: its source ranges leave the node's address out."""

    ip: Ip
    port: int
    protocol: str
    ref: Ref


class Family(msgspec.Struct, frozen=True):
    """What kube-proxy programs in one family, but for the rules: virtual services, sets, and the addresses of kube-ipvs0.

    `wanted` are the sets to which kube-proxy has added something, even where the kernel has refused it.
    """

    family: int
    services: tuple[VirtualService, ...] = ()
    sets: Mapping[str, IpSet] = {}
    bound: tuple[Ip, ...] = ()
    wanted: frozenset[str] = frozenset()
    refused: tuple[Refused, ...] = ()


def compile_family(cluster: Cluster, node: str, family: int, *, local_addresses: Sequence[Ip] | None = None) -> Family:
    """The virtual services, ipsets and bound addresses of a node in one family (4 or 6).

    Parameters
    ----------
    cluster : Cluster
        Services, slices, nodes, and kube-proxy's options under `proxy`.
    node : str
        The name of the node.
    family : int
        kube-proxy programs both, whatever families the cluster uses.
    local_addresses : sequence of Ip, optional
        The addresses of the node's devices other than kube-ipvs0. By default those of the Node object.

    Raises
    ------
    InputError
        Unknown node or scheduler, or an option of kube-proxy that cannot work or is not modelled.
    """
    options = cluster.proxy
    if options.scheduler not in SCHEDULERS:
        hint = did_you_mean(options.scheduler, SCHEDULERS) or f"Linux has {', '.join(SCHEDULERS)}"
        raise InputError(f'unknown IPVS scheduler "{options.scheduler}"', hint=hint)
    there = find_node(cluster, node)
    addresses = (*there.internal_ips, *there.external_ips) if local_addresses is None else local_addresses
    own = frozenset(a for a in addresses if a.family == family and not a.is_loopback and not (family == 6 and a.is_link_local))
    writing = _Writing(cluster, family, own, node_ip(there, family))
    ports = proxied_ports(cluster, node, family)
    for p in ports:
        writing.capture(p)
    chosen = nodeport_addresses(cluster, node, family, local_addresses)
    # Without --nodeport-addresses: GetAllLocalAddressesExcept(kube-ipvs0); with it: whatever address the host has there.
    at = own if chosen is None else {a for a in chosen if not a.is_loopback}
    for p in ports:
        writing.capture_node_port(p, sorted(at))
    return writing.result()


class _Writing:
    """What was written so far: virtual services by protocol, address and port; elements by set, in order of arrival."""

    def __init__(self, cluster: Cluster, family: int, own: frozenset[Ip], node_address: Ip) -> None:
        self.scheduler = cluster.proxy.scheduler
        # proxier.go sets FlagSourceHash (IP_VS_SVC_F_SCHED2) for this scheduler: it hashes the source port too
        self.flags = ("mh-port",) if self.scheduler == "mh" else ()
        self.family = family
        self.own = own
        self.node_address = node_address
        self.services: dict[tuple[int, Ip, int], VirtualService] = {}
        self.elements: dict[str, dict[str, bool]] = defaultdict(dict)  # whether the kernel takes it
        self.bound: dict[Ip, None] = {}
        self.refused: list[Refused] = []
        self.texts: dict[Ip, str] = {}

    def text(self, address: Ip) -> str:
        made = self.texts.get(address)
        if made is None:
            made = self.texts[address] = str(address)
        return made

    def serve(self, p: ProxiedPort, address: Ip, port: int, local: bool) -> None:
        """A virtual service and its real servers (syncService, syncEndpoint)."""
        use = p.usable
        # Without an endpoint on the node, policy Local takes those of the cluster, so that at least pods of the node reach them.
        backends = use.local or use.cluster if local else use.cluster
        protocol = PROTOCOLS[p.protocol]
        self.services.setdefault(
            (protocol, address, port),
            VirtualService(
                protocol,
                address,
                port,
                self.scheduler,
                _servers(backends),
                family=self.family,
                flags=self.flags,
                timeout=p.affinity,
                ref=p.ref,
            ),
        )

    def capture(self, p: ProxiedPort) -> None:
        """Cluster IP, external IPs and load balancer addresses of a service port, in the order of syncProxyRules."""
        elements = self.elements
        for b in p.on_node:
            here = self.text(b.ip)
            elements["KUBE-LOOP-BACK"][f"{here},{p.protocol}:{b.port},{here}"] = True
        pair = f"{self.text(p.cluster_ip)},{p.protocol}:{p.port}"
        elements["KUBE-CLUSTER-IP"][pair] = True
        self.serve(p, p.cluster_ip, p.port, p.internal_local)
        self.bound[p.cluster_ip] = None
        for address in p.external_ips:
            pair = f"{self.text(address)},{p.protocol}:{p.port}"
            elements["KUBE-EXTERNAL-IP-LOCAL" if p.external_local else "KUBE-EXTERNAL-IP"][pair] = True
            self.enter(p, address)
        for address in p.load_balancer_ips:
            pair = f"{self.text(address)},{p.protocol}:{p.port}"
            elements["KUBE-LOAD-BALANCER"][pair] = True
            if p.external_local:
                elements["KUBE-LOAD-BALANCER-LOCAL"][pair] = True
            if p.source_ranges:
                elements["KUBE-LOAD-BALANCER-FW"][pair] = True
                for block in p.source_ranges:
                    # ipset refuses a network of length 0 (IPSET_ERR_INVALID_CIDR); kube-proxy logs that and goes on
                    net = self.text(block.address) if block == host_prefix(block.address) else str(block)
                    elements["KUBE-LOAD-BALANCER-SOURCE-CIDR"][f"{pair},{net}"] = block.length > 0
                if any(self.node_address in block for block in p.source_ranges):
                    elements["KUBE-LOAD-BALANCER-SOURCE-IP"][f"{pair},{self.text(address)}"] = True
                else:
                    self.refused.append(Refused(address, p.port, p.protocol, p.ref))
            self.enter(p, address)

    def enter(self, p: ProxiedPort, address: Ip) -> None:
        """An address by which the outside comes in: bound unless another device of the node has it already."""
        self.serve(p, address, p.port, p.external_local)
        if address not in self.own:
            self.bound[address] = None

    def capture_node_port(self, p: ProxiedPort, addresses: Sequence[Ip]) -> None:
        if p.node_port:
            if not addresses:
                return  # kube-proxy goes on to the next port: the health check port is left out, too
            name = f"KUBE-NODE-PORT{{}}-{p.protocol.upper()}{'-HASH' if p.protocol == 'sctp' else ''}"
            elements = [str(p.node_port)]
            if p.protocol == "sctp":
                elements = [f"{self.text(a)},sctp:{p.node_port}" for a in addresses]
            for local in ("", "-LOCAL") if p.external_local else ("",):
                self.elements[name.format(local)].update(dict.fromkeys(elements, True))
            for address in addresses:
                self.serve(p, address, p.node_port, p.external_local)
        if p.health_check_node_port:
            self.elements["KUBE-HEALTH-CHECK-NODE-PORT"][str(p.health_check_node_port)] = True

    def result(self) -> Family:
        self.elements["KUBE-IPVS-IPS"] = {self.text(a): True for a in self.bound}
        sets = {}
        for name, (type_, _) in SETS.items():
            found = [element for element, taken in self.elements.get(name, {}).items() if taken]
            if type_ == "bitmap:port":
                found.sort(key=int)
            sets[set_name(name, self.family)] = IpSet(
                set_name(name, self.family),
                type_,
                4 if type_ == "bitmap:port" else self.family,
                tuple([SetEntry(tuple(element.split(","))) for element in found]),
                _OPTIONS.get(type_, "hashsize 1024 maxelem 65536"),
            )
        return Family(
            self.family,
            tuple(sorted(self.services.values(), key=sort_key)),
            sets,
            tuple(self.bound),
            frozenset(name for name, elements in self.elements.items() if elements),
            tuple(self.refused),
        )


def _servers(backends: Iterable[Backend]) -> tuple[RealServer, ...]:
    """The real servers, each once, in the order in which ipvsadm prints them."""
    found = {(b.ip, b.port): None for b in backends}
    return tuple([RealServer(address, port, Method.MASQUERADE, 1) for address, port in sorted(found)])


def set_name(name: str, family: int) -> str:
    """The name of a set in a family.

    >>> set_name("KUBE-LOAD-BALANCER-SOURCE-CIDR", 6)
    'KUBE-6-LOAD-BALANCER-SOURCE-CID'
    """
    return name if family == 4 else f"KUBE-6-{name.removeprefix('KUBE-')}"[:_MAX_SET_NAME]


def device(families: Iterable[Family], index: int) -> Device:
    """kube-ipvs0: a dummy device that stays down and has every service address (netlink_linux.go; `ip link add type dummy`)."""
    bound = [Address(address, address.bits) for each in families for address in each.bound]
    return Device(DEVICE, DeviceKind.DUMMY, index, mac="02:00:69:70:76:73", up=False, addresses=tuple(bound))


def sysctls(cluster: Cluster) -> dict[str, int]:
    """What kube-proxy sets (NewProxier); conn_reuse_mode it leaves at the kernel's 1 since Linux 5.9."""
    found = {
        "ipv4.ip_forward": 1,
        "ipv4.vs.conntrack": 1,
        "ipv4.vs.conn_reuse_mode": 1,
        "ipv4.vs.expire_nodest_conn": 1,
        "ipv4.vs.expire_quiescent_template": 1,
    }
    if cluster.proxy.strict_arp:
        found |= {"ipv4.conf.all.arp_ignore": 1, "ipv4.conf.all.arp_announce": 2}
    return found


def compile_ruleset(cluster: Cluster, node: str, programmed: Family) -> Ruleset:
    """The iptables rules of one family, which speak of the sets (writeIptablesRules).

    Unlike the iptables mode, kube-proxy has no mangle table and no canary chains here.
    """
    family, wanted = programmed.family, programmed.wanted
    mark = masquerade_mark(cluster)
    pods = pod_network(cluster, node, family)
    rules: dict[str, dict[str, list[Rule]]] = {name: {chain: [] for chain in chains} for name, chains in _CHAINS.items()}
    filter_, nat = rules["filter"], rules["nat"]

    def holds(name: str, dims: tuple[str, ...]) -> SetMatch:
        return SetMatch(set_name(name, family), dims)

    def said(name: str) -> Comment:
        return Comment(SETS[name][1])

    _write_frame(filter_, nat)
    services = nat["KUBE-SERVICES"]
    services.append(Rule((source(_LOOPBACK[family]),), Return()))
    for name, in_table, chain, target, dims, protocol in _SET_RULES:
        if name in wanted:
            only: tuple[Match, ...] = (Protocol(PROTOCOLS[protocol]),) if protocol else ()
            rules[in_table][chain].append(Rule((*only, said(name), holds(name, dims)), target))

    name = "KUBE-CLUSTER-IP"
    if name in wanted:
        if cluster.proxy.masquerade_all:
            services.append(Rule((said(name), holds(name, _PAIR)), _TO_MARK_MASQ))
        elif pods is not None:
            services.append(Rule((source(pods, negate=True), said(name), holds(name, _PAIR)), _TO_MARK_MASQ))
        else:
            # What the node sends to a service address has another one of kube-ipvs0 as its source.
            services.append(Rule((said(name), holds(name, ("src", "dst"))), _TO_MARK_MASQ))
    for name, masquerade in (("KUBE-EXTERNAL-IP", True), ("KUBE-EXTERNAL-IP-LOCAL", False)):
        if name in wanted:
            matches = (said(name), holds(name, _PAIR))
            if masquerade:
                services.append(Rule(matches, _TO_MARK_MASQ))
            from_outside = (
                Physdev(is_in=True, not_is_in=True),
                Addrtype(src_types=frozenset({"LOCAL"}), not_src=True),
            )
            services.append(Rule((*matches, *from_outside), Accept()))
            services.append(Rule((*matches, _TO_NODE), Accept()))
    services.append(Rule((_TO_NODE,), Jump("KUBE-NODE-PORT")))
    nat["KUBE-LOAD-BALANCER"].append(Rule((), _TO_MARK_MASQ))
    filter_["KUBE-SOURCE-RANGES-FIREWALL"].append(Rule((), Drop()))
    for r in programmed.refused:
        virtual = Ipvs(f"--vproto {PROTOCOLS[r.protocol]} --vaddr {r.ip} --vport {r.port}")
        filter_["KUBE-IPVS-OUT-FILTER"].append(Rule((source(host_prefix(r.ip)), virtual), Drop(), r.ref))
    services += [Rule((holds(each, _PAIR),), Accept()) for each in ("KUBE-CLUSTER-IP", "KUBE-LOAD-BALANCER") if each in wanted]

    filter_["KUBE-FORWARD"] += [
        Rule((Comment("kubernetes forwarding rules"), Mark(mark, mark)), Accept()),
        Rule((Comment("kubernetes forwarding conntrack rule"), _states("RELATED", "ESTABLISHED")), Accept()),
    ]
    name = "KUBE-HEALTH-CHECK-NODE-PORT"
    filter_["KUBE-NODE-PORT"].append(Rule((said(name), holds(name, ("dst",))), Accept()))
    known = ("KUBE-LOAD-BALANCER", "KUBE-CLUSTER-IP", "KUBE-EXTERNAL-IP", "KUBE-EXTERNAL-IP-LOCAL")
    filter_["KUBE-IPVS-FILTER"] += [
        *[Rule((holds(each, _PAIR),), Return()) for each in known],
        Rule((holds(name, ("dst",)),), Return()),
        Rule((_states("NEW"), holds("KUBE-IPVS-IPS", ("dst",))), _REJECT[family]),
    ]
    nat["KUBE-POSTROUTING"] += postrouting(mark)
    nat["KUBE-MARK-MASQ"] += mark_masq(mark)
    return Ruleset((table(family, "filter", filter_), table(family, "nat", nat)))


def _states(*states: str) -> Conntrack:
    return Conntrack(states=frozenset(states))


def _write_frame(filter_: dict[str, list[Rule]], nat: dict[str, list[Rule]]) -> None:
    """The jumps from the built-in chains; each was put in front of the earlier ones (iptablesJumpChain)."""

    def jump(chain: str, comment: str) -> Rule:
        return Rule((Comment(comment),), Jump(chain))

    firewall = jump("KUBE-PROXY-FIREWALL", "kube-proxy firewall rules")
    filter_["INPUT"] = [
        jump("KUBE-IPVS-FILTER", "kubernetes ipvs access filter"),
        firewall,
        jump("KUBE-NODE-PORT", "kubernetes health check rules"),
    ]
    filter_["FORWARD"] = [firewall, jump("KUBE-FORWARD", "kubernetes forwarding rules")]
    filter_["OUTPUT"] = [jump("KUBE-IPVS-OUT-FILTER", "kubernetes ipvs access filter")]
    nat["PREROUTING"] = nat["OUTPUT"] = [jump("KUBE-SERVICES", "kubernetes service portals")]
    nat["POSTROUTING"] = [jump("KUBE-POSTROUTING", "kubernetes postrouting rules")]
