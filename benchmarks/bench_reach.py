"""All pairs of pods at the sizes that people ask about: load, compile, ask, count; one changed policy; memory; and the matrix.

    python benchmarks/bench_reach.py            every row, each in a process of its own, the best and the median of 3
"""

from __future__ import annotations

import gc
import json
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from itertools import pairwise
from pathlib import Path

ROWS = {
    "1,000 pods, 600 policies": ("--pods", "1000", "--services", "100", "--policies", "600", "--shape", "uniform"),
    "5,413 pods, 13,678 policies (survey)": ("--pods", "5413", "--services", "361", "--policies", "13678", "--seed", "7"),
    "150,000 pods, 10,000 policies, 5,000 nodes": (
        "--pods", "150000", "--services", "10000", "--policies", "10000", "--nodes", "5000",
    ),
}  # fmt: skip
_UNIFORM = ("--pods", "1000", "--services", "300", "--shape", "uniform", "--seed", "1")
MATRICES = {
    "1,000 pods, 300 services, 600 policies": (*_UNIFORM, "--policies", "600"),
    "the same without policies": (*_UNIFORM, "--policies", "0"),
    "the same without policies on flannel": (*_UNIFORM, "--policies", "0", "--cni", "flannel"),
}
STEPS = ("load", "compile", "ask", "count", "one changed policy")
RUNS = 3


def measure(path: str) -> dict[str, float]:
    """Seconds of each step, and MB at most."""
    from msgspec.structs import replace

    from netlab.dataplane.policy.index import PolicyIndex
    from netlab.kube.load import load
    from netlab.reach.allpairs import AllPairs

    gc.disable()  # as the command line does
    times = [time.perf_counter()]

    def now() -> None:
        times.append(time.perf_counter())

    cluster = load([path])
    now()
    index = PolicyIndex(cluster)
    now()
    pairs = AllPairs(index, 4)
    now()
    pairs.counts()
    now()
    key = sorted(cluster.policies)[len(cluster.policies) // 2]
    changed = replace(cluster.policies[key], ingress=(), policy_types=("Ingress", "Egress"))
    other = replace(cluster, policies={**cluster.policies, key: changed})
    now()
    pairs.changed(index.changed(other))
    now()
    spent = [after - before for before, after in pairwise(times)]
    del spent[4]  # making the change
    found = dict(zip(STEPS, spent, strict=True))
    return {**found, "MB": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024}


def main() -> None:
    print("cluster | " + " | ".join(STEPS) + " | after loading | in all | memory")
    for name, wanted in ROWS.items():
        with tempfile.NamedTemporaryFile("w", suffix=".json") as file:
            subprocess.run([sys.executable, "-m", "netlab.cli.main", "generate", *wanted], stdout=file, check=True)
            runs = []
            for _ in range(RUNS):
                done = subprocess.run([sys.executable, __file__, "--one", file.name], capture_output=True, check=True)
                runs.append(json.loads(done.stdout))
        cells = [spread([run[step] for run in runs]) for step in STEPS]
        after = spread([run["compile"] + run["ask"] + run["count"] for run in runs])
        whole = spread([sum(run[step] for step in STEPS[:4]) for run in runs])
        print(" | ".join([name, *cells, after, whole, f"{max(run['MB'] for run in runs):.0f} MB"]), flush=True)
    print("netlab reach on the example cluster, whole process:", spread([whole() for _ in range(5)]))
    for name, wanted in MATRICES.items():
        with tempfile.NamedTemporaryFile("w", suffix=".json") as file:
            subprocess.run([sys.executable, "-m", "netlab.cli.main", "generate", *wanted], stdout=file, check=True)
            runs_ = [whole("-f", file.name, "-o", "csv") for _ in range(RUNS)]
        print(f"netlab reach, {name}, whole process:", spread(runs_), flush=True)


def whole(*flags: str) -> float:
    """Seconds of `netlab reach`, from the start of Python to its end."""
    here = Path(__file__).resolve().parent.parent
    begin = time.perf_counter()
    subprocess.run([sys.executable, "-m", "netlab.cli.main", "reach", "-q", *flags], capture_output=True, check=True, cwd=here)
    return time.perf_counter() - begin


def spread(values: list[float]) -> str:
    return f"{min(values):.2f} / {statistics.median(values):.2f} s"


if __name__ == "__main__":
    if sys.argv[1:2] == ["--one"]:
        print(json.dumps(measure(sys.argv[2])))
    else:
        main()
