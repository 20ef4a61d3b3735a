"""What a packet to a service makes the kernel look at, counted by hand; `netlab bench` read back."""

import csv
import io
import itertools
import json

import pytest

from netlab.bench.count import Count, count
from netlab.bench.entries import table_bytes
from netlab.bench.site import NODE, cluster, service_ip, site
from netlab.cli.main import main

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
    found = count(site(cluster(services, endpoints, mode), mode), service_ip(service))

    def pair(counted: Count) -> tuple[object, object]:
        return counted.rules, counted.probes

    assert (pair(found.new), pair(found.established)) == (new, established)


def test_each_service_before_adds_one_rule_of_488_bytes() -> None:
    network = site(cluster(5, 1, "iptables-legacy"), "iptables-legacy")
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


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["--services", "0"], "without a service there is no lookup"),
        (["--services", "ten"], '"ten" is no number'),
        (["--engine", "ipv"], 'unknown engine "ipv"'),
        (["--kernel", "host", "--engine", "ipvs"], "ipvs cannot be measured on host"),
        (["--save", "/nowhere/cost.svg"], "/nowhere/cost.svg: No such file or directory"),
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
    node = site(cluster(services, endpoints, "iptables-legacy"), "iptables-legacy").namespaces[NODE]
    assert sum(table_bytes(table) or 0 for table in node.rulesets[4].tables) == told
