"""A small byte-level tokenizer, as of GPT-2, Llama 3, Qwen and SmolLM: every byte is a character of its vocabulary."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from tokenizers import Tokenizer


def byte_level(
    texts: Sequence[str], *, vocab_size: int = 300, has_prefix: bool = False, special: Sequence[str] = ()
) -> Tokenizer:
    """Trained on a few texts, so hardly: most characters beyond ASCII take several tokens.

    Args:
        has_prefix: whether a space is put before a text.
        special: tokens that come first.
    """
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=has_prefix)
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(vocab_size=vocab_size, special_tokens=list(special), initial_alphabet=alphabet)
    tokenizer.train_from_iterator(texts, trainer)
    return tokenizer
