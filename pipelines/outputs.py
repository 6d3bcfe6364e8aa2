"""What a recipe asks for of every shard: labels and columns, each with its fingerprint and with what makes it.

Everything an output depends on is hashed into its fingerprint: changing one option changes the fingerprints of
exactly the outputs that depend on it, and nothing else is made again. Versions of code stand beside fingerprints and
not in them, see infra/versions.py.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from ..infra import versions
from ..infra.configuration import RecipeError
from ..infra.fingerprint import fingerprint
from ..infra.ledger import SAMPLES, Entry, Record
from ..infra.versions import Part
from ..modalities import MODALITIES, RASTER, Kind, ModalitySpec
from ..sensors.declared import SENSORS
from ..tokenize import codecs, store
from ..tokenize.settings import Precision
from . import source
from .borders import find as borders
from .settings import CROP_SETTINGS, Images
from .specialists import registry
from .specialists.base import Specialist
from .specialists.pretrained import Pretrained

SEEDED = ("palette", "metadata")  # codecs without crops that draw at random


@dataclass(frozen=True)
class Output:
    """One output of every shard: "samples", "labels/LABEL" or "tokens/MODALITY"; or a fit: "tokenizers/NAME".

    identity: what the fingerprint stands for, for people. parts: what makes it, with versions.
    imported: it was made elsewhere: only `fourmill import` writes it, whatever its samples are.
    former: a fingerprint that stands for the same, "" for none: the first release hashed versions of users' own code,
        and what a model predicts went without saying.
    """

    name: str
    label: str
    fingerprint: str
    identity: dict[str, Any] = field(default_factory=dict, hash=False)
    spec: ModalitySpec | None = None  # of tokens
    tokenizers: dict[str, str] = field(default_factory=dict, hash=False)  # that it needs: name -> fingerprint
    parts: tuple[Part, ...] = ()
    former: str = ""
    imported: bool = False

    @property
    def is_decodable(self) -> bool:
        """Whether all tokenizers of its tokens are known."""
        return self.spec is None or set(MODALITIES[self.spec.name].tokenizers) <= self.tokenizers.keys()

    def is_asked_for(self, recorded: str) -> bool:
        """Whether a record with this fingerprint holds the output."""
        return recorded in (self.fingerprint, self.former)

    def outdated(self, record: Record | Entry, pins: Mapping[str, int]) -> list[str] | None:
        """Why what a record stands for is out of date, [] if it is not; None if the record holds another output.

        Args:
            pins: versions that the recipe asks for, by part.
        """
        if record.fingerprint == self.fingerprint:
            return versions.outdated(self.parts, record.identity, pins)
        # The first release hashed versions of users' code: such a record is of the version that runs now.
        return [] if record.fingerprint == self.former else None


@dataclass(frozen=True)
class Fitted:
    """A fitted tokenizer: the fingerprint of its contents, its vocabulary, its quality, and why it is out of date."""

    fingerprint: str
    vocab_size: int
    quality: dict[str, float] = field(default_factory=dict, hash=False)
    outdated: tuple[str, ...] = ()


@dataclass(frozen=True)
class LabelPrints:
    """Fingerprints of labels: how images are read, the specialist, and the labels that it needs.

    current: of every label. former: as earlier releases hashed them, equal but for users' specialists of a version
    above 1, and for what is stated now and went without saying then. parts: the specialists that each label depends on,
    its own first.
    """

    current: dict[str, str]
    former: dict[str, str]
    parts: dict[str, tuple[Part, ...]]


def label_prints(
    images: Images,
    specialists: Mapping[str, Specialist],
    classes: Mapping[str, Sequence[str]] | None = None,
    every_key: bool = False,
    key: str = "",
) -> LabelPrints:
    """Fingerprints of every label of the specialists, and of the image itself ("rgb").

    Args:
        classes: the recipe's own lists of classes, by label; a label that has one is another label.
        every_key: every key of a tar is a sample, so that rows may be others. key: the column of keys.
    """
    trimmed = [{"trim_borders": borders.VERSION}] if images.trim_borders else []
    image = fingerprint("source", *_source(every_key, key), images.max_pixels, *trimmed)
    text = fingerprint("source", *_source(every_key, key))
    prints = LabelPrints({"rgb": image}, {"rgb": image}, {"rgb": ()})
    for label, specialist in specialists.items():
        needs = [need for need in (*specialist.needs, *specialist.looks_at()) if need in prints.current]
        reads = image if specialist.sees_image or (trimmed and specialist.in_frame) else text
        for table, version, hashed in (
            (prints.current, specialist.first_version, specialist.fingerprint_parts()),
            (prints.former, specialist.version, specialist.former_parts()),
        ):
            if not specialist.is_registered():  # ours changed no version without its first one being kept here
                hashed |= {"version": version}
            if classes and label in classes:
                hashed |= {"classes": list(classes[label])}
            table[label] = fingerprint(reads, hashed, {need: table[need] for need in needs})
        part = specialist.part()
        parts = [part, *(p for need in needs for p in prints.parts[need])]
        prints.parts[label] = tuple(dict.fromkeys(parts))
    return prints


def _source(every_key: bool, key: str) -> list[Any]:
    """What says which samples a shard has."""
    return [source.VERSION, *(["every key"] if every_key else []), *([{"key": key}] if key else [])]


def label_outputs(
    keep: Sequence[str],
    specialists: Mapping[str, Specialist],
    prints: LabelPrints,
    classes: Mapping[str, Sequence[str]] | None = None,
    every_key: bool = False,
    key: str = "",
) -> dict[str, Output]:
    """The kept labels, and with them the record of each shard's samples.

    Args:
        classes: as in `label_prints`; records name them. every_key, key: as in `label_prints`.
    """
    outputs = {SAMPLES: Output(SAMPLES, "", fingerprint("samples", *_source(every_key, key)))}
    for label in keep:
        identity = specialists[label].identity() if label in specialists else {"specialist": registry.SOURCE}
        if classes and label in classes:
            identity |= {"classes": list(classes[label])}
        name = f"labels/{label}"
        outputs[name] = Output(
            name,
            label,
            fingerprint("label", prints.current[label]),
            identity,
            parts=prints.parts[label],
            former=fingerprint("label", prints.former[label]),
        )
    return outputs


def imported_labels(imported: Collection[str], alone: bool) -> dict[str, Output]:
    """What an import commits besides columns: the crops, if they are known, and the list of samples.

    Args:
        alone: whether nothing is made from samples, so that nothing else says which samples there are.
    """
    outputs = {}
    if alone:
        outputs[SAMPLES] = Output(SAMPLES, "", fingerprint("imported", SAMPLES), imported=True)
    if CROP_SETTINGS in imported:
        name = f"labels/{CROP_SETTINGS}"
        outputs[name] = Output(name, CROP_SETTINGS, fingerprint("imported", name), imported=True)
    return outputs


def imported_tokens(specs: Sequence[ModalitySpec], tokenizers: Mapping[str, Fitted]) -> dict[str, Output]:
    """The columns that were made elsewhere. They are asked for by their sizes alone: what made them is what their
    records say, and the tokenizers that the recipe names, if it does."""
    outputs = {}
    for spec in specs:
        known = {name: tokenizers[name].fingerprint for name in MODALITIES[spec.name].tokenizers if name in tokenizers}
        identity: dict[str, Any] = {"format": store.VERSION, "tokenizers": known}
        name = f"tokens/{spec.name}"
        label = MODALITIES[spec.name].label
        print_ = fingerprint("imported", name, spec.plain())
        outputs[name] = Output(name, label, print_, identity, spec, known, imported=True)
    return outputs


@dataclass(frozen=True)
class TokenOptions:
    """What the recipe says about tokens beyond the sizes of modalities."""

    seed: int
    images: Images
    min_box_score: float
    precisions: Mapping[str, Precision] = field(default_factory=dict)  # in which tokenizers encode, by name


def token_outputs(
    specs: Sequence[ModalitySpec], options: TokenOptions, prints: LabelPrints, tokenizers: Mapping[str, Fitted]
) -> dict[str, Output]:
    """One column for each modality.

    Args:
        specs: with the vocabulary of the fitted text tokenizer.
        tokenizers: those that are fitted, by name; RecipeError if one is missing.
    """
    outputs = {}
    for spec in specs:
        modality = MODALITIES[spec.name]
        for tokenizer in modality.tokenizers:
            if tokenizer not in tokenizers:
                raise RecipeError(f"{spec.name}: its tokenizer {tokenizer} is not fitted yet; run `fourmill fit` first")
        contents = {tokenizer: tokenizers[tokenizer].fingerprint for tokenizer in modality.tokenizers}
        part = codecs.part(modality.codec)
        identity: dict[str, Any] = {
            "codec": modality.codec,
            "version": part.first,
            "format": store.VERSION,
            "tokenizers": contents,
            "max_tokens": 0 if spec.kind is Kind.PIXELS else spec.max_tokens,  # patches are cut by the loader
        }
        if modality.spatial or modality.codec in SEEDED:
            identity["seed"] = options.seed
        if modality.spatial:
            # The first crop is the centre one, whatever the others are like.
            fields = {"size", "crops"} if options.images.crops == 1 else {"size", "crops", "crop_scale", "hflip"}
            identity["crops"] = options.images.model_dump(include=fields)
        if modality.label in SENSORS and modality.image_size:
            size = modality.image_size
            identity["size"] = list(size) if isinstance(size, tuple) else size
        asked = {name: options.precisions[name].asked for name in contents if name in options.precisions}
        if asked := {name: one for name, one in asked.items() if one != "auto"}:
            identity["encoding"] = asked
        if modality.codec == "boxes":
            identity["min_box_score"] = options.min_box_score
        if spec.kind is Kind.PIXELS and modality.codec != RASTER:
            identity["pixels"] = options.images.model_dump(include={"pixel_format", "jpeg_quality"})
        name = f"tokens/{spec.name}"
        outputs[name] = Output(
            name,
            modality.label,
            fingerprint("tokens", prints.current[modality.label], identity),
            identity,
            spec,
            contents,
            (*prints.parts[modality.label], part),
            fingerprint("tokens", prints.former[modality.label], identity),
        )
    return outputs


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


def deferred(keep: Collection[str], modalities: Iterable[str], specialists: Mapping[str, Specialist]) -> set[str]:
    """Kept labels that are better made while tokenizing: what they come from has weights, is not kept, and is needed
    for the columns as well, so that it would be made twice (metadata of segmentation, depth, ...)."""
    kept = set(keep)
    columns = sources(specialists, (MODALITIES[name].label for name in modalities), kept)
    again = {label for label in columns - kept if isinstance(specialists.get(label), Pretrained)}
    return {label for label in kept if again & (sources(specialists, [label], kept - {label}) - {label})}
