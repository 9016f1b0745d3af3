"""A self-made world: tasks, a small base model, its adapters and a router. Drives the demo and the tests."""
