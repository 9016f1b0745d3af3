"""What the base model itself makes of a prompt: its hidden states where the answer begins, or over the whole of it.

A sentence encoder knows what a text is about; the model that will answer knows what it is asked to do. The second view
tells tasks apart that share all their words (the first item of a list, the second one), and adapters need not be known.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from ramole.core.errors import InvalidInput, WrongState
from ramole.embedding.retriever import Read, unit_rows

NUM_LAYERS = 4
LAST_SHARE = 0.25
"""How long the last token's states are beside the means: they tell more tasks apart, and break on other wordings."""
FIELD = "base_model"


@dataclass(frozen=True, slots=True)
class Fingerprint:
    """A causal language model as an encoder. Not thread-safe.

    Attributes:
        model: a transformer without its head, in evaluation mode.
        tokenizer: adds what a served prompt has around it.
        layers: whose outputs are read, from 1.
        read: at which tokens.
    """

    model: Any
    tokenizer: Any
    layers: tuple[int, ...]
    read: Read = Read.LAST

    @classmethod
    def open(cls, folder: Path, layers: Sequence[int] = (), read: Read = Read.LAST) -> Self:
        """Loads the model in a folder on the CPU.

        Args:
            layers: () = `NUM_LAYERS` of them, evenly spread, the last included.

        Raises:
            WrongState: no model that can be loaded without pickle, or it has not these layers.
        """
        from transformers import AutoModel, AutoTokenizer
        from transformers.utils import logging

        logging.disable_progress_bar()  # a server's log is no terminal
        try:
            tokenizer = AutoTokenizer.from_pretrained(str(folder), local_files_only=True)
            model = AutoModel.from_pretrained(str(folder), local_files_only=True, use_safetensors=True)
        except (OSError, ValueError) as error:
            raise WrongState(
                f"the base model cannot be loaded: {error}", field=FIELD, remedy="give a causal LM with safetensors"
            ) from error
        depth = int(model.config.num_hidden_layers)
        spread = {math.ceil(depth * i / NUM_LAYERS) for i in range(1, NUM_LAYERS + 1)}
        chosen = tuple(layers) or tuple(sorted(spread))
        if not all(1 <= layer <= depth for layer in chosen):
            raise WrongState(f"the base model has {depth} layers, not {max(chosen)}", field=FIELD, remedy="train again")
        return cls(model.eval().requires_grad_(False), tokenizer, chosen, read)

    @property
    def dim(self) -> int:
        """Width of a vector."""
        places = 2 if self.read is Read.BOTH else 1
        return places * len(self.layers) * int(self.model.config.hidden_size)

    def encode(self, texts: Sequence[str], answers: Sequence[Sequence[int]] = ()) -> NDArray[np.float32]:
        """``[n, dim]``: what is read after each layer, each of length 1, side by side.

        A text longer than the model's window is cut there. All texts run in one batch.

        Args:
            answers: of each text the tokens of an answer so far, behind which the states are read; () = none.

        Raises:
            InvalidInput: the base model has no such token.
        """
        import torch

        limit = getattr(self.model.config, "max_position_embeddings", None)
        ids = [self._ids(text, answer, limit) for text, answer in zip(texts, answers or [()] * len(texts), strict=True)]
        lengths = torch.tensor([len(one) for one in ids])
        batch = torch.zeros(len(ids), int(lengths.max()), dtype=torch.long)
        for row, one in enumerate(ids):
            batch[row, : len(one)] = torch.tensor(one)
        # Padding is on the right: what comes before cannot see it.
        mask = (torch.arange(batch.shape[1]) < lengths[:, None]).long()
        with torch.inference_mode():
            states = self.model(batch, attention_mask=mask, output_hidden_states=True, use_cache=False).hidden_states
        parts: list[NDArray[np.float32]] = []
        if self.read is not Read.MEAN:
            rows = torch.arange(len(ids))
            parts += [states[layer][rows, lengths - 1].float().numpy() for layer in self.layers]
        if self.read is not Read.LAST:
            # Without the first token: whatever text follows, its state is the same, and long.
            counted = mask.clone()
            counted[:, 0] = lengths == 1
            shares = (counted / counted.sum(1, keepdim=True)).unsqueeze(1)
            parts += [(shares @ states[layer].float()).squeeze(1).numpy() for layer in self.layers]
        return side_by_side(parts, self.read, len(self.layers))

    def _ids(self, text: str, answer: Sequence[int], limit: int | None) -> list[int]:
        if any(token >= self.model.config.vocab_size for token in answer):
            raise InvalidInput("the base model has no such token", field="answers", remedy="use its own tokenizer")
        answer = list(answer) if limit is None else list(answer)[1 - limit :]
        most = None if limit is None else limit - len(answer)
        return [*self.tokenizer(text, truncation=most is not None, max_length=most)["input_ids"], *answer]


def side_by_side(parts: Sequence[NDArray[np.float32]], read: Read, num_layers: int) -> NDArray[np.float32]:
    """The vectors ``[n, dim]`` of what was read: after each layer at the last token, then the means, as far as read."""
    units = [unit_rows(part, field=FIELD) for part in parts]
    if read is Read.BOTH:
        units[:num_layers] = [LAST_SHARE * part for part in units[:num_layers]]
    return np.concatenate(units, axis=1)
