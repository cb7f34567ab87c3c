"""Probes on checkpoints, statistics over runs, and the tidy tables that a report reads."""
