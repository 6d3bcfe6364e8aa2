"""Runs, generated chains and recipes for `fourmill inspect`."""

from __future__ import annotations

import posixpath
from collections.abc import Callable
from typing import Any

import numpy as np
import yaml

from ...infra import configuration, ledger, storage
from ...modalities import MODALITIES
from ...pipelines import plan as plans
from ...pipelines.settings import Images
from ...recipe import code_of, parse
from ...train import checkpoint, metrics
from .files import check_row
from .view import Inspection
from .weights import read_json

MAX_HISTORY = 256


def inspect_run(path: str, folder: str) -> Inspection:
    """Facts of a training or fitting run: its losses, checkpoints and what was generated with it."""
    try:
        rows = metrics.read(folder)
    except ValueError as error:
        raise ValueError(f"{storage.join(folder, 'metrics.jsonl')}: a line is no JSON ({error})") from None
    if not all(isinstance(line, dict) and {"step", "kind"} <= set(line) for line in rows):
        raise ValueError(
            f"{storage.join(folder, 'metrics.jsonl')}: a line has no step or kind; this is no log of a run"
        )
    name, print_ = posixpath.basename(posixpath.dirname(folder)), posixpath.basename(folder)
    done = checkpoint.complete(storage.join(folder, "checkpoints"))
    every = [n for n in storage.list_names(storage.join(folder, "checkpoints")) if n.startswith("step-")]
    root, family = posixpath.split(posixpath.dirname(posixpath.dirname(folder)))
    record = ledger.read(root, f"runs/{name}", print_) if family == "runs" else None
    facts = {
        "path": path,
        "kind": "run",
        "name": name,
        "fingerprint": print_,
        "finished": None if name.startswith("fit-") else record is not None,
        "steps": rows[-1]["step"] if rows else 0,
        "training_samples": record.rows if record else None,
        "seconds": record.seconds if record else None,
        "parameters": record.identity.get("parameters") if record else None,
        "losses": _curves(rows, lambda n: n == "loss" or n.startswith("loss/")),
        "other_metrics": _curves(rows, lambda n: n != "loss" and not n.startswith("loss/")),
        "checkpoints": [{"step": one.step, "bytes": _bytes(one)} for one in done],
        "incomplete_checkpoints": sorted(set(every) - {posixpath.basename(one.url) for one in done}),
        "generated": storage.list_names(storage.join(folder, "generated")),
        "sample": None,
    }
    return Inspection(facts)


def _curves(rows: list[dict[str, Any]], wanted: Callable[[str], bool]) -> list[dict[str, Any]]:
    """One row for each metric: its first, last and best training value, its last validation value, its history."""
    rows = [row for row in rows if row["kind"] in ("train", "val")]
    names = dict.fromkeys(name for row in rows for name in row if name not in ("step", "kind") and wanted(name))
    table = []
    for name in names:
        train, val = (
            [row[name] for row in rows if row["kind"] == kind and isinstance(row.get(name), int | float)]
            for kind in ("train", "val")
        )
        table.append(
            {
                "metric": name,
                "first": train[0] if train else None,
                "last": train[-1] if train else None,
                "lowest": float(np.nanmin(train)) if np.isfinite(train).any() else None,
                "last_val": val[-1] if val else None,
                "history": _thin(train),
                "history_val": _thin(val),
            }
        )
    return table


def _thin(values: list[float]) -> list[float]:
    """At most `MAX_HISTORY` of the values, evenly spread, with the first and the last."""
    count = min(len(values), MAX_HISTORY)
    return [values[round(i * (len(values) - 1) / max(count - 1, 1))] for i in range(count)]


def _bytes(one: checkpoint.Checkpoint) -> int | None:
    sizes = read_json(storage.join(one.url, checkpoint.MARKER)).get("files", {})
    return sum(sizes.values()) if isinstance(sizes, dict) else None


def has_checkpoints(folder: str) -> bool:
    """Whether a folder's checkpoints/ is one of fourmill's; trainers of others use the name as well."""
    return any(name.startswith("step-") for name in storage.list_names(storage.join(folder, "checkpoints")))


def is_generated(folder: str) -> bool:
    """Whether a folder's samples.json is what `fourmill generate` writes."""
    try:
        about = read_json(storage.join(folder, "samples.json"))
    except ValueError:
        return False
    return isinstance(about.get("samples"), list) and {"inputs", "steps"} <= about.keys()


def inspect_generated(path: str, folder: str, row: int) -> Inspection:
    """Facts of one generated chain: its condition, its steps, and one sample with its texts and pictures."""
    from ...pipelines import images
    from ...pipelines.reject import Reject

    about = read_json(storage.join(folder, "samples.json"))
    samples = about["samples"]
    check_row(row, len(samples))
    steps = about.get("steps") or []
    inspection = Inspection(
        {
            "path": path,
            "kind": "generated chain",
            "inputs": about.get("inputs"),
            "rows": len(samples),
            "steps": [{n: v for n, v in step.items() if v is not None} for step in steps],
            "sample": _generated_sample(samples[row], row) if samples else None,
        }
    )
    for step in steps if samples else ():
        url = storage.join(folder, str(step.get("target")), f"{row:04d}.png")
        if step.get("target") in MODALITIES and storage.exists(url):
            try:
                picture = images.decode(storage.read_bytes(url), Images.model_fields["max_pixels"].default)
                inspection.pictures.append((f"{step['target']}, generated", picture))
            except Reject as error:
                inspection.facts["sample"][f"{step['target']}_picture"] = str(error)
    return inspection


def _generated_sample(sample: dict[str, Any], row: int) -> dict[str, Any]:
    """A sample of samples.json; its row in the shard makes room for its row here."""
    rest = {name: value for name, value in sample.items() if name not in ("row", "key", "shard")}
    place = {"key": sample.get("key"), "shard": sample.get("shard"), "row_in_shard": sample.get("row")}
    return {"row": row, **place, **rest}


def inspect_recipe(path: str, url: str) -> Inspection:
    """Facts of a recipe: what it makes of what. RecipeError with a line for each mistake."""
    try:
        data = configuration.parse_yaml(storage.read_bytes(url))
    except yaml.YAMLError as error:
        raise ValueError(f"{path}: this is no YAML: {configuration.yaml_mistake(error)}") from None
    except UnicodeDecodeError as error:
        raise ValueError(f"{path}: this is no YAML: byte {error.start} is not UTF-8") from None
    recipe = parse(data, path, trusted=False)
    notes: list[str] = []
    if code := code_of(data):
        notes.append(f"it asks for code of its own ({', '.join(code)}), which was not run: --trust runs it")
    splits: dict[str, list[str]] = {}
    try:
        splits = plans.list_shards(recipe.samples).splits
    except (ValueError, OSError) as error:
        notes.append(str(error))
    facts = {
        "path": path,
        "kind": "recipe",
        "root": recipe.root,
        "seed": recipe.seed,
        "shards": {split: len(names) for split, names in splits.items()},
        "image_size": recipe.images.size,
        "crops": recipe.images.crops,
        "labels_kept": list(recipe.labels.keep),
        "chains": [f"{', '.join(c.inputs)} -> {', '.join(s.target for s in c.to)}" for c in recipe.generate.chains],
        "notes": notes,
        "modalities": [
            {
                "modality": spec.name,
                "kind": spec.kind.value,
                "label": MODALITIES[spec.name].label,
                "vocab_size": spec.vocab_size,
                "max_tokens": spec.max_tokens,
                "patch_size": recipe.patch_size(spec.name) if MODALITIES[spec.name].patch_size else None,
            }
            for spec in recipe.specs()
        ],
        "samples": recipe.samples.model_dump(mode="json"),
        "train": {**recipe.train.model_dump(mode="json", exclude={"mixtures", "model"})},
        "model": recipe.train.model.model_dump(mode="json"),
        "sample": None,
    }
    return Inspection(facts)


def run_rows(folder: str) -> list[dict[str, Any]]:
    """A row for each run below ROOT/runs, NAME/FINGERPRINT."""
    rows = []
    for name in storage.list_names(folder):
        for print_ in storage.list_names(storage.join(folder, name)):
            facts = inspect_run("", storage.join(folder, name, print_)).facts
            losses: dict[str, Any] = next((row for row in facts["losses"] if row["metric"] == "loss"), {})
            rows.append(
                {
                    "run": name,
                    "fingerprint": print_,
                    "finished": facts["finished"],
                    "steps": facts["steps"],
                    "loss": losses.get("last"),
                    "loss_val": losses.get("last_val"),
                    "checkpoints": len(facts["checkpoints"]),
                    "history": losses.get("history", []),
                }
            )
    return rows
