"""What `fourmill demo` runs: rendered scenes, or real photos. Each has samples, a recipe and words of its own."""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import date
from functools import partial
from pathlib import Path
from string import Template
from typing import Any

from .summary import Summary

_SOURCE = Path(__file__).parents[1] / "pipelines" / "demo"
_SIDE, _CLUTTER, _SHARD, _VALIDATION = 64, "plain", 256, 256  # of scenes
LABELLERS = ("depth", "normal", "semseg", "det")  # small hub models, made by benchmarks/labellers.py


@dataclass(frozen=True)
class Demo:
    """A demo.

    name: of its recipe, pipelines/demo/NAME.yaml.
    fields: what the recipe's template leaves open, beside the seed and places.
    write: makes the shards train-*.tar and val-*.tar in a folder, from a seed.
    words: fields of `report.html.report.ReportData` that only it knows.
    """

    name: str
    write: Callable[[Path, int], Summary]
    words: Callable[[], dict[str, Any]]
    fields: Mapping[str, object] = field(default_factory=dict)

    def recipe(self, root: Path, seed: int) -> str:
        """Its recipe, for a root. ValueError for a folder whose name would be read as a pattern."""
        if any(character in str(root) for character in "{}[]*?"):
            raise ValueError(f"--out: {root} holds one of {{}}[]*?, of which patterns are made; choose another name")
        from . import machines

        samples = root / "samples"
        places = {"root": root, "train": samples / "train-*.tar", "val": samples / "val-*.tar"}
        places |= {f"{label}_model": root / "models" / label for label in LABELLERS}
        quoted = {name: json.dumps(str(place)) for name, place in places.items()}
        text = (_SOURCE / f"{self.name}.yaml").read_text("utf-8")
        return Template(text).substitute(
            {**quoted, **self.fields, "seed": seed, "workers": min(2, machines.here().cores)}
        )


def _scenes(train: int, steps: int, decoder_depth: int, from_words: int) -> Demo:
    """The demo on so many training scenes, which trains for so many steps.

    from_words: weight of the tasks from captions, boxes and classes to RGB; those from RGB and its parts weigh 5.
    """
    fields = {"steps": steps, "half": steps // 2, "decoder_depth": decoder_depth, "from_words": from_words}
    return Demo("scenes", partial(_write_scenes, train), _words_of_scenes, fields)


def _write_scenes(train: int, folder: Path, seed: int) -> Summary:
    from ..pipelines.scenes import shards
    from ..pipelines.scenes.sample import Options
    from . import machines

    start = time.monotonic()
    counts = {"train": train, "val": _VALIDATION}
    written = shards.write(str(folder), Options(seed, _SIDE, _CLUTTER), counts, _SHARD, machines.here().cores)
    # Copies, so that the recipe goes on to work where fourmill is installed elsewhere.
    shutil.copytree(_SOURCE / "models", folder.parent / "models", dirs_exist_ok=True)
    existed = sum(map(len, written.shards.values())) - len(written.made)
    summary = Summary("scenes", made=len(written.made), existed=existed, seconds=time.monotonic() - start)
    summary.notes.append(f"{train} training and {_VALIDATION} validation scenes")
    return summary


def _words_of_scenes() -> dict[str, Any]:
    return {
        "subtitle": "From rendered scenes to labels, tokens, a small 4M, and any modality from any other.",
        "corpus_note": "Rendered scenes, whose truth is known. Depth, normals, classes and boxes are pseudo-labels, "
        "as in life: small models say what they see, and are wrong at times. Captions come with the images. No "
        "validation scene is trained on.",
        "validation_note": "Validation is on scenes that training has not seen.",
        "caveats": [
            "This is a small model, on images of 64 px: what it says is coarse, and thin things are lost.",
            "The labellers were trained on other scenes of the same renderer: they know this world well.",
        ],
    }


def _write_photos(folder: Path, seed: int) -> Summary:
    from ..pipelines.demo import photos

    start = time.monotonic()
    shards = photos.write_shards(folder, seed=seed)
    existed = sum(map(len, shards.shards.values())) - len(shards.written)
    summary = Summary("photos", made=len(shards.written), existed=existed, seconds=time.monotonic() - start)
    summary.notes.append(", ".join(f"{count} {split} samples" for split, count in shards.samples.items()))
    return summary


def _words_of_photos() -> dict[str, Any]:
    import numpy as np

    from ..pipelines.demo import photos
    from ..report.html.report import CreditedPhoto

    splits = {"train": "train", "val": "validation"}
    credits = [
        CreditedPhoto(
            p.name, np.asarray(photos.load(p).convert("RGB")), p.attribution, p.licence, p.source, splits[p.split]
        )
        for p in photos.PHOTOS
    ]
    return {
        "subtitle": "From photos to shards, labels, tokens, a small 4M, and any modality from any other.",
        "photos": credits,
        "corpus_note": "Samples are crops of these photos; validation photos are never trained on. Captions are ours.",
        "caveats": [
            "A few hundred crops of twenty photos teach a small model these photos and little else: training losses "
            "fall, validation losses on unseen photos say how little of it carries over.",
        ],
    }


SCENES = _scenes(3072, steps=1500, decoder_depth=2, from_words=1)  # minutes on two cores
HOUR = _scenes(12288, steps=12000, decoder_depth=3, from_words=3)  # an hour; words come late (docs/does-it-learn.md)
PHOTOS = Demo("photos", _write_photos, _words_of_photos)


def about() -> str:
    """When, with which version and where a demo ran."""
    from .. import __version__

    return f"{date.today().isoformat()}, fourmill {__version__}, on this machine's CPU"
