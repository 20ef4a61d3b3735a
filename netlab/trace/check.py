"""Rows of expectations, and how what was found differs from them: the network's unit tests.

Law: a field that a row leaves out is not compared; the order of rows is kept; equal requests are traced once.
Reading is strict: a misspelt key is an error with its row, because a check that compares nothing always passes.
This module does no I/O and prints nothing (netlab/cli/check.py, netlab/render/checks.py).
"""

from __future__ import annotations

import enum
from collections.abc import Callable, Mapping, Sequence
from fractions import Fraction
from typing import Any

import msgspec

from netlab.errors import InputError, did_you_mean
from netlab.linux.addr import ip
from netlab.refs import Ref
from netlab.trace.steps import Branch, Sent, Trace, Verdict

PROTOCOLS = ("tcp", "udp", "sctp", "icmp")


class Row(msgspec.Struct, frozen=True, rename="camel", omit_defaults=True):
    """One expectation. `endpoints` are "ip:port" (icmp: "ip"), in canonical text; `ref` is where the row was written."""

    source: str
    destination: str
    expect: Verdict
    name: str | None = None
    protocol: str | None = None
    at: str | None = None
    endpoints: tuple[str, ...] | None = None
    source_seen: str | None = None
    masquerade: bool | None = None
    ref: Ref | None = None

    @property
    def title(self) -> str:
        return self.name or self.flow

    @property
    def flow(self) -> str:
        """`web-0 -> svc/api:80`, with the protocol and the node of `at` where the row gives them."""
        extras = [e for e in (self.protocol, f"at {self.at}" if self.at else None) if e]
        return f"{self.source} -> {self.destination}" + (f" ({', '.join(extras)})" if extras else "")


class Field(enum.Enum):
    """What a row can say about a flow, spelled as in the row."""

    EXPECT = "expect"
    ENDPOINTS = "endpoints"
    SOURCE_SEEN = "sourceSeen"
    MASQUERADE = "masquerade"


class Difference(msgspec.Struct, frozen=True, rename="camel"):
    """One field that is not as expected; both sides as text."""

    field: Field
    expected: str
    found: str


class FoundBranch(msgspec.Struct, frozen=True, rename="camel"):
    """One outcome of all random choices, as far as a check looks at it. JSON: `probability` is a number."""

    probability: Fraction
    verdict: Verdict
    endpoint: str | None
    source_seen: str | None
    reason: str | None


class Result(msgspec.Struct, frozen=True, rename="camel"):
    """What was found for a row; `reason` is the first branch's that has one; no `differences`: as expected."""

    row: Row
    verdict: Verdict
    reason: str | None
    branches: tuple[FoundBranch, ...]
    differences: tuple[Difference, ...]

    @property
    def ok(self) -> bool:
        return not self.differences


def read(document: object, file: str, lines: Sequence[int] | None = None) -> tuple[Row, ...]:
    """Turn a parsed YAML or JSON document into rows.

    Parameters
    ----------
    document : object
        What the parser returned: a list of mappings, or this is an error.
    file : str
        The path as the user wrote it, for messages.
    lines : sequence of int, optional
        The line on which each row begins, from 1.

    Raises
    ------
    InputError
        Not a list, no rows, an unknown or missing key, a wrong type: with file, line and row number.
    """
    if not isinstance(document, list):
        raise InputError(
            f"rows must be a list, not {_kind(document)}",
            Ref(file=file),
            'each row: {source: web-0, destination: "svc/api:80", expect: delivered}',
        )
    if not document:
        raise InputError("no rows: the list is empty, nothing would be checked", Ref(file=file))
    return tuple(
        _row(raw, Ref(file=file, line=lines[n] if lines else None, path=f"row {n + 1}")) for n, raw in enumerate(document)
    )


def run(rows: Sequence[Row], trace: Callable[[Row], Trace]) -> tuple[list[Result], list[InputError]]:
    """Trace every row and compare; rows that ask the same question are traced once.

    Parameters
    ----------
    rows : sequence of Row
    trace : callable
        Traces the flow of a row; may raise InputError (a name that nothing has, a pod without an address).

    Returns
    -------
    tuple of list of Result, list of InputError
        In the order of the rows; a row that cannot be traced is an error that begins with the row's place.
    """
    known: dict[tuple[str, str, str | None, str | None], Trace] = {}
    results, errors = [], []
    for row in rows:
        question = (row.source, row.destination, row.protocol, row.at)
        if question not in known:
            try:
                known[question] = trace(row)
            except InputError as error:
                where = f"{error.ref}: " if error.ref else ""
                errors.append(InputError(f"{row.title}: {where}{error.what}", row.ref, error.hint))
                continue
        results.append(compare(row, known[question]))
    return results, errors


def compare(row: Row, trace: Trace) -> Result:
    """Hold a trace against a row; only the fields that the row gives are compared."""
    delivered = [b for b in trace.branches if b.verdict is Verdict.DELIVERED]
    differences = []

    def differ(field: Field, expected: str, found: str) -> None:
        if expected != found:
            differences.append(Difference(field, expected, found))

    differ(Field.EXPECT, row.expect.value, trace.verdict.value)
    if row.endpoints is not None:
        found = {_endpoint(b.endpoint) for b in delivered if b.endpoint}
        differ(Field.ENDPOINTS, _listed(set(row.endpoints)), _listed(found))
    if row.source_seen is not None:
        differ(Field.SOURCE_SEEN, row.source_seen, _listed({b.source_seen or "unknown" for b in delivered}))
    if row.masquerade is not None:
        seen = {_yes(b.source_seen != _sender(trace, b)) for b in delivered}
        differ(Field.MASQUERADE, _yes(row.masquerade), _listed(seen))
    return Result(
        row,
        trace.verdict,
        next((b.reason for b in trace.branches if b.reason), None),
        tuple(FoundBranch(b.probability, b.verdict, b.endpoint, b.source_seen, b.reason) for b in trace.branches),
        tuple(differences),
    )


def _sender(trace: Trace, branch: Branch) -> str:
    """The source address as the sender's socket chose it: a node's own traffic gets one only when it is routed."""
    for hop in branch.hops:
        for step in hop.steps:
            if isinstance(step, Sent):
                return step.packet.source
    return trace.source.ip


def _yes(flag: bool) -> str:
    return "true" if flag else "false"


def _listed(values: set[str]) -> str:
    return ", ".join(sorted(values)) if values else "none"


# Reading a row: one reader per key, each from the raw value to the field's value.


def _text(raw: object) -> str:
    if not isinstance(raw, str) or not raw.strip():
        raise ValueError(f"must be text, not {_kind(raw)}")
    return raw.strip()


def _protocol(raw: object) -> str:
    text = _text(raw).lower()
    if text not in PROTOCOLS:
        raise ValueError(f'must be one of {", ".join(PROTOCOLS)}, not "{text}"')
    return text


def _verdict(raw: object) -> Verdict:
    text = _text(raw)
    try:
        return Verdict(text)
    except ValueError:
        near = did_you_mean(text, [v.value for v in Verdict])
        raise ValueError(
            f'must be one of {", ".join(v.value for v in Verdict)}, not "{text}"' + (f" ({near})" if near else "")
        ) from None


def _address(raw: object) -> str:
    return str(ip(_text(raw)))


def _endpoint(text: str) -> str:
    """Canonical "ip:port", "[ip6]:port" or "ip"; raises ValueError."""
    host, colon, port = text.rpartition(":")
    if not colon or (":" in host and not host.startswith("[")):  # no port: icmp
        return str(ip(text.strip("[]")))
    if not (port.isascii() and port.isdigit() and 0 < int(port) < 65536):
        raise ValueError(f'"{text}" is not ip:port')
    address = ip(host.removeprefix("[").removesuffix("]"))
    return address.port(int(port))


def _endpoints(raw: object) -> tuple[str, ...]:
    if not isinstance(raw, list):
        raise ValueError(f'must be a list of "ip:port", not {_kind(raw)}')
    return tuple(_endpoint(_text(item)) for item in raw)


def _flag(raw: object) -> bool:
    if not isinstance(raw, bool):
        raise ValueError(f"must be true or false, not {_kind(raw)}")
    return raw


_READERS: Mapping[str, tuple[str, Callable[[object], Any]]] = {
    "name": ("name", _text),
    "source": ("source", _text),
    "destination": ("destination", _text),
    "protocol": ("protocol", _protocol),
    "at": ("at", _text),
    "expect": ("expect", _verdict),
    "endpoints": ("endpoints", _endpoints),
    "sourceSeen": ("source_seen", _address),
    "masquerade": ("masquerade", _flag),
}


def _row(raw: object, ref: Ref) -> Row:
    if not isinstance(raw, dict):
        raise InputError(f"must be a mapping, not {_kind(raw)}", ref)
    fields: dict[str, Any] = {}
    for key, value in raw.items():
        if key not in _READERS:
            hint = did_you_mean(str(key), _READERS) or f"a row has {', '.join(_READERS)}"
            raise InputError(f'unknown key "{key}"', ref, hint)
        field, reader = _READERS[key]
        try:
            fields[field] = reader(value)
        except ValueError as error:
            raise InputError(f'"{key}" {error}' if str(error).startswith("must") else f'"{key}": {error}', ref) from None
    for key in ("source", "destination", "expect"):
        if key not in fields:
            raise InputError(f'"{key}" is missing', ref)
    return Row(**fields, ref=ref)


def _kind(raw: object) -> str:
    """A YAML or JSON value's type as its users call it."""
    match raw:
        case None:
            return "null (leave the key out)"
        case bool():
            return "true" if raw else "false"
        case int() | float():
            return f"the number {raw}"
        case str():
            return "text" if raw.strip() else "empty text"
        case list():
            return "a list"
        case dict():
            return "a mapping"
    return type(raw).__name__
