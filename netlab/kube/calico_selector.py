"""Calico's selector language: `app == 'web' && env not in {'dev', 'test'} || !has(x)`; parse, print, evaluate.

    selector  := term { "||" term }          term := factor { "&&" factor }          factor := { "!" } atom
    atom      := "(" selector ")" | "all()" | "global()" | "has(" LABEL ")" | LABEL operator
    operator  := "==" S | "!=" S | "contains" S | "starts with" S | "ends with" S | "in" "{" [ S { "," S } ] "}" | "not in" ...

Law: the grammar is libcalico-go's lib/selector/parser (a comma may end a set; strings take either quote and know no escape);
what it refuses is refused here. `!=` and `not in` hold for an object without the label. `global()` is what has no namespace.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import TypeAlias, assert_never

import msgspec

NAMESPACE_LABEL = "projectcalico.org/namespace"  # on every endpoint and set that has a namespace


class SelectorError(ValueError):
    """The text is no selector; `args[0]` says why, in Calico's words where it has some."""


class All(msgspec.Struct, frozen=True, gc=False):
    """`all()`, and the empty selector."""


class Global(msgspec.Struct, frozen=True, gc=False):
    """`global()`: not in any namespace."""


class Has(msgspec.Struct, frozen=True, gc=False):
    """`has(label)`."""

    label: str


class Compare(msgspec.Struct, frozen=True, gc=False):
    """`label OPERATOR 'value'`: `==`, `!=`, `contains`, `starts with`, `ends with`."""

    label: str
    operator: str
    value: str


class In(msgspec.Struct, frozen=True, gc=False):
    """`label in {...}`, or `not in` where negated."""

    label: str
    values: tuple[str, ...]
    negated: bool = False


class Not(msgspec.Struct, frozen=True):
    """`!operand`."""

    operand: Node


class And(msgspec.Struct, frozen=True):
    """All operands."""

    operands: tuple[Node, ...]


class Or(msgspec.Struct, frozen=True):
    """Any operand."""

    operands: tuple[Node, ...]


Node: TypeAlias = All | Global | Has | Compare | In | Not | And | Or


class Selector(msgspec.Struct, frozen=True):
    """A selector: its text as written, and its tree."""

    text: str
    root: Node

    def __str__(self) -> str:
        return self.text

    def matches(self, labels: Mapping[str, str]) -> bool:
        """Whether an object with these labels (inherited ones included) is selected."""
        return holds(self.root, labels)


_TOKEN = re.compile(
    r"[ \t]*(?:(?P<string>\"[^\"]*\"|'[^']*')|(?P<sign>==|!=|&&|\|\||[(){},!])"
    r"|(?P<call>(?:all|global)\([ \t]*\)|has\([ \t]*[A-Za-z0-9_./-]{1,512}[ \t]*\))|(?P<label>[A-Za-z0-9_./-]{1,512}))"
)
_OPERATOR = re.compile(r"[ \t]*(contains|starts[ \t]*with|ends[ \t]*with|not[ \t]*in|in|==|!=)")
_NEAR = {"and": "&&", "or": "||", "not": "!"}
MAX_DEPTH = 100


def parse(text: str) -> Selector:
    """Parse a selector; raises SelectorError.

    >>> parse("app == 'web' && has(zone)").matches({"app": "web", "zone": "a"})
    True
    >>> parse("tier not in {'db'}").matches({})
    True
    """
    tokens = _Tokens(text)
    if tokens.ended():
        return Selector(text, All())
    root = _or(tokens, 0)
    if not tokens.ended():
        raise SelectorError(f"unexpected content at end of selector: {tokens.rest()!r}")
    return Selector(text, root)


class _Tokens:
    """The text that is left."""

    __slots__ = ("at", "text")

    def __init__(self, text: str) -> None:
        self.text = text
        self.at = 0

    def ended(self) -> bool:
        return not self.text[self.at :].strip(" \t")

    def rest(self) -> str:
        return self.text[self.at :].strip()

    def sign(self, *wanted: str) -> str:
        """Take one of these signs if it comes next; "" if not."""
        found = _TOKEN.match(self.text, self.at)
        if found and found["sign"] in wanted:
            self.at = found.end()
            return found["sign"]
        return ""

    def string(self) -> str:
        found = _TOKEN.match(self.text, self.at)
        if not found or found["string"] is None:
            raise SelectorError(self._unterminated() or f"expected string, found {self.rest() or 'the end'!r}")
        self.at = found.end()
        return found["string"][1:-1]

    def _unterminated(self) -> str:
        return "unterminated string" if self.rest()[:1] in ("'", '"') and self.rest() else ""

    def atom(self) -> re.Match[str]:
        found = _TOKEN.match(self.text, self.at)
        if not found or not (found["call"] or found["label"]):
            if self.ended():
                raise SelectorError("unexpected end of string looking for op")
            raise SelectorError(self._unterminated() or f"unexpected token: {self.rest()!r}")
        self.at = found.end()
        return found

    def operator(self, label: str) -> str:
        found = _OPERATOR.match(self.text, self.at)
        if not found:
            raise SelectorError(f"unexpected characters after label '{label}', was expecting an operator")
        self.at = found.end()
        return re.sub(r"^(starts|ends|not)[ \t]*", r"\1 ", found[1])


def _or(tokens: _Tokens, depth: int) -> Node:
    operands = [_and(tokens, depth)]
    while tokens.sign("||"):
        operands.append(_and(tokens, depth))
    return operands[0] if len(operands) == 1 else Or(tuple(operands))


def _and(tokens: _Tokens, depth: int) -> Node:
    operands = [_factor(tokens, depth)]
    while tokens.sign("&&"):
        operands.append(_factor(tokens, depth))
    return operands[0] if len(operands) == 1 else And(tuple(operands))


def _factor(tokens: _Tokens, depth: int) -> Node:
    if depth > MAX_DEPTH:
        raise SelectorError(f"nested deeper than {MAX_DEPTH}")
    negated = False
    while tokens.sign("!"):
        negated = not negated
    if tokens.sign("("):
        node = _or(tokens, depth + 1)
        if not tokens.sign(")"):
            raise SelectorError(f"expected ), found {tokens.rest() or 'the end'!r}")
    else:
        node = _atom(tokens)
    return Not(node) if negated else node


def _atom(tokens: _Tokens) -> Node:
    found = tokens.atom()
    call = found["call"]
    if call:
        name, _, inside = call.partition("(")
        if name == "has":
            return Has(inside.rstrip(")").strip(" \t"))
        return All() if name == "all" else Global()
    label = found["label"]
    operator = tokens.operator(label)
    if operator not in ("in", "not in"):
        return Compare(label, operator, tokens.string())
    if not tokens.sign("{"):
        raise SelectorError(f"expected set literal, found {tokens.rest() or 'the end'!r}")
    values: list[str] = []
    while not tokens.sign("}"):
        values.append(tokens.string())
        if not tokens.sign(","):
            if not tokens.sign("}"):
                raise SelectorError(f"expected }}, found {tokens.rest() or 'the end'!r}")
            break
    return In(label, tuple(sorted(set(values))), operator == "not in")


def holds(node: Node, labels: Mapping[str, str]) -> bool:
    """Whether a tree selects these labels (libcalico-go lib/selector/parser/ast.go)."""
    match node:
        case All():
            return True
        case Global():
            return NAMESPACE_LABEL not in labels
        case Has():
            return node.label in labels
        case Compare():
            value = labels.get(node.label)
            if node.operator == "!=":
                return value != node.value
            if value is None:
                return False
            match node.operator:
                case "==":
                    return value == node.value
                case "contains":
                    return node.value in value
                case "starts with":
                    return value.startswith(node.value)
                case _:
                    return value.endswith(node.value)
        case In():
            value = labels.get(node.label)
            return (value in node.values) is not node.negated
        case Not():
            return not holds(node.operand, labels)
        case And():
            return all(holds(operand, labels) for operand in node.operands)
        case Or():
            return any(holds(operand, labels) for operand in node.operands)
        case _ as never:
            assert_never(never)


def show(node: Node) -> str:
    """A tree as Calico's own canonical text: `parse(show(tree)).root == tree`.

    >>> show(parse("a=='b'||!has( c )").root)
    '(a == "b" || !has(c))'
    """
    match node:
        case All():
            return "all()"
        case Global():
            return "global()"
        case Has():
            return f"has({node.label})"
        case Compare():
            return f"{node.label} {node.operator} {_quoted(node.value)}"
        case In():
            return f"{node.label} {'not in' if node.negated else 'in'} {{{', '.join(map(_quoted, node.values))}}}"
        case Not():
            return f"!{show(node.operand)}"
        case And():
            return f"({' && '.join(map(show, node.operands))})"
        case Or():
            return f"({' || '.join(map(show, node.operands))})"
        case _ as never:
            assert_never(never)


def _quoted(value: str) -> str:
    return f"'{value}'" if '"' in value else f'"{value}"'
