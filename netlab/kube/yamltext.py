"""YAML as kubectl reads it: documents of plain dicts, lists and scalars, with the line where each begins.

Law: scalars resolve as in sigs.k8s.io/yaml (goyaml.v2/resolve.go, what kubectl uses): YAML 1.1 booleans (`yes`, `on`, `y`
...), no base-60 numbers, no timestamps, so that a MAC or a time stays text; map keys are strings and unique. Input is hostile
until read: nesting and the expansion of aliases are bounded, and nothing is constructed but plain values.
Built on libyaml's events, because that is both faster than PyYAML's constructors and iterative. What the values
mean is not known here.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any

import msgspec
import yaml
from yaml.events import (
    AliasEvent,
    DocumentEndEvent,
    DocumentStartEvent,
    MappingEndEvent,
    MappingStartEvent,
    ScalarEvent,
    SequenceEndEvent,
    SequenceStartEvent,
)

from netlab.errors import InputError
from netlab.refs import Ref

MAX_DEPTH = 200
MAX_ALIASED_NODES = 250_000
MAX_NODES = 5_000_000  # in one document: a dump of 20,000 pods
MAX_TOP_KEYS = 1_000

Loader: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)  # libyaml where PyYAML was built with it

_WORDS: dict[str, bool | None] = dict.fromkeys(("", "~", "null", "Null", "NULL"))
_WORDS |= dict.fromkeys(["y", "Y", "yes", "Yes", "YES", "true", "True", "TRUE", "on", "On", "ON"], True)
_WORDS |= dict.fromkeys(["n", "N", "no", "No", "NO", "false", "False", "FALSE", "off", "Off", "OFF"], False)
_MAYBE = frozenset("+-.0123456789yYnNtTfFoO~")
_INT = re.compile(r"[-+]?(0[xX][0-9a-fA-F]+|0[oO]?[0-7]+|0[bB][01]+|0|[1-9][0-9]*)$")
_FLOAT = re.compile(r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?$")
_SPECIAL = {".nan": "nan", ".inf": "inf", "+.inf": "inf", "-.inf": "-inf"}
_TAG = "tag:yaml.org,2002:"
_TOO_DEEP = f"nested deeper than {MAX_DEPTH} levels"
_NO_OBJECT = "this is not a Kubernetes object"
_HELM = "is this a Helm template? render it first: helm template ..."


class YamlDocument(msgspec.Struct, frozen=True):
    """One document: its number in the stream and its first line (both from 1), its value, the lines of `items`.

    `lines`: where each mapping that is an item of a list begins, by the mapping's identity; kept from the first `kind` that
    is a policy on, because every rule of a policy is quoted with its line.
    """

    number: int
    line: int
    value: Any
    item_lines: tuple[int, ...] = ()
    lines: Mapping[int, int] = {}


def plain(text: str) -> Any:
    """The value of a plain (unquoted) scalar.

    >>> plain("on"), plain("0x10"), plain("52:54:00:12:34:56"), plain("2001-01-01")
    (True, 16, '52:54:00:12:34:56', '2001-01-01')
    """
    if text and text[0] not in _MAYBE:
        return None if text in _WORDS else text
    if text in _WORDS:
        return _WORDS[text]
    number = text.replace("_", "")
    if _INT.match(number):
        digits = number.lstrip("+-")
        # Go's ParseInt with base 0: a leading zero alone means octal
        base = 8 if len(digits) > 1 and digits[0] == "0" and digits[1].isdigit() else 0
        value = int(digits, base)
        return -value if number[0] == "-" else value
    if _FLOAT.match(number):
        real = float(number)
        return int(real) if real.is_integer() and abs(real) < 2**53 else real
    special = _SPECIAL.get(text.lower())
    return float(special) if special else text


def _scalar(event: Any) -> Any:
    """A scalar event's value, explicit tags included; an unknown tag leaves text (as goyaml does)."""
    if event.style is not None and event.style != "" and event.tag is None:
        return event.value
    if event.tag is None or event.tag == "!":
        return plain(event.value) if event.implicit[0] else event.value
    kind = event.tag.removeprefix(_TAG)
    if kind in ("bool", "int", "float", "null"):
        return plain(event.value)
    return event.value


def _key(value: Any) -> str:
    """A map key as sigs.k8s.io/yaml writes it to JSON."""
    if isinstance(value, str):
        return value
    if value is None:
        return "null"
    if isinstance(value, bool):
        return "true" if value else "false"
    return str(value)


_NO_KEY = object()
_MERGE = "<<"


class _Open:
    """A collection that is being read."""

    __slots__ = ("anchor", "box", "key", "merges", "size")

    def __init__(self, box: Any, anchor: str | None) -> None:
        self.box = box
        self.anchor = anchor
        self.key: Any = _NO_KEY
        self.merges: list[Any] | None = None
        self.size = 1


def read(text: bytes, file: str) -> Iterator[YamlDocument]:
    """Yield the documents of a YAML stream that are not empty.

    Parameters
    ----------
    text : bytes
        UTF-8.
    file : str
        Its name, for errors.

    Raises
    ------
    InputError
        Not YAML; a key twice in one mapping; nested deeper than `MAX_DEPTH`; larger than `MAX_NODES`; aliases that
        expand to more than `MAX_ALIASED_NODES` nodes.
    """
    number = 0
    loader = Loader(text)
    try:
        while loader.check_event():
            event = loader.get_event()
            if type(event) is not DocumentStartEvent:
                continue
            number += 1
            document = _document(loader, number, file)
            if document.value is not None:
                yield document
    except yaml.YAMLError as error:
        raise _syntax(error, text, number, file) from None
    finally:
        loader.dispose()


def _document(loader: Any, number: int, file: str) -> YamlDocument:
    """Read the events of one document."""
    get = loader.get_event
    stack: list[_Open] = []
    top: _Open | None = None
    anchors: dict[str, tuple[Any, int]] = {}
    memo: dict[str, Any] = {}
    aliased = 0
    first_line = 0
    root: Any = None
    item_lines: list[int] = []
    lines: dict[int, int] | None = None

    def fail(what: str, event: Any, hint: str | None = None) -> InputError:
        return InputError(what, Ref(file=file, line=event.start_mark.line + 1, document=number), hint)

    count = 0
    while True:
        event = get()
        kind = type(event)
        size = 1
        count += 1
        if count > MAX_NODES:
            raise fail(f"more than {MAX_NODES:,} nodes in one document", event, "write it as JSON: kubectl get ... -o json")
        anchor: str | None = None
        if kind is ScalarEvent:
            anchor = event.anchor
            text = event.value
            # style is None (libyaml) or "" for plain scalars; repeated words are resolved once
            if not event.style and event.tag is None:
                value = memo.get(text, memo)
                if value is memo:
                    value = memo[text] = plain(text)
            else:
                value = _scalar(event)
        elif kind is MappingStartEvent or kind is SequenceStartEvent:
            if len(stack) >= MAX_DEPTH:
                raise fail(_TOO_DEEP, event, _NO_OBJECT)
            if len(stack) == 2 and kind is MappingStartEvent and stack[0].key == "items" and type(stack[1].box) is list:
                item_lines.append(event.start_mark.line + 1)
            elif not stack:
                first_line = event.start_mark.line + 1
            parent = top
            top = _Open({} if kind is MappingStartEvent else [], event.anchor)
            stack.append(top)
            if lines is not None and kind is MappingStartEvent and parent is not None and type(parent.box) is list:
                lines[id(top.box)] = event.start_mark.line + 1
            continue
        elif kind is MappingEndEvent or kind is SequenceEndEvent:
            done = stack.pop()
            top = stack[-1] if stack else None
            value, size, anchor = done.box, done.size, done.anchor
            if done.merges is not None:
                value = _merged(done, event, fail)
        elif kind is AliasEvent:
            if event.anchor not in anchors:
                raise fail(f'the alias "*{event.anchor}" refers to nothing that stands before it', event)
            value, size = anchors[event.anchor]
            aliased += size
            if aliased > MAX_ALIASED_NODES:
                raise fail(
                    f"its aliases expand to more than {MAX_ALIASED_NODES:,} nodes",
                    event,
                    "write the values out, without * aliases",
                )
        elif kind is DocumentEndEvent:
            return YamlDocument(number, first_line or event.start_mark.line + 1, root, tuple(item_lines), lines or {})
        else:
            continue
        if anchor is not None:
            anchors[anchor] = (value, size)
        if top is None:
            root = value
            if not first_line:
                first_line = event.start_mark.line + 1
            continue
        top.size += size
        box = top.box
        if type(box) is list:
            box.append(value)
        elif top.key is _NO_KEY:
            if isinstance(value, (dict, list)):
                # what `{{ .Values.name }}` looks like to YAML
                raise fail("a map key must be a scalar", event, _HELM)
            top.key = value if type(value) is str else _key(value)
        elif top.key == _MERGE:
            top.merges = (top.merges or []) + (value if isinstance(value, list) else [value])
            top.key = _NO_KEY
        else:
            if top.key in box:
                # libyaml lets the last one win, and without --- between them one document's keys replace another's
                hint = "is a line with --- missing before it?" if top.key in ("apiVersion", "kind") else None
                raise fail(f'the key "{top.key}" twice in one mapping', event, hint)
            box[top.key] = value
            if lines is None and top.key == "kind" and type(value) is str and value.endswith(("Policy", "PolicyList")):
                lines = {}
            top.key = _NO_KEY
            if len(box) > MAX_TOP_KEYS and len(stack) == 1:
                raise fail(f"more than {MAX_TOP_KEYS:,} keys at the top of a document", event, "this is not a Kubernetes object")


def _merged(done: _Open, event: Any, fail: Any) -> dict[str, Any]:
    """The YAML merge key: own keys win, then earlier maps (yaml.org/type/merge.html). Changes the box in place."""
    own = dict(done.box)
    done.box.clear()
    for part in reversed(done.merges or []):
        if not isinstance(part, dict):
            raise fail("the merge key << takes a map or a list of maps", event)
        done.box.update(part)
    done.box.update(own)
    result: dict[str, Any] = done.box
    return result


def _syntax(error: Any, text: bytes, number: int, file: str) -> InputError:
    """What libyaml said, with its line."""
    mark = getattr(error, "problem_mark", None)
    problem = getattr(error, "problem", None) or getattr(error, "reason", None) or str(error)
    context = getattr(error, "context", None)
    line = mark.line + 1 if mark is not None else None
    if "maximum nesting depth" in problem:  # libyaml looks far ahead in flow style, and newer ones give up before netlab does
        return InputError(_TOO_DEEP, Ref(file=file, line=line, document=number or None), _NO_OBJECT)
    hint = None
    if b"{{" in text[:65536]:
        hint = _HELM
    elif mark is not None and text.splitlines()[mark.line : mark.line + 1] and b"\t" in text.splitlines()[mark.line]:
        hint = "indent with spaces, not tabs"
    what = f"not YAML: {context}, {problem}" if context else f"not YAML: {problem}"
    return InputError(what, Ref(file=file, line=line, document=number or None), hint)


def line_of(text: bytes, number: int, path: tuple[str | int, ...]) -> int | None:
    """The line where `path` stands in document `number`: a second reading, made only to explain an error."""
    try:
        node = next((found for n, found in enumerate(yaml.compose_all(text, Loader=Loader), 1) if n == number), None)
    except (yaml.YAMLError, RecursionError):
        return None
    line: int | None = None
    for step in path:
        if isinstance(node, yaml.MappingNode) and isinstance(step, str):
            found = [(k, v) for k, v in node.value if k.value == step]
            if not found:
                break
            line, node = found[-1][0].start_mark.line + 1, found[-1][1]
        elif isinstance(node, yaml.SequenceNode) and isinstance(step, int) and step < len(node.value):
            node = node.value[step]
            line = node.start_mark.line + 1
        else:
            break
    return line
