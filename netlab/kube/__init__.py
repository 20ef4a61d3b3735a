"""The cluster's vocabulary: Kubernetes objects, how they are read, and the controllers that netlab plays."""
