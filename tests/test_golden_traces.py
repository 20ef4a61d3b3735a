"""Whole traces on the example cluster, as a user reads them; README's transcript is one of them.

    python tests/test_golden_traces.py        writes the files and README's transcript again: read the difference before a commit
"""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from netlab.kube.load import load
from netlab.kube.topology import Overrides
from netlab.render import text
from netlab.trace.query import Request, Tracer

ROOT = Path(__file__).parent.parent
GOLDEN = ROOT / "tests" / "golden" / "traces"
TOPOLOGY = "topologies/flannel-vxlan.yaml"

TRACES = {  # file -> question
    "pod-to-service": Request("web-0", "svc/api"),
    "pod-to-dns": Request("web-0", "kube-system/svc/kube-dns:dns"),
    "no-endpoints": Request("web-0", "svc/nobody"),
    "hairpin": Request("api-0", "svc/api"),
    "nodeport-from-outside": Request("internet", "svc/web", at="node-3"),
    "local-policy-without-pod": Request("internet", "svc/shop", at="node-3"),
    "closed-port": Request("web-0", "api-1:9001"),
    "left-the-cluster": Request("web-0", "10.96.0.20:81"),
    "mtu": Request("internet", "api-1:9000", protocol="udp", at="node-1", size=1500),
    "to-the-outside": Request("web-0", "internet:443"),
    "ipv6": Request("web-0", "svc/api-dual", family=6),
}
MODES = {  # file -> kube-proxy's mode and question
    "userspace-pod-to-service": ("userspace", Request("web-0", "svc/web")),
    "userspace-no-endpoints": ("userspace", Request("web-0", "svc/nobody")),
    "userspace-dns": ("userspace", Request("web-0", "kube-system/svc/kube-dns:dns")),
    "nftables-pod-to-service": ("nftables", Request("web-0", "svc/web")),
    "ipvs-pod-to-service": ("ipvs", Request("web-0", "svc/api")),
    "ipvs-no-endpoints": ("ipvs", Request("web-0", "svc/nobody")),
    "ipvs-wrong-port": ("ipvs", Request("web-0", "10.96.0.20:81")),
    "ipvs-ping": ("ipvs", Request("web-0", "10.96.0.20", protocol="icmp")),
    "ipvs-from-the-node": ("ipvs", Request("node/node-1", "svc/api")),
    "ipvs-nodeport-from-outside": ("ipvs", Request("internet", "svc/web", at="node-3")),
}
MODES_PAGE = ROOT / "docs" / "modes.md"
IN_MODES = re.compile(r"(```\n\$ netlab trace ([^\n]*) --proxy-mode (\w+)\n)(.*?)(```\n)", re.DOTALL)
TRANSCRIPT = re.compile(r"(```\n\$ netlab trace web-0 kube-system/svc/kube-dns:dns\n)(.*?)(```\n)", re.DOTALL)


@pytest.fixture(scope="module")
def tracer() -> Tracer:
    return make_tracer()


def make_tracer(mode: str | None = None) -> Tracer:
    """The example cluster, named as somebody in a clone's folder would."""
    cluster = load([str(ROOT / TOPOLOGY)], overrides=Overrides(proxy_mode=mode))
    return Tracer(cluster)


def shown(tracer: Tracer, request: Request) -> str:
    return text.render(tracer.trace(request)).replace(f"{ROOT}/", "").rstrip("\n") + "\n"


@pytest.mark.parametrize("name", TRACES)
def test_trace_reads_as_before(tracer: Tracer, name: str) -> None:
    assert shown(tracer, TRACES[name]) == (GOLDEN / f"{name}.txt").read_text()


@pytest.mark.parametrize("name", MODES)
def test_trace_of_a_mode_reads_as_before(name: str) -> None:
    mode, request = MODES[name]
    assert shown(make_tracer(mode), request) == (GOLDEN / f"{name}.txt").read_text()


def test_the_page_of_modes_shows_what_netlab_prints() -> None:
    found = list(IN_MODES.finditer(MODES_PAGE.read_text()))
    assert found
    assert [m[4] for m in found] == [golden_of(m[2], m[3]) for m in found]


def golden_of(question: str, mode: str) -> str:
    """The golden file of a question (`web-0 svc/web`) that a page quotes."""
    name = next(n for n, (m, r) in MODES.items() if m == mode and f"{r.source} {r.destination}" == question)
    return (GOLDEN / f"{name}.txt").read_text()


def test_the_readme_shows_what_netlab_prints(tracer: Tracer) -> None:
    found = TRANSCRIPT.search((ROOT / "README.md").read_text())
    assert found is not None
    assert found[2] == shown(tracer, TRACES["pod-to-dns"])


if __name__ == "__main__":
    GOLDEN.mkdir(parents=True, exist_ok=True)
    made = make_tracer()
    for name, request in TRACES.items():
        (GOLDEN / f"{name}.txt").write_text(shown(made, request))
    for name, (mode, request) in MODES.items():
        (GOLDEN / f"{name}.txt").write_text(shown(make_tracer(mode), request))
    MODES_PAGE.write_text(IN_MODES.sub(lambda m: m[1] + golden_of(m[2], m[3]) + m[5], MODES_PAGE.read_text()))
    readme = ROOT / "README.md"
    readme.write_text(TRANSCRIPT.sub(lambda m: m[1] + shown(made, TRACES["pod-to-dns"]) + m[3], readme.read_text()))
