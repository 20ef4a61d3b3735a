"""Packets as bytes: what the lab puts on a wire for a Packet, and the Packet that it reads off one.

Law: decode(encode(packet)) is the packet again, but for what bytes do not hold (mark) and TCP's sequence numbers, which stand
beside it. Checksums are right: connection tracking calls a packet with a wrong one INVALID. Sources: RFC 791, 8200, 9293, 768,
792, 4443. Not here: options, fragments, tunnels.
"""

from __future__ import annotations

import struct

import msgspec

from netlab.linux.addr import Ip
from netlab.linux.packet import ACK, ICMP, ICMPV6, RST, SCTP, TCP, UDP, Packet

ETHERTYPES = {4: b"\x08\x00", 6: b"\x86\xdd"}
_PORTS = (TCP, UDP)
_ECHO = {ICMP: (0, 8, 13, 14, 15, 16, 17, 18), ICMPV6: (128, 129)}  # ICMP types whose next word is an identifier
_CHUNKS = {1: 0, 6: RST | ACK}  # SCTP chunks (RFC 9260): INIT, ABORT; all others are of an association that exists
_ERRORS = {ICMP: (3, 4, 5, 11, 12), ICMPV6: (1, 2, 3, 4)}  # ICMP types that quote a packet


def header_length(packet: Packet) -> int:
    """The least length that a packet of this protocol has, IP header included (bytes)."""
    return (20 if packet.family == 4 else 40) + {TCP: 20, UDP: 8, ICMP: 8, ICMPV6: 8}.get(packet.protocol, 0)


def encode(packet: Packet, *, seq: int = 0, ack: int = 0, quoted: bytes = b"") -> bytes:
    """The IP packet as bytes, padded with zeros to `packet.length`.

    Parameters
    ----------
    packet : Packet
    seq, ack : int
        TCP sequence and acknowledgement number.
    quoted : bytes
        For ICMP errors: the quoted packet, as it was on the wire.
    """
    kind, space = packet.protocol, packet.length - header_length(packet)
    rest = quoted if packet.quoted is not None else bytes(max(space, 0))
    if kind == TCP:
        body = struct.pack("!HHIIBBHHH", packet.sport, packet.dport, seq, ack, 5 << 4, packet.tcp_flags, 64240, 0, 0) + rest
        place = 16
    elif kind == UDP:
        body = struct.pack("!HHHH", packet.sport, packet.dport, 8 + len(rest), 0) + rest
        place = 6
    elif kind in (ICMP, ICMPV6):
        word = packet.icmp_id << 16 | 1 if packet.icmp_type in _ECHO[kind] else 1280 if packet.icmp_type == 2 else 0
        body = struct.pack("!BBHI", packet.icmp_type, packet.icmp_code, 0, word) + rest
        place = 2
    else:
        body, place = rest, -1
    if place >= 0:
        pseudo = b"" if kind == ICMP else _pseudo_header(packet, len(body))
        body = body[:place] + struct.pack("!H", _checksum(pseudo + body) or (0xFFFF if kind == UDP else 0)) + body[place + 2 :]
    if packet.family == 4:
        flags = 0x4000 if packet.df else 0
        fields = (0x45, 0, 20 + len(body), 0, flags, packet.ttl, kind, 0, packet.src.value, packet.dst.value)
        header = struct.pack("!BBHHHBBHII", *fields)
        return header[:10] + struct.pack("!H", _checksum(header)) + header[12:] + body
    addresses = packet.src.value.to_bytes(16, "big") + packet.dst.value.to_bytes(16, "big")
    return struct.pack("!IHBB", 6 << 28, len(body), kind, packet.ttl) + addresses + body


def frame(packet: Packet, data: bytes) -> bytes:
    """An Ethernet frame that carries `data` between the packet's MACs."""
    macs = bytes.fromhex((packet.dst_mac + packet.src_mac).replace(":", ""))
    return macs + ETHERTYPES[packet.family] + data


def decode_frame(data: bytes) -> Packet | None:
    """The packet of an Ethernet frame; None where it is no IP (ARP)."""
    if data[12:14] not in ETHERTYPES.values():
        return None
    packet = decode(data[14:])
    if packet is None:
        return None
    return msgspec.structs.replace(packet, dst_mac=data[:6].hex(":"), src_mac=data[6:12].hex(":"))


def decode(data: bytes, quoted: bool = False) -> Packet | None:
    """The packet of IP bytes; None where they are no whole header. A quoted packet may be cut off."""
    if len(data) < 20 or (data[0] >> 4 == 6 and len(data) < 40):
        return None
    if data[0] >> 4 == 4:
        length, identity, offset, ttl, kind = struct.unpack("!HHHBB", data[2:10])
        src, dst = (Ip(4, value) for value in struct.unpack("!II", data[12:20]))
        body = data[(data[0] & 15) * 4 : length if not quoted else None]
        df = bool(offset & 0x4000)
    else:
        length, kind, ttl = struct.unpack("!HBB", data[4:8])
        src, dst = Ip(6, int.from_bytes(data[8:24], "big")), Ip(6, int.from_bytes(data[24:40], "big"))
        length, df = length + 40, True
        body = data[40 : length if not quoted else None]
    packet = Packet(src, dst, kind, ttl=ttl, length=length, df=df)
    if kind in _PORTS and len(body) >= 4:
        sport, dport = struct.unpack("!HH", body[:4])
        flags = body[13] & 0x3F if kind == TCP and len(body) >= 14 else 0
        return msgspec.structs.replace(packet, sport=sport, dport=dport, tcp_flags=flags)
    if kind in _ECHO and len(body) >= 8:
        icmp_type, code, _, word = struct.unpack("!BBHI", body[:8])
        inner = decode(body[8:], quoted=True) if icmp_type in _ERRORS[kind] and not quoted else None
        identity = word >> 16 if icmp_type in _ECHO[kind] else 0
        return msgspec.structs.replace(packet, icmp_type=icmp_type, icmp_code=code, icmp_id=identity, quoted=inner)
    if kind == SCTP and len(body) >= 13:  # the first chunk's type, as the walk tells an INIT from its answers (walker.reply_to)
        sport, dport = struct.unpack("!HH", body[:4])
        return msgspec.structs.replace(packet, sport=sport, dport=dport, tcp_flags=_CHUNKS.get(body[12], ACK))
    return packet


def tcp_numbers(data: bytes) -> tuple[int, int, int]:
    """Sequence number, acknowledgement number and bytes of payload of a TCP packet (IP bytes)."""
    start = 20 if data[0] >> 4 == 4 else 40
    seq, ack, offset = struct.unpack("!IIB", data[start + 4 : start + 13])
    return int(seq), int(ack), len(data) - start - (offset >> 4) * 4


def _pseudo_header(packet: Packet, length: int) -> bytes:
    size = packet.src.bits // 8
    addresses = packet.src.value.to_bytes(size, "big") + packet.dst.value.to_bytes(size, "big")
    if packet.family == 4:
        return addresses + struct.pack("!BBH", 0, packet.protocol, length)
    return addresses + struct.pack("!II", length, packet.protocol)


def _checksum(data: bytes) -> int:
    """RFC 1071."""
    if len(data) % 2:
        data += b"\0"
    total: int = sum(struct.unpack(f"!{len(data) // 2}H", data))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return ~total & 0xFFFF
