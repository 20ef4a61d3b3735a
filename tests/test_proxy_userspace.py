"""kube-proxy's userspace mode: its rules in iptables-save's own words, its sockets, and what becomes of both connections.

Expected rules follow pkg/proxy/userspace/proxier.go of kube-proxy v1.25; the two of the seed of all this are those that
"Debugging Services" on kubernetes.io showed for that mode.
"""

from __future__ import annotations

import io
from collections.abc import Callable

import pytest
from msgspec.structs import replace

from netlab.dataplane.proxy.userspace import FIRST_PORT, compile_ruleset, listeners, portals
from netlab.errors import InputError
from netlab.kube.cluster import Cluster
from netlab.kube.load import load
from netlab.kube.topology import Overrides
from netlab.linux.addr import ip
from netlab.linux.netns import Listener, Netns
from netlab.linux.packet import TCP
from netlab.linux.text import iptables_save
from netlab.trace.query import Request, Tracer
from netlab.trace.steps import Proxied, Trace

NODES = """
apiVersion: netlab/v1
kind: Topology
nodes:
- {name: node-1, addresses: [10.240.115.247], podCIDR: 10.244.0.0/24}
- {name: node-2, addresses: [10.240.115.248], podCIDR: 10.244.1.0/24}
fabric: {prefixes: [10.240.115.0/24], gateways: [10.240.115.1]}
podCIDR: 10.244.0.0/16
serviceCIDR: 10.0.0.0/16
cni: {name: flannel}
kubeProxy: {mode: userspace}
"""
PODS = "".join(
    f"""
---
apiVersion: v1
kind: Pod
metadata: {{name: {name}, namespace: default, labels: {{app: hostnames}}}}
spec: {{nodeName: {node}, containers: [{{name: c, ports: [{{containerPort: 9376}}, {{containerPort: 53, protocol: UDP}}]}}]}}
status: {{phase: Running, podIP: {address}}}
"""
    for name, node, address in (("h-0", "node-1", "10.244.0.5"), ("h-1", "node-2", "10.244.1.6"), ("h-2", "node-2", "10.244.1.7"))
)
CLIENT = """
---
apiVersion: v1
kind: Pod
metadata: {name: client, namespace: default}
spec: {nodeName: node-1, containers: [{name: c}]}
status: {phase: Running, podIP: 10.244.0.9}
"""


def service(spec: str, name: str = "hostnames", status: str = "") -> str:
    return f"""
---
apiVersion: v1
kind: Service
metadata: {{name: {name}, namespace: default}}
spec: {{selector: {{app: hostnames}}, {spec}}}
{status}
"""


PLAIN = service("clusterIP: 10.0.1.175, ports: [{name: default, port: 80, targetPort: 9376}]")
DNS = service("clusterIP: 10.0.1.53, ports: [{name: dns, port: 53, protocol: UDP}]", "dns")
NOBODY = service("clusterIP: 10.0.1.9, ports: [{port: 80}, {name: u, port: 81, protocol: UDP}]", "nobody").replace(
    "app: hostnames", "app: nobody"
)
PORTS = service("type: NodePort, clusterIP: 10.0.1.175, ports: [{name: default, port: 80, targetPort: 9376, nodePort: 30080}]")


def cluster(*documents: str, nodes: str = NODES) -> Cluster:
    return load(["-"], io.StringIO(nodes + PODS + CLIENT + "".join(documents)))


def chains(found: Cluster, family: int = 4, node: str = "node-1") -> dict[str, list[str]]:
    """The rules of each chain that has some, without `-A CHAIN`."""
    tables = compile_ruleset(found, node, family).tables
    return {name: [str(r) for r in chain.rules] for t in tables for name, chain in t.chains.items() if chain.rules}


# -- rules -------------------------------------------------------------------------------------------------------------

FRAME = {
    "INPUT": ['-m comment --comment "Ensure that non-local NodePort traffic can flow" -j KUBE-NODEPORT-NON-LOCAL'],
    "PREROUTING": [
        '-m comment --comment "handle ClusterIPs; NOTE: this must be before the NodePort rules" -j KUBE-PORTALS-CONTAINER',
        '-m addrtype --dst-type LOCAL -m comment --comment "handle service NodePorts; NOTE: this must be the last rule in the '
        'chain" -j KUBE-NODEPORT-CONTAINER',
    ],
    "OUTPUT": [
        '-m comment --comment "handle ClusterIPs; NOTE: this must be before the NodePort rules" -j KUBE-PORTALS-HOST',
        '-m addrtype --dst-type LOCAL -m comment --comment "handle service NodePorts; NOTE: this must be the last rule in the '
        'chain" -j KUBE-NODEPORT-HOST',
    ],
}
NAMED = '-m comment --comment "default/hostnames:default"'
TO = f"-d 10.0.1.175/32 -p tcp {NAMED} -m tcp --dport 80"

RULES: dict[str, tuple[str, dict[str, list[str]]]] = {
    "the two rules of Debugging Services": (
        PLAIN,
        {
            "KUBE-PORTALS-CONTAINER": [f"{TO} -j REDIRECT --to-ports 60000"],
            "KUBE-PORTALS-HOST": [f"{TO} -j DNAT --to-destination 10.240.115.247:60000"],
        },
    ),
    "a node port": (
        PORTS,
        {
            "KUBE-PORTALS-CONTAINER": [f"{TO} -j REDIRECT --to-ports 60000"],
            "KUBE-PORTALS-HOST": [f"{TO} -j DNAT --to-destination 10.240.115.247:60000"],
            "KUBE-NODEPORT-CONTAINER": [f"-p tcp {NAMED} -m tcp --dport 30080 -j REDIRECT --to-ports 60000"],
            "KUBE-NODEPORT-HOST": [f"-p tcp {NAMED} -m tcp --dport 30080 -j DNAT --to-destination 10.240.115.247:60000"],
            "KUBE-NODEPORT-NON-LOCAL": [f"-p tcp {NAMED} -m tcp --dport 60000 -m state --state NEW -j ACCEPT"],
        },
    ),
    "an external IP is for what comes from outside, or is the node's own": (
        service("clusterIP: 10.0.1.175, externalIPs: [192.0.2.9], ports: [{name: default, port: 80, targetPort: 9376}]"),
        {
            "KUBE-PORTALS-CONTAINER": [
                f"{TO} -j REDIRECT --to-ports 60000",
                f"-d 192.0.2.9/32 -p tcp {NAMED} -m tcp --dport 80 -m physdev ! --physdev-is-in -j REDIRECT --to-ports 60000",
                f"-d 192.0.2.9/32 -p tcp {NAMED} -m tcp --dport 80 -m addrtype --dst-type LOCAL -j REDIRECT --to-ports 60000",
            ],
            "KUBE-PORTALS-HOST": [
                f"{TO} -j DNAT --to-destination 10.240.115.247:60000",
                f"-d 192.0.2.9/32 -p tcp {NAMED} -m tcp --dport 80 -m addrtype --dst-type LOCAL "
                "-j DNAT --to-destination 10.240.115.247:60000",
            ],
        },
    ),
    "a load balancer's address, whatever the traffic policy and the source ranges": (
        service(
            "type: LoadBalancer, externalTrafficPolicy: Local, loadBalancerSourceRanges: [198.51.100.0/24], "
            "allocateLoadBalancerNodePorts: false, "
            "clusterIP: 10.0.1.175, ports: [{name: default, port: 80, targetPort: 9376}]",
            status="status: {loadBalancer: {ingress: [{ip: 192.0.2.80}]}}",
        ),
        {
            "KUBE-PORTALS-CONTAINER": [
                f"{TO} -j REDIRECT --to-ports 60000",
                f"-d 192.0.2.80/32 -p tcp {NAMED} -m tcp --dport 80 -j REDIRECT --to-ports 60000",
            ],
            "KUBE-PORTALS-HOST": [
                f"{TO} -j DNAT --to-destination 10.240.115.247:60000",
                f"-d 192.0.2.80/32 -p tcp {NAMED} -m tcp --dport 80 -j DNAT --to-destination 10.240.115.247:60000",
            ],
        },
    ),
    "an external IP of the other family: iptables refuses it, and the node port is never opened": (
        service(
            "type: NodePort, clusterIP: 10.0.1.175, externalIPs: ['2001:db8::9'], "
            "ports: [{name: default, port: 80, targetPort: 9376, nodePort: 30080}]"
        ),
        {
            "KUBE-PORTALS-CONTAINER": [f"{TO} -j REDIRECT --to-ports 60000"],
            "KUBE-PORTALS-HOST": [f"{TO} -j DNAT --to-destination 10.240.115.247:60000"],
        },
    ),
    "SCTP is not served": (service("clusterIP: 10.0.1.175, ports: [{port: 80, protocol: SCTP}]"), {}),
    "a headless service": (service("clusterIP: None, ports: [{port: 80}]"), {}),
}


@pytest.mark.parametrize("name", RULES)
def test_rules(name: str) -> None:
    documents, expected = RULES[name]
    assert chains(cluster(documents)) == {**FRAME, **expected}


def test_ports_are_counted_in_the_order_of_names() -> None:
    found = cluster(NOBODY, DNS, PLAIN)
    assert [(p.port.name, p.proxy_port) for p in portals(found, "node-1")] == [
        ("default/dns:dns", FIRST_PORT),
        ("default/hostnames:default", FIRST_PORT + 1),
        ("default/nobody", FIRST_PORT + 2),
        ("default/nobody:u", FIRST_PORT + 3),
    ]


def test_another_family_than_the_nodes_gets_no_rules() -> None:
    assert chains(cluster(PLAIN), family=6) == {}


def test_the_dump_reads_back() -> None:
    made = compile_ruleset(cluster(PORTS, DNS), "node-1", 4)
    again = iptables_save.parse(iptables_save.write(made, family=4), family=4, file="dump")
    assert again.tables == made.tables


def test_more_services_than_ports() -> None:
    many = cluster(*[PLAIN.replace("name: hostnames,", f"name: h{n},").replace("10.0.1.175", f"10.0.{2 + n // 250}.{1 + n % 250}")
                     for n in range(3)])  # fmt: skip
    assert len(portals(many, "node-1")) == 3
    one = next(iter(many.services.values()))
    ports = tuple(replace(one.ports[0], name=f"p{n}", port=n + 1) for n in range(33000))
    huge = replace(many, services={one.key: replace(one, ports=ports)})
    with pytest.raises(InputError, match="33000 service ports"):
        portals(huge, "node-1")


# -- sockets -----------------------------------------------------------------------------------------------------------


def test_sockets() -> None:
    found = {(s.port, s.ip): s for s in listeners(cluster(PORTS), "node-1", local_addresses=[ip("10.240.115.247")])}
    assert sorted(port for port, _ in found) == [10249, 10256, 30080, 60000]
    proxy, held = found[60000, None].proxy, found[30080, None].proxy
    assert proxy is not None
    assert held is not None
    assert [str(a) for a, _ in proxy.backends] == ["10.244.0.5", "10.244.1.6", "10.244.1.7"]
    assert (proxy.accepts, held.accepts) == (True, False)


def test_an_address_of_the_node_is_held() -> None:
    documents = service("clusterIP: 10.0.1.175, externalIPs: [10.240.115.247], ports: [{port: 80, targetPort: 9376}]")
    found = listeners(cluster(documents), "node-1", local_addresses=[ip("10.240.115.247")])
    assert [(s.port, s.ip) for s in found if s.proxy is not None and not s.proxy.accepts] == [(80, ip("10.240.115.247"))]


# -- both connections --------------------------------------------------------------------------------------------------


def closed(*pods: str) -> Callable[[Tracer], None]:
    """These pods listen on nothing that anybody asks for."""
    return lambda tracer: _change(tracer, pods, lambda n: replace(n, listeners=(Listener(TCP, 1, "nothing"),)))


def down(*pods: str) -> Callable[[Tracer], None]:
    """These pods' devices are down: whoever asks hears nothing."""
    return lambda tracer: _change(
        tracer, pods, lambda n: replace(n, devices={k: replace(d, up=k == "lo") for k, d in n.devices.items()})
    )


def nothing(tracer: Tracer) -> None:
    pass


def _change(tracer: Tracer, pods: tuple[str, ...], change: Callable[[Netns], Netns]) -> None:
    spaces = tracer.network.namespaces
    changed = {f"default/{pod}": change(spaces[f"default/{pod}"]) for pod in pods}
    tracer.network = replace(tracer.network, namespaces={**spaces, **changed})


def told(trace: Trace) -> list[str]:
    """`1/3 delivered h-0 10.244.0.1`: probability, verdict, endpoint, source seen."""
    lines = []
    for b in trace.branches:
        who = f" {(b.endpoint_name or '').removeprefix('pod default/')} {b.source_seen}" if b.endpoint else ""
        lines.append(f"{b.probability} {b.verdict.value}{who}")
    return lines


def tries(trace: Trace) -> list[list[str]]:
    """The endpoints that kube-proxy dials, branch by branch."""
    return [[s.backend for h in b.hops for s in h.steps if isinstance(s, Proxied) and not s.back] for b in trace.branches]


CONNECTIONS: dict[str, tuple[str, str, Callable[[Tracer], None], list[str]]] = {
    "round robin": (
        "client",
        "svc/hostnames",
        nothing,
        ["1/3 delivered h-0 10.244.0.1", "1/3 delivered h-1 10.244.0.0", "1/3 delivered h-2 10.244.0.0"],
    ),
    "a pod that meets itself": (
        "h-0",
        "svc/hostnames",
        nothing,
        ["1/3 delivered h-0 10.244.0.1", "1/3 delivered h-1 10.244.0.0", "1/3 delivered h-2 10.244.0.0"],
    ),
    "an endpoint that refuses: the next one": (
        "client",
        "svc/hostnames",
        closed("h-0"),
        ["1/3 delivered h-1 10.244.0.0", "1/3 delivered h-1 10.244.0.0", "1/3 delivered h-2 10.244.0.0"],
    ),
    "two refuse, one after the other": (
        "client",
        "svc/hostnames",
        closed("h-1", "h-2"),
        ["1/3 delivered h-0 10.244.0.1", "1/3 delivered h-0 10.244.0.1", "1/3 delivered h-0 10.244.0.1"],
    ),
    "all refuse: the client's connection is closed": (
        "client",
        "svc/hostnames",
        closed("h-0", "h-1", "h-2"),
        ["1/3 rejected", "1/3 rejected", "1/3 rejected"],
    ),
    "an endpoint that is silent: the next one": (
        "client",
        "svc/hostnames",
        down("h-0"),
        ["1/3 delivered h-1 10.244.0.0", "1/3 delivered h-1 10.244.0.0", "1/3 delivered h-2 10.244.0.0"],
    ),
    "no endpoint, TCP": ("client", "svc/nobody:80", nothing, ["1 rejected"]),
    "no endpoint, UDP": ("client", "svc/nobody:u", nothing, ["1 dropped"]),
    "UDP": (
        "client",
        "svc/dns",
        nothing,
        ["1/3 delivered h-0 10.244.0.1", "1/3 delivered h-1 10.244.0.0", "1/3 delivered h-2 10.244.0.0"],
    ),
    "UDP, an endpoint refuses: nobody tries another": (
        "client",
        "svc/dns",
        closed("h-0"),
        ["1/3 delivered h-1 10.244.0.0", "1/3 delivered h-2 10.244.0.0", "1/3 dropped"],
    ),
}


@pytest.mark.parametrize("name", CONNECTIONS)
def test_connections(name: str) -> None:
    source, destination, change, expected = CONNECTIONS[name]
    tracer = Tracer(cluster(PLAIN, DNS, NOBODY))
    change(tracer)
    assert told(tracer.trace(Request(source, destination))) == expected


def test_four_endpoints_are_tried_and_no_more() -> None:
    tracer = Tracer(cluster(PLAIN))
    closed("h-0", "h-1", "h-2")(tracer)
    trace = tracer.trace(Request("client", "svc/hostnames"))
    assert tries(trace)[0] == ["10.244.0.5:9376", "10.244.1.6:9376", "10.244.1.7:9376", "10.244.0.5:9376"]
    assert [len(dialled) for dialled in tries(trace)] == [4, 4, 4]


def test_both_connections_are_in_the_trace() -> None:
    trace = Tracer(cluster(PLAIN)).trace(Request("client", "svc/hostnames"))
    branch = next(b for b in trace.branches if b.endpoint == "10.244.1.6:9376")
    assert [h.where for h in branch.hops] == ["default/client", "node-1", "node-2", "default/h-1"]
    assert branch.reply is not None
    assert [h.where for h in branch.reply.hops] == ["default/h-1", "node-2", "node-1", "default/client"]
    assert any("counted up from 60000" in text for text in trace.assumptions)


def test_a_port_that_is_only_held() -> None:
    """By IPv6 the node port is not redirected: it reaches the socket with which kube-proxy keeps others off it."""
    dual = NODES.replace("[10.240.115.247]", "[10.240.115.247, 'fd00::7']")
    dual = dual.replace("[10.240.115.0/24]", "[10.240.115.0/24, 'fd00::/64']")
    trace = Tracer(cluster(PORTS, nodes=dual)).trace(Request("node/node-1", "[fd00::7]:30080"))
    assert told(trace) == ["1 dropped kube-proxy (userspace) for default/hostnames:default fd00::7"]
    assert "never accepted" in (trace.branches[0].reason or "")


def test_udp_on_loopback_comes_back_from_another_address() -> None:
    """The answer of an unconnected socket has the source 127.0.0.1, conntrack waits for one from the node's address."""
    spec = "type: NodePort, clusterIP: 10.0.1.53, ports: [{name: dns, port: 53, protocol: UDP, nodePort: 30053}]"
    tracer = Tracer(cluster(service(spec, "dns")))

    def verdict(address: str) -> str:
        return tracer.trace(Request("node/node-1", f"{address}:30053", protocol="udp")).verdict.value

    assert (verdict("127.0.0.1"), verdict("10.240.115.247")) == ("dropped", "delivered")


def test_the_mode_can_be_chosen_on_the_command_line() -> None:
    found = load(["-"], io.StringIO(NODES.replace("mode: userspace", "mode: iptables") + PODS), Overrides(proxy_mode="userspace"))
    assert found.proxy.mode == "userspace"
