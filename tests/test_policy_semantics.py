"""What policies say: numbered rows that read like talk; properties; and a second, naive evaluator that must agree.

The rows stand in tests/data/policy/rows.yaml, the world that they speak of in world.yaml beside it.
"""

from __future__ import annotations

import itertools
from pathlib import Path

import msgspec
import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from netlab.dataplane.policy.dialect import ANSWERS, DIALECTS, Question
from netlab.dataplane.policy.index import PolicyIndex, selector_words
from netlab.dataplane.policy.labels import LabelIndex
from netlab.dataplane.policy.semantics import Flow, Says, decide, depends
from netlab.dataplane.policy.words import sentence, turns
from netlab.kube import calico_selector as cs
from netlab.kube.load import load
from netlab.kube.objects import IPBlock, LabelSelector, NetworkPolicy, PolicyPeer, PolicyPort, PolicyRule
from netlab.kube.policies import CalicoPolicy, CalicoRule, EntityRule, NetworkSet, PolicyObjects, PortRange, Tier
from netlab.kube.selectors import matches
from netlab.linux.addr import ip, prefix

DATA = Path(__file__).parent / "data" / "policy"
PROTOCOLS = {"tcp": 6, "udp": 17, "sctp": 132, "icmp": 1, "ipip": 4}
ROWS = yaml.safe_load((DATA / "rows.yaml").read_text())


def world(tmp_path: Path, policies: dict[str, object] | None = None, objects: str = ""):
    """The cluster of world.yaml with NetworkPolicies by "namespace/name", and other objects in full."""
    file = tmp_path / "p.yaml"
    documents = [
        {
            "kind": "NetworkPolicy",
            "apiVersion": "networking.k8s.io/v1",
            "metadata": {"name": key.split("/")[1], "namespace": key.split("/")[0]},
            "spec": spec,
        }
        for key, spec in (policies or {}).items()
    ]
    file.write_text(yaml.safe_dump_all(documents) + ("\n---\n" + objects if objects else ""))
    return load([str(DATA / "world.yaml"), str(file)])


def end(index: PolicyIndex, text: str, family: int):
    """`x/a`, `n1`, `1.2.3.4`."""
    if text in index.cluster.pods:
        return index.pod(index.cluster.pods[text], family)
    if text in index.cluster.nodes:
        return index.node(index.cluster.nodes[text], family)
    return index.end(ip(text))


def flow(index: PolicyIndex, text: str) -> Flow:
    """`x/a -> w/a tcp/80 via 10.96.0.80 seen 192.168.7.2 v6 established`."""
    source, arrow, destination, what, *words = text.split()
    assert arrow == "->"
    family = 6 if "v6" in words else 4
    protocol, _, port = what.partition("/")
    after = dict(itertools.pairwise(words))
    return Flow(
        end(index, source, family),
        end(index, destination, family),
        PROTOCOLS[protocol],
        int(port or 0),
        seen=index.end(ip(after["seen"])) if "seen" in after else None,
        service=ip(after["via"]) if "via" in after else None,
        established="established" in words,
    )


def questions() -> list[object]:
    found = []
    for row in ROWS:
        asked = [("calico", line) for line in row.get("flows", ())]
        asked += [(name, line) for name, lines in row.get("under", {}).items() for line in lines]
        for dialect, line in asked:
            found.append(pytest.param(row, dialect, line, id=f"{row['case']}-{dialect}-{line}".replace(" ", "_")))
    return found


@pytest.fixture(scope="module")
def indexes(tmp_path_factory):
    """One index per row and dialect."""
    made: dict[tuple[int, str], PolicyIndex] = {}

    def get(row, dialect):
        key = (id(row), dialect)
        if key not in made:
            cluster = world(tmp_path_factory.mktemp("row"), row.get("policy"), row.get("objects", ""))
            made[key] = PolicyIndex(cluster, DIALECTS[dialect])
        return made[key]

    return get


@pytest.mark.parametrize(("row", "dialect", "line"), questions())
def test_row(indexes, row, dialect, line):
    index = indexes(row, dialect)
    asked, _, expected = line.rpartition(": ") if line.count(": ") == 1 else line.partition(": ")
    wanted, _, words = expected.partition(" ")
    question = flow(index, asked)
    decision = decide(index, question)
    said = "; ".join(sentence(index, question, half, decision) for half in (decision.egress, decision.ingress))
    assert decision.says.value == wanted, f"{row['says']}: {said}"
    if wanted == "undefined" and words in Question.__members__:
        assert decision.open == (Question[words],)
    else:
        assert words in said


def test_every_case_has_a_row():
    """All numbered cases but those that are about loading, or held elsewhere here."""
    elsewhere = {14: "monotonic", 23: "labels change", 25: "load", 29: "load", 35: "load", 65: "load", 73: "load", 88: "load"}
    assert {row["case"] for row in ROWS} | set(elsewhere) == set(range(1, 89))


def test_labels_move_membership(tmp_path):
    """23: an index of the changed cluster sees the changed labels."""
    cluster = world(tmp_path, {"x/p": {"ingress": [{"from": [{"podSelector": {"matchLabels": {"pod": "b"}}}]}]}})
    pods = dict(cluster.pods)
    pods["x/b"] = msgspec.structs.replace(pods["x/b"], labels={"pod": "z"})
    before, after = PolicyIndex(cluster), PolicyIndex(msgspec.structs.replace(cluster, pods=pods))
    assert decide(before, flow(before, "x/b -> x/a tcp/80")).says is Says.ALLOWED
    assert decide(after, flow(after, "x/b -> x/a tcp/80")).says is Says.DENIED


# --- words ---------------------------------------------------------------------------------------------------

FRONT = {"from": [{"podSelector": {"matchLabels": {"pod": "b"}}}], "ports": [{"port": 80}]}


@pytest.mark.parametrize(
    ("policies", "asked", "says"),
    [
        ({}, "w/a -> x/a tcp/80", "no policy selects a for ingress"),
        (
            {"x/deny-all": {}},
            "w/a -> x/a tcp/80",
            "NetworkPolicy x/deny-all selects a for ingress; denied: it has no ingress rule",
        ),
        (
            {"x/p": {"ingress": [FRONT]}, "x/q": {}},
            "x/c -> x/a tcp/80",
            "NetworkPolicies x/p, x/q select a for ingress; denied: none of their ingress rules allows c on 80 "
            "(nearest: p rule 1 allows pod=b on 80; c has pod=c)",
        ),
        (
            {"x/p": {"ingress": [FRONT]}},
            "x/b -> x/a udp/81",
            "NetworkPolicy x/p selects a for ingress; denied: none of its ingress rules allows b on UDP 81 "
            "(nearest: p rule 1 allows pod=b on 80)",
        ),
        (
            {"x/p": {"ingress": [FRONT]}},
            "w/b -> x/a tcp/80",
            "NetworkPolicy x/p selects a for ingress; denied: none of its ingress rules allows w/b on 80 "
            "(nearest: p rule 1 allows pod=b on 80; b in namespace w has pod=b)",
        ),
        (
            {"x/p": {"ingress": [{"from": [{"namespaceSelector": {"matchLabels": {"ns": "w"}}}]}]}},
            "z/b -> x/a tcp/80",
            "NetworkPolicy x/p selects a for ingress; denied: none of its ingress rules allows z/b on 80 "
            "(nearest: p rule 1 allows all pods in namespaces with ns=w; b is in namespace z)",
        ),
        (
            {"x/p": {"ingress": [FRONT]}},
            "x/c -> x/a udp/81",
            "NetworkPolicy x/p selects a for ingress; denied: none of its ingress rules allows c on UDP 81",
        ),
    ],
)
def test_words(tmp_path, policies, asked, says):
    index = PolicyIndex(world(tmp_path, policies))
    question = flow(index, asked)
    decision = decide(index, question)
    assert sentence(index, question, decision.ingress, decision) == says


def test_what_allowed_is_named_with_its_line(tmp_path):
    (tmp_path / "n.yaml").write_text(
        "kind: NetworkPolicy\napiVersion: networking.k8s.io/v1\nmetadata: {name: p, namespace: x}\nspec:\n  ingress:\n"
        "  - ports: [{port: 1}]\n  - from:\n    - podSelector: {}\n    ports: [{port: 80}]\n"
    )
    index = PolicyIndex(load([str(DATA / "world.yaml"), str(tmp_path / "n.yaml")]))
    question = flow(index, "x/b -> x/a tcp/80")
    decision = decide(index, question)
    assert decision.ingress.rule.ref.line == 7
    assert sentence(index, question, decision.ingress, decision) == (
        f"NetworkPolicy x/p selects a for ingress; allowed by p ingress rule 2 ({tmp_path}/n.yaml:7)"
    )


def test_the_dialect_is_named_where_it_matters(tmp_path):
    index = PolicyIndex(world(tmp_path, {"x/p": {"ingress": [{"from": [{"ipBlock": {"cidr": "10.7.0.0/16"}}]}]}}))
    pod, outside = (flow(index, f"{who} -> x/a tcp/80") for who in ("w/a", "1.2.3.4"))
    turned = depends(index, pod, decide(index, pod))
    assert turned == (Question.IP_BLOCK_OF_PODS,)
    assert turns(index.dialect, turned) == ("other engines may differ (does an ipBlock match pods by their address? calico: yes)")
    assert depends(index, outside, decide(index, outside)) == ()


def test_ties_are_reported(tmp_path):
    row = next(row for row in ROWS if row["case"] == 63)
    index = PolicyIndex(world(tmp_path, None, row["objects"]))
    assert decide(index, flow(index, "w/a -> x/a tcp/80")).ties == (("ClusterNetworkPolicy a", "ClusterNetworkPolicy b"),)
    assert decide(index, flow(index, "z/a -> x/a tcp/80")).ties == ()


def test_what_a_dialect_does_not_read_is_noted(tmp_path):
    row = next(row for row in ROWS if row["case"] == 80)
    cluster = world(tmp_path, None, row["objects"])
    assert PolicyIndex(cluster, DIALECTS["cilium"]).notes == [
        "cilium does not read: GlobalNetworkPolicy a, StagedGlobalNetworkPolicy s"
    ]
    assert PolicyIndex(cluster).notes == ["StagedGlobalNetworkPolicy s is staged: it is not enforced"]


def test_every_dialect_answers_with_known_answers():
    for dialect in DIALECTS.values():
        for question, answer in dialect.answers.items():
            assert not answer or answer in ANSWERS[question], (dialect.name, question)


# --- properties ----------------------------------------------------------------------------------------------

selectors = st.builds(
    LabelSelector,
    st.dictionaries(st.sampled_from(["pod", "tier", "empty"]), st.sampled_from(["a", "b", "front", ""]), max_size=1),
    st.lists(
        st.tuples(st.sampled_from(["pod", "tier", "ns"]), st.sampled_from(["In", "NotIn"]), st.just(("a", "b")))
        | st.tuples(st.sampled_from(["pod", "tier", "ns"]), st.sampled_from(["Exists", "DoesNotExist"]), st.just(())),
        max_size=1,
    ).map(tuple),
)
namespace_selectors = st.builds(
    LabelSelector,
    st.dictionaries(st.sampled_from(["ns", "kubernetes.io/metadata.name"]), st.sampled_from(["x", "w", "z"]), max_size=1),
)
blocks = st.sampled_from(
    [
        IPBlock(prefix("0.0.0.0/0")),
        IPBlock(prefix("10.7.0.0/16"), (prefix("10.7.1.0/24"),)),
        IPBlock(prefix("1.2.0.0/16"), (prefix("1.2.3.0/24"),)),
        IPBlock(prefix("192.168.7.0/24")),
    ]
)
peers = (
    st.builds(PolicyPeer, pod_selector=selectors)
    | st.builds(PolicyPeer, namespace_selector=namespace_selectors)
    | st.builds(PolicyPeer, pod_selector=selectors, namespace_selector=namespace_selectors)
    | st.builds(PolicyPeer, ip_block=blocks)
)
protocols = st.sampled_from(["TCP", "UDP", "SCTP"])
ports = (
    st.builds(PolicyPort, protocols)
    | st.builds(PolicyPort, protocols, st.sampled_from([80, 53, 8080]), st.sampled_from([None, 8080, 9000]))
    | st.builds(PolicyPort, protocols, st.sampled_from(["web", "dns", "sig", "mesh", "nothing"]))
)
rules = st.builds(PolicyRule, st.lists(peers, max_size=2).map(tuple), st.lists(ports, max_size=2).map(tuple))
policies = st.builds(
    NetworkPolicy,
    name=st.uuids().map(str),
    namespace=st.sampled_from(["x", "w"]),
    pod_selector=selectors,
    policy_types=st.sampled_from([("Ingress",), ("Egress",), ("Ingress", "Egress")]),
    ingress=st.lists(rules, max_size=2).map(tuple),
    egress=st.lists(rules, max_size=2).map(tuple),
)
policy_lists = st.lists(policies, max_size=4)
ENDS = ["x/a", "x/b", "x/c", "w/a", "w/b", "w/c", "z/a", "x/agent-1", "x/agent-2", "n1", "n2", "1.2.3.4", "1.2.9.9", "7.7.7.7"]
WHAT = ["tcp/80", "tcp/8080", "udp/53", "tcp/5353", "sctp/80", "tcp/15001", "icmp", "udp/8080"]
asked_flows = st.builds("{} -> {} {}".format, st.sampled_from(ENDS), st.sampled_from(ENDS), st.sampled_from(WHAT))


@pytest.fixture(scope="module")
def plain(tmp_path_factory):
    return world(tmp_path_factory.mktemp("plain"))


def of(cluster, found):
    return PolicyIndex(msgspec.structs.replace(cluster, policies={p.key: p for p in found}))


def naive(cluster, index, question: Flow) -> bool:
    """NetworkPolicy as its documentation tells it, one object after the other; Calico's answers where that is silent."""
    source, destination = question.source, question.destination
    for end, other, which in ((source, destination, "Egress"), (destination, source, "Ingress")):
        pod = None if end.pod < 0 else index.pods[end.pod]
        if pod is None or pod.host_network or source.pod == destination.pod:
            continue
        if which == "Ingress" and other.node == pod.node_name:
            continue
        selecting = [
            p
            for p in cluster.policies.values()
            if which in p.policy_types and p.namespace == pod.namespace and matches(p.pod_selector, pod.labels)
        ]
        if not selecting:
            continue
        found = False
        for policy in selecting:
            for rule in policy.ingress if which == "Ingress" else policy.egress:
                peer_ok = not rule.peers
                for peer in rule.peers:
                    if peer.ip_block:
                        peer_ok |= other.ip in peer.ip_block.cidr and not any(other.ip in e for e in peer.ip_block.except_)
                        continue
                    them = None if other.pod < 0 else index.pods[other.pod]
                    if them is None or them.host_network:
                        continue
                    if peer.namespace_selector is None:
                        inside = them.namespace == policy.namespace
                    else:
                        inside = matches(peer.namespace_selector, cluster.namespaces[them.namespace].labels)
                    peer_ok |= inside and (peer.pod_selector is None or matches(peer.pod_selector, them.labels))
                port_ok = not rule.ports
                for port in rule.ports:
                    if PROTOCOLS[port.protocol.lower()] != question.protocol:
                        continue
                    if port.port is None:
                        port_ok = True
                    elif isinstance(port.port, int):
                        port_ok |= port.port <= question.port <= (port.end_port or port.port)
                    elif destination.pod >= 0 and not index.pods[destination.pod].host_network:
                        declared = [(c.name, c.protocol, c.container_port) for c in index.pods[destination.pod].ports]
                        port_ok |= (port.port, port.protocol, question.port) in declared
                found |= peer_ok and port_ok
        if not found:
            return False
    return True


@settings(max_examples=300, deadline=None)
@given(policy_lists, st.lists(asked_flows, min_size=1, max_size=20))
def test_the_naive_evaluator_agrees(plain, found, asked):
    index = of(plain, found)
    for text in asked:
        question = flow(index, text)
        says = decide(index, question).says
        assert (says is Says.ALLOWED) == naive(index.cluster, index, question), text


@settings(max_examples=150, deadline=None)
@given(policy_lists, asked_flows, st.randoms(use_true_random=False))
def test_order_does_not_matter(plain, found, asked, random):
    def shuffled(items):
        items = list(items)
        random.shuffle(items)
        return tuple(items)

    def mixed(rule):
        return PolicyRule(shuffled(rule.peers), shuffled(rule.ports))

    other = [
        msgspec.structs.replace(p, ingress=shuffled(map(mixed, p.ingress)), egress=shuffled(map(mixed, p.egress)))
        for p in shuffled(found)
    ]
    one, two = of(plain, found), of(plain, other)
    assert decide(one, flow(one, asked)).says is decide(two, flow(two, asked)).says


@settings(max_examples=150, deadline=None)
@given(policy_lists.filter(bool), rules, st.booleans(), asked_flows)
def test_a_rule_can_only_add(plain, found, rule, inward, asked):
    """14"""
    field = "ingress" if inward else "egress"
    more = [msgspec.structs.replace(found[0], **{field: (*getattr(found[0], field), rule)}), *found[1:]]
    before, after = of(plain, found), of(plain, more)
    if decide(before, flow(before, asked)).says is Says.ALLOWED:
        assert decide(after, flow(after, asked)).says is Says.ALLOWED


@settings(max_examples=150, deadline=None)
@given(policy_lists, policies, asked_flows)
def test_a_policy_can_only_take_where_nothing_selected(plain, found, policy, asked):
    """14: for a pod that is selected already, another policy only adds."""
    before, after = of(plain, found), of(plain, [*found, policy])
    one, two = decide(before, flow(before, asked)), decide(after, flow(after, asked))
    for was, now in ((one.egress, two.egress), (one.ingress, two.ingress)):
        if was.selected and was.says is Says.ALLOWED:
            assert now.says is Says.ALLOWED
        if not was.selected and now.says is Says.DENIED:
            assert now.selected


@settings(max_examples=200, deadline=None)
@given(policy_lists, asked_flows)
def test_undefined_is_where_some_dialects_differ(plain, found, asked):
    """What the specification leaves open is open: no dialect contradicts what it decides."""
    cluster = msgspec.structs.replace(plain, policies={p.key: p for p in found})
    index = PolicyIndex(cluster, DIALECTS["kubernetes"])
    says = decide(index, flow(index, asked)).says
    for name in ("calico", "kube-router", "cilium", "antrea"):
        other = PolicyIndex(cluster, DIALECTS[name])
        said = decide(other, flow(other, asked)).says
        assert Says.UNDEFINED in (says, said) or said is says, name


# --- tiers: a second naive evaluator -------------------------------------------------------------------------

calico_selectors = st.sampled_from(
    [None, "pod == 'a'", "pod != 'a'", "has(tier)", "pod in {'a', 'b'}", "!has(empty) && pod != 'c'", "all()", "evil == 'yes'"]
).map(lambda text: None if text is None else cs.parse(text))
namespace_texts = st.sampled_from([None, None, "all()", "global()", "ns == 'x'", "!has(ns)"])
calico_namespaces = namespace_texts.map(lambda text: None if text is None else cs.parse(text))
nets = st.sampled_from([(), (), (prefix("10.7.0.0/24"),), (prefix("1.2.0.0/16"), prefix("192.168.7.0/24"))])
entities = st.builds(
    EntityRule,
    nets=nets,
    not_nets=nets,
    selector=calico_selectors,
    not_selector=calico_selectors,
    namespace_selector=calico_namespaces,
)
ranges = st.sampled_from([(), (), (PortRange(80, 80),), (PortRange(50, 9000),), ("web",)])
calico_rules = st.builds(
    lambda action, protocol, source, destination, ports, not_ports: CalicoRule(
        action,
        protocol=protocol,
        source=source,
        destination=msgspec.structs.replace(
            destination, ports=ports if protocol else (), not_ports=not_ports if protocol else ()
        ),
    ),
    st.sampled_from(["Allow", "Deny", "Pass", "Log"]),
    st.sampled_from([None, 6, 17]),
    entities,
    st.just(EntityRule()) | entities,
    ranges,
    ranges,
)
calico_policies = st.builds(
    CalicoPolicy,
    name=st.uuids().map(str),
    namespace=st.sampled_from(["", "x", "w"]),
    tier=st.sampled_from(["default", "sec", "audit"]),
    order=st.sampled_from([None, 10.0, 1000.0, 1500.0]),
    selector=calico_selectors,
    types=st.sampled_from([("Ingress",), ("Egress",), ("Ingress", "Egress")]),
    ingress=st.lists(calico_rules, max_size=2).map(tuple),
    egress=st.lists(calico_rules, max_size=2).map(tuple),
)
TIERS = {
    "sec": Tier(name="sec", order=2000.0),
    "audit": Tier(name="audit", order=10.0, default_action="Pass"),
    "default": Tier(name="default", order=1e6),
}
SETS = {"bad": NetworkSet(name="bad", labels={"evil": "yes"}, nets=(prefix("1.2.3.0/24"),))}


def calico_labels(cluster, thing):
    """A pod's or set's labels as Calico's selectors see them."""
    labels = dict(thing.labels)
    if thing.namespace:
        labels[cs.NAMESPACE_LABEL] = thing.namespace
        labels |= {"pcns." + k: v for k, v in cluster.namespaces[thing.namespace].labels.items()}
    return labels


def namespace_holds(node, labels) -> bool:
    """A namespaceSelector, object by object."""
    match node:
        case cs.All():
            return cs.NAMESPACE_LABEL in labels
        case cs.Not():
            return not namespace_holds(node.operand, labels)
        case _:
            own = {k.removeprefix("pcns."): v for k, v in labels.items() if k.startswith("pcns.") or k == cs.NAMESPACE_LABEL}
            return cs.holds(node, own)


def entity_matches(cluster, index, entity, end, namespace) -> bool:
    """One end of a Calico rule, object by object: pods, then network sets."""
    things = [s for s in cluster.policy_objects.network_sets.values() if any(end.ip in net for net in s.nets)]
    if end.pod >= 0 and not end.node:
        things.append(index.pods[end.pod])

    def selected(thing) -> bool:
        labels = calico_labels(cluster, thing)
        if entity.namespace_selector is not None:
            if not namespace_holds(entity.namespace_selector.root, labels):
                return False
        elif namespace and (entity.selector or entity.not_selector) and thing.namespace != namespace:
            return False
        return entity.selector is None or entity.selector.matches(labels)

    asks = entity.selector is not None or entity.namespace_selector is not None
    if (asks or (namespace and entity.not_selector)) and not any(map(selected, things)):
        return False
    if entity.nets and not any(end.ip in net for net in entity.nets):
        return False
    if any(end.ip in net for net in entity.not_nets):
        return False
    return not (entity.not_selector and any(entity.not_selector.matches(calico_labels(cluster, t)) for t in things))


def naive_tiers(cluster, index, question: Flow) -> bool:
    """Calico's policies as its documentation tells it."""
    source, destination = question.source, question.destination

    def on(port) -> bool:
        if isinstance(port, PortRange):
            return port.first <= question.port <= port.last
        declared = [] if destination.pod < 0 or destination.node else index.pods[destination.pod].ports
        asked = (port, question.port, question.protocol)
        return any((c.name, c.container_port, PROTOCOLS[c.protocol.lower()]) == asked for c in declared)

    for end, other, which in ((source, destination, "Egress"), (destination, source, "Ingress")):
        if end.pod < 0 or end.node or source.pod == destination.pod:
            continue
        pod = index.pods[end.pod]
        if which == "Ingress" and other.node == pod.node_name:
            continue
        verdict = None
        for tier in sorted(TIERS.values(), key=lambda t: t.order):
            mine = [
                p
                for p in cluster.policy_objects.calico.values()
                if p.tier == tier.name and which in p.types and p.namespace in ("", pod.namespace)
                if p.selector is None or p.selector.matches(calico_labels(cluster, pod))
            ]
            mine.sort(key=lambda p: (float("inf") if p.order is None else p.order, f"{p.namespace}/default.{p.name}".lstrip("/")))
            action = None
            for rule in (r for p in mine for r in (p.ingress if which == "Ingress" else p.egress)):
                ports, not_ports = rule.destination.ports, rule.destination.not_ports
                if (
                    action is None
                    and rule.action != "Log"
                    and rule.protocol in (None, question.protocol)
                    and (not ports or any(map(on, ports)))
                    and not any(map(on, not_ports))
                ):
                    of = next(p for p in mine if any(r is rule for r in (*p.ingress, *p.egress)))
                    if entity_matches(cluster, index, rule.source, source, of.namespace) and entity_matches(
                        cluster, index, rule.destination, destination, of.namespace
                    ):
                        action = rule.action
            if action is None and mine and tier.default_action == "Deny":
                action = "Deny"
            if action in ("Allow", "Deny"):
                verdict = action
                break
        if verdict == "Deny":
            return False
    return True


@settings(max_examples=300, deadline=None)
@given(st.lists(calico_policies, max_size=4), st.lists(asked_flows, min_size=1, max_size=20))
def test_the_naive_evaluator_of_tiers_agrees(plain, found, asked):
    objects = PolicyObjects(calico={f"{p.kind}/{p.key}": p for p in found}, tiers=TIERS, network_sets=SETS)
    cluster = msgspec.structs.replace(plain, policy_objects=objects)
    index = PolicyIndex(cluster)
    for text in asked:
        question = flow(index, text)
        assert (decide(index, question).says is Says.ALLOWED) == naive_tiers(cluster, index, question), text


# --- Calico's selectors --------------------------------------------------------------------------------------

names = st.sampled_from(["a", "b-c", "app.kubernetes.io/name", "in", "contains", "all", "has"])
values = st.sampled_from(["", "x", "it's", 'say "x"', "xyz", "a && b"])
nodes = st.recursive(
    st.builds(cs.All)
    | st.builds(cs.Global)
    | st.builds(cs.Has, names)
    | st.builds(cs.Compare, names, st.sampled_from(["==", "!=", "contains", "starts with", "ends with"]), values)
    | st.builds(cs.In, names, st.sets(values).map(lambda v: tuple(sorted(v))), st.booleans()),
    lambda inner: (
        st.builds(cs.Not, inner)
        | st.builds(cs.And, st.lists(inner, min_size=2, max_size=3).map(tuple))
        | st.builds(cs.Or, st.lists(inner, min_size=2, max_size=3).map(tuple))
    ),
    max_leaves=6,
)
label_maps = st.dictionaries(st.sampled_from(["a", "b-c", "in", cs.NAMESPACE_LABEL]), values)


def collapsed(node):
    """`!!x` is x: the parser counts the signs."""
    if isinstance(node, cs.Not) and isinstance(node.operand, cs.Not):
        return collapsed(node.operand.operand)
    if isinstance(node, cs.Not):
        return cs.Not(collapsed(node.operand))
    if isinstance(node, cs.And | cs.Or):
        return type(node)(tuple(map(collapsed, node.operands)))
    return node


@given(nodes)
def test_a_selector_that_is_printed_is_read_again(node):
    assert cs.parse(cs.show(node)).root == collapsed(node)


@given(nodes, st.lists(label_maps, max_size=6))
def test_sets_of_objects_and_one_object_after_the_other_agree(node, objects):
    index = LabelIndex(objects)
    assert index.calico(node) == {n for n, labels in enumerate(objects) if cs.holds(node, labels)}


@given(selectors, st.lists(label_maps, max_size=6))
def test_label_selectors_over_sets_agree(selector, objects):
    index = LabelIndex(objects)
    assert index.select(selector) == {n for n, labels in enumerate(objects) if matches(selector, labels)}
    assert isinstance(selector_words(selector), str)


@pytest.mark.parametrize(
    ("text", "labels", "holds"),
    [
        ("", {}, True),
        ("all()", {}, True),
        ("all( )", {}, True),
        ("global()", {}, True),
        ("global()", {cs.NAMESPACE_LABEL: "x"}, False),
        ("a == 'b'", {"a": "b"}, True),
        ('a=="b"', {"a": "b"}, True),
        ("a != 'b'", {}, True),
        ("a in {'b','c',}", {"a": "c"}, True),
        ("a in {}", {"a": "c"}, False),
        ("a not in {'b'}", {}, True),
        ("a notin {'b'}", {"a": "b"}, False),
        ("a contains 'b'", {"a": "abc"}, True),
        ("a contains 'b'", {}, False),
        ("a starts with 'b'", {"a": "bc"}, True),
        ("a startswith 'c'", {"a": "bc"}, False),
        ("a ends  with 'c'", {"a": "bc"}, True),
        ("has(a)", {"a": ""}, True),
        ("!has(a)", {}, True),
        ("!!has(a)", {}, False),
        ("a == 'b' && c == 'd' || has(e)", {"e": ""}, True),
        ("a == 'b' && (c == 'd' || has(e))", {"e": ""}, False),
        ("!(a == 'b' || has(e))", {"a": "c"}, True),
        ("in in {'in'}", {"in": "in"}, True),
        ("app.kubernetes.io/name == 'it'", {"app.kubernetes.io/name": "it"}, True),
    ],
)
def test_selector(text, labels, holds):
    assert cs.parse(text).matches(labels) is holds


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("a", "was expecting an operator"),
        ("a = 'b'", "was expecting an operator"),
        ("a == b", "expected string, found 'b'"),
        ("a == 'b", "unterminated string"),
        ("a == 'b' &&", "unexpected end of string looking for op"),
        ("a == 'b' and c == 'd'", "unexpected content at end of selector"),
        ("(a == 'b'", "expected )"),
        ("a == 'b')", "unexpected content"),
        ("a in 'b'", "expected set literal"),
        ("a in {'b' 'c'}", "expected }"),
        ("a in {b}", "expected string"),
        ("has(a", "was expecting an operator"),
        ("&& has(a)", "unexpected token"),
        ("(" * 200 + "has(a)" + ")" * 200, "nested deeper"),
    ],
)
def test_selector_refused(text, why):
    with pytest.raises(cs.SelectorError) as caught:
        cs.parse(text)
    assert why in str(caught.value)


# --- docs/policy.md ------------------------------------------------------------------------------------------

DOCS = Path(__file__).parent.parent / "docs" / "policy.md"
ENGINES = ("calico", "kube-router", "cilium", "antrea", "kube-network-policies")


def tables() -> str:
    """The dialects and the cases, from the very tables that are tested."""
    lines = [f"| question | {' | '.join(ENGINES)} |", "|---|" + "---|" * len(ENGINES)]
    lines += [f"| {q.value} | {' | '.join(DIALECTS[e].answer(q) or 'open' for e in ENGINES)} |" for q in Question]
    lines += ["", "## The cases", "", "Every line is a row of tests/data/policy/rows.yaml, with its connections.", ""]
    lines += [f"- {row['case']}: {row['says']}" for row in ROWS]
    return "\n".join(lines) + "\n"


def test_the_document_shows_the_tables():
    """`python tests/test_policy_semantics.py` writes them again."""
    assert DOCS.read_text().endswith(tables())


if __name__ == "__main__":
    head, _, _ = DOCS.read_text().partition("| question |")
    DOCS.write_text(head + tables())
