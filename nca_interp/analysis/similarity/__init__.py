"""How alike networks are inside: CKA, ranks, weights, updates."""
