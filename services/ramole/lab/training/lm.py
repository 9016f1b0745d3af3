"""Causal-LM examples as tensors: the loss on the answer, and exact match without generating."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F


@dataclass(frozen=True, slots=True)
class Encoded:
    """Token ids of prompt + answer + end; the first `num_prompt` of them are the prompt."""

    ids: tuple[int, ...]
    num_prompt: int


@dataclass(frozen=True, slots=True)
class PaddedBatch:
    """Right-padded ids [b, l] and the weight of predicting position j + 1, [b, l - 1].

    No attention mask is needed: under causal attention padding on the right reaches no real token.
    """

    ids: torch.Tensor
    weights: torch.Tensor

    def to(self, device: torch.device) -> PaddedBatch:
        """The same on a device."""
        return PaddedBatch(self.ids.to(device), self.weights.to(device))


def encode(tokenizer: Any, prompt: str, answer: str) -> Encoded:
    """Tokenizes one example the way a server sees it: the prompt with its template, then the bare answer."""
    head = tokenizer(prompt)["input_ids"]
    tail = tokenizer(answer, add_special_tokens=False)["input_ids"]
    return Encoded((*head, *tail, tokenizer.eos_token_id), len(head))


def collate(examples: Sequence[Encoded], *, pad: int = 0, prompt_weight: float = 0.0) -> PaddedBatch:
    """Pads to the longest; answer tokens weigh 1, prompt tokens `prompt_weight`."""
    longest = max(len(example.ids) for example in examples)
    ids = torch.full((len(examples), longest), pad)
    weights = torch.zeros(len(examples), longest - 1)
    for row, example in enumerate(examples):
        ids[row, : len(example.ids)] = torch.tensor(example.ids)
        weights[row, : example.num_prompt - 1] = prompt_weight
        weights[row, example.num_prompt - 1 : len(example.ids) - 1] = 1.0
    return PaddedBatch(ids, weights)


def _weighted_logits(model: Any, batch: PaddedBatch) -> tuple[torch.Tensor, torch.Tensor]:
    # Only positions that count pass through the output head.
    chosen = batch.weights > 0
    hidden = model.get_decoder()(input_ids=batch.ids, use_cache=False).last_hidden_state[:, :-1]
    return model.get_output_embeddings()(hidden[chosen]), chosen


def answer_loss(model: Any, batch: PaddedBatch) -> torch.Tensor:
    """Weighted mean of the cross entropy per token."""
    losses = token_losses(model, batch)
    return losses.sum() / batch.weights.sum()


def token_losses(model: Any, batch: PaddedBatch) -> torch.Tensor:
    """Cross entropy of each next token times its weight, [b, l - 1]."""
    logits, chosen = _weighted_logits(model, batch)
    losses = F.cross_entropy(logits, batch.ids[:, 1:][chosen], reduction="none")
    return torch.zeros_like(batch.weights).masked_scatter(chosen, losses * batch.weights[chosen])


@torch.no_grad()
def answer_scores(model: Any, batch: PaddedBatch) -> tuple[npt.NDArray[np.bool_], npt.NDArray[np.float32]]:
    """Two figures for each answer of a batch, [b].

    Returns:
        Whether it is what greedy decoding would give (every target is the arg max given those before it), and its
        negative log likelihood, the mean over its tokens in nats.
    """
    logits, chosen = _weighted_logits(model, batch)
    targets = batch.ids[:, 1:][chosen]
    is_right = torch.ones_like(chosen)
    is_right[chosen] = logits.argmax(-1) == targets
    losses = torch.zeros(chosen.shape, device=logits.device)
    losses[chosen] = F.cross_entropy(logits.float(), targets, reduction="none")
    return is_right.all(1).cpu().numpy(), (losses.sum(1) / chosen.sum(1)).cpu().numpy()


@torch.no_grad()
def answer_token_scores(model: Any, batch: PaddedBatch) -> list[tuple[npt.NDArray[np.bool_], npt.NDArray[np.float32]]]:
    """The same for each token of each answer and its end: whether it is the arg max, and its nats."""
    logits, chosen = _weighted_logits(model, batch)
    targets = batch.ids[:, 1:][chosen]
    right = (logits.argmax(-1) == targets).cpu().numpy()
    losses = F.cross_entropy(logits.float(), targets, reduction="none").cpu().numpy()
    cuts = np.cumsum(chosen.sum(1).cpu().numpy())[:-1]
    return list(zip(np.split(right, cuts), np.split(losses, cuts), strict=True))


def exact_matches(model: Any, batch: PaddedBatch) -> list[bool]:
    """The first figure of `answer_scores`."""
    right: list[bool] = answer_scores(model, batch)[0].tolist()
    return right
