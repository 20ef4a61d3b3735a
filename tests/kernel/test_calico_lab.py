"""The kernel as the judge of Calico, Canal and Flannel's other backends: whole topologies, proxy ARP, tunl0."""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from msgspec.structs import replace

from netlab.kube.embedded import folder
from netlab.kube.load import load
from netlab.lab import uml, umllab
from netlab.lab.host import Lab
from netlab.lab.plan import make_plan
from netlab.lab.random_clusters import verify_one
from netlab.lab.rulepath import verify_paths
from netlab.lab.snapshot import SCRIPT
from netlab.lab.umlchoice import modules
from netlab.lab.verify import lab_network, verify
from netlab.linux.addr import ip, prefix
from netlab.linux.netns import Neighbour, Netns, NextHop, Route
from netlab.trace.flows import Flow, flows
from netlab.trace.query import Request, Tracer
from netlab.trace.steps import Routed, RuleStep, Trace

pytestmark = pytest.mark.usefixtures("kernel")

ON_THE_HOST = ("calico-bgp", "calico-vxlan", "flannel-host-gw", "canal")


def open_topology(name: str) -> Tracer:
    return Tracer(load([str(folder() / f"{name}.yaml")]))


@pytest.mark.parametrize("variant", ["legacy", "nft"])
@pytest.mark.parametrize("name", ON_THE_HOST)
def test_linux_does_what_netlab_says(name: str, variant: str) -> None:
    tracer = open_topology(name)
    network = lab_network(tracer.cluster, tracer.network)
    wanted = flows(tracer.cluster, network, 150, 7 if variant == "legacy" else 8)
    with Lab.start(make_plan(network, variant=variant)) as lab:
        report = verify(tracer, lab, wanted)
        counted = verify_paths(tracer, network, lab, wanted[:12], variant)
    assert "\n".join(map(str, report.disagreements)) == ""
    assert "\n".join(map(str, counted.disagreements)) == ""
    assert report.agreed >= 140
    assert report.verdicts["delivered"] > 40
    assert counted.agreed >= 9
    assert len(counted.rules) > (100 if "flannel" not in name else 30)


@pytest.mark.skipif(bool(uml.missing()), reason="user-mode Linux is not installed")
@pytest.mark.parametrize("name", ["calico-ipip-crosssubnet"])
def test_tunl0_in_user_mode_linux(name: str) -> None:
    file = str(folder() / f"{name}.yaml")
    asked = ["lab", "verify", "-f", file, "--flows", "80", "--rules", "10", "--seed", "3", "--kernel", "uml"]
    command = [sys.executable, "-m", "netlab.cli.main", *asked]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=300)
    # how often each branch is taken is left to the other kernel: this one is slow, and late answers count as none
    said = [line for line in done.stdout.splitlines() if "chi-squared" not in line]
    assert len(said) == 2, done.stdout + done.stderr
    assert "80 flows: 80 agree" in said[0]
    assert ", 0 disagree; " in said[1]


@pytest.mark.parametrize(
    ("cni", "seed", "variant"),
    [("calico", 5, "legacy"), ("calico", 6, "nft"), ("canal", 7, "legacy"), ("flannel", 8, "nft"), ("calico", 9, "legacy")],
)
def test_random_clusters(cni: str, seed: int, variant: str) -> None:
    found = verify_one(seed, flows=50, rules=4, variant=variant, cni=cni)
    assert "\n".join(map(str, found.disagreements)) == ""
    assert found.agreed + found.unsupported >= 40


# -- the gateway that nobody has -----------------------------------------------------------------------------------------

WEB_0 = "cali0d7763386da"
Change = Callable[[Netns], Netns]


def sysctls(**values: int) -> Change:
    names = {f"ipv4.conf.{WEB_0}.{key}": value for key, value in values.items()}
    return lambda n: replace(n, sysctls={**n.sysctls, **names}, cache={})


def without_route(dst: str) -> Change:
    return lambda n: replace(n, routes=tuple(r for r in n.routes if str(r.dst) != dst), cache={})


def with_route(dst: str, dev: str) -> Change:
    made = Route(prefix(dst), (NextHop(dev),), scope="link")
    return lambda n: replace(n, routes=(*n.routes, made), cache={})


def both(*changes: Change) -> Change:
    def change(netns: Netns) -> Netns:
        for one in changes:
            netns = one(netns)
        return netns

    return change


def proxy_entry(address: str) -> Change:
    entry = Neighbour(WEB_0, ip(address), proxy=True)
    return lambda n: replace(n, neighbours=(*n.neighbours, entry), cache={})


DEFAULT = "0.0.0.0/0"
ROWS = [
    ("as Calico leaves it", sysctls(), "delivered"),
    ("proxy_arp off: nobody answers for 169.254.1.1", sysctls(proxy_arp=0), "rejected"),
    ("... but an entry of `ip neigh add proxy` does", both(sysctls(proxy_arp=0), proxy_entry("169.254.1.1")), "delivered"),
    ("the device does not forward, so it is no proxy", sysctls(forwarding=0), "rejected"),
    ("a node without a default route is no proxy for 169.254.1.1", without_route(DEFAULT), "rejected"),
    ("... any route to it will do", both(without_route(DEFAULT), with_route("169.254.0.0/16", "eth0")), "delivered"),
    ("... but not one through the asking device", with_route("169.254.0.0/16", WEB_0), "rejected"),
    ("strict rp_filter lets the pod ask: its route leads back", sysctls(rp_filter=1), "delivered"),
    (
        "strict rp_filter, and the pod's route leads elsewhere",
        both(sysctls(rp_filter=1), without_route("10.244.10.2/32")),
        "rejected",
    ),
]


@pytest.mark.parametrize(("change", "verdict"), [row[1:] for row in ROWS], ids=[row[0] for row in ROWS])
def test_proxy_arp(change: Change, verdict: str) -> None:
    tracer = open_topology("calico-bgp")
    space = change(tracer.network.namespaces["node-1"])
    tracer.network = replace(tracer.network, namespaces={**tracer.network.namespaces, "node-1": space})
    tracer._networks.clear()
    with Lab.start(make_plan(lab_network(tracer.cluster, tracer.network))) as lab:
        report = verify(tracer, lab, [Flow("web-0", "10.244.10.66:9000", "tcp")])
    assert "\n".join(map(str, report.disagreements)) == ""
    assert report.verdicts[verdict] == 1


TUNNEL = """
set -e
ip netns add a; ip netns add b
ip link add name ea netns a type veth peer name eb netns b
for n in a b; do
  ip -n $n link set lo up; ip -n $n link set e$n up; ip -n $n link add name tunl0 type ipip; ip -n $n link set tunl0 up
done
ip -n a addr add 10.0.0.1/24 dev ea; ip -n b addr add 10.0.0.2/24 dev eb
ip -n a addr add 10.1.0.1/32 dev tunl0; ip -n b addr add 10.1.0.2/32 dev tunl0
ip -n a route add 10.1.0.2/32 via 10.0.0.2 dev tunl0 onlink; ip -n b route add 10.1.0.1/32 via 10.0.0.1 dev tunl0 onlink
ip netns exec b timeout 6 tcpdump -vnli eb ip proto 4 and src 10.0.0.1 2>/dev/null &
sleep 2
ip netns exec a ping -c1 -W2 -t 9 -M do 10.1.0.2 >/dev/null
ip netns exec a ping -c1 -W2 -t 33 -M dont 10.1.0.2 >/dev/null
wait || true
"""


@pytest.mark.skipif(bool(uml.missing()), reason="user-mode Linux is not installed")
def test_the_outer_header_of_tunl0_is_like_the_inner_one() -> None:
    """TTL and DF are inherited, the other end is the route's gateway (ip_tunnel_xmit; Walk._ipip_xmit does the same)."""
    done = uml.run_in_uml(["sh", "-c", TUNNEL], modules=modules({"ipip"}))
    seen = (done.stdout or b"").decode()
    headers = re.findall(r"ttl (\d+), .*flags \[(\w+)\], proto (\w+)", seen)
    assert headers == [("9", "DF", "IPIP"), ("9", "DF", "ICMP"), ("33", "none", "IPIP"), ("33", "none", "ICMP")], seen
    assert "10.0.0.1 > 10.0.0.2: IP" in seen


@pytest.mark.skipif(bool(uml.missing()), reason="user-mode Linux is not installed")
def test_bird_leads_routes_into_tunl0() -> None:
    """BIRD and tunl0 together, in the one kernel that has it: every route as computed, those of the other subnet `dev tunl0`."""
    file = str(folder() / "calico-ipip-crosssubnet.yaml")
    inside = umllab.again(["lab", "up", "-f", file, "--bgp", "bird", "--kernel", "host"])
    done = uml.run_in_uml(inside, modules=modules({"ipip"}))
    assert "BIRD: 16 routes installed, all as computed" in (done.stdout or b"").decode(), (done.stderr or b"").decode()


# -- seen on the node ----------------------------------------------------------------------------------------------------

ASKED = [("web-0", to) for to in ("api-0", "api-1", "api-2", "svc/api", "internet:443")] + [("node/node-1", "api-1")]


def hops_of(trace: Trace) -> list[tuple[str, str, list[str]]]:
    """Per branch its verdict, and every rule and route in order, without where each was read."""
    found = []
    for branch in trace.branches:
        steps = [
            f"{hop.where} {step.rule if isinstance(step, RuleStep) else step.route}"
            for hop in branch.hops
            for step in hop.steps
            if isinstance(step, RuleStep | Routed)
        ]
        found.append((branch.verdict.value, branch.endpoint or "", steps))
    return found


@pytest.mark.parametrize("variant", ["legacy", "nft"])
@pytest.mark.parametrize("name", ON_THE_HOST)
def test_a_snapshot_is_traced_as_what_was_compiled(name: str, variant: str, tmp_path: Path) -> None:
    """The snapshot script on every node of a lab; what it saw leads packets the same way, rule by rule."""
    compiled = open_topology(name)
    nodes = [*compiled.cluster.nodes]
    with Lab.start(make_plan(compiled.network, variant=variant)) as lab:
        for node in nodes:
            lab.run(node, "sh", str(SCRIPT), str(tmp_path / node))
    observed = Tracer(compiled.cluster, {node: str(tmp_path / node) for node in nodes})
    for source, destination in ASKED:
        request = Request(source, destination)
        assert hops_of(observed.trace(request)) == hops_of(compiled.trace(request)), request
