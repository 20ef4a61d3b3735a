"""The snapshot script with tools that are made up: what it says and writes where tools are missing, old or broken; and sysctl.

With real tools and a real kernel: tests/kernel/test_roundtrip.py.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import stat
import subprocess
import time
import tomllib
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

import pytest

from netlab.cli.main import main
from netlab.dataplane.build import build
from netlab.dataplane.observed import FILES, apply_observed
from netlab.errors import InputError
from netlab.lab.snapshot import SCRIPT, script
from netlab.linux.netns import DeviceKind, Netns
from netlab.linux.text import iproute, sysctl
from tests.test_build import two_nodes

ROOT = Path(__file__).parent.parent
PLAIN = ("sh", "cat", "sed", "grep", "mkdir", "rm", "mv", "ls", "rmdir", "dd", "head", "tail", "wc", "uname", "sleep")
SAVED = "*filter\n:INPUT ACCEPT [0:0]\n-A INPUT -j ACCEPT\nCOMMIT\n"


def saves(version: str, text: str) -> str:
    """An iptables-save of this version with these rules."""
    return f"case $1 in --version) echo 'iptables-save {version}';; *) printf %s '{text}';; esac"


TOOLS = {  # tool -> what it does when it is called
    "id": "echo 0",
    "iptables-save": saves("v1.8.9 (nf_tables)", SAVED),
    "ip6tables-save": saves("v1.8.9 (nf_tables)", ""),
    "ip": "case $1 in -V) echo 'ip utility, iproute2-6.1.0';; *) echo '[{}]';; esac",
    "bridge": "echo '[]'",
    "ipset": "echo create a hash:ip",
    "nft": 'echo \'{"nftables": []}\'',
    "ipvsadm": "echo -A -t 10.96.0.1:443 -s rr",
    "sysctl": "echo net.ipv4.ip_forward = 1",
}
EVERY = set(FILES) - {"nft"}


class Node:
    """A directory with made-up tools, a made-up /proc and /sys, and the script, which finds nothing else."""

    def __init__(self, root: Path) -> None:
        self.root, self.bin, self.proc, self.dir = root, root / "bin", root / "proc", root / "dumps"
        self.bin.mkdir()
        (self.proc / "net").mkdir(parents=True)
        (root / "sys/module").mkdir(parents=True)
        for name in ("if_inet6", "ip_vs"):
            (self.proc / "net" / name).write_text("")
        for name in PLAIN:
            found = shutil.which(name)
            assert found is not None
            (self.bin / name).symlink_to(found)
        for name, body in TOOLS.items():
            self.tool(name, body)
        text = script()
        for old, new in (
            (r"^PATH=.*$", f"PATH='{self.bin}'"),
            (r"^proc=/proc$", f"proc='{self.proc}'"),
            (r"^sys=/sys$", f"sys='{root / 'sys'}'"),
        ):
            text, count = re.subn(old, new, text, flags=re.MULTILINE)
            assert count == 1, old
        self.script = root / "snapshot.sh"
        self.script.write_text(text)

    def tool(self, name: str, body: str | None) -> None:
        """Make a tool; None takes it away."""
        path = self.bin / name
        path.unlink(missing_ok=True)
        if body is not None:
            path.write_text(f"#!{self.bin}/sh\n{body}\n")
            path.chmod(0o755)

    def run(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        command = ["sh", str(self.script), *(arguments or (str(self.dir),))]
        return subprocess.run(command, capture_output=True, text=True, check=False, cwd=self.root)

    def line(self, ran: subprocess.CompletedProcess[str], name: str) -> str:
        """What was said about a file."""
        found = [line for line in ran.stdout.splitlines() if line.split(" ")[0] == name]
        assert len(found) == 1, ran.stdout
        return found[0].removeprefix(name).strip()

    @property
    def files(self) -> set[str]:
        return set(os.listdir(self.dir))


@pytest.fixture
def node(tmp_path: Path) -> Node:
    return Node(tmp_path)


def test_every_file_is_written_and_told(node: Node) -> None:
    ran = node.run()
    assert (ran.returncode, ran.stderr) == (0, "")
    assert node.files == EVERY
    assert len(ran.stdout.splitlines()) == len(EVERY) + 1
    assert node.line(ran, "iptables-save") == "written: 1 rule of iptables-nft (iptables-save)"
    assert node.line(ran, "ipset") == "written: 1 set"
    assert node.line(ran, "ipvsadm") == "written: 1 virtual service"
    assert (node.dir / "iptables-save").read_text() == SAVED


def test_the_script_asks_what_the_reader_expects() -> None:
    """FILES says which command writes a file: that is the one in the script. (The script saves nft as JSON alone.)"""
    text = script()
    for name, command in FILES.items():
        if name == "nft":
            continue
        assert re.search(rf"(save_json|ask) {re.escape(name)} .*{re.escape(command)}$", text, re.MULTILINE) or (
            name.endswith("tables-save") and f"save_rules {name} " in text
        ), name


@pytest.mark.parametrize(
    ("tool", "package", "lost"),
    [
        ("iptables-save", "iptables", {"iptables-save"}),
        ("ip6tables-save", "iptables", {"ip6tables-save"}),
        ("ip", "iproute2", {name for name in EVERY if name.startswith("ip") and name.endswith(".json")}),
        ("bridge", "iproute2", {"fdb.json"}),
        ("ipset", "ipset", {"ipset"}),
        ("nft", "nftables", {"nft.json"}),
        ("ipvsadm", "ipvsadm", {"ipvsadm"}),
        ("sysctl", "procps", {"sysctl"}),
    ],
)
def test_a_missing_tool_costs_its_files_alone(node: Node, tool: str, package: str, lost: set[str]) -> None:
    node.tool(tool, None)
    ran = node.run()
    assert ran.returncode == 0
    assert node.files == EVERY - lost
    for name in lost:
        assert node.line(ran, name) == (
            f"not written: there is no {tool} here; on Debian and Ubuntu: apt-get install {package}"
        )
    assert ran.stderr == f"snapshot: warning: for the files that are missing: apt-get install {package}\n"


def test_no_tool_at_all_is_an_error(node: Node) -> None:
    for name in TOOLS:
        if name != "id":
            node.tool(name, None)
    ran = node.run()
    assert ran.returncode == 2
    packages = "iptables ipset iproute2 procps nftables ipvsadm"
    assert ran.stderr == f"snapshot: error: nothing could be written; apt-get install {packages} brings the tools\n"
    assert not node.dir.exists()
    # nor where some files would be certain without a tool: without IPVS and IPv6 there is nothing of them
    (node.proc / "net/ip_vs").unlink()
    (node.proc / "net/if_inet6").unlink()
    assert node.run().returncode == 2
    assert not node.dir.exists()


@pytest.mark.parametrize(
    "old",
    [
        "echo 'Option \"-j\" is unknown, try \"ip -help\".' >&2; exit 255",  # iproute2 4.9
        "echo 'default via 10.0.0.1 dev eth0'",  # takes -j, and knows it for other objects only
        "echo 'ip: unrecognized option: j' >&2; echo 'BusyBox v1.36.1 multi-call binary.' >&2; exit 1",
        "echo 'BusyBox v1.35.0 multi-call binary.' >&2; exit 1",
    ],
)
def test_an_ip_that_knows_no_json(node: Node, old: str) -> None:
    node.tool("ip", f"case $1 in -V) echo 'ip utility, iproute2-ss161212';; *) {old};; esac")
    ran = node.run()
    assert ran.returncode == 0
    assert node.line(ran, "ip-rule.json") == (
        'not written: this ip has no JSON for "ip -j rule" (ip utility, iproute2-ss161212); iproute2 4.18 or newer has'
    )
    assert {name for name in EVERY if name not in node.files} == {
        name for name in EVERY if name.startswith("ip") and name.endswith(".json")
    }
    assert "apt-get install iproute2" in ran.stderr


def test_nothing_printed_is_an_empty_list(node: Node) -> None:
    node.tool("bridge", ":")
    assert node.run().returncode == 0
    assert (node.dir / "fdb.json").read_text() == "[]"


@pytest.mark.parametrize(
    ("tool", "body", "name", "said"),
    [
        (
            "iptables-save", "echo 'iptables-save v1.8.9 (nf_tables): no' >&2; echo half; exit 4", "iptables-save",
            "NOT written: iptables-save v1.8.9 (nf_tables): no",
        ),
        ("iptables-save", "echo half; exit 3", "iptables-save", "NOT written: iptables-save: exit code 3"),
        ("ipset", "echo half; echo 'it is broken' >&2; exit 1", "ipset", "NOT written: ipset save: it is broken"),
        ("bridge", "echo '['; echo 'Dump terminated' >&2; exit 1", "fdb.json", "NOT written: bridge -j fdb: Dump terminated"),
        ("nft", "printf 'no newline here' >&2; exit 1", "nft.json", "NOT written: nft -j list ruleset: no newline here"),
        ("sysctl", "echo net.core.somaxconn = 1", "sysctl", "NOT written: sysctl net: exit code 0"),
    ],
)  # fmt: skip
def test_a_tool_that_fails(node: Node, tool: str, body: str, name: str, said: str) -> None:
    (node.root / "sys/module/ip_set").mkdir()
    node.tool(tool, body)
    ran = node.run()
    assert ran.returncode == 1
    assert node.line(ran, name) == said
    assert node.files == EVERY - {name}


@pytest.mark.parametrize(
    ("prepare", "name", "said", "text"),
    [
        ("rm net/ip_vs", "ipvsadm", "written: empty, IPVS is not in use", ""),
        ("rm net/if_inet6", "ip6tables-save", "written: empty, this kernel has no IPv6", ""),
        ("rm net/if_inet6", "ip6-route.json", "written: empty, this kernel has no IPv6", "[]"),
        ("rm net/if_inet6", "ip6-rule.json", "written: empty, this kernel has no IPv6", "[]"),
        ("", "ipset", "written: empty, this kernel has no ipset", ""),
    ],
)
def test_what_a_kernel_has_not(node: Node, prepare: str, name: str, said: str, text: str) -> None:
    """Empty is what the node holds, so the files are there; and nobody is asked who would load a module for the answer."""
    if prepare:
        (node.proc / prepare.removeprefix("rm ")).unlink()
        node.tool("ipvsadm" if name == "ipvsadm" else "ip6tables-save", "exit 1")
    else:
        node.tool("ipset", "echo 'Cannot open session to kernel.' >&2; exit 1")
    ran = node.run()
    assert ran.returncode == 0
    assert node.line(ran, name) == said
    assert (node.dir / name).read_text() == text


def test_an_nft_without_json_is_no_failure(node: Node) -> None:
    node.tool("nft", "echo 'Error: JSON support not compiled-in' >&2; exit 1")
    ran = node.run()
    assert ran.returncode == 0
    assert node.line(ran, "nft.json") == "not written: this nft is built without JSON"


def test_sysctl_may_be_refused_some_keys(node: Node) -> None:
    node.tool("sysctl", "echo net.ipv4.ip_forward = 1; echo 'sysctl: permission denied on key x' >&2; exit 255")
    assert node.run().returncode == 0
    assert "sysctl" in node.files


# --- iptables-legacy beside iptables-nft


def test_rules_of_the_other_variant_that_nothing_here_can_show(node: Node) -> None:
    (node.proc / "net/ip_tables_names").write_text("nat\nfilter\n")
    ran = node.run()
    assert ran.returncode == 0
    assert ran.stderr == (
        "snapshot: warning: the kernel has tables of iptables-legacy too (nat filter), not in this snapshot: "
        "there is no iptables-legacy-save here\n"
    )


@pytest.mark.parametrize("version", ["v1.4.21", "v1.8.9 (legacy)"])
@pytest.mark.parametrize("tables", ["table ip nat", "table ip nat\ntable ip kube-proxy"])
def test_an_old_tool_is_legacy(node: Node, version: str, tables: str) -> None:
    """iptables-save 1.4 knows no --version: iptables does."""
    node.tool("iptables-save", "case $1 in --version) exit 1;; *) echo '-A INPUT -j DROP';; esac")
    node.tool("iptables", f"echo 'iptables {version}'")
    node.tool("nft", f"case $* in 'list tables ip') echo '{tables}';; 'list tables'*) ;; *) echo '{{}}';; esac")
    ran = node.run()
    assert node.line(ran, "iptables-save") == "written: 1 rule of iptables-legacy (iptables-save)"
    assert "the kernel has tables of iptables-nft too (nat)" in ran.stderr


def test_the_only_tool_that_is_there(node: Node) -> None:
    node.tool("iptables-save", None)
    node.tool("iptables-legacy-save", saves("v1.8.9 (legacy)", SAVED))
    ran = node.run()
    assert node.line(ran, "iptables-save") == "written: 1 rule of iptables-legacy (iptables-legacy-save)"


# --- the directory


def test_a_directory_that_is_not_empty(node: Node) -> None:
    assert node.run().returncode == 0
    node.tool("ipset", "echo create b hash:ip; echo create c hash:ip")
    ran = node.run()
    assert (ran.returncode, ran.stdout) == (2, "")
    assert ran.stderr == f"snapshot: error: {node.dir} is not empty; --force replaces the snapshot in it\n"
    assert (node.dir / "ipset").read_text() == "create a hash:ip\n"
    assert node.run("--force", str(node.dir)).returncode == 0
    assert (node.dir / "ipset").read_text() == "create b hash:ip\ncreate c hash:ip\n"


def test_nothing_of_an_earlier_snapshot_stays(node: Node) -> None:
    """Two moments in one directory would be a node that never was; what is not a snapshot's is left alone."""
    node.run()
    (node.dir / "notes.txt").write_text("mine")
    node.tool("ipset", None)
    ran = node.run(str(node.dir), "--force")
    assert node.files == EVERY - {"ipset"} | {"notes.txt"}
    assert "ipset of an earlier snapshot is removed" in ran.stderr


def test_a_snapshot_that_fails_altogether_leaves_the_earlier_one(node: Node) -> None:
    node.run()
    for name in TOOLS:
        if name != "id":
            node.tool(name, None)
    assert node.run("--force", str(node.dir)).returncode == 2
    assert node.files == EVERY


def test_a_directory_where_a_file_should_be(node: Node) -> None:
    (node.dir / "ipset").mkdir(parents=True)
    ran = node.run("--force", str(node.dir))
    assert ran.returncode == 1
    assert node.line(ran, "ipset") == f"NOT written: {node.dir}/ipset cannot be replaced"
    assert list((node.dir / "ipset").iterdir()) == []


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ([], "say which directory to write to"),
        ([""], "DIR is empty"),
        (["a", "b"], "one directory, not both a and b"),
        (["--from", "a"], "unknown option --from"),
        (["snapshot.sh"], "snapshot.sh is not a directory"),
        (["snapshot.sh/in"], "Not a directory"),
    ],
)
def test_wrong_arguments(node: Node, arguments: list[str], said: str) -> None:
    before = set(os.listdir(node.root))
    command = ["sh", str(node.script), *arguments]
    ran = subprocess.run(command, capture_output=True, text=True, check=False, cwd=node.root)
    assert (ran.returncode, ran.stdout) == (2, "")
    assert said in ran.stderr.splitlines()[-1]
    assert set(os.listdir(node.root)) == before


def test_names_with_spaces_and_folders_that_are_not_there(node: Node) -> None:
    assert node.run("some where/node 1").returncode == 0
    assert set(os.listdir(node.root / "some where/node 1")) == EVERY


def test_who_is_not_root_is_told_so(node: Node) -> None:
    node.tool("id", "echo 1000")
    ran = node.run()
    assert (ran.returncode, ran.stderr) == (2, "snapshot: error: only root can read the rules: run it with sudo\n")
    assert not node.dir.exists()


def test_a_signal_leaves_nothing_half_done(node: Node) -> None:
    node.tool("ip", "echo '['; sleep 30 & wait $!")
    running = subprocess.Popen(
        ["sh", str(node.script), str(node.dir)], stdout=subprocess.PIPE, stderr=subprocess.PIPE, start_new_session=True
    )
    while not (node.dir / ".netlab-snapshot.ip-link.json").exists():
        assert running.poll() is None
        time.sleep(0.01)
    os.killpg(running.pid, signal.SIGTERM)
    running.communicate()
    assert running.returncode == 143
    assert node.files == {"iptables-save", "ip6tables-save", "ipset"}


@pytest.mark.parametrize("shell", [shell for shell in ("sh", "dash", "bash") if shutil.which(shell)])
def test_a_script_that_was_cut_on_its_way_does_nothing(node: Node, shell: str) -> None:
    """`... | ssh node sudo sh -s` may end anywhere."""
    command = [shell, "-s", str(node.dir)]
    text = node.script.read_text()
    lines = text.splitlines(keepends=True)
    for end in (len(text) // 3, len(text) // 2, len(text) - len(lines[-1])):
        subprocess.run(command, input=text[:end], capture_output=True, text=True, check=False)
        assert not node.dir.exists()
    assert subprocess.run(command, input=text, capture_output=True, text=True, check=False).returncode == 0
    assert node.files == EVERY


# --- the command


def test_the_script_is_printed(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["snapshot", "--script"]) == 0
    printed = capsys.readouterr()
    assert (printed.out, printed.err) == (script(), "")
    assert printed.out.startswith("#!/bin/sh\n")


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ([], "which directory?"),
        (["--script", "dumps"], "--script prints the script and takes nothing else"),
        (["a", "b"], 'unexpected argument "b"'),
        ([""], "DIR is empty"),
    ],
)
def test_wrong_use_of_the_command(capsys: pytest.CaptureFixture[str], monkeypatch: Any, arguments: list[str], said: str) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    assert main(["snapshot", *arguments]) == 2
    printed = capsys.readouterr()
    assert printed.out == ""
    assert printed.err.startswith(f"netlab: error: {said}")


def test_the_command_wants_root(capsys: pytest.CaptureFixture[str], monkeypatch: Any) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    assert main(["snapshot", "my dumps"]) == 2
    assert "netlab snapshot --script | sudo sh -s -- 'my dumps'" in capsys.readouterr().err


def test_the_wheel_has_the_script() -> None:
    """hatchling takes every file of the package that git does not ignore."""
    wheel = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["hatch"]["build"]["targets"]["wheel"]
    assert wheel["packages"] == ["netlab"]
    assert set(wheel) == {"packages", "force-include"}
    assert SCRIPT.relative_to(ROOT).parts[0] == "netlab"
    assert not any(fnmatch(SCRIPT.name, line) for line in (ROOT / ".gitignore").read_text().splitlines())


# --- sysctl


WHOLE = "net.core.somaxconn = 4096\n"


@pytest.mark.parametrize(
    ("text", "values", "whole"),
    [
        ("net.ipv4.ip_forward = 1\n", {"ipv4.ip_forward": 1}, False),
        ("net.ipv4.ip_forward=0", {"ipv4.ip_forward": 0}, False),
        ("net/ipv4/ip_forward = 1\n", {"ipv4.ip_forward": 1}, False),
        ("net.ipv4.conf.flannel/1.rp_filter = 2\n", {"ipv4.conf.flannel.1.rp_filter": 2}, False),
        ("net.ipv4.conf.all.proxy_arp = 1\n\n", {"ipv4.conf.all.proxy_arp": 1}, False),
        (WHOLE, {}, True),
        (WHOLE + "net.bridge.bridge-nf-call-iptables = 0\n", {"bridge.bridge-nf-call-iptables": 0}, True),
        # not of the network, and of no matter there
        ("kernel.hostname = x\nnet.ipv4.tcp_rmem = 4096\t131072\t6291456\n", {}, False),
        ("net.ipv4.tcp_congestion_control = cubic\nnet.ipv4.ip_local_reserved_ports = \n", {}, False),
        ("net.ipv4.ip_forward = 0\nnet.ipv4.ip_forward = 1\n", {"ipv4.ip_forward": 1}, False),
    ],
)
def test_sysctl_is_read(text: str, values: dict[str, int], whole: bool) -> None:
    found = sysctl.parse(text, "sysctl")
    assert (dict(found.values), found.whole) == (values, whole)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "dumps/sysctl: has no value of net"),
        ("kernel.hostname = x\n", "dumps/sysctl: has no value of net"),
        (WHOLE + "1\n", 'dumps/sysctl:2: "1" is not "NAME = VALUE"'),
        (WHOLE + '\nsysctl: permission denied on key "a=b"\n', "dumps/sysctl:3: "),
        ("net.ipv4.ip_forward = yes\n", 'dumps/sysctl:1: net.ipv4.ip_forward is "yes", not a number'),
        ("net.ipv4.conf.a.rp_filter =\n", 'dumps/sysctl:1: net.ipv4.conf.a.rp_filter is "", not a number'),
        ("net.ipv4.conf.a.rp_filter = 1_0\n", "dumps/sysctl:1: "),
        ("= 1\n", "dumps/sysctl:1: "),
    ],
)
def test_sysctl_that_is_none(text: str, said: str) -> None:
    with pytest.raises(InputError) as error:
        sysctl.parse(text, "dumps/sysctl")
    assert str(error.value).startswith(said)
    assert "sysctl net > sysctl" in str(error.value)


def with_sysctl(tmp_path: Path, text: str) -> tuple[Netns, tuple[str, ...]]:
    (tmp_path / "sysctl").write_text(text)
    applied = apply_observed(build(two_nodes()).network, "node-1", str(tmp_path))
    return applied.network.namespaces["node-1"], applied.assumptions


def test_a_whole_dump_replaces_all(tmp_path: Path) -> None:
    made, assumptions = with_sysctl(tmp_path, WHOLE + "net.ipv4.ip_forward = 0\nnet.bridge.bridge-nf-call-iptables = 0\n")
    assert dict(made.sysctls) == {"ipv4.ip_forward": 0, "bridge.bridge-nf-call-iptables": 0}
    assert dict(made.origins) == {"sysctl": "observed"}
    assert assumptions == ()


def test_a_node_without_br_netfilter_says_so(tmp_path: Path) -> None:
    made, assumptions = with_sysctl(tmp_path, WHOLE + "net.ipv4.ip_forward = 1\n")
    assert made.sysctl("bridge.bridge-nf-call-iptables") == 0
    assert assumptions == (
        "node-1: br_netfilter is not loaded there (sysctl has no net.bridge): bridged packets do not meet iptables",
    )


def test_a_part_of_a_dump_replaces_what_it_has(tmp_path: Path) -> None:
    made, assumptions = with_sysctl(tmp_path, "net.ipv4.ip_forward = 0\n")
    assert made.sysctl("ipv4.ip_forward") == 0
    assert made.sysctl("bridge.bridge-nf-call-iptables") == 1
    assert len(assumptions) == 1
    assert "taken as expected: " in assumptions[0]
    assert "bridge.bridge-nf-call-iptables" in assumptions[0]


def test_devices_that_are_not_modelled_have_none(tmp_path: Path) -> None:
    """A lab of this network does not make them: there would be nowhere to write to."""
    stranger = {"ifindex": 99, "ifname": "wg.0", "flags": ["UP"], "mtu": 1420, "link_type": "none"}
    links = [{**stranger, "linkinfo": {"info_kind": "wireguard"}}]
    expected = build(two_nodes()).network.namespaces["node-1"]
    links += json.loads(iproute.print_link(expected, json=True, details=True))
    (tmp_path / "ip-link.json").write_text(json.dumps(links))
    lines = [f"net.ipv4.conf.{dev}.rp_filter = 1\n" for dev in ("all", "wg/0", "flannel/1", "eth0")]
    made, _ = with_sysctl(tmp_path, WHOLE + "".join(lines))
    assert made.devices["wg.0"].kind is DeviceKind.OTHER
    assert list(made.sysctls) == ["ipv4.conf.all.rp_filter", "ipv4.conf.flannel.1.rp_filter", "ipv4.conf.eth0.rp_filter"]


# --- what a snapshot has and netlab does not read


@pytest.mark.parametrize(
    ("name", "text", "note"),
    [
        ("ipvsadm", "", None),
        ("ipvsadm", "-A -t 10.96.0.1:443 -s rr\n", None),
        ("nft.json", '{"nftables": [{"metainfo": {}}, {"table": {"family": "ip", "name": "nat", "handle": 1}}]}', None),
        (
            "nft.json",
            '{"nftables": [{"table": {"family": "ip", "name": "kube-proxy"}}, {"table": {"family": "arp", "name": "filter"}}]}',
            None,
        ),
        ("notes.txt", "", "not read: notes.txt"),
    ],
)  # fmt: skip
def test_what_is_not_looked_at_is_named(tmp_path: Path, name: str, text: str, note: str | None) -> None:
    (tmp_path / name).write_text(text)
    _, assumptions = with_sysctl(tmp_path, WHOLE + "net.bridge.bridge-nf-call-iptables = 1\n")
    assert assumptions == ((f"{tmp_path}: {note}",) if note else ())


def test_the_script_is_plain_posix() -> None:
    """No bashisms: the shells of small images have none. Not executable: it is run as `sh snapshot.sh`."""
    text = script()
    for word in ("[[ ", "local ", "function ", "pipefail", "<<<", "<(", "${!", "$'", "echo -e", "&>"):
        assert word not in text, word
    assert not SCRIPT.stat().st_mode & stat.S_IXOTH
