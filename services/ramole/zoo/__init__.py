"""The shipped world: a small base model, its adapters with their prompts, a router and a retriever."""
