"""Policy: when keys and values of one sequence are those of another, to the digest and the weight. Hashes, no tensors.

What a token's keys and values are depends on the tokens before it and on the mixture that read them. So the blocks of a
sequence have a chain of names: the first is of its mixture, each further one of the name before and the block's tokens.
Two blocks of one name hold the same, up to the rounding of the batches that computed them.

The tenant is part of the first name. Whose prompts begin alike could otherwise be told by the time to the first token.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from hashlib import blake2b

from ramole.mixture.plan import RequestMixture

Name = bytes

_NAME_BYTES = 32


class PrefixChain:
    """The names of one sequence's blocks, made as far as they are asked for.

    Attributes:
        digests: of the adapters whose keys and values these are.
    """

    def __init__(self, tenant: str, digests: tuple[str, ...], mixture: RequestMixture) -> None:
        """`digests` in the order of the mixture's experts; its slots do not count. Not for routed mixtures."""
        self.digests = digests
        # repr tells floats apart to the bit, and quotes what stands in strings.
        told = repr((tenant, digests, mixture.gates, mixture.scales, mixture.merges_parameters))
        self._names = [blake2b(told.encode(), digest_size=_NAME_BYTES).digest()]

    def names(self, count: int, block: Callable[[int], Sequence[int]]) -> list[Name]:
        """Of the first `count` blocks; `block` gives the tokens of one that is full."""
        for i in range(len(self._names) - 1, count):
            told = self._names[-1] + ",".join(map(str, block(i))).encode()
            self._names.append(blake2b(told, digest_size=_NAME_BYTES).digest())
        return self._names[1 : count + 1]
