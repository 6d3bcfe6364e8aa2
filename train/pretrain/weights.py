"""What a training run learns: parameters, the optimizer's moments, the average of the weights; and the model it ends
with, whole, in one safetensors file (model/checkpoint.py)."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
from torch import Tensor

from ...infra import scratch, storage, sums
from ...model import checkpoint as model_files
from ...model.config import FourMConfig
from ...model.fourm import FourM
from .. import checkpoint
from ..parallel import whole
from ..staging import Part, names_of
from . import vocabularies
from .job import MODEL, MODEL_FILES
from .learning import Learning


class Weights:
    """Parameters, moments and average of a model, each by the parameter's name (`staging.names_of`).

    Attributes:
        ramped: whether the decay of the average is ramped; runs that began without go on so.

    Args:
        model: as it is trained; its parameters may be shards already.
        ema: decay of the average for each step, ramped up at first; 0 keeps none.
        learning: what of an extended model learns, and decays; all of it unless given.
    """

    def __init__(
        self, model: FourM, *, weight_decay: float = 0.0, betas: tuple[float, float] = (0.9, 0.95), ema: float = 0.0,
        learning: Learning | None = None,
    ) -> None:  # fmt: skip
        names = names_of(model)
        self.named = {names[name]: p for name, p in model.named_parameters() if p.requires_grad}
        self.parameters = list(self.named.values())
        self.learning = learning
        decay = weight_decay if learning is None else 0.0
        self.optimizer = torch.optim.AdamW(model.parameter_groups(decay), betas=betas, fused=True)
        for p in self.parameters:
            # As AdamW would make it at the first step; made here, so that a checkpoint can be read into it before.
            step = torch.zeros((), device=p.device)
            self.optimizer.state[p] = {"step": step, "exp_avg": torch.zeros_like(p), "exp_avg_sq": torch.zeros_like(p)}
        self.ema, self.ramped = ema, True
        self.average = [p.detach().clone() for p in self.parameters] if ema else []

    def step(self, lr: float, norm: Tensor, step: int = 0) -> None:
        """One step of the optimizer, and of the average; neither changes anything if `norm` is not finite.

        Args:
            step: of the run, by which what learns may differ.
            norm: of the whole gradient, the same scalar on all workers. It stays on the device: AdamW's kernel reads
                `found_inf`, as from a GradScaler, and does not count the step if it is 1.
        """
        for group in self.optimizer.param_groups:
            group["lr"] = lr
        found_inf = (~torch.isfinite(norm)).float()
        self.optimizer.found_inf = found_inf  # type: ignore[attr-defined]
        if self.learning is not None:
            self.learning.decay(step, lr, 1 - found_inf)
        self.optimizer.step()
        if self.ema:
            # A decay of (1 + n) / (10 + n) at first, as in fits of tokenizers (vq.py): with 0.9999 from step 0, a run
            # of 1,000 steps would keep 90 % of its random initial weights. From step 9 / (1 - ema) on it is the decay
            # that is asked for. AdamW counts steps on the device, those that changed nothing not among them.
            done = self.optimizer.state[self.parameters[0]]["step"]
            weight = (9 / (10 + done)).clamp(min=1 - self.ema) if self.ramped else 1 - self.ema
            # Weight 0 keeps the average as it was, without a branch that would wait for the device.
            weight = weight * (1 - found_inf)
            torch._foreach_lerp_(self.average, [p.detach() for p in self.parameters], [weight] * len(self.average))

    @contextmanager
    def averaged(self) -> Iterator[None]:
        """The model has the average as its parameters, if there is one."""
        kept = [p.detach().clone() for p in self.parameters] if self.average else []
        self._assign(self.average)
        try:
            yield
        finally:
            self._assign(kept)

    @torch.no_grad()
    def _assign(self, values: list[Tensor]) -> None:
        for p, value in zip(self.parameters if values else (), values, strict=True):
            p.copy_(value)

    def tensors(self) -> dict[str, Tensor]:
        """Everything that a checkpoint holds; reading one into these goes on from there (`resumed`)."""
        tensors = {f"model.{name}": p.detach() for name, p in self.named.items()}
        for moment in ("exp_avg", "exp_avg_sq"):
            tensors |= {f"{moment}.{name}": self.optimizer.state[p][moment] for name, p in self.named.items()}
        return tensors | {f"ema.{name}": value for name, value in zip(self.named, self.average, strict=False)}

    def resumed(self, step: int) -> None:
        """Call it after a checkpoint was read into `tensors`; `step`: the optimizer steps of the checkpoint."""
        for p in self.parameters:
            self.optimizer.state[p]["step"].fill_(float(step))


def save_model(model: FourM, url: str, *, write: bool) -> None:
    """Put the model below `url`, whole. All workers must call it; the one with `write` has all of it in host memory."""
    # One tensor at a time: a GPU needs room for one gathered parameter, and only the writer keeps them.
    names, parts = names_of(model), dict[str, list[Tensor]]()
    for name, tensor in model.state_dict().items():
        gathered = whole(tensor.detach())
        if write:
            part = Part.of(names.get(name, name))
            parts.setdefault(part.name if part else name, []).append(gathered.cpu())
    if not write:
        return
    state = {name: torch.cat(found) if len(found) > 1 else found[0] for name, found in parts.items()}
    with torch.device("meta"):
        copy = FourM(model.config)
    copy.load_state_dict(state, assign=True)
    copy.tokenizers = model.tokenizers
    with scratch.folder() as folder:
        model_files.save(copy, folder)
        beside = [model_files.TOKENIZERS] if model.tokenizers else []
        # A folder that has the last one is whole.
        for name in (*beside, model_files.WEIGHTS, sums.FILE, model_files.CONFIG):
            storage.put(storage.join(url, name), Path(folder, name).read_bytes())


def load_model(folder: str, device: str = "cpu", step: int | None = None) -> FourM:
    """The model of a run, in evaluation mode: that of the checkpoint of a step, if one is given; else the finished one,
    else that of the newest complete checkpoint.

    FileNotFoundError if there is none, ValueError if there is none of that step.
    """
    if step is not None:
        return of_checkpoint(checkpoint.at_step(storage.join(folder, "checkpoints"), step)).to(device).eval()
    url = storage.join(folder, MODEL)
    if set(MODEL_FILES) <= set(storage.list_names(url)):
        with storage.local_folder(url, MODEL_FILES) as local:
            model = model_files.load(local, device)
        model.tokenizers = vocabularies.learned(url)
        return model
    latest = checkpoint.newest(storage.join(folder, "checkpoints"))
    if latest is None:
        raise FileNotFoundError(f"there is no complete checkpoint below {folder}; run `fourmill train` first")
    return of_checkpoint(latest).to(device).eval()


def of_checkpoint(saved: checkpoint.Checkpoint) -> FourM:
    """The model that a run would hand on if it ended with a checkpoint: its average, if there is one and it is used."""
    from .. import sharded  # its import takes seconds, and a finished model does not need it

    state = saved.marker().get("state")
    if state is None:
        raise ValueError(
            f"{saved.url} is no checkpoint of a 4M model; those of tokenizers end up in ROOT/tokenizers/NAME, which "
            "`fourmill.load_tokenizer` opens"
        )
    model = FourM(FourMConfig.from_dict(state["model"]))
    model.tokenizers = vocabularies.learned(saved.url)
    names = {name for name, p in model.named_parameters() if p.requires_grad}
    chosen = "ema" if state["averaged"] else "model"
    sharded.load(saved, {f"{chosen}.{name}": p.detach() for name, p in model.named_parameters() if name in names})
    return model
