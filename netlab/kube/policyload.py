"""From documents to network policies: NetworkPolicy, Calico's policies and what they refer to, ClusterNetworkPolicy and kin.

Law: what the API server refuses is refused here, in its words, with file:line (kubernetes
pkg/apis/networking/validation/validation.go; the CRDs of network-policy-api; projectcalico/calico
libcalico-go/lib/validator/v3). Defaults are applied as it applies them. Nothing is evaluated here.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Sequence
from typing import Any, TypeAlias

import msgspec

from netlab.errors import InputError, did_you_mean
from netlab.kube import objects as o
from netlab.kube import policies as p
from netlab.kube import policywire as w
from netlab.kube.calico_selector import Selector, SelectorError, parse
from netlab.kube.declared import Declared
from netlab.kube.documents import At, Document
from netlab.kube.objects import LabelSelector
from netlab.kube.reading import begin, selector
from netlab.kube.selectors import label_key_error, label_value_error, subdomain_error
from netlab.kube.wire import Any_
from netlab.linux.addr import Prefix, prefix

PROTOCOLS = ("TCP", "UDP", "SCTP")
_DIRECTIONS = ("Ingress", "Egress")

Reader: TypeAlias = Callable[[Declared, Document, str], None]


def refuse_version(document: Document) -> None:
    """Refuse a policy whose apiVersion no API server serves any more: passing over it would change who reaches whom."""
    known = [version for kind, version in POLICY_READERS if kind == document.kind]
    groups = {version.partition("/")[0] for version in known} | ({"extensions"} if document.kind == "NetworkPolicy" else set())
    group, grouped, _ = document.api_version.partition("/")
    if known and document.kind.endswith("Policy") and (group in groups or not grouped):
        raise InputError(
            f'no matches for kind "{document.kind}" in version "{document.api_version}"',
            document.ref(document.title(), "apiVersion"),
            f"write apiVersion: {known[0]}",
        )


# --- what the readers share ----------------------------------------------------------------------------------


def _meta_errors(at: At, name: str, labels: dict[str, str]) -> None:
    """ValidateObjectMeta, as far as names and labels go."""
    if why := subdomain_error(name):
        raise at.error(f'Invalid value: "{name}": {why}', "metadata.name")
    for key, value in labels.items():
        if why := label_key_error(key):
            raise at.error(f'Invalid value: "{key}": {why}', "metadata.labels")
        if why := label_value_error(value):
            raise at.error(f'Invalid value: "{value}": {why}', f"metadata.labels['{key}']")


def _labels(found: Any, at: At, path: str) -> LabelSelector:
    return selector(found, at, path, syntax=True)


def _supported(at: At, value: str, known: Collection[str], path: str) -> str:
    """field.NotSupported."""
    if value not in known:
        listed = ", ".join(f'"{k}"' for k in known)
        near = [k for k in known if k.lower() == value.lower()]
        hint = f'did you mean "{near[0]}"?' if near else did_you_mean(value, known)
        raise at.error(f'Unsupported value: "{value}": supported values: {listed}', path, hint)
    return value


def _port_number(at: At, value: int, path: str) -> int:
    if not 1 <= value <= 65535:
        raise at.error(f"Invalid value: {value}: must be between 1 and 65535, inclusive", path)
    return value


def _port_name(at: At, name: str, path: str) -> str:
    """IsValidPortName (k8s.io/apimachinery/pkg/util/validation): an IANA service name, RFC 6335."""
    why = ""
    if len(name) > 15:
        why = "must be no more than 15 characters"
    elif not re.fullmatch(r"[-a-z0-9]+", name):
        why = "must contain only alpha-numeric characters (a-z, 0-9), and hyphens (-)"
    elif not re.search(r"[a-z]", name):
        why = "must contain at least one letter (a-z)"
    elif "--" in name:
        why = "must not contain consecutive hyphens"
    elif name[0] == "-" or name[-1] == "-":
        why = "must not begin or end with a hyphen"
    if why:
        hint = f"in quotes it is the name of a port; write it without quotes: {name}" if name.isdigit() else None
        raise at.error(f'Invalid value: "{name}": {why}', path, hint)
    return name


def _cidr(at: At, text: str, path: str, bare: bool = False) -> Prefix:
    """A CIDR, its host bits cleared; `bare`: an address alone will do. Go's ParseCIDRSloppy takes leading zeros as decimal."""
    try:
        if "/" not in text and not bare:
            raise ValueError(text)
        host, slash, length = text.partition("/")
        if ":" not in host:
            host = re.sub(r"\b0+(?=\d)", "", host)
        return prefix(host + slash + length)
    except ValueError:
        what = 'must be a valid CIDR value, (e.g. 10.9.8.0/24 or "2001:db8::/64")'
        raise at.error(f'Invalid value: "{text}": {what}', path) from None


# --- NetworkPolicy -------------------------------------------------------------------------------------------


def _network_policy(declared: Declared, document: Document, namespace: str) -> None:
    body = document.decode(w.NetworkPolicy)
    at, common = begin(document, body, namespace, declared.policies)
    _meta_errors(at, common["name"], common["labels"])
    spec = body.spec or w.NetworkPolicySpec()
    ingress = tuple(_rule(r.from_, r.ports, at, f"spec.ingress[{i}]", "from") for i, r in enumerate(spec.ingress or ()))
    egress = tuple(_rule(r.to, r.ports, at, f"spec.egress[{i}]", "to") for i, r in enumerate(spec.egress or ()))
    # pkg/apis/networking/v1/defaults.go: Ingress always, Egress where there is an egress rule
    types = spec.policy_types or (["Ingress", "Egress"] if egress else ["Ingress"])
    if len(types) > 2:
        raise at.error("Invalid value: may not specify more than two policyTypes", "spec.policyTypes")
    for i, name in enumerate(types):
        _supported(at, name, ("Egress", "Ingress"), f"spec.policyTypes[{i}]")
    policy = o.NetworkPolicy(
        **common,
        pod_selector=_labels(spec.pod_selector, at, "spec.podSelector"),
        policy_types=tuple(t for t in _DIRECTIONS if t in types),
        ingress=ingress,
        egress=egress,
    )
    declared.policies[policy.key] = policy


def _rule(peers: list[w.PolicyPeer] | None, ports: list[w.PolicyPort] | None, at: At, path: str, field: str) -> o.PolicyRule:
    return o.PolicyRule(
        peers=tuple(_peer(peer, at, f"{path}.{field}[{i}]") for i, peer in enumerate(peers or ())),
        ports=tuple(_port(port, at, f"{path}.ports[{i}]") for i, port in enumerate(ports or ())),
        ref=at.at(path),
    )


def _peer(peer: w.PolicyPeer, at: At, path: str) -> o.PolicyPeer:
    selects = peer.pod_selector is not None or peer.namespace_selector is not None
    if peer.ip_block is None and not selects:
        raise at.error(
            "Required value: must specify a peer", path, "to mean everybody leave the list of peers out, or write podSelector: {}"
        )
    if peer.ip_block is not None and selects:
        raise at.error(
            "Forbidden: may not specify both ipBlock and another peer", path, "write the selectors as a peer of their own"
        )
    return o.PolicyPeer(
        pod_selector=None if peer.pod_selector is None else _labels(peer.pod_selector, at, f"{path}.podSelector"),
        namespace_selector=None
        if peer.namespace_selector is None
        else _labels(peer.namespace_selector, at, f"{path}.namespaceSelector"),
        ip_block=None if peer.ip_block is None else _ip_block(peer.ip_block, at, f"{path}.ipBlock"),
        ref=at.at(path),
    )


def _ip_block(block: w.IPBlock, at: At, path: str) -> o.IPBlock:
    if not block.cidr:
        raise at.error("Required value", f"{path}.cidr")
    cidr = _cidr(at, block.cidr, f"{path}.cidr")
    inside = []
    for i, text in enumerate(block.except_ or ()):
        inner = _cidr(at, text, f"{path}.except[{i}]")
        if inner.address not in cidr or inner.length <= cidr.length:
            raise at.error(f'Invalid value: "{text}": must be a strict subset of `cidr`', f"{path}.except[{i}]")
        inside.append(inner)
    return o.IPBlock(cidr, tuple(inside))


def _port(port: w.PolicyPort, at: At, path: str) -> o.PolicyPort:
    protocol = _supported(at, port.protocol, PROTOCOLS, f"{path}.protocol") if port.protocol is not None else "TCP"
    end = port.end_port
    if port.port is None:
        if end is not None:
            raise at.error(f"Invalid value: {end}: may not be specified when `port` is not specified", f"{path}.endPort")
    elif isinstance(port.port, str):
        if end is not None:
            raise at.error(f"Invalid value: {end}: may not be specified when `port` is non-numeric", f"{path}.endPort")
        _port_name(at, port.port, f"{path}.port")
    else:
        _port_number(at, port.port, f"{path}.port")
        if end is not None:
            if end < port.port:
                raise at.error(f"Invalid value: {end}: must be greater than or equal to `port`", f"{path}.endPort")
            _port_number(at, end, f"{path}.endPort")
    return o.PolicyPort(protocol, port.port, end)


# --- Calico --------------------------------------------------------------------------------------------------

# numorstring.Protocol: the names that Calico knows
_CALICO_PROTOCOLS = {"TCP": 6, "UDP": 17, "ICMP": 1, "ICMPv6": 58, "SCTP": 132, "UDPLite": 136}
_WITH_PORTS = (6, 17, 132)
_ACTIONS = ("Allow", "Deny", "Log", "Pass")


def _calico_selector(text: str | None, at: At, path: str, may_be_global: bool = False) -> Selector | None:
    """A selector; absent and empty are None. global() is for namespaceSelector alone."""
    if not text or not text.strip():
        return None
    try:
        found = parse(text)
    except SelectorError as error:
        raise at.error(f'Invalid value: "{text}": invalid selector: {error}', path) from None
    if not may_be_global and "global(" in text:
        raise at.error("global() can only be used in an EntityRule namespaceSelector", path)
    return found


def _calico_policy(declared: Declared, document: Document, namespace: str) -> None:
    body = document.decode(w.CalicoPolicy)
    everywhere = document.kind.endswith("GlobalNetworkPolicy")
    at, common = begin(document, body, None if everywhere else namespace, None)
    kind = document.kind
    key = f"{kind}/{common['namespace']}/{common['name']}" if common["namespace"] else f"{kind}/{common['name']}"
    if key in declared.calico_policies:
        raise InputError("the same object twice", at.ref, f"it stands first in {declared.calico_policies[key].ref}")
    spec = body.spec or w.CalicoPolicySpec()
    if not everywhere:
        for value, field in (
            (spec.namespace_selector, "namespaceSelector"),
            (spec.do_not_track, "doNotTrack"),
            (spec.pre_dnat, "preDNAT"),
            (spec.apply_on_forward, "applyOnForward"),
        ):
            if value is not None:
                raise at.error(f'unknown field "{field}"', f"spec.{field}", "only a GlobalNetworkPolicy has it")
    ingress = tuple(_calico_rule(r, at, f"spec.ingress[{i}]", not everywhere) for i, r in enumerate(spec.ingress or ()))
    egress = tuple(_calico_rule(r, at, f"spec.egress[{i}]", not everywhere) for i, r in enumerate(spec.egress or ()))
    # api/pkg/defaults/networkpolicy.go: none and no rules is Ingress; else the directions that have rules
    written = [d for d, rules in zip(_DIRECTIONS, (ingress, egress), strict=True) if rules]
    types: Sequence[str] = spec.types or written or ["Ingress"]
    for i, name in enumerate(types):
        _supported(at, name, _DIRECTIONS, f"spec.types[{i}]")
    if spec.pre_dnat and spec.do_not_track:
        raise at.error("PreDNAT and DoNotTrack cannot both be true, for a given policy", "spec.preDNAT")
    if spec.pre_dnat and (egress or "Egress" in types):
        raise at.error("PreDNAT GlobalNetworkPolicy cannot have egress rules", "spec.preDNAT")
    if (spec.pre_dnat or spec.do_not_track) and not spec.apply_on_forward:
        raise at.error("ApplyOnForward must be true if either PreDNAT or DoNotTrack is true", "spec.applyOnForward")
    declared.calico_policies[key] = p.CalicoPolicy(
        **common,
        kind=kind,
        tier=spec.tier or "default",
        order=spec.order,
        selector=_calico_selector(spec.selector, at, "spec.selector"),
        namespace_selector=_calico_selector(spec.namespace_selector, at, "spec.namespaceSelector"),
        service_account_selector=_calico_selector(spec.service_account_selector, at, "spec.serviceAccountSelector"),
        types=tuple(d for d in _DIRECTIONS if d in types),
        ingress=ingress,
        egress=egress,
        staged=kind.startswith("Staged"),
        do_not_track=bool(spec.do_not_track),
        pre_dnat=bool(spec.pre_dnat),
        apply_on_forward=bool(spec.apply_on_forward),
    )


def _calico_rule(rule: w.CalicoRule, at: At, path: str, namespaced: bool) -> p.CalicoRule:
    _supported(at, rule.action, _ACTIONS, f"{path}.action")
    protocol = _calico_protocol(rule.protocol, at, f"{path}.protocol")
    not_protocol = _calico_protocol(rule.not_protocol, at, f"{path}.notProtocol")
    if rule.ip_version not in (None, 4, 6):
        raise at.error(f"Unsupported value: {rule.ip_version}: supported values: 4, 6", f"{path}.ipVersion")
    for number in (protocol, not_protocol):
        if (number == 1 and rule.ip_version == 6) or (number == 58 and rule.ip_version == 4):
            name, version = ("ICMP", 4) if number == 1 else ("ICMPv6", 6)
            raise at.error(f"protocol {name} requires ipVersion {version}", path)
    for found, field in ((rule.icmp, "icmp"), (rule.not_icmp, "notICMP")):
        if found is None:
            continue
        if protocol not in (1, 58):
            raise at.error("ICMP fields require protocol to be ICMP or ICMPv6", f"{path}.{field}")
        if found.code is not None and found.type is None:
            raise at.error("ICMP code specified without an ICMP type", f"{path}.{field}")
    if rule.http is not None and rule.action != "Allow":
        raise at.error("HTTP match is only valid on Allow rules", f"{path}.http")
    ends = [
        _entity(end or w.EntityRule(), at, f"{path}.{field}", protocol, namespaced)
        for end, field in ((rule.source, "source"), (rule.destination, "destination"))
    ]
    return p.CalicoRule(
        action=rule.action,
        ip_version=rule.ip_version,
        protocol=protocol,
        not_protocol=not_protocol,
        icmp=None if rule.icmp is None else p.IcmpMatch(rule.icmp.type, rule.icmp.code),
        not_icmp=None if rule.not_icmp is None else p.IcmpMatch(rule.not_icmp.type, rule.not_icmp.code),
        source=ends[0],
        destination=ends[1],
        http=rule.http is not None,
        http_text="" if rule.http is None else msgspec.json.encode(rule.http, order="deterministic").decode(),
        ref=at.at(path),
    )


def _calico_protocol(value: int | str | None, at: At, path: str) -> int | None:
    if value is None:
        return None
    if isinstance(value, str) and not value.isdigit():
        return _CALICO_PROTOCOLS[_supported(at, value, _CALICO_PROTOCOLS, path)]
    if not 1 <= int(value) <= 255:
        raise at.error(f"Invalid value: {value}: a protocol is a name or a number from 1 to 255", path)
    return int(value)


def _entity(end: w.EntityRule, at: At, path: str, protocol: int | None, namespaced: bool) -> p.EntityRule:
    ports = tuple(_calico_port(v, at, f"{path}.ports[{i}]") for i, v in enumerate(end.ports or ()))
    not_ports = tuple(_calico_port(v, at, f"{path}.notPorts[{i}]") for i, v in enumerate(end.not_ports or ()))
    if (ports or not_ports) and protocol not in _WITH_PORTS:
        field = "ports" if ports else "notPorts"
        raise at.error("rules that specify ports must set protocol to TCP or UDP or SCTP", f"{path}.{field}")
    service = ""
    if end.services is not None:
        if not end.services.name:
            raise at.error("services must specify a service name", f"{path}.services")
        for given, words in (
            (end.selector or end.not_selector, "Selector/NotSelector"),
            (end.namespace_selector, "NamespaceSelector"),
            (end.nets or end.not_nets, "Nets/NotNets"),
            (end.service_accounts, "ServiceAccounts"),
        ):
            if given:
                raise at.error(f"cannot specify {words} and Services on the same rule", f"{path}.services")
        if (ports or not_ports) and path.endswith("destination"):
            raise at.error("ports and notPorts cannot be specified with services", f"{path}.services")
        if not end.services.namespace and not namespaced:
            raise at.error("services must specify a namespace", f"{path}.services")
        service = f"{end.services.namespace or at.tree['metadata'].get('namespace') or 'default'}/{end.services.name}"
    accounts = end.service_accounts or w.ServiceAccountMatch()
    return p.EntityRule(
        nets=tuple(_cidr(at, text, f"{path}.nets[{i}]", bare=True) for i, text in enumerate(end.nets or ())),
        not_nets=tuple(_cidr(at, text, f"{path}.notNets[{i}]", bare=True) for i, text in enumerate(end.not_nets or ())),
        selector=_calico_selector(end.selector, at, f"{path}.selector"),
        not_selector=_calico_selector(end.not_selector, at, f"{path}.notSelector"),
        namespace_selector=_calico_selector(end.namespace_selector, at, f"{path}.namespaceSelector", True),
        ports=ports,
        not_ports=not_ports,
        service=service,
        service_account_names=tuple(accounts.names or ()),
        service_account_selector=_calico_selector(accounts.selector, at, f"{path}.serviceAccounts.selector"),
    )


def _calico_port(value: int | str, at: At, path: str) -> p.PortRange | str:
    """A number, "80:90" or a name (api/pkg/lib/numorstring/port.go); 0 is a port there."""
    if isinstance(value, str):
        found = re.fullmatch(r"(\d+)(?::(\d+))?", value)
        if not found:
            if not re.fullmatch(r"[A-Za-z0-9_.-]{1,128}", value):
                raise at.error(f'Invalid value: "{value}": not a port, a range of ports or the name of a port', path)
            return value
        first, last = int(found[1]), int(found[2] or found[1])
    else:
        first = last = value
    if last > 65535 or first < 0:
        raise at.error(f"Invalid value: {value}: port number must be between 0 and 65535", path)
    if first > last:
        raise at.error(f'Invalid value: "{value}": minimum port is greater than the maximum port', path)
    return p.PortRange(first, last)


def _tier(declared: Declared, document: Document, namespace: str) -> None:
    body = document.decode(w.Tier)
    at, common = begin(document, body, None, declared.tiers)
    spec = body.spec or w.TierSpec()
    action = _supported(at, spec.default_action or "Deny", ("Pass", "Deny"), "spec.defaultAction")
    declared.tiers[common["name"]] = p.Tier(**common, order=spec.order, default_action=action)


def _network_set(declared: Declared, document: Document, namespace: str) -> None:
    body = document.decode(w.NetworkSet)
    everywhere = document.kind == "GlobalNetworkSet"
    at, common = begin(document, body, None if everywhere else namespace, declared.network_sets)
    nets = (body.spec or w.NetworkSetSpec()).nets or ()
    found = p.NetworkSet(**common, nets=tuple(_cidr(at, t, f"spec.nets[{i}]", bare=True) for i, t in enumerate(nets)))
    declared.network_sets[found.key] = found


def _host_endpoint(declared: Declared, document: Document, namespace: str) -> None:
    body = document.decode(w.HostEndpoint)
    at, common = begin(document, body, None, declared.host_endpoints)
    spec = body.spec or w.HostEndpointSpec()
    if not spec.node:
        raise at.error("no node is specified", "spec.node")
    if not spec.interface_name and not spec.expected_ips:
        raise at.error("no interface or expected IPs have been specified", "spec")
    declared.host_endpoints[common["name"]] = p.HostEndpoint(
        **common,
        node=spec.node,
        interface_name=spec.interface_name or "",
        expected_ips=tuple(at.ip(t, f"spec.expectedIPs[{i}]") for i, t in enumerate(spec.expected_ips or ())),
        profiles=tuple(spec.profiles or ()),
        ports=tuple(
            (q.name, _calico_protocol(q.protocol, at, f"spec.ports[{i}].protocol") or 6, q.port)
            for i, q in enumerate(spec.ports or ())
        ),
    )


def _profile(declared: Declared, document: Document, namespace: str) -> None:
    body = document.decode(w.Profile)
    at, common = begin(document, body, None, declared.profiles)
    spec = body.spec or w.ProfileSpec()
    declared.profiles[common["name"]] = p.Profile(
        **common,
        labels_to_apply=spec.labels_to_apply or {},
        ingress=tuple(_calico_rule(r, at, f"spec.ingress[{i}]", False) for i, r in enumerate(spec.ingress or ())),
        egress=tuple(_calico_rule(r, at, f"spec.egress[{i}]", False) for i, r in enumerate(spec.egress or ())),
    )


def _service_account(declared: Declared, document: Document, namespace: str) -> None:
    body = document.decode(Any_)
    _, common = begin(document, body, namespace, declared.service_accounts)
    found = p.ServiceAccount(**common)
    declared.service_accounts[found.key] = found


# --- ClusterNetworkPolicy and its ancestors ------------------------------------------------------------------


def _cluster_policy(declared: Declared, document: Document, namespace: str) -> None:
    """ClusterNetworkPolicy (v1alpha2), and AdminNetworkPolicy and BaselineAdminNetworkPolicy (v1alpha1), which it replaces."""
    kind = document.kind
    old = kind != "ClusterNetworkPolicy"
    body = document.decode(w.ClusterNetworkPolicy)
    at, common = begin(document, body, None, None)
    key = f"{kind}/{common['name']}"
    if key in declared.cluster_policies:
        raise InputError("the same object twice", at.ref, f"it stands first in {declared.cluster_policies[key].ref}")
    spec = body.spec or w.ClusterPolicySpec()
    if old and spec.tier is not None:
        raise at.error('unknown field "tier"', "spec.tier", f"{kind} has its tier by its kind")
    if kind == "BaselineAdminNetworkPolicy":
        if common["name"] != "default":
            raise at.error(
                'Invalid value: "Only one baseline admin network policy with metadata.name=\\"default\\" can be created '
                'in the cluster"',
                "metadata.name",
            )
        if spec.priority is not None:
            raise at.error('unknown field "priority"', "spec.priority", "there is only one BaselineAdminNetworkPolicy")
    elif spec.priority is None:
        raise at.error("Required value", "spec.priority")
    elif not 0 <= spec.priority <= 1000:
        raise at.error(f"Invalid value: {spec.priority}: should be between 0 and 1000", "spec.priority")
    tier = {"AdminNetworkPolicy": "Admin", "BaselineAdminNetworkPolicy": "Baseline"}.get(kind) or spec.tier
    if tier is None:
        raise at.error("Required value", "spec.tier")
    _supported(at, tier, ("Admin", "Baseline"), "spec.tier")
    actions = ["Allow" if old else "Accept", "Deny", *(["Pass"] if kind != "BaselineAdminNetworkPolicy" else [])]
    declared.cluster_policies[key] = p.ClusterNetworkPolicy(
        **common,
        kind=kind,
        tier=tier,
        priority=spec.priority or 0,
        subject=_subject(spec.subject, at),
        ingress=_cluster_rules(spec.ingress, at, "ingress", old, actions),
        egress=_cluster_rules(spec.egress, at, "egress", old, actions),
    )


def _one_of(given: Sequence[str], at: At, path: str) -> str:
    """MinProperties 1, MaxProperties 1."""
    if len(given) == 1:
        return given[0]
    if not given:
        raise at.error("Invalid value: should have at least 1 properties", path)
    raise at.error(f"Too many: {len(given)}: must have at most 1 properties: {', '.join(given)}", path)


def _set(**fields: object) -> list[str]:
    return [name for name, value in fields.items() if value is not None]


def _subject(subject: w.Subject | None, at: At) -> p.NamespacedPods:
    if subject is None:
        raise at.error("Required value", "spec.subject")
    if _one_of(_set(namespaces=subject.namespaces, pods=subject.pods), at, "spec.subject") == "namespaces":
        return p.NamespacedPods(_labels(subject.namespaces, at, "spec.subject.namespaces"))
    assert subject.pods is not None
    return _namespaced(subject.pods, at, "spec.subject.pods")


def _namespaced(found: w.NamespacedPod, at: At, path: str) -> p.NamespacedPods:
    if found.pod_selector is None:
        raise at.error("Required value", f"{path}.podSelector")
    return p.NamespacedPods(
        _labels(found.namespace_selector, at, f"{path}.namespaceSelector"), _labels(found.pod_selector, at, f"{path}.podSelector")
    )


def _cluster_rules(
    rules: list[w.ClusterRule] | None, at: At, direction: str, old: bool, actions: Sequence[str]
) -> tuple[p.ClusterRule, ...]:
    limit = 100 if old else 25
    _at_most(rules, limit, at, f"spec.{direction}")
    field, other = ("from", "to") if direction == "ingress" else ("to", "from")
    found = []
    for i, rule in enumerate(rules or ()):
        path = f"spec.{direction}[{i}]"
        peers, wrong = (rule.from_, rule.to) if direction == "ingress" else (rule.to, rule.from_)
        if wrong is not None:
            raise at.error(f'unknown field "{other}"', f"{path}.{other}", f"an {direction} rule has {field}")
        if (rule.protocols if old else rule.ports) is not None:
            name, hint = ("protocols", "ports") if old else ("ports", "protocols")
            raise at.error(f'unknown field "{name}"', f"{path}.{name}", f"{at.document.kind} says {hint}")
        _supported(at, rule.action, actions, f"{path}.action")
        if rule.name is not None and len(rule.name) > 100:
            raise at.error("Too long: may not be longer than 100", f"{path}.name")
        if peers is None:
            raise at.error("Required value", f"{path}.{field}")
        if not peers:
            raise at.error(f"Invalid value: {field} should have at least 1 items", f"{path}.{field}")
        _at_most(peers, limit, at, f"{path}.{field}")
        action = "Accept" if rule.action == "Allow" else rule.action
        made = tuple(_cluster_peer(peer, at, f"{path}.{field}[{j}]", direction, action) for j, peer in enumerate(peers))
        ports = _admin_ports(rule.ports, at, path) if old else _cluster_ports(rule.protocols, at, path)
        named = any(isinstance(q.port, str) for q in ports or ())
        if named and any(peer.networks or peer.nodes is not None or peer.domain_names for peer in made):
            raise at.error(
                "networks/nodes/domainNames peer cannot be set with namedPorts since there are no namedPorts for "
                "networks/nodes/domainNames",
                path,
            )
        found.append(p.ClusterRule(action, rule.name or "", made, ports, at.at(path)))
    return tuple(found)


def _at_most(items: Sequence[object] | None, limit: int, at: At, path: str) -> None:
    if items is not None and len(items) > limit:
        raise at.error(f"Too many: {len(items)}: must have at most {limit} items", path)


_REMOVED = ("sameLabels", "notSameLabels")
_DOMAIN = re.compile(r"(\*\.)?([a-zA-Z0-9]([-a-zA-Z0-9_]*[a-zA-Z0-9])?\.)+[a-zA-Z0-9]([-a-zA-Z0-9_]*[a-zA-Z0-9])?\.?")


def _cluster_peer(peer: w.ClusterPeer, at: At, path: str, direction: str, action: str) -> p.ClusterPeer:
    """A peer; one that says only what is not known here is kept empty, and fails closed."""
    tree: Any = at.tree
    for step in re.findall(r"[^.\[\]]+", path):
        tree = tree[int(step)] if step.isdigit() else tree[step]
    for gone in _REMOVED:
        if gone in tree or gone in (tree.get("namespaces") or {}):
            raise at.error(f'unknown field "{gone}"', path, "it was removed in network-policy-api v0.1.7")
    given = _set(
        namespaces=peer.namespaces, pods=peer.pods, nodes=peer.nodes, networks=peer.networks, domainNames=peer.domain_names
    )
    unknown = [key for key in tree if key not in ("namespaces", "pods", "nodes", "networks", "domainNames")]
    if direction == "ingress" and (outside := [g for g in given if g not in ("namespaces", "pods")]):
        raise at.error(f'unknown field "{outside[0]}"', path, "an ingress peer is namespaces or pods")
    if unknown and not given:
        return p.ClusterPeer(ref=at.at(path))
    ref = at.at(path)
    match _one_of([*given, *unknown], at, path):
        case "namespaces":
            return p.ClusterPeer(pods=p.NamespacedPods(_labels(peer.namespaces, at, f"{path}.namespaces")), ref=ref)
        case "pods":
            assert peer.pods is not None
            return p.ClusterPeer(pods=_namespaced(peer.pods, at, f"{path}.pods"), ref=ref)
        case "nodes":
            return p.ClusterPeer(nodes=_labels(peer.nodes, at, f"{path}.nodes"), ref=ref)
        case "networks":
            _at_most(peer.networks, 25, at, f"{path}.networks")
            nets = tuple(_cidr(at, t, f"{path}.networks[{i}]") for i, t in enumerate(peer.networks or ()))
            if not nets:
                raise at.error("Invalid value: networks should have at least 1 items", f"{path}.networks")
            return p.ClusterPeer(networks=nets, ref=ref)
        case _:
            if action != "Accept":
                raise at.error(f"domainNames is only supported for {'Accept'} rules", f"{path}.domainNames")
            for i, name in enumerate(peer.domain_names or ()):
                if not _DOMAIN.fullmatch(name):
                    raise at.error(f'Invalid value: "{name}": not a domain name', f"{path}.domainNames[{i}]")
            return p.ClusterPeer(domain_names=tuple(peer.domain_names or ()), ref=ref)


def _range(at: At, start: int, end: int, path: str, strict: bool) -> p.PortRange:
    _port_number(at, start, f"{path}.start")
    _port_number(at, end, f"{path}.end")
    if start > end or (strict and start == end):
        raise at.error("Invalid value: Start port must be less than End port", path)
    return p.PortRange(start, end)


def _cluster_ports(protocols: list[w.Protocol] | None, at: At, path: str) -> tuple[p.ClusterPort, ...] | None:
    """v1alpha2."""
    if protocols is None:
        return None
    _at_most(protocols, 25, at, f"{path}.protocols")
    if not protocols:
        raise at.error("Invalid value: protocols should have at least 1 items", f"{path}.protocols")
    ports = []
    for i, one in enumerate(protocols):
        where = f"{path}.protocols[{i}]"
        name = _one_of(_set(tcp=one.tcp, udp=one.udp, sctp=one.sctp, destinationNamedPort=one.destination_named_port), at, where)
        if name == "destinationNamedPort":
            ports.append(p.ClusterPort("", one.destination_named_port))
            continue
        inner = one.tcp or one.udp or one.sctp
        port = inner.destination_port if inner else None
        if port is None:
            ports.append(p.ClusterPort(name.upper()))
            continue
        where = f"{where}.{name}.destinationPort"
        if _one_of(_set(number=port.number, range=port.range), at, where) == "number":
            assert port.number is not None
            number = _port_number(at, port.number, f"{where}.number")
            ports.append(p.ClusterPort(name.upper(), p.PortRange(number, number)))
        else:
            assert port.range is not None
            ports.append(p.ClusterPort(name.upper(), _range(at, port.range.start, port.range.end, f"{where}.range", True)))
    return tuple(ports)


def _admin_ports(found: list[w.AdminPort] | None, at: At, path: str) -> tuple[p.ClusterPort, ...] | None:
    """v1alpha1."""
    if found is None:
        return None
    _at_most(found, 100, at, f"{path}.ports")
    ports = []
    for i, one in enumerate(found):
        where = f"{path}.ports[{i}]"
        match _one_of(_set(portNumber=one.port_number, namedPort=one.named_port, portRange=one.port_range), at, where):
            case "portNumber":
                assert one.port_number is not None
                number = _port_number(at, one.port_number.port, f"{where}.portNumber.port")
                protocol = _supported(at, one.port_number.protocol or "TCP", PROTOCOLS, f"{where}.portNumber.protocol")
                ports.append(p.ClusterPort(protocol, p.PortRange(number, number)))
            case "namedPort":
                ports.append(p.ClusterPort("", one.named_port))
            case _:
                assert one.port_range is not None
                protocol = _supported(at, one.port_range.protocol or "TCP", PROTOCOLS, f"{where}.portRange.protocol")
                span = _range(at, one.port_range.start, one.port_range.end, f"{where}.portRange", True)
                ports.append(p.ClusterPort(protocol, span))
    return tuple(ports)


# --- which reader reads what ---------------------------------------------------------------------------------

_CALICO_VERSIONS = ("projectcalico.org/v3", "crd.projectcalico.org/v1")
_CALICO_KINDS: dict[str, Reader] = {
    "NetworkPolicy": _calico_policy,
    "GlobalNetworkPolicy": _calico_policy,
    "StagedNetworkPolicy": _calico_policy,
    "StagedGlobalNetworkPolicy": _calico_policy,
    "Tier": _tier,
    "NetworkSet": _network_set,
    "GlobalNetworkSet": _network_set,
    "HostEndpoint": _host_endpoint,
    "Profile": _profile,
}

POLICY_READERS: dict[tuple[str, str], Reader] = {
    ("NetworkPolicy", "networking.k8s.io/v1"): _network_policy,
    ("ServiceAccount", "v1"): _service_account,
    ("ClusterNetworkPolicy", "policy.networking.k8s.io/v1alpha2"): _cluster_policy,
    ("AdminNetworkPolicy", "policy.networking.k8s.io/v1alpha1"): _cluster_policy,
    ("BaselineAdminNetworkPolicy", "policy.networking.k8s.io/v1alpha1"): _cluster_policy,
    **{(kind, version): reader for version in _CALICO_VERSIONS for kind, reader in _CALICO_KINDS.items()},
}
