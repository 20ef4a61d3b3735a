"""A node's own dumps in place of what would be compiled.

tests/data/observed/node-1 was recorded on a kernel: node-1 of `two_nodes` with devices that are not called as netlab would call
them (ens3, vetha0a0a0a0 of web-0, vethb1b1b1b1 of web-1, made in the other order), MACs of their own, and an idle docker0.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import pytest

from netlab.dataplane.build import build
from netlab.dataplane.observed import FILES, apply_observed
from netlab.errors import InputError
from netlab.linux.addr import ip
from netlab.linux.netns import DeviceKind
from netlab.linux.network import Network
from netlab.linux.text import iproute
from tests.test_build import cluster, node, pod, two_nodes

RECORDED = Path(__file__).parent / "data" / "observed" / "node-1"


def some_of(tmp_path: Path, *names: str) -> str:
    for name in names:
        shutil.copy(RECORDED / name, tmp_path / name)
    return str(tmp_path)


def edited(directory: str, name: str, edit: Callable[[Any], Any]) -> None:
    path = Path(directory, name)
    path.write_text(json.dumps(edit(json.loads(path.read_text()))))


def network() -> Network:
    return build(two_nodes()).network


def whole() -> Network:
    return apply_observed(network(), "node-1", str(RECORDED)).network


def test_everything_is_observed() -> None:
    applied = apply_observed(network(), "node-1", str(RECORDED))
    node_1 = applied.network.namespaces["node-1"]
    assert applied.assumptions == ()
    assert set(node_1.origins) == {
        "iptables", "ip6tables", "link", "addr", "route", "route6", "rule", "rule6", "neigh", "fdb",
    }  # fmt: skip
    assert set(node_1.origins.values()) == {"observed"}
    assert {family: node_1.rulesets[family].origin for family in (4, 6)} == {4: "observed", 6: "observed"}
    assert list(node_1.devices) == [
        "lo", "ens3", "docker0", "flannel.1", "flannel-v6.1", "cni0", "vethb1b1b1b1", "vetha0a0a0a0",
    ]  # fmt: skip


def test_what_was_dumped_is_printed_again() -> None:
    node_1 = whole().namespaces["node-1"]
    for name, said in (
        ("ip-route.json", iproute.print_route(node_1, table=None, json=True)),
        ("ip-rule.json", iproute.print_rule(node_1, family=4, json=True)),
        ("ip6-rule.json", iproute.print_rule(node_1, family=6, json=True)),
        ("ip-neigh.json", iproute.print_neigh(node_1, json=True)),
        ("fdb.json", iproute.print_fdb(node_1, json=True)),
    ):
        real = json.loads((RECORDED / name).read_text())
        assert sorted(map(str, json.loads(said))) == sorted(map(str, real)), name


def test_pods_are_found_behind_their_veths() -> None:
    spaces = whole().namespaces
    assert spaces["node-1"].devices["vetha0a0a0a0"].peer == ("default/web-0", "eth0")
    assert spaces["node-1"].devices["vethb1b1b1b1"].peer == ("default/web-1", "eth0")
    eth0 = spaces["default/web-0"].devices["eth0"]
    assert (eth0.peer, eth0.mac, eth0.link_index) == (("node-1", "vetha0a0a0a0"), "ca:fe:00:00:00:a0", 8)
    assert "fe80::c8fe:ff:fe00:a0/64" in map(str, eth0.addresses)
    assert "local fe80::c8fe:ff:fe00:a0 " in iproute.print_route(spaces["default/web-0"], table=None)
    assert spaces["node-1"].devices["vetha0a0a0a0"].hairpin


def test_the_port_on_the_fabric_is_the_device_with_the_nodes_address() -> None:
    node_1 = whole().namespaces["node-1"]
    assert [(d.name, d.kind, d.segment) for d in node_1.devices.values() if d.segment] == [
        ("ens3", DeviceKind.PHYSICAL, "fabric")
    ]


def test_others_get_the_macs_that_the_node_knows() -> None:
    spaces = whole().namespaces
    assert spaces["node-2"].devices["eth0"].mac == "52:54:00:12:34:02"
    assert spaces["node-2"].devices["flannel.1"].mac == "5e:11:22:33:44:02"
    assert spaces["node-2"].devices["flannel-v6.1"].mac == "5e:11:22:33:44:07"
    assert spaces["internet"].devices["eth0"].mac == "52:54:00:12:34:fe"
    # and node-2, which was not observed, sends to the MAC that node-1's tunnel has
    assert {n.mac for n in spaces["node-2"].neighbours} == {"5e:11:22:33:44:01", "5e:11:22:33:44:06"}
    assert {e.mac for e in spaces["node-2"].fdb if e.dst} == {"5e:11:22:33:44:01", "5e:11:22:33:44:06"}


def test_a_node_that_was_observed_itself_keeps_its_macs(tmp_path: Path) -> None:
    """A stale FDB entry is a finding: node-1's dump must not change what node-2's own dump says."""
    first = apply_observed(network(), "node-1", str(RECORDED)).network
    (tmp_path / "ip-link.json").write_text(iproute.print_link(network().namespaces["node-2"], json=True, details=True))
    (tmp_path / "ip-addr.json").write_text(iproute.print_addr(network().namespaces["node-2"], json=True))
    both = apply_observed(first, "node-2", str(tmp_path)).network
    invented = network().namespaces["node-2"].devices["flannel.1"].mac
    assert both.namespaces["node-2"].devices["flannel.1"].mac == invented
    assert "5e:11:22:33:44:02" in {e.mac for e in both.namespaces["node-1"].fdb}
    again = apply_observed(both, "node-1", str(RECORDED)).network
    assert again.namespaces["node-2"].devices["flannel.1"].mac == invented


@pytest.mark.parametrize("name", sorted(p.name for p in RECORDED.iterdir()))
def test_one_file_replaces_one_kind_of_table(tmp_path: Path, name: str) -> None:
    origin = {
        "iptables-save": {"iptables"},
        "ip6tables-save": {"ip6tables"},
        "ip-route.json": {"route", "route6"},
        "ip6-rule.json": {"rule6"},
        "fdb.json": {"fdb"},
    }.get(name, {name.removeprefix("ip-").removesuffix(".json")})
    if name == "ip-link.json":  # which device is on the fabric is not in it
        with pytest.raises(InputError, match=r'ip-link.json: no device "eth0", .*\n  add ip-addr.json'):
            apply_observed(network(), "node-1", some_of(tmp_path, name))
        return
    before = network().namespaces["node-1"]
    after = apply_observed(network(), "node-1", some_of(tmp_path, name)).network.namespaces["node-1"]
    assert set(after.origins) == origin
    if name not in ("ip-addr.json",):
        assert [r for r in after.routes if r.protocol != "kernel"] == [r for r in before.routes if r.protocol != "kernel"] or (
            name == "ip-route.json"
        )
    if "iptables" not in origin:
        assert after.rulesets[4] == before.rulesets[4]
    if "rule" not in origin:
        assert [r for r in after.rules if r.family == 4] == [r for r in before.rules if r.family == 4]


def test_addresses_without_routes(tmp_path: Path) -> None:
    """What Linux derives follows the observed addresses, what was added keeps its way through the renamed port."""
    directory = some_of(tmp_path, "ip-addr.json")
    node_1 = apply_observed(network(), "node-1", directory).network.namespaces["node-1"]
    shown = iproute.print_route(node_1, family=4).splitlines()
    assert "default via 198.18.0.254 dev ens3 " in shown
    assert "198.18.0.0/24 dev ens3 proto kernel scope link src 198.18.0.1 " in shown
    assert any(line.startswith("172.17.0.0/16 dev docker0 proto kernel scope link src 172.17.0.1") for line in shown)
    assert "local 172.17.0.1 dev docker0" in iproute.print_route(node_1, family=4, table=None)
    assert node_1.devices["flannel.1"].vxlan is not None
    assert node_1.devices["flannel.1"].vxlan.lower == "ens3"


def test_main_table_alone_keeps_the_derived_local_table(tmp_path: Path) -> None:
    directory = some_of(tmp_path, "ip-addr.json", "ip-route.json")
    edited(
        directory, "ip-route.json", lambda rows: [r for r in rows if "table" not in r and ":" not in r["dst"] and "pref" not in r]
    )
    node_1 = apply_observed(network(), "node-1", directory).network.namespaces["node-1"]
    assert "default via 198.18.0.254 dev ens3 proto dhcp src 198.18.0.1 metric 100 " in iproute.print_route(node_1, family=4)
    assert "local 198.18.0.1 dev ens3 table local" in iproute.print_route(node_1, family=4, table=None)
    assert "default via fd00:198:18::fe dev ens3" in iproute.print_route(node_1, family=6), "IPv6 is still expected"
    assert "route6" not in node_1.origins


def test_without_details_kinds_come_from_the_expectation(tmp_path: Path) -> None:
    directory = some_of(tmp_path, "ip-addr.json", "ip-neigh.json", "fdb.json")
    applied = apply_observed(network(), "node-1", directory)
    node_1 = applied.network.namespaces["node-1"]
    kinds = {name: device.kind.value for name, device in node_1.devices.items()}
    assert kinds == {
        "lo": "loopback", "ens3": "physical", "docker0": "other", "flannel.1": "vxlan", "flannel-v6.1": "vxlan",
        "cni0": "bridge", "vethb1b1b1b1": "veth", "vetha0a0a0a0": "veth",
    }  # fmt: skip
    assert node_1.devices["vetha0a0a0a0"].peer == ("default/web-0", "eth0")
    assert applied.assumptions == (
        "node-1: hairpin mode of bridge ports is taken as expected (ip -d -j link tells it)",
        "node-1: not modelled, as the dump does not tell their kind: docker0",
    )


def test_pods_that_nothing_tells_apart_are_taken_in_order_and_it_is_said(tmp_path: Path) -> None:
    directory = some_of(tmp_path, "ip-link.json", "ip-addr.json")
    applied = apply_observed(network(), "node-1", directory)
    assert applied.assumptions == (
        "node-1: which pod is behind which veth is not in the dumps (ip-neigh.json and fdb.json tell it); "
        "taken in order: vethb1b1b1b1 default/web-0, vetha0a0a0a0 default/web-1",
    )
    assert applied.network.namespaces["default/web-0"].devices["eth0"].peer == ("node-1", "vethb1b1b1b1")


def test_more_pods_than_veths_and_more_veths_than_pods() -> None:
    more = build(cluster(pod("web-0", 1, 2), pod("web-1", 1, 3), pod("young", 1, 4))).network
    applied = apply_observed(more, "node-1", str(RECORDED))
    assert applied.assumptions == ("node-1: no device for default/young in the dumps; the expected one is kept",)
    spaces = applied.network.namespaces
    veth = spaces["default/young"].devices["eth0"].peer
    assert veth is not None
    assert spaces["node-1"].devices[veth[1]].peer == ("default/young", "eth0")
    assert len({device.index for device in spaces["node-1"].devices.values()}) == len(spaces["node-1"].devices)
    fewer = apply_observed(build(cluster(pod("web-0", 1, 2))).network, "node-1", str(RECORDED))
    assert fewer.assumptions == ("node-1: no pod is known behind vethb1b1b1b1",)


def test_devices_of_routes_alone(tmp_path: Path) -> None:
    """ip-route.json alone: the port on the fabric is known by its routes, the others are named as unknown."""
    applied = apply_observed(network(), "node-1", some_of(tmp_path, "ip-route.json"))
    node_1 = applied.network.namespaces["node-1"]
    assert node_1.devices["ens3"].segment == "fabric"
    assert "eth0" not in node_1.devices
    assert node_1.devices["docker0"].kind is DeviceKind.OTHER
    assert applied.assumptions == (
        "node-1: nothing is known about devices docker0 (add ip-link.json and ip-addr.json)",
    )


def test_a_node_that_is_a_container_has_a_veth_on_the_fabric(tmp_path: Path) -> None:
    """As `kind` makes nodes: eth0@if10 in another namespace is still the port on the fabric, and no pod's."""
    directory = some_of(tmp_path, "ip-link.json", "ip-addr.json", "ip-neigh.json", "fdb.json")

    def as_veth(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
        for row in rows:
            if row["ifname"] == "ens3":
                row.update(link_index=10, link_netnsid=0, linkinfo={"info_kind": "veth"})
        return rows

    edited(directory, "ip-link.json", as_veth)
    applied = apply_observed(network(), "node-1", directory)
    port = applied.network.namespaces["node-1"].devices["ens3"]
    assert (port.kind, port.segment, port.peer) == (DeviceKind.PHYSICAL, "fabric", None)
    assert applied.assumptions == ()


def test_a_nodes_address_on_a_bridge(tmp_path: Path) -> None:
    directory = some_of(tmp_path, "ip-link.json", "ip-addr.json", "ip-neigh.json", "fdb.json")

    def bridged(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
        for row in rows:
            if row["ifname"] == "ens3":
                row["ifname"] = "br0"
                row.pop("link_index", None), row.pop("link_netnsid", None)
                row["linkinfo"] = {"info_kind": "bridge"}
        port = {**rows[1], "ifname": "eno1", "ifindex": 99, "master": "br0", "linkinfo": {"info_slave_kind": "bridge"}}
        return [*rows, {**port, "addr_info": []}]

    edited(directory, "ip-link.json", bridged)
    edited(directory, "ip-addr.json", bridged)
    node_1 = apply_observed(network(), "node-1", directory).network.namespaces["node-1"]
    assert (node_1.devices["br0"].kind, node_1.devices["br0"].segment) == (DeviceKind.BRIDGE, None)
    assert (node_1.devices["eno1"].segment, node_1.devices["eno1"].master) == ("fabric", "br0")


def test_a_pod_with_a_host_route(tmp_path: Path) -> None:
    """As Calico and the ptp plug-in wire pods: no bridge, one route per pod."""
    directory = some_of(tmp_path, "ip-link.json", "ip-addr.json", "ip-route.json")
    routes = [{"dst": "10.244.0.3", "dev": "vethb1b1b1b1", "scope": "link", "flags": []}]
    edited(directory, "ip-route.json", lambda rows: rows + routes + [{**routes[0], "dst": "10.244.0.2", "dev": "vetha0a0a0a0"}])
    applied = apply_observed(network(), "node-1", directory)
    assert applied.assumptions == ()
    assert applied.network.namespaces["default/web-1"].devices["eth0"].peer == ("node-1", "vethb1b1b1b1")


def test_ipsets(tmp_path: Path) -> None:
    (tmp_path / "ipset").write_text(
        "create hosts hash:net,port family inet6 hashsize 1024 maxelem 65536\nadd hosts fd00::/64,tcp:80 nomatch timeout 5\n"
        'create ports bitmap:port range 0-65535\nadd ports 80 comment "a web server"\n'
    )
    node_1 = apply_observed(network(), "node-1", str(tmp_path)).network.namespaces["node-1"]
    hosts = node_1.sets["hosts"]
    assert (hosts.type, hosts.family, hosts.entries[0].parts, hosts.entries[0].nomatch) == (
        "hash:net,port", 6, ("fd00::/64", "tcp:80"), True,
    )  # fmt: skip
    assert [entry.parts for entry in node_1.sets["ports"].entries] == [("80",)]
    assert node_1.origins == {"ipset": "observed"}


def test_other_files_are_named(tmp_path: Path) -> None:
    directory = some_of(tmp_path, "ip-rule.json")
    (tmp_path / "iptables.txt").write_text("*filter\n")
    assert apply_observed(network(), "node-1", directory).assumptions == (f"{directory}: not read: iptables.txt",)


def test_ip6tables_is_read_when_it_is_needed(tmp_path: Path) -> None:
    directory = some_of(tmp_path, "iptables-save", "ip6tables-save")
    Path(directory, "ip6tables-save").write_text("*filter\n:INPUT ACCEPT [0:0]\n-A INPUT -j NOWHERE\nCOMMIT\n")
    rulesets = apply_observed(network(), "node-1", directory).network.namespaces["node-1"].rulesets
    assert rulesets[4].origin == "observed"
    with pytest.raises(InputError, match="ip6tables-save:3"):
        rulesets[6]


BAD: list[tuple[str, bytes, str]] = [
    ("iptables-save", b"*filter\n:INPUT ACCEPT [0:0]\n-A INPUT -j ACC", "iptables-save:3"),
    ("ip-route.json", b"default via 198.18.0.254 dev eth0 \n", 'save it with "ip -j route show table all"'),
    ("ip-link.json", b"", 'is empty\n  save it with "ip -d -j link"'),
    ("fdb.json", b"\x7fELF\0\0", 'is not text\n  save it with "bridge -j fdb > fdb.json"'),
    ("ip-rule.json", b"\xff\xfe", "is not text"),
    ("ip-addr.json", b"[" * 100_000, "is not JSON"),
    ("ip-addr.json", b"{}", "is an object, not a list"),
    (
        "ip-addr.json",
        b'[{"ifindex":1,"ifname":"lo","flags":[],"mtu":65536,"link_type":"loopback","addr_info":[]}]',
        "no device has an address of node-1 (198.18.0.1, fd00:198:18::1)\n  is it the dump of another node?",
    ),
    ("ipset", b"add lost 10.0.0.1\n", "ipset:1: set lost is not created"),
]


@pytest.mark.parametrize(("name", "data", "message"), BAD)
def test_bad_files(tmp_path: Path, name: str, data: bytes, message: str) -> None:
    (tmp_path / name).write_bytes(data)
    with pytest.raises(InputError) as error:
        apply_observed(network(), "node-1", str(tmp_path))
    assert str(error.value).startswith(str(tmp_path / name))
    assert message in str(error.value)


def test_a_file_that_is_too_large_is_not_read(tmp_path: Path) -> None:
    with (tmp_path / "iptables-save").open("wb") as file:
        file.truncate(200 << 20)
    with pytest.raises(InputError, match="is 200 MiB; dumps of up to 128 MiB are read"):
        apply_observed(network(), "node-1", str(tmp_path))


def test_directories_that_hold_nothing(tmp_path: Path) -> None:
    with pytest.raises(InputError) as error:
        apply_observed(network(), "node-1", str(tmp_path))
    assert str(error.value) == f"no dump in {tmp_path} (the directory is empty)\n  netlab looks for {', '.join(FILES)}"
    (tmp_path / "iptables").write_text("")
    with pytest.raises(InputError, match=r"\(found: iptables\)"):
        apply_observed(network(), "node-1", str(tmp_path))
    with pytest.raises(InputError, match="no such directory"):
        apply_observed(network(), "node-1", str(tmp_path / "missing"))
    with pytest.raises(InputError, match="not a directory"):
        apply_observed(network(), "node-1", str(tmp_path / "iptables"))
    (tmp_path / "fdb.json").mkdir()
    with pytest.raises(InputError, match=r"fdb.json: cannot be read: Is a directory"):
        apply_observed(network(), "node-1", str(tmp_path))


@pytest.mark.parametrize("name", ["node-3", "default/web-0", "internet"])
def test_unknown_nodes(name: str) -> None:
    with pytest.raises(InputError, match=f'unknown node "{name}"\n'):
        apply_observed(network(), name, str(RECORDED))


def test_only_the_observed_node_changes() -> None:
    some = build(cluster(pod("web-0", 1, 2), pod("web-1", 1, 3), pod("api-0", 2, 2), nodes=(node(1), node(2), node(3)))).network
    after = apply_observed(some, "node-1", str(RECORDED)).network
    assert list(after.namespaces) == list(some.namespaces)
    assert after.segments == some.segments
    assert msgspec.structs.replace(after.namespaces["default/api-0"], cache={}) == some.namespaces["default/api-0"]
    assert after.namespaces["node-3"].devices == some.namespaces["node-3"].devices
    changed = {n.mac for n in after.namespaces["node-3"].neighbours} - {n.mac for n in some.namespaces["node-3"].neighbours}
    assert changed == {"5e:11:22:33:44:01", "5e:11:22:33:44:02", "5e:11:22:33:44:06", "5e:11:22:33:44:07"}
    assert ip("10.244.0.2") in [a.ip for a in after.namespaces["default/web-0"].devices["eth0"].addresses]
