"""IPVS without a kernel: schedulers, services found, what a trace says; the kernel's word is in tests/kernel/test_ipvs_uml.py."""

from __future__ import annotations

import io
from fractions import Fraction
from pathlib import Path

import pytest
from msgspec.structs import replace

from netlab.kube.load import Overrides, load
from netlab.linux.addr import Ip, ip
from netlab.linux.ipvs import SCHEDULERS, Method, RealServer, VirtualService
from netlab.linux.ipvs_schedulers import Asked, schedule
from netlab.linux.netns import Address, Device, DeviceKind, Netns, NetnsKind
from netlab.linux.packet import SYN, TCP, UDP, Packet
from netlab.linux.rules import Hook
from netlab.linux.text import iptables_save
from netlab.match.naive import rule_holds
from netlab.match.view import View
from netlab.render import text
from netlab.trace.ipvs import find_service
from netlab.trace.query import Request, Tracer

ROOT = Path(__file__).parent.parent
CLIENT, VIP = ip("10.2.0.7"), ip("10.96.0.1")


def servers(*weights: int, upper: int = 0) -> tuple[RealServer, ...]:
    return tuple(RealServer(ip(f"10.1.0.{n + 1}"), 80, Method.MASQUERADE, w, upper) for n, w in enumerate(weights))


def chosen(scheduler: str, *weights: int, flags: tuple[str, ...] = (), src: Ip = CLIENT, sport: int = 40000) -> dict[int, str]:
    """The last number of each server's address with its share."""
    service = VirtualService(TCP, VIP, 80, scheduler, servers(*weights), flags=flags)
    return {server.ip.value & 255: str(share) for server, share in schedule(service, Asked(src, VIP, sport)).shares}


@pytest.mark.parametrize(
    ("scheduler", "weights", "expected"),
    [
        ("rr", (1, 2, 0), {1: "1/2", 2: "1/2"}),  # weight 0 takes nothing, others are alike
        ("wrr", (1, 2, 0), {1: "1/3", 2: "2/3"}),
        ("lc", (1, 3), {1: "1/2", 2: "1/2"}),
        ("wlc", (1, 3), {1: "1/4", 2: "3/4"}),
        ("sed", (1, 3), {1: "1/4", 2: "3/4"}),
        ("nq", (1, 3), {1: "1/4", 2: "3/4"}),
        ("lblc", (1, 3), {1: "1/2", 2: "1/2"}),
        ("lblcr", (1, 3), {1: "1/2", 2: "1/2"}),
        ("fo", (1, 3, 3), {3: "1"}),  # of equals the last added is the first in the kernel's list
        ("ovf", (1, 3, 2), {2: "1"}),
        ("rr", (0, 0), {}),
        ("fo", (0,), {}),
        ("sh", (0,), {}),
        ("mh", (0,), {}),
        ("dh", (), {}),
    ],
)
def test_shares(scheduler: str, weights: tuple[int, ...], expected: dict[int, str]) -> None:
    assert chosen(scheduler, *weights) == expected


def test_every_scheduler_deals_out_all_of_one() -> None:
    for scheduler in SCHEDULERS:
        found = schedule(VirtualService(TCP, VIP, 80, scheduler, servers(1, 2, 3)), Asked(CLIENT, VIP, 40000))
        assert sum(share for _, share in found.shares) == Fraction(1), scheduler
        assert found.why


@pytest.mark.parametrize(
    ("scheduler", "flags", "expected"),
    [
        ("dh", (), "212312113131"),
        ("sh", (), "312312322332"),
        ("sh", ("sh-port",), "211133322222"),
        ("mh", (), "311321331223"),
        ("mh", ("mh-port",), "131322321113"),
    ],
)
def test_hashes_stay_what_they_were_when_linux_agreed(scheduler: str, flags: tuple[str, ...], expected: str) -> None:
    found = ""
    for n in range(12):
        service = VirtualService(TCP, ip(f"10.96.{n}.1"), 80, scheduler, servers(1, 2, 3), flags=flags)
        ((server, _),) = schedule(service, Asked(ip(f"10.2.{n}.7"), ip(f"10.96.{n}.1"), 40000 + n)).shares
        found += str(server.ip.value & 255)
    assert found == expected


def test_a_port_that_nat_drew_may_fall_into_any_bucket() -> None:
    for scheduler, flag in (("sh", "sh-port"), ("mh", "mh-port")):
        service = VirtualService(TCP, VIP, 80, scheduler, servers(1, 3), flags=(flag,))
        shares = {server.ip.value & 255: float(share) for server, share in schedule(service, Asked(CLIENT, VIP, None)).shares}
        assert shares == pytest.approx({1: 0.25, 2: 0.75}, abs=0.01)


def test_an_unknown_scheduler_is_named() -> None:
    found = schedule(VirtualService(TCP, VIP, 80, "twos", servers(1, 1)), Asked(CLIENT, VIP, 1))
    assert found.unknown == "IPVS scheduler twos"


def test_a_threshold_is_taken_as_not_reached_and_that_is_said() -> None:
    found = schedule(VirtualService(TCP, VIP, 80, "fo", servers(1, 2, upper=100)), Asked(CLIENT, VIP, 1))
    assert found.assumes == "no real server with an upper threshold (-x) has reached it"


# -- which service -----------------------------------------------------------------------------------------------------

SERVICES = (
    VirtualService(TCP, VIP, 80),
    VirtualService(UDP, VIP, 80),
    VirtualService(TCP, VIP, 21),
    VirtualService(TCP, ip("10.96.0.2"), 0, timeout=300),
    VirtualService(0, None, 0, fwmark=7),
    VirtualService(TCP, ip("fd00::1"), 80, family=6),
)


@pytest.mark.parametrize(
    ("packet", "expected"),
    [
        (Packet(CLIENT, VIP, TCP, 1, 80), 0),
        (Packet(CLIENT, VIP, UDP, 1, 80), 1),
        (Packet(CLIENT, VIP, TCP, 1, 81), None),
        (Packet(CLIENT, VIP, TCP, 1, 20), 2),  # FTP's data
        (Packet(CLIENT, VIP, TCP, 1, 2000), 2),  # and passive FTP's, to any unprivileged port
        (Packet(CLIENT, ip("10.96.0.2"), TCP, 1, 4711), 3),  # port 0: all others
        (Packet(CLIENT, ip("10.96.0.2"), UDP, 1, 4711), None),
        (Packet(CLIENT, VIP, TCP, 1, 80, mark=7), 4),  # the mark is asked first
        (Packet(CLIENT, ip("1.1.1.1"), UDP, 1, 9, mark=7), 4),
        (Packet(ip("fd00::2"), ip("fd00::1"), TCP, 1, 80), 5),
    ],
)
def test_the_service_of_a_packet(packet: Packet, expected: int | None) -> None:
    netns = Netns("n", NetnsKind.NODE, ipvs=SERVICES)
    assert find_service(netns, packet) == (None if expected is None else SERVICES[expected])


# -- traces ------------------------------------------------------------------------------------------------------------


def tracer(*services: VirtualService, rules: str = "", **sysctls: int) -> Tracer:
    """The example cluster without kube-proxy's rules, node-1 with these services and their addresses on kube-ipvs0."""
    made = Tracer(load([str(ROOT / "topologies/flannel-vxlan.yaml")]))
    node = made.network.namespaces["node-1"]
    addresses = tuple(dict.fromkeys(Address(s.ip, s.ip.bits) for s in services if s.ip is not None))
    dummy = Device("kube-ipvs0", DeviceKind.DUMMY, 90, up=False, addresses=addresses)
    ruleset = iptables_save.parse(rules or "*filter\n:INPUT ACCEPT [0:0]\nCOMMIT\n", family=4, file="rules")
    settings = {"ipv4.vs.conntrack": 1, **{name.replace("__", "."): value for name, value in sysctls.items()}}
    changed = replace(
        node,
        ipvs=services,
        rulesets={4: ruleset},
        devices={**node.devices, "kube-ipvs0": dummy},
        sysctls={**node.sysctls, **settings},
        cache={},
    )
    made.network = replace(made.network, namespaces={**made.network.namespaces, "node-1": changed})
    made._networks.clear()
    return made


API = (RealServer(ip("10.244.0.11"), 9000, Method.MASQUERADE), RealServer(ip("10.244.1.11"), 9000, Method.MASQUERADE))
WEB = VirtualService(TCP, ip("10.96.100.1"), 80, "rr", API)

SAYS = [  # services, sysctls, destination, what the trace says
    ((WEB,), {}, "10.96.100.1:80", "delivered"),
    ((WEB,), {}, "10.96.100.1:81", "nothing listens on 10.96.100.1:81/TCP (on node-1)"),
    ((replace(WEB, servers=()),), {}, "10.96.100.1:80", "has no real server that takes connections (on node-1)"),
    ((replace(WEB, scheduler="twos"),), {}, "10.96.100.1:80", "IPVS scheduler twos of 10.96.100.1:80/tcp is not modelled"),
    ((replace(WEB, engine="sip"),), {}, "10.96.100.1:80", "IPVS persistence engine sip is not modelled"),
    ((WEB,), {"ipv4__vs__drop_packet": 3}, "10.96.100.1:80", "net.ipv4.vs.drop_packet=3 is not modelled"),
    ((WEB,), {"ipv4__vs__backup_only": 1}, "10.96.100.1:80", "net.ipv4.vs.backup_only=1 is not modelled"),
]


@pytest.mark.parametrize(("services", "sysctls", "destination", "says"), SAYS, ids=[row[3][:40] for row in SAYS])
def test_what_a_trace_says(
    services: tuple[VirtualService, ...], sysctls: dict[str, int], destination: str, says: str
) -> None:
    trace = tracer(*services, **sysctls).trace(Request("web-0", destination))
    assert says in text.render(trace)


def test_a_tunnel_of_another_kind_is_unknown() -> None:
    gue = RealServer(ip("10.244.0.11"), 80, Method.TUNNEL, tunnel="--tun-type gue --tun-port 6080")
    trace = tracer(replace(WEB, servers=(gue,))).trace(Request("web-0", "10.96.100.1:80"))
    assert trace.verdict.value == "unknown"
    assert "IPVS --tun-type gue --tun-port 6080 to real server" in (trace.branches[0].reason or "")


def test_a_branch_names_the_real_server_that_was_chosen() -> None:
    trace = tracer(WEB).trace(Request("web-0", "10.96.100.1:80"))
    assert [branch.choices for branch in trace.branches] == [
        (f"IPVS 10.96.100.1:80/tcp on node-1: {server.ip}:9000",) for server in API
    ]
    assumed = "IPVS on node-1, 10.96.100.1:80/tcp (rr): whose turn it is is not known: each real server is as likely"
    assert assumed in trace.assumptions


def test_a_ping_to_a_virtual_address_is_answered_by_the_node() -> None:
    trace = tracer(WEB).trace(Request("web-0", "10.96.100.1", protocol="icmp"))
    assert (trace.verdict.value, trace.branches[0].endpoint_name) == ("delivered", "kernel of node-1")


@pytest.mark.parametrize(("arp_ignore", "answers"), [(0, 3), (1, 0)])
def test_who_answers_arp_for_an_address_on_kube_ipvs0(arp_ignore: int, answers: int) -> None:
    """kube-proxy's strictARP: with arp_ignore 1 nobody speaks for an address that is not the asked device's own."""
    made = tracer(WEB)
    dummy = Device("kube-ipvs0", DeviceKind.DUMMY, 90, up=False, addresses=(Address(ip("192.168.50.200"), 32),))
    spaces = dict(made.network.namespaces)
    for name in ("node-1", "node-2", "node-3"):
        node = spaces[name]
        settings = {**node.sysctls, "ipv4.conf.all.arp_ignore": arp_ignore}
        spaces[name] = replace(node, devices={**node.devices, "kube-ipvs0": dummy}, sysctls=settings, rulesets={}, cache={})
    made.network = replace(made.network, namespaces=spaces)
    trace = made.trace(Request("203.0.113.7", "192.168.50.200", protocol="icmp"))
    owners = {branch.endpoint_name for branch in trace.branches if branch.endpoint_name}
    assert len(owners) == answers


# -- the match ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("words", "expected"), [("--ipvs", True), ("! --ipvs", False), ("--vport 80", False)])
def test_the_match_asks_whether_ipvs_has_seen_the_packet(words: str, expected: bool) -> None:
    rules = iptables_save.parse(f"*filter\n:INPUT ACCEPT [0:0]\n-A INPUT -m ipvs {words}\nCOMMIT\n", family=4, file="t")
    rule = rules.tables[0].chains["INPUT"].rules[0]
    packet = Packet(CLIENT, VIP, TCP, 40000, 80, tcp_flags=SYN)
    netns = Netns("n", NetnsKind.NODE)
    assert rule_holds(rule, View(packet, Hook.INPUT, netns, ipvs=True)) is expected
    assert rule_holds(rule, View(packet, Hook.INPUT, netns)) is (words == "! --ipvs")


@pytest.mark.parametrize(("mode", "verdict"), [("iptables", "delivered"), ("ipvs", "unknown")])
def test_a_node_whose_address_is_an_external_ip_is_no_tunnel_end_to_the_others(mode: str, verdict: str) -> None:
    """In IPVS mode every node has it on kube-ipvs0, and VXLAN's packets to it come back (encap_bypass_if_local)."""
    text = (ROOT / "topologies/flannel-vxlan.yaml").read_text()
    text = text.replace("  clusterIP: 10.96.0.80\n", '  clusterIP: 10.96.0.80\n  externalIPs: ["192.168.50.12"]\n')
    made = Tracer(load(["-"], io.StringIO(text), Overrides(proxy_mode=mode)))
    trace = made.trace(Request("web-0", "api-1:9000"))
    assert trace.verdict.value == verdict
    reason = "flannel.1 to 192.168.50.12, which is an address of this host's own: the packet comes back unwrapped (on node-1)"
    assert [branch.reason for branch in trace.branches] == [reason if verdict == "unknown" else None]


@pytest.mark.parametrize(("mode", "verdict"), [("iptables", "delivered"), ("ipvs", "rejected")])
def test_who_has_the_askers_own_address_does_not_answer_its_arp(mode: str, verdict: str) -> None:
    """arp.c arp_process routes the question like a packet: from an address of its own it is a martian (seed 20101)."""
    text = (ROOT / "topologies/flannel-vxlan.yaml").read_text()
    text = text.replace("  clusterIP: 10.96.0.80\n", '  clusterIP: 10.96.0.80\n  externalIPs: ["192.168.50.11"]\n')
    made = Tracer(load(["-"], io.StringIO(text), Overrides(proxy_mode=mode)))
    trace = made.trace(Request("node/node-1", "192.168.50.13:9100"))
    assert trace.verdict.value == verdict
    assert (trace.branches[0].reason or "").startswith("nobody on" if verdict == "rejected" else "")
