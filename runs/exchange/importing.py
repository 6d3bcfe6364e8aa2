"""An import: the recipe of its root, the tokenizers that it names, and then shard by shard the columns."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator
from typing import TYPE_CHECKING, Any

from ...infra import configuration, storage
from ...infra.ledger import SAMPLES
from ...infra.progress import Progress
from ...modalities import BODY_POSE, MODALITIES, Kind
from ...pipelines.exchange import bring as exchange
from ...pipelines.exchange import layout, poses
from ...pipelines.exchange.bring import CROP_SETTINGS, Outcome, Shard, Target
from ...pipelines.patterns import braces, literal, spelled
from ...pipelines.settings import Images
from ...recipe import RecipeError
from ...tokenize import codecs
from .shape import Found

if TYPE_CHECKING:
    from ...project import Project

_NUMBERED = re.compile(r"(.*?)(\d+)")


def url(root: str) -> str:
    return storage.join(root, "recipe.yaml")


def recipe(root: str, found: Found, overrides: list[str]) -> dict[str, Any]:
    """The recipe of the root: that of earlier imports, and what is found now.

    Args:
        overrides: of the form "a.b=value".

    RecipeError if the root is of another recipe, or texts are there and no vocabulary.
    """
    root = storage.absolute(root)
    before = _before(root)
    names = list(dict.fromkeys([*before.get("modalities", []), *found.folders]))
    brought = [*found.folders, *([layout.CROPS] if found.has_settings else [])]
    data = before | {
        "root": root,
        "samples": _samples(before.get("samples", {}), found),
        "modalities": names,
        "imported": list(dict.fromkeys([*before.get("imported", []), *brought])),
    }
    if not before:
        data |= {"images": {"crops": found.crops} | ({"size": found.image_size} if found.image_size else {})}
        data |= {"generate": {"chains": []}}
    if found.embedding_dim:
        tokenizers = dict(data.get("tokenizers") or {})
        data["tokenizers"] = {"embedding_dim": found.embedding_dim} | tokenizers
    configuration.override(data, overrides)
    _check_sizes(data.get("images") or {}, found, root if before else "")
    text = (data.get("tokenizers") or {}).get("text") or {}
    texts = [name for name in names if MODALITIES[name].kind is Kind.SEQUENCE]
    if texts and not text.get("weights"):
        raise RecipeError(
            f"{', '.join(texts)}: texts become tokens by a vocabulary; name it by --set tokenizers.text.weights=FILE "
            "(of ml-4m: text_tokenizer_4m_wordpiece_30k.json), or leave them out with --modalities"
        )
    return data


def _check_sizes(images: dict[str, Any], found: Found, root: str) -> None:
    """RecipeError if columns of one root would be of different crops, or crops of different sizes."""
    there = {"crops": images.get("crops", Images().crops), "size": images.get("size", Images().size)}
    now = {"crops": found.crops, "size": found.image_size or there["size"]}
    for name, value in there.items():
        if now[name] != value:
            where = f"the columns of {root} have" if root else "the recipe says"
            raise RecipeError(
                f"images.{name}: {where} {value}, these tokens {now[name]}; import them into another root"
            )


def _before(root: str) -> dict[str, Any]:
    """The recipe of earlier imports, {} of a new root."""
    if not storage.exists(url(root)):
        return {}
    data = configuration.parse_yaml(storage.read_bytes(url(root)))
    if not isinstance(data, dict) or not data.get("imported"):
        raise RecipeError(
            f"{root} is the root of a recipe that makes its tokens; import into a root of its own, and train on both "
            "by `train.datasets`"
        )
    return data


def _samples(before: dict[str, Any], found: Found) -> dict[str, list[str]]:
    samples = {split: list(before.get(split) or []) for split in layout.SPLITS}
    for split in found.layouts:
        known = {spelled(one) or one for pattern in samples[split] for one in braces(pattern)}
        samples[split] += patterns(set(_places(found, split, known).values()) - known)
    return samples


def _places(found: Found, split: str, known: Collection[str]) -> dict[str, str]:
    """Shard -> the URL that it is named by: of the images, which other labels can be made from, or else a tar in the
    folder of the split, which is not there.

    Args:
        known: URLs of earlier imports, which keep their names.
    """
    one = found.layouts[split]
    pictures = {name: part.url for name, part in one.shards.get(layout.IMAGES, {}).items() if part.is_tar}
    places = {}
    for name in found.reference(split):
        plain = storage.absolute(storage.join(one.url, name + layout.TAR))
        picture = storage.absolute(pictures[name]) if name in pictures else plain
        places[name] = plain if plain in known else picture
    return places


def patterns(urls: Any) -> list[str]:
    """URLs that are numbered through as brace patterns; signs of patterns in them are parts of names."""
    runs: list[list[str]] = []
    for one in sorted(urls):
        runs[-1].append(one) if runs and _follows(runs[-1][-1], one) else runs.append([one])
    return [_pattern(run[0], run[-1]) for run in runs]


def _parts_of(one: str) -> tuple[str, str] | None:
    match = _NUMBERED.fullmatch(one.removesuffix(layout.TAR))
    return (match[1], match[2]) if match else None


def _follows(first: str, second: str) -> bool:
    a, b = _parts_of(first), _parts_of(second)
    return bool(a and b) and a[0] == b[0] and len(a[1]) == len(b[1]) and int(b[1]) == int(a[1]) + 1  # type: ignore[index]


def _pattern(first: str, last: str) -> str:
    a, b = _parts_of(first), _parts_of(last)
    if first == last or a is None or b is None:
        return literal(first)
    return f"{literal(a[0])}{{{a[1]}..{b[1]}}}{layout.TAR}"


def bring(project: Project, found: Found) -> Iterator[Outcome]:
    """Import what is missing, one shard after the other."""
    names = {place: name for name, place in project.shards.urls.items()}
    known = set(names)
    targets = _targets(project, found)
    shards = [
        (split, key, names[place])
        for split in found.layouts
        for key, place in _places(found, split, known).items()
        if place in names
    ]
    with Progress("import", len(shards), "shards") as progress:
        for split, key, name in shards:
            parts = found.layouts[split].shards
            one = Shard(
                name,
                {folder: of[key] for folder, of in parts.items() if key in of},
                found.reference(split)[key],
                found.crops,
            )
            outcome = exchange.shard(project.root, targets, project.label_outputs[SAMPLES], one)
            outcome.missing = {f"shard {name}: {output}": why for output, why in outcome.missing.items()}
            progress.update(1)
            yield outcome


def _targets(project: Project, found: Found) -> list[Target]:
    """The outputs of a shard: crop settings first, since pictures are cut by them."""
    targets = []
    if found.has_settings:
        targets.append(Target(project.label_outputs[CROP_SETTINGS], layout.CROPS))
    options = project.codec_options()
    for name, folder in found.folders.items():
        output = project.token_outputs[f"tokens/{name}"]
        codec: codecs.Codec | None = None
        if output.spec is not None and MODALITIES[name].codec == poses.GivenPoses.name:
            # The ids are given: only mirrored bodies need a tokenizer.
            fitted = codecs.load_fitted(project.root, BODY_POSE) if BODY_POSE in project.fitted else None
            codec = poses.GivenPoses(output.spec, options, codecs.load_text(project.root), fitted)
        elif output.spec is not None and output.spec.kind is not Kind.GRID:
            codec = codecs.load(output.spec, options, project.root)
        targets.append(Target(output, folder, codec))
    return targets
