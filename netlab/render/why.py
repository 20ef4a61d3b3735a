"""The answer of `netlab why` as text for somebody at 3 a.m., and as JSON with its schema.

    who -> whom      yes or no, and the sentence      the smallest changes that flip it: what, where, the lines of YAML, what else

Law: prose is wrapped at 80 columns; names, YAML and commands are never cut or wrapped, so that they can be copied. Nothing is
decided here: a change that is shown was applied and traced by reach/why.py.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from typing import Any

import msgspec

from netlab.reach.candidates import Kind, Touched
from netlab.reach.effects import Effect
from netlab.reach.situation import Answer
from netlab.reach.why import Change, Why
from netlab.refs import Ref
from netlab.render.columns import clean, width
from netlab.render.jsonio import API_VERSION, prose, unicode_only
from netlab.trace.steps import Party

KIND = "Why"
WIDTH = 80
_SHOWN = 3  # changes, unless all are asked for
_STYLES = {Answer.YES: "32", Answer.NO: "1;31", Answer.PARTLY: "33", Answer.UNKNOWN: "33"}  # SGR parameters, ECMA-48
_HEADS = {
    Answer.YES: ("smallest change that would stop it", "smallest changes that would stop it"),
    Answer.NO: ("smallest change that would let it through", "smallest changes that would let it through"),
    Answer.PARTLY: ("smallest change that would let all of it through", "smallest changes that would let all of it through"),
}
_PLURALS = {"policy": "policies", "readiness": "readiness", "replicas": "replicas", "two together": "pairs"}
_INDENT = "     "


def text(why: Why, *, wide: bool = False, color: bool = False) -> str:
    """The answer as text, without a final newline.

    Parameters
    ----------
    why : Why
    wide : bool
        Every change that was found, rules in full, and the assumptions.
    color : bool
        Add ANSI colours.
    """
    lines = [_paint("1", f"{_party(why.source, False)} -> {_party(why.destination)}", color) + f"   {why.protocol}", ""]
    word = why.answer.value
    margin = " " * (len(word) + 4)
    said = " ".join(clean(reason.text) for reason in why.reasons)
    body = wrapped(said, WIDTH - len(margin))
    lines += [f"  {_paint(_STYLES[why.answer], word, color)}  {body[0]}", *(margin + line for line in body[1:])]
    for reason in why.reasons:
        if reason.rule and (wide or reason.kind != "policy"):
            lines.append(f"{margin}  {_paint('36', clean(reason.rule), color)}{_origin(reason.refs)}")
    for note in why.notes:
        lines.append("")
        lines += [margin + line for line in wrapped(f"Note: {clean(note)}", WIDTH - len(margin))]
    if why.answer is not Answer.UNKNOWN:
        lines += ["", *_changes(why, wide, color)]
    if wide:
        for heading, texts in (("assumptions", why.assumptions), ("not modelled", why.not_modelled)):
            if texts:
                lines += ["", _paint("1", heading, color), *(f"  - {clean(t)}" for t in texts)]
    return "\n".join(line.rstrip() for line in lines)


def _paint(code: str, text: str, color: bool) -> str:
    return f"\x1b[{code}m{text}\x1b[0m" if color else text


def _party(party: Party, with_port: bool = True) -> str:
    name = party.name or party.text or party.ip
    kind = "" if party.kind in ("", "address", "external") or name == "internet" else f"{party.kind} "
    if with_port and party.port is not None:
        name = f"[{name}]:{party.port}" if name.count(":") > 1 else f"{name}:{party.port}"
    return clean(f"{kind}{name}")


def _origin(refs: Sequence[Ref]) -> str:
    return f"  ({clean(str(refs[0]))})" if refs else ""


def wrapped(words: str, columns: int) -> list[str]:
    """Prose in lines; a word longer than a line stands alone.

    >>> wrapped("one two three", 8)
    ['one two', 'three']
    """
    lines: list[str] = []
    for word in words.split():
        if lines and width(lines[-1]) + 1 + width(word) <= columns:
            lines[-1] += f" {word}"
        else:
            lines.append(word)
    return lines or [""]


# --- changes -------------------------------------------------------------------------------------------------


def _changes(why: Why, wide: bool, color: bool) -> Iterator[str]:
    if not why.changes:
        yield from wrapped(f"No single change flips it. {_tried(why)}", WIDTH)
        return
    shown = why.changes if wide else why.changes[:_SHOWN]
    one, several = _HEADS[why.answer]
    yield _paint("1", f"{one if len(shown) == 1 else several}, applied and traced again", color)
    for n, change in enumerate(shown, 1):
        yield ""
        yield from _change(n, change, color)
    if len(why.changes) > len(shown):
        yield ""
        yield f"{len(why.changes) - len(shown)} more with -o wide. {_tried(why)}"


def _tried(why: Why) -> str:
    """`Tried: 3 labels, 2 rules.`"""
    parts = [f"{n} {kind if n == 1 else _PLURALS.get(kind, f'{kind}s')}" for kind, n in why.tried.items()]
    return f"Tried: {', '.join(parts)}." if parts else "There was nothing to try."


def _change(n: int, change: Change, color: bool) -> Iterator[str]:
    head = wrapped(clean(change.what), WIDTH - len(_INDENT))
    yield f"  {n}  {_paint('1', head[0], color)}"
    for line in head[1:]:
        yield _INDENT + _paint("1", line, color)
    more = "" if change.kind == Kind.QUESTION.value else others(change.others)
    facts = [fact for fact in (_places(change.objects), _lines(change), more, change.note) if fact]
    facts.append(f"then {clean(change.after)}")
    yield from (_INDENT + line for line in wrapped("; ".join(facts), WIDTH - len(_INDENT)))
    if change.patch:
        yield ""
        for line in change.patch.splitlines():
            code = {"+": "32", "-": "31"}.get(line[:1], "") if _is_difference(change) else ""
            yield f"{_INDENT}  {_paint(code, clean(line), color) if code else clean(line)}"
    if change.command:
        yield ""
        for line in change.command.splitlines():
            yield f"{_INDENT}  $ {clean(line)}"


def _is_difference(change: Change) -> bool:
    return any(touched.action == "change" for touched in change.objects)


def _places(objects: Sequence[Touched]) -> str:
    places = []
    for touched in objects:
        ref = touched.ref
        if touched.action == "create":
            places.append("a new object")
        elif ref.file:
            places.append(clean(f"{ref.file}:{ref.line}" if ref.line is not None else ref.file))
    return ", ".join(dict.fromkeys(places))


def _lines(change: Change) -> str:
    if not change.patch:
        return ""
    return "1 line" if change.lines == 1 else f"{change.lines} lines"


def others(effect: Effect) -> str:
    """`also opens 3 other flows (default/a -> default/b:80, ...)`, `no other flow changes`."""
    parts = []
    least = "at least " if effect.more else ""
    for verb, count in (("opens", effect.opens), ("closes", effect.closes)):
        if count:
            parts.append(f"{verb} {least}{count:,} other flow{'' if count == 1 else 's'}")
    if not parts and not effect.services:
        return "no other flow changes" if not effect.more else "too many flows to count"
    said = ""
    if parts:
        examples = ", ".join(clean(str(flows)) for flows in effect.changed[:_SHOWN])
        said = f"also {' and '.join(parts)} ({examples}{', ...' if len(effect.changed) > _SHOWN else ''})"
    services = ", ".join(clean(name) for name in effect.services)
    return "; ".join(filter(None, (said, f"other services: {services}" if services else "")))


# --- JSON ----------------------------------------------------------------------------------------------------


def to_builtins(why: Why) -> dict[str, Any]:
    """The answer as dicts, lists, strings and numbers, in the order in which they are printed."""
    plain: dict[str, Any] = msgspec.to_builtins(why)
    return {"apiVersion": API_VERSION, "kind": KIND, **plain}


def dumps(why: Why) -> str:
    """The answer as indented JSON text, without a final newline."""
    return msgspec.json.format(msgspec.json.encode(unicode_only(to_builtins(why))), indent=2).decode()


def schema() -> str:
    """The JSON Schema (draft 2020-12) of what `dumps` writes."""
    drawn = msgspec.json.schema(Why)
    definitions = drawn["$defs"]
    for definition in definitions.values():
        if "description" in definition:
            definition["description"] = prose(definition["description"])
    root = definitions.pop("Why")
    head = {"apiVersion": {"const": API_VERSION}, "kind": {"const": KIND}}
    complete = {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "$id": f"{API_VERSION}/{KIND}",
        **root,
        "properties": head | root["properties"],
        "required": [*head, *root["required"], "assumptions", "notModelled"],
        "$defs": definitions,
    }
    return json.dumps(complete, indent=2, ensure_ascii=False)
