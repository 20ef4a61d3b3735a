"""`netlab check`'s rows: what reading refuses, and what comparing finds. Traces are written by hand here."""

from __future__ import annotations

from fractions import Fraction

import pytest

from netlab.cli.check import read_rows
from netlab.errors import InputError
from netlab.refs import Ref
from netlab.trace.check import Difference, Field, Row, compare, read, run
from netlab.trace.steps import Branch, Header, Hop, Party, Sent, Trace, Verdict

WEB = "10.244.0.2"
API1, API2 = "10.244.1.3:8080", "10.244.2.4:8080"


def branch(endpoint: str | None = API1, seen: str | None = WEB, verdict: Verdict = Verdict.DELIVERED, share: str = "1") -> Branch:
    sent = Sent(packet=Header("TCP", WEB, "10.96.0.10", 32768, 80), by="pod default/web-0")
    reason = None if verdict is Verdict.DELIVERED else "no endpoints"
    return Branch(Fraction(share), verdict, endpoint, None, seen, reason, (Hop("default/web-0", "pod", (sent,)),))


def trace(*branches: Branch, verdict: Verdict = Verdict.DELIVERED) -> Trace:
    source = Party("web-0", "default/web-0", "pod", WEB)
    return Trace(source, Party("svc/api:80", "default/api", "service", "10.96.0.10", 80), "TCP", verdict, branches)


def row(**fields: object) -> Row:
    given = {"source": "web-0", "destination": "svc/api:80", "expect": "delivered", **fields}
    return read([given], "rows.yaml")[0]


SPREAD = trace(branch(share="1/2"), branch(API2, share="1/2"))
MASQUERADED = trace(branch(seen="10.244.0.1"))
MIXED = trace(branch(share="1/2"), branch(API2, "10.244.0.1", share="1/2"))
DROPPED = trace(branch(None, None, Verdict.DROPPED), verdict=Verdict.DROPPED)
HALF = trace(branch(share="1/2"), branch(API2, WEB, Verdict.DROPPED, "1/2"), verdict=Verdict.PARTIAL)


@pytest.mark.parametrize(
    ("fields", "found", "differences"),
    [
        ({}, SPREAD, []),
        ({"expect": "dropped"}, SPREAD, [("expect", "dropped", "delivered")]),
        ({"expect": "unknown"}, DROPPED, [("expect", "unknown", "dropped")]),
        ({"expect": "partial"}, HALF, []),
        ({"endpoints": [API2, API1]}, SPREAD, []),
        ({"endpoints": [API1]}, SPREAD, [("endpoints", API1, f"{API1}, {API2}")]),
        ({"expect": "partial", "endpoints": [API1]}, HALF, []),
        ({"expect": "dropped", "endpoints": []}, DROPPED, []),
        ({"expect": "dropped", "endpoints": [API1]}, DROPPED, [("endpoints", API1, "none")]),
        ({"sourceSeen": WEB}, SPREAD, []),
        ({"sourceSeen": WEB}, MASQUERADED, [("sourceSeen", WEB, "10.244.0.1")]),
        ({"sourceSeen": WEB}, MIXED, [("sourceSeen", WEB, f"10.244.0.1, {WEB}")]),
        ({"expect": "dropped", "sourceSeen": WEB}, DROPPED, [("sourceSeen", WEB, "none")]),
        ({"masquerade": False}, SPREAD, []),
        ({"masquerade": True}, SPREAD, [("masquerade", "true", "false")]),
        ({"masquerade": True}, MASQUERADED, []),
        ({"masquerade": False}, MIXED, [("masquerade", "false", "false, true")]),
        ({"expect": "dropped", "masquerade": False}, DROPPED, [("masquerade", "false", "none")]),
    ],
)
def test_only_what_a_row_says_is_compared(
    fields: dict[str, object], found: Trace, differences: list[tuple[str, str, str]]
) -> None:
    result = compare(row(**fields), found)
    assert list(result.differences) == [Difference(Field(f), expected, got) for f, expected, got in differences]
    assert result.ok == (not differences)


def test_a_result_has_every_branch_and_the_first_reason() -> None:
    result = compare(row(), HALF)
    assert [(b.probability, b.verdict, b.endpoint, b.source_seen) for b in result.branches] == [
        (Fraction(1, 2), Verdict.DELIVERED, API1, WEB),
        (Fraction(1, 2), Verdict.DROPPED, API2, WEB),
    ]
    assert result.reason == "no endpoints"


def test_ipv6_endpoints_are_compared_as_addresses() -> None:
    assert row(endpoints=["[FD00:0::2]:80"]).endpoints == ("[fd00::2]:80",)
    assert row(endpoints=["fd00:0::2"], protocol="ICMP").endpoints == ("fd00::2",)
    assert row(sourceSeen="fd00:0:0::1").source_seen == "fd00::1"


@pytest.mark.parametrize(
    ("fields", "what", "hint"),
    [
        ({"expct": "dropped"}, 'unknown key "expct"', 'did you mean "expect"?'),
        ({"source_seen": "10.0.0.1"}, 'unknown key "source_seen"', 'did you mean "sourceSeen"'),
        ({"wuff": 1}, 'unknown key "wuff"', "a row has name, source, destination"),
        ({"expect": "deliverd"}, '"expect" must be one of delivered, dropped', None),
        ({"expect": True}, '"expect" must be text, not true', None),
        ({"expect": None}, '"expect" must be text, not null', None),
        ({"source": ""}, '"source" must be text, not empty text', None),
        ({"source": 5}, '"source" must be text, not the number 5', None),
        ({"protocol": "tpc"}, '"protocol" must be one of tcp, udp, sctp, icmp, not "tpc"', None),
        ({"endpoints": API1}, '"endpoints" must be a list of "ip:port", not text', None),
        ({"endpoints": [80]}, '"endpoints" must be text, not the number 80', None),
        ({"endpoints": ["10.0.0.1:0"]}, '"10.0.0.1:0" is not ip:port', None),
        ({"endpoints": ["10.0.0.1:65536"]}, "is not ip:port", None),
        ({"endpoints": ["api-0:80"]}, "not an IP address: 'api-0'", None),
        ({"sourceSeen": "10.0.0.256"}, "\"sourceSeen\": not an IP address: '10.0.0.256'", None),
        ({"masquerade": "yes"}, '"masquerade" must be true or false, not text', None),
        ({"at": ["node-1"]}, '"at" must be text, not a list', None),
    ],
)
def test_a_row_that_says_nothing_clear_is_refused(fields: dict[str, object], what: str, hint: str | None) -> None:
    with pytest.raises(InputError) as error:
        row(**fields)
    assert what in error.value.what
    assert hint is None or hint in (error.value.hint or "")
    assert str(error.value).startswith("rows.yaml, row 1: ")


@pytest.mark.parametrize("key", ["source", "destination", "expect"])
def test_what_a_row_must_have(key: str) -> None:
    given = {"source": "web-0", "destination": "svc/api:80", "expect": "delivered"}
    del given[key]
    with pytest.raises(InputError, match=f'row 1: "{key}" is missing'):
        read([given], "rows.yaml")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "no rows"),
        ("[]", "no rows"),
        ("# nothing\n", "no rows"),
        ("{}", "rows must be a list, not a mapping"),
        ("web-0", "rows must be a list, not text"),
        ("- web-0\n", "rows.yaml:1, row 1: must be a mapping, not text"),
        ("- {source: a, destination: b, expect: dropped}\n- \n- {}", "rows.yaml:2, row 2: must be a mapping, not null"),
        (
            "# first\n- {source: a,\n   destination: b, expect: dropped}\n\n- {surce: a}",
            ':5, row 2: unknown key "surce"',
        ),
        ('[{"source": "a", "destination": "b", "expect": "dropped"},\n {"expect": "x"}]', 'rows.yaml:2, row 2: "expect" must be'),
        ("- a\n---\n- b\n", "rows.yaml:3: rows are one document"),
        ("- {source: a", "not YAML"),
        ("a: &a [x, x]\nb: &b [*a, *a]\nc: *d\n", "refers to nothing"),
        ("- \0\n", "binary"),
        ("- \udcff\n", "rows.yaml:1: not UTF-8 text"),
    ],
)
def test_a_file_that_is_not_rows(
    text: str, message: str, tmp_path: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(str(tmp_path))
    with open("rows.yaml", "w", errors="surrogateescape") as file:
        file.write(text)
    with pytest.raises(InputError) as error:
        read_rows("rows.yaml")
    assert message in str(error.value)


def test_a_file_that_is_not_there(tmp_path: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(str(tmp_path))
    open("flows.yaml", "w").close()
    with pytest.raises(InputError, match=r'flow\.yaml: no such file\n  did you mean "flows\.yaml"') as error:
        read_rows("flow.yaml")
    assert error.value.ref == Ref(file="flow.yaml")
    with pytest.raises(InputError, match=r"\.: cannot read the file: Is a directory"):
        read_rows(".")


def test_equal_questions_are_asked_once_and_every_error_is_told() -> None:
    asked = []

    def answer(row: Row) -> Trace:
        asked.append(row.flow)
        if row.source == "nobody":
            raise InputError('unknown pod "nobody"', None, "did you mean Nemo?")
        return SPREAD

    rows = (
        row(),
        row(name="again", masquerade=True),
        row(protocol="udp"),
        row(at="node-1"),
        row(source="nobody"),
        row(source="nobody"),
    )
    results, errors = run(rows, answer)
    assert asked[:3] == ["web-0 -> svc/api:80", "web-0 -> svc/api:80 (udp)", "web-0 -> svc/api:80 (at node-1)"]
    assert [r.ok for r in results] == [True, False, True, True]
    assert [str(e) for e in errors] == ['rows.yaml, row 1: nobody -> svc/api:80: unknown pod "nobody"\n  did you mean Nemo?'] * 2
