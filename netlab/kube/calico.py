"""Calico's objects, and its network settled: pools, blocks, tunnel addresses, who speaks BGP with whom.

Law: as topology.py: a flag or the Topology wins over IPPool, BGPConfiguration and BGPPeer objects, these over the environment of
the calico-node DaemonSet (or the operator's Installation), that over the defaults of Calico's manifest; what nobody stated is one
line of assumptions. Addresses are given by ipam.py.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

import msgspec

from netlab.errors import InputError
from netlab.kube import calico_selector
from netlab.kube import wire as w
from netlab.kube.cluster import BgpPeer, Calico, FelixOptions, IpPool
from netlab.kube.documents import At, Document
from netlab.kube.ipam import Ipam, shown_blocks
from netlab.kube.objects import Node
from netlab.linux.addr import Ip, Prefix, ip, prefix

if TYPE_CHECKING:
    from netlab.kube.declared import Declared

API = ("projectcalico.org/v3", "crd.projectcalico.org/v1")
OPERATOR_API = ("operator.tigera.io/v1",)
MODES = ("Never", "Always", "CrossSubnet")
# the Installation's words, and the Topology's -> (ipipMode, vxlanMode)
ENCAPSULATIONS = {
    "Never": ("Never", "Never"),
    "None": ("Never", "Never"),
    "IPIP": ("Always", "Never"),
    "IPIPCrossSubnet": ("CrossSubnet", "Never"),
    "VXLAN": ("Never", "Always"),
    "VXLANCrossSubnet": ("Never", "CrossSubnet"),
}
BACKENDS = ("bird", "vxlan", "none")
BLOCK_SIZES = {4: 26, 6: 122}
_RANGE = {4: (20, 32), 6: (116, 128)}  # libcalico-go/lib/validator/v3: blockSize
_KINDS = {4: ("projectcalico.org/IPv4IPIPTunnelAddr", "projectcalico.org/IPv4VXLANTunnelAddr"),
          6: ("", "projectcalico.org/IPv6VXLANTunnelAddr")}  # fmt: skip


class _FailsafePort(w.Wire, frozen=True):
    port: int
    protocol: str = "TCP"
    net: str | None = None


class _FelixSpec(w.Wire, frozen=True):
    failsafe_in: tuple[_FailsafePort, ...] | None = msgspec.field(default=None, name="failsafeInboundHostPorts")
    failsafe_out: tuple[_FailsafePort, ...] | None = msgspec.field(default=None, name="failsafeOutboundHostPorts")
    vxlan_from_workloads: bool | None = msgspec.field(default=None, name="allowVXLANPacketsFromWorkloads")
    ipip_from_workloads: bool | None = msgspec.field(default=None, name="allowIPIPPacketsFromWorkloads")
    log_prefix: str | None = msgspec.field(default=None, name="logPrefix")


class _FelixConfiguration(w.Any_, frozen=True):
    spec: _FelixSpec | None = None


# FelixConfiguration's other fields that decide about packets, with the values that change nothing (config_params.go).
# defaultEndpointToHostAction is not here: calico-node's environment, in Calico's manifests and the operator's, wins with ACCEPT.
_DECISIVE: Mapping[str, tuple[object, ...]] = {
    "bpfEnabled": (False,), "chainInsertMode": ("Insert", "insert"), "disableConntrackInvalidCheck": (False,),
    "floatingIPs": ("Disabled",), "flowLogsGoldmaneServer": ("",), "genericXDPEnabled": (False,), "interfacePrefix": ("cali",),
    "iptablesFilterAllowAction": ("Accept",), "iptablesFilterDenyAction": ("Drop",), "iptablesMangleAllowAction": ("Accept",),
    "iptablesMarkMask": (0xFFFF0000,), "iptablesNATOutgoingInterfaceFilter": ("",), "kubeNodePortRanges": (["30000:32767"],),
    "natOutgoingAddress": ("",), "natPortRange": ("",), "nftablesMode": ("Disabled", "Auto"),
    "serviceLoopPrevention": ("Disabled",), "sidecarAccelerationEnabled": (False,), "vxlanPort": (4789,), "vxlanVNI": (4096,),
    "wireguardEnabled": (False,), "wireguardEnabledV6": (False,), "workloadSourceSpoofing": ("Disabled",),
}  # fmt: skip


class Found(msgspec.Struct):
    """What the input holds of Calico; lives inside `Declared`."""

    pools: dict[str, IpPool] = {}
    installed: list[IpPool] = []  # of the operator's Installation
    peers: dict[str, BgpPeer] = {}
    mesh: bool | None = None
    as_number: int | None = None
    affinities: dict[str, list[Prefix]] = {}
    environment: dict[str, str] = {}  # of the calico-node container
    backend: str | None = None
    seen: list[str] = []
    felix: dict[str, tuple[_FelixSpec, dict[str, Any], At]] = {}  # of FelixConfigurations, by name


# -- objects -----------------------------------------------------------------------------------------------------------


class _PoolSpec(w.Wire, frozen=True):
    cidr: str
    ipip_mode: str | None = msgspec.field(default=None, name="ipipMode")
    vxlan_mode: str | None = msgspec.field(default=None, name="vxlanMode")
    nat_outgoing: bool | None = msgspec.field(default=None, name="natOutgoing")
    block_size: int | None = msgspec.field(default=None, name="blockSize")
    disabled: bool | None = None
    disable_bgp_export: bool | None = msgspec.field(default=None, name="disableBGPExport")
    node_selector: str | None = msgspec.field(default=None, name="nodeSelector")


class _Pool(w.Any_, frozen=True, kw_only=True):
    spec: _PoolSpec


class _PeerSpec(w.Wire, frozen=True):
    node: str | None = None
    node_selector: str | None = msgspec.field(default=None, name="nodeSelector")
    peer_ip: str | None = msgspec.field(default=None, name="peerIP")
    peer_selector: str | None = msgspec.field(default=None, name="peerSelector")
    as_number: int | str | None = msgspec.field(default=None, name="asNumber")
    keep_original_next_hop: bool | None = msgspec.field(default=None, name="keepOriginalNextHop")


class _Peer(w.Any_, frozen=True, kw_only=True):
    spec: _PeerSpec


class _ConfigurationSpec(w.Wire, frozen=True):
    node_to_node_mesh_enabled: bool | None = msgspec.field(default=None, name="nodeToNodeMeshEnabled")
    as_number: int | str | None = msgspec.field(default=None, name="asNumber")


class _Configuration(w.Any_, frozen=True):
    spec: _ConfigurationSpec | None = None


class _AffinitySpec(w.Wire, frozen=True):
    cidr: str
    node: str
    state: str = "confirmed"
    deleted: bool | str | None = None


class _Affinity(w.Any_, frozen=True, kw_only=True):
    spec: _AffinitySpec


class _InstalledPool(w.Wire, frozen=True):
    cidr: str
    name: str | None = None
    encapsulation: str | None = None
    nat_outgoing: str | None = msgspec.field(default=None, name="natOutgoing")
    block_size: int | None = msgspec.field(default=None, name="blockSize")


class _CalicoNetwork(w.Wire, frozen=True):
    bgp: str | None = None
    ip_pools: list[_InstalledPool] | None = msgspec.field(default=None, name="ipPools")


class _InstallationSpec(w.Wire, frozen=True):
    calico_network: _CalicoNetwork | None = msgspec.field(default=None, name="calicoNetwork")


class _Installation(w.Any_, frozen=True):
    spec: _InstallationSpec | None = None


def _named(document: Document, body: w.Any_) -> tuple[str, At]:
    name = (body.metadata or w.Meta()).name
    if not name:
        raise InputError("metadata.name is missing", document.ref(document.kind))
    return name, At(document, f"{document.kind} {name}")


def _once(known: Mapping[str, Any], name: str, at: At) -> None:
    if name in known:
        raise InputError("the same object twice", at.ref, f"it stands first in {known[name].ref}")


def _block_size(size: int | None, family: int, at: At, path: str) -> int:
    low, high = _RANGE[family]
    if size is not None and not low <= size <= high:
        raise at.error(f"a blockSize of {size}", path, f"{low} to {high} for IPv{family}")
    return BLOCK_SIZES[family] if size is None else size


def _selector(text: str | None, at: At, path: str) -> str:
    try:
        calico_selector.parse(text or "")
    except calico_selector.SelectorError as error:
        raise at.error(str(error), path, "such as rack == 'rack-1' or has(rack)") from None
    return text or ""


def _as_number(value: int | str | None, at: At, path: str) -> int | None:
    """An AS number as `64512` or `1.10` (RFC 5396)."""
    if value is None:
        return None
    try:
        high, dot, low = str(value).partition(".")
        found = int(high) << 16 | int(low) if dot else int(high)
    except ValueError:
        found = -1
    if not 0 < found < 1 << 32:
        raise at.error(f'"{value}" is no AS number', path, "1 to 4294967295, such as 64512")
    return found


def _read_pool(declared: Declared, document: Document, namespace: str) -> None:
    body = document.decode(_Pool)
    name, at = _named(document, body)
    _once(declared.calico.pools, name, at)
    spec = body.spec
    cidr = at.prefix(spec.cidr, "spec.cidr")
    modes = []
    for field, mode in (("ipipMode", spec.ipip_mode), ("vxlanMode", spec.vxlan_mode)):
        # crd objects of old versions say nothing, or say it in other letters
        found = next((known for known in MODES if known.lower() == (mode or "Never").lower()), None)
        modes.append(at.one_of(mode or "", MODES, f"spec.{field}") if found is None else found)
    if "Never" not in modes:
        raise at.error("both ipipMode and vxlanMode", "spec.vxlanMode", "a pool has one kind of encapsulation")
    if cidr.family == 6 and modes[0] != "Never":
        raise at.error("IPIP does not carry IPv6", "spec.ipipMode", "vxlanMode does")
    pool = IpPool(
        name,
        cidr,
        modes[0],
        modes[1],
        nat_outgoing=bool(spec.nat_outgoing),
        block_size=_block_size(spec.block_size, cidr.family, at, "spec.blockSize"),
        disabled=bool(spec.disabled),
        disable_bgp_export=bool(spec.disable_bgp_export),
        node_selector=_selector(spec.node_selector, at, "spec.nodeSelector") or "all()",
        ref=at.ref,
    )
    for other in declared.calico.pools.values():
        shorter, longer = sorted((pool.cidr, other.cidr), key=lambda p: p.length)
        if longer.address in shorter:
            raise at.error(f"{pool.cidr} overlaps the pool {other.name}, {other.cidr}", "spec.cidr", "pools are disjoint")
    declared.calico.pools[name] = pool


def _read_peer(declared: Declared, document: Document, namespace: str) -> None:
    body = document.decode(_Peer)
    name, at = _named(document, body)
    _once(declared.calico.peers, name, at)
    spec = body.spec
    if bool(spec.peer_ip) == bool(spec.peer_selector):
        raise at.error("a peer is given by peerIP or by peerSelector", "spec", "write one of them")
    text = (spec.peer_ip or "").rpartition("]")[0].lstrip("[") or (spec.peer_ip or "")
    if text.count(":") == 1:
        text = text.partition(":")[0]  # 192.0.2.1:179
    declared.calico.peers[name] = BgpPeer(
        name,
        spec.node or "",
        _selector(spec.node_selector, at, "spec.nodeSelector"),
        at.ip(text, "spec.peerIP") if text else None,
        _selector(spec.peer_selector, at, "spec.peerSelector"),
        _as_number(spec.as_number, at, "spec.asNumber"),
        bool(spec.keep_original_next_hop),
        at.ref,
    )


def _read_configuration(declared: Declared, document: Document, namespace: str) -> None:
    body = document.decode(_Configuration)
    name, at = _named(document, body)
    if name != "default":  # node.NAME holds log levels and the like
        return
    spec = body.spec or _ConfigurationSpec()
    declared.calico.mesh = spec.node_to_node_mesh_enabled
    declared.calico.as_number = _as_number(spec.as_number, at, "spec.asNumber")
    declared.calico.seen.append("BGPConfiguration default")


def _read_felix(declared: Declared, document: Document, namespace: str) -> None:
    """`default` is for all nodes, `node.NAME` for one."""
    body = document.decode(_FelixConfiguration)
    name, at = _named(document, body)
    if name == "default" or name.startswith("node."):
        declared.calico.felix[name] = (body.spec or _FelixSpec(), at.tree.get("spec") or {}, at)
        declared.calico.seen.append(f"FelixConfiguration {name}")


def settle_felix(found: Found) -> dict[str, FelixOptions]:
    """Felix's options, "" for all nodes, and for every node that has a FelixConfiguration of its own."""
    made = {"": _felix(FelixOptions(), "default", found)}
    for name in found.felix:
        if name != "default":
            made[name.removeprefix("node.")] = _felix(made[""], name, found)
    return made


def _felix(options: FelixOptions, name: str, found: Found) -> FelixOptions:
    if name not in found.felix:
        return options
    spec, tree, at = found.felix[name]
    passed = [
        f"{field} of FelixConfiguration {name} ({tree[field]})"
        for field, ordinary in _DECISIVE.items()
        if field in tree and tree[field] is not None and tree[field] not in ordinary
    ]
    changed: dict[str, object] = {"not_modelled": (*options.not_modelled, *passed)}
    for field, key in (("failsafe_in", "failsafeInboundHostPorts"), ("failsafe_out", "failsafeOutboundHostPorts")):
        ports: tuple[_FailsafePort, ...] | None = getattr(spec, field)
        if ports is not None:
            changed[field] = tuple(
                (
                    {"TCP": 6, "UDP": 17, "SCTP": 132}[
                        at.one_of(port.protocol.upper(), ("TCP", "UDP", "SCTP"), f"spec.{key}[{i}].protocol")
                    ],
                    port.port,
                    at.prefix(port.net, f"spec.{key}[{i}].net") if port.net else None,
                )
                for i, port in enumerate(ports)
            )
    for field in ("vxlan_from_workloads", "ipip_from_workloads", "log_prefix"):
        if getattr(spec, field) is not None:
            changed[field] = getattr(spec, field)
    return msgspec.structs.replace(options, **changed)


def _read_affinity(declared: Declared, document: Document, namespace: str) -> None:
    body = document.decode(_Affinity)
    _, at = _named(document, body)
    if body.spec.state == "confirmed" and str(body.spec.deleted).lower() != "true":
        own = declared.calico.affinities.setdefault(body.spec.node, [])
        own.append(at.prefix(body.spec.cidr, "spec.cidr"))


def _read_installation(declared: Declared, document: Document, namespace: str) -> None:
    body = document.decode(_Installation)
    name, at = _named(document, body)
    network = (body.spec or _InstallationSpec()).calico_network or _CalicoNetwork()
    declared.calico.seen.append(f"Installation {name}")
    if network.bgp is not None:
        at.one_of(network.bgp, ("Enabled", "Disabled"), "spec.calicoNetwork.bgp")
        declared.calico.backend = "bird" if network.bgp == "Enabled" else "vxlan"
    for i, pool in enumerate(network.ip_pools or ()):
        path = f"spec.calicoNetwork.ipPools[{i}]"
        cidr = at.prefix(pool.cidr, f"{path}.cidr")
        ipip, vxlan = ENCAPSULATIONS[at.one_of(pool.encapsulation or "IPIP", ENCAPSULATIONS, f"{path}.encapsulation")]
        declared.calico.installed.append(
            IpPool(
                pool.name or f"default-ipv{cidr.family}-ippool",
                cidr,
                ipip,
                vxlan,
                nat_outgoing=(pool.nat_outgoing or "Enabled") == "Enabled",
                block_size=_block_size(pool.block_size, cidr.family, at, f"{path}.blockSize"),
                ref=at.ref,
            )
        )


def read_environment(document: Document) -> dict[str, str]:
    """The environment of the container calico-node, of a DaemonSet."""
    found: dict[str, str] = {}
    tree = document.tree()
    for key in ("spec", "template", "spec", "containers"):
        tree = tree.get(key) if isinstance(tree, dict) else None
    for container in tree if isinstance(tree, list) else ():
        if isinstance(container, dict) and container.get("name") == "calico-node":
            for entry in container.get("env") or ():
                if isinstance(entry, dict) and isinstance(entry.get("value"), str):
                    found[str(entry.get("name"))] = entry["value"]
    return found


READERS: Mapping[str, tuple[tuple[str, ...], Callable[[Declared, Document, str], None]]] = {
    "IPPool": (API, _read_pool),
    "BGPPeer": (API, _read_peer),
    "BGPConfiguration": (API, _read_configuration),
    "BlockAffinity": (API, _read_affinity),
    "FelixConfiguration": (API, _read_felix),
    "Installation": (OPERATOR_API, _read_installation),
}


# -- settling ----------------------------------------------------------------------------------------------------------


def settle_calico(
    declared: Declared,
    nodes: Mapping[str, Node],
    pod_cidrs: tuple[Prefix, ...],
    stated: tuple[IpPool, ...],
    encapsulation: str | None,
    backend: str | None,
    says: list[str],
) -> Calico:
    """Pools, blocks, tunnels and BGP of a cluster whose CNI is Calico.

    Parameters
    ----------
    stated : tuple of IpPool
        The Topology's pools; they win over all others.
    encapsulation, backend
        What a flag or the Topology says for pools and for calico-node as a whole; None: nothing.
    """
    found = declared.calico
    pools = stated or tuple(found.pools[name] for name in sorted(found.pools)) or tuple(found.installed)
    if backend is not None and backend not in BACKENDS:
        raise InputError(f'unknown backend "{backend}" of Calico', hint=f"known: {', '.join(BACKENDS)}")
    wanted = backend or found.backend or found.environment.get("CALICO_NETWORKING_BACKEND")
    if not pools and encapsulation is None and wanted == "vxlan":
        encapsulation = "VXLAN"  # without BGP nothing else leads to other nodes
    if not pools:
        cidrs = pools_of_environment(found.environment) or pod_cidrs
        pools = tuple(_manifest_pool(cidr, found.environment, encapsulation, says) for cidr in cidrs)
    elif encapsulation is not None:
        pools = tuple(_encapsulated(pool, encapsulation) for pool in pools)
    every_vxlan = all(pool.vxlan != "Never" for pool in pools)
    chosen = wanted if wanted in BACKENDS else "vxlan" if every_vxlan and not found.peers else "bird"
    known = {node: found.affinities[node] for node in found.affinities if node in nodes}
    pods = [
        (pod.node_name, address)
        for key, pod in sorted(declared.pods.items())
        if not pod.host_network and pod.node_name in nodes
        for address in pod.ips
    ]
    blocks = shown_blocks(pools, pods, known)
    ipam = Ipam(pools, blocks, (address for _, address in pods))
    tunnels = {name: _tunnels(node, pools, ipam) for name, node in nodes.items()}
    if not known:
        says.append("Calico's blocks are those that pods and tunnel addresses need, in order: the input has no BlockAffinity")
    if chosen == "bird" and found.mesh is None:
        says.append("BGP: every node peers with every other (nodeToNodeMeshEnabled), AS 64512: the input has no BGPConfiguration")
    return Calico(
        pools,
        {name: tuple(own) for name, own in ipam.blocks.items()},
        tunnels,
        chosen,
        found.mesh is not False,
        found.as_number or 64512,
        tuple(found.peers[name] for name in sorted(found.peers)),
    )


def _encapsulated(pool: IpPool, word: str) -> IpPool:
    ipip, vxlan = ENCAPSULATIONS[word]
    if pool.cidr.family == 6:
        ipip = "Never"
    return msgspec.structs.replace(pool, ipip=ipip, vxlan=vxlan)


def _manifest_pool(cidr: Prefix, environment: Mapping[str, str], encapsulation: str | None, says: list[str]) -> IpPool:
    """The pool that calico-node makes at its first start (node/pkg/lifecycle/startup: configureIPPools)."""
    family = cidr.family
    name = f"default-ipv{family}-ippool"
    start = f"CALICO_IPV{family}POOL_"
    pool = IpPool(name, cidr, nat_outgoing=family == 4, block_size=BLOCK_SIZES[family])
    if encapsulation is not None:
        pool = _encapsulated(pool, encapsulation)
    elif any(key.startswith(start) for key in environment):
        ipip = environment.get(start + "IPIP", "Always" if family == 4 else "Never")
        vxlan = environment.get(start + "VXLAN", "Never")
        pool = msgspec.structs.replace(pool, ipip=_mode(ipip) if family == 4 else "Never", vxlan=_mode(vxlan))
        size = environment.get(start + "BLOCK_SIZE", "")
        if size.isdigit():
            pool = msgspec.structs.replace(pool, block_size=int(size))
        outgoing = environment.get(start + "NAT_OUTGOING")
        if outgoing is not None:
            pool = msgspec.structs.replace(pool, nat_outgoing=outgoing.lower() == "true")
    else:
        pool = msgspec.structs.replace(pool, ipip="Always" if family == 4 else "Never")
        says.append(f"the pool {cidr} has encapsulation {pool.encapsulation}, as in Calico's manifest: the input has no IPPool")
    return pool


def pools_of_environment(environment: Mapping[str, str]) -> tuple[Prefix, ...]:
    """CALICO_IPV4POOL_CIDR and CALICO_IPV6POOL_CIDR: the pools that calico-node makes where there are none."""
    try:
        return tuple(prefix(text) for family in (4, 6) if (text := environment.get(f"CALICO_IPV{family}POOL_CIDR")))
    except ValueError as error:
        raise InputError(f"DaemonSet calico-node: {error}", None, "CALICO_IPV4POOL_CIDR is such as 192.168.0.0/16") from None


def _mode(text: str) -> str:
    return next((mode for mode in MODES if mode.lower() == text.lower()), "Never")


def open_pools(pools: tuple[IpPool, ...], node: Node) -> list[IpPool]:
    """The pools that give addresses to a node: not disabled, and its labels fit the nodeSelector."""
    labels = {"kubernetes.io/hostname": node.name, **node.labels}
    return [pool for pool in pools if not pool.disabled and calico_selector.parse(pool.node_selector).matches(labels)]


def _tunnels(node: Node, pools: tuple[IpPool, ...], ipam: Ipam) -> tuple[tuple[str, Ip], ...]:
    """Addresses of tunl0, vxlan.calico and vxlan-v6.calico (node/pkg/allocateip): of a pool with that encapsulation."""
    found: list[tuple[str, Ip]] = []
    usable = open_pools(pools, node)
    for family in (4, 6):
        for kind, annotation in zip(("ipip", "vxlan"), _KINDS[family], strict=True):
            fit = [p for p in usable if p.cidr.family == family and (p.ipip if kind == "ipip" else p.vxlan) != "Never"]
            if not fit:
                continue
            text = node.annotations.get(annotation, "")
            try:
                address = ip(text) if text else ipam.address(node, family, fit)
            except ValueError:
                raise InputError(f"annotation {annotation}: not an IP address: {text}", node.ref or None) from None
            ipam.used.add(address)
            found.append((kind, address))
    return tuple(found)


def as_number_of(calico: Calico, node: Node) -> int:
    """A node's AS number: its annotation, else the global one."""
    text = node.annotations.get("projectcalico.org/ASNumber", "")
    return int(text) if text.isdigit() else calico.as_number


