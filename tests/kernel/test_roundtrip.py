"""Lab up, snapshot, trace --observed: what the kernel says it holds is traced as what was compiled.

The whole example cluster stands in namespaces; the script that users run on their nodes runs on each of its nodes.
"""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from namespaces import Namespaces, missing

from netlab.cli.check import read_rows
from netlab.cli.main import main
from netlab.dataplane.build import build
from netlab.dataplane.observed import FILES, apply_observed, read_directory
from netlab.kube.cluster import Cluster
from netlab.kube.load import load
from netlab.lab.host import Lab
from netlab.lab.plan import make_plan
from netlab.lab.snapshot import SCRIPT
from netlab.linux.text import iptables_save, nft
from netlab.trace.check import Row
from netlab.trace.query import Request, Tracer
from netlab.trace.steps import Hop, RuleStep, Trace, Verdict

ROOT = Path(__file__).parent.parent.parent
NODES = ("node-1", "node-2", "node-3")
ROWS = {row.title: row for row in read_rows(str(ROOT / "tests/rows/flannel-vxlan.yaml"))}
LATER = {"ipvsadm"}  # written, not read yet
WAYS = (*NODES, "every node")


@pytest.fixture(scope="module")
def cluster() -> Cluster:
    return load([str(ROOT / "topologies/flannel-vxlan.yaml")])


@pytest.fixture(scope="module", params=["legacy", "nft"])
def snapshots(request: pytest.FixtureRequest, kernel: None, cluster: Cluster, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory with a snapshot of every node, taken in a lab whose rules were loaded by one variant of iptables."""
    into = tmp_path_factory.mktemp(request.param)
    with Lab.start(make_plan(build(cluster).network, variant=request.param)) as lab:
        for node in NODES:
            said = lab.run(node, "sh", str(SCRIPT), str(into / node))
            assert f"of iptables-{request.param} " in said
    return into


@pytest.fixture(scope="module")
def tracers(cluster: Cluster, snapshots: Path) -> dict[str, Tracer]:
    found = {node: Tracer(cluster, {node: str(snapshots / node)}) for node in NODES}
    found["every node"] = Tracer(cluster, {node: str(snapshots / node) for node in NODES})
    return found


@pytest.fixture(scope="module")
def compiled(cluster: Cluster) -> Tracer:
    return Tracer(cluster)


def ask(tracer: Tracer, row: Row) -> Trace:
    return tracer.trace(Request(row.source, row.destination, row.protocol, at=row.at))


def rules(hops: tuple[Hop, ...]) -> list[str]:
    """Every rule that was hit, in order: where, hook, table, the rule and its number, what it did."""
    return [
        f"{hop.where} {step.hook} {step.table} {step.rule} ({step.number}): {step.effect}"
        for hop in hops
        for step in hop.steps
        if isinstance(step, RuleStep)
    ]


def told(trace: Trace) -> list[tuple[object, ...]]:
    """All of it but for where things are written: a reason ends in the Service or in the line of the dump."""
    return [
        (
            branch.probability,
            branch.verdict,
            branch.endpoint,
            branch.source_seen,
            re.sub(r" \([^()]*\)$", "", branch.reason or ""),
            [hop.where for hop in branch.hops],
            rules(branch.hops),
            rules(branch.reply.hops) if branch.reply is not None else None,
        )
        for branch in trace.branches
    ]


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("title", ROWS)
def test_the_same_traces(compiled: Tracer, tracers: dict[str, Tracer], way: str, title: str) -> None:
    said = ask(compiled, ROWS[title])
    real = ask(tracers[way], ROWS[title])
    assert real.verdict is said.verdict
    assert told(real) == told(said)


def test_rules_are_hit_at_all(compiled: Tracer) -> None:
    hit = {rule for row in ROWS.values() for branch in ask(compiled, row).branches for rule in rules(branch.hops)}
    assert {rule.split(" ")[0] for rule in hit} == set(NODES)
    assert len(hit) > 50


def test_a_rule_that_somebody_deleted_is_missed(compiled: Tracer, cluster: Cluster, snapshots: Path, tmp_path: Path) -> None:
    """Equality above is no matter of course."""
    shutil.copytree(snapshots / "node-1", tmp_path / "node-1")
    saved = tmp_path / "node-1/iptables-save"
    lines = saved.read_text().splitlines(keepends=True)
    left = [line for line in lines if "KUBE-MARK-MASQ" not in line]
    assert len(left) < len(lines)
    saved.write_text("".join(left))
    row = ROWS["a node is masqueraded"]
    changed = Tracer(cluster, {"node-1": str(tmp_path / "node-1")})
    assert told(ask(changed, row)) != told(ask(compiled, row))


def test_sysctls_are_those_of_the_node(compiled: Tracer, cluster: Cluster, snapshots: Path, tmp_path: Path) -> None:
    """Forwarding is off on node-1: what its pods send goes no further than the node."""
    shutil.copytree(snapshots / "node-1", tmp_path / "node-1")
    saved = tmp_path / "node-1/sysctl"
    saved.write_text(re.sub(r"(net\.ipv4\.(?:ip_forward|conf\..*\.forwarding)) = 1", r"\1 = 0", saved.read_text()))
    row = ROWS["other node"]
    assert ask(compiled, row).verdict is Verdict.DELIVERED
    assert ask(Tracer(cluster, {"node-1": str(tmp_path / "node-1")}), row).verdict is Verdict.DROPPED


@pytest.mark.parametrize("node", NODES)
def test_everything_is_observed_and_nothing_is_guessed(cluster: Cluster, snapshots: Path, node: str) -> None:
    assert {path.name for path in (snapshots / node).iterdir()} == set(FILES) - {"nft"} | LATER
    applied = apply_observed(build(cluster).network, node, str(snapshots / node))
    assert applied.assumptions == ()
    made = applied.network.namespaces[node]
    assert set(made.origins) == {
        "iptables", "ip6tables", "nft", "ipset", "ipvs", "sysctl",
        "link", "addr", "route", "route6", "rule", "rule6", "neigh", "fdb",
    }  # fmt: skip
    said = build(cluster).network.namespaces[node]
    assert {name: made.sysctl(name) for name in said.sysctls} == dict(said.sysctls)
    assert made.sysctls["ipv4.conf.flannel.1.forwarding"] == 1
    assert {(d.name, d.peer) for d in made.devices.values()} == {(d.name, d.peer) for d in said.devices.values()}


# --- a lab that is up


@pytest.fixture
def lab_up(kernel: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> Iterator[Path]:
    """`netlab lab up` with a folder for labs of its own."""
    (tmp_path / "run").mkdir(mode=0o700)
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path / "run"))
    assert main(["lab", "up", "-q", "--name", "snap"]) == 0
    try:
        yield tmp_path
    finally:
        assert main(["lab", "down", "--name", "snap"]) == 0


def test_a_node_of_a_lab_that_is_up(lab_up: Path, capfd: pytest.CaptureFixture[str]) -> None:
    into = str(lab_up / "node-1")
    question = ["trace", "-q", "web-0", "svc/api", "-o", "text"]
    capfd.readouterr()
    assert main(["snapshot", into, "--node", "node-1", "--name", "snap"]) == 0
    assert "iptables-save    written: " in capfd.readouterr().out
    assert {path.name for path in Path(into).iterdir()} == set(FILES) - {"nft"} | LATER
    assert main(question) == 0
    said = capfd.readouterr().out
    assert main([*question, "--observed", f"node-1={into}"]) == 0
    real = capfd.readouterr().out
    assert "(node)   tables nat, filter: observed" in real
    assert re.findall("KUBE-[A-Z0-9-]+", real) == re.findall("KUBE-[A-Z0-9-]+", said)
    # and again: --force
    assert main(["snapshot", into, "--node", "node/node-1", "--name", "snap"]) == 2
    assert main(["snapshot", into, "--node", "node/node-1", "--name", "snap", "--force"]) == 0


def test_wrong_nodes_of_a_lab(lab_up: Path, capfd: pytest.CaptureFixture[str]) -> None:
    into = str(lab_up / "dumps")
    for arguments, hint in (
        (["--node", "web-0", "--name", "snap"], "nodes: node-1, node-2, node-3"),
        (["--node", "node-4", "--name", "snap"], 'did you mean "node-'),
        (["--node", "node-1"], "up: snap"),
        (["--name", "snap"], "add --node NODE"),
    ):
        capfd.readouterr()
        assert main(["snapshot", into, *arguments]) == 2
        assert hint in capfd.readouterr().err
    assert not Path(into).exists()


# --- one namespace, where the rules can be anything


def script(lab: Namespaces, into: Path) -> tuple[int, str, str]:
    """The exit code, stdout and stderr of the script in the namespace `node`."""
    both = 'sh "$@" 2>"$0"; echo "exit $?"; cat "$0"'
    said = lab.run("node", "sh", "-c", both, f"{into}.err", str(SCRIPT), str(into))
    out, _, rest = said.rpartition("exit ")
    code, _, err = rest.partition("\n")
    return int(code), out, err


LEGACY, NFT = "iptables-legacy", "iptables-nft"
ONE = "-A INPUT -s 192.0.2.1/32 -j DROP"
KUBE = "-A FORWARD -m comment --comment kube -j KUBE-FORWARD"


@pytest.mark.parametrize(
    ("commands", "holds", "line", "warns"),
    [
        # rules in the variant that `iptables-save` is, whichever that is on this machine
        ([f"{NFT} {ONE}"], ONE, "1 rule of iptables-nft", ""),
        ([f"{LEGACY} {ONE}"], ONE, "1 rule of iptables-legacy", ""),
        ([f"{LEGACY} -P INPUT DROP"], ":INPUT DROP", "1 rule of iptables-legacy", ""),
        # empty tables of the other variant are no rules
        ([f"{NFT} {ONE}", f"{LEGACY} -L"], ONE, "1 rule of iptables-nft", ""),
        ([f"{LEGACY} {ONE}", f"{NFT} -N EMPTY"], ONE, "1 rule of iptables-legacy", ""),
        # both: Kubernetes' chains tell which is in use, and the other is named
        (
            [f"{NFT} {ONE}", f"{NFT} {ONE}", f"{LEGACY} -N KUBE-FORWARD", f"{LEGACY} {KUBE}"],
            KUBE, "1 rule of iptables-legacy", "iptables-nft has 2 rules as well",
        ),
        (
            [f"{LEGACY} {ONE}", f"{NFT} -N KUBE-FORWARD", f"{NFT} {KUBE}"],
            KUBE, "1 rule of iptables-nft", "iptables-legacy has 1 rule as well",
        ),
    ],
)  # fmt: skip
def test_two_variants_of_iptables(
    namespaces: Namespaces, tmp_path: Path, commands: list[str], holds: str, line: str, warns: str
) -> None:
    namespaces.add("node")
    for command in commands:
        namespaces.run("node", *command.split())
    code, out, err = script(namespaces, tmp_path / "s")
    assert code == 0
    assert line in out.splitlines()[0]
    text = (tmp_path / "s/iptables-save").read_text()
    assert any(row.startswith(holds) for row in text.splitlines())
    iptables_save.parse(text, family=4, file="iptables-save", origin="observed")
    warnings = [row for row in err.splitlines() if "as well" in row]
    assert len(warnings) == bool(warns)
    assert warns in err


def test_both_without_kubernetes_keeps_the_tool_in_use(namespaces: Namespaces, tmp_path: Path) -> None:
    """What `iptables-save` is on this machine, and a warning that names the other."""
    namespaces.add("node")
    for n, tool in enumerate((LEGACY, NFT)):
        namespaces.run("node", tool, "-A", "INPUT", "-s", f"192.0.2.{n}", "-j", "DROP")
    mine, other = (NFT, LEGACY) if "nf_tables" in namespaces.run("node", "iptables-save", "--version") else (LEGACY, NFT)
    code, out, err = script(namespaces, tmp_path / "s")
    assert (code, f"1 rule of {mine} (iptables-save)" in out) == (0, True)
    assert f"{other} has 1 rule as well" in err
    text = (tmp_path / "s/iptables-save").read_text()
    assert ("-s 192.0.2.1/32" in text, "-s 192.0.2.0/32" in text) == (mine == NFT, mine == LEGACY)


def test_what_nft_put_there_is_told(namespaces: Namespaces, tmp_path: Path) -> None:
    namespaces.add("node")
    namespaces.run("node", NFT, *ONE.split())
    tables = "table inet firewalld { chain input { type filter hook input priority 10; }; }\n"
    tables += "table ip nat { chain mine { type nat hook prerouting priority 0; }; }\n"
    namespaces.run("node", "nft", "-f", "-", input=tables)
    code, _, err = script(namespaces, tmp_path / "s")
    assert code == 0
    assert "table nat has rules that nft made" in err
    assert not any("not looked at" in note for note in read_directory(str(tmp_path / "s"))[1])  # nft.json has it
    tables_read = nft.read_json((tmp_path / "s" / "nft.json").read_text())
    assert ["mine"] in [list(table.chains) for table in tables_read]
    (tmp_path / "s" / "nft.json").unlink()
    assert any("put into nat" in note for note in read_directory(str(tmp_path / "s"))[1])


def test_a_full_disk_leaves_no_half_files(namespaces: Namespaces, tmp_path: Path) -> None:
    """A file system of two pages: what has no room is not there, what is there can be read."""
    namespaces.add("node")
    full = tmp_path / "full"
    full.mkdir()
    lines = f"""mount -t tmpfs -o size=8k tmpfs {full}
        sh {SCRIPT} {full}; echo exit $?
        ls -A {full}
        for f in {full}/*.json; do echo "json $(cat $f)"; done"""
    said = namespaces.run("node", "sh", "-c", f"{lines} 2>&1")
    assert "exit 1\n" in said
    assert "No space left on device" in said
    assert ".netlab" not in said.split("exit 1\n")[1]
    documents = [line.removeprefix("json ") for line in said.splitlines() if line.startswith("json ")]
    assert documents
    for document in documents:
        assert isinstance(json.loads(document), list)


def test_it_works_for_a_user_in_a_namespace_of_their_own(kernel: None, tmp_path: Path) -> None:
    """As inside a lab that an ordinary user has: root there, nobody elsewhere."""
    assert missing() is None
    done = subprocess.run(
        ["unshare", "-Urnm", "sh", "-c", 'mount -t tmpfs tmpfs /run; sh "$@"', "sh", str(SCRIPT), str(tmp_path / "s")],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert (done.returncode, done.stderr) == (0, "")
    assert {path.name for path in (tmp_path / "s").iterdir()} == set(FILES) - {"nft"} | LATER
