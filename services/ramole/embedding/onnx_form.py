"""The encoder's sums by ONNX Runtime: the same vectors, up to rounding, in about half the time for one prompt.

The graph is made when the encoder is loaded, of the weights that were loaded, and compared with the model itself on
texts of several lengths. Only a graph whose vectors agree to `TOLERANCE` may carry the model's encoder id.
"""

from __future__ import annotations

import io
import warnings
from typing import TYPE_CHECKING, Self

import numpy as np
from numpy.typing import NDArray

from ramole.core.errors import WrongState
from ramole.embedding.retriever import unit_rows

if TYPE_CHECKING:
    import onnxruntime
    from sentence_transformers import SentenceTransformer

FIELD = "embedding.runtime"
TOLERANCE = 1e-5
"""Largest difference of one number between two unit vectors."""

_OUTPUT = "embedding"
_OPSET = 17
_SENTENCE = "a prompt may be short or long and says in some words what is to be done with the text behind it"
_PROBES = ("a prompt", _SENTENCE, "x", " ".join([_SENTENCE] * 40))
"""The last is longer than the window of most encoders."""


class OnnxForm:
    """One model as a graph. Not thread-safe, as the model.

    Args:
        model: cuts and tokenises texts.
        session: of its graph.
    """

    def __init__(self, model: SentenceTransformer, session: onnxruntime.InferenceSession) -> None:
        self._model = model
        self._session = session
        self._inputs = [each.name for each in session.get_inputs()]

    @classmethod
    def of(cls, model: SentenceTransformer, *, threads: int) -> Self:
        """Makes the graph of a model on the CPU, in evaluation mode. Takes seconds.

        Raises:
            WrongState: it has none, or one that makes other vectors.
        """
        try:
            form = cls(model, _session(_graph(model), threads))
            difference = form._difference()
        except Exception as error:  # each architecture fails in its own way
            raise _unfit(f"no graph can be made of the encoder: {type(error).__name__}: {str(error)[:200]}") from error
        if not difference <= TOLERANCE:
            raise _unfit(f"the encoder's graph makes vectors that differ by {difference:.1e}, more than {TOLERANCE:g}")
        return form

    def __call__(self, texts: list[str]) -> NDArray[np.float32]:
        """Vectors of n texts, [n, d]."""
        features = self._model.preprocess(texts)
        feed = {name: features[name].numpy() for name in self._inputs}
        vectors: NDArray[np.float32] = self._session.run([_OUTPUT], feed)[0]
        return vectors

    def _difference(self) -> float:
        """From the model's own vectors, of each probe alone and of all together."""
        batches = [list(_PROBES), *([probe] for probe in _PROBES)]
        own = [self._model.encode(batch, convert_to_numpy=True, show_progress_bar=False) for batch in batches]
        made = [self(batch) for batch in batches]
        pairs = zip(own, made, strict=True)
        return max(float(np.abs(unit_rows(a, field=FIELD) - unit_rows(b, field=FIELD)).max()) for a, b in pairs)


def _graph(model: SentenceTransformer) -> bytes:
    """Tokens -> vectors, pooling included, for any number of texts of any length."""
    import torch

    class Graph(torch.nn.Module):
        def __init__(self, names: list[str]) -> None:
            super().__init__()
            self.model = model
            self.names = names

        def forward(self, *tensors: torch.Tensor) -> torch.Tensor:
            vectors: torch.Tensor = self.model(dict(zip(self.names, tensors, strict=True)))["sentence_embedding"]
            return vectors

    features = model.preprocess(list(_PROBES[:2]))
    names = [name for name, value in features.items() if isinstance(value, torch.Tensor)]
    file = io.BytesIO()
    with torch.no_grad(), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of what a trace keeps as it was: the comparison tells whether that matters
        torch.onnx.export(
            Graph(names).eval(),
            tuple(features[name] for name in names),
            file,  # type: ignore[arg-type]  # without dynamo it may be one
            input_names=names,
            output_names=[_OUTPUT],
            dynamic_axes={name: {0: "texts", 1: "tokens"} for name in names} | {_OUTPUT: {0: "texts"}},
            opset_version=_OPSET,
            dynamo=False,
        )
    return file.getvalue()


def _session(graph: bytes, threads: int) -> onnxruntime.InferenceSession:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    return onnxruntime.InferenceSession(graph, options, providers=["CPUExecutionProvider"])


def _unfit(problem: str) -> WrongState:
    return WrongState(problem, field=FIELD, remedy="set it to auto or torch")
