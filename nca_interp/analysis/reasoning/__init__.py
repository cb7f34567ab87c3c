"""Reasoning tasks asked of checkpoints, and what that says of their regimes."""
