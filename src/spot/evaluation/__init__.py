"""Benchmarks: their questions, how answers are graded, and what the figures are worth."""
