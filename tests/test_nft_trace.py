"""Packets through kube-proxy's own nftables rules, as a real kube-proxy wrote them: the recordings read as what was observed.

The nodes have no iptables rules then, so that nothing else decides.
"""

from __future__ import annotations

import json
from fractions import Fraction
from pathlib import Path
from typing import Any

import pytest

from netlab.dataplane.build import build
from netlab.dataplane.observed import apply_observed
from netlab.errors import InputError
from netlab.kube.load import load
from netlab.linux.addr import ip
from netlab.linux.hook import Hook
from netlab.linux.netns import Device, DeviceKind, Netns, NetnsKind
from netlab.linux.packet import SYN, TCP, Packet
from netlab.linux.plan import plan
from netlab.linux.rules import Ruleset
from netlab.linux.text.nft import read_text
from netlab.match import nft as match
from netlab.match.view import Chance, Undecided, View
from netlab.render.text import one_line, render
from netlab.trace.query import Request, Tracer
from netlab.trace.steps import HookStep, RuleStep, Trace

RECORDED = Path(__file__).parent / "data" / "kube-proxy-1.30.5" / "services"


@pytest.fixture(scope="module")
def tracer(tmp_path_factory: pytest.TempPathFactory) -> Tracer:
    folders = {node: tmp_path_factory.mktemp(node) for node in ("node-1", "node-2", "node-3")}
    for node, folder in folders.items():
        (folder / "iptables-save").write_text("")
        (folder / "ip6tables-save").write_text("")
        (folder / "nft.json").write_text((RECORDED / "nftables" / f"{node}.nft.json").read_text())
    return Tracer(load([str(RECORDED / "cluster.json")]), {node: str(folder) for node, folder in folders.items()})


@pytest.mark.parametrize(
    ("source", "destination", "answer"),
    [
        ("hostnames-0", "svc/web:http", "delivered: 1/2 to web-0 from 10.244.0.3, 1/2 to web-1 from 10.244.0.3"),
        ("web-0", "svc/web:http", "delivered: 1/2 to web-0 from 10.244.0.1, 1/2 to web-1 from 10.244.0.4"),
        ("hostnames-0", "svc/hostnames", "delivered: 1/3 to hostnames-0 from 10.244.0.1, 1/3 to hostnames-1 from 10.244.0.3, "
                                         "1/3 to hostnames-2 from 10.244.0.3"),
        ("hostnames-0", "svc/web-sticky:http", "delivered: 1/2 to web-0 from 10.244.0.3, 1/2 to web-1 from 10.244.0.3"),
        ("hostnames-0", "svc/nobody:http", "rejected by reject-chain"),
        ("hostnames-0", "10.96.2.10:81", "rejected by cluster-ips-check"),
        ("hostnames-0", "svc/web-itp-local:http", "delivered: 1 to web-0 from 10.244.0.3"),
        ("hostnames-1", "svc/web-itp-local:http", "dropped by service-endpoints-check"),
        ("internet", "198.18.0.2:30080", "delivered: 1/2 to web-0 from 10.244.1.0, 1/2 to web-1 from 10.244.1.0"),
    ],
)  # fmt: skip
def test_kube_proxys_recorded_rules(tracer: Tracer, source: str, destination: str, answer: str) -> None:
    assert told(tracer.trace(Request(source, destination))) == answer


def told(trace: Trace) -> str:
    if trace.verdict.value != "delivered":
        steps = [s for branch in trace.branches for hop in branch.hops for s in hop.steps if isinstance(s, RuleStep)]
        return f"{trace.verdict.value} by {steps[-1].chain}"
    ways = sorted(f"{b.probability} to {(b.endpoint_name or '').rpartition('/')[2]} from {b.source_seen}" for b in trace.branches)
    return f"{trace.verdict.value}: {', '.join(ways)}"


@pytest.mark.parametrize(
    ("source", "destination", "line"),
    [
        ("hostnames-0", "svc/web:http", "node-1 (node)   tables nft ip kube-proxy: observed"),
        ("hostnames-0", "svc/web:http", "nat-prerouting #1 > services #1 > service-SUSTUHLJ-default/web/tcp/http #2 (1/2)"),
        ("hostnames-0", "svc/web:http", "ip daddr . meta l4proto . th dport vmap "
         "@service-ips { 10.96.2.10 . tcp . 80 : goto service-SUSTUHLJ-default/web/tcp/http }"),
        ("hostnames-0", "svc/web:http", "meta l4proto tcp dnat to 10.244.0.4:8080"),
        ("hostnames-0", "svc/web:http", "masquerading #1 return; policy accept"),
        ("hostnames-0", "svc/web:http", "filter-forward: 4 rules tried, none decides; policy accept"),
        ("internet", "198.18.0.2:30080", "ip daddr @nodeport-ips { 198.18.0.2 } meta l4proto . th dport vmap "
         "@service-nodeports { tcp . 30080 : goto external-SUSTUHLJ-default/web/tcp/http }"),
        ("hostnames-0", "10.96.2.10:81", "ip daddr @cluster-ips { 10.96.2.10 } reject"),
        ("hostnames-0", "svc/nobody:http", "rejected  nft ip kube-proxy reject-chain rule 1 on node-1 "
         '(@no-endpoint-services { 10.96.3.1 . tcp . 80 comment "default/nobody:http" : goto reject-chain })'),
        ("hostnames-1", "svc/web-itp-local:http", "ip daddr . meta l4proto . th dport vmap "
         '@no-endpoint-services { 10.96.2.16 . tcp . 80 comment "default/web-itp-local:http" : drop }'),
    ],
)  # fmt: skip
def test_a_trace_speaks_nft(tracer: Tracer, source: str, destination: str, line: str) -> None:
    text = render(tracer.trace(Request(source, destination)))
    assert line in text
    assert "ACCEPT" not in text


@pytest.mark.parametrize(
    ("source", "destination", "answer"),
    [
        ("hostnames-0", "svc/nobody:http", "by nft ip kube-proxy reject-chain rule 1: reject, by @no-endpoint-services "
         '{ 10.96.3.1 . tcp . 80 comment "default/nobody:http" : goto reject-chain }'),
        ("hostnames-0", "10.96.2.10:81", "cluster-ips-check rule 1: ip daddr @cluster-ips { 10.96.2.10 } reject"),
        ("hostnames-0", "192.0.2.80:80", "rule 1: ip saddr != 203.0.113.0/24 drop, by @firewall-ips "
         '{ 192.0.2.80 . tcp . 80 comment "default/web-lb:http" : goto firewall-7CESZMOH-default/web-lb/tcp/http }'),
    ],
)  # fmt: skip
def test_a_refusal_names_the_element(tracer: Tracer, source: str, destination: str, answer: str) -> None:
    assert answer in one_line(tracer.trace(Request(source, destination)))


# -- the order of owners, and what is not modelled ---------------------------------------------------------------------


def test_several_owners_of_one_hook_run_by_priority() -> None:
    """iptables' tables at their own; of one priority, what registered last first."""
    from netlab.linux.text import iptables_save

    saved = "*mangle\n:PREROUTING ACCEPT\nCOMMIT\n*nat\n:PREROUTING ACCEPT\n-A PREROUTING -j REDIRECT\nCOMMIT\n"
    chains = "".join(
        f"chain {name} {{ type filter hook prerouting priority {priority}; counter; }}\n"
        for name, priority in (("late", 0), ("first", -400), ("same-a", -150), ("same-b", -150), ("filter-prerouting", -110))
    )
    ruleset = iptables_save.parse(saved, family=4)
    both = Ruleset(ruleset.tables, nft_tables=read_text(f"table ip t {{\n{chains}}}\n"))
    order = [
        stage.nft[1].name if stage.nft is not None else stage.table.name if stage.table is not None else stage.function.value  # type: ignore[union-attr]
        for stage in plan(both, Hook.PREROUTING)
    ]
    assert order == ["first", "conntrack", "same-b", "same-a", "mangle", "filter-prerouting", "nat-dst", "late"]


def view(**fields: Any) -> View:
    packet = Packet(ip("10.0.0.1"), ip("10.0.0.2"), TCP, sport=1000, dport=80, tcp_flags=SYN, **fields)
    lo = Device("lo", DeviceKind.LOOPBACK, 1)
    return View(packet, Hook.FORWARD, Netns("n", NetnsKind.NODE, {"lo": lo}), "eth0", "eth1")


def compared(text: str, **fields: Any) -> object:
    table = read_text(f"table ip t {{\n\tchain c {{\n\t\t{text}\n\t}}\n}}\n")[0]
    statement = table.chains["c"].rules[0].statements[0]
    return match.compare_holds(statement, view(**fields), table)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("text", "answer"),
    [
        ("numgen random mod 10 < 3", Chance(Fraction(3, 10))),
        ("numgen inc mod 2 0", Chance(Fraction(1, 2))),
        ("numgen random mod 1 0", True),
        ("jhash ip saddr mod 4 { 0, 1 }", Chance(Fraction(1, 2))),
        ("symhash mod 3 1", Chance(Fraction(1, 3))),
        ("socket transparent 1", Undecided("expression socket transparent is not modelled")),
        ("meta cgroup 5", Undecided("meta cgroup is not modelled")),
        ("ip id 5", Undecided("the header's id is not modelled")),
        ("udp dport 80", False),
        ("tcp dport 80", True),
    ],
)
def test_an_answer_is_three_valued(text: str, answer: object) -> None:
    assert compared(text) == answer


def test_a_port_that_nat_drew_is_not_known_and_what_does_not_ask_for_it_is() -> None:
    assert isinstance(compared("tcp sport 5", sport_random=True), Undecided)
    assert compared("tcp sport . tcp dport { 5 . 81, 6 . 82 }", sport_random=True) is False
    assert isinstance(compared("tcp sport . tcp dport { 5 . 80 }", sport_random=True), Undecided)


# -- what is read from a node ------------------------------------------------------------------------------------------

IPTABLES = """table ip filter {
	chain INPUT {
		type filter hook input priority filter; policy accept;
		xt match "comment" counter packets 0 bytes 0 xt target "DROP"
	}
}
"""
OWN = """table inet filter {
	chain input {
		type filter hook input priority filter; policy accept;
		drop
	}
}
table ip6 only {
	chain c {
	}
}
"""


def observed(tmp_path: Path, **files: str) -> Netns:
    for name, text in files.items():
        (tmp_path / name.replace("_", ".")).write_text(text)
    cluster = load([str(RECORDED / "cluster.json")])
    return apply_observed(build(cluster).network, "node-1", str(tmp_path)).network.namespaces["node-1"]


def test_tables_of_iptables_nft_are_left_to_iptables_save(tmp_path: Path) -> None:
    node = observed(tmp_path, nft=IPTABLES + OWN)
    assert [(t.family, t.name) for t in node.rulesets[4].nft_tables] == [("inet", "filter")]
    assert [(t.family, t.name) for t in node.rulesets[6].nft_tables] == [("inet", "filter"), ("ip6", "only")]
    assert node.rulesets[4].nft_origin == "observed"
    assert node.origins["nft"] == "observed"
    assert node.rulesets[4].tables  # the expected ones: no iptables-save was given


def test_one_form_is_read_where_both_are_there(tmp_path: Path) -> None:
    empty = json.dumps({"nftables": [{"metainfo": {"json_schema_version": 1}}]})
    assert observed(tmp_path, nft_json=empty, nft=OWN).rulesets[4].nft_tables == ()


@pytest.mark.parametrize(
    ("name", "text", "says"),
    [
        ("nft_json", '{"nftables": [{"metainfo": {"json_schema_version": 9}}]}', "nftables[0].metainfo"),
        ("nft", "table ip t {\n", "nft:2: the text ends within table ip t"),
    ],
)
def test_a_broken_dump_is_one_error(tmp_path: Path, name: str, text: str, says: str) -> None:
    with pytest.raises(InputError) as caught:
        observed(tmp_path, **{name: text}).rulesets[4]
    assert says in str(caught.value)


def test_hook_steps_name_the_base_chain(tracer: Tracer) -> None:
    trace = tracer.trace(Request("hostnames-0", "svc/nobody:http"))
    ends = [s for hop in trace.branches[0].hops for s in hop.steps if isinstance(s, HookStep)]
    assert [(s.table, s.chain, s.verdict, s.by) for s in ends][-1] == ("nft ip kube-proxy", "filter-forward", "drop", "rule")


