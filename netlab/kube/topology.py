"""The Topology document, and the network's settings: what manifests cannot say, and what netlab takes when nobody says it.

Law: a flag wins over the Topology, the Topology over the cluster's own configuration (ConfigMaps, DaemonSets, Node
objects), that over a default; every setting that no one stated is one line of assumptions. The document is strict:
an unknown key is an error. Pods and services are not touched here (workloads.py).
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Annotated, Any

import msgspec

from netlab.errors import InputError, did_you_mean
from netlab.kube.calico import BLOCK_SIZES, ENCAPSULATIONS, pools_of_environment, settle_calico, settle_felix
from netlab.kube.cluster import Calico, Cni, Fabric, FabricSegment, IpPool, Proxy
from netlab.kube.documents import At, Document
from netlab.kube.objects import Node
from netlab.linux.addr import Ip, Prefix, mask_of, prefix
from netlab.refs import Ref

if TYPE_CHECKING:
    from netlab.kube.declared import Declared

CNIS = ("flannel", "none", "calico", "canal", "cilium", "weave", "kindnet", "kube-router", "antrea", "aws-vpc-cni")
MODELLED = ("calico", "flannel", "canal", "none")  # of CNIS
PROXY_MODES = ("iptables", "nftables", "ipvs", "userspace")
IPVS_SCHEDULERS = ("rr", "wrr", "lc", "wlc", "lblc", "lblcr", "dh", "sh", "sed", "nq", "fo", "ovf", "mh")  # Linux's
_LOCAL_MODES = ("ClusterCIDR", "NodeCIDR", "BridgeInterface", "InterfaceNamePrefix")

# DaemonSets by which a CNI plug-in shows itself
_DAEMON_SETS = {
    "kube-flannel": "flannel",
    "canal": "canal",
    "calico-node": "calico",
    "cilium": "cilium",
    "weave-net": "weave",
    "kindnet": "kindnet",
    "kube-router": "kube-router",
    "antrea-agent": "antrea",
    "aws-node": "aws-vpc-cni",
}

DEFAULT_POD_CIDR = prefix("10.244.0.0/16")
DEFAULT_SERVICE_CIDRS = {4: prefix("10.96.0.0/12"), 6: prefix("fd00:10:96::/112")}  # kubeadm's default; its documents' example
DEFAULT_FABRIC = {4: prefix("172.30.0.0/24"), 6: prefix("fd00:172:30::/64")}


class Overrides(msgspec.Struct, frozen=True):
    """What flags say. `cluster_cidr` and `service_cidr` hold one CIDR per family, separated by commas.

    `namespace` is that of objects whose manifest names none, as with ``kubectl apply -n``.
    """

    cni: str | None = None
    backend: str | None = None
    proxy_mode: str | None = None
    kube_proxy_version: str | None = None
    cluster_cidr: str | None = None
    service_cidr: str | None = None
    masquerade_all: bool | None = None
    mtu: int | None = None
    namespace: str | None = None


# --- the document --------------------------------------------------------------------------------------------


def _camel(name: str) -> str:
    first, *rest = name.split("_")
    upper = {"cidr": "CIDR", "cidrs": "CIDRs"}
    return first + "".join(upper.get(part) or part.capitalize() for part in rest)


class _Strict(msgspec.Struct, frozen=True, forbid_unknown_fields=True, rename=_camel):
    """No key but these."""


_PortNumber = Annotated[int, msgspec.Meta(ge=1, le=65535)]
_Mtu = Annotated[int, msgspec.Meta(ge=576, le=65535)]


class _Metadata(_Strict, frozen=True):
    name: str | None = None
    labels: dict[str, str] | None = None
    annotations: dict[str, str] | None = None


class _NodeDoc(_Strict, frozen=True):
    name: str
    addresses: list[str] | None = None
    pod_cidr: str | None = None
    pod_cidrs: list[str] | None = None
    labels: dict[str, str] | None = None
    annotations: dict[str, str] | None = None


class _SegmentDoc(_Strict, frozen=True):
    name: str
    prefixes: list[str]
    gateways: list[str] | None = None


class _FabricDoc(_Strict, frozen=True):
    prefixes: list[str] | None = None
    gateway: str | None = None
    gateways: list[str] | None = None
    mtu: _Mtu | None = None
    device: str | None = None
    segments: list[_SegmentDoc] | None = None


class _PoolDoc(_Strict, frozen=True):
    cidr: str
    name: str | None = None
    encapsulation: str | None = None
    nat_outgoing: bool | None = None
    block_size: int | None = None


class _CniDoc(_Strict, frozen=True):
    name: str | None = None
    backend: str | None = None
    vni: Annotated[int, msgspec.Meta(ge=0, le=(1 << 24) - 1)] | None = None
    port: _PortNumber | None = None
    hairpin: bool | None = None
    masquerade: bool | None = None
    direct_routing: bool | None = None
    encapsulation: str | None = None
    pools: list[_PoolDoc] | None = None


class _ProxyDoc(_Strict, frozen=True):
    mode: str | None = None
    version: str | None = None
    cluster_cidr: str | None = None
    detect_local_mode: str | None = None
    masquerade_bit: Annotated[int, msgspec.Meta(ge=0, le=31)] | None = None
    masquerade_all: bool | None = None
    localhost_node_ports: bool | None = None
    node_port_addresses: list[str] | None = None
    scheduler: str | None = None
    strict_arp: bool | None = msgspec.field(default=None, name="strictARP")
    exclude_cidrs: list[str] | None = msgspec.field(default=None, name="excludeCIDRs")


class _Document(_Strict, frozen=True):
    api_version: str
    kind: str
    metadata: _Metadata | None = None
    nodes: list[_NodeDoc] | None = None
    fabric: _FabricDoc | None = None
    pod_cidr: str | None = None
    pod_cidrs: list[str] | None = None
    service_cidr: str | None = None
    service_cidrs: list[str] | None = None
    cni: _CniDoc | None = None
    kube_proxy: _ProxyDoc | None = None
    sysctls: dict[str, int] | None = None


# the sysctls that the walk asks for (linux/route.py, linux/bridge.py, trace/walker.py); DEV is a device, all or default
_DEVICE_SYSCTLS = ("rp_filter", "accept_local", "src_valid_mark", "route_localnet", "forwarding", "proxy_arp")
_VS_SYSCTLS = ("conntrack", "conn_reuse_mode", "expire_nodest_conn", "expire_quiescent_template")
_SYSCTLS = (
    "net.ipv4.ip_forward",
    "net.ipv6.conf.all.forwarding",
    "net.bridge.bridge-nf-call-iptables",
    "net.bridge.bridge-nf-call-ip6tables",
    *(f"net.ipv4.conf.DEV.{name}" for name in _DEVICE_SYSCTLS),
    *(f"net.ipv4.vs.{name}" for name in _VS_SYSCTLS),
)


class Topology(msgspec.Struct, frozen=True):
    """A Topology document, read and checked; what it does not say is empty or None."""

    nodes: Mapping[str, Node] = {}
    prefixes: tuple[Prefix, ...] = ()
    gateways: tuple[Ip, ...] = ()
    mtu: int | None = None
    device: str | None = None
    pod_cidrs: tuple[Prefix, ...] = ()
    service_cidrs: tuple[Prefix, ...] = ()
    segments: tuple[FabricSegment, ...] = ()
    cni: _CniDoc = _CniDoc()
    pools: tuple[IpPool, ...] = ()
    proxy: _ProxyDoc = _ProxyDoc()
    cluster_cidrs: tuple[Prefix, ...] = ()
    nodeport_addresses: tuple[Prefix, ...] = ()
    exclude_cidrs: tuple[Prefix, ...] = ()
    sysctls: Mapping[str, int] = {}
    ref: Ref = Ref()


def read_topology(document: Document) -> Topology:
    """Read a Topology document; raises InputError for an unknown key, a wrong type or a bad address."""
    body = document.decode(_Document)
    name = (body.metadata or _Metadata()).name
    at = At(document, f"Topology {name}" if name else "Topology")
    nodes: dict[str, Node] = {}
    for i, n in enumerate(body.nodes or ()):
        if n.name in nodes:
            raise at.error(f'the node "{n.name}" twice', f"nodes[{i}].name")
        cidrs = _both(n.pod_cidr, n.pod_cidrs, at, f"nodes[{i}].podCIDR")
        addresses = tuple(at.ip(a, f"nodes[{i}].addresses[{j}]") for j, a in enumerate(n.addresses or ()))
        nodes[n.name] = Node(name=n.name, labels=n.labels or {}, pod_cidrs=cidrs, internal_ips=addresses, ref=at.ref)
        if n.annotations:
            nodes[n.name] = msgspec.structs.replace(nodes[n.name], annotations=n.annotations)
    fabric = body.fabric or _FabricDoc()
    gateways = [fabric.gateway, *(fabric.gateways or ())] if fabric.gateway else fabric.gateways or ()
    cni, proxy = body.cni or _CniDoc(), body.kube_proxy or _ProxyDoc()
    if cni.name is not None:
        at.one_of(cni.name, CNIS, "cni.name")
    if proxy.mode is not None:
        at.one_of(proxy.mode, PROXY_MODES, "kubeProxy.mode")
    if proxy.detect_local_mode is not None:
        at.one_of(proxy.detect_local_mode, _LOCAL_MODES, "kubeProxy.detectLocalMode")
    if proxy.scheduler is not None:
        at.one_of(proxy.scheduler, IPVS_SCHEDULERS, "kubeProxy.scheduler")
    if cni.encapsulation is not None:
        at.one_of(cni.encapsulation, ENCAPSULATIONS, "cni.encapsulation")
    segments = _segments(fabric, at)
    flat = [p for segment in segments for p in segment.prefixes]
    return Topology(
        nodes=nodes,
        segments=segments,
        pools=tuple(_pool(pool, cni.encapsulation, at, f"cni.pools[{i}]") for i, pool in enumerate(cni.pools or ())),
        prefixes=tuple(flat) or tuple(at.prefix(p, f"fabric.prefixes[{i}]") for i, p in enumerate(fabric.prefixes or ())),
        gateways=tuple(g for segment in segments for g in segment.gateways)
        or tuple(at.ip(g, "fabric.gateway" if fabric.gateway else f"fabric.gateways[{i}]") for i, g in enumerate(gateways)),
        mtu=fabric.mtu,
        device=fabric.device,
        pod_cidrs=_both(body.pod_cidr, body.pod_cidrs, at, "podCIDR"),
        service_cidrs=_both(body.service_cidr, body.service_cidrs, at, "serviceCIDR"),
        cni=cni,
        proxy=proxy,
        cluster_cidrs=_both(proxy.cluster_cidr, None, at, "kubeProxy.clusterCIDR"),
        nodeport_addresses=tuple(
            at.prefix(p, f"kubeProxy.nodePortAddresses[{i}]") for i, p in enumerate(proxy.node_port_addresses or ())
        ),
        exclude_cidrs=tuple(at.prefix(p, f"kubeProxy.excludeCIDRs[{i}]") for i, p in enumerate(proxy.exclude_cidrs or ())),
        sysctls={_sysctl(key, at): value for key, value in (body.sysctls or {}).items()},
        ref=at.ref,
    )


def _segments(fabric: _FabricDoc, at: At) -> tuple[FabricSegment, ...]:
    """Segments with a router between them; each has a router address of its own for every subnet."""
    if not fabric.segments:
        return ()
    if fabric.prefixes or fabric.gateway or fabric.gateways:
        raise at.error("both segments and prefixes or gateways", "fabric.segments", "a segment has its own prefixes and gateways")
    found: list[FabricSegment] = []
    for i, segment in enumerate(fabric.segments):
        path = f"fabric.segments[{i}]"
        prefixes = tuple(at.prefix(p, f"{path}.prefixes[{j}]") for j, p in enumerate(segment.prefixes))
        gateways = tuple(at.ip(g, f"{path}.gateways[{j}]") for j, g in enumerate(segment.gateways or ()))
        if not prefixes:
            raise at.error("a segment without a prefix", path)
        for other in found:
            if other.name == segment.name:
                raise at.error(f'the segment "{segment.name}" twice', f"{path}.name")
            for a in other.prefixes:
                if any(a.address in b or b.address in a for b in prefixes):
                    raise at.error(f'segment "{segment.name}" overlaps "{other.name}", {a}', f"{path}.prefixes")
        stray = next((g for g in gateways if not any(g in p for p in prefixes)), None)
        if stray is not None:
            raise at.error(f"gateway {stray} is in none of the segment's prefixes", f"{path}.gateways")
        gateways = gateways or tuple(_gateway(p, set()) for p in prefixes)
        found.append(FabricSegment(segment.name, prefixes, gateways))
    return tuple(found)


def _pool(doc: _PoolDoc, encapsulation: str | None, at: At, path: str) -> IpPool:
    cidr = at.prefix(doc.cidr, f"{path}.cidr")
    word = at.one_of(doc.encapsulation or encapsulation or "IPIP", ENCAPSULATIONS, f"{path}.encapsulation")
    ipip, vxlan = ENCAPSULATIONS[word]
    if cidr.family == 6 and ipip != "Never":
        if doc.encapsulation:
            raise at.error("IPIP does not carry IPv6", f"{path}.encapsulation", "VXLAN does, or Never")
        ipip = "Never"
    size = BLOCK_SIZES[cidr.family] if doc.block_size is None else doc.block_size
    if not cidr.length <= size <= cidr.address.bits:
        raise at.error(f"a blockSize of {size} in {cidr}", f"{path}.blockSize", f"{cidr.length} to {cidr.address.bits}")
    outgoing = cidr.family == 4 if doc.nat_outgoing is None else doc.nat_outgoing
    return IpPool(doc.name or f"pool-{cidr}".replace("/", "-"), cidr, ipip, vxlan, outgoing, size, ref=at.ref)


def _sysctl(key: str, at: At) -> str:
    """The name without "net."; one that netlab would never look at is refused, because it would change nothing."""
    name = "net." + key.removeprefix("net.").removeprefix("net/")
    device = re.fullmatch(r"net\.ipv4\.conf\.(.+)\.(\w+)", name)
    general = f"net.ipv4.conf.DEV.{device[2]}" if device else name
    if general not in _SYSCTLS:
        hint = did_you_mean(general, _SYSCTLS, 1) or f"those that are: {', '.join(_SYSCTLS)}"
        raise at.error(f'the sysctl "{key}" is not modelled', "sysctls", hint.replace("DEV", device[1]) if device else hint)
    return name.removeprefix("net.")


def _both(one: str | None, many: list[str] | None, at: At, path: str) -> tuple[Prefix, ...]:
    """`podCIDR: a,b` and `podCIDRs: [a, b]` say the same; one prefix per family."""
    if one is not None and many is not None:
        raise at.error(f"both {path} and {path}s", path, "write one of them")
    where = path if many is None else f"{path}s"
    found = tuple(at.prefix(text, where) for text in (many if many is not None else one.split(",") if one else ()))
    if len({p.family for p in found}) != len(found):
        raise at.error("two prefixes of one address family", where, "one IPv4 and one IPv6 prefix at most")
    return found


# --- the settings --------------------------------------------------------------------------------------------


class Setting(msgspec.Struct, frozen=True):
    """The network that the cluster runs in, complete."""

    nodes: Mapping[str, Node]
    fabric: Fabric
    cni: Cni
    proxy: Proxy
    pod_cidrs: tuple[Prefix, ...]
    service_cidrs: tuple[Prefix, ...]
    sysctls: Mapping[str, int]
    assumptions: tuple[str, ...]
    calico: Calico = Calico()


def settle(declared: Declared, overrides: Overrides) -> Setting:
    """Decide nodes, fabric, CNI, proxy and CIDRs from flags, the Topology and what the objects show, in this order.

    Raises
    ------
    InputError
        An unknown CNI or proxy mode, a bad CIDR, an address or a podCIDR that two nodes share.
    """
    topology = declared.topology or Topology()
    says: list[str] = []
    nodes = _nodes(declared, topology, says)
    pod_cidrs = _pod_cidrs(declared, topology, overrides, nodes, says)
    cni = _cni(declared, topology, overrides, says)
    if cni.name != "calico":  # its IPAM gives out blocks of its own
        nodes = _complete_cidrs(declared, nodes, pod_cidrs, says)
    nodes = _complete_addresses(declared, nodes, topology, {p.family for p in pod_cidrs}, says)
    _check_distinct(nodes)
    fabric = _fabric(nodes, topology, overrides, says)
    calico = Calico()
    if cni.name == "calico":
        words = topology.cni.encapsulation
        calico = settle_calico(declared, nodes, pod_cidrs, topology.pools, words, cni.backend or None, says)
    if cni.name in ("calico", "canal"):
        calico = msgspec.structs.replace(calico, felix=settle_felix(declared.calico))
    proxy = _proxy(declared, topology, overrides, pod_cidrs, says)
    service_cidrs = _service_cidrs(declared, topology, overrides, {p.family for p in pod_cidrs}, says)
    return Setting(nodes, fabric, cni, proxy, pod_cidrs, service_cidrs, topology.sysctls, tuple(says), calico)


def natural(name: str) -> tuple[Any, ...]:
    """Sort key that puts node-2 before node-10."""
    return tuple(int(part) if part.isdigit() else part for part in re.split(r"(\d+)", name))


def some(names: Iterable[str], limit: int = 4) -> str:
    """A few of many names: "a, b, c and 7 more"."""
    listed = list(names)
    if len(listed) <= limit:
        return " and ".join([", ".join(listed[:-1]), listed[-1]] if len(listed) > 1 else listed)
    return f"{', '.join(listed[: limit - 1])} and {len(listed) - limit + 1} more"


def _count(n: int, word: str) -> str:
    return f"{n} {word}" if n == 1 else f"{n} {word}s"


def _nodes(declared: Declared, topology: Topology, says: list[str]) -> dict[str, Node]:
    """Nodes of the Topology and Node objects (the Topology's fields win), then those that only pods name, else three."""
    nodes = dict(declared.nodes)
    for name, node in topology.nodes.items():
        known = nodes.get(name)
        if known is None:
            nodes[name] = node
            continue
        nodes[name] = msgspec.structs.replace(
            known,
            labels={**known.labels, **node.labels},
            annotations={**known.annotations, **node.annotations},
            pod_cidrs=node.pod_cidrs or known.pod_cidrs,
            internal_ips=node.internal_ips or known.internal_ips,
        )
    stated = len(nodes)
    named = {p.node_name for p in declared.pods.values() if p.node_name}
    named |= {t.template.placement.node_name for t in declared.workloads.values() if t.template.placement.node_name}
    only_named = sorted(named - nodes.keys(), key=natural)
    for name in only_named:
        found = declared.host_ips.get(name)
        nodes[name] = Node(name=name, labels={"kubernetes.io/hostname": name}, internal_ips=(found,) if found else ())
    if only_named and stated:
        says.append(f"{_count(len(only_named), 'node')} known only from the pods that run there: {some(only_named)}")
    elif only_named:
        says.append(f"no Node objects in the input: {_count(len(nodes), 'node')} taken from the pods' nodeName: {some(nodes)}")
    elif not nodes:
        for i in (1, 2, 3):
            name = f"node-{i}"
            nodes[name] = Node(name=name, labels={"kubernetes.io/hostname": name})
        says.append(f"no nodes in the input: {some(nodes)} are invented")
    return {name: nodes[name] for name in sorted(nodes, key=natural)}


def _cidrs_of_flag(text: str, flag: str) -> tuple[Prefix, ...]:
    try:
        found = tuple(prefix(part.strip()) for part in text.split(","))
    except ValueError as error:
        raise InputError(f"{flag}: {error}", None, "such as 10.244.0.0/16 or 10.244.0.0/16,fd00:10:244::/56") from None
    if len({p.family for p in found}) != len(found):
        raise InputError(f"{flag}: two prefixes of one address family", None, "one IPv4 and one IPv6 prefix at most")
    return found


def cover(addresses: Iterable[Ip | Prefix], longest: int) -> Prefix:
    """The smallest prefix of at most `longest` bits that covers addresses or prefixes of one family.

    >>> str(cover([prefix("10.244.0.0/24"), prefix("10.244.3.0/24")], 24))
    '10.244.0.0/22'
    """
    listed = list(addresses)
    family, first = listed[0].family, listed[0].value
    bits = 32 if family == 4 else 128
    length = min([longest, *(a.length for a in listed if isinstance(a, Prefix))])
    for a in listed:
        length = min(length, bits - (a.value ^ first).bit_length())
    return Prefix(family, first & mask_of(family, length), length)


def _pod_cidrs(
    declared: Declared, topology: Topology, overrides: Overrides, nodes: Mapping[str, Node], says: list[str]
) -> tuple[Prefix, ...]:
    """The pod network: as stated, else around the nodes' podCIDRs, else around the pods' addresses, else flannel's usual one."""
    if overrides.cluster_cidr:
        return _cidrs_of_flag(overrides.cluster_cidr, "--cluster-cidr")
    if topology.pod_cidrs:
        return topology.pod_cidrs
    if declared.flannel is not None and declared.flannel.networks:
        return tuple(prefix(text) for text in declared.flannel.networks)
    pools = topology.pools or tuple(declared.calico.pools[n] for n in sorted(declared.calico.pools)) or declared.calico.installed
    one_a_family = {pool.cidr.family: pool.cidr for pool in reversed(pools)}
    if one_a_family:
        return tuple(one_a_family[family] for family in sorted(one_a_family))
    if topology.cluster_cidrs:
        return topology.cluster_cidrs
    if declared.kube_proxy is not None and declared.kube_proxy.cluster_cidr:
        return _config_cidrs(declared, declared.kube_proxy.cluster_cidr, "clusterCIDR")
    first_pools = pools_of_environment(declared.calico.environment)
    if first_pools:
        return first_pools
    blocks: list[Prefix] = [p for node in nodes.values() for p in node.pod_cidrs]
    found = _cover_families(blocks)
    if found:
        says.append(f"pod network {_list(found)}: it covers the nodes' podCIDRs")
        return found
    addresses = [a for pod in declared.pods.values() if not pod.host_network for a in pod.ips]
    found = _cover_families(addresses)
    if found:
        says.append(f"pod network {_list(found)}: it covers the pods' addresses")
        return found
    says.append(f"pod network {DEFAULT_POD_CIDR}, flannel's usual one")
    return (DEFAULT_POD_CIDR,)


def _cover_families(parts: Iterable[Ip | Prefix]) -> tuple[Prefix, ...]:
    """One prefix per family, no smaller than the customary /16 and /56."""
    listed = list(parts)
    families = list(dict.fromkeys(p.family for p in listed))
    return tuple(cover([p for p in listed if p.family == f], 16 if f == 4 else 56) for f in families)


def _list(prefixes: Iterable[object]) -> str:
    return " and ".join(str(p) for p in prefixes)


def _config_cidrs(declared: Declared, text: str, field: str) -> tuple[Prefix, ...]:
    """A comma-separated list of the kube-proxy ConfigMap."""
    try:
        return tuple(prefix(part.strip()) for part in text.split(",") if part.strip())
    except ValueError as error:
        raise InputError(f"config.conf: {field}: {error}", declared.kube_proxy_ref) from None


def _complete_cidrs(
    declared: Declared, nodes: Mapping[str, Node], pod_cidrs: tuple[Prefix, ...], says: list[str]
) -> dict[str, Node]:
    """podCIDRs for nodes without any: the block around the pods that run there, else the next free one in order."""
    if all(node.pod_cidrs for node in nodes.values()):
        return dict(nodes)
    taken = {p for node in nodes.values() for p in node.pod_cidrs}
    stated = [(p, p.nth(p.size - 1)) for p in taken]
    around = _blocks_of_pods(declared)
    seen: list[str] = []
    given: list[str] = []
    complete: dict[str, Node] = {}
    for name, node in nodes.items():
        cidrs = node.pod_cidrs
        if not cidrs:
            shown = around.get(name, {})
            found = []
            for whole in pod_cidrs:
                length = max(24 if whole.family == 4 else 64, whole.length)
                block = shown.get(whole.family)
                if block is None or block in taken:
                    block = next((b for b in _subnets(whole, length) if b not in taken and not _meets(b, stated)), None)
                if block is None:
                    raise InputError(
                        f"the pod network {whole} has no /{length} left for node {name}", None, "give a wider one: --cluster-cidr"
                    )
                taken.add(block)
                found.append(block)
            cidrs = tuple(found)
            (seen if shown else given).append(name)
        complete[name] = msgspec.structs.replace(node, pod_cidrs=cidrs)
    if seen:
        says.append(f"podCIDRs of {_count(len(seen), 'node')} inferred from the pods that run there: {some(seen)}")
    if given:
        says.append(f"podCIDRs of {_count(len(given), 'node')} taken from {_list(pod_cidrs)} in order: {some(given)}")
    return complete


def _blocks_of_pods(declared: Declared) -> dict[str, dict[int, Prefix]]:
    """node -> family -> the /24 or /64 that holds all its pods' addresses and no other node's."""
    blocks: dict[str, dict[int, set[Prefix]]] = {}
    users: dict[Prefix, set[str]] = {}
    for pod in declared.pods.values():
        if pod.host_network or not pod.node_name:
            continue
        for a in pod.ips:
            length = 24 if a.family == 4 else 64
            block = Prefix(a.family, a.value & mask_of(a.family, length), length)
            blocks.setdefault(pod.node_name, {}).setdefault(a.family, set()).add(block)
            users.setdefault(block, set()).add(pod.node_name)
    return {
        node: {f: next(iter(b)) for f, b in families.items() if len(b) == 1 and users[next(iter(b))] == {node}}
        for node, families in blocks.items()
    }


def _meets(block: Prefix, stated: Iterable[tuple[Prefix, Ip]]) -> bool:
    """Whether a block shares addresses with one of (prefix, its last address)."""
    last = block.nth(block.size - 1)
    return any(p.family == block.family and p.value <= last.value and block.value <= end.value for p, end in stated)


def _check_distinct(nodes: Mapping[str, Node]) -> None:
    """What two nodes cannot share on one segment: an address, and (a route leads to one of them only) pod addresses."""
    owners: dict[Ip, str] = {}
    for name, node in nodes.items():
        for a in node.internal_ips:
            if owners.setdefault(a, name) != name:
                hint = "a Topology can say which address each node has on the network between them"
                raise InputError(f'the nodes "{owners[a]}" and "{name}" have the same address {a}', node.ref or None, hint)
    before: Prefix | None = None
    owner = ""
    # prefixes nest or are disjoint, and one that contains others sorts before them
    for block, name in sorted((p, name) for name, node in nodes.items() for p in node.pod_cidrs):
        if before is not None and block.address in before:
            what = f'the podCIDRs of the nodes "{owner}" and "{name}" overlap: {before} and {block}'
            raise InputError(what, nodes[name].ref or None, "each node needs a podCIDR of its own")
        before, owner = block, name


def _subnets(whole: Prefix, length: int) -> Iterable[Prefix]:
    step = 1 << ((32 if whole.family == 4 else 128) - length)
    for i in range(1 << (length - whole.length)):
        yield Prefix(whole.family, whole.value + i * step, length)


def _complete_addresses(
    declared: Declared, nodes: Mapping[str, Node], topology: Topology, families: set[int], says: list[str]
) -> dict[str, Node]:
    """Addresses for nodes without any: .11, .12 ... of the fabric."""
    bare = [name for name, node in nodes.items() if not node.internal_ips]
    if not bare:
        return dict(nodes)
    used = {a for node in nodes.values() for a in (*node.internal_ips, *node.external_ips)} | set(topology.gateways)
    blocks = list(topology.prefixes) or [DEFAULT_FABRIC[f] for f in sorted(families)]
    complete = dict(nodes)
    for block in blocks:
        n = 11
        for name in bare:
            while block.nth(n) in used:
                n += 1
            if n >= block.size - 1:
                raise InputError(
                    f"the fabric {block} has no address left for node {name}", topology.ref, "give a wider fabric prefix"
                )
            used.add(block.nth(n))
            node = complete[name]
            complete[name] = msgspec.structs.replace(node, internal_ips=(*node.internal_ips, block.nth(n)))
    shown = some(f"{name} {complete[name].internal_ips[0]}" for name in bare)
    says.append(f"addresses of {_count(len(bare), 'node')} given from {_list(blocks)}: {shown}")
    return complete


def _fabric(nodes: Mapping[str, Node], topology: Topology, overrides: Overrides, says: list[str]) -> Fabric:
    """One L2 segment around the nodes; its gateway the highest host address that no node has."""
    addresses = [a for node in nodes.values() for a in node.internal_ips]
    families = list(dict.fromkeys(a.family for a in addresses))
    prefixes = topology.prefixes or tuple(cover([a for a in addresses if a.family == f], 24 if f == 4 else 64) for f in families)
    gateways = topology.gateways or tuple(_gateway(p, set(addresses)) for p in prefixes)
    mtu = overrides.mtu or topology.mtu or 1500
    if not topology.prefixes:
        says.append(f"the nodes share one L2 segment {_list(prefixes)}, gateway {_list(gateways)}, MTU {mtu}")
    elif not topology.gateways:
        says.append(f"the gateway of the fabric is {_list(gateways)}")
    return Fabric(prefixes, gateways, mtu, topology.device or "eth0", topology.segments)


def _gateway(block: Prefix, used: set[Ip]) -> Ip:
    """The last address but one of an IPv4 prefix (the last is its broadcast); ...::fffe where the prefix is huge."""
    n = min(block.size - 2, 0xFFFE) if block.family == 6 else block.size - 2
    while n > 1 and block.nth(n) in used:
        n -= 1
    return block.nth(max(n, 0))


def _daemon_sets(declared: Declared) -> dict[str, str]:
    """CNI name -> the DaemonSet that shows it, from DaemonSet objects or from the pods that one owns."""
    names = {(wl.namespace, wl.name) for wl in declared.workloads.values() if wl.kind == "DaemonSet"}
    names |= {(declared.pods[key].namespace, owner) for key, (kind, owner) in declared.owners.items() if kind == "DaemonSet"}
    found: dict[str, str] = {}
    for namespace, name in sorted(names):
        for start, cni in _DAEMON_SETS.items():
            if name == start or (start == "kube-flannel" and name.startswith(start)):
                found.setdefault(cni, f"{namespace}/{name}")
    return found


def _cni(declared: Declared, topology: Topology, overrides: Overrides, says: list[str]) -> Cni:
    """The CNI: stated, or recognised by its DaemonSet or ConfigMap, else flannel with VXLAN."""
    shown = _daemon_sets(declared)
    default = Cni()
    doc = topology.cni
    name = overrides.cni or doc.name
    if name is not None and name not in CNIS:
        raise InputError(f'--cni: unknown CNI "{name}"', None, did_you_mean(name, CNIS) or f"known: {', '.join(CNIS)}")
    conf = declared.flannel
    if name is None:
        # canal is flannel's network with Calico's policies, and its pods say so before calico-node could
        order = ("canal", *(k for k in shown if k not in ("canal", "flannel")), "flannel")
        recognised = next((k for k in order if k in shown), None)
        if recognised is not None:
            name = recognised
            says.append(f"CNI {name}, recognised by the DaemonSet {shown[name]}")
        elif conf is not None:
            name = "flannel"
        else:
            name = default.name
            says.append("CNI flannel with the VXLAN backend: the input shows no CNI plug-in")
    usual = default.backend if name in ("flannel", "canal") else ""
    written = doc.backend if doc.name in (None, name) else None  # of the plug-in that a flag has replaced
    of_flannel = conf.backend if conf and name in ("flannel", "canal") else None
    backend = overrides.backend or written or of_flannel or usual
    if name not in MODELLED:
        says.append(f"CNI {name}: netlab does not model its data plane")
    hairpin = doc.hairpin if doc.hairpin is not None else conf.hairpin if conf and conf.hairpin is not None else None
    return Cni(
        name=name,
        backend=backend.lower(),
        vni=doc.vni if doc.vni is not None else conf.vni if conf else default.vni,
        port=doc.port or (conf.port if conf else default.port),
        hairpin=default.hairpin if hairpin is None else hairpin,
        masquerade=default.masquerade if doc.masquerade is None else doc.masquerade,
        direct_routing=doc.direct_routing if doc.direct_routing is not None else conf.direct_routing if conf else False,
    )


def _proxy(declared: Declared, topology: Topology, overrides: Overrides, pod_cidrs: tuple[Prefix, ...], says: list[str]) -> Proxy:
    """kube-proxy's mode and options: flags, Topology, its ConfigMap, its defaults (kube-proxy(8))."""
    doc, conf = topology.proxy, declared.kube_proxy
    default = Proxy()
    mode = overrides.proxy_mode or doc.mode
    ref = declared.kube_proxy_ref if mode is None and conf is not None else None
    if mode is not None and mode not in PROXY_MODES:
        hint = did_you_mean(mode, PROXY_MODES) or f"known: {', '.join(PROXY_MODES)}"
        raise InputError(f'--proxy-mode: unknown mode "{mode}"', None, hint)
    if mode is None and conf is not None:
        mode = conf.mode or default.mode  # "" means the platform's default: iptables
        if mode not in PROXY_MODES:
            raise InputError(f'config.conf: unknown mode "{mode}"', declared.kube_proxy_ref, did_you_mean(mode, PROXY_MODES))
    if mode is None:
        mode = default.mode
        says.append("kube-proxy runs in iptables mode with default options: the input has no ConfigMap kube-system/kube-proxy")
    cluster_cidrs = pod_cidrs
    if not overrides.cluster_cidr:
        if topology.cluster_cidrs:
            cluster_cidrs = topology.cluster_cidrs
        elif conf is not None and conf.cluster_cidr:
            cluster_cidrs = _config_cidrs(declared, conf.cluster_cidr, "clusterCIDR")
    addresses = topology.nodeport_addresses
    if not addresses and conf is not None and conf.node_port_addresses:
        addresses = _config_cidrs(declared, ",".join(conf.node_port_addresses), "nodePortAddresses")
    tables = (conf.nftables if mode == "nftables" else conf.iptables) if conf else None
    virtual = conf.ipvs if conf else None
    excluded = topology.exclude_cidrs
    if not excluded and virtual is not None and virtual.exclude_cidrs:
        excluded = _config_cidrs(declared, ",".join(virtual.exclude_cidrs), "ipvs.excludeCIDRs")

    version = overrides.kube_proxy_version or doc.version
    if mode == "nftables" and version is None:
        says += _rules_of_another_release(declared, default.version)
    if mode != "nftables" and (asked := overrides.kube_proxy_version) is not None:
        if re.match(r"v?\d+\.\d+", asked) is None:
            raise InputError(f'--kube-proxy-version: "{asked}" is no version', hint=f"for example {default.version}")
        says.append(f"--kube-proxy-version {asked} is for nftables mode: in {mode} mode it changes nothing")

    def pick(stated: Any, configured: Any, otherwise: Any) -> Any:
        return stated if stated is not None else configured if configured is not None else otherwise

    return Proxy(
        mode=mode,
        version=version or default.version,
        ref=ref,
        cluster_cidrs=cluster_cidrs,
        detect_local_mode=doc.detect_local_mode or (conf.detect_local_mode if conf else None) or default.detect_local_mode,
        masquerade_bit=pick(doc.masquerade_bit, tables.masquerade_bit if tables else None, default.masquerade_bit),
        masquerade_all=pick(
            pick(overrides.masquerade_all, doc.masquerade_all, None),
            tables.masquerade_all if tables else None,
            default.masquerade_all,
        ),
        localhost_nodeports=pick(
            doc.localhost_node_ports, tables.localhost_node_ports if tables else None, default.localhost_nodeports
        ),
        nodeport_addresses=addresses,
        scheduler=_scheduler(doc, declared) or default.scheduler,
        strict_arp=pick(doc.strict_arp, virtual.strict_arp if virtual else None, default.strict_arp),
        exclude_cidrs=excluded,
    )


def _rules_of_another_release(declared: Declared, version: str) -> list[str]:
    """What to say where the nodes run another release than the one whose rules are written."""
    nodes = [node for node in declared.nodes.values() if node.release is not None]
    others = sorted({node.version for node in nodes if node.release != tuple(map(int, version.split(".")))})
    if not others:
        return []
    theirs = ", ".join(others)
    return [f"kube-proxy's nftables rules are those of v{version}, the nodes run {theirs}: --kube-proxy-version says whose"]


def _scheduler(doc: _ProxyDoc, declared: Declared) -> str | None:
    """ipvs.scheduler as stated, else as configured; "" is kube-proxy's default."""
    conf = declared.kube_proxy
    configured = conf.ipvs.scheduler if conf is not None and conf.ipvs is not None else None
    if configured and configured not in IPVS_SCHEDULERS:
        hint = did_you_mean(configured, IPVS_SCHEDULERS) or f"Linux has {', '.join(IPVS_SCHEDULERS)}"
        raise InputError(f'config.conf: unknown IPVS scheduler "{configured}"', declared.kube_proxy_ref, hint)
    return doc.scheduler or configured


def _service_cidrs(
    declared: Declared, topology: Topology, overrides: Overrides, families: set[int], says: list[str]
) -> tuple[Prefix, ...]:
    """The service network: stated, or around the cluster IPs, of at least the customary size."""
    if overrides.service_cidr:
        return _cidrs_of_flag(overrides.service_cidr, "--service-cidr")
    if topology.service_cidrs:
        return topology.service_cidrs
    seen = [a for service in declared.services.values() for a in service.cluster_ips]
    found = []
    for family in sorted(families | {a.family for a in seen}):
        default = DEFAULT_SERVICE_CIDRS[family]
        inside = [a for a in seen if a.family == family]
        if all(a in default for a in inside):
            found.append(default)
        else:
            found.append(cover(inside, 16 if family == 4 else 112))
    says.append(f"service network {_list(found)}{': it covers the cluster IPs' if seen else ', the usual one'}")
    return tuple(found)
