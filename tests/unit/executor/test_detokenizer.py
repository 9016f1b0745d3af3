"""Streamed text equals the tokenizer's own decode of all tokens, for every family of tokenizers and any tokens."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from tokenizers import AddedToken, Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers

from ramole.executor.detokenizer import Detokenizer, Vocabulary
from ramole.executor.text import TextStream
from ramole.zoo.catalog import load_zoo
from support.byte_level import byte_level as trained_on_bytes

WORDS = ["the answer is the stop", "don't stop , now . 's", "l'été où ça 中文 한국어 🙂🙃 naïve", "▁ x  y   z"]
BYTES = [f"<0x{i:02X}>" for i in range(256)]


def with_added(tokenizer: Tokenizer) -> Tokenizer:
    tokenizer.add_special_tokens(["<s>", "</s>"])
    tokenizer.add_tokens([AddedToken("<tool>", special=False), AddedToken(" été", special=False)])
    return tokenizer


def byte_level() -> Tokenizer:
    """As GPT-2, Llama 3, Qwen."""
    return with_added(trained_on_bytes(WORDS, vocab_size=330, has_prefix=True))


def byte_fallback() -> Tokenizer:
    """As Llama 2, Mistral, Gemma."""
    pieces = ["<unk>", *BYTES, "▁", "▁the", "▁answer", "is", "▁stop", "a", "x", ".", "▁▁", "é", "中"]
    tokenizer = Tokenizer(models.BPE({p: i for i, p in enumerate(pieces)}, [], unk_token="<unk>", byte_fallback=True))
    tokenizer.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    tokenizer.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    )
    return with_added(tokenizer)


def unigram() -> Tokenizer:
    """As T5, XGLM, with bytes."""
    pieces = [("<unk>", 0.0), *((b, -9.0) for b in BYTES), ("▁", -2.0), ("▁the", -1.0), ("an", -2.0), ("s", -3.0)]
    tokenizer = Tokenizer(models.Unigram(pieces, unk_id=0, byte_fallback=True))
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
    tokenizer.decoder = decoders.Sequence([decoders.ByteFallback(), decoders.Metaspace()])
    return with_added(tokenizer)


def word_piece() -> Tokenizer:
    tokenizer = Tokenizer(models.WordPiece(unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.decoder = decoders.WordPiece()
    tokenizer.train_from_iterator(WORDS, trainers.WordPieceTrainer(vocab_size=120, special_tokens=["[UNK]"]))
    return with_added(tokenizer)


def word_ends() -> Tokenizer:
    """As OpenAI's first GPT."""
    tokenizer = Tokenizer(models.BPE(end_of_word_suffix="</w>", unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.decoder = decoders.BPEDecoder(suffix="</w>")
    tokenizer.train_from_iterator(
        WORDS, trainers.BpeTrainer(vocab_size=120, end_of_word_suffix="</w>", special_tokens=["<unk>"])
    )
    return with_added(tokenizer)


def no_decoder() -> Tokenizer:
    return with_added(Tokenizer(models.WordLevel({w: i for i, w in enumerate("abcdefgh")}, unk_token="a")))


def shipped() -> Tokenizer:
    return Tokenizer.from_file(str(load_zoo().base_path / "tokenizer.json"))


FAMILIES: list[Callable[[], Tokenizer]] = [
    byte_level, byte_fallback, unigram, word_piece, word_ends, no_decoder, shipped,
]  # fmt: skip


@pytest.fixture(scope="module", params=FAMILIES, ids=lambda make: make.__name__)
def vocabulary(request: pytest.FixtureRequest) -> Vocabulary:
    return Vocabulary.of(request.param())


def streamed(vocabulary: Vocabulary, ids: list[int]) -> list[str]:
    stream = Detokenizer(vocabulary)
    return [*map(stream.push, ids), stream.flush()]


def ids_of(vocabulary: Vocabulary, numbers: list[float]) -> list[int]:
    """Any tokens, also some that the tokenizer does not know."""
    size = vocabulary.tokenizer.get_vocab_size() + 3
    return [int(number * size) for number in numbers]


numbers = st.lists(st.floats(0, 1, exclude_max=True), max_size=60)


@given(numbers=numbers)
@settings(max_examples=150, deadline=None)
def test_pieces_of_any_tokens_add_up_to_the_decode_of_all(vocabulary: Vocabulary, numbers: list[float]) -> None:
    ids = ids_of(vocabulary, numbers)
    want = vocabulary.tokenizer.decode(ids, skip_special_tokens=True)
    pieces = streamed(vocabulary, ids)
    assert "".join(pieces) == want
    assert all("\ufffd" not in piece for piece in pieces) or "\ufffd" in want


@given(text=st.text(st.characters(codec="utf-8", exclude_categories=("Cs",)), max_size=60))
@example("l'été où ça 中文 🙂🙃 naïve " * 4)
@settings(max_examples=80, deadline=None)
def test_pieces_of_any_text_add_up_to_the_decode_of_all(vocabulary: Vocabulary, text: str) -> None:
    ids = vocabulary.tokenizer.encode(text).ids
    assert "".join(streamed(vocabulary, ids)) == vocabulary.tokenizer.decode(ids, skip_special_tokens=True)


@given(numbers=numbers, stop=st.lists(st.text("the answris▁\ufffdx.", min_size=1, max_size=4), min_size=1, max_size=3))
@settings(max_examples=100, deadline=None)
def test_a_stop_string_cuts_where_it_is_complete_however_the_text_is_split(
    vocabulary: Vocabulary, numbers: list[float], stop: list[str]
) -> None:
    ids = ids_of(vocabulary, numbers)
    whole = vocabulary.tokenizer.decode(ids, skip_special_tokens=True)
    stream = TextStream(Detokenizer(vocabulary), stop)
    out = ""
    for token in ids:
        out += stream.push(token)
        if stream.is_stopped:
            break
    out += stream.flush()
    found = [(whole.find(s) + len(s), whole.find(s)) for s in stop if s in whole]
    assert stream.is_stopped == bool(found)
    assert out == (whole[: min(found)[1]] if found else whole)


@pytest.mark.parametrize(
    ("tokens", "text"),
    [
        (["<0x41>", "<0xE1>", "x"], "\ufffd\ufffdx"),  # tokenizers' own DecodeStream raises "Invalid prefix" here
        (["<0xE4>", "<0xB8>", "<0xAD>"], "中"),
        (["<0xE4>", "</s>", "<0xB8>", "<0xAD>", "▁the"], "中 the"),
        (["<0x41>"], "A"),
        (["▁", "▁the"], " the"),
    ],
)
def test_bytes_are_told_when_their_run_has_ended(tokens: list[str], text: str) -> None:
    vocabulary = Vocabulary.of(byte_fallback())
    ids = [vocabulary.tokenizer.token_to_id(token) for token in tokens]
    pieces = streamed(vocabulary, ids)
    assert "".join(pieces) == text == vocabulary.tokenizer.decode(ids)


def test_text_comes_as_soon_as_it_is_certain() -> None:
    vocabulary: Any = Vocabulary.of(byte_fallback())
    ids = [vocabulary.tokenizer.token_to_id(t) for t in ["▁the", "<0xF0>", "<0x9F>", "<0x99>", "<0x82>", "▁stop", "a"]]
    assert streamed(vocabulary, ids) == ["the", "", "", "", "", "🙂 stop", "a", ""]
