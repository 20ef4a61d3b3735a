"""netlab.render.checks: rows that differ as text, every row as JSON and JUnit."""

from __future__ import annotations

import json
from fractions import Fraction
from xml.etree import ElementTree

import hand_traces

from netlab.refs import Ref
from netlab.render import checks
from netlab.trace.check import Result, Row, compare
from netlab.trace.steps import Verdict


def row(line: int, expect: Verdict, **fields: object) -> Row:
    source, destination = fields.pop("source", "web-0"), fields.pop("destination", "svc/hostnames:80")
    return Row(str(source), str(destination), expect, ref=Ref(file="flows.yaml", line=line), **fields)  # type: ignore[arg-type]


RESULTS = [
    compare(row(1, Verdict.DELIVERED, masquerade=False, source_seen="10.244.0.7"), hand_traces.three_branches()),
    compare(row(2, Verdict.DELIVERED, destination="svc/nobody:80", name="nobody <answers>"), hand_traces.rejected()),
    compare(row(3, Verdict.DELIVERED, endpoints=("10.244.0.3:9376",), masquerade=True), hand_traces.vxlan()),
    compare(row(4, Verdict.PARTIAL, source="we\x1bb-0", source_seen="10.244.0.1"), hand_traces.partial()),
]
REASON = hand_traces.rejected().branches[0].reason


def test_text_has_the_rows_that_differ_and_a_summary() -> None:
    assert checks.text(RESULTS).splitlines() == [
        "flows.yaml:2: nobody <answers>  (web-0 -> svc/nobody:80)",
        "  expect  expected delivered  found rejected",
        f"  reason: {REASON}",
        "flows.yaml:3: web-0 -> svc/hostnames:80",
        "  endpoints   expected 10.244.0.3:9376  found 10.244.1.2:9376",
        "  masquerade  expected true             found false",
        "flows.yaml:4: we\\x1bb-0 -> svc/hostnames:80",
        "  sourceSeen  expected 10.244.0.1  found 10.244.0.7",
        "4 rows: 1 as expected, 3 differ",
    ]


def test_text_of_a_check_that_passes_is_one_line() -> None:
    assert checks.text(RESULTS[:1]) == "1 row: all as expected"


def test_json_has_every_row_in_order() -> None:
    data = json.loads(checks.json(RESULTS))
    assert (data["apiVersion"], data["kind"], data["ok"]) == ("netlab/v1", "Check", False)
    assert [(r["source"], r["verdict"], r["ok"]) for r in data["rows"]] == [
        ("web-0", "delivered", True),
        ("web-0", "rejected", False),
        ("web-0", "delivered", False),
        ("we\x1bb-0", "partial", False),
    ]
    assert data["rows"][0]["branches"][1] == {
        "probability": 1 / 3,
        "probabilityExact": "1/3",
        "verdict": "delivered",
        "endpoint": "10.244.1.2:9376",
        "sourceSeen": "10.244.0.7",
        "reason": None,
    }
    assert data["rows"][1]["differences"] == [{"field": "expect", "expected": "delivered", "found": "rejected"}]
    assert data["rows"][1]["reason"] == REASON


def test_json_of_large_fractions_and_odd_names() -> None:
    known = RESULTS[0]
    branch = known.branches[0]
    tiny = type(branch)(Fraction(1, 3) ** 20_000, branch.verdict, "caf\udce9", None, None)
    data = json.loads(checks.json([Result(known.row, known.verdict, None, (tiny,), ())]))
    assert data["rows"][0]["branches"][0]["endpoint"] == "caf\\udce9"


def test_junit_has_every_row_and_is_xml() -> None:
    root = ElementTree.fromstring(checks.junit(RESULTS))
    suite = root[0]
    assert (suite.get("tests"), suite.get("failures"), suite.get("errors")) == ("4", "3", "0")
    assert [(case.get("classname"), case.get("name"), case.get("line"), len(case)) for case in suite] == [
        ("flows.yaml", "web-0 -> svc/hostnames:80", "1", 0),
        ("flows.yaml", "nobody <answers>", "2", 1),
        ("flows.yaml", "web-0 -> svc/hostnames:80", "3", 1),
        ("flows.yaml", "we\\x1bb-0 -> svc/hostnames:80", "4", 1),
    ]
    assert suite[1][0].get("message") == (f"web-0 -> svc/nobody:80: expect: expected delivered, found rejected ({REASON})")
