"""Is a packet in an ipset? Membership for `-m set`, for every set type that is a product of known parts.

A type is a method and its parts, `hash:ip,port,net`; the packet supplies one value per part, from the side that the
rule's dims name. Law: the most specific network wins and `nomatch` makes it an exception, as in the kernel
(net/netfilter/ipset/ip_set_hash_gen.h, ip_set_core.c). What cannot be decided is Undecided and names the set.
Elements with a timeout count as present: netlab sees no clock.
"""

from __future__ import annotations

import itertools
import socket
from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple

from netlab.linux.addr import Ip, ip, mask_of, prefix
from netlab.linux.netns import Netns
from netlab.linux.packet import ICMP, ICMPV6, PROTOCOL_NUMBERS, SCTP, TCP, UDP, Packet
from netlab.linux.rules import Hook
from netlab.linux.sets import IpSet
from netlab.match.view import Undecided, View

UDPLITE = 136

_PARTS = frozenset({"ip", "net", "port", "mark", "mac", "iface"})
_HASH_TYPES = frozenset({  # ipset(8); the part lists of net/netfilter/ipset/ip_set_hash_*.c
    "hash:ip", "hash:net", "hash:mac", "hash:ip,port", "hash:ip,port,ip", "hash:ip,port,net", "hash:ip,mark", "hash:ip,mac",
    "hash:net,net", "hash:net,port", "hash:net,port,net", "hash:net,iface", "bitmap:ip", "bitmap:ip,mac", "bitmap:port",
})  # fmt: skip

# ipset prints these ICMP types by name (ipset's lib/icmp.c and lib/icmpv6.c), others as TYPE/CODE
_ICMP_NAMES = {
    "echo-reply": (0, 0), "pong": (0, 0), "network-unreachable": (3, 0), "host-unreachable": (3, 1),
    "protocol-unreachable": (3, 2), "port-unreachable": (3, 3), "fragmentation-needed": (3, 4), "source-route-failed": (3, 5),
    "network-unknown": (3, 6), "host-unknown": (3, 7), "network-prohibited": (3, 9), "host-prohibited": (3, 10),
    "TOS-network-unreachable": (3, 11), "TOS-host-unreachable": (3, 12), "communication-prohibited": (3, 13),
    "host-precedence-violation": (3, 14), "precedence-cutoff": (3, 15), "source-quench": (4, 0), "network-redirect": (5, 0),
    "host-redirect": (5, 1), "TOS-network-redirect": (5, 2), "TOS-host-redirect": (5, 3), "echo-request": (8, 0),
    "ping": (8, 0), "router-advertisement": (9, 0), "router-solicitation": (10, 0), "ttl-zero-during-transit": (11, 0),
    "ttl-zero-during-reassembly": (11, 1), "ip-header-bad": (12, 0), "required-option-missing": (12, 1),
    "timestamp-request": (13, 0), "timestamp-reply": (14, 0), "address-mask-request": (17, 0), "address-mask-reply": (18, 0),
}  # fmt: skip
_ICMPV6_NAMES = {
    "no-route": (1, 0), "communication-prohibited": (1, 1), "address-unreachable": (1, 3), "port-unreachable": (1, 4),
    "packet-too-big": (2, 0), "ttl-zero-during-transit": (3, 0), "ttl-zero-during-reassembly": (3, 1), "bad-header": (4, 0),
    "unknown-header-type": (4, 1), "unknown-option": (4, 2), "echo-request": (128, 0), "ping": (128, 0),
    "echo-reply": (129, 0), "pong": (129, 0), "router-solicitation": (133, 0), "router-advertisement": (134, 0),
    "neighbour-solicitation": (135, 0), "neigbour-solicitation": (135, 0), "neighbour-advertisement": (136, 0),
    "neigbour-advertisement": (136, 0), "redirect": (137, 0),
}  # fmt: skip

Key = tuple[object, ...]


class Index(NamedTuple):
    """The elements of a set, ready to look up.

    `levels` holds, most specific first, the prefix lengths of the address parts and {key: nomatch} for them;
    `interfaces` does the same for hash:net,iface with {network: {device: nomatch}}, where a name that ends in NUL is a
    wildcard. `any_mac` are the addresses of a bitmap:ip,mac that were added without a MAC. `problem` says why the set
    cannot be decided.
    """

    of: IpSet
    parts: tuple[str, ...]
    levels: tuple[tuple[tuple[int, ...], dict[Key, bool]], ...] = ()
    interfaces: tuple[tuple[int, dict[int, dict[str, bool]]], ...] = ()
    any_mac: frozenset[int] = frozenset()
    netmask: int = -1
    markmask: int = 0xFFFFFFFF
    problem: str | None = None


def contains(
    name: str, dims: Sequence[str], view: View, return_nomatch: bool = False, sets: Mapping[str, IpSet] | None = None
) -> bool | Undecided:
    """Whether the packet is in the set, before the rule's own `!`.

    Parameters
    ----------
    name : str
        The set; looked up in `view.netns.sets` unless `sets` is given.
    dims : sequence of str
        "src" or "dst" for each part of the set's type.
    view : View
    return_nomatch : bool
        `--return-nomatch`: elements flagged `nomatch` are the members, the others are not (ip_set_core.c, ip_set_test).
    sets : mapping, optional

    Returns
    -------
    bool or Undecided
    """
    known = view.netns.sets if sets is None else sets
    ipset = known.get(name)
    if ipset is None:
        return Undecided(f"set {name} is not known")
    if ipset.type == "list:set":
        return _in_list(ipset, dims, view, return_nomatch, known)
    index = _index_of(view.netns, ipset)
    if index.problem is not None:
        return Undecided(index.problem)
    packet = view.packet
    if len(dims) < len(index.parts) or (packet.src.family != ipset.family and ipset.type != "bitmap:port"):
        return False  # ip_set_core.c ip_set_test: too few dims, or a set of the other family: not a member
    nomatch = _find(index, dims, view)
    if nomatch is None:
        return False
    if isinstance(nomatch, str):
        return Undecided(f"set {name}: {nomatch}")
    return nomatch if return_nomatch and "net" in index.parts else not nomatch


def _index_of(netns: Netns, ipset: IpSet) -> Index:
    """The set's index, built at its first use and kept in the namespace's cache."""
    known = netns.cache.get(f"ipset {ipset.name}")
    if isinstance(known, Index) and known.of is ipset:
        return known
    index = _build(ipset)
    netns.cache[f"ipset {ipset.name}"] = index
    return index


def _in_list(ipset: IpSet, dims: Sequence[str], view: View, return_nomatch: bool, known: Mapping[str, IpSet]) -> bool | Undecided:
    """list:set holds where a member set holds; a member with more parts than the rule has dims never does."""
    doubt: Undecided | None = None
    for entry in ipset.entries:
        member = known.get(entry.parts[0])
        if member is not None and member.type == "list:set":
            continue  # the kernel refuses lists of lists (ip_set_list_set.c)
        answer = contains(entry.parts[0], dims, view, return_nomatch, known)
        if answer is True:
            return True
        if isinstance(answer, Undecided):
            doubt = Undecided(f"set {ipset.name}: {answer.reason}")
    return doubt if doubt is not None else False


def _find(index: Index, dims: Sequence[str], view: View) -> bool | str | None:
    """The element that the packet falls on: its `nomatch` flag; None where there is none; a str says what is unknown."""
    packet = view.packet
    addresses: list[int] = []
    rest: list[object] = []
    for part, dim in zip(index.parts, dims, strict=False):
        src = dim == "src"
        if part in ("ip", "net"):
            addresses.append((packet.src if src else packet.dst).value & index.netmask)
            continue
        value = _value(part, src, index, view)
        if value is None:
            return None
        if value is _UNKNOWN:
            return f"{part} {dim} of the packet is not known"
        rest.append(value)
    bits = packet.src.bits
    for lengths, elements in index.levels:
        key: Key = (*[a >> (bits - n) for a, n in zip(addresses, lengths, strict=True)], *rest)
        found = elements.get(key)
        if found is not None:
            return found
        if index.any_mac and addresses[0] in index.any_mac:
            return False  # ip_set_bitmap_ipmac.c: an element without a MAC takes that of the first packet
    for length, networks in index.interfaces:
        devices = networks.get(addresses[0] >> (bits - length))
        if devices is not None:
            # ip_set_hash_netiface.c counts a known network in `multi` whatever its device, and mtype_test_cidrs stops there
            return _of_device(devices, str(rest[0]))
    return None


def _of_device(devices: dict[str, bool], name: str) -> bool | None:
    """The element for a device: its own, or one that was added with `wildcard` and is the beginning of its name."""
    found = devices.get(name)
    if found is None:
        found = next((no for device, no in devices.items() if device[-1:] == "\0" and name.startswith(device[:-1])), None)
    return found


_UNKNOWN = object()


def _value(part: str, src: bool, index: Index, view: View) -> object:
    """What the packet supplies for a part that is no address; None: it has none; _UNKNOWN: it has, but netlab cannot tell."""
    packet = view.packet
    if part == "port":
        if src and packet.sport_random and packet.protocol in (TCP, UDP, SCTP, UDPLITE):
            return _UNKNOWN
        port = _port(packet, src)
        if len(index.parts) > 1:
            return (packet.protocol, port)
        return port if packet.protocol in (TCP, UDP) else None  # bitmap:port: ip_set_getport.c ip_set_get_ip_port
    if part == "mark":
        return packet.mark & index.markmask
    if part == "iface":
        return (view.indev if src else view.outdev) or None
    mac = packet.src_mac if src else packet.dst_mac
    if mac:
        return mac.lower()
    return None if view.local or view.hook is Hook.OUTPUT else _UNKNOWN  # no Ethernet header was made yet


def _port(packet: Packet, src: bool) -> int:
    """ip_set_getport.c get_port: ICMP gives type and code whatever the side, protocols without ports give 0."""
    if packet.protocol in (TCP, UDP, SCTP, UDPLITE):
        return packet.sport if src else packet.dport
    if packet.protocol in (ICMP, ICMPV6):
        return packet.icmp_type << 8 | packet.icmp_code
    return 0


def _build(ipset: IpSet) -> Index:
    if ipset.type not in _HASH_TYPES:
        return Index(ipset, (), problem=f"set {ipset.name} of type {ipset.type} is not modelled")
    parts = tuple(ipset.type.partition(":")[2].split(","))
    try:
        return _index(ipset, parts)
    except ValueError as error:
        return Index(ipset, parts, problem=f"set {ipset.name}: {error}")


def _index(ipset: IpSet, parts: tuple[str, ...]) -> Index:
    options = ipset.options.split()
    bits = 32 if ipset.family == 4 else 128
    netmask, markmask = -1, 0xFFFFFFFF
    for name, value in itertools.pairwise(options):
        if name == "netmask":
            netmask = mask_of(ipset.family, int(value))
        elif name == "bitmask":
            netmask = ip(value).value
        elif name == "markmask":
            markmask = int(value, 0)
    levels: dict[tuple[int, ...], dict[Key, bool]] = {}
    interfaces: dict[int, dict[int, dict[str, bool]]] = {}
    any_mac: set[int] = set()
    for entry in ipset.entries:
        values = entry.parts
        if ipset.type == "bitmap:ip,mac" and len(values) == 1:
            any_mac.update(n << (bits - length) for length, n in _networks(values[0], bits))
            levels.setdefault((bits,), {})
            continue
        if len(values) != len(parts):
            raise ValueError(f"element {','.join(values)!r} does not fit type {ipset.type}")
        nets = [list(_networks(v, bits)) for p, v in zip(parts, values, strict=True) if p in ("ip", "net")]
        rest = [list(_others(p, v, len(parts) == 1)) for p, v in zip(parts, values, strict=True) if p not in ("ip", "net")]
        if "iface" in parts:
            device = str(rest[0][0]) + ("\0" if "wildcard" in entry.options.split() else "")
            for length, n in nets[0]:
                interfaces.setdefault(length, {}).setdefault(n, {})[device] = entry.nomatch
            continue
        for chosen in _product(nets):
            lengths = tuple(length for length, _ in chosen)
            elements = levels.setdefault(lengths, {})
            for others in _product(rest):
                elements[(*[n for _, n in chosen], *others)] = entry.nomatch
    return Index(
        ipset,
        parts,
        tuple(sorted(levels.items(), key=lambda level: level[0], reverse=True)),
        tuple(sorted(interfaces.items(), key=lambda level: level[0], reverse=True)),
        frozenset(any_mac),
        netmask,
        markmask,
    )


def _product(lists: list[list[tuple[int, int]]] | list[list[object]]) -> Iterator[tuple]:  # type: ignore[type-arg]
    return itertools.product(*lists)


def _networks(text: str, bits: int) -> Iterator[tuple[int, int]]:
    """(prefix length, network number) of `A`, `A/N`, or of the fewest networks that make `A-B`."""
    low, dash, high = text.partition("-")
    if not dash:
        network = prefix(text)
        _same_family(network.address, bits)
        yield network.length, network.value >> (bits - network.length)
        return
    first, last = ip(low), ip(high)
    _same_family(first, bits)
    start, end = first.value, last.value + 1
    while start < end:
        size = min(start & -start or 1 << bits, 1 << ((end - start).bit_length() - 1))
        length = bits - size.bit_length() + 1
        yield length, start >> (bits - length)
        start += size


def _same_family(address: Ip, bits: int) -> None:
    if address.bits != bits:
        raise ValueError(f"{address} is not of the set's family")


def _others(part: str, text: str, alone: bool) -> Iterator[object]:
    """The values of an element's part that is no address, in the form of `_value`."""
    if part == "mac":
        yield text.lower()
    elif part == "mark":
        yield int(text, 0)
    elif part == "iface":
        if text.startswith("physdev:"):
            raise ValueError(f"element with {text!r} is not modelled")
        yield text
    elif alone:
        low, _, high = text.partition("-")
        yield from range(int(low), int(high or low) + 1)
    else:
        yield from _proto_ports(text)


def _proto_ports(text: str) -> Iterator[tuple[int, int]]:
    """`tcp:80`, `udp:1-5`, `80` (TCP), `icmp:ping`, `icmp:8/0`, `47:0` as (protocol, port)."""
    name, colon, rest = text.partition(":")
    if not colon:
        name, rest = "tcp", text
    number = _protocol(name)
    names = {ICMP: _ICMP_NAMES, ICMPV6: _ICMPV6_NAMES}.get(number)
    if names is not None:
        type_, slash, code = rest.partition("/")
        if slash:
            yield number, int(type_) << 8 | int(code)
        elif rest in names:
            yield number, names[rest][0] << 8 | names[rest][1]
        else:
            raise ValueError(f"unknown ICMP type {rest!r}")
        return
    low, _, high = rest.partition("-")
    for port in range(_service(low, name), _service(high or low, name) + 1):
        yield number, port


def _protocol(name: str) -> int:
    if name.isdigit():
        return int(name)
    number = {"ipv6-icmp": ICMPV6, "udplite": UDPLITE, **PROTOCOL_NUMBERS}.get(name)
    if number is None:
        try:
            number = socket.getprotobyname(name)
        except OSError:
            raise ValueError(f"unknown protocol {name!r}") from None
    return number


def _service(text: str, protocol: str) -> int:
    if text.isdigit():
        return int(text)
    raise ValueError(f"port {text!r} of {protocol} is no number")
