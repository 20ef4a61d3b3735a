"""netlab.render.text: whole traces as golden text; what must hold for any trace as properties.

The golden files are written by `python tests/test_render_text.py`; read the diff before you commit it.
"""

from __future__ import annotations

import re
import subprocess
import sys
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import get_args

import any_trace
import hand_traces
import pytest
from hypothesis import given, settings
from msgspec import structs

from netlab.render.chains import nat_words
from netlab.render.text import one_line, probability, render
from netlab.trace.steps import AnyStep, Branch, Dropped, Hop, Natted, NoteStep, Rejected, Sent, Trace, Verdict

GOLDEN = Path(__file__).parent / "golden"
ANSI = re.compile(r"\x1b\[[0-9;]*m")
WIDE = ("vxlan", "rejected", "every_step")
FILES = {f"trace-{name}.txt": (name, False) for name in hand_traces.TRACES} | {
    f"trace-{name}.wide.txt": (name, True) for name in WIDE
}


def golden_text(name: str, wide: bool) -> str:
    trace = hand_traces.TRACES[name]()
    return f"{render(trace, wide=wide)}\n"


@pytest.mark.parametrize("file", FILES)
def test_golden(file: str) -> None:
    assert golden_text(*FILES[file]) == (GOLDEN / file).read_text()


@dataclass
class Row:
    trace: str
    line: str


ROWS = [
    Row("vxlan", "yes  default/web-0 -> default/hostnames:80 (TCP): 10.244.1.2:9376 (default/hostnames-1)"),
    Row(
        "three_branches",
        "yes  default/web-0 -> default/hostnames:80 (TCP): 3 endpoints, 10.244.0.3:9376 (default/hostnames-0) 1/3, "
        "10.244.1.2:9376 (default/hostnames-1) 1/3, 10.244.1.3:9376 (default/hostnames-2) 1/3"
        "  [not modelled: NetworkPolicy default/web-egress selects default/web-0]",
    ),
    Row(
        "rejected",
        "no   default/web-0 -> default/nobody:80 (TCP): rejected with ICMP port unreachable on node-1 "
        "by filter KUBE-SERVICES rule 1: "
        '-A KUBE-SERVICES -d 10.96.3.1/32 -p tcp -m comment --comment "default/nobody:http has no endpoints" -m tcp --dport 80 '
        "-j REJECT --reject-with icmp-port-unreachable (dumps/node-1/iptables-save:41)",
    ),
    Row(
        "partial",
        "partly  default/web-0 -> default/hostnames:80 (TCP): 2/3 delivered to 2 endpoints, "
        "10.244.0.3:9376 (default/hostnames-0) 1/3, 10.244.1.2:9376 (default/hostnames-1) 1/3; "
        "1/3 dropped on node-2 by filter FORWARD rule 3: "
        '-A FORWARD -d 10.244.1.3/32 -m comment --comment "quarantine" -j DROP (iptables-save:41)',
    ),
    Row(
        "mtu_drop",
        "no   default/web-0 -> default/hostnames-1:53 (UDP): dropped on node-1: too big for flannel.1 (MTU 1450) and DF is set",
    ),
    Row("lost_reply", "no   default/web-0 -> default/hostnames:80 (TCP): reply dropped on node-2 by filter FORWARD policy DROP"),
    Row(
        "unknown",
        "unknown  default/web-0 -> 10.244.1.2:9376 (TCP): "
        "depends on -A FORWARD -m bpf --object-pinned /sys/fs/bpf/filter -j DROP",
    ),
]


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row.trace)
def test_one_line(row: Row) -> None:
    assert one_line(hand_traces.TRACES[row.trace]()) == row.line


def test_an_error_of_the_sender_itself_is_quoted() -> None:
    hops = (
        Hop("node-1", "node", (Rejected(reason="no route to 192.0.2.1", answer="error to the socket: Network is unreachable"),)),
    )
    branch = Branch(Fraction(1), Verdict.REJECTED, None, None, None, "no route to 192.0.2.1", hops)
    trace = Trace(hand_traces.WEB, hand_traces.HOSTNAMES, "TCP", Verdict.REJECTED, (branch,))
    assert one_line(trace).endswith('(TCP): rejected with "Network is unreachable" on node-1: no route to 192.0.2.1')


def test_two_ways_to_fail_are_told_with_their_shares() -> None:
    def fails(p: Fraction, where: str) -> Branch:
        return Branch(p, Verdict.DROPPED, None, None, None, "lost", (Hop(where, "node", (Dropped(reason="no route"),)),))

    branches = (fails(Fraction(1, 2), "node-1"), fails(Fraction(1, 4), "node-2"), fails(Fraction(1, 4), "node-2"))
    trace = Trace(hand_traces.WEB, hand_traces.HOSTNAMES, "TCP", Verdict.DROPPED, branches)
    assert one_line(trace).endswith("(TCP): 1/2 dropped on node-1: no route; 1/2 dropped on node-2: no route")


@pytest.mark.parametrize(
    ("p", "text"),
    [
        (Fraction(1), "1 (100%)"),
        (Fraction(1, 3), "1/3 (33.3%)"),
        (Fraction(715827883, 2**31), "~1/3 (33.3%)"),
        (Fraction(1, 2**31), "~4.66e-10 (4.66e-08%)"),
        (Fraction(1, 3) ** 10_000, "~0 (0%)"),
    ],
)
def test_probability(p: Fraction, text: str) -> None:
    assert probability(p) == text


def test_every_kind_of_step_is_in_a_golden_file() -> None:
    steps = [s for make in hand_traces.TRACES.values() for b in make().branches for h in b.hops for s in h.steps]
    assert {type(s) for s in steps} == set(get_args(AnyStep))


def test_last_line_is_verdict_and_exit_code() -> None:
    ends = {name: render(make()).splitlines()[-1] for name, make in hand_traces.TRACES.items()}
    assert ends == {
        "vxlan": "verdict: delivered (exit 0)",
        "three_branches": "verdict: delivered (exit 0)",
        "rejected": "verdict: rejected (exit 1)",
        "unknown": "verdict: unknown (exit 3)",
        "mtu_drop": "verdict: dropped (exit 1)",
        "partial": "verdict: partial (exit 1)",
        "lost_reply": "verdict: dropped (exit 1)",
        "every_step": "verdict: partial (exit 1)",
    }


def test_what_branches_share_is_told_once() -> None:
    text = render(hand_traces.three_branches())
    assert text.count("out        eth0 -> node-1/veth5c9e1f2a") == 1
    assert text.count("as in branch 1 up to node-1, bridge cni0") == 2
    assert text.count("KUBE-SERVICES #12") == 3  # where they part, the whole chain is told


def test_a_branch_that_goes_further_refers_to_the_one_that_went_furthest_with_it() -> None:
    def branch(*notes: str) -> Branch:
        hops = (Hop("node-1", "node", tuple(NoteStep(text=n) for n in notes)),)
        return Branch(Fraction(1, 3), Verdict.DROPPED, None, None, None, None, hops)

    branches = (branch("a", "b", "x"), branch("a", "b", "c", "y"), branch("a", "b", "c", "z"))
    text = render(Trace(hand_traces.WEB, hand_traces.HOSTNAMES, "TCP", Verdict.DROPPED, branches))
    assert [line.strip() for line in text.splitlines() if "as in branch" in line] == [
        "as in branch 1 up to node-1, note",
        "as in branch 2 up to node-1, note",
    ]
    assert [line.split()[-1] for line in text.splitlines() if line.strip().startswith("note ")] == ["a", "b", "x", "c", "y", "z"]


def test_a_jump_that_led_nowhere_is_told_in_wide_only() -> None:
    assert "rules      filter FORWARD #3 > KUBE-SERVICES #1\n" in render(hand_traces.rejected())
    wide = "rules      filter FORWARD #1 > KUBE-PROXY-FIREWALL (no match); FORWARD #3 > KUBE-SERVICES #1 (5 rules tried)\n"
    assert wide in render(hand_traces.rejected(), wide=True)


def test_a_reason_does_not_quote_again_the_rule_that_is_printed() -> None:
    text = render(hand_traces.rejected())
    assert text.count("-j REJECT --reject-with icmp-port-unreachable") == 1
    assert '  rejected  filter KUBE-SERVICES rule 1 on node-1 ("default/nobody:http has no endpoints")\n' in text
    assert "    REJECTED   filter KUBE-SERVICES rule 1 on node-1; answer: ICMP port unreachable\n" in text


def test_wide_has_all_that_text_leaves_out() -> None:
    wide = render(hand_traces.vxlan(), wide=True)
    for said in (
        "VNI 1",
        "ttl 63",
        "length 110",
        "is at 0a:58:0a:f4:00:01",
        "conntrack  NEW",
        "rules tried",
        "-j FLANNEL-POSTRTG",
    ):
        assert said in wide
        assert said not in render(hand_traces.vxlan()).replace("9 rules tried, none", "").replace("rules tried, none", "")


def test_control_characters_of_the_input_are_escaped() -> None:
    evil = "\x1b]0;owned\x07\x1b[2Jweb\u202e\r\n"
    packet = hand_traces.tcp("10.0.0.1:1", "10.0.0.2:2")
    party = hand_traces.Party(evil, evil, evil)
    steps = (Sent(packet=packet, by=evil), NoteStep(text=evil), Dropped(reason=evil))
    branch = Branch(Fraction(1), Verdict.DROPPED, evil, evil, evil, evil, (Hop(evil, evil, steps),), None, (evil,))
    trace = Trace(party, party, evil, Verdict.DROPPED, (branch,), (evil,), (evil,))
    for text in (render(trace), render(trace, wide=True), one_line(trace), ANSI.sub("", render(trace, color=True))):
        assert all(c == "\n" or c.isprintable() for c in text)
        assert "\\x1b]0;owned\\x07\\x1b[2Jweb\\u202e\\r\\n" in text
    assert "\n" not in one_line(trace)


@settings(max_examples=150)
@given(any_trace.traces())
def test_any_trace(trace: Trace) -> None:
    for wide in (False, True):
        plain, colored = render(trace, wide=wide), render(trace, wide=wide, color=True)
        assert ANSI.sub("", colored) == plain
        assert all(c == "\n" or c.isprintable() for c in plain)
        assert not [line for line in plain.split("\n") if line.endswith(" ")]
        assert plain.endswith(f"verdict: {trace.verdict.value} (exit {trace.exit_code})")
    assert all(c.isprintable() for c in one_line(trace))


def test_colour_is_there_when_asked() -> None:
    assert "\x1b[1;36m" in render(hand_traces.vxlan(), color=True)


def test_rich_is_not_imported() -> None:
    code = (
        "import sys, netlab.render.text, netlab.render.jsonio; print([m for m in ('rich', 'numba', 'scapy') if m in sys.modules])"
    )
    ran = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=Path(__file__).parent.parent
    )
    assert ran.stdout == "[]\n"


def test_where_only_the_quoted_packet_changes_no_address_is_shown_to_change_into_itself() -> None:
    note = "and in the quoted packet: 203.0.113.7:32768 > 192.168.50.13:30080"
    same = Natted(kind="snat", before="192.168.50.13 > 203.0.113.7", after="192.168.50.13 > 203.0.113.7", reverse=True, note=note)
    assert nat_words(same) == "in the quoted packet: 203.0.113.7:32768 > 192.168.50.13:30080"
    assert nat_words(structs.replace(same, after="192.168.50.9 > 203.0.113.7")) == f"source 192.168.50.13 -> 192.168.50.9; {note}"


def test_one_line_counts_what_else_is_not_modelled() -> None:
    trace = structs.replace(hand_traces.TRACES["three_branches"](), not_modelled=("policies: x and y", "hostPort", "z"))
    assert one_line(trace).endswith("  [not modelled: policies: x and y; and 2 more]")


if __name__ == "__main__":
    for file, what in FILES.items():
        (GOLDEN / file).write_text(golden_text(*what))
