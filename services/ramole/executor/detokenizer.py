"""Tokens -> text as they come, equal to the tokenizer's own decode of all of them, for every family of tokenizers.

What a token says may depend on those around it: a character of several tokens, a space that only the first token
lacks, and with byte fallback a whole run of bytes, which reads as text if all of it is valid UTF-8 and else as one
U+FFFD for each byte. So text is told when no later token can change it.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

_REPLACEMENT = "\ufffd"
_SPACE = "\u2581"  # of SentencePiece
_BYTE = re.compile(r"<0x[0-9A-Fa-f]{2}>")

# Tokens that were told already and are decoded along, for what a token's text owes to the one before it.
_CONTEXT = 4


@dataclass(frozen=True, slots=True)
class Vocabulary:
    """A tokenizers.Tokenizer and what must be known of its tokens. Made once for a base model.

    Attributes:
        special: ids of control tokens, which are no text.
        in_bytes: ids of the tokens of byte fallback.
        text: ids of all others. A model may know more ids than its tokenizer.
        added: ids of those of them that were added as they are.
        alphabet: the bytes that the characters of byte-level BPE stand for; empty = it is another kind.
    """

    tokenizer: Any
    special: frozenset[int]
    in_bytes: frozenset[int]
    text: frozenset[int]
    added: frozenset[int]
    alphabet: Mapping[str, int]

    @classmethod
    def of(cls, tokenizer: Any) -> Vocabulary:
        """Reads the tokens of a tokenizer."""
        from transformers.convert_slow_tokenizer import bytes_to_unicode

        ids: dict[str, int] = tokenizer.get_vocab(with_added_tokens=True)
        added = tokenizer.get_added_tokens_decoder()
        special = frozenset(id_ for id_, token in added.items() if token.special)
        in_bytes = frozenset(id_ for token, id_ in ids.items() if _BYTE.fullmatch(token)) - special
        # Only the tokenizer's own description says how its parts are nested.
        is_byte_level = '"ByteLevel"' in json.dumps(json.loads(tokenizer.to_str())["decoder"])
        alphabet = {character: byte for byte, character in bytes_to_unicode().items()} if is_byte_level else {}
        text = frozenset(ids.values()) - special - in_bytes
        return cls(tokenizer, special, in_bytes, text, frozenset(added) - special, alphabet)

    def has(self, token: int) -> bool:
        """Whether a token id stands for anything."""
        return token in self.text or token in self.in_bytes or token in self.special

    def bytes_of(self, token: int) -> bytes:
        """What one token says, whatever stands beside it: where the vocabulary has parts of characters, maybe no whole
        one. Of control tokens, and where an id stands for nothing, their name or nothing."""
        name: str = self.tokenizer.id_to_token(token) or ""
        if token in self.in_bytes:
            return bytes([int(name[3:5], 16)])
        if token in self.special or token in self.added:
            return name.encode()
        if self.alphabet:  # each character of its name stands for a byte
            return bytes(self.alphabet[character] for character in name)
        return name.replace(_SPACE, " ").encode()

    def decode(self, tokens: list[int]) -> str:
        """The tokenizer's own decode, without control tokens."""
        text: str = self.tokenizer.decode(tokens, skip_special_tokens=True)
        return text


class Detokenizer:
    """The text of one answer, piece by piece. The pieces and the `flush` add up to the decode of all tokens."""

    def __init__(self, vocabulary: Vocabulary) -> None:
        self._vocabulary = vocabulary
        self._window: list[int] = []
        self._told = ""  # of the window's text

    def push(self, token: int) -> str:
        """Takes one token, returns the text that is now certain."""
        vocabulary = self._vocabulary
        if token not in vocabulary.text:
            if token in vocabulary.in_bytes:
                self._window.append(token)  # and wait: the run may go on
            return ""
        self._window.append(token)
        text = vocabulary.decode(self._window)
        certain = text.rstrip(_REPLACEMENT)  # what is left of a character that may be completed
        piece = self._tell(certain)
        if len(certain) == len(text) and len(self._window) > 2 * _CONTEXT:
            self._slide()
        return piece

    def flush(self) -> str:
        """What was held back, at the end of the answer."""
        return self._tell(self._vocabulary.decode(self._window))

    @property
    def held(self) -> str:
        """What `flush` would tell; of a character that is not complete, something."""
        text = self._vocabulary.decode(self._window)
        piece = text.removeprefix(self._told)
        return "" if len(piece) == len(text) and self._told else piece

    def _tell(self, text: str) -> str:
        piece = text.removeprefix(self._told)
        if len(piece) == len(text) and self._told:
            return ""
        self._told = text
        return piece

    def _slide(self) -> None:
        window = self._window[-_CONTEXT:]
        # A decoder strips what begins a text. Where the window has text, it has stripped already.
        if told := self._vocabulary.decode(window):
            self._window, self._told = window, told
