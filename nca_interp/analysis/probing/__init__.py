"""Probes on checkpoints: definition, measurement, nulls, tables."""
