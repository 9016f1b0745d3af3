"""How good retrieval and composition are: every method beside every other, on one set of prompts."""
