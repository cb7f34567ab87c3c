"""What the heads that pre-pre-training grew mediate of what it gains (docs/mediation.md)."""
