"""Packets as bytes: rows of packets that come back as they were, and bytes that others take to be right (scapy)."""

from __future__ import annotations

import msgspec
import pytest
from scapy.config import conf

conf.route_autoload = conf.route6_autoload = False
from scapy.layers.inet import IP  # noqa: E402
from scapy.layers.inet6 import IPv6  # noqa: E402

from netlab.lab.frames import decode, decode_frame, encode, frame, tcp_numbers  # noqa: E402
from netlab.linux.addr import Ip, ip  # noqa: E402
from netlab.linux.packet import ACK, SYN, Packet  # noqa: E402

A4, B4, A6, B6 = ip("10.1.0.2"), ip("10.2.0.2"), ip("fd00:1::2"), ip("fd00:2::2")
ROWS = {
    "SYN": Packet(A4, B4, 6, 40000, 80, tcp_flags=SYN, length=40),
    "SYN with payload, TTL 1": Packet(A4, B4, 6, 40000, 80, tcp_flags=SYN | ACK, length=1001, ttl=1, df=False),
    "UDP": Packet(A4, B4, 17, 53, 65535, length=60),
    "ping": Packet(A4, B4, 1, icmp_type=8, icmp_id=7, length=84),
    "GRE": Packet(A4, B4, 47, length=28),
    "SYN over IPv6": Packet(A6, B6, 6, 40000, 80, tcp_flags=SYN, length=60),
    "UDP over IPv6, odd length": Packet(A6, B6, 17, 53, 1, length=81),
    "ping over IPv6": Packet(A6, B6, 58, icmp_type=128, icmp_id=7, length=104),
}


@pytest.mark.parametrize("packet", ROWS.values(), ids=ROWS)
def test_packets_come_back(packet: Packet) -> None:
    data = encode(packet, seq=5, ack=6)
    assert decode(data) == packet
    assert len(data) == packet.length
    if packet.protocol == 6:
        assert tcp_numbers(data)[:2] == (5, 6)
    assert decode_frame(frame(with_macs(packet), data)) == with_macs(packet)


def with_macs(packet: Packet) -> Packet:
    return msgspec.structs.replace(packet, src_mac="02:00:00:00:00:01", dst_mac="02:00:00:00:00:02")


@pytest.mark.parametrize("packet", ROWS.values(), ids=ROWS)
def test_checksums_are_those_that_scapy_computes(packet: Packet) -> None:
    data = encode(packet)
    layer = (IP if packet.family == 4 else IPv6)(data)
    for part in (layer, layer.payload):
        for field in ("chksum", "cksum"):
            if field in part.fields:
                part.delfieldval(field)
    assert bytes(layer) == data


QUOTES = [(ROWS["SYN"], B4, 3, 3), (ROWS["UDP over IPv6, odd length"], B6, 1, 4)]


@pytest.mark.parametrize(("about", "source", "kind", "code"), QUOTES)
def test_an_error_quotes_a_packet_that_may_be_cut_off(about: Packet, source: Ip, kind: int, code: int) -> None:
    quoted = encode(about)[: 28 if about.family == 4 else 48]
    error = Packet(source, about.src, 1 if about.family == 4 else 58, icmp_type=kind, icmp_code=code, quoted=about)
    back = decode(encode(error, quoted=quoted))
    assert back is not None
    assert back.quoted is not None
    assert (back.icmp_type, back.icmp_code, back.quoted.flow) == (kind, code, about.flow)


@pytest.mark.parametrize("data", [b"", b"\x45" + bytes(10), b"\x60" + bytes(30)])
def test_what_is_no_whole_header_is_no_packet(data: bytes) -> None:
    assert decode(data) is None


def test_arp_is_no_packet() -> None:
    assert decode_frame(bytes(12) + b"\x08\x06" + bytes(28)) is None
