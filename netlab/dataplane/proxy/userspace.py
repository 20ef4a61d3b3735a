"""kube-proxy's userspace mode (gone since v1.26): redirect every service port to a socket of kube-proxy's own, and splice.

    PREROUTING -> KUBE-PORTALS-CONTAINER -> REDIRECT --to-ports P --+--> socket P of kube-proxy --2nd connection--> an endpoint
    OUTPUT     -> KUBE-PORTALS-HOST      -> DNAT --to NODE:P -------+
    ...           KUBE-NODEPORT-CONTAINER, KUBE-NODEPORT-HOST, for what is addressed to the node itself

Law: the rules are those of kube-proxy v1.25 (pkg/proxy/userspace/proxier.go), which leaves SCTP alone and programs one
family, that of the node's first InternalIP. Traffic policies, topology and loadBalancerSourceRanges do not exist here: every
ready endpoint counts. kube-proxy lets the kernel draw each P; here they are counted up from 60000 in the order of the service
ports' names (kube-proxy writes them in the random order of a Go map).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import msgspec

from netlab.dataplane.proxy.endpoints import PROTOCOLS, Backend, ProxiedPort, backends_by_port, find_node, proxied_ports
from netlab.dataplane.proxy.node import HEALTHZ_PORT, METRICS_PORT
from netlab.errors import InputError
from netlab.kube.cluster import Cluster
from netlab.linux.addr import V4_ALL, V6_ALL, Ip, ip
from netlab.linux.hooks import IPTABLES_TABLES
from netlab.linux.matches import Addrtype, Comment, Destination, Match, Physdev, PortRange, Protocol, State, Tcp, Udp
from netlab.linux.netns import Listener, ProxySocket
from netlab.linux.rules import Chain, Rule, Ruleset, Table
from netlab.linux.targets import Accept, Dnat, Jump, NatRange, Redirect, Target

PORTALS = {"PREROUTING": "KUBE-PORTALS-CONTAINER", "OUTPUT": "KUBE-PORTALS-HOST"}
NODE_PORTS = {"PREROUTING": "KUBE-NODEPORT-CONTAINER", "OUTPUT": "KUBE-NODEPORT-HOST"}
NON_LOCAL = "KUBE-NODEPORT-NON-LOCAL"
FIRST_PORT, LAST_PORT = 60000, 65535  # the upper end of what Linux draws from (net.ipv4.ip_local_port_range), and beyond
LOWEST_PORT = 32768  # where there are more service ports than that

ASSUMPTION = (
    "kube-proxy's userspace mode (gone since v1.26): it draws its ports and the order of the endpoints at random; here the ports "
    "are counted up from 60000, and it goes round the endpoints in the order of their addresses"
)

_TO_NODE = Addrtype(dst_types=frozenset({"LOCAL"}))
_NOT_BRIDGED = Physdev(is_in=True, not_is_in=True)
_BEFORE = Comment("handle ClusterIPs; NOTE: this must be before the NodePort rules")
_LAST = Comment("handle service NodePorts; NOTE: this must be the last rule in the chain")
_NON_LOCAL = Comment("Ensure that non-local NodePort traffic can flow")


class Portal(msgspec.Struct, frozen=True, gc=False):
    """A service port, and the port on which kube-proxy listens for it."""

    port: ProxiedPort
    proxy_port: int


class _Failed(Exception):
    """iptables refuses a rule, and kube-proxy gives up on the rest of the service port (openPortal returns an error)."""


def primary_family(cluster: Cluster, node: str) -> int:
    """The one family that is served: that of the node's address (cmd/kube-proxy/app/server_others.go, newProxyServer)."""
    found = find_node(cluster, node)
    return (*found.internal_ips, *found.external_ips, ip("127.0.0.1"))[0].family


def host_ip(cluster: Cluster, node: str) -> Ip:
    """Where KUBE-PORTALS-HOST sends: the address of the interface with the default route, IPv4 first (ChooseHostInterface)."""
    found = find_node(cluster, node)
    return min((*found.internal_ips, *found.external_ips), key=lambda a: a.family, default=ip("127.0.0.1"))


def portals(cluster: Cluster, node: str) -> tuple[Portal, ...]:
    """What kube-proxy listens for on a node, in the order of the service ports' names; SCTP it does not know (newProxySocket).

    Raises
    ------
    InputError
        More service ports than there are ports to listen on.
    """
    found = [p for p in proxied_ports(cluster, node, primary_family(cluster, node)) if p.protocol in ("tcp", "udp")]
    found = [p for p in found if p.service.cluster_ips[0] == p.cluster_ip]  # spec.clusterIP
    most = LAST_PORT + 1 - LOWEST_PORT
    if len(found) > most:
        raise InputError(f"{len(found)} service ports: kube-proxy's userspace mode has at most {most} ports to listen on")
    return tuple(Portal(p, _proxy_port(n)) for n, p in enumerate(found))


def _proxy_port(n: int) -> int:
    above = LAST_PORT + 1 - FIRST_PORT
    return FIRST_PORT + n if n < above else FIRST_PORT - 1 - (n - above)


def compile_ruleset(cluster: Cluster, node: str, family: int) -> Ruleset:
    """The iptables rules that kube-proxy programs on a node; empty tables in the family that it does not serve.

    Parameters
    ----------
    cluster : Cluster
        Services, slices, nodes.
    node : str
        The name of the node.
    family : int
        4 or 6.
    """
    if family != primary_family(cluster, node):
        return Ruleset((_table(family, "filter", {}), _table(family, "nat", {})))
    nat: dict[str, list[Rule]] = {chain: [] for chain in (*PORTALS.values(), *NODE_PORTS.values())}
    for hook in ("PREROUTING", "OUTPUT"):  # iptablesInit: portals are put in front, node ports behind
        nat[hook] = [
            Rule((_BEFORE,), Jump(PORTALS[hook])),
            Rule((_TO_NODE, _LAST), Jump(NODE_PORTS[hook])),
        ]
    filtered: dict[str, list[Rule]] = {"INPUT": [Rule((_NON_LOCAL,), Jump(NON_LOCAL))], NON_LOCAL: []}
    host = host_ip(cluster, node)
    for portal in portals(cluster, node):
        try:
            for chain, rule in _open_portal(portal, family, host):
                rules = filtered[chain] if chain == NON_LOCAL else nat[chain]
                if rule not in rules:  # EnsureRule
                    rules.append(rule)
        except _Failed:
            continue
    return Ruleset((_table(family, "filter", filtered), _table(family, "nat", nat)))


def _open_portal(portal: Portal, family: int, host: Ip) -> Iterator[tuple[str, Rule]]:
    """openPortal, openOnePortal, openNodePort: chain and rule, in order, up to the first that iptables refuses."""
    p, service = portal.port, portal.port.service
    container, on_host = PORTALS.values()
    redirect: Target = Redirect(NatRange(port_low=portal.proxy_port))

    def common(address: Ip | None, port: int, *more: Match) -> tuple[Match, ...]:
        if address is not None and address.family != family:
            raise _Failed
        to = () if address is None else (Destination(family, address.value, V4_ALL if family == 4 else V6_ALL),)
        kind = {"tcp": Tcp, "udp": Udp}[p.protocol]
        dport = kind(dport=PortRange(port, port))
        return (*to, Protocol(PROTOCOLS[p.protocol]), Comment(p.name), dport, *more)

    def to_host() -> Target:
        if host.family != family:
            raise _Failed
        return Dnat(NatRange(host, port_low=portal.proxy_port))

    yield container, Rule(common(p.cluster_ip, p.port), redirect, p.ref)
    yield on_host, Rule(common(p.cluster_ip, p.port), to_host(), p.ref)
    for address in service.external_ips:
        yield container, Rule(common(address, p.port, _NOT_BRIDGED), redirect, p.ref)  # from outside, not from a pod
        yield container, Rule(common(address, p.port, _TO_NODE), redirect, p.ref)
        yield on_host, Rule(common(address, p.port, _TO_NODE), to_host(), p.ref)
    for entry in service.load_balancer:
        if entry.ip is not None:
            yield container, Rule(common(entry.ip, p.port), redirect, p.ref)
            yield on_host, Rule(common(entry.ip, p.port), to_host(), p.ref)
    if p.node_port:
        ports = NODE_PORTS.values()
        for chain, target in zip(ports, (redirect, to_host()), strict=True):
            yield chain, Rule(common(None, p.node_port), target, p.ref)
        accepted = common(None, portal.proxy_port, State(frozenset({"NEW"})))
        yield NON_LOCAL, Rule(accepted, Accept(), p.ref)


def _table(family: int, name: str, rules: dict[str, list[Rule]]) -> Table:
    """Built-in chains in the order of their hooks, then the rest by name: the order in which iptables-save prints."""
    chains = {
        hook.value: Chain(hook.value, tuple(rules.get(hook.value, ())), hook, priority, "ACCEPT")
        for hook, priority in IPTABLES_TABLES[name].items()
    }
    chains |= {chain: Chain(chain, tuple(rules[chain])) for chain in sorted(rules) if chain not in chains}
    return Table("ip" if family == 4 else "ip6", name, chains)


def listeners(cluster: Cluster, node: str, *, local_addresses: Sequence[Ip] = ()) -> tuple[Listener, ...]:
    """kube-proxy's sockets: healthz, metrics, one per service port that it proxies, and those that it only holds.

    It opens a node port, and the port of an external or load balancer address that is the node's own, so that nobody else
    takes it, and never accepts there (claimNodePort). Go binds them for both families.
    """
    found = [
        Listener(protocol=6, port=HEALTHZ_PORT, owner="kube-proxy healthz"),
        Listener(protocol=6, port=METRICS_PORT, owner="kube-proxy metrics", ip=ip("127.0.0.1")),
    ]
    held: dict[tuple[int, int, Ip | None], Listener] = {}
    for portal in portals(cluster, node):
        p, number = portal.port, PROTOCOLS[portal.port.protocol]
        backends = tuple((b.ip, b.port) for b in _ready(cluster, node, p))
        owner = f"kube-proxy (userspace) for {p.name}"
        found.append(Listener(number, portal.proxy_port, owner, proxy=ProxySocket(p.name, backends, p.affinity)))
        addresses = [*p.service.external_ips, *(e.ip for e in p.service.load_balancer if e.ip is not None)]
        claims: list[tuple[int, Ip | None]] = [(p.port, a) for a in (p.cluster_ip, *addresses) if a in local_addresses]
        if p.node_port:
            claims.append((p.node_port, None))
        for port, address in claims:
            socket = Listener(number, port, owner, address, proxy=ProxySocket(p.name, accepts=False))
            held.setdefault((number, port, address), socket)
    return (*found, *held.values())


def _ready(cluster: Cluster, node: str, port: ProxiedPort) -> tuple[Backend, ...]:
    """The endpoints that kube-proxy goes round: all that are ready, wherever they are (BuildPortsToEndpointsMap)."""
    every = backends_by_port(cluster.slices.get(port.service.key, ()), node, port.cluster_ip.family)
    _, _, name = port.name.partition(f"{port.service.key}:")
    return tuple(b for b in every.get((name, port.protocol.upper()), ()) if b.ready)
