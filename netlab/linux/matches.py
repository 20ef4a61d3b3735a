"""The matches of the rule IR: what a rule asks of a packet.

Law: one class per iptables match, fields as the kernel stores them, `str()` exactly what iptables-save prints. Whether a
match holds is decided in match/naive.py. Sources: iptables-extensions(8), net/netfilter/xt_*.c.
"""

from __future__ import annotations

from typing import Final

import msgspec

from netlab.linux.addr import Ip, mask_of

# /etc/protocols of Debian 12 (netbase): what iptables-save prints after -p. Numbers that are not here print as numbers.
IP_PROTOCOLS: Final = {
    1: "icmp", 2: "igmp", 3: "ggp", 4: "ipencap", 5: "st", 6: "tcp", 8: "egp", 9: "igp", 12: "pup", 17: "udp", 20: "hmp",
    22: "xns-idp", 27: "rdp", 29: "iso-tp4", 33: "dccp", 36: "xtp", 37: "ddp", 38: "idpr-cmtp", 41: "ipv6", 43: "ipv6-route",
    44: "ipv6-frag", 45: "idrp", 46: "rsvp", 47: "gre", 50: "esp", 51: "ah", 57: "skip", 58: "ipv6-icmp", 59: "ipv6-nonxt",
    60: "ipv6-opts", 73: "rspf", 81: "vmtp", 88: "eigrp", 89: "ospf", 93: "ax.25", 94: "ipip", 97: "etherip", 98: "encap",
    103: "pim", 108: "ipcomp", 112: "vrrp", 115: "l2tp", 124: "isis", 132: "sctp", 133: "fc", 135: "mobility-header",
    136: "udplite", 137: "mpls-in-ip", 138: "manet", 139: "hip", 140: "shim6", 141: "wesp", 142: "rohc", 143: "ethernet",
}  # fmt: skip

# Orders in which the tools print members of a set (libxt_conntrack.c, libxt_addrtype.c).
CT_STATES: Final = ("INVALID", "NEW", "RELATED", "ESTABLISHED", "UNTRACKED", "SNAT", "DNAT")
CT_STATUSES: Final = ("NONE", "EXPECTED", "SEEN_REPLY", "ASSURED", "CONFIRMED")
ADDRESS_TYPES: Final = (
    "UNSPEC", "UNICAST", "LOCAL", "BROADCAST", "ANYCAST", "MULTICAST", "BLACKHOLE", "UNREACHABLE", "PROHIBIT", "THROW",
    "NAT", "XRESOLVE",
)  # fmt: skip
TCP_FLAGS: Final = ("FIN", "SYN", "RST", "PSH", "ACK", "URG")

_PLAIN: Final = frozenset("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_-")
_ESCAPES: Final = str.maketrans({'"': '\\"', "\\": "\\\\", "'": "\\'"})


def save_string(text: str) -> str:
    """A string as iptables-save writes it: bare where it is one plain word, else in double quotes (xtables_save_string).

    >>> print(save_string("cali:6gwbT8clXdHdC1b1"), save_string("plain"))
    "cali:6gwbT8clXdHdC1b1" plain
    """
    if text and _PLAIN.issuperset(text):
        return text
    return f'"{text.translate(_ESCAPES)}"'


def mask_text(family: int, mask: int) -> str:
    """A netmask after the slash: its length, or the mask as an address where it is no prefix (xtables_ipmask_to_numeric)."""
    length = mask.bit_count()
    return str(length) if mask == mask_of(family, length) else str(Ip(family, mask))


def _address(family: int, value: int) -> str:
    if family == 4:
        return f"{value >> 24}.{value >> 16 & 255}.{value >> 8 & 255}.{value & 255}"
    return str(Ip(family, value))


def _not(negate: bool) -> str:
    return "! " if negate else ""


def _range(low: int, high: int) -> str:
    return str(low) if low == high else f"{low}:{high}"


def _members(order: tuple[str, ...], members: frozenset[str]) -> str:
    return ",".join([name for name in order if name in members])


def _ports(low: PortRange | None, not_low: bool, high: PortRange | None, not_high: bool) -> str:
    text = "" if low is None else f" {_not(not_low)}--sport {low}"
    return text if high is None else f"{text} {_not(not_high)}--dport {high}"


class Source(msgspec.Struct, frozen=True, gc=False):
    """`-s ADDRESS/MASK`. `mask` is an integer: iptables allows masks that are no prefix."""

    family: int
    value: int
    mask: int
    negate: bool = False

    def __str__(self) -> str:
        return f"{_not(self.negate)}-s {_address(self.family, self.value)}/{mask_text(self.family, self.mask)}"


class Destination(msgspec.Struct, frozen=True, gc=False):
    """`-d ADDRESS/MASK`."""

    family: int
    value: int
    mask: int
    negate: bool = False

    def __str__(self) -> str:
        return f"{_not(self.negate)}-d {_address(self.family, self.value)}/{mask_text(self.family, self.mask)}"


class InInterface(msgspec.Struct, frozen=True, gc=False):
    """`-i NAME`; a trailing `+` matches any suffix."""

    name: str
    negate: bool = False

    def __str__(self) -> str:
        return f"{_not(self.negate)}-i {self.name}"


class OutInterface(msgspec.Struct, frozen=True, gc=False):
    """`-o NAME`."""

    name: str
    negate: bool = False

    def __str__(self) -> str:
        return f"{_not(self.negate)}-o {self.name}"


class Protocol(msgspec.Struct, frozen=True, gc=False):
    """`-p PROTOCOL` (number)."""

    protocol: int
    negate: bool = False

    def __str__(self) -> str:
        return f"{_not(self.negate)}-p {IP_PROTOCOLS.get(self.protocol, self.protocol)}"


class Fragment(msgspec.Struct, frozen=True, gc=False):
    """`-f`: second and further fragments (IPv4)."""

    negate: bool = False

    def __str__(self) -> str:
        return f"{_not(self.negate)}-f"


class Comment(msgspec.Struct, frozen=True, gc=False):
    """`-m comment --comment TEXT`; always matches."""

    text: str

    def __str__(self) -> str:
        return f"-m comment --comment {save_string(self.text)}"


class PortRange(msgspec.Struct, frozen=True, gc=False):
    """An inclusive range of ports."""

    low: int
    high: int

    def __str__(self) -> str:
        return _range(self.low, self.high)


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

    def __str__(self) -> str:
        text = f"-m tcp{_ports(self.sport, self.not_sport, self.dport, self.not_dport)}"
        if self.option is not None:
            text += f" {_not(self.not_option)}--tcp-option {self.option}"
        if self.flags is not None:
            mask, comp = (",".join([f for n, f in enumerate(TCP_FLAGS) if bits >> n & 1]) or "NONE" for bits in self.flags)
            text += f" {_not(self.not_flags)}--tcp-flags {mask} {comp}"
        return text


class Udp(msgspec.Struct, frozen=True):
    """`-m udp [! --sport A:B] [! --dport A:B]`."""

    sport: PortRange | None = None
    not_sport: bool = False
    dport: PortRange | None = None
    not_dport: bool = False

    def __str__(self) -> str:
        return f"-m udp{_ports(self.sport, self.not_sport, self.dport, self.not_dport)}"


class Sctp(msgspec.Struct, frozen=True):
    """`-m sctp [! --sport] [! --dport] [! --chunk-types ...]`; `chunks` keeps the text of the chunk specification."""

    sport: PortRange | None = None
    not_sport: bool = False
    dport: PortRange | None = None
    not_dport: bool = False
    chunks: str | None = None
    not_chunks: bool = False

    def __str__(self) -> str:
        text = f"-m sctp{_ports(self.sport, self.not_sport, self.dport, self.not_dport)}"
        return text if self.chunks is None else f"{text} {_not(self.not_chunks)}--chunk-types {self.chunks}"


class Icmp(msgspec.Struct, frozen=True, gc=False):
    """`-m icmp` / `-m icmp6` `--icmp-type T[/C]`; `type` 255 means any (IPv4), `codes` is inclusive (low, high)."""

    family: int
    type: int
    codes: tuple[int, int] = (0, 255)
    negate: bool = False

    def __str__(self) -> str:
        module, option = ("icmp", "icmp") if self.family == 4 else ("icmp6", "icmpv6")
        if self.family == 4 and self.type == 255 and self.codes == (0, 255):
            kind = "any"
        else:
            kind = str(self.type) if self.codes == (0, 255) else f"{self.type}/{self.codes[0]}"
        return f"-m {module} {_not(self.negate)}--{option}-type {kind}"


class Multiport(msgspec.Struct, frozen=True):
    """`-m multiport --sports|--dports|--ports A,B:C`; `which` is "sports", "dports" or "ports"."""

    which: str
    ports: tuple[PortRange, ...]
    negate: bool = False

    def __str__(self) -> str:
        return f"-m multiport {_not(self.negate)}--{self.which} {','.join(map(str, self.ports))}"


class Mark(msgspec.Struct, frozen=True, gc=False):
    """`-m mark --mark VALUE/MASK`."""

    value: int
    mask: int = 0xFFFFFFFF
    negate: bool = False

    def __str__(self) -> str:
        mask = "" if self.mask == 0xFFFFFFFF else f"/{self.mask:#x}"
        return f"-m mark {_not(self.negate)}--mark {self.value:#x}{mask}"


class Connmark(msgspec.Struct, frozen=True, gc=False):
    """`-m connmark --mark VALUE/MASK`."""

    value: int
    mask: int = 0xFFFFFFFF
    negate: bool = False

    def __str__(self) -> str:
        mask = "" if self.mask == 0xFFFFFFFF else f"/{self.mask:#x}"
        return f"-m connmark {_not(self.negate)}--mark {self.value:#x}{mask}"


class AddressMask(msgspec.Struct, frozen=True, gc=False):
    """An address and mask inside a conntrack match; the kernel compares under the mask, and `value` may have host bits."""

    family: int
    value: int
    mask: int

    def __str__(self) -> str:
        length = mask_text(self.family, self.mask)
        full = "32" if self.family == 4 else "128"
        return _address(self.family, self.value) + ("" if length == full else f"/{length}")


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

    def __str__(self) -> str:
        parts = ["-m conntrack"]
        if self.states is not None:
            parts.append(f"{_not(self.not_states)}--ctstate {_members(CT_STATES, self.states)}")
        if self.protocol is not None:
            parts.append(f"{_not(self.not_protocol)}--ctproto {self.protocol}")
        for option, negate, value in (
            ("ctorigsrc", self.not_orig_src, self.orig_src),
            ("ctorigdst", self.not_orig_dst, self.orig_dst),
            ("ctreplsrc", self.not_repl_src, self.repl_src),
            ("ctrepldst", self.not_repl_dst, self.repl_dst),
            ("ctorigsrcport", self.not_orig_src_port, self.orig_src_port),
            ("ctorigdstport", self.not_orig_dst_port, self.orig_dst_port),
            ("ctreplsrcport", self.not_repl_src_port, self.repl_src_port),
            ("ctrepldstport", self.not_repl_dst_port, self.repl_dst_port),
        ):
            if value is not None:
                parts.append(f"{_not(negate)}--{option} {value}")
        if self.status is not None:
            parts.append(f"{_not(self.not_status)}--ctstatus {_members(CT_STATUSES, self.status)}")
        if self.expire is not None:
            parts.append(f"{_not(self.not_expire)}--ctexpire {_range(*self.expire)}")
        if self.direction is not None:
            parts.append(f"--ctdir {self.direction}")
        return " ".join(parts)


class State(msgspec.Struct, frozen=True):
    """`-m state --state ...` (the older spelling of conntrack --ctstate)."""

    states: frozenset[str]
    negate: bool = False

    def __str__(self) -> str:
        return f"-m state {_not(self.negate)}--state {_members(CT_STATES, self.states)}"


class Addrtype(msgspec.Struct, frozen=True):
    """`-m addrtype`: types of the FIB (LOCAL, UNICAST, BROADCAST, ...); `limit` is "", "in" or "out"."""

    src_types: frozenset[str] | None = None
    not_src: bool = False
    dst_types: frozenset[str] | None = None
    not_dst: bool = False
    limit: str = ""

    def __str__(self) -> str:
        text = "-m addrtype"
        if self.src_types is not None:
            text += f" {_not(self.not_src)}--src-type {_members(ADDRESS_TYPES, self.src_types)}"
        if self.dst_types is not None:
            text += f" {_not(self.not_dst)}--dst-type {_members(ADDRESS_TYPES, self.dst_types)}"
        return f"{text} --limit-iface-{self.limit}" if self.limit else text


class SetMatch(msgspec.Struct, frozen=True):
    """`-m set --match-set NAME DIMS`; `dims` of "src"/"dst"; `extra` keeps the rarer options (--packets-eq ...) as text."""

    name: str
    dims: tuple[str, ...]
    negate: bool = False
    return_nomatch: bool = False
    extra: str = ""

    def __str__(self) -> str:
        text = f"-m set {_not(self.negate)}--match-set {self.name} {','.join(self.dims)}"
        if self.return_nomatch:
            text += " --return-nomatch"
        return f"{text} {self.extra}" if self.extra else text


class Statistic(msgspec.Struct, frozen=True, gc=False):
    """`-m statistic`. Random: `threshold` of 2**31 (xt_statistic.c compares 31 random bits), nth: `every` and `packet`."""

    threshold: int | None = None
    every: int | None = None
    packet: int = 0
    negate: bool = False

    def __str__(self) -> str:
        if self.threshold is not None:
            return f"-m statistic --mode random {_not(self.negate)}--probability {self.threshold / 2**31:.11f}"
        return f"-m statistic --mode nth {_not(self.negate)}--every {self.every} --packet {self.packet}"


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

    def __str__(self) -> str:
        text = f"-m recent {_not(self.negate)}--{self.action}"
        if self.seconds is not None:
            text += f" --seconds {self.seconds}"
        if self.reap:
            text += " --reap"
        if self.hitcount is not None:
            text += f" --hitcount {self.hitcount}"
        if self.rttl:
            text += " --rttl"
        name = f'"{self.name}"' if " " in self.name else self.name  # the tools print it bare, and cannot read that back
        return f"{text} --name {name} --mask {self.mask} --r{self.side}"


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

    def __str__(self) -> str:
        parts = ["-m physdev"]
        if self.is_in:
            parts.append(f"{_not(self.not_is_in)}--physdev-is-in")
        if self.physin is not None:
            parts.append(f"{_not(self.not_physin)}--physdev-in {self.physin}")
        if self.is_out:
            parts.append(f"{_not(self.not_is_out)}--physdev-is-out")
        if self.physout is not None:
            parts.append(f"{_not(self.not_physout)}--physdev-out {self.physout}")
        if self.is_bridged:
            parts.append(f"{_not(self.not_is_bridged)}--physdev-is-bridged")
        return " ".join(parts)


class Rpfilter(msgspec.Struct, frozen=True, gc=False):
    """`-m rpfilter`: holds when the reverse path check passes."""

    loose: bool = False
    validmark: bool = False
    accept_local: bool = False
    invert: bool = False

    def __str__(self) -> str:
        text = "-m rpfilter"
        for flag, option in (
            (self.loose, "loose"),
            (self.validmark, "validmark"),
            (self.accept_local, "accept-local"),
            (self.invert, "invert"),
        ):
            if flag:
                text += f" --{option}"
        return text


class Iprange(msgspec.Struct, frozen=True, gc=False):
    """`-m iprange --src-range A-B --dst-range A-B`."""

    src: tuple[Ip, Ip] | None = None
    not_src: bool = False
    dst: tuple[Ip, Ip] | None = None
    not_dst: bool = False

    def __str__(self) -> str:
        text = "-m iprange"
        if self.src is not None:
            text += f" {_not(self.not_src)}--src-range {self.src[0]}-{self.src[1]}"
        if self.dst is not None:
            text += f" {_not(self.not_dst)}--dst-range {self.dst[0]}-{self.dst[1]}"
        return text


class Owner(msgspec.Struct, frozen=True, gc=False):
    """`-m owner`: who made the local socket."""

    uid: tuple[int, int] | None = None
    not_uid: bool = False
    gid: tuple[int, int] | None = None
    not_gid: bool = False
    socket_exists: bool = False
    not_socket_exists: bool = False
    suppl_groups: bool = False

    def __str__(self) -> str:
        text = "-m owner"
        if self.socket_exists:
            text += f" {_not(self.not_socket_exists)}--socket-exists"
        for ids, negate, option in ((self.uid, self.not_uid, "uid-owner"), (self.gid, self.not_gid, "gid-owner")):
            if ids is not None:
                text += f" {_not(negate)}--{option} " + (str(ids[0]) if ids[0] == ids[1] else f"{ids[0]}-{ids[1]}")
        return f"{text} --suppl-groups" if self.suppl_groups else text


class Mac(msgspec.Struct, frozen=True, gc=False):
    """`-m mac --mac-source MAC` (lower case)."""

    mac: str
    negate: bool = False

    def __str__(self) -> str:
        return f"-m mac {_not(self.negate)}--mac-source {self.mac}"


class Ttl(msgspec.Struct, frozen=True, gc=False):
    """`-m ttl` (IPv4) and `-m hl` (IPv6); `op` is eq, lt or gt."""

    family: int
    op: str
    value: int
    negate: bool = False

    def __str__(self) -> str:
        module = "ttl" if self.family == 4 else "hl"
        return f"-m {module} {_not(self.negate)}--{module}-{self.op} {self.value}"


class Length(msgspec.Struct, frozen=True, gc=False):
    """`-m length --length A:B` (bytes of the IP packet; IPv6: without... see xt_length.c)."""

    low: int
    high: int
    negate: bool = False

    def __str__(self) -> str:
        return f"-m length {_not(self.negate)}--length {_range(self.low, self.high)}"


class Limit(msgspec.Struct, frozen=True, gc=False):
    """`-m limit --limit RATE --limit-burst N`; `rate` as the tool prints it ("5/min")."""

    rate: str
    burst: int = 5

    def __str__(self) -> str:
        return f"-m limit --limit {self.rate}" + (f" --limit-burst {self.burst}" if self.burst != 5 else "")


class Hashlimit(msgspec.Struct, frozen=True, gc=False):
    """`-m hashlimit ...`; options kept as text: the outcome depends on traffic that netlab does not see."""

    text: str

    def __str__(self) -> str:
        return f"-m hashlimit {self.text}"


class Ipvs(msgspec.Struct, frozen=True, gc=False):
    """`-m ipvs ...`; options kept as text until the IPVS model evaluates them."""

    text: str

    def __str__(self) -> str:
        return f"-m ipvs {self.text}"


class Pkttype(msgspec.Struct, frozen=True, gc=False):
    """`-m pkttype --pkt-type unicast|broadcast|multicast|otherhost`."""

    type: str
    negate: bool = False

    def __str__(self) -> str:
        return f"-m pkttype {_not(self.negate)}--pkt-type {self.type}"


class UnknownMatch(msgspec.Struct, frozen=True, gc=False):
    """A match that netlab does not model: its module and the text of its options, kept whole."""

    module: str
    text: str

    def __str__(self) -> str:
        return f"-m {self.module} {self.text}" if self.text else f"-m {self.module}"


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
