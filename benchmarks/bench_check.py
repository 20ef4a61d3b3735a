"""How long `netlab check` takes for 1,000 different rows on the embedded topology: whole process. Goal: under 2 s.

    python benchmarks/bench_check.py [ROWS]

Every row asks another question (source, destination, port, node), so that none is answered from an earlier one.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
import time
from itertools import islice, product
from pathlib import Path

PODS = ["web-0", "web-1", "api-0", "api-1", "api-2"]
NODES = ["node-1", "node-2", "node-3"]
SERVICES = ["api:80", "web:80", "shop:80", "nobody:80", "api-headless:9000", "agent:9100", "api-sticky:80"]


def questions() -> list[dict[str, str]]:
    """Services from pods and nodes, pods and NodePorts; then pods at ports where nothing listens, to fill up."""
    inside = [*PODS, *(f"node/{n}" for n in NODES)]
    rows = [{"source": s, "destination": f"svc/{d}"} for s, d in product(inside, SERVICES)]
    rows += [{"source": s, "destination": f"{d}:{p}"} for s, d, p in product(inside, PODS, ["8080", "9000"]) if s != d]
    rows += [{"source": "internet", "destination": f"node/{n}:{p}", "at": a} for n, a, p in product(NODES, NODES, [30080, 30081])]
    rows += [{"source": s, "destination": f"{d}:{p}"} for p, s, d in product(range(10_000, 11_000), PODS, PODS) if s != d]
    return rows


def main() -> None:
    count = int(sys.argv[1]) if len(sys.argv) > 1 else 1000
    rows = [row | {"expect": "delivered"} for row in islice(questions(), count)]
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "rows.json"
        file.write_text(json.dumps(rows))
        command = [sys.executable, "-m", "netlab.cli.main", "check", str(file), "-q", "-o", "json"]
        best = float("inf")
        for _ in range(3):
            start = time.perf_counter()
            done = subprocess.run(command, capture_output=True, text=True, cwd=Path(__file__).parent.parent)
            best = min(best, time.perf_counter() - start)
    if done.returncode not in (0, 1):
        sys.exit(done.stderr)
    found = [row["verdict"] for row in json.loads(done.stdout)["rows"]]
    verdicts = ", ".join(f"{found.count(v)} {v}" for v in sorted(set(found)))
    print(f"netlab check, {len(found)} rows ({verdicts}): {best:.2f} s whole process, best of 3")


if __name__ == "__main__":
    main()
