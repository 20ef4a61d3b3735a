"""Policies that the API server would refuse are refused in its words, with file:line; what it accepts is read as it stores it."""

from __future__ import annotations

import json

import pytest

from netlab.errors import InputError
from netlab.kube.load import load
from netlab.kube.objects import IPBlock, LabelSelector, PolicyPort
from netlab.linux.addr import prefix

POD = "{kind: Pod, apiVersion: v1, metadata: {name: p}, spec: {containers: [{name: c}]}}\n"
CALICO = "projectcalico.org/v3"
ADMIN = "policy.networking.k8s.io/v1alpha1"
CLUSTER = "policy.networking.k8s.io/v1alpha2"


def read(tmp_path, text, name="f.yaml"):
    (tmp_path / name).write_text(text)
    (tmp_path / "pod.yaml").write_text(POD)
    return load([str(tmp_path / name), str(tmp_path / "pod.yaml")])


def refused(tmp_path, text, name="f.yaml"):
    with pytest.raises(InputError) as caught:
        read(tmp_path, text, name)
    return str(caught.value).replace(str(tmp_path) + "/", "")


def policy(spec: str, meta: str = "name: np", version: str = "networking.k8s.io/v1", kind: str = "NetworkPolicy") -> str:
    return f"kind: {kind}\napiVersion: {version}\nmetadata: {{{meta}}}\nspec: {spec}\n"


SELECTOR = "{{podSelector: {}}}"


@pytest.mark.parametrize(
    ("case", "spec", "says"),
    [
        # 25, 29: peers
        (
            25,
            "{ingress: [{from: [{}]}]}",
            "spec.ingress[0].from[0]: Required value: must specify a peer\n  to mean everybody leave",
        ),
        (25, "{egress: [{to: [{podSelector: {}}, {}]}]}", "spec.egress[0].to[1]: Required value: must specify a peer"),
        (
            25,
            "{ingress: [{from: [{ipBlock: {cidr: 10.0.0.0/8}, podSelector: {}}]}]}",
            "spec.ingress[0].from[0]: Forbidden: may not specify both ipBlock and another peer",
        ),
        (25, "{ingress: [{from: [{ipBlock: {}}]}]}", "spec.ingress[0].from[0].ipBlock.cidr: Required value"),
        (25, "{ingress: [{from: [{ipBlock: {cidr: 10.0.0.1}}]}]}", 'Invalid value: "10.0.0.1": must be a valid CIDR value'),
        (25, "{ingress: [{from: [{ipBlock: {cidr: 10.0.0.0/33}}]}]}", 'Invalid value: "10.0.0.0/33": must be a valid CIDR value'),
        (
            29,
            "{egress: [{to: [{ipBlock: {cidr: 10.0.0.0/8, except: [10.0.0.0/9, 11.0.0.0/9]}}]}]}",
            'ipBlock.except[1]: Invalid value: "11.0.0.0/9": must be a strict subset of `cidr`',
        ),
        (
            29,
            "{egress: [{to: [{ipBlock: {cidr: 10.0.0.0/8, except: [10.0.0.0/8]}}]}]}",
            'Invalid value: "10.0.0.0/8": must be a strict subset of `cidr`',
        ),
        (
            29,
            "{egress: [{to: [{ipBlock: {cidr: '::/0', except: [10.0.0.0/8]}}]}]}",
            'Invalid value: "10.0.0.0/8": must be a strict subset of `cidr`',
        ),
        # 34, 35: ports
        (
            34,
            "{ingress: [{ports: [{endPort: 90}]}]}",
            "endPort: Invalid value: 90: may not be specified when `port` is not specified",
        ),
        (34, "{ingress: [{ports: [{port: web, endPort: 90}]}]}", "may not be specified when `port` is non-numeric"),
        (34, "{ingress: [{ports: [{port: 91, endPort: 90}]}]}", "Invalid value: 90: must be greater than or equal to `port`"),
        (34, "{ingress: [{ports: [{port: 91, endPort: 65536}]}]}", "65536: must be between 1 and 65535, inclusive"),
        (
            35,
            "{ingress: [{ports: [{port: 0}]}]}",
            "spec.ingress[0].ports[0].port: Invalid value: 0: must be between 1 and 65535, inclusive",
        ),
        (35, "{ingress: [{ports: [{port: 65536}]}]}", "Invalid value: 65536: must be between 1 and 65535, inclusive"),
        (35, "{ingress: [{ports: [{port: -1}]}]}", "Invalid value: -1: must be between 1 and 65535, inclusive"),
        (
            35,
            "{ingress: [{ports: [{port: Web}]}]}",
            'Invalid value: "Web": must contain only alpha-numeric characters (a-z, 0-9)',
        ),
        (35, "{ingress: [{ports: [{port: a-name-too-long-}]}]}", "must be no more than 15 characters"),
        (35, "{ingress: [{ports: [{port: a--b}]}]}", "must not contain consecutive hyphens"),
        (35, "{ingress: [{ports: [{port: -b}]}]}", "must not begin or end with a hyphen"),
        (35, "{ingress: [{ports: [{port: ''}]}]}", "must contain only alpha-numeric"),
        (
            35,
            "{ingress: [{ports: [{port: 80, protocol: tcp}]}]}",
            'Unsupported value: "tcp": supported values: "TCP", "UDP", "SCTP"',
        ),
        (35, "{ingress: [{ports: [{port: 80, protocol: ICMP}]}]}", 'Unsupported value: "ICMP"'),
        (35, "{ingress: [{ports: [{port: 80.5}]}]}", "ports[0].port: expected an integer or a string, found a number (80.5)"),
        # policyTypes
        (1, "{policyTypes: [ingress]}", 'policyTypes[0]: Unsupported value: "ingress": supported values: "Egress", "Ingress"'),
        (1, "{policyTypes: [Ingress, Egress, Ingress]}", "may not specify more than two policyTypes"),
        # selectors
        (19, "{podSelector: {matchExpressions: [{key: a, operator: in, values: [b]}]}}", '"in": not a valid selector operator'),
        (
            19,
            "{podSelector: {matchExpressions: [{key: a, operator: In}]}}",
            "matchExpressions[0].values: Required value: must be specified when `operator` is 'In' or 'NotIn'",
        ),
        (
            19,
            "{podSelector: {matchExpressions: [{key: a, operator: Exists, values: [b]}]}}",
            "Forbidden: may not be specified when `operator` is 'Exists' or 'DoesNotExist'",
        ),
        (19, "{podSelector: {matchExpressions: [{operator: Exists}]}}", 'key: Invalid value: "": name part must be non-empty'),
        (19, "{podSelector: {matchLabels: {-a: b}}}", 'Invalid value: "-a": name part must consist of alphanumeric characters'),
        (19, "{podSelector: {matchLabels: {a/b/c: d}}}", 'Invalid value: "a/b/c": a qualified name must consist of'),
        (19, "{podSelector: {matchLabels: {UP/b: d}}}", "prefix part a lowercase RFC 1123 subdomain must consist of"),
        (
            19,
            "{podSelector: {matchLabels: {a: b c}}}",
            'Invalid value: "b c": a valid label must be an empty string or consist of',
        ),
        (19, f"{{podSelector: {{matchLabels: {{a: {'b' * 64}}}}}}}", "must be no more than 63 characters"),
        (19, "{podSelector: {matchExpressions: [{key: a, operator: In, values: ['?']}]}}", "values[0]: Invalid value"),
        # 88: what YAML makes of it, and what is not there
        (
            88,
            "{ingress: [{ports: [{port: '80'}]}]}",
            'Invalid value: "80": must contain at least one letter (a-z)\n  in quotes it is the name',
        ),
        (
            88,
            "{podSelector: {matchLabels: {canary: on}}}",
            "expected a string, found a boolean (true)\n  YAML reads yes, no, on, off",
        ),
        (88, "{podSelector: {matchLabels: {version: 1}}}", 'expected a string, found an integer (1)\n  put it in quotes: "1"'),
        (88, "{ingres: [{}]}", 'spec.ingres: unknown field "ingres"\n  did you mean "ingress"'),
        (88, "{ingress: [{to: []}]}", 'spec.ingress[0].to: unknown field "to"\n  known here: from, ports'),
        (88, "{ingress: [{from: [{podselector: {}}]}]}", 'unknown field "podselector"\n  did you mean "podSelector"?'),
        (88, "{ingress: {from: []}}", "spec.ingress: expected a list, found a mapping"),
        (88, "{ingress: [{from: {podSelector: {}}}]}", "spec.ingress[0].from: expected a list, found a mapping"),
        (
            88,
            "{podSelector: {app: web}}",
            'spec.podSelector.app: unknown field "app"\n  known here: matchExpressions, matchLabels',
        ),
        (88, "{ingress: [null]}", "spec.ingress[0]: expected a mapping, found nothing"),
        (88, "[]", "spec: expected a mapping, found a list"),
    ],
)
def test_refused(tmp_path, case, spec, says):
    assert says in refused(tmp_path, policy(spec))


def test_refused_with_its_line(tmp_path):
    text = policy("\n  ingress:\n  - ports:\n    - port: 80\n    - port: 80\n      endPort: 7\n")
    assert refused(tmp_path, text) == (
        "f.yaml:9, document 1, NetworkPolicy default/np, spec.ingress[0].ports[1].endPort: "
        "Invalid value: 7: must be greater than or equal to `port`"
    )


def test_refused_in_json_with_its_path(tmp_path):
    tree = {"kind": "List", "apiVersion": "v1", "items": [{"kind": "NetworkPolicy", "apiVersion": "networking.k8s.io/v1"}]}
    tree["items"][0] |= {"metadata": {"name": "np"}, "spec": {"ingress": [{"from": [{}]}]}}
    assert "f.json, NetworkPolicy default/np, items[0].spec.ingress[0].from[0]: Required" in refused(
        tmp_path, json.dumps(tree), "f.json"
    )


@pytest.mark.parametrize(
    ("text", "says"),
    [
        (policy("{}", version="extensions/v1beta1"), 'no matches for kind "NetworkPolicy" in version "extensions/v1beta1"'),
        (policy("{}", version="networking.k8s.io/v1beta1"), "write apiVersion: networking.k8s.io/v1"),
        (policy("{}", kind="AdminNetworkPolicy", version="policy.networking.k8s.io/v1"), f"write apiVersion: {ADMIN}"),
        (policy("{}", version="projectcalico.org/v1"), "no matches for kind"),
        (policy("{}", version="v1"), 'no matches for kind "NetworkPolicy" in version "v1"'),
        (policy("{}", "name: Np"), 'metadata.name: Invalid value: "Np": a lowercase RFC 1123 subdomain'),
        (policy("{}", "name: np, labels: {a: '?'}"), "metadata.labels['a']: Invalid value"),
        (policy("{}") + "---\n" + policy("{}"), "the same object twice\n  it stands first in"),
    ],
)
def test_refused_object(tmp_path, text, says):
    assert says in refused(tmp_path, text)


def test_other_kinds_are_passed_over_by_name(tmp_path):
    text = policy("{}", version="cilium.io/v2", kind="CiliumNetworkPolicy") + "---\n---\n# nothing\n---\n" + policy("{}")
    text += "---\n" + policy("{}", version="crd.antrea.io/v1beta1")
    cluster = read(tmp_path, text)
    assert cluster.notes == ("passed over: 1 CiliumNetworkPolicy, 1 NetworkPolicy (crd.antrea.io/v1beta1)",)
    assert list(cluster.policies) == ["default/np"]


@pytest.mark.parametrize("kind", ["List", "NetworkPolicyList"])
def test_lists(tmp_path, kind):
    """88: items of a typed list carry no kind of their own; every rule has its line."""
    text = (
        f"kind: {kind}\napiVersion: {'v1' if kind == 'List' else 'networking.k8s.io/v1'}\nitems:\n"
        + ("- kind: NetworkPolicy\n  apiVersion: networking.k8s.io/v1\n  metadata:\n" if kind == "List" else "- metadata:\n")
        + "    name: a\n    namespace: shop\n  spec:\n    ingress:\n    - {}\n    - from:\n      - podSelector: {}\n"
    )
    found = read(tmp_path, text).policies["shop/a"]
    lines = text.splitlines()
    assert [rule.ref.line for rule in found.ingress] == [lines.index("    - {}") + 1, lines.index("    - from:") + 1]
    (peer,) = found.ingress[1].peers
    assert peer.ref.line == len(lines)
    assert peer.ref.path == "items[0].spec.ingress[1].from[0]"


def test_what_is_kept(tmp_path):
    """Defaults are applied; what is absent and what is empty stay apart where they differ."""
    text = policy(
        "{ingress: [{}, {from: [], ports: []}, {from: [{podSelector: {}}, {namespaceSelector: {}}, "
        "{ipBlock: {cidr: 10.1.2.3/8, except: [10.9.9.9/16]}}], "
        "ports: [{}, {protocol: UDP}, {port: web}, {port: 1, endPort: 2}]}]}"
    )
    nothing, empty, rule = read(tmp_path, text).policies["default/np"].ingress
    assert (nothing.peers, nothing.ports) == (empty.peers, empty.ports) == ((), ())
    assert [(p.pod_selector, p.namespace_selector, p.ip_block) for p in rule.peers] == [
        (LabelSelector(), None, None),
        (None, LabelSelector(), None),
        (None, None, IPBlock(prefix("10.0.0.0/8"), (prefix("10.9.0.0/16"),))),
    ]
    assert rule.ports == (PolicyPort(), PolicyPort("UDP"), PolicyPort("TCP", "web"), PolicyPort("TCP", 1, 2))


# --- Calico --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("kind", "spec", "says"),
    [
        ("GlobalNetworkPolicy", "{selector: \"app = 'a'\"}", "spec.selector: Invalid value"),
        ("GlobalNetworkPolicy", "{selector: 'global()'}", "global() can only be used in an EntityRule namespaceSelector"),
        ("GlobalNetworkPolicy", "{ingress: [{action: allow}]}", 'spec.ingress[0].action: Unsupported value: "allow"'),
        ("GlobalNetworkPolicy", "{ingress: [{}]}", 'action: Unsupported value: ""'),
        ("GlobalNetworkPolicy", "{types: [ingress]}", "spec.types[0]: Unsupported value"),
        (
            "GlobalNetworkPolicy",
            "{ingress: [{action: Allow, destination: {ports: [80]}}]}",
            "destination.ports: rules that specify ports must set protocol to TCP or UDP or SCTP",
        ),
        ("GlobalNetworkPolicy", "{ingress: [{action: Allow, protocol: tcp}]}", 'Unsupported value: "tcp"'),
        ("GlobalNetworkPolicy", "{ingress: [{action: Allow, protocol: 256}]}", "a number from 1 to 255"),
        (
            "GlobalNetworkPolicy",
            "{ingress: [{action: Allow, protocol: TCP, destination: {ports: ['90:80']}}]}",
            "minimum port is greater than the maximum port",
        ),
        ("GlobalNetworkPolicy", "{ingress: [{action: Allow, protocol: TCP, icmp: {type: 8}}]}", "ICMP fields require protocol"),
        ("GlobalNetworkPolicy", "{ingress: [{action: Allow, protocol: ICMP, icmp: {code: 8}}]}", "without an ICMP type"),
        (
            "GlobalNetworkPolicy",
            "{ingress: [{action: Allow, protocol: ICMP, ipVersion: 6}]}",
            "protocol ICMP requires ipVersion 4",
        ),
        ("GlobalNetworkPolicy", "{ingress: [{action: Deny, http: {methods: [GET]}}]}", "only valid on Allow rules"),
        ("GlobalNetworkPolicy", "{ingress: [{action: Deny, source: {nets: [a]}}]}", "must be a valid CIDR value"),
        (
            "GlobalNetworkPolicy",
            "{egress: [{action: Deny, destination: {services: {name: a}, nets: [1.2.3.4]}}]}",
            "cannot specify Nets/NotNets and Services on the same rule",
        ),
        ("GlobalNetworkPolicy", "{preDNAT: true}", "ApplyOnForward must be true"),
        ("GlobalNetworkPolicy", "{order: first}", "spec.order: expected a number"),
        ("GlobalNetworkPolicy", "{ingress: [{action: Allow, from: []}]}", 'unknown field "from"'),
        ("NetworkPolicy", "{preDNAT: true}", "only a GlobalNetworkPolicy has it"),
        ("NetworkPolicy", "{podSelector: {}}", 'unknown field "podSelector"'),
        ("Tier", "{defaultAction: Allow}", 'Unsupported value: "Allow": supported values: "Pass", "Deny"'),
        ("HostEndpoint", "{interfaceName: eth0}", "no node is specified"),
        ("HostEndpoint", "{node: n1}", "no interface or expected IPs have been specified"),
    ],
)
def test_calico_refused(tmp_path, kind, spec, says):
    assert says in refused(tmp_path, policy(spec, kind=kind, version=CALICO))


def test_two_kinds_may_share_a_name(tmp_path):
    text = policy("{}") + "---\n" + policy("{ingress: [{action: Deny}]}", version="crd.projectcalico.org/v1")
    cluster = read(tmp_path, text)
    assert list(cluster.policies) == ["default/np"]
    (found,) = cluster.policy_objects.calico.values()
    assert (found.key, found.types, found.ingress[0].ref.path) == ("default/np", ("Ingress",), "spec.ingress[0]")


# --- ClusterNetworkPolicy ------------------------------------------------------------------------------------

BOTH = "tier: Admin, priority: 1, subject: {namespaces: {}}"


@pytest.mark.parametrize(
    ("case", "spec", "says"),
    [
        (57, "{tier: Admin, subject: {namespaces: {}}}", "spec.priority: Required value"),
        (57, "{tier: Admin, priority: 1001, subject: {namespaces: {}}}", "should be between 0 and 1000"),
        (71, "{tier: admin, priority: 1, subject: {namespaces: {}}}", 'Unsupported value: "admin"'),
        (71, "{priority: 1, subject: {namespaces: {}}}", "spec.tier: Required value"),
        (71, "{tier: Admin, priority: 1}", "spec.subject: Required value"),
        (71, "{tier: Admin, priority: 1, subject: {}}", "spec.subject: Invalid value: should have at least 1 properties"),
        (71, "{tier: Admin, priority: 1, subject: {namespaces: {}, pods: {podSelector: {}}}}", "must have at most 1 properties"),
        (
            71,
            f"{{{BOTH}, ingress: [{{action: Accept, from: [{{}}]}}]}}",
            "from[0]: Invalid value: should have at least 1 properties",
        ),
        (71, f"{{{BOTH}, ingress: [{{action: Accept, from: []}}]}}", "from should have at least 1 items"),
        (71, f"{{{BOTH}, ingress: [{{action: Accept}}]}}", "spec.ingress[0].from: Required value"),
        (59, f"{{{BOTH}, ingress: [{{action: Allow, from: [{{namespaces: {{}}}}]}}]}}", 'action: Unsupported value: "Allow"'),
        (70, f"{{{BOTH}, ingress: [{{action: Deny, from: [{{networks: [1.0.0.0/8]}}]}}]}}", 'unknown field "networks"'),
        (
            64,
            f"{{{BOTH}, ingress: [{{action: Deny, from: [{{namespaces: {{}}}}], "
            "protocols: [{tcp: {destinationPort: {range: {start: 80, end: 80}}}}]}]}",
            "destinationPort.range: Invalid value: Start port must be less than End port",
        ),
        (
            64,
            f"{{{BOTH}, ingress: [{{action: Deny, from: [{{namespaces: {{}}}}], protocols: [{{}}]}}]}}",
            "at least 1 properties",
        ),
        (
            65,
            f"{{{BOTH}, egress: [{{action: Deny, to: [{{networks: [1.0.0.0/8]}}], "
            "protocols: [{destinationNamedPort: web}]}]}",
            "networks/nodes/domainNames peer cannot be set with namedPorts",
        ),
        (68, f"{{{BOTH}, egress: [{{action: Deny, to: [{{domainNames: [a.b]}}]}}]}}", "only supported for Accept rules"),
        (68, f"{{{BOTH}, egress: [{{action: Accept, to: [{{domainNames: ['*b']}}]}}]}}", "not a domain name"),
        (71, f"{{{BOTH}, egress: [{', '.join(['{action: Deny, to: [{namespaces: {}}]}'] * 26)}]}}", "Too many: 26"),
        (
            73,
            f"{{{BOTH}, ingress: [{{action: Deny, from: [{{namespaces: {{sameLabels: [a]}}}}]}}]}}",
            'unknown field "sameLabels"',
        ),
    ],
)
def test_cluster_policy_refused(tmp_path, case, spec, says):
    assert says in refused(tmp_path, policy(spec, kind="ClusterNetworkPolicy", version=CLUSTER))


def test_one_baseline(tmp_path):
    """71"""
    text = policy("{subject: {namespaces: {}}}", kind="BaselineAdminNetworkPolicy", version=ADMIN)
    assert "Only one baseline admin network policy" in refused(tmp_path, text)
    cluster = read(tmp_path, text.replace("name: np", "name: default"))
    assert [(p.tier, p.priority) for p in cluster.policy_objects.cluster.values()] == [("Baseline", 0)]
