"""`netlab bench` on a real kernel: it runs, nothing is lost, and what the model counts of a table is what the kernel says."""

import json
import subprocess
import sys

import pytest

from netlab.bench.entries import table_bytes
from netlab.bench.site import NODE, Load, declared, site
from netlab.lab.uml import missing
from netlab.lab.umlchoice import lacks

pytestmark = pytest.mark.kernel


def bench(*arguments: str) -> dict[str, list[dict[str, object]]]:
    command = [sys.executable, "-m", "netlab.cli.main", "bench", "--rounds", "1", "-o", "json", *arguments]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    found: dict[str, list[dict[str, object]]] = json.loads(done.stdout)
    return found


def test_all_modes_of_the_running_kernel() -> None:
    absent, trouble = lacks({"veth", "iptables-legacy", "iptables-nft", "nftables", "ipset"})
    if absent or trouble:
        pytest.skip(trouble or f"the running kernel has no {', '.join(absent)}")
    found = bench("--kernel", "host", "--services", "1,20", "--endpoints", "2", "--policies", "2")
    assert found["kernels"][0]["lost"] == 0
    assert len(found["rows"]) == 3 * (2 + 4)  # engines; the only service or first, middle and last, and an established flow
    assert all(row["measured"] is not None for row in found["rows"])
    held = {(one["engine"], one["services"]): one for one in found["held"]}
    for services in (1, 20):
        ruleset = site(declared(Load(2, 2), services), "iptables").namespaces[NODE].rulesets[4]
        sizes = [table_bytes(table) for table in ruleset.tables]
        assert held["iptables-legacy", services]["memory"] == sum(size or 0 for size in sizes)


def test_ipvs_in_user_mode_linux() -> None:
    if missing():
        pytest.skip("user-mode Linux is not installed")
    found = bench("--kernel", "uml", "--engine", "ipvs", "--services", "3")
    assert [row["place"] for row in found["rows"]] == ["first", "middle", "last", "any"]
    assert found["kernels"][0]["lost"] == 0
