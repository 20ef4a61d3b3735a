"""What flannel leaves on a node and in a pod. The kernel's part is compared in tests/kernel/test_devices.py."""

from __future__ import annotations

import msgspec
import pytest

from netlab.dataplane.build import build
from netlab.dataplane.cni.flannel import host_veth
from netlab.kube.cluster import Cluster, Cni, Fabric
from netlab.kube.objects import ContainerPort
from netlab.linux.addr import ip
from netlab.linux.netns import DeviceKind, Netns
from netlab.linux.text import iproute
from netlab.trace.query import Request, Tracer
from netlab.trace.steps import Verdict
from tests.test_build import cluster, node, pod, two_nodes

# flannel-io/flannel pkg/trafficmngr/iptables/iptables.go as iptables-save prints it
POSTROUTING = """\
-m mark --mark 0x4000/0x4000 -m comment --comment "flanneld masq" -j RETURN
-s {subnet} -d {network} -m comment --comment "flanneld masq" -j RETURN
-s {network} -d {subnet} -m comment --comment "flanneld masq" -j RETURN
! -s {network} -d {subnet} -m comment --comment "flanneld masq" -j RETURN
-s {network} ! -d {multicast} -m comment --comment "flanneld masq" -j MASQUERADE --random-fully
! -s {network} -d {network} -m comment --comment "flanneld masq" -j MASQUERADE --random-fully
"""
FORWARD = """\
-s {network} -m comment --comment "flanneld forward" -j ACCEPT
-d {network} -m comment --comment "flanneld forward" -j ACCEPT
"""
WORDS = {
    4: {"subnet": "10.244.1.0/24", "network": "10.244.0.0/16", "multicast": "224.0.0.0/4"},
    6: {"subnet": "fd00:10:244:1::/64", "network": "fd00:10:244::/56", "multicast": "ff00::/8"},
}


def at(some: Cluster, name: str) -> Netns:
    return build(some).network.namespaces[name]


def rules(netns: Netns, family: int, table: str, chain: str) -> list[str]:
    found = netns.rulesets[family].table(table)
    assert found is not None
    return [str(rule) for rule in found.chains[chain].rules]


@pytest.mark.parametrize("family", [4, 6])
def test_rules(family: int) -> None:
    node_2 = at(two_nodes(), "node-2")
    assert rules(node_2, family, "nat", "FLANNEL-POSTRTG") == POSTROUTING.format(**WORDS[family]).splitlines()
    assert rules(node_2, family, "filter", "FLANNEL-FWD") == FORWARD.format(**WORDS[family]).splitlines()


@pytest.mark.parametrize("family", [4, 6])
def test_jumps_come_after_those_of_kube_proxy(family: int) -> None:
    node_2 = at(two_nodes(), "node-2")
    assert rules(node_2, family, "nat", "POSTROUTING") == [
        '-m comment --comment "kubernetes postrouting rules" -j KUBE-POSTROUTING',
        '-m comment --comment "flanneld masq" -j FLANNEL-POSTRTG',
    ]
    forward = rules(node_2, family, "filter", "FORWARD")
    assert forward[-1] == '-m comment --comment "flanneld forward" -j FLANNEL-FWD'
    assert all("KUBE-" in rule for rule in forward[:-1])
    assert len(forward) > 1


def test_chains_stand_where_iptables_save_lists_them() -> None:
    nat = at(two_nodes(), "node-1").rulesets[4].table("nat")
    assert nat is not None
    assert list(nat.chains)[:6] == ["PREROUTING", "INPUT", "OUTPUT", "POSTROUTING", "FLANNEL-POSTRTG", "KUBE-MARK-MASQ"]


def test_without_ip_masq() -> None:
    node_1 = at(msgspec.structs.replace(two_nodes(), cni=Cni(masquerade=False)), "node-1")
    nat = node_1.rulesets[4].table("nat")
    assert nat is not None
    assert not any("FLANNEL" in chain for chain in nat.chains)
    assert rules(node_1, 4, "filter", "FLANNEL-FWD")


def test_a_family_without_pod_network_has_no_rules() -> None:
    some = two_nodes()
    filtered = at(msgspec.structs.replace(some, pod_cidrs=some.pod_cidrs[:1]), "node-1").rulesets[6].table("filter")
    assert filtered is not None
    assert not any("FLANNEL" in chain for chain in filtered.chains)


ADDR = """\
3: flannel.1: <BROADCAST,MULTICAST,UP,LOWER_UP> mtu 1450 qdisc noqueue state UNKNOWN group default qlen 1000
    inet 10.244.0.0/32 scope global flannel.1
4: flannel-v6.1: <BROADCAST,MULTICAST,UP,LOWER_UP> mtu 1430 qdisc noqueue state UNKNOWN group default qlen 1000
    inet6 fd00:10:244::/128 scope global
5: cni0: <BROADCAST,MULTICAST,UP,LOWER_UP> mtu 1450 qdisc noqueue state UP group default qlen 1000
    inet 10.244.0.1/24 brd 10.244.0.255 scope global cni0
    inet6 fd00:10:244::1/64 scope global
"""


def test_devices_of_a_node() -> None:
    lines = [line.rstrip() for line in iproute.print_addr(at(two_nodes(), "node-1")).splitlines()]
    for line in ADDR.splitlines():
        assert line in lines


def test_routes_neighbours_and_forwarding_of_a_node() -> None:
    some = cluster(pod("web-0", 1, 2), nodes=(node(1), node(2), node(3)))
    spaces = build(some).network.namespaces
    node_1 = spaces["node-1"]
    assert [line for line in iproute.print_route(node_1).splitlines() if "flannel.1 onlink" in line] == [
        "10.244.1.0/24 via 10.244.1.0 dev flannel.1 onlink ",
        "10.244.2.0/24 via 10.244.2.0 dev flannel.1 onlink ",
    ]
    assert "fd00:10:244:2::/64 via fd00:10:244:2:: dev flannel-v6.1 metric 1024 onlink pref medium" in iproute.print_route(node_1)
    for other in ("node-2", "node-3"):
        for device in ("flannel.1", "flannel-v6.1"):
            tunnel = spaces[other].devices[device]
            assert tunnel.vxlan is not None
            entry = next(e for e in node_1.fdb if e.mac == tunnel.mac)
            assert (entry.dev, entry.dst, entry.master) == (device, tunnel.vxlan.local, None)
            neighbour = next(n for n in node_1.neighbours if n.mac == tunnel.mac)
            assert (neighbour.dev, neighbour.ip, neighbour.state) == (device, tunnel.addresses[0].ip, "PERMANENT")


def test_a_pod() -> None:
    web = at(two_nodes(), "default/web-0")
    assert iproute.print_route(web, family=4) == (
        "default via 10.244.0.1 dev eth0 \n"
        "10.244.0.0/24 dev eth0 proto kernel scope link src 10.244.0.2 \n"
        "10.244.0.0/16 via 10.244.0.1 dev eth0 \n"
    )
    assert iproute.print_route(web, family=6) == (
        "fd00:10:244::/64 dev eth0 proto kernel metric 256 pref medium\n"
        "fd00:10:244::/56 via fd00:10:244::1 dev eth0 metric 1024 pref medium\n"
        "fe80::/64 dev eth0 proto kernel metric 256 pref medium\n"
        "default via fd00:10:244::1 dev eth0 metric 1024 pref medium\n"
    )
    assert web.devices["eth0"].mac == "0a:58:0a:f4:00:02"


def test_veths() -> None:
    node_1 = at(two_nodes(), "node-1")
    veths = [device for device in node_1.devices.values() if device.kind is DeviceKind.VETH]
    assert [(v.name, v.peer, v.master, v.hairpin, v.link_netnsid) for v in veths] == [
        (host_veth("default/web-0")[0], ("default/web-0", "eth0"), "cni0", True, 0),
        (host_veth("default/web-1")[0], ("default/web-1", "eth0"), "cni0", True, 1),
    ]
    plain = at(msgspec.structs.replace(two_nodes(), cni=Cni(hairpin=False)), "node-1")
    assert not any(device.hairpin for device in plain.devices.values())


def test_mtu_vni_and_port_follow_the_options() -> None:
    some = msgspec.structs.replace(two_nodes(), cni=Cni(vni=7, port=4789))
    fabric = some.fabric
    some = msgspec.structs.replace(some, fabric=Fabric(fabric.prefixes, fabric.gateways, mtu=9000, device="ens3"))
    spaces = build(some).network.namespaces
    tunnel = spaces["node-1"].devices["flannel.7"]
    assert tunnel.vxlan is not None
    assert (tunnel.vxlan.vni, tunnel.vxlan.port, tunnel.vxlan.learning, tunnel.vxlan.lower) == (7, 4789, False, "ens3")
    assert [spaces["node-1"].devices[d].mtu for d in ("ens3", "flannel.7", "flannel-v6.7", "cni0")] == [9000, 8950, 8930, 8950]
    assert spaces["default/web-0"].devices["eth0"].mtu == 8950


def test_an_ipv6_cluster() -> None:
    some = cluster(
        pod("web-0", 1, 2, ips=(ip("fd00:10:244::2"),)),
        nodes=tuple(node(n, pod_cidrs=node(n).pod_cidrs[1:], internal_ips=node(n).internal_ips[1:]) for n in (1, 2)),
    )
    some = msgspec.structs.replace(some, pod_cidrs=some.pod_cidrs[1:])
    spaces = build(some).network.namespaces
    assert list(spaces["node-1"].devices)[:4] == ["lo", "eth0", "flannel-v6.1", "cni0"]
    assert not any(a.ip.family == 4 for n, d in spaces["node-1"].devices.items() if n != "lo" for a in d.addresses)
    assert iproute.print_route(spaces["default/web-0"], family=4) == ""
    assert "default via fd00:10:244::1 dev eth0" in iproute.print_route(spaces["default/web-0"], family=6)


def test_a_node_without_an_address_of_a_family_has_no_tunnel_and_it_is_said() -> None:
    some = cluster(nodes=(node(1), node(2, internal_ips=node(2).internal_ips[:1])))
    built = build(some)
    assert "flannel-v6.1" not in built.network.namespaces["node-2"].devices
    assert not any("fd00:10:244:1::" in line for line in iproute.print_route(built.network.namespaces["node-1"]).splitlines())
    assert built.assumptions == ("node-2: no IPv6 podCIDR or InternalIP, so flannel has no IPv6 tunnel there",)


@pytest.mark.parametrize("name", ["flannel", "canal"])
@pytest.mark.parametrize("backend", ["wireguard", "ipip", "udp"])
def test_other_backends_are_known_but_for_the_ways_between_nodes(name: str, backend: str) -> None:
    some = cluster(
        pod("a", 1, 2, ports=(ContainerPort(80),)),
        pod("b", 1, 3, ports=(ContainerPort(80),)),
        pod("c", 2, 2, ports=(ContainerPort(80),)),
        cni=Cni(name=name, backend=backend),
    )
    tracer = Tracer(some)
    near, far = (tracer.trace(Request("a", target)) for target in ("b:80", "c:80"))
    assert near.verdict is Verdict.DELIVERED
    assert far.verdict is Verdict.UNKNOWN
    assert far.branches[0].reason == f"route 10.244.1.0/24: flannel's backend {backend} is not modelled (on node-1)"
    assert f"flannel's backend {backend}: the ways between nodes" in far.not_modelled
