"""The network's settings: the Topology document, what the cluster shows, flags, and what is said about the rest."""

import pytest

from netlab.errors import InputError
from netlab.kube.cluster import Cni, Fabric, Proxy
from netlab.kube.load import load
from netlab.kube.topology import Overrides, cover, natural, some
from netlab.linux.addr import ip, prefix

POD = "kind: Pod\napiVersion: v1\nmetadata: {name: p}\n"
HEAD = "apiVersion: netlab/v1\nkind: Topology\n"
FULL = (
    HEAD
    + """metadata: {name: t}
nodes:
- {name: a, addresses: [192.168.9.1], podCIDR: 10.9.0.0/24, labels: {topology.kubernetes.io/zone: z}}
- {name: b, addresses: [192.168.9.2], podCIDRs: [10.9.1.0/24]}
fabric: {prefixes: [192.168.9.0/24], gateway: 192.168.9.254, mtu: 9000, device: ens3}
podCIDR: 10.9.0.0/16
serviceCIDR: 10.97.0.0/16
cni: {name: flannel, backend: vxlan, vni: 7, port: 4789, hairpin: false, masquerade: false}
kubeProxy:
  {mode: ipvs, clusterCIDR: 10.8.0.0/15, masqueradeBit: 3, masqueradeAll: true, localhostNodePorts: false,
   nodePortAddresses: [192.168.9.0/24], detectLocalMode: NodeCIDR, scheduler: sh, strictARP: true, excludeCIDRs: [10.3.0.0/16]}
sysctls: {net.ipv4.conf.all.rp_filter: 1, ipv4.ip_forward: 0}
---
"""
)


@pytest.fixture
def read(tmp_path):
    def build(text, **flags):
        file = tmp_path / "f.yaml"
        file.write_text(text)
        return load([str(file)], overrides=Overrides(**flags))

    return build


def node(name, address="", cidr=""):
    addresses = f"[{{type: InternalIP, address: '{address}'}}]" if address else "[]"
    spec = f"{{podCIDRs: {cidr}}}" if cidr else "{}"
    return f"kind: Node\napiVersion: v1\nmetadata: {{name: {name}}}\nspec: {spec}\nstatus: {{addresses: {addresses}}}\n---\n"


def said(cluster, start):
    """The assumption that begins like this."""
    (line,) = [a for a in cluster.assumptions if a.startswith(start)]
    return line


def test_a_full_topology_leaves_nothing_to_assume(read):
    found = read(FULL)
    assert found.assumptions == ()
    assert [(n.name, str(n.internal_ips[0]), str(n.pod_cidrs[0]), n.zone) for n in found.nodes.values()] == [
        ("a", "192.168.9.1", "10.9.0.0/24", "z"),
        ("b", "192.168.9.2", "10.9.1.0/24", None),
    ]
    assert found.fabric == Fabric((prefix("192.168.9.0/24"),), (ip("192.168.9.254"),), 9000, "ens3")
    assert found.cni == Cni("flannel", "vxlan", 7, 4789, False, False)
    options = (3, True, False, (prefix("192.168.9.0/24"),), "sh", True, (prefix("10.3.0.0/16"),))
    assert found.proxy == Proxy("ipvs", (prefix("10.8.0.0/15"),), "NodeCIDR", *options)
    assert (found.pod_cidrs, found.service_cidrs) == ((prefix("10.9.0.0/16"),), (prefix("10.97.0.0/16"),))
    assert found.sysctls == {"ipv4.conf.all.rp_filter": 1, "ipv4.ip_forward": 0}


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("fabrik: {mtu: 1500}", 'f.yaml:3, document 1, Topology, fabrik: unknown field "fabrik"\n  did you mean "fabric"?'),
        ("fabric:\n  mtuu: 1500", 'unknown field "mtuu"\n  did you mean "mtu"?'),
        ("nodes:\n- {name: a}\n- {name: b, adresses: []}", 'unknown field "adresses"\n  did you mean "addresses"?'),
        ("kubeProxy: {masqueradebit: 1}", 'unknown field "masqueradebit"\n  did you mean "masqueradeBit"'),
        ("cni: {zzz: 1}", "known here: backend, directRouting, encapsulation, hairpin, masquerade, name, pools, port, vni"),
        ("fabric: {mtu: big}", 'fabric.mtu: expected an integer, found a string ("big")'),
        ("cni: {name: flanel}", 'cni.name: unknown value "flanel"\n  did you mean "flannel"?'),
        ("kubeProxy: {mode: iptable}", 'did you mean "iptables"'),
        ("kubeProxy: {scheduler: rrr}", 'did you mean "rr"'),
        ("kubeProxy: {excludeCIDRs: [x]}", "kubeProxy.excludeCIDRs[0]"),
        ("kubeProxy: {masqueradeBit: 32}", "expected an integer <= 31"),
        ("podCIDR: 10.0.0.0/33", 'podCIDR: "10.0.0.0/33" is not a CIDR'),
        ("podCIDR: 10.0.0.0/8, 11.0.0.0/8", "two prefixes of one address family"),
        ("podCIDR: 10.0.0.0/8\npodCIDRs: [10.0.0.0/8]", "both podCIDR and podCIDRs"),
        ("nodes: [{addresses: []}]", 'nodes[0]: the field "name" is missing'),
        ("nodes: [{name: a}, {name: a}]", 'f.yaml:3, document 1, Topology, nodes[1].name: the node "a" twice'),
        ("nodes: [{name: a, addresses: [10.0.0.256]}]", 'nodes[0].addresses[0]: "10.0.0.256" is not an IP address'),
        ("mtu: 1500\n---\n" + HEAD, 'unknown field "mtu"'),
        ("nodes: []\n---\n" + HEAD, "f.yaml:5, document 2, Topology: a second Topology\n  the first stands in"),
    ],
)
def test_the_document_is_strict(read, text, says):
    with pytest.raises(InputError) as caught:
        read(HEAD + text)
    assert says in str(caught.value)


def test_its_version(read):
    with pytest.raises(InputError, match='unknown apiVersion "netlab/v2"'):
        read("kind: Topology\napiVersion: netlab/v2\n")


def test_flags_win(read):
    found = read(
        FULL,
        cni="none",
        proxy_mode="nftables",
        cluster_cidr="10.10.0.0/16,fd00::/56",
        service_cidr="10.98.0.0/16",
        masquerade_all=False,
        mtu=1400,
    )
    assert (found.cni.name, found.proxy.mode, found.proxy.masquerade_all, found.fabric.mtu) == ("none", "nftables", False, 1400)
    assert found.pod_cidrs == found.proxy.cluster_cidrs == (prefix("10.10.0.0/16"), prefix("fd00::/56"))
    assert found.service_cidrs == (prefix("10.98.0.0/16"),)


@pytest.mark.parametrize(
    ("flags", "says"),
    [
        ({"cni": "flanel"}, '--cni: unknown CNI "flanel"\n  did you mean "flannel"?'),
        ({"proxy_mode": "iptable"}, '--proxy-mode: unknown mode "iptable"\n  did you mean "iptables"'),
        ({"cluster_cidr": "ten"}, "--cluster-cidr: not an IP address"),
        ({"service_cidr": "10.0.0.0/8,11.0.0.0/8"}, "--service-cidr: two prefixes of one address family"),
    ],
)
def test_flags_that_are_wrong(read, flags, says):
    with pytest.raises(InputError) as caught:
        read(POD, **flags)
    assert says in str(caught.value)


# --- nodes ------------------------------------------------------------------------------------------------------


def test_nodes_are_invented(read):
    found = read(POD)
    assert [(n, str(o.internal_ips[0]), str(o.pod_cidrs[0])) for n, o in found.nodes.items()] == [
        ("node-1", "172.30.0.11", "10.244.0.0/24"),
        ("node-2", "172.30.0.12", "10.244.1.0/24"),
        ("node-3", "172.30.0.13", "10.244.2.0/24"),
    ]
    assert "no nodes in the input: node-1, node-2 and node-3 are invented" in found.assumptions
    assert said(found, "addresses of 3 nodes given from 172.30.0.0/24")
    assert said(found, "podCIDRs of 3 nodes taken from 10.244.0.0/16 in order")


def test_nodes_that_pods_name(read):
    """Their addresses from the pods' hostIP, their podCIDR from the pods' addresses."""
    pods = "".join(
        f"kind: Pod\napiVersion: v1\nmetadata: {{name: {name}}}\nspec: {{nodeName: {on}}}\n"
        f"status: {{phase: Running, hostIP: {host}, podIPs: [{{ip: {a}}}]}}\n---\n"
        for name, on, host, a in (
            ("p", "n10", "10.0.0.10", "10.244.7.3"),
            ("q", "n10", "10.0.0.10", "10.244.7.4"),
            ("r", "n9", "10.0.0.9", "10.244.3.3"),
        )
    )
    found = read(pods)
    assert [(n, str(o.internal_ips[0]), str(o.pod_cidrs[0])) for n, o in found.nodes.items()] == [
        ("n9", "10.0.0.9", "10.244.3.0/24"),
        ("n10", "10.0.0.10", "10.244.7.0/24"),
    ]
    assert said(found, "no Node objects in the input: 2 nodes taken from the pods' nodeName")
    assert said(found, "podCIDRs of 2 nodes inferred from the pods that run there")
    assert found.pod_cidrs == (prefix("10.244.0.0/16"),)


def test_a_node_that_only_a_pod_names(read):
    found = read(node("n1", "10.0.0.1", "[10.244.0.0/24]") + POD + "spec: {nodeName: n2}\n")
    assert list(found.nodes) == ["n1", "n2"]
    assert str(found.nodes["n2"].pod_cidrs[0]) == "10.244.1.0/24"
    assert said(found, "1 node known only from the pods that run there: n2")


def test_the_topology_completes_node_objects(read):
    topology = HEAD + "nodes: [{name: n1, podCIDR: 10.5.0.0/24, labels: {k: v}}]\n---\n"
    found = read(topology + node("n1", "10.0.0.1", "[10.244.0.0/24]"))
    assert (str(found.nodes["n1"].pod_cidrs[0]), str(found.nodes["n1"].internal_ips[0])) == ("10.5.0.0/24", "10.0.0.1")
    assert found.nodes["n1"].labels == {"k": "v"}


# --- CIDRs and the fabric ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("cidrs", "network"),
    [
        (["[10.244.0.0/24]", "[10.244.1.0/24]"], ["10.244.0.0/16"]),
        (["[10.200.0.0/24]", "[10.201.0.0/24]"], ["10.200.0.0/15"]),
        (["[10.244.0.0/24, 'fd00:10:244::/64']", "[10.244.1.0/24, 'fd00:10:244:1::/64']"], ["10.244.0.0/16", "fd00:10:244::/56"]),
        (["[192.168.0.0/26]", "[192.168.0.64/26]"], ["192.168.0.0/16"]),
    ],
)
def test_the_pod_network_covers_the_nodes(read, cidrs, network):
    found = read("".join(node(f"n{i}", f"10.0.0.{i + 1}", c) for i, c in enumerate(cidrs)))
    assert [str(p) for p in found.pod_cidrs] == network
    assert found.proxy.cluster_cidrs == found.pod_cidrs
    assert said(found, "pod network").endswith("it covers the nodes' podCIDRs")


@pytest.mark.parametrize(
    ("addresses", "fabric", "gateway"),
    [
        (["198.18.0.1", "198.18.0.2"], "198.18.0.0/24", "198.18.0.254"),
        (["198.18.0.1", "198.18.0.254"], "198.18.0.0/24", "198.18.0.253"),
        (["10.0.0.1", "10.0.3.9"], "10.0.0.0/22", "10.0.3.254"),
        (["fd00:1::1", "fd00:1::2"], "fd00:1::/64", "fd00:1::fffe"),
    ],
)
def test_the_fabric_covers_the_nodes(read, addresses, fabric, gateway):
    found = read("".join(node(f"n{i}", a, "[10.244.%d.0/24]" % i) for i, a in enumerate(addresses)))  # noqa: UP031
    assert ([str(p) for p in found.fabric.prefixes], [str(g) for g in found.fabric.gateways]) == ([fabric], [gateway])
    assert said(found, f"the nodes share one L2 segment {fabric}, gateway {gateway}, MTU 1500")


@pytest.mark.parametrize(
    ("address", "network"),
    [
        ("10.96.0.7", "10.96.0.0/12"),
        ("10.111.4.4", "10.96.0.0/12"),
        ("10.43.0.7", "10.43.0.0/16"),
        ("172.20.3.4", "172.20.0.0/16"),
    ],
)
def test_the_service_network_covers_the_cluster_ips(read, address, network):
    service = f"kind: Service\napiVersion: v1\nmetadata: {{name: s}}\nspec: {{clusterIP: {address}, ports: [{{port: 80}}]}}\n"
    assert [str(p) for p in read(service).service_cidrs] == [network]


def test_cover():
    assert str(cover([prefix("10.1.0.0/24"), prefix("10.1.5.0/24")], 32)) == "10.1.0.0/21"
    assert str(cover([ip("10.0.0.1")], 24)) == "10.0.0.0/24"
    assert str(cover([prefix("10.0.0.0/8")], 24)) == "10.0.0.0/8"


# --- what the cluster shows of its CNI and proxy -----------------------------------------------------------------------


def config_map(name, namespace, **data):
    lines = "".join(
        f"  {key.replace('_', '-')}: |\n" + "".join(f"    {x}\n" for x in text.splitlines()) for key, text in data.items()
    )
    return f"kind: ConfigMap\napiVersion: v1\nmetadata: {{name: {name}, namespace: {namespace}}}\ndata:\n{lines}---\n"


def proxy_map(text):
    return config_map("kube-proxy", "kube-system", CONF=text).replace("CONF", "config.conf")


def test_the_kube_proxy_config_map(read):
    found = read(
        proxy_map(
            "apiVersion: kubeproxy.config.k8s.io/v1alpha1\nkind: KubeProxyConfiguration\nmode: nftables\n"
            "clusterCIDR: 10.5.0.0/16,fd00:5::/56\ndetectLocalMode: NodeCIDR\nnodePortAddresses: [10.0.0.0/8]\n"
            "iptables: {masqueradeBit: 3}\n"
            "nftables: {masqueradeAll: true, masqueradeBit: 12, localhostNodePorts: null, syncPeriod: 30s}\n"
            "conntrack: {min: null}"
        )
        + POD
    )
    assert found.proxy == Proxy(
        "nftables",
        (prefix("10.5.0.0/16"), prefix("fd00:5::/56")),
        "NodeCIDR",
        12,
        True,
        True,
        (prefix("10.0.0.0/8"),),
        ref=found.proxy.ref,
    )
    assert found.proxy.ref is not None
    assert found.proxy.ref.object == "ConfigMap kube-system/kube-proxy"
    assert found.pod_cidrs == found.proxy.cluster_cidrs
    assert not [a for a in found.assumptions if "kube-proxy" in a]
    assert found.notes == ()


def test_the_kube_proxy_config_map_in_ipvs_mode(read):
    text = "mode: ipvs\nipvs: {scheduler: SCHEDULER, strictARP: true, excludeCIDRs: [10.3.0.0/16], tcpTimeout: 0s}\n"
    found = read(proxy_map(text.replace("SCHEDULER", "lc")) + POD).proxy
    assert (found.mode, found.scheduler, found.strict_arp, found.exclude_cidrs) == ("ipvs", "lc", True, (prefix("10.3.0.0/16"),))
    assert read(proxy_map(text.replace("SCHEDULER", '""')) + POD).proxy.scheduler == "rr"
    plain = read(proxy_map("mode: ipvs\nipvs: {excludeCIDRs: null}\n") + POD).proxy
    assert (plain.scheduler, plain.strict_arp, plain.exclude_cidrs) == ("rr", False, ())


def test_an_empty_mode_is_iptables(read):
    assert read(proxy_map('mode: ""\n') + POD).proxy.mode == "iptables"


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("mode: iptable\n", 'unknown mode "iptable"\n  did you mean "iptables"'),
        ("mode: [\n", "config.conf"),
        ("clusterCIDR: 10.0.0.0/8,oops\n", "clusterCIDR: not an IP address"),
        ("iptables: {masqueradeBit: x}\n", "iptables.masqueradeBit"),
        ("ipvs: {scheduler: rrr}\n", 'unknown IPVS scheduler "rrr"\n  did you mean "rr"'),
        ("ipvs: {excludeCIDRs: [x]}\n", "ipvs.excludeCIDRs: not an IP address"),
    ],
)
def test_a_bad_kube_proxy_config_map(read, text, says):
    with pytest.raises(InputError) as caught:
        read(proxy_map(text) + POD)
    assert says in str(caught.value)
    assert "ConfigMap kube-system/kube-proxy" in str(caught.value)


def test_the_flannel_config_map(read):
    found = read(
        config_map(
            "kube-flannel-cfg",
            "kube-flannel",
            CNI='{"name": "cbr0", "plugins": [{"type": "flannel", "delegate": {"hairpinMode": false}}, {"type": "portmap"}]}',
            NET='{"Network": "10.5.0.0/16", "EnableIPv6": true, "IPv6Network": "fd00:5::/56",\n'
            '"Backend": {"Type": "vxlan", "VNI": 9}}',
        )
        .replace("CNI:", "cni-conf.json:")
        .replace("NET:", "net-conf.json:")
        + POD
    )
    assert found.cni == Cni("flannel", "vxlan", 9, 8472, False)
    assert [str(p) for p in found.pod_cidrs] == ["10.5.0.0/16", "fd00:5::/56"]
    assert not [a for a in found.assumptions if a.startswith(("CNI", "pod network"))]


def daemon_set(name, namespace="kube-system"):
    return f"kind: DaemonSet\napiVersion: apps/v1\nmetadata: {{name: {name}, namespace: {namespace}}}\nspec: {{}}\n---\n"


@pytest.mark.parametrize(
    ("documents", "name", "says"),
    [
        (POD, "flannel", "CNI flannel with the VXLAN backend: the input shows no CNI plug-in"),
        (
            daemon_set("kube-flannel-ds", "kube-flannel"),
            "flannel",
            "CNI flannel, recognised by the DaemonSet kube-flannel/kube-flannel-ds",
        ),
        (daemon_set("calico-node"), "calico", "CNI calico, recognised by the DaemonSet kube-system/calico-node"),
        (daemon_set("canal"), "canal", "CNI canal, recognised by the DaemonSet kube-system/canal"),
        (daemon_set("cilium"), "cilium", "CNI cilium: netlab does not model its data plane"),
        (
            "kind: Pod\napiVersion: v1\nmetadata: {name: calico-node-x, namespace: calico-system, "
            "ownerReferences: [{kind: DaemonSet, name: calico-node, controller: true}]}\nstatus: {phase: Running}\n",
            "calico",
            "CNI calico, recognised by the DaemonSet calico-system/calico-node",
        ),
    ],
)
def test_the_cni_shows_itself(read, documents, name, says):
    found = read(documents)
    assert found.cni.name == name
    assert says in found.assumptions


# --- words ---------------------------------------------------------------------------------------------------------


def test_natural_order():
    assert sorted(["node-10", "node-2", "a"], key=natural) == ["a", "node-2", "node-10"]


def test_some():
    assert [some("abcd"[:n]) for n in (1, 2, 3, 4)] == ["a", "a and b", "a, b and c", "a, b, c and d"]
    assert some("abcdefg") == "a, b, c and 4 more"


@pytest.mark.parametrize(
    ("nodes", "says"),
    [
        (
            node("a", "10.0.2.15") + node("b", "10.0.2.15"),
            'f.yaml:7, document 2, Node b: the nodes "a" and "b" have the same address 10.0.2.15\n  a Topology can say',
        ),
        (
            node("a", cidr="[10.244.0.0/24]") + node("b", cidr="[10.244.0.0/24]"),
            'Node b: the podCIDRs of the nodes "a" and "b" overlap: 10.244.0.0/24 and 10.244.0.0/24',
        ),
        (
            node("a", cidr="[10.244.1.0/24]") + node("b") + node("c", cidr="[10.244.0.0/22]"),
            'Node a: the podCIDRs of the nodes "c" and "a" overlap: 10.244.0.0/22 and 10.244.1.0/24',
        ),
    ],
)
def test_nodes_share_neither_an_address_nor_pod_addresses(read, nodes, says):
    with pytest.raises(InputError) as caught:
        read(nodes + POD)
    assert says in str(caught.value)


def test_a_node_without_a_pod_cidr_gets_one_that_no_wider_one_holds(read):
    found = read(HEAD + "podCIDR: 10.244.0.0/16\n---\n" + node("a", cidr="[10.244.0.0/23]") + node("b") + POD)
    assert [str(p) for n in found.nodes.values() for p in n.pod_cidrs] == ["10.244.0.0/23", "10.244.2.0/24"]


@pytest.mark.parametrize(
    ("sysctls", "says"),
    [
        (
            "net.bridge.bridge-nf-call-iptabels: 0",
            'f.yaml:3, document 1, Topology, sysctls: the sysctl "net.bridge.bridge-nf-call-iptabels" is not modelled\n'
            '  did you mean "net.bridge.bridge-nf-call-iptables"?',
        ),
        ("ipv4.conf.eth0.rpfilter: 1", 'did you mean "net.ipv4.conf.eth0.rp_filter"?'),
        ("kernel.panic: 1", "those that are: net.ipv4.ip_forward, net.ipv6.conf.all.forwarding"),
    ],
)
def test_a_sysctl_that_nobody_would_look_at_is_refused(read, sysctls, says):
    with pytest.raises(InputError) as caught:
        read(HEAD + f"sysctls: {{{sysctls}}}\n---\n" + POD)
    assert says in str(caught.value)


def test_sysctls_of_devices(read):
    text = (
        HEAD
        + "sysctls: {net.ipv4.conf.eth0.5.rp_filter: 2, ipv4.conf.cni0.proxy_arp: 1, net.ipv4.conf.all.route_localnet: 0}\n---\n"
    )
    assert read(text + POD).sysctls == {
        "ipv4.conf.eth0.5.rp_filter": 2,
        "ipv4.conf.cni0.proxy_arp": 1,
        "ipv4.conf.all.route_localnet": 0,
    }
