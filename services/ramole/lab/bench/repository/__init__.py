"""The adapter repository beside its rivals: search, start, memory, traffic, uploads."""
