"""What nft's expressions say about a packet: values, comparisons, lookups in sets and maps, as net/netfilter/nft_*.c decide.

    expression --value--> [(probability, parts)]      a part is a number of which some bits may not be known (Part)
    Compare    --------->  True | False | Chance | Undecided          Vmap, Lookup --> what belongs to the key

Law: nothing here changes anything; the walk (trace/nftables.py) does, and it decides every chance before it goes on. A value that
does not exist (a port of ICMP, `ct mark` without a connection) is None and ends its rule, whatever the operator (NFT_BREAK).
Every rule here has been compared with a running kernel (tests/kernel/test_nft_matches.py, docs/fidelity.md).
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterable, Mapping, Sequence
from fractions import Fraction
from itertools import product
from typing import Final, NamedTuple

from msgspec.structs import replace

from netlab.linux import nft as n
from netlab.linux.addr import Ip, ip, mask_of
from netlab.linux.conntrack import CtState
from netlab.linux.netns import Netns, RouteType
from netlab.linux.nft import Element, Expression, NftSet, NftTable
from netlab.linux.packet import ICMP, ICMPV6, SCTP, TCP, UDP, Packet
from netlab.linux.route import address_type, lookup
from netlab.linux.rules import Hook
from netlab.linux.targets import Dnat, Masquerade, NatRange, Netmap, Redirect, Snat
from netlab.linux.text import nft_words as words
from netlab.match.view import Answer, Chance, Undecided, View, packet_type, tuple_dport

ONE: Final = Fraction(1)
MAX_SPREAD: Final = 65536  # numgen and hashes up to this modulus are spread out value by value
_ALL: Final = -1
_UDPLITE, _DCCP = 136, 33


class Part(NamedTuple):
    """A number: `known` has the bits of `value` that netlab knows (-1: all), `why` says why the others are not."""

    value: int
    known: int = _ALL
    why: str = ""


Parts = tuple[Part, ...]
Spread = list[tuple[Fraction, Parts | None]]
Span = tuple[int, int]  # both ends included


class Doubt(Exception):
    """netlab cannot know; the reason in a few words."""


# -- constants ---------------------------------------------------------------------------------------------------------

_PROTOCOLS: Final = {
    "ip": 0, "icmp": 1, "igmp": 2, "ipencap": 4, "ipv4": 4, "tcp": 6, "egp": 8, "udp": 17, "dccp": 33, "ipv6": 41,
    "ipv6-route": 43, "ipv6-frag": 44, "gre": 47, "esp": 50, "ah": 51, "icmpv6": 58, "ipv6-icmp": 58, "ipv6-nonxt": 59,
    "ipv6-opts": 60, "ospf": 89, "pim": 103, "comp": 108, "ipcomp": 108, "vrrp": 112, "l2tp": 115, "sctp": 132, "udplite": 136,
}  # fmt: skip
_SYMBOLS: Final[Mapping[str, Mapping[str, int]]] = {
    "inet_proto": _PROTOCOLS,
    "ct_state": {"invalid": 1, "established": 2, "related": 4, "new": 8, "untracked": 64},
    "ct_status": {
        "expected": 1, "seen-reply": 2, "assured": 4, "confirmed": 8, "snat": 16, "dnat": 32, "dying": 512,
    },
    "ct_dir": {"original": 0, "reply": 1},
    "tcp_flag": {"fin": 1, "syn": 2, "rst": 4, "psh": 8, "ack": 16, "urg": 32, "ecn": 64, "cwr": 128},
    "nf_proto": {"ipv4": 2, "ipv6": 10},
    "ether_type": {"ip": 0x800, "arp": 0x806, "ip6": 0x86DD, "vlan": 0x8100, "8021q": 0x8100, "8021ad": 0x88A8},
    "pkt_type": {"host": 0, "unicast": 0, "broadcast": 1, "multicast": 2, "other": 3},
    "fib_addrtype": {
        "unspec": 0, "unicast": 1, "local": 2, "broadcast": 3, "anycast": 4, "multicast": 5, "blackhole": 6, "unreachable": 7,
        "prohibit": 8,
    },
    "icmp_type": {
        "echo-reply": 0, "destination-unreachable": 3, "source-quench": 4, "redirect": 5, "echo-request": 8,
        "router-advertisement": 9, "router-solicitation": 10, "time-exceeded": 11, "parameter-problem": 12,
        "timestamp-request": 13, "timestamp-reply": 14, "info-request": 15, "info-reply": 16, "address-mask-request": 17,
        "address-mask-reply": 18,
    },
    "icmp_code": {
        "net-unreachable": 0, "host-unreachable": 1, "prot-unreachable": 2, "port-unreachable": 3, "frag-needed": 4,
        "net-prohibited": 9, "host-prohibited": 10, "admin-prohibited": 13,
    },
    "icmpv6_type": {
        "destination-unreachable": 1, "packet-too-big": 2, "time-exceeded": 3, "parameter-problem": 4, "echo-request": 128,
        "echo-reply": 129, "mld-listener-query": 130, "mld-listener-report": 131, "mld-listener-done": 132,
        "mld-listener-reduction": 132, "nd-router-solicit": 133, "nd-router-advert": 134, "nd-neighbor-solicit": 135,
        "nd-neighbor-advert": 136, "nd-redirect": 137, "router-renumbering": 138, "ind-neighbor-solicit": 141,
        "ind-neighbor-advert": 142, "mld2-listener-report": 143,
    },
    "icmpv6_code": {
        "no-route": 0, "admin-prohibited": 1, "addr-unreachable": 3, "port-unreachable": 4, "policy-fail": 5, "reject-route": 6,
    },
}  # fmt: skip


def _name_number(name: str) -> int:
    """A device name as the kernel compares it: 16 bytes, padded with zeros."""
    return int.from_bytes(name.encode()[:16].ljust(16, b"\0"), "big")


def constant(expression: Expression, kind: str, netns: Netns | None) -> Span:
    """The numbers that a constant stands for.

    Raises
    ------
    Doubt
        For a name that netlab does not know.
    """
    match expression:
        case n.Value(value=int(number)):
            return number, number
        case n.Value(value=str(text)):
            return _text_constant(text, kind, netns)
        case n.PrefixValue(address=address, length=length):
            found = ip(address)
            host = (1 << (found.bits - length)) - 1
            return found.value & ~host, found.value | host
        case n.RangeValue(low=low, high=high):
            return constant(low, kind, netns)[0], constant(high, kind, netns)[1]
        case n.ListValue(parts=parts):
            number = 0
            for part in parts:
                number |= constant(part, kind, netns)[0]
            return number, number
        case n.Binary(op="|", left=left, right=right):
            number = constant(left, kind, netns)[0] | constant(right, kind, netns)[0]
            return number, number
        case _:
            raise Doubt("a value that is not constant is not modelled here")


def _text_constant(text: str, kind: str, netns: Netns | None) -> Span:
    if kind == "ifname":
        if text.endswith("\\*"):
            number = _name_number(text[:-2] + "*")
        elif text.endswith("*"):
            prefix = text[:-1].encode()
            return int.from_bytes(prefix.ljust(16, b"\0"), "big"), int.from_bytes(prefix.ljust(16, b"\xff"), "big")
        else:
            number = _name_number(text)
        return number, number
    if kind == "iface_index":
        if text in ("missing", "exists"):
            return (0, 0) if text == "missing" else (1, 0xFFFFFFFF)
        device = netns.devices.get(text) if netns is not None else None
        if device is None:
            raise Doubt(f"device {text} is not known")
        return device.index, device.index
    number_ = _SYMBOLS.get(kind, {}).get(text)
    if number_ is not None:
        return number_, number_
    if kind == "ether_addr":
        number = int("".join(f"{int(byte, 16):02x}" for byte in text.split(":")), 16)
        return number, number
    try:
        number = ip(text).value
    except ValueError:
        raise Doubt(f"value {text!r} of {kind or 'an unknown type'} is not known") from None
    return number, number


# -- values ------------------------------------------------------------------------------------------------------------


def value(expression: Expression, view: View, table: NftTable, kind: str = "") -> Spread:
    """What an expression is for a packet, with the probability of each value; constants are read as of type `kind`.

    Raises
    ------
    Doubt
        For an expression that netlab does not model.
    """
    match expression:
        case n.Meta(key=key):
            return [(ONE, _single(_meta(key, view)))]
        case n.Payload():
            return [(ONE, _single(_payload(expression, view.packet)))]
        case n.CtKey():
            return [(ONE, _single(_ct(expression, view)))]
        case n.Fib():
            return [(ONE, (_fib(expression, view),))]
        case n.Numgen(mode=mode, modulus=modulus, offset=offset):
            if modulus > MAX_SPREAD:
                raise Doubt(f"numgen {mode} mod {modulus} has more values than netlab tries")
            share = Fraction(1, modulus)  # `inc`: where the counter stands is unknown, each value has its share
            return [(share, (Part(offset + number),)) for number in range(modulus)]
        case n.Hashed(of=of, modulus=modulus, seed=seed, offset=offset):
            if of is not None and seed is not None:
                known = _seeded_hash(expression, view, table)
                if known is not None:
                    return known
            if modulus > MAX_SPREAD:
                raise Doubt(f"a hash mod {modulus} has more values than netlab tries")
            share = Fraction(1, modulus)
            return [(share, (Part(offset + number),)) for number in range(modulus)]
        case n.Concat(parts=parts):
            kinds = kind.split(" . ") if kind else []
            kinds += [""] * (len(parts) - len(kinds))
            return _joined([value(part, view, table, k) for part, k in zip(parts, kinds, strict=False)])
        case n.Binary(op=op, left=left, right=right):
            inner = words.datatype(left, table.sets) or kind
            mask = constant(right, inner, view.netns)[0]
            return [
                (p, None if parts is None else tuple(_computed(part, op, mask) for part in parts))
                for p, parts in value(left, view, table, inner)
            ]
        case n.Lookup():
            return _mapped(expression, view, table, kind)
        case n.Value():
            return [(ONE, (Part(constant(expression, kind, view.netns)[0]),))]
        case n.RawPayload():
            return [(ONE, _single(_raw(expression, view.packet)))]
        case n.UnknownExpression(text=text, json=json):
            raise Doubt(f"expression {text or json} is not modelled")
        case _:
            raise Doubt(f"{words.expression_text(expression)} is not modelled here")


def _single(part: Part | None) -> Parts | None:
    return None if part is None else (part,)


def _joined(spreads: Sequence[Spread]) -> Spread:
    made: Spread = []
    for combination in product(*spreads):
        share = ONE
        parts: list[Part] = []
        missing = False
        for p, found in combination:
            share *= p
            missing |= found is None
            parts += found or ()
        made.append((share, None if missing else tuple(parts)))
    return made


def _computed(part: Part, op: str, operand: int) -> Part:
    """nft_bitwise.c."""
    number, known, why = part
    match op:
        case "&":
            return Part(number & operand, known | ~operand, why)
        case "|":
            return Part(number | operand, known | operand, why)
        case "^":
            return Part(number ^ operand, known, why)
        case "<<":
            return Part((number << operand) & 0xFFFFFFFF, known if known == _ALL else (known << operand), why)
        case _:
            return Part(number >> operand, known >> operand, why)


_RANDOM_PORT: Final = "the source port was chosen at random by NAT"


def _meta(key: str, view: View) -> Part | None:
    """nft_meta.c nft_meta_get_eval. A device that a hook does not have is 0 and "", not missing."""
    packet = view.packet
    match key:
        case "mark":
            return Part(packet.mark)
        case "l4proto":
            return Part(packet.protocol)
        case "nfproto":
            return Part(2 if packet.family == 4 else 10)
        case "protocol":
            return Part(0x800 if packet.family == 4 else 0x86DD)
        case "length":
            return Part(packet.length)
        case "iifname":
            return Part(_name_number(view.indev))
        case "oifname":
            return Part(_name_number(view.outdev))
        case "iif" | "oif":
            name = view.indev if key == "iif" else view.outdev
            device = view.netns.devices.get(name)
            if name and device is None:
                raise Doubt(f"device {name} is not known")
            return Part(device.index if device is not None else 0)
        case "pkttype":
            found = packet_type(view)
            if found is None:
                raise Doubt("whether the frame was unicast is not known")
            return Part(_SYMBOLS["pkt_type"][found])
        case "skuid" | "skgid":
            return Part(0, 0, "the user and group of a process are not modelled") if view.local else None
        case _:
            return Part(0, 0, f"meta {key} is not modelled")


_TRANSPORT: Final = {
    "tcp": TCP, "udp": UDP, "sctp": SCTP, "icmp": ICMP, "icmpv6": ICMPV6, "udplite": _UDPLITE, "dccp": _DCCP, "esp": 50, "ah": 51,
    "comp": 108, "igmp": 2,
}  # fmt: skip
_FAMILY: Final = {"ip": 4, "ip6": 6}


def _payload(expression: n.Payload, packet: Packet) -> Part | None:
    """nft_payload.c; nft makes a header's field depend on the packet having that header (payload.c payload_gen_dependency)."""
    protocol, field = expression.protocol, expression.field
    family = _FAMILY.get(protocol)
    if family is not None:
        return _network_field(field, packet) if packet.family == family else None
    if protocol == "th":
        return _transport_field(field, packet)
    number = _TRANSPORT.get(protocol)
    if number is None:
        return Part(0, 0, f"{protocol} {field} is not modelled")
    if packet.protocol != number:
        return None
    if number in (TCP, UDP, SCTP):
        if field == "sport":
            return Part(packet.sport, 0, _RANDOM_PORT) if packet.sport_random else Part(packet.sport)
        if field == "dport":
            return Part(packet.dport)
        if field == "flags" and number == TCP:
            return Part(packet.tcp_flags)  # netlab's senders do not ask for ECN
        if field == "length" and number == UDP:
            return Part(packet.length - (20 if packet.family == 4 else 40))
    elif number in (ICMP, ICMPV6):
        if field == "type":
            return Part(packet.icmp_type)
        if field == "code":
            return Part(packet.icmp_code)
        if field == "id":
            return Part(packet.icmp_id, 0 if packet.sport_random else _ALL, _RANDOM_PORT)
    return Part(0, 0, f"{protocol} {field} is not modelled")


def _network_field(field: str, packet: Packet) -> Part:
    match field:
        case "saddr":
            return Part(packet.src.value)
        case "daddr":
            return Part(packet.dst.value)
        case "ttl" | "hoplimit":
            return Part(packet.ttl)
        case "protocol" | "nexthdr":
            return Part(packet.protocol)
        case "length":
            return Part(packet.length if packet.family == 4 else packet.length - 40)
        case "version":
            return Part(packet.family)
        case "hdrlength":
            return Part(5)
        case "frag-off":
            return Part(0, ~0x4000, "the DF bit is not modelled")
        case _:
            return Part(0, 0, f"the header's {field} is not modelled")


def _transport_field(field: str, packet: Packet) -> Part | None:
    """`th`: the bytes where ports would be, whatever the protocol (nft_payload.c has no dependency there)."""
    if packet.protocol in (TCP, UDP, SCTP):
        if field == "sport":
            return Part(packet.sport, 0, _RANDOM_PORT) if packet.sport_random else Part(packet.sport)
        return Part(packet.dport)
    if packet.protocol in (ICMP, ICMPV6) and field == "sport":
        return Part(packet.icmp_type << 8 | packet.icmp_code)
    return Part(0, 0, f"what protocol {packet.protocol} has in place of a port is not modelled")


def _raw(expression: n.RawPayload, packet: Packet) -> Part | None:
    """`@nh,OFFSET,LENGTH`: as far as it covers what netlab keeps of a header."""
    what = words.expression_text(expression)
    known: dict[tuple[str, int, int], Part | None] = {}
    if packet.family == 4:
        known |= {("nh", 96, 32): Part(packet.src.value), ("nh", 128, 32): Part(packet.dst.value)}
        known |= {("nh", 64, 8): Part(packet.ttl), ("nh", 72, 8): Part(packet.protocol), ("nh", 0, 8): Part(0x45)}
        known[("nh", 16, 16)] = Part(packet.length)
    else:
        known |= {("nh", 64, 128): Part(packet.src.value), ("nh", 192, 128): Part(packet.dst.value)}
        known |= {("nh", 56, 8): Part(packet.ttl), ("nh", 48, 8): Part(packet.protocol)}
    known |= {("th", 0, 16): _transport_field("sport", packet), ("th", 16, 16): _transport_field("dport", packet)}
    key = (expression.base, expression.offset, expression.length)
    return known[key] if key in known else Part(0, 0, f"{what} is not modelled")


_STATES: Final = {
    CtState.INVALID: 1, CtState.ESTABLISHED: 2, CtState.RELATED: 4, CtState.NEW: 8, CtState.UNTRACKED: 64,
}  # fmt: skip


def _ct(expression: n.CtKey, view: View) -> Part | None:
    """nft_ct.c nft_ct_get_eval: the state exists without a connection, nothing else does."""
    ct, key = view.ct, expression.key
    if key == "state":
        return Part(_STATES[CtState.INVALID if ct is None else ct.state])
    if ct is None or ct.connection is None or ct.connection.original.protocol == 0:
        return None  # of the template that `ct zone set` attaches nothing else is told
    connection = ct.connection
    tuple_ = connection.reply if expression.direction == "reply" else connection.original
    match key:
        case "mark":
            return Part(connection.mark)
        case "direction":
            return Part(int(ct.is_reply))
        case "status":
            number = 2 * connection.seen_reply + 4 * connection.assured + 8 * connection.confirmed
            number += 16 * connection.snat + 32 * connection.dnat
            return Part(number, 0x3F | ~0xFFFF, "some flags of a connection's status are not modelled")
        case "l3proto":
            return Part(2 if tuple_.src.family == 4 else 10)
        case "protocol":
            return Part(tuple_.protocol)
        case "saddr" | "daddr":
            wanted = _FAMILY.get(expression.family)
            if wanted is not None and tuple_.src.family != wanted:
                return None
            return Part((tuple_.src if key == "saddr" else tuple_.dst).value)
        case "proto-src":
            return Part(tuple_.sport)
        case "proto-dst":
            if expression.direction == "reply" and connection.random_port:
                return Part(0, 0, _RANDOM_PORT)
            return Part(tuple_dport(tuple_))
        case "zone":
            reply = expression.direction == "reply" if expression.direction else ct.is_reply
            given = connection.zone_direction in ("", "reply" if reply else "orig")
            return Part(connection.zone if given else 0)
        case _:
            return Part(0, 0, f"ct {key} is not modelled")


# -- fib ---------------------------------------------------------------------------------------------------------------

_TYPES: Final = {
    RouteType.UNICAST: 1, RouteType.LOCAL: 2, RouteType.BROADCAST: 3, RouteType.ANYCAST: 4, RouteType.MULTICAST: 5,
    RouteType.BLACKHOLE: 6, RouteType.UNREACHABLE: 7, RouteType.PROHIBIT: 8,
}  # fmt: skip


def _fib(expression: n.Fib, view: View) -> Part:
    """nft_fib.c, nft_fib_ipv4.c, nft_fib_ipv6.c."""
    packet, flags = view.packet, expression.flags
    address = packet.dst if "daddr" in flags else packet.src
    device = view.indev if "iif" in flags else view.outdev if "oif" in flags else ""
    if expression.result == "type":
        if packet.family == 4:
            return Part(_TYPES[address_type(view.netns, address, device or None)])
        return _fib6_type(view, address, device, "mark" in flags)
    found = _fib_device(view, address, device, "mark" in flags, "daddr" in flags, "iif" in flags)
    if expression.result == "oifname":
        return Part(_name_number(found))
    held = view.netns.devices.get(found)
    return Part(held.index if held is not None else 0)


def _fib6_type(view: View, address: Ip, device: str, mark: bool) -> Part:
    """nft_fib_ipv6.c __nft_fib6_eval_type."""
    netns = view.netns
    kind = 0
    if device:
        held = netns.devices.get(device)
        if held is not None and any(a.ip == address for a in held.addresses):
            kind = 2
    found = lookup(netns, address, mark=view.packet.mark if mark else 0)[0]
    if found.undecided is not None:
        raise Doubt(found.undecided)
    if found.type in (RouteType.UNREACHABLE, RouteType.BLACKHOLE, RouteType.PROHIBIT):
        return Part(_TYPES[found.type])
    if found.type is RouteType.ANYCAST:
        kind = 4
    elif not device and found.type is RouteType.LOCAL:
        kind = 2
    if kind:
        return Part(kind)
    if address.is_multicast:
        return Part(5)
    mapped = address.value >> 32 == 0xFFFF
    return Part(0 if mapped or address.value == 0 else 1)


def _fib_device(view: View, address: Ip, device: str, mark: bool, to_destination: bool, by_iif: bool) -> str:
    """The device that an address is reached through, "" where there is none; with a device given, that one or none."""
    packet, netns = view.packet, view.netns
    if view.hook in (Hook.PREROUTING, Hook.INPUT) and view.indev == "lo":  # nft_fib.h nft_fib_can_skip
        return "lo"
    if packet.family == 4 and packet.src.value >> 24 == 0 and (
        packet.dst.value == 0xFFFFFFFF or packet.dst.value >> 8 == 0xE00000
    ):
        return view.indev or view.outdev
    iif = device if by_iif else ""
    if by_iif and not to_destination and view.hook is Hook.FORWARD:
        iif = view.outdev
    other = packet.src if to_destination else packet.dst
    oif = device if packet.family == 6 and address.is_link_local else ""
    ways = lookup(netns, address, src=other, mark=packet.mark if mark else 0, iif=iif, oif=oif)
    first = ways[0]
    if first.undecided is not None:
        raise Doubt(first.undecided)
    if packet.family == 4:
        if first.type is not RouteType.UNICAST:
            return ""
        devices = {way.dev for way in ways}
        if device:
            return device if device in devices else ""
        return ways[0].dev
    if first.type is not RouteType.UNICAST:
        return ""
    if device and first.dev != device:
        return ""
    return first.dev


# -- hashes ------------------------------------------------------------------------------------------------------------


def _seeded_hash(expression: n.Hashed, view: View, table: NftTable) -> Spread | None:
    """nft_hash.c nft_jhash_eval: with a given seed the result is certain."""
    assert expression.of is not None
    assert expression.seed is not None
    sizes = _sizes(expression.of, table)
    if sizes is None:
        return None
    made: Spread = []
    for share, parts in value(expression.of, view, table):
        if parts is None:
            made.append((share, None))
            continue
        if any(part.known != _ALL for part in parts):
            return None
        data = b"".join(
            number.to_bytes(size, "big").ljust(-(-size // 4) * 4, b"\0")
            for (number, _, _), size in zip(parts, sizes, strict=True)
        )
        length = len(data) if len(parts) > 1 else sizes[0]
        hashed = jhash(data[:length], expression.seed)
        made.append((share, (Part((hashed * expression.modulus >> 32) + expression.offset),)))
    return made


def _sizes(of: Expression, table: NftTable) -> list[int] | None:
    """Bytes of each part in the kernel's registers (big-endian), where netlab is sure of them."""
    parts = of.parts if isinstance(of, n.Concat) else (of,)
    found: list[int] = []
    for part in parts:
        size = {"ipv4_addr": 4, "ipv6_addr": 16, "inet_service": 2, "inet_proto": 1}.get(words.datatype(part, table.sets))
        if not isinstance(part, n.Payload | n.Meta) or size is None:
            return None
        found.append(size)
    return found


def jhash(data: bytes, seed: int) -> int:
    """include/linux/jhash.h.

    >>> hex(jhash(b"", 0))
    '0xdeadbeef'
    """
    mask = 0xFFFFFFFF

    def rotated(number: int, by: int) -> int:
        return ((number << by) | (number >> (32 - by))) & mask

    length = len(data)
    a = b = c = (0xDEADBEEF + length + seed) & mask
    at = 0
    while length > 12:
        a = (a + int.from_bytes(data[at : at + 4], "little")) & mask
        b = (b + int.from_bytes(data[at + 4 : at + 8], "little")) & mask
        c = (c + int.from_bytes(data[at + 8 : at + 12], "little")) & mask
        a = ((a - c) & mask) ^ rotated(c, 4)
        c = (c + b) & mask
        b = ((b - a) & mask) ^ rotated(a, 6)
        a = (a + c) & mask
        c = ((c - b) & mask) ^ rotated(b, 8)
        b = (b + a) & mask
        a = ((a - c) & mask) ^ rotated(c, 16)
        c = (c + b) & mask
        b = ((b - a) & mask) ^ rotated(a, 19)
        a = (a + c) & mask
        c = ((c - b) & mask) ^ rotated(b, 4)
        b = (b + a) & mask
        length -= 12
        at += 12
    rest = data[at:]
    if not rest:
        return c
    rest = rest.ljust(12, b"\0")
    a = (a + int.from_bytes(rest[0:4], "little")) & mask
    b = (b + int.from_bytes(rest[4:8], "little")) & mask
    c = (c + int.from_bytes(rest[8:12], "little")) & mask
    c = ((c ^ b) - rotated(b, 14)) & mask
    a = ((a ^ c) - rotated(c, 11)) & mask
    b = ((b ^ a) - rotated(a, 25)) & mask
    c = ((c ^ b) - rotated(b, 16)) & mask
    a = ((a ^ c) - rotated(c, 4)) & mask
    b = ((b ^ a) - rotated(a, 14)) & mask
    return ((c ^ b) - rotated(b, 24)) & mask


# -- sets --------------------------------------------------------------------------------------------------------------


class _Index:
    """The elements of a set, to be found by key: exact ones in a table, intervals sorted or in a list."""

    def __init__(self, elements: Iterable[Element], kinds: Sequence[str], netns: Netns) -> None:
        self.exact: dict[tuple[int, ...], Element] = {}
        self.spans: list[tuple[tuple[Span, ...], Element]] = []
        self.rest: Element | None = None
        self.doubts: list[str] = []
        for element in elements:
            if element.key == n.Value("*"):
                self.rest = element
                continue
            key = element.key
            parts = key.parts if isinstance(key, n.Concat) else (key,)
            padded = [*kinds, *[""] * (len(parts) - len(kinds))]
            try:
                spans = tuple(constant(part, kind, netns) for part, kind in zip(parts, padded, strict=False))
            except Doubt as doubt:
                self.doubts.append(str(doubt))
                continue
            if all(low == high for low, high in spans):
                self.exact[tuple(low for low, _ in spans)] = element
            else:
                self.spans.append((spans, element))
        self.single = all(len(spans) == 1 for spans, _ in self.spans)
        if self.single:
            self.spans.sort(key=lambda s: s[0])
            self.lows = [spans[0][0] for spans, _ in self.spans]

    def find(self, key: Parts) -> list[Element]:
        """The elements that the key may be; more than one, or any beside None, only where parts of it are not known."""
        if all(part.known == _ALL for part in key):
            exact = self.exact.get(tuple(part.value for part in key))
            if exact is not None:
                return [exact]
            if self.single:
                at = bisect_right(self.lows, key[0].value) - 1 if self.spans else -1
                if at >= 0 and key[0].value <= self.spans[at][0][0][1]:
                    return [self.spans[at][1]]
                return []
            for spans, element in self.spans:
                if all(low <= part.value <= high for part, (low, high) in zip(key, spans, strict=False)):
                    return [element]
            return []
        found = [
            element
            for numbers, element in self.exact.items()
            if all((part.value ^ number) & part.known == 0 for part, number in zip(key, numbers, strict=False))
        ]
        for spans, element in self.spans:
            if all(
                low <= part.value <= high if part.known == _ALL else True for part, (low, high) in zip(key, spans, strict=False)
            ):
                found.append(element)
        return found


Changes = dict[tuple[int, ...], Element | None]


def set_key(table: NftTable, name: str) -> tuple[str, str, str]:
    """How the changes of a set are filed in a View."""
    return table.family, table.name, name


def _index(data: n.SetName | n.SetLiteral, key: Expression, view: View, table: NftTable) -> tuple[_Index, Changes, NftSet | None]:
    cache = view.netns.cache.setdefault("nft sets", {})
    assert isinstance(cache, dict)
    if isinstance(data, n.SetName):
        held = table.sets.get(data.name)
        if held is None:
            raise Doubt(f"set {data.name} is not there")
        changes = view.nft_changes.get(set_key(table, data.name), {})
        known = cache.get(id(held))
        if known is None or known[0] is not held:  # the entry holds the set, so that its id stays its own
            known = cache[id(held)] = (held, _Index(held.elements, held.type, view.netns))
        return known[1], changes, held
    known = cache.get(id(data))
    if known is None or known[0] is not data:
        kinds = words.datatype(key, table.sets).split(" . ")
        known = cache[id(data)] = (data, _Index(data.elements, kinds, view.netns))
    return known[1], {}, None


def _found(index: _Index, changes: Changes, key: Parts) -> Element | None:
    """The element of a key, or None.

    Raises
    ------
    Doubt
        Where several may be meant.
    """
    certain = all(part.known == _ALL for part in key)
    if changes and certain:
        numbers = tuple(part.value for part in key)
        if numbers in changes:
            return changes[numbers]
    found = index.find(key)
    if certain and found:
        return found[0]
    why = next((part.why for part in key if part.known != _ALL), "")
    if not certain:
        maybe = any(
            all((part.value ^ number) & part.known == 0 for part, number in zip(key, numbers, strict=False))
            for numbers in changes
        )
        if found or maybe:
            raise Doubt(why)
    if index.doubts:
        raise Doubt(index.doubts[0])
    return index.rest


def _checked(element: Element | None) -> Element | None:
    """An element's own statements (nft_lookup.c, nft_set_elem_expr_setup): a counter decides nothing, a limit may."""
    if element is not None:
        for statement in element.statements:
            if not isinstance(statement, n.Counter):
                raise Doubt("a limit of a set's element is not modelled")
    return element


def contains(data: n.SetName | n.SetLiteral, key: Expression, parts: Parts, view: View, table: NftTable) -> bool:
    """Whether a set has a key (nft_lookup.c); Doubt where that is open."""
    index, changes, _ = _index(data, key, view, table)
    return _checked(_found(index, changes, parts)) is not None


def _mapped(expression: n.Lookup, view: View, table: NftTable, kind: str) -> Spread:
    index, changes, held = _index(expression.data, expression.key, view, table)
    if held is not None:
        kind = " . ".join(held.data).removeprefix("interval ")
    made: dict[Parts | None, Fraction] = {}
    for share, parts in value(expression.key, view, table):
        element = None if parts is None else _checked(_found(index, changes, parts))
        data: Parts | None = None
        if element is not None:
            if element.data is None or isinstance(element.data, n.Verdict):
                raise Doubt("a map without data")
            if isinstance(element.data, n.RangeValue | n.PrefixValue):
                raise Doubt("a map of ranges is not modelled")
            inner = value(element.data, view, table, kind)
            data = inner[0][1]
        made[data] = made.get(data, Fraction(0)) + share
    return [(share, parts) for parts, share in made.items()]


# -- statements --------------------------------------------------------------------------------------------------------


def compare_holds(statement: n.Compare, view: View, table: NftTable) -> Answer:
    """Whether a comparison or lookup holds; a value that is missing never does.

    Returns
    -------
    bool, Chance or Undecided
    """
    left, op, right = statement.left, statement.op, statement.right
    kind = words.datatype(left, table.sets)
    try:
        spread = value(left, view, table)
        holds = Fraction(0)
        for share, parts in spread:
            if parts is None:
                continue
            if isinstance(right, n.SetName | n.SetLiteral):
                answer = contains(right, left, parts, view, table) is (op != "!=")
            else:
                answer = _compared(parts, op, right, kind, view)
            if answer:
                holds += share
    except Doubt as doubt:
        return Undecided(str(doubt))
    if holds == 0:
        return False
    return True if holds == 1 else Chance(holds)


def _compared(parts: Parts, op: str, right: Expression, kind: str, view: View) -> bool:
    constants = right.parts if isinstance(right, n.Concat) else (right,)
    kinds = kind.split(" . ") if len(constants) > 1 else [kind]
    if len(constants) != len(parts):
        raise Doubt("a comparison of several values with one is not modelled")
    doubt: str | None = None
    for part, each, own in zip(parts, constants, kinds, strict=False):
        answer = _one_compared(part, "==" if len(constants) > 1 else op, constant(each, own, view.netns))
        if answer is None:
            doubt = part.why
        elif not answer:
            return op == "!=" and len(constants) > 1
    if doubt is not None:
        raise Doubt(doubt)
    return op != "!=" or len(constants) == 1


def _one_compared(part: Part, op: str, span: Span) -> bool | None:
    """nft_cmp.c, nft_range.c; None where the unknown bits decide."""
    number, known, _ = part
    low, high = span
    if op in ("in", "!"):
        if number & known & low:
            return op == "in"
        return None if low & ~known else op == "!"
    if known != _ALL:
        if op in ("==", "!=") and low == high:
            if (number ^ low) & known:
                return op == "!="
            return None
        return None
    match op:
        case "==":
            return low <= number <= high
        case "!=":
            return not low <= number <= high
        case "<":
            return number < low
        case ">":
            return number > low
        case "<=":
            return number <= low
        case _:
            return number >= low


def element_of(data: n.SetName | n.SetLiteral, key: Expression, view: View, table: NftTable) -> Element | None:
    """The element that a packet's key is in, where that is certain."""
    try:
        spread = value(key, view, table)
        if len(spread) != 1 or spread[0][1] is None:
            return None
        index, changes, _ = _index(data, key, view, table)
        return _found(index, changes, spread[0][1])
    except Doubt:
        return None


class Verdicted(NamedTuple):
    """What a verdict map says with a probability, and the element that says so (None: none, or several alike)."""

    share: Fraction
    verdict: n.Verdict | None
    element: Element | None


def verdicts(statement: n.Vmap, view: View, table: NftTable) -> list[Verdicted] | Undecided:
    """What a verdict map says, each verdict once; None where the key has no verdict and the rule ends."""
    made: dict[n.Verdict | None, Verdicted] = {}
    try:
        index, changes, _ = _index(statement.data, statement.key, view, table)
        for share, parts in value(statement.key, view, table):
            element = None if parts is None else _checked(_found(index, changes, parts))
            found = element.data if element is not None else None
            verdict = found if isinstance(found, n.Verdict) else None
            known = made.get(verdict)
            if known is None:
                made[verdict] = Verdicted(share, verdict, element)
            else:
                made[verdict] = Verdicted(known.share + share, verdict, element if element is known.element else None)
    except Doubt as doubt:
        return Undecided(str(doubt))
    return list(made.values())


def possible_verdicts(statement: n.Vmap, table: NftTable) -> list[n.Verdict | None]:
    """All that a verdict map may say."""
    data = statement.data
    elements = data.elements if isinstance(data, n.SetLiteral) else table.sets[data.name].elements
    found: dict[n.Verdict | None, None] = {None: None}
    for element in elements:
        if isinstance(element.data, n.Verdict):
            found[element.data] = None
    return list(found)


def values(
    expression: Expression, view: View, table: NftTable, kind: str
) -> list[tuple[Fraction, tuple[int, ...] | None]] | Undecided:
    """The values of an expression as numbers, equal ones together; None where there is none and the rule ends."""
    made: dict[tuple[int, ...] | None, Fraction] = {}
    try:
        for share, parts in value(expression, view, table, kind):
            if parts is not None:
                doubt = next((part.why for part in parts if part.known != _ALL), None)
                if doubt is not None:
                    return Undecided(doubt)
            numbers = None if parts is None else tuple(part.value for part in parts)
            made[numbers] = made.get(numbers, Fraction(0)) + share
    except Doubt as doubt_:
        return Undecided(str(doubt_))
    return [(share, numbers) for numbers, share in made.items()]


# -- what statements do ------------------------------------------------------------------------------------------------

_MAY_END: Final = ("quota", "ct count", "limit", "meter", '{"quota', '{"ct count', '{"meter')
_HARMLESS: Final = ("last", '{"last', "ct helper", "ct timeout", '{"ct helper', '{"ct timeout')
_UNSEEN_FIELDS: Final = frozenset({"dscp", "ecn", "flowlabel", "id", "checksum"})
_REJECTS: Final = {
    4: {
        "net-unreachable": "net-unreachable", "host-unreachable": "host-unreachable", "prot-unreachable": "proto-unreachable",
        "port-unreachable": "port-unreachable", "net-prohibited": "net-prohibited", "host-prohibited": "host-prohibited",
        "admin-prohibited": "admin-prohibited", "no-route": "net-unreachable",
    },
    6: {
        "no-route": "no-route", "admin-prohibited": "adm-prohibited", "addr-unreachable": "addr-unreachable",
        "port-unreachable": "port-unreachable", "policy-fail": "policy-fail", "reject-route": "reject-route",
        "host-unreachable": "addr-unreachable",
    },
}  # fmt: skip


def may_end(statement: n.UnknownStatement) -> bool:
    """Whether a statement may end its rule and does nothing else to the packet."""
    return (statement.text or statement.json).startswith(_MAY_END)


def is_harmless(statement: n.UnknownStatement) -> bool:
    """Whether a statement does not even that."""
    return (statement.text or statement.json).startswith(_HARMLESS)


def decides_nothing(key: Expression) -> bool:
    """Whether `KEY set ...` has no say in where a packet goes."""
    if isinstance(key, n.Meta):
        return key.key in ("nftrace", "priority", "secmark")
    return isinstance(key, n.CtKey) and key.key in ("label", "event", "helper", "secmark")


def is_settable(key: Expression) -> bool:
    """Whether netlab models `KEY set ...`."""
    return isinstance(key, n.Payload) or key == n.Meta("mark") or (isinstance(key, n.CtKey) and key.key in ("mark", "zone"))


def written(packet: Packet, key: n.Payload, number: int) -> Packet | Undecided | None:
    """A packet with a field of its headers set (nft_payload.c nft_payload_set_eval); None where it does not have that header."""
    if key.protocol in ("ip", "ip6") and packet.family != _FAMILY[key.protocol]:
        return None
    if key.protocol in ("tcp", "udp", "sctp") and packet.protocol != _TRANSPORT[key.protocol]:
        return None
    ports = packet.protocol in (TCP, UDP, SCTP)
    match key.protocol, key.field:
        case ("ip" | "ip6"), "saddr":
            return replace(packet, src=Ip(packet.family, number))
        case ("ip" | "ip6"), "daddr":
            return replace(packet, dst=Ip(packet.family, number))
        case ("ip" | "ip6"), ("ttl" | "hoplimit"):
            return replace(packet, ttl=number)
        case ("tcp" | "udp" | "sctp" | "th"), "sport" if ports:
            return replace(packet, sport=number, sport_random=False)
        case ("tcp" | "udp" | "sctp" | "th"), "dport" if ports:
            return replace(packet, dport=number)
        case ("ip" | "ip6"), field if field in _UNSEEN_FIELDS:
            return packet
        case _:
            return Undecided(f"{key.protocol} {key.field} set is not modelled")


def reject_kind(statement: n.RejectStatement, table_family: str, family: int) -> str | None:
    """How a rule rejects, in the words of iptables' REJECT (nft_reject_ipv4.c, nft_reject_ipv6.c, nft_reject_inet.c).

    None where the rule does not hold for packets of the family; "tcp-reset" is for TCP alone.
    """
    kind, code = statement.type, statement.code
    if not kind:
        kind, code = words.default_reject(table_family)
    if (kind == "icmp" and family == 6) or (kind == "icmpv6" and family == 4):
        return None
    if kind == "tcp reset":
        return "tcp-reset"
    return f"{'icmp' if family == 4 else 'icmp6'}-{_REJECTS[family].get(code, code)}"


def is_for(statement: n.Nat, table_family: str, family: int) -> bool:
    """Whether a NAT statement is for packets of a family (nft_nat.c nft_nat_inet_eval); it does nothing to others."""
    return table_family != "inet" or not statement.family or _FAMILY[statement.family] == family


def is_computed(part: Expression | None) -> bool:
    """Whether an address or port of a NAT statement is a value by packet or chance, no range or prefix."""
    return part is not None and not isinstance(part, n.RangeValue | n.PrefixValue)


def nat_target(
    statement: n.Nat, family: int, address: tuple[int, ...], port: tuple[int, ...]
) -> Dnat | Snat | Masquerade | Redirect | Netmap | Undecided:
    """What a NAT statement gives to nf_nat_setup_info (nft_nat.c, nft_masq.c, nft_redir.c).

    Parameters
    ----------
    statement : Nat
    family : int
        Of the packet.
    address, port : tuple of int
        The values of what `is_computed`; `address` may have the port, too.
    """
    kind = "ipv4_addr" if family == 4 else "ipv6_addr"
    low = high = port_low = port_high = None
    if statement.prefix:
        if not isinstance(statement.address, n.PrefixValue):
            return Undecided("a map of prefixes is not modelled")
        mask = mask_of(family, statement.address.length)
        return Netmap(family, ip(statement.address.address).value & mask, mask)
    if address:
        low, port_low = Ip(family, address[0]), address[1] if len(address) > 1 else None
    elif statement.address is not None:
        span = constant(statement.address, kind, None)
        low, high = Ip(family, span[0]), Ip(family, span[1])
    if port:
        port_low = port[0]
    elif statement.port is not None:
        port_low, port_high = constant(statement.port, "inet_service", None)
    flags = statement.flags
    to = NatRange(
        low, high, port_low, port_high, random="random" in flags, random_fully="fully-random" in flags,
        persistent="persistent" in flags,
    )  # fmt: skip
    match statement.kind:
        case "dnat":
            return Dnat(to)
        case "snat":
            return Snat(to)
        case "masquerade":
            return Masquerade(to)
        case _:
            return Redirect(to)


__all__ = [
    "Changes", "Doubt", "Part", "Verdicted", "compare_holds", "constant", "contains", "decides_nothing", "element_of",
    "is_computed", "is_for", "is_harmless", "is_settable", "jhash", "may_end", "nat_target", "possible_verdicts", "reject_kind",
    "set_key", "value", "values", "verdicts", "written",
]  # fmt: skip
