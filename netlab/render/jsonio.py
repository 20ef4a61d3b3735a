"""A trace as JSON, and back: the stable form that `-o json` prints and `netlab schema trace` documents.

Law: `loads(dumps(trace)) == trace`, and every dump satisfies `schema()`. The form is drawn from the types in
trace/steps.py; this file adds only `apiVersion`, `kind` and, beside each probability (a JSON number), the exact fraction as
`probabilityExact`. Fields at their default may be absent from steps; `endpoint`, `sourceSeen` and `reason` are always there.
"""

from __future__ import annotations

import inspect
import json
import re
from fractions import Fraction
from typing import Any

import msgspec

from netlab.errors import InputError
from netlab.refs import Ref
from netlab.trace.steps import Trace

API_VERSION = "netlab/v1"
KIND = "Trace"

_LONG = 10_000  # bits; Python refuses to print integers beyond 4,300 decimal digits (CVE-2020-10735), hexadecimal has no limit
_EXACT = re.compile(r"(\d{1,4000}|0x[0-9a-f]{1,100000})(/(\d{1,4000}|0x[0-9a-f]{1,100000}))?", re.ASCII)


def to_builtins(trace: Trace) -> dict[str, Any]:
    """The trace as dicts, lists, strings and numbers, in the order in which they are printed.

    >>> from netlab.trace.steps import Party, Verdict
    >>> web, api = Party("web-0", "default/web-0", "pod"), Party("svc/api:80", "default/api", "service")
    >>> list(to_builtins(Trace(web, api, "TCP", Verdict.UNKNOWN, ())))[:4]
    ['apiVersion', 'kind', 'source', 'destination']
    """
    plain: dict[str, Any] = msgspec.to_builtins(trace, enc_hook=_encode)
    for branch, data in zip(trace.branches, plain["branches"], strict=True):
        rest = dict(data)
        data.clear()  # rebuilt in place: the two spellings of the probability stand first, side by side
        data |= {"probability": rest.pop("probability"), "probabilityExact": exact(branch.probability), **rest}
    return {"apiVersion": API_VERSION, "kind": KIND, **plain}


def dumps(trace: Trace) -> str:
    """The trace as indented JSON text, without a final newline.

    A name that is not Unicode (a file name of odd bytes) is written with its bytes escaped as `\\udcXX`, six characters.
    """
    plain = to_builtins(trace)
    try:
        encoded = msgspec.json.encode(plain)
    except UnicodeEncodeError:
        encoded = msgspec.json.encode(unicode_only(plain))
    return msgspec.json.format(encoded, indent=2).decode()


def loads(text: str | bytes, ref: Ref | None = None) -> Trace:
    """Read a trace that `dumps` wrote.

    Raises
    ------
    InputError
        Not JSON, not a netlab/v1 Trace, or a field of the wrong type; the message names the field.
    """
    try:
        data = msgspec.json.decode(text)
    except (msgspec.DecodeError, UnicodeError, RecursionError) as e:
        raise InputError(f"not JSON: {e}", ref) from None
    if not isinstance(data, dict) or data.get("kind") != KIND or data.get("apiVersion") != API_VERSION:
        raise InputError(f"not a {KIND} of {API_VERSION}", ref, "expected the output of `netlab trace -o json`")
    branches = data.get("branches")
    for branch in branches if isinstance(branches, list) else ():
        if isinstance(branch, dict) and "probabilityExact" in branch:
            branch["probability"] = branch.pop("probabilityExact")
    try:
        return msgspec.convert(data, Trace, dec_hook=_decode)
    except (msgspec.ValidationError, RecursionError) as e:
        raise InputError(f"not a valid {KIND}: {e}", ref) from None


def schema() -> str:
    """The JSON Schema (draft 2020-12) of a trace, as indented JSON text without a final newline.

    Structure and descriptions come from the types and their docstrings in trace/steps.py.
    """
    drawn = msgspec.json.schema(Trace, schema_hook=_schema)
    definitions = drawn["$defs"]
    for definition in definitions.values():
        if "description" in definition:
            definition["description"] = prose(definition["description"])
    branch = definitions["Branch"]
    fraction = {
        "type": "string",
        "pattern": f"^({_EXACT.pattern})$".replace(r"\d", "[0-9]"),
        "description": "The exact fraction.",
    }
    properties = dict(branch["properties"])
    branch["properties"] = {"probability": properties.pop("probability"), "probabilityExact": fraction, **properties}
    branch["required"] = ["probability", "probabilityExact", *branch["required"][1:], "reply", "choices"]
    root = definitions.pop(KIND)
    head = {"apiVersion": {"const": API_VERSION}, "kind": {"const": KIND}}
    complete = {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "$id": "netlab/v1/Trace",
        **root,
        "properties": head | root["properties"],
        "required": [*head, *root["required"], "assumptions", "notModelled"],
        "$defs": definitions,
    }
    return json.dumps(complete, indent=2, ensure_ascii=False)


def _encode(value: object) -> object:
    if isinstance(value, Fraction):
        return float(value)
    raise NotImplementedError(type(value))


def _decode(wanted: type, value: object) -> object:
    if wanted is not Fraction:
        raise NotImplementedError(wanted)
    if isinstance(value, str) and _EXACT.fullmatch(value):
        over, _, under = value.partition("/")
        if divisor := _integer(under or "1"):
            return _within_one(Fraction(_integer(over), divisor))
    if isinstance(value, int | float) and not isinstance(value, bool):
        return _within_one(Fraction(value))
    raise ValueError(f"not a probability: {value!r}")


def _within_one(probability: Fraction) -> Fraction:
    if not 0 <= probability <= 1:
        raise ValueError("a probability lies between 0 and 1")
    return probability


def _integer(text: str) -> int:
    return int(text, 16) if text.startswith("0x") else int(text)


def exact(probability: Fraction) -> str:
    """`1/3`; in hexadecimal where Python would refuse the decimal digits."""
    if probability.denominator.bit_length() < _LONG:
        return str(probability)
    return f"{probability.numerator:#x}/{probability.denominator:#x}"


def unicode_only(value: object) -> object:
    """The same value with lone surrogates spelled out: JSON is Unicode, and a surrogate alone is not."""
    if isinstance(value, str):
        return value.encode("utf-8", "backslashreplace").decode()
    if isinstance(value, dict):
        return {key: unicode_only(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [unicode_only(item) for item in value]
    return value


def _schema(wanted: type) -> dict[str, Any]:
    if wanted is Fraction:
        return {"type": "number", "minimum": 0, "maximum": 1}
    raise NotImplementedError(wanted)


def prose(docstring: str) -> str:
    """A docstring as one paragraph, with the fields that it names spelled as in JSON."""
    text = " ".join(inspect.cleandoc(docstring).split())
    return re.sub(r"`([a-z]+(?:_[a-z]+)+)`", lambda m: "`" + re.sub("_([a-z])", lambda u: u[1].upper(), m[1]) + "`", text)
