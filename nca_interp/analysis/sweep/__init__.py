"""Complexity matching as a sweep: arms of many complexities on several domains, and the hypotheses that they decide between."""
