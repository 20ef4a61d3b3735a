"""How long the dumps of one large node take to read: nft's text and JSON, iptables-save, ipset save, ipvsadm -S -n.

    python benchmarks/bench_observed.py [--services 10000] [--pods 1000] [--runs 3]

The dumps are netlab's own of the first node of bench_trace.py's cluster (one endpoint per service), which are what the tools
print (docs/fidelity.md). The minimum of the runs, in this process.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))

from bench_proxy import asked, fastest

from netlab.dataplane.proxy import iptables, ipvs, nftables
from netlab.kube.cluster import Cluster
from netlab.linux.text import ipset, iptables_save, ipvsadm, nft


def dumps(read: Cluster) -> list[tuple[str, str, Callable[[str], object]]]:
    """What each tool prints on the first node: its name, the text, who reads it."""
    tables = nftables.compile_ruleset(read, "node-0", 4).nft_tables
    family = ipvs.compile_family(read, "node-0", 4)
    return [
        ("nft list ruleset", nft.write_text(tables), nft.read_text),
        ("nft -j list ruleset", nft.write_json(tables), nft.read_json),
        (
            "iptables-save",
            iptables_save.write(iptables.compile_ruleset(read, "node-0", 4), family=4),
            lambda text: iptables_save.parse(text, family=4),
        ),
        ("ipset save", ipset.write(family.sets), ipset.parse),
        ("ipvsadm -S -n", ipvsadm.write_save(family.services), ipvsadm.parse),
    ]


def main() -> None:
    read, runs = asked(__doc__)
    for name, text, parse in dumps(read):
        seconds = fastest(runs, lambda parse=parse, text=text: parse(text))  # type: ignore[misc]
        print(f"{name:20} {len(text) / 1e6:5.1f} MB  {seconds:5.2f} s")


if __name__ == "__main__":
    main()
