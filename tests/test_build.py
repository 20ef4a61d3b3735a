"""From a cluster to namespaces and wires."""

from __future__ import annotations

import msgspec
import pytest

from netlab.dataplane.build import DEFAULT_CLIENTS, build, with_internet
from netlab.errors import InputError
from netlab.kube.cluster import Cluster, Cni, Fabric, Proxy
from netlab.kube.objects import (
    ContainerPort,
    Endpoint,
    EndpointPort,
    EndpointSlice,
    LoadBalancerIngress,
    Node,
    Pod,
    Service,
    ServicePort,
)
from netlab.linux.addr import ip, prefix
from netlab.linux.netns import LOCAL, DeviceKind, Netns, NetnsKind
from netlab.linux.text.iproute import print_route
from netlab.refs import Ref

PODS4, PODS6 = prefix("10.244.0.0/16"), prefix("fd00:10:244::/56")


def node(n: int, **changes: object) -> Node:
    made = Node(
        name=f"node-{n}",
        pod_cidrs=(prefix(f"10.244.{n - 1}.0/24"), prefix(f"fd00:10:244:{n - 1}::/64")),
        internal_ips=(ip(f"198.18.0.{n}"), ip(f"fd00:198:18::{n}")),
        ref=Ref(file="cluster.json", object=f"Node node-{n}"),
    )
    return msgspec.structs.replace(made, **changes)


def pod(name: str, n: int, host: int, **changes: object) -> Pod:
    made = Pod(
        name=name,
        namespace="default",
        node_name=f"node-{n}",
        ips=(ip(f"10.244.{n - 1}.{host}"), ip(f"fd00:10:244:{n - 1}::{host:x}")),
    )
    return msgspec.structs.replace(made, **changes)


def cluster(*pods: Pod, nodes: tuple[Node, ...] = (), services: tuple[Service, ...] = (), **changes: object) -> Cluster:
    nodes = nodes or (node(1), node(2))
    made = Cluster(
        nodes={n.name: n for n in nodes},
        pods={p.key: p for p in pods},
        services={s.key: s for s in services},
        fabric=Fabric((prefix("198.18.0.0/24"), prefix("fd00:198:18::/64")), (ip("198.18.0.254"), ip("fd00:198:18::fe"))),
        proxy=Proxy(cluster_cidrs=(PODS4, PODS6)),
        pod_cidrs=(PODS4, PODS6),
        service_cidrs=(prefix("10.96.0.0/12"),),
    )
    return msgspec.structs.replace(made, **changes)


def two_nodes() -> Cluster:
    """Two nodes, dual stack: web-0 and web-1 on node-1, api-0 on node-2."""
    return cluster(pod("web-0", 1, 2), pod("web-1", 1, 3), pod("api-0", 2, 2, ports=(ContainerPort(8080),)))


def test_namespaces_and_wires() -> None:
    network = build(two_nodes()).network
    assert list(network.namespaces) == ["node-1", "node-2", "default/web-0", "default/web-1", "default/api-0", "internet"]
    kinds = {name: netns.kind for name, netns in network.namespaces.items()}
    assert kinds["node-1"] is NetnsKind.NODE
    assert kinds["default/web-0"] is NetnsKind.POD
    assert kinds["internet"] is NetnsKind.EXTERNAL
    assert network.segments["fabric"].mtu == 1500
    on_fabric = [name for name, netns in network.namespaces.items() for d in netns.devices.values() if d.segment == "fabric"]
    assert on_fabric == ["node-1", "node-2", "internet"]


def test_veth_pairs_name_each_other() -> None:
    spaces = build(two_nodes()).network.namespaces
    pairs = 0
    for name, netns in spaces.items():
        for device in netns.devices.values():
            if device.peer is not None:
                far = spaces[device.peer[0]].devices[device.peer[1]]
                assert far.peer == (name, device.name)
                assert far.link_index == device.index
                assert far.mtu == device.mtu
                pairs += 1
    assert pairs == 6


def test_all_macs_differ() -> None:
    spaces = build(two_nodes()).network.namespaces
    macs = [d.mac for netns in spaces.values() for d in netns.devices.values() if d.kind is not DeviceKind.LOOPBACK]
    assert len(set(macs)) == len(macs)
    assert all(int(mac[:2], 16) & 3 == 2 for mac in macs), "unicast, locally administered"


def test_order_of_the_input_does_not_matter() -> None:
    some = two_nodes()
    turned = msgspec.structs.replace(some, pods=dict(reversed(some.pods.items())))
    one, two = build(some).network.namespaces, build(turned).network.namespaces
    for name in one:
        assert one[name].devices == two[name].devices
        assert one[name].routes == two[name].routes
        assert one[name].listeners == two[name].listeners


def test_pods_without_a_namespace_of_their_own() -> None:
    built = build(
        cluster(
            pod("pending", 1, 2, ips=()),
            pod("agent", 1, 3, host_network=True, ips=(ip("198.18.0.1"),), ports=(ContainerPort(9100),)),
            pod("lost", 9, 4),
        )
    )
    assert list(built.network.namespaces) == ["node-1", "node-2", "internet"]
    assert built.not_modelled == ("pods on nodes that are not among the input: default/lost",)
    assert listening(built.network.namespaces["node-1"]) >= {(6, 9100, "pod default/agent"), (6, 10250, "kubelet")}
    assert (6, 9100, "pod default/agent") not in listening(built.network.namespaces["node-2"])


def listening(netns: Netns) -> set[tuple[int, int, str]]:
    return {(s.protocol, s.port, s.owner) for s in netns.listeners}


def slices(service: str, *addresses: str, port: int = 8080, protocol: str = "TCP") -> dict[str, tuple[EndpointSlice, ...]]:
    endpoints = tuple(Endpoint(addresses=(ip(a),)) for a in addresses)
    made = EndpointSlice(
        name=f"{service}-1",
        namespace="default",
        service=f"default/{service}",
        endpoints=endpoints,
        ports=(EndpointPort(port, protocol),),
    )
    return {f"default/{service}": (made,)}


def test_pods_listen_where_ports_and_services_say() -> None:
    built = build(
        cluster(
            pod("web-0", 1, 2, ports=(ContainerPort(80), ContainerPort(53, "UDP"))),
            pod("web-1", 1, 3),
            pod("quiet", 1, 4),
            slices=slices("web", "10.244.0.2", "10.244.0.3", port=8443),
        )
    ).network.namespaces
    assert listening(built["default/web-0"]) == {
        (6, 80, "pod default/web-0"),
        (17, 53, "pod default/web-0"),
        (6, 8443, "pod default/web-0"),
    }
    assert listening(built["default/web-1"]) == {(6, 8443, "pod default/web-1")}
    assert listening(built["default/quiet"]) == set()
    assert all(s.ip is None for s in built["default/web-0"].listeners)


def test_an_endpoint_that_is_a_node_listens_there() -> None:
    spaces = build(cluster(slices=slices("kubernetes", "198.18.0.1", port=6443))).network.namespaces
    assert (6, 6443, "endpoint of default/kubernetes") in listening(spaces["node-1"])
    assert (6, 6443, "endpoint of default/kubernetes") not in listening(spaces["node-2"])


def test_endpoints_outside_the_cluster() -> None:
    internet = build(
        cluster(pod("web-0", 1, 2), slices=slices("db", "192.0.2.9", "198.18.0.77", "10.244.0.2", "10.244.7.7", port=5432))
    ).network.namespaces["internet"]
    own = {str(a.ip) for a in internet.devices["lo"].addresses}
    assert own == {"127.0.0.1", "::1", "203.0.113.7", "2001:db8::7", "192.0.2.9"}
    assert "198.18.0.77/24" in map(str, internet.devices["eth0"].addresses), "a neighbour of the nodes"
    assert [(s.port, str(s.ip)) for s in internet.listeners] == [(5432, "192.0.2.9"), (5432, "198.18.0.77")]


@pytest.mark.parametrize(
    ("host", "where"),
    [
        ("192.0.2.50", "lo"),
        ("2001:db8:9::1", "lo"),
        ("198.18.0.99", "eth0"),
        ("10.244.0.2", None),  # a pod
        ("10.244.3.3", None),  # the pod network: nobody
        ("198.18.0.1", None),  # a node
        ("10.96.0.1", None),  # the service network
        ("192.0.2.80", None),  # an external address of a service
        ("127.0.0.1", None),
        ("224.0.0.1", None),
    ],
)
def test_hosts_of_a_trace(host: str, where: str | None) -> None:
    service = Service(name="shop", namespace="default", external_ips=(ip("192.0.2.80"),))
    internet = build(cluster(pod("web-0", 1, 2), services=(service,)), extra_hosts=(ip(host),)).network.namespaces["internet"]
    found = [d.name for d in internet.devices.values() if any(a.ip == ip(host) for a in d.addresses) and not ip(host).is_loopback]
    assert found == ([where] if where else [])


def test_routes_of_the_outside() -> None:
    shop = Service(
        name="shop",
        namespace="default",
        type="LoadBalancer",
        cluster_ips=(ip("10.96.0.80"), ip("fd00:5::80")),
        ports=(ServicePort(80),),
        external_ips=(ip("198.18.0.2"),),
        load_balancer=(LoadBalancerIngress(ip("192.0.2.80")), LoadBalancerIngress(ip("192.0.2.81"), ip_mode="Proxy")),
    )
    some = cluster(services=(shop,))
    built = build(some)
    assert print_route(built.network.namespaces["internet"], family=4).splitlines() == [
        "blackhole default ",
        "192.0.2.80 via 198.18.0.1 dev eth0 ",
        "198.18.0.0/24 dev eth0 proto kernel scope link src 198.18.0.254 ",
    ]
    at = build(some, at="node-2")
    assert print_route(at.network.namespaces["internet"], family=4).splitlines() == [
        "blackhole default ",
        "10.96.0.0/12 via 198.18.0.2 dev eth0 ",
        "10.244.0.0/16 via 198.18.0.2 dev eth0 ",
        "192.0.2.80 via 198.18.0.2 dev eth0 ",
        "198.18.0.0/24 dev eth0 proto kernel scope link src 198.18.0.254 ",
    ]
    assert "fd00:5::80 via fd00:198:18::2 dev eth0 metric 1024 pref medium" in print_route(
        at.network.namespaces["internet"], family=6
    )


def test_the_outside_can_be_exchanged_and_keeps_the_macs_that_nodes_know() -> None:
    some = two_nodes()
    network = build(some).network
    known = msgspec.structs.replace(network.namespaces["internet"].devices["eth0"], mac="52:54:00:00:00:01")
    learned = msgspec.structs.replace(
        network.namespaces["internet"], devices={**network.namespaces["internet"].devices, "eth0": known}
    )
    network = msgspec.structs.replace(network, namespaces={**network.namespaces, "internet": learned})
    other = build(some, extra_hosts=(ip("192.0.2.50"),)).network.namespaces["internet"]
    outside = with_internet(network, other).namespaces["internet"]
    assert outside.devices["eth0"].mac == "52:54:00:00:00:01"
    assert ip("192.0.2.50") in [a.ip for a in outside.devices["lo"].addresses]


def test_default_clients_are_documentation_addresses() -> None:
    assert [str(a) for a in DEFAULT_CLIENTS] == ["203.0.113.7", "2001:db8::7"]


def test_sysctls() -> None:
    spaces = build(cluster(pod("web-0", 1, 2), sysctls={"ipv4.conf.all.rp_filter": 1, "bridge.bridge-nf-call-iptables": 0}))
    node_1 = spaces.network.namespaces["node-1"]
    assert node_1.sysctls == {
        "ipv4.ip_forward": 1,
        "ipv6.conf.all.forwarding": 1,
        "bridge.bridge-nf-call-iptables": 0,
        "bridge.bridge-nf-call-ip6tables": 1,
        "ipv4.conf.all.route_localnet": 1,
        "ipv4.conf.all.rp_filter": 1,
    }
    assert spaces.network.namespaces["default/web-0"].sysctl("ipv4.ip_forward", 9) == 0
    strict = cluster(proxy=Proxy(cluster_cidrs=(PODS4,), localhost_nodeports=False))
    assert "ipv4.conf.all.route_localnet" not in build(strict).network.namespaces["node-1"].sysctls


def test_without_a_cni_there_is_kube_proxy_alone() -> None:
    from netlab.dataplane.proxy.iptables import compile_ruleset

    some = msgspec.structs.replace(two_nodes(), cni=Cni(name="none"))
    spaces = build(some).network.namespaces
    assert list(spaces["node-1"].devices) == ["lo", "eth0"]
    assert list(spaces["default/web-0"].devices) == ["lo"]
    for family in (4, 6):
        assert spaces["node-1"].rulesets[family] == compile_ruleset(some, "node-1", family)


def test_rulesets_are_made_once_and_late() -> None:
    rulesets = build(two_nodes()).network.namespaces["node-1"].rulesets
    assert list(rulesets) == [4, 6]
    assert rulesets[4] is rulesets[4]
    assert rulesets[6].tables[0].family == "ip6"
    with pytest.raises(KeyError):
        rulesets[5]


def test_a_host_port_is_a_socket_that_is_not_modelled() -> None:
    built = build(cluster(pod("p", 1, 2, ports=(ContainerPort(80, host_port=8080),))))
    found = [one for one in built.network.namespaces["node-1"].listeners if one.not_modelled]
    assert [(one.port, one.not_modelled) for one in found] == [
        (8080, "hostPort 8080 of pod default/p (the portmap plug-in's rules)")
    ]


def test_a_pod_outside_its_nodes_pod_cidr_is_said() -> None:
    built = build(cluster(pod("odd", 1, 2, ips=(ip("10.244.1.9"),))))
    assert built.assumptions == (
        "node-1: pods with addresses outside its podCIDR 10.244.0.0/24, fd00:10:244::/64 are kept as given: default/odd",
    )


@pytest.mark.parametrize(
    ("some", "at", "message"),
    [
        (cluster(), "node-3", 'unknown node "node-3"\n  did you mean "node-'),
        (cluster(cni=Cni(name="cilium")), None, 'CNI "cilium" is not modelled\n  those that are: flannel, calico, canal, none'),
        (cluster(cni=Cni(backend="wiregard")), None, 'unknown flannel backend "wiregard"\n  did you mean "wireguard"?'),
        (cluster(proxy=Proxy(mode="kernelspace")), None, 'proxy mode "kernelspace" is not modelled'),
        (
            cluster(nodes=(node(1, internal_ips=(ip("192.0.2.1"),)),)),
            None,
            'cluster.json, Node node-1: node "node-1": address 192.0.2.1 is outside the fabric\n'
            "  the fabric is 198.18.0.0/24, fd00:198:18::/64",
        ),
        (cluster(nodes=(node(1, internal_ips=()),)), None, 'node "node-1" has no InternalIP'),
        (cluster(nodes=(node(1, name="internet"),)), None, 'a node cannot be called "internet"'),
    ],
)
def test_refusals(some: Cluster, at: str | None, message: str) -> None:
    with pytest.raises(InputError) as error:
        build(some, at=at)
    assert message in str(error.value)


def test_local_table_of_a_node() -> None:
    node_1 = build(two_nodes()).network.namespaces["node-1"]
    assert print_route(node_1, family=4, table=LOCAL).splitlines() == [
        "local 10.244.0.0 dev flannel.1 proto kernel scope host src 10.244.0.0 ",
        "local 10.244.0.1 dev cni0 proto kernel scope host src 10.244.0.1 ",
        "broadcast 10.244.0.255 dev cni0 proto kernel scope link src 10.244.0.1 ",
        "local 127.0.0.0/8 dev lo proto kernel scope host src 127.0.0.1 ",
        "local 127.0.0.1 dev lo proto kernel scope host src 127.0.0.1 ",
        "broadcast 127.255.255.255 dev lo proto kernel scope link src 127.0.0.1 ",
        "local 198.18.0.1 dev eth0 proto kernel scope host src 198.18.0.1 ",
        "broadcast 198.18.0.255 dev eth0 proto kernel scope link src 198.18.0.1 ",
    ]
