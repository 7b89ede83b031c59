"""The guard: a tiny process beside the agent that ends this node's writing when its right to write has ended."""
