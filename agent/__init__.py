"""`drover-agent`: the one process that Drover runs on every node."""
