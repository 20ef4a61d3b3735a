"""Policies as Felix renders them: names, ids and hashes of real nodes; rows of YAML -> rules; rules that do what policies say.

The last is the first property of the project's two paths: a packet that is walked through the rules, and semantics.decide.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec.structs import replace
from test_policy_semantics import SETS, TIERS, asked_flows, calico_policies, flow, policy_lists

from netlab.dataplane.cni import calico_policies as cp
from netlab.dataplane.cni.calico import device_of
from netlab.dataplane.cni.felix import (
    RETURN,
    FelixRule,
    endpoint_marks,
    hashed,
    in_set,
    mark_is,
    ports,
    protocol,
    rule,
    set_mark,
    set_masked_mark,
)
from netlab.dataplane.cni.felix_policy import FelixPolicies, group_chain, policy_chain, selector_id, unique_id
from netlab.dataplane.policy.semantics import Flow, decide
from netlab.kube.cluster import Cluster
from netlab.kube.load import load
from netlab.kube.objects import LabelSelector, NetworkPolicy, Pod
from netlab.kube.policies import CalicoPolicy, PolicyObjects
from netlab.kube.topology import Overrides
from netlab.linux.addr import ip
from netlab.linux.matches import PortRange
from netlab.trace.query import Request, Tracer
from netlab.trace.steps import Verdict

ROOT = Path(__file__).parent.parent
DATA = Path(__file__).parent / "data" / "policy"
ROWS = yaml.safe_load((DATA / "rows.yaml").read_text())
POOLS = """
{kind: IPPool, apiVersion: projectcalico.org/v3, metadata: {name: v4}, spec:
  {cidr: 10.7.0.0/16, blockSize: 24, natOutgoing: true}}
---
{kind: IPPool, apiVersion: projectcalico.org/v3, metadata: {name: v6}, spec:
  {cidr: "fd00:7:7::/56", blockSize: 122, natOutgoing: true}}
---
"""


# -- what real nodes say -------------------------------------------------------------------------------------------------

WEB_5050 = (protocol(6, "tcp"), in_set("cali40s:_DJYf5MR3V3B4fL2YDPlFn7", "src"), ports("dst", [PortRange(5050, 5050)]))
SHOP = "Policy hipstershop/app-hipstershop.checkoutservice"
ACCEPTED = set_mark(0x10000)

# chain, its rules, hashes: from dumps of nodes that their owners have published
PUBLISHED: list[tuple[str, list[FelixRule], list[str]]] = [
    (
        "cali-pi-_tTE-E7yY40ogArNVgKt",
        [rule(in_set("cali40s:LrVD8vMIGQDyv8Y7sPFB1Ge", "src"), action=ACCEPTED), rule(mark_is(0x10000), action=RETURN)],
        ["M4Und37HGrw6jUk8", "sEnlfZagUFRSPRoe"],
    ),
    (
        "cali-pi-_e8MLrhOHDfNlfSa51Ak",
        [rule(in_set("cali40s:XZEFRy4u2E2Kz28IwtNm0u8", "src"), action=ACCEPTED), rule(mark_is(0x10000), action=RETURN)],
        ["sEcu68UJEL6S4gUe", "ylM9819c6tRAOxVz"],
    ),
    ("cali-pi-_sQdl6e7ekf9DS2UYNem", [rule(*WEB_5050, action=ACCEPTED, comments=[f"{SHOP} ingress"])], ["fwIMoHrbCWNN0i6y"]),
    (
        "cali-po-_sQdl6e7ekf9DS2UYNem",
        [rule(action=set_masked_mark(0, 0x180000), comments=[f"{SHOP} egress"])],
        ["NrlO0UOCu-NgEXYU"],
    ),
]


@pytest.mark.parametrize(("chain", "rules", "hashes"), PUBLISHED, ids=[row[0] for row in PUBLISHED])
def test_a_published_rule_has_its_hash(chain: str, rules: list[FelixRule], hashes: list[str]) -> None:
    assert re.findall(r'"cali:(.{16})"', "\n".join(map(str, hashed(chain, rules)))) == hashes


@pytest.mark.parametrize(
    ("tier", "name", "chain"),
    [
        ("default", "calico-system/knp.default.allow-apiserver", "cali-pi-_RPHPUh868v26JJg7645"),  # a node of v3.30
        ("app-hipstershop", "hipstershop/app-hipstershop.checkoutservice", "cali-pi-_sQdl6e7ekf9DS2UYNem"),
        ("default", "default.foo", "cali-pi-default/default.foo"),  # felix/rules/policy_test.go
    ],
)
def test_a_policy_s_chain_is_called_as_on_a_node(tier: str, name: str, chain: str) -> None:
    assert policy_chain("Ingress", cp.Policy(tier, name, 0.0, "", ())) == chain


@pytest.mark.parametrize(
    ("selector", "expected"),
    [
        ("", "s:5y5I3VdRZfDU01O--xXAPx2yxCQQqMf0M6IWug"),  # lib/selector/parser/parser_test.go
        (" (all() )", "s:5y5I3VdRZfDU01O--xXAPx2yxCQQqMf0M6IWug"),
        ("! (has( b)||! has(a ))", "s:Iss0uCleLYv1GSv_pNm7hAO58kE9jAx1NKyG3Q"),
        ('! (a == "b"&&! c != "d")', "s:lh3haoY1ikTRkd4UZu0nWSaIBknYLPJLX16d-w"),
    ],
)
def test_a_selector_has_calico_s_id(selector: str, expected: str) -> None:
    assert selector_id(selector) == expected


# -- rows ----------------------------------------------------------------------------------------------------------------


def shop(tmp_path: Path, *documents: str) -> Cluster:
    """Pods web-0 (10.244.0.2), api-0 (10.244.0.3, ports http 8080, dns 53/UDP), db-0 in namespace data (10.244.0.4)."""
    pods = "".join(
        f"""
---
{{kind: Pod, apiVersion: v1, metadata: {{name: {app}-0, namespace: {namespace}, labels: {{app: {app}}}}}, spec: {{
  nodeName: n1, containers: [{{name: c, ports: {ports_}}}]}}, status: {{phase: Running, podIPs: [
  {{ip: 10.244.0.{n}}}, {{ip: "fd00:244::{n}"}}]}}}}"""
        for n, (app, namespace, ports_) in enumerate(
            [
                ("web", "default", "[]"),
                ("api", "default", "[{name: http, containerPort: 8080}, {name: dns, containerPort: 53, protocol: UDP}]"),
                ("db", "data", "[{name: http, containerPort: 80}]"),
            ],
            2,
        )
    )
    file = tmp_path / "shop.yaml"
    file.write_text(
        """
apiVersion: netlab/v1
kind: Topology
nodes: [{name: n1, addresses: [192.168.50.11]}, {name: n2, addresses: [192.168.50.12]}]
fabric: {prefixes: [192.168.50.0/24]}
podCIDR: 10.244.0.0/16
serviceCIDR: 10.96.0.0/16
cni: {name: calico}
"""
        + pods
        + "".join(f"\n---\n{document}" for document in documents)
    )
    return load([str(file)])


def knp(spec: str, name: str = "p") -> str:
    return f"{{kind: NetworkPolicy, apiVersion: networking.k8s.io/v1, metadata: {{name: {name}}}, spec: {spec}}}"


def gnp(rule_: str, **more: str) -> str:
    spec = ", ".join([f"ingress: [{rule_}]", *(f"{key}: {value}" for key, value in more.items())])
    return f"{{kind: GlobalNetworkPolicy, apiVersion: projectcalico.org/v3, metadata: {{name: p}}, spec: {{{spec}}}}}"


def chains(cluster: Cluster, pod: str, family: int = 4) -> Iterator[tuple[str, str]]:
    """(chain, rule) of what policies add to a pod, in iptables-save's words; the pod's own chains are `to` and `from`."""
    found = FelixPolicies(cluster).of(cluster.pods[pod], family)
    for name, rules in {"to": found.ingress, "from": found.egress, **found.chains}.items():
        yield from ((name, str(r)) for r in hashed(name, rules))


def plain(text: str) -> str:
    """A rule without its hash, with comments as Felix has them in [brackets]."""
    text = re.sub(r'-m comment --comment "cali:.{16}" ?', "", text)
    return re.sub(r'-m comment --comment "(.*?)"', r"[\1]", text).strip()


def only(cluster: Cluster, pod: str, prefix: str, family: int = 4) -> list[str]:
    return [plain(text) for name, text in chains(cluster, pod, family) if name.startswith(prefix)]


def of(selector: str, family: int = 4) -> str:
    """The ipset of a selector."""
    return f"cali{family}0{selector_id(selector)}"[:31]


WEB = of("projectcalico.org/namespace == 'default' && (projectcalico.org/orchestrator == 'k8s' && app == 'web')")
APP_WEB = of("app == 'web'")
HTTP = f"cali40{unique_id('n', selector_id('') + ',tcp,http')}"[:31]
SERVICE = f"cali40{unique_id('svcnoport', 'default/api')}"[:31]
SAID = "[Policy default/knp.default.p ingress]"
ACCEPT, RETURNS = "-j MARK --set-xmark 0x10000/0x10000", "-m mark --mark 0x10000/0x10000 -j RETURN"
DENY, DROPS = "-j MARK --set-xmark 0x40000/0x40000", "-m mark --mark 0x40000/0x40000 -j DROP"
CLEAR, BLOCK = "-j MARK --set-xmark 0x0/0x180000", "-j MARK --set-xmark 0x80000/0x80000"
AND = "-m mark --mark 0x80000/0x80000"
MORE = "{ingress: [{ports: [" + ", ".join(f"{{port: {p}}}" for p in range(1000, 1034, 2)) + "]}]}"

# what is said, a policy, rules of its ingress chain
RENDERED: list[tuple[str, str, list[str]]] = [
    ("no rules: the chain only says whose it is", knp("{podSelector: {}}"), [SAID]),
    ("an empty rule accepts; the RETURN at the end is left out", knp("{ingress: [{}]}"), [f"{SAID} {ACCEPT}"]),
    (
        "a peer and a port",
        knp("{ingress: [{from: [{podSelector: {matchLabels: {app: web}}}], ports: [{port: 80}]}]}"),
        [f"-p tcp {SAID} -m set --match-set {WEB} src -m multiport --dports 80 {ACCEPT}"],
    ),
    (
        "peers are rules of their own, and so are protocols, by name",
        knp("{ingress: [{from: [{podSelector: {matchLabels: {app: web}}}, {ipBlock: {cidr: 10.0.0.0/8}}], "
            "ports: [{port: 53, protocol: UDP}, {port: 53}, {port: 7, protocol: SCTP}]}]}"),
        [
            f"-p sctp {SAID} -m set --match-set {WEB} src -m multiport --dports 7 {ACCEPT}", RETURNS,
            f"-s 10.0.0.0/8 -p sctp -m multiport --dports 7 {ACCEPT}", RETURNS,
            f"-p tcp -m set --match-set {WEB} src -m multiport --dports 53 {ACCEPT}", RETURNS,
            f"-s 10.0.0.0/8 -p tcp -m multiport --dports 53 {ACCEPT}", RETURNS,
            f"-p udp -m set --match-set {WEB} src -m multiport --dports 53 {ACCEPT}", RETURNS,
            f"-s 10.0.0.0/8 -p udp -m multiport --dports 53 {ACCEPT}",
        ],
    ),
    (
        "neighbouring ports are a range; endPort, too",
        knp("{ingress: [{ports: [{port: 82}, {port: 80}, {port: 81}, {port: 90, endPort: 99}]}]}"),
        [f"-p tcp {SAID} -m multiport --dports 80:82,90:99 {ACCEPT}"],
    ),
    (
        "all of a protocol swallows its ports",
        knp("{ingress: [{ports: [{port: 80}, {protocol: TCP}]}]}"),
        [f"-p tcp {SAID} {ACCEPT}"],
    ),
    (
        "more than 15 ports are a block",
        knp(MORE),
        [
            f"{SAID} {CLEAR}",
            f"-p tcp -m multiport --dports {','.join(str(p) for p in range(1000, 1030, 2))} {BLOCK}",
            f"-p tcp -m multiport --dports 1030,1032 {BLOCK}",
            f"-p tcp {AND} {ACCEPT}",
        ],
    ),
    (
        "a name of a port is a set of addresses and ports",
        knp("{ingress: [{ports: [{port: http}]}]}"),
        [f"-p tcp {SAID} -m set --match-set {HTTP} dst,dst {ACCEPT}"],
    ),
    (
        "a name or a number is a block",
        knp("{ingress: [{ports: [{port: http}, {port: 80}]}]}"),
        [
            f"{SAID} {CLEAR}",
            f"-p tcp -m multiport --dports 80 {BLOCK}",
            f"-m set --match-set {HTTP} dst,dst {BLOCK}",
            f"-p tcp {AND} {ACCEPT}",
        ],
    ),
    (
        "an except is a block that takes away",
        knp("{ingress: [{from: [{ipBlock: {cidr: 10.0.0.0/8, except: [10.1.0.0/16, 10.2.0.0/16]}}]}]}"),
        [
            f"{SAID} -j MARK --set-xmark 0x80000/0x180000",
            "-s 10.1.0.0/16 -j MARK --set-xmark 0x0/0x80000",
            "-s 10.2.0.0/16 -j MARK --set-xmark 0x0/0x80000",
            f"-s 10.0.0.0/8 {AND} {ACCEPT}",
        ],
    ),
    ("a block of the other family is left out", knp('{ingress: [{from: [{ipBlock: {cidr: "fd00::/8"}}]}]}'), [SAID]),
    ("deny", gnp("{action: Deny}"), [f"[Policy default.p ingress] {DENY}", DROPS]),
    (
        "pass sets its own mark",
        gnp("{action: Pass, source: {nets: [10.0.0.0/8]}}"),
        ["-s 10.0.0.0/8 [Policy default.p ingress] -j MARK --set-xmark 0x20000/0x20000"],
    ),
    (
        "log goes on",
        gnp("{action: Log, protocol: UDP}"),
        ['-p udp [Policy default.p ingress] -j LOG --log-prefix "calico-packet: " --log-level 5'],
    ),
    (
        "two nets at both ends: the second block answers in a mark of its own",
        gnp("{action: Deny, source: {nets: [10.0.0.0/8, 11.0.0.0/8]}, destination: {nets: [12.0.0.0/8, 13.0.0.0/8]}}"),
        [
            f"[Policy default.p ingress] {CLEAR}",
            f"-s 10.0.0.0/8 {BLOCK}", f"-s 11.0.0.0/8 {BLOCK}",
            "-d 12.0.0.0/8 -j MARK --set-xmark 0x100000/0x100000",
            "-d 13.0.0.0/8 -j MARK --set-xmark 0x100000/0x100000",
            "-m mark --mark 0x0/0x100000 -j MARK --set-xmark 0x0/0x80000",
            f"{AND} {DENY}", DROPS,
        ],
    ),
    (
        "negations that fit stand in the rule",
        gnp("{action: Deny, notProtocol: UDP, source: {notNets: [10.0.0.0/8], notSelector: app == 'web'}}"),
        [
            f"! -s 10.0.0.0/8 ! -p udp [Policy default.p ingress] -m set ! --match-set {APP_WEB} src {DENY}",
            DROPS,
        ],
    ),
    (
        "notPorts and notNets at both ends",
        gnp("{action: Allow, protocol: TCP, source: {ports: ['1024:65535'], notPorts: [2000]}, "
            "destination: {nets: [10.244.0.0/16], notNets: [10.244.9.0/24], ports: [80], notPorts: [http, '1:9']}}"),
        [
            "[Policy default.p ingress] -j MARK --set-xmark 0x80000/0x180000",
            "-d 10.244.9.0/24 -j MARK --set-xmark 0x0/0x80000",
            "-d 10.244.0.0/16 -p tcp -m multiport --sports 1024:65535 -m multiport --dports 80 -m multiport ! --sports 2000 "
            f"-m multiport ! --dports 1:9 -m set ! --match-set {HTTP} dst,dst {AND} {ACCEPT}",
        ],
    ),
    (
        "ICMP is of IPv4",
        gnp("{action: Allow, protocol: ICMP, icmp: {type: 8}, notICMP: {type: 3, code: 1}}"),
        [f"-p icmp [Policy default.p ingress] -m icmp --icmp-type 8 -m icmp ! --icmp-type 3/1 {ACCEPT}"],
    ),
    ("ICMPv6 is not", gnp("{action: Allow, protocol: ICMPv6}"), ["[Policy default.p ingress]"]),
    ("ipVersion 6 is not", gnp("{action: Allow, ipVersion: 6}"), ["[Policy default.p ingress]"]),
    (
        "a number that has no name, and one that has",
        gnp("{action: Allow, protocol: 47}, {action: Allow, protocol: 132}"),
        [f"-p gre [Policy default.p ingress] {ACCEPT}", RETURNS, f"-p sctp {ACCEPT}"],
    ),
    (
        "a service at the source is addresses",
        gnp("{action: Allow, source: {services: {name: api, namespace: default}}}"),
        [f"[Policy default.p ingress] -m set --match-set {SERVICE} src {ACCEPT}"],
    ),
    (
        "notSelector narrows a selector, accounts stand before it",
        gnp("{action: Allow, source: {selector: app == 'web', notSelector: has(old), serviceAccounts: {names: [b, a]}}}"),
        [
            "[Policy default.p ingress] -m set --match-set "
            + of('((projectcalico.org/serviceaccount in {"a", "b"}) && (app == "web")) && !has(old)')
            + f" src {ACCEPT}"
        ],
    ),
]  # fmt: skip


@pytest.mark.parametrize(("policy", "expected"), [row[1:] for row in RENDERED], ids=[row[0] for row in RENDERED])
def test_a_policy_s_chain(policy: str, expected: list[str], tmp_path: Path) -> None:
    assert only(shop(tmp_path, policy), "default/api-0", "cali-pi-") == expected


def test_the_id_of_a_set_is_that_of_a_real_node() -> None:
    """NetworkPolicy default/haejun-policy, from pods with role=allower and user=haejun: a published `ipset list`."""
    peer = "{podSelector: {matchLabels: {user: haejun, role: allower}}}"
    policy = yaml.safe_load(knp(f"{{ingress: [{{from: [{peer}], ports: [{{port: 80}}]}}]}}"))
    selector = policy["spec"]["ingress"][0]["from"][0]["podSelector"]["matchLabels"]
    text = cp.pod_selector(LabelSelector(selector))
    assert text == "projectcalico.org/orchestrator == 'k8s' && role == 'allower' && user == 'haejun'"
    assert of(f"(projectcalico.org/namespace == 'default') && ({text})") == "cali40s:dSXImMSA1iXOPxYRYLVorAP"


NAMES = "{action: Allow, protocol: TCP, destination: {ports: [http]}}"
BLOCKLIST = """{kind: GlobalNetworkSet, apiVersion: projectcalico.org/v3, metadata: {name: s, labels: {feed: bad}},
  spec: {nets: [%s]}}"""
API = """{kind: Service, apiVersion: v1, metadata: {name: api}, spec: {clusterIP: 10.96.0.9, selector: {app: api},
  ports: [{name: a, port: 80, targetPort: http}, {name: b, port: 53, protocol: UDP, targetPort: dns}]}}"""
AT_SERVICE = "{action: Allow, destination: {services: {name: api, namespace: default}}}"

# what is said, objects, family, type of the only set, members
MEMBERS: list[tuple[str, list[str], int, str, str]] = [
    ("pods of the namespace", [knp("{ingress: [{from: [{podSelector: {}}]}]}")], 4, "hash:net", "10.244.0.2 10.244.0.3"),
    ("their other address", [knp("{ingress: [{from: [{podSelector: {}}]}]}")], 6, "hash:net", "fd00:244::2 fd00:244::3"),
    ("nobody", [knp("{ingress: [{from: [{podSelector: {matchLabels: {a: b}}}]}]}")], 4, "hash:net", ""),
    (
        "pods of other namespaces",
        [knp("{ingress: [{from: [{namespaceSelector: {matchLabels: {kubernetes.io/metadata.name: data}}}]}]}")],
        4, "hash:net", "10.244.0.4",
    ),
    ("a port's name, each with its own number", [gnp(NAMES)], 4, "hash:ip,port", "10.244.0.3,tcp:8080 10.244.0.4,tcp:80"),
    (
        "nets of a set; what lies in another is left out",
        [gnp("{action: Deny, source: {selector: feed == 'bad'}}"), BLOCKLIST % "1.2.0.0/16, 1.2.3.0/24, 9.9.9.9, fd00::/8"],
        4, "hash:net", "1.2.0.0/16 9.9.9.9",
    ),
    (
        "everything is two halves",
        [gnp("{action: Deny, source: {selector: feed == 'bad'}}"), BLOCKLIST % "0.0.0.0/0, 1.2.3.0/24"],
        4, "hash:net", "0.0.0.0/1 128.0.0.0/1",
    ),
    ("a service's endpoints", [gnp(AT_SERVICE), API], 4, "hash:ip,port", "10.244.0.3,tcp:8080 10.244.0.3,udp:53"),
    (
        "a service's endpoints as sources",
        [gnp("{action: Allow, source: {services: {name: api, namespace: default}}}"), API],
        4, "hash:net", "10.244.0.3",
    ),
]  # fmt: skip


@pytest.mark.parametrize(("objects", "family", "kind", "members"), [row[1:] for row in MEMBERS], ids=[row[0] for row in MEMBERS])
def test_an_ipset_s_members(objects: list[str], family: int, kind: str, members: str, tmp_path: Path) -> None:
    cluster = shop(tmp_path, *objects)
    (found,) = FelixPolicies(cluster).of(cluster.pods["default/api-0"], family).sets.values()
    assert (found.type, found.family, found.name[:6], len(found.name)) == (kind, family, f"cali{family}0", 31)
    assert " ".join(map(str, found.entries)) == members


# -- a pod's own chain ---------------------------------------------------------------------------------------------------

START, END = "[Start of tier {}] -j MARK --set-xmark 0x0/0x20000", "[End of tier {}. Drop if no policies passed packet]"
NOT_PASSED, IF_ACCEPTED = "-m mark --mark 0x0/0x20000", f"[Return if policy accepted] {RETURNS}"


def chain(direction: str, tier: str, name: str) -> str:
    return policy_chain(direction, cp.Policy(tier, name, 0.0, "", ()))


def test_tiers_stand_one_after_the_other(tmp_path: Path) -> None:
    """A tier with defaultAction Pass has no end; one without a policy for the pod in that direction is not there."""
    cluster = shop(
        tmp_path,
        "{kind: Tier, apiVersion: projectcalico.org/v3, metadata: {name: audit}, spec: {order: 10, defaultAction: Pass}}",
        "{kind: Tier, apiVersion: projectcalico.org/v3, metadata: {name: sec}, spec: {order: 20}}",
        "{kind: GlobalNetworkPolicy, apiVersion: projectcalico.org/v3, metadata: {name: audit.a}, spec: {tier: audit, "
        "selector: app == 'api', ingress: [{action: Log}]}}",
        "{kind: GlobalNetworkPolicy, apiVersion: projectcalico.org/v3, metadata: {name: sec.b}, spec: {tier: sec, "
        "selector: app == 'api', types: [Egress], egress: [{action: Pass}]}}",
        knp("{podSelector: {matchLabels: {app: api}}, ingress: [{}]}"),
    )
    assert only(cluster, "default/api-0", "to") == [
        START.format("audit"),
        f"{NOT_PASSED} -j {chain('Ingress', 'audit', 'audit.a')}",
        IF_ACCEPTED,
        START.format("default"),
        f"{NOT_PASSED} -j {chain('Ingress', 'default', 'default/knp.default.p')}",
        IF_ACCEPTED,
        f"{END.format('default')} {NOT_PASSED} -j DROP",
    ]
    assert only(cluster, "default/api-0", "from") == [
        START.format("sec"),
        f"{NOT_PASSED} -j {chain('Egress', 'sec', 'sec.b')}",
        IF_ACCEPTED,
        f"{END.format('sec')} {NOT_PASSED} -j DROP",
    ]
    assert only(cluster, "default/web-0", "") == []


def test_policies_with_one_selector_share_a_chain(tmp_path: Path) -> None:
    """With a look at the marks after every fifth; the one with another selector is jumped to by itself."""
    cluster = shop(
        tmp_path,
        *(knp("{podSelector: {matchLabels: {app: api}}, ingress: [{}]}", f"p{n}") for n in range(7)),
        knp("{ingress: [{}]}", "q"),
    )
    inner = [chain("Ingress", "default", f"default/knp.default.p{n}") for n in range(7)]
    named = [cp.of_network_policy(cluster.policies[f"default/p{n}"]) for n in range(7)]
    group = group_chain("Ingress", "default", named)
    assert re.fullmatch(r"cali-gi-[\w-]{20}", group)
    no_verdict = "-m mark --mark 0x0/0x30000"
    assert only(cluster, "default/api-0", "cali-gi-") == [
        f"-j {inner[0]}",
        *(f"{no_verdict} -j {name}" for name in inner[1:5]),
        "[Return on verdict] -m mark ! --mark 0x0/0x30000 -j RETURN",
        f"-j {inner[5]}",
        f"{no_verdict} -j {inner[6]}",
    ]
    assert [text for text in only(cluster, "default/api-0", "to") if "cali-" in text] == [
        f"{NOT_PASSED} -j {group}",
        f"{NOT_PASSED} -j {chain('Ingress', 'default', 'default/knp.default.q')}",
    ]


CLUSTER = """{kind: ClusterNetworkPolicy, apiVersion: policy.networking.k8s.io/v1alpha2, metadata: {name: %s},
  spec: {tier: %s, %s}}"""
SUBJECT = "priority: 7, subject: {namespaces: {}}"


def test_cluster_network_policies_are_tiers_before_and_behind(tmp_path: Path) -> None:
    cluster = shop(
        tmp_path,
        CLUSTER % ("a", "Admin", SUBJECT + ", ingress: [{name: no data, action: Deny, from: [{namespaces: {matchLabels: "
                   "{kubernetes.io/metadata.name: data}}}], protocols: [{tcp: {destinationPort: {number: 80}}}]}]"),
        CLUSTER % ("b", "Baseline", SUBJECT + ", egress: [{action: Deny, to: [{networks: [0.0.0.0/0]}]}]"),
    )  # fmt: skip
    data = of("pcns.kubernetes.io/metadata.name == 'data'")
    assert only(cluster, "default/api-0", "to") == [
        START.format("kube-admin"),
        f"{NOT_PASSED} -j {chain('Ingress', 'kube-admin', 'a')}",
        IF_ACCEPTED,
    ]
    assert only(cluster, "default/api-0", "cali-pi") == [
        f"-p tcp [name=no data] [Policy a ingress] -m set --match-set {data} src -m multiport --dports 80 {DENY}",
        f"[name=no data] {DROPS}",
    ]
    assert only(cluster, "default/api-0", "from")[0] == START.format("kube-baseline")
    assert only(cluster, "default/api-0", "cali-po") == [f"-d 0.0.0.0/0 [Policy b egress] {DENY}", DROPS]


def test_admin_network_policies_have_tiers_of_their_own(tmp_path: Path) -> None:
    """v1alpha1, as Calico v3.30 reads them."""
    cluster = shop(
        tmp_path,
        "{kind: AdminNetworkPolicy, apiVersion: policy.networking.k8s.io/v1alpha1, metadata: {name: a}, spec: "
        f"{{{SUBJECT}, ingress: [{{action: Pass, from: [{{namespaces: {{}}}}]}}]}}}}",
        "{kind: BaselineAdminNetworkPolicy, apiVersion: policy.networking.k8s.io/v1alpha1, metadata: {name: default}, spec: "
        "{subject: {namespaces: {}}, ingress: [{action: Deny, from: [{namespaces: {}}]}]}}",
    )
    assert [text for text in only(cluster, "default/api-0", "to") if text.startswith("[Start") or " -j cali" in text] == [
        START.format("adminnetworkpolicy"),
        f"{NOT_PASSED} -j {chain('Ingress', 'adminnetworkpolicy', 'kanp.adminnetworkpolicy.a')}",
        START.format("baselineadminnetworkpolicy"),
        f"{NOT_PASSED} -j {chain('Ingress', 'baselineadminnetworkpolicy', 'kbanp.baselineadminnetworkpolicy.default')}",
    ]


def test_chains_and_sets_are_made_once(tmp_path: Path) -> None:
    """1,000 pods of 200 policies are rendered in well under a second: what pods share is one object."""
    every, some = knp("{ingress: [{from: [{podSelector: {}}]}]}"), knp("{podSelector: {matchLabels: {app: api}}}", "q")
    cluster = shop(tmp_path, every, some)
    policies = FelixPolicies(cluster)
    api, web = (policies.of(cluster.pods[f"default/{app}-0"], 4) for app in ("api", "web"))
    assert policies.of(cluster.pods["default/api-0"], 4) is api
    assert len(web.chains) == 1 < len(api.chains)
    assert all(web.chains[name] is api.chains[name] for name in web.chains)
    assert all(web.sets[name] is api.sets[name] for name in web.sets)


def test_every_rule_knows_its_line(tmp_path: Path) -> None:
    cluster = shop(tmp_path, knp("{\n  ingress: [\n    {ports: [{port: 80}]},\n    {ports: [{port: 81}]}]}"))
    found = FelixPolicies(cluster).of(cluster.pods["default/api-0"], 4)
    lines = [r.ref.line for rules in found.chains.values() for r in rules if r.ref is not None]
    first = cluster.policies["default/p"].ref.line
    assert first is not None
    assert sorted(set(lines)) == [first + 2, first + 3]
    assert len(lines) == sum(map(len, found.chains.values()))
    assert all(r.ref is not None and r.ref.line == first for r in found.ingress)


# -- host endpoints ------------------------------------------------------------------------------------------------------

HEP = "{kind: HostEndpoint, apiVersion: projectcalico.org/v3, metadata: {name: %s, labels: {host: one}}, spec: {node: n1, %s}}"
KNOWN = ["-m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT", "-m conntrack --ctstate INVALID -j DROP"]
UNMARKED = "-j MARK --set-xmark 0x0/0x30000"


def tables(cluster: Cluster, node: str = "n1") -> dict[tuple[str, str], list[str]]:
    """(table, chain) -> rules, without hashes, of a node's IPv4."""
    return {
        (table.name, name): [plain(str(r)) for r in chain_.rules]
        for table in Tracer(cluster).network.namespaces[node].rulesets[4].tables
        for name, chain_ in table.chains.items()
        if name.startswith("cali-")
    }


def on_host(rule_: str, name: str = "p", **more: str) -> str:
    spec = ", ".join([f"ingress: [{rule_}]", "selector: has(host)", *(f"{key}: {value}" for key, value in more.items())])
    return f"{{kind: GlobalNetworkPolicy, apiVersion: projectcalico.org/v3, metadata: {{name: {name}}}, spec: {{{spec}}}}}"


def test_an_endpoint_of_a_device_has_chains_in_filter_and_mangle(tmp_path: Path) -> None:
    found = tables(shop(tmp_path, HEP % ("h", "interfaceName: eth0, profiles: [gone]"), on_host("{action: Allow}")))
    policy = chain("Ingress", "default", "default.p")
    profile = ["-j cali-pri-gone", f"[Return if profile accepted] {RETURNS}", "[Drop if no profiles matched] -j DROP"]
    tier = [START.format("default"), f"{NOT_PASSED} -j {policy}", IF_ACCEPTED, f"{END.format('default')} {NOT_PASSED} -j DROP"]
    assert found["filter", "cali-from-host-endpoint"] == ["-i eth0 -g cali-fh-eth0"]
    assert found["filter", "cali-fh-eth0"] == [*KNOWN, "-j cali-failsafe-in", UNMARKED, *tier, *profile]
    assert found["filter", "cali-th-eth0"] == [
        *KNOWN, "-j cali-failsafe-out", UNMARKED, *(text.replace("-pri-", "-pro-") for text in profile)
    ]  # fmt: skip
    assert found["filter", "cali-pri-gone"] == [f"[Profile gone ingress] {DENY}", DROPS]
    assert found["filter", "cali-fhfw-eth0"] == [
        *KNOWN, UNMARKED, f"[Allow forwarded traffic by default] {ACCEPT}", "[Return for accepted forward traffic] -j RETURN"
    ]  # fmt: skip
    assert found["mangle", "cali-from-host-endpoint"] == []
    assert found["mangle", "cali-to-host-endpoint"] == ["-o eth0 -g cali-th-eth0"]
    assert found["mangle", "cali-th-eth0"][:5] == [
        f"-m conntrack --ctstate RELATED,ESTABLISHED {ACCEPT}",
        "-m conntrack --ctstate RELATED,ESTABLISHED -j RETURN",
        "-m conntrack --ctstate INVALID -j DROP",
        "-j cali-failsafe-out",
        UNMARKED,
    ]
    assert found["raw", "cali-from-host-endpoint"] == []


def test_an_endpoint_of_all_devices_is_the_end_of_the_dispatch(tmp_path: Path) -> None:
    found = tables(shop(tmp_path, HEP % ("h", "interfaceName: '*'"), HEP % ("i", "expectedIPs: [192.168.50.11]")))
    assert found["filter", "cali-from-host-endpoint"] == ["-i eth0 -g cali-fh-eth0", "-g cali-fh-any-interface-at-all"]
    assert found["mangle", "cali-to-host-endpoint"] == [
        "-o eth0 -g cali-th-eth0",
        "-o cali+ [Skip egress WHEP policy for traffic to local workload] -j RETURN",
        "-g cali-th-any-interface-at-all",
    ]


def test_before_dnat_and_untracked(tmp_path: Path) -> None:
    """Neither drops at a tier's end: the filter table comes after them."""
    before = on_host("{action: Deny, protocol: TCP}", "b", preDNAT="true", applyOnForward="true")
    free = on_host("{action: Allow, protocol: UDP}", "u", doNotTrack="true", applyOnForward="true")
    found = tables(shop(tmp_path, HEP % ("h", "interfaceName: eth0"), before, free))
    assert found["mangle", "cali-fh-eth0"] == [
        *KNOWN, "-j cali-failsafe-in", UNMARKED, START.format("default"),
        f"{NOT_PASSED} -j {chain('Ingress', 'default', 'default.b')}", IF_ACCEPTED,
    ]  # fmt: skip
    assert found["raw", "cali-fh-eth0"] == [
        "-j cali-failsafe-in", UNMARKED, START.format("default"), f"{NOT_PASSED} -j {chain('Ingress', 'default', 'default.u')}",
        "-m mark --mark 0x10000/0x10000 -j NOTRACK", IF_ACCEPTED,
    ]  # fmt: skip
    assert not any("Start of tier" in text for text in found["filter", "cali-fh-eth0"])
    assert len(found["raw", "cali-failsafe-in"]) == 18 == 2 * len(found["mangle", "cali-failsafe-in"])


def test_failsafe_ports_have_published_hashes(tmp_path: Path) -> None:
    rules = Tracer(shop(tmp_path, HEP % ("h", "interfaceName: eth0"))).network.namespaces["n1"].rulesets[4]
    table = rules.table("filter")
    assert table is not None
    assert [str(r) for r in table.chains["cali-failsafe-in"].rules][:2] == [
        '-p tcp -m comment --comment "cali:wWFQM43tJU7wwnFZ" -m multiport --dports 22 -j ACCEPT',
        '-p udp -m comment --comment "cali:LwNV--R8MjeUYacw" -m multiport --dports 68 -j ACCEPT',
    ]


FORWARD = "{action: Allow, source: {nets: [9.9.9.0/24]}}"

# what is said, policies for the endpoint of n1's eth0, question, verdict
AT_HOSTS = [
    ("what is forwarded is nothing to normal policies", [on_host("{action: Deny}")], "1.2.3.4 -> default/web-0:80", "allowed"),
    ("it is to those that apply on forward", [on_host(FORWARD, applyOnForward="true")], "1.2.3.4 -> default/web-0:80", "denied"),
    ("and these allow", [on_host(FORWARD, applyOnForward="true")], "9.9.9.9 -> default/web-0:80", "allowed"),
    ("they are about the host, too", [on_host(FORWARD, applyOnForward="true")], "1.2.3.4 -> n1:80", "denied"),
    (
        "before DNAT what comes to the host and what it forwards are one",
        [on_host("{action: Deny, source: {nets: [1.2.0.0/16]}}", preDNAT="true", applyOnForward="true")],
        "1.2.3.4 -> default/web-0:80", "denied",
    ),
    (
        "before DNAT an Allow is final",
        [on_host("{action: Allow}", "a", preDNAT="true", applyOnForward="true"), on_host("{action: Deny}")],
        "1.2.3.4 -> n1:80", "allowed",
    ),
    (
        "an untracked Deny needs no connection",
        [on_host("{action: Deny, protocol: TCP}", doNotTrack="true", applyOnForward="true")],
        "1.2.3.4 -> default/web-0:80", "denied",
    ),
    ("a pod of the host goes by cali-wl-to-host", [], "default/web-0 -> n1:80", "allowed"),
    ("another host's way here is closed", [], "n2 -> n1:80", "denied"),
    ("but for failsafe ports", [], "n2 -> n1:22", "allowed"),
]  # fmt: skip


@pytest.mark.parametrize(("policies", "asked", "says"), [row[1:] for row in AT_HOSTS], ids=[row[0] for row in AT_HOSTS])
def test_at_a_host_endpoint(policies: list[str], asked: str, says: str, tmp_path: Path) -> None:
    source, _, destination = asked.partition(" -> ")
    at = "n1" if source[0].isdigit() else None
    tracer = Tracer(shop(tmp_path, HEP % ("h", "interfaceName: eth0"), *policies))
    assert verdict(tracer, Request(source, destination, "tcp", at=at)) == says


FELIX = "{kind: FelixConfiguration, apiVersion: projectcalico.org/v3, metadata: {name: %s}, spec: {%s}}"


def test_a_felix_configuration_is_heard(tmp_path: Path) -> None:
    """Of all nodes, and of one; a net of the other family is left out."""
    ports_ = "[{protocol: TCP, port: 22, net: 192.168.50.0/24}, {protocol: udp, port: 7, net: 'fd00::/8'}]"
    cluster = shop(
        tmp_path,
        HEP % ("h", "interfaceName: eth0"),
        gnp("{action: Log}", selector="app == 'api'"),
        FELIX % ("default", "logPrefix: calico-says, allowVXLANPacketsFromWorkloads: true, failsafeOutboundHostPorts: []"),
        FELIX % ("node.n1", f"failsafeInboundHostPorts: {ports_}"),
    )
    found = tables(cluster)
    assert found["filter", "cali-failsafe-in"] == ["-s 192.168.50.0/24 -p tcp -m multiport --dports 22 -j ACCEPT"]
    assert found["filter", "cali-failsafe-out"] == []
    egress = found["filter", f"cali-fw-{device_of(cluster.pods['default/web-0'])}"]
    assert [text.partition("]")[0] for text in egress if "originating" in text] == [
        "-p ipencap [Drop IPinIP encapped packets originating in workloads"
    ]
    assert '--log-prefix "calico-says: "' in only(cluster, "default/api-0", "cali-pi-")[0]
    tracer = Tracer(cluster)
    asked = [("n2", 22), ("n2", 179), ("9.9.9.9", 22)]
    said = [verdict(tracer, Request(s, f"n1:{port}", "tcp", at="n1" if s[0].isdigit() else None)) for s, port in asked]
    assert said == ["allowed", "denied", "denied"]
    index = tracer.policies
    ends = {"n2": index.node(cluster.nodes["n2"]), "9.9.9.9": index.end(ip("9.9.9.9"))}
    decided = [decide(index, Flow(ends[s], index.node(cluster.nodes["n1"]), 6, port)).says.value for s, port in asked]
    assert decided == said
    web, out = index.pod(cluster.pods["default/web-0"], 4), index.end(ip("9.9.9.9"))
    assert [decide(index, Flow(web, out, *tunnel)).says.value for tunnel in ((17, 4789), (4, 0))] == ["allowed", "denied"]
    assert verdict(tracer, Request("default/web-0", "9.9.9.9:4789", "udp")) == "allowed"


def test_what_a_felix_configuration_asks_for_and_is_not_rendered_is_named(tmp_path: Path) -> None:
    cluster = shop(tmp_path, FELIX % ("default", "bpfEnabled: true, chainInsertMode: Insert, iptablesFilterDenyAction: Reject"))
    remarks = Tracer(cluster).trace(Request("default/web-0", "default/api-0:8080")).not_modelled
    assert "bpfEnabled of FelixConfiguration default (True)" in remarks
    assert "iptablesFilterDenyAction of FelixConfiguration default (Reject)" in remarks
    assert not any("chainInsertMode" in said for said in remarks)


# -- kube-proxy in ipvs mode ---------------------------------------------------------------------------------------------


def ipvs(tmp_path: Path, *documents: str) -> Cluster:
    shop(tmp_path, *documents)
    return load([str(tmp_path / "shop.yaml")], overrides=Overrides(proxy_mode="ipvs"))


def test_what_ipvs_forwards_carries_the_mark_of_its_endpoint(tmp_path: Path) -> None:
    """INPUT marks it, OUTPUT asks by the mark for the policies of where it came from, then of where it goes."""
    found = tables(ipvs(tmp_path, HEP % ("h", "interfaceName: eth0")))
    web = device_of(Pod(name="web-0", namespace="default"))
    mark = f"{endpoint_marks([web])[web]:#x}/0xffe00000"
    assert found["filter", "cali-INPUT"][2:5] == [
        "-j MARK --set-xmark 0x0/0xffe00000", "-j cali-forward-check", "-m mark ! --mark 0x0/0xffe00000 -j RETURN"
    ]  # fmt: skip
    assert found["filter", "cali-forward-check"] == [
        "-m conntrack --ctstate RELATED,ESTABLISHED -j RETURN",
        *(
            f"-p {proto} [To kubernetes NodePort service] -m multiport --dports 30000:32767 "
            "-m set --match-set cali40this-host dst -g cali-set-endpoint-mark"
            for proto in ("tcp", "udp")
        ),
        "[To kubernetes service] -m set ! --match-set cali40this-host dst -j cali-set-endpoint-mark",
    ]
    assert found["filter", "cali-set-endpoint-mark"][-3:] == [
        "-i eth0 -g cali-sm-eth0",
        "-i cali+ [Unknown endpoint] -j DROP",
        "[Non-Cali endpoint mark] -j MARK --set-xmark 0x200000/0xffe00000",
    ]
    assert found["filter", f"cali-sm-{web}"] == [f"-j MARK --set-xmark {mark}"]
    assert found["filter", "cali-OUTPUT"][1] == "-m mark ! --mark 0x0/0xffe00000 -g cali-forward-endpoint-mark"
    assert f"-m mark --mark {mark} -g cali-fw-{web}" in found["filter", "cali-from-endpoint-mark"]
    assert found["filter", "cali-from-endpoint-mark"][-2].endswith("-g cali-fhfw-eth0")
    assert found["filter", "cali-forward-endpoint-mark"] == [
        "-m mark ! --mark 0x200000/0xffe00000 -j cali-from-endpoint-mark",
        "-o cali+ -j cali-to-wl-dispatch",
        "-j cali-to-hep-forward",
        "-j MARK --set-xmark 0x0/0xffe00000",
        "[Policy explicitly accepted packet.] -m mark --mark 0x10000/0x10000 -j ACCEPT",
    ]
    assert found["mangle", "cali-POSTROUTING"][1] == "-m mark ! --mark 0x0/0xffe00000 -j RETURN"


def test_endpoints_of_one_hash_have_two_marks() -> None:
    """2,046 endpoints have a mark, the next has none (felix/rules/epmark.go)."""
    marks = endpoint_marks(f"cali{n:011x}" for n in range(2100))
    assert len(marks) == len(set(marks.values())) == 2046
    assert not {0, 0x200000} & set(marks.values())


@pytest.mark.parametrize(
    ("policy", "source", "says"),
    [
        ("{podSelector: {matchLabels: {app: api}}}", "default/web-0", "denied"),
        ("{podSelector: {matchLabels: {app: api}}}", "n2", "denied"),
        ("{podSelector: {matchLabels: {app: api}}, ingress: [{ports: [{port: http}]}]}", "default/web-0", "allowed"),
        ("{podSelector: {matchLabels: {app: web}}, policyTypes: [Egress]}", "default/web-0", "denied"),
        ("{podSelector: {matchLabels: {app: web}}, egress: [{ports: [{port: 80}]}]}", "default/web-0", "denied"),
        ("{podSelector: {matchLabels: {app: web}}, egress: [{ports: [{port: 8080}]}]}", "default/web-0", "allowed"),
        ("{podSelector: {}}", "n1", "allowed"),  # the node's own pods are open to it
    ],
)
def test_policies_hold_for_what_ipvs_forwards(policy: str, source: str, says: str, tmp_path: Path) -> None:
    """Ports are those of the endpoint, as ever."""
    assert verdict(Tracer(ipvs(tmp_path, knp(policy), API)), Request(source, "svc/api:80", "tcp")) == says


# -- rules and semantics -------------------------------------------------------------------------------------------------


def verdict(tracer: Tracer, request: Request) -> str:
    """`denied` where a rule drops it; what nobody listens for is refused, and so allowed."""
    trace = tracer.trace(request)
    if trace.verdict is Verdict.DROPPED:
        assert all("cali-" in (branch.reason or "") for branch in trace.branches), trace.branches[0].reason
        return "denied"
    return "allowed" if trace.verdict in (Verdict.DELIVERED, Verdict.REJECTED) else trace.verdict.value


# rows of what a trace cannot be asked, or that it answers elsewhere
NOT_TRACED = {
    "10.7.0.99 -> x/b tcp/80": "nobody has that address",
    "x/a -> 1.2.3.4 ipip": "a protocol that trace does not send; test_felix has the rule",
}
ASKED = [
    pytest.param(row, line, id=f"{row['case']}-{line}".replace(" ", "_"))
    for row in ROWS
    for line in row.get("flows", ())
    if ": undefined" not in line and line.partition(": ")[0] not in NOT_TRACED
    if not {"via", "seen", "established"} & set(line.partition(": ")[0].split())
]


@pytest.fixture(scope="module")
def tracers(tmp_path_factory: pytest.TempPathFactory) -> dict[int, Tracer]:
    """One tracer for each row: the world of the corner cases with Calico, pods' addresses unencapsulated."""
    made = {}
    for row in ROWS:
        folder = tmp_path_factory.mktemp("row")
        (folder / "pools.yaml").write_text(POOLS)
        files = [DATA / "world.yaml", folder / "pools.yaml"]
        policies = [
            {"kind": "NetworkPolicy", "apiVersion": "networking.k8s.io/v1", "spec": spec}
            | {"metadata": {"name": key.split("/")[1], "namespace": key.split("/")[0]}}
            for key, spec in (row.get("policy") or {}).items()
        ]
        (folder / "p.yaml").write_text(yaml.safe_dump_all(policies) + "\n---\n" + row.get("objects", ""))
        made[id(row)] = Tracer(load([*map(str, files), str(folder / "p.yaml")], overrides=Overrides(cni="calico")))
    return made


@pytest.mark.parametrize(("row", "line"), ASKED)
def test_the_rules_say_what_the_corner_case_says(row: dict[str, str], line: str, tracers: dict[int, Tracer]) -> None:
    """Every corner case of docs/policy.md, walked through Felix's rules."""
    asked, _, expected = line.rpartition(": ") if line.count(": ") == 1 else line.partition(": ")
    source, _, destination, what, *words = asked.split()
    protocol_, _, port = what.partition("/")
    if port:
        destination = f"[{destination}]:{port}" if destination.count(":") > 1 else f"{destination}:{port}"
    at = "n1" if source[0].isdigit() else None
    request = Request(source, destination, protocol_, at=at, family=6 if "v6" in words else 4)
    assert verdict(tracers[id(row)], request) == expected.split()[0]


@pytest.fixture(scope="module")
def plain_world(tmp_path_factory: pytest.TempPathFactory) -> Cluster:
    pools = tmp_path_factory.mktemp("world") / "pools.yaml"
    pools.write_text(POOLS)
    return load([str(DATA / "world.yaml"), str(pools)], overrides=Overrides(cni="calico"))


@settings(max_examples=60, deadline=None)
@given(policy_lists, st.lists(calico_policies, max_size=4), st.lists(asked_flows, min_size=4, max_size=8))
def test_rules_and_semantics_agree_on_random_policies(
    plain_world: Cluster, policies: list[NetworkPolicy], of_calico: list[CalicoPolicy], asked: list[str]
) -> None:
    """NetworkPolicies and Calico's in three tiers, from pods, hostNetwork pods, nodes and outside."""
    objects = PolicyObjects(calico={f"{p.kind}/{p.key}": p for p in of_calico}, tiers=TIERS, network_sets=SETS)
    tracer = Tracer(replace(plain_world, policies={p.key: p for p in policies}, policy_objects=objects))
    for text in asked:
        question = flow(tracer.policies, text)
        source, destination = question.source, question.destination
        if source.ip == destination.ip or (source.node and source.node == destination.node) or (source.pod, source.node) == (
            destination.pod, destination.node
        ):  # fmt: skip
            continue  # to itself, and from outside to outside
        name, _, to, what = text.split()
        protocol_, _, port = what.partition("/")
        at = tracer.policies.pods[destination.pod].node_name if destination.pod >= 0 else destination.node
        request = Request(name, f"{to}:{port}" if port else to, protocol_, at=at if name[0].isdigit() else None)
        assert verdict(tracer, request) == decide(tracer.policies, question).says.value, text


PORTS = [("tcp", 6, 8080), ("tcp", 6, 9000), ("tcp", 6, 53), ("udp", 17, 53), ("sctp", 132, 7)]


@pytest.mark.parametrize("name", ["calico-bgp", "canal"])
def test_rules_and_semantics_agree_on_all_pairs_of_pods(name: str) -> None:
    tracer = Tracer(load([str(ROOT / "topologies" / f"{name}.yaml")]))
    index, said = tracer.policies, {"allowed": 0, "denied": 0}
    for source in index.pods:
        for destination in index.pods:
            if source is destination:
                continue
            for protocol_, number, port in PORTS:
                question = Flow(index.pod(source), index.pod(destination), number, port)
                expected = decide(index, question).says
                found = verdict(tracer, Request(source.key, f"{destination.key}:{port}", protocol_))
                assert found == expected.value, (source.key, destination.key, protocol_, port)
                said[found] += 1
    assert min(said.values()) > 20, said
