"""Token sources: each a pure function of (specification, seed), written once as memory-mapped token files."""
