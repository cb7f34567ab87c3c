"""What is analysed: an ordered list of checkpoints with identity, whoever trained them."""
