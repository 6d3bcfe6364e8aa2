"""The generation stage: chains of the recipe on validation samples, as columns, pictures and text.

RUN/generated/FINGERPRINT/chain-0/{samples.json, MODALITY.parquet, MODALITY/0000.png}

Decoded grids are written in the format of stored labels: pictures and class maps as PNG, maps of numbers as .npy. With
an ensemble they are the average of its members, and of sensors there is how much these differ as well; columns and
texts are those of the first member. Maps of samples whose place is known are GeoTIFF or FITS, too (pipelines/geo/maps).
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch

from ...infra import ledger, storage
from ...infra.progress import Progress
from ...modalities import LABELS, MODALITIES, Kind, ModalitySpec, Storage
from ...model.fourm import FourM
from ...model.generation.generate import Step, generate
from ...model.generation.known import SpecialIds
from ...pipelines.geo import located, maps
from ...sensors.declared import SENSORS
from ...tokenize import codecs, store
from ...tokenize.labels import encode_cell
from ..cpu_memory import keep_freed_memory
from ..settings import in_bf16
from .ensemble import average
from .generation_job import GenerateJob
from .pool import HERE, ModelJob, ModelWorker, Where, make
from .samples import read
from .settings import Chain, ChainStep, Generate

LoadModel = Callable[[str, str, int | None], FourM]  # of the folder of a run, on a device, of a checkpoint
KEPT_MEMORY = 2**29  # bytes of freed memory that the process keeps: the activations of a step, on a CPU
MEMBER_STRIDE = 1 << 32  # between the sample ids of two members: no two draw the same random numbers


def run(job: GenerateJob, load_model: LoadModel, where: Where = HERE) -> None:
    """Generate every chain of the recipe and commit the result.

    Args:
        where: the cluster whose actors take a chain each, if there is one.
    """
    start, chains = time.monotonic(), job.settings.chains
    if where.is_cluster:
        make(ModelJob(job, job.run, where), Chains, {f"chain {n}": n for n in range(len(chains))}, "generate", "chains")
    else:
        device = "cuda" if torch.cuda.is_available() else "cpu"
        if device == "cpu":
            keep_freed_memory(KEPT_MEMORY)
        model = load_model(job.run, device, job.step)
        with Progress("generate", sum(len(chain.to) for chain in chains), "modalities") as progress:
            for number, chain in enumerate(chains):
                _put_chain(job, model, number)
                progress.update(len(chain.to))
    size = sum(storage.list_below(job.folder).values())
    record = ledger.Record(
        output=f"generated/{job.run_name}",
        shard=job.fingerprint,
        fingerprint=job.fingerprint,
        source=ledger.Source(0, "", ""),
        rows=job.settings.samples,
        nulls=0,
        rejects=[],
        bytes=size,
        sha256="",
        seconds=round(time.monotonic() - start, 3),
        identity={
            "run": job.run,
            **({} if job.step is None else {"step": job.step}),
            "generate": job.settings.model_dump(mode="json"),
        },
    )
    storage.put(ledger.record_url(job.root, record.output, record.shard), ledger.dumps(record))


class Chains(ModelWorker[GenerateJob, int, int]):
    """Generates chains, by their numbers."""

    def setup(self, device: str) -> None:
        from ..pretrain.weights import load_model

        self.model = load_model(self.of.run, device, self.of.step)

    def make(self, task: int) -> int:
        return _put_chain(self.of, self.model, task)


def _put_chain(job: GenerateJob, model: FourM, number: int) -> int:
    """Generate a chain and put its files, samples.json last; returns how many samples it has."""
    files = _generate_chain(job, model, job.settings.chains[number])
    for name, data in files.items():
        storage.put(storage.join(job.folder, f"chain-{number}", name), data)
    return len(json.loads(files["samples.json"])["samples"])


def special_ids(job: GenerateJob) -> SpecialIds:
    """The ids of the text tokenizer that generation must know."""
    return SpecialIds(first_sentinel=job.first_sentinel, num_sentinels=job.num_sentinels)


def members(
    settings: Generate,
    special: SpecialIds,
    model: FourM,
    given: dict[str, Any],
    steps: Sequence[Step],
    samples: Sequence[int],
    numbers: Sequence[int],
    done: Callable[[int], None] | None = None,
) -> list[dict[str, Any]]:
    """Several generations from the same conditions, the members `numbers`; 0 is the one that a single one would be.

    Args:
        given: modality -> one entry for each sample, see `generate`.
        samples: the id of each, below 2^32: its random numbers follow from it.
        done: is called after each batch with the number of its samples.
    """
    device = model.device.type
    narrow = in_bf16(settings.precision, device)
    generated = []
    for member in numbers:
        parts = []
        for i in range(0, len(samples), settings.batch_size):
            here = slice(i, i + settings.batch_size)
            ids = [member * MEMBER_STRIDE + sample for sample in samples[here]]
            some = {name: values[here] for name, values in given.items()}
            # Random numbers follow from seed and sample id: how samples are batched changes no token.
            with torch.autocast(device, torch.bfloat16, enabled=narrow):
                parts.append(generate(model, some, steps, seed=settings.seed, sample_ids=ids, special=special))
            if done is not None:
                done(len(ids))
        generated.append({name: _joined([part[name] for part in parts]) for name in parts[0]})
    return generated


def _joined(parts: Sequence[Any]) -> Any:
    return np.concatenate(parts) if isinstance(parts[0], np.ndarray) else [row for part in parts for row in part]


def model_step(step: ChainStep, spec: ModalitySpec) -> Step:
    """A step of a recipe with what it leaves open: MaskGIT for grids, autoregressive for text."""
    grid = spec.kind is Kind.GRID
    given = {"scheme": "maskgit" if grid else "autoregressive"} | step.model_dump(exclude_none=True)
    return Step(**given | {"steps": min(step.steps, spec.max_tokens) if grid else 1})


def conditions(
    job: GenerateJob, inputs: Sequence[str], split: str
) -> tuple[list[tuple[str, str, int]], dict[str, Any]]:
    """The first samples that have all inputs: (shard, key, row) of each, and what `generate` takes for them.

    ValueError if there is none.
    """
    specs = {spec.name: spec for spec in job.specs}
    shards = job.splits.get(split) or job.splits["train"]
    found = read(job.root, [specs[name] for name in inputs], shards, job.settings.samples, inputs)
    if not found.places:
        raise ValueError(f"generate: no sample has all of {', '.join(inputs)}; see `fourmill status`")
    return found.places, found.given(inputs)


def _generate_chain(job: GenerateJob, model: FourM, chain: Chain) -> dict[str, bytes]:
    """The files of one chain: samples.json, a column for each target, a picture for each generated grid."""
    specs = {spec.name: spec for spec in job.specs}
    chosen, given = conditions(job, chain.inputs, chain.split)
    steps = [model_step(step, specs[step.target]) for step in chain.to]
    everyone = members(job.settings, special_ids(job), model, given, steps, range(len(chosen)), range(chain.ensemble))
    first, *others = everyone
    # Only maps of sensors are written with a place: nothing else needs its shard again.
    mapped = [MODALITIES[name].label for name in first if MODALITIES[name].label in SENSORS]
    is_asked = any(LABELS[label].form in maps.MAPS for label in mapped)
    places = located.of_samples(job.places if is_asked else {}, chosen)
    samples: list[dict[str, Any]] = [{"shard": shard, "key": key, "row": row} for shard, key, row in chosen]
    files = {}
    for name, tokens in first.items():
        spec = specs[name]
        codec = codecs.load(spec, job.options, job.root, str(model.device))
        rows: list[Any] = list(tokens)
        if spec.kind is Kind.GRID:
            assert isinstance(codec, codecs.Grid)
            label = MODALITIES[name].label
            storage_of, classes = LABELS[label].storage, job.classes.get(label, ())
            suffix = "png" if storage_of is Storage.IMAGE else "npy"
            decoded = np.stack([codec.decode_many(np.asarray(member[name])) for member in (first, *others)])
            spread = maps.spread(label, decoded, len(classes))
            for index, value in enumerate(average(LABELS[label].form, decoded)):
                files[f"{name}/{index:04d}.{suffix}"] = _cell(storage_of, value)
                apart = None if spread is None else spread[index]
                for ending, data in maps.files(label, value, apart, places[index], classes).items():
                    files[f"{name}/{index:04d}.{ending}"] = data
            rows = [row[None] for row in rows]
        else:
            for sample, ids in zip(samples, rows, strict=True):
                value = codec.decode(ids)
                sample[name] = value
            # As the store has it: with the end token, unless the sequence fills the whole table.
            rows = [[np.array([*ids, special_ids(job).eos][: spec.max_tokens], np.uint16)] for ids in rows]
        column = store.ColumnSpec(name, spec.kind, 1, spec.max_tokens, spec.vocab_size, width=spec.columns)
        files[f"{name}.parquet"] = store.encode_column(column, [key for _, key, _ in chosen], rows)
    text = {"inputs": chain.inputs, "steps": [step.model_dump(mode="json") for step in chain.to], "samples": samples}
    files["samples.json"] = (json.dumps(text, indent=1, ensure_ascii=False) + "\n").encode()
    return files


def _cell(storage_of: Storage, value: np.ndarray) -> bytes:
    data = encode_cell(storage_of, value)
    assert isinstance(data, bytes)
    return data
