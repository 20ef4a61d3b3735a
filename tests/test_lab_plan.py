"""The lab's plan: what is done, in which words, and in which order. Pure: tests/kernel/test_lab.py asks the kernel."""

from __future__ import annotations

import subprocess

import pytest
from msgspec.structs import replace

from netlab.kube.embedded import path_of_default
from netlab.kube.load import load
from netlab.lab.holder import in_parts
from netlab.lab.plan import AddNetns, Plan, Run, Sysctls, make_plan, netns_file, script, sysctl_paths
from netlab.lab.verify import lab_network
from netlab.linux.addr import ip, prefix
from netlab.linux.netns import (
    Address,
    Device,
    DeviceKind,
    FdbEntry,
    Listener,
    Neighbour,
    Netns,
    NetnsKind,
    NextHop,
    PolicyRule,
    Route,
    RouteType,
)
from netlab.linux.network import Network, Segment
from netlab.trace.flows import Flow, flows
from netlab.trace.query import Tracer

CLUSTER = load([str(path_of_default())])
NETWORK = Tracer(CLUSTER).network


def lines(plan: Plan, ns: str, tool: str = "ip") -> list[str]:
    runs = [a for a in plan.actions if isinstance(a, Run) and a.ns == ns and a.argv[0] == tool]
    return [line for run in runs for line in run.stdin.splitlines()]


def small(**more: object) -> Network:
    """One node with eth0 on a segment."""
    addresses = (Address(ip("10.0.0.1"), 24),)
    eth0 = Device("eth0", DeviceKind.PHYSICAL, 2, mac="02:00:00:00:00:01", segment="fabric", addresses=addresses)
    fields: dict[str, object] = {"devices": {"eth0": eth0}, **more}
    return Network({"n": Netns("n", NetnsKind.NODE, **fields)}, {"fabric": Segment("fabric", 1400)})  # type: ignore[arg-type]


def test_the_same_network_gives_the_same_plan() -> None:
    assert make_plan(NETWORK) == make_plan(Tracer(CLUSTER).network)


def test_every_namespace_is_made_before_anything_is_put_into_it() -> None:
    plan = make_plan(NETWORK)
    made = set()
    for action in plan.actions:
        match action:
            case AddNetns(name=name):
                made.add(name)
            case Run(ns=ns) | Sysctls(ns=ns):
                assert ns in made | {""}
    assert made == {"netlab_fabric", *(netns_file(name) for name in NETWORK.namespaces)}


def test_a_pod_in_the_words_of_ip() -> None:
    plan = make_plan(NETWORK)
    assert lines(plan, "default_web-0") == [
        "link set lo up",
        "link set eth0 up",
        "ntable change name arp_cache dev eth0 retrans 100",
        "ntable change name ndisc_cache dev eth0 retrans 100",
        "address add 10.244.0.10/24 broadcast 10.244.0.255 dev eth0 scope global",
        "address add fd00:10:244::10/64 dev eth0 scope global nodad",
        "address add fe80::858:aff:fef4:a/64 dev eth0 scope link nodad",
        "route add 0.0.0.0/0 via 10.244.0.1 dev eth0 proto boot",
        "route add 10.244.0.0/16 via 10.244.0.1 dev eth0 proto boot",
        "route add fd00:10:244::/56 via fd00:10:244::1 dev eth0 metric 1024 proto boot",
        "route add ::/0 via fd00:10:244::1 dev eth0 metric 1024 proto boot",
    ]


def test_a_veth_is_made_once_with_both_names() -> None:
    assert [line for line in lines(make_plan(NETWORK), "") if "default_web-0" in line] == [
        "link add name veth53842afe index 7 address 62:8d:72:69:36:65 mtu 1450 netns node-1 type veth peer name eth0 index 2 "
        "address 0a:58:0a:f4:00:0a mtu 1450 netns default_web-0"
    ]


def test_tunnel_entries_are_appended_and_ports_are_left_to_the_kernel() -> None:
    fdb = lines(make_plan(NETWORK), "node-1", "bridge")
    remotes = [e for e in NETWORK.namespaces["node-1"].fdb if e.dst is not None]
    assert fdb == [f"fdb append {e.mac} dev {e.dev} dst {e.dst} self permanent" for e in remotes]


@pytest.mark.parametrize("variant", ["legacy", "nft"])
def test_rules_are_loaded_by_the_variant_that_was_asked_for(variant: str) -> None:
    tools = [a.argv[0] for a in make_plan(NETWORK, variant=variant).actions if isinstance(a, Run) and a.ns == "node-1"]
    assert [tool for tool in tools if "tables" in tool] == [f"iptables-{variant}-restore", f"ip6tables-{variant}-restore"]


ROUTES = [
    (Route(prefix("10.1.0.0/16"), (NextHop("eth0", ip("10.0.0.9")),)), "route add 10.1.0.0/16 via 10.0.0.9 dev eth0 proto boot"),
    (
        Route(prefix("10.1.0.0/16"), (NextHop("eth0", ip("192.0.2.1"), onlink=True),), src=ip("10.0.0.1"), metric=5, table=100),
        "route add 10.1.0.0/16 via 192.0.2.1 dev eth0 onlink src 10.0.0.1 metric 5 table 100 proto boot",
    ),
    (Route(prefix("10.9.0.0/16"), type=RouteType.BLACKHOLE), "route add blackhole 10.9.0.0/16 proto boot"),
    (
        Route(prefix("10.1.0.0/16"), (NextHop("eth0", ip("10.0.0.8")), NextHop("eth0", ip("10.0.0.9"), weight=3)), mtu=1300),
        "route add 10.1.0.0/16 proto boot mtu 1300 nexthop via 10.0.0.8 dev eth0 weight 1 nexthop via 10.0.0.9 dev eth0 weight 3",
    ),
    (
        Route(prefix("10.1.0.0/16"), (NextHop("eth0", ip("fe80::1")),), protocol="bird"),
        "route add 10.1.0.0/16 via inet6 fe80::1 dev eth0 proto bird",
    ),
    (Route(prefix("10.0.0.0/24"), (NextHop("eth0"),), protocol="kernel", scope="link"), None),
]


@pytest.mark.parametrize(("route", "text"), ROUTES, ids=[str(r.dst) + r.type.value for r, _ in ROUTES])
def test_routes(route: Route, text: str | None) -> None:
    found = [line for line in lines(make_plan(small(routes=(route,))), "n") if line.startswith("route")]
    assert found == ([text] if text is not None else [])


RULES = [
    (PolicyRule(100, 50, fwmark=0x10, fwmask=0xFF), "rule add from all fwmark 0x10/0xff priority 100 lookup 50"),
    (PolicyRule(100, 50, src=prefix("10.0.0.0/8"), invert=True), "rule add not from 10.0.0.0/8 priority 100 lookup 50"),
    (PolicyRule(7, None, action="unreachable", iif="eth0"), "rule add from all iif eth0 priority 7 unreachable"),
    (PolicyRule(7, 9, 6, dst=prefix("fd00::/8")), "rule add from ::/0 to fd00::/8 priority 7 lookup 9"),
    (PolicyRule(7, 9, protocol=6, dport=(80, 90)), "rule add from all ipproto 6 dport 80-90 priority 7 lookup 9"),
]


@pytest.mark.parametrize(("rule", "text"), RULES, ids=[t for _, t in RULES])
def test_policy_rules(rule: PolicyRule, text: str) -> None:
    kernels = tuple(PolicyRule(p, t, f) for f in (4, 6) for p, t in ((0, 255), (32766, 254), (32767, 253)))
    assert [line for line in lines(make_plan(small(rules=(*kernels[:5], rule))), "n") if line.startswith("rule")] == [text]


def test_tunl0_is_made() -> None:
    found = lines(make_plan(small(devices={"tunl0": Device("tunl0", DeviceKind.IPIP, 3, mtu=1480)})), "n")
    assert "link add name tunl0 index 3 mtu 1480 type ipip" in found


def test_protocols_without_a_name_come_last() -> None:
    """iproute2's rtnl_rtprot_a2n remembers the last name that it looked up, and gives it the number that came after."""
    hop = (NextHop("eth0"),)
    felix = Route(prefix("10.1.0.0/16"), hop, protocol="80")
    bird = Route(prefix("10.2.0.0/16"), hop, protocol="bird")
    found = [line for line in lines(make_plan(small(routes=(felix, bird))), "n") if line.startswith("route")]
    assert [line.rpartition(" ")[2] for line in found] == ["bird", "80"]


def test_what_a_lab_cannot_have_is_said() -> None:
    odd = {
        "wg0": Device("wg0", DeviceKind.OTHER, 3),
        "cali1": Device("cali1", DeviceKind.VETH, 4, peer=("gone", "eth0")),
    }
    route = Route(prefix("10.1.0.0/16"), (NextHop("eth0"),), unknown="encap mpls 7")
    plan = make_plan(small(devices=odd, routes=(route,)))
    assert plan.notes == (
        "n: the other end of cali1 is not known: nothing is plugged in",
        "n: wg0 (other) is not made in the lab",
        "n: route to 10.1.0.0/16 with encap mpls 7 is not made in the lab",
    )


def test_neighbours_that_were_learned_are_learned_again() -> None:
    neighbours = (
        Neighbour("eth0", ip("10.0.0.2"), "02:00:00:00:00:02"),
        Neighbour("eth0", ip("10.0.0.3"), "02:00:00:00:00:03", "REACHABLE"),
        Neighbour("eth0", ip("10.0.0.4"), proxy=True),
    )
    plan = make_plan(small(neighbours=neighbours, fdb=(FdbEntry("eth0", "33:33:00:00:00:01"),)))
    assert [line for line in lines(plan, "n") if line.startswith("neigh")] == [
        "neigh replace 10.0.0.2 lladdr 02:00:00:00:00:02 dev eth0 nud permanent",
        "neigh replace proxy 10.0.0.4 dev eth0",
    ]
    assert lines(plan, "n", "bridge") == []


def settings(sysctls: dict[str, int]) -> list[Sysctls]:
    return [a for a in make_plan(small(sysctls=sysctls)).actions if isinstance(a, Sysctls) and a.ns == "n"]


def test_sysctls_forwarding_first_and_device_names_with_dots() -> None:
    early, maybe, late = settings(
        {"ipv4.ip_forward": 1, "ipv4.conf.flannel.1.rp_filter": 2, "bridge.bridge-nf-call-iptables": 1}
    )
    assert early.settings[0] == ("ipv4.ip_forward", "1")
    assert ("bridge.bridge-nf-call-iptables", "1") in early.settings
    assert ("bridge.bridge-nf-call-ip6tables", "0") in maybe.settings
    assert maybe.optional
    assert not early.optional
    assert sysctl_paths(late.settings) == [("ipv4/conf/flannel.1/rp_filter", "2")]


def test_routers_do_not_believe_redirects() -> None:
    for forward, believes in ((0, "1"), (1, "0")):
        early = settings({"ipv4.ip_forward": forward})[0]
        assert ("ipv4.conf.all.accept_redirects", believes) in early.settings


def test_listeners_keep_the_names_of_the_network() -> None:
    listener = Listener(6, 80, "pod a/b")
    plan = make_plan(Network({"a/b": Netns("a/b", NetnsKind.POD, listeners=(listener,))}))
    assert plan.listeners == (("a/b", listener),)
    assert plan.names == (("a/b", "a_b"),)


def test_the_script_is_shell() -> None:
    text = script(make_plan(NETWORK))
    done = subprocess.run(["sh", "-n"], input=text, capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")
    assert "nsenter --net=/run/netns/node-1 iptables-legacy-restore <<'EOF'" in text


def test_flows_are_a_function_of_the_seed() -> None:
    network = lab_network(CLUSTER, NETWORK)
    one, two = flows(CLUSTER, network, 300, 1), flows(CLUSTER, network, 300, 1)
    assert one == two
    assert one != flows(CLUSTER, network, 300, 2)
    assert len(set(one)) == 300
    assert {flow.protocol for flow in one} == {"tcp", "udp", "icmp"}
    assert all(isinstance(flow, Flow) for flow in one)
    assert any(":" in flow.destination and flow.destination.startswith("[") for flow in one)
    assert replace(one[0], size=1500).size == 1500


def test_rules_in_parts_are_the_same_rules() -> None:
    """What an ordinary user's netlink socket is too small for is loaded in parts: chains first, then rules in their order."""
    nat = ["-A PREROUTING -j ONE", *(f"-A ONE -p tcp --dport {n} -j RETURN" for n in range(1, 6))]
    text = "*nat\n:PREROUTING ACCEPT [0:0]\n:ONE - [0:0]\n" + "\n".join(nat) + "\nCOMMIT\n"
    text += "*filter\n:FORWARD DROP [0:0]\n-A FORWARD -j ACCEPT\nCOMMIT\n# done\n"
    first, *others = in_parts(text, size=4)
    assert first == "*nat\n:PREROUTING ACCEPT [0:0]\n:ONE - [0:0]\nCOMMIT\n*filter\n:FORWARD DROP [0:0]\nCOMMIT\n"
    assert [part.splitlines() for part in others] == [
        ["*nat", *nat[:4], "COMMIT"],
        ["*nat", *nat[4:], "COMMIT"],
        ["*filter", "-A FORWARD -j ACCEPT", "COMMIT"],
    ]
