"""The kernel as the judge of what Felix makes of policies: host endpoints, tiers, blocks of rules, named ports, negations."""

from __future__ import annotations

from pathlib import Path

import pytest

from netlab.kube.embedded import folder
from netlab.kube.load import load
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
