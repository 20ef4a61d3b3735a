"""What must hold between the parts of nft's tables: jumps lead to chains, rules name sets, elements fit their set.

Law: whatever the kernel would refuse to load is one InputError that says where it was read.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

from netlab.errors import InputError, did_you_mean
from netlab.linux import nft as n
from netlab.linux.addr import ip
from netlab.linux.nft import Expression, NftSet, NftTable, Statement
from netlab.refs import Ref

_CHECKED: Final = ("ipv4_addr", "ipv6_addr", "inet_service")


def check_tables(tables: Iterable[NftTable], file: str = "-", set_lines: dict[tuple[str, str, str], int] | None = None) -> None:
    """Raise an InputError where a table refers to what it does not have.

    Parameters
    ----------
    tables : iterable of NftTable
    file : str
        The name for messages about sets; rules say themselves where they were read.
    set_lines : dict, optional
        The line of each set, by (family, table, name).
    """
    lines = set_lines or {}
    for table in tables:
        for made in table.sets.values():
            line = lines.get((table.family, table.name, made.name))
            path = None if line is not None else f"{table.family} {table.name} set {made.name}"
            _check_set(made, table, Ref(file, line, path=path))
        for chain in table.chains.values():
            for rule in chain.rules:
                for statement in rule.statements:
                    if type(statement) is n.Compare and {type(statement.left), type(statement.right)} <= n.PLAIN_EXPRESSIONS:
                        continue
                    _check_statement(statement, table, rule.ref or Ref(file, path=f"{table.family} {table.name} {chain.name}"))


def _check_set(made: NftSet, table: NftTable, ref: Ref) -> None:
    checked = [(index, kind) for index, kind in enumerate(made.type) if kind in _CHECKED]
    who, any_key = f"map {made.name}", n.Value("*")
    for element in made.elements:
        if isinstance(element.data, n.Verdict):
            _check_verdict(element.data, table, ref, who)
        if (element.data is None) is bool(made.data):
            raise InputError(f"an element of {made.name} has {'no ' if made.data else ''}data", ref, "was the text cut off?")
        parts = element.key.parts if isinstance(element.key, n.Concat) else (element.key,)
        if "" not in made.type and element.key != any_key:
            if len(parts) != len(made.type):
                what = f"an element of {made.name} has {len(parts)} parts, its type {' . '.join(made.type)} has {len(made.type)}"
                raise InputError(what, ref, "was the text cut off?")
            for index, kind in checked:
                _check_value(parts[index], kind, made, ref)


def _check_value(value: Expression, kind: str, made: NftSet, ref: Ref) -> None:
    family = {"ipv4_addr": 4, "ipv6_addr": 6}.get(kind)
    match value:
        case n.RangeValue(low=low, high=high):
            _check_value(low, kind, made, ref)
            _check_value(high, kind, made, ref)
        case n.PrefixValue(address=address, length=length) if family is not None:
            _check_address(address, family, made, ref)
            if not 0 <= length <= (32 if family == 4 else 128):
                raise InputError(f"{address}/{length} in set {made.name} has no valid prefix length", ref)
        case n.Value(value=content) if family is not None:
            _check_address(content, family, made, ref)
        case n.Value(value=int(content)) if kind == "inet_service" and not 0 <= content <= 65535:
            raise InputError(f"{content} in set {made.name} is not a port", ref)


def _check_address(content: int | str, family: int, made: NftSet, ref: Ref) -> None:
    try:
        fits = isinstance(content, str) and ip(content).family == family
    except ValueError:
        fits = False
    if not fits:
        raise InputError(f"{content!r} in set {made.name} is not an IPv{family} address", ref, "was the text cut off?")


def _check_verdict(verdict: n.Verdict, table: NftTable, ref: Ref, who: str) -> None:
    if verdict.chain and verdict.chain not in table.chains:
        what = f"{who} leads to chain {verdict.chain}, which table {table.family} {table.name} does not have"
        raise InputError(what, ref, did_you_mean(verdict.chain, table.chains) or "is the dump complete?")


def _check_statement(statement: Statement, table: NftTable, ref: Ref) -> None:
    if isinstance(statement, n.Verdict):
        _check_verdict(statement, table, ref, "a rule")
        return
    if isinstance(statement, n.SetChange):
        _check_name(statement.set, table, ref)
    for expression in n.expressions_of(statement):
        if isinstance(expression, n.SetName):
            _check_name(expression.name, table, ref)
        elif isinstance(expression, n.SetLiteral):
            for element in expression.elements:
                if isinstance(element.data, n.Verdict):
                    _check_verdict(element.data, table, ref, "a rule")


def _check_name(name: str, table: NftTable, ref: Ref) -> None:
    if name not in table.sets:
        what = f"a rule names set {name}, which table {table.family} {table.name} does not have"
        raise InputError(what, ref, did_you_mean(name, table.sets) or "is the dump complete?")
