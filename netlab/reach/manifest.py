"""Objects as the manifests that say them, as far as why.py changes them, and the difference of two such manifests in YAML.

Law: what is printed is the object after defaulting, in one style, not the user's own file; defaults are left out. Whatever an
edit can change shows as a line. Nothing is decided here.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Mapping, Sequence
from typing import Any

from netlab.kube.objects import LabelSelector, NetworkPolicy, PolicyPeer, PolicyPort, PolicyRule, Service
from netlab.kube.policies import (
    CalicoPolicy,
    CalicoRule,
    ClusterNetworkPolicy,
    ClusterPeer,
    ClusterPort,
    ClusterRule,
    EntityRule,
    NamespacedPods,
    PortRange,
)

Manifest = Mapping[str, Any]
_CALICO_PROTOCOLS = {6: "TCP", 17: "UDP", 132: "SCTP", 1: "ICMP", 58: "ICMPv6", 136: "UDPLite"}
_CONTEXT = 3  # lines around a change


# --- NetworkPolicy -------------------------------------------------------------------------------------------


def network_policy(policy: NetworkPolicy) -> dict[str, Any]:
    """A NetworkPolicy; rules of directions that it does not govern are kept."""
    spec: dict[str, Any] = {"podSelector": selector(policy.pod_selector), "policyTypes": list(policy.policy_types)}
    if policy.ingress:
        spec["ingress"] = [_rule(rule, "from") for rule in policy.ingress]
    if policy.egress:
        spec["egress"] = [_rule(rule, "to") for rule in policy.egress]
    metadata = {"name": policy.name, "namespace": policy.namespace}
    return {"apiVersion": "networking.k8s.io/v1", "kind": "NetworkPolicy", "metadata": metadata, "spec": spec}


def selector(found: LabelSelector) -> dict[str, Any]:
    """A label selector.

    >>> selector(LabelSelector({"app": "web"}, (("env", "NotIn", ("dev",)),)))
    {'matchLabels': {'app': 'web'}, 'matchExpressions': [{'key': 'env', 'operator': 'NotIn', 'values': ['dev']}]}
    """
    made: dict[str, Any] = {}
    if found.match_labels:
        made["matchLabels"] = dict(found.match_labels)
    if found.match_expressions:
        made["matchExpressions"] = [
            {"key": key, "operator": operator, **({"values": list(values)} if values else {})}
            for key, operator, values in found.match_expressions
        ]
    return made


def _rule(rule: PolicyRule, word: str) -> dict[str, Any]:
    made: dict[str, Any] = {}
    if rule.peers:
        made[word] = [_peer(peer) for peer in rule.peers]
    if rule.ports:
        made["ports"] = [_port(port) for port in rule.ports]
    return made


def _peer(peer: PolicyPeer) -> dict[str, Any]:
    if peer.ip_block is not None:
        block = peer.ip_block
        except_ = {"except": [str(net) for net in block.except_]} if block.except_ else {}
        return {"ipBlock": {"cidr": str(block.cidr), **except_}}
    made: dict[str, Any] = {}
    if peer.namespace_selector is not None:
        made["namespaceSelector"] = selector(peer.namespace_selector)
    if peer.pod_selector is not None:
        made["podSelector"] = selector(peer.pod_selector)
    return made


def _port(port: PolicyPort) -> dict[str, Any]:
    made: dict[str, Any] = {} if port.protocol == "TCP" else {"protocol": port.protocol}
    if port.port is not None:
        made["port"] = port.port
    if port.end_port is not None:
        made["endPort"] = port.end_port
    return made or {"protocol": "TCP"}


# --- policies of others --------------------------------------------------------------------------------------


def calico_policy(policy: CalicoPolicy) -> dict[str, Any]:
    """Calico's NetworkPolicy or GlobalNetworkPolicy."""
    spec: dict[str, Any] = {} if policy.tier == "default" else {"tier": policy.tier}
    if policy.order is not None:
        spec["order"] = policy.order
    if policy.selector is not None:
        spec["selector"] = str(policy.selector)
    if policy.namespace_selector is not None:
        spec["namespaceSelector"] = str(policy.namespace_selector)
    if policy.service_account_selector is not None:
        spec["serviceAccountSelector"] = str(policy.service_account_selector)
    for word, flag in (
        ("doNotTrack", policy.do_not_track),
        ("preDNAT", policy.pre_dnat),
        ("applyOnForward", policy.apply_on_forward),
    ):
        if flag:
            spec[word] = True
    spec["types"] = list(policy.types)
    for direction, rules in (("ingress", policy.ingress), ("egress", policy.egress)):
        if rules:
            spec[direction] = [_calico_rule(rule) for rule in rules]
    namespace = {"namespace": policy.namespace} if policy.namespace else {}
    metadata = {"name": policy.name, **namespace}
    return {"apiVersion": "projectcalico.org/v3", "kind": policy.kind, "metadata": metadata, "spec": spec}


def _calico_rule(rule: CalicoRule) -> dict[str, Any]:
    made: dict[str, Any] = {"action": rule.action}
    if rule.ip_version is not None:
        made["ipVersion"] = rule.ip_version
    for word, number in (("protocol", rule.protocol), ("notProtocol", rule.not_protocol)):
        if number is not None:
            made[word] = _CALICO_PROTOCOLS.get(number, number)
    for word, icmp in (("icmp", rule.icmp), ("notICMP", rule.not_icmp)):
        if icmp is not None:
            made[word] = {k: v for k, v in (("type", icmp.type), ("code", icmp.code)) if v is not None}
    for word, end in (("source", rule.source), ("destination", rule.destination)):
        if entity := _entity(end):
            made[word] = entity
    return made


def _entity(end: EntityRule) -> dict[str, Any]:
    made: dict[str, Any] = {}
    for word, nets in (("nets", end.nets), ("notNets", end.not_nets)):
        if nets:
            made[word] = [str(net) for net in nets]
    chosen = (
        ("selector", end.selector),
        ("notSelector", end.not_selector),
        ("namespaceSelector", end.namespace_selector),
    )
    for word, found in chosen:
        if found is not None:
            made[word] = str(found)
    for word, ports in (("ports", end.ports), ("notPorts", end.not_ports)):
        if ports:
            made[word] = [port if isinstance(port, str) else _number(str(port)) for port in ports]
    if end.service:
        namespace, _, name = end.service.partition("/")
        made["services"] = {"name": name, "namespace": namespace}
    if end.service_account_names or end.service_account_selector is not None:
        accounts: dict[str, Any] = {"names": list(end.service_account_names)} if end.service_account_names else {}
        if end.service_account_selector is not None:
            accounts["selector"] = str(end.service_account_selector)
        made["serviceAccounts"] = accounts
    return made


def _number(port: str) -> int | str:
    return int(port) if port.isdigit() else port.replace("-", ":")


def cluster_policy(policy: ClusterNetworkPolicy) -> dict[str, Any]:
    """A ClusterNetworkPolicy (v1alpha2), or its ancestors AdminNetworkPolicy and BaselineAdminNetworkPolicy (v1alpha1)."""
    old = policy.kind != "ClusterNetworkPolicy"
    spec: dict[str, Any] = {} if old else {"tier": policy.tier}
    if policy.kind != "BaselineAdminNetworkPolicy":
        spec["priority"] = policy.priority
    spec["subject"] = _namespaced(policy.subject)
    for direction, word, rules in (("ingress", "from", policy.ingress), ("egress", "to", policy.egress)):
        if rules:
            spec[direction] = [_cluster_rule(rule, word, old) for rule in rules]
    version = f"policy.networking.k8s.io/v1alpha{1 if old else 2}"
    return {"apiVersion": version, "kind": policy.kind, "metadata": {"name": policy.name}, "spec": spec}


def _namespaced(found: NamespacedPods) -> dict[str, Any]:
    if found.pods is None:
        return {"namespaces": selector(found.namespaces)}
    return {"pods": {"namespaceSelector": selector(found.namespaces), "podSelector": selector(found.pods)}}


def _cluster_rule(rule: ClusterRule, word: str, old: bool) -> dict[str, Any]:
    made: dict[str, Any] = {"name": rule.name} if rule.name else {}
    made["action"] = "Allow" if old and rule.action == "Accept" else rule.action
    made[word] = [_cluster_peer(peer) for peer in rule.peers]
    if rule.ports is not None:
        made["ports" if old else "protocols"] = [_admin_port(port) if old else _protocol(port) for port in rule.ports]
    return made


def _cluster_peer(peer: ClusterPeer) -> dict[str, Any]:
    if peer.pods is not None:
        return _namespaced(peer.pods)
    if peer.nodes is not None:
        return {"nodes": selector(peer.nodes)}
    if peer.networks:
        return {"networks": [str(net) for net in peer.networks]}
    return {"domainNames": list(peer.domain_names)} if peer.domain_names else {}


def _protocol(port: ClusterPort) -> dict[str, Any]:
    """`{tcp: {destinationPort: {number: 80}}}`."""
    if isinstance(port.port, str):
        return {"destinationNamedPort": port.port}
    if port.port is None:
        return {port.protocol.lower(): {}}
    return {port.protocol.lower(): {"destinationPort": _numbers(port.port, "number")}}


def _admin_port(port: ClusterPort) -> dict[str, Any]:
    """`{portNumber: {port: 80, protocol: TCP}}`."""
    if isinstance(port.port, str):
        return {"namedPort": port.port}
    protocol = {"protocol": port.protocol}
    if port.port is None:
        return {"portRange": {"start": 1, "end": 65535, **protocol}}
    if port.port.first == port.port.last:
        return {"portNumber": {"port": port.port.first, **protocol}}
    return {"portRange": {"start": port.port.first, "end": port.port.last, **protocol}}


def _numbers(ports: PortRange, one: str) -> dict[str, Any]:
    if ports.first == ports.last:
        return {one: ports.first}
    return {"range": {"start": ports.first, "end": ports.last}}


# --- services and labels -------------------------------------------------------------------------------------


def service(found: Service) -> dict[str, Any]:
    """A Service, as far as it decides who answers."""
    spec: dict[str, Any] = {"type": found.type}
    for word, policy in (
        ("externalTrafficPolicy", found.external_traffic_policy),
        ("internalTrafficPolicy", found.internal_traffic_policy),
    ):
        if policy != "Cluster":
            spec[word] = policy
    if found.load_balancer_source_ranges:
        spec["loadBalancerSourceRanges"] = [str(net) for net in found.load_balancer_source_ranges]
    if found.publish_not_ready_addresses:
        spec["publishNotReadyAddresses"] = True
    spec["selector"] = dict(found.selector)
    spec["ports"] = []
    for port in found.ports:
        made: dict[str, Any] = {"name": port.name} if port.name else {}
        made["port"] = port.port
        if port.protocol != "TCP":
            made["protocol"] = port.protocol
        if port.target_port != port.port:
            made["targetPort"] = port.target_port
        if port.node_port is not None:
            made["nodePort"] = port.node_port
        spec["ports"].append(made)
    metadata = {"name": found.name, "namespace": found.namespace}
    return {"apiVersion": "v1", "kind": "Service", "metadata": metadata, "spec": spec}


def labels(kind: str, name: str, namespace: str, found: Mapping[str, str]) -> dict[str, Any]:
    """The labels of an object; of the pods that a workload makes those of its template."""
    metadata = {"name": name, **({"namespace": namespace} if namespace else {})}
    shown = dict(sorted(found.items()))
    if kind in ("Pod", "Namespace"):
        return {"kind": kind, "metadata": {**metadata, "labels": shown}}
    return {"kind": kind, "metadata": metadata, "spec": {"template": {"metadata": {"labels": shown}}}}


# --- differences ---------------------------------------------------------------------------------------------


def lines(manifest: Manifest) -> list[str]:
    """A manifest as lines of YAML, small maps and lists in one line, but labels one below the other."""
    import yaml

    class Dumper(yaml.SafeDumper):
        """Labels as a block: a label more is a line more."""

    def labels_block(dumper: yaml.SafeDumper, data: _Labels) -> yaml.Node:
        return dumper.represent_mapping("tag:yaml.org,2002:map", data.items(), flow_style=False)

    def text_kept(dumper: yaml.SafeDumper, data: str) -> yaml.Node:
        return dumper.represent_scalar("tag:yaml.org,2002:str", data, style="'" if _is_something_else(data) else None)

    Dumper.add_representer(_Labels, labels_block)
    Dumper.add_representer(str, text_kept)
    text = yaml.dump(
        _marked(manifest), Dumper=Dumper, sort_keys=False, default_flow_style=None, width=1 << 20, allow_unicode=True
    )
    return str(text).splitlines()


def _is_something_else(text: str) -> bool:
    """Whether kubectl's YAML reads a plain text as no text, where PyYAML does not: `y`, `n`, `1e3`, `0o17`.

    >>> [_is_something_else(text) for text in ("y", "1e3", "0o17", "yellow", "10.0.0.0/8")]
    [True, True, True, False, False]
    """
    if text.lower() in ("y", "n"):
        return True
    try:
        float(text)
    except ValueError:
        return bool(re.fullmatch(r"[+-]?0[xob][0-9a-fA-F_]+", text))
    return True


class _Labels(dict[str, str]):
    """A map that is printed as a block."""


def _marked(value: Any, key: str = "") -> Any:
    if isinstance(value, Mapping):
        made = {k: _marked(v, k) for k, v in value.items()}
        return _Labels(made) if (key in ("labels", "matchLabels") and len(made) > 1) or (key == "labels" and made) else made
    return [_marked(v) for v in value] if isinstance(value, list) else value


def difference(before: Manifest | None, after: Manifest | None) -> tuple[str, int]:
    """Two manifests compared: their difference as text, and how many lines were touched.

    A new object is its own YAML, without marks; one that is deleted shows nothing, and counts with all its lines.
    """
    old, new = (lines(m) if m is not None else [] for m in (before, after))
    if before is None or after is None:
        return "\n".join(new), len(old or new)
    opcodes = difflib.SequenceMatcher(None, old, new, autojunk=False).get_opcodes()
    touched = sum(max(b - a, d - c) for tag, a, b, c, d in opcodes if tag != "equal")
    return "\n".join(_shown(old, new)), touched


def _shown(old: Sequence[str], new: Sequence[str]) -> list[str]:
    shown: list[str] = []
    for line in difflib.unified_diff(old, new, n=_CONTEXT, lineterm=""):
        if line.startswith(("---", "+++")):
            continue
        if line.startswith("@@"):
            shown += ["  ..."] if shown else []
            continue
        shown.append(f"{line[0]} {line[1:]}")
    return shown
