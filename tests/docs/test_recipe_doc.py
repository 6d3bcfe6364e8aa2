"""docs/recipe.md names every field of the recipe with its default, and none that does not exist."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from typing import Any, get_args

import pytest
import yaml
from pydantic import BaseModel
from pydantic_core import PydanticUndefined

from fourmill import recipe as recipes
from fourmill.modalities import MODALITIES, TEXT, Kind
from fourmill.pipelines.download.download import IN_RECORD
from fourmill.pipelines.download.settings import Download
from fourmill.pipelines.outputs import Fitted
from fourmill.project import Project
from fourmill.recipe import Recipe
from fourmill.tokenize.settings import OPERATIONS, TokenizerSettings
from fourmill.train import settings as train_settings

# A row of a table: | `a.b` | default | meaning | changes |
_ROW = re.compile(r"^\| `([\w.\[\]]+)` \| ([^|]*) \|.*\| ([^|]*) \|$", re.MULTILINE)

_KEYS = {"evaluate.truth": ".LABEL", "sensors": ".NAME"}  # mappings of sections, by a name of the user's
AS_OTHERS = ("train.datasets[].mixtures", "evaluate.chain")  # as train.mixtures and generate.chains[].to


def _model(annotation: Any) -> tuple[type[BaseModel] | None, bool]:
    """The section that a field holds, if any, and whether it holds a list of them."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation, False
    for inner in get_args(annotation):
        if (found := _model(inner)[0]) is not None:
            return found, getattr(annotation, "__origin__", None) is list
    return None, False


def _fields(model: type[BaseModel], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """(dotted name, default) of every field that is no section; lists of sections are written `chains[]`."""
    for name, field in model.model_fields.items():
        section, many = _model(field.annotation)
        if f"{prefix}{name}" == "tokenizers.common":
            section = TokenizerSettings  # kept as a mapping, so that `each` can override it field by field
        if prefix == "tokenizers.common." and name in ("weights", "revision", "mean", "std"):
            yield f"tokenizers.each.NAME.{name}", field.default  # of one tokenizer alone
        elif section is not None and f"{prefix}{name}" not in AS_OTHERS:
            of = "[]" if many else _KEYS.get(f"{prefix}{name}", "")
            yield from _fields(section, f"{prefix}{name}{of}.")
        else:
            yield f"{prefix}{field.alias or name}", field.get_default(call_default_factory=True)


FIELDS = dict(_fields(Recipe))


@pytest.fixture(scope="module")
def rows(guide: Callable[[str], Any]) -> dict[str, tuple[str, str]]:
    found = _ROW.findall(guide("recipe").text)
    names = [name for name, _, _ in found]
    assert len(set(names)) == len(names), "a field stands twice"
    return {name: (default.strip(), changes.strip()) for name, default, changes in found}


def test_every_field_is_documented_and_nothing_else(rows: dict[str, tuple[str, str]]) -> None:
    assert set(FIELDS) - set(rows) == set(), "fields that the guide does not name"
    assert set(rows) - set(FIELDS) == set(), "the guide names fields that do not exist"


def _plain(value: Any) -> Any:
    if isinstance(value, tuple | list):
        return [_plain(item) for item in value]
    return value.model_dump(mode="json") if isinstance(value, BaseModel) else value


@pytest.mark.parametrize("name", sorted(FIELDS))
def test_the_default_is_the_real_one(rows: dict[str, tuple[str, str]], name: str) -> None:
    written, default = rows[name][0], FIELDS[name]
    if default is PydanticUndefined:
        assert written == "needed"
        return
    match = re.fullmatch(r"`(.*)`", written)
    assert match, f"{name}: the default is code, got {written!r}"
    assert yaml.safe_load(match[1]) == _plain(default)


def test_the_last_column_says_what_is_made_again(rows: dict[str, tuple[str, str]]) -> None:
    """Fields of operation say "nothing", and only those."""
    operations = train_settings.OPERATIONS - {"name"}
    operation = {f for f in FIELDS if f.startswith("train.") and f.split(".")[1] in operations}
    operation |= {name for name in FIELDS if name.startswith(("engine.", "fit."))}
    operation |= {f"download.{name}" for name in Download.model_fields if name not in (*IN_RECORD, "table", "out")}
    operation |= {f"tokenizers.common.{name}" for name in OPERATIONS}
    assert {name for name, (_, changes) in rows.items() if changes == "nothing"} == operation


# Other values than the default, where adding one to a number or its opposite will not do.
CHANGED: dict[str, Any] = {
    "engine.weights": "s3://bucket/weights",
    "images.size": 256, "images.patch_size": 8, "images.pixel_format": "png", "engine.address": "auto",
    "tokenizers.common.codebook_size": 64, "tokenizers.common.patch_size": 8, "tokenizers.common.loss": "l1",
    "tokenizers.common.heads": 6, "tokenizers.common.dim": 384, "engine.actors": 2, "engine.cpus": 2, "engine.gpus": 1,
    "fit.cpus": 2, "fit.share": "batches", "tokenizers.common.unet_multipliers": [1, 2],
    "tokenizers.common.unet_channels": 32, "tokenizers.common.unet_attention": [2],
    "tokenizers.common.uvit_channels": [64], "tokenizers.common.decoder_patch_size": 2,
    "tokenizers.common.decoder": "vit", "tokenizers.common.prediction": "epsilon",
    "tokenizers.common.noise_schedule": "sigmoid", "tokenizers.common.precision": "bf16",
    "tokenizers.common.base_lr": 3e-4, "tokenizers.common.accumulate": 2, "tokenizers.common.resolutions.sizes": [224],
    "tokenizers.common.compile": True, "tokenizers.common.encoding": "bf16",
    "engine.window": 2, "tokenizers.common.quantizer": "lfq", "tokenizers.common.levels": [4, 3],
    "tokenizers.common.entropy_weight": 0.2, "tokenizers.common.network": "convnext",
    "tokenizers.common.frame": "x right, y down, z away",
    "tokenizers.common.resolutions.warmup_steps": 5, "tokenizers.common.perceptual_backbone": "vgg16.pth",
}  # fmt: skip
# Settings that only mean something beside others, or whose default differs from tokenizer to tokenizer.
BASES: dict[str, dict[str, Any]] = {
    "tokenizers.common.perceptual_weight": {"tokenizers.common.perceptual_backbone": "vgg16.pth"},
    "tokenizers.common.clip_sample": {"tokenizers.common.clip_sample": False},
    "tokenizers.common.levels": {"tokenizers.common.quantizer": "fsq"},
    "tokenizers.common.entropy_weight": {"tokenizers.common.quantizer": "lfq"},
}
COMPARED = [name for name in FIELDS if name.startswith(("seed", "images.", "tokenizers.", "engine.", "fit."))]

FINISHED = ("tokenizers.each", "tokenizers.text.weights", "tokenizers.text.revision")  # of files that there must be


def _prints(changes: dict[str, Any]) -> dict[str, str]:
    """Fingerprints of all labels, tokenizers and columns of a recipe, as if every tokenizer were its settings."""
    data: dict[str, Any] = {"root": "out", "samples": "a.tar"}
    for name, value in changes.items():
        *path, last = name.split(".")
        here = data
        for part in path:
            here = here.setdefault(part, {})
        here[last] = value
    project = Project(recipes.parse(data))
    fits = project.fit_fingerprints
    project.fitted = {name: Fitted(print_, 5000) for name, print_ in fits.items()}
    labels = {f"labels/{k}": v for k, v in project.label_prints.current.items()}
    tokens = {k: v.fingerprint for k, v in project.token_outputs.items()}
    return labels | {f"tokenizers/{k}": v for k, v in fits.items()} | tokens


_SEVERAL_CROPS = " if `crops` > 1"


def _promised(cell: str) -> set[str]:
    """What a cell of the last column says, with everything that depends on it."""
    kinds = {name: MODALITIES[name] for name in Recipe(root="out", samples={"train": "a.tar"}).modalities}
    grids = {name for name, modality in kinds.items() if modality.kind is Kind.GRID}
    crops = {name for name, modality in kinds.items() if modality.spatial}
    texts = {name for name, modality in kinds.items() if modality.kind is Kind.SEQUENCE}
    promised: set[str] = set()
    for part in cell.split(", "):
        if part == "grid tokenizers":
            promised |= {f"{folder}/{name}" for name in grids for folder in ("tokenizers", "tokens")}
        elif part == "RGB tokenizer":
            promised |= {"tokenizers/tok_rgb", "tokens/tok_rgb"}
        elif part == "class tokenizers":
            promised |= set()  # of class maps and masks, which the default recipe does not have
        elif part == "series tokenizers":
            promised |= set()  # which the default recipe does not have
        elif part == "text tokenizer":
            promised |= {f"tokenizers/{TEXT}"} | {f"tokens/{name}" for name in texts}
        elif part == "every label that looks at the image":
            promised |= {f"labels/{kinds[name].label}" for name in kinds if name != "caption"}
            promised |= {f"tokens/{name}" for name in kinds if name != "caption"}
            promised |= {f"tokenizers/{name}" for name in grids}
        elif part in ("crop columns", "grid columns"):
            promised |= {f"tokens/{name}" for name in (crops if part == "crop columns" else grids)}
        else:
            assert part == "nothing" or part.strip("`") in MODALITIES, part
            promised |= {f"tokens/{part.strip('`')}"} & {f"tokens/{name}" for name in kinds}
    return promised


def _changed(changes: dict[str, Any], base: dict[str, Any]) -> set[str]:
    """Outputs that are made again if a recipe that sets `base` sets `changes` as well."""
    before, after = _prints(base), _prints(base | changes)
    return {output for output in before if before[output] != after[output]}


@pytest.mark.parametrize("name", [name for name in COMPARED if not name.startswith(FINISHED)])
def test_a_change_makes_again_what_the_guide_says(rows: dict[str, tuple[str, str]], name: str) -> None:
    default = FIELDS[name]
    if name in CHANGED:
        value = CHANGED[name]
    elif isinstance(default, bool):
        value = not default
    else:
        value = default + 1 if isinstance(default, int) else default / 2 or 0.25
    promised = rows[name][1]
    if promised.endswith(_SEVERAL_CROPS):
        promised = promised.removesuffix(_SEVERAL_CROPS)
        assert _changed({name: value}, {}) == set()
        assert _changed({name: value}, {"images.crops": 2}) == _promised(promised)
    else:
        assert _changed({name: value}, BASES.get(name, {})) == _promised(promised)
