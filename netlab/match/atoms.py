"""Matches as decision trees over atoms: the smallest questions that a kernel of kernels.py can answer for a packet.

    Source, Tcp, Conntrack ...  --tree()-->  True | False | Doubt | Branch(atom, yes, no)      atom: (kind, field, a, b)

Law: a tree says what naive.py's function says, for every packet and in every state of the walk (what `-j CT` attached, which sets
`-j SET` changed). What has no atom of its own becomes an ASK: naive.py itself answers it, packet by packet.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any, Final, NamedTuple

from netlab.linux import matches as m
from netlab.linux import nft as n
from netlab.linux.addr import Ip
from netlab.linux.conntrack import CtView
from netlab.linux.matches import Match
from netlab.linux.netns import Netns
from netlab.linux.nft import table_name
from netlab.linux.packet import ACK, ICMP, ICMPV6, RST, SCTP, SYN, TCP, UDP, Packet
from netlab.linux.rules import Hook
from netlab.linux.sets import IpSet
from netlab.match import lowered
from netlab.match.ipset import _HASH_TYPES, UDPLITE, _index_of
from netlab.match.lowered import NftMatch
from netlab.match.members import Level, axis, ipset_levels, nft_levels
from netlab.match.naive import _COUNTERS_KEPT, DCCP, HOLDS
from netlab.match.packets import CT_STATES, SET_PORTS, CtFlag, Field, Flag
from netlab.match.view import Chance, Undecided, View

U32: Final = 0xFFFFFFFF
WORDS: Final = 12  # most words of a key

# Kinds of atoms, and (from DISPATCH on) of nodes that are no atoms. A field x of a packet against the operands a and b:
MASK: Final = 0  # x & a == b
SPAN: Final = 1  # a <= x <= a + b
BITS: Final = 2  # bit x of a is set (x < 32)
NAME: Final = 3  # device number x is one of those of pattern a
TABLE: Final = 4  # the class of x in interval table a (below 32) is one of the bits b
MEMBER: Final = 5  # what set table a says of the packet (0 not in it, 1 in it, 2 nomatch) is one of the bits b
MARK: Final = 6  # (mark & a) ^ (connmark & b) == c
ASK: Final = 7  # match number a: asked of naive.py
MARKED: Final = 8  # only in trees: the mark at that point of the walk & a == b
CONNMARKED: Final = 9  # only in trees: the mark of the connection

Atom = tuple[int, int, int, int]


class Doubt(NamedTuple):
    """The end of a tree where netlab cannot know."""

    reason: str


class Branch(NamedTuple):
    """A question and what follows from its answer. The answer to ASK may also be Doubt."""

    atom: Atom
    yes: Tree
    no: Tree


Tree = bool | Doubt | Branch
RANDOM_PORT: Final = Doubt("the source port was chosen at random by NAT")


class Context:
    """What trees are made for: a namespace, a family, a hook; and the numbers given to what does not fit into an atom."""

    def __init__(self, netns: Netns, family: int, hook: Hook, device: Callable[[str], int]) -> None:
        self.netns, self.family, self.hook, self.device = netns, family, hook, device
        self.patterns: dict[str, int] = {}  # devices by a pattern: NAME
        self.types: dict[str, int] = {}  # address types: TABLE (of "", or the device that counts)
        self.sets: dict[object, int] = {}  # sets by what the packet is asked for: MEMBER
        self.levels: list[Callable[[], list[Level]]] = []  # of each of them, made when a node asks
        self.asked: list[Match | NftMatch] = []  # ASK
        nobody = Packet(Ip(family, 0), Ip(family, 0), 0)
        self.blank = View(nobody, hook, netns)

    def number(self, table: dict[Any, int], key: object) -> int:
        return table.setdefault(key, len(table))

    def member(self, key: object, levels: Callable[[], list[Level]], inside: int) -> Branch:
        """The tree of a look-up in a set; `inside` has a bit for each answer that counts."""
        number = self.number(self.sets, key)
        if number == len(self.levels):
            self.levels.append(levels)
        return Branch((MEMBER, 0, number, inside), True, False)

    def ask(self, match: Match | NftMatch) -> Branch:
        """The tree of a match that only naive.py knows."""
        self.asked.append(match)
        return Branch((ASK, 0, len(self.asked) - 1, 0), True, False)


# -- building trees ----------------------------------------------------------------------------------------------------


def _ends(tree: Tree, end: Callable[[bool | Doubt], Tree]) -> Tree:
    """The tree with each of its ends replaced."""
    if isinstance(tree, Branch):
        return Branch(tree.atom, _ends(tree.yes, end), _ends(tree.no, end))
    return end(tree)


def negated(tree: Tree, negate: bool = True) -> Tree:
    """The tree of `!`; doubt stays doubt."""
    return _ends(tree, lambda end: end if isinstance(end, Doubt) else not end) if negate else tree


def then(tree: Tree, rest: Tree) -> Tree:
    """Both hold, asked in this order: `rest` stands where `tree` is True. A doubt ends it, as a return in the twin does."""
    return _ends(tree, lambda end: rest if end is True else end)


def or_else(tree: Tree, rest: Tree) -> Tree:
    """One of them holds: `rest` stands where `tree` is False; a doubt stays where `rest` does not hold either."""

    def end(first: bool | Doubt) -> Tree:
        if isinstance(first, Doubt):
            return _ends(rest, lambda second: first if second is False else second)
        return first or rest

    return _ends(tree, end)


def _and_doubt(tree: Tree, doubt: Doubt) -> Tree:
    """Doubt, where the tree does not say no."""
    return _ends(tree, lambda end: False if end is False else doubt)


def equal(field: int, value: int, mask: int = U32) -> Tree:
    """field & mask == value."""
    if value & ~mask & U32:
        return False
    return Branch((MASK, field, mask, value), True, False) if mask else True


def flag(field: int, bit: int) -> Tree:
    """Whether a bit is set."""
    return Branch((MASK, field, bit, bit), True, False)


def between(field: int, low: int, high: int) -> Tree:
    """low <= field <= high."""
    if low > high:
        return False
    return equal(field, low) if low == high else Branch((SPAN, field, low, high - low), True, False)


def one_of(field: int, values: tuple[int, ...]) -> Tree:
    tree: Tree = False
    for value in reversed(values):
        tree = or_else(equal(field, value), tree)
    return tree


def address(field: int, family: int, value: int, mask: int) -> Tree:
    """An address (four words from `field` on) under a mask; what a packet holds beyond its family is never asked."""
    if value & ~mask:
        return False  # the twin compares address & mask with the whole value
    tree: Tree = True
    for word in range(1 if family == 4 else 4):  # then() asks the highest word first
        tree = then(equal(field + word, value >> 32 * word & U32, mask >> 32 * word & U32), tree)
    return tree


def device(field: int, pattern: str, context: Context) -> Tree:
    """x_tables ifname_compare."""
    if pattern == "+":
        return True
    if pattern.endswith("+"):
        return Branch((NAME, field, context.number(context.patterns, pattern), 0), True, False)
    return equal(field, context.device(pattern))


# -- one function per match --------------------------------------------------------------------------------------------


def _source(match: m.Source, context: Context) -> Tree:
    return negated(address(Field.SRC, context.family, match.value, match.mask), match.negate)


def _destination(match: m.Destination, context: Context) -> Tree:
    return negated(address(Field.DST, context.family, match.value, match.mask), match.negate)


def _in_interface(match: m.InInterface, context: Context) -> Tree:
    return negated(device(Field.INDEV, match.name, context), match.negate)


def _out_interface(match: m.OutInterface, context: Context) -> Tree:
    return negated(device(Field.OUTDEV, match.name, context), match.negate)


def _protocol(match: m.Protocol, context: Context) -> Tree:
    return True if match.protocol == 0 else negated(equal(Field.PROTOCOL, match.protocol), match.negate)


def _constant(answer: bool) -> Callable[[Any, Context], Tree]:
    return lambda match, context: answer


def _fragment(match: m.Fragment, context: Context) -> Tree:
    return match.negate


def _ports(match: m.Tcp | m.Udp | m.Sctp) -> Tree:
    tree: Tree = True
    if match.sport is not None:
        low, high = match.sport.low, match.sport.high
        sport = negated(between(Field.SPORT, low, high), match.not_sport)
        any_port = low == 0 and high == 65535
        tree = sport if any_port else Branch((MASK, Field.FLAGS, Flag.SPORT_RANDOM, Flag.SPORT_RANDOM), RANDOM_PORT, sport)
    if match.dport is not None:
        tree = then(negated(between(Field.DPORT, match.dport.low, match.dport.high), match.not_dport), tree)
    return tree


def _tcp(match: m.Tcp, context: Context) -> Tree:
    tree = _ports(match)
    if match.option is not None:
        tree = _and_doubt(tree, Doubt(f"tcp option {match.option}: options of TCP packets are not modelled"))
    if match.flags is not None:
        tree = then(negated(equal(Field.TCP_FLAGS, match.flags[1], match.flags[0]), match.not_flags), tree)
    return then(equal(Field.PROTOCOL, TCP), tree)


def _udp(match: m.Udp, context: Context) -> Tree:
    return then(equal(Field.PROTOCOL, UDP), _ports(match))


def _sctp(match: m.Sctp, context: Context) -> Tree:
    tree = _ports(match)
    if match.chunks is not None:
        tree = _and_doubt(tree, Doubt(f"sctp chunk types {match.chunks}: chunks of SCTP packets are not modelled"))
    return then(equal(Field.PROTOCOL, SCTP), tree)


def _icmp(match: m.Icmp, context: Context) -> Tree:
    protocol = equal(Field.PROTOCOL, ICMP if match.family == 4 else ICMPV6)
    if match.type == 255 and match.family == 4:
        return then(protocol, not match.negate)
    low, high = match.codes
    return then(protocol, negated(between(Field.ICMP, match.type << 8 | low, match.type << 8 | high), match.negate))


def _multiport(match: m.Multiport, context: Context) -> Tree:
    source: Tree = False
    destination: Tree = False
    for ports in reversed(match.ports):
        source = or_else(between(Field.SPORT, ports.low, ports.high), source)
        destination = or_else(between(Field.DPORT, ports.low, ports.high), destination)
    sports = Branch((MASK, Field.FLAGS, Flag.SPORT_RANDOM, Flag.SPORT_RANDOM), RANDOM_PORT, source)
    match match.which:
        case "sports":
            tree: Tree = sports
        case "dports":
            tree = destination
        case _:
            tree = _first(destination, sports)
    return then(one_of(Field.PROTOCOL, (TCP, UDP, SCTP, UDPLITE, DCCP)), negated(tree, match.negate))


def _first(tree: Tree, rest: Tree) -> Tree:
    """`rest` is asked where `tree` does not hold."""
    if isinstance(tree, Branch):
        return Branch(tree.atom, _first(tree.yes, rest), _first(tree.no, rest))
    return rest if tree is False else tree


def _mark(match: m.Mark, context: Context) -> Tree:
    if match.value & ~match.mask & U32:
        return match.negate
    return negated(Branch((MARKED, 0, match.mask, match.value), True, False), match.negate)


def _connmark(match: m.Connmark, context: Context) -> Tree:
    holds: Tree = False
    if match.value & ~match.mask & U32 == 0:
        holds = Branch((CONNMARKED, 0, match.mask, match.value), True, False)
    return then(flag(Field.CTFLAGS, CtFlag.CONNECTION), negated(holds, match.negate))


_STATE_NUMBER = {state.value: number for number, state in enumerate(CT_STATES) if state is not None}


def _states(names: frozenset[str]) -> Tree:
    bits = sum(1 << _STATE_NUMBER[name] for name in names if name in _STATE_NUMBER)
    if "INVALID" in names:
        bits |= 1  # what conntrack has not seen
    return Branch((BITS, Field.CTSTATE, bits, 0), True, False) if bits else False


def _state(match: m.State, context: Context) -> Tree:
    return negated(_states(match.states), match.negate)


def _conntrack(match: m.Conntrack, context: Context) -> Tree:
    rest: Tree = True
    if match.expire is not None:
        rest = Doubt("conntrack expire: the time that a connection has left is not modelled")
    if match.repl_dst_port is not None:
        low, high = match.repl_dst_port.low, match.repl_dst_port.high
        rest = then(negated(between(Field.REPL_DPORT, low, high), match.not_repl_dst_port), rest)
        if (low, high) != (0, 65535):
            rest = Branch((MASK, Field.CTFLAGS, CtFlag.RANDOM_PORT, CtFlag.RANDOM_PORT), RANDOM_PORT, rest)
    if match.status is not None:
        status: Tree = False
        for name, bit in (("SEEN_REPLY", CtFlag.SEEN_REPLY), ("ASSURED", CtFlag.ASSURED), ("CONFIRMED", CtFlag.CONFIRMED)):
            if name in match.status:
                status = or_else(flag(Field.CTFLAGS, bit), status)
        rest = then(negated(status, match.not_status), rest)
    for ports, negate, field in (
        (match.repl_src_port, match.not_repl_src_port, Field.REPL_SPORT),
        (match.orig_dst_port, match.not_orig_dst_port, Field.ORIG_DPORT),
        (match.orig_src_port, match.not_orig_src_port, Field.ORIG_SPORT),
    ):
        if ports is not None:
            rest = then(negated(between(field, ports.low, ports.high), negate), rest)
    for wanted, negate, field in (
        (match.repl_dst, match.not_repl_dst, Field.REPL_DST),
        (match.repl_src, match.not_repl_src, Field.REPL_SRC),
        (match.orig_dst, match.not_orig_dst, Field.ORIG_DST),
        (match.orig_src, match.not_orig_src, Field.ORIG_SRC),
    ):
        if wanted is not None:
            rest = then(negated(address(field, context.family, wanted.value & wanted.mask, wanted.mask), negate), rest)
    if match.protocol is not None:
        rest = then(negated(equal(Field.CT_PROTOCOL, match.protocol), match.not_protocol), rest)
    if match.direction is not None:
        rest = then(negated(flag(Field.CTFLAGS, CtFlag.REPLY), match.direction != "REPLY"), rest)
    connected = Branch((MASK, Field.CTFLAGS, CtFlag.CONNECTION, CtFlag.CONNECTION), rest, match.states is not None)
    if match.states is None:
        return connected
    states = _states(match.states)
    for name, bit in (("SNAT", CtFlag.SNAT), ("DNAT", CtFlag.DNAT)):
        if name in match.states:
            states = or_else(states, flag(Field.CTFLAGS, bit))
    return then(negated(states, match.not_states), connected)


_ROUTE_TYPES = ("UNICAST", "LOCAL", "BROADCAST", "ANYCAST", "MULTICAST", "BLACKHOLE", "UNREACHABLE", "PROHIBIT", "THROW")


def _addrtype(match: m.Addrtype, context: Context) -> Tree:
    if context.family == 6 or match.limit:
        return context.ask(match)
    rest: Tree = True
    for types, negate, field in ((match.dst_types, match.not_dst, Field.DST), (match.src_types, match.not_src, Field.SRC)):
        if types is not None:
            bits = sum(1 << n for n, name in enumerate(_ROUTE_TYPES) if name in types)
            asked: Tree = Branch((TABLE, field, context.number(context.types, ""), bits), True, False) if bits else False
            rest = then(negated(asked, negate), rest)
    return rest


def route_type_number(name: str) -> int:
    """The class of an address type in a TABLE."""
    return _ROUTE_TYPES.index(name)


def _iprange(match: m.Iprange, context: Context) -> Tree:
    if context.family == 6:
        return context.ask(match)
    rest: Tree = True
    for span, negate, field in ((match.dst, match.not_dst, Field.DST), (match.src, match.not_src, Field.SRC)):
        if span is not None:
            rest = then(negated(between(field, span[0].value, span[1].value), negate), rest)
    return rest


def _set(match: m.SetMatch, context: Context) -> Tree:
    tree = _contains(match.name, match.dims, match.return_nomatch, context)
    if tree is None:
        return context.ask(match)
    tree = negated(tree, match.negate)
    if match.extra and not _COUNTERS_KEPT.issuperset(match.extra.split()):
        tree = then(tree, Doubt(f"set {match.name} {match.extra}: counters of sets are not modelled"))
    return tree


def _contains(name: str, dims: tuple[str, ...], return_nomatch: bool, context: Context) -> Tree | None:
    """Whether the packet is in a set (ipset.py contains); None where only that function can tell."""
    ipset = context.netns.sets.get(name)
    if ipset is None:
        return Doubt(f"set {name} is not known")
    if ipset.type == "list:set":
        return _in_list(ipset, dims, return_nomatch, context)
    parts = ipset.type.partition(":")[2].split(",")
    if ipset.type not in _HASH_TYPES or not {"ip", "net", "port"}.issuperset(parts):
        return None
    problem = _index_of(context.netns, ipset).problem
    if problem is not None:
        return Doubt(problem)
    if len(dims) < len(parts) or (context.family != ipset.family and ipset.type != "bitmap:port"):
        return False
    inside = 1 << 2 if return_nomatch and "net" in parts else 1 << 1
    levels = partial(ipset_levels, context.netns, context.family, name, dims)
    tree: Tree = context.member((name, dims), levels, inside)
    if "port" in parts and dims[parts.index("port")] == "src":
        random = then(flag(Field.FLAGS, Flag.SPORT_RANDOM), one_of(Field.PROTOCOL, SET_PORTS))
        tree = _first(then(random, Doubt(f"set {name}: port src of the packet is not known")), tree)
    if len(parts) == 1 and parts[0] == "port":
        tree = then(one_of(Field.PROTOCOL, (TCP, UDP)), tree)
    return tree


def _in_list(ipset: IpSet, dims: tuple[str, ...], return_nomatch: bool, context: Context) -> Tree | None:
    tree: Tree = False
    for entry in ipset.entries:
        member = context.netns.sets.get(entry.parts[0])
        if member is not None and member.type == "list:set":
            continue
        found = _contains(entry.parts[0], dims, return_nomatch, context)
        if found is None:
            return None
        tree = or_else(tree, found)
    return tree


def _length(match: m.Length, context: Context) -> Tree:
    return negated(between(Field.LENGTH, match.low, match.high), match.negate)


def _ttl(match: m.Ttl, context: Context) -> Tree:
    match match.op:
        case "eq":
            return negated(equal(Field.TTL, match.value), match.negate)
        case "lt":
            return negated(between(Field.TTL, 0, match.value - 1), match.negate)
        case _:
            return negated(between(Field.TTL, match.value + 1, U32), match.negate)


def _owner(match: m.Owner, context: Context) -> Tree:
    asks_id = match.uid is not None or match.gid is not None
    outside = not (
        (match.uid is not None and not match.not_uid)
        or (match.gid is not None and not match.not_gid)
        or (match.socket_exists and not match.not_socket_exists)
    )
    inside: Tree = Doubt("owner: the user and group of a process are not modelled") if asks_id else True
    if match.socket_exists and match.not_socket_exists:
        inside = False
    return Branch((MASK, Field.FLAGS, Flag.LOCAL, Flag.LOCAL), inside, outside)


def _known(match: lowered.Known, context: Context) -> Tree:
    return Doubt(match.answer.reason) if isinstance(match.answer, Undecided) else match.answer


def _nft(match: lowered.NftMatch, context: Context) -> Tree:
    compare, sets = match.compare, match.table.sets
    data = compare.right
    if isinstance(data, n.SetName | n.SetLiteral):
        held = sets.get(data.name) if isinstance(data, n.SetName) else None
        elements = data.elements if isinstance(data, n.SetLiteral) else held.elements if held is not None else None
        tree = None if elements is None else _in_nft_set(match, elements, context)
        if tree is not None:
            return tree
    return context.ask(match)


def _in_nft_set(match: lowered.NftMatch, elements: Sequence[n.Element], context: Context) -> Tree | None:
    """A look-up in a set that no rule has changed (nft.py contains); None where only that function can tell."""
    left, netns = match.compare.left, context.netns
    key = left.parts if isinstance(left, n.Concat) else (left,)
    axes = [axis(part, context.family) for part in key]
    if any(not isinstance(each, n.Counter) for element in elements for each in element.statements):
        return None
    levels = nft_levels(key, elements, context.family, netns, context.device)
    if levels is None or sum(1 if each.bits <= 32 else 4 for each in axes if each is not None) > WORDS:
        return None
    negate = match.compare.op == "!="
    data = match.compare.right
    number = data.name if isinstance(data, n.SetName) else id(data)
    tree = negated(context.member(("nft", table_name(match.table), number, key), lambda: levels, 1 << 1), negate)
    for each in axes:
        if each is None:
            return None
        if each.field == Field.SPORT:
            random = Branch((MASK, Field.FLAGS, Flag.SPORT_RANDOM, Flag.SPORT_RANDOM), True, False)
            tree = Branch(random.atom, context.ask(match), tree)
        if each.protocol == 0:  # `th` reads something else where there are no ports
            tree = _within(one_of(Field.PROTOCOL, (TCP, UDP, SCTP)), tree, context.ask(match))
        elif each.protocol is not None:
            tree = then(equal(Field.PROTOCOL, each.protocol), tree)
    return tree


def _within(tree: Tree, yes: Tree, no: Tree) -> Tree:
    """One of two, by what a tree without doubts says."""
    if isinstance(tree, Branch):
        return Branch(tree.atom, _within(tree.yes, yes, no), _within(tree.no, yes, no))
    return yes if tree else no


def _connected(match: lowered.Connected, context: Context) -> Tree:
    return flag(Field.CTFLAGS, CtFlag.CONNECTION)


def _schedulable(match: lowered.Schedulable, context: Context) -> Tree:
    opens: Tree = True if match.sloppy_tcp else equal(Field.TCP_FLAGS, SYN, SYN)
    tcp = then(equal(Field.TCP_FLAGS, 0, RST), opens)
    sctp: Tree = True if match.sloppy_sctp else equal(Field.TCP_FLAGS, 0, ACK)
    other = _within(equal(Field.PROTOCOL, SCTP), sctp, equal(Field.PROTOCOL, UDP))
    by_protocol = _within(equal(Field.PROTOCOL, TCP), tcp, other)
    return then(negated(flag(Field.FLAGS, Flag.IPVS)), then(negated(flag(Field.FLAGS, Flag.ICMP_ERROR)), by_protocol))


def _from_port(match: lowered.FromPort, context: Context) -> Tree:
    return equal(Field.SPORT, match.port)


def _twin(match: Match, context: Context) -> Tree:
    """The answer is the same for all packets."""
    answer = HOLDS[type(match)](match, context.blank)
    assert not isinstance(answer, Chance)
    return Doubt(answer.reason) if isinstance(answer, Undecided) else answer


def _ask(match: Match, context: Context) -> Tree:
    return context.ask(match)


TREES: Final[Mapping[type, Callable[[Any, Context], Tree]]] = {
    m.Source: _source,
    m.Destination: _destination,
    m.InInterface: _in_interface,
    m.OutInterface: _out_interface,
    m.Protocol: _protocol,
    m.Fragment: _fragment,
    m.Comment: _constant(True),
    m.Tcp: _tcp,
    m.Udp: _udp,
    m.Sctp: _sctp,
    m.Icmp: _icmp,
    m.Multiport: _multiport,
    m.Mark: _mark,
    m.Connmark: _connmark,
    m.Conntrack: _conntrack,
    m.State: _state,
    m.Addrtype: _addrtype,
    m.SetMatch: _set,
    m.Iprange: _iprange,
    m.Owner: _owner,
    m.Ttl: _ttl,
    m.Length: _length,
    m.Limit: _twin,
    m.Hashlimit: _twin,
    m.UnknownMatch: _twin,
    m.Recent: _ask,
    m.Physdev: _ask,
    m.Rpfilter: _ask,
    m.Mac: _ask,
    m.Ipvs: _ask,
    m.Pkttype: _ask,
    lowered.Known: _known,
    lowered.NftMatch: _nft,
    lowered.Connected: _connected,
    lowered.Schedulable: _schedulable,
    lowered.FromPort: _from_port,
}


def tree(match: Match | NftMatch, context: Context) -> Tree:
    """The decision tree of a match that is no chance (`statistic`), where connection tracking has seen the packet."""
    return TREES[type(match)](match, context)


def tree_under(match: Match | NftMatch, ct: CtView | None, context: Context) -> Tree:
    """The same for a match on connection tracking where what it sees is no longer the packet's own, but `ct`."""
    view = View(context.blank.packet, context.hook, context.netns, ct=ct)
    answer = HOLDS[type(match)](match, view)
    assert not isinstance(answer, Chance)
    return Doubt(answer.reason) if isinstance(answer, Undecided) else answer
