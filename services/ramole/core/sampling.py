"""How tokens are chosen from logits."""

from __future__ import annotations

from dataclasses import dataclass

from ramole.core.bounds import check_count, check_number, check_texts
from ramole.core.errors import InvalidInput


@dataclass(frozen=True, slots=True)
class Sampling:
    """Decoding parameters of one request; the defaults are greedy decoding.

    Attributes:
        max_tokens: at most so many; None = what fits beside the prompt.
        stop: texts; the answer is cut before the first match.
        stop_tokens: token ids that end the answer as the model's own end token does; their text is not part of it.
        temperature: 0 = greedy, whatever the other fields say except `repetition_penalty`.
        top_k: 0 = off. top_p: 1 = off. min_p: 0 = off. repetition_penalty: 1 = off.
        seed: None = a random one; the same seed gives the same answer in any batch.
        logprobs: report the log probability of each token under the unmodified model.
        top_logprobs: report those of so many of the most likely tokens too; needs `logprobs`.
    """

    max_tokens: int | None = None
    stop: tuple[str, ...] = ()
    temperature: float = 0.0
    top_k: int = 0
    top_p: float = 1.0
    min_p: float = 0.0
    repetition_penalty: float = 1.0
    seed: int | None = None
    logprobs: bool = False
    stop_tokens: tuple[int, ...] = ()
    top_logprobs: int = 0

    def __post_init__(self) -> None:
        for field in ("temperature", "top_k", "top_p", "min_p", "repetition_penalty", "top_logprobs"):
            check_number(f"sampling.{field}", getattr(self, field))
        for field in ("max_tokens", "seed"):
            if (value := getattr(self, field)) is not None:
                check_number(f"sampling.{field}", value)
        check_texts("sampling.stop", self.stop)
        check_count("sampling.stop_token_ids", len(self.stop_tokens))
        for token in self.stop_tokens:
            check_number("sampling.stop_token_ids", token)
        if self.top_logprobs and not self.logprobs:
            raise InvalidInput(
                "the most likely tokens without log probabilities",
                field="sampling.top_logprobs",
                remedy="ask for logprobs too",
            )
