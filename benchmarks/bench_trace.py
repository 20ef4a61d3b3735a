"""Whole-process times of netlab's commands, and of a trace on an observed node with many services.

    python benchmarks/bench_trace.py [--services 10000] [--pods 1000] [--runs 5]

Makes a cluster of that many services (one endpoint each, as a kubectl dump in JSON) and the iptables-save of its first node,
then runs the real commands in fresh processes: minimum and median of the wall time, peak resident memory; beside them
`iptables-{legacy,nft}-restore --test` of the same file in a network namespace of its own (needs root).
"""

from __future__ import annotations

import argparse
import json
import resource
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

from netlab.dataplane.proxy.iptables import compile_ruleset
from netlab.kube.load import load
from netlab.linux.text.iptables_save import write


def cluster(services: int, pods: int) -> dict[str, object]:
    """A `kubectl get nodes,ns,pods,svc,endpointslices -A -o json` List: 10 nodes, `pods` pods, `services` services."""
    items: list[dict[str, object]] = [{"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "default"}}]
    for n in range(10):
        items.append(
            {
                "apiVersion": "v1",
                "kind": "Node",
                "metadata": {"name": f"node-{n}"},
                "spec": {"podCIDR": f"10.244.{n}.0/24", "podCIDRs": [f"10.244.{n}.0/24"]},
                "status": {"addresses": [{"type": "InternalIP", "address": f"192.168.50.{n + 11}"}]},
            }
        )
    addresses = []
    for n in range(pods):
        node, host = n % 10, n // 10 + 2
        address = f"10.244.{node}.{host}" if host < 255 else f"10.244.{node}.254"
        addresses.append((address, f"pod-{n}", f"node-{node}"))
        items.append(
            {
                "apiVersion": "v1",
                "kind": "Pod",
                "metadata": {"name": f"pod-{n}", "namespace": "default", "labels": {"app": f"app-{n}"}},
                "spec": {
                    "nodeName": f"node-{node}",
                    "containers": [{"name": "c", "image": "example/app", "ports": [{"containerPort": 8080}]}],
                },
                "status": {"phase": "Running", "podIP": address, "podIPs": [{"ip": address}]},
            }
        )
    for n in range(services):
        vip = f"10.{96 + (n >> 16)}.{n >> 8 & 255}.{n & 255 or 1}" if n & 255 else f"10.112.{n >> 8}.1"
        address, pod, node_name = addresses[n % len(addresses)]
        labels = {"kubernetes.io/service-name": f"svc-{n}"}
        items.append(
            {
                "apiVersion": "v1",
                "kind": "Service",
                "metadata": {"name": f"svc-{n}", "namespace": "default"},
                "spec": {
                    "type": "ClusterIP",
                    "clusterIP": vip,
                    "clusterIPs": [vip],
                    "ports": [{"name": "http", "port": 80, "protocol": "TCP", "targetPort": 8080}],
                    "selector": {"app": f"app-{n}"},
                },
            }
        )
        items.append(
            {
                "apiVersion": "discovery.k8s.io/v1",
                "kind": "EndpointSlice",
                "metadata": {"name": f"svc-{n}-a", "namespace": "default", "labels": labels},
                "addressType": "IPv4",
                "endpoints": [
                    {
                        "addresses": [address],
                        "conditions": {"ready": True},
                        "nodeName": node_name,
                        "targetRef": {"kind": "Pod", "namespace": "default", "name": pod},
                    }
                ],
                "ports": [{"name": "http", "port": 8080, "protocol": "TCP"}],
            }
        )
    return {"apiVersion": "v1", "kind": "List", "items": items}


def measure(what: str, command: Sequence[str], runs: int) -> None:
    """Run a command in fresh processes and print minimum and median wall time (s) and the peak resident memory (MB)."""
    times = []
    for _ in range(runs):
        start = time.perf_counter()
        child = subprocess.run(["/usr/bin/env", *command], stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, check=False)
        times.append(time.perf_counter() - start)
        if child.returncode not in (0, 1):
            sys.exit(f"{what}: exit {child.returncode}: {child.stderr.decode()[-500:]}")
    peak = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 1024
    middle = statistics.median(times)
    print(f"{what:58s} min {min(times):6.2f} s   median {middle:6.2f} s   largest child so far {peak:5.0f} MB", flush=True)


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--services", type=int, default=10_000)
    options.add_argument("--pods", type=int, default=1_000)
    options.add_argument("--runs", type=int, default=5)
    given = options.parse_args()
    netlab = str(Path(sys.executable).parent / "netlab")
    runs = given.runs
    measure("netlab --version", [netlab, "--version"], runs)
    measure("netlab trace web-0 svc/api (embedded topology)", [netlab, "trace", "-q", "web-0", "svc/api"], runs)
    with tempfile.TemporaryDirectory() as folder:
        dump = Path(folder) / "cluster.json"
        dump.write_text(json.dumps(cluster(given.services, given.pods)))
        observed = Path(folder) / "node-0"
        observed.mkdir()
        text = write(compile_ruleset(load([str(dump)]), "node-0", 4), family=4)
        saved = observed / "iptables-save"
        saved.write_text(text)
        lines = text.count("\n")
        print(f"{given.services} services: cluster.json {dump.stat().st_size / 1e6:.1f} MB, iptables-save {lines} lines")
        last = f"svc/svc-{given.services - 1}:80"
        base = [netlab, "trace", "-q", "pod-0", last, "-f", str(dump)]
        measure(f"netlab trace pod-0 {last}, tables compiled", base, runs)
        measure(f"netlab trace pod-0 {last}, node-0 observed", [*base, "--observed", f"node-0={observed}"], runs)
        for variant in ("legacy", "nft"):
            tool = shutil.which(f"iptables-{variant}-restore", path="/usr/sbin:/sbin:/usr/bin:/bin")
            if tool is None:
                print(f"iptables-{variant}-restore is not installed (Debian package iptables)")
                continue
            measure(f"iptables-{variant}-restore --test", ["unshare", "-n", "sh", "-c", f"{tool} --test < {saved}"], runs)


if __name__ == "__main__":
    main()
