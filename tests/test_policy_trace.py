"""Policy steps of traces: said at both ends, always; in whose words, and that flannel enforces nothing."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from netlab.kube.embedded import path_of_default
from netlab.kube.load import load
from netlab.kube.topology import Overrides
from netlab.render import jsonio
from netlab.render.text import one_line, render
from netlab.trace.query import Request, Tracer
from netlab.trace.steps import PolicyStep, Verdict

POLICIES = """
kind: NetworkPolicy
apiVersion: networking.k8s.io/v1
metadata: {name: api}
spec:
  podSelector: {matchLabels: {app: api}}
  ingress:
  - from: [{podSelector: {matchLabels: {app: front}}}]
    ports: [{port: http}]
  - from: [{podSelector: {matchLabels: {app: api}}}]
---
kind: NetworkPolicy
apiVersion: networking.k8s.io/v1
metadata: {name: web}
spec:
  podSelector: {matchLabels: {app: web}}
  policyTypes: [Ingress, Egress]
  ingress: [{from: [{ipBlock: {cidr: 203.0.113.0/24}}]}]
  egress: [{to: [{podSelector: {}}], ports: [{port: 9000}]}]
---
kind: NetworkPolicy
apiVersion: networking.k8s.io/v1
metadata: {name: agents}
spec: {podSelector: {matchLabels: {app: agent}}}
"""
NONE = "but flannel enforces none; an engine would"


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    path = tmp_path_factory.mktemp("policies")
    (path / "p.yaml").write_text(POLICIES)
    return path


@pytest.fixture(scope="module")
def tracer(folder):
    return Tracer(load([str(path_of_default()), str(folder / "p.yaml")]))


@pytest.fixture(scope="module")
def bare():
    return Tracer(load([str(path_of_default())]))


def said(trace, branch: int = 0):
    """The policy steps of a branch: where, and what."""
    return [(hop.where, s.text) for hop in trace.branches[branch].hops for s in hop.steps if isinstance(s, PolicyStep)]


@pytest.mark.parametrize(
    ("source", "destination", "at", "steps"),
    [
        (
            "web-0",
            "api-1:9000",
            None,
            [
                (
                    "default/web-0",
                    f"NetworkPolicy default/web selects web-0 for egress, {NONE} "
                    "allow it by web egress rule 1 (FILE:19)",
                ),
                (
                    "default/api-1",
                    f"NetworkPolicy default/api selects api-1 for ingress, {NONE} deny it: "
                    "none of its ingress rules allows web-0 on 9000 "
                    "(nearest: api rule 1 allows app=front on http; web-0 has app=web)",
                ),
            ],
        ),
        (
            "api-0",
            "api-1:9000",
            None,
            [
                ("default/api-0", "no policy selects api-0 for egress"),
                (
                    "default/api-1",
                    f"NetworkPolicy default/api selects api-1 for ingress, {NONE} allow it by api ingress rule 2 (FILE:10)",
                ),
            ],
        ),
        # a closed port: the request arrives all the same
        (
            "api-0",
            "kube-system/dns-0:81",
            None,
            [
                ("default/api-0", "no policy selects api-0 for egress"),
                ("kube-system/dns-0", "no policy selects dns-0 for ingress"),
            ],
        ),
        # it does not arrive: nothing is said of the destination
        ("api-0", "svc/nobody", None, [("default/api-0", "no policy selects api-0 for egress")]),
        ("api-0", "internet:443", None, [("default/api-0", "no policy selects api-0 for egress")]),
        # a client from outside is itself on the node where it came in, and that node everywhere else
        (
            "internet",
            "svc/web",
            "node-1",
            [
                (
                    "default/web-0",
                    f"NetworkPolicy default/web selects web-0 for ingress, {NONE} allow it by web ingress rule 1 (FILE:18)",
                )
            ],
        ),
        (
            "internet",
            "svc/web",
            "node-3",
            [
                (
                    "default/web-0",
                    f"NetworkPolicy default/web selects web-0 for ingress, {NONE} deny it: none of its ingress rules allows "
                    "node-3 (10.244.2.0) on 8080 (nearest: web rule 1 allows 203.0.113.0/24; its address is 10.244.2.0)",
                )
            ],
        ),
        (
            "node/node-1",
            "api-0:9000",
            None,
            [
                (
                    "default/api-0",
                    f"NetworkPolicy default/api selects api-0 for ingress, {NONE} "
                    "allow it: the node that runs a pod always reaches it",
                )
            ],
        ),
        # hostNetwork pods
        (
            "api-0",
            "agent-1:9100",
            None,
            [
                ("default/api-0", "no policy selects api-0 for egress"),
                ("node-1", "NetworkPolicy default/agents does not apply for ingress: agent-1 is a hostNetwork pod"),
            ],
        ),
        (
            "web-0",
            "web-0:8080",
            None,
            [
                (
                    "default/web-0",
                    f"NetworkPolicy default/web selects web-0 for {d}, {NONE} "
                    "allow it: a pod cannot be kept from itself",
                )
                for d in ("egress", "ingress")
            ],
        ),
        ("node/node-1", "node/node-2:22", None, []),
    ],
)
def test_steps(tracer, folder, source, destination, at, steps):
    trace = tracer.trace(Request(source, destination, at=at))
    file = str(folder / "p.yaml")
    assert [(where, text.replace(file, "FILE")) for where, text in said(trace)] == steps


def test_every_branch_starts_with_the_same_words(tracer):
    """Branches part at the node: what is said of egress must not part them in the pod already."""
    trace = tracer.trace(Request("web-0", "svc/agent"))
    first = {said(trace, n)[0] for n in range(3)}
    assert len(first) == 1
    assert "none of its egress rules allows a pod of default/agent on 9100" in next(iter(first))[1]
    assert "as in branch 1 up to node-1" in render(trace)


def test_through_its_own_service(tracer):
    trace = tracer.trace(Request("web-0", "svc/web"))
    branch = next(n for n, b in enumerate(trace.branches) if b.endpoint_name == "pod default/web-0")
    (_, egress), (_, ingress) = said(trace, branch)
    assert egress.startswith("NetworkPolicy default/web selects web-0 for egress")
    assert ingress.endswith("other engines may differ (is a pod judged that reaches itself through its own service? calico: yes)")


def test_where_nothing_is_enforced_the_verdict_stays(tracer, bare):
    for source, destination in (("web-0", "api-1:9000"), ("api-0", "svc/web")):
        one, two = (t.trace(Request(source, destination)) for t in (tracer, bare))
        assert one.verdict is two.verdict is Verdict.DELIVERED
        assert one.not_modelled == two.not_modelled == ()


def test_can_says_it_in_brackets(tracer, bare):
    request = Request("web-0", "api-1:9000")
    assert one_line(tracer.trace(request)) == one_line(bare.trace(request)) + (
        "  [not enforced: NetworkPolicy default/api would deny it]"
    )
    allowed = Request("api-0", "api-1:9000")
    assert one_line(tracer.trace(allowed)) == one_line(bare.trace(allowed))


def test_without_policies_each_end_says_so(bare):
    assert said(bare.trace(Request("web-0", "api-1:9000"))) == [
        ("default/web-0", "no policy selects web-0 for egress"),
        ("default/api-1", "no policy selects api-1 for ingress"),
    ]


def test_text_and_json(tracer, folder):
    trace = tracer.trace(Request("web-0", "api-1:9000"))
    assert f"    policy     NetworkPolicy default/api selects api-1 for ingress, {NONE} deny it" in render(trace)
    wide = render(trace, wide=True)
    assert f"allow it by web egress rule 1 ({folder}/p.yaml:19)\n" in wide  # once is enough
    assert f"web-0 has app=web) ({folder}/p.yaml:2, document 1, NetworkPolicy default/api)\n" in wide
    steps = [s for hop in json.loads(jsonio.dumps(trace))["branches"][0]["hops"] for s in hop["steps"] if s["step"] == "policy"]
    assert [{k: v for k, v in s.items() if k not in ("text", "ref")} for s in steps] == [
        {
            "step": "policy",
            "direction": "egress",
            "says": "allowed",
            "selected": ["NetworkPolicy default/web"],
            "policy": "NetworkPolicy default/web",
            "rule": 1,
        },
        {"step": "policy", "direction": "ingress", "says": "denied", "selected": ["NetworkPolicy default/api"]},
    ]
    assert steps[0]["ref"]["line"] == 19


def test_without_a_cni(tmp_path: Path):
    (tmp_path / "p.yaml").write_text(POLICIES)
    cluster = load([str(path_of_default()), str(tmp_path / "p.yaml")], overrides=Overrides(cni="none"))
    text = said(Tracer(cluster).trace(Request("web-0", "api-0:9000")))[0][1]
    assert "for egress, but no engine enforces it; one would allow it by web egress rule 1" in text


def test_notes_of_policies_that_do_nothing(tmp_path):
    (tmp_path / "p.yaml").write_text(
        "kind: StagedGlobalNetworkPolicy\napiVersion: projectcalico.org/v3\nmetadata: {name: s}\n"
        "spec: {ingress: [{action: Deny}]}\n"
    )
    trace = Tracer(load([str(path_of_default()), str(tmp_path / "p.yaml")])).trace(Request("web-0", "api-0:9000"))
    assert "StagedGlobalNetworkPolicy s is staged: it is not enforced" in trace.assumptions
