"""The site of the measurement: a node with the rules of one mode of kube-proxy, a client before it, the endpoints behind it.

    client 10.128.0.2 --veth-- in0 node out0 --veth-- endpoints 10.129.0.0 ... (one namespace that owns them all)

Law: one linux.Network is what the model walks and what the kernel performs. The rules are those that kube-proxy would program
for N services (UDP port 53, so that one packet is a whole flow) of K endpoints each; nothing else is on the node.
"""

from __future__ import annotations

import io
import json
from collections.abc import Mapping
from typing import Final

import msgspec

from netlab.dataplane.cni import calico
from netlab.dataplane.proxy import iptables as proxy_iptables
from netlab.dataplane.proxy import ipvs as proxy_ipvs
from netlab.dataplane.proxy import nftables as proxy_nftables
from netlab.kube.cluster import Cluster
from netlab.kube.load import load
from netlab.kube.topology import Overrides
from netlab.linux.addr import Ip, Prefix, ip
from netlab.linux.derived import RULES, derived_routes
from netlab.linux.ipvs import VirtualService
from netlab.linux.netns import (
    LOCAL,
    Address,
    Device,
    DeviceKind,
    Listener,
    Neighbour,
    Netns,
    NetnsKind,
    NextHop,
    Route,
    RouteType,
)
from netlab.linux.network import Network
from netlab.linux.packet import UDP, Packet
from netlab.linux.rules import Ruleset
from netlab.linux.sets import IpSet

MODES: Final = ("iptables-legacy", "iptables-nft", "nftables", "ipvs")
NODE: Final = "node-0"
CLIENT, ENDPOINTS = "client", "endpoints"
CLIENT_IP: Final = ip("10.128.0.2")
FIRST_ENDPOINT: Final = ip("10.129.0.0").value + 1
FIRST_SERVICE: Final = ip("172.16.0.0").value + 10
PORT, TARGET_PORT, SOURCE_PORT = 53, 5353, 20000
LENGTH: Final = 20 + 8 + 18  # bytes: a UDP packet that fills the shortest Ethernet frame
MAX_SERVICES, MAX_ENDPOINTS = 200_000, 1_000_000  # more do not fit in the networks above

_MACS = {CLIENT: "02:00:00:00:00:01", "in0": "02:00:00:00:00:02", "out0": "02:00:00:00:00:03", ENDPOINTS: "02:00:00:00:00:04"}
_POD_NETWORK = Prefix(4, ip("10.128.0.0").value, 10)
_LO = Device("lo", DeviceKind.LOOPBACK, 1, addresses=(Address(ip("127.0.0.1"), 8, "host"),))


def service_ip(number: int) -> Ip:
    """The ClusterIP of a service, numbered from 0."""
    return Ip(4, FIRST_SERVICE + number)


def endpoint_ip(number: int, which: int, endpoints: int) -> Ip:
    """The address of an endpoint of a service of so many, both numbered from 0."""
    return Ip(4, FIRST_ENDPOINT + number * endpoints + which)


class Load(msgspec.Struct, frozen=True):
    """What the cluster has besides services: endpoints of each, and egress policies that select the client.

    With policies the node runs Calico; the last of them, in Felix's order, allows what the client sends, all others ask an ipset
    in vain.
    """

    endpoints: int = 1
    policies: int = 0


def declared(load_: Load, services: int, moved: int | None = None) -> Cluster:
    """The cluster: services `svc-000000` and on; of service `moved` the first endpoint has moved."""
    items: list[dict[str, object]] = [
        {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "default"}},
        {
            "apiVersion": "v1",
            "kind": "Node",
            "metadata": {"name": NODE},
            "spec": {"podCIDR": "10.128.0.0/24", "podCIDRs": ["10.128.0.0/24"]},
            "status": {"addresses": [{"type": "InternalIP", "address": "192.0.2.10"}]},
        },
    ]
    if load_.policies:
        items += [_client(), *(_policy(k, k == load_.policies - 1) for k in range(load_.policies))]
    for n in range(services):
        addresses = [endpoint_ip(n, k, load_.endpoints) for k in range(load_.endpoints)]
        if n == moved:
            addresses[0] = endpoint_ip(services, 0, load_.endpoints)
        items += _service(n, [str(address) for address in addresses])
    text = io.StringIO(json.dumps({"apiVersion": "v1", "kind": "List", "items": items}))
    cni = "calico" if load_.policies else "none"
    return load(["-"], text, Overrides(cni=cni, cluster_cidr=str(_POD_NETWORK), service_cidr="172.16.0.0/12"))


def in_mode(cluster: Cluster, mode: str) -> Cluster:
    """The same cluster where kube-proxy runs in another mode: "iptables", "nftables" or "ipvs"."""
    return msgspec.structs.replace(cluster, proxy=msgspec.structs.replace(cluster.proxy, mode=mode))


def _client() -> dict[str, object]:
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": CLIENT, "namespace": "default", "labels": {"app": CLIENT}},
        "spec": {"nodeName": NODE, "containers": [{"name": "c", "image": "c"}]},
        "status": {"phase": "Running", "podIP": str(CLIENT_IP), "podIPs": [{"ip": str(CLIENT_IP)}]},
    }


def _policy(number: int, allows: bool) -> dict[str, object]:
    peer: dict[str, object] = {"podSelector": {"matchLabels": {"role": f"nobody-{number}"}}}
    if allows:
        peer = {"ipBlock": {"cidr": str(_POD_NETWORK)}}
    return {
        "apiVersion": "networking.k8s.io/v1",
        "kind": "NetworkPolicy",
        "metadata": {"name": f"policy-{number:06}", "namespace": "default"},
        "spec": {
            "podSelector": {"matchLabels": {"app": CLIENT}},
            "policyTypes": ["Egress"],
            "egress": [{"to": [peer], "ports": [{"protocol": "UDP", "port": TARGET_PORT}]}],
        },
    }


def _service(number: int, addresses: list[str]) -> list[dict[str, object]]:
    name, vip = f"svc-{number:06}", str(service_ip(number))
    return [
        {
            "apiVersion": "v1",
            "kind": "Service",
            "metadata": {"name": name, "namespace": "default"},
            "spec": {
                "type": "ClusterIP",
                "clusterIP": vip,
                "clusterIPs": [vip],
                "ports": [{"name": "dns", "port": PORT, "protocol": "UDP", "targetPort": TARGET_PORT}],
            },
        },
        {
            "apiVersion": "discovery.k8s.io/v1",
            "kind": "EndpointSlice",
            "metadata": {"name": name, "namespace": "default", "labels": {"kubernetes.io/service-name": name}},
            "addressType": "IPv4",
            "endpoints": [{"addresses": [address], "conditions": {"ready": True}} for address in addresses],
            "ports": [{"name": "dns", "port": TARGET_PORT, "protocol": "UDP"}],
        },
    ]


def site(of: Cluster, mode: str) -> Network:
    """The network in which a node has the rules of a mode ("iptables", "nftables" or "ipvs") for a cluster's services."""
    of = in_mode(of, mode)
    sets: Mapping[str, IpSet] = {}
    sysctls: Mapping[str, int] = {}
    services: tuple[VirtualService, ...] = ()
    dummy = None
    match mode:
        case "ipvs":
            family = proxy_ipvs.compile_family(of, NODE, 4)
            rules = proxy_ipvs.compile_ruleset(of, NODE, family)
            dummy, sets, services, sysctls = proxy_ipvs.device([family], 4), family.sets, family.services, proxy_ipvs.sysctls(of)
        case "nftables":
            rules = proxy_nftables.compile_ruleset(of, NODE, 4, version=of.proxy.version)
        case _:
            rules = proxy_iptables.compile_ruleset(of, NODE, 4)
    if not of.policies:
        node = _node({4: rules}, dummy)
        return _network(msgspec.structs.replace(node, sets=sets, ipvs=services, sysctls={**node.sysctls, **sysctls}))
    plugin = calico.plugin(of)
    pod = of.pods[f"default/{CLIENT}"]
    wiring = plugin.on_node(of.nodes[NODE], [pod], 4)
    rules = plugin.add_rules(rules, of.nodes[NODE], [pod], 4)
    node = _node({4: rules}, dummy, calico.device_of(pod))
    return _network(
        msgspec.structs.replace(node, sets={**sets, **wiring.sets}, ipvs=services, sysctls={**node.sysctls, **sysctls})
    )


def site_with(ruleset: Ruleset | None, sets: Mapping[str, IpSet] | None = None) -> Network:
    """The same place with these rules, or none, on the node."""
    return _network(msgspec.structs.replace(_node({} if ruleset is None else {4: ruleset}), sets=sets or {}))


def site_with_ipvs(ruleset: Ruleset, services: tuple[VirtualService, ...]) -> Network:
    """The same place with these virtual services, whose addresses are the node's."""
    bound = tuple(service.ip for service in services if service.ip is not None)
    node = _node({4: ruleset}, proxy_ipvs.device([proxy_ipvs.Family(4, bound=bound)], 4))
    sysctls = {**node.sysctls, "ipv4.vs.conntrack": 1}
    return _network(msgspec.structs.replace(node, ipvs=services, sysctls=sysctls))


def request(to: Ip) -> Packet:
    """What the client sends to a service."""
    return Packet(CLIENT_IP, to, UDP, SOURCE_PORT, PORT, length=LENGTH)


def _node(rulesets: Mapping[int, Ruleset], dummy: Device | None = None, inward: str = "in0") -> Netns:
    in0 = Device(
        inward, DeviceKind.VETH, 2, _MACS["in0"], peer=(CLIENT, "eth0"), addresses=(Address(ip("10.128.0.1"), 24),), link_index=2
    )
    out0 = Device(
        "out0",
        DeviceKind.VETH,
        3,
        _MACS["out0"],
        peer=(ENDPOINTS, "eth0"),
        addresses=(Address(ip("192.0.2.10"), 24),),
        link_index=2,
    )
    devices = (_LO, in0, out0, *([dummy] if dummy is not None else []))
    gateway = Route(Prefix(4, 0, 0), (NextHop("out0", ip("192.0.2.1")),))
    neighbours = (Neighbour("out0", ip("192.0.2.1"), _MACS[ENDPOINTS]), Neighbour(inward, CLIENT_IP, _MACS[CLIENT]))
    return Netns(
        NODE,
        NetnsKind.NODE,
        devices={device.name: device for device in devices},
        routes=(*derived_routes(devices, True), gateway),
        rules=RULES,
        neighbours=neighbours,
        rulesets=rulesets,
        sysctls={"ipv4.ip_forward": 1},
    )


def _end(name: str, address: str, gateway: str, mac: str, peer: str) -> Netns:
    eth0 = Device("eth0", DeviceKind.VETH, 2, _MACS[name], peer=(NODE, peer), addresses=(Address(ip(address), 24),), link_index=2)
    default = Route(Prefix(4, 0, 0), (NextHop("eth0", ip(gateway)),))
    return Netns(
        name,
        NetnsKind.POD,
        devices={"lo": _LO, "eth0": eth0},
        routes=(*derived_routes((_LO, eth0), True), default),
        rules=RULES,
        neighbours=(Neighbour("eth0", ip(gateway), mac),),
    )


def _network(node: Netns) -> Network:
    inward = next(device.name for device in node.devices.values() if device.peer == (CLIENT, "eth0"))
    client = _end(CLIENT, str(CLIENT_IP), "10.128.0.1", _MACS["in0"], inward)
    behind = _end(ENDPOINTS, "192.0.2.1", "192.0.2.10", _MACS["out0"], "out0")
    # one namespace owns the addresses of all endpoints
    owned = Route(Prefix(4, ip("10.129.0.0").value, 16), (NextHop("lo"),), RouteType.LOCAL, table=LOCAL, scope="host")
    routes = [msgspec.structs.replace(owned, dst=Prefix(4, ip(f"10.{n}.0.0").value, 16)) for n in range(129, 192)]
    listener = Listener(UDP, TARGET_PORT, "an endpoint")
    behind = msgspec.structs.replace(behind, routes=(*routes, *behind.routes), listeners=(listener,))
    return Network({netns.name: netns for netns in (client, node, behind)})
