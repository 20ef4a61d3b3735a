"""nft's text and JSON: what was recorded reads whole and is written back as it was; what is broken is told with its place.

tests/data/nft was recorded from nft 1.0.6: every statement and expression that it took of some 600, in three families.
"""

from __future__ import annotations

import json
from pathlib import Path
from random import Random
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec.structs import replace

from netlab.errors import InputError
from netlab.lab.fuzz_nft import NftMaker
from netlab.linux import nft as n
from netlab.linux.nft import NftTable
from netlab.linux.text.nft import read, read_json, read_statements, read_text, rule_text, write_json, write_text

HERE = Path(__file__).parent
RECORDED = HERE / "data" / "kube-proxy-1.30.5"
TEXTS = sorted(RECORDED.glob("*/nftables/*.nft"))
JSONS = sorted(RECORDED.glob("*/nftables/*.nft.json"))
SAMPLES = sorted((HERE / "data" / "nft").glob("*.nft"))
SHARED = HERE.parent.parent / "shared" / "reference"
CALICO = SHARED / "calico" / "cali-nftables-dump.txt"


def name(path: Path) -> str:
    return f"{path.parts[-3]}-{path.name}"


def unknowns(tables: tuple[NftTable, ...]) -> list[str]:
    return [
        rule_text(rule, table)
        for table in tables
        for chain in table.chains.values()
        for rule in chain.rules
        if "UnknownStatement" in repr(rule) or "UnknownExpression" in repr(rule)
    ]


@pytest.mark.parametrize("path", TEXTS, ids=name)
def test_recorded_text_is_read_whole_and_written_as_it_was(path: Path) -> None:
    text = path.read_text()
    tables = read_text(text, path.name)
    assert unknowns(tables) == []
    assert write_text(tables) == text


@pytest.mark.parametrize("path", JSONS, ids=name)
def test_recorded_json_is_read_whole_and_written_as_it_was(path: Path) -> None:
    text = path.read_text()
    tables = read_json(text, path.name)
    assert unknowns(tables) == []
    assert without_handles(json.loads(write_json(tables))) == without_handles(json.loads(text))
    rules = [entry["rule"]["handle"] for entry in json.loads(write_json(tables))["nftables"] if "rule" in entry]
    assert rules == [entry["rule"]["handle"] for entry in json.loads(text)["nftables"] if "rule" in entry]


@pytest.mark.parametrize("path", JSONS, ids=name)
def test_both_forms_give_the_same_value(path: Path) -> None:
    """But for the comments of tables and chains, which nft 1.0.6 leaves out of JSON."""
    from_text = read_text(path.with_suffix("").read_text())
    bare = tuple(
        replace(t, comment="", chains={name: replace(c, comment="") for name, c in t.chains.items()}) for t in from_text
    )
    assert read_json(path.read_text()) == bare


def without_handles(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: without_handles(each) for key, each in value.items() if key != "handle"}
    return [without_handles(each) for each in value] if isinstance(value, list) else value


@pytest.mark.parametrize("path", SAMPLES, ids=lambda path: path.name)
def test_whatever_nft_prints_is_written_as_it_was(path: Path) -> None:
    text = path.read_text()
    tables = read_text(text)
    assert write_text(tables) == text
    assert read_text(write_text(tables)) == tables


@pytest.mark.parametrize("name", ["inet", "more"])
def test_the_forms_of_a_rule_are_one_value(name: str) -> None:
    """But for what netlab does not model, which stays what it was, and symbols that only one form has."""
    folder = HERE / "data" / "nft"
    one, two = read_text((folder / f"{name}.nft").read_text()), read_json((folder / f"{name}.json").read_text())
    different = []
    for left, right in zip(one, two, strict=True):
        assert left.chains.keys() == right.chains.keys()
        for chain in left.chains:
            for a, b in zip(left.chains[chain].rules, right.chains[chain].rules, strict=True):
                if a != b and "Unknown" not in repr(a.statements):
                    different.append(rule_text(a, left))
    assert different == {
        "inet": ["ct expiration 10s accept", "meta rtclassid 5"],
        "more": ["icmp type 3-5"],
    }[name]


@pytest.mark.skipif(not CALICO.exists(), reason="the published dumps are not here")
def test_calicos_dump_is_read_whole_and_written_as_it_was() -> None:
    text = CALICO.read_text()
    tables = read_text(text)
    assert unknowns(tables) == []
    assert write_text(tables) == text
    assert read_json(write_json(tables)) == tables


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 2**32), st.sampled_from([4, 6]))
def test_reading_undoes_writing(seed: int, family: int) -> None:
    tables = NftMaker(Random(seed), family).nft_ruleset().nft_tables
    assert read_text(write_text(tables)) == tables
    assert without_dynamic(read(write_json(tables))) == without_dynamic(tables)


def without_dynamic(tables: tuple[NftTable, ...]) -> list[NftTable]:
    """JSON of nft 1.0.6 does not have that flag."""
    def without(made: n.NftSet) -> n.NftSet:
        return replace(made, flags=tuple(flag for flag in made.flags if flag != "dynamic"))

    return [replace(t, sets={name: without(made) for name, made in t.sets.items()}) for t in tables]


# -- one statement -----------------------------------------------------------------------------------------------------

STATE, MARK = n.CtKey("state"), n.Meta("mark")


@pytest.mark.parametrize(
    ("text", "values"),
    [
        ("ct state new jump services", (n.Compare(STATE, "in", n.Value("new")), n.Verdict("jump", "services"))),
        ("ct state established,related", (n.Compare(STATE, "in", n.ListValue((n.Value("established"), n.Value("related")))),)),
        ("ct state != new", (n.Compare(STATE, "!=", n.Value("new")),)),
        ("meta mark & 0x00004000 == 0x00000000", (n.Compare(n.Binary("&", MARK, n.Value(0x4000)), "==", n.Value(0)),)),
        ("meta mark set meta mark ^ 0x00004000", (n.Mangle(MARK, n.Binary("^", MARK, n.Value(0x4000))),)),
        ("tcp dport 80", (n.Compare(n.Payload("tcp", "dport"), "==", n.Value(80)),)),
        ('iifname "cali*"', (n.Compare(n.Meta("iifname"), "==", n.Value("cali*")),)),
        ("dnat to [fd00::2]:8080", (n.Nat("dnat", n.Value("fd00::2"), n.Value(8080)),)),
        ("masquerade fully-random", (n.Nat("masquerade", flags=("fully-random",)),)),
        ("reject", (n.RejectStatement(),)),
        ("reject with tcp reset", (n.RejectStatement("tcp reset"),)),
        (
            "fib saddr . mark . iif oif 0 drop",
            (n.Compare(n.Fib(("saddr", "mark", "iif"), "oif"), "==", n.Value(0)), n.Verdict("drop")),
        ),
    ],
)
def test_a_statement_is_a_value(text: str, values: tuple[n.Statement, ...]) -> None:
    assert read_statements(text, "ip") == values
    assert rule_text(n.NftRule(values), NftTable("ip", "t")) == text


@pytest.mark.parametrize(
    ("written", "printed"),
    [
        ("ct state { new } accept", "ct state { new } accept"),
        ("tcp flags & (fin|syn|rst|ack) == syn", "tcp flags syn / fin,syn,rst,ack"),
        ("meta mark eq 5", "meta mark 0x00000005"),
        ("set update ip saddr timeout 5s @seen", "update @seen { ip saddr timeout 5s }"),
        ("counter", "counter packets 0 bytes 0"),
        ("ip saddr . tcp dport { 10.0.0.1 . 80 }", "ip saddr . tcp dport { 10.0.0.1 . 80 }"),
        ("reject with icmp type port-unreachable", "reject"),
    ],
)
def test_other_spellings_are_read(written: str, printed: str) -> None:
    assert rule_text(n.NftRule(read_statements(written, "ip")), NftTable("ip", "t")) == printed


# -- what is broken ----------------------------------------------------------------------------------------------------


def table(body: str) -> str:
    return f"table ip t {{\n{body}\n}}\n"


@pytest.mark.parametrize(
    ("text", "line", "what", "hint"),
    [
        (table("\tset s {\n\t\ttype ipv4_addr\n\t\telements = { 10.0.0.1,")[:-3], 4, "the text ends within set s", "cut off"),
        (table("\tset s {\n\t\ttype ipv4_addr\n\t\telements = { 10.0.0 }\n\t}"), 2, "has 3 parts", "cut off"),
        (table("\tset s {\n\t\ttype ipv4_addr\n\t\telements = { fd00::1 }\n\t}"), 2, "is not an IPv4 address", "cut off"),
        (table("\tset s {\n\t\ttype ipv4_addr . mark\n\t\telements = { 10.0.0.1 }\n\t}"), 2, "has 1 parts", "cut off"),
        (table("\tset s {\n\t\telements = { 10.0.0.1 }\n\t}"), 3, "must come before its elements", None),
        (table("\tset s {\n\t\ttype inet_service\n\t\tflags intervall\n\t}"), 4, "unknown flag 'intervall'", '"interval"'),
        (table("\tmap m {\n\t\ttype mark : verdict\n\t\telements = { 1 : jump gone }\n\t}"), 2, "leads to chain gone", None),
        (table("\tchain c {\n\t\tjump d\n\t}\n\tchain dd {\n\t}"), 3, "leads to chain d", '"dd"'),
        (table("\tchain c {\n\t\tip saddr @gone drop\n\t}"), 3, "names set gone", "complete"),
        (table("\tchain c {\n\t\tip saddr vmap { 10.0.0.1 : goto gone }\n\t}"), 3, "leads to chain gone", None),
        (table("\tchain c {\n\t\tip sadr 10.0.0.1 drop\n\t}"), 3, "ip has no field 'sadr'", '"saddr"'),
        (table("\tchain c {\n\t\tct sate new\n\t}"), 3, "ct has no key 'sate'", '"state"'),
        (table("\tchain c {\n\t\tip saddr\n\t}"), 3, "a value is expected", None),
        (table("\tchain c {\n\t\tfrobnicate\n\t}"), 3, "'frobnicate' is no statement of nft", None),
        (table("\tchain c {\n\t\ttype filter hook preroute priority 0;\n\t}"), 3, "unknown hook 'preroute'", '"prerouting"'),
        (table("\tchain c {\n\t\ttype filter hook input priority dstnat;\n\t}"), 3, "unknown priority 'dstnat' at input", None),
        (table('\tchain c {\n\t\tdrop comment "half\n\t}'), 3, "not a word of nft", "quotes"),
        (table("\tchain c {\n\t}\n\tchain c {\n\t}"), 4, "chain c is there twice", "one dump"),
        ("table ip t {\n\tchain c {\n\t\tdrop\n", 4, "the text ends within chain c", "cut off"),
        ("tabel ip t {\n}\n", 1, "a table is expected, not 'tabel'", '"table"'),
        ("table ipx t {\n}\n", 1, "unknown family 'ipx'", None),
        (table("\tchain c {\n\t\tip saddr 10.0.0.0/33 drop\n\t}"), 3, "10.0.0.0/33 has no valid prefix length", None),
        (table("\tchain c {\n\t\ttcp dport 08 drop\n\t}"), 3, "'08' is no number", None),
        (table(f"\tchain c {{\n\t\ttcp dport {'9' * 5000} drop\n\t}}"), 3, "is too large a number", None),
        (table(f"\tchain c {{\n\t\tmeta mark {'(' * 5000}\n\t}}"), 3, "nested too deep", None),
        ("# Generated by iptables-nft-save\n*nat\nCOMMIT\n", 2, "a table is expected, not '*'", "nft list ruleset"),
    ],
)  # fmt: skip
def test_broken_text_is_one_error_with_its_line(text: str, line: int, what: str, hint: str | None) -> None:
    with pytest.raises(InputError) as caught:
        read_text(text, "dump.nft")
    assert str(caught.value).startswith(f"dump.nft:{line}: ")
    assert what in caught.value.what
    assert hint is None or hint in (caught.value.hint or "")


def document(*entries: Any) -> str:
    head = [{"metainfo": {"json_schema_version": 1}}, {"table": {"family": "ip", "name": "t"}}]
    return json.dumps({"nftables": [*head, *entries]})


def part(kind: str, **values: Any) -> dict[str, Any]:
    return {kind: {"family": "ip", "table": "t", **values}}


CHAIN = part("chain", name="c")


def rule(*statements: Any) -> str:
    return document(CHAIN, part("rule", chain="c", expr=list(statements)))


@pytest.mark.parametrize(
    ("text", "place", "what"),
    [
        ('{"nftables": [{"metainfo": {"json_schema_version": 2}}]}', "nftables[0].metainfo", "schema version 2"),
        ('{"nftables": [{"metainfo": {"json', "nft.json:1", "not JSON"),
        ("[]", "nft.json", 'no "nftables" list'),
        (document(part("rule", chain="gone", expr=[])), "nftables[2].rule.chain", "chain gone"),
        (rule({"jump": {"target": "cc"}}), "nftables[3].rule", "leads to chain cc"),
        (rule({"match": {"op": "=="}}), "nftables[3].rule.expr[0].match.left", "expected"),
        (rule({"match": {"op": "=~"}}), "nftables[3].rule.expr[0].match", "unknown operator"),
        (document(part("set", name="s", type="ipv4_addr", elem=["10.0.0"])), "nftables[2].set.elem[0]", "not an IPv4 address"),
        (rule({"limit": {"rate": "x"}}), "nftables[3].rule.expr[0].limit", "rate must be a number"),
        (rule({"counter": {"packets": "x"}}), "nftables[3].rule.expr[0].counter", "packets must be a number"),
        (rule({"reject": {"type": ["icmp"]}}), "nftables[3].rule.expr[0].reject.type", "unknown type ['icmp']"),
        (document(part("chain", name="x", hook=["input"])), "nftables[2].chain", "hook must be a text"),
        (document(part("set", name="s", type="ipv4_addr", timeout="x")), "nftables[2].set", "timeout must be a number"),
        (document(part("chain", name="x", handle=7)).replace("7", "7" * 5000), "[2].chain", "a number in it is too large"),
        (document(part("map", name="m", type="mark", map="verdict", elem=[[5]])), "nftables[2].map.elem[0]", "a pair of key"),
        (document(part("map", name="m", type="mark", map="verdict", elem=[[5, {"goto": {"target": "x"}}]])), "map", "chain x"),
        (document(part("chain", name="c", hook="input")), "nftables[2].chain", "prio is missing"),
        (document(part("gizmo", name="c")), "nftables[2].gizmo", "unknown object 'gizmo'"),
        (document({"chain": {"family": "ip", "table": "tt", "name": "c"}}), "nftables[2].chain.table", "table ip tt"),
    ],
)  # fmt: skip
def test_broken_json_is_one_error_with_its_path(text: str, place: str, what: str) -> None:
    with pytest.raises(InputError) as caught:
        read_json(text, "nft.json")
    assert place in str(caught.value)
    assert what in caught.value.what


def test_a_set_that_a_rule_changes_is_dynamic() -> None:
    """nft 1.0.6 leaves the flag out of its JSON; without it the text would not load."""
    change = {"set": {"op": "update", "elem": {"payload": {"protocol": "ip", "field": "saddr"}}, "set": "@s"}}
    seen = part("set", name="s", type="ipv4_addr", flags=["timeout"], timeout=5)
    text = document(seen, CHAIN, part("rule", chain="c", expr=[change]))
    assert read_json(text)[0].sets["s"].flags == ("dynamic", "timeout")


def test_what_is_not_modelled_stays_what_it_was() -> None:
    raw = {"tproxy": {"port": 50}}
    tables = read_json(rule(raw))
    assert tables[0].chains["c"].rules[0].statements == (n.UnknownStatement("", json.dumps(raw)),)
    assert json.loads(write_json(tables))["nftables"][-1]["rule"]["expr"] == [raw]
    with pytest.raises(InputError, match="cannot be written as text"):
        write_text(tables)
