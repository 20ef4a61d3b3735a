"""netlab diff --proxy-mode: what is the same, what is documented, and what must be found.

    python tests/test_diff_modes.py        writes docs/modes.md's table of documented differences again
"""

from __future__ import annotations

import json
import re
from fractions import Fraction
from pathlib import Path

import pytest
from msgspec.structs import replace

from netlab.dataplane.build import _PROXIES
from netlab.kube.cluster import Cluster
from netlab.kube.load import load
from netlab.linux.netns import Listener
from netlab.linux.packet import TCP
from netlab.reach.documented import _OTHERS, DOCUMENTED
from netlab.reach.modes import Comparison, compare, question
from netlab.render import modes as drawing
from netlab.trace.flows import Flow, every_flow
from netlab.trace.query import Tracer

ROOT = Path(__file__).parent.parent
PAGE = ROOT / "docs" / "modes.md"
DATA = ROOT / "tests" / "data" / "kube-proxy-1.30.5"
CLUSTERS = {"topology": ROOT / "topologies" / "flannel-vxlan.yaml", "dualstack": DATA / "dualstack" / "cluster.json"}
TABLE = re.compile(r"(<!-- documented[^\n]*-->\n)(.*?)(<!-- end -->)", re.DOTALL)
PAIRS = [(a, b) for n, a in enumerate(_PROXIES) for b in list(_PROXIES)[n + 1 :]]


def tracer(cluster: Cluster, mode: str) -> Tracer:
    return Tracer(replace(cluster, proxy=replace(cluster.proxy, mode=mode)))


def compared(cluster: Cluster, *modes: str, flows: list[Flow] | None = None) -> Comparison:
    one, other = modes
    tracers = tracer(cluster, one), tracer(cluster, other)
    return compare((one, other), tracers, every_flow(cluster, tracers[0].network) if flows is None else flows)


@pytest.fixture(scope="module")
def example() -> Cluster:
    return load([str(CLUSTERS["topology"])])


@pytest.mark.parametrize("modes", PAIRS, ids="-".join)
@pytest.mark.parametrize("name", CLUSTERS)
def test_only_documented_differences(name: str, modes: tuple[str, str]) -> None:
    found = compared(load([str(CLUSTERS[name])]), *modes)
    assert "\n".join(f"{d.flow}: {d.one.text} | {d.other.text}" for d in found.undocumented) == ""
    assert found.flows > 400
    # of these two, all that differs is about node ports and external addresses, which that cluster has none of
    assert found.differences or (name, modes) == ("dualstack", ("nftables", "ipvs"))


def test_a_mode_and_itself(example: Cluster) -> None:
    assert compared(example, "iptables", "iptables").differences == ()


HEALTH = "192.168.50.11:30940"
ROWS = [
    ("default/pod/web-0", "10.96.0.20:80", "tcp", "userspace-source", "delivered to 3 endpoints, source kept"),
    ("default/pod/web-0", "10.96.0.80:80", "tcp", "userspace-closes", "rejected, ICMP port unreachable"),
    ("default/pod/web-0", "192.168.50.13:30081", "tcp", "userspace-policies", "no answer"),
    ("default/pod/web-0", HEALTH, "tcp", "userspace-health-check", f"delivered to {HEALTH}, source kept"),
    ("default/pod/web-0", "[fd00:10:96::50]:80", "tcp", "userspace-family", "delivered to 3 endpoints, source kept"),
    ("default/pod/web-0", "10.96.0.20:81", "tcp", None, ""),
    ("default/pod/web-0", "10.244.1.10:8080", "tcp", None, ""),
    ("node/node-1", "127.0.0.1:30080", "tcp", None, ""),
]


@pytest.mark.parametrize(("source", "destination", "protocol", "key", "iptables"), ROWS)
def test_rows(example: Cluster, source: str, destination: str, protocol: str, key: str | None, iptables: str) -> None:
    found = compared(example, "iptables", "userspace", flows=[Flow(source, destination, protocol)])
    assert [(d.documented, d.one.text) for d in found.differences] == ([] if key is None else [(key, iptables)])


def test_the_order_of_the_modes_does_not_matter(example: Cluster) -> None:
    flow = [Flow("default/pod/web-0", "10.96.0.80:80", "tcp")]
    one, other = compared(example, "iptables", "userspace", flows=flow), compared(example, "userspace", "iptables", flows=flow)
    assert [d.documented for d in one.differences] == [d.documented for d in other.differences] == ["userspace-closes"]


def test_a_difference_that_nobody_documents_is_found(example: Cluster) -> None:
    """A pod that listens in one of the two networks only."""
    one, other = tracer(example, "iptables"), tracer(example, "userspace")
    spaces = other.network.namespaces
    deaf = replace(spaces["default/web-1"], listeners=(Listener(TCP, 1, "nothing"),))
    other.network = replace(other.network, namespaces={**spaces, "default/web-1": deaf})
    found = compare(("iptables", "userspace"), (one, other), [Flow("default/pod/web-0", "10.244.1.10:8080", "tcp")])
    assert [d.other.text for d in found.undocumented] == ["rejected, TCP RST"]
    text = drawing.render(found)
    assert "not documented: 1 flow\n" in text
    assert "default/pod/web-0" in text
    assert text.endswith("1 flow, iptables and userspace: 0 the same, 0 differ as documented, 1 differ otherwise")


CLAIMED = """
apiVersion: v1
kind: Service
metadata: {name: claims, namespace: default}
spec:
  clusterIPs: ["fd00:10:96::99"]
  ipFamilies: [IPv6]
  externalIPs: ["fd00:192:168:50::12"]
  selector: {app: web}
  ports: [{name: http, port: 80, targetPort: http}]
status: {loadBalancer: {ingress: [{ip: "2001:db8::99", ipMode: Proxy}]}}
"""


@pytest.fixture(scope="module")
def claimed(tmp_path_factory: pytest.TempPathFactory) -> Cluster:
    """The example, and a service that claims node-2's IPv6 address."""
    file = tmp_path_factory.mktemp("modes") / "claims.yaml"
    file.write_text(CLAIMED)
    return load([str(CLUSTERS["topology"]), str(file)])


def test_a_reset_is_no_refusal_of_iptables_mode(claimed: Cluster) -> None:
    """node-1 -> node-2's IPv6 address, an IPv4 service's node port: the node's own reset, and IPVS's filter for its addresses."""
    found = compared(claimed, "iptables", "ipvs", flows=[Flow("node/node-1", "[fd00:192:168:50::12]:30080", "tcp")])
    assert [(d.one.text, d.other.text, d.documented) for d in found.differences] == [
        ("rejected, TCP RST", "rejected, ICMP port unreachable", "ipvs-node-address")
    ]


def test_what_is_unknown_is_named(claimed: Cluster) -> None:
    found = compared(claimed, "iptables", "nftables", flows=[Flow("default/pod/web-0", "[2001:db8::99]:80", "tcp")])
    assert (found.unknown, found.differences, [d.flow.destination for d in found.undecided]) == (1, (), ["[2001:db8::99]:80"])
    text = drawing.render(found)
    assert "unknown to netlab: 1 flow\n" in text
    assert "because: load balancer 2001:db8::99 of service default/claims has ipMode Proxy: it makes connections" in text


def test_json(example: Cluster) -> None:
    found = compared(example, "iptables", "userspace", flows=[Flow("default/pod/web-0", "10.96.0.20:80", "tcp")])
    plain = json.loads(json.dumps(drawing.to_builtins(found)))
    assert (plain["kind"], plain["modes"], plain["flows"]) == ("ModeComparison", ["iptables", "userspace"], 1)
    (difference,) = plain["differences"]
    assert [end["probability"] for end in difference["one"]["ends"]] == [str(Fraction(1, 3))] * 3
    assert difference["documented"] == plain["documented"][0]["key"] == "userspace-source"


@pytest.mark.parametrize(
    ("destination", "kind"),
    [
        ("10.96.0.20:80", "cluster-ip"),
        ("10.96.0.20:81", "cluster-ip"),
        ("192.0.2.40:80", "service-address"),
        ("192.168.50.12:30080", "node-port"),
        ("127.0.0.1:30080", "node-port"),
        ("192.168.50.12:30940", "health-check"),
        ("192.168.50.12:10250", "node"),
        ("10.96.255.253:80", "unallocated"),
        ("10.244.0.10:8080", "other"),
    ],
)
def test_what_a_destination_is(example: Cluster, destination: str, kind: str) -> None:
    assert question(example, Flow("web-0", destination, "tcp")).kind == kind


# -- the table ---------------------------------------------------------------------------------------------------------


def test_the_table_is_sound() -> None:
    assert len({d.key for d in DOCUMENTED}) == len(DOCUMENTED)
    for d in DOCUMENTED:
        assert d.key.startswith(d.mode)
        assert set(d.against) <= set(_OTHERS[d.mode])
        assert d.text
        assert d.source


def table() -> str:
    """docs/modes.md's table."""
    lines = ["| difference | in mode | against | what | source |", "|---|---|---|---|---|"]
    lines += [f"| `{d.key}` | {d.mode} | {', '.join(d.against)} | {d.text} | {d.source} |" for d in DOCUMENTED]
    return "\n".join(lines) + "\n"


def test_the_page_repeats_the_table() -> None:
    found = TABLE.search(PAGE.read_text())
    assert found is not None
    assert found[2] == table()


if __name__ == "__main__":
    PAGE.write_text(TABLE.sub(lambda m: m[1] + table() + m[3], PAGE.read_text()))
