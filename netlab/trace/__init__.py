"""One packet, explained: the walk through hooks, routes, bridges and tunnels."""
