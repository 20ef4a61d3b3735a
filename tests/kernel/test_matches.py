"""Every match, asked of netlab and of Linux about the same packets: one counting rule per row, one packet, hundreds of answers.

    sender s0 ---- eth0 router eth1 ---- r0 receiver        rows stand in mangle PREROUTING and in filter FORWARD of router

Law: the kernel is right. What netlab answers is True or False for every row here (no row is left undecided).
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import partial

import msgspec
import pytest
from matching import Traffic, compare, router_netns
from namespaces import ETH0_MAC, ETH1_MAC, RECEIVER_MAC, SENDER_MAC, Namespaces, router
from scapy.config import conf

conf.route_autoload = conf.route6_autoload = False
from scapy.layers.inet import ICMP, IP, TCP, UDP  # noqa: E402
from scapy.layers.inet6 import (  # noqa: E402
    ICMPv6DestUnreach,
    ICMPv6EchoReply,
    ICMPv6EchoRequest,
    ICMPv6ND_NS,
    ICMPv6PacketTooBig,
    IPv6,
)
from scapy.layers.l2 import Ether  # noqa: E402
from scapy.layers.sctp import SCTP, SCTPChunkInit  # noqa: E402
from scapy.packet import Packet as Frame  # noqa: E402
from scapy.packet import Raw  # noqa: E402

from netlab.linux.addr import Ip, ip  # noqa: E402
from netlab.linux.conntrack import Connection, CtState, CtView  # noqa: E402
from netlab.linux.netns import Netns  # noqa: E402
from netlab.linux.packet import Flow, Packet  # noqa: E402
from netlab.linux.route import lookup  # noqa: E402
from netlab.linux.rules import Hook  # noqa: E402
from netlab.match.view import View  # noqa: E402

NEW, ESTABLISHED, RELATED = CtState.NEW, CtState.ESTABLISHED, CtState.RELATED
INVALID, UNTRACKED = CtView(CtState.INVALID), CtView(CtState.UNTRACKED)

SETS = """
create h-ip hash:ip family inet
add h-ip 10.1.0.2
add h-ip 10.2.0.2
create h-ip24 hash:ip family inet netmask 24
add h-ip24 10.1.0.0
create h-net hash:net family inet
add h-net 10.1.0.0/24
add h-net 10.1.0.2 nomatch
add h-net 10.2.0.0/30 nomatch
add h-net 10.2.0.2
add h-net 172.16.0.0/12
create h-ipport hash:ip,port family inet
add h-ipport 10.2.0.2,tcp:80
add h-ipport 10.2.0.2,udp:53
add h-ipport 10.2.0.2,sctp:9000
add h-ipport 10.1.0.2,tcp:40000
add h-ipport 10.2.0.2,icmp:echo-request
add h-ipport 10.1.0.2,icmp:0/0
add h-ipport 10.2.0.2,47:0
create h-ipportip hash:ip,port,ip family inet
add h-ipportip 10.2.0.2,tcp:80,10.1.0.2
add h-ipportip 10.2.0.2,tcp:8080,10.1.0.20
add h-ipportip 10.1.0.2,udp:5353,10.1.0.2
create h-ipportnet hash:ip,port,net family inet
add h-ipportnet 10.2.0.2,tcp:80,10.1.0.0/24
add h-ipportnet 10.2.0.2,tcp:443,10.0.0.0/8
add h-ipportnet 10.2.0.2,tcp:443,10.1.0.0/28 nomatch
create h-netport hash:net,port family inet
add h-netport 10.2.0.0/16,tcp:80
add h-netport 10.2.0.0/24,tcp:443
add h-netport 10.2.0.2/32,tcp:443 nomatch
add h-netport 10.0.0.0/8,udp:2-60
create h-netiface hash:net,iface family inet
add h-netiface 10.1.0.0/24,eth0
add h-netiface 10.1.0.0/28,eth1
add h-netiface 10.2.0.0/24,eth1
add h-netiface 0.0.0.0/0,eth0 nomatch
create h-faces hash:net,iface family inet
add h-faces 10.1.0.0/24,et wildcard
add h-faces 10.2.0.0/24,eth0 wildcard
add h-faces 10.2.0.0/24,r wildcard
add h-faces 172.16.0.0/12,eth0 wildcard nomatch
create b-ip bitmap:ip range 10.1.0.0-10.1.0.255
add b-ip 10.1.0.0-10.1.0.15
create b-port bitmap:port range 0-65535
add b-port 80
add b-port 8000-9000
create b-ipmac bitmap:ip,mac range 10.1.0.0-10.1.0.255
add b-ipmac 10.1.0.2,02:00:00:00:01:02
add b-ipmac 10.1.0.3,02:00:00:00:0a:0a
add b-ipmac 10.1.0.4
create list list:set size 8
add list h-ipport
add list h-net
create list-narrow list:set size 8
add list-narrow h-ipportip
create six hash:ip family inet6
add six fd00:1::2
create six-net hash:net family inet6
add six-net fd00:1::/64
add six-net fd00:1::/126 nomatch
create six-port hash:ip,port family inet6
add six-port fd00:2::2,tcp:80
add six-port fd00:2::2,icmpv6:128/0
"""

# What stands before the rows: marks, NAT and exemptions from tracking, each bound to an address
BEFORE4 = """
*raw
-A PREROUTING -s 10.1.0.30 -j CT --notrack
COMMIT
*nat
-A PREROUTING -d 10.9.9.9 -p tcp -j DNAT --to-destination 10.2.0.2:8080
-A POSTROUTING -s 10.1.0.33 -j SNAT --to-source 10.2.0.1
COMMIT
"""
MARKS4 = """*mangle
-A PREROUTING -s 10.1.0.31 -j MARK --set-mark 0x4005
-A PREROUTING -s 10.1.0.32 -j CONNMARK --set-mark 0x21
COMMIT
"""
BEFORE6 = """
*raw
-A PREROUTING -s fd00:1::30 -j CT --notrack
COMMIT
"""
MARKS6 = """*mangle
-A PREROUTING -s fd00:1::31 -j MARK --set-mark 0x4005
COMMIT
"""

ROWS4 = """
-s 10.1.0.2/32
! -s 10.1.0.2/32
-s 10.1.0.0/24
-s 10.1.0.0/28
-s 10.0.0.2/255.0.0.255
! -s 10.0.0.2/255.0.0.255
-s 0.0.0.0/0.0.0.1
-d 10.2.0.2/32
! -d 10.2.0.0/24
-d 224.0.0.0/4
-i eth0
! -i eth0
-i eth+
-i eth
-i +
-i lo
! -i e+
-p tcp
! -p tcp
-p udp
-p icmp
-p sctp
-p gre
-p 200
! -f
-f
-m comment --comment "never refuses"
-p tcp -m tcp --dport 80
-p tcp -m tcp ! --dport 80
-p tcp -m tcp --dport 79:80
-p tcp -m tcp --dport 81:65535
-p tcp -m tcp --dport 0:79
-p tcp -m tcp --sport 40000
-p tcp -m tcp --sport 40001:65535
-p tcp -m tcp ! --sport 0:1023
-p tcp -m tcp --sport 1023 --dport 443
-p tcp -m tcp --tcp-flags FIN,SYN,RST,ACK SYN
-p tcp -m tcp ! --tcp-flags FIN,SYN,RST,ACK SYN
-p tcp -m tcp --tcp-flags SYN,ACK SYN,ACK
-p tcp -m tcp --tcp-flags ACK ACK
-p tcp -m tcp --tcp-flags FIN,SYN,RST,PSH,ACK,URG NONE
-p tcp -m tcp --tcp-flags FIN,SYN,RST,PSH,ACK,URG FIN,PSH,URG
-p tcp -m tcp ! --tcp-flags FIN FIN
-p udp -m udp --dport 53
-p udp -m udp ! --dport 53
-p udp -m udp --sport 5353
-p udp -m udp --sport 0:5353
-p udp -m udp --dport 0
-p udp -m udp --dport 65535
-p udp -m udp ! --sport 0:5352 ! --dport 54:65535
-p sctp -m sctp --dport 9000
-p sctp -m sctp ! --dport 9000
-p sctp -m sctp --sport 1:5000
-p icmp -m icmp --icmp-type any
-p icmp -m icmp --icmp-type 8
-p icmp -m icmp ! --icmp-type 8
-p icmp -m icmp --icmp-type 0
-p icmp -m icmp --icmp-type 3
-p icmp -m icmp --icmp-type 3/3
-p icmp -m icmp --icmp-type 3/1
-p icmp -m icmp ! --icmp-type 3/3
-p icmp -m icmp --icmp-type 13
-p tcp -m multiport --dports 79,80,81
-p tcp -m multiport ! --dports 79,80,81
-p tcp -m multiport --dports 1:79,443
-p tcp -m multiport --sports 1023,40000:40002
-p tcp -m multiport ! --sports 1023
-p tcp -m multiport --ports 443,40000
-p tcp -m multiport ! --ports 443,40000
-p udp -m multiport --ports 53
-p sctp -m multiport --dports 9000:9001
-m mark --mark 0x4005
-m mark --mark 0x4000/0x4000
-m mark --mark 0x0/0x4000
-m mark ! --mark 0x4000/0x4000
-m mark --mark 0x5/0x1
-m mark ! --mark 0x0
-m connmark --mark 0x21
-m connmark --mark 0x1/0x1
-m connmark --mark 0x0
-m connmark ! --mark 0x21
-m connmark ! --mark 0x0
-m conntrack --ctstate NEW
-m conntrack --ctstate ESTABLISHED
-m conntrack --ctstate RELATED,ESTABLISHED
-m conntrack --ctstate RELATED
-m conntrack --ctstate INVALID
-m conntrack --ctstate UNTRACKED
-m conntrack --ctstate INVALID,UNTRACKED
-m conntrack --ctstate SNAT
-m conntrack --ctstate DNAT
-m conntrack --ctstate NEW,DNAT
-m conntrack ! --ctstate SNAT,DNAT
-m conntrack ! --ctstate NEW
-m conntrack ! --ctstate INVALID
-m conntrack ! --ctstate INVALID,UNTRACKED
-m conntrack ! --ctstate DNAT
-m conntrack --ctproto 6
-m conntrack ! --ctproto 6
-m conntrack --ctstate NEW --ctproto 17
-m conntrack --ctstate INVALID --ctproto 6
-m conntrack --ctstate INVALID,NEW --ctorigsrc 10.1.0.2/32
-m conntrack --ctorigsrc 10.1.0.2/32
-m conntrack ! --ctorigsrc 10.1.0.2/32
-m conntrack --ctorigdst 10.9.9.9/32
-m conntrack ! --ctorigdst 10.9.9.9/32
-m conntrack --ctreplsrc 10.2.0.2/32
-m conntrack --ctreplsrc 10.2.0.0/24
-m conntrack ! --ctreplsrc 10.2.0.2/32
-m conntrack --ctrepldst 10.2.0.1/32
-m conntrack --ctrepldst 10.1.0.0/24
-m conntrack --ctorigsrcport 40000
-m conntrack --ctorigsrcport 1000:40000
-m conntrack ! --ctorigsrcport 40000
-m conntrack --ctorigdstport 80
-m conntrack --ctorigdstport 2048
-m conntrack ! --ctorigdstport 80
-m conntrack --ctreplsrcport 8080
-m conntrack --ctreplsrcport 80
-m conntrack --ctrepldstport 40000
-m conntrack --ctrepldstport 0
-m conntrack --ctstatus NONE
-m conntrack ! --ctstatus NONE
-m conntrack --ctstatus CONFIRMED
-m conntrack ! --ctstatus CONFIRMED
-m conntrack --ctstatus SEEN_REPLY
-m conntrack --ctstatus ASSURED
-m conntrack --ctstatus EXPECTED
-m conntrack --ctstatus SEEN_REPLY,ASSURED
-m conntrack --ctdir ORIGINAL
-m conntrack --ctdir REPLY
-m conntrack --ctstate ESTABLISHED --ctdir REPLY
-m state --state NEW
-m state --state INVALID
-m state --state UNTRACKED
-m state --state RELATED,ESTABLISHED
-m state ! --state NEW
-m addrtype --src-type LOCAL
-m addrtype ! --src-type LOCAL
-m addrtype --src-type UNICAST
-m addrtype --dst-type LOCAL
-m addrtype ! --dst-type LOCAL
-m addrtype --dst-type UNICAST
-m addrtype --dst-type BROADCAST
-m addrtype --dst-type MULTICAST
-m addrtype --dst-type UNICAST,BROADCAST
-m addrtype --src-type BROADCAST
-m addrtype --dst-type BLACKHOLE
-m addrtype --dst-type UNREACHABLE
-m addrtype --dst-type PROHIBIT
-m addrtype --dst-type THROW
-m addrtype --src-type UNICAST --dst-type LOCAL
-m addrtype --dst-type LOCAL --limit-iface-in
-m addrtype --dst-type BROADCAST --limit-iface-in
-m addrtype ! --dst-type LOCAL --limit-iface-in
-m iprange --src-range 10.1.0.2-10.1.0.20
-m iprange --src-range 10.1.0.3-10.1.0.20
-m iprange --src-range 10.1.0.1-10.1.0.2
-m iprange ! --src-range 10.1.0.2-10.1.0.20
-m iprange --dst-range 10.2.0.0-10.2.0.255
-m iprange ! --dst-range 10.2.0.2-10.2.0.2
-m iprange --src-range 10.1.0.0-10.1.0.255 ! --dst-range 10.2.0.0-10.2.0.255
-m ttl --ttl-eq 64
-m ttl --ttl-eq 63
-m ttl ! --ttl-eq 64
-m ttl --ttl-lt 3
-m ttl --ttl-lt 2
-m ttl --ttl-gt 200
-m ttl --ttl-gt 63
-m length --length 40
-m length --length 0:40
-m length --length 41:65535
-m length --length 1000
-m length --length 999:1001
-m length ! --length 1000
-m mac --mac-source 02:00:00:00:01:02
-m mac ! --mac-source 02:00:00:00:01:02
-m mac --mac-source 02:00:00:00:0a:0a
-m pkttype --pkt-type unicast
-m pkttype --pkt-type broadcast
-m pkttype --pkt-type multicast
-m pkttype ! --pkt-type unicast
-m physdev --physdev-in eth0
-m physdev ! --physdev-in eth0
-m physdev --physdev-is-in
-m physdev ! --physdev-is-in
-m physdev --physdev-is-bridged
-m physdev ! --physdev-is-bridged
-m statistic --mode random --probability 1.00000000000
-m statistic --mode random --probability 0.00000000000
-m statistic --mode random ! --probability 0.00000000000
-m statistic --mode nth --every 1 --packet 0
-m recent --rcheck --name seen --mask 255.255.255.255 --rsource
-m recent ! --rcheck --name seen --mask 255.255.255.255 --rsource
-s 10.1.0.2/32 -m recent --set --name seen --mask 255.255.255.255 --rsource
-m recent --update --seconds 600 --name seen --mask 255.255.255.255 --rsource
-m recent --rcheck --seconds 600 --reap --hitcount 1 --name seen --mask 255.255.255.255 --rdest
-p udp -m recent --set --name nets --mask 255.255.255.0 --rdest
-m recent --rcheck --name nets --mask 255.255.255.0 --rdest
-p icmp -m recent --remove --name nets --mask 255.255.255.0 --rdest
-m recent --rcheck --hitcount 2 --name empty --mask 255.255.255.255 --rsource
-m set --match-set h-ip src
-m set --match-set h-ip dst
-m set ! --match-set h-ip src
-m set --match-set h-ip24 src
-m set --match-set h-net src
-m set --match-set h-net dst
-m set ! --match-set h-net dst
-m set --match-set h-net src --return-nomatch
-m set ! --match-set h-net src --return-nomatch
-m set --match-set h-net dst --return-nomatch
-m set --match-set h-ip src --return-nomatch
-m set --match-set h-ipport dst,dst
-m set --match-set h-ipport src,src
-m set ! --match-set h-ipport dst,dst
-m set --match-set h-ipport dst,src
-m set --match-set h-ipportip dst,dst,src
-m set --match-set h-ipportip src,src,src
-m set --match-set h-ipportnet dst,dst,src
-m set --match-set h-ipportnet dst,dst,src --return-nomatch
-m set --match-set h-netport dst,dst
-m set --match-set h-netport src,dst
-m set --match-set h-netiface src,src
-m set ! --match-set h-netiface src,src
-m set --match-set h-netiface dst,dst
-m set --match-set h-faces src,src
-m set --match-set h-faces dst,src
-m set --match-set h-faces src,src --return-nomatch
-m set --match-set b-ip src
-m set --match-set b-ip dst
-m set --match-set b-port dst
-m set --match-set b-port src
-m set --match-set b-ipmac src,src
-m set ! --match-set b-ipmac src,src
-m set --match-set list src,src
-m set --match-set list dst,dst
-m set --match-set list dst
-m set ! --match-set list dst,dst
-m set --match-set list-narrow dst,dst
-m set --match-set list-narrow dst,dst,src
-m set --match-set h-ip src ! --update-counters
"""

PREROUTING4 = """
-m rpfilter
-m rpfilter --invert
-m rpfilter --loose
-m rpfilter --loose --invert
-m rpfilter --accept-local
-m rpfilter --loose --accept-local
-m rpfilter --validmark
"""

FORWARD4 = """
-o eth1
! -o eth1
-o eth+
-o lo
-i eth0 -o eth1
-m addrtype --src-type LOCAL --limit-iface-out
-m physdev --physdev-out eth1
-m physdev ! --physdev-out eth1
-m set --match-set h-netiface src,dst
-m set --match-set h-netiface dst,src
"""

ROWS6 = """
-s fd00:1::2/128
! -s fd00:1::2/128
-s fd00:1::/64
-s fd00::2/ffff:0:0:0:0:0:0:ffff
! -d fd00:2::/64
-i eth0
! -i eth+
-p tcp
! -p tcp
-p ipv6-icmp
-p tcp -m tcp --dport 80
-p tcp -m tcp ! --dport 80
-p tcp -m tcp --tcp-flags FIN,SYN,RST,ACK SYN
-p udp -m udp --dport 53
-p udp -m multiport --dports 50:53
-p ipv6-icmp -m icmp6 --icmpv6-type 128
-p ipv6-icmp -m icmp6 ! --icmpv6-type 128
-p ipv6-icmp -m icmp6 --icmpv6-type 129
-p ipv6-icmp -m icmp6 --icmpv6-type 1
-p ipv6-icmp -m icmp6 --icmpv6-type 1/4
-p ipv6-icmp -m icmp6 --icmpv6-type 1/0
-p ipv6-icmp -m icmp6 --icmpv6-type 2
-p ipv6-icmp -m icmp6 --icmpv6-type 135
-m mark --mark 0x4005
-m mark ! --mark 0x4005
-m connmark --mark 0x0
-m connmark ! --mark 0x1
-m conntrack --ctstate NEW
-m conntrack --ctstate ESTABLISHED
-m conntrack --ctstate RELATED
-m conntrack --ctstate INVALID
-m conntrack --ctstate UNTRACKED
-m conntrack ! --ctstate UNTRACKED
-m conntrack --ctorigsrc fd00:1::2/128
-m conntrack ! --ctreplsrc fd00:2::/64
-m conntrack --ctproto 58
-m conntrack --ctorigdstport 32768
-m addrtype --dst-type LOCAL
-m addrtype ! --dst-type LOCAL
-m addrtype --src-type LOCAL
-m addrtype --dst-type UNICAST
-m addrtype ! --dst-type UNICAST
-m addrtype --dst-type MULTICAST
-m addrtype --dst-type ANYCAST
-m addrtype --dst-type UNREACHABLE
-m addrtype --dst-type UNICAST,LOCAL
-m addrtype --dst-type UNICAST,MULTICAST
-m addrtype --dst-type LOCAL,ANYCAST
-m addrtype --dst-type LOCAL,UNREACHABLE
-m addrtype --dst-type UNSPEC
-m addrtype --src-type UNICAST --dst-type LOCAL
-m addrtype --dst-type LOCAL --limit-iface-in
-m addrtype ! --dst-type LOCAL --limit-iface-in
-m addrtype --dst-type UNREACHABLE --limit-iface-in
-m iprange --src-range fd00:1::2-fd00:1::20
-m iprange ! --dst-range fd00:2::3-fd00:2::ffff
-m hl --hl-eq 64
-m hl ! --hl-eq 64
-m hl --hl-lt 64
-m hl --hl-gt 63
-m length --length 60
-m length --length 0:59
-m length --length 61:65535
-m length ! --length 60
-m mac --mac-source 02:00:00:00:01:02
-m mac ! --mac-source 02:00:00:00:01:02
-m pkttype --pkt-type unicast
-m pkttype --pkt-type multicast
-m physdev ! --physdev-is-bridged
-s fd00:1::2/128 -m recent --set --name seen6 --mask ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff --rsource
-m recent --rcheck --name seen6 --mask ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff --rsource
-m set --match-set six src
-m set ! --match-set six src
-m set --match-set six-net src
-m set --match-set six-net src --return-nomatch
-m set --match-set six-port dst,dst
-m set --match-set six-port src,src
"""

PREROUTING6 = """
-m rpfilter
-m rpfilter --invert
-m rpfilter --loose
-m rpfilter --accept-local
-m rpfilter --loose --accept-local
"""

FORWARD6 = """
-o eth1
! -o eth1
-o eth+
"""


@dataclass(frozen=True)
class Sent:
    """A packet that arrives at the router, and what it is to conntrack there before and after destination NAT."""

    name: str
    wire: Frame
    before: CtView
    after: CtView
    from_receiver: bool = False
    smac: str = ""
    dmac: str = ""
    mark: int = 0
    nat: tuple[Ip, int] | None = None  # where DNAT, or un-NAT of a reply, sends it
    forwarded: bool = True

    @property
    def frame(self) -> bytes:
        smac, dmac = (RECEIVER_MAC, ETH1_MAC) if self.from_receiver else (SENDER_MAC, ETH0_MAC)
        return bytes(Ether(src=self.smac or smac, dst=self.dmac or dmac) / self.wire)

    @property
    def arriving(self) -> Packet:
        return msgspec.structs.replace(packet_of(Ether(self.frame)), mark=self.mark)


def packet_of(frame: Frame) -> Packet:
    """The netlab Packet of a scapy frame."""
    layer = frame.payload
    v4 = isinstance(layer, IP)
    top = layer.payload
    fields: dict[str, int] = {}
    if isinstance(top, TCP | UDP | SCTP):
        fields |= {"sport": top.sport, "dport": top.dport}
    if isinstance(top, TCP):
        fields |= {"tcp_flags": int(top.flags) & 0x3F}
    if layer.fields["proto" if v4 else "nh"] in (1, 58):
        fields |= {"icmp_type": top.type, "icmp_code": top.code, "icmp_id": getattr(top, "id", 0) or 0}
    return Packet(
        ip(layer.src),
        ip(layer.dst),
        layer.fields["proto" if v4 else "nh"],
        ttl=layer.ttl if v4 else layer.hlim,
        length=len(bytes(layer)),
        src_mac=frame.src,
        dst_mac=frame.dst,
        **fields,
    )


def first(name: str, wire: Frame, **options: object) -> Sent:
    """The first packet of a connection."""
    sent = Sent(name, wire, INVALID, INVALID, **options)  # type: ignore[arg-type]
    flow = sent.arriving.flow
    connection = Connection(flow, flow.reversed())
    return replace(sent, before=CtView(NEW, connection), after=CtView(NEW, connection))


def connection(of: Sent, **changes: object) -> Connection:
    """The connection that `of` began, confirmed, with these fields changed."""
    began = of.after.connection
    assert began is not None
    return Connection(**{f: getattr(began, f) for f in Connection.__struct_fields__} | {"confirmed": True} | changes)


def later(
    name: str,
    wire: Frame,
    known: Connection,
    state: CtState = ESTABLISHED,
    reply: bool = False,
    nat: tuple[Ip, int] | None = None,
) -> Sent:
    """A later packet of a connection; replies come from the receiver."""
    view = CtView(state, known, reply)
    return Sent(name, wire, view, view, from_receiver=reply, nat=nat)


def packets4() -> list[Sent]:
    a, b = "10.1.0.2", "10.2.0.2"
    to, back = IP(src=a, dst=b), IP(src=b, dst=a)
    web = first("SYN", to / TCP(sport=40000, dport=80, flags="S"))
    dns = first("DNS question", to / UDP(sport=5353, dport=53) / Raw(b"q" * 20))
    ping = first("ping", to / ICMP(type=8, id=7) / Raw(b"x" * 8))
    marked = first("connmarked", IP(src="10.1.0.32", dst=b) / UDP(sport=1, dport=2))
    marked = replace(marked, before=CtView(NEW, connection(marked, confirmed=False, mark=0x21)))
    marked = replace(marked, after=marked.before)
    dnat = first("SYN to a DNAT address", IP(src="10.1.0.20", dst="10.9.9.9") / TCP(sport=50000, dport=80, flags="S"))
    to_backend = Flow(6, ip(b), 8080, ip("10.1.0.20"), 50000)
    dnat = replace(dnat, nat=(ip(b), 8080), after=CtView(NEW, connection(dnat, confirmed=False, reply=to_backend, dnat=True)))
    snat = first("SYN that SNAT rewrites", IP(src="10.1.0.33", dst=b) / TCP(sport=41000, dport=80, flags="S"))
    to_us = Flow(6, ip(b), 80, ip("10.2.0.1"), 41000)
    return [
        web,
        later("SYN ACK", back / TCP(sport=80, dport=40000, flags="SA", ack=1), connection(web, seen_reply=True), reply=True),
        later("ACK", to / TCP(sport=40000, dport=80, flags="A", seq=1, ack=1), connection(web, seen_reply=True, assured=True)),
        first("SYN to 443", to / TCP(sport=1023, dport=443, flags="S")),
        first("SYN to 443 from .20", IP(src="10.1.0.20", dst=b) / TCP(sport=1024, dport=443, flags="S")),
        Sent("FIN PSH URG", to / TCP(sport=40001, dport=80, flags="FPU"), INVALID, INVALID),
        Sent("no flags", to / TCP(sport=40002, dport=80, flags=0), INVALID, INVALID),
        first("ACK of a connection not seen", to / TCP(sport=40003, dport=81, flags="A")),
        dns,
        later("DNS answer", back / UDP(sport=53, dport=5353) / Raw(b"a" * 20), connection(dns, seen_reply=True), reply=True),
        first("UDP 0 to 65535", to / UDP(sport=0, dport=65535)),
        first("SCTP INIT", to / SCTP(sport=5000, dport=9000) / SCTPChunkInit(init_tag=1)),
        ping,
        later("pong", back / ICMP(type=0, id=7) / Raw(b"x" * 8), connection(ping, seen_reply=True), reply=True),
        first("ICMP timestamp", to / ICMP(type=13, id=9)),
        later(
            "port unreachable about the question",
            back / ICMP(type=3, code=3) / IP(src=a, dst=b, ttl=63) / UDP(sport=5353, dport=53) / Raw(b"q" * 20),
            connection(dns, seen_reply=True),
            RELATED,
            reply=True,
        ),
        Sent(
            "host unreachable about nothing known",
            to / ICMP(type=3, code=1) / IP(src=b, dst="10.1.0.99") / UDP(sport=1, dport=2),
            INVALID,
            INVALID,
        ),
        Sent("pong that nobody asked for", to / ICMP(type=0, id=99), INVALID, INVALID),
        Sent("untracked SYN", IP(src="10.1.0.30", dst=b) / TCP(sport=1, dport=80, flags="S"), UNTRACKED, UNTRACKED),
        first("marked", IP(src="10.1.0.31", dst=b) / UDP(sport=1, dport=2), mark=0x4005),
        marked,
        snat,
        later(
            "reply to SNAT",
            IP(src=b, dst="10.2.0.1") / TCP(sport=80, dport=41000, flags="SA", ack=1),
            connection(snat, reply=to_us, snat=True, seen_reply=True),
            reply=True,
            nat=(ip("10.1.0.33"), 41000),
        ),
        dnat,
        later(
            "reply to DNAT",
            IP(src=b, dst="10.1.0.20") / TCP(sport=8080, dport=50000, flags="SA", ack=1),
            connection(dnat, seen_reply=True),
            reply=True,
        ),
        first("to the router", IP(src=a, dst="10.1.0.1") / UDP(sport=1, dport=2), forwarded=False),
        first("to the router's other address", IP(src=a, dst="10.2.0.1") / UDP(sport=1, dport=2), forwarded=False),
        first(
            "to the subnet's broadcast",
            IP(src=a, dst="10.1.0.255") / UDP(sport=1, dport=2),
            dmac="ff:ff:ff:ff:ff:ff",
            forwarded=False,
        ),
        first("to the other subnet's broadcast", IP(src=a, dst="10.2.0.255") / UDP(sport=3, dport=2), forwarded=False),
        first("to the subnet's network address", IP(src=a, dst="10.2.0.0") / UDP(sport=1, dport=2)),
        first(
            "to everyone",
            IP(src="0.0.0.0", dst="255.255.255.255") / UDP(sport=68, dport=67),
            dmac="ff:ff:ff:ff:ff:ff",
            forwarded=False,
        ),
        first("to a group", IP(src=a, dst="224.0.0.5") / UDP(sport=1, dport=2), dmac="01:00:5e:00:00:05", forwarded=False),
        first("from the router's address", IP(src="10.1.0.1", dst=b) / UDP(sport=1, dport=2), forwarded=False),
        first("from the wrong side", IP(src="10.2.0.50", dst=b) / UDP(sport=1, dport=2)),
        first("from beyond", IP(src="172.16.5.4", dst=b) / UDP(sport=1, dport=2)),
        first("from a blackhole", IP(src="10.66.0.1", dst=b) / UDP(sport=1, dport=2)),
        first("to a blackhole", IP(src=a, dst="10.66.0.1") / UDP(sport=1, dport=2), forwarded=False),
        first("to an unreachable net", IP(src=a, dst="10.67.0.1") / UDP(sport=1, dport=2), forwarded=False),
        first("to a prohibited net", IP(src=a, dst="10.68.0.1") / UDP(sport=1, dport=2), forwarded=False),
        first("to a net thrown back", IP(src=a, dst="10.69.0.1") / UDP(sport=1, dport=2), forwarded=False),
        first("another sender's MAC", IP(src="10.1.0.3", dst=b) / UDP(sport=1, dport=2), smac="02:00:00:00:0a:0a"),
        first("an address without a MAC", IP(src="10.1.0.4", dst=b) / UDP(sport=1, dport=2)),
        first("TTL 1", IP(src=a, dst=b, ttl=1) / UDP(sport=9, dport=2), forwarded=False),
        first("TTL 3", IP(src=a, dst=b, ttl=3) / UDP(sport=8, dport=2)),
        first("TTL 255", IP(src=a, dst=b, ttl=255) / UDP(sport=7, dport=2)),
        first("1000 bytes", to / UDP(sport=6, dport=2) / Raw(b"x" * 972)),
        first("GRE", IP(src=a, dst=b, proto=47) / Raw(b"\0\0\x08\0" + b"x" * 20)),
        first("protocol 200", IP(src=a, dst=b, proto=200) / Raw(b"x" * 20)),
    ]


def packets6() -> list[Sent]:
    a, b = "fd00:1::2", "fd00:2::2"
    to, back = IPv6(src=a, dst=b), IPv6(src=b, dst=a)
    web = first("SYN", to / TCP(sport=40000, dport=80, flags="S"))
    dns = first("DNS question", to / UDP(sport=5353, dport=53) / Raw(b"q" * 20))
    ping = first("ping", to / ICMPv6EchoRequest(id=7))
    return [
        web,
        later("SYN ACK", back / TCP(sport=80, dport=40000, flags="SA", ack=1), connection(web, seen_reply=True), reply=True),
        dns,
        later("DNS answer", back / UDP(sport=53, dport=5353) / Raw(b"a" * 20), connection(dns, seen_reply=True), reply=True),
        ping,
        later("pong", back / ICMPv6EchoReply(id=7), connection(ping, seen_reply=True), reply=True),
        later(
            "port unreachable about the question",
            back / ICMPv6DestUnreach(code=4) / IPv6(src=a, dst=b, hlim=63) / UDP(sport=5353, dport=53) / Raw(b"q" * 20),
            connection(dns, seen_reply=True),
            RELATED,
            reply=True,
        ),
        Sent("too big about nothing known", to / ICMPv6PacketTooBig() / IPv6(src=b, dst="fd00:1::99") / UDP(), INVALID, INVALID),
        Sent("pong that nobody asked for", to / ICMPv6EchoReply(id=99), INVALID, INVALID),
        Sent(
            "neighbour solicitation",
            IPv6(src=a, dst="ff02::1:ff00:1", hlim=255) / ICMPv6ND_NS(tgt="fd00:1::1"),
            UNTRACKED,
            UNTRACKED,
            dmac="33:33:ff:00:00:01",
            forwarded=False,
        ),
        Sent("untracked SYN", IPv6(src="fd00:1::30", dst=b) / TCP(sport=1, dport=80, flags="S"), UNTRACKED, UNTRACKED),
        first("marked", IPv6(src="fd00:1::31", dst=b) / UDP(sport=1, dport=2), mark=0x4005),
        first("to the router", IPv6(src=a, dst="fd00:1::1") / UDP(sport=1, dport=2), forwarded=False),
        first("to the router's other address", IPv6(src=a, dst="fd00:2::1") / UDP(sport=1, dport=2), forwarded=False),
        first("to the subnet's routers", IPv6(src=a, dst="fd00:2::") / UDP(sport=1, dport=2), forwarded=False),
        first("to a group", IPv6(src=a, dst="ff02::1") / UDP(sport=1, dport=2), dmac="33:33:00:00:00:01", forwarded=False),
        first("from the router's address", IPv6(src="fd00:1::1", dst=b) / UDP(sport=1, dport=2)),
        first("from the wrong side", IPv6(src="fd00:2::50", dst=b) / UDP(sport=1, dport=2)),
        first("from beyond", IPv6(src="fd00:77::4", dst=b) / UDP(sport=1, dport=2)),
        first("to an unreachable net", IPv6(src=a, dst="fd00:67::1") / UDP(sport=1, dport=2), forwarded=False),
        first("to a blackhole", IPv6(src=a, dst="fd00:66::1") / UDP(sport=1, dport=2), forwarded=False),
        first("from an unreachable net", IPv6(src="fd00:67::1", dst=b) / UDP(sport=1, dport=2)),
        first("from the net", IPv6(src="fd00:1::55", dst=b) / UDP(sport=1, dport=2)),
        first("hop limit 1", IPv6(src=a, dst=b, hlim=1) / UDP(sport=9, dport=2), forwarded=False),
        first("1000 bytes", to / UDP(sport=6, dport=2) / Raw(b"x" * 952)),
    ]


BAD_ROUTES = (
    "route add blackhole 10.66.0.0/16",
    "route add unreachable 10.67.0.0/16",
    "route add prohibit 10.68.0.0/16",
    "route add throw 10.69.0.0/16",
    "route add blackhole fd00:66::/64",
    "route add unreachable fd00:67::/64",
)


def views(sent: Sent, netns: Netns, recent: set[tuple[str, int]]) -> list[View]:
    """What the router's rows see of a packet, at the hooks that it reaches."""
    indev = "eth1" if sent.from_receiver else "eth0"
    arriving = sent.arriving
    seen = [View(arriving, Hook.PREROUTING, netns, indev, ct=sent.before, recent=recent)]
    if sent.forwarded:
        dst, dport = sent.nat or (arriving.dst, arriving.dport)
        going = msgspec.structs.replace(arriving, dst=dst, dport=dport, ttl=arriving.ttl - 1)
        outdev = lookup(netns, dst)[0].dev
        seen.append(View(going, Hook.FORWARD, netns, indev, outdev, ct=sent.after, recent=recent))
    return seen


def traffic(packets: list[Sent], lab: Namespaces) -> list[Traffic]:
    netns = router_netns(BAD_ROUTES, SETS)
    recent: set[tuple[str, int]] = set()
    return [
        (sent.name, partial(lab.send, *(("receiver", "r0") if sent.from_receiver else ("sender", "s0")), sent.frame), seen)
        for sent in packets
        for seen in [views(sent, netns, recent)]
    ]


@pytest.mark.parametrize("variant", ["legacy", "nft"])
def test_ipv4_matches_hold_as_in_linux(kernel: None, variant: str) -> None:
    texts = {Hook.PREROUTING: ROWS4 + PREROUTING4, Hook.FORWARD: ROWS4 + FORWARD4}
    with router(extra=BAD_ROUTES) as lab:
        assert compare(lab, variant, 4, texts, traffic(packets4(), lab), BEFORE4 + MARKS4, SETS) > 15000


@pytest.mark.parametrize("variant", ["legacy", "nft"])
def test_ipv6_matches_hold_as_in_linux(kernel: None, variant: str) -> None:
    texts = {Hook.PREROUTING: ROWS6 + PREROUTING6, Hook.FORWARD: ROWS6 + FORWARD6}
    with router(extra=BAD_ROUTES) as lab:
        assert compare(lab, variant, 6, texts, traffic(packets6(), lab), BEFORE6 + MARKS6, SETS) > 2500
