"""Where policy engines differ: each open question of the specification with its possible answers, and who answers how.

Law: one literal table. A question is asked by name while a flow is judged (semantics.py); an engine that is not known to answer
it, and the specification itself, answer OPEN: then every answer is tried, and only if they lead to different verdicts the
verdict is undefined, and names the question.
"""

from __future__ import annotations

import enum
from collections.abc import Mapping

import msgspec

OPEN = ""


class Question(enum.Enum):
    """What the specification leaves open, or what only a running system can tell; the value is how it is spelled in answers."""

    IP_BLOCK_OF_PODS = "does an ipBlock match pods by their address"
    SERVICE_ADDRESS = "is egress to a ClusterIP judged before or after it is translated to an endpoint"
    NAMED_EGRESS_PORT = "to which pods does a named port lead in an egress rule without peers"
    SIDECAR_PORTS = "do named ports of sidecar containers count"
    OTHER_PROTOCOLS = "are protocols other than TCP, UDP and SCTP judged"
    HOST_NETWORK = "are hostNetwork pods selected by policies"
    HAIRPIN = "is a pod judged that reaches itself through its own service"
    ESTABLISHED = "are connections judged again that were made before the policy"
    TIE = "which of several ClusterNetworkPolicies with the same tier and priority goes first"
    NODE_PEERS = "are nodes as peers of ClusterNetworkPolicies known"
    TUNNELS = "may a pod send VXLAN (UDP 4789) or IPIP of its own"
    DOMAIN_NAMES = "which addresses DNS has given for domainNames"
    HTTP = "what the HTTP request says"


ANSWERS: Mapping[Question, tuple[str, ...]] = {
    Question.IP_BLOCK_OF_PODS: ("yes", "no"),
    Question.SERVICE_ADDRESS: ("after", "before"),
    Question.NAMED_EGRESS_PORT: ("all pods", "pods of the policy's namespace", "none"),
    Question.SIDECAR_PORTS: ("yes", "no"),
    Question.OTHER_PROTOCOLS: ("by rules without ports", "always allowed", "never allowed"),
    Question.HOST_NETWORK: ("no", "yes"),
    Question.HAIRPIN: ("yes", "no"),
    Question.ESTABLISHED: ("no", "yes"),
    Question.TIE: ("lowest name", "Accept", "Deny", "Pass"),
    Question.NODE_PEERS: ("yes", "no"),
    Question.TUNNELS: ("yes", "no"),
    Question.DOMAIN_NAMES: ("match", "no match"),
    Question.HTTP: ("match", "no match"),
}

# What no engine can answer from what is declared.
_RUNTIME = {Question.DOMAIN_NAMES: OPEN, Question.HTTP: OPEN}
# What an engine does that nobody but Calico is known to do otherwise.
_ORDINARY = {Question.TUNNELS: "yes", **_RUNTIME}


class Dialect(msgspec.Struct, frozen=True):
    """A policy engine: its name, its answers, and the API groups whose policies it reads."""

    name: str
    answers: Mapping[Question, str]
    reads: frozenset[str] = frozenset({"networking.k8s.io"})
    polices_hosts: bool = False  # knows host endpoints

    def answer(self, question: Question) -> str:
        """Its answer, OPEN where it is not known."""
        return self.answers.get(question, OPEN)


CLUSTER_GROUP = "policy.networking.k8s.io"
CALICO_GROUP = "projectcalico.org"
KUBERNETES_GROUP = "networking.k8s.io"

# Sources: Calico libcalico-go conversion.go (nets, named ports as ipsets of all workloads, order of tiers),
# felix/rules/endpoints.go (RELATED,ESTABLISHED first; VXLAN and IPIP dropped; no exception for a pod's own address);
# kube-router pkg/controllers/netpol (KUBE-NWPLCY-COMMON accepts ICMP and ESTABLISHED; named ports: #1037);
# cilium #9209, #14497 (ipBlock is for what is outside); antrea #5687 (hairpin always allowed); kube-network-policies.
DIALECTS: Mapping[str, Dialect] = {
    "calico": Dialect(
        "calico",
        {
            Question.IP_BLOCK_OF_PODS: "yes",
            Question.SERVICE_ADDRESS: "after",
            Question.NAMED_EGRESS_PORT: "all pods",
            Question.SIDECAR_PORTS: "yes",
            Question.OTHER_PROTOCOLS: "by rules without ports",
            Question.HOST_NETWORK: "no",
            Question.HAIRPIN: "yes",
            Question.ESTABLISHED: "no",
            Question.TIE: "lowest name",
            Question.NODE_PEERS: "no",
            Question.TUNNELS: "no",
            Question.DOMAIN_NAMES: "no match",  # not supported: such a peer fails closed
            Question.HTTP: OPEN,
        },
        frozenset({KUBERNETES_GROUP, CALICO_GROUP, CLUSTER_GROUP}),
        polices_hosts=True,
    ),
    "kube-router": Dialect(
        "kube-router",
        {
            Question.IP_BLOCK_OF_PODS: "yes",
            Question.SERVICE_ADDRESS: "after",
            Question.NAMED_EGRESS_PORT: "pods of the policy's namespace",
            Question.OTHER_PROTOCOLS: "always allowed",  # ICMP is; others go by rules without ports
            Question.HOST_NETWORK: "no",
            Question.ESTABLISHED: "no",
            **_ORDINARY,
        },
    ),
    "cilium": Dialect(
        "cilium",
        {
            Question.IP_BLOCK_OF_PODS: "no",
            Question.SERVICE_ADDRESS: "after",
            Question.NAMED_EGRESS_PORT: "all pods",
            Question.OTHER_PROTOCOLS: "by rules without ports",
            Question.HOST_NETWORK: "no",
            Question.ESTABLISHED: "yes",
            **_ORDINARY,
        },
    ),
    "antrea": Dialect(
        "antrea",
        {
            Question.IP_BLOCK_OF_PODS: "yes",
            Question.SERVICE_ADDRESS: "after",
            Question.NAMED_EGRESS_PORT: "all pods",
            Question.HOST_NETWORK: "no",
            Question.HAIRPIN: "no",
            Question.ESTABLISHED: "no",
            Question.NODE_PEERS: "yes",
            **_ORDINARY,
        },
        frozenset({KUBERNETES_GROUP, CLUSTER_GROUP}),
    ),
    "kube-network-policies": Dialect(
        "kube-network-policies",
        {
            Question.IP_BLOCK_OF_PODS: "yes",
            Question.SERVICE_ADDRESS: "after",
            Question.NAMED_EGRESS_PORT: "all pods",
            Question.OTHER_PROTOCOLS: "by rules without ports",
            Question.HOST_NETWORK: "no",
            Question.TIE: "lowest name",
            Question.NODE_PEERS: "yes",
            **_ORDINARY,
        },
        frozenset({KUBERNETES_GROUP, CLUSTER_GROUP}),
    ),
    # The specification itself: everything that it leaves open is open.
    "kubernetes": Dialect("kubernetes", _ORDINARY, frozenset({KUBERNETES_GROUP, CLUSTER_GROUP})),
}
CALICO = DIALECTS["calico"]
SPECIFICATION = DIALECTS["kubernetes"]
