"""The matching core: a batch is answered as the walk answers each packet, and the walk as the tracer does."""

from __future__ import annotations

import dataclasses
import io
import json
from pathlib import Path
from random import Random

import pytest
from msgspec.structs import replace

from netlab.cli.main import main
from netlab.dataplane.build import build
from netlab.kube import generate
from netlab.kube.load import load
from netlab.lab.fuzz_bench import ROUTER, model
from netlab.lab.fuzz_generate import SETS, Maker
from netlab.lab.random_clusters import random_cluster
from netlab.linux.addr import ip
from netlab.linux.conntrack import Connection, CtState, CtView
from netlab.linux.hook import Hook
from netlab.linux.netns import Netns, NetnsKind
from netlab.linux.packet import TCP, Packet
from netlab.linux.rules import Ruleset
from netlab.linux.targets import Dnat, Masquerade, Netmap, Redirect, Snat
from netlab.linux.text import ipset, iptables_save
from netlab.match import program as program_module
from netlab.match.bases import bases
from netlab.match.batch import Answer, decide
from netlab.match.packets import Packets
from netlab.match.program import Program, compile_hook
from netlab.match.view import View
from netlab.match.walk import Base, Numbering, before_conntrack, walk
from netlab.trace import choices
from netlab.trace.netfilter import Netfilter
from netlab.trace.skb import Skb
from netlab.trace.steps import AnyStep, RuleStep
from tests.packet_views import Words, routed, view_of

ROOT = Path(__file__).parent.parent
NAT = (Dnat, Snat, Masquerade, Redirect, Netmap)


@pytest.fixture(params=["tables as they pay", "tables everywhere", "cuts everywhere"])
def everywhere(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Short chains get hash tables, or are cut, too."""
    if request.param == "cuts everywhere":
        monkeypatch.setattr(program_module, "MIN_CUT", 1)
        monkeypatch.setattr(program_module, "MAX_ASKED", -1)
    if request.param != "tables as they pay":
        monkeypatch.setattr(program_module, "MIN_CHAIN", 1)
        monkeypatch.setattr(program_module, "MIN_GROUP", 1)
        monkeypatch.setattr(program_module, "MIN_ALIKE", 1)


def router(maker: Maker, rules: Ruleset) -> Netns:
    return model(maker.family, rules, ipset.parse(SETS[maker.family])).namespaces[ROUTER]


def told(program: Program, view: View, answer: Answer, index: int) -> str:
    """Where batch and walk part, with the rules that the packet met."""
    ours, theirs = answer.leaves(index), walk(program.bases, view, program.numbering)
    lines = [f"{view.packet!r}", f"in {view.indev!r} out {view.outdev!r} ct {view.ct}", f"batch {ours}", f"walk  {theirs}"]
    met = sorted({rule for leaf in (*ours, *theirs) for rule in (*leaf.path, leaf.rule)})
    for rule in met:
        place = program.numbering.place(rule)
        lines.append(f"  {rule}: {place.table} {place.chain} {place.number}: {place.rule}")
    return "\n".join(lines)


def agree(program: Program, views: list[View]) -> None:
    """The batch's answer is the walk's, for every packet: verdict, rule, path, marks, targets, probabilities, unknown."""
    answer = decide(program, Packets.of(views, program.names))
    for index, view in enumerate(views):
        expected = walk(program.bases, view, program.numbering)
        assert answer.leaves(index) == expected, told(program, view, answer, index)
        verdicts = {leaf.verdict.value for leaf in expected}
        assert answer.verdict[index] == (expected[0].verdict.value if len(verdicts) == 1 else 255)
        assert (answer.rule[index], answer.count[index]) == (expected[0].rule, len(expected))
        assert (answer.mark[index], answer.connmark[index]) == (expected[0].mark, expected[0].connmark)


@pytest.mark.parametrize("family", [4, 6])
@pytest.mark.parametrize("seed", range(6))
def test_random_rulesets(seed: int, family: int, everywhere: None) -> None:
    rng = Random(f"core {seed} {family}")
    maker = Maker(rng, family)
    netns = router(maker, maker.ruleset())
    for hook in Hook:
        program = compile_hook(netns, family, hook)
        agree(program, [view_of(rng, maker.opening()[1], maker.opening()[1], netns, hook) for _ in range(40)])


# -- the walk is the tracer's ------------------------------------------------------------------------------------------


def traced(netns: Netns, base: Base, view: View) -> list[tuple[object, ...]]:
    """The ends of a packet in a base chain as trace/netfilter.py has them: (probability, verdict, mark, connmark, ct, path)."""
    kinds = {"dropped": "drop", "rejected": "reject"}

    def run(chooser: choices.Chooser) -> tuple[object, ...]:
        path: list[tuple[str, int]] = []

        def emit(where: str, step: AnyStep) -> None:
            if isinstance(step, RuleStep):
                path.append((step.chain, step.number))

        netfilter = Netfilter(chooser, emit, None)  # type: ignore[arg-type]
        copy = copied(view.ct)
        skb = Skb(view.packet, netns, view.indev, copy, local=view.local, socket=view.local)
        mine = dataclasses.replace(view, ct=copy, recent=set(), changed_sets=set())
        netfilter.nat_target = lambda *given: given[3]("")  # type: ignore[method-assign]  # a NAT target ends our walk
        outcome = netfilter._chain(skb, mine, base.table, base.chain)
        mark = copy.connection.mark if copy is not None and copy.connection is not None else 0
        nat = bool(path) and isinstance(base.table.chains[path[-1][0]].rules[path[-1][1] - 1].target, NAT)
        kind = "nat" if nat else "accept" if outcome is None else kinds.get(outcome.kind, outcome.kind)
        return kind, skb.packet.mark, mark, skb.template is not None, tuple(path)

    def unknown(first: tuple[object, ...], label: str) -> tuple[object, ...]:
        return ("unknown", *first[1:])

    try:
        found = choices.explore(run, lambda outcome: outcome[:4], unknown)
    except choices.TooManyChoices:
        return [("unknown",)]
    return [(each.probability, *each.outcome) for each in found]


def copied(ct: CtView | None) -> CtView | None:
    return None if ct is None else replace(ct, connection=None if ct.connection is None else replace(ct.connection))


@pytest.mark.parametrize("family", [4, 6])
@pytest.mark.parametrize("seed", range(6))
def test_the_walk_is_the_tracers(seed: int, family: int) -> None:
    rng = Random(f"walk {seed} {family}")
    maker = Maker(rng, family)
    netns = router(maker, maker.ruleset())
    for hook in Hook:
        for base in bases(netns, family, hook):
            numbering = Numbering([base])
            for _ in range(12):
                view = view_of(rng, maker.opening()[1], maker.opening()[1], netns, hook)
                ct = None if before_conntrack(base) and not view.attached else view.ct
                if base.table.name == "nat":  # only a new connection asks it
                    flow = view.packet.flow
                    ct = CtView(CtState.NEW, Connection(flow, flow.reversed(), mark=rng.randrange(4)))
                view = dataclasses.replace(view, ct=ct)
                ours = []
                for leaf in walk([base], view, numbering):
                    places = [numbering.place(rule) for rule in leaf.path]
                    path = tuple((place.chain, place.number) for place in places)
                    verdict = leaf.verdict.name.lower()
                    ours.append((leaf.probability, verdict, leaf.mark, leaf.connmark, leaf.ct is not None, path))
                theirs = traced(netns, base, view)
                assert ours == theirs or theirs == [("unknown",)] == [(ours[0][1],)], f"{view}"


# -- compiled clusters and recordings ------------------------------------------------------------------------------------


def meet(netns: Netns, family: int, rng: Random, packets: int) -> None:
    """Random packets that speak the words of a namespace's rules, at every hook."""
    words = Words(netns, family)
    for hook in Hook:
        program = compile_hook(netns, family, hook)
        drawn = [view_of(rng, words.packet(rng), words.packet(rng), netns, hook) for _ in range(packets)]
        agree(program, [routed(rng, program, view) for view in drawn])


@pytest.mark.parametrize("topology", sorted(path.stem for path in (ROOT / "topologies").glob("*.yaml")))
def test_compiled_clusters(topology: str, everywhere: None) -> None:
    network = build(load([str(ROOT / "topologies" / f"{topology}.yaml")])).network
    rng = Random(topology)
    nodes = [netns for netns in network.namespaces.values() if netns.kind is NetnsKind.NODE]
    for netns in nodes[:2]:
        for family in (4, 6):
            meet(netns, family, rng, 50)


@pytest.mark.parametrize("mode", ["iptables", "nftables", "ipvs"])
@pytest.mark.parametrize("seed", range(6))
def test_random_clusters(seed: int, mode: str, everywhere: None) -> None:
    """Services and policies of every kind, many of them alike."""
    cluster = random_cluster(seed, mode, ("flannel", "calico", "canal")[seed % 3], policies=seed % 3 > 0)
    network = build(cluster).network
    nodes = [netns for netns in network.namespaces.values() if netns.kind is NetnsKind.NODE]
    for family in (4, 6):
        meet(nodes[0], family, Random(seed), 60)


def test_services_are_walked_once() -> None:
    """Every service of a large cluster is answered as the walk answers it, and the graph stays as small as one service's."""
    wanted = generate.Wanted(pods=400, services=150, policies=0, nodes=4, shape="uniform", seed=5)
    text = json.dumps({"apiVersion": "v1", "kind": "List", "items": list(generate.generate(wanted))})
    cluster = load(["-"], io.StringIO(text))
    netns = build(cluster).network.namespaces[next(iter(cluster.nodes))]
    program = compile_hook(netns, 4, Hook.PREROUTING, ["nat"])
    rng = Random(9)
    pods = [pod.ips[0] for pod in cluster.pods.values()]
    behind = {key: [a for part in parts for e in part.endpoints for a in e.addresses] for key, parts in cluster.slices.items()}
    views = []
    for service in cluster.services.values():
        for source in (rng.choice(pods), *behind[service.key][:2], ip("192.0.2.1")):  # an endpoint meets itself, too
            packet = Packet(source, service.cluster_ips[0], TCP, 40000, service.ports[0].port)
            flow = packet.flow
            ct = CtView(CtState.NEW, Connection(flow, flow.reversed()))
            views.append(View(packet, Hook.PREROUTING, netns, "cni0", ct=ct))
    agree(program, views)
    answer = decide(program, Packets.of(views, program.names))
    assert len({leaf.rule for n in range(0, len(views), 4) for leaf in answer.leaves(n)}) > 300
    assert program.nodes.length < 100


RECORDINGS = sorted((ROOT / "tests" / "data").rglob("*tables-save"))


@pytest.mark.parametrize("path", RECORDINGS, ids=lambda path: "-".join(path.parts[-3:]))
def test_recordings(path: Path, everywhere: None) -> None:
    family = 6 if "ip6tables" in path.name else 4
    rules = iptables_save.parse(path.read_text(), family=family)
    sets = [*path.parent.glob(f"{path.name.split('.')[0]}.ipset"), *path.parent.glob("sets.ipset")]
    netns = model(family, rules, ipset.parse(sets[0].read_text()) if sets else {}).namespaces[ROUTER]
    meet(netns, family, Random(path.name), 60)


def test_what_was_chosen_is_told(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["dump", "node-1", "program", "-q"]) == 0
    told = [" ".join(line.split()) for line in capsys.readouterr().out.splitlines()]
    assert told[0] == "HOOK TABLE CHAIN RULES HOW THEY ARE FOUND"
    assert "prerouting nat KUBE-SERVICES 10 hash of dst, protocol, dport: 9; rule by rule: 1" in told
    assert "asked packet by packet: only the walk that explains packets knows this match" in told
    assert "prerouting nat KUBE-SEP-734NFQNWZKE4ILBX 2 rule by rule: 2; asked packet by packet: recent" in told
    assert main(["dump", "node-1", "program", "--proxy-mode", "nftables", "-q"]) == 0
    told = [" ".join(line.split()) for line in capsys.readouterr().out.splitlines()]
    assert "prerouting nft ip kube-proxy services rule 1 9 hash of dst, protocol, dport: 9" in told
    assert main(["dump", "node-1", "program", "--proxy-mode", "ipvs", "-q"]) == 0
    told = [" ".join(line.split()) for line in capsys.readouterr().out.splitlines()]
    assert any(line.startswith("input ipvs services 16 hash of dst, protocol, dport: 16") for line in told)


@pytest.mark.parametrize(
    ("first", "then"),
    [
        ("-m statistic --mode random --probability 0.5 -j SVC", "-j ACCEPT"),
        ("-m string --string x --algo bm -j ACCEPT", "-j SVC"),
    ],
)
def test_rules_that_are_alike_behind_a_choice(first: str, then: str) -> None:
    """Each packet has the rule and the target of its own service, though another run of it waits outside."""
    service = "-A SVC -d 10.96.0.{n}/32 -p tcp -m tcp --dport 80 -j DNAT --to-destination 10.2.0.{n}:8080\n"
    rules = "".join(service.format(n=n) for n in range(40))
    text = f"*nat\n:PREROUTING ACCEPT [0:0]\n:SVC - [0:0]\n-A PREROUTING {first}\n-A PREROUTING {then}\n{rules}COMMIT\n"
    netns = Netns("node", NetnsKind.NODE, rulesets={4: iptables_save.parse(text, family=4)})
    program = compile_hook(netns, 4, Hook.PREROUTING)
    views = []
    for n in range(40):
        packet = Packet(ip("10.1.0.7"), ip(f"10.96.0.{n}"), TCP, 5200, 80)
        ct = CtView(CtState.NEW, Connection(packet.flow, packet.flow.reversed()))
        views.append(View(packet, Hook.PREROUTING, netns, "eth0", ct=ct))
    agree(program, views)


def test_packets_of_another_family_are_refused() -> None:
    netns = Netns("node", NetnsKind.NODE, rulesets={4: iptables_save.parse("*filter\n:INPUT ACCEPT [0:0]\nCOMMIT\n", family=4)})
    program = compile_hook(netns, 4, Hook.INPUT)
    with pytest.raises(ValueError, match="packets of IPv6 for a program of IPv4"):
        decide(program, Packets.of_fields(6, program.names, src=1))
    views = [View(Packet(a, a, TCP), Hook.INPUT, netns, "eth0") for a in (ip("10.0.0.1"), ip("fd00::1"))]
    with pytest.raises(ValueError, match="both families"):
        Packets.of(views, program.names)


def test_addresses_of_ipv6_as_numbers_and_words() -> None:
    netns = Netns("node", NetnsKind.NODE)
    names = compile_hook(netns, 6, Hook.INPUT).names
    address = ip("fd00:1:2:3:4:5:6:7").value
    words = [[address >> 32 * word & 0xFFFFFFFF for word in range(4)]] * 2
    for src in (address, words):
        packets = Packets.of_fields(6, names, src=src, dport=[80, 81])  # type: ignore[arg-type]
        assert [packets.view(n, netns, Hook.INPUT).packet.src.value for n in (0, 1)] == [address] * 2
    with pytest.raises(ValueError, match="no field foo: src, dst"):
        Packets.of_fields(6, names, foo=1)
    with pytest.raises(ValueError, match="src: numbers of 32 bits"):
        Packets.of_fields(4, names, src=address)
    for wrong in (-1, 1 << 32, [0, 1 << 32], [[0, 1, 2, 3]]):
        with pytest.raises(ValueError, match="dport: numbers of 32 bits"):
            Packets.of_fields(6, names, dport=wrong)  # type: ignore[arg-type]
