"""How long one node's rules take to compile, in each mode of kube-proxy that writes them as rules.

    python benchmarks/bench_proxy.py [--services 10000] [--pods 1000] [--runs 3]

The cluster is that of bench_trace.py (one endpoint per service); the minimum of the runs, in this process. Beside it: how long
nft's text of the table takes to write (bench_observed.py: to read).
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))

from bench_trace import cluster

from netlab.dataplane.proxy import iptables, nftables
from netlab.kube.cluster import Cluster
from netlab.kube.load import load
from netlab.linux.text import nft


def fastest(runs: int, work: Callable[[], object]) -> float:
    """Seconds of the fastest of `runs` runs."""
    best = float("inf")
    for _ in range(runs):
        start = time.perf_counter()
        work()
        best = min(best, time.perf_counter() - start)
    return best


def asked(about: str | None) -> tuple[Cluster, int]:
    """The cluster that the command line asks for, and how many runs."""
    parser = argparse.ArgumentParser(description=about, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--services", type=int, default=10_000)
    parser.add_argument("--pods", type=int, default=1_000)
    parser.add_argument("--runs", type=int, default=3)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "cluster.json"
        path.write_text(json.dumps(cluster(options.services, options.pods)))
        return load([str(path)]), options.runs


def main() -> None:
    read, runs = asked(__doc__)
    print(f"iptables  compile {fastest(runs, lambda: iptables.compile_ruleset(read, 'node-0', 4)):6.2f} s")
    print(f"nftables  compile {fastest(runs, lambda: nftables.compile_ruleset(read, 'node-0', 4)):6.2f} s")
    tables = nftables.compile_ruleset(read, "node-0", 4).nft_tables
    text = nft.write_text(tables)
    print(
        f"          write   {fastest(1, lambda: nft.write_text(tables)):6.2f} s, {len(text) / 1e6:.1f} MB of nft's text"
    )


if __name__ == "__main__":
    main()
