"""What a forward pass hands out: queries, keys, probabilities, head outputs, losses."""
