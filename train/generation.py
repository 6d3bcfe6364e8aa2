"""The generation stage: chains of the recipe on validation samples, as columns, pictures and text.

RUN/generated/FINGERPRINT/chain-0/{samples.json, MODALITY.parquet, MODALITY/0000.png}
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from ..infra import ledger, storage
from ..infra.progress import Progress
from ..modalities import Kind, ModalitySpec
from ..model.fourm import FourM
from ..model.generate import Step, generate
from ..model.known import SpecialIds
from ..recipe import Chain, Recipe
from ..recipe import Step as StepRecipe
from ..tokenize import codecs, store
from .groups import Shard
from .loader import decode_patches


@dataclass(frozen=True)
class GenerateJob:
    """Chains to generate with the model of one run, conditioned on samples of a split (name -> shards): in order, the
    first that have every input of a chain."""

    recipe: Recipe
    run: str
    fingerprint: str
    specs: tuple[ModalitySpec, ...]
    splits: dict[str, tuple[Shard, ...]]
    options: codecs.Options
    special: SpecialIds

    @property
    def folder(self) -> str:
        return storage.join(self.run, "generated", self.fingerprint)


def run(job: GenerateJob, load_model: Callable[[str, str], FourM]) -> None:
    """Generate every chain of the recipe and commit the result."""
    start = time.monotonic()
    device = "cuda" if torch.cuda.is_available() else "cpu"
    model = load_model(job.run, device)
    steps = sum(len(chain.to) for chain in job.recipe.generate.chains)
    size = 0
    with Progress("generate", steps, "modalities") as progress:
        for number, chain in enumerate(job.recipe.generate.chains):
            files = _generate_chain(job, model, chain)
            for name, data in files.items():
                size += len(data)
                storage.put(storage.join(job.folder, f"chain-{number}", name), data)
            progress.update(len(chain.to))
    record = ledger.Record(
        output=f"generated/{job.recipe.train.name}",
        shard=job.fingerprint,
        fingerprint=job.fingerprint,
        source=ledger.Source(0, "", ""),
        rows=job.recipe.generate.samples,
        nulls=0,
        rejects=[],
        bytes=size,
        sha256="",
        seconds=round(time.monotonic() - start, 3),
        identity={"run": job.run, "generate": job.recipe.generate.model_dump(mode="json")},
    )
    storage.put(ledger.record_url(job.recipe.root, record.output, record.shard), ledger.dumps(record))


def model_step(step: StepRecipe, spec: ModalitySpec) -> Step:
    """A step of a recipe with what it leaves open: MaskGIT for grids, autoregressive for text."""
    grid = spec.kind is Kind.GRID
    return Step(
        step.target,
        step.scheme or ("maskgit" if grid else "autoregressive"),
        steps=min(step.steps, spec.max_tokens) if grid else 1,
        temperature=step.temperature,
        temperature_schedule=step.temperature_schedule,
        schedule=step.schedule,
        top_k=step.top_k or 0,
        top_p=step.top_p or 1.0,
        guidance=step.guidance,
        max_tokens=step.max_tokens or 0,
    )


def conditions(
    job: GenerateJob, inputs: Sequence[str], split: str
) -> tuple[list[tuple[str, str, int]], dict[str, Any]]:
    """The first samples that have all inputs: (shard, key, row) of each, and what `generate` takes for them.

    ValueError if there is none.
    """
    specs = {spec.name: spec for spec in job.specs}
    chosen: list[tuple[str, str, int]] = []
    given: dict[str, list[Any]] = {name: [] for name in inputs}
    for shard in job.splits.get(split) or job.splits["train"]:
        readers = {
            name: store.ColumnReader(storage.join(job.recipe.root, "tokens", name, f"{shard.name}.parquet"))
            for name in inputs
        }
        groups = next(iter(readers.values())).row_group_sizes()
        for group, first in enumerate(np.cumsum([0, *groups])[:-1].tolist()):
            columns = {name: reader.read([group]) for name, reader in readers.items()}
            whole = np.logical_and.reduce([column.valid for column in columns.values()])
            for row in np.flatnonzero(whole).tolist():
                chosen.append((shard.name, columns[inputs[0]].keys[row].as_py(), first + row))
                for name, column in columns.items():
                    given[name].append(_condition(specs[name], column.crop(row, 0)))
                if len(chosen) == job.recipe.generate.samples:
                    return chosen, _stacked(specs, given)
    if not chosen:
        raise ValueError(f"generate: no sample has all of {', '.join(inputs)}; see `fourmill status`")
    return chosen, _stacked(specs, given)


def _stacked(specs: dict[str, ModalitySpec], given: dict[str, list[Any]]) -> dict[str, Any]:
    dense = (Kind.GRID, Kind.PIXELS)
    return {name: np.stack(values) if specs[name].kind in dense else values for name, values in given.items()}


def _condition(spec: ModalitySpec, tokens: np.ndarray) -> Any:
    if spec.kind is Kind.PIXELS:
        return decode_patches(tokens, spec)
    return tokens.astype(np.int64).tolist() if spec.kind is Kind.SEQUENCE else tokens.astype(np.int64)


def _generate_chain(job: GenerateJob, model: FourM, chain: Chain) -> dict[str, bytes]:
    """The files of one chain: samples.json, a column for each target, a picture for each generated grid."""
    specs = {spec.name: spec for spec in job.specs}
    chosen, given = conditions(job, chain.inputs, chain.split)
    steps = [model_step(step, specs[step.target]) for step in chain.to]
    made = generate(model, given, steps, seed=job.recipe.generate.seed, special=job.special)
    samples: list[dict[str, Any]] = [{"shard": shard, "key": key, "row": row} for shard, key, row in chosen]
    files = {}
    for name, tokens in made.items():
        spec = specs[name]
        codec = codecs.load(spec, job.options, job.recipe.root, str(model.device))
        rows: list[Any] = list(tokens)
        if spec.kind is Kind.GRID:
            assert isinstance(codec, codecs.Grid)
            for index, picture in enumerate(codec.decode_many(np.stack(rows))):
                files[f"{name}/{index:04d}.png"] = _png(picture)
            rows = [row[None] for row in rows]
        else:
            for sample, ids in zip(samples, rows, strict=True):
                value = codec.decode(ids)
                sample[name] = value
            rows = [[np.array([*ids, job.special.eos][: spec.max_tokens], np.uint16)] for ids in rows]
        column = store.ColumnSpec(name, spec.kind, 1, spec.max_tokens, spec.vocab_size)
        files[f"{name}.parquet"] = store.encode_column(column, [key for _, key, _ in chosen], rows)
    text = {"inputs": chain.inputs, "steps": [step.model_dump(mode="json") for step in chain.to], "samples": samples}
    files["samples.json"] = (json.dumps(text, indent=1, ensure_ascii=False) + "\n").encode()
    return files


def _png(picture: np.ndarray) -> bytes:
    import cv2

    pixels = picture if picture.ndim == 2 else cv2.cvtColor(picture, cv2.COLOR_RGB2BGR)
    done, data = cv2.imencode(".png", pixels)
    assert done
    return bytes(data.tobytes())
