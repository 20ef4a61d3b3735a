"""What the tracer says of the recorded clusters, told in every form: it satisfies the schema, comes back, and reads well."""

from __future__ import annotations

import json
from functools import cache
from pathlib import Path

import jsonschema
import pytest

from netlab.errors import InputError
from netlab.kube.load import load
from netlab.render.jsonio import dumps, loads, schema
from netlab.render.text import one_line, render
from netlab.trace.query import Request, Tracer
from netlab.trace.steps import Trace

DATA = Path(__file__).parent / "data" / "kube-proxy-1.30.5"
VALIDATOR = jsonschema.Draft202012Validator(json.loads(schema()))


@cache
def tracer(cluster: str) -> Tracer:
    return Tracer(load([str(DATA / cluster / "cluster.json")]))


def everything(cluster: str) -> list[Trace]:
    """A pod, a node and the outside to every port of every service that they may name."""
    asked = tracer(cluster)
    found = []
    for source in ("web-0", "node/node-1", "internet"):
        for key, service in asked.cluster.services.items():
            namespace, name = key.split("/")
            for port in service.ports:
                try:
                    found.append(asked.trace(Request(source, f"{namespace}/svc/{name}:{port.port}")))
                except InputError:  # an ExternalName, a headless service of the other family: no packet, no trace
                    continue
    return found


@pytest.mark.parametrize(("cluster", "at_least"), [("services", 40), ("dualstack", 4)])
def test_real_traces(cluster: str, at_least: int) -> None:
    traces = everything(cluster)
    assert len(traces) >= at_least
    for trace in traces:
        text = dumps(trace)
        VALIDATOR.validate(json.loads(text))
        assert loads(text) == trace
        plain = render(trace)
        assert plain.endswith(f"verdict: {trace.verdict.value} (exit {trace.exit_code})")
        assert all(branch.endpoint in plain for branch in trace.branches if branch.endpoint)
        for told in (plain, render(trace, wide=True), one_line(trace)):
            assert "no reason known" not in told


def test_a_service_is_told_as_a_person_would_check_it() -> None:
    text = render(tracer("services").trace(Request("web-0", "svc/hostnames:80")))
    for line in (
        "pod default/web-0 -> service default/hostnames:80   TCP SYN  10.244.0.4:32768 > 10.96.1.175:80",
        "  1       1/3 (33.3%)  delivered  10.244.0.3:9376  pod default/hostnames-0  10.244.0.4",
        "    DNAT       destination 10.96.1.175:80 -> 10.244.0.3:9376",
        "    way        default/hostnames-1 > node-2 > node-1 > default/web-0",
        "    undo NAT   on node-1: source 10.244.1.2:9376 -> 10.96.1.175:80",
        "verdict: delivered (exit 0)",
    ):
        assert line in text.splitlines()
