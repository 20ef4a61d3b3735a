"""The small cluster that `netlab why` is asked about, and what each row of tests/test_why.py adds to it."""

BASE = """\
apiVersion: netlab/v1
kind: Topology
metadata: {name: why}
nodes:
- {name: node-1, addresses: [192.168.50.11]}
- {name: node-2, addresses: [192.168.50.12]}
fabric: {prefixes: [192.168.50.0/24], gateways: [192.168.50.1]}
podCIDR: 10.244.0.0/16
serviceCIDR: 10.96.0.0/16
cni: {name: calico}
---
apiVersion: v1
kind: Namespace
metadata: {name: shop, labels: {team: shop}}
---
apiVersion: apps/v1
kind: StatefulSet
metadata: {name: web}
spec:
  replicas: 2
  selector: {matchLabels: {app: web}}
  template:
    metadata: {labels: {app: web}}
    spec: {containers: [{name: c, ports: [{name: http, containerPort: 8080}]}]}
---
apiVersion: apps/v1
kind: StatefulSet
metadata: {name: api}
spec:
  replicas: 2
  selector: {matchLabels: {app: api}}
  template:
    metadata: {labels: {app: api, tier: back}}
    spec: {containers: [{name: c, ports: [{name: http, containerPort: 9000}, {name: metrics, containerPort: 9100}]}]}
---
apiVersion: v1
kind: Pod
metadata: {name: db, labels: {app: db}}
spec: {nodeName: node-2, containers: [{name: c, ports: [{name: pg, containerPort: 5432}]}]}
---
apiVersion: v1
kind: Pod
metadata: {name: front, namespace: shop, labels: {app: front}}
spec: {nodeName: node-1, containers: [{name: c, ports: [{containerPort: 3000}]}]}
---
apiVersion: v1
kind: Pod
metadata: {name: dns, namespace: kube-system, labels: {k8s-app: kube-dns}}
spec: {nodeName: node-2, containers: [{name: c, ports: [{containerPort: 53, protocol: UDP}, {containerPort: 53}]}]}
---
apiVersion: v1
kind: Service
metadata: {name: kube-dns, namespace: kube-system}
spec: {clusterIP: 10.96.0.10, selector: {k8s-app: kube-dns}, ports: [{name: u, port: 53, protocol: UDP}, {name: t, port: 53}]}
---
apiVersion: v1
kind: Service
metadata: {name: api}
spec: {clusterIP: 10.96.0.20, selector: {app: api}, ports: [{name: http, port: 80, targetPort: http}]}
---
apiVersion: v1
kind: Service
metadata: {name: db}
spec: {clusterIP: 10.96.0.30, selector: {app: db}, ports: [{port: 5432}]}
"""


def policy(spec: str, name: str = "p", namespace: str = "default") -> str:
    """A NetworkPolicy; its spec begins in line 4."""
    return f"apiVersion: networking.k8s.io/v1\nkind: NetworkPolicy\nmetadata: {{name: {name}, namespace: {namespace}}}\nspec:\n{spec}---\n"


def service(spec: str, name: str = "s") -> str:
    return f"apiVersion: v1\nkind: Service\nmetadata: {{name: {name}}}\nspec: {spec}\n---\n"


def pod(name: str, labels: str, ports: str = "[{containerPort: 7000}]", status: str = "") -> str:
    spec = f"spec: {{nodeName: node-1, containers: [{{name: c, ports: {ports}}}]}}\n"
    return f"apiVersion: v1\nkind: Pod\nmetadata: {{name: {name}, labels: {labels}}}\n{spec}{status}---\n"


API = "  podSelector: {matchLabels: {app: api}}\n"
WEB = "  podSelector: {matchLabels: {app: web}}\n"
ALL = "  podSelector: {}\n"
EGRESS = "  policyTypes: [Egress]\n"
FROM_FRONT = "  ingress:\n  - from:\n    - podSelector: {matchLabels: {app: front}}\n    ports: [{port: 9000}]\n"
FROM_ROLE = "  ingress:\n  - from:\n    - podSelector: {matchLabels: {role: client}}\n    ports: [{port: 9000}]\n"
FROM_WEB = "  ingress:\n  - from:\n    - podSelector: {matchLabels: {app: web}}\n    ports: [{port: %s}]\n"
NOT_READY = 'status: {phase: Running, podIPs: [{ip: 10.244.9.9}], conditions: [{type: Ready, status: "False"}]}\n'
READY = 'status: {phase: Running, podIPs: [{ip: 10.244.9.9}], conditions: [{type: Ready, status: "True"}]}\n'
DENY_WEB = """\
apiVersion: projectcalico.org/v3
kind: GlobalNetworkPolicy
metadata: {name: no-web}
spec:
  order: 10
  selector: app == 'api'
  types: [Ingress]
  ingress:
  - {action: Deny, source: {selector: app == 'web'}}
  - {action: Allow}
---
"""
ADMIN = """\
apiVersion: policy.networking.k8s.io/v1alpha2
kind: ClusterNetworkPolicy
metadata: {name: no-web}
spec:
  tier: Admin
  priority: 10
  subject: {namespaces: {}}
  ingress:
  - {name: closed, action: Deny, from: [{pods: {namespaceSelector: {}, podSelector: {matchLabels: {app: web}}}}]}
---
"""
TIER = """\
apiVersion: projectcalico.org/v3
kind: Tier
metadata: {name: security}
spec: {order: 10}
---
apiVersion: projectcalico.org/v3
kind: GlobalNetworkPolicy
metadata: {name: security.closed}
spec:
  tier: security
  selector: app == 'api'
  types: [Ingress]
  ingress:
  - {action: Allow, source: {selector: app == 'front'}}
---
"""
ROLE_APP = """\
apiVersion: apps/v1
kind: Deployment
metadata: {name: idle}
spec:
  replicas: 0
  selector: {matchLabels: {app: idle}}
  template:
    metadata: {labels: {app: idle}}
    spec: {containers: [{name: c, ports: [{containerPort: 7000}]}]}
---
"""
SLICE = """\
apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata: {name: s-1, namespace: default, labels: {kubernetes.io/service-name: s}}
addressType: IPv4
ports: [{port: 7000}]
endpoints: []
---
"""
# (name, what is added, source, destination)
SITUATIONS = [
    ("nothing listens", "", "web-0", "api-0:80"),
    ("wrong port of a ClusterIP", "", "web-0", "10.96.0.20:81"),
    ("node without a NodePort", service("{type: NodePort, selector: {app: web}, ports: [{port: 80, targetPort: 8080, nodePort: 30080}]}"), "internet", "node-1:80"),
    ("selector spelled wrong", service("{selector: {app: wbe}, ports: [{port: 80, targetPort: 8080}]}"), "api-0", "svc/s"),
    ("selector of two labels", service("{selector: {app: api, tier: front}, ports: [{port: 80, targetPort: 9000}]}"), "web-0", "svc/s"),
    ("pods of another namespace", service("{selector: {app: front}, ports: [{port: 3000}]}"), "web-0", "svc/s"),
    ("nobody like it", service("{selector: {app: nobody}, ports: [{port: 80}]}"), "web-0", "svc/s"),
    ("scaled to zero", ROLE_APP + service("{selector: {app: idle}, ports: [{port: 7000}]}"), "web-0", "svc/s"),
    ("not ready", pod("slow", "{app: slow}", status=NOT_READY) + service("{selector: {app: slow}, ports: [{port: 7000}]}"), "web-0", "svc/s"),
    ("named targetPort undeclared", service("{selector: {app: api}, ports: [{port: 80, targetPort: htpp}]}"), "web-0", "svc/s"),
    ("no selector", service("{ports: [{port: 80}]}"), "web-0", "svc/s"),
    ("stale slices", pod("p", "{app: p}", status=READY) + service("{clusterIP: 10.96.0.40, clusterIPs: [10.96.0.40], selector: {app: p}, ports: [{port: 7000}]}") + SLICE, "web-0", "svc/s"),
    ("Local policy outside", service("{type: NodePort, externalTrafficPolicy: Local, selector: {app: db}, ports: [{port: 5432, nodePort: 30432}]}"), "internet", "node-1:30432"),
    ("Local policy inside", service("{internalTrafficPolicy: Local, selector: {app: db}, ports: [{port: 5432}]}"), "web-0", "svc/s"),
    ("source ranges", service("{type: LoadBalancer, loadBalancerSourceRanges: [198.51.100.0/24], selector: {app: web}, ports: [{port: 80, targetPort: 8080}]}").replace("---\n", "status: {loadBalancer: {ingress: [{ip: 203.0.113.200}]}}\n---\n"), "internet", "svc/s"),
    ("ping of a ClusterIP", "", "web-0", "svc/api icmp"),
    ("deny all", policy(ALL, "deny-all"), "web-0", "svc/api"),
    ("wrong label of the client", policy(API + FROM_ROLE), "web-0", "svc/api"),
    ("wrong label, and it is the selector's", policy(API + FROM_FRONT), "web-0", "svc/api"),
    ("wrong label of a bare pod", policy(API + FROM_WEB % 9000), "db", "svc/api"),
    ("port missing", policy(API + FROM_WEB % 9100), "web-0", "svc/api"),
    ("the service's port instead of the pod's", policy(API + FROM_WEB % 80), "web-0", "svc/api"),
    ("no namespaceSelector", policy(API + FROM_FRONT), "shop/front", "svc/api"),
    ("namespace without the label", policy(API + "  ingress:\n  - from:\n    - namespaceSelector: {matchLabels: {team: web}}\n      podSelector: {matchLabels: {app: front}}\n"), "shop/front", "svc/api"),
    ("egress closed", policy(WEB + EGRESS), "web-0", "svc/api"),
    ("both ends closed", policy(ALL + "  policyTypes: [Ingress, Egress]\n", "deny-all"), "web-0", "svc/api"),
    ("outside closed", policy(WEB + "  ingress:\n  - from: [{podSelector: {}}]\n") + service("{type: NodePort, selector: {app: web}, ports: [{port: 80, targetPort: 8080, nodePort: 30080}]}"), "internet", "node-1:30080"),
    ("to the outside", policy(WEB + EGRESS + "  egress:\n  - to: [{podSelector: {}}]\n"), "web-0", "198.51.100.7:443"),
    ("Calico denies", DENY_WEB, "web-0", "svc/api"),
    ("an Admin policy denies", ADMIN, "web-0", "svc/api"),
    ("a tier's end", TIER, "web-0", "svc/api"),
    ("DNS cut off", policy(WEB + EGRESS + "  egress:\n  - to: [{podSelector: {matchLabels: {app: api}}}]\n"), "web-0", "svc/api"),
    ("works, no policy", "", "web-0", "svc/api"),
    ("works by a rule", policy(API + FROM_WEB % 9000), "web-0", "svc/api"),
    ("works by a rule for everybody", policy(API + "  ingress:\n  - {}\n"), "web-0", "svc/api"),
    ("works by one of two peers", policy(API + "  ingress:\n  - from:\n    - podSelector: {matchLabels: {app: web}}\n    - podSelector: {matchLabels: {app: db}}\n"), "db", "svc/api"),
    ("works by two policies", policy(API + FROM_WEB % 9000) + policy(API + FROM_WEB % "http", "q"), "web-0", "svc/api"),
    ("works from a node", policy(API), "node-1", "api-0:9000"),
    ("targetPort that nobody declares", service("{selector: {app: api}, ports: [{port: 80, targetPort: 9999}]}"), "web-0", "svc/s"),
    ("ip_forward off", "", "web-0", "api-1:9000 sysctl"),
]
