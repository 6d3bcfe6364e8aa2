"""From a finished root to `ReportData`: the numbers of ledger and metrics, samples, reconstructions, generations."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from ..infra import ledger, side_files, storage
from ..infra.explain import reason_class
from ..infra.ledger import SAMPLES
from ..modalities import MODALITIES, TEXT, Kind, ModalitySpec, size_text
from ..pipelines.outputs import Fitted
from ..pipelines.plan import Plan
from ..pipelines.reject import UNREAD
from ..recipe import Recipe
from ..sensors.declared import SENSORS
from ..tokenize import store
from ..train import metrics
from ..train.downstream.evaluation.job import EvaluateJob
from ..train.downstream.generation_job import GenerateJob
from ..train.downstream.settings import Chain
from ..train.pretrain.job import TrainJob
from . import bands
from .draw.labels import METADATA_FIELDS
from .evaluation import tables
from .html.chart import Series
from .html.gallery import GallerySample, TokenView, how_to_keep
from .html.report import (
    Curve,
    Fact,
    GenerationGrid,
    GenerationRow,
    GridColumn,
    Reconstruction,
    RejectCount,
    ReportData,
    StageTime,
    TokenizerResult,
)
from .samples import Collector, column_counts, credits, is_picture, spread
from .stats import stats
from .truths import truths

MOSAIC, RECONSTRUCTED = 64, 12
COUNTED_SHARDS = 32  # enough to see how a codebook is used
CANDIDATES, DRAWN = 24, 4  # labels are drawn of the samples that have most kinds of them
TEXT_SHOWN = 400  # characters of a text in a generation grid


def collect(
    recipe: Recipe,
    collector: Collector,
    plan: Plan,
    tokenizers: Mapping[str, Fitted],
    run: TrainJob,
    generation: GenerateJob | None,
    evaluation: EvaluateJob | None,
    extras: Mapping[str, Any],
) -> ReportData:
    """Everything that a report of this root shows.

    Args:
        evaluation: knows the truth of validation samples; None if nobody does.
        extras: fields of `ReportData` that win over what is gathered here.
    """
    rows = {shard: record.rows for (output, shard), record in plan.done.items() if output == SAMPLES}
    # Reconstructions of samples that no tokenizer was fitted on, where there are some.
    shown = set(plan.splits["val" if any(rows.get(shard) for shard in plan.splits["val"]) else "train"])
    tasks = list(plan.tasks.values())
    shown_tasks = [task for task in tasks if task.shard in shown]
    shown_samples = collector.samples(shown_tasks, spread(shown_tasks, rows, RECONSTRUCTED))
    drawn = collector.samples(tasks, spread(tasks, rows, CANDIDATES))
    pictures = collector.pictures(tasks, spread(tasks, rows, MOSAIC))
    record = ledger.read(recipe.root, f"runs/{recipe.train.name}", run.fingerprint)
    log = metrics.read(run.folder)
    fields: dict[str, Any] = {
        "title": f"fourmill: {recipe.train.name}",
        "facts": _facts(recipe, plan, rows, record),
        "stages": _stages(recipe.root),
        "mosaic": [(sample.key, sample.image) for sample in pictures if sample.image is not None],
        "labels_note": _labels_note(drawn),
        "samples": sorted(drawn, key=lambda sample: -sum(bool(len(v)) for v in sample.labels.values()))[:DRAWN],
        "tokenizers": _tokenizers(recipe, collector, plan, tokenizers, shown_samples),
        "training_facts": _training_facts(record, log),
        "training_note": _training_note(recipe),
        "curves": _curves(run, log),
        "generations": _generations(collector, plan, generation, evaluation) if generation is not None else (),
        "generation_note": "The samples are the first of the shards, in their order; none was chosen. "
        "They are validation samples where nothing else is said.",
        "evaluations": tables(recipe.root, f"{recipe.train.name}/{run.fingerprint}"),
        "rejects": _rejects(recipe.root, plan),
        "classes": collector.classes,
        "photos": credits([*pictures, *shown_samples, *drawn]),
    }
    if not plan.splits["val"]:
        fields["validation_note"] = "The recipe names no validation shards: nothing here says what is learned by heart."
    alarms = stats.alarms(recipe.root, stats.by_output(plan.done))
    caveats = [f"To look at, {output}: {said}" for output, said in alarms.items()]
    return ReportData(**{**fields, **extras, "caveats": [*caveats, *extras.get("caveats", ())]})


def _facts(recipe: Recipe, plan: Plan, rows: Mapping[str, int], record: ledger.Record | None) -> list[Fact]:
    samples = {split: sum(rows.get(shard, 0) for shard in plan.splits[split]) for split in ("train", "val")}
    facts = [
        Fact("samples", f"{sum(samples.values()):,}", f"{samples['train']:,} to train, {samples['val']:,} to validate"),
        Fact("shards", f"{len(rows):,}"),
        Fact("modalities", f"{len(recipe.modalities)}", ", ".join(recipe.modalities)),
    ]
    columns = [r for (output, _), r in plan.done.items() if output.startswith("tokens/")]
    if columns:
        total = sum(r.bytes for r in columns)
        pixels = [name for name in recipe.modalities if MODALITIES[name].kind is Kind.PIXELS]
        beside = f", with the pixels of {', '.join(pixels)}" if pixels else ""
        facts.append(Fact("token store", f"{total / 2**20:,.1f} MiB", f"{len(columns):,} columns{beside}"))
    if record is not None:
        run = record.identity
        facts.append(Fact("parameters", f"{run['parameters'] / 1e6:,.1f} M", f"{run['steps']} steps"))
    return facts


def _labels_note(drawn: Sequence[GallerySample]) -> str:
    not_kept = list(dict.fromkeys(label for sample in drawn for label in sample.not_kept))
    note = "Each label is made at the frame of the source image; crops are cut from it afterwards."
    return f"{note} {how_to_keep(not_kept)}".rstrip()


def _stages(root: str) -> list[StageTime]:
    stages = []
    for name in ("label", "fit", "tokenize", "train", "generate"):
        url = storage.join(root, "ledger", "stages", f"{name}.json")
        times = side_files.read_object(url, ("seconds", "samples", "made", "unit"))
        if times is None:
            continue
        stages.append(StageTime(name, times["seconds"], times["samples"] or times["made"], times["unit"]))
    return stages


def _tokenizers(
    recipe: Recipe,
    collector: Collector,
    plan: Plan,
    tokenizers: Mapping[str, Fitted],
    shown_samples: Sequence[GallerySample],
) -> list[TokenizerResult]:
    results = []
    for name, output in collector.columns.items():
        spec = output.spec
        if spec is None or not is_picture(spec.name):
            continue
        own = MODALITIES[spec.name].tokenizers
        facts, note = _measured(recipe, spec, own[0], tokenizers[own[0]]) if own else ([], "")
        shards = [shard for (column, shard) in plan.done if column == name]
        # A column of a shard is megabytes: of a web-scale root some shards say the same as all.
        counted = shards[:: max(1, len(shards) // COUNTED_SHARDS)][:COUNTED_SHARDS]
        footers = {shard: plan.done[name, shard].footer for shard in counted}
        counts = column_counts(recipe.root, name, footers, spec.vocab_size)
        where = f"in {len(counted):,} of {len(shards):,} shards" if len(counted) < len(shards) else "in all shards"
        known = bands.table(recipe.root, own[0]) if own else ("", ())
        results.append(TokenizerResult(spec.name, facts, _pairs(shown_samples, spec.name), counts, where, note, known))
    if TEXT in tokenizers:
        size = tokenizers[TEXT].vocab_size
        facts = [Fact("vocabulary", f"{size:,}", "WordPiece, with 4M's special words")]
        results.append(TokenizerResult("caption", facts, note="One vocabulary serves all text modalities."))
    return results


def _measured(recipe: Recipe, spec: ModalitySpec, name: str, fitted: Fitted) -> tuple[list[Fact], str]:
    """What the record of a fitted tokenizer says, and which samples that was measured on."""
    if spec.learned_positions:  # no grid
        facts = [Fact("tokens", str(spec.max_tokens), "of the whole image")]
    else:
        rows, columns = spec.grid
        crop = size_text(MODALITIES[spec.name].image_size or recipe.images.size)
        facts = [Fact("grid", f"{rows} x {columns}", f"of a {crop} px crop")]
    facts += [Fact(text, f"{fitted.quality[n]:.3g}") for n, text in _MEASURES.items() if n in fitted.quality]
    if "codes_used" in fitted.quality:
        share, level = fitted.quality["codes_used"], fitted.quality["perplexity"]
        facts.append(Fact("codes used", f"{round(share * spec.vocab_size):,} of {spec.vocab_size:,}", f"{share:.1%}"))
        facts.append(Fact("perplexity", f"{level:,.1f}", "codes that, used equally, would say as much"))
    record = ledger.read(recipe.root, "tokenizers", name)
    measured_on = record.identity.get("measured_on") if record is not None else None
    where = _MEASURED_ON.get(measured_on or "") if fitted.quality else None
    return facts, f"Measured {where}; the pictures are centre crops." if where else "The pictures are centre crops."


def _pairs(shown_samples: Sequence[GallerySample], modality: str) -> list[Reconstruction]:
    views = [(sample.key, _view(sample, modality)) for sample in shown_samples]
    return [
        Reconstruction(key, view.truth, view.decoded, view.error)
        for key, view in views
        if view is not None and view.decoded is not None
    ]


_MEASURED_ON = {
    "val": "on validation samples", "train": "on training samples", "elsewhere": "where its weights were made",
}  # fmt: skip
_MEASURES = {
    "psnr": "PSNR, dB", "ssim": "SSIM", "lpips": "LPIPS", "f1": "F1", "iou": "IoU", "precision": "precision",
    "recall": "recall", "abs_rel": "relative error", "delta1": "within 1.25", "mean_degrees": "mean error, degrees",
    "median_degrees": "median error, degrees", "miou": "mIoU", "accuracy": "accuracy", "cosine": "cosine",
    "rmse": "RMSE, in its unit", "r2": "R2",
}  # fmt: skip


def _view(sample: GallerySample, modality: str) -> TokenView | None:
    """The first crop's tokens of a modality."""
    return next((view for view in sample.tokens if view.modality == modality and view.crop in (None, 0)), None)


def _training_facts(record: ledger.Record | None, log: Sequence[Mapping[str, Any]]) -> list[Fact]:
    steps = [row for row in log if row["kind"] == "train"]
    if record is None or not steps:
        return []
    rate = float(np.median([row["tokens_per_second"] for row in steps]))
    wait = float(np.median([row["data_wait_share"] for row in steps]))
    facts = [
        Fact("steps", f"{record.identity['steps']:,}"),
        Fact("tokens a second", f"{rate:,.0f}", "by budget, median"),
        Fact("waiting for data", f"{wait:.1%}", "of a step, median"),
    ]
    values = record.identity["metrics"]
    return facts + [Fact(text, f"{values[n]:.3f}") for n, text in _LOSSES.items() if n in values]


_LOSSES = {"loss": "training loss", "val_loss": "validation loss"}


def _training_note(recipe: Recipe) -> str:
    t = recipe.train
    return (
        f"{t.model.encoder_depth} + {t.model.decoder_depth} layers, {t.model.dim} wide; batches of {t.batch_size}, "
        f"{t.input_tokens} input and {t.target_tokens} target tokens a sample."
    )


def _curves(run: TrainJob, log: Sequence[Mapping[str, Any]]) -> list[Curve]:
    def series(kind: str, metric: str, name: str) -> Series | None:
        points = [(row["step"], row[metric]) for row in log if row["kind"] == kind and metric in row]
        return Series(name, [float(x) for x, _ in points], [float(y) for _, y in points]) if points else None

    vocabularies = {spec.name: spec.vocab_size for spec in run.specs if spec.is_target}
    curves = []
    for metric, title in [("loss", "all, mean over modalities"), *((f"loss/{name}", name) for name in vocabularies)]:
        train = series("train", metric, "training")
        if train is not None:
            chance = math.log(vocabularies[title]) if title in vocabularies else None
            curves.append(Curve(title, train, series("val", metric, "validation"), chance))
    return curves


def _rejects(root: str, plan: Plan) -> list[RejectCount]:
    counts: Counter[tuple[str, str]] = Counter()
    first: dict[tuple[str, str], str] = {}  # shard that has some
    for (output, shard), record in plan.done.items():
        for reason, count in record.reasons.items():
            if not reason.startswith(UNREAD):
                counts[output, reason] += count
                first.setdefault((output, reason), shard)
    common = counts.most_common(50)
    return [RejectCount(*cause, n, _example(root, *cause, first[cause])) for cause, n in common]


def _example(root: str, output: str, reason: str, shard: str) -> str:
    """A sample of a shard that was rejected for a reason, as far as its record is still there."""
    record = ledger.read(root, output, shard)
    rejects = record.rejects if record is not None else []
    key = next((one["key"] for one in rejects if reason_class(one["reason"]) == reason), "")
    return f"{shard}: {key}" if key else shard


def _generations(
    collector: Collector, plan: Plan, job: GenerateJob, evaluation: EvaluateJob | None
) -> list[GenerationGrid]:
    grids = []
    for number, chain in enumerate(job.settings.chains):
        folder = storage.join(job.folder, f"chain-{number}")
        noted = side_files.read_object(storage.join(folder, "samples.json"), ("samples",))
        if noted is None:
            continue
        samples = noted["samples"]
        rows: dict[str, list[int]] = {}
        for sample in samples:
            rows.setdefault(sample["shard"], []).append(sample["row"])
        stored = {(s.shard, s.key): s for s in collector.samples(list(plan.tasks.values()), rows)}
        shown_samples = [stored[sample["shard"], sample["key"]] for sample in samples]
        known = evaluation is not None and all(sample["shard"] in plan.splits["val"] for sample in samples)
        places = [(sample["shard"], sample["key"], sample["row"]) for sample in samples]
        true = truths(evaluation, places) if evaluation is not None and known else {}
        generated = {step.target: _decoded(collector, folder, step.target) for step in chain.to}
        lines = []
        for i, sample in enumerate(shown_samples):
            cells = [_cell(_label(sample, name), MODALITIES[name].label) for name in chain.inputs]
            for step in chain.to:
                label = MODALITIES[step.target].label
                cells += [_cell(one, label) for one in (generated[step.target][i], _label(sample, step.target))]
                cells += [_cell(values[i], label)] if (values := true.get(label)) else []
            lines.append(GenerationRow(sample.key, cells, _label(sample, "rgb")))
        title = f"from {' and '.join(chain.inputs)} to {', '.join(step.target for step in chain.to)}"
        title += "" if chain.split == "val" and job.splits["val"] else ", on training samples"
        grids.append(GenerationGrid(title, _columns(chain, shown_samples, true), lines, _how(job, number)))
    return grids


def _columns(
    chain: Chain, shown_samples: Sequence[GallerySample], true: Mapping[str, Sequence[Any]]
) -> list[GridColumn]:
    """What each column of a chain's grid shows."""
    not_kept = {label for sample in shown_samples for label in sample.not_kept}

    def stored(name: str) -> str:
        return "as its tokens say; the label is not kept" if MODALITIES[name].label in not_kept else ""

    columns = [GridColumn(MODALITIES[name].label, "given", stored(name)) for name in chain.inputs]
    for step in chain.to:
        label = MODALITIES[step.target].label
        generated = GridColumn(label, "generated", _guidance(step.guidance))
        columns += [generated, GridColumn(label, "label", stored(step.target))]
        columns += [GridColumn(label, "truth")] if label in true else []
    return columns


def _decoded(collector: Collector, folder: str, modality: str) -> list[Any]:
    """Generated tokens of one modality, decoded."""
    column = store.read(storage.join(folder, f"{modality}.parquet"))
    codec = collector.codec(collector.columns[f"tokens/{modality}"])
    return [codec.decode(column.crop(i, 0)) for i in range(len(column))]


def _label(sample: GallerySample, modality: str) -> Any:
    """The label of a sample in the frame of its first crop; where it is not kept, what its tokens decode to."""
    view = _view(sample, modality)
    if view is None:
        return None
    return view.decoded if view.truth is None else view.truth


def _cell(value: Any, label: str) -> Any:
    """A value for a cell of a grid: places and times of sensors are drawn, other mappings are words."""
    return value if isinstance(value, Mapping) and label in SENSORS else _short(value)


def _short(value: Any) -> Any:
    """A label in words, where a table is too wide and a long text too high."""
    if isinstance(value, Mapping):
        titles = {name: METADATA_FIELDS[name].title.lower() if name in METADATA_FIELDS else name for name in value}
        value = "; ".join(f"{titles[name]} {_number(one)}" for name, one in value.items())
    return value[:TEXT_SHOWN] + "..." if isinstance(value, str) and len(value) > TEXT_SHOWN else value


def _number(value: Any) -> str:
    return f"{value:.3g}" if isinstance(value, int | float) else str(value)


def _guidance(guidance: float | Mapping[str, float]) -> str:
    if isinstance(guidance, Mapping):
        return "guidance " + ", ".join(f"{name} {weight:g}" for name, weight in guidance.items())
    return f"guidance {guidance:g}" if guidance != 1 else ""


def _how(job: GenerateJob, number: int) -> str:
    """The settings of a chain's steps in words."""
    from ..train.downstream.generation import model_step

    specs = {spec.name: spec for spec in job.specs}
    words = []
    for recipe_step in job.settings.chains[number].to:
        spec = specs[recipe_step.target]
        step = model_step(recipe_step, spec)
        steps = f" in {step.steps} steps" if spec.kind is Kind.GRID else ""
        words.append(f"{step.target}: {step.scheme}{steps}, temperature {step.temperature:g}")
    return "; ".join(words)
