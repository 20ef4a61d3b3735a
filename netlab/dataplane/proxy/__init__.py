"""Service proxies: what kube-proxy programs, mode by mode."""
