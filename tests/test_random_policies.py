"""Random policies without a kernel: what is drawn, and that the rules which are walked do what the policies say.

The long round: `netlab lab verify --random 1000 --policies --kernel none`. The same clusters stand in real namespaces in
tests/kernel/test_verify_random.py.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from functools import cache
from pathlib import Path

import pytest

from netlab.cli.main import main
from netlab.dataplane.cni import calico_policies, felix_policy
from netlab.dataplane.policy import index, semantics
from netlab.kube.calico_selector import Not
from netlab.kube.cluster import Cluster
from netlab.kube.objects import IPBlock, NetworkPolicy, PolicyPeer, PolicyPort, PolicyRule
from netlab.kube.policies import CalicoPolicy, CalicoRule, ClusterNetworkPolicy, EntityRule, PortRange
from netlab.lab.policy_agreement import agreement
from netlab.lab.policy_cases import read
from netlab.lab.random_clusters import compare_policies, random_cluster, random_documents, save_cases, wanted_flows
from netlab.linux.addr import Ip
from netlab.trace.flows import predict
from netlab.trace.query import Tracer
from netlab.trace.steps import PolicyStep

MANY = range(120)


@cache
def cluster(seed: int) -> Cluster:
    return random_cluster(seed, cni="calico", policies=True)


def policies() -> Iterable[tuple[Cluster, NetworkPolicy]]:
    return ((cluster(seed), policy) for seed in MANY for policy in cluster(seed).policies.values())


def calico() -> Iterable[CalicoPolicy]:
    return (policy for seed in MANY for policy in cluster(seed).policy_objects.calico.values())


def of_clusters() -> Iterable[ClusterNetworkPolicy]:
    return (policy for seed in MANY for policy in cluster(seed).policy_objects.cluster.values())


def rules() -> Iterable[tuple[Cluster, PolicyRule]]:
    return ((c, rule) for c, policy in policies() for rule in (*policy.ingress, *policy.egress))


def peers() -> Iterable[PolicyPeer]:
    return (peer for _, rule in rules() for peer in rule.peers)


def ports() -> Iterable[tuple[Cluster, PolicyPort]]:
    return ((c, port) for c, rule in rules() for port in rule.ports)


def blocks() -> Iterable[tuple[Cluster, IPBlock]]:
    return ((c, p.ip_block) for c, rule in rules() for p in rule.peers if p.ip_block is not None)


def around(addresses: Callable[[Cluster], Iterable[Ip]]) -> int:
    """How many blocks hold one of the addresses, and not everything."""
    return sum(any(a in block.cidr for a in addresses(c)) and block.cidr.length > 0 for c, block in blocks())


def calico_rules() -> Iterable[CalicoRule]:
    return (rule for policy in calico() for rule in (*policy.ingress, *policy.egress))


def ends() -> Iterable[EntityRule]:
    return (end for rule in calico_rules() for end in (rule.source, rule.destination))


def operators(c: Cluster) -> Iterable[str]:
    for policy in c.policies.values():
        chosen = [policy.pod_selector]
        for rule in (*policy.ingress, *policy.egress):
            chosen += [s for peer in rule.peers for s in (peer.pod_selector, peer.namespace_selector) if s is not None]
        for selector in chosen:
            yield from (operator for _, operator, _ in selector.match_expressions)


def everybody(policy: NetworkPolicy) -> bool:
    return not policy.pod_selector.match_labels and not policy.pod_selector.match_expressions


def selected(c: Cluster) -> Counter[str]:
    """How many NetworkPolicies stand in the namespace of each pod with an empty selector."""
    return Counter(
        pod.key
        for pod in c.pods.values()
        for policy in c.policies.values()
        if policy.namespace == pod.namespace and everybody(policy)
    )


def names_of_ports(c: Cluster) -> dict[str, set[int]]:
    found: dict[str, set[int]] = {}
    for pod in c.pods.values():
        for port in pod.ports:
            found.setdefault(port.name, set()).add(port.container_port)
    return found


SHAPES: dict[str, Callable[[], int]] = {
    "a podSelector alone": lambda: sum(p.pod_selector is not None and p.namespace_selector is None for p in peers()),
    "a namespaceSelector alone": lambda: sum(p.pod_selector is None and p.namespace_selector is not None for p in peers()),
    "both": lambda: sum(p.pod_selector is not None and p.namespace_selector is not None for p in peers()),
    "several peers": lambda: sum(len(rule.peers) > 1 for _, rule in rules()),
    "a rule without peers": lambda: sum(not rule.peers and bool(rule.ports) for _, rule in rules()),
    "a rule without ports": lambda: sum(bool(rule.peers) and not rule.ports for _, rule in rules()),
    "an empty rule": lambda: sum(not rule.peers and not rule.ports for _, rule in rules()),
    "no ingress rule": lambda: sum("Ingress" in p.policy_types and not p.ingress for _, p in policies()),
    "no egress rule": lambda: sum("Egress" in p.policy_types and not p.egress for _, p in policies()),
    "rules that policyTypes makes idle": lambda: sum(bool(p.egress) and "Egress" not in p.policy_types for _, p in policies()),
    "egress alone": lambda: sum(p.policy_types == ("Egress",) for _, p in policies()),
    "an empty podSelector": lambda: sum(everybody(p) for _, p in policies()),
    "several policies for a pod": lambda: sum(max(selected(cluster(seed)).values(), default=0) > 1 for seed in MANY),
    "ipBlock with except": lambda: sum(bool(block.except_) for _, block in blocks()),
    "ipBlock of pods": lambda: around(lambda c: [a for pod in c.pods.values() if not pod.host_network for a in pod.ips]),
    "ipBlock of nodes": lambda: around(lambda c: [a for node in c.nodes.values() for a in node.internal_ips]),
    "ipBlock of ClusterIPs": lambda: around(lambda c: [a for service in c.services.values() for a in service.cluster_ips]),
    "ipBlock of everybody": lambda: sum(block.cidr.length == 0 for _, block in blocks()),
    "endPort": lambda: sum(port.end_port is not None for _, port in ports()),
    "a protocol without port": lambda: sum(port.port is None for _, port in ports()),
    "a named port": lambda: sum(isinstance(port.port, str) for _, port in ports()),
    "a named port that differs between pods": lambda: sum(
        len(names_of_ports(c).get(str(port.port), ())) > 1 for c, port in ports()
    ),
    "a named port that nobody declares": lambda: sum(
        isinstance(port.port, str) and port.port not in names_of_ports(c) for c, port in ports()
    ),
    "UDP": lambda: sum(port.protocol == "UDP" for _, port in ports()),
    "SCTP": lambda: sum(port.protocol == "SCTP" for _, port in ports()),
    "more ports than one multiport match takes": lambda: sum(len(rule.ports) > 15 for _, rule in rules()),
    "a hostNetwork pod": lambda: sum(pod.host_network for seed in MANY for pod in cluster(seed).pods.values()),
    "a sidecar's port": lambda: sum(p.sidecar for seed in MANY for pod in cluster(seed).pods.values() for p in pod.ports),
    "NetworkPolicy of Calico's": lambda: sum(bool(policy.namespace) for policy in calico()),
    "GlobalNetworkPolicy": lambda: sum(policy.kind == "GlobalNetworkPolicy" for policy in calico()),
    "a staged policy": lambda: sum(policy.staged for policy in calico()),
    "a policy without order": lambda: sum(policy.order is None for policy in calico()),
    "a policy of a tier": lambda: sum(policy.tier != "default" for policy in calico()),
    "a tier that passes": lambda: sum(
        tier.default_action == "Pass" for seed in MANY for tier in cluster(seed).policy_objects.tiers.values()
    ),
    "a network set": lambda: sum(bool(s.nets) for seed in MANY for s in cluster(seed).policy_objects.network_sets.values()),
    "Deny": lambda: sum(rule.action == "Deny" for rule in calico_rules()),
    "Pass": lambda: sum(rule.action == "Pass" for rule in calico_rules()),
    "Log": lambda: sum(rule.action == "Log" for rule in calico_rules()),
    "notProtocol": lambda: sum(rule.not_protocol is not None for rule in calico_rules()),
    "an ICMP type": lambda: sum(rule.icmp is not None for rule in calico_rules()),
    "not an ICMP type": lambda: sum(rule.not_icmp is not None for rule in calico_rules()),
    "ipVersion": lambda: sum(rule.ip_version is not None for rule in calico_rules()),
    "notPorts": lambda: sum(bool(end.not_ports) for end in ends()),
    "notNets": lambda: sum(bool(end.not_nets) for end in ends()),
    "several nets": lambda: sum(len(end.nets) > 1 for end in ends()),
    "notSelector": lambda: sum(end.not_selector is not None for end in ends()),
    "a selector with !": lambda: sum(end.selector is not None and isinstance(end.selector.root, Not) for end in ends()),
    "global()": lambda: sum(str(end.namespace_selector) == "global()" for end in ends()),
    "service accounts": lambda: sum(bool(end.service_account_names) for end in ends()),
    "services": lambda: sum(bool(end.service) for end in ends()),
    "a name and a range in one rule": lambda: sum(
        {type(port) for port in end.ports} == {str, PortRange} for end in ends()
    ),
    "AdminNetworkPolicy": lambda: sum(policy.kind == "AdminNetworkPolicy" for policy in of_clusters()),
    "BaselineAdminNetworkPolicy": lambda: sum(policy.kind == "BaselineAdminNetworkPolicy" for policy in of_clusters()),
    "ClusterNetworkPolicy": lambda: sum(policy.kind == "ClusterNetworkPolicy" for policy in of_clusters()),
    "a host endpoint": lambda: sum(len(cluster(seed).policy_objects.host_endpoints) for seed in MANY),
    "a policy of host endpoints": lambda: sum("host" in str(policy.selector or "") for policy in calico()),
    "networks": lambda: sum(bool(peer.networks) for p in of_clusters() for rule in p.egress for peer in rule.peers),
    "nodes": lambda: sum(peer.nodes is not None for p in of_clusters() for rule in p.egress for peer in rule.peers),
}  # fmt: skip


@pytest.mark.parametrize("shape", SHAPES)
def test_every_shape_is_drawn(shape: str) -> None:
    assert SHAPES[shape]() >= 3


@pytest.mark.parametrize("operator", ["In", "NotIn", "Exists", "DoesNotExist"])
def test_every_operator_is_drawn(operator: str) -> None:
    assert sum(found == operator for seed in MANY for found in operators(cluster(seed))) >= 3


def test_a_seed_names_the_same_policies_for_ever() -> None:
    assert random_documents(7, "calico", True) == random_documents(7, "calico", True)
    assert len({random_documents(seed, "calico", True) for seed in MANY}) == len(MANY)
    assert wanted_flows(cluster(7), 7, 40, True) == wanted_flows(cluster(7), 7, 40, True)


# -- two ways to one answer ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("cni", "first", "count"), [("calico", 7000, 24), ("canal", 7100, 8), ("calico-ipip", 7200, 8)])
def test_the_rules_do_what_the_policies_say(cni: str, first: int, count: int) -> None:
    report = compare_policies(count, first, flows=60, cni=cni)
    assert "\n".join(map(str, report.disagreements)) == ""
    assert report.clusters == count
    assert report.flows > 50 * count
    for said in ("egress allowed", "egress denied", "ingress allowed", "ingress denied"):
        assert report.halves[said] > 2 * count


def broken(*_: object, **__: object) -> bool:
    return True


def first_split(ranges: Sequence[PortRange], whole: Callable[..., list[object]] = felix_policy.split_ports) -> list[object]:
    return whole(ranges)[:1]


def nothing(*_: object, **__: object) -> None:
    return None


MISTAKES: dict[str, tuple[object, str, object]] = {
    "policies that look at no port": (semantics, "ports_match", broken),
    "policies that look at no peer": (semantics, "peers_match", broken),
    "policies that know no except": (semantics, "_in_nets", lambda peer, address: semantics._within(address, peer.nets)),
    "policies in another order": (index, "NETWORK_POLICY_ORDER", 2.0),
    "rules without the ports beyond the fifteenth": (felix_policy, "split_ports", first_split),
    "rules without excepted nets": (felix_policy._Blocks, "negative", nothing),
    "rules of one namespace for all": (calico_policies, "_selected", lambda s, n, _: calico_policies.Entity(selector=s)),
    "rules for a tier that passes": (felix_policy, "DROP", felix_policy.RETURN),
}  # fmt: skip


@pytest.mark.parametrize("mistake", MISTAKES)
def test_a_mistake_on_either_side_is_found(mistake: str, monkeypatch: pytest.MonkeyPatch) -> None:
    where, name, wrong = MISTAKES[mistake]
    monkeypatch.setattr(where, name, wrong)
    assert any(compare_policies(1, 7000 + n, flows=60).disagreements for n in range(24))


CASES = Path(__file__).parent / "data" / "policy" / "cases"
# what stands in the first lines of each file, and what rules and policies both say
TAUGHT = {
    "all-beside-accounts": {"egress no pod": 1, "ingress denied": 1},
    "canal-leaves-ipv6-alone": {"egress not enforced for this family": 1, "ingress not enforced for this family": 1},
    "host-endpoint-and-node-port": {"egress allowed": 1, "ingress denied": 1},
    "host-endpoint-behind-a-tunnel": {"egress no pod": 1, "ingress allowed": 1},
    "loopback-is-the-sender": {"egress itself": 1, "ingress itself": 1},
    "masqueraded-before-and-behind": {"egress allowed": 2, "ingress allowed": 1, "ingress no pod": 1},
    "namespaces-take-in-network-sets": {"egress no pod": 1, "ingress denied": 1},
    "node-port-on-loopback": {"egress no pod": 1, "ingress own node": 1},
    "nodeport-on-another-node": {"egress allowed": 2, "ingress no pod": 2},
    "not-nets-of-the-other-family": {"egress allowed": 1, "ingress denied": 1},
    "not-nets-of-the-other-family-6": {"egress denied": 1, "ingress no pod": 1},
    "not-selector-beside-a-selector": {"egress allowed": 1, "ingress allowed": 1},
    "service-port-without-a-number": {"egress denied": 1, "ingress no pod": 1},  # by the tier's end, not by the rule
}


COLLIDES = "masquerade-bit-of-felix"  # the one case in which rules do what no policy says; Linux does it, too


def test_every_case_has_its_row() -> None:
    assert {path.stem for path in CASES.glob("*.yaml")} == {*TAUGHT, COLLIDES}


def test_a_masquerade_bit_of_felix_is_taken_for_a_verdict() -> None:
    found, flow = read(CASES / f"{COLLIDES}.yaml")
    assert found.proxy.masquerade_bit == 18
    tracer = Tracer(found)
    (parting,) = agreement(tracer, flow, predict(tracer, flow, 33000)).partings
    assert parting.rules == "denied"
    assert "--mark 0x40000/0x40000 -j DROP" in parting.last


@pytest.mark.parametrize("name", TAUGHT)
def test_what_random_policies_taught(name: str) -> None:
    found, flow = read(CASES / f"{name}.yaml")
    tracer = Tracer(found)
    both = agreement(tracer, flow, predict(tracer, flow, 33000))
    assert "\n".join(map(str, both.partings)) == ""
    assert both.halves == TAUGHT[name]


def test_a_trace_says_that_only_one_family_is_policed() -> None:
    found, flow = read(CASES / "canal-leaves-ipv6-alone.yaml")
    (branch,) = predict(Tracer(found), flow, 33000).branches
    steps = [step for hop in branch.hops for step in hop.steps if isinstance(step, PolicyStep)]
    assert [step.enforced for step in steps] == [False, False]
    assert all("but canal enforces none for IPv6; an engine would deny it" in step.text for step in steps)


def test_a_case_is_made_small_and_can_be_asked_again(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(felix_policy, "DROP", felix_policy.RETURN)
    report = next(r for n in range(9) if (r := compare_policies(1, 7000 + n, flows=30)).disagreements)
    written = save_cases(report, tmp_path, "calico", most=1)
    found, flow = read(written[0])
    many = len(found.policies) + len(found.policy_objects.calico) + len(found.policy_objects.cluster)
    assert many <= 2
    tracer = Tracer(found)
    assert agreement(tracer, flow, predict(tracer, flow, 33000)).partings
    monkeypatch.undo()
    tracer = Tracer(read(written[0])[0])
    assert not agreement(tracer, flow, predict(tracer, flow, 33000)).partings


# -- the command ---------------------------------------------------------------------------------------------------------


def test_the_command_compares_without_a_kernel(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["lab", "verify", "--random", "2", "--seed", "7000", "--policies", "--kernel", "none", "--flows", "20"]) == 0
    assert "2 random clusters" in (said := capsys.readouterr().out)
    assert "0 disagree" in said
    assert "rules and policies:" in said


def test_the_command_writes_what_disagrees(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(semantics, "peers_match", broken)
    asked = ["lab", "verify", "--random", "3", "--seed", "7000", "--policies", "--kernel", "none", "--save", str(tmp_path)]
    assert main(asked) == 1
    written = sorted(tmp_path.glob("*.yaml"))
    assert written
    assert f"written: {written[0]}" in capsys.readouterr().out
    assert read(written[0])[0].nodes


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["--policies"], "--policies goes with --random"),
        (["--random", "1", "--kernel", "none"], "--kernel none goes with --random N --policies"),
        (["--random", "1", "--policies", "--cni", "flannel"], "flannel enforces none"),
        (["--random", "1", "--policies", "--kernel", "none", "--cni", "flannel"], "one of calico, calico-ipip, canal"),
        (["--random", "1", "--flows", "0"], "--flows must be at least 1"),
    ],
)
def test_wrong_usage(words: list[str], says: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["lab", "verify", *words]) == 2
    assert says in capsys.readouterr().err
