"""The command line: exit codes, what goes to stdout and what to stderr, and one clear message for each bad input."""

from __future__ import annotations

import io
import json
import os
import subprocess
import sys
import xml.etree.ElementTree as ElementTree
from pathlib import Path
from typing import Any

import pytest
import yaml

from netlab import __version__
from netlab.cli import main as entry
from netlab.cli.main import main

CLUSTER = str(Path(__file__).parent / "data/kube-proxy-1.30.5/services/cluster.json")
F = ["-f", CLUSTER]
ANSI = "\x1b["


class Ran:
    """What a command said: exit code, stdout, stderr."""

    def __init__(self, code: int, captured: Any) -> None:
        self.code, self.out, self.err = code, captured.out, captured.err


@pytest.fixture
def netlab(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.delenv("NETLAB_DEBUG", raising=False)

    def run(*arguments: str, stdin: bytes | str | None = None) -> Ran:
        if stdin is not None:
            raw = stdin.encode() if isinstance(stdin, str) else stdin
            monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(raw)))
        sys.modules.pop("netlab.cli.lab", None)  # an App, to which listing all commands gives their line of help
        code = main(list(arguments))
        return Ran(code, capsys.readouterr())

    return run


def process(*arguments: str, **more: Any) -> subprocess.CompletedProcess[str]:
    environment = {k: v for k, v in os.environ.items() if k != "NETLAB_DEBUG"} | more.pop("env", {})
    command = [sys.executable, "-m", "netlab.cli.main", *arguments]
    return subprocess.run(command, capture_output=True, text=True, env=environment, cwd=Path(__file__).parent.parent, **more)


# --- answers ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("question", "code", "answer"),
    [
        (["web-0", "svc/hostnames:80"], 0, "yes"),
        (["default/web-0", "hostnames-0:9376"], 0, "yes"),
        (["web-0", "svc/nobody:80"], 1, "no"),
        (["web-0", "hostnames-0:9377"], 1, "no"),
        (["internet", "node/node-1:30080", "--at", "node-1"], 0, "yes"),
        (["coredns-a", "svc/kube-dns:dns", "--proto", "udp", "-n", "kube-system"], 0, "yes"),
    ],
)
def test_can_answers_in_one_line(netlab: Any, question: list[str], code: int, answer: str) -> None:
    ran = netlab("can", *question, *F)
    assert (ran.code, ran.err) == (code, "")
    assert ran.out.startswith(answer + " ")
    assert ran.out.count("\n") == 1


def test_trace_as_text_json_and_yaml_tells_the_same(netlab: Any) -> None:
    question = ["trace", "web-0", "svc/hostnames:80", *F]
    text, wide, as_json, as_yaml = (netlab(*question, "-o", form) for form in ("text", "wide", "json", "yaml"))
    assert {ran.code for ran in (text, wide, as_json, as_yaml)} == {0}
    assert "KUBE-SVC-YN5D6RYVEVZOH44Q" in text.out
    assert len(wide.out) > len(text.out)
    document = json.loads(as_json.out)
    assert (document["kind"], document["verdict"]) == ("Trace", "delivered")
    assert yaml.safe_load(as_yaml.out) == document


def test_the_exit_code_does_not_depend_on_the_form(netlab: Any) -> None:
    for form in ("text", "json", "yaml"):
        assert netlab("trace", "web-0", "svc/nobody:80", *F, "-o", form).code == 1


def test_can_gives_the_trace_as_json(netlab: Any) -> None:
    assert json.loads(netlab("can", "web-0", "svc/nobody:80", *F, "-o", "json").out)["verdict"] == "rejected"


@pytest.mark.parametrize("family", ["4", "6"])
def test_a_family_can_be_asked_for(netlab: Any, family: str) -> None:
    dual = CLUSTER.replace("services", "dualstack")
    pod, *_ = (
        o for o in json.loads(Path(dual).read_text())["items"] if o["kind"] == "Pod" and o["metadata"]["namespace"] == "default"
    )
    ran = netlab("trace", pod["metadata"]["name"], "node/node-2", "--proto", "icmp", "--family", family, "-f", dual, "-o", "json")
    assert (":" in json.loads(ran.out)["destination"]["ip"]) == (family == "6")


@pytest.mark.parametrize(
    ("where", "what", "line"),
    [
        ("node-1", "iptables-save", "*nat"),
        ("node-1", "ip6tables-save", "*nat"),
        ("node/node-1", "route", "10.244.1.0/24 via 10.244.1.0 dev flannel.1 onlink"),
        ("node-2", "rule", "32766:\tfrom all lookup main"),
        ("node-1", "fdb", "dev flannel.1 dst 198.18.0.2 self permanent"),
        ("node-1", "neigh", "10.244.1.0 dev flannel.1"),
        ("pod/web-0", "addr", "inet 10.244.0.4/24"),
        ("default/pod/web-0", "addr", "inet 10.244.0.4/24"),
        ("default/web-0", "link", "eth0@"),
        ("web-0", "route", "default via 10.244.0.1 dev eth0"),
        ("internet", "addr", "inet "),
    ],
)
def test_dump_prints_what_the_tool_would(netlab: Any, where: str, what: str, line: str) -> None:
    ran = netlab("dump", where, what, *F)
    assert (ran.code, ran.err) == (0, "")
    assert line in ran.out


def test_dump_as_json_is_what_ip_j_prints(netlab: Any) -> None:
    rows = json.loads(netlab("dump", "pod/web-0", "addr", "-o", "json", *F).out)
    assert [row["ifname"] for row in rows] == ["lo", "eth0"]


def test_a_hostnetwork_pod_is_dumped_as_its_node(netlab: Any) -> None:
    ran = netlab("dump", "pod/agent-1", "route", *F)
    assert ran.out == netlab("dump", "node-1", "route", *F).out
    assert "this is node-1" in ran.err


def test_one_family_of_routes(netlab: Any) -> None:
    dual = CLUSTER.replace("services", "dualstack")
    plain, four, six = (
        netlab("dump", "node-1", "route", "-f", dual, *flag).out for flag in ([], ["--family", "4"], ["--family", "6"])
    )
    assert four
    assert six
    assert four != six
    assert plain == four  # as `ip route` does


@pytest.mark.parametrize(
    ("where", "what", "code", "says"),
    [
        ("node-1", "ipset", 0, "ipset would print nothing"),
        ("node-1", "ipvsadm", 0, "kube-proxy runs in iptables mode"),
        ("pod/web-0", "ipset", 0, "ipset would print nothing"),
    ],
)
def test_dump_says_that_nothing_is_there_only_where_it_knows(netlab: Any, where: str, what: str, code: int, says: str) -> None:
    ran = netlab("dump", where, what, *F)
    assert (ran.code, ran.out) == (code, "")
    assert says in ran.err


@pytest.mark.parametrize(
    ("what", "line"),
    [
        ("ipvsadm", "-A -t 10.96.2.10:80 -s rr"),
        ("ipvsadm-ln", "TCP  10.96.2.10:80 rr"),
        ("ipset", "add KUBE-CLUSTER-IP 10.96.2.10,tcp:80"),
        ("iptables-save", "-A KUBE-SERVICES -m set --match-set KUBE-CLUSTER-IP dst,dst -j ACCEPT"),
    ],
)
def test_dump_of_a_node_in_ipvs_mode(netlab: Any, what: str, line: str) -> None:
    ran = netlab("dump", "node-1", what, *F, "--proxy-mode", "ipvs")
    assert ran.code == 0
    assert line in ran.out.splitlines()


def test_the_schema_is_json(netlab: Any) -> None:
    assert json.loads(netlab("schema", "trace").out)["title"] == "Trace"


# --- check --------------------------------------------------------------------------------------------------------------

ROWS = """
- {name: any of three, source: web-0, destination: "svc/hostnames:80", expect: delivered, masquerade: false}
- {source: web-0, destination: "svc/hostnames:80", expect: delivered, endpoints: ["10.244.0.3:9376"]}
- {source: web-0, destination: "svc/nobody:80", expect: rejected}
"""


def test_check_prints_what_differs(netlab: Any, tmp_path: Path) -> None:
    (tmp_path / "rows.yaml").write_text(ROWS)
    ran = netlab("check", str(tmp_path / "rows.yaml"), *F)
    assert (ran.code, ran.err) == (1, "")
    first, *_, last = ran.out.splitlines()
    assert first.startswith(f"{tmp_path}/rows.yaml:3, row 2: web-0 -> svc/hostnames:80")
    assert last.startswith("3 rows: 2 as expected, 1 differs")
    assert "any of three" not in ran.out


def test_check_reads_stdin_and_gives_every_row_in_order(netlab: Any) -> None:
    ran = netlab("check", "-", *F, "-o", "json", stdin=ROWS)
    assert ran.code == 1
    rows = json.loads(ran.out)["rows"]
    assert [row["verdict"] for row in rows] == ["delivered", "delivered", "rejected"]
    assert [b["sourceSeen"] for b in rows[0]["branches"]] == ["10.244.0.4"] * 3
    assert sum(b["probability"] for b in rows[0]["branches"]) == pytest.approx(1)


def test_check_reads_the_cluster_from_stdin(netlab: Any, tmp_path: Path) -> None:
    (tmp_path / "rows.json").write_text('[{"source": "web-0", "destination": "svc/nobody:80", "expect": "rejected"}]')
    ran = netlab("check", str(tmp_path / "rows.json"), "-f", "-", stdin=Path(CLUSTER).read_bytes())
    assert (ran.code, ran.err) == (0, "")
    assert ran.out.count("\n") == 1


def test_check_writes_junit(netlab: Any) -> None:
    ran = netlab("check", "-", *F, "-o", "junit", stdin=ROWS)
    suites = ElementTree.fromstring(ran.out)
    assert suites.find("testsuite/testcase").get("name") == "any of three"
    assert [len(case) for case in suites.iter("testcase")] == [0, 1, 0]


def test_every_row_that_cannot_be_asked_is_told(netlab: Any) -> None:
    rows = f"""{ROWS}
- {{source: wbe-0, destination: node-1, expect: delivered}}
- {{source: web-0, destination: "svc/hostnmaes:80", expect: dropped}}
"""
    ran = netlab("check", "-", *F, stdin=rows)
    assert ran.code == 2
    assert "3 rows: 2 as expected, 1 differs" in ran.out  # what could be asked is not lost
    assert [line for line in ran.err.splitlines() if line.startswith("netlab: error: -:")] == ran.err.splitlines()[::2]
    assert "-:6, row 4: wbe-0 -> node-1: " in ran.err
    assert "-:7, row 5: web-0 -> svc/hostnmaes:80: " in ran.err


# --- bad input: one clear message, exit 2 -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["tarce", "web-0", "svc/api"], 'unknown command "tarce". Did you mean "trace"?'),
        (["--quiet"], 'unknown command "--quiet"'),
        (["trace"], "SOURCE requires an argument"),
        (["trace", "web-0"], "DESTINATION requires an argument"),
        (["trace", "web-0", "node-1", "wuff"], 'unexpected argument "wuff"'),
        (["trace", "web-0", "node-1", "--filname", "x"], "unknown option: --filname. Did you mean --filename?"),
        (["trace", "web-0", "node-1", "-o", "jsno"], 'invalid value "jsno" for -o. Choose from: "text", "wide", "json", "yaml"'),
        (["trace", "web-0", "node-1", "--proto", "gre"], 'Choose from: "tcp", "udp", "sctp", "icmp"'),
        (["trace", "web-0", "node-1", "--family", "5"], "Choose from: 4, 6"),
        (["trace", "web-0", "node-1", "--size", "big"], '"big" is no whole number'),
        (["trace", "web-0", "node-1", "--color", "yes"], 'Choose from: "auto", "always", "never"'),
        (["trace", "web-0", "node-1", "-f"], "-f requires an argument"),
        (["trace", "web-0", "node-1", "--observed", "node-1"], '--observed "node-1" is not NODE=DIR'),
        (["trace", "web-0", "node-1", "--observed", "=dir"], '--observed "=dir" is not NODE=DIR'),
        (["trace", "web-0", "node-1", "--observed", "a=x", "--observed", "a=y"], '--observed names "a" twice'),
        (["schema", "trcae"], 'no schema "trcae"\n  did you mean "trace"?'),
        (["dump", "node-1"], "WHAT requires an argument"),
        (["dump", "node-1", "iptable-save"], 'cannot dump "iptable-save"\n  did you mean "iptables-save"'),
        (["dump", "node-1", "wuff"], "there is iptables-save, ip6tables-save, nft, ipset, ipvsadm"),
        (["dump", "node-1", "iptables-save", "-o", "json"], "iptables-save has no JSON form"),
        (["dump", "node-1", "ipvsadm", "-o", "json"], "ipvsadm has no JSON form"),
        (["dump", "node-1", "ipset", "-o", "json"], "ipset has no JSON form"),
        (["dump", "node-1", "addr", "--family", "4"], "--family does not go with addr"),
        (["check", "no-such.yaml"], "no-such.yaml: no such file"),
        (["check", "-", "-f", "-"], "ROWS and -f are both -"),
        (["check", "--bad", "x"], "unknown option: --bad"),
    ],
)
def test_wrong_usage(netlab: Any, arguments: list[str], says: str) -> None:
    refused(netlab(*arguments), says)


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["trace", "wbe-0", "svc/hostnames:80"], 'did you mean "web-0"'),
        (["trace", "web-0", "svc/hostname:80"], "did you mean"),
        (["trace", "web-0", "svc/hostnames:81"], "its ports: 80/TCP"),
        (["trace", "web-0", "svc/hostnames:htpt"], "has no port htpt"),
        (["trace", "web-0", "svc/web"], "needs a port"),
        (["trace", "web-0", "nosuch/web-0:80"], "nosuch"),
        (["trace", "web-0", "svc/elsewhere:80"], "ExternalName"),
        (["trace", "web-0", "10.244.0.300:80"], "10.244.0.300"),
        (["trace", "web-0", "0.0.0.0:80"], "0.0.0.0"),
        (["trace", "web-0", "node-1:99999"], "99999"),
        (["trace", "web-0", "hostnames-0:9376", "--family", "6"], "no IPv6 address"),
        (["trace", "web-0", "hostnames-0:9376", "--at", "node-1"], "--at"),
        (["trace", "internet", "node-1:30080", "--at", "node-9"], 'unknown node "node-9"'),
        (["trace", "web-0", "hostnames-0:9376", "--size", "-5"], "size"),
        (["trace", "web-0", "hostnames-0:9376", "--size", "70000"], "size"),
        (["trace", "", "hostnames-0:9376"], "empty"),
        (["trace", "web-0", "hostnames-0:9376", "--proxy-mode", "iptabels"], "iptabels"),
        (["trace", "web-0", "hostnames-0:9376", "--cni", "flanel"], "flanel"),
        (["trace", "web-0", "hostnames-0:9376", "--cluster-cidr", "10.244.0.0/33"], "10.244.0.0/33"),
        (["dump", "node-9", "route"], "unknown node or pod"),
        (["dump", "node/node-9", "route"], 'unknown node "node-9"\n  did you mean'),
        (["dump", "pod/wbe-0", "route"], 'unknown pod "default/wbe-0"\n  did you mean "default/web-0"'),
        (["dump", "a/b/c/d", "route"], '"a/b/c/d" is not a node or a pod'),
        (["trace", "web-0", "hostnames-0:9376", "--observed", "node-9=."], "node-9"),
        (["trace", "web-0", "hostnames-0:9376", "--observed", "node-1=no-such-dir"], "no-such-dir"),
    ],
)
def test_questions_that_make_no_sense(netlab: Any, arguments: list[str], says: str) -> None:
    refused(netlab(*arguments, *F), says)


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (b"", "nothing"),
        (b"{}", ""),
        (b"just some words\n", ""),
        (b"{{ .Values.name }}: x", ""),
        (b"\x7fELF\0\0\0\0\0", "binary"),
        (b"\x1f\x8b\x08\0\0", "gzip"),
        (b"a: \xff\xfe\n", "UTF-8"),
        (Path(CLUSTER).read_bytes()[:20_000], ""),
        (b'{"apiVersion": "v1", "kind": "List", "items": []}', "nothing"),
        (
            b"a: &a [x,x,x,x,x,x,x,x,x]\n"
            + b"".join(b"%c: &%c [%s]\n" % (c, c, b",".join([b"*%c" % (c - 1)] * 9)) for c in range(98, 110)),
            "alias",
        ),
    ],
)
def test_files_that_are_no_cluster(netlab: Any, content: bytes, says: str, tmp_path: Path) -> None:
    file = tmp_path / "cluster.json"
    file.write_bytes(content)
    for arguments in (["-f", str(file)], ["-f", "-"]):
        ran = netlab("can", "web-0", "svc/hostnames:80", *arguments, stdin=content)
        refused(ran, says)
        assert ("-" if arguments[1] == "-" else str(file)) in ran.err


def refused(ran: Ran, says: str) -> None:
    """Exit 2, nothing on stdout, one message of at most two lines that begins as every error does."""
    assert (ran.code, ran.out) == (2, "")
    assert ran.err.startswith("netlab: error: ")
    assert says in ran.err
    assert ran.err.count("\n") <= 3, ran.err
    assert "Traceback" not in ran.err


# --- manners --------------------------------------------------------------------------------------------------------------


def test_without_f_the_example_is_used_and_said(netlab: Any) -> None:
    loud, quiet = netlab("can", "web-0", "svc/api"), netlab("can", "web-0", "svc/api", "-q")
    assert loud.err == "netlab: no -f given: this is the example cluster that netlab carries (topologies/flannel-vxlan.yaml)\n"
    assert quiet.err == ""
    assert (loud.code, loud.out) == (quiet.code, quiet.out) == (0, loud.out)


@pytest.mark.parametrize("command", [[], *([name] for name in entry.COMMANDS)], ids=" ".join)
def test_help_is_plain_and_shows_an_example(netlab: Any, command: list[str]) -> None:
    ran = netlab(*command, "--help")
    assert (ran.code, ran.err) == (0, "")
    assert ran.out.startswith("Usage: netlab " + " ".join(command))
    assert "For example" in ran.out
    assert ANSI not in ran.out
    assert "─" not in ran.out
    if command:
        assert ran.out.splitlines()[2].startswith(entry.COMMANDS[command[0]].split("?")[0].removesuffix("."))
    else:
        assert all(text in ran.out for text in entry.COMMANDS.values())


def test_no_arguments_are_answered_with_help(netlab: Any) -> None:
    assert netlab().out == netlab("--help").out


@pytest.mark.parametrize(
    ("flag", "env", "painted"),
    [("always", {}, True), ("never", {}, False), ("auto", {}, False), ("always", {"NO_COLOR": "1"}, True)],
)
def test_colour(netlab: Any, flag: str, env: dict[str, str], painted: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in env.items():
        monkeypatch.setenv(name, value)
    assert (ANSI in netlab("trace", "web-0", "svc/hostnames:80", *F, "--color", flag).out) is painted


@pytest.mark.parametrize(("no_color", "term", "painted"), [("", "xterm", True), ("1", "xterm", False), ("", "dumb", False)])
def test_colour_on_a_terminal(no_color: str, term: str, painted: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    from netlab.cli.flags import color

    monkeypatch.setattr(sys, "stdout", type("Terminal", (), {"isatty": lambda self: True})())
    monkeypatch.setenv("NO_COLOR", no_color)
    monkeypatch.setenv("TERM", term)
    assert color("auto") is painted


def test_the_version() -> None:
    assert process("--version").stdout == f"netlab {__version__}\n"


def test_as_a_kubectl_plugin(tmp_path: Path) -> None:
    script = tmp_path / "kubectl-netlab"
    script.write_text("import sys\nfrom netlab.cli.main import main\nsys.exit(main())\n")
    root = str(Path(__file__).parent.parent)
    done = subprocess.run(
        [sys.executable, script, "trace", "--help"], capture_output=True, text=True, env={**os.environ, "PYTHONPATH": root}
    )
    assert done.stdout.startswith("Usage: kubectl netlab trace ")


def test_a_reader_that_leaves_is_not_an_error() -> None:
    command = (
        f'"{sys.executable}" -m netlab.cli.main dump node-1 iptables-save -f "{CLUSTER}" | head -n 1; echo "${{PIPESTATUS[0]}}"'
    )
    done = subprocess.run(["bash", "-c", command], capture_output=True, text=True, cwd=Path(__file__).parent.parent)
    assert done.stdout.startswith("#") or done.stdout.startswith("*")
    assert done.stdout.splitlines()[-1] in ("0", "141")  # 0 where the pipe took everything at once
    assert done.stderr == ""


def test_a_full_disk_is_said() -> None:
    with open("/dev/full", "w") as full:
        done = subprocess.run(
            [sys.executable, "-m", "netlab.cli.main", "schema", "trace"],
            stdout=full,
            stderr=subprocess.PIPE,
            text=True,
            cwd=Path(__file__).parent.parent,
        )
    assert done.returncode == 2
    assert done.stderr == "netlab: error: the answer cannot be written: No space left on device\n"


def test_a_terminal_without_unicode_gets_escapes(tmp_path: Path) -> None:
    done = process("can", "wéb-0", "svc/hostnames:80", *F, env={"PYTHONIOENCODING": "ascii"})
    assert done.returncode == 2
    assert "w\\xe9b-0" in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize(
    ("raised", "code", "says"),
    [
        (KeyboardInterrupt(), 130, ""),
        (ValueError("x"), 70, "netlab: internal error: ValueError: x\n  this is a bug of netlab"),
        (RecursionError("deep"), 70, "netlab: internal error: RecursionError: deep"),
    ],
)
def test_other_ends(netlab: Any, raised: BaseException, code: int, says: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> None:
        raise raised

    monkeypatch.setattr("netlab.cli.flags.open_cluster", fail)
    ran = netlab("dump", "node-1", "route")
    assert (ran.code, ran.out) == (code, "")
    assert ran.err.startswith(says)
    assert "Traceback" not in ran.err
    monkeypatch.setenv("NETLAB_DEBUG", "1")
    assert ("Traceback" in netlab("dump", "node-1", "route").err) is (code == 70)
