"""The maths: step plan, slots, router, compute forms, module surgery. Knows no server, no network and no text.

Letters in shapes: b requests, T packed tokens, p unique adapters, k experts per request, d width in, o width out,
R slot rank, Q router rank, S slots. Slot 0 is empty for ever.
"""
