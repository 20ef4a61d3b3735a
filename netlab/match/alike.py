"""Chains that are alike: the same rules but for addresses, ports, NAT targets and names, as kube-proxy's for each service.

    KUBE-SVC-A -> KUBE-SEP-B, -C      one Shape, and its constants: what A and D ask in the same places,
    KUBE-SVC-D -> KUBE-SEP-E, -F      and the chains that stand there

Law: two places of one Kind make the same walk, question by question, if the questions are put with each one's own constants. So
which constants are equal is part of a Kind; what else the walk found by looking at them is a Guard, asked of each place.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from netlab.linux import matches as m
from netlab.linux import targets as t
from netlab.linux.rules import Chain, Rule
from netlab.match.atoms import BITS, MASK, SPAN, U32, Atom, Branch, Tree
from netlab.match.lowered import Inline, ToServer
from netlab.match.packets import Field

MAX_RULES = 64  # of a chain that may have its like
NAT = (t.Dnat, t.Snat, t.Masquerade, t.Redirect, t.Netmap, ToServer)
Constant = tuple[int, int]  # field, value
_ADDRESS: dict[type, int] = {m.Source: int(Field.SRC), m.Destination: int(Field.DST)}
_PORTS = (m.Tcp, m.Udp)
_NEGATED = {kind: (kind, "!") for kind in (*_ADDRESS, *_PORTS)}
_DPORT = int(Field.DPORT)


class Slot(int):
    """A constant in an atom: the number that it is here; others of the same kind have another one there."""

    index: int  # among the constants of its rule

    @staticmethod
    def of(value: int, index: int) -> Slot:
        made = Slot(value)
        made.index = index
        return made


class Guard(NamedTuple):
    """What a walk found by comparing a constant: `atom` of a field that is `value` is `holds`. Slots are constants of `field`."""

    field: int
    value: int
    atom: Atom
    holds: bool


class Shape(NamedTuple):
    """A rule's or a chain's number of those that read alike, and the constants and chains in it, in the order of the rules."""

    number: int
    constants: tuple[Constant, ...]
    chains: tuple[str, ...]


class Kind(NamedTuple):
    """What places have in common: the rule's shape, its target's, which constants are equal and which chains."""

    rule: int
    target: object
    equal: tuple[int, ...]
    chains: tuple[int, ...]


class Shapes:
    """The shapes of a table's rules and chains."""

    def __init__(self, family: int, chains: Mapping[str, Chain]) -> None:
        self.words = 1 if family == 4 else 4
        self.full = (1 << 32 * self.words) - 1
        self.chains = chains
        self._numbers: dict[object, int] = {}
        self._of_chain: dict[str, Shape | None] = {}

    def _number(self, key: object) -> int:
        return self._numbers.setdefault(key, len(self._numbers))

    def rule(self, rule: Rule) -> tuple[int, list[Constant]]:
        """A rule's matches: their number, and the constants in them. Raises TypeError where a match has no hash."""
        parts: list[object] = []
        constants: list[Constant] = []
        for match in rule.matches:
            kind = type(match)
            field = _ADDRESS.get(kind)
            if field is not None:
                if match.mask == self.full:  # type: ignore[union-attr]
                    parts.append(_NEGATED[kind] if match.negate else kind)  # type: ignore[union-attr]
                    if self.words == 1:
                        constants.append((field, match.value))  # type: ignore[union-attr]
                    else:
                        constants += [(field + w, match.value >> 32 * w & U32) for w in range(4)]  # type: ignore[union-attr]
                else:
                    parts.append(match)
            elif kind in _PORTS:
                if is_one_port(match):
                    parts.append(_NEGATED[kind] if match.not_dport else kind)  # type: ignore[union-attr]
                    constants.append((_DPORT, match.dport.low))  # type: ignore[union-attr]
                else:
                    parts.append(match)
            elif kind is not m.Comment:
                parts.append(match)
        key = tuple(parts)
        number = self._numbers.get(key)
        return self._number(key) if number is None else number, constants

    def target(self, target: t.Target | Inline | None) -> tuple[object, tuple[Constant, ...], tuple[str, ...]] | None:
        """A target's part of a shape: what is the same, constants, chains; None where its chain is like no other."""
        if isinstance(target, t.Jump | Inline):
            inner = self.chain(target.chain)
            if inner is None:
                return None
            kind = "inline" if isinstance(target, Inline) else "goto" if target.goto else "jump"
            return (kind, inner.number), inner.constants, (target.chain, *inner.chains)
        return (type(target) if isinstance(target, NAT) else target), (), ()

    def chain(self, name: str) -> Shape | None:
        """A chain's shape; None for one that is too long."""
        if name not in self._of_chain:
            self._of_chain[name] = None  # a loop is no shape
            self._of_chain[name] = self._chain(self.chains[name])
        return self._of_chain[name]

    def _chain(self, chain: Chain) -> Shape | None:
        if len(chain.rules) > MAX_RULES:
            return None
        parts: list[object] = []
        constants: list[Constant] = []
        chains: list[str] = []
        for rule in chain.rules:
            try:
                number, mine = self.rule(rule)
                target = self.target(rule.target)
                hash(target)
            except TypeError:
                return None
            if target is None:
                return None
            parts.append(number)
            parts.append(target[0])
            constants += mine
            constants += target[1]
            chains += target[2]
            if len(constants) > MAX_RULES or len(chains) > MAX_RULES:
                return None
        return Shape(self._number(tuple(parts)), tuple(constants), tuple(chains))


def is_one_port(match: Any) -> bool:
    """Whether a match on ports asks for one destination port and nothing else."""
    dport = match.dport
    if dport is None or dport.low != dport.high or match.sport is not None:
        return False
    return type(match) is m.Udp or (match.flags is None and match.option is None)


def slotted(match: m.Match, tree: Tree, full: int, first: int) -> tuple[Tree, int]:
    """The tree of a match with its constants as Slots, numbered from `first` as Shapes.rule numbers them: (tree, how many)."""
    kind = type(match)
    if kind is m.Source or kind is m.Destination:
        if match.mask != full:  # type: ignore[union-attr]
            return tree, 0
        start = Field.SRC if kind is m.Source else Field.DST
        words = 1 if full == U32 else 4
        return _with_slots(tree, {start + word: first + word for word in range(words)}), words
    if (kind is m.Udp or kind is m.Tcp) and is_one_port(match):
        return _with_slots(tree, {int(Field.DPORT): first}), 1
    return tree, 0


def _with_slots(tree: Tree, index: Mapping[int, int]) -> Tree:
    if not isinstance(tree, Branch):
        return tree
    kind, field, a, b = tree.atom
    atom = tree.atom
    if kind == MASK and a == U32 and field in index:
        atom = (kind, field, a, Slot.of(b, index[field]))
    return Branch(atom, _with_slots(tree.yes, index), _with_slots(tree.no, index))


def first_of(items: Sequence[Any]) -> tuple[int, ...]:
    """For each item the index of the first one that is equal to it."""
    first: dict[Any, int] = {}
    return tuple([first.setdefault(item, at) for at, item in enumerate(items)])


def guarded(guards: Sequence[Guard], slots: Mapping[Constant, int], constants: NDArray[np.int64]) -> NDArray[np.bool_]:
    """Which places (rows of int64[n, constants]) would find what the guards found; `slots`: the column of a constant."""
    fine = np.ones(len(constants), bool)

    def of(field: int, value: int) -> Any:
        at = slots.get((field, int(value))) if isinstance(value, Slot) else None
        return value if at is None else constants[:, at]  # a rule that is everybody's has constants of its own

    for field, value, (kind, _, a, b), holds in guards:
        x = of(field, value)
        if kind == MASK:
            found = x & a == of(field, b)
        elif kind == SPAN:
            found = (a <= x) & (x <= a + b)
        else:
            assert kind == BITS
            found = (a >> np.minimum(x, 63)) & 1 == 1
        fine &= np.asarray(found == holds)
    return fine
