"""The plan: what a recipe asks for, what of it exists already, and what is left to do, shard by shard.

Everything an output depends on is hashed into its fingerprint: changing one option changes the fingerprints of
exactly the outputs that depend on it, and nothing else is done again.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any

from ..infra import ledger, storage
from ..infra.fingerprint import fingerprint
from ..infra.ledger import SAMPLES
from ..modalities import MODALITIES, TEXT, Kind, ModalitySpec
from ..recipe import Recipe, RecipeError
from ..tokenize import store
from ..tokenize.codecs import CODEC_VERSION
from . import source
from .specialists import registry
from .specialists.base import Specialist
from .specialists.pretrained import Pretrained

SPLITS = ("train", "val")
SEEDED = ("palette", "metadata")  # codecs without crops that draw at random


@dataclass(frozen=True)
class Output:
    """One output of every shard: "samples", "labels/LABEL" or "tokens/MODALITY"."""

    name: str
    label: str
    fingerprint: str
    identity: dict[str, Any] = field(default_factory=dict, hash=False)
    spec: ModalitySpec | None = None  # of tokens
    tokenizers: dict[str, str] = field(default_factory=dict, hash=False)  # that it needs: name -> fingerprint


@dataclass(frozen=True)
class ShardTask:
    """One shard and the outputs it still lacks; `stored` are labels that can be read instead of made."""

    shard: str
    url: str
    version: str  # of the shard on storage
    outputs: tuple[str, ...]
    stored: tuple[str, ...] = ()


@dataclass
class Plan:
    """What is asked for and what is left.

    shards: name -> URL, in the recipe's order. splits: name of the split -> names of its shards.
    tasks: one for every shard that is there, with the outputs it lacks, often none.
    done: records of what exists, by (output, shard). absent: shard -> why it cannot be read.
    """

    outputs: dict[str, Output]
    shards: dict[str, str]
    splits: dict[str, list[str]]
    tasks: dict[str, ShardTask] = field(default_factory=dict)
    done: dict[tuple[str, str], ledger.Record] = field(default_factory=dict)
    absent: dict[str, str] = field(default_factory=dict)

    @property
    def missing(self) -> list[ShardTask]:
        """Shards that lack something."""
        return [task for task in self.tasks.values() if task.outputs]


def shards(recipe: Recipe) -> tuple[dict[str, str], dict[str, list[str]]]:
    """(name -> URL of every shard, split -> names). RecipeError if a pattern matches nothing or names collide."""
    try:
        asked = {split: getattr(recipe.samples, split) for split in SPLITS}
        urls = {split: source.expand(spec) for split, spec in asked.items() if spec}
        twice = sorted(set(urls.get("train", [])) & set(urls.get("val", [])))
        if twice:
            raise ValueError(f"{twice[0]} is in the training and in the validation split")
        names = source.shard_names([url for split in urls.values() for url in split])
        urls = {split: list(dict.fromkeys(found)) for split, found in urls.items()}
    except ValueError as error:
        raise RecipeError(f"samples: {error}") from None
    by_url = {url: name for name, url in names.items()}
    return names, {split: [by_url[url] for url in urls.get(split, [])] for split in SPLITS}


def label_outputs(recipe: Recipe, specialists: dict[str, Specialist]) -> dict[str, Output]:
    """The kept labels, and with them the record of each shard's samples."""
    prints = label_fingerprints(recipe, specialists)
    outputs = {SAMPLES: Output(SAMPLES, "", fingerprint("samples", source.VERSION))}
    for label in recipe.labels.keep:
        identity = specialists[label].identity() if label in specialists else {"specialist": registry.SOURCE}
        name = f"labels/{label}"
        outputs[name] = Output(name, label, fingerprint("label", prints[label]), identity)
    return outputs


@dataclass(frozen=True)
class Fitted:
    """A fitted tokenizer: the fingerprint of its contents, its vocabulary, and how good it is."""

    fingerprint: str
    vocab_size: int
    quality: dict[str, float] = field(default_factory=dict, hash=False)


def token_outputs(
    recipe: Recipe, specialists: dict[str, Specialist], tokenizers: dict[str, Fitted]
) -> dict[str, Output]:
    """One column for each modality.

    Args:
        tokenizers: those that are fitted, by name; RecipeError if one is missing.
    """
    prints = label_fingerprints(recipe, specialists)
    outputs = {}
    text = tokenizers.get(TEXT)
    for spec in recipe.specs(text.vocab_size if text else 0):
        modality = MODALITIES[spec.name]
        for tokenizer in modality.tokenizers:
            if tokenizer not in tokenizers:
                raise RecipeError(f"{spec.name}: its tokenizer {tokenizer} is not fitted yet; run `fourmill fit` first")
        contents = {tokenizer: tokenizers[tokenizer].fingerprint for tokenizer in modality.tokenizers}
        identity: dict[str, Any] = {
            "codec": modality.codec,
            "version": CODEC_VERSION,
            "format": store.VERSION,
            "tokenizers": contents,
            "max_tokens": 0 if spec.kind is Kind.PIXELS else spec.max_tokens,  # patches are cut by the loader
        }
        if modality.spatial or modality.codec in SEEDED:
            identity["seed"] = recipe.seed
        if modality.spatial:
            # The first crop is the centre one, whatever the others are like.
            fields = {"size", "crops"} if recipe.images.crops == 1 else {"size", "crops", "crop_scale", "hflip"}
            identity["crops"] = recipe.images.model_dump(include=fields)
        if modality.codec == "boxes":
            identity["min_box_score"] = recipe.tokenizers.min_box_score
        if spec.kind is Kind.PIXELS:
            identity["pixels"] = recipe.images.model_dump(include={"pixel_format", "jpeg_quality"})
        name = f"tokens/{spec.name}"
        print_ = fingerprint("tokens", prints[modality.label], identity)
        outputs[name] = Output(name, modality.label, print_, identity, spec, contents)
    return outputs


def label_fingerprints(recipe: Recipe, specialists: dict[str, Specialist]) -> dict[str, str]:
    """Fingerprint of each label: how images are read, its specialist, and the labels that it needs."""
    image = fingerprint("source", source.VERSION, recipe.images.max_pixels)
    text = fingerprint("source", source.VERSION)
    prints = {"rgb": image}
    for label, specialist in specialists.items():
        needs = {need: prints[need] for need in (*specialist.needs, *specialist.looks_at()) if need in prints}
        prints[label] = fingerprint(image if specialist.sees_image else text, specialist.fingerprint_parts(), needs)
    return prints


def sources(specialists: Mapping[str, Specialist], labels: Iterable[str], stored: Collection[str] = ()) -> set[str]:
    """These labels with all that they need or use, less what stored labels spare."""
    needed: set[str] = set()
    stack = list(labels)
    while stack:
        label = stack.pop()
        if label not in needed:
            needed.add(label)
            if label in specialists and label not in stored:
                specialist = specialists[label]
                stack += [*specialist.needs, *(used for used in specialist.looks_at() if used in specialists)]
    return needed


def deferred(recipe: Recipe, specialists: Mapping[str, Specialist]) -> set[str]:
    """Kept labels that are better made while tokenizing: what they come from has weights, is not kept, and is needed
    for the columns as well, so that it would be made twice (metadata of segmentation, depth, ...)."""
    kept = set(recipe.labels.keep)
    columns = sources(specialists, (MODALITIES[name].label for name in recipe.modalities), kept)
    again = {label for label in columns - kept if isinstance(specialists.get(label), Pretrained)}
    return {label for label in kept if again & (sources(specialists, [label], kept - {label}) - {label})}


def working(
    specialists: Mapping[str, Specialist], outputs: Mapping[str, Output], tasks: Sequence[ShardTask]
) -> tuple[dict[str, Specialist], dict[str, Output]]:
    """The specialists and outputs that some task has work for: no others need to be loaded."""
    busy: set[str] = set()
    for names, stored in {(task.outputs, task.stored) for task in tasks}:
        labels = [outputs[name].label for name in names if outputs[name].label]
        busy |= sources(specialists, labels, stored) - set(stored)
    lacking = {name for task in tasks for name in task.outputs}
    return (
        {label: specialist for label, specialist in specialists.items() if label in busy},
        {name: output for name, output in outputs.items() if name in lacking},
    )


def make(recipe: Recipe, outputs: dict[str, Output], stored_labels: dict[str, Output] | None = None) -> Plan:
    """Compare what is asked for with the ledger.

    Args:
        outputs: what is asked for, by name.
        stored_labels: kept label outputs that a task may read instead of making the label again.
    """
    names, splits = shards(recipe)
    stored_labels = stored_labels or {}
    asked = {**outputs, **stored_labels}
    records = ledger.read_many(recipe.root, list(asked), list(names))
    with ThreadPoolExecutor(16) as pool:
        stats = dict(zip(names, pool.map(_stat, names.values()), strict=True))
        current = dict(zip(names, pool.map(lambda n: _current(n, names, stats, asked, records), names), strict=True))
    plan = Plan(outputs, names, splits)
    for name, url in names.items():
        stat = stats[name]
        if isinstance(stat, str):
            plan.absent[name] = stat
            continue
        good = current[name]
        plan.done.update({(output, name): records[output, name] for output in good if output in outputs})
        missing = tuple(output for output in outputs if output not in good)
        stored = tuple(o.label for key, o in stored_labels.items() if key in good)
        plan.tasks[name] = ShardTask(name, url, stat.version, missing, stored)
    return plan


def _stat(url: str) -> storage.Stat | str:
    try:
        stat = storage.stat(url)
    except Exception as error:  # credentials, network, permissions: the sentence goes into the closing table
        return f"cannot look at {url}: {error}"
    return stat if stat is not None else f"there is no shard at {url}"


def _current(
    shard: str,
    urls: dict[str, str],
    stats: dict[str, storage.Stat | str],
    outputs: dict[str, Output],
    records: dict[tuple[str, str], ledger.Record],
) -> Sequence[str]:
    """Outputs of one shard whose record matches the recipe and the shard as it is now."""
    stat = stats[shard]
    if isinstance(stat, str):
        return ()
    good, digest = [], ""
    for name, output in outputs.items():
        record = records.get((name, shard))
        if record is None or record.fingerprint != output.fingerprint or record.source.size != stat.size:
            continue
        if record.source.version != stat.version:
            # Copied or touched: the version changed; only the bytes can say whether the shard did.
            digest = digest or storage.sha256(urls[shard])
            if record.source.sha256 != digest:
                continue
        good.append(name)
    return good
