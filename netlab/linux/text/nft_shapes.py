"""Pieces of nft's text that differ in their addresses, ports, chains and comments alone are read once.

    text --holes cut out--> shape --known?--> what the reader made of the first one, with this one's holes filled in

kube-proxy and Calico write the same few rules ten thousand times. Law: what `Shapes.read` gives is what the reader gives; a
shape is trusted only after the reader's answer for a text was met by filling in that of another, and whatever is not of a
trusted shape (None) is read word by word. No shape outlives the table in which it was read.
"""

from __future__ import annotations

import gc
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, Final, Generic, TypeVar, cast

import msgspec

from netlab.errors import InputError
from netlab.linux.addr import ip

T = TypeVar("T")
Maker = Callable[[list[Any]], Any]

_BYTE: Final = r"(?:25[0-5]|2[0-4]\d|1\d\d|[1-9]?\d)"
_IPV4: Final = rf"{_BYTE}(?:\.{_BYTE}){{3}}"
_IPV6: Final = r"(?:[0-9a-f]{0,4}:){2,7}[0-9a-f]{0,4}"  # and a MAC address, and what is neither
_NUMBER: Final = r"(?:0|[1-9]\d{0,17})"
# What may differ, behind what it is known by: each alternative begins with a character of its own, which makes them fast.
TEXT_HOLES: Final = re.compile(
    rf"""
    (?P<quoted>"[^"\n]*")
  | (?:jump|goto)[ ](?P<name>[A-Za-z_](?:[\w/.\\]|-(?=\w))*)(?![\w/.\\*-])
  | [ ]\[?(?P<address>{_IPV4})(?![\w.])
  | [ ]\[?(?P<address6>{_IPV6})(?![\w.:])
  | [ :](?P<number>{_NUMBER})(?![\w.:/-])
    """,
    re.VERBOSE,
)
JSON_HOLES: Final = re.compile(
    rf"""
    "(?:target|chain|comment)":[ ]"(?P<name>[^"\\]*)(?=")
  | "@(?P<set>[^"\\]+)(?=")
  | "(?P<address>{_IPV4})(?=")
  | "(?P<address6>{_IPV6})(?=")
  | [ \[](?P<number>{_NUMBER})(?=[,\]\}}])
    """,
    re.VERBOSE,
)
_MARKS: Final = {"quoted": "\1", "name": "\2", "set": "\2", "address": "\3", "address6": "\4", "number": "\5"}
_FIRST_STAND_IN: Final = 1 << 48  # no mark of a packet, and no number of a rule, is so large
_MAX_HOLES: Final = 1 << 16
_MAX_SAME: Final = 4096  # what is said again and again is said early


class NotRead(Exception):
    """A text that a reader does not take."""


@contextmanager
def collector_off() -> Iterator[None]:
    """Nothing that a reader makes can be part of a cycle, and the collector would walk all of it again and again."""
    collecting = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if collecting:
            gc.enable()


class Shapes(Generic[T]):
    """What a reader makes of texts, by their shape.

    Parameters
    ----------
    holes : re.Pattern
        TEXT_HOLES or JSON_HOLES.
    reader : callable
        Reads one whole text; an InputError or NotRead where it is none that the reader takes.
    """

    def __init__(self, holes: re.Pattern[str], reader: Callable[[str], T]) -> None:
        self.holes, self.reader = holes, reader
        self.known: dict[str, Maker | None] = {}
        self.same: dict[str, T] = {}
        self.addresses: set[str] = set()

    def read(self, text: str) -> T | None:
        """What the reader makes of a text, or None where it must be asked.

        >>> shapes = Shapes(TEXT_HOLES, lambda text: tuple(text.split()))
        >>> [shapes.read(f"jump c{n}") for n in range(3)]
        [None, ('jump', 'c1'), ('jump', 'c2')]
        """
        same = self.same.get(text)
        if same is not None:
            return same
        values: list[Any] = []

        def cut(found: re.Match[str]) -> str:
            kind = cast("str", found.lastgroup)
            hole = found[kind]
            if kind == "address6" and hole not in self.addresses:
                ip(hole)
                self.addresses.add(hole)
            values.append(int(hole) if kind == "number" else hole[1:-1] if kind == "quoted" else hole)
            return found[0].removesuffix(hole) + _MARKS[kind]

        try:
            shape = self.holes.sub(cut, text)
        except ValueError:  # no address
            return None
        if shape not in self.known:
            self.known[shape] = None
            return None
        make = self.known[shape]
        if make is None:
            make = self.known[shape] = self._learn(text, values) or _unreadable
        made: T | None = make(values)
        if made is not None and len(self.same) < _MAX_SAME:
            self.same[text] = made
        return made

    def _learn(self, text: str, values: list[Any]) -> Maker | None:
        """How to make what the reader makes, seen from a text in which something of its own stands in each hole."""
        stand_ins: dict[Any, int] = {}

        def stand_in(found: re.Match[str]) -> str:
            kind = cast("str", found.lastgroup)
            index = len(stand_ins)
            value: Any = f"stand_in_{index}"
            match kind:
                case "number":
                    value = _FIRST_STAND_IN + index
                case "address":
                    value = f"198.18.{index >> 8}.{index & 0xFF}"
                case "address6":
                    value = f"2001:db8::{index:x}"
            stand_ins[value] = index
            return found[0].removesuffix(found[kind]) + (f'"{value}"' if kind == "quoted" else str(value))

        if len(values) > _MAX_HOLES or "stand_in_" in text:
            return None
        filled = self.holes.sub(stand_in, text)
        try:
            read = self.reader(text)
            made = _Written(stand_ins).maker(self.reader(filled))
        except (InputError, NotRead):
            return None
        return made if made(values) == read else None


def _unreadable(values: list[Any]) -> None:
    """Of a shape that must be read word by word."""


class _Written:
    """The Python expression that makes a value again, with `v[0]`, `v[1]` ... where a stand-in is."""

    def __init__(self, stand_ins: dict[Any, int]) -> None:
        self.stand_ins = stand_ins
        self.names: dict[str, Any] = {}

    def maker(self, value: Any) -> Maker:
        expression = self.expression(value)
        return cast("Maker", eval(f"lambda v: {expression}", self.names))

    def expression(self, value: Any) -> str:
        if type(value) in (str, int) and value in self.stand_ins:
            return f"v[{self.stand_ins[value]}]"
        if isinstance(value, tuple):
            parts = [self.expression(part) for part in value]
            if any("v[" in part for part in parts):
                whole = f"({', '.join(parts)},)"
                return whole if type(value) is tuple else f"{self.name(type(value))}(*{whole})"
        if isinstance(value, msgspec.Struct):
            parts = [self.expression(getattr(value, field)) for field in value.__struct_fields__]
            if any("v[" in part for part in parts):
                return f"{self.name(type(value))}({', '.join(parts)})"
        return self.name(value)

    def name(self, value: Any) -> str:
        name = f"c{len(self.names)}"
        self.names[name] = value
        return name


__all__ = ["JSON_HOLES", "TEXT_HOLES", "NotRead", "Shapes", "collector_off"]
