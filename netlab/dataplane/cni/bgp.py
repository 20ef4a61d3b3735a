"""BGP between Calico's nodes and the fabric's router: who learns which block from whom, and what BIRD then installs.

    node-1 --- mesh (iBGP, AS 64512) --- node-2      or: nodes --- route reflector      or: nodes --- router (iBGP or eBGP)

Law: RFC 4271 and 4456 as BIRD and Calico's confd templates apply them: an own AS in the path is refused, what iBGP taught is
not told to iBGP unless reflected, the next hop stays inside an AS and becomes oneself towards another, the best path wins by
its length, then eBGP, then the lowest router id. A next hop off the node's subnet is resolved by the default route (gateway
recursive), unless the pool wants a tunnel there. Every session is taken as up. The lab can ask BIRD itself (lab/bird.py).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

import msgspec

from netlab.errors import InputError
from netlab.kube import calico_selector
from netlab.kube.calico import as_number_of
from netlab.kube.cluster import BgpPeer, Calico, Cluster, Fabric, IpPool
from netlab.kube.objects import Node, Pod
from netlab.linux.addr import Ip, Prefix, host_prefix, ip
from netlab.linux.derived import IP6_USER_METRIC
from netlab.linux.netns import NextHop, Route, RouteType

TUNL0 = "tunl0"
ROUTER = "internet"  # the namespace that plays the router between the segments
PROTOCOL = "bird"
_ROUNDS = 64  # far more than any chain of reflectors; a set of policies that never settles is a bug


class Learned(msgspec.Struct, frozen=True):
    """Routes by node, those of the router, and what could not be modelled."""

    nodes: Mapping[str, tuple[Route, ...]] = {}
    outside: tuple[Route, ...] = ()
    remarks: tuple[str, ...] = ()


class Speaker(msgspec.Struct, frozen=True):
    """A BGP speaker for one family: `addresses` are those by which its neighbours know it (the router has one per segment)."""

    name: str
    as_number: int
    addresses: tuple[Ip, ...]
    router_id: Ip
    cluster_id: str = ""  # of a route reflector


class Session(msgspec.Struct, frozen=True):
    """A session seen from one side: `local` and `remote` addresses; `client`: the neighbour is a client of this reflector."""

    speaker: str
    neighbour: str
    local: Ip
    remote: Ip
    internal: bool
    client: bool = False
    keep_next_hop: bool = False
    passive: bool = False


class Path(msgspec.Struct, frozen=True):
    """What is known of a destination: its next hop (None: it is here), the AS path, from whom, and the originator."""

    next_hop: Ip | None
    as_path: tuple[int, ...] = ()
    learned_from: str = ""
    internal: bool = False
    originator: Ip | None = None
    clusters: tuple[str, ...] = ()
    from_address: Ip | None = None


# -- nodes and their blocks --------------------------------------------------------------------------------------------


def node_ip(node: Node, family: int) -> Ip | None:
    """The address that BGP, IPIP and VXLAN of a node use: its annotation, else the first InternalIP of the family."""
    annotation = f"projectcalico.org/IPv{family}Address"
    text = node.annotations.get(annotation, "").partition("/")[0]
    if not text:
        return next((a for a in node.internal_ips if a.family == family), None)
    try:
        return ip(text)
    except ValueError:
        raise InputError(f"annotation {annotation}: not an IP address: {text}", node.ref or None) from None


def destinations(calico: Calico, node: str, pods: Sequence[Pod] = ()) -> Iterator[tuple[Prefix, IpPool]]:
    """What a node answers for: its blocks, then addresses of its pods that lie in other nodes' blocks (borrowed)."""
    own = calico.blocks.get(node, ())
    for block in own:
        pool = calico.pool_of(block.address)
        if pool is not None:
            yield block, pool
    for a in sorted({a for pod in pods for a in pod.ips}):
        pool = calico.pool_of(a)
        if pool is not None and not any(a in block for block in own):
            yield host_prefix(a), pool


def answered(cluster: Cluster) -> dict[str, tuple[tuple[Prefix, IpPool], ...]]:
    """`destinations` of every node."""
    pods: dict[str, list[Pod]] = {name: [] for name in cluster.nodes}
    for pod in cluster.pods.values():
        if pod.node_name in pods and not pod.host_network and pod.ips:
            pods[pod.node_name].append(pod)
    return {name: tuple(destinations(cluster.calico, name, pods[name])) for name in cluster.nodes}


def same_subnet(fabric: Fabric, a: Ip, b: Ip) -> bool:
    """Do two addresses share a subnet of the fabric?"""
    subnet = fabric.subnet_of(a)
    return subnet is not None and b in subnet


def router_ports(fabric: Fabric) -> list[tuple[str, tuple[Ip, ...]]]:
    """The router's device on each segment, and its addresses there."""
    segments = fabric.segments
    return [(f"eth{n}", s.gateways) for n, s in enumerate(segments)] if segments else [("eth0", fabric.gateways)]


# -- who speaks with whom ----------------------------------------------------------------------------------------------


def speakers(cluster: Cluster, family: int) -> dict[str, Speaker]:
    """The nodes that have an address of the family, and the router where a BGPPeer names it."""
    found: dict[str, Speaker] = {}
    for name, node in cluster.nodes.items():
        address = node_ip(node, family)
        if address is not None:
            cluster_id = node.annotations.get("projectcalico.org/RouteReflectorClusterID", "")
            router_id = node_ip(node, 4) or Ip(4, address.value & 0xFFFFFFFF)
            found[name] = Speaker(name, as_number_of(cluster.calico, node), (address,), router_id, cluster_id)
    gateways = [g for g in cluster.fabric.gateways if g.family == family]
    asked = next((p for p in cluster.calico.peers if p.peer_ip in gateways), None)
    if asked is not None:
        first = next((g for g in cluster.fabric.gateways if g.family == 4), Ip(4, gateways[0].value & 0xFFFFFFFF))
        found[ROUTER] = Speaker(ROUTER, asked.as_number or cluster.calico.as_number, tuple(gateways), first, str(first))
    return found


def sessions(cluster: Cluster, family: int) -> tuple[list[Session], list[str]]:
    """Every session from both sides, and the peers that nobody here is (confd: the mesh, then global and node-specific peers).

    Nodes that reflect take no part in the mesh. The router takes every node that names it as its neighbour, and reflects between
    them where they are of its own AS.
    """
    calico, every = cluster.calico, speakers(cluster, family)
    pairs: dict[tuple[str, str], tuple[Ip, Ip, bool]] = {}
    remarks: list[str] = []

    def connect(a: str, b: str, remote: Ip | None = None, keep: bool = False) -> None:
        if a == b or a not in every or b not in every or (a, b) in pairs:
            return
        there = remote if remote is not None else every[b].addresses[0]
        here = every[a].addresses[0]
        pairs[a, b] = (here, there, keep)
        pairs.setdefault((b, a), (there, here, False))

    names = [name for name in every if name != ROUTER]
    if calico.mesh:
        plain = [name for name in names if not every[name].cluster_id]
        for a in plain:
            for b in plain:
                connect(a, b)
    for peer in calico.peers:
        local = [name for name in names if _selects(peer, peer.node, peer.node_selector, cluster.nodes[name])]
        if peer.peer_ip is not None:
            if peer.peer_ip.family != family:
                continue
            other = next((s.name for s in every.values() if peer.peer_ip in s.addresses), None)
            if other is None:
                remarks.append(f"BGPPeer {peer.name}: {peer.peer_ip} is neither a node nor the router of the fabric")
                continue
            for a in local:
                connect(a, other, peer.peer_ip, peer.keep_next_hop)
            continue
        selected = calico_selector.parse(peer.peer_selector).matches
        for b in names:
            if selected(_labels(cluster.nodes[b])):
                for a in local:
                    connect(a, b)
    found = []
    for (a, b), (here, there, keep) in pairs.items():
        internal = every[a].as_number == every[b].as_number
        reflects = bool(every[a].cluster_id) and every[a].cluster_id != every[b].cluster_id
        found.append(Session(a, b, here, there, internal, internal and reflects, keep))
    return found, remarks


def _labels(node: Node) -> Mapping[str, str]:
    return {"kubernetes.io/hostname": node.name, **node.labels}


def _selects(peer: BgpPeer, name: str, selector: str, node: Node) -> bool:
    if name:
        return name == node.name
    return not selector or calico_selector.parse(selector).matches(_labels(node))


# -- what everybody learns ---------------------------------------------------------------------------------------------

_Rib = dict[Prefix, Path]


def routes(cluster: Cluster) -> Learned:
    """What BIRD has installed everywhere once all is told."""
    calico = cluster.calico
    nodes: dict[str, list[Route]] = {name: [] for name in cluster.nodes}
    outside: list[Route] = []
    remarks: dict[str, None] = {}
    if calico.backend != "bird":
        return Learned()
    for family in sorted({pool.cidr.family for pool in calico.pools}):
        found, said = sessions(cluster, family)
        remarks.update(dict.fromkeys(said))
        every = speakers(cluster, family)
        ribs = converge(every, found, _originated(cluster, every, family), cluster)
        for name in every:
            for dst, path in sorted(ribs[name].items()):
                pool = calico.pool_of(dst.address)
                if name == ROUTER:
                    outside += _router_route(cluster, dst, path)
                elif pool is not None and pool.vxlan == "Never":  # VXLAN's routes are Felix's (calico_kernel_programming)
                    nodes[name] += _node_route(cluster, every[name].addresses[0], pool, dst, path)
    return Learned({name: tuple(own) for name, own in nodes.items()}, tuple(outside), tuple(remarks))


def _originated(cluster: Cluster, every: Mapping[str, Speaker], family: int) -> dict[str, _Rib]:
    found: dict[str, _Rib] = {name: {} for name in every}
    for name, told in answered(cluster).items():
        for dst, _ in told if name in every else ():
            if dst.family == family:
                found[name][dst] = Path(None)
    return found


def converge(
    every: Mapping[str, Speaker], links: Sequence[Session], own: Mapping[str, _Rib], cluster: Cluster
) -> dict[str, _Rib]:
    """Tell and be told until nothing changes: the best path of every destination at every speaker."""
    best = {name: dict(rib) for name, rib in own.items()}
    clients = frozenset((session.speaker, session.neighbour) for session in links if session.client)
    arriving: dict[str, list[Session]] = {}
    for session in links:
        arriving.setdefault(session.neighbour, []).append(session)
    for _ in range(_ROUNDS):
        every_path = {name: list(rib.items()) for name, rib in best.items()}
        # what iBGP taught is told to iBGP by reflectors only: in a mesh of n nodes this keeps n * n sessions cheap
        may_tell = {
            name: [(dst, path) for dst, path in paths if not path.internal or (name, path.learned_from) in clients]
            for name, paths in every_path.items()
        }
        after: dict[str, _Rib] = {}
        for name, speaker in every.items():
            candidates: dict[Prefix, list[Path]] = {}
            for session in arriving.get(name, ()):
                known = may_tell if session.internal and not session.client else every_path
                for dst, path in known[session.speaker]:
                    told = _told(every, session, path, cluster)
                    if told is not None and _accepted(speaker, told):
                        candidates.setdefault(dst, []).append(told)
            rib = {dst: min(paths, key=lambda path: _rank(every, path)) for dst, paths in candidates.items()}
            after[name] = {**rib, **own[name]}  # static routes are preferred (200) to BGP's (100)
        if after == best:
            return best
        best = after
    return best


def _told(every: Mapping[str, Speaker], session: Session, path: Path, cluster: Cluster) -> Path | None:
    """What a speaker tells its neighbour of a path that it may tell, or None."""
    me = every[session.speaker]
    if path.learned_from == session.neighbour:
        return None
    if session.internal:
        clusters, originator = path.clusters, path.originator
        if path.internal:
            clusters = (me.cluster_id, *clusters)
            originator = originator or every[path.learned_from].router_id
        hop = path.next_hop if path.next_hop is not None else session.local
        return Path(hop, path.as_path, me.name, True, originator, clusters, session.local)
    hop = session.local
    gateway = _gateway(cluster.fabric, me, path.next_hop)
    if path.next_hop is not None and session.keep_next_hop:
        hop = path.next_hop
    elif gateway is not None and same_subnet(cluster.fabric, gateway, session.remote):
        hop = gateway  # third party (RFC 4271, 5.1.3): BIRD tells its own gateway where the neighbour shares that link
    if hop == session.remote:
        return None  # "invalid NEXT_HOP attribute - neighbor address" (bgp_update_next_hop)
    return Path(hop, (me.as_number, *path.as_path), me.name, False, None, (), session.local)


def _gateway(fabric: Fabric, me: Speaker, hop: Ip | None) -> Ip | None:
    """What a speaker's next hop comes to on its own links: itself, or the way to it."""
    if hop is None or me.name == ROUTER or same_subnet(fabric, me.addresses[0], hop):
        return hop
    return default_gateway(fabric, me.addresses[0])


def _accepted(speaker: Speaker, path: Path) -> bool:
    """No loop: not the own AS in the path, not one's own route reflected, not one's own cluster."""
    return (
        speaker.as_number not in path.as_path
        and path.originator != speaker.router_id
        and not (speaker.cluster_id and speaker.cluster_id in path.clusters)
        and path.next_hop not in speaker.addresses
    )


def _rank(every: Mapping[str, Speaker], path: Path) -> tuple[int, bool, int, int, int]:
    """bgp_rte_better: the shorter AS path, external before internal, the lower router id, the shorter cluster list, the lower
    neighbour's address. Local preference, origin and MED are the same for all."""
    router_id = path.originator or every[path.learned_from].router_id
    address = path.from_address.value if path.from_address is not None else 0
    return (len(path.as_path), path.internal, router_id.value, len(path.clusters), address)


# -- what is installed -------------------------------------------------------------------------------------------------


def _metric(family: int) -> int:
    return IP6_USER_METRIC if family == 6 else 0


def _node_route(cluster: Cluster, own: Ip, pool: IpPool, dst: Prefix, path: Path) -> list[Route]:
    """One destination in a node's kernel (confd: filter calico_kernel_programming, bird_aggr)."""
    fabric, metric = cluster.fabric, _metric(dst.family)
    if path.next_hop is None:
        if dst.length == dst.address.bits:
            return []  # a borrowed address: Felix's route to the pod is the only one
        return [Route(dst, type=RouteType.BLACKHOLE, protocol=PROTOCOL, metric=metric)]
    near = same_subnet(fabric, own, path.next_hop)
    if dst.family == 4 and (pool.ipip == "Always" or (pool.ipip == "CrossSubnet" and not near)):
        return [Route(dst, (NextHop(TUNL0, path.next_hop, onlink=True),), protocol=PROTOCOL)]
    via = path.next_hop if near else default_gateway(fabric, own)
    return [Route(dst, (NextHop(fabric.device, via),), protocol=PROTOCOL, metric=metric)] if via is not None else []


def default_gateway(fabric: Fabric, own: Ip) -> Ip | None:
    """The router's address on a node's segment, of the family of the node's address."""
    segment = fabric.segment_of(own)
    return next((g for g in segment.gateways if g.family == own.family), None) if segment is not None else None


def _router_route(cluster: Cluster, dst: Prefix, path: Path) -> list[Route]:
    if path.next_hop is None:
        return []
    for device, gateways in router_ports(cluster.fabric):
        if any(g.family == dst.family and same_subnet(cluster.fabric, g, path.next_hop) for g in gateways):
            return [Route(dst, (NextHop(device, path.next_hop),), protocol=PROTOCOL, metric=_metric(dst.family))]
    return []
