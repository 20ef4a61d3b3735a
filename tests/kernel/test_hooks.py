"""Matches at the other hooks, asked of netlab and of Linux: a bridge's packets, what the router itself sends and receives."""

from __future__ import annotations

import os
import time
from functools import partial

import msgspec
import pytest
from matching import Traffic, compare, router_netns
from namespaces import ETH0_MAC, ETH1_MAC, RECEIVER_MAC, SENDER_MAC, TOOLS, CommandError, Namespaces, missing
from scapy.config import conf

conf.route_autoload = conf.route6_autoload = False
from scapy.layers.inet import IP, UDP  # noqa: E402
from scapy.layers.l2 import Ether  # noqa: E402

from netlab.linux.addr import ip  # noqa: E402
from netlab.linux.conntrack import Connection, CtState, CtView  # noqa: E402
from netlab.linux.netns import Address, Device, DeviceKind  # noqa: E402
from netlab.linux.packet import Packet  # noqa: E402
from netlab.linux.rules import Hook  # noqa: E402
from netlab.match.view import View  # noqa: E402

VARIANTS = pytest.mark.parametrize("variant", ["legacy", "nft"])

BRIDGE_MAC = "02:00:00:00:03:01"

PHYSDEV = """
-i br0
-i p0
-m physdev --physdev-in p0
-m physdev ! --physdev-in p0
-m physdev --physdev-in p+
-m physdev --physdev-in p1
-m physdev ! --physdev-in p1
-m physdev --physdev-is-in
-m physdev ! --physdev-is-in
-m physdev --physdev-is-out
-m physdev ! --physdev-is-out
-m physdev --physdev-is-bridged
-m physdev ! --physdev-is-bridged
-m physdev --physdev-in p0 --physdev-is-in
-m physdev --physdev-in p0 ! --physdev-is-bridged
-m mac --mac-source 02:00:00:00:01:02
-m pkttype --pkt-type unicast
"""

PHYSDEV_OUT = """
-o br0
-o p1
-o eth1
-m physdev --physdev-out p1
-m physdev ! --physdev-out p1
-m physdev --physdev-out p0
-m physdev ! --physdev-out p0
-m physdev --physdev-in p0 --physdev-out p1
-m physdev --physdev-out p1 --physdev-is-bridged
"""

# The router answers what nobody listens for; those answers stay out of the count
QUIET = "*raw\n-A OUTPUT -p icmp -j DROP\nCOMMIT\n"


def new(packet: Packet) -> CtView:
    return CtView(CtState.NEW, Connection(packet.flow, packet.flow.reversed()))


@VARIANTS
def test_packets_that_came_through_a_bridge_know_their_ports(router_lab: Namespaces, variant: str) -> None:
    """The port that a packet came in through stays known where it is routed on (nf_bridge is kept), and there is no port out.

    sender s9 (port p0) --- br0 --- (port p1) r9 receiver;  eth1 leads elsewhere
    """
    lab = router_lab
    lab.batch(
        "router",
        f"""
        link add br0 address {BRIDGE_MAC} type bridge
        link add p0 type veth peer name s9 address {SENDER_MAC} netns sender
        link add p1 type veth peer name r9 address {RECEIVER_MAC} netns receiver
        link set p0 master br0
        link set p1 master br0
        link set br0 addrgenmode none
        link set p0 addrgenmode none
        link set p1 addrgenmode none
        link set br0 up
        link set p0 up
        link set p1 up
        addr add 10.3.0.1/24 dev br0
        """,
    )
    lab.batch("sender", "link set s9 up")
    lab.batch("receiver", "link set r9 up")
    lab.wait_for_carriers("sender", "router", "receiver")
    try:
        lab.sysctl("router", {"bridge.bridge-nf-call-iptables": 1})
    except CommandError as error:
        pytest.fail(f"the kernel module br_netfilter is missing: {error}", pytrace=False)
    lab.run("router", "bridge", "fdb", "add", RECEIVER_MAC, "dev", "p1", "master", "static")

    bridge = Device("br0", DeviceKind.BRIDGE, 4, BRIDGE_MAC, addresses=(Address(ip("10.3.0.1"), 24),))
    netns = router_netns(extra=[bridge])

    def frame(dst: str, dmac: str, sport: int) -> bytes:
        return bytes(Ether(src=SENDER_MAC, dst=dmac) / IP(src="10.3.0.2", dst=dst) / UDP(sport=sport, dport=9))

    def packet(dst: str, dmac: str, sport: int, ttl: int = 64) -> Packet:
        return Packet(ip("10.3.0.2"), ip(dst), 17, sport, 9, length=28, ttl=ttl, src_mac=SENDER_MAC, dst_mac=dmac)

    bridged = packet("10.3.0.3", RECEIVER_MAC, 1)
    routed = packet("10.2.0.2", BRIDGE_MAC, 2)
    hop = msgspec.structs.replace(routed, ttl=63)
    traffic: list[Traffic] = [
        (
            "bridged",
            partial(lab.send, "sender", "s9", frame("10.3.0.3", RECEIVER_MAC, 1)),
            [
                View(bridged, Hook.PREROUTING, netns, "br0", physin="p0", ct=new(bridged)),
                View(bridged, Hook.FORWARD, netns, "br0", "br0", physin="p0", physout="p1", ct=new(bridged)),
            ],
        ),
        (
            "routed",
            partial(lab.send, "sender", "s9", frame("10.2.0.2", BRIDGE_MAC, 2)),
            [
                View(routed, Hook.PREROUTING, netns, "br0", physin="p0", ct=new(routed)),
                View(hop, Hook.FORWARD, netns, "br0", "eth1", physin="p0", ct=new(hop)),
            ],
        ),
    ]
    texts = {Hook.PREROUTING: PHYSDEV, Hook.FORWARD: PHYSDEV + PHYSDEV_OUT}
    assert compare(lab, variant, 4, texts, traffic) == 86


OWN = """
-i eth1
! -i eth1
-i +
-o eth1
! -o eth1
-o lo
-m addrtype --src-type LOCAL
-m addrtype --dst-type LOCAL
-m addrtype --src-type LOCAL --limit-iface-out
-m addrtype --dst-type LOCAL --limit-iface-out
-m pkttype --pkt-type unicast
-m pkttype ! --pkt-type unicast
-m owner --socket-exists
-m owner ! --socket-exists
-m physdev --physdev-is-in
-m physdev ! --physdev-is-in
-m conntrack --ctstate NEW
-m conntrack --ctstatus CONFIRMED
-m ttl --ttl-eq 64
-m set --match-set macs src,src
-m set ! --match-set macs src,src
-m set --match-set faces src,src
-m set --match-set faces dst,dst
"""
UID = """
-m owner --uid-owner 0
-m owner ! --uid-owner 0
-m owner --gid-owner 0-100
-m owner ! --uid-owner 0 ! --gid-owner 0
-m owner ! --socket-exists ! --uid-owner 0
-m owner --socket-exists ! --uid-owner 0
"""
OWN_SETS = """
create macs bitmap:ip,mac range 10.2.0.0/24
add macs 10.2.0.1
create faces hash:net,iface
add faces 10.2.0.0/24,eth1
add faces 127.0.0.0/8,lo
"""


@VARIANTS
def test_packets_made_here(router_lab: Namespaces, variant: str) -> None:
    """OUTPUT has no input device; a socket of the router stands behind the packet. Forwarded packets have none at POSTROUTING."""
    lab = router_lab
    netns = router_netns(sets=OWN_SETS)

    def says(dst: str, port: int) -> partial[str]:
        return partial(lab.run, "router", "bash", "-c", f"echo -n hello > /dev/udp/{dst}/{port}")

    far = Packet(ip("10.2.0.1"), ip("10.2.0.2"), 17, 40000, 9, length=33)
    near = Packet(ip("127.0.0.1"), ip("127.0.0.1"), 17, 40000, 9, length=33)
    traffic: list[Traffic] = [
        (
            name,
            says(str(packet.dst), 9),
            [View(packet, hook, netns, outdev=dev, ct=new(packet), local=True) for hook in (Hook.OUTPUT, Hook.POSTROUTING)],
        )
        for name, packet, dev in (("to eth1", far, "eth1"), ("to itself", near, "lo"))
    ]
    assert compare(lab, variant, 4, {Hook.OUTPUT: OWN, Hook.POSTROUTING: OWN}, traffic, sets=OWN_SETS, before=QUIET) == 92


@VARIANTS
def test_forwarded_packets_have_no_owner(router_lab: Namespaces, variant: str) -> None:
    lab = router_lab
    packet = Packet(ip("10.1.0.2"), ip("10.2.0.2"), 17, 1, 9, length=28, ttl=63, src_mac=SENDER_MAC, dst_mac=ETH0_MAC)
    frame = bytes(Ether(src=SENDER_MAC, dst=ETH0_MAC) / IP(src="10.1.0.2", dst="10.2.0.2") / UDP(sport=1, dport=9))
    view = View(packet, Hook.POSTROUTING, router_netns(), outdev="eth1", ct=new(packet))
    traffic: list[Traffic] = [("forwarded", partial(lab.send, "sender", "s0", frame), [view])]
    rows = UID + "-m owner --socket-exists\n-m owner ! --socket-exists\n-o eth1\n! -o eth1\n-m pkttype --pkt-type unicast\n"
    assert compare(lab, variant, 4, {Hook.POSTROUTING: rows}, traffic) == 11


INTO = """
-i eth0
-i lo
! -i lo
-o eth0
! -o eth0
-m mac --mac-source 02:00:00:00:01:02
-m mac ! --mac-source 02:00:00:00:01:02
-m addrtype --dst-type LOCAL
-m addrtype --dst-type LOCAL --limit-iface-in
-m addrtype ! --dst-type LOCAL --limit-iface-in
-m addrtype --src-type LOCAL
-m addrtype --src-type LOCAL --limit-iface-in
-m pkttype --pkt-type unicast
-m pkttype --pkt-type broadcast
-m pkttype --pkt-type multicast
"""


@VARIANTS
def test_packets_for_the_router(router_lab: Namespaces, variant: str) -> None:
    """INPUT; loopback has no MAC, so that not even `! --mac-source` holds there, and rpfilter lets it pass."""
    lab = router_lab
    netns = router_netns()
    traffic: list[Traffic] = []
    for name, dst, dmac in (
        ("to its near address", "10.1.0.1", ETH0_MAC),
        ("to its far address", "10.2.0.1", ETH0_MAC),
        ("to the broadcast address", "10.1.0.255", "ff:ff:ff:ff:ff:ff"),
    ):
        packet = Packet(ip("10.1.0.2"), ip(dst), 17, 1, 9, length=28, src_mac=SENDER_MAC, dst_mac=dmac)
        frame = bytes(Ether(src=SENDER_MAC, dst=dmac) / IP(src="10.1.0.2", dst=dst) / UDP(sport=1, dport=9))
        views = [View(packet, hook, netns, "eth0", ct=new(packet)) for hook in (Hook.PREROUTING, Hook.INPUT)]
        traffic.append((name, partial(lab.send, "sender", "s0", frame), views))
    own = Packet(ip("127.0.0.1"), ip("127.0.0.1"), 17, 40000, 9, length=33)
    views = [View(own, hook, netns, "lo", ct=new(own)) for hook in (Hook.PREROUTING, Hook.INPUT)]
    say = partial(lab.run, "router", "bash", "-c", "exec 3<>/dev/udp/127.0.0.1/9; echo -n hello >&3")
    traffic.append(("from itself", say, views))
    texts = {Hook.PREROUTING: INTO + "-m rpfilter\n-m rpfilter --invert\n", Hook.INPUT: INTO}
    assert compare(lab, variant, 4, texts, traffic, before=QUIET) == 128


def test_a_recent_list_has_the_mask_of_its_first_rule(router_lab: Namespaces) -> None:
    """Rules that name one list with different masks: netlab leaves them undecided, this is why."""
    lab = router_lab
    lab.load(
        "router",
        "*mangle\n:ROWS - [0:0]\n-A PREROUTING -j ROWS\n"
        "-A ROWS -m recent --set --name nets --mask 255.255.255.0 --rdest\n"
        "-A ROWS -m recent --rcheck --name nets --mask 255.255.255.255 --rdest\nCOMMIT\n",
        "legacy",
    )
    lab.send("sender", "s0", bytes(Ether(src=SENDER_MAC, dst=ETH0_MAC) / IP(src="10.1.0.2", dst="10.2.0.2") / UDP()))
    met = [0, 0]
    for _ in range(100):  # a frame put on the wire is not yet through the router where the machine is busy
        met = lab.counters("router", "mangle", "ROWS", "legacy")
        if any(met):
            break
        time.sleep(0.02)
    assert met == [1, 1]


def test_nothing_outlives_the_helper(namespaces: Namespaces) -> None:
    namespaces.add("one", "two")
    namespaces.batch("one", f"link add left address {ETH1_MAC} type veth peer name right netns two")
    assert namespaces.run("two", "ip", "-br", "link", "show", "right").startswith("right")
    pid = namespaces.process.pid
    namespaces.close()
    assert namespaces.process.returncode == 0
    with pytest.raises(ProcessLookupError):
        os.kill(pid, 0)


def test_what_is_missing_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(TOOLS, "no-such-tool", "no-such-package")
    assert missing() == "kernel tests need: apt-get install no-such-package"
