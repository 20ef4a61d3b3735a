"""Who can reach whom: all flows of a cluster, and what a change of it changes."""
