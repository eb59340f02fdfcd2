"""Metrics: what examples contribute to a score, and what a set of them is worth."""
