"""What a packet to a service makes the kernel look at, counted by hand; `netlab bench` read back."""

import csv
import io
import itertools
import json
from importlib.util import find_spec
from pathlib import Path

import pytest

from netlab.bench.count import Count, count
from netlab.bench.entries import table_bytes
from netlab.bench.measure import Job, Measured, Sample, available_memory, compiled, needed_memory
from netlab.bench.report import Fit, Report, predict, report
from netlab.bench.site import NODE, Load, declared, in_mode, service_ip, site
from netlab.bench.update import MOST_CHAINS, transactions
from netlab.cli.main import main
from netlab.errors import InputError
from netlab.render import bench_chart

# new: PREROUTING 1, KUBE-SERVICES as far as the service, KUBE-SVC 2, KUBE-SEP 2; FORWARD 4 and KUBE-FORWARD 3; POSTROUTING 1 + 1.
# A further endpoint of K adds half a rule of KUBE-SVC on the mean. established: FORWARD 2, KUBE-FORWARD 3.
ROWS = [
    # mode, services, endpoints, service, (rules, probes) of a new flow, of an established one
    ("iptables-legacy", 1, 1, 0, (15, 0), (5, 0)),
    ("iptables-legacy", 3, 1, 2, (17, 0), (5, 0)),
    ("iptables-legacy", 3, 3, 0, (16, 0), (5, 0)),
    ("iptables-legacy", 100, 1, 99, (114, 0), (5, 0)),
    ("nftables", 1, 1, 0, (14, 5), (3, 0)),
    ("nftables", 3, 3, 2, (14, 5), (3, 0)),
    ("ipvs", 1, 1, 0, (14, 6), (7, 4)),
    ("ipvs", 3, 3, 2, (14, 6), (7, 4)),
]


@pytest.mark.parametrize(("mode", "services", "endpoints", "service", "new", "established"), ROWS)
def test_counts(
    mode: str, services: int, endpoints: int, service: int, new: tuple[int, int], established: tuple[int, int]
) -> None:
    found = count(site(declared(Load(endpoints), services), mode.removesuffix("-legacy")), service_ip(service))

    def pair(counted: Count) -> tuple[object, object]:
        return counted.rules, counted.probes

    assert (pair(found.new), pair(found.established)) == (new, established)


def test_each_service_before_adds_one_rule_of_488_bytes() -> None:
    network = site(declared(Load(), 5), "iptables")
    sizes = [count(network, service_ip(n)).new.bytes for n in range(5)]
    assert all(size is not None for size in sizes)
    assert [b - a for a, b in itertools.pairwise(sizes)] == [488] * 4  # type: ignore[operator]


def test_the_command_counts(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["bench", "--kernel", "none", "--services", "1,10", "-o", "csv"]) == 0
    rows = {(r["engine"], r["services"], r["place"]): r for r in csv.DictReader(io.StringIO(capsys.readouterr().out))}
    assert (rows["iptables-legacy", "10", "last"]["rules"], rows["iptables-legacy", "10", "any"]["rules"]) == ("24", "5")
    assert rows["nftables", "10", "last"]["median_ns"] == ""
    assert main(["bench", "--kernel", "none", "--services", "1", "--engine", "nftables", "-o", "json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert (found["kind"], found["rows"][0]["probes"], found["fits"]) == ("Bench", 5, [])


def test_one_service_is_counted_once_and_seen_in_the_chart(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "cost.svg"
    command = ["bench", "--kernel", "none", "--services", "1", "--engine", "nftables"]
    assert main([*command, "-o", "csv", "--chart", str(file)]) == 0
    rows = list(csv.DictReader(io.StringIO(capsys.readouterr().out)))
    assert [(row["place"], row["flow"]) for row in rows] == [("only", "new"), ("any", "established")]
    assert file.read_text().count("<polyline") == 3


def test_policies_are_rules_of_the_client() -> None:
    few, many = (count(site(declared(Load(1, n), 2), "iptables"), service_ip(0)) for n in (1, 11))
    assert few.established == many.established  # accepted before any policy is asked
    # a policy that does not let it through is asked for its protocol and port, and one ipset
    assert many.new.probes - few.new.probes == 10
    assert many.new.rules > few.new.rules


def test_all_modes_have_one_cluster() -> None:
    one = declared(Load(2), 3)
    assert [in_mode(one, mode).proxy.mode for mode in ("iptables", "nftables", "ipvs")] == ["iptables", "nftables", "ipvs"]
    assert in_mode(one, "ipvs").services == one.services


def test_every_table_has_a_size() -> None:
    for mode in ("iptables", "ipvs"):
        ruleset = site(declared(Load(2, 2), 3), mode).namespaces[NODE].rulesets[4]
        assert all(table_bytes(table) for table in ruleset.tables)


def test_large_tables_of_nft_are_loaded_in_parts() -> None:
    chain = "\tchain c{} {{\n\t\tmeta mark 1 return\n\t}}\n"
    base = "\tchain b {\n\t\ttype filter hook input priority 0; policy accept;\n\t\tjump c1\n\t}\n"
    small = "table ip t {\n" + chain.format(1) + base + "}\n"
    assert transactions(small) == [small]
    first, *others = transactions("table ip t {\n" + "".join(map(chain.format, range(MOST_CHAINS))) + base + "}\n")
    assert "return" not in first  # every chain is there before a rule jumps to it
    assert first.count("chain c") == MOST_CHAINS
    assert "type filter hook input" in first
    assert "".join(others).count("meta mark 1 return") == MOST_CHAINS
    assert others[-1].endswith("jump c1\n\t}\n}\n")


LEGACY = Fit(
    "host", "iptables-legacy", 1000.0, 300.0, per_rule=2.0, per_far_rule=3.0, per_asked=20.0, far_low=500.0, far_high=1500.0
)


@pytest.mark.parametrize(
    ("flow", "rules", "asked", "size", "nanoseconds"),
    [
        ("new", 0, 0, 0, 1000),
        ("established", 10, 0, 0, 320),
        ("new", 100, 10, 500, 1000 + 200 + 200),  # all in the cache
        ("new", 100, 0, 1000, 1000 + 200 + 150),  # half of it
        ("new", 100, 0, 9999, 1000 + 200 + 300),  # nothing: every rule is dearer, not only those beyond
    ],
)
def test_the_formula(flow: str, rules: int, asked: int, size: int, nanoseconds: float) -> None:
    assert predict(LEGACY, flow, rules, asked, 0, size) == nanoseconds


def kernel_of(per_rule: float, far: float, asked: float) -> tuple[Job, Measured]:
    """A kernel that does what the formula says, measured without noise: yardsticks, and two numbers of services."""

    def time(rules: float, asks: float, size: float) -> float:
        return 1500 + rules * (per_rule + far * min(1.0, max(0.0, (size - 524288) / 524288))) + asks * asked

    def sample(services: int, place: str, kind: str, rules: float, asks: float) -> Sample:
        size = rules * 488
        ns = time(rules, asks, size) if kind == "new" else 500 + per_rule * rules + asked * asks
        return Sample("iptables-legacy", services, place, kind, rules, asks, 0.0, size, (ns,) * 5)

    yards = [sample(0, f"{n}", "new", n + 5, 4) for n in (0, 100, 1000, 2000, 3000, 5000, 8000)]
    yards += [sample(0, "asks", "new", 105, 202), sample(0, "0", "established", 2, 2)]
    rows = [
        sample(n, place, kind, rules, 20)
        for n in (1000, 4000)
        for kind in ("new", "established")
        for place, rules in (("first", 15), ("middle", n // 2 + 15), ("last", n + 14))
    ]
    job = Job(Load(), (1000, 4000), ("iptables-legacy",), 5)
    return job, Measured("host", "6.1", (*yards, *rows), (), (2000.0,) * 5, 10, 0, 0)


def test_a_kernel_that_does_what_the_formula_says_is_predicted() -> None:
    job, measured = kernel_of(2.5, 2.7, 20.0)
    fit = report(job, [], [measured], "a machine", 1 << 20).fits[0]
    assert (round(fit.per_rule or 0, 1), round(fit.per_asked or 0), round(fit.per_far_rule or 0, 1)) == (2.5, 20, 2.7)
    assert fit.worst_error is not None
    assert fit.worst_error < 0.001


def made() -> Report:
    job, measured = kernel_of(2.5, 2.7, 20.0)
    return report(job, [], [measured], "a <machine>", 1 << 20)


def test_the_chart_has_a_point_for_everything_measured_and_a_line_for_everything_predicted() -> None:
    drawn = bench_chart.chart(made(), ".svg").decode()
    assert drawn.startswith("<svg ")
    assert drawn.count("<circle") == 2 * 3  # first, last, established; the middle stands in the table alone
    assert drawn.count("<polyline") == 3
    assert "a &lt;machine&gt;" in drawn
    assert "iptables-legacy, 4,000 services, last, new: 22." in drawn
    page = bench_chart.chart(made(), ".html").decode()
    assert drawn in page
    assert "PREDICTED" in page


def test_the_chart_as_pixels() -> None:
    if find_spec("resvg_py") is None:  # the extra `chart` is not installed
        with pytest.raises(InputError, match="resvg-py"):
            bench_chart.chart(made(), ".png")
    else:
        assert bench_chart.chart(made(), ".png").startswith(b"\x89PNG")


def test_a_chart_of_what_is_only_counted(tmp_path: Path) -> None:
    file = tmp_path / "cost.svg"
    assert main(["bench", "--kernel", "none", "--services", "1,100", "--chart", str(file)]) == 0
    assert "<circle" not in file.read_text()  # nothing was measured
    assert file.read_text().count("<polyline") == 4 * 3


def test_what_memory_has_no_room_for_is_refused(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    assert available_memory() is not None
    monkeypatch.setattr("netlab.bench.measure.available_memory", lambda: 50_000_000)
    assert main(["bench", "--kernel", "none", "--services", "100000"]) == 2
    said = capsys.readouterr().err
    assert "the rules of 100,000 services need about 2.0 GB of memory, and 0.1 GB are free" in said
    small, large = (needed_memory(Job(Load(), (n,), ("nftables",)), "host") for n in (10, 10_000))
    assert large == 1000 * small


def test_without_user_mode_linux(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr("netlab.lab.uml.missing", lambda: ["user-mode-linux"])
    monkeypatch.setattr("netlab.lab.host.require", lambda tool, purpose: None)
    assert main(["bench", "--kernel", "uml", "--services", "1"]) == 2
    assert "user-mode Linux is not installed" in capsys.readouterr().err


def test_without_the_right_to_make_namespaces(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr("netlab.lab.umlchoice.lacks", lambda needs: (frozenset(needs), "namespaces cannot be made here: no"))
    monkeypatch.setattr("netlab.lab.host.require", lambda tool, purpose: None)
    assert main(["bench", "--kernel", "host", "--services", "1"]) == 2
    assert "namespaces cannot be made here: no" in capsys.readouterr().err


def test_what_the_agent_carries_out_is_written_once_for_all_kernels(tmp_path: Path) -> None:
    job = Job(Load(), (3,), ("iptables-legacy", "ipvs"))
    contenders = compiled(job, tmp_path, lambda text: None)
    assert [one.name for one in contenders] == [
        "none", "yardstick of iptables-legacy", "yardstick of ipvs", "iptables-legacy, 3 services", "ipvs, 3 services",
    ]  # fmt: skip
    for one in contenders:
        commands = [*one.spec["load"], *(command for each in one.spec["updates"] for command in each)]
        assert all((tmp_path / command["file"]).stat().st_size for command in commands)
        assert one.spec["in0_mac"] != one.spec["out0_mac"]
    loads = {one.name: [command["argv"][0] for command in one.spec["load"]] for one in contenders}
    assert loads["ipvs, 3 services"] == ["ip", "ipset", "ipvsadm", "iptables-legacy-restore"]


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["--services", "0"], "without a service there is no lookup"),
        (["--services", "ten"], '"ten" is no number'),
        (["--engine", "ipv"], 'unknown engine "ipv"'),
        (["--kernel", "host", "--engine", "ipvs"], "ipvs cannot be measured on host"),
        (["--services", "1000000"], "--services 1,000,000: there are at most 200,000"),
        (["--rounds", "0"], "--rounds 0: there must be 1 to 1000"),
        (["--policies", "-1"], "--policies -1: there must be 0 to 10,000"),
        (["--endpoints", "0"], "--endpoints 0: a service has 1 to"),
        (["--chart", "/nowhere/cost.svg"], "/nowhere/cost.svg: No such file or directory"),
        (["--chart", "cost.pdf"], "--chart cost.pdf: a chart is not drawn as .pdf"),
        (["--chart", "cost"], "a file without a suffix"),
    ],
)
def test_bad_input_is_one_sentence(arguments: list[str], says: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["bench", *arguments]) == 2
    assert says in capsys.readouterr().err


@pytest.mark.parametrize(
    ("services", "endpoints", "told"),  # told: IPT_SO_GET_INFO of Linux 6.18 and 6.1 after iptables-legacy-restore, all tables
    [(1, 1, 20200), (100, 1, 321160), (1000, 1, 3057160), (1, 3, 23784), (1000, 3, 4049160)],
)
def test_tables_are_as_large_as_the_kernel_says(services: int, endpoints: int, told: int) -> None:
    node = site(declared(Load(endpoints), services), "iptables").namespaces[NODE]
    assert sum(table_bytes(table) or 0 for table in node.rulesets[4].tables) == told
