"""Benchmarks of the engine against its peers, side by side in one process: ratios, not absolute speed."""
