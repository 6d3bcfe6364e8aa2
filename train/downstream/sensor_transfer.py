"""Fine-tuning a 4M encoder to say what a sensor would: numbers (biomass from rasters), series, rasters, class maps.

Inputs are columns of a root, any of its pixels and grids; the target is read from the members of the source shards, as
the evaluation reads truth, whether it is a modality of the model or not. One process, one device.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn

from ...infra.explain import nearest
from ...modalities import NO_CLASS, Form, Size, height_width
from ...model.config import FourMConfig
from ...model.downstream.heads import Maps, Network, Numbers
from ...model.downstream.transfer import Encoder, add_lora, grid_spec
from ...model.fourm import FourM
from ...sensors.declared import SENSORS
from ...sensors.sensor import Sensor
from ...tokenize.sensors.statistics import Statistics, measure
from ..measures.resample import Value, draw
from ..measures.resample import measure as measured
from . import samples as chosen
from . import tuning
from .evaluation import truth
from .evaluation.job import EvaluateJob
from .evaluation.sensors import FORMS, ClassMap, Values, judge_of, members_of, reference
from .kept import Keeper
from .pairing import others
from .samples import Samples
from .tuning import Settings, Tuning, rounds

_ROWS = ("constant", "another", "transfer")  # of the results
TITLES = {"constant": "constant", "another": "another sample's input", "transfer": "its own input"}


@dataclass(frozen=True)
class Known:
    """Samples that have all inputs and the target.

    given: the inputs, (n, ...) each, as `Samples.given` has them. references: of the judge. lacking: how many were left
        out, since they have no target.
    """

    places: list[chosen.Place]
    given: dict[str, np.ndarray]
    references: list[Any]
    lacking: int

    def __len__(self) -> int:
        return len(self.references)


class Target:
    """What is to be said: a sensor in the frame of a crop, and how answers are compared."""

    def __init__(self, name: str, sensor: Sensor, size: Size) -> None:
        self.name, self.sensor, self.size = name, sensor, size
        self.judge: Values | ClassMap = judge_of(sensor, size)

    @property
    def is_map(self) -> bool:
        return self.sensor.form in (Form.CLASSES, Form.RASTER)

    @property
    def shape(self) -> tuple[int, ...]:
        """Of an answer, but for the pixels of a map: the number of classes, of bands, of numbers."""
        if self.sensor.form is Form.CLASSES:
            return (len(self.sensor.class_names),)
        return (self.sensor.points or 0, self.sensor.width) if self.sensor.form is Form.SERIES else (self.sensor.width,)

    def statistics(self, references: Sequence[np.ndarray]) -> Statistics | None:
        """By which answers are standardized. ValueError if all references say the same."""
        if self.sensor.form is Form.CLASSES:
            return None
        bands = self.sensor.fields if self.sensor.form is Form.NUMBERS and self.sensor.fields else self.sensor.kept
        names = [*bands] if len(bands) == self.sensor.width else [str(i) for i in range(self.sensor.width)]
        try:
            return measure(np.stack(references), names, self.sensor.unit, self.sensor.transform, self.sensor.softening)
        except ValueError as error:
            raise ValueError(f"--target {self.name}: {error}") from None


def target_of(name: str, image_size: int) -> Target:
    """The target of a recipe's sensor. ValueError if it has none of this name."""
    if name not in SENSORS:
        known = ", ".join(SENSORS) or "none"
        raise ValueError(f"--target: there is no sensor {name!r}{nearest(name, SENSORS)}; the recipe has {known}")
    if SENSORS[name].form not in FORMS:
        raise ValueError(
            f"--target: {name} is neither a raster, a class map, a series nor numbers; nothing compares it"
        )
    return Target(name, SENSORS[name], SENSORS[name].size or image_size)


def read(job: EvaluateJob, split: str, inputs: Sequence[str], target: Target, count: int) -> Known:
    """The first samples of a split that have all inputs, with their targets. ValueError if there are none."""
    generation, member = job.generation, target.sensor.name
    where = members_of(target.sensor)
    specs = [spec for spec in generation.specs if spec.name in inputs]
    found = chosen.read(generation.root, specs, generation.splits[split], count, list(inputs))
    members = truth.members(job.sources, found.places, where, job.column)
    rows, references = [], []
    for row, (shard, key, _) in enumerate(found.places):
        try:
            true = reference(target.judge, members.get((shard, key), {}))
        except ValueError as error:
            raise ValueError(f"transfer: shard {shard}, sample {key!r}, {error}") from None
        if true is not None and target.judge.as_label(true) is not None:
            rows.append(row)
            references.append(true)
    if not rows:
        raise ValueError(
            f"transfer: none of the {split} samples has {', '.join(inputs)} and {target.name} ({member}); see "
            "`fourmill status`"
        )
    return Known([found.places[row] for row in rows], _stacked(found, inputs, rows), references, _lost(found, rows))


def _stacked(found: Samples, inputs: Sequence[str], rows: Sequence[int]) -> dict[str, np.ndarray]:
    return {name: np.asarray(values) for name, values in found.given(inputs, rows).items()}


def _lost(found: Samples, rows: Sequence[int]) -> int:
    return len(found.places) - len(rows)


class _Answers:
    """A sensor's values as a task: squared errors of standardized values, or cross-entropy of classes."""

    def __init__(
        self, train: Known, val: Known, target: Target, statistics: Statistics | None, settings: Settings, device: str
    ) -> None:
        self.train, self.val, self.target, self.statistics = train, val, target, statistics
        self.settings, self.device = settings, device
        self.rounds = rounds(len(train), settings)

    def batches(self, epoch: int, done: int) -> Iterator[tuple[dict[str, torch.Tensor], torch.Tensor]]:
        order = np.random.default_rng((self.settings.seed, epoch)).permutation(len(self.train))
        size = min(self.settings.batch_size, len(order))
        for step in range(done, self.rounds):
            rows = order[step * size : (step + 1) * size]
            yield self._given(self.train, rows), self._true([self.train.references[row] for row in rows])

    def _given(self, known: Known, rows: np.ndarray) -> dict[str, torch.Tensor]:
        return {name: torch.from_numpy(values[rows]).to(self.device) for name, values in known.given.items()}

    def _true(self, references: Sequence[Any]) -> torch.Tensor:
        """int64 (B, H, W) of classes; otherwise standardized float32 (B, ...), NaN where there is no value."""
        if self.statistics is None:
            return torch.from_numpy(np.stack([ids for ids, _ in references]).astype(np.int64)).to(self.device)
        values = torch.from_numpy(np.stack(references))
        standard = self.statistics.standardized(values)
        there = self.statistics.transformed(values).isfinite()  # a value of a logarithm is above 0
        return torch.where(there, standard, torch.nan).to(self.device)

    def loss(self, network: nn.Module, inputs: Any, targets: torch.Tensor) -> torch.Tensor:
        answers = self._said(network, inputs)
        if self.statistics is None:
            known = targets != NO_CLASS
            # The mean of no pixels would be NaN.
            return F.cross_entropy(answers, targets, ignore_index=NO_CLASS, reduction="sum") / known.sum().clamp(min=1)
        answers = answers.movedim(1, -1) if self.target.is_map else answers.view_as(targets)
        known = targets.isfinite()
        return torch.where(known, answers - targets.nan_to_num(), 0).square().sum() / known.sum().clamp(min=1)

    def _said(self, network: nn.Module, inputs: Any) -> torch.Tensor:
        on_gpu = self.device.startswith("cuda")
        with torch.autocast("cuda" if on_gpu else "cpu", torch.bfloat16, enabled=on_gpu):
            answers: torch.Tensor = network(inputs)
        return answers.float()

    def measure(self, network: nn.Module) -> dict[str, float]:
        statistic = self.target.judge.statistic(self.answers(network), self.val.references)
        assert statistic is not None
        return {name: value.value for name, value in measured(statistic, np.empty((0, len(self.val)))).items()}

    @torch.no_grad()
    def answers(self, network: nn.Module, rows: np.ndarray | None = None) -> list[Any]:
        """What a network says of the validation samples, in the form of the judge.

        Args:
            rows: whose inputs each is given; its own unless given.
        """
        network.eval()
        rows, size = np.arange(len(self.val)) if rows is None else rows, self.settings.batch_size
        found: list[Any] = []
        for start in range(0, len(rows), size):
            said = self._said(network, self._given(self.val, rows[start : start + size])).cpu()
            if self.statistics is None:
                found += [(ids, None) for ids in said.argmax(1).to(torch.uint8).numpy()]
                continue
            values = said.movedim(1, -1) if self.target.is_map else said.view(-1, *self.target.shape)
            found += list(self.statistics.restored(values).numpy())
        return found


@dataclass(frozen=True)
class Result:
    """history: loss and measures of each epoch. rows: row -> measure -> value with its interval, of `TITLES`.

    samples: how many it learned from and was measured on; lacking: left out, since they have no target.
    """

    target: str
    unit: str
    inputs: list[str]
    samples: dict[str, int]
    lacking: dict[str, int]
    draws: int
    history: list[dict[str, float]]
    rows: dict[str, dict[str, Value]]


def build(model: FourM, inputs: Sequence[str], target: Target, settings: Settings) -> Network:
    """The untrained network. ValueError if the model does not read an input, or none of them lies on a grid."""
    torch.manual_seed(settings.seed)
    encoder = Encoder(model, inputs, settings.drop_path, settings.pool == "class")
    if settings.lora_rank:
        add_lora(encoder, settings.lora_rank)
    if not target.is_map:
        return Numbers(encoder, int(np.prod(target.shape)))
    grids = [name for name in inputs if not grid_spec(model, name).learned_positions]
    if not grids:
        raise ValueError(
            f"--inputs: {target.name} is a map, and {', '.join(inputs)} have no place in it; name a raster"
        )
    return Maps(encoder, target.shape[0], grids[0], height_width(target.size))


def finetune(
    model: FourM, train: Known, val: Known, target: Target, settings: Settings, draws: int, device: str = "cpu",
    keeper: Keeper | None = None,
) -> tuple[Network, Statistics | None, Result]:  # fmt: skip
    """Train a network to say the target of samples, and measure it.

    Args:
        settings: those of images (`smoothing`, `image_size`, `crop_scale`) have no meaning.
        draws: of the bootstrap.

    Raises:
        ValueError: the model does not read an input; the targets are all the same.
        FloatingPointError, Stopped: as of `transfer.finetune`.
    """
    inputs, statistics = list(train.given), target.statistics(train.references)
    network = build(model, inputs, target, settings).to(device)
    task = _Answers(train, val, target, statistics, settings, device)
    history = Tuning(network, task, settings, device).run(keeper)
    answers: dict[str, list[Any]] = {
        "constant": [target.judge.constant(train.references)] * len(val),
        "another": task.answers(network, others(len(val), settings.seed)) if len(val) > 1 else [],
        "transfer": task.answers(network),
    }
    counts = draw(len(val), draws, settings.seed)
    rows = {}
    for row in _ROWS:
        if answers[row] and (statistic := target.judge.statistic(answers[row], val.references)) is not None:
            values = measured(statistic, counts)
            rows[row] = {name: values[name] for name in target.judge.measures}
    samples = {"train": len(train), "val": len(val)}
    lacking = {"train": train.lacking, "val": val.lacking}
    unit = target.sensor.unit
    return network, statistics, Result(target.name, unit, inputs, samples, lacking, draws, history, rows)


def save(
    network: Network, model: FourM, target: Target, statistics: Statistics | None, settings: Settings, result: Result,
    folder: str, call: str,
) -> None:  # fmt: skip
    """Write a network into a local folder, with what is needed to use it again, and what it is worth."""
    content: dict[str, Any] = {
        "model": model.config.to_dict(),
        "inputs": result.inputs,
        "target": {"name": target.name, "size": target.size, "sensor": target.sensor.model_dump(mode="json")},
        "statistics": None if statistics is None else statistics.model_dump(mode="json"),
        "settings": asdict(settings),
        "call": call,
        "history": result.history,
        "result": asdict(result),
    }
    tuning.write(network, content, folder)


def load(folder: str) -> tuple[Network, Target, Statistics | None]:
    """What `save` wrote: the network in evaluation mode, what it says, and the statistics that restore its answers.
    ValueError if there is none."""
    content, settings = tuning.read(folder, "what `fourmill transfer` has written whole")
    of = content["target"]
    size = tuple(of["size"]) if isinstance(of["size"], list) else of["size"]
    target = Target(of["name"], Sensor.model_validate(of["sensor"]), size)
    network = build(FourM(FourMConfig.from_dict(content["model"])), content["inputs"], target, settings)
    tuning.fill(network, folder)
    found = content["statistics"]
    return network, target, None if found is None else Statistics.model_validate(found)


def result_of(content: Mapping[str, Any]) -> Result:
    """That of a configuration that `save` wrote."""
    rows = {
        row: {name: Value(**one) for name, one in cells.items()} for row, cells in content["result"]["rows"].items()
    }
    return Result(**{**content["result"], "rows": rows})
