"""The matches of the rule IR: what a rule asks of a packet.

Law: one class per iptables match, fields as the kernel stores them, `str()` exactly what iptables-save prints. Whether a
match holds is decided in match/naive.py. Sources: iptables-extensions(8), net/netfilter/xt_*.c.
"""

from __future__ import annotations

import msgspec

from netlab.linux.addr import Ip


class Source(msgspec.Struct, frozen=True, gc=False):
    """`-s ADDRESS/MASK`. `mask` is an integer: iptables allows masks that are no prefix."""

    family: int
    value: int
    mask: int
    negate: bool = False


class Destination(msgspec.Struct, frozen=True, gc=False):
    """`-d ADDRESS/MASK`."""

    family: int
    value: int
    mask: int
    negate: bool = False


class InInterface(msgspec.Struct, frozen=True, gc=False):
    """`-i NAME`; a trailing `+` matches any suffix."""

    name: str
    negate: bool = False


class OutInterface(msgspec.Struct, frozen=True, gc=False):
    """`-o NAME`."""

    name: str
    negate: bool = False


class Protocol(msgspec.Struct, frozen=True, gc=False):
    """`-p PROTOCOL` (number)."""

    protocol: int
    negate: bool = False


class Fragment(msgspec.Struct, frozen=True, gc=False):
    """`-f`: second and further fragments (IPv4)."""

    negate: bool = False


class Comment(msgspec.Struct, frozen=True, gc=False):
    """`-m comment --comment TEXT`; always matches."""

    text: str


class PortRange(msgspec.Struct, frozen=True, gc=False):
    """An inclusive range of ports."""

    low: int
    high: int


class Tcp(msgspec.Struct, frozen=True):
    """`-m tcp [! --sport A:B] [! --dport A:B] [! --tcp-flags MASK COMP] [! --tcp-option N]`.

    `flags` is (mask, comp) over FIN=1 SYN=2 RST=4 PSH=8 ACK=16 URG=32.
    """

    sport: PortRange | None = None
    not_sport: bool = False
    dport: PortRange | None = None
    not_dport: bool = False
    flags: tuple[int, int] | None = None
    not_flags: bool = False
    option: int | None = None
    not_option: bool = False


class Udp(msgspec.Struct, frozen=True):
    """`-m udp [! --sport A:B] [! --dport A:B]`."""

    sport: PortRange | None = None
    not_sport: bool = False
    dport: PortRange | None = None
    not_dport: bool = False


class Sctp(msgspec.Struct, frozen=True):
    """`-m sctp [! --sport] [! --dport] [! --chunk-types ...]`; `chunks` keeps the text of the chunk specification."""

    sport: PortRange | None = None
    not_sport: bool = False
    dport: PortRange | None = None
    not_dport: bool = False
    chunks: str | None = None
    not_chunks: bool = False


class Icmp(msgspec.Struct, frozen=True, gc=False):
    """`-m icmp` / `-m icmp6` `--icmp-type T[/C]`; `type` 255 means any (IPv4), `codes` is inclusive (low, high)."""

    family: int
    type: int
    codes: tuple[int, int] = (0, 255)
    negate: bool = False


class Multiport(msgspec.Struct, frozen=True):
    """`-m multiport --sports|--dports|--ports A,B:C`; `which` is "sports", "dports" or "ports"."""

    which: str
    ports: tuple[PortRange, ...]
    negate: bool = False


class Mark(msgspec.Struct, frozen=True, gc=False):
    """`-m mark --mark VALUE/MASK`."""

    value: int
    mask: int = 0xFFFFFFFF
    negate: bool = False


class Connmark(msgspec.Struct, frozen=True, gc=False):
    """`-m connmark --mark VALUE/MASK`."""

    value: int
    mask: int = 0xFFFFFFFF
    negate: bool = False


class AddressMask(msgspec.Struct, frozen=True, gc=False):
    """An address and mask inside a conntrack match."""

    family: int
    value: int
    mask: int


class Conntrack(msgspec.Struct, frozen=True):
    """`-m conntrack`. Each `not_*` negates the option before it.

    `states` holds INVALID, NEW, RELATED, ESTABLISHED, UNTRACKED, SNAT, DNAT; `status` NONE, EXPECTED, SEEN_REPLY, ASSURED,
    CONFIRMED; `direction` ORIGINAL or REPLY; `expire` seconds.
    """

    states: frozenset[str] | None = None
    not_states: bool = False
    protocol: int | None = None
    not_protocol: bool = False
    orig_src: AddressMask | None = None
    not_orig_src: bool = False
    orig_dst: AddressMask | None = None
    not_orig_dst: bool = False
    repl_src: AddressMask | None = None
    not_repl_src: bool = False
    repl_dst: AddressMask | None = None
    not_repl_dst: bool = False
    orig_src_port: PortRange | None = None
    not_orig_src_port: bool = False
    orig_dst_port: PortRange | None = None
    not_orig_dst_port: bool = False
    repl_src_port: PortRange | None = None
    not_repl_src_port: bool = False
    repl_dst_port: PortRange | None = None
    not_repl_dst_port: bool = False
    status: frozenset[str] | None = None
    not_status: bool = False
    expire: tuple[int, int] | None = None
    not_expire: bool = False
    direction: str | None = None


class State(msgspec.Struct, frozen=True):
    """`-m state --state ...` (the older spelling of conntrack --ctstate)."""

    states: frozenset[str]
    negate: bool = False


class Addrtype(msgspec.Struct, frozen=True):
    """`-m addrtype`: types of the FIB (LOCAL, UNICAST, BROADCAST, ...); `limit` is "", "in" or "out"."""

    src_types: frozenset[str] | None = None
    not_src: bool = False
    dst_types: frozenset[str] | None = None
    not_dst: bool = False
    limit: str = ""


class SetMatch(msgspec.Struct, frozen=True):
    """`-m set --match-set NAME DIMS`; `dims` of "src"/"dst"; `extra` keeps the rarer options (--packets-eq ...) as text."""

    name: str
    dims: tuple[str, ...]
    negate: bool = False
    return_nomatch: bool = False
    extra: str = ""


class Statistic(msgspec.Struct, frozen=True, gc=False):
    """`-m statistic`. Random: `threshold` of 2**31 (xt_statistic.c compares 31 random bits), nth: `every` and `packet`."""

    threshold: int | None = None
    every: int | None = None
    packet: int = 0
    negate: bool = False


class Recent(msgspec.Struct, frozen=True, gc=False):
    """`-m recent`; `action` is set, rcheck, update or remove; `side` "source" or "dest"; `mask` in the tool's text."""

    action: str
    negate: bool = False
    seconds: int | None = None
    reap: bool = False
    hitcount: int | None = None
    rttl: bool = False
    name: str = "DEFAULT"
    mask: str = "255.255.255.255"
    side: str = "source"


class Physdev(msgspec.Struct, frozen=True, gc=False):
    """`-m physdev`: bridge ports of a bridged packet (br_netfilter)."""

    physin: str | None = None
    not_physin: bool = False
    physout: str | None = None
    not_physout: bool = False
    is_in: bool = False
    not_is_in: bool = False
    is_out: bool = False
    not_is_out: bool = False
    is_bridged: bool = False
    not_is_bridged: bool = False


class Rpfilter(msgspec.Struct, frozen=True, gc=False):
    """`-m rpfilter`: holds when the reverse path check passes."""

    loose: bool = False
    validmark: bool = False
    accept_local: bool = False
    invert: bool = False


class Iprange(msgspec.Struct, frozen=True, gc=False):
    """`-m iprange --src-range A-B --dst-range A-B`."""

    src: tuple[Ip, Ip] | None = None
    not_src: bool = False
    dst: tuple[Ip, Ip] | None = None
    not_dst: bool = False


class Owner(msgspec.Struct, frozen=True, gc=False):
    """`-m owner`: who made the local socket."""

    uid: tuple[int, int] | None = None
    not_uid: bool = False
    gid: tuple[int, int] | None = None
    not_gid: bool = False
    socket_exists: bool = False
    not_socket_exists: bool = False
    suppl_groups: bool = False


class Mac(msgspec.Struct, frozen=True, gc=False):
    """`-m mac --mac-source MAC` (lower case)."""

    mac: str
    negate: bool = False


class Ttl(msgspec.Struct, frozen=True, gc=False):
    """`-m ttl` (IPv4) and `-m hl` (IPv6); `op` is eq, lt or gt."""

    family: int
    op: str
    value: int
    negate: bool = False


class Length(msgspec.Struct, frozen=True, gc=False):
    """`-m length --length A:B` (bytes of the IP packet; IPv6: without... see xt_length.c)."""

    low: int
    high: int
    negate: bool = False


class Limit(msgspec.Struct, frozen=True, gc=False):
    """`-m limit --limit RATE --limit-burst N`; `rate` as the tool prints it ("5/min")."""

    rate: str
    burst: int = 5


class Hashlimit(msgspec.Struct, frozen=True, gc=False):
    """`-m hashlimit ...`; options kept as text: the outcome depends on traffic that netlab does not see."""

    text: str


class Ipvs(msgspec.Struct, frozen=True, gc=False):
    """`-m ipvs ...`; options kept as text until the IPVS model evaluates them."""

    text: str


class Pkttype(msgspec.Struct, frozen=True, gc=False):
    """`-m pkt-type --pkt-type unicast|broadcast|multicast`."""

    type: str
    negate: bool = False


class UnknownMatch(msgspec.Struct, frozen=True, gc=False):
    """A match that netlab does not model: its module and the text of its options, kept whole."""

    module: str
    text: str


Match = (
    Source
    | Destination
    | InInterface
    | OutInterface
    | Protocol
    | Fragment
    | Comment
    | Tcp
    | Udp
    | Sctp
    | Icmp
    | Multiport
    | Mark
    | Connmark
    | Conntrack
    | State
    | Addrtype
    | SetMatch
    | Statistic
    | Recent
    | Physdev
    | Rpfilter
    | Iprange
    | Owner
    | Mac
    | Ttl
    | Length
    | Limit
    | Hashlimit
    | Ipvs
    | Pkttype
    | UnknownMatch
)
