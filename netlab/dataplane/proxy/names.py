"""The names that kube-proxy derives: service port names and chain names.

Law: a chain name is a prefix and the first 16 characters of base32(sha256(servicePortName + protocol + endpoint)), for
a chain may not be longer than 28 bytes (pkg/proxy/iptables/proxier.go, portProtoHash and servicePortEndpointChainName).
SVC, SVL, EXT and FW of one service port share the hash. kube-proxy before about v1.20 kept the colon of an unnamed port
("default/hostnames:"), so names in older dumps differ; v1.30 is what is computed here.
"""

from __future__ import annotations

from hashlib import sha256

CLUSTER = "KUBE-SVC-"  # endpoints of traffic policy Cluster
LOCAL = "KUBE-SVL-"  # endpoints of traffic policy Local
EXTERNAL = "KUBE-EXT-"  # what arrives at a node port, external IP or load balancer IP
FIREWALL = "KUBE-FW-"  # loadBalancerSourceRanges
ENDPOINT = "KUBE-SEP-"  # one endpoint

_BASE32 = "ABCDEFGHIJKLMNOPQRSTUVWXYZ234567"  # RFC 4648
_PAIRS = tuple(a + b for a in _BASE32 for b in _BASE32)  # two characters for ten bits: five times as fast as base64.b32encode
_SHIFTS = tuple(range(70, -1, -10))  # 80 bits: 16 characters


def service_port_name(namespace: str, name: str, port: str) -> str:
    """The service port as comments and hashes spell it (pkg/proxy/types.go, ServicePortName.String).

    >>> service_port_name("default", "web", "http"), service_port_name("default", "hostnames", "")
    ('default/web:http', 'default/hostnames')
    """
    return f"{namespace}/{name}:{port}" if port else f"{namespace}/{name}"


def chain_hash(port_name: str, protocol: str, endpoint: str = "") -> str:
    """The 16 characters after a chain's prefix.

    Parameters
    ----------
    port_name : str
        What `service_port_name` returns.
    protocol : str
        "tcp", "udp" or "sctp", lower case.
    endpoint : str
        For KUBE-SEP-: "ip:port" with the address spelled as the EndpointSlice spells it.

    Examples
    --------
    >>> CLUSTER + chain_hash("default/hostnames", "tcp")
    'KUBE-SVC-YN5D6RYVEVZOH44Q'
    >>> CLUSTER + chain_hash("default/hostnames:", "tcp")  # before about v1.20
    'KUBE-SVC-NWV5X2332I4OT4T3'
    """
    bits = int.from_bytes(sha256((port_name + protocol + endpoint).encode()).digest()[:10], "big")
    return "".join([_PAIRS[bits >> shift & 1023] for shift in _SHIFTS])


def endpoint_chain(port_name: str, protocol: str, endpoint: str) -> str:
    """The KUBE-SEP- chain of one endpoint of a service port.

    >>> endpoint_chain("default/hostnames", "tcp", "10.244.0.3:9376")
    'KUBE-SEP-MH3CMF764B5SAC7Q'
    """
    return ENDPOINT + chain_hash(port_name, protocol, endpoint)
