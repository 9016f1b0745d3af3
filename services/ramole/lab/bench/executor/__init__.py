"""The engine beside its rivals: modules, steps, slots, whole batches."""
