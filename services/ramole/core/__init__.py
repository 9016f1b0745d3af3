"""Values, settings and the error tree. Knows no tensors, no wire format and no service."""
