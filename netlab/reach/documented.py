"""The differences between kube-proxy's modes that upstream knows of: one table, which docs/modes.md repeats.

Law: an entry says in which mode a thing is so, against which other modes, what it is, and where upstream says so; `applies` is
as narrow as that text. What no entry covers is a finding. The first entry that applies names a difference.
"""

from __future__ import annotations

from collections.abc import Callable

import msgspec

from netlab.kube.objects import Service, ServicePort

_OTHERS = {
    "iptables": ("nftables", "ipvs", "userspace"),
    "nftables": ("iptables", "ipvs", "userspace"),
    "ipvs": ("iptables", "nftables", "userspace"),
    "userspace": ("iptables", "nftables", "ipvs"),
}


class Question(msgspec.Struct, frozen=True):
    """A flow, and how it ends in the mode that an entry speaks of (`mine`) and in the other one (`theirs`).

    `kind` of destination: "cluster-ip", "service-address" (external or load balancer IP), "node-port", "health-check", "node",
    "unallocated" (in a service CIDR, but nobody's), "other". `port` is the service port that is meant, None for a wrong one or
    ICMP. `restricted`: the service has a traffic policy Local, source ranges, hints or terminating endpoints.
    """

    kind: str
    protocol: str
    family: int
    primary_families: frozenset[int]
    loopback: bool
    primary_address: bool
    service: Service | None
    port: ServicePort | None
    restricted: bool
    external_ip: bool = False  # the address is among a service's externalIPs
    node_claimed: bool = False  # some service has a node's address as an external or load balancer IP
    mixed: bool = False  # the service has external addresses of both families, or a node has IPv6 first and IPv4, too

    @property
    def other_family_first(self) -> bool:
        """The service's first ClusterIP is of a family that no node has first."""
        ips = self.service.cluster_ips if self.service is not None else ()
        return bool(ips) and ips[0].family not in self.primary_families

    mine: tuple[str, ...] = ()
    theirs: tuple[str, ...] = ()
    same_endpoints: bool = False

    @property
    def local_policy(self) -> bool:
        """The traffic policy by which this destination is reached is Local."""
        if self.service is None:
            return False
        of = self.service
        return (of.internal_traffic_policy if self.kind == "cluster-ip" else of.external_traffic_policy) == "Local"

    @property
    def to_service(self) -> bool:
        return self.port is not None

    @property
    def arrives(self) -> bool:
        """Everything is delivered in the mode that the entry speaks of."""
        return set(self.mine) == {"delivered"}

    @property
    def refused(self) -> bool:
        """Nothing is delivered there."""
        return "delivered" not in self.mine


class Documented(msgspec.Struct, frozen=True):
    """A known difference: `mode` does what `text` says, the modes `against` do not; `source` is where upstream says so."""

    key: str
    mode: str
    against: tuple[str, ...]
    text: str
    source: str
    applies: Callable[[Question], bool]

    def __hash__(self) -> int:
        return hash(self.key)


DOCUMENTED: tuple[Documented, ...] = (
    Documented(
        "iptables-nodeport-refusals",
        "iptables",
        ("nftables", "ipvs"),
        "where a node port has no endpoint to go to, it is refused on every address of the node, whatever --nodeport-addresses "
        "says; elsewhere the node itself answers on addresses that are not among those",
        "iptables/proxier.go, KUBE-EXTERNAL-SERVICES",
        lambda q: q.kind == "node-port"
        and q.refused
        and set(q.mine) <= {"ICMP port unreachable", "no answer"}  # its REJECT or DROP, not the node's own reset
        and "delivered" not in q.theirs
        and not q.loopback,
    ),
    Documented(
        "iptables-external-refusals",
        "iptables",
        ("nftables", "ipvs"),
        "an external address of a service without endpoints is refused on the way in and when forwarded; what the node itself "
        "sends there leaves it",
        "iptables/proxier.go, the jumps to KUBE-EXTERNAL-SERVICES",
        lambda q: q.kind == "service-address" and q.to_service and q.refused and "delivered" not in q.theirs,
    ),
    Documented(
        "nftables-service-ip-ports",
        "nftables",
        ("iptables", "userspace"),
        "a ClusterIP is rejected on every port that its service does not have, ping too; elsewhere such packets are passed on to "
        "wherever the default route leads",
        "KEP-3866, 'Behavior of service IPs'; nftables/proxier.go, chain cluster-ips-check",
        lambda q: q.kind in ("cluster-ip", "unallocated") and q.port is None and q.refused,
    ),
    Documented(
        "nftables-nodeport-loopback",
        "nftables",
        ("iptables", "userspace"),
        "node ports are not served on 127.0.0.1",
        "KEP-3866; kubernetes.io, Virtual IPs: Migrating from iptables mode to nftables",
        lambda q: q.kind == "node-port" and q.loopback and q.refused,
    ),
    Documented(
        "nftables-nodeport-addresses",
        "nftables",
        ("iptables", "ipvs", "userspace"),
        "node ports are served on the node's primary addresses alone (--nodeport-addresses primary), elsewhere on all of them",
        "KEP-3866; kubernetes.io, Virtual IPs: Migrating from iptables mode to nftables",
        lambda q: q.kind == "node-port" and not q.loopback and not q.primary_address and q.refused,
    ),
    Documented(
        "nftables-health-check",
        "nftables",
        ("iptables", "ipvs"),
        "health check node ports listen where node ports are served, elsewhere on every address of both families",
        "kube-proxy(8) --nodeport-addresses; pkg/proxy/healthcheck/service_health.go",
        lambda q: q.kind == "health-check" and q.refused,
    ),
    Documented(
        "nftables-local-from-node",
        "nftables",
        ("iptables", "ipvs", "userspace"),
        "a node without an endpoint of a service with externalTrafficPolicy Local does not reach its external addresses itself "
        "(before v1.33.6)",
        "kubernetes/kubernetes pull request 132456",
        lambda q: q.kind == "service-address" and q.local_policy and q.refused,
    ),
    Documented(
        "nftables-source-ranges",
        "nftables",
        ("iptables", "ipvs"),
        "loadBalancerSourceRanges are enforced for a service without endpoints, too: dropped, not rejected",
        "nftables/proxier.go, chain firewall-check",
        lambda q: q.kind == "service-address"
        and q.service is not None
        and bool(q.service.load_balancer_source_ranges)
        and set(q.mine) == {"no answer"}
        and "delivered" not in q.theirs,
    ),
    Documented(
        "ipvs-service-ip-ports",
        "ipvs",
        ("iptables", "userspace", "nftables"),
        "a service's address is every node's own (kube-ipvs0): a port that the service does not have, and a ping, are rejected "
        "there (in releases without the chain KUBE-IPVS-FILTER the node itself answers); elsewhere they are passed on",
        "ipvs/proxier.go, bindAddress and KUBE-IPVS-FILTER",
        lambda q: q.kind in ("cluster-ip", "service-address") and q.port is None,
    ),
    Documented(
        "ipvs-node-address",
        "ipvs",
        _OTHERS["ipvs"],
        "a node's address that is a service's external or load balancer address, too, is put on kube-ipvs0 of every node: others "
        "take packets to that node, tunnelled ones as well, for their own",
        "ipvs/proxier.go, bindAddress",
        lambda q: q.node_claimed,
    ),
    Documented(
        "ipvs-no-server",
        "ipvs",
        ("iptables", "nftables"),
        "a service port for which the node has no endpoint is answered by IPVS itself (ICMP port unreachable); elsewhere packets "
        "to it are dropped under traffic policy Local, and lost on a node that does not forward",
        "net/netfilter/ipvs/ip_vs_core.c, ip_vs_leave",
        lambda q: q.to_service and set(q.mine) == {"ICMP port unreachable"} and set(q.theirs) == {"no answer"},
    ),
    Documented(
        "ipvs-local",
        "ipvs",
        ("iptables", "nftables"),
        "traffic policy Local: clients in the cluster, too, get the node's endpoints where it has some, and any endpoint where "
        "it has none; elsewhere clients in the cluster get any by an external address, and nobody where the policy leaves none",
        "kubernetes/kubernetes pull request 97081; ipvs/proxier.go, syncEndpoint",
        lambda q: q.to_service and q.local_policy and not q.loopback,
    ),
    Documented(
        "ipvs-arp",
        "ipvs",
        ("iptables", "nftables", "userspace"),
        "an address of the nodes' own link that is a service's is answered for by every node (ARP), because kube-ipvs0 has it",
        "kube-proxy(8) --ipvs-strict-arp",
        lambda q: q.kind == "service-address" and q.to_service and q.arrives and "delivered" not in q.theirs,
    ),
    Documented(
        "ipvs-nodeport-loopback",
        "ipvs",
        ("iptables", "userspace"),
        "node ports are not served on 127.0.0.1",
        "kubernetes/kubernetes issues 67730, 96879",
        lambda q: q.kind == "node-port" and q.loopback and q.refused,
    ),
    Documented(
        "userspace-family",
        "userspace",
        _OTHERS["userspace"],
        "each node serves the family of its own first address alone, and services whose first ClusterIP is of it; otherwise node "
        "ports are held open, and nobody answers",
        "KEP-563: dual-stack was for iptables and ipvs; server_others.go, newProxyServer",
        lambda q: q.kind != "other" and (q.primary_families != {q.family} or q.other_family_first) and q.refused,
    ),
    Documented(
        "userspace-sctp",
        "userspace",
        _OTHERS["userspace"],
        "SCTP services are not served",
        "KEP-0015: not for the userspace proxy; proxysocket.go, newProxySocket",
        lambda q: q.protocol == "sctp" and q.refused,
    ),
    Documented(
        "userspace-health-check",
        "userspace",
        _OTHERS["userspace"],
        "nobody listens on a service's healthCheckNodePort",
        "userspace/proxier.go has no service health server",
        lambda q: q.kind == "health-check" and q.refused,
    ),
    Documented(
        "userspace-udp-source",
        "userspace",
        _OTHERS["userspace"],
        "an answer by UDP leaves with the source that the route to the client gives it; where that is not the address that the "
        "request was sent on to, the client does not know it: a node port on 127.0.0.1, or another node's, asked by a pod",
        "userspace/proxier.go, the comments in iptablesContainerPortalArgs and iptablesHostPortalArgs",
        lambda q: q.to_service and q.protocol == "udp" and q.refused and "delivered" in q.theirs,
    ),
    Documented(
        "userspace-nodeport-addresses",
        "userspace",
        _OTHERS["userspace"],
        "node ports are served on every address, loopback too: --nodeport-addresses means nothing",
        "userspace/proxier.go, openNodePort; NewProxier does not use nodePortAddresses",
        lambda q: q.kind == "node-port" and (q.loopback or not q.restricted) and q.arrives and "delivered" not in q.theirs,
    ),
    Documented(
        "userspace-external-ip",
        "userspace",
        _OTHERS["userspace"],
        "pods and the node itself do not reach a service by its externalIPs: redirected is what comes in from outside, and what "
        "is sent to an address that is the node's own",
        "userspace/proxier.go, openOnePortal (isExternal): -m physdev ! --physdev-is-in, -m addrtype --dst-type LOCAL",
        lambda q: q.kind == "service-address" and q.to_service and q.external_ip and q.refused,
    ),
    Documented(
        "userspace-closes",
        "userspace",
        _OTHERS["userspace"],
        "where no endpoint answers, a connection is opened and closed again, a datagram is dropped; elsewhere the node or the "
        "endpoint's host refuses it",
        "userspace/proxysocket.go, ProxyLoop",
        lambda q: q.to_service and set(q.mine) <= {"TCP FIN", "no answer"} and "delivered" not in q.theirs,
    ),
    Documented(
        "userspace-refused-rule",
        "userspace",
        _OTHERS["userspace"],
        "a rule that iptables refuses ends the list of a service port: an external address of the other family, or the node's "
        "IPv4 address in a rule of ip6tables; what comes behind it, node ports last, is not served",
        "userspace/proxier.go, openPortal and openOnePortal return at the first error; ChooseHostInterface takes IPv4 first",
        lambda q: q.to_service and q.mixed and q.refused,
    ),
    Documented(
        "userspace-source",
        "userspace",
        _OTHERS["userspace"],
        "the endpoint sees the node's address as the source, always: the connection is kube-proxy's",
        "'Virtual IPs and Service Proxies' (userspace mode), kubernetes.io, v1.25",
        lambda q: q.to_service and q.arrives and q.same_endpoints,
    ),
    Documented(
        "userspace-retry",
        "userspace",
        _OTHERS["userspace"],
        "where an endpoint refuses or says nothing kube-proxy tries another, four in all; elsewhere the client meets it",
        "'Virtual IPs and Service Proxies' (userspace mode), kubernetes.io, v1.25; proxysocket.go, TryConnectEndpoints",
        lambda q: q.to_service and q.protocol == "tcp" and q.arrives and "delivered" in q.theirs and len(set(q.theirs)) > 1,
    ),
    Documented(
        "userspace-policies",
        "userspace",
        _OTHERS["userspace"],
        "traffic policies, topology hints and loadBalancerSourceRanges mean nothing: whoever asks gets any ready endpoint; those "
        "that terminate get nothing",
        "userspace/proxier.go and roundrobin.go read none of these fields",
        lambda q: q.to_service and q.restricted,
    ),
    Documented(
        "userspace-forwarding",
        "userspace",
        _OTHERS["userspace"],
        "kube-proxy's own connections need no ip_forward on the node, and their answers always come back to it; packets that are "
        "only translated are lost where it is off, or where the way back passes the node by",
        "'Virtual IPs and Service Proxies' (userspace mode), kubernetes.io, v1.25",
        lambda q: q.to_service and q.arrives and "delivered" not in q.theirs,
    ),
)
