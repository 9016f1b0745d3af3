"""Builds the zoo: tasks and their texts, the base model, its adapters, a router; and measures what came of it."""
