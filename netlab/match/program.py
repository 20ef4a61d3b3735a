"""Program: the base chains of one hook, compiled into a decision graph of flat arrays.

    rules --atoms.py--> trees of atoms --Program--> nodes: TEST an atom | DISPATCH to the next rule that may hold | ASK the twin
                                                     ends: outcomes (verdict, deciding rule, NAT targets and chances, marks)

Law: a packet's way through the graph is its way through the rules: jumps, returns, marks and chances are resolved while the graph
is made, so that a node only asks what depends on the packet. Rules of a long chain that ask for the same fields are found by hash
tables. Ways are made when the first packet wants to go there (`expand`): what no packet does costs nothing.
"""

from __future__ import annotations

from bisect import bisect_left
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from fractions import Fraction
from itertools import pairwise
from typing import Any, Final, Generic, NamedTuple, TypeVar

import numpy as np
from numpy.typing import NDArray

from netlab.linux import matches as m
from netlab.linux import nft as n
from netlab.linux import targets as t
from netlab.linux.addr import Ip
from netlab.linux.conntrack import CtState, CtView
from netlab.linux.netns import Netns
from netlab.linux.route import address_type
from netlab.linux.rules import Hook, Rule, Table
from netlab.match import atoms
from netlab.match.alike import Constant, Guard, Kind, Shapes, Slot, first_of, guarded, slotted
from netlab.match.atoms import ASK, BITS, CONNMARKED, MARK, MARKED, MASK, SPAN, U32, WORDS, Atom, Branch, Context, Doubt, Tree
from netlab.match.bases import bases
from netlab.match.boxes import Box, both, bounds, of_tree
from netlab.match.cuts import classify
from netlab.match.kernels import CONSTANT, DISPATCH, GROUP, MAYBE, NO, NODE, UNEXPANDED, YES, arrange, fill_table
from netlab.match.lower_nft import by_chance
from netlab.match.lowered import (
    Connected,
    Inline,
    Leave,
    LoweredChain,
    NftMatch,
    NftStatement,
    Odds,
    Scheduled,
    ToServer,
    leads_to,
)
from netlab.match.naive import HOLDS
from netlab.match.nft import set_key
from netlab.match.outcome import MAX_RUNS, MAX_UNDECIDED, Choice, Leaf, Run, Verdict, chance, fold
from netlab.match.packets import CT_STATES, CtFlag, Field, Flag, Names
from netlab.match.runs import fuse, together
from netlab.match.view import Chance
from netlab.match.walk import Base, Numbering, before_conntrack, source_nat, template

T = TypeVar("T")
ONE: Final = Fraction(1)
MIN_CHAIN = 8  # rules: a shorter chain is asked rule by rule
MIN_GROUP = 4  # rules that ask for the same fields, to be worth a table of their own
MIN_ALIKE = 4  # rules of one kind, to be walked as one
MAX_TEMPLATE = 500  # nodes
MAX_GROUPS = 40  # tables of one chain; what fits into none is asked rule by rule
MIN_CUT = 24  # rules of a chain that is cut
MAX_TOGETHER = 2_000_000  # elements of sets that are asked at once
MAX_ASKED = 24  # rules asked one by one, from which on a chain is cut instead; a table counts as FEW_RULES
FEW_RULES = 4

# What a key of a chain's tables may be made of: what never changes on the way, and is never in doubt
_KEYS: Final = frozenset(
    [*range(Field.SRC, Field.SRC + 4), *range(Field.DST, Field.DST + 4), Field.PROTOCOL, Field.DPORT, Field.ICMP,
     Field.INDEV, Field.OUTDEV, Field.PHYSIN, Field.PHYSOUT]
)  # fmt: skip
_ATTACHED: Final = (MASK, Field.FLAGS, Flag.ATTACHED, Flag.ATTACHED)


class Form(NamedTuple):
    """A mark as it is at some point: (the packet's mark at first & mark) ^ (its connection's & connmark) ^ value."""

    mark: int
    connmark: int
    value: int

    def at(self, mark: int, connmark: int) -> int:
        return (mark & self.mark) ^ (connmark & self.connmark) ^ self.value

    def masked(self, mask: int) -> Form:
        return Form(self.mark & mask, self.connmark & mask, self.value & mask)

    def xor(self, other: Form) -> Form:
        return Form(self.mark ^ other.mark, self.connmark ^ other.connmark, self.value ^ other.value)

    def set(self, value: int, mask: int) -> Form:
        """(x & ~mask) ^ value."""
        return self.masked(~mask & U32).xor(Form(0, 0, value))


class End(NamedTuple):
    """How one run ends, before it is known what the marks were at first."""

    choices: tuple[Choice, ...]
    verdict: Verdict
    rule: int
    path: tuple[int, ...]  # since the first choice
    mark: Form
    connmark: Form
    ct: t.Ct | None
    target: t.Target | ToServer | None


class Outcome:
    """What becomes of all packets that end at one place of the graph.

    `whole`: the leaves have the whole path; otherwise only what follows the first choice, the rest is the graph's. `fixed`
    are the leaves of one packet that the twin has answered.
    """

    def __init__(self, ends: tuple[End, ...], whole: bool = False, fixed: tuple[Leaf, ...] | None = None, alike: int = 0) -> None:
        self.ends, self.whole, self.fixed, self.alike = ends, whole, fixed, alike
        self.doubtful = any(choice.weight is None for end in ends for choice in end.choices)
        self._known: dict[tuple[int, int], tuple[Leaf, ...]] = {}

    def leaves(self, mark: int, connmark: int, here: Renumber | None = None) -> tuple[Leaf, ...]:
        """The leaves of a packet that came with these marks; `here`: at a place like the one that this was made for."""
        if self.fixed is not None:
            return self.fixed
        if here is not None:
            return fold([_run(end, mark, connmark, here) for end in self.ends])
        known = self._known.get((mark, connmark))
        if known is None:
            known = fold([_run(end, mark, connmark, None) for end in self.ends])
            if len(self._known) < 64:
                self._known[mark, connmark] = known
        return known


def _run(end: End, mark: int, connmark: int, here: Renumber | None) -> Run:
    """How one run ends for a packet that came with these marks."""
    choices, rule, path, target = end.choices, end.rule, end.path, end.target
    if here is not None:
        choices = tuple(choice._replace(rule=here.number(choice.rule)) for choice in choices)
        rule, path = here.number(rule), tuple(here.number(rule) for rule in path)
        target = None if target is None else here.target(rule)
    return choices, Leaf(
        ONE, end.verdict, rule, path, end.mark.at(mark, connmark), end.connmark.at(mark, connmark), end.ct, target
    )


class Template(NamedTuple):
    """A walk that was made for one rule of a chain's table and holds for others of its Kind.

    `entry` is the state before the rule; `chains`: by chain the place of its first rule's number in a row of constants; `slots`:
    by constant its place there. A row begins with the number of the template and that of the rule itself.
    """

    entry: State
    chains: dict[int, int]
    slots: dict[Constant, int]
    guards: list[Guard]


class Renumber:
    """The rules of a place that is like the one for which a template was made; `row`: where its constants are."""

    def __init__(self, program: Program, row: int) -> None:
        self.program, self.row = program, row
        self.constants = program.constants.array[row:]
        template = program.templates[self.constants[0]]
        self.chains, entry = template.chains, template.entry
        self.own = program._chains[entry.chain].first + entry.position

    def number(self, rule: int) -> int:
        """What a rule of the template's is here."""
        if rule == self.own:
            return int(self.constants[1])
        chain, position = self.program.chain_of(rule)
        at = self.chains.get(chain)
        return rule if at is None else int(self.constants[at]) + position

    def target(self, rule: int) -> t.Target | None:
        """The target of a rule, by its number here."""
        return self.program.numbering.spot(rule).rule.target


class State(NamedTuple):
    """A point of the walk: everything that decides how it goes on. Lists are numbers of `Chain_`s that grow at their end."""

    stage: int  # which base chain
    chain: int
    position: int  # the rule under way
    at: int  # which of its matches; or one of the points below
    tree: Tree | None  # what is left to ask of that match; None: all of it
    indexed: bool  # the rule was found by a table: its key is known to hold
    doubt: bool  # a match before could not be decided
    share: Fraction | None  # the probability with which those before hold
    stack: int
    facts: int  # rules that led here, and so hold
    ct: t.Ct | None
    here: bool  # `ct` is what rules see
    mark: Form
    connmark: Form
    recents: tuple[tuple[m.Recent, bool], ...]  # what `-m recent` wrote
    sets: frozenset[str]  # which `-j SET` changed
    forked: bool
    path: int  # since the first choice
    trail: int  # the choices
    undecided: int
    ends: int  # of runs before this one
    later: int  # runs that are still to be made
    alike: int  # the Template in which this walk speaks for other places, too; 0: for itself


START, HIT, ENTER, TARGET = -1, -2, -3, -4  # before a rule; a rule holds; before a base chain; a target asks about the packet


class Asking(NamedTuple):
    """What an ASK needs to know beside the packet."""

    match: m.Match | NftMatch
    mark: Form
    connmark: Form
    recents: tuple[tuple[m.Recent, bool], ...]
    certain: bool


class Interned(Generic[T]):
    """Lists as numbers: 0 is empty, any other is a list and one more item. Equal lists have equal numbers."""

    def __init__(self) -> None:
        self._number: dict[tuple[int, T], int] = {}
        self._items: list[tuple[int, T]] = [(0, None)]  # type: ignore[list-item]
        self._sizes = [0]

    def add(self, number: int, item: T) -> int:
        key = (number, item)
        known = self._number.get(key)
        if known is None:
            known = self._number[key] = len(self._items)
            self._items.append(key)
            self._sizes.append(self._sizes[number] + 1)
        return known

    def size(self, number: int) -> int:
        return self._sizes[number]

    def last(self, number: int) -> tuple[int, T]:
        """The list without its last item, and the item."""
        return self._items[number]

    def all(self, number: int) -> tuple[T, ...]:
        found: list[T] = []
        while number:
            number, item = self._items[number]
            found.append(item)
        return tuple(reversed(found))


class Pool:
    """An array that grows at its end; `used` is the part in use."""

    def __init__(self, dtype: Any, width: int = 0) -> None:
        self.array: NDArray[Any] = np.zeros((64, width) if width else 64, dtype)
        self.length = 0

    def extend(self, count: int) -> int:
        """Room for `count` more; returns where it begins."""
        first = self.length
        self.length += count
        if self.length > len(self.array):
            grown = np.zeros((max(self.length, 2 * len(self.array)), *self.array.shape[1:]), self.array.dtype)
            grown[:first] = self.array[:first]
            self.array = grown
        return first

    def add(self, values: Any) -> int:
        first = self.extend(len(values))
        self.array[first : self.length] = values
        return first


class Facts:
    """Atoms that are known to hold, or not to. Where a constant (alike.py Slot) made the answer, `guards` is told how."""

    def __init__(self, before: Facts | None = None) -> None:
        self.known: dict[Atom, tuple[bool, Atom]] = dict(before.known) if before is not None else {}
        self.fields: dict[int, int] = dict(before.fields) if before is not None else {}

    def learn(self, found: Iterable[tuple[Atom, bool]]) -> None:
        for atom, holds in found:
            self.known[atom] = holds, atom
            if holds and atom[0] == MASK and atom[2] == U32:
                self.fields[atom[1]] = atom[3]

    def holds(self, atom: Atom, guards: list[Guard]) -> bool | None:
        """Whether an atom holds; None where that is open."""
        kind, field, a, b = atom
        known = self.known.get(atom)
        if known is not None:
            if isinstance(b, Slot) or isinstance(known[1][3], Slot):
                guards.append(Guard(field, known[1][3], atom, True))
            return known[0]
        x = self.fields.get(field)
        if x is None or kind not in (MASK, SPAN, BITS):
            return None
        found = x & a == b if kind == MASK else a <= x <= a + b if kind == SPAN else bool(a >> x & 1)
        if isinstance(x, Slot) or isinstance(b, Slot):
            guards.append(Guard(field, x, atom, found))
        return found


def simplified(tree: Tree, facts: Facts, guards: list[Guard]) -> Tree:
    """The tree without what is known."""
    while isinstance(tree, Branch):
        known = facts.holds(tree.atom, guards)
        if known is None:
            return Branch(tree.atom, simplified(tree.yes, facts, guards), simplified(tree.no, facts, guards))
        tree = tree.yes if known else tree.no
    return tree


def implied(tree: Tree) -> list[tuple[Atom, bool]]:
    """Atoms that surely hold, or surely do not, where the tree says True (or Doubt)."""
    found: list[tuple[Atom, bool]] = []
    while isinstance(tree, Branch) and tree.atom[0] not in (ASK, MARKED, CONNMARKED):
        if tree.no is False:
            found.append((tree.atom, True))
            tree = tree.yes
        elif tree.yes is False:
            found.append((tree.atom, False))
            tree = tree.no
        else:
            break
    return found


class Item(NamedTuple):
    """One match of a rule, ready to be asked."""

    match: m.Match | NftMatch
    tree: Tree
    kind: int  # PLAIN, or what the walk has to look at first


PLAIN, CHANCE, CT, RECENT, SET, NFT, TWIN = range(7)
_KINDS = {
    m.Statistic: CHANCE, m.Conntrack: CT, m.State: CT, m.Connmark: CT, m.Recent: RECENT, m.SetMatch: SET, Odds: CHANCE,
    Connected: CT,
}  # fmt: skip


def _kind(match: m.Match | NftMatch) -> int:
    if not isinstance(match, NftMatch):
        return _KINDS.get(type(match), PLAIN)
    asked = list(n.expressions_of(match.compare))
    of_ct = any(isinstance(each, n.CtKey) for each in asked)
    of_packet = any(isinstance(each, n.Meta | n.Payload | n.RawPayload | n.Fib) for each in asked)
    if by_chance(asked) or (of_ct and of_packet):
        return TWIN
    return CT if of_ct else NFT


class RuleCode:
    """A rule with its matches as trees: `items` to ask all of them, `rest` what is left where its key is known to hold."""

    __slots__ = ("guards", "implied", "items", "key", "rest", "rule")

    def __init__(self, rule: Rule, context: Context) -> None:
        self.rule = rule
        self.guards: list[Guard] = []
        full, constants = (U32 if context.family == 4 else (1 << 128) - 1), 0
        self.items: list[Item] = []
        self.implied: list[tuple[Atom, bool]] = []
        self.key: list[Atom] = []
        facts = Facts()
        recent = False
        for match in rule.matches:
            kind = _kind(match)
            if kind in (CHANCE, TWIN):
                self.items.append(Item(match, True, kind))
                continue
            tree, count = slotted(match, atoms.tree(match, context), full, constants)
            constants += count
            tree = simplified(tree, facts, self.guards)
            recent |= kind == RECENT
            if tree is True and kind == PLAIN:
                continue
            self.items.append(Item(match, tree, kind))
            if kind == PLAIN:
                sure = implied(tree)
                facts.learn(sure)
                self.implied += sure
                if not recent:
                    self.key += [a for a, holds in sure if holds and a[0] == MASK and a[1] in _KEYS]
        self.rest = self.items

    def slots(self) -> Iterator[Atom]:
        """The atoms with a constant."""
        trees = [item.tree for item in self.items]
        while trees:
            tree = trees.pop()
            if isinstance(tree, Branch):
                trees += [tree.yes, tree.no]
                if isinstance(tree.atom[3], Slot):
                    yield tree.atom

    def use_key(self, shape: Sequence[tuple[int, int]]) -> None:
        """The rule is found by a table of these (field, mask)."""
        facts = Facts()
        facts.learn((atom, True) for atom in self.key if (atom[1], atom[2]) in shape)
        plain = ((i, simplified(i.tree, facts, self.guards) if i.kind == PLAIN else i.tree) for i in self.items)
        rest = [Item(item.match, tree, item.kind) for item, tree in plain]
        self.rest = [item for item in rest if item.tree is not True or item.kind != PLAIN]

    def boxes(self, drawn: bool = False) -> tuple[list[Box], list[Item]]:
        """Outside of which boxes the rule surely does not hold, and what is left to ask inside."""
        found: list[Box] = [{}]
        left: list[Item] = []
        for at, item in enumerate(self.items):
            if item.kind == RECENT:  # from here on asking has consequences
                return found, left + self.items[at:]
            parts, exact = of_tree(item.tree, drawn) if item.kind == PLAIN else ([{}], False)
            joined = both(found, parts)
            if joined is None or not exact:
                left.append(item)
            if joined is not None:
                found = joined
        return found, left


class Group(NamedTuple):
    """Rules that ask for the same fields under the same masks: one hash table."""

    shape: tuple[tuple[int, int], ...]  # (field, mask)
    rules: int


class Cut(NamedTuple):
    """Rules that are found by cutting their fields (cuts.py)."""

    fields: tuple[int, ...]
    rules: int
    trees: int
    size: int  # bytes


class ChainCode:
    """A chain: its rules as they are needed, and how they are found."""

    def __init__(self, table: Table, name: str, first: int) -> None:
        self.table, self.name, self.rules, self.first = table, name, table.chains[name].rules, first
        chain = table.chains[name]
        self.lowered = chain if isinstance(chain, LoweredChain) else None
        self.codes: list[RuleCode | None] = [None] * len(self.rules)
        self.dispatch = -1  # number of its tables; -1: asked rule by rule
        self.groups: list[Group] = []
        self.unindexed: list[int] = []  # rules that no table finds
        self.found = [False] * len(self.rules)  # which rules a table finds
        self.cut: Cut | None = None
        self.boxed = [False] * len(self.rules)  # which rules the cuts find
        self.key_of: dict[int, tuple[tuple[int, int], ...]] = {}  # of a rule that a table finds: its (field, mask)
        self.seen = False

    def next_unindexed(self, start: int) -> int:
        at = bisect_left(self.unindexed, start)
        return self.unindexed[at] if at < len(self.unindexed) else len(self.rules)


class Arranged(NamedTuple):
    """A copy of a graph with its nodes in another order, and runs of sets put together (runs.py): int32[n, NODE], int32[*] and
    int32[*] what is behind a DISPATCH, int32[n] the node's own number, the root."""

    nodes: NDArray[np.int32]
    children: NDArray[np.int32]
    child_rows: NDArray[np.int32]
    node_at: NDArray[np.int32]
    root: int
    grown: int


class NotAlike(Exception):
    """A walk that cannot speak for other places."""


class TooLarge(Exception):
    """The graph has grown beyond what was allowed."""


class Program:
    """The base chains of one hook, for packets of one family.

    Parameters
    ----------
    netns : Netns
    family : int
    bases : sequence of Base
        In the order in which they run.
    hook : Hook
        At which they do.
    max_nodes : int
        How far the graph may grow; a packet beyond it is left to the twin.

    Attributes
    ----------
    numbering : Numbering
        Which rule a number stands for.
    outcomes : list of Outcome
    names : Names
        Numbers of devices, for Packets.
    """

    def __init__(self, netns: Netns, family: int, bases: Sequence[Base], hook: Hook, max_nodes: int = 4_000_000) -> None:
        self.netns, self.family, self.bases, self.max_nodes = netns, family, tuple(bases), max_nodes
        self.hook = hook
        self.numbering = Numbering(bases)
        self.names = Names(sorted(netns.devices))
        self.context = Context(netns, family, self.hook, self.names.add)
        self.outcomes: list[Outcome] = []
        self.passed: dict[int, tuple[int, ...]] = {}  # by way: rules that held on it, and were certain
        self.asking: dict[int, Asking] = {}  # by node
        self.nodes, self.children = Pool(np.int32, NODE), Pool(np.int32)
        self.groups, self.dispatches = Pool(np.int32, GROUP), Pool(np.int32, 4)
        self.cells = np.zeros(0, np.uint32)
        self.members, self.tables, self.words = Pool(np.int32, 2), Pool(np.int32, 2), Pool(np.uint32)
        self.table = np.zeros((11, 0), np.int64)  # what batch.py knows of each outcome
        self._patterns = np.zeros((0, 0), np.uint8)
        self.child_rows, self.constants = Pool(np.int32), Pool(np.uint32)
        self.templates: list[Template] = [Template(State(*[0] * len(State._fields)), {}, {}, [])]  # type: ignore[arg-type]
        self._shapes: dict[str, Shapes] = {}
        self._shared: set[int] = set()  # DISPATCH nodes whose rules were put together with their like
        self._chains: list[ChainCode] = []
        self._chain_number: dict[tuple[str, str], int] = {}
        self._facts: dict[int, Facts] = {0: Facts()}
        self._fact_lists: Interned[tuple[int, int]] = Interned()
        self._stacks: Interned[tuple[int, int, int]] = Interned()
        self._paths: Interned[int] = Interned()
        self._trails: Interned[Choice] = Interned()
        self._ends: Interned[End] = Interned()
        self._laters: Interned[State] = Interned()
        self._node_of: dict[State, int] = {}
        self._states: list[State] = []
        self._outcome_of: dict[object, int] = {}
        self._targets: dict[t.Target | None, int] = {}
        self._spans: list[int] = []  # by node: how many ways a DISPATCH has
        self._grown = 0  # counts the ways that were made
        self._arranged: Arranged | None = None
        self._plain: list[bool] = []  # of each set that is asked: no element is `nomatch`
        self._runs: dict[tuple[int, ...], tuple[int, int]] = {}
        self.root, first = self._run(self._entry())
        self.passed[-1] = first

    def arranged(self) -> Arranged:
        """The graph as it is now, in an order that is kind to caches; made again when it has grown."""
        if self._arranged is None or self._arranged.grown != self._grown:
            nodes, children = self.nodes.array[: self.nodes.length], self.children.array[: self.children.length]
            if self.root < 0 or not len(nodes):
                place = np.arange(len(nodes), dtype=np.int32)
            else:
                spans = np.array(self._spans, np.int32)
                place = arrange(nodes, children, spans, self.root)
            node_at = np.argsort(place).astype(np.int32)
            moved = nodes[node_at]
            ways = moved[:, YES:]
            for refs in (ways, children := children.copy()):
                ahead = refs >= 0
                refs[ahead] = place[refs[ahead]]
            root = self.root if self.root < 0 else int(place[self.root])
            moved, children, replaced = fuse(moved, children, np.array(self._plain, np.bool_), self._run_tables)
            node_at = np.append(node_at, node_at[replaced])
            rows = np.full(len(children), -1, np.int32)
            rows[: self.child_rows.length] = self.child_rows.array[: self.child_rows.length]
            self._arranged = Arranged(moved, children, rows, node_at, root, self._grown)
        return self._arranged

    # -- what the kernels need -----------------------------------------------------------------------------------------

    def patterns(self) -> NDArray[np.uint8]:
        """uint8[patterns, devices]: which devices a pattern such as `eth+` means."""
        wanted = (len(self.context.patterns), len(self.names.names))
        if self._patterns.shape != wanted:
            self._patterns = np.zeros(wanted, np.uint8)
            for pattern, row in self.context.patterns.items():
                self._patterns[row] = [name.startswith(pattern[:-1]) for name in self.names.names]
        return self._patterns

    def expand(self, node: int, way: int) -> None:
        """Make a way of the graph that nobody has gone yet: from a node, numbered as kernels.py says.

        Raises
        ------
        TooLarge
        """
        if self.behind(way) != UNEXPANDED:
            return
        if self.nodes.length > self.max_nodes:
            raise TooLarge
        self._grown += 1
        state = self._states[node]
        if way >= 0:
            branch, column = state.tree, way % NODE
            assert isinstance(branch, Branch)
            next_: Tree = branch.yes if column == YES else branch.no if column == NO else Doubt("")
            child, passed = self._run(state._replace(tree=next_))
            self.nodes.array[node, column] = child
        else:
            index = -2 - way
            chain = self._chains[state.chain]
            in_doubt, offset = divmod(index - int(self.nodes.array[node, 3]), len(chain.rules) - state.position + 1)
            position = state.position + offset
            if node not in self._shared and not state.alike and not state.position:
                self._shared.add(node)
                self._share(node, state, chain)
                if self.children.array[index] != UNEXPANDED:
                    return
            if position < len(chain.rules):
                indexed = chain.found[position] or (chain.boxed[position] and not in_doubt)
                child, passed = self._run(state._replace(position=position, at=0, indexed=indexed))
            else:
                child, passed = self._run(state._replace(position=position))
            self.children.array[index] = child
        if passed:
            self.passed[way] = passed

    # -- rules that are alike ------------------------------------------------------------------------------------------

    def shapes(self, table: Table) -> Shapes:
        """Which rules and chains of a table are alike."""
        found = self._shapes.get(table.name)
        if found is None:
            found = self._shapes[table.name] = Shapes(self.family, table.chains)
        return found

    def kinds(self, chain: ChainCode) -> dict[Kind, list[tuple[int, tuple[Constant, ...], tuple[str, ...]]]]:
        """The rules that a chain's tables find, by kind: (position, constants, chains) of each."""
        shapes = self.shapes(chain.table)
        places: dict[Kind, list[tuple[int, tuple[Constant, ...], tuple[str, ...]]]] = {}
        for position in range(len(chain.rules)):
            if not chain.found[position]:
                continue
            rule = chain.rules[position]
            try:
                number, own = shapes.rule(rule)
                target = shapes.target(rule.target)
                if target is None:
                    continue
                constants, chains = (*own, *target[1]), target[2]
                kind = Kind(number, (chain.key_of[position], target[0]), first_of(constants), first_of(chains))
                places.setdefault(kind, []).append((position, constants, chains))
            except TypeError:  # a match or a target that has no hash
                continue
        return places

    def _share(self, node: int, state: State, chain: ChainCode) -> None:
        """Make the ways behind all rules of a chain's tables, one for each kind.

        Not where another run of the same packet waits or has ended: its rules are numbered as they are, not by a place.
        """
        if state.later or state.ends:
            return
        table = self.bases[state.stage].table
        for found in self.kinds(chain).values():
            if len(found) >= MIN_ALIKE:
                self._share_kind(node, state, table, found)

    def _share_kind(
        self, node: int, state: State, table: Table, places: Sequence[tuple[int, tuple[Constant, ...], tuple[str, ...]]]
    ) -> None:
        """One walk for rules of one kind, made for the first of them."""
        position, constants, names = places[0]
        same = [all(place[2][at] == name for place in places) for at, name in enumerate(names)]
        chains: dict[int, tuple[int, str]] = {}
        for name, everywhere in zip(names, same, strict=True):
            if not everywhere:
                number = self.chain(table, name)
                chains.setdefault(number, (2 + len(chains), name))
        columns = [names.index(name) for _, name in chains.values()]
        slots: dict[Constant, int] = {}
        for constant in constants:
            slots.setdefault(constant, 2 + len(chains) + len(slots))
        places_of = [constants.index(constant) for constant in slots]
        entry = state._replace(position=position, at=0, indexed=True, alike=len(self.templates))
        template = Template(entry, {number: at for number, (at, _) in chains.items()}, slots, [])
        self.templates.append(template)
        if any((atom[1], int(atom[3])) in slots for atom in self.facts(entry.facts).known if isinstance(atom[3], Slot)):
            return  # a rule before asks for the number that a constant of the first place happens to be
        try:
            child, passed = self._run(entry)
            self._explore(entry.alike)
        except NotAlike:
            return
        first_of_chain = self.numbering.first
        own = self._chains[state.chain].first
        rows = np.array(
            [
                [
                    entry.alike,
                    own + at,
                    *(first_of_chain[table.name, names[n]] for n in columns),
                    *(constants[n][1] for n in places_of),
                ]
                for at, constants, names in places
            ],
            np.int64,
        )
        fine = guarded(template.guards, slots, rows)
        first = self.constants.add(rows[fine].reshape(-1).astype(np.uint32))
        index = int(self.nodes.array[node, 3]) + np.array([place[0] for place in places])[fine]
        self.children.array[index] = child
        self.child_rows.array[index] = first + rows.shape[1] * np.arange(len(index))
        if passed:
            for way in -2 - index:
                self.passed[int(way)] = passed

    def _explore(self, alike: int) -> None:
        """Make every way of a template: what is found later could not be asked of all places any more."""
        node = first = self._first_of_template(alike)
        while node < self.nodes.length:
            if node - first > MAX_TEMPLATE:
                raise NotAlike
            if self._states[node].alike == alike:
                kind = int(self.nodes.array[node, 0])
                if kind == DISPATCH:
                    start = int(self.nodes.array[node, 3])
                    if self._spans[node] > MAX_TEMPLATE:
                        raise NotAlike
                    ways = [-2 - index for index in range(start, start + self._spans[node])]
                else:
                    columns = (YES, NO, MAYBE) if kind == ASK else (YES, NO)
                    ways = [NODE * node + column for column in columns]
                for way in ways:
                    known = self.nodes.array[node, way % NODE] if way >= 0 else self.children.array[-2 - way]
                    if known == UNEXPANDED:
                        self.expand(node, way)
            node += 1

    def _first_of_template(self, alike: int) -> int:
        """The first of its nodes; all others have higher numbers."""
        node = self.nodes.length
        while node and self._states[node - 1].alike == alike:
            node -= 1
        return node

    def chain_of(self, rule: int) -> tuple[int, int]:
        """The number of the chain in which a rule is, and its position there."""
        if rule < 0:
            return -1, 0
        table, chain, position = self.numbering.spot(rule)
        return self._chain_number.get((table.name, chain.name), -1), position

    def relative(self, rule: int, alike: int) -> tuple[int, int]:
        """A rule of a template as (number, what of the row of constants is added to it; 0: nothing)."""
        template = self.templates[alike]
        if alike and rule == self._chains[template.entry.chain].first + template.entry.position:
            return 0, 1
        chain, position = self.chain_of(rule)
        return (position, template.chains[chain]) if chain in template.chains else (rule, 0)

    def entered(self, way: int) -> Renumber | None:
        """The place that a way leads to, where it is one of several that are alike."""
        row = int(self.child_rows.array[-2 - way]) if way < -1 else -1
        return Renumber(self, row) if row >= 0 else None

    def is_alike(self, node: int) -> bool:
        """Whether a node speaks for several places."""
        return self._states[node].alike > 0

    def behind(self, way: int) -> int:
        """What is behind a way: a node, or -2 - outcome."""
        return int(self.nodes.array[way // NODE, way % NODE] if way >= 0 else self.children.array[-2 - way])

    def here(self, outcome: int, row: int) -> Renumber | None:
        """How the rules of an outcome are to be numbered for a packet that came by a row of constants."""
        return Renumber(self, row) if self.outcomes[outcome].alike else None

    # -- the walk ------------------------------------------------------------------------------------------------------

    def _entry(self) -> State:
        return State(
            0, 0, 0, ENTER, None, False, False, None, 0, 0, None, False, Form(U32, 0, 0), Form(0, U32, 0), (), frozenset(),
            False, 0, 0, 0, 0, 0, 0,
        )  # fmt: skip

    def _run(self, state: State) -> tuple[int, tuple[int, ...]]:
        """Go on from a state until the packet has to be asked: (the node, or -2 - outcome; the rules that held on the way)."""
        passed: list[int] = []
        walk = _Walk(self, state, passed)
        return walk.run(), tuple(passed)

    def test_node(self, state: State, atom: Atom, later: Asking | None) -> int:
        """The node that asks an atom in a state."""
        known = self._node_of.get(state)
        if known is not None:
            return known
        row = [0, 0, 0, 0, 0, UNEXPANDED, UNEXPANDED, UNEXPANDED]
        row[:4] = atom
        slot = self.templates[state.alike].slots.get((atom[1], int(atom[3]))) if isinstance(atom[3], Slot) else None
        if slot is not None:
            row[0], row[2] = CONSTANT, slot
        node = self._add_node(state, row)
        if later is not None:
            self.asking[node] = later
        self._make_tables(atom)
        return node

    def twin_node(self, state: State) -> int:
        """The node that leaves the whole packet to the twin."""
        if state.alike:
            raise NotAlike
        return self.test_node(state, (ASK, 0, 0, 0), None)

    def dispatch_node(self, state: State, chain: ChainCode) -> int:
        """The node that finds the next rule of a chain."""
        known = self._node_of.get(state)
        if known is not None:
            return known
        start, end = state.position, len(chain.rules)
        if state.alike and state.chain in self.templates[state.alike].chains:
            raise NotAlike  # its tables are those of one place
        count = (end - start + 1) * (2 if self.dispatches.array[chain.dispatch, 3] else 1)
        first = self.children.extend(count)
        self.children.array[first : self.children.length] = UNEXPANDED
        self.child_rows.extend(count)
        self.child_rows.array[first : self.child_rows.length] = -1
        row = [DISPATCH, chain.dispatch, start, first, chain.next_unindexed(start), UNEXPANDED, UNEXPANDED, UNEXPANDED]
        node = self._add_node(state, row)
        self._spans[node] = count
        return node

    def _add_node(self, state: State, row: Sequence[int]) -> int:
        node = self.nodes.add(np.array([row], np.int64).astype(np.uint32).view(np.int32))
        self._node_of[state] = node
        self._states.append(state)
        self._spans.append(0)
        return node

    def outcome(self, ends: tuple[End, ...], whole: bool = False, fixed: tuple[Leaf, ...] | None = None, alike: int = 0) -> int:
        """-2 - the number of an outcome; equal ones are one."""
        key = (ends, fixed, alike)
        known = self._outcome_of.get(key)
        if known is None:
            known = self._outcome_of[key] = len(self.outcomes)
            self.outcomes.append(Outcome(ends, whole, fixed, alike))
        return -2 - known

    # -- chains --------------------------------------------------------------------------------------------------------

    def chain(self, table: Table, name: str) -> int:
        """The number of a chain."""
        key = (table.name, name)
        known = self._chain_number.get(key)
        if known is None:
            known = self._chain_number[key] = len(self._chains)
            self._chains.append(ChainCode(table, name, self.numbering.first[key]))
        return known

    def after(self, chain: ChainCode, position: int) -> tuple[int, int, int]:
        """Where a rule of a chain goes on behind it (walk.py _after): chain, position, how many inline chains are left."""
        if chain.lowered is None or chain.lowered.then is None:
            return self.chain(chain.table, chain.name), position, 0
        name, at = chain.lowered.then
        return self.chain(chain.table, name), at, chain.lowered.depth

    def code(self, chain: ChainCode, position: int) -> RuleCode:
        found = chain.codes[position]
        if found is None:
            found = chain.codes[position] = RuleCode(chain.rules[position], self.context)
            if chain.found[position]:
                found.use_key(chain.key_of[position])
        return found

    def choose(self, chain: ChainCode) -> None:
        """Decide how the rules of a chain are found (once, when the first packet comes there)."""
        chain.seen = True
        if len(chain.rules) < MIN_CHAIN:
            return
        keys = self._keys(chain)
        shapes = Counter(tuple(sorted(key)) for key in keys if 0 < len(key) <= WORDS)
        large = [shape for shape, count in shapes.most_common(MAX_GROUPS) if count >= MIN_GROUP]
        shape_of = _shapes_of(keys, large)
        rest = [position for position, shape in enumerate(shape_of) if not shape]
        boxes: list[tuple[Box, int]] = []
        if len(rest) + FEW_RULES * len(large) > MAX_ASKED and len(chain.rules) >= MIN_CUT:
            large = [shape for shape in large if 2 * shapes[shape] >= len(chain.rules)]
            shape_of = _shapes_of(keys, large)
            rest, boxes = self._boxed(chain, [position for position, shape in enumerate(shape_of) if not shape])
        if not large and not boxes:
            return
        first = self.groups.length
        for shape in large:
            positions = [position for position, other in enumerate(shape_of) if other == shape]
            chain.groups.append(Group(shape, len(positions)))
            self._add_group(shape, [tuple(keys[p][part] for part in shape) for p in positions], positions)
            for position in positions:
                chain.found[position], chain.key_of[position] = True, shape
                code = chain.codes[position]
                if code is not None:
                    code.use_key(shape)
        chain.unindexed = rest
        cut, doubts = self._add_cuts(chain, boxes) if boxes else (-1, 0)
        chain.dispatch = self.dispatches.add(np.array([[first, self.groups.length, cut, doubts]], np.int32))

    def _boxed(self, chain: ChainCode, positions: Sequence[int]) -> tuple[list[int], list[tuple[Box, int]]]:
        """Which of some rules no box confines, and the boxes of the others."""
        rest: list[int] = []
        found: list[tuple[Box, int]] = []
        for position in positions:
            code = self.code(chain, position)
            boxes, left = code.boxes()
            if all(boxes) and boxes:
                found += [(box, position) for box in boxes]
                chain.boxed[position], code.rest = True, left
            else:
                rest.append(position)
        return rest, found

    def _add_cuts(self, chain: ChainCode, boxes: Sequence[tuple[Box, int]]) -> tuple[int, int]:
        """Trees for boxes: where they begin in `cells`; how many rules the chain has if a drawn source port matters, else 0."""
        drawn = [(box, at) for at, cut in enumerate(chain.boxed) if cut for box in self.code(chain, at).boxes(drawn=True)[0]]
        fields = sorted({field for box, _ in [*boxes, *drawn] for field in box})
        closed = [not self.code(chain, position).rest and _ends_chain(chain.rules[position].target) for _, position in boxes]
        doubtful = drawn != boxes
        self.cells, grown = classify(
            bounds(boxes, fields), np.array(closed, np.uint8), bounds(drawn if doubtful else [], fields), fields, self.cells
        )
        chain.cut = Cut(tuple(fields), sum(chain.boxed), grown.trees, grown.size)
        return grown.base, len(chain.rules) if doubtful else 0

    def _keys(self, chain: ChainCode) -> list[dict[tuple[int, int], int]]:
        """What each rule of a chain surely asks: by (field, mask) the number. Of rules that are alike one is looked at."""
        shapes = self.shapes(chain.table)
        first: dict[int, list[Atom]] = {}
        found = []
        for position, rule in enumerate(chain.rules):
            try:
                number, constants = shapes.rule(rule)
            except TypeError:
                found.append({(a[1], a[2]): a[3] for a in self.code(chain, position).key})
                continue
            key = first.get(number)
            if key is None:
                code = self.code(chain, position)
                key = code.key
                if not code.guards:
                    first[number] = key
                found.append({(a[1], a[2]): a[3] for a in key})
            else:
                found.append({(f, mask): constants[b.index][1] if isinstance(b, Slot) else b for _, f, mask, b in key})
        return found

    def _add_group(self, shape: Sequence[tuple[int, int]], keys: Sequence[tuple[int, ...]], values: Sequence[int]) -> None:
        """A hash table from keys to values; of several values of one key all are kept, in their order."""
        lists: dict[tuple[int, ...], list[int]] = {}
        for key, value in zip(keys, values, strict=True):
            lists.setdefault(key, []).append(value)
        first = [found[0] if len(found) == 1 else self.words.add(np.array(found, np.uint32)) for found in lists.values()]
        slots = 1 << (2 * len(lists)).bit_length()
        width = len(shape) + 2
        table = np.zeros((slots, width), np.uint32)
        fill_table(
            np.array(list(lists), np.uint32).reshape(len(lists), len(shape)),
            np.array(first, np.uint32),
            np.array([len(found) for found in lists.values()], np.uint32),
            table,
        )
        row = np.zeros(GROUP, np.int64)
        row[:4] = len(shape), self.words.add(table.reshape(-1)), slots - 1, width
        for at, (field, mask) in enumerate(shape):
            row[4 + at], row[4 + WORDS + at] = field, mask
        self.groups.add(row.astype(np.uint32).view(np.int32).reshape(1, GROUP))

    @staticmethod
    def is_for_twin(code: RuleCode) -> bool:
        """Whether packets that come to a rule, or for which it holds, are left to the twin."""
        target: object = code.rule.target
        left = isinstance(target, Scheduled) or (isinstance(target, NftStatement) and not _is_simple(target))
        return left or any(item.kind == TWIN for item in code.items)

    def layout(self) -> Iterator[ChainCode]:
        """Every chain that a packet may come to, and how its rules are found."""
        for base in self.bases:
            waiting, seen = [base.chain.name], set()
            while waiting:
                name = waiting.pop()
                if name in seen:
                    continue
                seen.add(name)
                chain = self._chains[self.chain(base.table, name)]
                if not chain.seen:
                    self.choose(chain)
                yield chain
                waiting += [inner for rule in reversed(chain.rules) if (inner := leads_to(rule)) is not None]

    # -- tables for atoms ----------------------------------------------------------------------------------------------

    def _make_tables(self, atom: Atom) -> None:
        """The tables that a node's atom asks, in the order of their numbers."""
        if atom[0] == atoms.TABLE:
            for device in list(self.context.types)[self.tables.length :]:
                self._add_types(device)
        elif atom[0] == atoms.MEMBER:
            for levels in self.context.levels[self.members.length :]:
                first = self.groups.length
                made = levels()
                for shape, keys, values in made:
                    self._add_group(shape, keys, values)
                self.members.add(np.array([[first, self.groups.length]], np.int32))
                self._plain.append(not any(any(level.values) for level in made))

    def _run_tables(self, sets: tuple[int, ...]) -> tuple[int, int]:
        """Tables that find the first of some sets that has the packet: the number of their dispatch, and how many they are."""
        known = self._runs.get(sets)
        if known is None:
            found = together([self.context.levels[number]() for number in sets])
            first = self.groups.length
            if sum(len(level.keys) for level in found) > MAX_TOGETHER:
                known = -1, 0
            else:
                for shape, keys, values in found:
                    self._add_group(shape, keys, values)
                known = self.dispatches.add(np.array([[first, self.groups.length, -1, 0]], np.int32)), len(found)
            self._runs[sets] = known
        return known

    def _add_types(self, device: str) -> None:
        """What kind of address an IPv4 address is here (fib_frontend.c inet_addr_type), as intervals."""
        bounds = {0, 1 << 24, 0xE0 << 24, 0xF0 << 24, U32}
        for route in self.netns.routes:
            if route.dst.family == 4:
                bounds |= {route.dst.value, route.dst.value + route.dst.size}
        lows = sorted(bound for bound in bounds if bound <= U32)
        kinds = [atoms.route_type_number(address_type(self.netns, Ip(4, low), device or None).name) for low in lows]
        kept = [at for at in range(len(lows)) if at == 0 or kinds[at] != kinds[at - 1]]
        first = self.words.add(np.array([lows[at] for at in kept] + [kinds[at] for at in kept], np.uint32))
        self.tables.add(np.array([[first, len(kept)]], np.int32))

    # -- facts ---------------------------------------------------------------------------------------------------------

    def facts(self, number: int) -> Facts:
        """What is known where some rules are known to hold."""
        known = self._facts.get(number)
        if known is None:
            before, (chain, position) = self._fact_lists.last(number)
            known = self._facts[number] = Facts(self.facts(before))
            known.learn(self.code(self._chains[chain], position).implied)
        return known


class _Walk:
    """One packet, of which nothing is known but what state it is in: the walk of walk.py, with forms instead of marks."""

    def __init__(self, program: Program, state: State, passed: list[int]) -> None:
        self.program, self.passed = program, passed
        self.template = program.templates[state.alike]
        self._load(state)

    def _load(self, state: State) -> None:
        (
            self.stage, self.chain, self.position, self.at, self.tree, self.indexed, self.doubt, self.share, self.stack,
            self.facts, self.ct, self.here, self.mark, self.connmark, self.recents, self.sets, self.forked, self.path,
            self.trail, self.undecided, self.ends, self.later, self.alike,
        ) = state  # fmt: skip

    def state(self, at: int, tree: Tree | None) -> State:
        return State(
            self.stage, self.chain, self.position, at, tree, self.indexed, self.doubt, self.share, self.stack,
            self.facts, self.ct, self.here, self.mark, self.connmark, self.recents, self.sets, self.forked, self.path,
            self.trail, self.undecided, self.ends, self.later, self.alike,
        )  # fmt: skip

    def run(self) -> int:
        while True:
            if self.at >= 0:
                found = self._match()
            elif self.at == START:
                found = self._next()
            elif self.at == HIT:
                found = self._hit()
            elif self.at == TARGET:
                found = self._target_asks()
            else:
                found = self._enter()
            if found is not None:
                return found

    # -- asking --------------------------------------------------------------------------------------------------------

    def _asked(self, tree: Tree) -> Tree | int:
        """What a tree says: True, False or Doubt; or the node that has to ask the packet first."""
        facts, guards = self.program.facts(self.facts), self.template.guards
        while isinstance(tree, Branch):
            atom = tree.atom
            if atom[0] >= MARKED:
                form = self.mark if atom[0] == MARKED else self.connmark
                known, atom = _of_form(form, atom[2], atom[3])
            else:
                known = facts.holds(atom, guards)
            if known is None:
                asking = None
                if atom[0] == ASK:
                    match = self.program.context.asked[atom[2]]
                    certain = not self.doubt and self.share is None
                    asking = Asking(match, self.mark, self.connmark, self.recents, certain)
                return self.program.test_node(self.state(self.at, tree), atom, asking)
            tree = tree.yes if known else tree.no
        return tree

    # -- chains --------------------------------------------------------------------------------------------------------

    def _enter(self) -> int | None:
        """Before a base chain."""
        program = self.program
        while True:
            if self.stage == len(program.bases):
                return self._end(Verdict.ACCEPT, -1, None)
            base = program.bases[self.stage]
            if not before_conntrack(base):
                self.here = False
            if not base.nat:
                break
            tree = self.tree
            if tree is None:
                untracked = self.ct is not None and self.ct.notrack and not before_conntrack(base)
                tree = False if untracked else _asks_nat(base.chain.hook)
            found = self._asked(tree)
            if isinstance(found, int) and not isinstance(found, bool):
                return found
            self.tree = None
            if found:
                break
            if self.stage + 1 == len(program.bases):
                return self._end(Verdict.ACCEPT, -1 - self.stage, None)
            self.stage += 1
        self.chain = program.chain(base.table, base.chain.name)
        self.position, self.at, self.stack, self.facts = 0, START, 0, 0
        return None

    def _next(self) -> int | None:
        """Before a rule, or at the end of a chain."""
        program = self.program
        chain = program._chains[self.chain]
        if self.alike and (self.chain, self.stack) == (self.template.entry.chain, self.template.entry.stack):
            raise NotAlike  # back in the chain where each place has its own next rule
        if self.position >= len(chain.rules):
            if chain.lowered is None or chain.lowered.then is None:
                return self._return()
            self._leave_inline()
            return None
        if not chain.seen:
            program.choose(chain)
        self.indexed = False
        if chain.dispatch >= 0:
            return program.dispatch_node(self.state(START, None), chain)
        self.at = 0
        return None

    def _return(self) -> int | None:
        if not self.stack:
            return self._policy()
        if self.alike and self.stack == self.template.entry.stack:
            self._leave()
        self.stack, (self.chain, self.position, self.facts) = self.program._stacks.last(self.stack)
        self.at = START
        if self.alike and self.stack == self.template.entry.stack:
            entry = self.program._chains[self.template.entry.chain]
            if (self.chain, self.position) == self.program.after(entry, 0)[:2]:
                self._leave()  # behind the rule whose map led into the template
        return None

    def _leave_inline(self) -> None:
        """To the rule behind the one that an inline chain is a part of."""
        program = self.program
        if self.alike and (self.chain, self.stack) == (self.template.entry.chain, self.template.entry.stack):
            self._leave()
        chain = program._chains[self.chain]
        self.chain, self.position, depth = program.after(chain, self.position)
        for _ in range(depth):
            self.facts = program._fact_lists.last(self.facts)[0]
        self.at = START

    def _policy(self) -> int | None:
        rule = -1 - self.stage
        if self.program.bases[self.stage].chain.policy == "DROP":
            return self._end(Verdict.DROP, rule, None)
        return self._passed(rule)

    def _passed(self, rule: int) -> int | None:
        """The packet has passed a base chain."""
        self.stage += 1
        if self.stage == len(self.program.bases):
            return self._end(Verdict.ACCEPT, rule, None)
        if self.alike:
            self._leave()
            self.chain = self.position = self.stack = self.facts = 0
        self.at, self.tree = ENTER, None
        return None

    def _leave(self) -> None:
        """The walk leaves what differs from place to place: it goes on for all, unless it remembers something of that."""
        entry = self.template.entry
        if (self.path, self.trail, self.ends, self.later) == (entry.path, entry.trail, entry.ends, entry.later):
            self.alike = 0

    def _is_own(self) -> bool:
        """Whether the rule under way is one of those that differ from place to place."""
        entry = self.template.entry
        return self.chain in self.template.chains or (self.chain, self.position) == (entry.chain, entry.position)

    def _skip(self) -> None:
        """The rule does not hold."""
        self.position += 1
        self.at, self.tree, self.doubt, self.share = START, None, False, None

    # -- one rule ------------------------------------------------------------------------------------------------------

    def _match(self) -> int | None:
        """The matches of a rule from `at` on, from left to right (naive.py rule_holds)."""
        code = self.program.code(self.program._chains[self.chain], self.position)
        items = code.rest if self.indexed else code.items
        if self.alike:
            self.template.guards.extend(code.guards)
            slots = self.template.slots
            if not self._is_own() and any((atom[1], int(atom[3])) in slots for atom in code.slots()):
                raise NotAlike  # a number that a constant of the first place happens to be
        tree = self.tree
        while self.at < len(items):
            item = items[self.at]
            if item.kind == TWIN or (item.kind == NFT and self.sets and _set_of(item.match) in self.sets):
                return self.program.twin_node(self.state(self.at, None))
            if item.kind == CHANCE:
                answer = HOLDS[type(item.match)](item.match, self.program.context.blank)
                if answer is False:
                    self._skip()
                    return None
                if isinstance(answer, Chance):
                    self.share = answer.probability * (self.share or ONE)
                self.at += 1
                continue
            found = self._asked(self._tree(item) if tree is None else tree)
            tree = None
            if isinstance(found, int) and not isinstance(found, bool):
                return found
            if item.kind == RECENT:
                assert isinstance(item.match, m.Recent)
                if item.match.action in ("set", "remove"):
                    self.recents = (*self.recents, (item.match, not self.doubt and self.share is None))
            if found is False:
                self._skip()
                return None
            self.doubt |= found is not True
            self.at += 1
        self.tree = None
        doubt, share = self.doubt, self.share
        self.doubt, self.share = False, None
        rule = self._number()
        if doubt:
            return self._fork_undecided(rule)
        p = chance(share) if share is not None else True
        if p is False:
            self._skip()
            return None
        self.at = HIT
        if p is not True:
            assert isinstance(p, Fraction)
            self._fork(Choice(rule, 0, p), Choice(rule, 1, 1 - p), hit_first=True)
        return None

    def _number(self) -> int:
        return self.program._chains[self.chain].first + self.position

    def _tree(self, item: Item) -> Tree:
        """The tree of a match in this state of the walk."""
        if item.kind == CT:
            base = self.program.bases[self.stage]
            if self.here and self.ct is not None:
                seen = CtView(CtState.UNTRACKED) if self.ct.notrack else template(self.program.family)
                return atoms.tree_under(item.match, seen, self.program.context)
            if before_conntrack(base):
                return Branch(_ATTACHED, item.tree, atoms.tree_under(item.match, None, self.program.context))
            if self.ct is not None and self.ct.notrack:
                return atoms.tree_under(item.match, CtView(CtState.UNTRACKED), self.program.context)
        if item.kind == SET and self.sets:
            assert isinstance(item.match, m.SetMatch)
            held = self.program.netns.sets.get(item.match.name)
            if item.match.name in self.sets or (held is not None and held.type.startswith("list:")):
                return Doubt(f"set {item.match.name}: a rule on the way (-j SET) may have changed it")
        return item.tree

    # -- choices -------------------------------------------------------------------------------------------------------

    def _fork(self, now: Choice, later: Choice, hit_first: bool) -> None:
        """Two ways: this run goes the first, another will go the second."""
        program = self.program
        self.forked = True
        trail = self.trail
        self.trail = program._trails.add(trail, later)
        position, at = self.position, self.at
        if hit_first:
            self.position, self.at = position + 1, START
        else:
            self.at = HIT
        waiting = self.state(self.at, None)._replace(ends=0, later=0)
        self.position, self.at = position, at
        self.trail = program._trails.add(trail, now)
        self.later = program._laters.add(self.later, waiting)

    def _fork_undecided(self, rule: int) -> int | None:
        self.undecided += 1
        if self.undecided > MAX_UNDECIDED:
            return self._give_up(rule)
        self._fork(Choice(rule, 0, None), Choice(rule, 1, None), hit_first=False)
        self._skip()
        return None

    def _give_up(self, rule: int) -> int:
        none = Form(0, 0, 0)
        end = End((), Verdict.UNKNOWN, rule, (), none, none, None, None)
        return self.program.outcome((end,), whole=True, alike=self.alike)

    def _end(self, verdict: Verdict, rule: int, target: t.Target | ToServer | None) -> int | None:
        """This run has ended; the next one begins, or all have."""
        program = self.program
        path = program._paths.all(self.path)
        end = End(program._trails.all(self.trail), verdict, rule, path, self.mark, self.connmark, self.ct, target)
        if not self.later:
            return program.outcome((*program._ends.all(self.ends), end), alike=self.alike)
        ends = program._ends.add(self.ends, end)
        if program._ends.size(ends) > MAX_RUNS:
            return self._give_up(end.choices[-1].rule)
        later, waiting = program._laters.last(self.later)
        self._load(waiting._replace(ends=ends, later=later))
        return None

    # -- targets -------------------------------------------------------------------------------------------------------

    def _hit(self) -> int | None:
        """The rule holds: its target runs."""
        program = self.program
        chain = program._chains[self.chain]
        number = self._number()
        if self.forked:
            self.path = program._paths.add(self.path, number)
        else:
            self.passed.append(number)
        target: object = chain.rules[self.position].target
        if isinstance(target, NftStatement):
            if isinstance(target.statement, n.Notrack):
                self.at, self.tree = TARGET, self._applies(_NOTRACK, of_nft=True)
                return None
            if target.plain and isinstance(target.statement, n.SetChange):
                self.sets |= {str(set_key(target.table, target.statement.set))}
                target = None
            else:
                return program.twin_node(self.state(HIT, None))
        if isinstance(target, Scheduled):
            return program.twin_node(self.state(HIT, None))
        own = self._is_own()
        self.position += 1
        self.at = START
        match target:
            case t.Jump(chain=name, goto=goto):
                if not goto:
                    chain_, position, depth = program.after(chain, self.position)
                    facts = self.facts
                    for _ in range(depth):
                        facts = program._fact_lists.last(facts)[0]
                    self.stack = program._stacks.add(self.stack, (chain_, position, facts))
                self.facts = program._fact_lists.add(self.facts, (self.chain, self.position - 1))
                table = program.bases[self.stage].table
                following = program.chain(table, name)
                if following in self.template.chains and not own:
                    raise NotAlike  # into a chain of one place from a rule that is everybody's
                self.chain, self.position = following, 0
            case Inline(chain=name):
                self.facts = program._fact_lists.add(self.facts, (self.chain, self.position - 1))
                following = program.chain(program.bases[self.stage].table, name)
                if following in self.template.chains and not own:
                    raise NotAlike
                self.chain, self.position = following, 0
            case Leave():
                self._leave_inline()
            case ToServer():
                return self._end(Verdict.IPVS, number, target)
            case t.Return():
                return self._return()
            case t.Accept():
                return self._passed(number)
            case t.Drop():
                return self._end(Verdict.DROP, number, None)
            case t.Reject():
                return self._end(Verdict.REJECT, number, target)
            case t.Dnat() | t.Snat() | t.Masquerade() | t.Redirect() | t.Netmap():
                return self._end(Verdict.NAT, number, target)
            case t.Tproxy() | t.UnknownTarget():
                return self._end(Verdict.UNKNOWN, number, target)
            case t.SetMark(value=value, mask=mask):
                self.mark = self.mark.set(value, mask)
            case t.SetConnmark() | t.Ct():
                self.position -= 1  # _target_asks comes back to the rule
                self.at, self.tree = TARGET, self._applies(target)
            case t.SetTarget(text=text):
                words = text.split()
                if "--map-set" in words:
                    return self._end(Verdict.UNKNOWN, number, target)
                self.sets |= {name for word, name in pairwise(words) if word in ("--add-set", "--del-set")}
            case None | t.Log() | t.TraceTarget() | t.Tcpmss() | t.Checksum():
                pass
        return None

    def _applies(self, target: t.SetConnmark | t.Ct, of_nft: bool = False) -> Tree:
        """Whether a target that looks at the packet's connection does anything; Doubt: only the twin knows what."""
        hidden = before_conntrack(self.program.bases[self.stage])
        untracked = not hidden and self.ct is not None and self.ct.notrack and not self.here
        if isinstance(target, t.Ct):
            if self.ct is not None:
                return False
            unseen = atoms.equal(Field.CTSTATE, 0)
            if of_nft:  # nft_ct.c nft_notrack_eval goes on where the packet is INVALID
                unseen = Branch((BITS, Field.CTSTATE, 1, 0), True, Branch(_INVALID, Doubt("notrack"), False))
            return Branch(_ATTACHED, unseen, True) if hidden else unseen
        connected = atoms.flag(Field.CTFLAGS, CtFlag.CONNECTION)
        return False if untracked else Branch(_ATTACHED, connected, False) if hidden else connected

    def _target_asks(self) -> int | None:
        assert self.tree is not None
        found = self._asked(self.tree)
        if isinstance(found, int) and not isinstance(found, bool):
            return found
        if isinstance(found, Doubt):
            return self.program.twin_node(self.state(HIT, None))
        target = self.program._chains[self.chain].rules[self.position].target
        self.position += 1
        self.at, self.tree = START, None
        if not found:
            return None
        if isinstance(target, t.Ct | NftStatement):
            self.ct, self.here = target if isinstance(target, t.Ct) else _NOTRACK, True
        elif isinstance(target, t.SetConnmark):
            if target.action == "set":
                self.connmark = self.connmark.set(target.value, target.ctmask)
            elif target.action == "save":
                self.connmark = self.connmark.masked(~target.ctmask & U32).xor(self.mark.masked(target.nfmask))
            else:
                self.mark = self.mark.masked(~target.nfmask & U32).xor(self.connmark.masked(target.ctmask))
        return None


_NOTRACK: Final = t.Ct(notrack=True)
_INVALID: Final = (BITS, Field.CTSTATE, 1 << CT_STATES.index(CtState.INVALID), 0)


def _is_simple(target: NftStatement) -> bool:
    """Whether the graph knows what a statement does."""
    return target.plain or isinstance(target.statement, n.Notrack)


def _set_of(match: m.Match | NftMatch) -> str:
    """The set of nft that a match looks into, "" for none."""
    if isinstance(match, NftMatch) and isinstance(match.compare.right, n.SetName):
        return str(set_key(match.table, match.compare.right.name))
    return ""


def _shapes_of(
    keys: Sequence[dict[tuple[int, int], int]], large: Sequence[tuple[tuple[int, int], ...]]
) -> list[tuple[tuple[int, int], ...]]:
    """Of each rule the shape of the table that finds it; () where none does."""
    by_size = sorted(large, key=len, reverse=True)
    known = {shape: shape for shape in large}
    found = []
    for key in keys:
        shape = tuple(sorted(key))
        if shape not in known:  # one that asks for less will do: what is left is asked when the rule was found
            known[shape] = next((other for other in by_size if all(part in key for part in other)), ())
        found.append(known[shape])
    return found


def _ends_chain(target: t.Target | None) -> bool:
    """Whether a packet for which the rule holds is done with the rule's chain."""
    match target:
        case t.Jump(goto=goto):
            return goto
        case t.Accept() | t.Drop() | t.Reject() | t.Return() | t.Tproxy() | t.UnknownTarget():
            return True
        case t.Dnat() | t.Snat() | t.Masquerade() | t.Redirect() | t.Netmap():
            return True
        case _:
            return False


def _of_form(form: Form, mask: int, value: int) -> tuple[bool | None, Atom]:
    """A question about a mark as one about the marks that came in; or its answer where they do not matter."""
    mark, connmark, wanted = form.mark & mask, form.connmark & mask, (value ^ form.value) & mask
    if wanted & ~(mark | connmark):
        return False, (MASK, 0, 0, 0)
    if not mark | connmark:
        return True, (MASK, 0, 0, 0)
    if not connmark:
        return None, (MASK, Field.MARK, mark, wanted)
    if not mark:
        return None, (MASK, Field.CTMARK, connmark, wanted)
    return None, (MARK, mark, connmark, wanted)


def _asks_nat(hook: Hook | None) -> Tree:
    """Whether the nat chains of a hook are asked (walk.py asks_nat)."""
    done = CtFlag.SRC_DONE if source_nat(hook) else CtFlag.DST_DONE
    new, related = 1 << 1, 1 << 3  # packets.py CT_STATES
    open_ = atoms.negated(atoms.flag(Field.CTFLAGS, done))
    error = Branch((MASK, Field.FLAGS, Flag.ICMP_ERROR, Flag.ICMP_ERROR), False, open_)
    by_state = Branch((BITS, Field.CTSTATE, new, 0), open_, Branch((BITS, Field.CTSTATE, related, 0), error, False))
    return atoms.then(atoms.flag(Field.CTFLAGS, CtFlag.CONNECTION), by_state)


def compile_hook(netns: Netns, family: int, hook: Hook, tables: Sequence[str] = ()) -> Program:
    """What the packets of a family meet in a namespace at one hook; `tables` picks some by name (bases.py).

    A program ends with the first NAT target or real server: at OUTPUT, the filter chain behind it sees another packet and is
    another program.
    """
    return Program(netns, family, bases(netns, family, hook, tables), hook)
