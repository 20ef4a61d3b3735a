"""From a cluster to the kernel state of its nodes: CNI plug-in, service proxy."""
