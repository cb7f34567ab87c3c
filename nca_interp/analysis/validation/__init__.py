"""Loss of checkpoints that others trained on one text, and what it says of their regimes."""
