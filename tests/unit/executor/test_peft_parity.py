"""One adapter in the mixed batch against PEFT's own generate, for several architectures."""

from __future__ import annotations

from concurrent.futures import Future
from pathlib import Path

import pytest
import torch
import transformers

from ramole.core.composition import PRESETS, Expert
from ramole.executor.engine import Engine
from ramole.executor.runner import ModelRunner
from ramole.executor.sequence import Sequence
from ramole.lora.reader import read_adapter
from ramole.lora.weights import AdapterWeights

COMMON = {
    "vocab_size": 97,
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "max_position_embeddings": 64,
    "initializer_range": 0.3,
}
GQA = dict(COMMON, intermediate_size=48, num_key_value_heads=2)
NO_TOKENS = {"bos_token_id": None, "eos_token_id": None, "pad_token_id": 0}
FAMILIES = {
    "llama": (transformers.LlamaConfig(**GQA, **NO_TOKENS), ["q_proj", "v_proj", "lm_head"]),
    "qwen2": (transformers.Qwen2Config(**GQA, **NO_TOKENS), ["q_proj", "k_proj", "v_proj", "o_proj"]),
    "qwen3": (transformers.Qwen3Config(**GQA, head_dim=8, **NO_TOKENS), ["q_proj", "down_proj"]),
    "mistral": (transformers.MistralConfig(**GQA, sliding_window=5, **NO_TOKENS), ["q_proj", "v_proj", "up_proj"]),
    "gemma2": (
        transformers.Gemma2Config(
            **GQA, head_dim=8, sliding_window=5, attn_logit_softcapping=5.0, tie_word_embeddings=False, **NO_TOKENS
        ),
        ["q_proj", "v_proj", "o_proj"],
    ),
    "gpt2": (
        transformers.GPT2Config(
            vocab_size=97, n_embd=32, n_layer=2, n_head=4, n_positions=64, initializer_range=0.3, **NO_TOKENS
        ),
        ["c_attn", "c_proj", "c_fc"],
    ),
    "gemma": (transformers.GemmaConfig(**GQA, head_dim=8, **NO_TOKENS), ["q_proj", "v_proj", "gate_proj"]),
    "gemma3": (
        transformers.Gemma3TextConfig(
            **GQA,
            head_dim=8,
            sliding_window=5,
            layer_types=["sliding_attention", "full_attention"],
            tie_word_embeddings=False,
            **NO_TOKENS,
        ),
        ["q_proj", "v_proj", "o_proj"],
    ),
    "opt": (
        transformers.OPTConfig(
            vocab_size=97,
            hidden_size=32,
            ffn_dim=48,
            num_hidden_layers=2,
            num_attention_heads=4,
            max_position_embeddings=64,
            word_embed_proj_dim=32,
            init_std=0.3,
            **NO_TOKENS,
        ),
        ["q_proj", "v_proj", "fc1"],
    ),
    "mixtral": (
        transformers.MixtralConfig(**GQA, num_local_experts=4, num_experts_per_tok=2, **NO_TOKENS),
        ["q_proj", "k_proj", "v_proj", "o_proj"],
    ),
    "phi3": (transformers.Phi3Config(**GQA, **NO_TOKENS), ["qkv_proj", "gate_up_proj"]),
    "gpt_neox": (transformers.GPTNeoXConfig(**COMMON, intermediate_size=48, **NO_TOKENS), ["query_key_value"]),
}


def make_base(family: str) -> torch.nn.Module:
    torch.manual_seed(1)
    return transformers.AutoModelForCausalLM.from_config(FAMILIES[family][0], attn_implementation="eager").eval()


def save_adapter(model: torch.nn.Module, folder: Path, seed: int, rank: int, targets: list[str]) -> None:
    import peft

    torch.manual_seed(seed)
    config = peft.LoraConfig(r=rank, lora_alpha=3 * rank, target_modules=targets, use_rslora=seed == 1)
    wrapped = peft.get_peft_model(model, config)
    with torch.no_grad():
        for name, parameter in wrapped.named_parameters():
            if "lora_" in name:
                parameter.normal_(std=0.3)
    wrapped.save_pretrained(folder)
    wrapped.unload()


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.filterwarnings("ignore")
def test_a_named_adapter_gives_the_tokens_of_peft_generate(family: str, tmp_path: Path) -> None:
    import peft

    targets = FAMILIES[family][1]
    for i, (rank, some) in enumerate([(4, targets), (8, targets[:1]), (2, targets[-1:])]):
        save_adapter(make_base(family), tmp_path / str(i), i, rank, some)
    prompts = [[5, 9, 11, 40, 41, 42, 43], [7], [20, 21, 22]]
    want = {}
    for i in range(3):
        model = peft.PeftModel.from_pretrained(make_base(family), tmp_path / str(i)).eval()
        for j, prompt in enumerate(prompts):
            out = model.generate(input_ids=torch.tensor([prompt]), max_new_tokens=10, do_sample=False, pad_token_id=0)
            want[f"{i}:{j}"] = out[0, len(prompt) :].tolist()
    base_only = make_base(family).generate(
        torch.tensor([prompts[0]]), max_new_tokens=10, do_sample=False, pad_token_id=0
    )

    def load(digest: str) -> Future[AdapterWeights]:
        future: Future[AdapterWeights] = Future()
        folder = tmp_path / digest
        config, tensors = folder / "adapter_config.json", folder / "adapter_model.safetensors"
        future.set_result(read_adapter(config.read_bytes(), tensors.read_bytes()))
        return future

    for gathers in (False, True):
        # So few blocks that the youngest have to give theirs back.
        runner = ModelRunner(make_base(family), num_slots=4, slot_rank=8, max_rows=9, max_len=32, num_blocks=4)
        if gathers:  # the oracle of decode attention, and the GPU's form
            runner._decode_form = runner._gathered
        engine = Engine(runner, load=load, eos_token_ids=(), num_slots=4, max_rows=9, token_budget=16)
        for i in range(3):
            for j, prompt in enumerate(prompts):
                engine.add(Sequence(f"{i}:{j}", prompt, 10, (Expert(str(i)),), PRESETS["selection"]))
        got: dict[str, list[int]] = {}
        while engine.has_work:
            for update in engine.step():
                assert update.error is None
                got.setdefault(update.sequence.id, []).append(update.sampled.token if update.sampled else 0)
        assert got == want
    same_as_base = [want[f"{i}:0"] == base_only[0, len(prompts[0]) :].tolist() for i in range(3)]
    assert sum(same_as_base) <= 1, "the adapters must change the answers, or this test shows nothing"


def test_a_model_that_cannot_be_served_is_refused_at_start_with_the_reason() -> None:
    from ramole.core.errors import WrongState

    with pytest.raises(WrongState, match="positions") as raised:
        ModelRunner(make_base("llama"), num_slots=4, slot_rank=8, max_rows=2, max_len=65)
    assert raised.value.field == "executor.max_len"
    t5 = transformers.T5ForConditionalGeneration(
        transformers.T5Config(vocab_size=32, d_model=16, d_ff=16, num_layers=1, num_heads=2, d_kv=8)
    )
    with pytest.raises(WrongState, match="cannot be served"):
        ModelRunner(t5, num_slots=4, slot_rank=8, max_rows=2, max_len=16)
