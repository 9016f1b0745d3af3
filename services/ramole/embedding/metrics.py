"""What the encoder counts."""

from __future__ import annotations

from ramole.observability.specs import SIZES, TOKEN_S, HistogramSpec

ENCODE_S = HistogramSpec("ramole_encode_duration_seconds", "Seconds of one call of the encoder.", buckets=TOKEN_S)
ENCODE_TEXTS = HistogramSpec("ramole_encode_texts", "Texts of one call of the encoder.", buckets=SIZES)
