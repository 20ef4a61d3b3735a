"""What users type, and what it means."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from netlab.errors import InputError
from netlab.kube.embedded import path_of_default
from netlab.kube.load import load
from netlab.kube.names import KINDS, container_port, parse_endpoint, resolve, service_port
from netlab.linux.addr import ip


@pytest.mark.parametrize(
    ("text", "kind", "namespace", "name", "port", "address"),
    [
        ("web-0", None, None, "web-0", None, None),
        ("web-0:8080", None, None, "web-0", 8080, None),
        ("svc/api", "Service", None, "api", None, None),
        ("svc/api:http", "Service", None, "api", "http", None),
        ("shop/web-0", None, "shop", "web-0", None, None),
        ("shop/svc/api:80", "Service", "shop", "api", 80, None),
        ("po/a", "Pod", None, "a", None, None),
        ("deployment/a", "Deployment", None, "a", None, None),
        ("Deploy/a", "Deployment", None, "a", None, None),
        ("no/node-1", "Node", None, "node-1", None, None),
        ("node-1.example.com:22", None, None, "node-1.example.com", 22, None),
        ("10.0.0.7", None, None, "", None, "10.0.0.7"),
        ("10.0.0.7:80", None, None, "", 80, "10.0.0.7"),
        ("[fd00::1]:80", None, None, "", 80, "fd00::1"),
        ("[fd00::1]", None, None, "", None, "fd00::1"),
        ("fd00::1", None, None, "", None, "fd00::1"),
        ("::1", None, None, "", None, "::1"),
        ("internet", "internet", None, "internet", None, None),
        ("internet:443", "internet", None, "internet", 443, None),
        ("pod/internet", "Pod", None, "internet", None, None),
    ],
)
def test_parse(text, kind, namespace, name, port, address):
    found = parse_endpoint(text)
    assert (found.kind, found.namespace, found.name, found.port) == (kind, namespace, name, port)
    assert found.ip == (ip(address) if address else None)


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("", "an empty name"),
        ("a:", '"a:" ends in a colon'),
        ("a:0", "port 0 is outside 1-65535"),
        ("a:70000", "port 70000 is outside"),
        ("a/b/c/d", "is not an endpoint"),
        ("a//b", "is not an endpoint"),
        ("shop/srv/api", 'unknown kind "srv" in "shop/srv/api"\n  did you mean "svc"'),
        ("http://api.shop/", "is a URL"),
        ("10.0.0.300", '"10.0.0.300" is not an address'),
        ("fd00::1::2", "needs brackets"),
        ("[fd00::1", "write [fd00::1]:80"),
        ("[fd00::1]80", "write [fd00::1]:80"),
    ],
)
def test_not_an_endpoint(text, says):
    with pytest.raises(InputError) as caught:
        parse_endpoint(text)
    assert says in str(caught.value)


label = st.from_regex(r"[a-z]([a-z0-9-]{0,8}[a-z0-9])?", fullmatch=True)


@given(label, st.sampled_from(sorted(KINDS)), label, st.none() | st.integers(1, 65535) | label)
def test_a_full_name_is_read_back(namespace, kind, name, port):
    found = parse_endpoint(f"{namespace}/{kind}/{name}" + (f":{port}" if port is not None else ""))
    assert (found.namespace, found.kind, found.name, found.port) == (namespace, KINDS[kind], name, port)


MORE = """
kind: Pod
apiVersion: v1
metadata: {name: waiting}
status: {phase: Pending}
---
kind: Pod
apiVersion: v1
metadata: {name: web-0, namespace: shop}
spec: {nodeName: node-1}
status: {phase: Running, podIP: 10.244.0.77}
---
kind: Pod
apiVersion: v1
metadata: {name: node-1}
spec: {nodeName: node-1}
status: {phase: Running, podIP: 10.244.0.78}
---
kind: Deployment
apiVersion: apps/v1
metadata: {name: web}
spec: {replicas: 0, selector: {matchLabels: {app: none}}}
---
kind: Deployment
apiVersion: apps/v1
metadata: {name: idle}
spec: {replicas: 0, selector: {matchLabels: {app: none}}}
"""


@pytest.fixture(scope="module")
def embedded():
    return load([str(path_of_default())])


@pytest.fixture(scope="module")
def more(tmp_path_factory):
    file = tmp_path_factory.mktemp("more") / "more.yaml"
    file.write_text(MORE)
    return load([str(path_of_default()), str(file)])


def show(found):
    return found if isinstance(found, str) else f"{type(found).__name__} {getattr(found, 'name', None) or found}"


@pytest.mark.parametrize(
    ("text", "role", "means"),
    [
        ("web-0", "source", "Pod web-0"),
        ("default/web-0", "destination", "Pod web-0"),
        ("svc/web", "source", "Service web"),
        ("sts/web", "destination", "Workload web"),
        # a service and a workload of one name
        ("web", "destination", "Service web"),
        ("web", "source", "Workload web"),
        ("agent", "source", "Workload agent"),
        ("kube-system/kube-dns", "destination", "Service kube-dns"),
        ("node-1", "source", "Node node-1"),
        ("node/node-1", "source", "Node node-1"),
        ("10.0.0.1:80", "destination", "Ip 10.0.0.1"),
        ("internet", "source", "internet"),
    ],
)
def test_resolve(embedded, text, role, means):
    assert show(resolve(embedded, parse_endpoint(text), "default", role)) == means


def test_a_workload_is_its_pods(embedded):
    found = resolve(embedded, parse_endpoint("sts/api"))
    assert [p.name for p in found.pods] == ["api-0", "api-1", "api-2"]


def test_the_default_namespace(embedded):
    assert show(resolve(embedded, parse_endpoint("svc/kube-dns"), "kube-system")) == "Service kube-dns"


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("wbe-0", 'unknown name "wbe-0" in namespace default\n  did you mean "web-0" or "web-1"?'),
        ("svc/apii", 'unknown service "apii" in namespace default\n  did you mean "api"'),
        ("node/node-9", 'unknown node "node-9"\n  did you mean "node-'),
        ("dns-0", "found in namespace kube-system: kube-system/pod/dns-0"),
        ("dsn-0", 'did you mean "kube-system/dns-0"?'),
        ("pod/api", "there is default/svc/api, default/sts/api"),
        ("shop/svc/api", 'unknown namespace "shop"\n  namespaces: default, kube-system'),
        ("defualt/web-0", 'unknown namespace "defualt" in "defualt/web-0"\n  did you mean "default"?'),
        ("job/x", 'unknown job "x" in namespace default'),
        ("default/node-1", 'unknown name "node-1"'),
    ],
)
def test_unknown(embedded, text, says):
    with pytest.raises(InputError) as caught:
        resolve(embedded, parse_endpoint(text))
    assert says in str(caught.value)


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("web", '"web" is ambiguous\n  write one of: default/svc/web, default/deploy/web, default/sts/web'),
        ("node-1", '"node-1" is ambiguous\n  write one of: default/pod/node-1, node/node-1'),
        ("waiting", "pod default/waiting has no address: it is Pending"),
        ("deploy/idle", "deploy/idle in namespace default has no pods"),
    ],
)
def test_refused(more, text, says):
    with pytest.raises(InputError) as caught:
        resolve(more, parse_endpoint(text))
    assert says in str(caught.value)


def test_every_spelling_that_an_error_offers_resolves(more):
    for text in ("web", "node-1"):
        with pytest.raises(InputError) as caught:
            resolve(more, parse_endpoint(text))
        for spelled in caught.value.hint.removeprefix("write one of: ").split(", "):
            if spelled != "default/deploy/web":  # it has no pods
                assert not isinstance(resolve(more, parse_endpoint(spelled)), str)


@pytest.mark.parametrize(
    ("service", "port", "protocol", "number"),
    [
        ("default/api", None, None, 80),
        ("default/api", 80, None, 80),
        ("default/api", "http", "TCP", 80),
        ("kube-system/kube-dns", 53, None, 53),
        ("kube-system/kube-dns", "dns", None, 53),
        ("kube-system/kube-dns", None, "UDP", 53),
    ],
)
def test_service_ports(embedded, service, port, protocol, number):
    assert service_port(embedded.services[service], port, protocol).port == number


def test_a_number_given_twice_is_tcp_unless_said_otherwise(embedded):
    dns = embedded.services["kube-system/kube-dns"]
    assert [service_port(dns, 53, p).protocol for p in (None, "TCP", "UDP")] == ["TCP", "TCP", "UDP"]


@pytest.mark.parametrize(
    ("service", "port", "protocol", "says"),
    [
        ("default/api", 81, None, "service default/api has no port 81\n  its ports: 80/TCP (http)"),
        ("default/api", 80, "UDP", "has no UDP port 80"),
        ("default/api", None, "UDP", "has no UDP port\n  its ports: 80/TCP (http)"),
        ("default/api", "htpt", None, 'did you mean "http"? its ports:'),
        ("kube-system/kube-dns", None, None, "needs a port\n  its ports: 53/UDP (dns), 53/TCP (dns-tcp)"),
    ],
)
def test_ports_that_are_not_there(embedded, service, port, protocol, says):
    with pytest.raises(InputError) as caught:
        service_port(embedded.services[service], port, protocol)
    assert says in str(caught.value)


def test_container_ports(embedded):
    web = embedded.pods["default/web-0"]
    assert container_port(web, "http").container_port == 8080
    with pytest.raises(InputError, match=r'declares no port "https"\n  its named ports: http \(8080/TCP\)'):
        container_port(web, "https")
