"""netlab.render.columns: nothing is cut, nothing ends in spaces, wide characters count two."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from netlab.render.columns import align, clean, pad, table, width


@pytest.mark.parametrize(
    ("rows", "lines"),
    [
        ([], []),
        ([[]], [""]),
        ([["NAME", "IP"], ["web-0", "10.244.1.7"]], ["NAME   IP", "web-0  10.244.1.7"]),
        ([["a", "", "c"], ["", "bb", ""]], ["a      c", "   bb"]),
        ([["日本", "x"], ["abc", "y"]], ["日本  x", "abc   y"]),
        ([["e\u0301", "x"], ["ab", "y"]], ["e\u0301   x", "ab  y"]),
        ([["a\x1b[31m", "x"]], ["a\\x1b[31m  x"]),
        ([["x" * 300, "y"]], ["x" * 300 + "  y"]),
        ([["one"], ["a", "b", "c"]], ["one", "a    b  c"]),
    ],
)
def test_table(rows: list[list[str]], lines: list[str]) -> None:
    assert table(rows) == lines


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("plain ünïcode 日本", "plain ünïcode 日本"),
        ("tab\tnewline\ncr\r", "tab\\tnewline\\ncr\\r"),
        ("\x00\x7f\x9b", "\\x00\\x7f\\x9b"),
        ("\u202eabc\u2066\u2028", "\\u202eabc\\u2066\\u2028"),
        ("\udce9", "\\udce9"),
        ("\U000e0001", "\\U000e0001"),
    ],
)
def test_clean(text: str, shown: str) -> None:
    assert clean(text) == shown


@given(st.text())
def test_clean_is_printable_and_stable(text: str) -> None:
    assert clean(text).isprintable()
    assert clean(clean(text)) == clean(text)


@given(st.lists(st.lists(st.text(max_size=8), max_size=4), max_size=5))
def test_columns_begin_at_the_same_place(rows: list[list[str]]) -> None:
    for n in range(4):
        starts = {width("".join(row[:n])) for row in align(rows) if len(row) > n}
        assert len(starts) <= 1


def test_pad_never_cuts() -> None:
    assert pad("abcdef", 3) == "abcdef"
    assert pad("日", 3) == "日 "
