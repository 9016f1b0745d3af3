"""The public service over HTTP, as OpenAI's clients speak it: another skin over the same orders."""
