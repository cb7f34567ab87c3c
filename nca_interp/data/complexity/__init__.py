"""Measures of complexity of token rows."""
