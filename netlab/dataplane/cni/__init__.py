"""CNI plug-ins: what each leaves in a node's kernel."""
