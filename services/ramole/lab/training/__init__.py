"""Training of the two learned parts: the LoRARetriever and the RouterLoRA."""
