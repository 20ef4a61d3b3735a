"""How long `netlab reach` and `netlab diff` take with 100 workloads, each with a service: whole processes.

    python benchmarks/bench_diff.py [WORKLOADS]

Calico, ten nodes. Three changes: a policy for one workload, one for ten, and one for all (every answer turns on it).
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

HEAD = """apiVersion: netlab/v1
kind: Topology
metadata: {name: many}
nodes: [NODES]
podCIDR: 10.244.0.0/16
serviceCIDR: 10.96.0.0/16
cni: {name: calico}
"""
EACH = """---
apiVersion: apps/v1
kind: Deployment
metadata: {name: wNAME, namespace: default}
spec:
  selector: {matchLabels: {app: wNAME}}
  template:
    metadata: {labels: {app: wNAME, team: tTEAM}}
    spec: {containers: [{name: a, ports: [{containerPort: 8080}]}]}
---
apiVersion: v1
kind: Service
metadata: {name: wNAME, namespace: default}
spec: {selector: {app: wNAME}, ports: [{port: 80, targetPort: 8080}]}
"""
POLICY = """apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {name: change, namespace: default}
spec: {podSelector: {SELECTOR}, ingress: [{from: [{podSelector: {matchLabels: {app: w1}}}]}]}
"""
CHANGES = {"one": "matchLabels: {app: w5}", "ten": "matchLabels: {team: t5}", "all": ""}


def run(*words: str) -> tuple[float, float, str]:
    """Seconds on the clock, seconds of all processors, the last line."""
    before = os.times()
    start = time.perf_counter()
    command = [sys.executable, "-m", "netlab.cli.main", *words, "-q"]
    done = subprocess.run(command, capture_output=True, text=True, cwd=Path(__file__).parent.parent)
    took = time.perf_counter() - start
    after = os.times()
    if done.returncode not in (0, 1):
        sys.exit(done.stderr)
    used = after.children_user + after.children_system - before.children_user - before.children_system
    return took, used, done.stdout.splitlines()[-1]


def main() -> None:
    count = int(sys.argv[1]) if len(sys.argv) > 1 else 100
    nodes = ", ".join(f"{{name: node-{n}, addresses: [192.168.50.{10 + n}]}}" for n in range(10))
    with tempfile.TemporaryDirectory() as folder:
        cluster = Path(folder) / "cluster.yaml"
        each = [EACH.replace("NAME", str(n)).replace("TEAM", str(n // 10)) for n in range(count)]
        cluster.write_text(HEAD.replace("NODES", nodes) + "".join(each))
        for name, selector in CHANGES.items():
            (Path(folder) / f"{name}.yaml").write_text(POLICY.replace("SELECTOR", selector))
        asked = [("reach", "-f", str(cluster), "-o", "csv")]
        asked += [("diff", "-f", str(cluster), "--with", str(Path(folder) / f"{name}.yaml")) for name in CHANGES]
        for words in asked:
            took, used, last = run(*words)
            shown = json.dumps(last[:90])
            print(f"netlab {words[0]} {Path(words[-1]).stem}: {took:.1f} s, {used:.1f} s of processors; {shown}", flush=True)


if __name__ == "__main__":
    main()
