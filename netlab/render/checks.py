"""The results of `netlab check`: as text for people, JSON for programs, JUnit XML for CI systems.

Law: text prints the rows that differ and one summary line; JSON and JUnit have every row, in the order of the rows.
Nothing is compared here (netlab/trace/check.py does).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import msgspec

from netlab.render.columns import clean, table
from netlab.render.jsonio import API_VERSION, exact, unicode_only
from netlab.trace.check import Field, Result


def text(results: Sequence[Result]) -> str:
    """Each row that differs with what was expected and found, then a summary; without a final newline."""
    lines: list[str] = []
    for result in results:
        if result.ok:
            continue
        row = result.row
        place = f"{row.ref}: " if row.ref and str(row.ref) else ""
        lines.append(clean(f"{place}{row.title}{f'  ({row.flow})' if row.name else ''}"))
        cells = [(d.field.value, f"expected {d.expected}", f"found {d.found}") for d in result.differences]
        lines += ["  " + line for line in table(cells)]
        if result.reason and any(d.field is Field.EXPECT for d in result.differences):
            lines.append(clean(f"  reason: {result.reason}"))
    return "\n".join([*lines, summary(results)])


def summary(results: Sequence[Result]) -> str:
    """`12 rows: 11 as expected, 1 differs`."""
    differ = sum(not result.ok for result in results)
    rows = f"{len(results)} row{'' if len(results) == 1 else 's'}"
    if not differ:
        return f"{rows}: all as expected"
    return f"{rows}: {len(results) - differ} as expected, {differ} {'differs' if differ == 1 else 'differ'}"


def json(results: Sequence[Result]) -> str:
    """`{"apiVersion": "netlab/v1", "kind": "Check", "ok": ..., "rows": [...]}`, indented, without a final newline."""
    plain = {
        "apiVersion": API_VERSION,
        "kind": "Check",
        "ok": all(result.ok for result in results),
        "rows": [_row(result) for result in results],
    }
    return msgspec.json.format(msgspec.json.encode(unicode_only(plain)), indent=2).decode()


def _row(result: Result) -> dict[str, Any]:
    row = result.row
    return {
        "name": row.name,
        "source": row.source,
        "destination": row.destination,
        "protocol": row.protocol,
        "at": row.at,
        "ok": result.ok,
        "verdict": result.verdict.value,
        "reason": result.reason,
        "branches": [
            {
                "probability": float(branch.probability),
                "probabilityExact": exact(branch.probability),
                "verdict": branch.verdict.value,
                "endpoint": branch.endpoint,
                "sourceSeen": branch.source_seen,
                "reason": branch.reason,
            }
            for branch in result.branches
        ],
        "differences": [{"field": d.field.value, "expected": d.expected, "found": d.found} for d in result.differences],
    }


def junit(results: Sequence[Result]) -> str:
    """The results as a JUnit test suite, one test case per row, as Jenkins and GitLab read it; without a final newline."""
    from xml.sax.saxutils import quoteattr

    def attribute(value: str) -> str:
        return quoteattr(clean(value))  # XML 1.0 has no way to write most control characters

    failures = sum(not result.ok for result in results)
    lines = [
        '<?xml version="1.0" encoding="UTF-8"?>',
        f'<testsuites tests="{len(results)}" failures="{failures}" errors="0">',
        f'  <testsuite name="netlab check" tests="{len(results)}" failures="{failures}" errors="0" skipped="0">',
    ]
    for result in results:
        row = result.row
        place = row.ref.file if row.ref and row.ref.file else "netlab"
        case = f"    <testcase classname={attribute(place)} name={attribute(row.title)}"
        if row.ref and row.ref.line is not None:
            case += f' line="{row.ref.line}"'
        if result.ok:
            lines.append(case + "/>")
            continue
        message = "; ".join(f"{d.field.value}: expected {d.expected}, found {d.found}" for d in result.differences)
        reason = f" ({result.reason})" if result.reason else ""
        lines += [f"{case}>", f"      <failure message={attribute(f'{row.flow}: {message}{reason}')}/>", "    </testcase>"]
    return "\n".join([*lines, "  </testsuite>", "</testsuites>"])
