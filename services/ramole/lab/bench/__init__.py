"""Benchmarks of the engine and of the adapter repository beside their rivals, in one run: ratios first."""
