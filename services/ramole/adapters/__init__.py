"""The adapter store: the source of truth for what exists, and the host cache in front of it."""
