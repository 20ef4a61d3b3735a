"""The kernel as the judge of whole clusters: flows predicted and sent, their ways compared, and what students touch.

Law: the kernel is right. A flow that differs is a failed test that prints both sides.
"""

from __future__ import annotations

import errno
import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from msgspec.structs import replace

from netlab.errors import InputError
from netlab.kube.cluster import Cluster
from netlab.kube.embedded import path_of_default
from netlab.kube.load import load
from netlab.lab import rulepath, running
from netlab.lab.crossings import Crossing, predicted_crossings
from netlab.lab.host import Lab, Shot, unshare_command
from netlab.lab.plan import make_plan, script
from netlab.lab.rulepath import verify_paths
from netlab.lab.verify import lab_network, verify
from netlab.linux.addr import ip, prefix
from netlab.linux.netns import Netns, NextHop, Route
from netlab.linux.text import iproute, iptables_save
from netlab.trace import netfilter
from netlab.trace.flows import Flow, flows
from netlab.trace.query import Tracer
from netlab.trace.steps import Hop

DATA = Path(__file__).parent.parent / "data" / "kube-proxy-1.30.5"
RECORDED = ("services", "dualstack", "random-11")
CLUSTERS = {"topology": path_of_default(), **{name: DATA / name / "cluster.json" for name in RECORDED}}

pytestmark = pytest.mark.usefixtures("kernel")


def cluster(name: str) -> Cluster:
    return load([str(CLUSTERS[name])])


# -- whole clusters ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("variant", ["legacy", "nft"])
@pytest.mark.parametrize("name", CLUSTERS)
def test_linux_does_what_netlab_says(name: str, variant: str) -> None:
    declared = cluster(name)
    tracer = Tracer(declared)
    network = lab_network(declared, tracer.network)
    seed = 7 if variant == "legacy" else 8
    wanted = flows(declared, network, 300, seed)
    with Lab.start(make_plan(network, variant=variant)) as lab:
        report = verify(tracer, lab, wanted)
        counted = verify_paths(tracer, network, lab, wanted[:25], variant)
    assert "\n".join(map(str, report.disagreements)) == ""
    assert "\n".join(map(str, counted.disagreements)) == ""
    assert report.agreed >= 280
    assert not report.unknown
    assert min(report.verdicts[verdict] for verdict in ("delivered", "dropped", "rejected")) > 20
    assert counted.agreed >= 18
    assert len(counted.rules) > 30
    assert counted.ordered == (variant == "nft")
    assert counted.crossings > 60
    assert counted.entries > 10


def test_an_ordinary_user_gets_the_same() -> None:
    """In a user namespace, as everybody but root has it."""
    declared = cluster("topology")
    tracer = Tracer(declared)
    network = lab_network(declared, tracer.network)
    with Lab.start(make_plan(network), user_namespace=True) as lab:
        report = verify(tracer, lab, flows(declared, network, 150, 9))
        two = [Flow("web-0", API, "tcp"), Flow("web-0", "10.96.0.60:80", "tcp")]
        counted = verify_paths(tracer, network, lab, two, "legacy")
    assert "\n".join(map(str, report.disagreements)) == ""
    assert (counted.agreed, len(counted.disagreements)) in ((1, 0), (2, 0))  # lists of `recent` belong to the host's root
    assert report.agreed == 150


# -- hand-made cases ---------------------------------------------------------------------------------------------------

Change = Callable[[Tracer], Tracer]


def changed(tracer: Tracer, name: str, change: Callable[[Netns], Netns]) -> Tracer:
    """The tracer with one namespace changed."""
    space = change(tracer.network.namespaces[name])
    tracer.network = replace(tracer.network, namespaces={**tracer.network.namespaces, name: space})
    tracer._networks.clear()
    return tracer


def rules(node: str, table: str, *lines: str, family: int = 4) -> Change:
    """Rules put before all others of a table, in the words of iptables-save."""

    def change(tracer: Tracer) -> Tracer:
        old = tracer.network.namespaces[node].rulesets
        head, star, rest = iptables_save.write(old[family], family=family).partition(f"*{table}\n")
        first = rest.index("-A ")
        text = head + star + rest[:first] + "".join(f"{line}\n" for line in lines) + rest[first:]
        new = {**{f: old[f] for f in (4, 6)}, family: iptables_save.parse(text, family=family, file="test")}
        return changed(tracer, node, lambda n: replace(n, rulesets=new))

    return change


def sysctl(node: str, **settings: int) -> Change:
    names = {name.replace("__", ".").replace("_nf_call_", "-nf-call-"): value for name, value in settings.items()}
    return lambda t: changed(t, node, lambda n: replace(n, sysctls={**n.sysctls, **names}))


def no_hairpin(tracer: Tracer) -> Tracer:
    return changed(
        tracer, "node-1", lambda n: replace(n, devices={k: replace(d, hairpin=False) for k, d in n.devices.items()})
    )


def route(node: str, destination: str, via: str) -> Change:
    made = Route(prefix(destination), (NextHop("eth0", ip(via)),))
    return lambda t: changed(t, node, lambda n: replace(n, routes=(*n.routes, made)))


def both(*changes: Change) -> Change:
    def change(tracer: Tracer) -> Tracer:
        for one in changes:
            tracer = one(tracer)
        return tracer

    return change


def same(tracer: Tracer) -> Tracer:
    return tracer


API, POD, NEAR = "10.96.0.20:80", "10.244.1.11:9000", "10.244.0.11:9000"  # a ClusterIP, api-1 on node-2, api-0 beside web-0


def reject(kind: str) -> Change:
    udp = () if kind == "tcp-reset" else (f"-A FORWARD -p udp -m udp --dport 9000 -j REJECT --reject-with {kind}",)
    return rules("node-1", "filter", f"-A FORWARD -p tcp -m tcp --dport 9000 -j REJECT --reject-with {kind}", *udp)


KINDS = ("icmp-port-unreachable", "icmp-admin-prohibited", "tcp-reset")
REJECTED = [Flow(who, to, "tcp") for who in ("web-0", "api-0") for to in (API, POD, NEAR)] + [Flow("web-0", POD, "udp")]
SAME_NODE = [
    Flow(who, to, "tcp") for who in ("web-0", "api-0") for to in (API, "10.96.0.50:80", "[fd00:10:96::50]:80", NEAR)
] * 3  # one of three endpoints is behind the same bridge: enough tries to meet it
DNAT = [
    "-A PREROUTING -d 10.96.0.99/32 -p udp -j DNAT --to-destination 10.244.1.11:9999",
    "-A PREROUTING -d 10.96.0.98/32 -j DNAT --to-destination 10.244.0.11",
    "-A PREROUTING -d 10.96.0.97/32 -p udp -j DNAT --to-destination 192.168.50.11:9999",
]
OWN_NODE_PORTS = [
    Flow(f"node/{node}", f"{address}:{port}", "tcp")
    for node in ("node-1", "node-3")
    for address in ("192.168.50.11", "192.168.50.13", "127.0.0.1", "10.244.0.1", "[::1]", "[fd00:192:168:50::11]")
    for port in (30080, 30081)
]
SIZES = [
    Flow(who, to, protocol, size)
    for who in ("node/node-1", "web-0")
    for to, protocol in ((POD, "udp"), ("10.244.1.11", "icmp"), ("10.244.0.11", "icmp"), ("192.168.50.12", "icmp"))
    for size in (1450, 1451, 1500, 1501)
] + [Flow("203.0.113.7", "192.168.50.12", "icmp", size) for size in (1500, 1501)]

CASES: dict[str, tuple[Change, list[Flow]]] = {
    **{f"REJECT with {kind}": (reject(kind), REJECTED) for kind in KINDS},
    "REJECT in FORWARD after DNAT, UDP": (
        both(rules("node-1", "nat", *DNAT), rules("node-1", "filter", "-A FORWARD -p udp -j REJECT")),
        [Flow(who, f"10.96.0.{n}:53", "udp") for who in ("web-0", "api-0") for n in (98, 99)],
    ),
    "closed ports behind DNAT": (
        rules("node-1", "nat", *DNAT),
        [
            Flow(who, f"10.96.0.{n}:53", p)
            for who in ("web-0", "api-0")
            for n, p in ((97, "udp"), (98, "udp"), (98, "tcp"), (99, "udp"))
        ],
    ),
    "same node and hairpin, br_netfilter on": (same, SAME_NODE),
    "same node and hairpin, br_netfilter off": (
        sysctl("node-1", bridge__bridge_nf_call_iptables=0, bridge__bridge_nf_call_ip6tables=0),
        SAME_NODE,
    ),
    "no hairpin mode": (no_hairpin, SAME_NODE),
    "nobody answers for the next hop": (
        same,
        [
            Flow(who, f"10.244.{n}.99{port}", p)
            for who in ("web-0", "node/node-1")
            for n in (0, 1)
            for port, p in ((":80", "tcp"), (":9", "udp"), ("", "icmp"))
        ],
    ),
    "MTU of the tunnel, with DF": (same, SIZES),
    "NodePort from a node": (same, OWN_NODE_PORTS),
    "NodePort on 127.0.0.1 without route_localnet": (
        sysctl("node-1", ipv4__conf__all__route_localnet=0),
        [Flow("node/node-1", f"127.0.0.1:{port}", "tcp") for port in (30080, 30081)] * 3,
    ),
    "the reply takes another way": (
        rules(
            "node-1",
            "nat",
            f"-A PREROUTING -p tcp -m tcp --dport 30999 -j DNAT --to-destination {POD}",
            f"-A PREROUTING -p udp -m udp --dport 30999 -j DNAT --to-destination {POD}",
        ),
        [Flow("203.0.113.7", "192.168.50.11:30999", p) for p in ("tcp", "udp")],
    ),
    "strict rp_filter": (
        sysctl("node-2", ipv4__conf__all__rp_filter=1),
        [Flow("203.0.113.7", "192.168.50.12:30080", "tcp"), Flow("web-0", POD, "tcp"), Flow("node/node-1", POD, "tcp")],
    ),
    "DROP and REJECT at OUTPUT": (
        rules("node-1", "filter", "-A OUTPUT -d 10.244.1.11/32 -j DROP", "-A OUTPUT -d 10.244.2.11/32 -j REJECT"),
        [
            Flow("node/node-1", f"10.244.{n}.11{port}", p)
            for n in (1, 2)
            for port, p in ((":9000", "tcp"), (":9000", "udp"), ("", "icmp"))
        ],
    ),
    "a routing loop ends in time exceeded": (
        both(route("node-1", "198.51.100.128/25", "192.168.50.12"), route("node-2", "198.51.100.128/25", "192.168.50.11")),
        [
            Flow("node/node-1", "198.51.100.200:80", "tcp"),
            Flow("web-0", "198.51.100.200", "icmp"),
            Flow("web-1", "198.51.100.200:9", "udp"),
        ],
    ),
}


@pytest.mark.parametrize("name", CASES)
def test_hand_made_case(name: str) -> None:
    change, wanted = CASES[name]
    declared = cluster("topology")
    tracer = change(Tracer(declared))
    with Lab.start(make_plan(lab_network(declared, tracer.network))) as lab:
        report = verify(tracer, lab, wanted)
    assert "\n".join(map(str, report.disagreements)) == ""
    assert report.agreed == len(wanted)


def test_a_wrong_prediction_is_found() -> None:
    """The judge can say no: netlab is asked about another cluster than the one that stands."""
    declared = cluster("topology")
    network = lab_network(declared, Tracer(declared).network)
    other = rules("node-1", "filter", "-A FORWARD -d 10.244.1.11/32 -j DROP")(Tracer(declared))
    wanted = [Flow("web-0", POD, "tcp"), Flow("web-0", NEAR, "tcp")]
    with Lab.start(make_plan(network)) as lab:
        report = verify(other, lab, wanted)
        counted = verify_paths(other, lab_network(declared, other.network), lab, wanted, "legacy")
    assert [str(d.flow) for d in report.disagreements] == [f"web-0 -> {POD} tcp"]
    assert "Linux   delivered to 10.244.1.11:9000 (pod default/api-1)" in str(report.disagreements[0])
    assert len(counted.disagreements) == 2  # rules have moved down by one


SWAPPED = (":A - [0:0]\n:B - [0:0]\n", "-A A -m comment --comment a\n-A B -m comment --comment b\n")


def two_chains(*order: str) -> Change:
    """Table raw of node-1 alone: PREROUTING jumps to both chains, in this order."""

    def change(tracer: Tracer) -> Tracer:
        jumps = "".join(f"-A PREROUTING -j {chain}\n" for chain in order)
        text = f"*raw\n:PREROUTING ACCEPT [0:0]\n:OUTPUT ACCEPT [0:0]\n{SWAPPED[0]}{jumps}{SWAPPED[1]}COMMIT\n"
        made = iptables_save.parse(text, family=4, file="test")
        return changed(tracer, "node-1", lambda n: replace(n, rulesets={**n.rulesets, 4: made}))

    return change


def ways(declared: Cluster, stands: Change, asked: Change, variant: str) -> list[str]:
    """What differs on one flow between the lab of one network and the predictions from another."""
    real, said = stands(Tracer(declared)), asked(Tracer(declared))
    with Lab.start(make_plan(lab_network(declared, real.network), variant=variant)) as lab:
        report = verify_paths(said, lab_network(declared, said.network), lab, [Flow("web-0", POD, "tcp")], variant)
    assert report.flows - report.passed_over == 1
    return [line.strip() for d in report.disagreements for line in str(d).splitlines()[1:]]


def test_two_rules_in_the_wrong_order_are_seen_by_the_kernels_trace_and_not_by_counters() -> None:
    declared = cluster("topology")
    assert ways(declared, two_chains("A", "B"), two_chains("B", "A"), "legacy") == []
    assert ways(declared, two_chains("A", "B"), two_chains("A", "B"), "nft") == []
    assert ways(declared, two_chains("A", "B"), two_chains("B", "A"), "nft") == [
        "node-1 packet 1, rule 2, after raw PREROUTING rule 1 (-A PREROUTING -j B): "
        "netlab raw B rule 1 (-A B -m comment --comment b), Linux raw A rule 1 (-A A -m comment --comment a)"
    ]


@pytest.mark.parametrize("variant", ["legacy", "nft"])
def test_a_device_that_netlab_forgets_is_seen(variant: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def without_bridge(hops: tuple[Hop, ...]) -> dict[str, list[Crossing]]:
        return {ns: [c for c in made if c.device != "cni0"] for ns, made in predicted_crossings(hops).items()}

    monkeypatch.setattr(rulepath, "predicted_crossings", without_bridge)
    first, *_ = ways(cluster("topology"), lambda t: t, lambda t: t, variant)
    assert first.startswith("node-1 device crossing 2: netlab out flannel.1: TCP SYN 10.244.")
    assert ", Linux in cni0: TCP SYN 10.244." in first


def test_a_connection_that_netlab_gets_wrong_is_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(netfilter, "_assure", lambda connection, packet, is_reply: None)
    lines = ways(cluster("topology"), lambda t: t, lambda t: t, "legacy")
    assert lines[0].startswith("node-1 connection only in netlab: tcp 10.244.")
    assert lines[0].endswith("[seen reply]")
    assert lines[1].startswith("node-1 connection only in Linux: tcp 10.244.")
    assert lines[1].endswith("[seen reply, assured]")


# -- what stands is what was meant -------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def standing() -> Iterator[tuple[Lab, Tracer]]:
    declared = cluster("topology")
    tracer = Tracer(declared)
    with Lab.start(make_plan(tracer.network)) as lab:
        yield lab, tracer


@pytest.mark.parametrize("space", ["node-1", "node-3", "default/web-0", "kube-system/dns-0", "internet"])
def test_the_tools_show_the_network_that_was_meant(standing: tuple[Lab, Tracer], space: str) -> None:
    lab, tracer = standing
    meant = tracer.network.namespaces[space]
    texts = [lab.run(space, "ip", "-j", family, "route", "show", "table", "all") for family in ("-4", "-6")]
    found = [route for text in texts for route in iproute.parse_route(text, "lab")]
    assert {replace(r, ref=None) for r in found} == {replace(r, ref=None) for r in meant.routes}
    for link in iproute.parse_addr(lab.run(space, "ip", "-j", "addr"), "lab"):
        device = meant.devices[link.device.name]
        shown = link.device
        assert (shown.index, shown.mac, shown.mtu, shown.master) == (device.index, device.mac, device.mtu, device.master)
        assert set(shown.addresses) == set(device.addresses)
    neighbours = iproute.parse_neigh(lab.run(space, "ip", "-j", "neigh", "show", "nud", "permanent"), "lab")
    assert set(neighbours) == set(meant.neighbours)
    assert set(meant.fdb) <= set(iproute.parse_fdb(lab.run(space, "bridge", "-j", "fdb"), "lab"))
    for family, tool in ((4, "iptables"), (6, "ip6tables")):
        ruleset = meant.rulesets.get(family)
        text = lab.run(space, f"{tool}-legacy-save")
        if ruleset is None:
            assert text == ""
            continue
        loaded = iptables_save.parse(text, family=family, file="lab")
        assert {t.name: t.chains for t in loaded.tables} == {t.name: t.chains for t in ruleset.tables}


def test_the_printed_plan_makes_the_same(standing: tuple[Lab, Tracer]) -> None:
    lab, tracer = standing
    show = "ip {} route show table all; ip {} address; ip neigh show nud permanent; iptables-legacy-save | grep ^-A || true"
    both_families = show.format("", "") + ";" + show.format("-6", "-6").replace("iptables", "ip6tables")
    asked = [("node-1", "node-1"), ("default/web-0", "default_web-0")]
    text = script(make_plan(tracer.network)) + "".join(f"ip netns exec {file} sh -c '{both_families}'\n" for _, file in asked)
    done = subprocess.run([*unshare_command(), "sh", "-e"], input=text, capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")
    ours = "".join(lab.run(space, "sh", "-c", both_families) for space, _ in asked)
    # the order in which devices came up shows in the order of multicast routes, the number of a peer's namespace in link-netns
    assert sorted(done.stdout.splitlines()) == sorted(ours.splitlines())


def test_http_and_plain_text_are_answered(standing: tuple[Lab, Tracer]) -> None:
    """Whoever asks hears whom it reached and as whom it was seen."""
    lab, _ = standing
    code = (
        "import urllib.request as u, socket, sys;"
        "print(u.urlopen('http://10.244.1.11:9000/x', timeout=5).read().decode(), end='');"
        "s = socket.create_connection(('10.244.1.11', 9000), 5); s.sendall(b'hello\\n'); print(s.recv(999).decode(), end='')"
    )
    for line in lab.run("default/web-0", sys.executable, "-c", code).splitlines():
        said = json.loads(line)
        assert said["owner"] == "pod default/api-1"
        assert said["peer"][0] == "10.244.0.10"
        assert said["local"] == ["10.244.1.11", 9000]


def test_many_packets_at_once(standing: tuple[Lab, Tracer]) -> None:
    lab, _ = standing
    seen = lab.probe([Shot("default/web-0", 6, "10.96.0.20", 80, 20000 + n, timeout=5.0) for n in range(600)])
    assert {s.result for s in seen} == {"delivered"}
    share = [sum(s.local == f"10.244.{n}.11:9000" for s in seen) / 600 for n in range(3)]
    assert all(0.2 < part < 0.47 for part in share), share  # 1/3 each: 7 standard deviations


# -- life --------------------------------------------------------------------------------------------------------------


class Cli:
    """`netlab lab` with a run directory of its own."""

    def __init__(self, folder: Path) -> None:
        self.environment = {**os.environ, "XDG_RUNTIME_DIR": str(folder)}
        self.folder = folder / "netlab"

    def __call__(self, *arguments: str, code: int = 0, stdin: str | None = None) -> str:
        done = subprocess.run(
            [sys.executable, "-m", "netlab.cli.main", "lab", *arguments],
            env=self.environment, input=stdin, capture_output=True, text=True,
        )  # fmt: skip
        assert done.returncode == code, done.stdout + done.stderr
        return done.stdout + done.stderr


@pytest.fixture
def lab_command(tmp_path: Path) -> Iterator[Cli]:
    command = Cli(tmp_path)
    yield command
    command("down", "--all")


def test_up_exec_status_down(lab_command: Cli) -> None:
    assert "lab lab is up: 3 nodes" in lab_command("up", "-q")
    assert 'lab "lab" is already up' in lab_command("up", "-q", code=2)
    assert "second is up" in lab_command("up", "-q", "--name", "second", "--iptables", "nft")
    assert lab_command("status", "-o", "name") == "lab\nsecond\n"
    assert "10.244.0.10/24" in lab_command("exec", "web-0", "--", "ip", "-br", "address")
    assert "flannel.1" in lab_command("exec", "--name", "second", "node/node-2", "--", "ip", "route")
    assert "flannel.1" in lab_command("exec", "agent-2", "--", "ip", "route")  # hostNetwork
    assert os.getcwd() in lab_command("exec", "internet", "--", "pwd")
    lab_command("exec", "pod/web-0", "--", "sh", "-c", "exit 7", code=7)
    lab_command("exec", "pod/web-0", "--", "no-such-command", code=127)
    assert 'did you mean "web-0"' in lab_command("exec", "pod/wbe-0", "--", "true", code=2)
    trace = lab_command("trace", "web-0", "svc/api")
    assert "verdict: delivered (exit 0)" in trace
    assert "as netlab says; so are rules (by their counters), devices and connections\n" in trace
    assert "rejected: ECONNREFUSED" in lab_command("trace", "web-0", "api-1:1", code=1)
    too_long = lab_command("trace", "web-0", "10.244.1.10", "--proto", "icmp", "--size", "1480", code=1)
    assert "Linux: rejected: EMSGSIZE\n  as netlab says; so are rules" in too_long
    lab_command("trace", "web-0", "svc/api", "--size", "1480", code=2)
    assert lab_command("down") == "lab lab is down\n"
    assert 'no lab "lab" is up' in lab_command("down", code=2)
    assert lab_command("status", "-o", "name") == "second\n"
    lab_command("down", "--all")
    assert list(lab_command.folder.iterdir()) == []


ROOT = Path(__file__).parents[2]
GOLDEN = ROOT / "tests" / "golden"
DRAWN_PORT = re.compile(r":[1-6]\d{4}\b")  # those of services and nodes are shorter, or in this test not met


def normal(said: str) -> str:
    """What `lab trace` prints, without what is drawn anew each time."""
    return DRAWN_PORT.sub(":PORT", said.replace(f"{ROOT}/", ""))


def test_trace_is_one_path_and_reads_as_before(lab_command: Cli) -> None:
    lab_command("up", "-q", "--iptables", "nft")
    said = next(said for _ in range(100) if "10.244.1.11:9000 (pod" in (said := lab_command("trace", "web-0", "svc/api")))
    assert normal(said) == (GOLDEN / "lab-trace.txt").read_text()


@pytest.mark.parametrize("variant", ["legacy", "nft"])
def test_a_rule_put_in_by_hand_is_seen(lab_command: Cli, variant: str) -> None:
    lab_command("up", "-q", "--iptables", variant)
    lab_command("exec", "node/node-1", "--", f"iptables-{variant}", "-I", "FORWARD", "-d", "10.244.1.11", "-j", "DROP")
    assert normal(lab_command("trace", "web-0", "api-1:9000", code=1)) == (GOLDEN / "lab-trace-parted.txt").read_text()
    lab_command("exec", "node/node-1", "--", f"iptables-{variant}", "-D", "FORWARD", "1")
    assert "as netlab says; so are rules" in lab_command("trace", "web-0", "api-1:9000")
    lab_command("exec", "node/node-1", "--", f"iptables-{variant}", "-I", "FORWARD", "-d", "10.244.2.11", "-j", "ACCEPT")
    said = lab_command("trace", "web-0", "api-2:9000", code=1)
    assert "as netlab says, but not by the same way:" in said
    assert "\n  +              -A FORWARD -d 10.244.2.11/32 -j ACCEPT\n" in said


def test_input_from_a_pipe_is_kept(lab_command: Cli) -> None:
    lab_command("up", "-q", "-f", "-", stdin=path_of_default().read_text())
    assert "as netlab says" in lab_command("trace", "web-0", "svc/api")


def test_what_a_killed_lab_leaves_is_cleared_away(lab_command: Cli) -> None:
    lab_command("up", "-q")
    [lab] = json.loads(lab_command("status", "-o", "json"))
    os.kill(lab["pid"], signal.SIGKILL)
    while Path(f"/proc/{lab['pid']}").exists():
        time.sleep(0.01)
    assert "no lab is up" in lab_command("status")
    assert list(lab_command.folder.iterdir()) == []
    lab_command("up", "-q")


def test_a_lab_killed_while_it_is_made_is_in_nobodys_way(lab_command: Cli) -> None:
    process = subprocess.Popen(
        [sys.executable, "-m", "netlab.cli.main", "lab", "up", "-q", "-f", str(CLUSTERS["random-11"])],
        env=lab_command.environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
    )  # fmt: skip
    while not (lab_command.folder / "lab").exists():
        assert process.poll() is None
        time.sleep(0.001)
    process.kill()
    process.wait()
    assert list(lab_command.folder.iterdir()) != []
    assert "no lab is up" in lab_command("status")
    assert list(lab_command.folder.iterdir()) == []
    lab_command("up", "-q")


def test_two_that_make_one_lab_and_a_full_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path))

    def fill(folder: Path) -> None:
        assert running.labs() == [], "what is being made is left alone"
        with pytest.raises(InputError, match='lab "x" is being made by another process'), running.folder_for("x"):
            pass
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(folder / "log"))

    with pytest.raises(InputError) as caught, running.folder_for("x") as folder:
        fill(folder)
    assert str(caught.value).startswith(f"the lab cannot be kept in {tmp_path}/netlab/x: No space left on device")
    assert list((tmp_path / "netlab").iterdir()) == []


def test_ctrl_c_while_it_is_made_leaves_nothing(lab_command: Cli) -> None:
    process = subprocess.Popen(
        [sys.executable, "-m", "netlab.cli.main", "lab", "up", "-q", "-f", str(CLUSTERS["random-11"])],
        env=lab_command.environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    log = lab_command.folder / "lab" / "door"
    while not log.exists() and process.poll() is None:
        time.sleep(0.002)
    process.send_signal(signal.SIGINT)
    out, err = process.communicate()
    assert process.returncode == 130, out + err
    assert list(lab_command.folder.iterdir()) == []


def test_what_the_kernel_refuses_is_said_with_the_command() -> None:
    declared = cluster("topology")
    tracer = route("node-1", "198.51.100.0/24", "203.0.113.77")(Tracer(declared))
    with pytest.raises(InputError) as caught:
        Lab.start(make_plan(tracer.network))
    assert "node-1: ip failed: ip route add 198.51.100.0/24 via 203.0.113.77 dev eth0 proto boot: " in str(caught.value)


def test_a_missing_tool_is_named_with_its_package(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr("netlab.lab.host._SBIN", "")
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(InputError) as caught:
        Lab.start(make_plan(Tracer(cluster("topology")).network))
    assert caught.value.hint == "on Debian or Ubuntu: apt-get install iproute2 iptables util-linux"


def test_no_permission_to_make_namespaces(monkeypatch: pytest.MonkeyPatch) -> None:
    refuse = ["sh", "-c", "echo unshare: refused >&2; exit 1", "sh"]
    monkeypatch.setattr("netlab.lab.host.unshare_command", lambda own=None: refuse)
    with pytest.raises(InputError) as caught:
        Lab.start(make_plan(Tracer(cluster("topology")).network))
    assert "namespaces cannot be made here: unshare: refused" in str(caught.value)
    assert "user namespaces" in (caught.value.hint or "")
