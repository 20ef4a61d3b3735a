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
    primary_family: int
    loopback: bool
    primary_address: bool
    service: Service | None
    port: ServicePort | None
    restricted: bool
    external_ip: bool = False  # the address is among the service's externalIPs
    mine: tuple[str, ...] = ()
    theirs: tuple[str, ...] = ()
    same_endpoints: bool = False

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
        lambda q: q.kind in ("node-port", "health-check") and not q.loopback and not q.primary_address and q.refused,
    ),
    Documented(
        "ipvs-ping",
        "ipvs",
        ("iptables", "nftables", "userspace"),
        "every node answers a ping to a service's address, because it has that address on kube-ipvs0",
        "pkg/proxy/ipvs/README.md",
        lambda q: q.kind in ("cluster-ip", "service-address") and q.protocol == "icmp" and q.arrives,
    ),
    Documented(
        "ipvs-service-ip-ports",
        "ipvs",
        ("iptables", "userspace", "nftables"),
        "a service's address is the node's own (kube-ipvs0): a port that the service does not have ends on that node instead of "
        "being passed on",
        "ipvs/proxier.go, bindAddress and the chain KUBE-IPVS-FILTER",
        lambda q: q.kind in ("cluster-ip", "service-address") and q.port is None and q.protocol != "icmp",
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
        "only the family of the node's first address is served; of the other, node ports are held open, and nobody answers",
        "KEP-563: dual-stack was for iptables and ipvs; server_others.go, newProxyServer",
        lambda q: q.kind != "other" and q.family != q.primary_family and q.refused,
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
        "userspace-udp-loopback",
        "userspace",
        ("iptables",),
        "a UDP node port does not answer on 127.0.0.1: the answer leaves with another source address than conntrack expects",
        "userspace/proxier.go, the comment in iptablesHostPortalArgs",
        lambda q: q.kind == "node-port" and q.loopback and q.protocol == "udp" and q.refused,
    ),
    Documented(
        "userspace-loopback",
        "userspace",
        ("nftables", "ipvs"),
        "node ports are served on 127.0.0.1, too",
        "userspace/proxier.go, openNodePort",
        lambda q: q.kind == "node-port" and q.loopback and q.arrives,
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
)
