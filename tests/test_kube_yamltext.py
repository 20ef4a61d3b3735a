"""YAML is read as kubectl reads it, and hostile YAML is refused."""

import json
import math

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from netlab.errors import InputError
from netlab.kube import yamltext


def values(text):
    return [d.value for d in yamltext.read(text.encode(), "f.yaml")]


@pytest.mark.parametrize(
    ("text", "value"),
    [
        # what goyaml.v2/resolve.go makes of a plain scalar
        ("on", True),
        ("y", True),
        ("No", False),
        ("true", True),
        ("tRue", "tRue"),
        ("~", None),
        ("null", None),
        ("", None),
        ("80", 80),
        ("-1", -1),
        ("+7", 7),
        ("0x10", 16),
        ("017", 15),
        ("0o17", 15),
        ("0b11", 3),
        ("1_000", 1000),
        ("08", 8),
        ("1.5", 1.5),
        ("1e3", 1000),
        (".5", 0.5),
        ("1.2.3", "1.2.3"),
        ("10.0.0.1", "10.0.0.1"),
        ("52:54:00:12:34:56", "52:54:00:12:34:56"),
        ("190:20:30", "190:20:30"),
        ("2001-12-14", "2001-12-14"),
        ("2001-12-14T21:59:43Z", "2001-12-14T21:59:43Z"),
        ("fd00::1", "fd00::1"),
        ("-.inf", -math.inf),
        ("web-0", "web-0"),
    ],
)
def test_plain_scalars(text, value):
    found = yamltext.plain(text)
    assert (type(found), found) == (type(value), value)


def test_quotes_and_tags_decide():
    assert values("a: '80'\nb: \"on\"\nc: !!str 80\nd: !!int '80'\ne: !custom x\nf: |\n  1\n") == [
        {"a": "80", "b": "on", "c": "80", "d": 80, "e": "x", "f": "1\n"}
    ]


def test_keys_are_strings():
    assert values("80: a\non: b\n~: c\n") == [{"80": "a", "true": "b", "null": "c"}]


def test_anchors_and_merge_keys():
    assert values("base: &b {p: 1, q: 2}\nuse: {<<: *b, q: 3}\nboth: {<<: [{p: 5}, *b]}\n") == [
        {"base": {"p": 1, "q": 2}, "use": {"p": 1, "q": 3}, "both": {"p": 5, "q": 2}}
    ]


def test_documents_know_their_number_and_line():
    text = "---\n# nothing\n---\na: 1\n---\n---\nkind: List\nitems:\n- x: 1\n- x: 2\n"
    found = list(yamltext.read(text.encode(), "f.yaml"))
    assert [(d.number, d.line) for d in found] == [(2, 4), (4, 7)]
    assert found[1].item_lines == (9, 10)


BOMB = "a: &a [x,x,x,x,x,x,x,x,x,x]\n" + "".join(
    f"{chr(c + 1)}: &{chr(c + 1)} [{','.join(['*' + chr(c)] * 10)}]\n" for c in range(ord("a"), ord("k"))
)


@pytest.mark.parametrize(
    ("text", "says"),
    [
        (BOMB, "f.yaml:6, document 1: its aliases expand to more than 250,000 nodes"),
        ("a: &a [*a]", 'the alias "*a" refers to nothing'),
        ("[" * 100_000, "nested deeper than 200 levels"),
        ("- " * 1000, "nested deeper than 200 levels"),
        ("".join(f"k{i}: v\n" for i in range(2000)), "f.yaml:1001, document 1: more than 1,000 keys"),
        ("a: [1,\nb: 2", "document 1: not YAML: while parsing a flow sequence"),
        ("a:\n  - b\n\t- c", "indent with spaces"),
        ("a: {{ .Values.x }}", "helm template"),
        ("a: 1\n---\nb: c: d\n", "f.yaml:3, document 2: not YAML"),
        ("a: b\n<<: 7\n", "the merge key"),
        ("a: {b: 1, c: 2, b: 3}\n", 'f.yaml:1, document 1: the key "b" twice in one mapping'),
        ("kind: A\nx: 1\nkind: B\n", 'f.yaml:3, document 1: the key "kind" twice in one mapping\n  is a line with --- missing'),
        ("a: \x00", "not YAML"),
    ],
)
def test_refused(text, says):
    with pytest.raises(InputError) as caught:
        values(text)
    assert says in str(caught.value)


def test_too_many_nodes(monkeypatch):
    monkeypatch.setattr(yamltext, "MAX_NODES", 100)
    with pytest.raises(InputError, match="more than 100 nodes"):
        values(f"a: [{'x,' * 200}]")


def test_a_merged_key_is_no_second_key():
    assert values("base: &b {p: 1}\nuse: {p: 2, <<: *b}\n") == [{"base": {"p": 1}, "use": {"p": 2}}]


def test_line_of_a_field():
    text = b"a: 1\n---\nspec:\n  ports:\n  - port: 80\n  - name: x\n    port: no\n"
    assert yamltext.line_of(text, 2, ("spec", "ports", 1, "port")) == 7
    assert yamltext.line_of(text, 2, ("spec", "ports", 1, "nothing")) == 6


plain_trees = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**53), 2**53)
    | st.text(st.characters(codec="utf-8", exclude_categories=("Cc", "Cs"))),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text("abc-./", min_size=1), inner, max_size=4),
    max_leaves=20,
)


@given(st.dictionaries(st.text("abcxyz", min_size=1), plain_trees, max_size=5))
def test_what_is_written_is_read_again(tree):
    assert values(yaml.safe_dump(tree, default_style='"')) == [tree]
    assert values(json.dumps(tree, ensure_ascii=False)) == [tree]


def test_without_libyaml(monkeypatch):
    monkeypatch.setattr(yamltext, "Loader", yaml.SafeLoader)
    assert values("a: [1, 'x']\n---\nb: on\n") == [{"a": [1, "x"]}, {"b": True}]
