"""An expected matrix: what `netlab reach -o csv` or `-o json` printed once, and how today's differs from it.

Law: only cells that the file has are compared, and a cell of the file that the cluster no longer has is a difference; a file
that holds no cell is an error, because it would always agree.
"""

from __future__ import annotations

import csv
import io
import json
from pathlib import Path
from typing import Any

from netlab.errors import InputError, did_you_mean
from netlab.reach.matrix import Answer, Matrix
from netlab.refs import Ref

ANSWERS = {"yes": Answer.YES, "no": Answer.NO, "some": Answer.SOME, "unknown": Answer.UNKNOWN, "none": Answer.NONE}
_WORDS = {answer: word for word, answer in ANSWERS.items()}
Expected = dict[tuple[str, str], Answer]


def read_expected(file: str) -> Expected:
    """Read a CSV (source,destination,answer[,...]) or a JSON matrix.

    Raises
    ------
    InputError
        No such file, neither form, an unknown answer, the same cell twice with different answers, no cell at all.
    """
    text = Path(file).read_text(errors="replace")
    cells = _json(text, file) if text.lstrip()[:1] in "{[" and text.strip() else _csv(text, file)
    found: Expected = {}
    for source, destination, answer, ref in cells:
        if answer not in ANSWERS:
            raise InputError(f'unknown answer "{answer}"', ref, did_you_mean(answer, ANSWERS) or f"one of {', '.join(ANSWERS)}")
        if found.setdefault((source, destination), ANSWERS[answer]) is not ANSWERS[answer]:
            raise InputError(f"{source} to {destination} twice, with different answers", ref, "leave one of them")
    if not found:
        raise InputError("no cells: nothing would be compared", Ref(file=file), "`netlab reach -o csv` prints such a file")
    return found


def _csv(text: str, file: str) -> list[tuple[str, str, str, Ref]]:
    rows = list(csv.reader(io.StringIO(text)))
    head = [name.strip() for name in rows[0]] if rows else []
    for name in ("source", "destination", "answer"):
        if name not in head:
            raise InputError(f'no column "{name}"', Ref(file=file, line=1), "the first line is: source,destination,answer,reason")
    places = [head.index(name) for name in ("source", "destination", "answer")]
    found = []
    for number, row in enumerate(rows[1:], 2):
        if not row or row[0].startswith("#"):
            continue
        if len(row) <= max(places):
            raise InputError(f"{len(row)} fields, {max(places) + 1} are needed", Ref(file=file, line=number))
        source, destination, answer = (row[p].strip() for p in places)
        found.append((source, destination, answer, Ref(file=file, line=number)))
    return found


def _json(text: str, file: str) -> list[tuple[str, str, str, Ref]]:
    try:
        document: Any = json.loads(text)
    except json.JSONDecodeError as error:
        raise InputError(f"not JSON: {error.msg}", Ref(file=file, line=error.lineno)) from None
    cells = document.get("cells") if isinstance(document, dict) else document
    if not isinstance(cells, list):
        raise InputError('no "cells"', Ref(file=file), "`netlab reach -o json` prints such a file")
    found = []
    for n, cell in enumerate(cells):
        ref = Ref(file=file, path=f"cells[{n}]")
        fields = [cell.get(key) for key in ("source", "destination", "answer")] if isinstance(cell, dict) else []
        texts = [value for value in fields if isinstance(value, str)]
        if len(texts) != 3:
            raise InputError("a cell needs source, destination and answer, each a text", ref)
        found.append((texts[0], texts[1], texts[2], ref))
    return found


def compare(found: Matrix, expected: Expected) -> list[tuple[str, str, str, str]]:
    """Cells that differ: source, destination, expected, found ("absent" where the cluster has no such cell)."""
    seen = {(cell.source, str(cell.destination)): cell.answer for row in found.cells for cell in row}
    return [
        (source, destination, _WORDS[answer], _WORDS[seen[source, destination]] if (source, destination) in seen else "absent")
        for (source, destination), answer in expected.items()
        if seen.get((source, destination)) is not answer
    ]
