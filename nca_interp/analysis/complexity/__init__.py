"""How complex a token source is, and whether it can be learned."""
