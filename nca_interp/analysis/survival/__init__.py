"""What becomes of the heads that the synthetic stage grew: scores, norms, effects and components at every checkpoint."""
