"""A pair of prompts: which activations carry what tells them apart."""
