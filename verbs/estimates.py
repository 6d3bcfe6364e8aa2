"""How long each stage takes and how much memory a worker of it needs: for `fourmill plan`.

Labels and columns are measured on samples of the first shard. Fits and training are counted in operations (train/costs)
and divided by the throughput that this machine reached on the recipe's own models in half a second; for another
machine (--for), or GPUs, by a share of its data sheet. What is there already takes no time.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Any

from ..modalities import MODALITIES, Kind
from . import machines
from .machines import GIB, Machine

if TYPE_CHECKING:
    from ..model.config import FourMConfig
    from ..project import Project
    from ..train.costs import Cost
    from ..train.downstream.settings import Chain

START_SECONDS = 15.0  # of Ray and of workers that import torch
PASS_SECONDS = 2e-3  # least time of one block for one token, however small the model is


@dataclass(frozen=True)
class Measured:
    """What labelling and tokenizing samples here took.

    seconds: of a sample, all of it. labels: those of `seconds` that are not columns'. columns: that were measured.
    """

    seconds: float
    labels: float
    columns: frozenset[str]


@dataclass
class Estimate:
    """Of one stage.

    Attributes:
        seconds: None if nothing says how long it takes; then `rests_on` says what is lacking.
        memory_gb: GiB of each worker.
        workers: at the same time.
        rests_on: half a sentence.
    """

    stage: str
    seconds: float | None
    memory_gb: float | None
    workers: int
    rests_on: str
    parts: dict[str, float] = field(default_factory=dict)

    def as_json(self) -> dict[str, Any]:
        return {name: value for name, value in vars(self).items() if name != "parts" or value}


class Estimator:
    """Estimates for one project.

    Args:
        machine: that it will run on; None for this one.
        samples: of all shards, None if unknown.
        actors: {"memory_gb", "at_once"} of the engine, on that machine.
        missing: output -> shards that lack it; columns whose tokenizers are not fitted are not in it.
        measured: None if no sample was labelled.
        taken: GiB of a GPU, by stage, where `doctor` has counted them.
        node: of another machine's plan: {"machine", "flops": {tokenizer or "4m": FLOP/s}}.
    """

    def __init__(
        self, project: Project, machine: Machine | None, samples: int | None, actors: Mapping[str, Any],
        missing: Mapping[str, int], measured: Measured | None, taken: Mapping[str, float] | None = None,
        node: Mapping[str, Any] | None = None,
    ) -> None:  # fmt: skip
        self.project, self.recipe = project, project.recipe
        self.other, self.machine = machine is not None, machine or machines.here()
        self.samples, self.actors, self.missing, self.measured = samples, actors, missing, measured
        self.taken, self.node = taken or {}, node or {}
        self._flops: Mapping[str, float] = self.node.get("flops", {})

    def all(self) -> list[Estimate]:
        """Every stage, in order."""
        return [self.label(), self.fit(), self.tokenize(), self.train(), self.generate()]

    def label(self) -> Estimate:
        lacking = [count for name, count in self.missing.items() if not name.startswith("tokens/")]
        seconds = self._of_shards(self.measured.labels if self.measured else None, max(lacking, default=0))
        return self._of_engine("label", seconds)

    def tokenize(self) -> Estimate:
        columns = [f"tokens/{name}" for name in self.recipe.modalities]
        every = len(self.project.shards.urls)
        lacking = max(self.missing.get(name, every) for name in columns)
        per_sample = None
        if self.measured is not None:
            unmeasured = {name for name in self.recipe.modalities if name not in self.measured.columns}
            per_sample = self.measured.seconds + self._encoding(unmeasured)
        estimate = self._of_engine("tokenize", self._of_shards(per_sample, lacking))
        if self.measured is not None and lacking and any(name not in self.missing for name in columns):
            estimate.rests_on += "; encoders that are not fitted yet by their operations"
        return estimate

    def _encoding(self, modalities: set[str]) -> float:
        """Seconds of a sample in encoders that are still to be fitted: a sixth of a step of their fit."""
        seconds = 0.0
        for name in modalities:
            crops = self.recipe.images.crops if MODALITIES[name].spatial else 1
            for tokenizer in MODALITIES[name].tokenizers:
                if tokenizer in self.fits:
                    cost, throughput = self.fits[tokenizer]
                    seconds += crops * cost.flops / 6 / throughput
        return seconds

    def _of_shards(self, per_sample: float | None, lacking: int) -> float | None:
        if not lacking:
            return 0.0
        if per_sample is None or self.samples is None or not self.actors["at_once"]:
            return None
        share = lacking / len(self.project.shards.urls)
        return START_SECONDS + self.samples * share * per_sample / self.actors["at_once"]

    def _of_engine(self, stage: str, seconds: float | None) -> Estimate:
        why = f"samples that were labelled {'on ' + self.node['machine'] if self.node else 'here'}"
        why = why if seconds else "all of it is there"
        if seconds is None:
            why = "not measured: `--measure 8` labels and tokenizes eight samples, which fetches the weights they need"
            if self.measured is not None:
                why = "no actor fits, or the number of samples is unknown"
        return Estimate(stage, seconds, self.actors["memory_gb"], self.actors["at_once"], why)

    @cached_property
    def fits(self) -> dict[str, tuple[Cost, float]]:
        """(cost, FLOP/s) of every tokenizer that is yet to be fitted; not of finished ones that are only copied."""
        from ..modalities import TOKENIZERS
        from ..tokenize import class_lists
        from ..train import costs

        recipe = self.recipe
        # Tables of sensors are made in seconds.
        names = [
            one for one in recipe.tokenizers_needed if one in self.project.unfitted and not TOKENIZERS[one].is_table
        ]
        settings = {name: recipe.tokenizer(name) for name in names}
        found = {
            name: costs.of_tokenizer(name, one, recipe.images.size, class_lists.n_labels(name, self.project.classes))
            for name, one in settings.items()
            if one.weights is None
        }
        return {name: (cost, self._flops.get(name, reached)) for name, (cost, reached) in found.items()}

    def flops(self) -> dict[str, float]:
        """FLOP/s that this machine reached, by tokenizer, and of 4M; of what was estimated."""
        fits = self.__dict__.get("fits", {})
        reached = {name: throughput for name, (_, throughput) in fits.items()}
        return reached | ({"4m": self.transformer[2]} if "transformer" in self.__dict__ else {})

    def fit(self) -> Estimate:
        fit, unfitted = self.recipe.fit, self.project.unfitted
        if not unfitted:
            return Estimate("fit", 0.0, None, 0, "all of it is there")
        parts, memory = {}, 0.0
        for name, (cost, throughput) in self.fits.items():
            settings = self.recipe.tokenizer(name)
            rate, on = self._rate(throughput, fit.gpus)
            if rate is None:
                return Estimate("fit", None, None, fit.workers, on)
            samples = settings.total_steps * settings.batch_size
            parts[name] = samples * cost.flops / rate
            batch = settings.batch_size // (fit.workers if fit.share == "batches" else 1)
            narrow = settings.precision != "fp32"
            of_cost = cost.memory(max(1, batch // settings.accumulate), narrow)
            memory = max(memory, self._on_gpu(fit.gpus, f"fit {name}", of_cost))
        # A worker has a share of the machine: all of them together have no more than it.
        at_once = fit.workers if fit.gpus else 1
        seconds = START_SECONDS + sum(parts.values()) / max(1, min(at_once, len(parts) or 1)) + self._crops()
        on = self._rate(1.0, fit.gpus)[1]
        return Estimate("fit", seconds, round(memory / GIB, 2) or None, fit.workers, on, parts)

    def _crops(self) -> float:
        """Seconds until the labels of the crops that are fitted on are made."""
        crops = max((self.recipe.tokenizer(name).samples for name in self.fits), default=0)
        return min(crops, self.samples or crops) * (self.measured.labels if self.measured else 0.0)

    @cached_property
    def transformer(self) -> tuple[FourMConfig, Cost, float]:
        """The configuration of 4M, its cost, and the FLOP/s that this machine reached on it."""
        from ..train import costs
        from ..train.pretrain.job import configured

        config = configured(self.recipe.specs(), self.recipe.train.model)
        cost, reached = costs.of_transformer(config, self.recipe.train)
        return config, cost, self._flops.get("4m", reached)

    def train(self) -> Estimate:
        from ..train.settings import in_bf16

        train = self.recipe.train
        workers = train.worker_range[1]
        if self._is_trained():
            return Estimate("train", 0.0, None, workers, "all of it is there")
        _, cost, throughput = self.transformer
        rate, on = self._rate(throughput, train.gpus * workers)
        micro_batch = max(1, train.batch_size // (workers * train.accumulate))
        narrow = in_bf16(train.precision, "cuda" if train.gpus else "cpu")
        memory = round(self._on_gpu(train.gpus, "train", cost.memory(micro_batch, narrow)) / GIB, 2)
        if rate is None:
            return Estimate("train", None, memory, workers, on)
        seconds = START_SECONDS + train.steps * train.batch_size * cost.flops / rate
        if self.recipe.samples.val:
            validations = train.steps // train.validate_every + 1
            seconds += validations * train.validation_samples * cost.flops / 3 / rate
        return Estimate("train", seconds, memory, workers, on)

    def _on_gpu(self, gpus: float, stage: str, otherwise: float) -> float:
        """Bytes that a worker takes of its GPU; `otherwise` without one."""
        return self.taken[stage] * GIB if gpus and stage in self.taken else otherwise

    def _is_trained(self) -> bool:
        try:
            return self.project.run_record() is not None
        except ValueError:  # there are no columns yet
            return False

    def generate(self) -> Estimate:
        chains = self.recipe.generate.chains
        if not chains or (self._is_trained() and self.project.generated_record() is not None):
            return Estimate("generate", 0.0, None, 1, "all of it is there" if chains else "the recipe has no chains")
        config, cost, throughput = self.transformer
        rate, on = self._rate(throughput, self.recipe.train.gpus)
        of_cost = cost.memory(0) - 12 * cost.parameters
        memory = round(self._on_gpu(self.recipe.train.gpus, "generate", of_cost) / GIB, 2)
        if rate is None:
            return Estimate("generate", None, memory, 1, on)
        blocks = config.encoder_depth + config.decoder_depth
        seconds = sum(self._chain(chain, cost.flops / 3 / rate, blocks) for chain in chains)
        return Estimate("generate", seconds, memory, 1, on)

    def _chain(self, chain: Chain, forward: float, blocks: int) -> float:
        """Seconds of a chain. forward: seconds of one sample's whole forward pass."""
        settings, seconds = self.recipe.generate, 0.0
        batches = -(-settings.samples // settings.batch_size)
        lengths = {spec.name: spec.max_tokens for spec in self.recipe.specs()}
        for step in chain.to:
            passes = 1 if step.guidance == 1.0 else 2
            text = MODALITIES[step.target].kind is Kind.SEQUENCE
            # A text runs the encoder once; each token then is one pass of cached keys and values.
            tokens = (step.max_tokens or lengths[step.target]) if text else step.steps
            seconds += tokens * batches * blocks * PASS_SECONDS
            seconds += (2 if text else tokens) * passes * settings.samples * forward
        return seconds * chain.ensemble

    def _rate(self, measured: float, gpus: float) -> tuple[float | None, str]:
        """FLOP/s of a stage that asks for so many GPUs in all, and what that rests on."""
        machine = self.machine
        if gpus and machine.gpu is None:
            return None, "it asks for GPUs, and there are none: name the machine, such as `--for h200x8`"
        if gpus and machine.gpu is not None:
            share = machine.gpu.flops * machines.GPU_SHARE * min(gpus, machine.gpus)
            return share, f"{machines.GPU_SHARE:.0%} of the peak of its GPUs"
        if self.other:
            return machine.flops, f"{machines.CORE_FLOPS / 1e9:.0f} GFLOP/s a core"
        if self._flops:
            return measured, f"operations, and what {self.node['machine']} reached"
        return measured, "operations, and half a second of them on idle cores here"
