"""The kernel as the judge of what Felix makes of policies: host endpoints, tiers, blocks of rules, named ports, negations."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from netlab.kube.embedded import folder
from netlab.kube.load import load
from netlab.lab import uml
from netlab.lab.host import Lab
from netlab.lab.plan import make_plan
from netlab.lab.rulepath import verify_paths
from netlab.lab.verify import lab_network, verify
from netlab.trace.flows import flows
from netlab.trace.query import Tracer

pytestmark = pytest.mark.usefixtures("kernel")

DATA = Path(__file__).parent.parent / "data" / "policy"


@pytest.mark.parametrize("variant", ["legacy", "nft"])
@pytest.mark.parametrize("policies", ["hosts", "many"])
def test_linux_drops_what_felix_s_rules_drop(policies: str, variant: str) -> None:
    tracer = Tracer(load([str(folder() / "calico-bgp.yaml"), str(DATA / f"{policies}.yaml")]))
    network = lab_network(tracer.cluster, tracer.network)
    wanted = flows(tracer.cluster, network, 150, 3 if variant == "legacy" else 4)
    with Lab.start(make_plan(network, variant=variant)) as lab:
        report = verify(tracer, lab, wanted)
        counted = verify_paths(tracer, network, lab, wanted[:15], variant)
    assert "\n".join(map(str, report.disagreements)) == ""
    assert "\n".join(map(str, counted.disagreements)) == ""
    assert min(report.verdicts["delivered"], report.verdicts["dropped"]) > 12
    assert counted.agreed >= 9


@pytest.mark.skipif(bool(uml.missing()), reason="user-mode Linux is not installed")
def test_policies_hold_for_what_ipvs_forwards() -> None:
    files = ["-f", str(folder() / "calico-bgp.yaml"), "-f", str(DATA / "many.yaml")]
    asked = ["lab", "verify", *files, "--proxy-mode", "ipvs", "--flows", "60", "--rules", "8", "--seed", "3", "--kernel", "uml"]
    command = [sys.executable, "-m", "netlab.cli.main", *asked]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=300)
    said = [line for line in done.stdout.splitlines() if "chi-squared" not in line]
    assert len(said) == 2, done.stdout + done.stderr
    assert "60 flows: 60 agree" in said[0]
    assert ", 0 disagree; " in said[1]
