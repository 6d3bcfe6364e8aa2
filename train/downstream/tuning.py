"""Fine-tuning of an encoder with a head on top, whatever the task: steps, learning rates, states to go on from."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Protocol

import torch
from torch import nn

from ...infra import storage
from ...infra.progress import Progress
from ...model.config import CONFIG, WEIGHTS
from ...model.downstream.heads import Network
from ...model.downstream.transfer import parameter_groups
from ..schedule import cosine_lr
from .kept import Keeper


@dataclass(frozen=True)
class Settings:
    """How an encoder is fine-tuned.

    Attributes:
        lr: of the head; the layers below it learn at lr * layer_decay^distance.
        crop_scale: smallest and largest share of the area of an image's largest square that a training crop has.
        lora_rank: 0 trains all weights; above, only corrections of this rank, and the head.
        image_size: pixels along a side of what the model sees; None for those of its own training, see `resolved`.
    """

    epochs: int = 20
    batch_size: int = 1024
    lr: float = 1e-4
    warmup_epochs: float = 1.0
    weight_decay: float = 0.05
    layer_decay: float = 0.75
    drop_path: float = 0.1
    smoothing: float = 0.1
    pool: Literal["mean", "class"] = "mean"
    lora_rank: int = 0
    image_size: int | None = None
    crop_scale: tuple[float, float] = (0.2, 1.0)
    clip_norm: float | None = None
    seed: int = 0

    def __post_init__(self) -> None:
        size = 1 if self.image_size is None else self.image_size
        if min(self.epochs, self.batch_size, size) < 1 or self.lr <= 0 or self.lora_rank < 0:
            raise ValueError(
                f"transfer: epochs {self.epochs}, batch_size {self.batch_size}, image_size {self.image_size}, lr "
                f"{self.lr}, lora_rank {self.lora_rank}; expected them above 0, lora_rank at least 0"
            )


class Task(Protocol):
    """What is learned. rounds: steps of an epoch."""

    rounds: int

    def batches(self, epoch: int, done: int) -> Iterator[tuple[Any, torch.Tensor]]:
        """Inputs and targets of the steps of an epoch, but for the first `done`."""

    def loss(self, network: nn.Module, inputs: Any, targets: torch.Tensor) -> torch.Tensor:
        """Of one batch."""

    def measure(self, network: nn.Module) -> dict[str, float]:
        """What the network is worth on samples that it does not learn from."""


def schedule(images: int, settings: Settings) -> dict[str, int]:
    """Steps in all, and those of warm-up, for `cosine_lr`."""
    return schedule_of(rounds(images, settings), settings)


def schedule_of(an_epoch: int, settings: Settings) -> dict[str, int]:
    """The same, of so many steps an epoch."""
    steps = settings.epochs * an_epoch
    # The first step of a warm-up has the rate 0: of few steps some must be left to learn.
    return {"warmup": min(round(settings.warmup_epochs * an_epoch), steps - 1), "steps": steps}


def rounds(images: int, settings: Settings) -> int:
    """Steps of an epoch; the last samples that fill no batch are left out, other ones in each epoch."""
    return max(images // settings.batch_size, 1)


class Tuning:
    """The state of a training: after how many steps, and with which losses of the epoch."""

    def __init__(self, network: Network, task: Task, settings: Settings, device: str) -> None:
        self.network, self.task, self.settings, self.device = network, task, settings, device
        groups = parameter_groups(
            network.encoder, network.head, settings.lr, settings.layer_decay, settings.weight_decay
        )
        self.optimizer = torch.optim.AdamW(groups, betas=(0.9, 0.999))
        self.parameters = [p for group in self.optimizer.param_groups for p in group["params"]]
        self.peaks = [group["lr"] for group in self.optimizer.param_groups]
        self.rounds = task.rounds
        self.schedule = schedule_of(task.rounds, settings)
        self.losses: list[torch.Tensor] = []
        self.history: list[dict[str, float]] = []

    @property
    def step(self) -> int:
        return len(self.history) * self.rounds + len(self.losses)

    def run(self, keeper: Keeper | None) -> list[dict[str, float]]:
        """Train to the end, and return loss and measures of each epoch; the network is then in evaluation mode."""
        if keeper is not None and (state := keeper.newest(self.device)) is not None:
            self._load(state)
        with Progress("transfer", self.schedule["steps"], "steps", start=self.step) as progress:
            while len(self.history) < self.settings.epochs:
                self.network.train()
                epoch, done = len(self.history), len(self.losses)
                for inputs, targets in self.task.batches(epoch, done):
                    self._step(inputs, targets)
                    progress.update(1)
                    if keeper is not None and keeper.is_due:
                        self._mean()  # a state that is not finite is no state to go on from
                        keeper.save(self.step, self.schedule["steps"], self._state())
                row = {"loss": self._mean()} | self.task.measure(self.network)
                self.history.append(row)
                self.losses = []
        self.network.eval()
        return self.history

    def _step(self, inputs: Any, targets: torch.Tensor) -> None:
        for group, peak in zip(self.optimizer.param_groups, self.peaks, strict=True):
            group["lr"] = cosine_lr(self.step, peak=peak, minimum=0.0, **self.schedule)
        loss = self.task.loss(self.network, inputs, targets)
        self.optimizer.zero_grad()
        torch.autograd.backward(loss)
        if self.settings.clip_norm is not None:
            torch.nn.utils.clip_grad_norm_(self.parameters, self.settings.clip_norm)
        self.optimizer.step()
        self.losses.append(loss.detach())

    def _mean(self) -> float:
        """Of the epoch's losses so far. Once an epoch: reading the loss of each step would wait for the device."""
        mean = float(torch.stack(self.losses).mean())
        if not math.isfinite(mean):
            raise FloatingPointError(
                f"transfer: the loss of epoch {len(self.history)} is {mean}; lower lr ({self.settings.lr:g}), or set "
                "clip_norm"
            )
        return mean

    def _state(self) -> dict[str, Any]:
        """All that the next steps depend on, random numbers of stochastic depth among it."""
        random = {"cpu": torch.get_rng_state()}
        if self.device.startswith("cuda"):
            random["cuda"] = torch.cuda.get_rng_state(self.device)
        return {
            "model": self.network.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "losses": torch.stack(self.losses) if self.losses else torch.zeros(0),
            "history": self.history,
            "random": random,
        }

    def _load(self, state: dict[str, Any]) -> None:
        self.network.load_state_dict(state["model"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.losses, self.history = list(state["losses"]), list(state["history"])
        torch.set_rng_state(state["random"]["cpu"].cpu())
        if "cuda" in state["random"]:
            torch.cuda.set_rng_state(state["random"]["cuda"].cpu(), self.device)


def write(network: nn.Module, content: Mapping[str, Any], folder: str) -> None:
    """Write a network and its configuration, which can be said in JSON, into a local folder."""
    from safetensors.torch import save_file

    path = Path(folder)
    path.mkdir(parents=True, exist_ok=True)
    # The configuration is removed first and written last: a folder that has one is complete.
    (path / CONFIG).unlink(missing_ok=True)
    with storage.replaced(path / WEIGHTS) as temporary:
        save_file({k: v.detach().cpu().contiguous() for k, v in network.state_dict().items()}, temporary)
    (path / CONFIG).write_text(json.dumps(content, indent=1) + "\n")


def read(folder: str, what: str) -> tuple[dict[str, Any], Settings]:
    """The configuration of a network that `write` wrote, and its settings. ValueError if there is none: `what` was
    expected."""
    path = Path(folder) / CONFIG
    if not path.is_file():
        raise ValueError(f"{folder}: no {CONFIG}; expected {what}")
    content: dict[str, Any] = json.loads(path.read_text())
    scale = tuple(content["settings"]["crop_scale"])  # JSON has no tuples
    return content, Settings(**(content["settings"] | {"crop_scale": scale}))


def fill(network: nn.Module, folder: str) -> None:
    """Give a network the tensors of a folder, in evaluation mode. ValueError if they do not fit."""
    from safetensors.torch import load_file

    try:
        network.load_state_dict(load_file(Path(folder) / WEIGHTS))
    except RuntimeError as error:
        raise ValueError(f"{folder}: the tensors do not fit {CONFIG}: {error}") from error
    network.eval()
