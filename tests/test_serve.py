"""`netlab serve`: what the API answers, whom it refuses, and what a client cannot make it do."""

from __future__ import annotations

import json
import re
import socket
import threading
from pathlib import Path
from typing import Any

import httpx2
import jsonschema
import pytest
from starlette.testclient import TestClient

from netlab.cli.main import main
from netlab.kube.documents import read_documents
from netlab.kube.embedded import path_of_default
from netlab.kube.topology import Overrides
from netlab.render.jsonio import schema
from netlab.serve import api
from netlab.serve import app as server
from netlab.serve.app import LINES, application
from netlab.serve.served import Served, Setting
from netlab.trace.query import Request

HOST = "127.0.0.1:8642"
DENY = """\
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {name: none}
spec: {podSelector: {matchLabels: {app: api}}}
"""


def served(*paths: str) -> Served:
    files = paths or (str(path_of_default()),)
    return Served(list(read_documents(files)), files, Overrides())


def client_of(made: Served) -> TestClient:
    return TestClient(application(made, frozenset([HOST])), base_url=f"http://{HOST}", raise_server_exceptions=False)


@pytest.fixture(scope="module")
def client() -> TestClient:
    return client_of(served())


def post(client: TestClient, path: str, body: Any, **headers: str) -> httpx2.Response:
    return client.post(path, content=json.dumps(body), headers={"content-type": "application/json", **headers})


def test_the_cluster(client: TestClient) -> None:
    found = client.get("/api/cluster").json()
    assert (found["cni"], found["proxyMode"]) == ("flannel", "iptables")
    assert [node["name"] for node in found["nodes"]] == ["node-1", "node-2", "node-3"]
    assert {"endpoint": "default/pod/api-0", "namespace": "default", "name": "api-0", "node": "node-1"}.items() <= next(
        pod for pod in found["pods"] if pod["name"] == "api-0"
    ).items()
    assert "default/svc/api:80" in next(s for s in found["services"] if s["name"] == "api")["endpoints"]
    assert found["policies"] == []


def test_every_name_that_is_offered_can_be_asked(client: TestClient) -> None:
    found = client.get("/api/cluster").json()
    for target in [endpoint for service in found["services"] for endpoint in service["endpoints"]]:
        answer = client.get("/api/trace", params={"source": found["pods"][0]["endpoint"], "destination": target})
        assert answer.status_code == 200, answer.text


def test_a_trace_is_the_one_of_the_command_line(client: TestClient, capsys: pytest.CaptureFixture[str]) -> None:
    trace = client.get("/api/trace", params={"source": "web-0", "destination": "svc/api"}).json()["trace"]
    main(["trace", "web-0", "svc/api", "-o", "json", "-q", "-f", str(path_of_default())])
    assert trace == json.loads(capsys.readouterr().out)
    jsonschema.validate(trace, json.loads(schema()))


@pytest.mark.parametrize(
    ("asked", "verdict"),
    [
        ({}, "delivered"),
        ({"changes": DENY}, "delivered"),  # Flannel enforces nothing
        ({"changes": DENY, "cni": "canal"}, "dropped"),
        ({"changes": DENY, "cni": "calico"}, "dropped"),
        ({"proxyMode": "ipvs"}, "delivered"),
        ({"proxyMode": "nftables"}, "delivered"),
        ({"without": ["svc/web"]}, "delivered"),
    ],
)
def test_a_change_is_of_one_question_alone(client: TestClient, asked: dict[str, Any], verdict: str) -> None:
    body = {"source": "web-0", "destination": "api-0:9000"}
    assert post(client, "/api/trace", body | asked).json()["trace"]["verdict"] == verdict
    assert post(client, "/api/trace", body).json()["trace"]["verdict"] == "delivered"


def test_a_policy_can_be_edited_and_taken_out(tmp_path: Path) -> None:
    (tmp_path / "policy.yaml").write_text(DENY)
    client = client_of(served(str(path_of_default()), str(tmp_path / "policy.yaml")))
    [policy] = client.get("/api/cluster").json()["policies"]
    assert (policy["kind"], policy["key"]) == ("NetworkPolicy", "default/none")
    question = {"source": "web-0", "destination": "api-0:9000", "cni": "canal"}
    assert post(client, "/api/trace", question).json()["trace"]["verdict"] == "dropped"
    assert post(client, "/api/trace", question | {"without": [policy["without"]]}).json()["trace"]["verdict"] == "delivered"
    # what the page shows is what the loader reads
    assert post(client, "/api/cluster", {"changes": policy["yaml"]}).json()["policies"][0]["yaml"] == policy["yaml"]
    opened = policy["yaml"].replace("policyTypes: [Ingress]", "policyTypes: [Ingress]\n  ingress: [{}]")
    assert opened != policy["yaml"]
    assert post(client, "/api/trace", question | {"changes": opened}).json()["trace"]["verdict"] == "delivered"


def test_the_matrix_changes_with_a_policy(client: TestClient) -> None:
    def answers(**more: Any) -> list[str]:
        asked = {"sources": ["web", "kube-system/dns-0"], "destinations": ["api"], "cni": "canal", **more}
        return [cell["answer"] for cell in post(client, "/api/reach", asked).json()["cells"]]

    assert (answers(), answers(changes=DENY)) == (["yes", "yes"], ["some", "some"])  # Canal leaves IPv6 alone


def test_progress_and_then_the_matrix(client: TestClient) -> None:
    answer = post(client, "/api/reach", {"by": "workloads"}, accept=LINES)
    lines = [json.loads(line) for line in answer.text.splitlines()]
    assert [line for line in lines[:-1] if line["done"] == line["total"]]
    assert lines[-1]["matrix"] == client.get("/api/reach").json()


def test_an_error_ends_the_lines(client: TestClient) -> None:
    answer = post(client, "/api/reach", {"sources": ["wbe"]}, accept=LINES)
    [line] = [json.loads(line) for line in answer.text.splitlines()]
    assert "wbe" in line["error"]["what"]


@pytest.mark.parametrize(
    ("path", "body", "what"),
    [
        ("/api/trace", {"source": "wbe-0", "destination": "svc/api"}, 'unknown name "wbe-0"'),
        ("/api/trace", {"source": "web-0"}, "missing required field `destination`"),
        ("/api/trace", {"source": "web-0", "destination": "svc/api", "sport": 1}, "unknown field `sport`"),
        ("/api/trace", {"source": "web-0", "destination": "svc/api", "family": 5}, "invalid enum value 5"),
        ("/api/trace", {"source": "web-0", "destination": "svc/api", "size": 1}, "size 1: an IP packet has 28"),
        ("/api/trace", {"source": "web-0", "destination": "svc/api", "cni": "romana"}, "romana"),
        ("/api/trace", {"source": "web-0", "destination": "svc/api", "proxyMode": "x"}, '"x"'),
        ("/api/trace", {"source": "web-0", "destination": "svc/api", "at": "node-9"}, 'unknown node "node-9"'),
        ("/api/cluster", {"changes": "a: [b"}, "not YAML"),
        ("/api/cluster", {"changes": "just words"}, ""),
        ("/api/cluster", {"changes": DENY.replace("podSelector", "podSelektor")}, ""),
        ("/api/cluster", {"without": ["netpol/none"]}, "none"),
        ("/api/cluster", [], "expected `object`"),
        ("/api/reach", {"by": "colours"}, "invalid enum value 'colours'"),
    ],
)
def test_what_is_wrong_is_said(client: TestClient, path: str, body: Any, what: str) -> None:
    answer = post(client, path, body)
    assert answer.status_code == 400, answer.text
    error = answer.json()["error"]
    assert what in error["what"]
    assert "Traceback" not in answer.text


@pytest.mark.parametrize(
    ("change", "status"),
    [
        ({}, 200),
        ({"host": "localhost:8642"}, 421),  # this application was told one name alone
        ({"host": "evil.example:8642"}, 421),
        ({"host": "127.0.0.1"}, 421),
        ({"origin": f"http://{HOST}"}, 200),
        ({"origin": "http://evil.example"}, 403),
        ({"origin": "null"}, 403),
        ({"origin": f"https://{HOST}"}, 403),
        ({"sec-fetch-site": "same-origin"}, 200),
        ({"sec-fetch-site": "none"}, 200),
        ({"sec-fetch-site": "cross-site"}, 403),
        ({"sec-fetch-site": "same-site"}, 403),
        ({"content-type": "text/plain"}, 415),
        ({"content-type": "application/x-www-form-urlencoded"}, 415),
        ({"content-length": "99999999999"}, 413),
    ],
)
def test_who_may_ask(client: TestClient, change: dict[str, str], status: int) -> None:
    assert post(client, "/api/cluster", {}, **change).status_code == status


def test_a_long_body_without_its_length(client: TestClient) -> None:
    def parts() -> Any:
        for _ in range(40):
            yield b" " * 50_000

    answer = client.post("/api/cluster", content=parts(), headers={"content-type": "application/json"})
    assert (answer.status_code, "more than" in answer.text) == (413, True)


@pytest.mark.parametrize("name", ["/etc/passwd", "@/etc/passwd", "file:///etc/passwd", "../pyproject.toml", "-"])
def test_no_client_names_a_file(client: TestClient, name: str) -> None:
    for body in ({"source": name, "destination": "svc/api"}, {"source": "web-0", "destination": name}):
        assert post(client, "/api/trace", body).status_code == 400
    answer = post(client, "/api/cluster", {"changes": name})
    assert answer.status_code == 400
    assert "no such file" not in answer.text


def test_too_large_a_matrix(monkeypatch: pytest.MonkeyPatch, client: TestClient) -> None:
    monkeypatch.setattr(api, "MAX_CELLS", 10)
    answer = client.get("/api/reach")
    assert answer.status_code == 413
    assert "answers are more than 10" in answer.json()["error"]["what"]


def test_a_matrix_that_takes_too_long(monkeypatch: pytest.MonkeyPatch, client: TestClient) -> None:
    monkeypatch.setattr(api, "MAX_SECONDS", 0.0)
    answer = client.get("/api/reach")
    assert answer.status_code == 413
    assert "took more than" in answer.json()["error"]["what"]


def test_one_matrix_at_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    begun, go = threading.Event(), threading.Event()
    real = server.matrix

    def slow(*given: Any) -> Any:
        begun.set()
        assert go.wait(20)
        return real(*given)

    monkeypatch.setattr(server, "matrix", slow)
    with client_of(served()) as client:
        first: list[httpx2.Response] = []
        thread = threading.Thread(target=lambda: first.append(client.get("/api/reach")))
        thread.start()
        assert begun.wait(20)
        second = client.get("/api/reach")
        go.set()
        thread.join()
    assert (second.status_code, first[0].status_code) == (503, 200)
    assert second.json()["error"]["what"] == "another matrix is being made"


def test_a_bug_is_told_without_a_traceback(monkeypatch: pytest.MonkeyPatch, client: TestClient) -> None:
    monkeypatch.setattr(Served, "trace", lambda *given: 1 // 0)
    answer = client.get("/api/trace", params={"source": "web-0", "destination": "svc/api"})
    assert answer.status_code == 500
    assert answer.json()["error"]["what"] == "internal error: ZeroDivisionError: integer division or modulo by zero"


def test_a_trace_as_a_file(client: TestClient) -> None:
    asked = {"source": "web-0", "destination": "svc/api"}
    as_json, as_page = (client.get(f"/api/trace.{form}", params=asked) for form in ("json", "html"))
    assert as_json.json() == client.get("/api/trace", params=asked).json()["trace"]
    assert as_page.text.startswith("<!doctype html>")
    assert 'filename="trace.html"' in as_page.headers["content-disposition"]
    assert client.get("/api/trace.pcapng", params=asked).content.startswith(b"\x0a\x0d\x0d\x0a")
    assert client.get("/api/trace.svg", params=asked).text.startswith("<svg")
    assert client.get("/api/trace.exe", params=asked).status_code == 404


def test_the_page_and_its_parts(client: TestClient) -> None:
    text = client.get("/").text
    parts = re.findall(r'(?:src|href)="(/page/[^"]+)"', text)
    assert len(parts) == 4
    assert [client.get(part).status_code for part in parts] == [200] * 4
    assert client.get("/page/../api.py").status_code == 404
    assert "data:" in client.get("/").headers["content-security-policy"]


def test_paths_that_are_not_there(client: TestClient) -> None:
    assert client.get("/api/clustr").json()["error"]["hint"].startswith('did you mean "/api/cluster"')
    answer = client.request("DELETE", "/api/cluster", headers={"content-type": "application/json"})
    assert answer.status_code == 405


def test_answers_may_not_be_kept_or_framed(client: TestClient) -> None:
    headers = client.get("/api/cluster").headers
    assert "frame-ancestors 'none'" in headers["content-security-policy"]
    assert (headers["x-content-type-options"], headers["cache-control"]) == ("nosniff", "no-store")


def test_the_openapi_document_describes_what_is_there(client: TestClient) -> None:
    document = client.get("/api/openapi.json").json()
    assert document["openapi"] == "3.1.0"
    for path, operations in document["paths"].items():
        for method in operations:
            answer = client.request(method.upper(), path.replace("{format}", "json"), content="{}" if method == "post" else None)
            assert answer.status_code != 404, path
    schemas = document["components"]["schemas"]
    resolve = {"components": {"schemas": schemas}, "$ref": "#/components/schemas/ServedCluster"}
    jsonschema.validate(client.get("/api/cluster").json(), resolve)
    named = {p["name"] for p in document["paths"]["/api/trace"]["get"]["parameters"]}
    assert {"source", "destination", "proxyMode", "cni"} <= named


def test_few_tracers_are_kept() -> None:
    made = served()
    for n in range(20):
        made.trace(Setting(changes=DENY.replace("none", f"none-{n}")), Request("web-0", "api-0:9000"))
    assert len(made._known) == 6


# -- the command -------------------------------------------------------------------------------------------------------


def said(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, str]:
    code = main(["serve", *arguments])
    return code, capsys.readouterr().err


def test_bad_flags(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    assert said(capsys, "--port", "70000")[0] == 2
    code, text = said(capsys, "-f", str(tmp_path / "no.yaml"))
    assert (code, "no such file" in text) == (2, True)
    code, text = said(capsys, "--host", "203.0.113.7", "--port", "0", "-q")
    assert (code, "cannot listen on 203.0.113.7 port 0" in text) == (2, True)
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        code, text = said(capsys, "--port", str(taken.getsockname()[1]), "-q")
    assert (code, "choose another with --port" in text) == (2, True)
