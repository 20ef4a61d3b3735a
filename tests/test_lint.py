"""`netlab lint`: one small input per check, what is said of it, and the nearest input of which nothing is said."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from netlab.cli.main import main
from netlab.errors import InputError
from netlab.kube.load import load
from netlab.kube.topology import Overrides
from netlab.reach.lint import CHECKS, lint

BASE = """
apiVersion: v1
kind: Pod
metadata: {name: web-0, namespace: default, labels: {app: web}}
spec: {nodeName: node-1, containers: [{name: c, ports: [{name: http, containerPort: 8080}]}]}
status: {podIPs: [{ip: 10.244.0.10}], conditions: [{type: Ready, status: "True"}]}
---
apiVersion: v1
kind: Pod
metadata: {name: db-0, namespace: default, labels: {app: db}}
spec: {nodeName: node-1, containers: [{name: c, ports: [{name: pg, containerPort: 5432}]}]}
status: {podIPs: [{ip: 10.244.0.11}], conditions: [{type: Ready, status: "True"}]}
---
apiVersion: v1
kind: Pod
metadata: {name: dns-0, namespace: kube-system, labels: {k8s-app: kube-dns}}
spec:
  nodeName: node-2
  containers: [{name: c, ports: [{name: dns, containerPort: 53, protocol: UDP}, {name: dns-tcp, containerPort: 53}]}]
status: {podIPs: [{ip: 10.244.1.53}], conditions: [{type: Ready, status: "True"}]}
---
apiVersion: v1
kind: Service
metadata: {name: kube-dns, namespace: kube-system}
spec:
  clusterIP: 10.96.0.10
  selector: {k8s-app: kube-dns}
  ports: [{name: dns, port: 53, protocol: UDP, targetPort: dns}, {name: dns-tcp, port: 53, targetPort: dns-tcp}]
---
apiVersion: v1
kind: Service
metadata: {name: web, namespace: default}
spec: {clusterIP: 10.96.0.20, selector: {app: web}, ports: [{port: 80, targetPort: http}]}
---
"""
LINE = BASE.count("\n") + 1  # of what a test adds


def policy(spec: str, name: str = "p") -> str:
    head = "apiVersion: networking.k8s.io/v1\nkind: NetworkPolicy\n"
    return f"{head}metadata: {{name: {name}, namespace: default}}\nspec: {spec}\n"


def calico(spec: str, name: str = "c") -> str:
    head = "apiVersion: projectcalico.org/v3\nkind: GlobalNetworkPolicy\n"
    return f"{head}metadata: {{name: {name}}}\nspec: {spec}\n"


def admin(priority: int, name: str, pods: str = "{app: web}") -> str:
    head = "---\napiVersion: policy.networking.k8s.io/v1alpha2\nkind: ClusterNetworkPolicy\n"
    subject = f"subject: {{pods: {{namespaceSelector: {{}}, podSelector: {{matchLabels: {pods}}}}}}}"
    rules = "ingress: [{action: Deny, from: [{namespaces: {}}]}]"
    return f"{head}metadata: {{name: {name}}}\nspec: {{tier: Admin, priority: {priority}, {subject}, {rules}}}\n"


def a_service(spec: str) -> str:
    return f"apiVersion: v1\nkind: Service\nmetadata: {{name: s, namespace: default}}\nspec: {spec}\n"


DNS = "{to: [{namespaceSelector: {}, podSelector: {matchLabels: {k8s-app: kube-dns}}}], ports: [%s]}"
BOTH = "{port: 53}, {port: 53, protocol: UDP}"
ANYBODY, DB = "{podSelector: {}}", "{podSelector: {matchLabels: {app: db}}}"
FROM_DB = "source: {selector: app == 'db'}"
NARROW = "{from: [{ipBlock: {cidr: 192.0.2.0/28}}]}"
WEB = "podSelector: {matchLabels: {app: web}}"


def found(
    tmp_path: Path, text: str, *, ignore: str = "no-policy-engine", cni: str | None = None
) -> list[tuple[str, str, str, int | None]]:
    file = tmp_path / "in.yaml"
    file.write_text(BASE + text)
    cluster = load([str(file)], None, Overrides(service_cidr="10.96.0.0/16", cni=cni))
    return [(f.check, f.severity.value, f.what, f.ref.line) for f in lint(cluster, frozenset([ignore]))]


@pytest.mark.parametrize(
    ("check", "text", "says", "harmless"),
    [
        (
            "service-selects-no-pod",
            a_service("{selector: {app: wbe}, ports: [{port: 1}]}"),
            "no pod in default has app=wbe: the service has no endpoints (nearest: pod default/web-0 has app=web)",
            a_service("{selector: {app: web}, ports: [{port: 8080}]}"),
        ),
        (
            "service-without-endpoints",
            a_service("{ports: [{port: 1}]}"),
            "has no selector, and nobody made an EndpointSlice for it",
            a_service("{type: ExternalName, externalName: a.example}"),
        ),
        (
            "target-port-undeclared",
            a_service("{selector: {app: web}, ports: [{port: 80, targetPort: htp}]}"),
            'port 80/TCP: no container port of its pods is called "htp"',
            a_service("{selector: {app: web}, ports: [{port: 80, targetPort: http}]}"),
        ),
        (
            "target-port-undeclared",
            a_service("{selector: {app: web}, ports: [{port: 80}]}"),
            "port 80/TCP: targetPort 80 is declared by none of its pods",
            a_service("{selector: {app: web}, ports: [{port: 8080}]}"),
        ),
        (
            "local-policy-without-local-endpoints",
            a_service("{type: NodePort, externalTrafficPolicy: Local, selector: {app: web}, ports: [{port: 8080}]}"),
            "externalTrafficPolicy Local, and no endpoint on node-2: what enters there is dropped",
            a_service("{type: NodePort, selector: {app: web}, ports: [{port: 8080}]}"),
        ),
        ("policy-selects-no-pod", policy("{podSelector: {matchLabels: {app: x}}}"), "selects no pod", policy(f"{{{WEB}}}")),
        (
            "peer-selects-nobody",
            policy(f"{{{WEB}, ingress: [{{from: [{{podSelector: {{matchLabels: {{k8s-app: kube-dns}}}}}}]}}]}}"),
            "ingress rule 1: no pod is ",
            policy(f"{{{WEB}, ingress: [{{from: [{{podSelector: {{matchLabels: {{app: db}}}}}}]}}]}}"),
        ),
        (
            "rule-adds-nothing",
            policy(f"{{{WEB}, ingress: [{{from: [{ANYBODY}]}}, {{from: [{DB}]}}]}}"),
            "ingress rule 2 adds nothing: rule 1 allows all of it",
            policy(f"{{{WEB}, ingress: [{{from: [{ANYBODY}], ports: [{{port: 8080}}]}}, {{from: [{DB}]}}]}}"),
        ),
        (
            "rule-adds-nothing",
            policy(f"{{{WEB}, ingress: [{NARROW}, {{from: [{{ipBlock: {{cidr: 192.0.2.0/24}}}}]}}]}}"),
            "ingress rule 1 adds nothing: rule 2 allows all of it",
            policy(f"{{{WEB}, ingress: [{NARROW}, {{from: [{{ipBlock: {{cidr: 192.0.2.0/24, except: [192.0.2.0/29]}}}}]}}]}}"),
        ),
        (
            "rule-adds-nothing",
            policy(f"{{podSelector: {{}}, ingress: [{{from: [{ANYBODY}]}}]}}")
            + "---\n"
            + policy(f"{{{WEB}, ingress: [{{from: [{DB}]}}]}}", "q"),
            "ingress rule 1 adds nothing: rule 1 of NetworkPolicy default/p allows all of it",
            policy(f"{{{WEB}, ingress: [{{from: [{ANYBODY}]}}]}}")
            + "---\n"
            + policy(f"{{podSelector: {{}}, ingress: [{{from: [{DB}]}}]}}", "q"),
        ),
        (
            "rule-never-reached",
            calico(
                "{selector: app == 'web', types: [Ingress], ingress: [{action: Deny}, {action: Allow, SRC}]}".replace(
                    "SRC", FROM_DB
                )
            ),
            "ingress rule 2 is never reached: rule 1 (deny) matches all of it",
            calico(
                "{selector: app == 'web', types: [Ingress], ingress: [{action: Log}, {action: Allow, SRC}]}".replace(
                    "SRC", FROM_DB
                )
            ),
        ),
        (
            "policies-tie",
            admin(10, "one") + admin(10, "two"),
            "has priority 10 for ingress of pods that ClusterNetworkPolicy one selects, too: either may go first",
            admin(10, "one") + admin(10, "two", "{app: db}") + admin(11, "three"),
        ),
        (
            "tier-is-missing",
            calico("{tier: sec, selector: app == 'web', types: [Ingress]}", "sec.c"),
            "there is no Tier sec: the policy is not enforced",
            calico("{tier: default, selector: app == 'web', types: [Ingress]}"),
        ),
        (
            "named-port-unmatched",
            policy(f"{{{WEB}, ingress: [{{ports: [{{port: pg}}]}}]}}"),
            'ingress rule 1: no container port of the pods it is about is called "pg" (TCP)',
            policy(f"{{{WEB}, ingress: [{{ports: [{{port: http}}]}}]}}"),
        ),
        (
            "service-port-in-policy",
            policy(f"{{{WEB}, ingress: [{{ports: [{{port: 80}}]}}]}}"),
            "ingress rule 1: port 80 is Service default/web's own; its pods have http, and a policy sees that",
            policy(f"{{{WEB}, ingress: [{{ports: [{{port: 8080}}]}}]}}"),
        ),
        (
            "cluster-ip-in-ip-block",
            policy(f"{{{WEB}, policyTypes: [Egress], egress: [{{to: [{{ipBlock: {{cidr: 10.96.0.20/32}}}}]}}, {DNS % BOTH}]}}"),
            "egress rule 1: ipBlock 10.96.0.20/32 holds service addresses (default/web); a policy sees the pod's",
            policy(f"{{{WEB}, policyTypes: [Egress], egress: [{{to: [{{ipBlock: {{cidr: 0.0.0.0/0}}}}]}}]}}"),
        ),
        (
            "dns-cut-off",
            policy(f"{{{WEB}, policyTypes: [Egress], egress: [{{to: [{{podSelector: {{}}}}]}}]}}"),
            "egress of default/web-0 does not reach the cluster's DNS by UDP and TCP",
            policy(f"{{{WEB}, policyTypes: [Egress], egress: [{DNS % BOTH}]}}"),
        ),
        (
            "dns-cut-off",
            policy(f"{{{WEB}, policyTypes: [Egress], egress: [{DNS % '{port: 53, protocol: UDP}'}]}}"),
            "egress of default/web-0 does not reach the cluster's DNS by TCP",
            policy(f"{{{WEB}}}"),
        ),
        (
            "policy-types-contradict",
            policy(f"{{{WEB}, policyTypes: [Ingress], egress: [{{}}]}}"),
            "has egress rules, but policyTypes is Ingress: they are ignored",
            policy(f"{{{WEB}, policyTypes: [Egress], egress: [{{}}]}}"),
        ),
    ],
)
def test_a_check_says(check: str, text: str, says: str, harmless: str, tmp_path: Path) -> None:
    said = [what for name, _, what, line in found(tmp_path, text) if name == check and line]
    assert [what for what in said if what.startswith(says) or says in what], found(tmp_path, text)
    assert [row for row in found(tmp_path, harmless) if row[0] == check] == []


def test_the_base_has_no_findings(tmp_path: Path) -> None:
    assert found(tmp_path, "") == []


def test_flannel_enforces_no_policy(tmp_path: Path) -> None:
    rows = found(tmp_path, policy(f"{{{WEB}}}") + "---\n" + policy(f"{{{WEB}}}", "q"), ignore="")
    assert [row[2] for row in rows] == ["this policy and 1 more is enforced by nobody: flannel has no policy engine"]


@pytest.mark.parametrize("cni", ["kube-router", "cilium", "calico", "canal"])
def test_an_engine_that_is_not_modelled_enforces_all_the_same(cni: str, tmp_path: Path) -> None:
    rows = found(tmp_path, policy(f"{{{WEB}}}"), ignore="", cni=cni)
    assert [row for row in rows if row[0] == "no-policy-engine"] == []


def test_every_check_has_a_case() -> None:
    cases = {mark.args[1][n][0] for mark in test_a_check_says.pytestmark for n in range(len(mark.args[1]))}
    assert cases | {"no-policy-engine", "proxy-mode-and-release"} == set(CHECKS)


def test_the_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "in.yaml"
    file.write_text(BASE + policy("{podSelector: {matchLabels: {app: x}}}"))
    assert main(["lint", "-f", str(file), "-q"]) == 1
    said = capsys.readouterr().out
    found = "NetworkPolicy default/p: selects no pod, so it has no effect  [policy-selects-no-pod]"
    assert f"{file}:{LINE}: warning: {found}" in said
    assert said.endswith("2 findings: 2 warnings\n")
    assert main(["lint", "-f", str(file), "-q", "--ignore", "policy-selects-no-pod", "--ignore", "no-policy-engine"]) == 0
    assert capsys.readouterr().out == "no findings\n"
    assert main(["lint", "-f", str(file), "-q", "-o", "json"]) == 1
    assert [f["check"] for f in json.loads(capsys.readouterr().out)["findings"]] == ["no-policy-engine", "policy-selects-no-pod"]
    assert main(["lint", "-f", str(file), "-q", "-o", "sarif"]) == 1
    run = json.loads(capsys.readouterr().out)["runs"][0]
    assert {rule["id"] for rule in run["tool"]["driver"]["rules"]} == set(CHECKS)
    assert run["results"][0]["locations"][0]["physicalLocation"]["region"]["startLine"] == LINE
    assert main(["lint", "-f", str(file), "-q", "--ignore", "dns-cutoff"]) == 2
    assert 'did you mean "dns-cut-off"?' in capsys.readouterr().err
    assert main(["lint", "--checks"]) == 0
    assert len(capsys.readouterr().out.splitlines()) == len(CHECKS)


def a_node(version: str, name: str = "node-1") -> str:
    return f"apiVersion: v1\nkind: Node\nmetadata: {{name: {name}}}\nstatus: {{nodeInfo: {{kubeletVersion: {version}}}}}\n---\n"


@pytest.mark.parametrize(
    ("mode", "version", "says"),
    [
        ("iptables", "v1.35.0", ""),
        ("ipvs", "v1.34.3", "note: IPVS mode is deprecated since v1.35"),
        ("ipvs", "v1.35.0", "warning: IPVS mode is deprecated since v1.35"),
        ("ipvs", "", "note: IPVS mode is deprecated since v1.35"),
        ("userspace", "v1.25.16", "note: userspace mode: removed in v1.26"),
        ("userspace", "v1.26.0", "error: v1.26 has no userspace mode: removed in v1.26"),
        ("nftables", "v1.28.1", "error: v1.28 has no nftables mode: it is alpha in v1.29"),
        ("nftables", "v1.30.5", "note: nftables mode is alpha, behind the gate NFTablesProxyMode in v1.30"),
        ("nftables", "v1.32.0-rc.1", "note: nftables mode is beta in v1.32"),
        ("nftables", "v1.33.0+k3s1", ""),
        ("nftables", "", ""),
    ],
)
def test_a_mode_and_the_release_of_the_nodes(tmp_path: Path, mode: str, version: str, says: str) -> None:
    file = tmp_path / "in.yaml"
    conf = f'{{mode: "{mode}"}}'
    about = "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: kube-proxy, namespace: kube-system}\n"
    config = f"{about}data: {{config.conf: '{conf}'}}\n"
    file.write_text((a_node(version) if version else "") + BASE + config)
    found = [f for f in lint(load([str(file)])) if f.check == "proxy-mode-and-release"]
    assert [(f.ref.file, f.ref.line is not None) for f in found] == [(str(file), True)] * bool(says)
    assert "".join(f"{f.severity.value}: {f.what}" for f in found).startswith(says)
    assert says or not found


@pytest.mark.parametrize(("version", "says"), [("v1.30.9", False), ("v1.35.2", True), ("", False)])
def test_rules_of_another_release_are_an_assumption(tmp_path: Path, version: str, says: bool) -> None:
    file = tmp_path / "in.yaml"
    file.write_text((a_node(version) if version else "") + BASE)
    told = [a for a in load([str(file)], None, Overrides(proxy_mode="nftables")).assumptions if "nftables rules" in a]
    expected = "kube-proxy's nftables rules are those of v1.30, the nodes run v1.35.2: --kube-proxy-version says whose"
    assert told == [expected] * says
    chosen = load([str(file)], None, Overrides(proxy_mode="nftables", kube_proxy_version="1.34")).assumptions
    assert not any("nftables rules" in a for a in chosen)


def test_a_version_means_nothing_in_another_mode(tmp_path: Path) -> None:
    """It was taken in silence, whatever it said."""
    file = tmp_path / "in.yaml"
    file.write_text(BASE)
    told = load([str(file)], None, Overrides(proxy_mode="ipvs", kube_proxy_version="1.34")).assumptions
    assert "--kube-proxy-version 1.34 is for nftables mode: in ipvs mode it changes nothing" in told
    with pytest.raises(InputError, match='"banana" is no version'):
        load([str(file)], None, Overrides(kube_proxy_version="banana"))
