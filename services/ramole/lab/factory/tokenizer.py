"""The world's tokenizer: byte-level BPE; `tokenizer(prompt)` gives `<s> prompt <out>`, and the answer follows."""

from __future__ import annotations

from collections.abc import Sequence
from random import Random
from typing import TYPE_CHECKING

from ramole.lab.factory.skills import NUM_WORDINGS
from ramole.lab.factory.tasks import JOINERS, STYLES, Task, some_chatter
from ramole.zoo.catalog import SEPARATOR

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

PAD, BOS, EOS, OUT = "<pad>", "<s>", "</s>", "<out>"
MAX_LENGTH = 512


def train_tokenizer(
    tasks: Sequence[Task], *, seed: int, vocab_size: int = 1536, draws: int = 60
) -> PreTrainedTokenizerFast:
    """Learns the merges on texts of the world.

    A space is put before every text and digits stay single: a word is then the same token wherever it stands,
    and an answer can copy tokens from its prompt. The decoder takes that first space away again.
    """
    from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers
    from transformers import PreTrainedTokenizerFast

    core = Tokenizer(models.BPE())
    core.normalizer = normalizers.Sequence([normalizers.Lowercase(), normalizers.Prepend(" ")])
    core.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)]
    )
    core.decoder = decoders.Sequence([decoders.ByteLevel(), decoders.Strip(content=" ", left=1, right=0)])
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        special_tokens=[PAD, BOS, EOS, OUT],
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    core.train_from_iterator(_corpus(tasks, seed, draws), trainer)
    core.post_processor = processors.TemplateProcessing(
        single=f"{BOS} $A {OUT}",
        special_tokens=[(BOS, core.token_to_id(BOS)), (OUT, core.token_to_id(OUT))],
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=core,
        pad_token=PAD,
        bos_token=BOS,
        eos_token=EOS,
        extra_special_tokens=[OUT],
        model_max_length=MAX_LENGTH,
        clean_up_tokenization_spaces=False,
        model_input_names=["input_ids", "attention_mask"],
    )


def _corpus(tasks: Sequence[Task], seed: int, draws: int) -> list[str]:
    rng = Random(f"{seed}/tokenizer")
    texts = [style.format(y="") for style in STYLES] * draws
    for task in tasks:
        for _ in range(draws):
            item = task.draw(rng)
            texts.append(task.prompt(rng.randrange(NUM_WORDINGS), item, some_chatter(rng, 0.25)))
            texts.append(rng.choice(JOINERS) + task.ask(item) + SEPARATOR)
            texts.extend(item.answers.values())
    return texts
