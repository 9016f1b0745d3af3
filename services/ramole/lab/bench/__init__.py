"""Benchmarks of the engine and of the adapter repository beside their peers, in one run: ratios first."""
