"""The recipe that `fourmill init` writes where samples have no photos: sensors as they lie in the first shards."""

from __future__ import annotations

import json
import math
import re
import tempfile
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import NamedTuple

from ..infra.secrets import public
from ..modalities import LABELS, MODALITIES
from ..pipelines import source
from ..pipelines.packing import packed
from ..pipelines.sensors import look, places
from ..pipelines.sensors.described import Found

LOOKED_AT = 16  # samples of the first shard of each set
LARGEST = 224  # pixels along a side of a square
LONG = 1.25  # width to height, or the reverse, of a map that is no square
MOST = 16  # sensors that are tokenized; the others are declared all the same
_SET = re.compile(r"([A-Za-z][\w-]*)=(.+)")

TEMPLATE = """\
# A fourmill recipe for sensors. Run it:  fourmill run recipe.yaml   See what exists:  fourmill status recipe.yaml
# What the fields of a sensor mean: docs/extend/own-sensors.md
#
{findings}

root: {root}
samples:
  train: {train}
  val: {val}
{key}seed: 0

{sensors}

# Pixels along a side of a crop and of a token; crop 0 is the centre crop, further ones are random.
images: {{size: {image_size}, patch_size: {patch_size}, crops: 1}}
modalities: {modalities}
labels: {{keep: {keep}}}

# TerraMind's own decoder is unet, by diffusion, which takes days.
tokenizers:
  common: {{
    decoder: vit, codebook_size: {tokenizer.codebook_size}, dim: {tokenizer.dim}, heads: {tokenizer.heads},
    encoder_depth: {tokenizer.encoder_depth}, decoder_depth: {tokenizer.decoder_depth},{quick}
    steps: {fit_steps}, batch_size: {fit_batch}, accumulate: {fit_accumulate}, base_lr: {fit_base_lr},
    warmup_steps: {fit_warmup}, precision: {fit_precision}, samples: {fit_samples}, checkpoint_every: {fit_checkpoint}}}
fit: {fit}

train: {{
    model: {model_sizes},
    mixtures: [{{input_alpha: 0.5, target_alpha: 0.5}}], input_tokens: 128, target_tokens: 128,
    batch_size: {batch_size}, accumulate: {accumulate}, steps: {steps},
    warmup_steps: {warmup}, base_lr: {base_lr}, clip_norm: 1.0, validate_every: {validate_every},
    validation_samples: {validation_samples}, checkpoint_every: {checkpoint_every},
    workers: {train_workers}, gpus: {gpus}}}

generate: {{samples: 8, chains: {chains}}}
{evaluate}"""

# What makes a tokenizer of minutes: it begins as principal components of patches, and its codebook follows quickly.
QUICK = """
    warm_start: true, out_conv: false, norm_latents: true, loss: mse, ema_decay: 0.95, dead_code_coefficient: 8,
    average: 0.9,"""


def sets_of(given: Sequence[str]) -> dict[str, list[str]]:
    """What --samples names, by set: NAME=URL, or {"": all} without names. ValueError for some of both."""
    sets: dict[str, list[str]] = {}
    for one in given:
        found = None if Path(one).exists() else _SET.fullmatch(one)
        name, url = (found[1], found[2]) if found else ("", one)
        sets.setdefault(name, []).append(url)
    if "" in sets and len(sets) > 1:
        raise ValueError(f"--samples: {sets[''][0]} has no set, and others have; name each as SET=URL")
    return sets


class Seen(NamedTuple):
    """What sensors the first shard has, what was found in sentences, its samples, the places of all shards, and the
    column of keys."""

    found: list[Found]
    said: list[str]
    samples: int
    shards: list[str]
    key: str = ""


def looked_at(sets: Mapping[str, Sequence[str]]) -> Seen:
    """Look at the first shard. No sensor is found in one whose samples have photos."""
    tars = {name: source.expand(list(urls)) for name, urls in sets.items()}
    shards = places.aligned(tars) if "" not in tars else tars[""]
    found: list[Found] = []
    said, samples, key = [f"{len(shards)} training shards"], 0, ""
    with tempfile.TemporaryDirectory() as scratch:
        for name, url in places.parts(shards[0]).items():
            with source.open_shard(url, scratch, every_key=True) as shard:
                if "" in tars and not look.has_sensors(shard, LOOKED_AT):
                    return Seen([], [], 0, [])
                key = look.key_column(shard, partial(source.open_shard, url, scratch, True)) or key
                found += packed.settled(look.look(shard, LOOKED_AT, name, key), url)
                samples = max(samples, len(shard.samples))
                said.append(f"{name + ': ' if name else ''}{len(shard.samples):,} samples in {public(url)}")
    return Seen(look.named(look.once(found), (*LABELS, *MODALITIES)), said, samples, shards, key)


def has_photos(shard: source.Shard) -> bool:
    """Whether tars have photos, so that `looked_at` would find no sensor in them."""
    return not shard.is_table and look.has_photos(shard, LOOKED_AT)


def beside_photos(shard: source.Shard, names: Sequence[str]) -> list[str]:
    """What members beside photos are sensors, as comments of a recipe; [] if none of these names is one."""
    found = look.look(shard, LOOKED_AT) if names and not shard.is_table and shard.samples else []
    sensors = [one for one in found if one.settings.get("member", "") in names]
    if not sensors:
        return []
    said = look.lines(look.named(sensors, (*LABELS, *MODALITIES)))
    return ["members that can be sensors beside the photos; their tokens are modalities, tok_NAME:", *said]


def text(
    found: Sequence[Found], findings: Sequence[str], sets: tuple[Mapping[str, list[str]], Mapping[str, list[str]]],
    root: str, sizes: Mapping[str, object], key: str = "",
) -> str:  # fmt: skip
    """The recipe.

    Args:
        sets: of the training and the validation shards. sizes: the fields of the template that are sizes. key: the
            column of keys.

    ValueError if nothing that was found is understood.
    """
    good = [one for one in found if one.settings][:MOST]
    if not good:
        reasons = "; ".join(one.says for one in found) or "no member holds numbers"
        raise ValueError(f"init: no member of the first samples can be read as a sensor: {reasons}")
    rasters = [one for one in good if one.side and "classes" not in one.settings]
    maps = [one for one in good if "classes" in one.settings]
    series = [one for one in good if one.settings.get("kind") == "series"]
    numbers = [one for one in good if one not in (*rasters, *maps, *series)]
    size, patch = _sized(found)
    targets = [*(f"tok_{one.name}" for one in (*rasters, *maps, *series)), *(one.name for one in numbers)]
    pixels = [one.name for one in rasters[:1]]
    given = pixels or targets[:1]
    to = [name for name in targets if name not in given and name != f"tok_{given[0]}"]
    train, val = (_named(one) for one in sets)
    said = [*findings, *(one.remark for one in found if not one.settings and not one.is_idle)]
    return TEMPLATE.format(**{
        **sizes,
        "quick": QUICK if sizes["quick"] else "",
        "findings": "\n".join(f"# {ascii(line)[1:-1]}" for line in said),
        "key": f"  key: {json.dumps(key)}\n" if key else "",
        "root": json.dumps(root), "train": json.dumps(train), "val": json.dumps(val),
        "sensors": "\n".join(look.lines(found)),
        "image_size": size, "patch_size": patch,
        "modalities": flow([*pixels, *targets]), "keep": flow([one.name for one in good]),
        "chains": flow([{"inputs": given, "to": to}] if to else []),
        "evaluate": f"evaluate: {flow({'inputs': given, 'samples': 256})}\n" if to and val else "",
    })  # fmt: skip


def _sized(found: Sequence[Found]) -> tuple[int, int]:
    """Pixels along a side of the crops, those of the sensor with the finest pixels, and of a patch. Sensors of coarser
    pixels, and those that are no squares, get a `size` of their own: none is blown up, thinned out or cut off."""
    maps = [one for one in found if one.settings and one.side]
    sides = [one.side for one in maps if "mel" not in one.settings] or [one.side for one in maps] or [LARGEST]
    patch = 16 if min(sides) >= 64 else 8

    def whole(side: float) -> int:
        return max(patch, min(LARGEST, int(side) // patch * patch))

    size = whole(max(sides))
    for one in maps:
        if max(one.size) >= LONG * one.side:
            one.settings["size"] = _oblong(one.size, patch)
        elif whole(one.side) != size:
            one.settings["size"] = whole(one.side)
    return size, patch


def _oblong(size: tuple[int, int], patch: int) -> list[int]:
    """Height and width in whole patches, of about as many pixels as the largest square has, and never more than there
    are."""
    scale = min(1.0, LARGEST / math.sqrt(size[0] * size[1]))
    return [max(patch, min(round(side * scale / patch), side // patch) * patch) for side in size]


def _named(sets: Mapping[str, list[str]]) -> object:
    if list(sets) == [""]:
        return sets[""][0] if len(sets[""]) == 1 else sets[""]
    return {name: urls[0] if len(urls) == 1 else urls for name, urls in sets.items()} if sets else []


def flow(value: object) -> str:
    """A list or mapping on one line of YAML."""
    return json.dumps(value).replace('"', "")
