"""`netlab diff` of two states: what a reviewer reads, row by row; its laws; bad input."""

from __future__ import annotations

import io
import json
import re
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from msgspec.structs import replace

from netlab.cli.main import main
from netlab.kube.load import load_pair
from netlab.reach.compare import Comparison, Kind, compare
from netlab.reach.fold import fold
from netlab.render import compare as drawing
from netlab.trace.query import Tracer

ROOT = Path(__file__).resolve().parent.parent
EXAMPLE = str(ROOT / "topologies" / "flannel-vxlan.yaml")


def deployment(name: str, port: int, labels: str = "", replicas: int = 1, extra: str = "") -> str:
    labels = labels or f"app: {name}"
    return (
        f"apiVersion: apps/v1\nkind: Deployment\nmetadata: {{name: {name}, namespace: shop}}\nspec: {{replicas: {replicas}, "
        f"selector: {{matchLabels: {{run: {name}}}}}, template: {{metadata: {{labels: {{run: {name}, {labels}}}}}, "
        f"spec: {{containers: [{{name: a, ports: [{{containerPort: {port}}}{extra}]}}]}}}}}}\n"
    )


def service(name: str, port: int, target: int, selector: str = "", kind: str = "ClusterIP") -> str:
    return (
        f"apiVersion: v1\nkind: Service\nmetadata: {{name: {name}, namespace: shop}}\n"
        f"spec: {{type: {kind}, selector: {{{selector or f'app: {name}'}}}, ports: [{{port: {port}, targetPort: {target}}}]}}\n"
    )


K8S = "networking.k8s.io/v1"


def policy(name: str, spec: str, kind: str = "NetworkPolicy", group: str = K8S, namespace: str = "shop") -> str:
    where = f", namespace: {namespace}" if namespace else ""
    return f"apiVersion: {group}\nkind: {kind}\nmetadata: {{name: {name}{where}}}\nspec: {spec}\n"


TOPOLOGY = """
apiVersion: netlab/v1
kind: Topology
metadata: {name: shop}
nodes:
- {name: node-1, addresses: [192.168.50.11]}
- {name: node-2, addresses: [192.168.50.12]}
fabric: {prefixes: [192.168.50.0/24], gateways: [192.168.50.1]}
podCIDR: 10.244.0.0/16
serviceCIDR: 10.96.0.0/16
cni: {name: CNI}
"""
WORKLOADS = [
    deployment("front", 8080),
    deployment("api", 9000),
    deployment("db", 5432),
    service("front", 80, 8080, kind="NodePort"),
    service("api", 80, 9000),
    service("db", 5432, 5432),
]
DB = "{matchLabels: {app: db}}"
DENY_DB = policy("deny-db", f"{{podSelector: {DB}}}")
DENY_ALL = policy("deny-all", "{podSelector: {}}")
API_TO_DB = policy(
    "api-to-db",
    f"{{podSelector: {DB}, ingress: [{{from: [{{podSelector: {{matchLabels: {{app: api}}}}}}], ports: [{{port: 5432}}]}}]}}",
)
API_TO_DB_WRONG = API_TO_DB.replace("5432", "5433")
NOBODY = policy("nobody", "{podSelector: {matchLabels: {app: cache}}}")
FRONT_OUT = policy(
    "front-out",
    "{podSelector: {matchLabels: {app: front}}, policyTypes: [Egress], egress: "
    "[{to: [{ipBlock: {cidr: 198.51.100.0/24, except: [198.51.100.128/25]}}], ports: [{port: 8443}]}]}",
)
NOT_FROM_API = policy(
    "not-from-api",
    "{selector: app == 'db', order: 10, ingress: [{action: Deny, source: {selector: app == 'api'}}, {action: Allow}]}",
    "GlobalNetworkPolicy",
    "projectcalico.org/v3",
    "",
)
STAGED = policy("staged", "{selector: app == 'db'}", "StagedNetworkPolicy", "projectcalico.org/v3")
OF_NO_TIER = policy("sec.db", "{tier: sec, selector: app == 'db'}", "NetworkPolicy", "projectcalico.org/v3")
FROM_HOSTS = policy(
    "from-hosts",
    "{podSelector: {matchLabels: {app: front}}, ingress: [{from: [{ipBlock: {cidr: 203.0.113.0/24}}, {podSelector: {}}]}]}",
)


def write(directory: Path, name: str, documents: list[str], cni: str = "calico") -> str:
    file = directory / f"{name}.yaml"
    file.write_text("---\n".join([TOPOLOGY.replace("CNI", cni), *documents]))
    return str(file)


def compared(tmp_path: Path, before: list[str], after: list[str], **options: object) -> Comparison:
    """Both states are the shop with these documents instead of or beside its own."""
    cni = str(options.pop("cni", "calico"))
    files = [write(tmp_path, name, documents, cni) for name, documents in (("before", before), ("after", after))]
    first, second = load_pair((), files[:1], files[1:])
    return compare(Tracer(first), Tracer(second), **options)  # type: ignore[arg-type]


def told(found: Comparison) -> list[str]:
    """What text says, without the places and the indents."""
    lines = [re.sub(r" \([^() ]*\.yaml:\d+\)|  \S*\.yaml:\d+", "", line) for line in drawing.text(found).splitlines()]
    return [" ".join(line.split()) for line in lines if line.strip()]


SHOP = WORKLOADS
ROWS: list[tuple[str, list[str], list[str], list[str]]] = [
    ("nothing changes", SHOP, SHOP, ["27 flows: no difference"]),
    (
        "nobody may reach the database any more",
        SHOP,
        [*SHOP, DENY_DB],
        [
            "CLOSED",
            "every workload lost shop/db:5432, shop/svc/db:5432",
            "after denied (ingress): no rule of NetworkPolicy shop/deny-db allows it",
            "POLICIES",
            "+ NetworkPolicy shop/deny-db decides 5 flows that change",
            "27 flows: 5 closed, 22 the same",
        ],
    ),
    (
        "the database opens to one",
        [*SHOP, DENY_ALL],
        [*SHOP, DENY_ALL, API_TO_DB],
        [
            "OPENED",
            "shop/api gained shop/db:5432, shop/svc/db:5432",
            "before denied (ingress): no rule of NetworkPolicy shop/deny-all allows it",
            "after allowed (ingress): NetworkPolicy shop/api-to-db rule 1",
            "POLICIES",
            "+ NetworkPolicy shop/api-to-db decides 2 flows that change, 3 that stay",
            "27 flows: 2 opened, 25 the same, 3 of them decided by other rules",
        ],
    ),
    (
        "a port is mistyped",
        [*SHOP, API_TO_DB],
        [*SHOP, API_TO_DB_WRONG],
        [
            "CLOSED",
            "shop/api lost shop/db:5432, shop/svc/db:5432",
            "before allowed (ingress): NetworkPolicy shop/api-to-db rule 1",
            "after denied (ingress): no rule of NetworkPolicy shop/api-to-db allows it",
            "POLICIES",
            "~ NetworkPolicy shop/api-to-db decides 2 flows that change",
            "27 flows: 2 closed, 25 the same",
        ],
    ),
    (
        "a policy for nobody",
        SHOP,
        [*SHOP, NOBODY],
        [
            "POLICIES",
            "+ NetworkPolicy shop/nobody no flow changes: it selects nobody",
            "27 flows: no difference",
        ],
    ),
    (
        "a policy that another one makes superfluous",
        [*SHOP, DENY_ALL],
        [*SHOP, DENY_ALL, DENY_DB],
        [
            "POLICIES",
            "+ NetworkPolicy shop/deny-db no flow changes: 5 answers are decided by it and stay what they were",
            "27 flows: no difference, 5 of them decided by other rules",
        ],
    ),
    (
        "a policy goes",
        [*SHOP, DENY_DB],
        SHOP,
        [
            "OPENED",
            "every workload gained shop/db:5432, shop/svc/db:5432",
            "before denied (ingress): no rule of NetworkPolicy shop/deny-db allows it",
            "POLICIES",
            "- NetworkPolicy shop/deny-db decides 5 flows that change",
            "27 flows: 5 opened, 22 the same",
        ],
    ),
    (
        "one may leave for one network alone: its block, the hole in it, and the rest of the world are asked",
        SHOP,
        [*SHOP, FRONT_OUT],
        [
            "CLOSED",
            "shop/front lost shop/api:9000, shop/db:5432, shop/svc/api:80, shop/svc/db:5432, shop/svc/front:80 and 2 more",
            "after denied (egress): no rule of NetworkPolicy shop/front-out allows it",
            "POLICIES",
        ],
    ),
    (
        "a Calico rule that denies is named",
        SHOP,
        [*SHOP, NOT_FROM_API],
        [
            "CLOSED",
            "shop/api lost shop/db:5432, shop/svc/db:5432",
            "after denied (ingress): GlobalNetworkPolicy not-from-api rule 1",
            "POLICIES",
            "+ GlobalNetworkPolicy not-from-api decides 2 flows that change, 3 that stay",
            "27 flows: 2 closed, 25 the same, 3 of them decided by other rules",
        ],
    ),
    (
        "a staged policy does nothing",
        SHOP,
        [*SHOP, STAGED],
        [
            "POLICIES",
            "+ StagedNetworkPolicy shop/staged no flow changes: it is staged: never enforced",
            "27 flows: no difference",
        ],
    ),
    (
        "a policy of a tier that is not there",
        SHOP,
        [*SHOP, OF_NO_TIER],
        [
            "POLICIES",
            "+ NetworkPolicy shop/sec.db no flow changes: its tier sec is not among the input: it is not enforced",
            "27 flows: no difference",
        ],
    ),
    (
        "a service selects nobody any more",
        SHOP,
        [*SHOP[:-1], service("db", 5432, 5432, "app: database")],
        [
            "CLOSED",
            "every workload lost shop/svc/db:5432",
            'because "shop/db has no endpoints" (filter KUBE-SERVICES)',
            "27 flows: 3 closed, 24 the same",
        ],
    ),
    (
        "workloads and services come and go: told as such, not as changed flows",
        SHOP,
        [*[d for d in SHOP if "name: api" not in d], deployment("cache", 6379), service("cache", 6379, 6379)],
        [
            "ADDED AND REMOVED",
            "added workload shop/cache",
            "added service shop/svc/cache",
            "removed workload shop/api",
            "removed service shop/svc/api",
            "14 flows: 2 added, 2 removed, 14 the same",
        ],
    ),
    (
        "other labels on a Deployment: no policy selects its pods any more, and no service",
        [*SHOP, DENY_DB],
        [*[d for d in SHOP if "Deployment\nmetadata: {name: db" not in d], deployment("db", 5432, "app: store"), DENY_DB],
        [
            "OPENED",
            "every workload gained shop/db:5432",
            "before denied (ingress): no rule of NetworkPolicy shop/deny-db allows it",
            "27 flows: 2 opened, 25 the same, 3 of them decided by other rules",
        ],
    ),
    (
        "a port comes",
        SHOP,
        [deployment("front", 8080, extra=", {containerPort: 8081}"), *SHOP[1:]],
        ["ADDED AND REMOVED", "added port shop/front:8081", "27 flows: 1 added, 27 the same"],
    ),
    (
        "one of two pods of a workload stops to listen where the service sends",
        [deployment("db", 5432, replicas=2), *[d for d in SHOP if "Deployment\nmetadata: {name: db" not in d]],
        [deployment("db", 5432, replicas=2), *[d for d in SHOP if "Deployment\nmetadata: {name: db" not in d], DENY_DB],
        [
            "CLOSED",
            "every workload lost shop/db:5432, shop/svc/db:5432",
            "after denied (ingress): no rule of NetworkPolicy shop/deny-db allows it",
            "POLICIES",
        ],
    ),
]


@pytest.mark.parametrize(("name", "before", "after", "lines"), ROWS, ids=[row[0] for row in ROWS])
def test_what_a_reviewer_reads(name: str, before: list[str], after: list[str], lines: list[str], tmp_path: Path) -> None:
    found = told(compared(tmp_path, before, after))
    assert found[: len(lines)] == lines


def test_some_of_a_workloads_pods(tmp_path: Path) -> None:
    """Two pods of one workload with different labels: a dump may show that in the middle of a rollout."""

    def pods(second: str) -> list[str]:
        meta = "namespace: shop, ownerReferences: [{kind: ReplicaSet, name: db-1, controller: true}]"
        spec = "spec: {nodeName: node-%d, containers: [{name: a, ports: [{containerPort: 5432}]}]}"
        return [
            f"apiVersion: v1\nkind: Pod\nmetadata: {{name: db-{n}, {meta}, labels: {{app: {app}}}}}\n{spec % n}\n"
            for n, app in ((1, "db"), (2, second))
        ]

    rest = [WORKLOADS[0], service("db", 5432, 5432)]
    found = compared(tmp_path, [*pods("db"), *rest, DENY_DB], [*pods("other"), *rest, DENY_DB])
    assert told(found)[:3] == [
        "OPENED",
        "every workload gained some pods or endpoints of shop/db-1:5432",  # db-1's own two pods, too, from one to the other
        "before denied (ingress): no rule of NetworkPolicy shop/deny-db allows it",
    ]
    (change,) = [c for c in found.of(Kind.OPENED) if c.before.source == "shop/front" and c.before.destination.kind == "pods"]
    assert (change.after.delivered, change.after.pairs) == (1, 2)
    back = compared(tmp_path, [*pods("other"), *rest, DENY_DB], [*pods("db"), *rest, DENY_DB])
    assert "every workload lost the rest of shop/db-1:5432" in told(back)


def test_addresses_that_policies_speak_of_are_asked(tmp_path: Path) -> None:
    found = compared(tmp_path, SHOP, [*SHOP, FRONT_OUT])
    lost = {str(c.before.destination) for c in found.of(Kind.CLOSED)}
    assert {"internet:443", "198.51.100.129:8443"} <= lost
    assert "198.51.100.1:8443" in {str(c) for c in found.destinations} - lost
    hosts = compared(tmp_path, SHOP, [*SHOP, FROM_HOSTS.replace("203.0.113.0/24", "10.99.0.0/16")])
    assert hosts.sources[-2:] == ("internet", "external/10.99.0.1")


def test_many_addresses_are_not_left_out_in_silence(tmp_path: Path) -> None:
    blocks = ", ".join(f"{{ipBlock: {{cidr: 198.51.{n}.0/24}}}}" for n in range(40))
    found = compared(tmp_path, SHOP, [*SHOP, policy("many", f"{{podSelector: {DB}, ingress: [{{from: [{blocks}]}}]}}")])
    assert found.left_out == ("8 of the addresses that ingress rules speak of are not asked (32 are)",)
    assert len(found.sources) == 3 + 1 + 32


def test_without_an_engine_policies_change_nothing_and_it_says_so(tmp_path: Path) -> None:
    found = compared(tmp_path, SHOP, [*SHOP, DENY_ALL], cni="flannel")
    assert told(found)[:2] == ["POLICIES", "+ NetworkPolicy shop/deny-all no flow changes: flannel enforces no policies"]
    assert not found.differs


def test_only_what_the_change_concerns_is_asked(tmp_path: Path) -> None:
    found = compared(tmp_path, SHOP, [*SHOP, DENY_DB])
    assert (found.answers, found.asked) == (27, 8)  # four sources to the database's port and its service
    assert compared(tmp_path, SHOP, [*SHOP, NOBODY]).asked == 0
    every = compared(tmp_path, SHOP, [*SHOP, FRONT_OUT], everything=True)
    assert compared(tmp_path, SHOP, [*SHOP, FRONT_OUT]).asked < every.asked == every.answers


@pytest.mark.parametrize("by", ["pods", "namespaces"])
def test_pods_and_namespaces(by: str, tmp_path: Path) -> None:
    found = compared(tmp_path, SHOP, [*SHOP, DENY_DB], by=by)
    names = found.sources[:-1]
    assert len(names) == (3 if by == "pods" else 1)
    assert all(name.startswith("shop/front-") for name in names[2:])
    assert found.differs


# -- laws ----------------------------------------------------------------------------------------------------------------

POOL = [
    DENY_ALL,
    DENY_DB,
    API_TO_DB,
    API_TO_DB_WRONG.replace("api-to-db", "wrong"),
    NOBODY,
    FRONT_OUT,
    NOT_FROM_API,
    STAGED,
    FROM_HOSTS,
    policy(
        "egress-dns",
        "{podSelector: {}, policyTypes: [Egress], egress: [{ports: [{port: 53, protocol: UDP}]}, {to: [{podSelector: {}}]}]}",
    ),
    policy(
        "range",
        f"{{podSelector: {DB}, ingress: [{{from: [{{namespaceSelector: {{}}}}], ports: [{{port: 5000, endPort: 6000}}]}}]}}",
    ),
    policy(
        "admin",
        "{priority: 10, subject: {namespaces: {}}, ingress: [{action: Deny, from: [{pods: {namespaceSelector: {}, podSelector: "
        "{matchLabels: {app: front}}}}], ports: [{portNumber: {protocol: TCP, port: 5432}}]}]}",
        "AdminNetworkPolicy",
        "policy.networking.k8s.io/v1alpha1",
        "",
    ),
]
POLICIES = st.lists(st.sampled_from(POOL), unique=True, max_size=5)
FEW = settings(max_examples=15, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture], derandomize=True)


def bare(found: Comparison) -> Comparison:
    return replace(found, assumptions=(), not_modelled=(), asked=0)


@FEW
@given(one=POLICIES, other=POLICIES)
def test_a_comparison_has_a_mirror(one: list[str], other: list[str], tmp_path: Path) -> None:
    """The same files under the same names, so that places are the same, too."""
    files = [write(tmp_path, name, [*SHOP, *policies]) for name, policies in (("one", one), ("other", other))]
    first, second = (Tracer(c) for c in load_pair((), files[:1], files[1:]))
    there, back = compare(first, second), compare(second, first)
    assert bare(back) == bare(there.mirrored())
    assert bare(there.mirrored().mirrored()) == bare(there)
    assert compare(first, first).changes == ()
    assert compare(second, second).policies == ()


@FEW
@given(one=POLICIES, other=POLICIES)
def test_what_is_not_asked_has_not_changed(one: list[str], other: list[str], tmp_path: Path) -> None:
    files = [write(tmp_path, name, [*SHOP, *policies]) for name, policies in (("one", one), ("other", other))]
    first, second = (Tracer(c) for c in load_pair((), files[:1], files[1:]))
    quick, slow = compare(first, second), compare(first, second, everything=True)
    assert bare(quick) == bare(slow)
    assert slow.asked == slow.answers >= quick.asked


@FEW
@given(one=POLICIES, other=POLICIES)
def test_folding_loses_nothing(one: list[str], other: list[str], tmp_path: Path) -> None:
    found = compared(tmp_path, [*SHOP, *one], [*SHOP, *other])
    for kind in Kind:
        folds = fold(found, [kind])
        flows = sorted((c.before.source, str(c.before.destination)) for c in found.of(kind))
        assert sum(f.flows for f in folds) == len(flows)
        assert {(s, d) for s, d in flows} <= {(s, str(d)) for f in folds for s in f.sources for d in f.destinations}
        for f in folds:  # "every workload but": whoever is neither in it nor an exception is only itself
            if f.every:
                rest = {s for s in found.sources if s.startswith("shop/")} - set(f.sources) - set(f.exceptions)
                assert all(found.owners.get(d.name, frozenset()) & rest for d in f.destinations) or not rest


def test_several_processes_say_what_one_says(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    one = compared(tmp_path, SHOP, [*SHOP, DENY_ALL])
    monkeypatch.setattr("netlab.reach.matrix._FEW", 0)
    assert compared(tmp_path, SHOP, [*SHOP, DENY_ALL], jobs=3) == one


# -- forms ---------------------------------------------------------------------------------------------------------------


def test_json_has_every_flow(tmp_path: Path) -> None:
    found = compared(tmp_path, [*SHOP, DENY_ALL], [*SHOP, DENY_ALL, API_TO_DB, NOBODY])
    plain = json.loads(drawing.json(found))
    assert (plain["kind"], plain["differs"]) == ("Comparison", True)
    assert plain["summary"]["opened"] == 2
    opened = [f for f in plain["flows"] if f["change"] == "opened"]
    assert [(f["source"], f["destination"]) for f in opened] == [("shop/api", "shop/db:5432"), ("shop/api", "shop/svc/db:5432")]
    (before,), (after,) = opened[0]["before"]["policies"], opened[0]["after"]["policies"]
    assert (before["says"], before["policies"]) == ("denied", ["NetworkPolicy shop/deny-all"])
    assert (after["says"], after["rule"]) == ("allowed", 1)
    assert re.search(r"after\.yaml:\d+$", after["where"][0])
    (group,) = plain["groups"]
    assert group["text"] == "shop/api gained shop/db:5432, shop/svc/db:5432"
    assert [(p["policy"], p["why"]) for p in plain["policies"]] == [
        ("NetworkPolicy shop/api-to-db", None),
        ("NetworkPolicy shop/nobody", "it selects nobody"),
    ]


def test_markdown_is_for_a_pull_request(tmp_path: Path) -> None:
    lines = drawing.markdown(compared(tmp_path, SHOP, [*SHOP, DENY_DB])).splitlines()
    assert lines[0] == "**netlab diff**: 27 flows: 5 closed, 22 the same"
    assert "- every workload lost shop/db:5432, shop/svc/db:5432" in lines
    assert any(line.startswith("| `NetworkPolicy shop/deny-db` | added | decides 5 flows") for line in lines)


def test_markdown_has_nothing_to_obey(tmp_path: Path) -> None:
    hostile = DENY_DB.replace("name: deny-db", "name: deny-db, labels: {a: b}")
    text = drawing.markdown(compared(tmp_path, SHOP, [*SHOP, hostile]))
    assert "<" not in text.replace("&lt;", "")
    assert drawing._escaped("a|b <img> [x](y) `c`\n# d") == "a\\|b &lt;img&gt; \\[x\\](y) \\`c\\`\\\\n\\# d"


# -- the command ---------------------------------------------------------------------------------------------------------


def run(capsys: pytest.CaptureFixture[str], *words: str) -> tuple[int, str, str]:
    code = main(["diff", "-q", *words])
    said = capsys.readouterr()
    return code, said.out, said.err


@pytest.fixture
def shop(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    write(tmp_path, "shop", SHOP)
    Path("deny.yaml").write_text(DENY_DB)
    Path("policies").mkdir()
    Path("policies/db.yaml").write_text(API_TO_DB)
    return tmp_path


def test_ways_to_name_two_states(shop: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    write(shop, "after", [*SHOP, DENY_DB])
    code, said, _ = run(capsys, "-f", "shop.yaml", "--with", "deny.yaml")
    assert (code, said.splitlines()[-1]) == (1, "27 flows: 5 closed, 22 the same")
    same = said.replace("deny.yaml:1", "PLACE")
    for words in (
        ["shop.yaml", "--with", "deny.yaml"],
        ["shop.yaml", "after.yaml"],
        ["-f", "shop.yaml", "--with=deny.yaml", "-n", "shop"],
    ):
        code, said, _ = run(capsys, *words)
        assert (code, re.sub(r"(deny|after)\.yaml:\d+", "PLACE", said)) == (1, same), words
    for words, text in (
        (["-f", "shop.yaml", "--with", "-"], DENY_DB),
        (["-", "after.yaml"], (shop / "shop.yaml").read_text()),
        (["-f", "-", "--with", "deny.yaml"], (shop / "shop.yaml").read_text()),
    ):
        monkeypatch.setattr("sys.stdin", io.StringIO(text))
        code, said, _ = run(capsys, *words)
        assert (code, re.sub(r"(deny\.yaml|after\.yaml|-):\d+", "PLACE", said)) == (1, same), words


def test_files_in_common_and_folders(shop: Path, capsys: pytest.CaptureFixture[str]) -> None:
    Path("empty").mkdir()
    Path("empty/nobody.yaml").write_text(NOBODY)
    code, said, _ = run(capsys, "-f", "shop.yaml", "empty/", "policies/")
    assert code == 1
    assert "- NetworkPolicy shop/nobody" in said
    assert "+ NetworkPolicy shop/api-to-db" in said
    both = ["--without", "shop/netpol/api-to-db", "--with", "policies/db.yaml"]
    code, said, _ = run(capsys, "-f", "shop.yaml", "-f", "policies/", *both)
    assert (code, "gained" in said) == (1, True)  # removed after it was applied


@pytest.mark.parametrize(
    ("words", "code"),
    [
        (["-f", "shop.yaml", "--with", "deny.yaml"], 1),
        (["-f", "shop.yaml", "--with", "nobody.yaml"], 0),
        (["shop.yaml", "shop.yaml"], 0),
        (["-f", "shop.yaml", "--without", "shop/svc/db"], 1),
        (["-f", "shop.yaml", "--without", "shop/deploy/db"], 1),
    ],
)
def test_exit_codes(shop: Path, words: list[str], code: int, capsys: pytest.CaptureFixture[str]) -> None:
    Path("nobody.yaml").write_text(NOBODY)
    assert run(capsys, *words)[0] == code


@pytest.mark.parametrize(
    ("words", "says"),
    [
        ([], "nothing to compare"),
        (["shop.yaml"], "only one state"),
        (["a.yaml", "b.yaml", "c.yaml"], 'unexpected argument "c.yaml"'),
        (["shop.yaml", "absent.yaml"], "absent.yaml"),
        (["shop.yaml", "deny.yaml"], "policies need a cluster beside them"),
        (["-f", "shop.yaml", "--with", "absent.yaml"], "absent.yaml"),
        (["-f", "shop.yaml", "--with", "broken.yaml"], "broken.yaml:3"),
        (["-f", "shop.yaml", "--with", "typo.yaml"], 'unknown field "ingres"'),
        (["-f", "shop.yaml", "--with", "config.yaml"], "nothing in the change that netlab can use"),
        (["-f", "shop.yaml", "--with", "topology.yaml"], "the network itself cannot be changed in part"),
        (["-f", "shop.yaml", "--without", "netpol/deny"], "the input has no NetworkPolicy"),
        (["-f", "shop.yaml", "--without", "shop/deploy/bd"], 'did you mean "shop/db" or "shop/api"?'),
        (["-f", "shop.yaml", "--without", "deny-all"], "write [NAMESPACE/]KIND/NAME"),
        (["-f", "shop.yaml", "--without", "netplo/x"], 'did you mean "netpol"'),
        (["-", "-"], '"-" is given twice'),
        (["-f", "-", "--with", "-"], '"-" is given twice'),
        (["-f", "shop.yaml", "--with", "deny.yaml", "--pods", "--namespaces"], "exclude each other"),
        (["-f", "shop.yaml", "--with", "deny.yaml", "--flows", "3"], "two modes of kube-proxy"),
        (["shop.yaml", "shop.yaml", "--proxy-mode", "iptables,ipvs"], "either two modes of kube-proxy or two states"),
        (["--proxy-mode", "iptables,ipvs", "-o", "md"], "-o md is for two states"),
        (["--proxy-mode", "iptables,"], "two modes to compare"),
        (["shop.yaml", "shop.yaml", "--observed", "node-1=x"], "leave --observed out"),
        (["shop.yaml", "twice.yaml"], "the same object twice"),
    ],
)
def test_bad_input_is_one_message(shop: Path, words: list[str], says: str, capsys: pytest.CaptureFixture[str]) -> None:
    Path("broken.yaml").write_text("a: b\nc:\n\t- x\n")
    Path("typo.yaml").write_text(DENY_DB.replace("{podSelector", "{ingres: [], podSelector"))
    Path("config.yaml").write_text("apiVersion: v1\nkind: Secret\nmetadata: {name: x}\n")
    Path("topology.yaml").write_text(TOPOLOGY.replace("CNI", "none"))
    write(shop, "twice", [*SHOP, DENY_DB, DENY_DB])
    code, out, err = run(capsys, *words)
    assert (code, out) == (2, "")
    assert says in err


def test_unknown_on_both_sides_is_not_the_same(shop: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """What an HTTP request says decides, and nobody knows what it will say: neither with one policy nor with the other."""

    def http(method: str) -> str:
        rule = f"{{action: Allow, protocol: TCP, http: {{methods: [{method}]}}}}"
        return policy("http", f"{{selector: app == 'db', ingress: [{rule}]}}", group="projectcalico.org/v3")

    for name, method in (("get", "GET"), ("again", "GET"), ("put", "PUT")):
        write(shop, name, [*SHOP, http(method)])
    assert run(capsys, "get.yaml", "again.yaml")[0] == 0
    code, said, _ = run(capsys, "get.yaml", "put.yaml")
    assert (code, "UNKNOWN ON BOTH SIDES" in said) == (3, True), said
