"""The kernel's vocabulary: namespaces, devices, routes, netfilter rules, packets."""
