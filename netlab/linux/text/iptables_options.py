"""What may follow `-m MODULE` and `-j TARGET` on an iptables line: one literal table of options, one builder each.

Law: a builder takes the options that were given and returns the value that the kernel would store, so that every spelling
that iptables-restore takes becomes one value. Whatever the tool refuses is a Bad, which the line reader turns into an
InputError with file and line. Modules that are not in the tables are not modelled; nothing here guesses at them.
Sources: extensions/libxt_*.c, libipt_*.c, libip6t_*.c of iptables 1.8.9, and the tool itself (tests/test_iptables_save.py).
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from math import floor
from socket import AF_INET, AF_INET6, inet_pton
from typing import Any, Final, NamedTuple

from netlab.errors import did_you_mean
from netlab.linux.addr import V4_ALL, V6_ALL, Ip, ip, mask_of
from netlab.linux.matches import (
    ADDRESS_TYPES,
    CT_STATES,
    CT_STATUSES,
    IP_PROTOCOLS,
    TCP_FLAGS,
    AddressMask,
    Addrtype,
    Comment,
    Connmark,
    Conntrack,
    Hashlimit,
    Icmp,
    Iprange,
    Ipvs,
    Length,
    Limit,
    Mac,
    Mark,
    Match,
    Multiport,
    Owner,
    Physdev,
    Pkttype,
    PortRange,
    Recent,
    Rpfilter,
    Sctp,
    SetMatch,
    State,
    Statistic,
    Tcp,
    Ttl,
    Udp,
    save_string,
)
from netlab.linux.targets import (
    Accept,
    Checksum,
    Ct,
    Dnat,
    Drop,
    Log,
    Masquerade,
    NatRange,
    Netmap,
    Redirect,
    Reject,
    Return,
    SetConnmark,
    SetMark,
    SetTarget,
    Snat,
    Target,
    Tcpmss,
    Tproxy,
    TraceTarget,
    UnknownTarget,
)

U32: Final = 0xFFFFFFFF
TCP, UDP, ICMP, ICMPV6, DCCP, SCTP, UDPLITE = 6, 17, 1, 58, 33, 132, 136


class Bad(Exception):
    """The tool would refuse this: what is wrong, and what to do."""

    def __init__(self, what: str, hint: str | None = None) -> None:
        self.what = what
        self.hint = hint
        super().__init__(what)


class Context:
    """What the options of a rule are read in: the family and the protocol of a `-p` that is not negated (else None).

    It also remembers, for one call of parse() alone, the groups of options that were already read in it.
    """

    __slots__ = ("family", "matches", "protocol", "targets")

    def __init__(self, family: int, protocol: int | None = None) -> None:
        self.family = family
        self.protocol = protocol
        self.matches: dict[str, tuple[Match, ...]] = {}
        self.targets: dict[str, Target] = {}


class Option(NamedTuple):
    """An option: its first spelling without dashes, how many values follow, whether `!` may stand before it."""

    key: str
    values: int
    invertible: bool


Given = dict[str, tuple[bool, tuple[str, ...]]]  # key -> (negated, values), in the order of the text
Options = Mapping[str, Option]  # by the spelling with dashes


class Module(NamedTuple):
    """A match or target extension."""

    options: Options
    build: Callable[[Context, Given], Any]


def _options(*rows: str) -> Options:
    """`!sport|source-port 1`: may be negated, two spellings, one value."""
    table: dict[str, Option] = {}
    for row in rows:
        names, _, values = row.lstrip("!").partition(" ")
        option = Option(names.split("|")[0], int(values or 0), row[0] == "!")
        table.update({f"--{name}": option for name in names.split("|")})
    return table


def add(given: Given, option: Option, negate: bool, values: tuple[str, ...]) -> None:
    """Note one option; the tools take each once, and `!` only before some."""
    if option.key in given:
        raise Bad(f"--{option.key} is given twice")
    if negate and not option.invertible:
        raise Bad(f"--{option.key} cannot be negated")
    given[option.key] = (negate, values)


def collect(options: Options, tokens: list[str], at: int) -> Given | None:
    """The options in tokens[at:], or None where one of them is no option of this module (the line reader then decides)."""
    given: Given = {}
    negate = False
    end = len(tokens)
    while at < end:
        token = tokens[at]
        at += 1
        if token == "!":
            if negate:
                return None
            negate = True
            continue
        option = options.get(token)
        if option is None or at + option.values > end:
            return None
        add(given, option, negate, tuple(tokens[at : at + option.values]))
        at += option.values
        negate = False
    return None if negate else given


def text_of(given: Given) -> str:
    """The options as text, for what is kept but not modelled."""
    words = []
    for key, (negate, values) in given.items():
        words += ["!"] * negate + [f"--{key}"]
        words += [v if v and not set(v) & set(" \t\"'\\") else save_string(v) for v in values]
    return " ".join(words)


# ---- values ----------------------------------------------------------------------------------------------------------

_NUMBER: Final = re.compile(r"0[xX][0-9a-fA-F]+|0[0-7]*|[1-9][0-9]*")  # strtoul with base 0, as xtables_strtoui

# The names that rulesets use for ports, from /etc/services; the machine's own file is not asked, so that a dump reads the
# same everywhere.
SERVICES: Final = {
    "echo": 7, "discard": 9, "daytime": 13, "ftp-data": 20, "ftp": 21, "ssh": 22, "telnet": 23, "smtp": 25, "time": 37,
    "whois": 43, "tacacs": 49, "domain": 53, "bootps": 67, "bootpc": 68, "tftp": 69, "gopher": 70, "finger": 79,
    "http": 80, "www": 80, "kerberos": 88, "pop3": 110, "sunrpc": 111, "auth": 113, "nntp": 119, "ntp": 123,
    "netbios-ns": 137, "netbios-dgm": 138, "netbios-ssn": 139, "imap2": 143, "imap": 143, "snmp": 161, "snmp-trap": 162,
    "bgp": 179, "irc": 194, "ldap": 389, "https": 443, "microsoft-ds": 445, "submissions": 465, "isakmp": 500,
    "syslog": 514, "printer": 515, "router": 520, "dhcpv6-client": 546, "dhcpv6-server": 547, "submission": 587, "ipp": 631,
    "ldaps": 636, "rsync": 873, "imaps": 993, "pop3s": 995, "socks": 1080, "openvpn": 1194, "l2f": 1701, "radius": 1812,
    "radius-acct": 1813, "nfs": 2049, "mysql": 3306, "ms-wbt-server": 3389, "ipsec-nat-t": 4500, "mdns": 5353,
    "postgresql": 5432, "amqp": 5672, "http-alt": 8080,
}  # fmt: skip


def number(text: str, high: int, what: str, low: int = 0) -> int:
    """A number as the tools read it: decimal, 0x hexadecimal, or octal after a 0."""
    if _NUMBER.fullmatch(text):
        value = int(text, 16) if text[:2] in ("0x", "0X") else int(text, 8) if text[0] == "0" else int(text)
        if low <= value <= high:
            return value
    raise Bad(f"not {what}: {text!r}", f"expected a number from {low} to {high}")


def port(text: str) -> int:
    """A port number or the well-known name of one."""
    if text in SERVICES:
        return SERVICES[text]
    if text[:1].isalpha():
        raise Bad(f"unknown port name {text!r}", did_you_mean(text, SERVICES) or "write the port as a number")
    return number(text, 65535, "a port")


def port_range(text: str) -> PortRange:
    """`80`, `80:90`, `:90`, `80:`."""
    low, colon, high = text.partition(":")
    if not colon:
        value = port(text)
        return PortRange(value, value)
    first, last = port(low) if low else 0, port(high) if high else 65535
    if first > last:
        raise Bad(f"the port range {text} runs backwards")
    return PortRange(first, last)


def protocol(text: str) -> int:
    """The number of `-p TEXT`; 0 where every protocol is meant."""
    name = text.lower()
    if name in _PROTOCOL_NUMBERS:
        return _PROTOCOL_NUMBERS[name]
    if _NUMBER.fullmatch(name):
        return number(name, 255, "a protocol")
    raise Bad(f"unknown protocol {text!r}", did_you_mean(name, _PROTOCOL_NUMBERS) or "write its number")


_PROTOCOL_NUMBERS: Final = {name: value for value, name in IP_PROTOCOLS.items()} | {
    "all": 0, "ip": 0, "icmpv6": ICMPV6, "ipv6-mh": 135, "mh": 135,
}  # fmt: skip

_DOTTED: Final = re.compile(r"(0|[1-9]\d{0,2})(\.(0|[1-9]\d{0,2})){0,2}")


def address(text: str, family: int) -> Ip:
    """An address of this family; `10.1` is 10.1.0.0, as libxtables reads it."""
    try:
        if family == 4:
            return Ip(4, int.from_bytes(inet_pton(AF_INET, text), "big"))
        return Ip(6, int.from_bytes(inet_pton(AF_INET6, text), "big"))
    except (OSError, ValueError):
        pass
    if family == 4 and _DOTTED.fullmatch(text):
        return address(text + ".0" * (3 - text.count(".")), 4)
    try:
        other = ip(text)
    except ValueError:
        hint = "write an address: names are not looked up" if re.search("[g-zG-Z]", text) else None
        raise Bad(f"not an IPv{family} address: {text!r}", hint) from None
    raise Bad(
        f"{text} is an IPv{other.family} address, this text is read as {'iptables' if family == 4 else 'ip6tables'}-save",
        f"give it as {'ip6tables' if family == 4 else 'iptables'}-save",
    )


def masked(text: str, family: int) -> tuple[int, int]:
    """`ADDRESS`, `ADDRESS/LENGTH` or `ADDRESS/MASK` -> (address with its host bits, mask)."""
    host, slash, bits = text.partition("/")
    value = address(host, family).value
    full = V4_ALL if family == 4 else V6_ALL
    if not slash:
        return value, full
    if bits.isascii() and bits.isdigit():
        if int(bits) > (32 if family == 4 else 128):
            raise Bad(f"not a prefix length: {text!r}")
        return value, mask_of(family, int(bits))
    try:
        return value, address(bits, family).value
    except Bad:
        raise Bad(f"not a netmask: {text!r}") from None


def value_mask(text: str, what: str) -> tuple[int, int | None]:
    """`0x1/0xff` -> (1, 255); (1, None) without a mask."""
    value, slash, mask = text.partition("/")
    return number(value, U32, what), number(mask, U32, what) if slash else None


def choose(text: str, names: Iterable[str], what: str) -> str:
    """The first name that begins with the text in any case (strncasecmp, as libxt_conntrack.c and libipt_REJECT.c do)."""
    wanted = text.upper()
    for name in names:
        if wanted and name.upper().startswith(wanted):
            return name
    raise Bad(f"unknown {what} {text!r}", did_you_mean(text, names) or f"expected one of {', '.join(names)}")


def _exactly(text: str, names: tuple[str, ...], what: str) -> str:
    if text.upper() not in names:
        raise Bad(f"unknown {what} {text!r}", did_you_mean(text.upper(), names) or f"expected one of {', '.join(names)}")
    return text.upper()


def _one(given: Given, keys: tuple[str, ...], what: str) -> str:
    found = [key for key in keys if key in given]
    if len(found) != 1:
        options = ", ".join(f"--{key}" for key in keys)
        raise Bad(f"{what} takes exactly one of {options}" if found else f"{what} needs one of {options}")
    return found[0]


def _value(given: Given, key: str) -> str | None:
    found = given.get(key)
    return None if found is None else found[1][0]


def _needs(given: Given, key: str, what: str) -> tuple[bool, tuple[str, ...]]:
    found = given.get(key)
    if found is None:
        raise Bad(f"{what} needs --{key}")
    return found


def _protocol_is(context: Context, what: str, *numbers: int) -> None:
    if context.protocol not in numbers:
        names = " or ".join(f"-p {IP_PROTOCOLS[n]}" for n in numbers)
        raise Bad(f"{what} needs {names} in the same rule", f"add {names.split(' or ')[0]} before it")


# ---- matches ---------------------------------------------------------------------------------------------------------


def _port_option(given: Given, key: str) -> tuple[PortRange | None, bool]:
    found = given.get(key)
    if found is None:
        return None, False
    negate, (text,) = found
    ports = port_range(text)
    # The kernel keeps 0:65535 where no port is asked for, so the tools print nothing for it.
    return (None, False) if ports == PortRange(0, 65535) and not negate else (ports, negate)


def _tcp_flags(text: str) -> int:
    bits = 0
    for name in text.split(","):
        upper = name.upper()
        if upper == "ALL":
            bits |= 63
        elif upper in TCP_FLAGS:
            bits |= 1 << TCP_FLAGS.index(upper)
        elif upper != "NONE":
            raise Bad(f"unknown TCP flag {name!r}", f"expected ALL, NONE or some of {','.join(TCP_FLAGS)}")
    return bits


def _tcp(context: Context, given: Given) -> Tcp:
    _protocol_is(context, "-m tcp", TCP)
    flags: tuple[int, int] | None = None
    not_flags = False
    if "syn" in given and "tcp-flags" in given:
        raise Bad("--syn and --tcp-flags exclude each other")
    if "syn" in given:
        not_flags = given["syn"][0]
        flags = (0b10111, 0b10)  # FIN,SYN,RST,ACK SYN
    elif "tcp-flags" in given:
        not_flags, (mask, comp) = given["tcp-flags"]
        flags = (_tcp_flags(mask), _tcp_flags(comp))
        if flags == (0, 0) and not not_flags:
            flags = None
    option: int | None = None
    not_option = False
    if "tcp-option" in given:
        not_option, (text,) = given["tcp-option"]
        option = number(text, 255, "a TCP option", low=1)
    return Tcp(*_port_option(given, "sport"), *_port_option(given, "dport"), flags, not_flags, option, not_option)


def _udp(context: Context, given: Given) -> Udp:
    _protocol_is(context, "-m udp", UDP)
    return Udp(*_port_option(given, "sport"), *_port_option(given, "dport"))


_CHUNKS: Final = {
    "DATA": 0, "INIT": 1, "INIT_ACK": 2, "SACK": 3, "HEARTBEAT": 4, "HEARTBEAT_ACK": 5, "ABORT": 6, "SHUTDOWN": 7,
    "SHUTDOWN_ACK": 8, "ERROR": 9, "COOKIE_ECHO": 10, "COOKIE_ACK": 11, "ECN_ECNE": 12, "ECN_CWR": 13,
    "SHUTDOWN_COMPLETE": 14, "I_DATA": 64, "ASCONF_ACK": 128, "RE_CONFIG": 130, "PAD": 132, "FORWARD_TSN": 192, "ASCONF": 193,
    "I_FORWARD_TSN": 194,
}  # fmt: skip
_CHUNK_FLAGS: Final = {"DATA": "IUBE", "I_DATA": "IUBE", "ABORT": "T", "SHUTDOWN_COMPLETE": "T"}


def _chunks(how: str, listed: str) -> str:
    """The chunk specification as libxt_sctp.c prints it: chunks by number, flags by bit."""
    if how not in ("all", "any", "only"):
        raise Bad(f"--chunk-types takes all, any or only, not {how!r}")
    if listed.upper() in ("ALL", "NONE"):
        return f"{how} {listed.upper()}"
    chunks: dict[str, str] = {}
    for item in listed.split(","):
        chunk, colon, flags = item.partition(":")
        name = chunk.upper()
        if name not in _CHUNKS:
            raise Bad(f"unknown SCTP chunk {chunk!r}", did_you_mean(name, _CHUNKS))
        order = _CHUNK_FLAGS.get(name, "")
        if (colon and not flags) or not set(flags.upper()) <= set(order):
            raise Bad(f"chunk {name} has no flags {flags!r}", f"expected some of {order}" if order else None)
        printed = "".join(sorted(flags, key=lambda flag: order.index(flag.upper())))
        chunks[name] = f"{name}:{printed}" if printed else name
    return f"{how} {','.join(chunks[name] for name in sorted(chunks, key=_CHUNKS.__getitem__))}"


def _sctp(context: Context, given: Given) -> Sctp:
    _protocol_is(context, "-m sctp", SCTP)
    negate, types = given.get("chunk-types", (False, ()))
    return Sctp(*_port_option(given, "sport"), *_port_option(given, "dport"), _chunks(*types) if types else None, negate)


# name -> (type, code or None for all codes): iptables extensions/libxt_icmp.h
_ICMP_TYPES: Final[dict[str, tuple[int, int | None]]] = {
    "any": (255, None), "echo-reply": (0, None), "pong": (0, None), "destination-unreachable": (3, None),
    "network-unreachable": (3, 0), "host-unreachable": (3, 1), "protocol-unreachable": (3, 2), "port-unreachable": (3, 3),
    "fragmentation-needed": (3, 4), "source-route-failed": (3, 5), "network-unknown": (3, 6), "host-unknown": (3, 7),
    "network-prohibited": (3, 9), "host-prohibited": (3, 10), "tos-network-unreachable": (3, 11),
    "tos-host-unreachable": (3, 12), "communication-prohibited": (3, 13), "host-precedence-violation": (3, 14),
    "precedence-cutoff": (3, 15), "source-quench": (4, None), "redirect": (5, None), "network-redirect": (5, 0),
    "host-redirect": (5, 1), "tos-network-redirect": (5, 2), "tos-host-redirect": (5, 3), "echo-request": (8, None),
    "ping": (8, None), "router-advertisement": (9, None), "router-solicitation": (10, None), "time-exceeded": (11, None),
    "ttl-exceeded": (11, None), "ttl-zero-during-transit": (11, 0), "ttl-zero-during-reassembly": (11, 1),
    "parameter-problem": (12, None), "ip-header-bad": (12, 0), "required-option-missing": (12, 1),
    "timestamp-request": (13, None), "timestamp-reply": (14, None), "address-mask-request": (17, None),
    "address-mask-reply": (18, None),
}  # fmt: skip
_ICMPV6_TYPES: Final[dict[str, tuple[int, int | None]]] = {
    "destination-unreachable": (1, None), "no-route": (1, 0), "communication-prohibited": (1, 1), "beyond-scope": (1, 2),
    "address-unreachable": (1, 3), "port-unreachable": (1, 4), "failed-policy": (1, 5), "reject-route": (1, 6),
    "packet-too-big": (2, None), "time-exceeded": (3, None), "ttl-exceeded": (3, None), "ttl-zero-during-transit": (3, 0),
    "ttl-zero-during-reassembly": (3, 1), "parameter-problem": (4, None), "bad-header": (4, 0),
    "unknown-header-type": (4, 1), "unknown-option": (4, 2), "echo-request": (128, None), "ping": (128, None),
    "echo-reply": (129, None), "pong": (129, None), "mld-listener-query": (130, None), "mld-listener-report": (131, None),
    "mld-listener-done": (132, None), "mld-listener-reduction": (132, None), "router-solicitation": (133, None),
    "router-advertisement": (134, None), "neighbour-solicitation": (135, None), "neighbor-solicitation": (135, None),
    "neighbour-advertisement": (136, None), "neighbor-advertisement": (136, None), "redirect": (137, None),
}  # fmt: skip


def _icmp(family: int, option: str, names: Mapping[str, tuple[int, int | None]]) -> Callable[[Context, Given], Icmp]:
    def build(context: Context, given: Given) -> Icmp:
        module = "icmp" if family == 4 else "icmp6"
        if context.family != family:
            raise Bad(f"-m {module} is a match of IPv{family} rules alone")
        _protocol_is(context, f"-m {module}", ICMP if family == 4 else ICMPV6)
        negate, (text,) = _needs(given, option, f"-m {module}")
        code: int | None = None
        if text.lower() in names:
            kind, code = names[text.lower()]
        else:
            first, slash, second = text.partition("/")
            if not first[:1].isdigit():
                raise Bad(f"unknown ICMP type {text!r}", did_you_mean(text, names) or "write TYPE or TYPE/CODE in numbers")
            kind = number(first, 255, "an ICMP type")
            code = number(second, 255, "an ICMP code") if slash else None
        if family == 4 and kind == 255:  # 255 stands for any type, whatever the code (libxt_icmp.h, ip_tables.c)
            code = None
        return Icmp(family, kind, (0, 255) if code is None else (code, code), negate)

    return build


def _multiport(context: Context, given: Given) -> Multiport:
    _protocol_is(context, "-m multiport", TCP, UDP, UDPLITE, SCTP, DCCP)
    which = _one(given, ("sports", "dports", "ports"), "-m multiport")
    negate, (text,) = given[which]
    ports = []
    slots = 0
    for item in text.split(","):
        low, colon, high = item.partition(":")
        ports.append(PortRange(port(low), port(high)) if colon else PortRange(port(low), port(low)))
        slots += 2 if colon else 1
        if colon and ports[-1].low >= ports[-1].high:
            raise Bad(f"the port range {item} is empty")
    if slots > 15:
        raise Bad("-m multiport takes at most 15 ports, and a range counts twice")
    return Multiport(which, tuple(ports), negate)


def _mark(context: Context, given: Given) -> Mark:
    negate, (text,) = _needs(given, "mark", "-m mark")
    value, mask = value_mask(text, "a mark")
    return Mark(value, U32 if mask is None else mask, negate)


def _connmark(context: Context, given: Given) -> Connmark:
    negate, (text,) = _needs(given, "mark", "-m connmark")
    value, mask = value_mask(text, "a mark")
    return Connmark(value, U32 if mask is None else mask, negate)


def _comment(context: Context, given: Given) -> Comment:
    text = _needs(given, "comment", "-m comment")[1][0]
    if len(text.encode()) > 255:
        raise Bad("the comment is longer than 255 bytes")
    return Comment(text)


def _names(text: str, order: tuple[str, ...], what: str) -> frozenset[str]:
    return frozenset(choose(item, order, what) for item in text.split(","))


def _statuses(text: str) -> frozenset[str]:
    found = _names(text, CT_STATUSES, "connection status")
    return found - {"NONE"} or found  # NONE is no bit at all (libxt_conntrack.c)


def _span(text: str, high: int, what: str) -> tuple[int, int]:
    low, colon, last = text.partition(":")
    first = number(low, high, what) if low or not colon else 0
    end = (number(last, high, what) if last else high) if colon else first
    if first > end:
        raise Bad(f"the range {text} runs backwards")
    return first, end


_CT_ADDRESSES: Final = ("ctorigsrc", "ctorigdst", "ctreplsrc", "ctrepldst")
_CT_PORTS: Final = ("ctorigsrcport", "ctorigdstport", "ctreplsrcport", "ctrepldstport")


def _host_mask(text: str, family: int) -> AddressMask:
    """ADDRESS or ADDRESS/MASK as xtopt_parse_hostmask reads it: a mask that is no prefix counts as none, all bits are compared.

    >>> print(_host_mask("172.16.5.4/255.255.0.255", 4), _host_mask("172.16.5.4/255.255.255.0", 4))
    172.16.5.4 172.16.5.4/24
    """
    value, mask = masked(text, family)
    length = mask.bit_count()
    return AddressMask(family, value, mask if mask == mask_of(family, length) else mask_of(family, 32 if family == 4 else 128))


def _conntrack(context: Context, given: Given) -> Conntrack:
    if not given:
        raise Bad("-m conntrack needs an option", "for example --ctstate RELATED,ESTABLISHED")
    if len(given) == 1 and "ctstate" in given:
        negate, (text,) = given["ctstate"]
        return Conntrack(_names(text, CT_STATES, "connection state"), negate)
    read: dict[str, Callable[[str], Any]] = {
        "ctstate": lambda text: _names(text, CT_STATES, "connection state"),
        "ctproto": protocol,
        "ctstatus": _statuses,
        "ctexpire": lambda text: _span(text, U32, "seconds"),
        "ctdir": lambda text: _exactly(text, ("ORIGINAL", "REPLY"), "direction"),
    }
    read.update(dict.fromkeys(_CT_ADDRESSES, lambda text: _host_mask(text, context.family)))
    read.update(dict.fromkeys(_CT_PORTS, port_range))
    fields: list[Any] = []
    for key in ("ctstate", "ctproto", *_CT_ADDRESSES, *_CT_PORTS, "ctstatus", "ctexpire"):
        negate, values = given.get(key, (False, ()))
        fields += [read[key](values[0]) if values else None, negate]
    side = _value(given, "ctdir")
    fields.append(None if side is None else read["ctdir"](side))
    return Conntrack(*fields)


def _state(context: Context, given: Given) -> State:
    negate, (text,) = _needs(given, "state", "-m state")
    return State(_names(text, CT_STATES[:5], "connection state"), negate)


def _types(given: Given, key: str) -> tuple[frozenset[str] | None, bool]:
    if key not in given:
        return None, False
    negate, (text,) = given[key]
    return frozenset(_exactly(item, ADDRESS_TYPES, "address type") for item in text.split(",")), negate


def _addrtype(context: Context, given: Given) -> Addrtype:
    if "src-type" not in given and "dst-type" not in given:
        raise Bad("-m addrtype needs --src-type or --dst-type")
    if "limit-iface-in" in given and "limit-iface-out" in given:
        raise Bad("--limit-iface-in and --limit-iface-out exclude each other")
    limit = "in" if "limit-iface-in" in given else "out" if "limit-iface-out" in given else ""
    return Addrtype(*_types(given, "src-type"), *_types(given, "dst-type"), limit)


def _dimensions(text: str) -> tuple[str, ...]:
    dims = tuple(text.split(","))
    if not set(dims) <= {"src", "dst"} or len(dims) > 6:
        raise Bad(f"not set directions: {text!r}", "expected src and dst, separated by commas, at most six")
    return dims


def _set(context: Context, given: Given) -> SetMatch:
    negate, (name, dims) = _needs(given, "match-set", "-m set")
    extra = {key: value for key, value in given.items() if key not in ("match-set", "return-nomatch")}
    return SetMatch(name, _dimensions(dims), negate, "return-nomatch" in given, text_of(extra))


def _statistic(context: Context, given: Given) -> Statistic:
    mode = _value(given, "mode")
    random = mode is not None and mode == "random"
    if mode not in ("random", "nth"):
        raise Bad("-m statistic needs --mode random or --mode nth")
    if ("probability" in given) != random or ("every" in given) == random or ("packet" in given and random):
        raise Bad("--mode random goes with --probability, --mode nth with --every and --packet")
    if random:
        negate, (text,) = given["probability"]
        try:
            share = float(text)
        except ValueError:
            share = -1.0
        if not 0 <= share <= 1:
            raise Bad(f"not a probability: {text!r}", "expected a number from 0 to 1")
        scaled = share * 2**31  # exact; then lround(), as libxt_statistic.c
        whole = floor(scaled)
        return Statistic(threshold=whole + (scaled - whole >= 0.5), negate=negate)
    negate, (text,) = given["every"]
    every = number(text, U32, "a count", low=1)
    packet = number(_value(given, "packet") or "0", U32, "a packet number")
    if packet >= every:
        raise Bad(f"--packet {packet} is not below --every {every}")
    return Statistic(every=every, packet=packet, negate=negate)


def _recent(context: Context, given: Given) -> Recent:
    action = _one(given, ("set", "rcheck", "update", "remove"), "-m recent")
    if "rsource" in given and "rdest" in given:
        raise Bad("--rsource and --rdest exclude each other")
    if "reap" in given and "seconds" not in given:
        raise Bad("--reap needs --seconds")
    seconds, hits, mask = _value(given, "seconds"), _value(given, "hitcount"), _value(given, "mask")
    if action in ("set", "remove") and {"seconds", "hitcount", "reap", "rttl"} & given.keys():
        raise Bad(f"--{action} takes no --seconds, --hitcount, --reap or --rttl")  # xt_recent.c: recent_mt_check
    full = Ip(context.family, V4_ALL if context.family == 4 else V6_ALL)
    return Recent(
        action,
        given[action][0],
        None if seconds is None else number(seconds, U32, "seconds", low=1),
        "reap" in given,
        None if hits is None else number(hits, U32, "a hit count", low=1),
        "rttl" in given,
        _value(given, "name") or "DEFAULT",
        str(full if mask is None else address(mask, context.family)),
        "dest" if "rdest" in given else "source",
    )


def interface(text: str) -> str:
    if not text or len(text.encode()) > 15:
        raise Bad(f"not an interface name: {text!r}", "a name has 1 to 15 characters; a trailing + matches any suffix")
    return text


def _physdev(context: Context, given: Given) -> Physdev:
    if not given:
        raise Bad("-m physdev needs an option")
    fields: list[Any] = []
    for key in ("physdev-in", "physdev-out"):
        negate, values = given.get(key, (False, ()))
        fields += [interface(values[0]) if values else None, negate]
    for key in ("physdev-is-in", "physdev-is-out", "physdev-is-bridged"):
        fields += [key in given, given.get(key, (False, ()))[0]]
    return Physdev(*fields)


def _rpfilter(context: Context, given: Given) -> Rpfilter:
    return Rpfilter(*(key in given for key in ("loose", "validmark", "accept-local", "invert")))


def _address_range(text: str, family: int) -> tuple[Ip, Ip]:
    low, dash, high = text.partition("-")
    first = address(low, family)
    return first, address(high, family) if dash else first


def _iprange(context: Context, given: Given) -> Iprange:
    if not given:
        raise Bad("-m iprange needs --src-range or --dst-range")
    fields: list[Any] = []
    for key in ("src-range", "dst-range"):
        negate, values = given.get(key, (False, ()))
        fields += [_address_range(values[0], context.family) if values else None, negate]
    return Iprange(*fields)


def _ids(text: str) -> tuple[int, int]:
    if text == "root":
        return 0, 0
    if not text[:1].isdigit():
        raise Bad(f"unknown user or group {text!r}", "write its number: the names of the node are not known here")
    low, dash, high = text.partition("-")
    first = number(low, U32 - 1, "an id")
    last = number(high, U32 - 1, "an id") if dash else first
    if first > last:
        raise Bad(f"the range {text} runs backwards")
    return first, last


def _owner(context: Context, given: Given) -> Owner:
    if not given:
        raise Bad("-m owner needs an option")
    if "suppl-groups" in given and "gid-owner" not in given:
        raise Bad("--suppl-groups needs --gid-owner")
    fields: list[Any] = []
    for key in ("uid-owner", "gid-owner"):
        negate, values = given.get(key, (False, ()))
        fields += [_ids(values[0]) if values else None, negate]
    fields += ["socket-exists" in given, given.get("socket-exists", (False, ()))[0], "suppl-groups" in given]
    return Owner(*fields)


def _mac(context: Context, given: Given) -> Mac:
    negate, (text,) = _needs(given, "mac-source", "-m mac")
    if not re.fullmatch("[0-9a-fA-F]{2}(:[0-9a-fA-F]{2}){5}", text):
        raise Bad(f"not a MAC address: {text!r}")
    return Mac(text.lower(), negate)


def _ttl(family: int, module: str) -> Callable[[Context, Given], Ttl]:
    def build(context: Context, given: Given) -> Ttl:
        if context.family != family:
            raise Bad(f"-m {module} is a match of IPv{family} rules alone")
        key = _one(given, (f"{module}-eq", f"{module}-lt", f"{module}-gt"), f"-m {module}")
        negate, (text,) = given[key]
        return Ttl(family, key[-2:], number(text, 255, "a hop count"), negate)

    return build


def _length(context: Context, given: Given) -> Length:
    negate, (text,) = _needs(given, "length", "-m length")
    return Length(*_span(text, 65535, "a length"), negate)


_UNITS: Final = (("day", 86400), ("hour", 3600), ("min", 60), ("sec", 1))  # libxt_limit.c: rates
_LONG_UNITS: Final = {"day": "day", "hour": "hour", "minute": "min", "second": "sec"}
_SCALE: Final = 10000  # XT_LIMIT_SCALE


def rate(text: str) -> str:
    """A packet rate as the tools print it back: they keep the period in 1/10000 s (libxt_limit.c: parse_rate, print_rate).

    >>> rate("60/minute"), rate("90/m"), rate("5")
    ('1/sec', '90/min', '5/sec')
    """
    digits = re.match("[0-9]+", text)
    count = int(digits[0]) if digits else 0
    _, slash, unit = text.partition("/")
    name = next((full for full in _LONG_UNITS if unit and full.startswith(unit.lower())), None if slash else "second")
    if name is None or count == 0:
        raise Bad(f"not a rate: {text!r}", "expected for example 5/minute")
    period = _SCALE * dict(_UNITS)[_LONG_UNITS[name]] // count
    if period == 0:
        raise Bad(f"the rate {text} is too fast", "the kernel counts to 10000 packets a second")
    best = _UNITS[0]
    for unit_row in _UNITS[1:]:
        ticks = unit_row[1] * _SCALE
        if period > ticks or ticks // period < ticks % period:
            break
        best = unit_row
    return f"{best[1] * _SCALE // period}/{best[0]}"


def _limit(context: Context, given: Given) -> Limit:
    burst = number(_value(given, "limit-burst") or "5", 10000, "a burst")
    return Limit(rate(_value(given, "limit") or "3/hour"), burst or 5)  # 0 is read as the default by iptables-nft


_HASH_MODES: Final = ("srcip", "srcport", "dstip", "dstport")
_HASH_REST: Final = (
    "hashlimit-htable-size", "hashlimit-htable-max", "hashlimit-htable-gcinterval", "hashlimit-htable-expire",
    "hashlimit-srcmask", "hashlimit-dstmask", "hashlimit-rate-match", "hashlimit-rate-interval",
)  # fmt: skip


def _hashlimit(context: Context, given: Given) -> Hashlimit:
    key = _one(given, ("hashlimit-upto", "hashlimit-above"), "-m hashlimit")
    negate, (text,) = given[key]
    above = (key == "hashlimit-above") != negate
    name = _needs(given, "hashlimit-name", "-m hashlimit")[1][0]
    by_bytes = text.endswith("b/s")
    burst = _value(given, "hashlimit-burst") or (None if by_bytes else "5")
    words = [f"--hashlimit-{'above' if above else 'upto'} {text if by_bytes else rate(text)}"]
    if burst is not None:
        words.append(f"--hashlimit-burst {burst}")
    if "hashlimit-mode" in given:
        modes = given["hashlimit-mode"][1][0].split(",")
        if not set(modes) <= set(_HASH_MODES):
            raise Bad(f"not a hashlimit mode: {','.join(modes)!r}", f"expected some of {','.join(_HASH_MODES)}")
        words.append(f"--hashlimit-mode {','.join(m for m in _HASH_MODES if m in modes)}")
    words.append(f"--hashlimit-name {name}")
    words += [text_of({rest: given[rest]}) for rest in _HASH_REST if rest in given]
    return Hashlimit(" ".join(words))


def _ipvs(context: Context, given: Given) -> Ipvs:
    if not given:
        raise Bad("-m ipvs needs an option")
    tidy: Given = {}
    for key in ("ipvs", "vproto", "vaddr", "vport", "vdir", "vmethod", "vportctl"):  # the order of libxt_ipvs.c
        if key not in given:
            continue
        negate, values = given[key]
        if key == "vproto":
            values = (str(protocol(values[0])),)
        elif key == "vaddr":
            values = (str(_host_mask(values[0], context.family)),)
        elif key in ("vport", "vportctl"):
            values = (str(port(values[0])),)
        elif key == "vdir":
            values = (_exactly(values[0], ("ORIGINAL", "REPLY"), "direction"),)
        elif key == "vmethod":
            values = (_exactly(values[0], ("GATE", "IPIP", "MASQ"), "forwarding method"),)
        if key != "ipvs" or len(given) == 1 or negate:  # --ipvs goes without saying beside the others
            tidy[key] = (negate, values)
    return Ipvs(text_of(tidy))


_PACKET_TYPES: Final = {
    "unicast": "unicast", "host": "unicast", "broadcast": "broadcast", "bcast": "broadcast", "multicast": "multicast",
    "mcast": "multicast", "otherhost": "otherhost",
}  # fmt: skip


def _pkttype(context: Context, given: Given) -> Pkttype:
    negate, (text,) = _needs(given, "pkt-type", "-m pkttype")
    if text.lower() not in _PACKET_TYPES:
        raise Bad(f"unknown packet type {text!r}", f"expected one of {', '.join(_PACKET_TYPES)}")
    return Pkttype(_PACKET_TYPES[text.lower()], negate)


_PORTS: Final = ("!sport|source-port 1", "!dport|destination-port 1")
_ICMP6: Final = Module(_options("!icmpv6-type 1"), _icmp(6, "icmpv6-type", _ICMPV6_TYPES))

MATCHES: Final[Mapping[str, Module]] = {
    "tcp": Module(_options(*_PORTS, "!syn", "!tcp-flags 2", "!tcp-option 1"), _tcp),
    "udp": Module(_options(*_PORTS), _udp),
    "sctp": Module(_options(*_PORTS, "!chunk-types 2"), _sctp),
    "icmp": Module(_options("!icmp-type 1"), _icmp(4, "icmp-type", _ICMP_TYPES)),
    "icmp6": _ICMP6,
    "icmpv6": _ICMP6,
    "ipv6-icmp": _ICMP6,
    "multiport": Module(_options("!sports|source-ports 1", "!dports|destination-ports 1", "!ports 1"), _multiport),
    "comment": Module(_options("comment 1"), _comment),
    "mark": Module(_options("!mark 1"), _mark),
    "connmark": Module(_options("!mark 1"), _connmark),
    "conntrack": Module(
        _options(*(f"!{key} 1" for key in ("ctstate", "ctproto", *_CT_ADDRESSES, *_CT_PORTS, "ctstatus", "ctexpire")), "ctdir 1"),
        _conntrack,
    ),
    "state": Module(_options("!state 1"), _state),
    "addrtype": Module(_options("!src-type 1", "!dst-type 1", "limit-iface-in", "limit-iface-out"), _addrtype),
    "set": Module(
        _options(
            "!match-set|set 2", "return-nomatch", "!update-counters", "!update-subcounters", "!packets-eq 1", "packets-lt 1",
            "packets-gt 1", "!bytes-eq 1", "bytes-lt 1", "bytes-gt 1",
        ),
        _set,
    ),
    "statistic": Module(_options("mode 1", "!probability 1", "!every 1", "packet 1"), _statistic),
    "recent": Module(
        _options(
            "!set", "!rcheck", "!update", "!remove", "seconds 1", "reap", "hitcount 1", "rttl", "name 1", "mask 1", "rsource",
            "rdest",
        ),
        _recent,
    ),
    "physdev": Module(
        _options("!physdev-in 1", "!physdev-out 1", "!physdev-is-in", "!physdev-is-out", "!physdev-is-bridged"), _physdev
    ),
    "rpfilter": Module(_options("loose", "validmark", "accept-local", "invert"), _rpfilter),
    "iprange": Module(_options("!src-range 1", "!dst-range 1"), _iprange),
    "owner": Module(_options("!uid-owner 1", "!gid-owner 1", "!socket-exists", "suppl-groups"), _owner),
    "mac": Module(_options("!mac-source 1"), _mac),
    "ttl": Module(_options("!ttl-eq|ttl 1", "ttl-lt 1", "ttl-gt 1"), _ttl(4, "ttl")),
    "hl": Module(_options("!hl-eq|hl 1", "hl-lt 1", "hl-gt 1"), _ttl(6, "hl")),
    "length": Module(_options("!length 1"), _length),
    "limit": Module(_options("limit 1", "limit-burst 1"), _limit),
    "hashlimit": Module(
        _options(
            "!hashlimit-upto|hashlimit 1", "!hashlimit-above 1", "hashlimit-burst 1", "hashlimit-mode 1", "hashlimit-name 1",
            *(f"{key} 1" for key in _HASH_REST if key != "hashlimit-rate-match"), "hashlimit-rate-match",
        ),
        _hashlimit,
    ),
    "ipvs": Module(
        _options("!ipvs", "!vproto 1", "!vaddr 1", "!vport 1", "vdir 1", "!vmethod 1", "!vportctl 1"), _ipvs
    ),
    "pkttype": Module(_options("!pkt-type 1"), _pkttype),
}  # fmt: skip

# The match that iptables loads by itself when an option such as --dport follows `-p PROTOCOL`.
IMPLIED: Final = {TCP: "tcp", UDP: "udp", SCTP: "sctp", ICMP: "icmp", ICMPV6: "icmp6"}
IMPLIED_UNKNOWN: Final = {DCCP: "dccp", UDPLITE: "udplite", 50: "esp", 51: "ah", 135: "mh"}


# ---- targets ---------------------------------------------------------------------------------------------------------

# iptables extensions/libipt_REJECT.c and libip6t_REJECT.c: the name, then the shorter one.
_REJECT_4: Final = (
    ("icmp-net-unreachable", "net-unreach"), ("icmp-host-unreachable", "host-unreach"),
    ("icmp-proto-unreachable", "proto-unreach"), ("icmp-port-unreachable", "port-unreach"),
    ("icmp-net-prohibited", "net-prohib"), ("icmp-host-prohibited", "host-prohib"), ("tcp-reset", "tcp-rst"),
    ("icmp-admin-prohibited", "admin-prohib"),
)  # fmt: skip
_REJECT_6: Final = (
    ("icmp6-no-route", "no-route"), ("icmp6-adm-prohibited", "adm-prohibited"), ("icmp6-addr-unreachable", "addr-unreach"),
    ("icmp6-port-unreachable", "port-unreach"), ("tcp-reset", "tcp-rst"), ("icmp6-policy-fail", "policy-fail"),
    ("icmp6-reject-route", "reject-route"),
)  # fmt: skip


def _reject(context: Context, given: Given) -> Reject:
    kinds = _REJECT_4 if context.family == 4 else _REJECT_6
    text = _value(given, "reject-with")
    if text is None:
        return Reject("icmp-port-unreachable" if context.family == 4 else "icmp6-port-unreachable")
    kind = next((k for k, short in kinds if k.startswith(text.lower()) or short.startswith(text.lower())), None)
    if kind is None:
        names = [k for k, _ in kinds]
        raise Bad(f"unknown kind of REJECT {text!r}", did_you_mean(text, names) or f"expected one of {', '.join(names)}")
    if kind == "tcp-reset":
        _protocol_is(context, "--reject-with tcp-reset", TCP)
    return Reject(kind)


def _nat_ports(text: str, dash: str = "-") -> tuple[int, int | None]:
    low, sep, high = text.partition(dash)
    first = port(low)
    last = port(high) if sep else first
    if last < first:
        raise Bad(f"the port range {text} runs backwards")
    return first, last if last != first else None


def _nat_range(context: Context, text: str, flags: dict[str, Any]) -> NatRange:
    """`A`, `A-B`, `A:80`, `A-B:80-90`, `:80`, `A:80-90/100`; IPv6 addresses in brackets where ports follow."""
    addresses, ports = text, ""
    if context.family == 6:
        if text.startswith("["):
            addresses, bracket, rest = text[1:].partition("]")
            if not bracket or rest[:1] not in ("", ":") or rest == ":":
                raise Bad(f"not an address and port: {text!r}", "expected for example [fd00::1]:80 or [fd00::1-fd00::9]:80-90")
            ports = rest[1:]
        elif text.startswith(":") and text.count(":") == 1:
            addresses, ports = "", text[1:]
    elif ":" in text:
        addresses, _, ports = text.partition(":")
        if not ports:
            raise Bad(f"not an address and port: {text!r}", "a port must follow the colon")
    if not addresses and not ports:
        raise Bad(f"not an address: {text!r}")
    low = high = None
    if addresses:
        first, dash, last = addresses.partition("-")
        low = address(first, context.family)
        high = address(last, context.family) if dash else None
    if not ports:
        return NatRange(low, None if high == low else high, **flags)
    _protocol_is(context, "a NAT target with ports", TCP, UDP, SCTP, DCCP)
    span, slash, base = ports.partition("/")
    port_low, port_high = _nat_ports(span)
    if slash and port_high is None:
        port_high = port_low
    return NatRange(low, None if high == low else high, port_low, port_high, port(base) if slash else None, **flags)


def _flags(given: Given) -> dict[str, Any]:
    return {name.replace("-", "_"): True for name in ("random", "random-fully", "persistent") if name in given}


def _dnat(context: Context, given: Given) -> Dnat:
    return Dnat(_nat_range(context, _needs(given, "to-destination", "-j DNAT")[1][0], _flags(given)))


def _snat(context: Context, given: Given) -> Snat:
    return Snat(_nat_range(context, _needs(given, "to-source", "-j SNAT")[1][0], _flags(given)))


def _own_ports(context: Context, given: Given, what: str) -> NatRange:
    text = _value(given, "to-ports")
    if text is None:
        return NatRange(**_flags(given))
    _protocol_is(context, f"{what} --to-ports", TCP, UDP, SCTP, DCCP)
    low, high = _nat_ports(text)
    return NatRange(None, None, low, high, **_flags(given))


def _masquerade(context: Context, given: Given) -> Masquerade:
    return Masquerade(_own_ports(context, given, "-j MASQUERADE"))


def _redirect(context: Context, given: Given) -> Redirect:
    return Redirect(_own_ports(context, given, "-j REDIRECT"))


def _netmap(context: Context, given: Given) -> Netmap:
    text = _needs(given, "to", "-j NETMAP")[1][0]
    value, mask = masked(text, context.family)
    return Netmap(context.family, value & mask, mask)


_MARKS: Final = ("set-xmark", "set-mark", "and-mark", "or-mark", "xor-mark")


def _xmark(key: str, text: str) -> tuple[int, int]:
    """(value, mask) of mark = (mark & ~mask) ^ value, for every spelling (libxt_MARK.c, libxt_CONNMARK.c)."""
    if key in ("set-xmark", "set-mark"):
        value, mask = value_mask(text, "a mark")
        return value, U32 if mask is None else mask | value if key == "set-mark" else mask
    value = number(text, U32, "a mark")
    return {"and-mark": (0, U32 ^ value), "or-mark": (value, value), "xor-mark": (value, 0)}[key]


def _set_mark(context: Context, given: Given) -> SetMark:
    key = _one(given, _MARKS, "-j MARK")
    return SetMark(*_xmark(key, given[key][1][0]))


def _set_connmark(context: Context, given: Given) -> SetConnmark | UnknownTarget:
    key = _one(given, (*_MARKS, "save-mark", "restore-mark"), "-j CONNMARK")
    shift = next((option for option in ("left-shift-mark", "right-shift-mark") if option in given), None)
    masks = {k: number(given[k][1][0], U32, "a mask") for k in ("mask", "nfmask", "ctmask") if k in given}
    known: SetConnmark
    if key in _MARKS:
        if masks:
            raise Bad(f"--{key} takes no --{next(iter(masks))}")
        known = SetConnmark("set", *_xmark(key, given[key][1][0]))
    else:
        if "mask" in masks and len(masks) > 1:
            raise Bad("--mask excludes --nfmask and --ctmask")
        every = masks.get("mask", U32)
        known = SetConnmark(key[:-5], ctmask=masks.get("ctmask", every), nfmask=masks.get("nfmask", every))
    if shift is None:
        return known
    # Shifts (xt_CONNMARK revision 2) are not modelled; the rest of the text is kept as the tool prints it.
    text = str(known).removeprefix("-j CONNMARK ")
    return UnknownTarget("CONNMARK", f"{text} --{shift} {number(given[shift][1][0], 31, 'a shift')}")


def _ct(context: Context, given: Given) -> Ct | UnknownTarget:
    zones = [key for key in ("zone", "zone-orig", "zone-reply") if key in given]
    if len(zones) > 1:
        raise Bad(f"--{zones[0]} and --{zones[1]} exclude each other")
    kept: Given = {key: given[key] for key in ("helper", "timeout", "ctevents", "expevents") if key in given}
    zone: int | None = None
    direction = ""
    if zones:
        text = given[zones[0]][1][0]
        if text == "mark":  # the zone is the packet's mark: not modelled
            kept[zones[0]] = given[zones[0]]
            return UnknownTarget("CT", ("--notrack " if "notrack" in given else "") + text_of(kept))
        zone = number(text, 65535, "a zone") or None  # zone 0 is no zone: iptables-save prints nothing
        direction = zones[0].removeprefix("zone").lstrip("-") if zone is not None else ""
    return Ct("notrack" in given, zone, direction, text_of(kept))


def _notrack(context: Context, given: Given) -> Ct:
    return Ct(notrack=True, bare=True)


def _tproxy(context: Context, given: Given) -> Tproxy:
    _protocol_is(context, "-j TPROXY", TCP, UDP)
    where, mark = _value(given, "on-ip"), _value(given, "tproxy-mark")
    value, mask = (0, 0) if mark is None else value_mask(mark, "a mark")
    on_port = number(_needs(given, "on-port", "-j TPROXY")[1][0], 65535, "a port")
    to = None if where is None else address(where, context.family)
    return Tproxy(
        on_port, to if to is not None and to.value else None, value, U32 if mask is None else mask, context.family
    )  # fmt: skip


_LOG_LEVELS: Final = {
    "emerg": 0, "panic": 0, "alert": 1, "crit": 2, "err": 3, "error": 3, "warning": 4, "warn": 4, "notice": 5, "info": 6,
    "debug": 7,
}  # fmt: skip
_LOG_FLAGS: Final = ("log-tcp-sequence", "log-tcp-options", "log-ip-options", "log-uid", "log-macdecode")


def _log(context: Context, given: Given) -> Log:
    words = []
    prefix, level = _value(given, "log-prefix"), _value(given, "log-level")
    if prefix is not None:
        if len(prefix.encode()) > 29:
            raise Bad("--log-prefix is longer than 29 bytes")
        if prefix:
            words.append(f"--log-prefix {save_string(prefix)}")
    if level is not None:
        wanted = _LOG_LEVELS[level] if level in _LOG_LEVELS else number(level, 7, "a log level")
        if wanted != 4:
            words.append(f"--log-level {wanted}")
    return Log("LOG", " ".join(words + [f"--{flag}" for flag in _LOG_FLAGS if flag in given]))


def _nflog(context: Context, given: Given) -> Log:
    words = []
    prefix = _value(given, "nflog-prefix")
    if prefix:
        words.append(f"--nflog-prefix {save_string(prefix)}")
    for key in ("nflog-group", "nflog-range", "nflog-size", "nflog-threshold"):
        text = _value(given, key)
        if text is not None and (value := number(text, U32, "a number")):
            words.append(f"--{key} {value}")
    return Log("NFLOG", " ".join(words))


def _trace(context: Context, given: Given) -> TraceTarget:
    return TraceTarget()


def _set_target(context: Context, given: Given) -> SetTarget:
    if not {"add-set", "del-set", "map-set"} & given.keys():
        raise Bad("-j SET needs --add-set, --del-set or --map-set")
    for key in ("add-set", "del-set", "map-set"):
        if key in given:
            _dimensions(given[key][1][1])
    order = ("add-set", "exist", "timeout", "del-set", "map-set", "map-mark", "map-prio", "map-queue")
    return SetTarget(text_of({key: given[key] for key in order if key in given}))


def _tcpmss(context: Context, given: Given) -> Tcpmss:
    _protocol_is(context, "-j TCPMSS", TCP)
    key = _one(given, ("set-mss", "clamp-mss-to-pmtu"), "-j TCPMSS")
    return Tcpmss(number(given[key][1][0], 65535, "a segment size") if key == "set-mss" else None)


def _checksum(context: Context, given: Given) -> Checksum:
    _needs(given, "checksum-fill", "-j CHECKSUM")
    return Checksum()


_NONE: Final[Options] = {}

TARGETS: Final[Mapping[str, Module]] = {
    "ACCEPT": Module(_NONE, lambda context, given: Accept()),
    "DROP": Module(_NONE, lambda context, given: Drop()),
    "RETURN": Module(_NONE, lambda context, given: Return()),
    "REJECT": Module(_options("reject-with 1"), _reject),
    "DNAT": Module(_options("to-destination 1", "random", "random-fully", "persistent"), _dnat),
    "SNAT": Module(_options("to-source 1", "random", "random-fully", "persistent"), _snat),
    "MASQUERADE": Module(_options("to-ports 1", "random", "random-fully"), _masquerade),
    "REDIRECT": Module(_options("to-ports 1", "random"), _redirect),
    "NETMAP": Module(_options("to 1"), _netmap),
    "MARK": Module(_options(*(f"{key} 1" for key in _MARKS)), _set_mark),
    "CONNMARK": Module(
        _options(
            *(f"{key} 1" for key in _MARKS), "save-mark", "restore-mark", "mask 1", "nfmask 1", "ctmask 1", "left-shift-mark 1",
            "right-shift-mark 1",
        ),
        _set_connmark,
    ),
    "CT": Module(
        _options("notrack", "helper 1", "timeout 1", "ctevents 1", "expevents 1", "zone 1", "zone-orig 1", "zone-reply 1"), _ct
    ),
    "NOTRACK": Module(_NONE, _notrack),
    "TPROXY": Module(_options("on-port 1", "on-ip 1", "tproxy-mark 1"), _tproxy),
    "LOG": Module(_options("log-prefix 1", "log-level 1", *_LOG_FLAGS), _log),
    "NFLOG": Module(_options("nflog-prefix 1", "nflog-group 1", "nflog-range 1", "nflog-size 1", "nflog-threshold 1"), _nflog),
    "TRACE": Module(_NONE, _trace),
    "SET": Module(
        _options("add-set 2", "del-set 2", "map-set 2", "exist", "timeout 1", "map-mark", "map-prio", "map-queue"), _set_target
    ),
    "TCPMSS": Module(_options("set-mss 1", "clamp-mss-to-pmtu"), _tcpmss),
    "CHECKSUM": Module(_options("checksum-fill"), _checksum),
}  # fmt: skip

# Targets that exist and are not modelled: of iptables itself, then of the older tools and xtables-addons.
OTHER_TARGETS: Final = frozenset({
    "AUDIT", "CLASSIFY", "CLUSTERIP", "CONNSECMARK", "DNPT", "DSCP", "ECN", "HL", "HMARK", "IDLETIMER", "LED", "NFQUEUE",
    "QUEUE", "RATEEST", "SECMARK", "SNPT", "SYNPROXY", "TCPOPTSTRIP", "TEE", "TOS", "TTL", "ULOG", "ACCOUNT", "CHAOS",
    "DELUDE", "DHCPMAC", "DNETMAP", "ECHO", "FLOWOFFLOAD", "IPMARK", "LOGMARK", "NFACCT", "PROTO", "SYSRQ", "TARPIT",
})  # fmt: skip
