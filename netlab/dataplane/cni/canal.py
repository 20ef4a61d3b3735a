"""Canal: flannel between the nodes, Calico's veths and Felix's rules on them; no BGP, no pools, no bridge.

    pod eth0 ---veth--- caliXXXXXXXXXXX --route--> flannel.1 ==VXLAN, UDP 8472==> eth0 of another node

Law: flannel.py and calico.py, each for its half; addresses come from the nodes' podCIDRs (host-local), Felix knows no pool and
so masquerades nothing: flanneld does. Source: projectcalico/calico manifests/canal.yaml.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache, partial

import msgspec

from netlab.dataplane.cni import calico, flannel
from netlab.dataplane.cni.felix import Felix, add_rules
from netlab.dataplane.cni.felix_policy import SET_OPTIONS, FelixPolicies
from netlab.dataplane.cni.wiring import Plugin, Wiring
from netlab.kube.cluster import Cluster
from netlab.kube.objects import Node, Pod
from netlab.linux.addr import Ip, ip
from netlab.linux.rules import Ruleset
from netlab.linux.sets import IpSet

_SETS = {name: IpSet(name, "hash:net", 4, (), SET_OPTIONS) for name in ("cali40all-ipam-pools", "cali40masq-ipam-pools")}


def plugin(cluster: Cluster) -> Plugin:
    """Canal in one cluster."""
    leases = flannel.leases(cluster)
    mtu = flannel.pod_mtu(cluster)
    policies_of = cache(partial(FelixPolicies, cluster))  # made when a node is looked at

    def interfaces(node: Node) -> dict[str, tuple[Ip, ...]]:
        tunnels = flannel.tunnels(cluster, node, leases, 3).devices
        found = {device.name: tuple(a.ip for a in device.addresses) for device in tunnels}
        return {"lo": (ip("127.0.0.1"), ip("::1")), cluster.fabric.device: node.internal_ips, **found}

    def on_node(node: Node, pods: Sequence[Pod], first_index: int) -> Wiring:
        outer, policies = flannel.tunnels(cluster, node, leases, first_index), policies_of()
        inner = calico.veths(cluster, pods, first_index + len(outer.devices), mtu)
        return msgspec.structs.replace(
            outer,
            devices=(*outer.devices, *inner.devices),
            routes=(*outer.routes, *inner.routes),
            sets={
                **_SETS,
                **calico.policy_sets(policies, pods, (4,)),
                **calico.host_sets(cluster, policies, node.name, interfaces(node), (4,)),
            },
            sysctls=inner.sysctls,
        )

    def in_pod(node: Node, pod: Pod, host_index: int) -> Wiring:
        return calico.in_pod(pod, node, host_index, mtu)

    def rules(ruleset: Ruleset, node: Node, pods: Sequence[Pod], family: int) -> Ruleset:
        with_flannel = flannel.add_rules(ruleset, cluster, node, family)
        if family == 6:
            return with_flannel  # FELIX_IPV6SUPPORT is false in the manifest
        policies = policies_of()
        endpoints = tuple(calico.endpoint_of(policies, pod, 4) for pod in pods)
        hosts = policies.hosts(node.name, interfaces(node), 4)
        felix = Felix(
            4,
            endpoints,
            hosts=hosts,
            ipvs=cluster.proxy.mode == "ipvs",
            options=cluster.calico.felix_of(node.name),
            shared=partial(policies.shared, 4),
            profiles=policies.profiles(hosts, 4)[0],
        )
        return add_rules(with_flannel, felix)

    def assumed(node: Node, pods: Sequence[Pod]) -> list[str]:
        return [*flannel.stray_pods(cluster, node, pods), *flannel.missing(cluster, node, leases)]

    beside = (*calico.beside(cluster), *flannel.not_modelled(cluster))
    return Plugin(on_node, in_pod, rules, assumptions=assumed, not_modelled=beside)
