"""What a fine-tuning keeps in its folder: the state that the next start goes on from, and what it was made of.

OUT/checkpoints/CALL/step-00000100/{state.pt, complete.json}   until it is finished
OUT/config.json                                                names the call, and holds what came of each epoch
"""

from __future__ import annotations

import hashlib
import shutil
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch

from ...infra import side_files, storage
from ...infra.fingerprint import fingerprint
from ...infra.stopping import Deferred, Stopped
from ...model.config import CONFIG, WEIGHTS
from ...model.fourm import FourM
from .. import checkpoint

SAVE_SECONDS = 300.0  # between two saved states, of a run that nobody stops


def call_of(model: FourM, settings: Any, data: Sequence[Any]) -> str:
    """What the weights of a classifier depend on: the model's weights, the settings, and the images.

    Args:
        data: of training and of validation, plain values.
    """
    digest = hashlib.sha256()
    for name, tensor in sorted(model.state_dict().items()):
        digest.update(name.encode())
        digest.update(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy())
    return fingerprint("transfer", digest.hexdigest(), asdict(settings), data)


def finished(folder: str, call: str) -> list[dict[str, float]] | None:
    """What came of each epoch of a classifier that this very call has written; None if there is none."""
    content = side_files.read_object(storage.join(folder, CONFIG))
    if content is None or content.get("call") != call or not Path(folder, WEIGHTS).is_file():
        return None
    history: list[dict[str, float]] = content["history"]
    return history


@dataclass
class Keeper:
    """Saves the state of one call now and then, and when the command is asked to stop.

    folder: local, of the classifier. stop: says whether a signal has come.
    """

    folder: str
    call: str
    stop: Deferred = field(default_factory=Deferred)
    _saved: float = field(default_factory=time.monotonic)

    @property
    def _states(self) -> str:
        return storage.join(self.folder, "checkpoints", self.call)

    def newest(self, device: str) -> dict[str, Any] | None:
        """The state to go on from."""
        found = checkpoint.newest(self._states)
        return None if found is None else checkpoint.unpack(found.read("state.pt"), device)

    @property
    def is_due(self) -> bool:
        """Whether the state should be saved after this step."""
        return bool(self.stop.signum) or time.monotonic() - self._saved > SAVE_SECONDS

    def save(self, step: int, steps: int, state: dict[str, Any]) -> None:
        """Save the state after a step. Stopped if the command was asked to stop."""
        checkpoint.save(self._states, step, {"state.pt": checkpoint.pack(state)}, keep=1)
        self._saved = time.monotonic()
        if self.stop.signum:
            raise Stopped(self.stop.signum, self.said(steps))

    def said(self, steps: int) -> str:
        """Where the next start goes on, for people."""
        found = checkpoint.complete(self._states)
        if not found:
            return "nothing is saved yet: the same command begins at step 0"
        return f"step {found[-1].step} of {steps} is saved in {self.folder}: the same command goes on from there"

    def remove(self) -> None:
        """The classifier is written: the states are needed no more."""
        shutil.rmtree(Path(self.folder, "checkpoints"), ignore_errors=True)
