"""How nft 1.0.6 spells expressions, statements and data types; the tables that its readers and writers share.

Law: `statement_text` is what `nft list ruleset` prints for a statement. How a constant is spelled depends on the data type
of what it is compared with (a mark is 0x00000010, a device name stands in quotes), which `datatype` tells.
Sources: nft(8), and nft itself (tests/kernel/test_nft_listing.py loads what is written here and lists it again).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from netlab.errors import InputError
from netlab.linux import nft as n
from netlab.linux.nft import Element, Expression, NftSet, NftTable, Statement, Value

FAMILIES: Final = ("ip", "ip6", "inet", "arp", "bridge", "netdev")
OPERATORS: Final = ("==", "!=", "<", ">", "<=", ">=", "!")
VERDICTS: Final = ("accept", "drop", "continue", "return", "jump", "goto")
NAT_FLAGS: Final = ("random", "fully-random", "persistent")
SET_FLAGS: Final = ("constant", "dynamic", "interval", "timeout")
FLAG_TYPES: Final = frozenset({"ct_state", "ct_status", "tcp_flag", "ct_event", "ct_label"})
UNQUALIFIED_META: Final = frozenset({"iif", "oif", "iifname", "oifname", "iifgroup", "oifgroup"})

META_TYPES: Final = {
    "mark": "mark", "iifname": "ifname", "oifname": "ifname", "ibrname": "ifname", "obrname": "ifname", "ibridgename": "ifname",
    "obridgename": "ifname", "sdifname": "ifname", "iifkind": "ifname", "oifkind": "ifname", "iif": "iface_index",
    "oif": "iface_index", "sdif": "iface_index", "l4proto": "inet_proto", "nfproto": "nf_proto", "protocol": "ether_type",
    "pkttype": "pkt_type", "skuid": "uid", "skgid": "gid", "length": "integer", "nftrace": "bit", "cpu": "integer",
    "random": "integer", "iifgroup": "devgroup", "oifgroup": "devgroup", "iiftype": "iface_type", "oiftype": "iface_type",
    "priority": "classid", "time": "time", "day": "day", "hour": "hour", "rtclassid": "realm", "cgroup": "integer",
    "secpath": "boolean", "ipsec": "boolean", "secmark": "string", "ibrpvid": "integer", "ibrvproto": "ether_type",
}  # fmt: skip
CT_TYPES: Final = {
    "state": "ct_state", "direction": "ct_dir", "status": "ct_status", "mark": "mark", "expiration": "duration",
    "helper": "string", "l3proto": "nf_proto", "protocol": "inet_proto", "proto-src": "inet_service",
    "proto-dst": "inet_service", "label": "ct_label", "event": "ct_event", "zone": "integer", "id": "integer",
    "bytes": "integer", "packets": "integer", "avgpkt": "integer", "secmark": "string", "saddr": "", "daddr": "",
}  # fmt: skip
_PORTS: Final = {"sport": "inet_service", "dport": "inet_service"}
_OF: Final[Mapping[str, Mapping[str, str]]] = {
    "ip": {
        "version": "integer", "hdrlength": "integer", "dscp": "dscp", "ecn": "ecn", "length": "integer", "id": "integer",
        "frag-off": "integer", "ttl": "integer", "protocol": "inet_proto", "checksum": "integer", "saddr": "ipv4_addr",
        "daddr": "ipv4_addr",
    },
    "ip6": {
        "version": "integer", "dscp": "dscp", "ecn": "ecn", "flowlabel": "integer", "length": "integer",
        "nexthdr": "inet_proto", "hoplimit": "integer", "saddr": "ipv6_addr", "daddr": "ipv6_addr",
    },
    "tcp": {
        **_PORTS, "sequence": "integer", "ackseq": "integer", "doff": "integer", "reserved": "integer", "flags": "tcp_flag",
        "window": "integer", "checksum": "integer", "urgptr": "integer",
    },
    "udp": {**_PORTS, "length": "integer", "checksum": "integer"},
    "udplite": {**_PORTS, "checksum": "integer"},
    "sctp": {**_PORTS, "vtag": "integer", "checksum": "integer"},
    "dccp": {**_PORTS, "type": "dccp_pkttype"},
    "th": _PORTS,
    "icmp": {
        "type": "icmp_type", "code": "icmp_code", "checksum": "integer", "id": "integer", "sequence": "integer",
        "gateway": "integer", "mtu": "integer",
    },
    "icmpv6": {
        "type": "icmpv6_type", "code": "icmpv6_code", "checksum": "integer", "parameter-problem": "integer",
        "packet-too-big": "integer", "id": "integer", "sequence": "integer", "max-delay": "integer",
    },
    "igmp": {"type": "igmp_type", "mrt": "integer", "checksum": "integer", "group": "ipv4_addr"},
    "ether": {"saddr": "ether_addr", "daddr": "ether_addr", "type": "ether_type"},
    "vlan": {"id": "integer", "dei": "integer", "pcp": "integer", "cfi": "integer", "type": "ether_type"},
    "ah": {"nexthdr": "inet_proto", "hdrlength": "integer", "reserved": "integer", "spi": "integer", "sequence": "integer"},
    "esp": {"spi": "integer", "sequence": "integer"},
    "comp": {"nexthdr": "inet_proto", "flags": "integer", "cpi": "integer"},
    "arp": {
        "htype": "integer", "ptype": "ether_type", "hlen": "integer", "plen": "integer", "operation": "arp_op",
    },
}  # fmt: skip
PAYLOADS: Final = _OF
_QUOTED: Final = frozenset({"ifname", "iface_index", "string", "time", "day", "hour"})
_LEVELS: Final = {"|": 1, "^": 2, "&": 3, "<<": 4, ">>": 4}
# How many elements of a set stand on a line: expression.c calculate_delim
_FIVE: Final = frozenset({
    "nf_proto", "integer", "arp_op", "inet_proto", "inet_service", "tcp_flag", "dccp_pkttype", "mark", "iface_type",
    "uid", "gid", "ct_dir", "pkt_type",
})  # fmt: skip

_PRIORITIES: Final = (("raw", -300), ("mangle", -150), ("dstnat", -100), ("filter", 0), ("security", 50), ("srcnat", 100))
_BRIDGE_PRIORITIES: Final = (("dstnat", -300), ("filter", -200), ("out", 100), ("srcnat", 300))
_DEFAULT_REJECTS: Final = {"ip": "icmp", "ip6": "icmpv6", "inet": "icmpx", "bridge": "icmpx", "netdev": "icmpx"}
_UNITS: Final = (("d", 86400), ("h", 3600), ("m", 60), ("s", 1))

_FROM_JSON: Final = "it was read from JSON: write JSON"

Sets = Mapping[str, NftSet]


def priorities(family: str, hook: str) -> tuple[tuple[str, int], ...]:
    """The names that priorities have at a hook (nft rule.c std_prio_lookup)."""
    if family == "bridge":
        wrong = {"dstnat": "prerouting", "out": "output", "srcnat": "postrouting"}
        return tuple(p for p in _BRIDGE_PRIORITIES if wrong.get(p[0], hook) == hook)
    if family not in ("ip", "ip6", "inet"):
        return (("filter", 0),)
    only = {"dstnat": "prerouting", "srcnat": "postrouting"}
    return tuple(p for p in _PRIORITIES if only.get(p[0], hook) == hook)


def priority_text(family: str, hook: str, priority: int) -> str:
    """`dstnat - 10`: a name where one is at most 10 away (rule.c prio2str).

    >>> priority_text("ip", "prerouting", -110), priority_text("ip", "output", -100)
    ('dstnat - 10', '-100')
    """
    for name, value in priorities(family, hook):
        offset = priority - value
        if offset == 0:
            return name
        if -10 <= offset <= 10:
            return f"{name} {'+' if offset > 0 else '-'} {abs(offset)}"
    return str(priority)


def default_reject(family: str) -> tuple[str, str]:
    """What `reject` alone means in a table of the family."""
    return _DEFAULT_REJECTS.get(family, "icmp"), "port-unreachable"


def duration(seconds: float) -> str:
    """`1h30m`, `9m58s836ms` (datatype.c time_print).

    >>> duration(5400), duration(598.836), duration(0)
    ('1h30m', '9m58s836ms', '0s')
    """
    milliseconds = round(seconds * 1000)
    whole, milliseconds = divmod(milliseconds, 1000)
    parts = []
    for letter, size in _UNITS:
        count, whole = divmod(whole, size)
        if count:
            parts.append(f"{count}{letter}")
    if milliseconds:
        parts.append(f"{milliseconds}ms")
    return "".join(parts) or "0s"


def datatype(expression: Expression, sets: Sets | None = None) -> str:
    """The name of an expression's type, as `type` of a set spells it; "" where it is not known; parts joined with " . ".

    >>> datatype(n.Concat((n.Payload("ip", "saddr"), n.Meta("mark"))))
    'ipv4_addr . mark'
    """
    match expression:
        case n.Meta(key=key):
            return META_TYPES.get(key, "")
        case n.Payload(protocol=protocol, field=field):
            return _OF.get(protocol, {}).get(field, "")
        case n.RawPayload():
            return "raw"
        case n.CtKey(key=key, family=family):
            if key in ("saddr", "daddr"):
                return {"ip": "ipv4_addr", "ip6": "ipv6_addr"}.get(family, "")
            return CT_TYPES.get(key, "")
        case n.Fib(result=result):
            return {"type": "fib_addrtype", "oif": "iface_index", "oifname": "ifname"}.get(result, "")
        case n.Numgen() | n.Hashed():
            return "integer"
        case n.Concat(parts=parts):
            return " . ".join(datatype(part, sets) for part in parts)
        case n.Binary(left=left):
            return datatype(left, sets)
        case n.Lookup(data=data):
            if isinstance(data, n.SetName):
                known = (sets or {}).get(data.name)
                return " . ".join(known.data).removeprefix("interval ") if known is not None else ""
        case _:
            pass
    return ""


def _value(value: Value, kind: str) -> str:
    content = value.value
    if isinstance(content, int):
        if kind == "mark":
            return f"0x{content:08x}"
        if kind == "raw" or (kind in FLAG_TYPES and kind != "ct_label"):
            return f"0x{content:x}"
        if kind in ("dscp", "ecn"):
            return f"0x{content:02x}"
        return str(content)
    if kind in _QUOTED and content not in ("*", "missing", "exists"):
        return f'"{content}"'
    return content


def expression_text(expression: Expression, kind: str = "", sets: Sets | None = None) -> str:
    """An expression as nft prints it; `kind` is the data type that a constant has here."""
    match expression:
        case n.Value():
            return _value(expression, kind)
        case n.Meta(key=key):
            return key if key in UNQUALIFIED_META else f"meta {key}"
        case n.Payload(protocol=protocol, field=field):
            return f"{protocol} {field}"
        case n.RawPayload(base=base, offset=offset, length=length):
            return f"@{base},{offset},{length}"
        case n.CtKey(key=key, direction=direction, family=family):
            return " ".join(word for word in ("ct", direction, family, key) if word)
        case n.Fib(flags=flags, result=result):
            return f"fib {' . '.join(flags)} {result}"
        case n.Numgen(mode=mode, modulus=modulus, offset=offset):
            return f"numgen {mode} mod {modulus}" + (f" offset {offset}" if offset else "")
        case n.Hashed(of=of, modulus=modulus, seed=seed, offset=offset):
            text = "symhash" if of is None else f"jhash {expression_text(of, '', sets)}"
            text += f" mod {modulus}"
            if seed is not None:
                text += f" seed 0x{seed:x}"
            return text + (f" offset {offset}" if offset else "")
        case n.PrefixValue(address=address, length=length):
            return f"{address}/{length}"
        case n.RangeValue(low=low, high=high):
            return f"{expression_text(low, kind, sets)}-{expression_text(high, kind, sets)}"
        case n.ListValue(parts=parts):
            return ",".join(expression_text(part, kind, sets) for part in parts)
        case n.Concat(parts=parts):
            kinds = kind.split(" . ") if kind else []
            kinds += [""] * (len(parts) - len(kinds))
            return " . ".join(expression_text(p, k, sets) for p, k in zip(parts, kinds, strict=False))
        case n.Binary():
            return _binary(expression, kind, sets)
        case n.SetName(name=name):
            return f"@{name}"
        case n.SetLiteral(elements=elements):
            return f"{{ {', '.join(element_text(e, kind, sets) for e in elements)} }}"
        case n.Lookup(key=key, data=data):
            return f"{expression_text(key, '', sets)} map {_elements(key, data, sets, kind)}"
        case n.UnknownExpression(text=text, json=json):
            if not text:
                raise InputError(f"an expression cannot be written as text of nft: {json}", None, _FROM_JSON)
            return text


def _elements(key: Expression, data: n.SetName | n.SetLiteral, sets: Sets | None, data_kind: str = "") -> str:
    if isinstance(data, n.SetName):
        return f"@{data.name}"
    kind = datatype(key, sets)
    return f"{{ {', '.join(element_text(e, kind, sets, data_kind) for e in data.elements)} }}"


def _binary(expression: n.Binary, kind: str, sets: Sets | None) -> str:
    kind = datatype(expression, sets) or kind
    level = _LEVELS[expression.op]

    def side(part: Expression, kind: str, right: bool) -> str:
        text = expression_text(part, kind, sets)
        if isinstance(part, n.Binary):
            inner = _LEVELS[part.op]
            if inner < level or (right and inner == level) or (inner != level and level == 4):
                return f"({text})"
        return text

    right_kind = "integer" if expression.op in ("<<", ">>") else kind
    right = expression.right
    spelled = (
        "|".join(expression_text(p, kind, sets) for p in right.parts)
        if isinstance(right, n.ListValue)
        else side(right, right_kind, True)
    )
    if isinstance(right, n.ListValue) and len(right.parts) > 1:
        spelled = f"({spelled})"
    return f"{side(expression.left, kind, False)} {expression.op} {spelled}"


def element_text(element: Element, kind: str, sets: Sets | None = None, data_kind: str = "") -> str:
    """An element of a set or map, as it stands between the braces."""
    text = expression_text(element.key, kind, sets)
    for statement in element.statements:
        text += f" {statement_text(statement, 'ip', sets)}"
    if element.timeout is not None:
        text += f" timeout {duration(element.timeout)}"
    if element.expires is not None:
        text += f" expires {duration(element.expires)}"
    if element.comment:
        text += f' comment "{element.comment}"'
    match element.data:
        case None:
            return text
        case n.Verdict() as verdict:
            return f"{text} : {verdict_text(verdict)}"
        case data:
            return f"{text} : {expression_text(data, data_kind, sets)}"


def verdict_text(verdict: n.Verdict) -> str:
    return f"{verdict.kind} {verdict.chain}" if verdict.chain else verdict.kind


def _compare(compare: n.Compare, sets: Sets | None) -> str:
    left, op, right = compare.left, compare.op, compare.right
    kind = datatype(left, sets)
    value = expression_text(right, kind, sets)
    if isinstance(right, n.Binary):
        value = f"{expression_text(right.left, kind, sets)} {right.op} {expression_text(right.right, kind, sets)}"
    flags = kind in FLAG_TYPES
    if flags and isinstance(left, n.Binary) and left.op == "&" and isinstance(left.right, n.ListValue) and op in ("==", "!="):
        mask = expression_text(left.right, kind, sets)
        sign = "" if op == "==" else "!= "
        return f"{expression_text(left.left, '', sets)} {sign}{value} / {mask}"
    text = expression_text(left, "", sets)
    if op == "in":
        return f"{text} {value}"
    if op == "==":
        explicit = isinstance(left, n.Binary) or (flags and isinstance(right, Value))
        if flags and isinstance(right, n.Binary):
            explicit = False
        return f"{text} == {value}" if explicit else f"{text} {value}"
    return f"{text} {op} {value}"


def statement_text(statement: Statement, family: str, sets: Sets | None = None, *, in_set: bool = False) -> str:
    """A statement as `nft list ruleset` prints it in a table of a family; `in_set`: as a part of an element."""
    match statement:
        case n.Verdict():
            return verdict_text(statement)
        case n.Compare():
            return _compare(statement, sets)
        case n.Vmap(key=key, data=data):
            return f"{expression_text(key, '', sets)} vmap {_elements(key, data, sets)}"
        case n.Mangle(key=key, value=value):
            return f"{expression_text(key, '', sets)} set {expression_text(value, datatype(key, sets), sets)}"
        case n.Counter(packets=packets, bytes=size, name=name):
            if name:
                return f'counter name "{name}"'
            return "counter" if in_set else f"counter packets {packets} bytes {size}"
        case n.Nat():
            return _nat(statement, sets)
        case n.RejectStatement(type=kind, code=code):
            return "reject" if not kind else f"reject with {kind} {code}".rstrip()
        case n.SetChange(op=op, set=name, element=element, statements=statements):
            known = (sets or {}).get(name)
            key_kind = " . ".join(known.type) if known is not None else ""
            text = expression_text(element.key, key_kind, sets)
            if element.timeout is not None:
                text += f" timeout {duration(element.timeout)}"
            if element.comment:
                text += f' comment "{element.comment}"'
            for each in statements:
                text += f" {statement_text(each, family, sets, in_set=True)}"
            if isinstance(element.data, n.Verdict):
                text += f" : {verdict_text(element.data)}"
            elif element.data is not None:
                data_kind = " . ".join(known.data) if known is not None else ""
                text += f" : {expression_text(element.data, data_kind, sets)}"
            return f"{op} @{name} {{ {text} }}"
        case n.Notrack():
            return "notrack"
        case n.LogStatement():
            return _log(statement)
        case n.Limit():
            return _limit(statement)
        case n.UnknownStatement(text=text, json=json):
            if not text:
                raise InputError(f"a statement cannot be written as text of nft: {json}", None, _FROM_JSON)
            return text


def _nat(statement: n.Nat, sets: Sets | None) -> str:
    words = [statement.kind]
    if statement.family:
        words.append(statement.family)
    if statement.prefix:
        words.append("prefix")
    address, port = statement.address, statement.port
    if address is not None or port is not None:
        target = ""
        if address is not None:
            target = _nat_address(address, sets, bracket=port is not None)
        if port is not None:
            target += f":{expression_text(port, 'inet_service', sets)}"
        words += ["to", target]
    if statement.flags:
        words.append(",".join(statement.flags))
    return " ".join(words)


def _nat_address(address: Expression, sets: Sets | None, bracket: bool) -> str:
    """IPv6 addresses stand in brackets where a port follows (statement.c nat_stmt_addr_print)."""
    match address:
        case n.Value(value=str(text)) if bracket and ":" in text:
            return f"[{text}]"
        case n.RangeValue(low=low, high=high):
            return f"{_nat_address(low, sets, bracket)}-{_nat_address(high, sets, bracket)}"
        case _:
            return expression_text(address, "", sets)


def _log(statement: n.LogStatement) -> str:
    text = "log"
    if statement.prefix:
        text += f' prefix "{statement.prefix}"'
    if statement.group is not None:
        text += f" group {statement.group}"
        if statement.snaplen is not None:
            text += f" snaplen {statement.snaplen}"
        if statement.threshold is not None:
            text += f" queue-threshold {statement.threshold}"
    if statement.level:
        text += f" level {statement.level}"
    if statement.flags == ("all",):
        text += " flags all"
    elif statement.flags:
        flags = [f for f in statement.flags if not f.startswith("tcp ")]
        tcp = ",".join(f.removeprefix("tcp ") for f in statement.flags if f.startswith("tcp "))
        text += "".join(f" flags {flag}" for flag in ([f"tcp {tcp}"] if tcp else []) + flags)
    return text


def _limit(statement: n.Limit) -> str:
    if statement.name:
        return f'limit name "{statement.name}"'
    over = "over " if statement.over else ""
    unit = "" if statement.unit == "packets" else f" {statement.unit}"
    text = f"limit rate {over}{statement.rate}{unit}/{statement.per}"
    usual = 5 if statement.unit == "packets" else 0
    return text if statement.burst == usual else f"{text} burst {statement.burst} {statement.burst_unit}"


def rule_text(rule: n.NftRule, table: NftTable) -> str:
    """A rule as `nft list ruleset` prints it, with its comment.

    >>> rule_text(n.NftRule((n.Verdict("jump", "services"),), "x"), NftTable("ip", "kube-proxy"))
    'jump services comment "x"'
    """
    parts = [statement_text(s, table.family, table.sets) for s in rule.statements]
    if rule.comment:
        parts.append(f'comment "{rule.comment}"')
    return " ".join(parts)


def delimiters(kind: str) -> int:
    """How many elements of a type stand on one line of a set."""
    if kind in _FIVE:
        return 5
    return 2 if kind in ("ipv4_addr", "time", "ct_state", "ct_status") else 1
