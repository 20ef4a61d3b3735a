"""What Linux did, woven into a trace: Observed values made from netlab's own walk and then changed; the kernel: test_lab.py."""

from __future__ import annotations

import pathlib
from collections.abc import Callable
from functools import cache

import pytest
from msgspec.structs import replace

from netlab.kube.embedded import path_of_default
from netlab.kube.load import load
from netlab.lab.crossings import Crossing
from netlab.lab.reread import Reread, compared
from netlab.lab.rulepath import Observed, Path, paths
from netlab.lab.verify import lab_network
from netlab.lab.weave import parted, woven
from netlab.linux.bridge import Links
from netlab.linux.network import Network
from netlab.linux.text import iptables_save
from netlab.render.text import render
from netlab.trace.query import Request, Tracer
from netlab.trace.steps import Trace


@cache
def asked() -> tuple[Network, Trace, Path]:
    """web-0 on node-1 to api-1 on node-2."""
    cluster = load([str(path_of_default())])
    tracer = Tracer(cluster)
    network = lab_network(cluster, tracer.network)
    trace = tracer.trace(Request("web-0", "api-1:9000"))
    said = paths(network, Links(network), trace, 32768)
    assert said is not None
    return network, trace, said[0]


def seen(change: Callable[[Observed], Observed] = lambda found: found, ordered: bool = True) -> str:
    """The trace as text, where Linux did what netlab says, but for a change."""
    network, trace, path = asked()
    crossings = {ns: list(made) for ns, made in (path.crossings or {}).items()}
    found = change(Observed(dict(path.hits), {ns: list(m) for ns, m in path.rules.items()}, ordered, crossings, {}))
    branch = woven(trace.branches[0], path, found, network, lambda _, rule: f"-A {rule[1]} -j DROP")
    return render(replace(trace, branches=(branch,)))


def rules_of_node_1(found: Observed, *rules: tuple[str, str, int]) -> Observed:
    """The first packet meets other rules on node-1 from FORWARD on, and nothing is seen behind."""
    first = found.rules["node-1"][0]
    kept = tuple(rule for rule in first if rule[1] in ("PREROUTING", "KUBE-SERVICES") and rule[0] == "nat")
    web, node = found.crossings["default/web-0"][:1], found.crossings["node-1"][:2]
    counted = {("node-1", *rule): 1 for rule in (*kept, *rules)}
    return replace(
        found, counted=counted, rules={"node-1": [(*kept, *rules)]}, crossings={"default/web-0": web, "node-1": node}
    )


def without_a_frame(found: Observed) -> Observed:
    return replace(found, crossings={**found.crossings, "default/api-1": found.crossings["default/api-1"][1:]})


def with_a_frame(found: Observed) -> Observed:
    more = Crossing("eth0", "in", "ICMP", "host unreachable", "10.244.1.1", "10.244.1.11")
    return replace(found, crossings={**found.crossings, "default/api-1": [*found.crossings["default/api-1"], more]})


def two_rules_swapped(found: Observed) -> Observed:
    [first, *rest] = found.rules["node-1"]
    n = first.index(("filter", "FORWARD", 2))
    swapped = (*first[: n - 1], first[n], first[n - 1], *first[n + 1 :])
    return replace(found, rules={**found.rules, "node-1": [swapped, *rest]})


def elsewhere(found: Observed) -> Observed:
    stray = Crossing("eth0", "in", "TCP", "SYN", "10.244.0.10", "10.244.2.11", 32768, 9000)
    return replace(found, crossings={**found.crossings, "default/api-2": [stray]})


@pytest.mark.parametrize("ordered", [True, False], ids=["in order", "counted"])
def test_a_path_on_which_both_agree_is_marked_so(ordered: bool) -> None:
    text = seen(ordered=ordered)
    assert "\n  - " not in text.partition("\nassumptions")[0]
    assert "\n  + " not in text
    for line in (
        "  = out        eth0 -> node-1/veth",
        "  = rules      nat PREROUTING #1 > KUBE-SERVICES (no match); policy ACCEPT",
        "  = encap      flannel.1 wraps it in VXLAN",
        "  = way        default/api-1 > node-2 > node-1 > default/web-0",
    ):
        assert f"\n{line}" in text


@pytest.mark.parametrize(
    ("change", "ordered", "lines"),
    [
        pytest.param(
            lambda found: rules_of_node_1(found, ("filter", "FORWARD", -1)),
            ordered,
            [
                "    rules      filter FORWARD #1; FORWARD #1 > KUBE-PROXY-FIREWALL (no match)",
                "  +              -A FORWARD -j DROP",
                "  -              -A FORWARD -m comment --comment \"flanneld forward\" -j FLANNEL-FWD",
                "    note       Linux shows no more; netlab goes on: node-1 > node-2 > default/api-1, and back",
            ],
            id=f"dropped on the way, {'in order' if ordered else 'counted'}",
        )
        for ordered in (True, False)
    ]
    + [
        pytest.param(without_a_frame, True, ["  - in         eth0"], id="a frame is missing"),
        pytest.param(with_a_frame, True, ["  + in         eth0   ICMP host unreachable"], id="a frame too many"),
        pytest.param(two_rules_swapped, True, ["  +              -A FORWARD", "  -              -A FORWARD"], id="swapped"),
        pytest.param(elsewhere, True, ["  default/api-2 (pod)", "  + in         eth0   TCP SYN"], id="elsewhere"),
    ],
)
def test_where_they_part_both_stand_there(change: Callable[[Observed], Observed], ordered: bool, lines: list[str]) -> None:
    text = seen(change, ordered)
    for line in lines:
        assert f"\n{line}" in text, text


def test_nothing_that_linux_showed_is_left_out() -> None:
    network, trace, path = asked()
    nothing = replace(path, rules={}, crossings={}, hits={})
    branch = replace(trace.branches[0], hops=(), reply=None)
    found = Observed({}, dict(path.rules), True, dict(path.crossings or {}), {})
    made = woven(branch, replace(nothing, rest=()), found, network, lambda _, rule: "?")
    rules = sum(len(rules) for one in path.rules.values() for rules in one)
    assert parted(made) == rules + sum(len(frames) for frames in (path.crossings or {}).values())


@pytest.mark.parametrize(
    ("edit", "numbers"),
    [
        (lambda lines: lines, {}),
        (lambda lines: ["-A FORWARD -d 10.244.1.11/32 -j DROP", *lines], {1: -1, 2: 1, 3: 2}),
        (lambda lines: lines[1:], {1: 2, 2: 3}),
        (lambda lines: [lines[1], lines[0], *lines[2:]], {1: -1, 2: 1, 3: 3}),
    ],
    ids=["as it was made", "one put in", "one taken out", "two swapped"],
)
def test_rules_that_were_changed_by_hand(edit: Callable[[list[str]], list[str]], numbers: dict[int, int]) -> None:
    network, _, _ = asked()
    saved = iptables_save.write(network.namespaces["node-1"].rulesets[4], family=4).splitlines()
    first = next(n for n, line in enumerate(saved) if line.startswith("-A FORWARD"))
    mine = [line for line in saved if line.startswith("-A FORWARD")]
    text = "\n".join([*saved[:first], *edit(mine), *saved[first + len(mine) :]]) + "\n"
    found = Reread(network, 4, {}, {})
    compared(found, "node-1", text)
    got = {n: ours for (_, _, chain, n), ours in found.numbers.items() if chain == "FORWARD"}
    assert {n: got[n] for n in numbers} == numbers
    assert bool(got) is bool(numbers)
    for n in (n for n in numbers.values() if n < 0):
        assert found.text("node-1", ("filter", "FORWARD", n)) in text


@pytest.mark.parametrize("name", ["lab-trace.txt", "lab-trace-parted.txt"])
def test_the_page_shows_what_is_printed(name: str) -> None:
    root = pathlib.Path(__file__).parents[1]
    assert f"\n{(root / 'tests' / 'golden' / name).read_text()}```\n" in (root / "docs" / "lab.md").read_text()
