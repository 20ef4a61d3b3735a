"""User-mode Linux: commands behave as outside, the host stays as it is, nothing outlives its owner, a lab inside agrees."""

import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from io import BytesIO
from pathlib import Path

import pytest

from netlab.errors import InputError
from netlab.lab import uml, umlchoice
from netlab.lab.uml import Uml, run_in_uml
from netlab.lab.umlchoice import NOT_IN_UML, PROBES, Choice, choose_kernel, modules, requirements, unsent
from netlab.linux.netns import Listener, Netns, NetnsKind
from netlab.linux.network import Network
from netlab.linux.packet import SCTP, TCP
from netlab.trace.flows import Flow

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="session")
def installed() -> None:
    """The rule of conftest.py, for what user-mode Linux needs."""
    packages = uml.missing()
    if not packages:
        return
    reason = f"user-mode Linux needs: apt-get install {' '.join(packages)}"
    if os.environ.get("CI") == "true" or os.environ.get("NETLAB_KERNEL") == "require":
        pytest.fail(reason, pytrace=False)
    pytest.skip(reason)


@pytest.fixture(scope="module")
def linux(installed: None) -> Iterator[Uml]:
    with Uml(modules=modules(PROBES)) as running:
        yield running


def until(true: Callable[[], bool]) -> None:
    while not true():
        time.sleep(0.01)


def processes_of(directory: str) -> list[int]:
    """The processes, not yet ended, whose command line speaks of a directory."""
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                if directory.encode() in (entry / "cmdline").read_bytes():
                    found.append(int(entry.name))
            except OSError:
                continue
    return found


# -- commands ----------------------------------------------------------------------------------------------------------

COMMANDS = [  # (argv, stdin, exit code, stdout, stderr)
    (["true"], b"", 0, b"", b""),
    (["sh", "-c", "echo out; echo err >&2; exit 7"], b"", 7, b"out\n", b"err\n"),
    (["printf", r"%s|", "a b", "'$HOME'", "", "x\ny", "\\"], b"", 0, b"a b|'$HOME'||x\ny|\\|", b""),
    (["cat"], bytes(range(256)) * 4096, 0, bytes(range(256)) * 4096, b""),
    (["id", "-u"], b"", 0, b"0\n", b""),
    (["sh", "-c", "kill -9 $$"], b"", 137, b"", b""),
    (["no-such-command"], b"", 127, b"", b"env: 'no-such-command': No such file or directory\n"),
    (["/etc/passwd"], b"", 126, b"", b"env: '/etc/passwd': Permission denied\n"),
]


@pytest.mark.parametrize(("argv", "stdin", "code", "out", "err"), COMMANDS, ids=lambda value: "")
def test_a_command_inside_behaves_as_outside(
    linux: Uml, argv: list[str], stdin: bytes, code: int, out: bytes, err: bytes
) -> None:
    done = linux.run(argv, stdin=stdin, env={"PATH": "/usr/bin:/bin"})
    assert (done.args, done.returncode, done.stdout, done.stderr) == (argv, code, out, err)


def test_it_is_another_kernel(linux: Uml) -> None:
    inside, outside = linux.run(["uname", "-r"]).stdout.decode().strip(), os.uname().release
    assert inside in os.listdir(uml.MODULES)
    assert inside != outside


def test_the_command_has_the_working_directory_and_the_environment_it_was_given(linux: Uml, tmp_path: Path) -> None:
    where = tmp_path / "with space"
    where.mkdir()
    script = 'pwd; echo "$ONE"; echo "${HOME-none}"; command -v ip'
    done = linux.run(["sh", "-c", script], cwd=where, env={"ONE": "it's\n1", "PATH": "/usr/bin:/bin"})
    assert done.stdout.decode() == f"{where}\nit's\n1\nnone\n{shutil.which('ip', path='/usr/bin:/bin:/usr/sbin:/sbin')}\n"


def test_it_reads_the_hosts_files_and_writes_none(linux: Uml, tmp_path: Path) -> None:
    (tmp_path / "input").write_text("from the host\n")
    script = (
        "cat input; echo changed > input; echo new > new; mkdir /made-inside; cat input new; rm input; ls; touch /etc/made-inside"
    )
    done = linux.run(["sh", "-c", script], cwd=tmp_path)
    assert (done.stdout.decode(), done.stderr) == ("from the host\nchanged\nnew\nnew\n", b"")
    assert [path.name for path in tmp_path.iterdir()] == ["input"]
    assert (tmp_path / "input").read_text() == "from the host\n"
    assert not Path("/made-inside").exists()
    assert not Path("/etc/made-inside").exists()


def test_it_reaches_no_network(linux: Uml) -> None:
    done = linux.run(["sh", "-c", "ip -brief link show up; ip route; ip -6 route; ip route get 192.0.2.1"])
    assert [line.split()[0] for line in done.stdout.decode().splitlines()] == ["lo"]
    assert "unreachable" in done.stderr.decode()


def test_a_new_namespace_is_empty_although_tunnels_are_loaded(linux: Uml) -> None:
    done = linux.run(["unshare", "-n", "ip", "-brief", "link"])
    assert [line.split()[0] for line in (done.stdout or b"").decode().splitlines()] == ["lo"]


def test_output_arrives_while_the_command_runs(linux: Uml) -> None:
    class Answering(BytesIO):
        def write(self, data: bytes) -> int:  # type: ignore[override]
            if b"ready" in data:
                linux.run(["touch", "/run/seen"])
            return super().write(data)

    out, err = Answering(), BytesIO()
    script = "echo ready; until [ -e /run/seen ]; do sleep 0.02; done; echo end; echo problem >&2"
    done = linux.run(["sh", "-c", script], stdout=out, stderr=err)
    assert (done.returncode, done.stdout, done.stderr) == (0, None, None)
    assert (out.getvalue(), err.getvalue()) == (b"ready\nend\n", b"problem\n")


def test_each_command_sees_the_hosts_files_as_they_are_then(linux: Uml, tmp_path: Path) -> None:
    look = ["sh", "-c", "cat a b"]
    (tmp_path / "a").write_text("1\n")
    assert linux.run(look, cwd=tmp_path).stdout == b"1\n"
    (tmp_path / "a").write_text("longer\n")
    (tmp_path / "b").write_text("2\n")
    assert linux.run(look, cwd=tmp_path).stdout == b"longer\n2\n"


def test_commands_run_side_by_side(linux: Uml) -> None:
    found: dict[int, bytes | None] = {}

    def one(n: int) -> None:  # ends only when all have begun
        script = f"mkdir -p /run/b; touch /run/b/{n}; until [ $(ls /run/b | wc -l) = 4 ]; do sleep 0.02; done; echo {n}"
        found[n] = linux.run(["sh", "-c", script]).stdout

    threads = [threading.Thread(target=one, args=(n,)) for n in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == {n: b"%d\n" % n for n in range(4)}


def test_out_of_time_a_command_is_killed_with_its_children(linux: Uml) -> None:
    out = BytesIO()
    with pytest.raises(InputError, match=r"^sh was not done within 0\.5 s in user-mode Linux"):
        linux.run(["sh", "-c", "echo begun; sleep 4711 & sleep 4711"], timeout=0.5, stdout=out)
    assert out.getvalue() == b"begun\n"
    until(lambda: b"4711" not in (linux.run(["ps", "ax", "-o", "args"]).stdout or b""))


def test_a_directory_that_is_covered_inside_is_an_error(linux: Uml) -> None:
    with pytest.raises(InputError, match="the directory /proc does not exist in user-mode Linux"):
        linux.run(["true"], cwd="/proc")


# -- life --------------------------------------------------------------------------------------------------------------


def test_one_command_and_nothing_stays(installed: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(uml.tempfile, "tempdir", str(tmp_path))  # others use the machine's at the same time
    done = run_in_uml(["sh", "-c", "echo $$ here; exit 3"], memory=256)
    assert done.returncode == 3
    assert done.stdout is not None
    assert done.stdout.endswith(b"here\n")
    assert list(tmp_path.iterdir()) == []


def test_one_that_stays_is_found_by_others_until_it_is_closed(linux: Uml, tmp_path: Path) -> None:
    begun = Uml(directory=tmp_path, stay=True, memory=256)
    try:
        begun.run(["touch", "/run/mark"])
        other = Uml.attach(tmp_path)
        assert other.run(["ls", "/run/mark"]).returncode == 0
        assert linux.run(["ls", "/run/mark"]).returncode != 0  # another one altogether, at the same time
        other.close()
        other.close()
        until(lambda: processes_of(str(tmp_path)) == [])
        with pytest.raises(InputError, match="ended"):  # while it ran `true`, where its process is not yet quite gone
            begun.run(["true"])
    finally:
        begun.close()
    with pytest.raises(InputError, match="has ended"):
        Uml.attach(tmp_path)
    with pytest.raises(InputError, match="no user-mode Linux in"):
        Uml.attach(tmp_path / "elsewhere")


@pytest.mark.parametrize("namespaces", [True, False], ids=["PID namespace", "without one"])
def test_nothing_outlives_a_netlab_that_is_killed(installed: None, namespaces: bool) -> None:
    without = "" if namespaces else "uml._namespaces = lambda: None;"
    code = (
        f"from netlab.lab import uml; {without} u = uml.Uml(memory=256); print(u.directory, flush=True); u.run(['sleep', '1000'])"
    )
    owner = subprocess.Popen([sys.executable, "-c", code], cwd=ROOT, stdout=subprocess.PIPE, text=True)
    assert owner.stdout is not None
    directory = owner.stdout.readline().strip() or "none"
    assert Path(directory).is_dir(), "it did not boot"
    until(lambda: len(list(Path(directory).glob("run-*/session"))) == 1 or owner.poll() is not None)
    assert len(processes_of(directory)) >= 3
    owner.send_signal(signal.SIGKILL)
    owner.wait()
    owner.stdout.close()
    until(lambda: processes_of(directory) == [])
    assert Path(directory).exists()
    uml._tidy()  # as the next one does
    assert not Path(directory).exists()


@pytest.mark.skipif(os.geteuid() != 0, reason="who is not root is an ordinary user in every test here")
def test_an_ordinary_user_may(installed: None) -> None:
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            os.setgroups([])
            os.setresgid(65534, 65534, 65534)
            os.setresuid(65534, 65534, 65534)
            done = run_in_uml(["sh", "-c", "id -u; ip link add d0 type dummy && ip -brief link show d0"], cwd="/", memory=256)
            os.write(writer, (done.stdout or b"") + (done.stderr or b""))
        except BaseException as error:
            os.write(writer, str(error).encode())
        finally:
            os._exit(0)
    os.close(writer)
    with os.fdopen(reader) as file:
        said = file.read().split()
    os.waitpid(child, 0)
    assert said[:3] == ["0", "d0", "DOWN"]


def test_what_is_not_installed_is_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr(uml, "_SBIN", str(tmp_path))
    with pytest.raises(InputError) as caught:
        Uml()
    assert str(caught.value) == ("user-mode Linux is not installed\n  apt-get install iproute2 kmod user-mode-linux util-linux")


def test_why_it_did_not_boot_is_said(installed: None) -> None:
    with pytest.raises(InputError, match=r"user-mode Linux ended while it booted\n(.*\n)*.*no kernel module no_such_module"):
        Uml(modules=["no_such_module"], memory=256)


def test_too_much_memory_is_an_error(installed: None) -> None:
    with pytest.raises(InputError, match="no room for the 999999999 MiB of user-mode Linux"):
        Uml(memory=999999999)


def test_a_directory_that_the_kernels_command_line_cannot_name_is_an_error(installed: None, tmp_path: Path) -> None:
    (tmp_path / "a b").mkdir()
    with pytest.raises(InputError, match="its name has spaces"):
        Uml(directory=tmp_path / "a b")


# -- which kernel ------------------------------------------------------------------------------------------------------

CHOICES = [  # (what the network needs, --kernel, what the running kernel lacks, the choice or the error)
    ("veth bridge", "auto", "", Choice("host", "it has everything that the network needs")),
    ("veth ipip IPVS", "auto", "ipip IPVS", Choice("uml", "the running kernel has no IPVS, ipip")),
    ("veth", "host", "", Choice("host", "asked for")),
    ("veth", "uml", "", Choice("uml", "asked for")),
    (
        "dummy veth",
        "host",
        "dummy",
        "the running kernel has no dummy\n  `modprobe -a dummy` may load it; --kernel uml runs the same lab in user-mode Linux",
    ),
    ("vxlan", "host", "vxlan", "the running kernel has no vxlan\n  --kernel uml runs the same lab in user-mode Linux"),
    ("iptables-nft", "uml", "", "user-mode Linux has no iptables-nft\n  --iptables legacy works in both kernels"),
    (
        "iptables-nft ipip",
        "auto",
        "ipip",
        "the running kernel has no ipip, and user-mode Linux has no iptables-nft\n  --iptables legacy works in both kernels",
    ),
    ("nftables", "auto", "nftables", "the running kernel has no nftables, and user-mode Linux has no nftables"),
]


@pytest.mark.parametrize(("needs", "wanted", "lacking", "expected"), CHOICES, ids=lambda value: "")
def test_the_choice_of_a_kernel(
    monkeypatch: pytest.MonkeyPatch, needs: str, wanted: str, lacking: str, expected: Choice | str
) -> None:
    monkeypatch.setattr(umlchoice, "lacks", lambda asked: (frozenset(lacking.split()), ""))
    monkeypatch.setattr(uml, "missing", list)
    if isinstance(expected, Choice):
        assert choose_kernel(needs.split(), wanted) == expected
    else:
        with pytest.raises(InputError) as caught:
            choose_kernel(needs.split(), wanted)
        assert str(caught.value) == expected


def test_without_the_package_the_error_names_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(umlchoice, "lacks", lambda asked: (frozenset({"ipip"}), ""))
    monkeypatch.setattr(uml, "missing", lambda: ["kmod", "user-mode-linux"])
    with pytest.raises(InputError, match=r"user-mode Linux is not installed\n  apt-get install kmod user-mode-linux$"):
        choose_kernel({"ipip"})


def test_without_namespaces_user_mode_linux_is_the_way(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(umlchoice, "lacks", lambda asked: (frozenset(asked), "namespaces cannot be made here: no"))
    monkeypatch.setattr(uml, "missing", list)
    assert choose_kernel({"veth"}) == Choice("uml", "namespaces cannot be made here: no")
    assert choose_kernel({"veth"}, "host") == Choice("host", "asked for")


def test_what_the_example_cluster_needs() -> None:
    from netlab.kube import embedded
    from netlab.kube.load import load
    from netlab.trace.query import Tracer

    network = Tracer(load((str(embedded.path_of_default()),))).network
    common = {"veth", "bridge", "br_netfilter", "vxlan", "IPv6"}
    assert requirements(network, "legacy") == common | {"iptables-legacy"}
    assert requirements(network, "nft") == common | {"iptables-nft"}
    assert modules(requirements(network)) == ("br_netfilter",)
    assert modules({"IPVS", "ipip"}) == ("br_netfilter", "ip_vs", "ipip")


@pytest.mark.parametrize(("speaks", "kernel_has_it", "said"), [(SCTP, False, "SCTP"), (SCTP, True, ""), (TCP, False, "")])
def test_sctp_is_not_everything_that_a_network_needs(
    speaks: int, kernel_has_it: bool, said: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def opened(*_: int) -> BytesIO:
        if kernel_has_it:
            return BytesIO()
        raise OSError("Protocol not supported")

    monkeypatch.setattr("socket.socket", opened)
    pod = Netns("default/a", NetnsKind.POD, listeners=(Listener(speaks, 3868, "pod default/a"),))
    assert unsent(Network({"default/a": pod})) == said


def test_the_probe_finds_what_every_kernel_for_labs_has(kernel: None) -> None:
    assert umlchoice.lacks({"veth", "bridge"}) == (frozenset(), "")
    with pytest.raises(KeyError, match="warp"):
        umlchoice.lacks({"veth", "warp"})


def test_inside_the_probe_finds_all_but_what_is_known_to_be_missing(linux: Uml) -> None:
    code = "from netlab.lab.umlchoice import *; missing, why = lacks(PROBES); print(*sorted(missing), why)"
    done = linux.run([sys.executable, "-c", code], cwd=ROOT)
    assert (done.stdout or b"").decode().split() == sorted(NOT_IN_UML), done.stderr


# -- the lab inside ----------------------------------------------------------------------------------------------------


def netlab(*arguments: str, stdin: str = "", **variables: str) -> tuple[int, str, str]:
    done = subprocess.run(
        [sys.executable, "-m", "netlab.cli.main", *arguments],
        cwd=ROOT,
        env={**os.environ, **variables},
        input=stdin,
        capture_output=True,
        text=True,
    )
    return done.returncode, done.stdout, done.stderr


def test_lab_verify_agrees_inside(installed: None) -> None:
    code, out, err = netlab("lab", "verify", "--kernel", "uml", "--flows", "200", "--seed", "7", "--rules", "10")
    flows, rules, *chances = out.splitlines()[-5:]
    assert len([line for line in chances if "chi-squared p = " in line]) == 3
    assert flows.startswith("200 flows: 200 agree (")
    assert rules.startswith("10 flows sent alone: ")
    assert "rules, by their counters; " in rules
    assert ", 0 disagree" in flows
    assert ", 0 disagree" in rules
    assert (code, err.splitlines()[-1]) == (0, "netlab: in user-mode Linux: asked for")


def test_sctp_is_sent_and_agrees_inside(installed: None) -> None:
    """Right and wrong ports, by service and pod: INIT, INIT-ACK, COOKIE-ECHO, COOKIE-ACK; an ABORT where nothing listens."""
    code = f"""
from netlab.kube.load import load
from netlab.lab.host import Lab
from netlab.lab.plan import make_plan
from netlab.lab.rulepath import verify_paths
from netlab.lab.verify import lab_network, verify
from netlab.trace.flows import Flow
from netlab.trace.query import Tracer
declared = load([{str(ROOT / "tests/data/kube-proxy-1.30.5/services/cluster.json")!r}])
tracer = Tracer(declared)
network = lab_network(declared, tracer.network)
where = ("10.96.7.1:7777", "10.96.7.1:7778", "10.244.2.5:7777", "10.244.2.5:7778")
wanted = [Flow(f"pod/{{pod}}", to, "sctp") for pod in ("db-0", "sctp-0") for to in where]
with Lab.start(make_plan(network)) as lab:
    for report in (verify(tracer, lab, wanted), verify_paths(tracer, network, lab, wanted, "legacy")):
        print(*report.disagreements, report.summary, sep="\\n")
"""
    done = run_in_uml([sys.executable, "-c", code], cwd=ROOT)
    said = (done.stdout or b"").decode()
    assert "8 flows: 8 agree (4 delivered, 2 dropped, 2 rejected), 0 disagree\n" in said, (said, done.stderr)
    assert "8 flows sent alone: 8 agree, 0 disagree; compared: " in said


# The example cluster with SCTP for TCP, and without flannel's masquerading. What its associations are told, and by whom: fact,
# flow, where it ends, what netlab says.
SCTP_FACTS = [
    ("a refusal by ICMP is told with the second INIT", ("pod/web-0", "10.96.0.80:80", ""), "rejected", "no endpoints"),
    ("the same from the node", ("node/node-1", "10.96.0.80:80", ""), "rejected", "no endpoints"),
    ("a port that nobody listens on is told by ABORT", ("pod/web-0", "10.244.1.11:9001", ""), "rejected", "nothing listens"),
    ("entered by way of another node, whose conntrack knows no tag for the COOKIE-ECHO",
     ("203.0.113.7", "10.244.1.11:9000", "node-1"), "dropped", "nothing that the sender says next"),
    ("entered at its own node", ("203.0.113.7", "10.244.1.11:9000", "node-2"), "delivered", ""),
    ("a host of many addresses, asked at the one that it would not choose",
     ("pod/web-0", "192.168.50.11:9100", ""), "delivered", ""),
    ("the same through a service", ("pod/web-0", "10.96.0.70:9100", ""), "delivered", ""),
    ("an INIT-ACK past the node's NAT meets an ABORT", ("pod/web-0", "10.96.0.20:80", ""), "delivered", ""),
]  # fmt: skip


def test_sctp_is_told_as_netlab_says_inside(installed: None) -> None:
    """docs/fidelity.md's facts of SCTP: each flow sent among others, and alone with every rule, frame and connection."""
    code = f"""
import io
from netlab.kube.embedded import path_of_default
from netlab.kube.load import load
from netlab.lab.host import Lab
from netlab.lab.plan import make_plan
from netlab.lab.random_clusters import entries
from netlab.lab.rulepath import verify_paths
from netlab.lab.verify import lab_network, verify
from netlab.trace.flows import Flow, predict
from netlab.trace.query import Tracer
text = path_of_default().read_text().replace("masquerade: true", "masquerade: false")
for number in (8080, 9000, 9100):
    text = text.replace(f"containerPort: {{number}}", f"containerPort: {{number}}, protocol: SCTP")
for number in (80, 9000, 9100):
    text = text.replace(f" port: {{number}},", f" port: {{number}}, protocol: SCTP,")
declared = load(["-"], io.StringIO(text))
tracer = Tracer(declared)
network = lab_network(declared, tracer.network)
wanted = [Flow(source, to, "sctp", at=at or None) for source, to, at in {[row[1] for row in SCTP_FACTS]!r}]
with Lab.start(make_plan(network)) as lab:
    for entered, share in entries(declared, network, lab, wanted):
        for flow in share:
            found = predict(tracer, flow, 33333)
            print(flow, found.verdict.value, *dict.fromkeys(b.reason or "" for b in found.branches), sep=" | ")
        for report in (verify(tracer, lab, share), verify_paths(tracer, entered, lab, share, "legacy")):
            print(*report.disagreements, report.summary, sep="\\n")
"""
    done = run_in_uml([sys.executable, "-c", code], cwd=ROOT, modules=("br_netfilter", "sctp"))
    said = (done.stdout or b"").decode()
    assert said.count("flows") == said.count(" 0 disagree") == 6, (said, done.stderr)
    for _, (source, to, at), verdict, reason in SCTP_FACTS:
        line = next(line for line in said.splitlines() if line.startswith(str(Flow(source, to, "sctp", at=at or None))))
        assert f" | {verdict}" in line
        assert reason in line


def test_random_clusters_agree_inside(installed: None) -> None:
    code, out, _ = netlab("lab", "verify", "--random", "2", "--seed", "9000", "--rules", "2", "--kernel", "uml")
    assert "cannot send" not in out, "SCTP is sent in there"
    assert out.startswith("2 random clusters, ")
    assert code == 0, out


def test_a_lab_that_stays_is_used_as_one_on_the_running_kernel(installed: None, tmp_path: Path) -> None:
    def lab(*arguments: str, stdin: str = "") -> tuple[int, str, str]:
        return netlab("lab", *arguments, stdin=stdin, XDG_RUNTIME_DIR=str(tmp_path))

    topology = (ROOT / "topologies" / "flannel-vxlan.yaml").read_text()
    code, out, err = lab("up", "--kernel", "uml", "--name", "inside", "-f", "-", "-q", stdin=topology)
    assert (code, err) == (0, "")
    assert out.startswith("lab inside is up: 3 nodes, 6 pods and the outside, iptables-legacy, in ")
    try:
        name = ("--name", "inside")
        assert lab("up", "--kernel", "uml", *name)[0] == 2
        assert lab("status", "-o", "name") == (0, "inside\n", "")
        assert " uml " in lab("status")[1]
        assert lab("exec", *name, "pod/web-0", "--", "sh", "-c", "cat; exit 5", stdin="word\n") == (5, "word\n", "")
        assert lab("exec", *name, "pod/web-0", "--", "uname", "-r")[1].strip() in os.listdir(uml.MODULES)
        code, out, err = lab("trace", *name, "web-0", "svc/api")
        assert (code, err) == (0, "")
        assert "as netlab says; so are rules (by their counters), devices and connections\n" in out
        assert lab("exec", *name, "pod/web-0") == (
            2,
            "",
            "netlab: error: a shell needs a terminal, and user-mode Linux has none\n  name a command: sh -c '...'\n",
        )
    finally:
        assert lab("down", "--name", "inside") == (0, "lab inside is down\n", "")
    until(lambda: processes_of(str(tmp_path)) == [])
    assert list((tmp_path / "netlab").iterdir()) == []


def test_a_lab_that_cannot_be_made_inside_leaves_nothing(installed: None, tmp_path: Path) -> None:
    code, out, err = netlab("lab", "up", "--kernel", "uml", "--iptables", "nft", "-q", XDG_RUNTIME_DIR=str(tmp_path))
    assert (code, out) == (2, "")
    assert err == "netlab: error: user-mode Linux has no iptables-nft\n  --iptables legacy works in both kernels\n"
    assert list((tmp_path / "netlab").iterdir() if (tmp_path / "netlab").exists() else []) == []
