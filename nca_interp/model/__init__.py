"""Llama models from a configuration, the embedding swap, and the one door to a checkpoint."""
