"""A trace as a capture: pcapng with a frame for each wire and tunnel device that the packet crosses, headers and checksums real.

    Transmitted (a wire), Encapsulated and Decapsulated (a tunnel device) --> frame, interface "node-1/veth...", comment

Law: what the trace says is in the frame; what it does not say has one fixed value, so that the same trace gives the same bytes:
IP id 0, TCP sequence 1000 there and 2000 back, window 64240, a random source port is 49152, payload is zeros, frames
are a millisecond apart from 2020-01-01 on. scapy makes the bytes; it is imported here alone.
"""

from __future__ import annotations

import io
import os
from collections.abc import Sequence
from typing import Any, NamedTuple

from netlab.render.chains import Run, chain_path, nat_label, nat_words, policy_words, runs, without_dead_jumps
from netlab.render.columns import clean
from netlab.render.text import probability
from netlab.trace.steps import (
    AnyStep,
    Branch,
    Decapsulated,
    Delivered,
    Dropped,
    Encapsulated,
    Header,
    Hop,
    IpvsStep,
    Natted,
    PolicyStep,
    Rejected,
    Routed,
    Trace,
    Transmitted,
    UnknownStep,
)

BEGIN = 1577836800.0  # 2020-01-01 00:00:00 UTC
RANDOM_PORT = 49152
THERE, BACK = 1000, 2000  # TCP sequence numbers
_FLAGS = {"SYN": "S", "ACK": "A", "FIN": "F", "RST": "R", "PSH": "P", "URG": "U"}
_V4 = {  # in the words of trace/skb.py: ICMP type, code
    "echo request": (8, 0), "echo reply": (0, 0), "time exceeded": (11, 0), "net unreachable": (3, 0), "host unreachable": (3, 1),
    "proto unreachable": (3, 2), "protocol unreachable": (3, 2), "port unreachable": (3, 3), "fragmentation needed": (3, 4),
    "net prohibited": (3, 9), "host prohibited": (3, 10), "admin prohibited": (3, 13),
}  # fmt: skip
_V6 = {
    "echo request": (128, 0), "echo reply": (129, 0), "packet too big": (2, 0), "time exceeded": (3, 0), "no route": (1, 0),
    "admin prohibited": (1, 1), "address unreachable": (1, 3), "port unreachable": (1, 4), "policy fail": (1, 5),
    "reject route": (1, 6),
}  # fmt: skip
_NOBODY = "00:00:00:00:00:00"


class Frame(NamedTuple):
    """A frame of the capture, before it is bytes."""

    interface: str
    header: Header
    comment: str
    back: bool  # of the reply


def frames(trace: Trace, branch: int | None = None) -> list[Frame]:
    """The frames of a trace, branch after branch: the request, then its reply.

    Parameters
    ----------
    trace : Trace
    branch : int, optional
        One branch alone, counted from 1.
    """
    found: list[Frame] = []
    for number, each in enumerate(trace.branches, 1):
        if branch is not None and number != branch:
            continue
        several = (
            f"branch {number} of {len(trace.branches)}, {probability(each.probability)}; " if len(trace.branches) > 1 else ""
        )
        found += _way(each.hops, f"{several}request", _ending(each), False)
        if each.reply is not None:
            ending = "the answer has arrived" if each.reply.arrived else "the answer is lost"
            found += _way(each.reply.hops, f"{several}reply", ending, True)
    return found


def _ending(branch: Branch) -> str:
    return f"{branch.verdict.value}{f': {branch.reason}' if branch.reason else ''}"


def _way(hops: Sequence[Hop], head: str, ending: str, back: bool) -> list[Frame]:
    """The frames of one direction; each tells what was decided since the one before, the last one how it ended."""
    found: list[Frame] = []
    since: list[str] = []
    for hop in hops:
        for item in runs(hop.steps, True):
            words = _words(item)
            if words:
                since.append(f"{hop.where}: {words}")
            wire = _wire(hop, item)
            if wire is not None:
                interface, header = wire
                found.append(Frame(interface, header, "\n".join([f"{head}, {interface}", *since]), back))
                since = []
    if found:
        last = found[-1]
        found[-1] = last._replace(comment="\n".join([last.comment, *(f"then {words}" for words in since), ending]))
    return found


def _wire(hop: Hop, item: Run | AnyStep) -> tuple[str, Header] | None:
    match item:
        case Transmitted():
            return f"{hop.where}/{item.device}", item.packet
        case Encapsulated() if item.outer.inner is not None and item.vni is not None:
            return f"{hop.where}/{item.device}", item.outer.inner
        case Decapsulated() if item.vni is not None:
            return f"{hop.where}/{item.device}", item.inner
        case _:
            return None


def _words(item: Run | AnyStep) -> str:
    """What a step decides, in a line; "" for what a capture shows by itself."""
    match item:
        case Run() if item.rules and not item.quiet:
            ending = f"; {policy_words(item.end)}" if item.end is not None and item.end.by != "rule" else ""
            return f"{item.table} {item.hook}: {chain_path(without_dead_jumps(item.rules))}{ending}"
        case Natted():
            return f"{nat_label(item)}: {nat_words(item)}"
        case Routed():
            return f"route {item.route or item.type}"
        case PolicyStep():
            return f"policy {item.direction} {item.says}" + (f" by {item.policy}" if item.policy else "")
        case IpvsStep():
            return f"IPVS {item.service}"
        case Encapsulated():
            return f"wrapped by {item.device}"
        case Decapsulated():
            return f"unwrapped by {item.device}"
        case Delivered():
            return f"delivered to {item.owner}"
        case Dropped() | Rejected():
            return item.reason
        case UnknownStep():
            return item.what
        case _:
            return ""


# -- bytes -------------------------------------------------------------------------------------------------------------


def capture(trace: Trace, branch: int | None = None) -> bytes:
    """The pcapng file: an interface for each end of a wire, a comment in every frame."""
    scapy = _scapy()
    writer = scapy.PcapNgWriter(os.devnull)
    writer.f.close()
    writer.f = out = io.BytesIO()
    writer.write_header(scapy.Ether())
    for number, frame in enumerate(frames(trace, branch)):
        made = _frame(scapy, frame.header, frame.back)
        made.time = BEGIN + number / 1000
        made.sniffed_on = frame.interface
        made.comments = [clean_lines(frame.comment).encode()]
        writer.write_packet(made)
    return out.getvalue()


def clean_lines(text: str) -> str:
    """Lines whose characters a terminal shows and does not obey."""
    return "\n".join(clean(line) for line in text.split("\n"))


def _scapy() -> Any:
    """scapy's layers, without a look at this machine's routes."""
    from scapy.config import conf

    conf.route_autoload = conf.route6_autoload = False
    from types import SimpleNamespace

    from scapy.layers.inet import ICMP, IP, TCP, UDP
    from scapy.layers.inet6 import (
        ICMPv6DestUnreach,
        ICMPv6EchoReply,
        ICMPv6EchoRequest,
        ICMPv6PacketTooBig,
        ICMPv6TimeExceeded,
        IPv6,
    )
    from scapy.layers.l2 import Ether
    from scapy.layers.sctp import SCTP, SCTPChunkInit
    from scapy.layers.vxlan import VXLAN
    from scapy.packet import Raw
    from scapy.utils import PcapNgWriter

    six = {1: ICMPv6DestUnreach, 2: ICMPv6PacketTooBig, 3: ICMPv6TimeExceeded, 128: ICMPv6EchoRequest, 129: ICMPv6EchoReply}
    return SimpleNamespace(
        ICMP=ICMP, IP=IP, TCP=TCP, UDP=UDP, IPv6=IPv6, Ether=Ether, SCTP=SCTP, Init=SCTPChunkInit, VXLAN=VXLAN, Raw=Raw,
        PcapNgWriter=PcapNgWriter, six=six,
    )  # fmt: skip


def _frame(scapy: Any, header: Header, back: bool) -> Any:
    kind = 0x86DD if ":" in header.source else 0x0800
    return scapy.Ether(src=header.src_mac or _NOBODY, dst=header.dst_mac or _NOBODY, type=kind) / _ip(scapy, header, back)


def _ip(scapy: Any, header: Header, back: bool, quoted: bool = False) -> Any:
    """An IP packet of the length that the trace says."""
    if ":" in header.source:
        ip, size = scapy.IPv6(src=header.source, dst=header.destination, hlim=header.ttl), 40
    else:
        ip = scapy.IP(src=header.source, dst=header.destination, ttl=header.ttl, id=0, flags="DF" if header.df else 0)
        if header.quoted is not None:
            ip.tos = 0xC0  # internetwork control, as icmp_send() in net/ipv4/icmp.c has it
        size = 20
    if header.inner is not None and header.vni is None:
        return ip / _ip(scapy, header.inner, back)
    return ip / _transport(scapy, header, back, max(0, header.length - size), quoted)


def _transport(scapy: Any, header: Header, back: bool, room: int, quoted: bool) -> Any:
    sport = RANDOM_PORT if header.sport_random else header.sport
    made: Any
    match header.protocol:
        case "TCP":
            flags = "".join(_FLAGS.get(flag, "") for flag in header.flags.split(",")) if header.flags else ""
            syn = "S" in flags
            mine, theirs = (BACK, THERE) if back else (THERE, BACK)
            options: list[Any] = []
            if room >= 40 and syn:
                options = [("MSS", 1460), ("SAckOK", b""), ("Timestamp", (1, 0)), ("NOP", None), ("WScale", 7)]
            elif room >= 32:
                options = [("NOP", None), ("NOP", None), ("Timestamp", (2, 1))]
            seq, ack = mine + (0 if syn else 1), theirs + 1 if "A" in flags else 0
            made = scapy.TCP(sport=sport, dport=header.dport, flags=flags, seq=seq, ack=ack, window=64240, options=options)
        case "UDP" if header.inner is not None:
            made = scapy.UDP(sport=sport, dport=header.dport)  # with a checksum: Linux's default, which Flannel and Calico leave
            return made / scapy.VXLAN(vni=header.vni, flags="Instance") / _frame(scapy, header.inner, back)
        case "UDP":
            made = scapy.UDP(sport=sport, dport=header.dport)
        case "SCTP":
            made = scapy.SCTP(sport=sport, dport=header.dport, tag=0) / scapy.Init(
                init_tag=1, a_rwnd=106496, n_out_streams=10, n_in_streams=65535, init_tsn=1
            )
        case _:
            made = _icmp(scapy, header, back)
    missing = 0 if header.quoted is not None or quoted else room - len(made)
    return made / scapy.Raw(bytes(missing)) if missing > 0 and header.protocol != "SCTP" else made


def _icmp(scapy: Any, header: Header, back: bool) -> Any:
    six = ":" in header.source
    kind, code = (_V6 if six else _V4).get(header.flags, (0, 0))
    words = header.flags.split()
    if len(words) == 4 and words[0] == "type":  # "type 13 code 0"
        kind, code = int(words[1]), int(words[3])
    quote = _ip(scapy, header.quoted, not back) if header.quoted is not None else None
    if not six:
        made = scapy.ICMP(type=kind, code=code, id=1, seq=1) if kind in (0, 8) else scapy.ICMP(type=kind, code=code)
    elif kind in scapy.six:
        made = scapy.six[kind](id=1, seq=1) if kind in (128, 129) else scapy.six[kind](code=code)
    else:
        made = scapy.ICMP(type=kind, code=code)
    return made if quote is None else made / quote
