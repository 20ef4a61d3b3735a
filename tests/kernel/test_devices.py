"""The devices, addresses, routes and rules that netlab says a node and a pod have, against a kernel that was told to make them.

Only what flanneld, the bridge plug-in and the administrator do is put in; connected, local, broadcast, anycast, multicast and
link-local routes, MTUs and policy rules are the kernel's own.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator

import pytest
from namespaces import Namespaces

from netlab.dataplane.build import build
from netlab.linux.netns import DeviceKind, Netns
from netlab.linux.text import iproute
from tests.test_build import two_nodes

NODE, POD, PEER = "node-1", "default/web-0", "default/web-1"


def commands(netns: Netns, names: dict[str, str]) -> str:
    """`ip -batch` lines that make what is not the kernel's own; `names` maps pods to namespaces."""
    lines = []
    devices = list(netns.devices.values())
    for device in devices:
        match device.kind:
            case DeviceKind.VXLAN:
                v = device.vxlan
                assert v is not None
                lines.append(
                    # flannel asks for the fabric's MTU less 50 for either family
                    f"link add {device.name} mtu 1450 address {device.mac} type vxlan id {v.vni} dev {v.lower} local {v.local} "
                    f"dstport {v.port} nolearning"
                )
            case DeviceKind.BRIDGE:
                lines.append(f"link add {device.name} address {device.mac} type bridge")
            case DeviceKind.VETH if device.master and device.peer:
                peer = names[device.peer[0]]
                lines.append(
                    f"link add {device.name} mtu {device.mtu} address {device.mac} master {device.master} type veth "
                    f"peer name eth0 netns {peer} mtu {device.mtu}"
                )
                lines.append(f"link set {device.name} type bridge_slave hairpin {'on' if device.hairpin else 'off'}")
            case _:
                pass
    for device in devices:
        if device.kind is DeviceKind.VETH and not device.master:
            lines.append(f"link set {device.name} address {device.mac}")
        if device.kind is not DeviceKind.LOOPBACK:
            lines += [
                f"addr add {a} {f'brd {a.broadcast} ' if a.broadcast else ''}dev {device.name}"
                for a in device.addresses
                if a.scope == "global" and a.ip.family == 4
            ]
            lines.append(f"link set {device.name} up")
            lines += [f"addr add {a} dev {device.name}" for a in device.addresses if a.scope == "global" and a.ip.family == 6]
    for route in netns.routes:
        if route.protocol == "boot":
            hop = route.nexthops[0]
            lines.append(f"route add {route.dst} via {hop.via} dev {hop.dev} {'onlink' if hop.onlink else ''}")
    lines += [f"neigh add {n.ip} lladdr {n.mac} dev {n.dev} nud permanent" for n in netns.neighbours]
    return "\n".join(lines)


@pytest.fixture(scope="module")
def made(kernel: None) -> Iterator[tuple[Namespaces, dict[str, Netns]]]:
    """node-1 of `two_nodes` and its two pods, in a kernel."""
    spaces = dict(build(two_nodes()).network.namespaces)
    with Namespaces() as lab:
        names = {POD: "pod0", PEER: "pod1"}
        lab.add("pod0", "pod1", "node", "fabric")
        node = spaces[NODE]
        lab.batch("node", f"link add eth0 address {node.devices['eth0'].mac} type veth peer name fab netns fabric")
        lab.batch("fabric", "link set fab up")
        lab.sysctl("node", {"ipv4.ip_forward": 1, "ipv6.conf.all.forwarding": 1})
        for ns in ("node", "pod0", "pod1"):
            lab.sysctl(ns, {"ipv6.conf.all.accept_dad": 0, "ipv6.conf.default.accept_dad": 0})
        lab.sysctl("node", {"ipv6.conf.eth0.accept_dad": 0})
        lab.batch("node", commands(node, names))
        for pod, ns in names.items():
            lab.sysctl(ns, {"ipv6.conf.eth0.accept_dad": 0})
            lab.batch(ns, commands(spaces[pod], names))
        for entry in node.fdb:
            if entry.dst is not None:
                lab.run("node", "bridge", "fdb", "append", entry.mac, "dev", entry.dev, "dst", str(entry.dst))
        yield lab, {"node": node, "pod0": spaces[POD], "pod1": spaces[PEER]}


SPACES = ["node", "pod0", "pod1"]


@pytest.mark.parametrize("where", SPACES)
@pytest.mark.parametrize("family", [4, 6])
def test_every_route_of_every_table(made: tuple[Namespaces, dict[str, Netns]], where: str, family: int) -> None:
    lab, spaces = made
    shown = lab.run(where, "ip", f"-{family}", "route", "show", "table", "all").splitlines()
    expected = iproute.print_route(spaces[where], family=family, table=None).splitlines()
    assert sorted(shown) == sorted(expected)
    # the order, where the kernel does not order by time of arrival
    assert [line for line in shown if "fe80:" not in line and "ff00:" not in line and "fd00:10:244:: " not in line] == [
        line for line in expected if "fe80:" not in line and "ff00:" not in line and "fd00:10:244:: " not in line
    ]


@pytest.mark.parametrize("where", SPACES)
def test_routes_as_json(made: tuple[Namespaces, dict[str, Netns]], where: str) -> None:
    lab, spaces = made
    shown = json.loads(lab.run(where, "ip", "-j", "route", "show", "table", "all"))
    expected = json.loads(iproute.print_route(spaces[where], table=None, json=True))
    assert sorted(map(str, shown)) == sorted(map(str, expected))


@pytest.mark.parametrize("where", SPACES)
def test_addresses_and_links(made: tuple[Namespaces, dict[str, Netns]], where: str) -> None:
    """All fields that netlab holds; eth0 of the node is a veth here, so that its kind and its index differ."""
    lab, spaces = made
    shown = iproute.parse_addr(lab.run(where, "ip", "-d", "-j", "addr"), "ip-addr.json")
    expected = {device.name: device for device in spaces[where].devices.values()}
    assert {link.device.name for link in shown} == set(expected)
    for link in shown:
        real, said = link.device, expected[link.device.name]
        fields = ("mac", "mtu", "up", "master", "hairpin", "vxlan", "addresses")
        for field in fields:
            if (where, real.name, field) == ("node", "eth0", "addresses"):
                assert sorted(map(str, real.addresses)) == sorted(map(str, said.addresses))
            else:
                assert (real.name, field, getattr(real, field)) == (said.name, field, getattr(said, field))
        assert real.kind is said.kind or (where, real.name) == ("node", "eth0")


@pytest.mark.parametrize("family", [4, 6])
def test_policy_rules(made: tuple[Namespaces, dict[str, Netns]], family: int) -> None:
    lab, spaces = made
    assert lab.run("node", "ip", f"-{family}", "rule") == iproute.print_rule(spaces["node"], family=family)


def test_permanent_neighbours_and_forwarding_entries(made: tuple[Namespaces, dict[str, Netns]]) -> None:
    lab, spaces = made
    shown = {line for line in lab.run("node", "ip", "neigh").splitlines() if line.endswith("PERMANENT ")}
    assert shown == set(iproute.print_neigh(spaces["node"]).splitlines())
    fdb = {line for line in lab.run("node", "bridge", "fdb").splitlines() if not line.startswith(("33:33:", "01:00:5e:"))}
    fdb = {line for line in fdb if " vlan 1 " not in line}  # where the kernel has VLAN filtering
    assert {line for line in fdb if line.endswith("permanent")} == set(iproute.print_fdb(spaces["node"]).splitlines())


@pytest.mark.parametrize("where", ["pod0", "pod1"])
def test_text_of_addr_and_link(made: tuple[Namespaces, dict[str, Netns]], where: str) -> None:
    """Byte for byte in the pods, but for the index of the node's end (the lab's node has made other devices first)."""
    lab, spaces = made
    for command, said in (("addr", iproute.print_addr(spaces[where])), ("link", iproute.print_link(spaces[where]))):
        real = lab.run(where, "ip", command).replace("link-netns node", "link-netnsid 0")
        assert re.sub("@if[0-9]+:", "@if:", real) == re.sub("@if[0-9]+:", "@if:", said)
