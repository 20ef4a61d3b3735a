"""Lines and statements of one shape are read once; what is read so equals what is read word by word, errors too.

The pool is every rule that nft 1.0.6 printed for tests/data/nft, its addresses, numbers, names and comments drawn anew.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path
from random import Random
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from netlab.errors import InputError
from netlab.linux.nft import NftChain, NftTable
from netlab.linux.text.nft import read_json, read_text
from netlab.linux.text.nft_shapes import TEXT_HOLES, Shapes

DATA = Path(__file__).parent / "data" / "nft"
HEAD = "table inet t {\n\tset a {\n\t\ttype ipv4_addr\n\t}\n\tmap m {\n\t\ttype inet_service : mark\n\t}\n"
CHAINS = "\tchain one {\n\t}\n\tchain two-2/b.c {\n\t}\n"


def text_pool() -> list[str]:
    """Rules of the recorded listing, those that stand for themselves."""
    lines = (line.strip() for line in (DATA / "inet.nft").read_text().splitlines())
    return [line for line in dict.fromkeys(lines) if line and isinstance(found := chain([line]), NftChain) and found.rules]


def chain(lines: list[str]) -> NftChain | str:
    """A chain of these rules, or what is wrong with it, with the number of the line."""
    head = f"{HEAD}{CHAINS}\tchain c {{\n"
    try:
        table, = read_text(head + "".join(f"\t\t{line}\n" for line in lines) + "\t}\n}\n")
    except InputError as error:
        return str(error)
    return table.chains["c"]


HOLE = re.compile(r'"[^"]*"|(?<=jump )\S+|(?<=goto )\S+|\b\d+\.\d+\.\d+\.\d+\b|(?<![\w.:/-])\d+(?![\w.:/-])|\bfd00:[0-9a-f:]*')


def another(line: str, random: Random) -> str:
    """The line with other things in its places; sometimes wrong ones."""

    def put(found: re.Match[str]) -> str:
        if random.random() < 0.3:
            return found[0]
        match found[0][0]:
            case '"':
                return random.choice(['"x"', '"a, b # c"', '"10.0.0.1"', '"80"', '"jump one"', '""'])
            case "f":
                return random.choice(["fd00::1", "fd00::1:5", "::ffff:10.0.0.1", "fe80:::1", "0a:58:0a:f4:00:01"])
            case digit if digit.isdigit():
                others = ["0", "7", "80", "65536", "0x50", "010", "08", "10.0.0.9", "10.0.0.256", "5m", "a", "80-90", "0-5"]
                return random.choice(others)
            case _:
                return random.choice(["one", "two-2/b.c", "three", '"one"', "accept"])

    return HOLE.sub(put, line)


TEXTS = text_pool()


@settings(max_examples=150, deadline=None)
@given(st.integers(0, 2**32))
def test_a_chain_is_its_rules_read_one_by_one(seed: int) -> None:
    random = Random(seed)
    some = random.sample(TEXTS, 4)
    lines = [another(random.choice(some), random) for _ in range(16)]
    alone = [chain([line]) for line in lines]
    good = [each for each in alone if isinstance(each, NftChain)]
    together = chain([line for line, each in zip(lines, alone, strict=True) if isinstance(each, NftChain)])
    assert isinstance(together, NftChain)
    assert together.rules == tuple(each.rules[0] for each in good)
    assert [rule.ref.line for rule in together.rules if rule.ref is not None] == [13 + n for n in range(len(good))]
    for bad, each in zip(lines, alone, strict=True):
        if isinstance(each, str):  # told alike behind rules that make its shape known
            assert chain([*(line for line in lines if isinstance(chain([line]), NftChain)), bad]) == each.replace(
                "-:13", f"-:{13 + len(good)}"
            )
            break


@pytest.mark.parametrize(
    "lines",
    [
        ["ip saddr 10.0.0.1 accept", "ip saddr 10.0.0.2 accept", "ip saddr 10.0.0.3 drop", "ip saddr 10.0.0.4 accept"],
        ["tcp dport 80 jump one", "tcp dport 81 goto one", "tcp dport 82 jump two-2/b.c", "tcp dport 83 jump one # handle 9"],
        ["dnat ip to 10.0.0.1:80", "dnat ip to 10.0.0.2:81", "dnat ip to 10.0.0.3:8080", "dnat ip to 10.0.0.3"],
        ["dnat ip6 to [fd00::1]:80", "dnat ip6 to [fd00::2]:81", "dnat ip6 to [fd00::3]:82", "dnat ip6 to fd00::4"],
        ['log prefix "a" drop', 'log prefix "b" drop', 'log prefix "c d" drop comment "a"', 'log prefix "x" drop comment "\\"'],
        ["meta mark set 5", "meta mark set 6", "meta mark set 7", "meta mark set 0x7", "meta mark set mark"],
        ["counter packets 1 bytes 2", "counter packets 3 bytes 4", "counter packets 5 bytes 6 # handle 7"],
        ["add @a { ip saddr timeout 5s }", "add @a { ip saddr timeout 6s }", "add @a { ip saddr timeout 7 }"],
        ["ip saddr { 10.0.0.1, 10.0.0.2 } drop", "ip saddr { 10.0.0.3, 10.0.0.4 } drop", "ip saddr { 10.0.0.3, 10.0.0.4 } drop"],
        ["meta mark set tcp dport map @m", "meta mark set udp dport map @m", "meta mark set tcp dport map { 80 : 1, 81 : 2 }"],
        ["reject with icmp port-unreachable", "reject with icmp 3", "reject with icmp 4", "reject with icmp 5"],
    ],
)  # fmt: skip
def test_lines_of_one_shape(lines: list[str]) -> None:
    together = chain(lines)
    assert isinstance(together, NftChain), together
    for line, rule in zip(lines, together.rules, strict=True):
        alone = chain([line])
        assert isinstance(alone, NftChain)
        assert (rule, rule.handle) == (alone.rules[0], alone.rules[0].handle)


def elements(rows: list[str]) -> Any:
    body = ",\n\t\t\t     ".join(rows)
    declared = f"\tmap m {{\n\t\ttype ipv4_addr . inet_service : verdict\n\t\telements = {{ {body} }}\n\t}}\n"
    text = f"table ip t {{\n{declared}{CHAINS}}}\n"
    try:
        return read_text(text)[0].sets["m"].elements
    except InputError as error:
        return str(error)


ROWS = [
    "10.0.0.{0} . {0} : goto one", "10.0.0.{0} . 80 : drop", '10.0.0.{0} . {0} comment "a, {0}" : goto two-2/b.c',
    "10.0.0.{0} . 80 timeout {0}s : jump one", "10.0.1.{0} . 1 : accept, 10.0.2.{0} . 2 : jump one",
    "10.0.0.0/{0} . 5-{0} : drop", "10.0.3.{0} . http : drop",
]  # fmt: skip


@settings(max_examples=60, deadline=None)
@given(st.lists(st.tuples(st.sampled_from(ROWS), st.integers(6, 32)), min_size=1, max_size=20))
def test_a_map_is_its_elements_read_one_by_one(drawn: list[tuple[str, int]]) -> None:
    rows = [row.format(number) for row, number in drawn]
    assert elements(rows) == tuple(element for row in rows for element in elements([row]))


@pytest.mark.parametrize(
    ("rows", "says"),
    [
        (["10.0.0.1 . 1 : drop"] * 4 + ["10.0.0.256 . 1 : drop"], "10.0.0.256"),
        (["10.0.0.1 . 1 : goto one"] * 4 + ["10.0.0.2 . 1 : goto tree"], "chain tree"),
        (["10.0.0.1 . 1 : drop"] * 4 + ["10.0.0.2 . 65536 : drop"], "65536"),
        (["10.0.0.1 . 1 : drop"] * 4 + ["10.0.0.2 . 1"], "':' is expected"),
    ],
)
def test_a_wrong_element_behind_many_right_ones(rows: list[str], says: str) -> None:
    assert says in elements(rows)


# -- JSON --------------------------------------------------------------------------------------------------------------

LISTED: list[dict[str, Any]] = json.loads((DATA / "inet.json").read_text())["nftables"]
RULES = [item["rule"] for item in LISTED if "rule" in item]
REST = [item for item in LISTED if "rule" not in item]


def read_rules(rules: list[dict[str, Any]]) -> tuple[NftTable, ...] | str:
    try:
        return read_json(json.dumps({"nftables": [*REST, *({"rule": rule} for rule in rules)]}))
    except InputError as error:
        return str(error)


def rules_of(tables: tuple[NftTable, ...] | str) -> list[Any]:
    assert not isinstance(tables, str), tables
    return [(rule, rule.handle) for table in tables for each in table.chains.values() for rule in each.rules]


def changed(value: Any, random: Random) -> Any:
    """Other leaves here and there."""
    match value:
        case dict():
            return {key: changed(each, random) for key, each in value.items()}
        case list():
            return [changed(each, random) for each in value]
        case bool() | None:
            return value
        case int() if random.random() < 0.5:
            return random.choice([0, 1, 80, 65536, 2**33, -1, True, "80"])
        case str() if random.random() < 0.2 and (value[:1].isdigit() or value[:1] == "@"):
            return random.choice(["10.0.0.1", "10.9.9.9", "fd00::1", "fd00:::1", value, "x\\y", "ü"])
        case _:
            return value


@settings(max_examples=100, deadline=None)
@given(st.integers(0, 2**32))
def test_a_document_is_its_rules_read_one_by_one(seed: int) -> None:
    random = Random(seed)
    some = random.sample(RULES, 3)
    drawn = [{**rule, "expr": changed(rule["expr"], random), "handle": random.randrange(9)} for rule in random.choices(some, k=9)]
    drawn.sort(key=lambda rule: RULES.index(next(each for each in RULES if each["chain"] == rule["chain"])))
    good = [rule for rule in drawn if not isinstance(read_rules([rule]), str)]
    assert rules_of(read_rules(good)) == [each for rule in good for each in rules_of(read_rules([rule]))]


# -- broken input ------------------------------------------------------------------------------------------------------

LEAVES = [None, True, -1, 2**70, "x", "10.0.0.256", "@", "@nobody", "", [], {}, [[]], {"a": 1}, [None, None]]


@settings(max_examples=300, deadline=None)
@given(st.integers(0, 2**32))
def test_a_wrong_value_anywhere_is_read_or_told(seed: int) -> None:
    """Whatever stands in the place of a value: an InputError at its path, or a table that was read; never a traceback."""
    random = Random(seed)
    document = json.loads((DATA / random.choice(["inet.json", "more.json"])).read_text())
    at: Any = document["nftables"]
    while True:
        key = random.choice(list(at) if isinstance(at, dict) else range(len(at)))
        if not isinstance(at[key], dict | list) or not at[key] or random.random() < 0.1:
            at[key] = random.choice(LEAVES)
            break
        at = at[key]
    assert told(lambda: read_json(json.dumps(document), "nft.json")).startswith("nft.json")


def told(read: Callable[[], object]) -> str:
    """What is wrong, with the file's name in front; the name where nothing is."""
    try:
        read()
    except InputError as error:
        return str(error)
    return "nft.json:0"


@settings(max_examples=150, deadline=None)
@given(st.sampled_from(["inet.nft", "more.nft", "inet.json"]), st.floats(0, 1, exclude_max=True), st.sampled_from(["", "x", "}"]))
def test_text_that_is_cut_off_is_one_error_with_its_line(file: str, where: float, tail: str) -> None:
    text = (DATA / file).read_text()
    text = text[: int(len(text) * where)] + tail
    read = read_json if file.endswith("json") else read_text
    assert re.match(r"nft.json(:\d+|, )", told(lambda: read(text, "nft.json")))


# -- the memory itself -------------------------------------------------------------------------------------------------


def test_what_a_reader_drops_or_cuts_is_not_trusted() -> None:
    """A reader whose answer depends on a number is asked every time."""
    asked: list[str] = []

    def reader(text: str) -> tuple[object, ...]:
        asked.append(text)
        number = int(text.split()[1])
        return ("small",) if number < 100 else (number,)

    shapes = Shapes(TEXT_HOLES, reader)
    assert [shapes.read(f"x {n}") for n in (1, 2, 3, 500)] == [None] * 4
    assert len(asked) == 2  # the second text and its stand-in; from then on the caller reads
