"""An engine whose rules netlab does not make yet: what its policies would stop is unknown, what they allow is not."""

from __future__ import annotations

from pathlib import Path

import pytest

from netlab.cli.main import main

ROOT = Path(__file__).resolve().parent.parent
HEAD = "apiVersion: networking.k8s.io/v1\nkind: NetworkPolicy\nmetadata: {name: p, namespace: default}\nspec: "


@pytest.mark.parametrize(
    ("topology", "spec", "code", "says"),
    [
        ("calico-bgp", "{podSelector: {}}", 3, "deny it, and the rules that calico makes of them are not modelled"),
        ("calico-bgp", "{podSelector: {}, ingress: [{}]}", 0, "yes"),
        ("canal", "{podSelector: {}}", 3, "deny it, and the rules that canal makes of them are not modelled"),
        ("flannel-vxlan", "{podSelector: {}}", 0, "not enforced"),
    ],
)
def test_what_cannot_be_said(
    topology: str, spec: str, code: int, says: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    policy = tmp_path / "policy.yaml"
    policy.write_text(HEAD + spec + "\n")
    assert main(["can", "web-0", "svc/api", "-q", "-f", str(ROOT / "topologies" / f"{topology}.yaml"), "-f", str(policy)]) == code
    assert says in capsys.readouterr().out
