"""Text <-> tokens. The only part of the executor that knows text."""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path
from typing import Any

from ramole.core.sampling import Sampling


class TextStream:
    """Turns the tokens of one answer into text pieces, as they come.

    A piece never ends inside a character, and text that may still become a stop string is held back.
    """

    def __init__(self, tokenizer: Any, stop: Collection[str] = (), stop_tokens: Collection[int] = ()) -> None:
        """`tokenizer` is a tokenizers.Tokenizer."""
        from tokenizers.decoders import DecodeStream

        self._tokenizer = tokenizer
        self._decoder = DecodeStream(skip_special_tokens=True)
        self._stop = tuple(stop)
        self._stop_tokens = frozenset(stop_tokens)
        self._held = ""
        self._is_stopped = False

    @property
    def is_stopped(self) -> bool:
        """Whether a stop string is complete or a stop token came."""
        return self._is_stopped

    def push(self, token: int) -> str:
        """Takes one token, returns the text that is now certain. Sets `is_stopped` when this was the end."""
        if token in self._stop_tokens:
            self._is_stopped = True
            return self.flush()
        self._held += self._decoder.step(self._tokenizer, token) or ""
        ends = [at for stop in self._stop if (at := self._held.find(stop)) >= 0]
        if ends:
            self._is_stopped = True
            return self._release(min(ends), drop_rest=True)
        return self._release(len(self._held) - self._possible_stop())

    def flush(self) -> str:
        """What was held back, at the end of the answer."""
        return self._release(len(self._held))

    def _release(self, count: int, *, drop_rest: bool = False) -> str:
        text, rest = self._held[:count], self._held[count:]
        self._held = "" if drop_rest else rest
        return text

    def _possible_stop(self) -> int:
        """Length of the longest tail that begins a stop string."""
        longest = min(max((len(stop) for stop in self._stop), default=1) - 1, len(self._held))
        tails = (n for n in range(longest, 0, -1) if any(s.startswith(self._held[-n:]) for s in self._stop))
        return next(tails, 0)


class TextCodec:
    """The tokenizer of the base model."""

    def __init__(self, tokenizer: Any, eos_token_ids: Collection[int]) -> None:
        """`tokenizer` is a fast tokenizer of transformers."""
        self._tokenizer = tokenizer
        self.eos_token_ids = frozenset(eos_token_ids)

    @classmethod
    def load(cls, path: str, generation_config: Any, *, revision: str = "") -> TextCodec:
        """Loads the tokenizer of a base model: of a folder, or of a hub id at a revision (empty = its default).

        `generation_config` names the end tokens.
        """
        from transformers import AutoTokenizer

        tokenizer = AutoTokenizer.from_pretrained(
            path, local_files_only=Path(path).is_dir(), revision=revision or "main"
        )
        eos = getattr(generation_config, "eos_token_id", None)
        if eos is None:
            eos = tokenizer.eos_token_id
        return cls(tokenizer, eos if isinstance(eos, list) else [] if eos is None else [eos])

    def encode(self, prompt: str) -> list[int]:
        """Token ids of a prompt, special tokens included as the tokenizer's own template says."""
        ids: list[int] = self._tokenizer(prompt)["input_ids"]
        return ids

    def stream(self, sampling: Sampling) -> TextStream:
        """A decoder for one answer."""
        return TextStream(self._tokenizer.backend_tokenizer, sampling.stop, sampling.stop_tokens)
