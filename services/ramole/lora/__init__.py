"""The adapter file format: read it, admit or refuse it, fold its scaling. Knows no model server and no network."""
