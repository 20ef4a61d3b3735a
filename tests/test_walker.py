"""What becomes of packets: small networks and broken ones, one row or one test per rule of the kernel."""

from __future__ import annotations

from collections.abc import Callable
from fractions import Fraction

import pytest
from msgspec.structs import replace

from netlab.errors import InputError
from netlab.kube.embedded import path_of_default
from netlab.kube.load import load
from netlab.linux.addr import ip, prefix
from netlab.linux.netns import Netns, NextHop, Route, RouteType
from netlab.linux.sets import IpSet
from netlab.linux.text.iptables_save import parse
from netlab.trace.query import Request, Tracer
from netlab.trace.steps import (
    Bridged,
    Conntracked,
    Encapsulated,
    MtuStep,
    Natted,
    Rejected,
    Routed,
    RuleStep,
    Trace,
    Transmitted,
    Verdict,
)

CLUSTER = load([str(path_of_default())])


def tracer() -> Tracer:
    return Tracer(CLUSTER)


def ask(t: Tracer, source: str, destination: str, **more: object) -> Trace:
    return t.trace(Request(source, destination, **more))  # type: ignore[arg-type]


def changed(t: Tracer, name: str, change: Callable[[Netns], Netns]) -> Tracer:
    """The same tracer with one namespace changed."""
    space = change(t.network.namespaces[name])
    t.network = replace(t.network, namespaces={**t.network.namespaces, name: space})
    t._networks.clear()
    return t


def with_rules(t: Tracer, node: str, text: str, family: int = 4) -> Tracer:
    """The same tracer with the node's whole iptables ruleset replaced."""
    ruleset = parse(text, family=family, file="test")
    return changed(t, node, lambda n: replace(n, rulesets={**{f: n.rulesets[f] for f in (4, 6)}, family: ruleset}))


def sysctl(name: str, value: int) -> Callable[[Netns], Netns]:
    return lambda n: replace(n, sysctls={**n.sysctls, name: value})


def with_route(route: Route) -> Callable[[Netns], Netns]:
    return lambda n: replace(n, routes=(*n.routes, route))


def steps(trace: Trace, kind: type, branch: int = 0, reply: bool = False) -> list[object]:
    found = trace.branches[branch]
    hops = found.reply.hops if reply and found.reply else found.hops
    return [s for hop in hops for s in hop.steps if isinstance(s, kind)]


FILTER = "*filter\n:INPUT ACCEPT [0:0]\n:FORWARD ACCEPT [0:0]\n:OUTPUT ACCEPT [0:0]\n"


def filter_rules(*rules: str) -> str:
    chains = "".join(f":{c} - [0:0]\n" for c in dict.fromkeys(r.split()[1] for r in rules) if c.islower())
    return FILTER + chains + "\n".join(rules) + "\nCOMMIT\n"


# -- verdicts ----------------------------------------------------------------------------------------------------------

VERDICTS = [
    # source, destination, options, verdict, endpoints
    ("web-0", "svc/api", {}, "delivered", {"10.244.0.11:9000", "10.244.1.11:9000", "10.244.2.11:9000"}),
    ("web-0", "api-1:9000", {}, "delivered", {"10.244.1.11:9000"}),
    ("web-0", "api-1:9001", {}, "rejected", set()),
    ("web-0", "svc/nobody", {}, "rejected", set()),
    ("web-0", "10.96.0.20:81", {}, "dropped", set()),
    ("web-0", "10.244.1.99:80", {}, "rejected", set()),
    ("web-0", "web-0:8080", {}, "delivered", {"10.244.0.10:8080"}),
    ("web-0", "127.0.0.1:8080", {}, "delivered", {"127.0.0.1:8080"}),
    ("web-0", "kube-system/svc/kube-dns:dns", {}, "delivered", {"10.244.2.53:53"}),
    ("web-0", "8.8.8.8:53", {"protocol": "udp"}, "delivered", {"8.8.8.8:53"}),
    ("web-0", "api-1", {"protocol": "icmp"}, "delivered", {"10.244.1.11"}),
    ("web-0", "svc/api", {"protocol": "icmp"}, "dropped", set()),
    ("node/node-1", "svc/api", {}, "delivered", {"10.244.0.11:9000", "10.244.1.11:9000", "10.244.2.11:9000"}),
    ("node/node-1", "127.0.0.1:30080", {}, "delivered", {"10.244.0.10:8080", "10.244.1.10:8080"}),
    ("internet", "svc/shop", {"at": "node-1"}, "delivered", {"10.244.0.10:8080"}),
    ("internet", "svc/shop", {"at": "node-3"}, "dropped", set()),
    ("internet", "api-0:9000", {}, "dropped", set()),
    ("web-0", "svc/api-dual", {"family": 6}, "delivered", {f"[fd00:10:244{n}::11]:9000" for n in ("", ":1", ":2")}),
    ("web-0", "svc/api-headless", {}, "delivered", {"10.244.0.11:9000", "10.244.1.11:9000", "10.244.2.11:9000"}),
]


@pytest.mark.parametrize(("source", "destination", "options", "verdict", "endpoints"), VERDICTS)
def test_verdict(source: str, destination: str, options: dict[str, object], verdict: str, endpoints: set[str]) -> None:
    trace = ask(tracer(), source, destination, **options)
    assert trace.verdict.value == verdict, trace.branches[0].reason
    assert {b.endpoint for b in trace.branches if b.verdict is Verdict.DELIVERED} == endpoints
    assert sum(b.probability for b in trace.branches) == 1


def test_branches_are_exact_thirds() -> None:
    trace = ask(tracer(), "web-0", "svc/api")
    assert [b.probability for b in trace.branches] == [Fraction(1, 3)] * 3


# -- netfilter ---------------------------------------------------------------------------------------------------------


def test_policy_drop_names_the_chain() -> None:
    t = with_rules(tracer(), "node-1", "*filter\n:INPUT ACCEPT [0:0]\n:FORWARD DROP [0:0]\n:OUTPUT ACCEPT [0:0]\nCOMMIT\n")
    trace = ask(t, "web-0", "api-1:9000")
    assert trace.verdict is Verdict.DROPPED
    assert trace.branches[0].reason == "policy of filter FORWARD on node-1 is DROP"


def test_goto_returns_to_the_callers_caller() -> None:
    """`-g` does not come back to the chain that went: the rule after it is not reached."""
    t = with_rules(
        tracer(),
        "node-1",
        filter_rules("-A FORWARD -j a", "-A FORWARD -j ACCEPT", "-A a -g b", "-A a -j DROP", "-A b -j RETURN"),
    )
    assert ask(t, "web-0", "api-1:9000").verdict is Verdict.DELIVERED


def test_undecided_rule_that_changes_nothing_is_no_doubt() -> None:
    t = with_rules(tracer(), "node-1", filter_rules("-A FORWARD -m limit --limit 5/min -j LOG", "-A FORWARD -j ACCEPT"))
    trace = ask(t, "web-0", "api-1:9000")
    assert trace.verdict is Verdict.DELIVERED
    assert len(trace.branches) == 1


def test_undecided_rule_that_decides_is_unknown_by_name() -> None:
    t = with_rules(tracer(), "node-1", filter_rules("-A FORWARD -m limit --limit 5/min -j ACCEPT", "-A FORWARD -j DROP"))
    trace = ask(t, "web-0", "api-1:9000")
    assert trace.verdict is Verdict.UNKNOWN
    assert trace.exit_code == 3
    assert "filter FORWARD rule 1 on node-1" in (trace.branches[0].reason or "")


def test_match_that_is_not_modelled_is_unknown_only_where_it_matters() -> None:
    rules = filter_rules("-A FORWARD -p tcp -m tcp --dport 9000 -m bpf --bytecode 1 -j DROP")
    assert ask(with_rules(tracer(), "node-1", rules), "web-0", "api-1:9000").verdict is Verdict.UNKNOWN
    assert ask(with_rules(tracer(), "node-1", rules), "web-0", "api-1", protocol="icmp").verdict is Verdict.DELIVERED


def test_many_undecided_rules_end_in_unknown_not_in_an_explosion() -> None:
    rules = [f"-A FORWARD -m limit --limit {n}/min -j ACCEPT" for n in range(1, 13)]
    t = with_rules(tracer(), "node-1", filter_rules(*rules, "-A FORWARD -j DROP"))
    trace = ask(t, "web-0", "api-1:9000")
    assert trace.verdict is Verdict.UNKNOWN
    assert "could not be decided" in (trace.branches[0].reason or "")


DNAT_AND_RESET = (
    filter_rules("-A FORWARD -p tcp -m tcp --dport 9000 -j REJECT --reject-with tcp-reset")
    + "*nat\n:PREROUTING ACCEPT [0:0]\n:INPUT ACCEPT [0:0]\n:OUTPUT ACCEPT [0:0]\n:POSTROUTING ACCEPT [0:0]\n"
    + "-A PREROUTING -p tcp -m tcp --dport 80 -j DNAT --to-destination 10.244.1.11:9000\nCOMMIT\n"
)


def test_reject_with_reset_comes_home_through_dnat() -> None:
    """nf_send_reset attaches the connection, so that the reset carries the address that was asked back to the client."""
    trace = ask(with_rules(tracer(), "node-1", DNAT_AND_RESET), "internet", "192.168.50.11:80")
    assert trace.verdict is Verdict.REJECTED
    assert trace.branches[0].reply is not None
    assert trace.branches[0].reply.arrived


def test_reject_with_reset_through_a_bridge_port_is_not_translated_back() -> None:
    """The reset for a packet that br_netfilter saw goes out of that port as a frame: its receiver does not know 10.244.1.11."""
    t = with_rules(tracer(), "node-1", DNAT_AND_RESET)
    trace = ask(t, "web-0", "10.96.0.20:80")
    assert trace.verdict is Verdict.DROPPED
    assert "does not reach the sender: TCP RST" in (trace.branches[0].reason or "")
    off = changed(t, "node-1", sysctl("bridge.bridge-nf-call-iptables", 0))
    assert ask(off, "web-0", "10.96.0.20:80").verdict is Verdict.REJECTED


def test_reject_with_icmp_comes_home_through_dnat() -> None:
    """icmp_glue_bits attaches the connection, confirmed or not: the error speaks of 10.96.0.20 and comes from it."""
    t = with_rules(tracer(), "node-1", DNAT_AND_RESET.replace("tcp-reset", "icmp-port-unreachable"))
    trace = ask(t, "web-0", "10.96.0.20:80")
    assert trace.verdict is Verdict.REJECTED
    assert trace.branches[0].reply is not None
    assert trace.branches[0].reply.hops[-1].steps[-1].packet.source == "10.96.0.20"  # type: ignore[union-attr]


def test_lost_reply_is_a_drop() -> None:
    """Law 4: the way back counts."""
    t = with_rules(tracer(), "node-1", filter_rules("-A FORWARD -p tcp -m tcp --sport 9000 -j DROP"))
    trace = ask(t, "web-0", "api-1:9000")
    assert trace.verdict is Verdict.DROPPED
    assert trace.branches[0].endpoint == "10.244.1.11:9000"
    assert "reply dies" in (trace.branches[0].reason or "")


def test_reply_without_connection_is_invalid() -> None:
    """A SYN-ACK that belongs to no connection is INVALID (tcp_conntracks[][] sIV), not NEW."""
    t = with_rules(
        tracer(),
        "node-2",
        "*raw\n:PREROUTING ACCEPT [0:0]\n:OUTPUT ACCEPT [0:0]\n-A PREROUTING -i flannel.1 -j NOTRACK\nCOMMIT\n"
        + filter_rules("-A FORWARD -m conntrack --ctstate INVALID -j DROP"),
    )
    trace = ask(t, "web-0", "api-1:9000")
    assert trace.verdict is Verdict.DROPPED
    states = [s.state for s in steps(trace, Conntracked, reply=True) if isinstance(s, Conntracked)]
    assert "INVALID" in states


# -- bridges -----------------------------------------------------------------------------------------------------------


def test_same_node_service_needs_br_netfilter() -> None:
    """Without bridge-nf-call-iptables the reply is bridged past conntrack and comes from the pod's own address."""
    assert ask(tracer(), "web-0", "svc/api").branches[0].verdict is Verdict.DELIVERED
    t = changed(tracer(), "node-1", sysctl("bridge.bridge-nf-call-iptables", 0))
    trace = ask(t, "web-0", "svc/api")
    by_endpoint = {b.endpoint: b for b in trace.branches}
    assert by_endpoint["10.244.0.11:9000"].verdict is Verdict.DROPPED
    assert by_endpoint["10.244.1.11:9000"].verdict is Verdict.DELIVERED
    assert trace.verdict is Verdict.PARTIAL


def test_same_node_dnat_is_bridged_with_the_source_kept() -> None:
    branch = next(b for b in ask(tracer(), "web-0", "svc/api").branches if b.endpoint == "10.244.0.11:9000")
    assert branch.source_seen == "10.244.0.10"
    bridged = [s for hop in branch.hops for s in hop.steps if isinstance(s, Bridged)]
    assert [(b.bridge, b.port_in == b.port_out) for b in bridged] == [("cni0", False)]


def test_hairpin_is_masqueraded_and_needs_hairpin_mode() -> None:
    branch = next(b for b in ask(tracer(), "api-0", "svc/api").branches if b.endpoint == "10.244.0.11:9000")
    assert branch.verdict is Verdict.DELIVERED
    assert branch.source_seen == "10.244.0.1"

    def off(netns: Netns) -> Netns:
        return replace(netns, devices={n: replace(d, hairpin=False) for n, d in netns.devices.items()})

    trace = ask(changed(tracer(), "node-1", off), "api-0", "svc/api")
    lost = next(b for b in trace.branches if b.verdict is Verdict.DROPPED)
    assert "hairpin mode is off" in (lost.reason or "")


# -- routes ------------------------------------------------------------------------------------------------------------


def test_ecmp_forks_by_weight() -> None:
    hops = (NextHop("eth0", ip("192.168.50.12"), 1), NextHop("eth0", ip("192.168.50.13"), 3))
    t = changed(tracer(), "node-1", with_route(Route(prefix("198.51.100.0/24"), hops)))
    trace = ask(t, "node/node-1", "198.51.100.9:80")
    assert sorted(b.probability for b in trace.branches) == [Fraction(1, 4), Fraction(3, 4)]


@pytest.mark.parametrize(
    ("kind", "verdict", "answer"),
    [
        (RouteType.BLACKHOLE, Verdict.DROPPED, None),
        (RouteType.UNREACHABLE, Verdict.REJECTED, "ICMP host unreachable"),
        (RouteType.PROHIBIT, Verdict.REJECTED, "ICMP admin prohibited"),
    ],
)
def test_route_types(kind: RouteType, verdict: Verdict, answer: str | None) -> None:
    t = changed(tracer(), "node-1", with_route(Route(prefix("10.244.1.11/32"), type=kind)))
    trace = ask(t, "web-0", "api-1:9000")
    assert trace.verdict is verdict
    if answer:
        found = steps(trace, Rejected)[-1]
        assert isinstance(found, Rejected)
        assert found.answer == answer


def test_throw_goes_on_to_the_next_table() -> None:
    t = changed(tracer(), "node-1", with_route(Route(prefix("10.244.1.11/32"), type=RouteType.THROW)))
    trace = ask(t, "web-0", "api-1:9000")
    assert trace.verdict is not Verdict.DELIVERED  # no later table has a route


def test_rp_filter_refuses_a_source_that_lives_elsewhere() -> None:
    """Strict mode: the way back to 203.0.113.7 must lead through the device the packet came in by."""

    def change(netns: Netns) -> Netns:
        away = Route(prefix("203.0.113.0/24"), (NextHop("flannel.1", ip("10.244.2.0"), onlink=True),))
        return replace(netns, routes=(*netns.routes, away), sysctls={**netns.sysctls, "ipv4.conf.all.rp_filter": 1})

    t = changed(tracer(), "node-2", change)
    trace = ask(t, "internet", "192.168.50.12:10250")
    assert trace.verdict is Verdict.DROPPED
    assert "rp_filter=1" in (trace.branches[0].reason or "")


def test_ip_forward_off_stops_the_node() -> None:
    t = changed(tracer(), "node-1", sysctl("ipv4.ip_forward", 0))
    trace = ask(t, "web-0", "api-1:9000")
    assert trace.verdict is Verdict.DROPPED
    assert "ip_forward=0" in (trace.branches[0].reason or "")


def test_own_source_address_from_the_wire_is_a_martian() -> None:
    there = Route(prefix("198.51.100.0/24"), (NextHop("eth0", ip("192.168.50.12")),))
    back = Route(prefix("198.51.100.0/24"), (NextHop("eth0", ip("192.168.50.11")),))
    t = changed(changed(tracer(), "node-1", with_route(there)), "node-2", with_route(back))
    trace = ask(t, "node/node-1", "198.51.100.1:80")
    assert trace.verdict is Verdict.DROPPED
    assert "martian source 192.168.50.11" in (trace.branches[0].reason or "")


def test_routing_loop_is_seen() -> None:
    there = Route(prefix("198.51.100.0/24"), (NextHop("eth0", ip("192.168.50.12")),))
    back = Route(prefix("198.51.100.0/24"), (NextHop("eth0", ip("192.168.50.11")),))
    t = changed(changed(tracer(), "node-1", with_route(there)), "node-2", with_route(back))
    t = changed(t, "node-3", with_route(back))
    trace = ask(t, "node/node-3", "198.51.100.1:80")
    assert trace.verdict is Verdict.REJECTED  # ICMP time exceeded
    assert "routing loop" in (trace.branches[0].reason or "")


# -- VXLAN and MTU -----------------------------------------------------------------------------------------------------


def test_vxlan_adds_fifty_bytes_and_keeps_the_mark_inside_the_node() -> None:
    trace = ask(tracer(), "web-0", "api-1:9000", size=1400)
    outer = steps(trace, Encapsulated)[0]
    assert isinstance(outer, Encapsulated)
    assert outer.outer.length == 1450
    assert outer.outer.destination == "192.168.50.12"
    assert outer.outer.dport == 8472
    assert outer.vni == 1


def test_too_long_for_flannel_is_dropped_with_fragmentation_needed() -> None:
    """A node's 1500-byte datagram with DF does not fit flannel.1 (1450): forwarded traffic gets ICMP (RFC 1191)."""
    trace = ask(tracer(), "internet", "api-1:9000", at="node-1", protocol="udp", size=1500)
    assert trace.verdict is Verdict.DROPPED
    assert "ICMP fragmentation needed" in (trace.branches[0].reason or "")
    measured = steps(trace, MtuStep)[0]
    assert isinstance(measured, MtuStep)
    assert (measured.mtu, measured.length) == (1450, 1500)


def test_own_datagram_that_does_not_fit_is_refused_to_the_sender() -> None:
    trace = ask(tracer(), "web-0", "api-1:9000", protocol="udp", size=1451)
    assert trace.verdict is Verdict.REJECTED
    assert "Message too long" in (trace.branches[0].reason or "")


def test_no_fdb_entry_is_a_named_drop() -> None:
    t = changed(tracer(), "node-1", lambda n: replace(n, fdb=()))
    trace = ask(t, "web-0", "api-1:9000")
    assert trace.verdict is Verdict.DROPPED
    assert "no FDB entry on flannel.1" in (trace.branches[0].reason or "")


# -- NAT ---------------------------------------------------------------------------------------------------------------


def test_nodeport_from_outside_is_masqueraded_and_undone() -> None:
    trace = ask(tracer(), "internet", "node/node-2:30080")
    remote = next(b for b in trace.branches if b.endpoint == "10.244.0.10:8080")
    assert remote.source_seen == "10.244.1.0"  # flannel.1 of node-2: MASQUERADE takes the leaving device's address
    assert remote.reply is not None
    undone = [s for hop in remote.reply.hops for s in hop.steps if isinstance(s, Natted) and s.reverse]
    assert [n.kind for n in undone] == ["dnat", "snat"]


def test_dnat_to_another_port_reaches_that_port() -> None:
    trace = ask(tracer(), "web-0", "svc/api")
    nat = steps(trace, Natted)[0]
    assert isinstance(nat, Natted)
    assert nat.before.endswith("10.96.0.20:80")
    assert nat.after.endswith(":9000")


def test_local_redirect_to_a_service_is_routed_again() -> None:
    trace = ask(tracer(), "node/node-1", "svc/api")
    remote = next(b for b in trace.branches if b.endpoint == "10.244.1.11:9000")
    notes = [s.note for hop in remote.hops for s in hop.steps if isinstance(s, Routed)]
    assert "routed again after OUTPUT" in notes


def test_the_answer_does_not_depend_on_the_order_of_input() -> None:
    """Shuffled objects, equal trace."""
    shuffled = replace(
        CLUSTER,
        pods=dict(reversed(CLUSTER.pods.items())),
        services=dict(reversed(CLUSTER.services.items())),
        slices=dict(reversed(CLUSTER.slices.items())),
    )
    assert Tracer(shuffled).trace(Request("web-0", "svc/api")) == ask(tracer(), "web-0", "svc/api")


def test_every_rule_step_is_a_rule_of_its_table() -> None:
    trace = ask(tracer(), "internet", "svc/shop", at="node-1")
    t = tracer()
    for branch in trace.branches:
        for hop in branch.hops:
            for step in hop.steps:
                if isinstance(step, RuleStep):
                    table = t.network.namespaces[hop.where].rulesets[4].table(step.table)
                    assert table is not None
                    rule = table.chains[step.chain].rules[step.number - 1]
                    assert f"-A {step.chain} {rule}" == step.rule


def test_frames_leave_and_arrive_on_the_same_wire() -> None:
    trace = ask(tracer(), "web-0", "api-2:9000")
    for hop, following in zip(trace.branches[0].hops, trace.branches[0].hops[1:], strict=False):
        sent = [s for s in hop.steps if isinstance(s, Transmitted)][-1]
        assert sent.to.rpartition("/")[0] == following.where


# -- what a question may name ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("source", "destination", "says"),
    [
        ("web-0", "10.1.2.3:80", "in none of the cluster's networks"),
        ("10.9.9.9", "svc/web", "in none of the cluster's networks"),
        ("web-0", "external/10.244.0.10:80", "not an address outside the cluster"),
        ("10.244.0.99", "svc/web", "no pod has it"),
        ("10.96.0.20", "svc/web", "none come from it"),
        ("web-0", "224.0.0.1:80", "address of nobody"),
        ("web-0", "svc/api:81", "has no port 81"),
        ("web-0", "8.8.8.8", "has no port"),
    ],
)
def test_a_question_that_cannot_be_asked(source: str, destination: str, says: str) -> None:
    with pytest.raises(InputError, match=says):
        ask(tracer(), source, destination)


def test_a_private_host_outside_is_named_as_such() -> None:
    trace = ask(tracer(), "web-0", "external/10.1.2.3:80")
    assert trace.verdict is Verdict.DELIVERED
    assert trace.branches[0].source_seen == "192.168.50.11"  # flanneld's masquerade
    assert "external host 10.1.2.3 is taken to answer on 80/TCP" in trace.assumptions


def test_an_address_as_a_source_fixes_the_family() -> None:
    trace = ask(tracer(), "fd00:10:244::10", "svc/api-dual")
    assert trace.branches[0].source_seen == "fd00:10:244::10"


def test_an_address_of_the_fabric_that_nobody_has_does_not_answer() -> None:
    trace = ask(tracer(), "web-0", "192.168.50.99:80")
    assert trace.verdict is Verdict.REJECTED
    assert "nobody on eth0 answers for 192.168.50.99" in (trace.branches[0].reason or "")


def test_two_protocols_on_one_port_are_told() -> None:
    trace = ask(tracer(), "web-0", "kube-system/svc/kube-dns:53")
    assert trace.protocol == "TCP"
    assert any("TCP was taken (choose with --proto udp)" in a for a in trace.assumptions)


def test_what_stands_outside_the_cluster_is_unknown_by_name() -> None:
    """hostPort, a node's ExternalIP, a load balancer that makes connections of its own."""
    cluster = replace(
        CLUSTER,
        pods={
            k: replace(p, ports=(replace(p.ports[0], host_port=8088),)) if k == "default/web-1" else p
            for k, p in CLUSTER.pods.items()
        },
        nodes={k: replace(n, external_ips=(ip("198.51.100.1"),)) if k == "node-1" else n for k, n in CLUSTER.nodes.items()},
        services={
            k: replace(s, load_balancer=tuple(replace(e, ip_mode="Proxy") for e in s.load_balancer))
            for k, s in CLUSTER.services.items()
        },
    )
    t = Tracer(cluster)
    for destination, says in (
        ("node/node-2:8088", "hostPort 8088 of pod default/web-1"),
        ("198.51.100.1:80", "ExternalIP 198.51.100.1 of node node-1"),
        ("svc/shop", "has ipMode Proxy"),
    ):
        trace = ask(t, "internet", destination)
        assert trace.verdict is Verdict.UNKNOWN
        assert says in (trace.branches[0].reason or "")
    assert ask(t, "web-0", "svc/api").not_modelled == ()


def test_a_headless_service_without_ready_endpoints_has_no_address() -> None:
    key = "default/api-headless"
    none = tuple(replace(s, endpoints=()) for s in CLUSTER.slices[key])
    t = Tracer(replace(CLUSTER, slices={**CLUSTER.slices, key: none}))
    trace = ask(t, "web-0", "svc/api-headless")
    assert trace.verdict is Verdict.REJECTED
    assert "DNS gives no address" in (trace.branches[0].reason or "")


def test_a_set_that_a_rule_changed_is_in_doubt() -> None:
    """`-j SET --add-set` changes what a later `-m set` sees; netlab does not follow that, and says so where it matters."""
    rules = filter_rules("-A FORWARD -j SET --add-set seen src", "-A FORWARD -m set --match-set seen src -j DROP")
    seen = {"seen": IpSet("seen", "hash:ip")}
    t = changed(with_rules(tracer(), "node-1", rules), "node-1", lambda n: replace(n, sets=seen))
    trace = ask(t, "web-0", "api-1:9000")
    assert trace.verdict is Verdict.UNKNOWN
    assert "-j SET" in (trace.branches[0].reason or "")
