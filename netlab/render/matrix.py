"""The connectivity matrix for people (text, wide, Markdown, HTML, SVG), for programs (json, csv) and for graphviz (dot).

    FROM  1 default/front   2 default/api
    TO                     1  2
    default/api:8080       Y  -
    default/svc/db:5432    .  Y

Law: every form has the same cells; a letter stands for each answer, so that nothing depends on colour. Asked in reach/.
"""

from __future__ import annotations

import csv as csvlib
import html as htmllib
import io
from collections.abc import Sequence
from typing import Any

import msgspec

from netlab.reach.matrix import Answer, Cell, Column, Matrix
from netlab.render.columns import clean, table
from netlab.render.deciders import decider_json
from netlab.render.jsonio import API_VERSION, unicode_only

SYMBOLS = {Answer.YES: "Y", Answer.NO: ".", Answer.SOME: "~", Answer.UNKNOWN: "?", Answer.NONE: "-"}
WORDS = {
    Answer.YES: "yes",
    Answer.NO: "no",
    Answer.SOME: "some of its pods or endpoints",
    Answer.UNKNOWN: "unknown",
    Answer.NONE: "no packet to send",
}
_FILL = {Answer.YES: "#2e7d32", Answer.NO: "#eceff1", Answer.SOME: "#f9a825", Answer.UNKNOWN: "#8e24aa", Answer.NONE: "#ffffff"}
_INK = {Answer.YES: "#fff", Answer.NO: "#37474f", Answer.SOME: "#000", Answer.UNKNOWN: "#fff", Answer.NONE: "#90a4ae"}
_SHAPE_GAP = 18
_LINE = 100  # columns: a longer list of sources takes a line each


def text(matrix: Matrix, wide: bool = False) -> str:
    """Destinations down, sources across, numbered; `wide` lists every cell that is not yes with its reason."""
    if not matrix.sources or not matrix.destinations:
        return summary(matrix)
    sources = [f"{n} {clean(name)}" for n, name in enumerate(matrix.sources, 1)]
    legend = "FROM  " + "   ".join(sources)
    lines = [legend, ""] if len(legend) <= _LINE else ["FROM", *(f"  {source}" for source in sources), ""]
    head = ["TO", *(str(n) for n in range(1, len(matrix.sources) + 1))]
    rows = [[str(column), *(SYMBOLS[row[n].answer] for row in matrix.cells)] for n, column in enumerate(matrix.destinations)]
    lines += table([head, *rows])
    used = {cell.answer for row in matrix.cells for cell in row}
    lines += ["", "   ".join(f"{SYMBOLS[a]} {WORDS[a]}" for a in Answer if a in used)]
    if wide and (explained := not_yes(matrix)):
        lines += ["", *table([["FROM", "TO", "ANSWER", "REASON"], *(_wide(cell) for cell in explained)])]
    lines += ["", summary(matrix)]
    return "\n".join(lines)


def not_yes(matrix: Matrix) -> list[Cell]:
    """The cells that have something to explain."""
    return [cell for row in matrix.cells for cell in row if cell.answer not in (Answer.YES, Answer.NONE)]


def _wide(cell: Cell) -> list[str]:
    share = f"{cell.answer.value} ({cell.delivered} of {cell.pairs})" if cell.answer is Answer.SOME else WORDS[cell.answer]
    return [cell.source, str(cell.destination), share, cell.reason]


def summary(matrix: Matrix) -> str:
    """`156 answers: 24 yes, 130 no, 2 some`."""
    cells = [cell.answer for row in matrix.cells for cell in row if cell.answer is not Answer.NONE]
    parts = [f"{cells.count(a)} {a.value if a is not Answer.UNKNOWN else 'unknown'}" for a in Answer if a in cells]
    many = f"{len(cells)} answers" if len(cells) != 1 else "1 answer"
    return f"{many}: {', '.join(parts)}" if cells else "nothing to ask"


def json(matrix: Matrix) -> str:
    """`{"apiVersion": "netlab/v1", "kind": "Matrix", "sources": [...], "destinations": [...], "cells": [...]}`."""
    plain: dict[str, Any] = {
        "apiVersion": API_VERSION,
        "kind": "Matrix",
        "sources": list(matrix.sources),
        "destinations": [_column(column) for column in matrix.destinations],
        "cells": [
            {
                "source": cell.source,
                "destination": str(cell.destination),
                "answer": _word(cell.answer),
                "reason": cell.reason or None,
                "delivered": cell.delivered,
                "pairs": cell.pairs,
                "policies": [decider_json(d) for d in cell.policies],
            }
            for row in matrix.cells
            for cell in row
        ],
        "assumptions": list(matrix.assumptions),
        "notModelled": list(matrix.not_modelled),
    }
    return msgspec.json.format(msgspec.json.encode(unicode_only(plain)), indent=2).decode()


def _column(column: Column) -> dict[str, Any]:
    return {"name": column.name, "port": column.port, "protocol": column.protocol, "kind": column.kind}


def csv(matrix: Matrix) -> str:
    """One line a cell: source,destination,answer,reason."""
    out = io.StringIO()
    writer = csvlib.writer(out, lineterminator="\n")
    writer.writerow(["source", "destination", "answer", "reason"])
    for row in matrix.cells:
        for cell in row:
            writer.writerow([cell.source, str(cell.destination), _word(cell.answer), cell.reason])
    return out.getvalue()


def _word(answer: Answer) -> str:
    return {Answer.UNKNOWN: "unknown", Answer.NONE: "none"}.get(answer, answer.value)


def markdown(matrix: Matrix) -> str:
    """A table for a review or a wiki: destinations down, sources across."""
    def cell(content: str) -> str:
        return clean(content).replace("|", "\\|")

    lines = ["| to \\ from | " + " | ".join(map(cell, matrix.sources)) + " |", "|---" * (len(matrix.sources) + 1) + "|"]
    for n, column in enumerate(matrix.destinations):
        answers = [_word(row[n].answer) if row[n].answer is not Answer.NONE else "" for row in matrix.cells]
        lines.append(f"| {cell(str(column))} | " + " | ".join(f"**{a}**" if a == "yes" else a for a in answers) + " |")
    return "\n".join([*lines, "", summary(matrix)])


def dot(matrix: Matrix) -> str:
    """A graph for graphviz: an edge per yes (solid) or some (dashed), labelled with the ports."""
    edges: dict[tuple[str, str, Answer], list[str]] = {}
    for row in matrix.cells:
        for c in row:
            if c.answer in (Answer.YES, Answer.SOME, Answer.UNKNOWN):
                proto = "" if c.destination.protocol == "TCP" else f"/{c.destination.protocol}"
                edges.setdefault((c.source, c.destination.name, c.answer), []).append(f"{c.destination.port}{proto}")
    style = {Answer.YES: "solid", Answer.SOME: "dashed", Answer.UNKNOWN: "dotted"}
    names = dict.fromkeys([*matrix.sources, *(column.name for column in matrix.destinations)])
    lines = ["digraph reach {", "  rankdir=LR;", "  node [shape=box];"]
    lines += [f"  {_quoted(name)};" for name in names]
    for (source, target, answer), ports in edges.items():
        lines.append(f"  {_quoted(source)} -> {_quoted(target)} [label={_quoted(', '.join(ports))}, style={style[answer]}];")
    return "\n".join([*lines, "}"])


def _quoted(name: str) -> str:
    return '"' + clean(name).replace("\\", "\\\\").replace('"', '\\"') + '"'


def svg(matrix: Matrix) -> str:
    """The matrix as a picture: a square a cell, with its letter; the reason is the square's tooltip."""
    size = 22
    left = 12 + 7 * max((len(str(c)) for c in matrix.destinations), default=2)
    top = 12 + int(6.2 * max((len(s) for s in matrix.sources), default=2))
    width, height = left + size * len(matrix.sources) + 12, top + size * len(matrix.destinations) + 40
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{width}" height="{height}" font-family="sans-serif" font-size="12" '
        f'role="img" aria-label="who reaches whom: {_escape(summary(matrix))}">',
        f'<rect width="{width}" height="{height}" fill="#fff"/>',
    ]
    for n, source in enumerate(matrix.sources):
        x, y = left + size * n + size * 0.7, top - 6
        parts.append(f'<text x="{x:.0f}" y="{y}" transform="rotate(-90 {x:.0f} {y})" fill="#263238">{_escape(source)}</text>')
    for m, column in enumerate(matrix.destinations):
        y = top + size * m
        parts.append(f'<text x="{left - 6}" y="{y + 15}" text-anchor="end" fill="#263238">{_escape(str(column))}</text>')
        for n, row in enumerate(matrix.cells):
            cell = row[m]
            title = f"{cell.source} to {column}: {_word(cell.answer)}" + (f" - {cell.reason}" if cell.reason else "")
            parts.append(
                f'<g><title>{_escape(title)}</title><rect x="{left + size * n}" y="{y}" width="{size - 2}" height="{size - 2}" '
                f'fill="{_FILL[cell.answer]}"/><text x="{left + size * n + size / 2 - 1:.0f}" y="{y + 15}" text-anchor="middle" '
                f'fill="{_INK[cell.answer]}">{SYMBOLS[cell.answer]}</text></g>'
            )
    parts.append(f'<text x="12" y="{height - _SHAPE_GAP}" fill="#263238">{_escape(summary(matrix))}</text>')
    return "\n".join([*parts, "</svg>"])


def html(matrix: Matrix) -> str:
    """A page of its own: the matrix as a table, each cell with its reason, and a list of what is not yes."""
    head = "".join(f'<th scope="col"><span>{_escape(s)}</span></th>' for s in matrix.sources)
    rows = []
    for m, column in enumerate(matrix.destinations):
        of = [(_word(row[m].answer), _escape(row[m].reason)) for row in matrix.cells]
        cells = "".join(f'<td class="{word}" title="{reason}">{word}</td>' for word, reason in of)
        rows.append(f'<tr><th scope="row">{_escape(str(column))}</th>{cells}</tr>')
    listed = "".join(f"<tr>{''.join(f'<td>{_escape(part)}</td>' for part in _wide(cell))}</tr>" for cell in not_yes(matrix))
    return _PAGE.format(head=head, rows="\n".join(rows), summary=_escape(summary(matrix)), listed=listed)


def _escape(content: str) -> str:
    return htmllib.escape(clean(content))


def render(matrix: Matrix, form: str) -> str:
    """One of the forms by its name on the command line."""
    forms = {"json": json, "csv": csv, "md": markdown, "dot": dot, "svg": svg, "html": html}
    return forms[form](matrix) if form in forms else text(matrix, form == "wide")


def different(lines: Sequence[tuple[str, str, str, str]]) -> str:
    """Cells that are not as expected: source, destination, expected, found."""
    return "\n".join(table([["FROM", "TO", "EXPECTED", "FOUND"], *lines]))


_PAGE = """<!doctype html>
<html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width"><title>Who reaches whom</title>
<style>
:root {{ color-scheme: light dark; }}
body {{ font: 14px/1.4 system-ui, sans-serif; margin: 1.5rem; }}
table {{ border-collapse: collapse; }} th, td {{ padding: .25rem .5rem; border: 1px solid #90a4ae; }}
thead span {{ writing-mode: vertical-rl; transform: rotate(180deg); }} th[scope=row] {{ text-align: right; font-weight: 500; }}
td {{ text-align: center; }} .list td {{ text-align: left; }}
.yes {{ background: #2e7d32; color: #fff; font-weight: 700; }} .some {{ background: #f9a825; color: #000; }}
.unknown {{ background: #8e24aa; color: #fff; }} .no, .none {{ opacity: .75; }}
</style></head><body>
<h1>Who reaches whom</h1>
<p>Destinations down, sources across. {summary}.</p>
<table><thead><tr><th>to \\ from</th>{head}</tr></thead><tbody>
{rows}
</tbody></table>
<h2>What is not a yes, and why</h2>
<table class="list"><thead><tr><th>from</th><th>to</th><th>answer</th><th>reason</th></tr></thead><tbody>{listed}</tbody></table>
</body></html>"""
