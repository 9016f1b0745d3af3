"""What a training run needs to go on after it was stopped. Draws depend on seed and step only, so this is little."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from ramole.core.errors import Corrupt, WrongState

FILE = "checkpoint.pt"


def last_checkpoint(folder: Path) -> str | None:
    """The newest whole checkpoint of a `Trainer` of transformers; None = there is none."""
    # The trainer writes the state last: a checkpoint without it was cut off.
    whole = [path.parent for path in folder.glob("checkpoint-*/trainer_state.json")]
    return str(max(whole, key=lambda path: int(path.name.rpartition("-")[2]))) if whole else None


@dataclass(frozen=True, slots=True)
class Checkpoints:
    """The last checkpoint of a run.

    Attributes:
        folder: where it lies.
        key: names everything that the run depends on; a checkpoint of another key is refused.
        every: steps between two checkpoints.
    """

    folder: Path
    key: str
    every: int = 50

    def load(self, parameters: Sequence[torch.Tensor], optimizer: torch.optim.Optimizer) -> int:
        """Restores what is there and returns the number of finished steps; 0 when there is nothing.

        Raises:
            WrongState: the folder holds a checkpoint of another run.
            Corrupt: it can not be read.
        """
        state = self._read()
        if state is None:
            return 0
        with torch.no_grad():
            for parameter, value in zip(parameters, state["parameters"], strict=True):
                parameter.copy_(value)
        optimizer.load_state_dict(state["optimizer"])
        return int(state["step"])

    def peek(self) -> int:
        """The number of finished steps. Raises as `load`."""
        state = self._read()
        return 0 if state is None else int(state["step"])

    def save(self, step: int, parameters: Sequence[torch.Tensor], optimizer: torch.optim.Optimizer) -> None:
        """Writes a checkpoint after `step` steps; a stop in between leaves the one before."""
        self.folder.mkdir(parents=True, exist_ok=True)
        state = {
            "key": self.key,
            "step": step,
            "parameters": [parameter.detach().cpu() for parameter in parameters],
            "optimizer": optimizer.state_dict(),
        }
        draft = self.folder / f"{FILE}.part"
        torch.save(state, draft)
        draft.replace(self.folder / FILE)

    def _read(self) -> dict[str, Any] | None:
        path = self.folder / FILE
        if not path.is_file():
            return None
        try:
            state: dict[str, Any] = torch.load(path, weights_only=True, map_location="cpu")
            key = state["key"]
        except Exception as error:  # torch's unpickler raises whatever a damaged file leads it to
            raise Corrupt(f"{path} can not be read: {error}", field="--out", remedy="delete the file") from error
        if key != self.key:
            raise WrongState(
                f"{self.folder.name!r} holds a checkpoint of a run with other settings or other data",
                field="--out",
                remedy=f"train into another folder, or delete {FILE} there",
            )
        return state

    def clear(self) -> None:
        """Removes the checkpoint of a finished run."""
        (self.folder / FILE).unlink(missing_ok=True)
