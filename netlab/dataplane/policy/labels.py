"""Which of many objects a selector selects: sets by label instead of one evaluation per object.

Law: equal to kube/selectors.matches and kube/calico_selector.holds, object by object (tests/test_policy_semantics.py holds them
equal); a selector that was asked before is answered from the table. Objects are numbers here.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from functools import reduce
from typing import TypeAlias, assert_never

from netlab.errors import BugError
from netlab.kube.calico_selector import NAMESPACE_LABEL, All, And, Compare, Global, Has, In, Node, Not, Or
from netlab.kube.objects import LabelSelector

Ids: TypeAlias = frozenset[int]
NOBODY: Ids = frozenset()


class LabelIndex:
    """Objects 0, 1, 2 ... with their labels."""

    def __init__(self, objects: Iterable[Mapping[str, str]]) -> None:
        by_label: dict[tuple[str, str], set[int]] = {}
        values: dict[str, set[str]] = {}
        count = 0
        for number, labels in enumerate(objects):
            count += 1
            for pair in labels.items():
                by_label.setdefault(pair, set()).add(number)
                values.setdefault(pair[0], set()).add(pair[1])
        self.everybody: Ids = frozenset(range(count))
        self._by_label = {pair: frozenset(found) for pair, found in by_label.items()}
        self._values = values
        self._with_key: dict[str, Ids] = {}
        self._asked: dict[object, Ids] = {}

    def has(self, key: str) -> Ids:
        """Objects that carry the label, whatever its value."""
        if key not in self._with_key:
            self._with_key[key] = self._any(key, self._values.get(key, ()))
        return self._with_key[key]

    def _any(self, key: str, values: Iterable[str]) -> Ids:
        return NOBODY.union(*(self._by_label.get((key, value), NOBODY) for value in values))

    def select(self, selector: LabelSelector) -> Ids:
        """The objects that a metav1.LabelSelector selects (kube/selectors.py)."""
        asked = (tuple(sorted(selector.match_labels.items())), selector.match_expressions)
        found = self._asked.get(asked)
        if found is None:
            parts = [self._by_label.get(pair, NOBODY) for pair in selector.match_labels.items()]
            parts += [self._requirement(*requirement) for requirement in selector.match_expressions]
            found = self._asked[asked] = reduce(frozenset.intersection, parts, self.everybody)
        return found

    def _requirement(self, key: str, operator: str, values: tuple[str, ...]) -> Ids:
        match operator:
            case "In":
                return self._any(key, values)
            case "NotIn":
                return self.everybody - self._any(key, values)
            case "Exists":
                return self.has(key)
            case "DoesNotExist":
                return self.everybody - self.has(key)
            case _:
                raise BugError(f"selector operator {operator!r} was not refused when it was read")

    def calico(self, node: Node) -> Ids:
        """The objects that a Calico selector selects (kube/calico_selector.py)."""
        found = self._asked.get(node)
        if found is None:
            found = self._asked[node] = self._calico(node)
        return found

    def _calico(self, node: Node) -> Ids:
        match node:
            case All():
                return self.everybody
            case Global():
                return self.everybody - self.has(NAMESPACE_LABEL)
            case Has():
                return self.has(node.label)
            case Compare():
                return self._compare(node)
            case In():
                found = self._any(node.label, node.values)
                return self.everybody - found if node.negated else found
            case Not():
                return self.everybody - self.calico(node.operand)
            case And():
                return reduce(frozenset.intersection, map(self.calico, node.operands))
            case Or():
                return reduce(frozenset.union, map(self.calico, node.operands))
            case _ as never:
                assert_never(never)

    def _compare(self, node: Compare) -> Ids:
        values, value = self._values.get(node.label, set()), node.value
        match node.operator:
            case "==":
                return self._any(node.label, (value,))
            case "!=":
                return self.everybody - self._any(node.label, (value,))
            case "contains":
                return self._any(node.label, (v for v in values if value in v))
            case "starts with":
                return self._any(node.label, (v for v in values if v.startswith(value)))
            case _:
                return self._any(node.label, (v for v in values if v.endswith(value)))
