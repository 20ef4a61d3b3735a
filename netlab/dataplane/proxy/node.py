"""What every mode of kube-proxy asks of its node: where node ports answer, what counts as a pod, its own sockets.

Law: as in kube-proxy v1.30, whatever the mode (pkg/proxy/util/nodeport_addresses.go, pkg/proxy/healthcheck, the local
detectors of cmd/kube-proxy/app/server_linux.go).
"""

from __future__ import annotations

from collections.abc import Sequence

from netlab.dataplane.proxy.endpoints import find_node, proxied_ports
from netlab.errors import InputError
from netlab.kube.cluster import Cluster
from netlab.linux.addr import Ip, Prefix, ip
from netlab.linux.netns import Listener

HEALTHZ_PORT, METRICS_PORT = 10256, 10249  # pkg/cluster/ports


def listeners(cluster: Cluster, node: str, *, local_addresses: Sequence[Ip] | None = None) -> tuple[Listener, ...]:
    """kube-proxy's own sockets: healthz, metrics, and a health check server per service with a healthCheckNodePort.

    A health check server listens whether or not the node has endpoints (it then answers 503), on --nodeport-addresses or on
    all addresses of both families: Go binds 0.0.0.0 dual-stack (pkg/proxy/healthcheck/service_health.go).
    """
    found = {
        Listener(protocol=6, port=HEALTHZ_PORT, owner="kube-proxy healthz"),
        Listener(protocol=6, port=METRICS_PORT, owner="kube-proxy metrics", ip=ip("127.0.0.1")),
    }
    for family in (4, 6):
        addresses = nodeport_addresses(cluster, node, family, local_addresses)
        for p in proxied_ports(cluster, node, family):
            if p.health_check_node_port:
                owner = f"kube-proxy health check of {p.service.key}"
                for address in [None] if addresses is None else addresses:
                    found.add(Listener(protocol=6, port=p.health_check_node_port, owner=owner, ip=address))
    return tuple(sorted(found, key=lambda s: (s.port, s.owner, str(s.ip or ""))))


def nodeport_blocks(cluster: Cluster, family: int) -> tuple[Prefix, ...]:
    """--nodeport-addresses of one family; none of the family means all (pkg/proxy/util/nodeport_addresses.go)."""
    return tuple(b for b in cluster.proxy.nodeport_addresses if b.family == family) or (Prefix(family, 0, 0),)


def covers_loopback(blocks: tuple[Prefix, ...]) -> bool:
    return any(b.address.is_loopback or ip("127.0.0.0") in b for b in blocks)


def nodeport_addresses(cluster: Cluster, node: str, family: int, local_addresses: Sequence[Ip] | None) -> tuple[Ip, ...] | None:
    """The node's addresses on which node ports answer, None for all of them. Sorted, where kube-proxy has a Go map's order."""
    blocks = nodeport_blocks(cluster, family)
    if any(b.length == 0 for b in blocks):
        return None
    if local_addresses is None:
        there = find_node(cluster, node)
        local_addresses = (ip("127.0.0.1"), ip("::1"), *there.internal_ips, *there.external_ips)
    return tuple(sorted({a for a in local_addresses if any(a in b for b in blocks)}))


def pod_network(cluster: Cluster, node: str, family: int) -> Prefix | None:
    """What kube-proxy takes for pods (detectLocalMode); None where it has no CIDR of the family: then it makes no rule of it."""
    options = cluster.proxy
    match options.detect_local_mode:
        case "ClusterCIDR":
            blocks = options.cluster_cidrs
        case "NodeCIDR":
            blocks = find_node(cluster, node).pod_cidrs
        case other:
            raise InputError(f"detectLocalMode {other!r} is not modelled", hint="use ClusterCIDR or NodeCIDR")
    for block in blocks:
        if block.family == family:
            if block.length == 0:
                raise InputError(
                    f"kube-proxy cannot load any rule with {block} as the pod network: iptables refuses `! -s {block}`",
                    hint="set clusterCIDR to the pods' real network",
                )
            return block
    return None
