"""Aligned columns of plain text, as kubectl prints tables.

Law: nothing is ever cut or wrapped; a cell is as wide as its text on a terminal (East Asian wide characters take two
columns, combining ones none). Characters that a terminal would obey instead of show are escaped by `clean`, because
names and comments come from files that somebody else wrote. No colour here: who wants some paints the aligned cells.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Iterable, Sequence

_SHORT = {"\n": "\\n", "\t": "\\t", "\r": "\\r"}


def clean(text: str) -> str:
    r"""Escape everything that is not printable: control characters, bidirectional overrides, line separators, surrogates.

    >>> clean("a\x1b[31mb\u202e")
    'a\\x1b[31mb\\u202e'
    """
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() else _SHORT.get(c) or _escape(ord(c)) for c in text)


def _escape(code: int) -> str:
    if code < 0x100:
        return f"\\x{code:02x}"
    return f"\\u{code:04x}" if code < 0x10000 else f"\\U{code:08x}"


def width(text: str) -> int:
    """Columns that `text` takes on a terminal (UAX #11: W and F are wide; marks that combine take none).

    >>> width("api"), width("日本")
    (3, 4)
    """
    if text.isascii():
        return len(text)
    return sum(0 if unicodedata.combining(c) else 2 if unicodedata.east_asian_width(c) in "WF" else 1 for c in text)


def pad(text: str, columns: int) -> str:
    """`text` and the spaces that it lacks to `columns`; longer text stays whole."""
    return text + " " * (columns - width(text))


def align(rows: Iterable[Sequence[str]]) -> list[list[str]]:
    """Pad the cells of each column to equal width; trailing empty cells go, so that no line ends in spaces.

    Parameters
    ----------
    rows : iterable of sequences of str
        Cells; rows may differ in length.

    Returns
    -------
    list of list of str
        The same rows, cleaned and padded; a row's last cell is not padded.

    >>> align([["NAME", "IP"], ["web-0", ""]])
    [['NAME ', 'IP'], ['web-0']]
    """
    cells = [[clean(cell) for cell in row] for row in rows]
    widths: list[int] = []
    for row in cells:
        while row and not row[-1]:
            row.pop()
        for n, cell in enumerate(row):
            if n == len(widths):
                widths.append(0)
            widths[n] = max(widths[n], width(cell))
    return [[pad(c, w) for c, w in zip(row[:-1], widths, strict=False)] + row[-1:] for row in cells]


def table(rows: Iterable[Sequence[str]], gap: int = 2) -> list[str]:
    """The lines of an aligned table, `gap` spaces between the columns.

    >>> table([["NAME", "IP"], ["web-0", "10.244.1.7"]])
    ['NAME   IP', 'web-0  10.244.1.7']
    """
    return [(" " * gap).join(row).rstrip(" ") for row in align(rows)]
