"""The laboratory: what measures, trains and builds. Nothing that serves imports it; it is the extra `ramole[lab]`."""
