"""The base model's view of a prompt as the executors see it: no second copy of the base is loaded for it."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from ramole.core.call import CallContext, call_scope
from ramole.core.errors import Corrupt
from ramole.embedding.fingerprint import side_by_side
from ramole.embedding.retriever import Read
from ramole.v1.embedding_pb2 import AnswerSoFar
from ramole.v1.executor_pb2 import ReadStatesRequest, ReadStatesResponse

if TYPE_CHECKING:
    from ramole.v1.executor_pb2_grpc import ExecutorAsyncStub

_TIMEOUT_S = 60.0
_TEXTS_PER_CALL = 64


class ExecutorStates:
    """As `Fingerprint`, of the same vectors. Call `encode` on another thread than the event loop's.

    Args:
        executor: the stub, on the event loop `loop`.
        folder: of the base model, for its width.
        layers: whose outputs are read, from 1.
        read: at which tokens.
    """

    def __init__(
        self,
        executor: ExecutorAsyncStub,
        loop: asyncio.AbstractEventLoop,
        folder: Path,
        layers: Sequence[int],
        read: Read = Read.LAST,
    ) -> None:
        from transformers import AutoConfig

        self._executor = executor
        self._loop = loop
        self._layers = tuple(layers)
        self._read = read
        self._width = int(AutoConfig.from_pretrained(str(folder), local_files_only=True).get_text_config().hidden_size)

    @property
    def dim(self) -> int:
        """Width of a vector."""
        return (2 if self._read is Read.BOTH else 1) * len(self._layers) * self._width

    def encode(self, texts: Sequence[str], answers: Sequence[Sequence[int]] = ()) -> NDArray[np.float32]:
        """``[n, dim]``: what is read after each layer, each of length 1, side by side.

        Raises:
            RamoleError: of the executors.
        """
        reading = asyncio.run_coroutine_threadsafe(self._states(texts, answers or [()] * len(texts)), self._loop)
        try:
            states = np.stack(reading.result())
        except BaseException:
            reading.cancel()
            raise
        return side_by_side(list(states.swapaxes(0, 1)), self._read, len(self._layers))

    async def _states(self, texts: Sequence[str], answers: Sequence[Sequence[int]]) -> list[NDArray[np.float32]]:
        found: list[NDArray[np.float32]] = []
        with call_scope(CallContext.begin(timeout_s=_TIMEOUT_S)):  # texts of several calls are read together
            for start in range(0, len(texts), _TEXTS_PER_CALL):
                some = slice(start, start + _TEXTS_PER_CALL)
                request = ReadStatesRequest(
                    texts=texts[some],
                    answers=[AnswerSoFar(token_ids=answer) for answer in answers[some]],
                    layers=self._layers,
                )
                found += self._arrays(await self._executor.ReadStates(request), len(texts[some]))
        return found

    def _arrays(self, answer: ReadStatesResponse, count: int) -> list[NDArray[np.float32]]:
        shape = len(self._layers), self._width
        found = []
        for each in answer.states:
            wanted = [each.last] * (self._read is not Read.MEAN) + [each.mean] * (self._read is not Read.LAST)
            if any(len(part) != 4 * shape[0] * shape[1] for part in wanted):
                raise _unfit()
            found.append(np.concatenate([np.frombuffer(part, "<f4").reshape(shape) for part in wanted]))
        if len(found) != count:
            raise _unfit()
        return found


def _unfit() -> Corrupt:
    return Corrupt("the executor gave other states than were asked for", remedy="serve one base model everywhere")
