"""ramole: plain prompt in, the right LoRA adapters found, mixed and applied, in one heterogeneous batch."""
