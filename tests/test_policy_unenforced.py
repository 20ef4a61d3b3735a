"""Who enforces policies: Calico and Canal by rules made of them, Flannel not at all; what no rule can tell is unknown."""

from __future__ import annotations

from pathlib import Path

import pytest

from netlab.cli.main import main

ROOT = Path(__file__).resolve().parent.parent
HEAD = "apiVersion: networking.k8s.io/v1\nkind: NetworkPolicy\nmetadata: {name: p, namespace: default}\nspec: "
CALICO = "apiVersion: projectcalico.org/v3\nkind: GlobalNetworkPolicy\nmetadata: {name: p}\nspec: "


@pytest.mark.parametrize(
    ("topology", "policy", "code", "says"),
    [
        ("calico-vxlan", HEAD + "{podSelector: {}}", 1, "End of tier default. Drop if no policies passed packet"),
        ("calico-vxlan", HEAD + "{podSelector: {}, ingress: [{}]}", 0, "yes"),
        ("calico-vxlan", CALICO + "{ingress: [{action: Allow, http: {methods: [GET]}}]}", 3, "on what the HTTP request says"),
        ("canal", HEAD + "{podSelector: {matchLabels: {app: web}}}", 1, "End of tier default. Drop if no policies passed packet"),
        ("flannel-vxlan", HEAD + "{podSelector: {}}", 0, "not enforced"),
    ],
)
def test_what_comes_of_a_policy(
    topology: str, policy: str, code: int, says: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "policy.yaml"
    file.write_text(policy + "\n")
    assert main(["can", "api-0", "svc/web", "-q", "-f", str(ROOT / "topologies" / f"{topology}.yaml"), "-f", str(file)]) == code
    assert says in capsys.readouterr().out
