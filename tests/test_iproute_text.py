"""What ip(8) and bridge(8) print, and their JSON read back. Expected texts are those of iproute2 6.1 on a kernel."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from netlab.dataplane.build import build
from netlab.errors import InputError
from netlab.linux.addr import Ip, Prefix, ip, mask_of, prefix
from netlab.linux.netns import (
    DEFAULT,
    LOCAL,
    MAIN,
    Address,
    Device,
    DeviceKind,
    FdbEntry,
    Neighbour,
    Netns,
    NetnsKind,
    NextHop,
    PolicyRule,
    Route,
    RouteType,
)
from netlab.linux.text import iproute
from netlab.refs import Ref
from tests.test_build import two_nodes


def space(**changes: Any) -> Netns:
    return Netns("test", NetnsKind.NODE, **changes)


def via(dev: str, gateway: str | None = None, **changes: Any) -> NextHop:
    return NextHop(dev, ip(gateway) if gateway else None, **changes)


ETH0 = (via("eth0"),)

# (route, `ip route show table all`, `ip -j route show table all`)
ROUTES: list[tuple[Route, str, str]] = [
    (
        Route(prefix("0.0.0.0/0"), (via("eth0", "198.18.0.254"),)),
        "default via 198.18.0.254 dev eth0 ",
        '{"dst":"default","gateway":"198.18.0.254","dev":"eth0","flags":[]}',
    ),
    (
        Route(prefix("6.6.6.0/24"), type=RouteType.BLACKHOLE),
        "blackhole 6.6.6.0/24 ",
        '{"type":"blackhole","dst":"6.6.6.0/24","flags":[]}',
    ),
    (
        Route(prefix("6.6.7.0/24"), type=RouteType.UNREACHABLE, metric=5),
        "unreachable 6.6.7.0/24 metric 5 ",
        '{"type":"unreachable","dst":"6.6.7.0/24","metric":5,"flags":[]}',
    ),
    (
        Route(prefix("6.6.9.0/24"), type=RouteType.THROW, table=100),
        "throw 6.6.9.0/24 table 100 ",
        '{"type":"throw","dst":"6.6.9.0/24","table":"100","flags":[]}',
    ),
    (
        Route(prefix("7.7.7.0/24"), (via("eth0", "198.18.0.3"),), src=ip("10.244.0.1"), metric=7, mtu=1400),
        "7.7.7.0/24 via 198.18.0.3 dev eth0 src 10.244.0.1 metric 7 mtu 1400 ",
        '{"dst":"7.7.7.0/24","gateway":"198.18.0.3","dev":"eth0","prefsrc":"10.244.0.1","metric":7,"flags":[],"metrics":[{"mtu":1400}]}',
    ),
    (
        Route(prefix("10.244.1.0/24"), (via("flannel.1", "10.244.1.0", onlink=True),)),
        "10.244.1.0/24 via 10.244.1.0 dev flannel.1 onlink ",
        '{"dst":"10.244.1.0/24","gateway":"10.244.1.0","dev":"flannel.1","flags":["onlink"]}',
    ),
    (
        Route(prefix("198.18.0.1"), ETH0, RouteType.LOCAL, ip("198.18.0.1"), table=LOCAL, scope="host", protocol="kernel"),
        "local 198.18.0.1 dev eth0 table local proto kernel scope host src 198.18.0.1 ",
        '{"type":"local","dst":"198.18.0.1","dev":"eth0","table":"local","protocol":"kernel","scope":"host",'
        '"prefsrc":"198.18.0.1","flags":[]}',
    ),
    (
        Route(prefix("5.5.0.0/16"), (via("eth0", "198.18.0.2", weight=2), via("eth0", "198.18.0.3")), table=100),
        "5.5.0.0/16 table 100 \n\tnexthop via 198.18.0.2 dev eth0 weight 2 \n\tnexthop via 198.18.0.3 dev eth0 weight 1 ",
        '{"dst":"5.5.0.0/16","table":"100","flags":[],"nexthops":[{"gateway":"198.18.0.2","dev":"eth0","weight":2,"flags":[]},'
        '{"gateway":"198.18.0.3","dev":"eth0","weight":1,"flags":[]}]}',
    ),
    (
        Route(prefix("2001:db8:1::/64"), type=RouteType.BLACKHOLE, metric=1024),
        "blackhole 2001:db8:1::/64 dev lo metric 1024 pref medium",
        '{"type":"blackhole","dst":"2001:db8:1::/64","dev":"lo","metric":1024,"flags":[],"pref":"medium"}',
    ),
    (
        Route(prefix("2001:db8:2::/64"), (via("eth0", "fd00:198:18::2", weight=2), via("eth0", "fd00:198:18::3")), metric=1024),
        "2001:db8:2::/64 metric 1024 pref medium\n\tnexthop via fd00:198:18::2 dev eth0 weight 2 "
        "\n\tnexthop via fd00:198:18::3 dev eth0 weight 1 ",
        '{"dst":"2001:db8:2::/64","metric":1024,"flags":[],"pref":"medium","nexthops":[{"gateway":"fd00:198:18::2","dev":"eth0",'
        '"weight":2,"flags":[]},{"gateway":"fd00:198:18::3","dev":"eth0","weight":1,"flags":[]}]}',
    ),
    (
        Route(prefix("::1"), (via("lo"),), RouteType.LOCAL, table=LOCAL, protocol="kernel"),
        "local ::1 dev lo table local proto kernel metric 0 pref medium",
        '{"type":"local","dst":"::1","dev":"lo","table":"local","protocol":"kernel","metric":0,"flags":[],"pref":"medium"}',
    ),
    (
        Route(prefix("::/0"), (via("eth0", "fd00:198:18::fe"),), metric=1024),
        "default via fd00:198:18::fe dev eth0 metric 1024 pref medium",
        '{"dst":"default","gateway":"fd00:198:18::fe","dev":"eth0","metric":1024,"flags":[],"pref":"medium"}',
    ),
    (
        Route(prefix("9.9.0.0/16"), (via("eth0", "fe80::1"),)),
        "9.9.0.0/16 via inet6 fe80::1 dev eth0 ",
        '{"dst":"9.9.0.0/16","via":{"family":"inet6","host":"fe80::1"},"dev":"eth0","flags":[]}',
    ),
]


@pytest.mark.parametrize(("route", "text", "as_json"), ROUTES)
def test_route(route: Route, text: str, as_json: str) -> None:
    netns = space(routes=(route,))
    assert iproute.print_route(netns, table=None) == text + "\n"
    assert iproute.print_route(netns, table=None, json=True) == f"[{as_json}]\n"
    assert iproute.parse_route(f"[{as_json}]", "ip-route.json") == (with_ref(route),)


def with_ref(route: Route) -> Route:
    return msgspec.structs.replace(route, ref=Ref(file="ip-route.json", path="[0]"))


def test_one_table_is_shown_without_its_name() -> None:
    node = build(two_nodes()).network.namespaces["node-1"]
    assert "table" not in iproute.print_route(node, table=LOCAL)
    assert iproute.print_route(node) == iproute.print_route(node, family=4) + iproute.print_route(node, family=6)
    assert iproute.print_route(node, table=DEFAULT) == ""
    assert iproute.print_route(node, table=DEFAULT, json=True) == "[]\n"


# (rule, `ip rule`, `ip -j rule`)
RULES: list[tuple[PolicyRule, str, str]] = [
    (PolicyRule(0, LOCAL), "0:\tfrom all lookup local", '{"priority":0,"src":"all","table":"local"}'),
    (
        PolicyRule(100, 100, fwmark=1, fwmask=0xF),
        "100:\tfrom all fwmark 0x1/0xf lookup 100",
        '{"priority":100,"src":"all","fwmark":"0x1","fwmask":"0xf","table":"100"}',
    ),
    (
        PolicyRule(101, None, src=prefix("10.0.0.0/8"), iif="eth0", action="unreachable"),
        "101:\tfrom 10.0.0.0/8 iif eth0 unreachable",
        '{"priority":101,"src":"10.0.0.0","srclen":8,"iif":"eth0","action":"unreachable"}',
    ),
    (
        PolicyRule(102, MAIN, dst=prefix("10.0.0.0/8"), protocol=6, dport=(80, 90), invert=True, suppress_prefixlength=0),
        "102:\tnot from all to 10.0.0.0/8 ipproto tcp dport 80-90 lookup main suppress_prefixlength 0",
        '{"priority":102,"not":null,"src":"all","dst":"10.0.0.0","dstlen":8,"ipproto":"tcp","dport_start":80,"dport_end":90,'
        '"table":"main","suppress_prefixlen":0}',
    ),
    (
        PolicyRule(103, DEFAULT, src=prefix("10.0.0.1"), oif="eth1", sport=(53, 53)),
        "103:\tfrom 10.0.0.1 oif eth1 sport 53 lookup default",
        '{"priority":103,"src":"10.0.0.1","oif":"eth1","sport":53,"table":"default"}',
    ),
]


@pytest.mark.parametrize(("rule", "text", "as_json"), RULES)
def test_rule(rule: PolicyRule, text: str, as_json: str) -> None:
    netns = space(rules=(rule,))
    assert iproute.print_rule(netns) == text + "\n"
    assert iproute.print_rule(netns, json=True) == f"[{as_json}]\n"
    assert iproute.parse_rule(f"[{as_json}]", "ip-rule.json") == (rule,)


# (entry, `ip neigh`, `ip -j neigh`)
NEIGHBOURS: list[tuple[Neighbour, str, str]] = [
    (
        Neighbour("flannel.1", ip("10.244.1.0"), "0e:00:00:00:01:01"),
        "10.244.1.0 dev flannel.1 lladdr 0e:00:00:00:01:01 PERMANENT ",
        '{"dst":"10.244.1.0","dev":"flannel.1","lladdr":"0e:00:00:00:01:01","state":["PERMANENT"]}',
    ),
    (
        Neighbour("eth0", ip("198.18.0.9"), None, "FAILED"),
        "198.18.0.9 dev eth0 FAILED ",
        '{"dst":"198.18.0.9","dev":"eth0","state":["FAILED"]}',
    ),
]


@pytest.mark.parametrize(("entry", "text", "as_json"), NEIGHBOURS)
def test_neigh(entry: Neighbour, text: str, as_json: str) -> None:
    netns = space(neighbours=(entry,))
    assert iproute.print_neigh(netns) == text + "\n"
    assert iproute.print_neigh(netns, json=True) == f"[{as_json}]\n"
    assert iproute.parse_neigh(f"[{as_json}]", "ip-neigh.json") == (entry,)


# (entry, `bridge fdb`, `bridge -j fdb`)
FDB: list[tuple[FdbEntry, str, str]] = [
    (
        FdbEntry("flannel.1", "0e:00:00:00:01:01", ip("198.18.0.2")),
        "0e:00:00:00:01:01 dev flannel.1 dst 198.18.0.2 self permanent",
        '{"mac":"0e:00:00:00:01:01","ifname":"flannel.1","dst":"198.18.0.2","flags":["self"],"state":"permanent"}',
    ),
    (
        FdbEntry("cni0", "0a:58:0a:f4:00:01", master="cni0"),
        "0a:58:0a:f4:00:01 dev cni0 master cni0 permanent",
        '{"mac":"0a:58:0a:f4:00:01","ifname":"cni0","flags":[],"master":"cni0","state":"permanent"}',
    ),
    (
        FdbEntry("vethaaaa", "0a:58:0a:f4:00:02", master="cni0", state=""),
        "0a:58:0a:f4:00:02 dev vethaaaa master cni0 ",
        '{"mac":"0a:58:0a:f4:00:02","ifname":"vethaaaa","flags":[],"master":"cni0","state":""}',
    ),
    (
        FdbEntry("vethaaaa", "0a:58:0a:f4:00:02", master="cni0", vlan=1),
        "0a:58:0a:f4:00:02 dev vethaaaa vlan 1 master cni0 permanent",
        '{"mac":"0a:58:0a:f4:00:02","ifname":"vethaaaa","vlan":1,"flags":[],"master":"cni0","state":"permanent"}',
    ),
]


@pytest.mark.parametrize(("entry", "text", "as_json"), FDB)
def test_fdb(entry: FdbEntry, text: str, as_json: str) -> None:
    netns = space(fdb=(entry,))
    assert iproute.print_fdb(netns) == text + "\n"
    assert iproute.print_fdb(netns, json=True) == f"[{as_json}]\n"
    assert iproute.parse_fdb(f"[{as_json}]", "fdb.json") == (entry,)


ADDR = """\
1: lo: <LOOPBACK,UP,LOWER_UP> mtu 65536 qdisc noqueue state UNKNOWN group default qlen 1000
    link/loopback 00:00:00:00:00:00 brd 00:00:00:00:00:00
    inet 127.0.0.1/8 scope host lo
       valid_lft forever preferred_lft forever
    inet6 ::1/128 scope host_
       valid_lft forever preferred_lft forever
2: eth0@if6: <BROADCAST,MULTICAST,UP,LOWER_UP> mtu 1450 qdisc noqueue state UP group default qlen 1000
    link/ether 0a:58:0a:f4:00:02 brd ff:ff:ff:ff:ff:ff link-netnsid 0
    inet 10.244.0.2/24 brd 10.244.0.255 scope global eth0
       valid_lft forever preferred_lft forever
    inet6 fd00:10:244::2/64 scope global_
       valid_lft forever preferred_lft forever
    inet6 fe80::858:aff:fef4:2/64 scope link_
       valid_lft forever preferred_lft forever
""".replace("_\n", " \n")


def test_addr_of_a_pod() -> None:
    assert iproute.print_addr(build(two_nodes()).network.namespaces["default/web-0"]) == ADDR


def test_link_of_a_node_names_masters_and_pods() -> None:
    text = iproute.print_link(build(two_nodes()).network.namespaces["node-1"], details=True)
    assert (
        "2: eth0: <BROADCAST,MULTICAST,UP,LOWER_UP> mtu 1500 qdisc fq_codel state UP mode DEFAULT group default qlen 1000" in text
    )
    assert (
        "@if2: <BROADCAST,MULTICAST,UP,LOWER_UP> mtu 1450 qdisc noqueue master cni0 state UP mode DEFAULT group default" in text
    )
    assert "    vxlan id 1 local 198.18.0.1 dev eth0 dstport 8472 nolearning \n" in text
    assert "    bridge_slave state forwarding hairpin on \n" in text


def test_a_bridge_without_ports_has_no_carrier() -> None:
    bridge = Device("cni0", DeviceKind.BRIDGE, 2, mac="0a:58:0a:f4:00:01", addresses=(Address(ip("10.244.0.1"), 24),))
    route = Route(prefix("10.244.0.0/24"), (via("cni0"),), scope="link", protocol="kernel")
    empty = space(devices={"cni0": bridge}, routes=(route,))
    assert iproute.print_link(empty).startswith("2: cni0: <NO-CARRIER,BROADCAST,MULTICAST,UP> mtu 1500 qdisc noqueue state DOWN ")
    assert iproute.print_route(empty) == "10.244.0.0/24 dev cni0 proto kernel scope link linkdown \n"


@pytest.mark.parametrize("name", ["node-1", "default/web-0", "internet"])
def test_a_whole_namespace_survives_its_own_json(name: str) -> None:
    netns = build(two_nodes()).network.namespaces[name]
    devices = list(netns.devices.values())
    linked = {link.device.name: link for link in iproute.parse_link(iproute.print_link(netns, json=True, details=True), "-")}
    for addressed in iproute.parse_addr(iproute.print_addr(netns, json=True), "-"):
        said = netns.devices[addressed.device.name]
        real = linked[said.name].device
        assert addressed.device.addresses == said.addresses
        for field in ("kind", "index", "mac", "mtu", "up", "master", "hairpin", "vxlan", "link_index", "link_netnsid"):
            assert getattr(real, field) == getattr(said, field), (said.name, field)
    assert len(linked) == len(devices)
    routes = iproute.parse_route(iproute.print_route(netns, table=None, json=True), "-")
    assert tuple(msgspec.structs.replace(route, ref=None) for route in routes) == netns.routes
    rules = [iproute.parse_rule(iproute.print_rule(netns, family=f, json=True), "-", f) for f in (4, 6)]
    assert rules[0] + rules[1] == netns.rules
    assert sorted(map(str, iproute.parse_neigh(iproute.print_neigh(netns, json=True), "-"))) == sorted(map(str, netns.neighbours))
    assert iproute.parse_fdb(iproute.print_fdb(netns, json=True), "-") == netns.fdb


addresses = st.integers(0, (1 << 32) - 1).map(lambda v: Ip(4, v)) | st.integers(0, (1 << 128) - 1).map(lambda v: Ip(6, v))
names = st.from_regex(r"[a-z][a-z0-9.]{0,14}", fullmatch=True)


@st.composite
def routes(draw: st.DrawFn) -> Route:
    address = draw(addresses)
    length = draw(st.integers(0, address.bits))
    dst = Prefix(address.family, address.value & mask_of(address.family, length), length)
    kind = draw(st.sampled_from(RouteType))
    same = addresses.filter(lambda a: a.family == dst.family)
    hop = st.builds(NextHop, names, st.none() | same, st.just(1), st.booleans())
    hops: tuple[NextHop, ...] = ()
    if kind not in (RouteType.BLACKHOLE, RouteType.UNREACHABLE, RouteType.PROHIBIT, RouteType.THROW):
        hops = tuple(draw(st.lists(hop, min_size=1, max_size=3)))
    return Route(
        dst,
        hops,
        kind,
        src=draw(st.none() | same),
        metric=draw(st.integers(0, 1 << 31)),
        table=draw(st.sampled_from([MAIN, LOCAL, DEFAULT, 100, 5000])),
        scope=draw(st.sampled_from(["global", "link", "host"])),
        protocol=draw(st.sampled_from(["boot", "kernel", "static", "dhcp", "bird"])),
        mtu=draw(st.none() | st.integers(68, 65535)),
    )


@given(routes())
def test_any_route_survives_its_own_json(route: Route) -> None:
    (again,) = iproute.parse_route(iproute.print_route(space(routes=(route,)), table=None, json=True), "-")
    assert msgspec.structs.replace(again, ref=None) == route


@given(
    st.builds(
        FdbEntry, names, st.just("0a:58:0a:f4:00:01"), st.none() | addresses, st.none() | names, st.sampled_from(["", "stale"])
    )
)
def test_any_forwarding_entry_survives_its_own_json(entry: FdbEntry) -> None:
    assert iproute.parse_fdb(iproute.print_fdb(space(fdb=(entry,)), json=True), "-") == (entry,)


Parser = Callable[[str, str], object]
GOOD_LINK = '{"ifindex":1,"ifname":"lo","flags":[],"mtu":1}'

BAD: list[tuple[Parser, str, str]] = [
    (iproute.parse_route, "default via 10.0.0.1 dev eth0 \n", "f.json: is not JSON"),
    (iproute.parse_route, "default via 10.0.0.1 dev eth0 \n", 'save it with "ip -j route show table all"'),
    (iproute.parse_route, "", "f.json: is empty"),
    (iproute.parse_route, '[{"dst":"10.0.0.0/8","dev":"eth0"', "f.json: is not JSON"),
    (iproute.parse_route, '{"dst":"default"}', "f.json: is an object, not a list"),
    (iproute.parse_route, "[7]", "f.json, [0]: is 7, not an object"),
    (iproute.parse_route, '[{},{"dev":"eth0"}]', 'f.json, [1]: "dst" is missing'),
    (iproute.parse_route, '[{"dst":"10.0.0.0/8"}]', 'f.json, [0]: "dev" is missing'),
    (iproute.parse_route, '[{"dst":"10.0.0/8","dev":"eth0"}]', 'f.json, [0]: "dst" is "10.0.0/8", not an address or a prefix'),
    (iproute.parse_route, '[{"dst":"default","gateway":"x","dev":"eth0"}]', '"gateway" is "x", not an IP address'),
    (iproute.parse_route, '[{"dst":"default","dev":"eth0","metric":"7"}]', '"metric" is "7", not a number'),
    (iproute.parse_route, '[{"dst":"default","dev":"eth0","metric":-7}]', '"metric" is negative: -7'),
    (
        iproute.parse_route,
        '[{"dst":"default","nexthops":[{"dev":"a"},{"dev":true}]}]',
        'f.json, [0].nexthops[1]: "dev" is true, not text',
    ),
    (iproute.parse_route, '[{"dst":"default","nexthops":[3]}]', '"nexthops"[0] is 3, not an object'),
    (iproute.parse_link, f"[{GOOD_LINK},{GOOD_LINK}]", 'f.json, [1]: device "lo" is there twice'),
    (iproute.parse_link, '[{"ifindex":true,"ifname":"lo","flags":[],"mtu":1}]', '"ifindex" is true, not a number'),
    (iproute.parse_link, '[{"ifindex":1,"ifname":"lo","flags":"UP","mtu":1}]', '"flags" is "UP", not a list'),
    (iproute.parse_addr, f"[{GOOD_LINK}]", 'has no "addr_info"\n  save it with "ip -j addr"'),
    (
        iproute.parse_addr,
        f'[{GOOD_LINK[:-1]},"addr_info":[{{"local":"10.0.0.1","prefixlen":33}}]}}]',
        'f.json, [0].addr_info[0]: "prefixlen" is 33, more than 32',
    ),
    (iproute.parse_rule, '[{"priority":0,"src":"::1","table":"main"}]', '"src" is ::1, not an IPv4 address'),
    (iproute.parse_rule, '[{"priority":0,"fwmark":"x"}]', '"fwmark" is "x", not a number'),
    (iproute.parse_neigh, '[{"dst":"10.0.0.1","dev":"eth0","lladdr":"0a:58"}]', '"lladdr" is "0a:58", not a MAC address'),
    (iproute.parse_fdb, '[{"mac":"0a:58:0a:f4:00:zz","ifname":"eth0"}]', "not a MAC address"),
]


@pytest.mark.parametrize(("parse", "text", "message"), BAD)
def test_bad_input(parse: Parser, text: str, message: str) -> None:
    with pytest.raises(InputError) as error:
        parse(text, "f.json")
    assert message in str(error.value)


def test_what_is_not_modelled_keeps_its_text() -> None:
    (route,) = iproute.parse_route('[{"dst":"default","from":"fd00::/64","gateway":"fe80::1","dev":"eth0","encap":"mpls"}]', "-")
    assert route.unknown == "from fd00::/64 encap mpls"
    (odd,) = iproute.parse_route('[{"type":"xresolve","dst":"10.0.0.0/8","dev":"eth0"}]', "-")
    assert odd.unknown == "type xresolve"
    (rule,) = iproute.parse_rule('[{"priority":9,"src":"all","tos":"0x10","uid_start":0,"uid_end":5,"table":"main"}]', "-")
    assert rule.unknown == "tos 0x10 uid_start 0 uid_end 5"
    (goto,) = iproute.parse_rule('[{"priority":9,"src":"all","action":"nop"}]', "-")
    assert goto.unknown == "action nop"
    (proto,) = iproute.parse_rule('[{"priority":9,"src":"all","ipproto":"ospf","table":"main"}]', "-")
    assert proto.unknown == "ipproto ospf"


def test_dead_next_hops_do_not_route() -> None:
    one = '{"dst":"default","gateway":"10.0.0.1","dev":"eth0","flags":["dead","linkdown"]}'
    first = '{"gateway":"10.0.0.1","dev":"a","weight":1,"flags":["dead"]}'
    two = f'{{"dst":"default","nexthops":[{first},{{"dev":"b","weight":1,"flags":[]}}]}}'
    (route,) = iproute.parse_route(f"[{one},{two}]", "-")
    assert [hop.dev for hop in route.nexthops] == ["b"]


def test_table_names_of_the_node_still_meet() -> None:
    (route,) = iproute.parse_route('[{"dst":"default","dev":"tun0","table":"vpn"}]', "-")
    (rule,) = iproute.parse_rule('[{"priority":9,"src":"all","fwmark":"0x1","table":"vpn"}]', "-")
    assert route.table == rule.table
    assert route.table not in (MAIN, LOCAL, DEFAULT)


def test_kinds_of_devices() -> None:
    rows = [
        {"linkinfo": {"info_kind": "veth"}, "promiscuity": 0},
        {"linkinfo": {"info_kind": "bridge"}, "promiscuity": 0},
        {"linkinfo": {"info_kind": "wireguard"}, "promiscuity": 0},
        {"linkinfo": {"info_kind": "vxlan", "info_data": {"external": True, "port": 8472}}, "promiscuity": 0},
        {"promiscuity": 0},
        {},
        {"link_type": "loopback"},
        {"link_type": "ipip", "address": "0.0.0.0"},
    ]
    text = json.dumps([{"ifindex": n, "ifname": f"d{n}", "flags": ["UP"], "mtu": 1500, **row} for n, row in enumerate(rows)])
    assert [link.device.kind.value for link in iproute.parse_link(text, "-")] == [
        "veth", "bridge", "other", "other", "physical", "other", "loopback", "ipip",
    ]  # fmt: skip


def test_the_other_end_in_the_same_namespace() -> None:
    text = (
        '[{"ifindex":3,"link":"b","ifname":"a","flags":["UP"],"mtu":1500,"address":"02:00:00:00:00:01"},'
        '{"ifindex":4,"link":"a","ifname":"b","flags":["UP"],"mtu":1500,"address":"02:00:00:00:00:02"}]'
    )
    links = iproute.parse_link(text, "-")
    assert [link.device.link_index for link in links] == [4, 3]
    shown = iproute.print_link(space(devices={link.device.name: link.device for link in links}))
    assert shown.startswith("3: a@b: ")
