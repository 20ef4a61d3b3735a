"""How long it takes to load a cluster of 5,000 pods from kubectl's JSON (about 5 KB a pod), and the embedded YAML.

Run: python benchmarks/bench_load.py [PODS]. Prints the best of five, work alone (imports not counted) and the whole
process, and the peak memory of the load.
"""

from __future__ import annotations

import json
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path


def pod(i: int, nodes: int) -> dict[str, object]:
    """A pod as kubectl prints it, with everything that netlab does not read."""
    app, node = f"app-{i // 10}", i % nodes
    address = f"10.{128 + (node >> 8)}.{node & 255}.{2 + i // nodes}"
    name = f"{app}-6d4b75cb6d-{i:05x}"
    probe = {"failureThreshold": 3, "httpGet": {"path": "/healthz", "port": 8080, "scheme": "HTTP"}, "periodSeconds": 10}
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {
            "annotations": {
                "kubectl.kubernetes.io/restartedAt": "2024-05-01T10:00:00Z",
                "prometheus.io/scrape": "true",
                "checksum/config": "d2a84f4b8b650937ec8f73cd8be2c74add5a911ba64df27458ed8229da804a26",
            },
            "creationTimestamp": "2024-05-01T10:00:00Z",
            "generateName": f"{app}-6d4b75cb6d-",
            "labels": {"app": app, "pod-template-hash": "6d4b75cb6d", "tier": "backend", "app.kubernetes.io/part-of": "bench"},
            "name": name,
            "namespace": f"team-{i % 20}",
            "ownerReferences": [
                {
                    "apiVersion": "apps/v1",
                    "blockOwnerDeletion": True,
                    "controller": True,
                    "kind": "ReplicaSet",
                    "name": f"{app}-6d4b75cb6d",
                    "uid": "5d0e1c5c-3c4b-4f55-8f9e-0f5d9d6f7a11",
                }
            ],
            "resourceVersion": str(100000 + i),
            "uid": f"00000000-0000-4000-8000-{i:012x}",
        },
        "spec": {
            "containers": [
                {
                    "args": ["--listen=:8080", "--log-level=info", "--config=/etc/app/config.yaml"],
                    "env": [{"name": f"SETTING_{n}", "value": f"value-{n}-of-{app}"} for n in range(16)],
                    "image": f"registry.example.com/bench/{app}:1.2.3",
                    "imagePullPolicy": "IfNotPresent",
                    "livenessProbe": probe,
                    "name": "app",
                    "ports": [
                        {"containerPort": 8080, "name": "http", "protocol": "TCP"},
                        {"containerPort": 9090, "name": "metrics", "protocol": "TCP"},
                    ],
                    "readinessProbe": probe,
                    "resources": {"limits": {"cpu": "1", "memory": "512Mi"}, "requests": {"cpu": "100m", "memory": "128Mi"}},
                    "terminationMessagePath": "/dev/termination-log",
                    "terminationMessagePolicy": "File",
                    "volumeMounts": [
                        {"mountPath": "/etc/app", "name": "config"},
                        {
                            "mountPath": "/var/run/secrets/kubernetes.io/serviceaccount",
                            "name": "kube-api-access",
                            "readOnly": True,
                        },
                    ],
                }
            ],
            "dnsPolicy": "ClusterFirst",
            "enableServiceLinks": True,
            "nodeName": f"node-{node}",
            "preemptionPolicy": "PreemptLowerPriority",
            "restartPolicy": "Always",
            "schedulerName": "default-scheduler",
            "serviceAccountName": app,
            "terminationGracePeriodSeconds": 30,
            "tolerations": [
                {"effect": "NoExecute", "key": f"node.kubernetes.io/{k}", "operator": "Exists", "tolerationSeconds": 300}
                for k in ("not-ready", "unreachable")
            ],
            "volumes": [
                {"configMap": {"defaultMode": 420, "name": f"{app}-config"}, "name": "config"},
                {
                    "name": "kube-api-access",
                    "projected": {"defaultMode": 420, "sources": [{"serviceAccountToken": {"path": "token"}}]},
                },
            ],
        },
        "status": {
            "conditions": [
                {"lastProbeTime": None, "lastTransitionTime": "2024-05-01T10:00:05Z", "status": "True", "type": kind}
                for kind in ("Initialized", "Ready", "ContainersReady", "PodScheduled")
            ],
            "containerStatuses": [
                {
                    "containerID": f"containerd://{i:064x}",
                    "image": f"registry.example.com/bench/{app}:1.2.3",
                    "imageID": f"registry.example.com/bench/{app}@sha256:{i:064x}",
                    "name": "app",
                    "ready": True,
                    "restartCount": 0,
                    "started": True,
                    "state": {"running": {"startedAt": "2024-05-01T10:00:04Z"}},
                }
            ],
            "hostIP": f"10.0.{node >> 8}.{node & 255}",
            "phase": "Running",
            "podIP": address,
            "podIPs": [{"ip": address}],
            "qosClass": "Burstable",
            "startTime": "2024-05-01T10:00:00Z",
        },
    }


def cluster(pods: int) -> dict[str, object]:
    """Nodes of 50 pods each, and one service with its slice for every 10 pods."""
    nodes = max(1, pods // 50)
    items: list[object] = [
        {
            "apiVersion": "v1",
            "kind": "Node",
            "metadata": {"name": f"node-{n}"},
            "spec": {"podCIDR": f"10.{128 + (n >> 8)}.{n & 255}.0/24", "podCIDRs": [f"10.{128 + (n >> 8)}.{n & 255}.0/24"]},
            "status": {"addresses": [{"type": "InternalIP", "address": f"10.0.{n >> 8}.{n & 255}"}]},
        }
        for n in range(nodes)
    ]
    items += [pod(i, nodes) for i in range(pods)]
    for s in range(pods // 10):
        meta = {"name": f"app-{s}", "namespace": f"team-{s % 20}"}
        address = f"10.96.{s >> 8}.{s & 255}"
        spec = {
            "clusterIP": address,
            "clusterIPs": [address],
            "selector": {"app": f"app-{s}"},
            "ports": [{"port": 80, "targetPort": 8080}],
        }
        items.append({"apiVersion": "v1", "kind": "Service", "metadata": meta, "spec": spec})
        items.append(
            {
                "apiVersion": "discovery.k8s.io/v1",
                "kind": "EndpointSlice",
                "metadata": {**meta, "labels": {"kubernetes.io/service-name": f"app-{s}"}},
                "addressType": "IPv4",
                "endpoints": [{"addresses": [f"10.128.{n}.{s % 250 + 2}"], "conditions": {"ready": True}} for n in range(10)],
                "ports": [{"port": 8080, "protocol": "TCP", "name": ""}],
            }
        )
    return {"apiVersion": "v1", "kind": "List", "items": items}


def measure(path: str) -> tuple[float, float]:
    """Best seconds of five: the load alone, and the whole process."""
    from netlab.kube.load import load

    work, process = [], []
    for _ in range(5):
        start = time.perf_counter()
        load([path])
        work.append(time.perf_counter() - start)
        start = time.perf_counter()
        subprocess.run([sys.executable, "-c", f"from netlab.kube.load import load; load([{path!r}])"], check=True)
        process.append(time.perf_counter() - start)
    return min(work), min(process)


def main() -> None:
    """Measure and print."""
    pods = int(sys.argv[1]) if len(sys.argv) > 1 else 5000
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "cluster.json"
        file.write_text(json.dumps(cluster(pods), indent=4))
        work, process = measure(str(file))
        size = file.stat().st_size
        peak = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 1024
        rate = f"{work:.3f} s ({size / work / 1e6:.0f} MB/s)"
        print(f"{pods} pods, {size / 1e6:.1f} MB of JSON: {rate}, process {process:.3f} s, {peak:.0f} MB")
    from netlab.kube.embedded import path_of_default

    work, process = measure(str(path_of_default()))
    size = path_of_default().stat().st_size
    print(f"embedded topology, {size / 1e3:.1f} kB of YAML: {work * 1e3:.1f} ms, process {process:.3f} s")


if __name__ == "__main__":
    main()
