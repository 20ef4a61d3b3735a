"""nftables in the rule IR: tables, chains, sets and maps, and rules as a sequence of statements over expressions.

    NftTable (family, name) -> NftSet, NftChain (base: type, hook, priority, policy) -> NftRule -> Statement -> Expression

Law: names and shapes are those of libnftables-json(5), values as nft writes them; a statement or expression that netlab does
not model is an Unknown* that keeps its text. Statements run from left to right; a Compare that does not hold ends the rule
(nf_tables_core.c nft_do_chain). What they do is decided in match/nft.py and trace/. Sources: nft(8), net/netfilter/nft_*.c.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Final

import msgspec

from netlab.linux.hook import Hook
from netlab.refs import Ref

# -- expressions -------------------------------------------------------------------------------------------------------


class Meta(msgspec.Struct, frozen=True, gc=False):
    """`meta KEY`: mark, l4proto, nfproto, iifname, oifname, protocol, pkttype, skuid, length ..."""

    key: str


class Payload(msgspec.Struct, frozen=True, gc=False):
    """A header field by name: `ip saddr`, `tcp dport`, `th dport`, `icmp type` ..."""

    protocol: str
    field: str


class RawPayload(msgspec.Struct, frozen=True, gc=False):
    """`@BASE,OFFSET,LENGTH` (ll, nh, th, ih), offset and length in bits."""

    base: str
    offset: int
    length: int


class CtKey(msgspec.Struct, frozen=True, gc=False):
    """`ct KEY`, for some keys of a direction ("original", "reply") and family ("ip", "ip6")."""

    key: str
    direction: str = ""
    family: str = ""


class Fib(msgspec.Struct, frozen=True, gc=False):
    """`fib FLAGS RESULT`: flags saddr, daddr, mark, iif, oif; result oif, oifname, type."""

    flags: tuple[str, ...]
    result: str


class Numgen(msgspec.Struct, frozen=True, gc=False):
    """`numgen random|inc mod N [offset M]`."""

    mode: str
    modulus: int
    offset: int = 0


class Hashed(msgspec.Struct, frozen=True, gc=False):
    """`jhash EXPRESSION mod N [seed S] [offset M]`, or `symhash mod N` (of None)."""

    of: Expression | None
    modulus: int
    seed: int | None = None
    offset: int = 0


class Value(msgspec.Struct, frozen=True, gc=False):
    """A constant as nft's JSON has it: a number, an address, a symbol ("tcp", "established", "local"), a device name.

    "*" is the element of an interval set that stands for everything else; "missing" and "exists" are what fib may be asked.
    """

    value: int | str


class PrefixValue(msgspec.Struct, frozen=True, gc=False):
    """`ADDRESS/LENGTH`."""

    address: str
    length: int


class RangeValue(msgspec.Struct, frozen=True, gc=False):
    """`LOW-HIGH`, both ends included."""

    low: Expression
    high: Expression


class ListValue(msgspec.Struct, frozen=True, gc=False):
    """`A,B,C`: several flags at once (ct state, ct status, tcp flags)."""

    parts: tuple[Expression, ...]


class Concat(msgspec.Struct, frozen=True, gc=False):
    """`A . B . C`."""

    parts: tuple[Expression, ...]


class Binary(msgspec.Struct, frozen=True, gc=False):
    """`LEFT & RIGHT`, `|`, `^`, `<<`, `>>`."""

    op: str
    left: Expression
    right: Expression


class SetName(msgspec.Struct, frozen=True, gc=False):
    """`@NAME`: a set or map of the same table."""

    name: str


class Element(msgspec.Struct, frozen=True, gc=False):
    """An element of a set or map: its key, for maps its data (an Expression or a Verdict), and what is said of it.

    Durations are seconds; text also has milliseconds. `statements` are those that each element carries (`counter`).
    """

    key: Expression
    data: Expression | Verdict | None = None
    comment: str = ""
    timeout: int | float | None = None
    expires: int | float | None = None
    statements: tuple[Statement, ...] = ()


class SetLiteral(msgspec.Struct, frozen=True, gc=False):
    """`{ A, B }` or, as a map, `{ A : X, B : Y }`."""

    elements: tuple[Element, ...]


class Lookup(msgspec.Struct, frozen=True, gc=False):
    """`KEY map @NAME` or `KEY map { ... }`: the data that belongs to a key; where there is none the rule ends."""

    key: Expression
    data: SetName | SetLiteral


class UnknownExpression(msgspec.Struct, frozen=True, gc=False):
    """What netlab does not model, as text, and as the JSON that nft printed."""

    text: str
    json: str = ""


Expression = (
    Meta
    | Payload
    | RawPayload
    | CtKey
    | Fib
    | Numgen
    | Hashed
    | Value
    | PrefixValue
    | RangeValue
    | ListValue
    | Concat
    | Binary
    | SetName
    | SetLiteral
    | Lookup
    | UnknownExpression
)

# -- statements --------------------------------------------------------------------------------------------------------


class Verdict(msgspec.Struct, frozen=True, gc=False):
    """`accept`, `drop`, `continue`, `return`, `jump CHAIN`, `goto CHAIN`."""

    kind: str
    chain: str = ""


class Compare(msgspec.Struct, frozen=True, gc=False):
    """`LEFT OP RIGHT`; op "==", "!=", "<", ">", "<=", ">=", "in" (any flag of RIGHT, as in `ct state new`), "!" (none)."""

    left: Expression
    op: str
    right: Expression


class Vmap(msgspec.Struct, frozen=True, gc=False):
    """`KEY vmap @NAME` or `KEY vmap { A : VERDICT, ... }`: a verdict by key; where there is none the rule ends."""

    key: Expression
    data: SetName | SetLiteral


class Mangle(msgspec.Struct, frozen=True, gc=False):
    """`KEY set VALUE`: meta mark, ct mark, a header field."""

    key: Expression
    value: Expression


class Counter(msgspec.Struct, frozen=True, gc=False):
    """`counter [packets N bytes M]`, or a named one."""

    packets: int = 0
    bytes: int = 0
    name: str = ""


class Nat(msgspec.Struct, frozen=True, gc=False):
    """`dnat|snat|masquerade|redirect [FAMILY] [prefix] [to ADDRESS[:PORT]] [FLAGS]`.

    `family` is "" but in tables of inet and where a map has the port too; `flags` are random, fully-random, persistent in
    this order; `prefix`: the host's bits of the address stay (NETMAP).
    """

    kind: str
    address: Expression | None = None
    port: Expression | None = None
    family: str = ""
    flags: tuple[str, ...] = ()
    prefix: bool = False


class RejectStatement(msgspec.Struct, frozen=True, gc=False):
    """`reject [with TYPE CODE]`; type "" is the default (port-unreachable of icmp, icmpv6, in inet icmpx), "tcp reset" has
    no code."""

    type: str = ""
    code: str = ""


class SetChange(msgspec.Struct, frozen=True, gc=False):
    """`add|update|delete @SET { ELEMENT [STATEMENTS] }`; with `element.data` the set is a map."""

    op: str
    set: str
    element: Element
    statements: tuple[Statement, ...] = ()


class Notrack(msgspec.Struct, frozen=True, gc=False):
    """`notrack`."""


class LogStatement(msgspec.Struct, frozen=True, gc=False):
    """`log ...`. The packet goes on. `flags` as JSON has them: "tcp sequence", "ip options", "all"."""

    prefix: str = ""
    level: str = ""
    group: int | None = None
    snaplen: int | None = None
    threshold: int | None = None
    flags: tuple[str, ...] = ()


class Limit(msgspec.Struct, frozen=True, gc=False):
    """`limit rate [over] RATE[ UNIT]/PER [burst N UNIT]`, or a named one; units packets, or bytes, kbytes, mbytes."""

    rate: int = 0
    per: str = "second"
    burst: int = 5
    over: bool = False
    unit: str = "packets"
    burst_unit: str = "packets"
    name: str = ""


class UnknownStatement(msgspec.Struct, frozen=True, gc=False):
    """What netlab does not model (xt, queue, tproxy, flow ...): the rest of the rule as text, or the JSON that nft printed."""

    text: str
    json: str = ""


Statement = (
    Verdict
    | Compare
    | Vmap
    | Mangle
    | Counter
    | Nat
    | RejectStatement
    | SetChange
    | Notrack
    | LogStatement
    | Limit
    | UnknownStatement
)

# -- tables ------------------------------------------------------------------------------------------------------------


class NftRule(msgspec.Struct, frozen=True, gc=False):
    """One rule. `handle` is the kernel's number of an observed rule; neither it nor `ref` is part of equality."""

    statements: tuple[Statement, ...] = ()
    comment: str = ""
    handle: int | None = None
    ref: Ref | None = None

    def __eq__(self, other: object) -> bool:
        return isinstance(other, NftRule) and (self.statements, self.comment) == (other.statements, other.comment)

    def __hash__(self) -> int:
        return hash((self.statements, self.comment))


class NftChain(msgspec.Struct, frozen=True, gc=False):
    """A chain. Base chains have `type` (filter, nat, route), `hook`, `priority` and `policy` ("accept" or "drop").

    `other_hook` is that of a base chain at a hook that netlab does not walk (ingress, egress), `device` where it sits.
    """

    name: str
    rules: tuple[NftRule, ...] = ()
    type: str = ""
    hook: Hook | None = None
    priority: int = 0
    policy: str = ""
    comment: str = ""
    other_hook: str = ""
    device: str = ""


class NftSet(msgspec.Struct, frozen=True):
    """A named set, or map where `data` is not () (("verdict",), ("ipv4_addr", "inet_service"), ...); `type` has the key's parts.

    `timeout` is the default of its elements in seconds; `flags` are constant, dynamic, interval, timeout, in this order.
    `typeof` is what stands behind `typeof` where the set was declared so (`ip saddr . meta mark`, of maps also ` : DATA`); JSON
    does not have it. `statements` are made for each element.
    """

    name: str
    type: tuple[str, ...]
    data: tuple[str, ...] = ()
    flags: tuple[str, ...] = ()
    elements: tuple[Element, ...] = ()
    timeout: int | None = None
    size: int | None = None
    comment: str = ""
    typeof: str = ""
    policy: str = ""
    auto_merge: bool = False
    gc_interval: int | None = None
    statements: tuple[Statement, ...] = ()


class NftObject(msgspec.Struct, frozen=True, gc=False):
    """A named counter, quota, limit, ct helper, flowtable ...: its lines of text, or the JSON that nft printed.

    netlab keeps them for what refers to them; it models none but the counter, which decides nothing.
    """

    kind: str
    name: str
    text: str = ""
    json: str = ""


class NftTable(msgspec.Struct, frozen=True):
    """A table of one family: "ip", "ip6", "inet"; arp, bridge and netdev are read and written, no IP packet meets them here.

    `flags`: "dormant" (its chains are not registered), "owner".
    """

    family: str
    name: str
    chains: Mapping[str, NftChain] = {}
    sets: Mapping[str, NftSet] = {}
    comment: str = ""
    flags: tuple[str, ...] = ()
    objects: tuple[NftObject, ...] = ()


def table_name(table: NftTable) -> str:
    """What steps call a table: `nft ip kube-proxy`."""
    return f"nft {table.family} {table.name}"


# Expressions that name no set and have no others in them.
PLAIN_EXPRESSIONS: Final = frozenset({Meta, Payload, RawPayload, CtKey, Fib, Numgen, Value, PrefixValue})


def expressions_of(statement: Statement) -> Iterator[Expression]:
    """All expressions of a statement, those inside of others too."""
    tops: tuple[Expression | None, ...]
    match statement:
        case Compare(left=left, right=right):
            tops = (left, right)
        case Vmap(key=key, data=data):
            tops = (key, data)
        case Mangle(key=key, value=value):
            tops = (key, value)
        case Nat(address=address, port=port):
            tops = (address, port)
        case SetChange(element=element):
            tops = (element.key, None if isinstance(element.data, Verdict) else element.data)
        case _:
            return
    pending = [top for top in tops if top is not None]
    while pending:
        expression = pending.pop()
        yield expression
        if type(expression) in PLAIN_EXPRESSIONS:
            continue
        match expression:
            case Hashed(of=of) if of is not None:
                pending.append(of)
            case RangeValue(low=low, high=high):
                pending += (low, high)
            case ListValue(parts=parts) | Concat(parts=parts):
                pending += parts
            case Binary(left=left, right=right):
                pending += (left, right)
            case SetLiteral(elements=elements):
                for element in elements:
                    pending.append(element.key)
                    if element.data is not None and not isinstance(element.data, Verdict):
                        pending.append(element.data)
            case Lookup(key=key, data=data):
                pending += (key, data)
