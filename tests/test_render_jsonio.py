"""netlab.render.jsonio: the JSON of a trace is DESIGN's form, satisfies its own schema, and can be read back."""

from __future__ import annotations

import copy
import json
from fractions import Fraction
from typing import Any

import any_trace
import hand_traces
import jsonschema
import pytest
from hypothesis import given, settings

from netlab.errors import InputError
from netlab.refs import Ref
from netlab.render.jsonio import dumps, loads, schema, to_builtins
from netlab.trace.steps import Branch, Trace, Verdict

VALIDATOR = jsonschema.Draft202012Validator(json.loads(schema()))


def test_form() -> None:
    data = json.loads(dumps(hand_traces.partial()))
    assert list(data) == [
        "apiVersion", "kind", "source", "destination", "protocol", "verdict", "branches", "assumptions", "notModelled",
    ]  # fmt: skip
    assert (data["apiVersion"], data["kind"], data["protocol"], data["verdict"]) == ("netlab/v1", "Trace", "TCP", "partial")
    assert data["source"] == {
        "text": "web-0", "name": "default/web-0", "kind": "pod", "ip": "10.244.0.7", "where": "default/web-0",
    }  # fmt: skip
    first, _, last = data["branches"]
    assert list(first)[:7] == ["probability", "probabilityExact", "verdict", "endpoint", "endpointName", "sourceSeen", "reason"]
    assert (first["probability"], first["probabilityExact"]) == (1 / 3, "1/3")
    assert (first["verdict"], first["endpoint"], first["sourceSeen"]) == ("delivered", "10.244.0.3:9376", "10.244.0.7")
    assert first["reason"] is None
    assert first["reply"]["arrived"] is True
    assert {k: last[k] for k in ("verdict", "endpoint", "endpointName", "sourceSeen", "reply")} == {
        "verdict": "dropped", "endpoint": None, "endpointName": None, "sourceSeen": None, "reply": None,
    }  # fmt: skip
    node_2 = last["hops"][2]
    assert (node_2["where"], node_2["kind"]) == ("node-2", "node")
    assert node_2["steps"][-1] == {
        "step": "dropped",
        "reason": "filter FORWARD rule 3",
        "ref": {"file": "iptables-save", "line": 41},
    }


@pytest.mark.parametrize("name", hand_traces.TRACES)
def test_traces_satisfy_the_schema_and_come_back(name: str) -> None:
    trace = hand_traces.TRACES[name]()
    VALIDATOR.validate(json.loads(dumps(trace)))
    assert loads(dumps(trace)) == trace


@settings(max_examples=150, deadline=None)
@given(any_trace.traces())
def test_any_trace_satisfies_the_schema_and_comes_back(trace: Trace) -> None:
    text = dumps(trace)
    VALIDATOR.validate(json.loads(text))
    assert loads(text) == trace


def test_schema_is_a_schema_and_describes_every_type() -> None:
    drawn = json.loads(schema())
    jsonschema.Draft202012Validator.check_schema(drawn)
    assert drawn["$schema"] == "https://json-schema.org/draft/2020-12/schema"
    assert all(d.get("description") for d in drawn["$defs"].values())
    assert "`sourceSeen`" in drawn["$defs"]["Branch"]["description"]


def _set(*path: Any, to: Any) -> Any:
    def change(data: Any) -> None:
        for key in path[:-1]:
            data = data[key]
        data[path[-1]] = to

    return change


def _drop(*path: Any) -> Any:
    def change(data: Any) -> None:
        for key in path[:-1]:
            data = data[key]
        del data[path[-1]]

    return change


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (_set("kind", to="Topology"), "not a Trace of netlab/v1"),
        (_set("apiVersion", to="netlab/v2"), "not a Trace of netlab/v1"),
        (_drop("verdict"), "verdict"),
        (_set("verdict", to="fine"), "$.verdict"),
        (_set("branches", to={}), "$.branches"),
        (_set("branches", 0, to=7), "$.branches[0]"),
        (_set("branches", 0, "probabilityExact", to="4/3"), "between 0 and 1"),
        (_set("branches", 0, "probabilityExact", to="1/0"), "not a probability"),
        (_set("branches", 0, "probabilityExact", to="a third"), "not a probability"),
        (_set("branches", 0, "probabilityExact", to=True), "not a probability"),
        (_drop("branches", 0, "reason"), "reason"),
        (_set("branches", 0, "hops", 0, "steps", 0, "step", to="teleported"), "teleported"),
        (_set("branches", 0, "hops", 0, "steps", 0, "packet", "dport", to="80"), "$.branches[0].hops[0].steps[0].packet.dport"),
    ],
)
def test_wrong_documents_are_refused_by_loads_and_by_the_schema(change: Any, says: str) -> None:
    data = copy.deepcopy(to_builtins(hand_traces.vxlan()))
    data = json.loads(json.dumps(data))
    change(data)
    with pytest.raises(InputError) as error:
        loads(json.dumps(data), Ref(file="trace.json"))
    assert says in str(error.value)
    assert str(error.value).startswith("trace.json: ")
    if says not in ("between 0 and 1", "not a probability"):
        assert not VALIDATOR.is_valid(data)


@pytest.mark.parametrize("text", ["", "{", "[]", "null", '"Trace"', '{"kind": "Trace"}', "[" * 100_000])
def test_what_is_no_trace_is_one_input_error(text: str) -> None:
    with pytest.raises(InputError):
        loads(text)


def test_probabilities_beyond_what_python_prints() -> None:
    p = Fraction(715827883, 2**31) ** 1000
    trace = Trace(hand_traces.WEB, hand_traces.HOSTNAMES, "TCP", Verdict.UNKNOWN, (Branch(p, Verdict.UNKNOWN, *[None] * 4, ()),))
    assert loads(dumps(trace)) == trace


def test_names_that_are_not_unicode_are_spelled_out() -> None:
    trace = Trace(hand_traces.WEB, hand_traces.HOSTNAMES, "TCP", Verdict.UNKNOWN, (), ("read caf\udce9.yaml", "C:\\udc"))
    assert loads(dumps(trace)).assumptions == ("read caf\\udce9.yaml", "C:\\udc")
