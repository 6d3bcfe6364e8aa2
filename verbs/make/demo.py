"""`fourmill demo`: the whole line on the photos that Python packages ship, with a recipe like any other's.

Nothing here does work of its own: photos become shards, the recipe below is written beside them and run, and the report
gets the photos' attributions. `fourmill run OUT/demo.yaml` does the same again, which is nothing.
"""

from __future__ import annotations

import argparse
import json
import time
from datetime import date
from pathlib import Path
from typing import Any

from ..summary import Summary, show

ORDER = 10
HELP = "the whole line on the photos that scikit-image, scikit-learn and matplotlib ship"
EXAMPLES = ("fourmill demo", "fourmill demo --out /tmp/demo")

# 112 px crops with 8 px patches: 14 x 14 tokens, as 4M's 224 px crops with 16 px patches, at a quarter of the pixels.
RECIPE = """\
# The recipe of `fourmill demo`: 4M's line at a size that two CPU cores finish in minutes.
root: {root}
samples:                              # training and validation photos are different ones
  train: {train}
  val: {val}
seed: 0

images: {{size: 112, patch_size: 8}}
modalities: [rgb, tok_rgb, tok_canny_edge, color_palette, metadata, caption, det]
labels:
  keep: [canny_edge, color_palette, metadata, caption, det]
  specialists:
    det: {{specialist: hog_people}}   # needs no download

tokenizers:
  text: {{vocab_size: 6000}}
  common:
    decoder: vit
    codebook_size: 2048
    dim: 128
    encoder_depth: 1
    decoder_depth: 2
    heads: 4
    out_conv: false
    loss: mse
    precision: fp32
    norm_latents: true
    warm_start: true
    ema_decay: 0.95
    dead_code_coefficient: 8
    average: 0.9
    steps: 400
    batch_size: 8
    base_lr: 9.6e-2         # 3e-3 at this batch size
    warmup_steps: 20
    color_jitter: 0.15      # sixteen photos do not hold every colour
    samples: 3000
    validation_samples: 128
    checkpoint_every: 100

fit: {{workers: 2, cpus: 1}}  # each fits one of the two grids

train:
  name: demo
  model: {{dim: 128, encoder_depth: 3, decoder_depth: 2, heads: 4}}
  input_tokens: 128
  target_tokens: 128
  mixtures:                 # RGB to all and all to all, as 4M-7, and from caption and edges
    - {{input_alpha: {{rgb: 1}}, target_alpha: 0.5}}
    - {{input_alpha: 0.5, target_alpha: 0.5}}
    - {{input_alpha: {{caption: 1, tok_canny_edge: 1}}, target_alpha: {{tok_rgb: 1, tok_canny_edge: 0.5}}, keep: all}}
  batch_size: 8
  steps: 700
  warmup_steps: 50
  base_lr: 6.4e-2           # 2e-3 at this batch size
  clip_norm: 1.0
  log_every: 10
  validate_every: 175
  validation_samples: 128
  checkpoint_every: 200

generate:
  samples: 6
  chains:
    - inputs: [rgb]
      to: &from_rgb
        - {{target: tok_canny_edge, scheme: roar, steps: 12, temperature: 0.8}}
        - {{target: caption, temperature: 0.4, max_tokens: 32}}
        - {{target: color_palette, temperature: 0.4}}
    - {{inputs: [rgb], split: train, to: *from_rgb}}
    - inputs: [rgb]
      to:
        - {{target: metadata, temperature: 0.3}}
        - {{target: det, temperature: 0.4, max_tokens: 32}}
    - inputs: [tok_canny_edge, caption]
      to: [{{target: tok_rgb, scheme: roar, steps: 12, temperature: 0.6, guidance: 1.5}}]
    - inputs: [caption]
      split: train
      to:
        - {{target: tok_canny_edge, scheme: roar, steps: 12, temperature: 0.8, guidance: 1.5}}
        - {{target: tok_rgb, scheme: roar, steps: 12, temperature: 0.6, guidance: 1.5}}
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--out", default="demo", metavar="DIR", help="where everything goes (default: demo)")


def main(args: argparse.Namespace) -> int:
    status = show(make(args.out))
    if status == 0:
        print(closing_words(args.out))
    return status


def make(out: str) -> list[Summary]:
    """Make the shards, run the recipe, write report and gallery below the local folder `out`."""
    from ... import recipe
    from ...pipelines.demo import photos
    from ...project import Project
    from .. import pages
    from . import run

    start = time.monotonic()
    root = Path(out).expanduser().resolve()
    if root.is_file():
        raise ValueError(f"--out: {root} is a file, expected a folder, which may be new")
    shards = photos.write_shards(root / "samples")
    existed = sum(map(len, shards.shards.values())) - len(shards.written)
    first = Summary("photos", made=len(shards.written), existed=existed)
    first.notes.append(", ".join(f"{count} {split} samples" for split, count in shards.samples.items()))
    first.seconds = time.monotonic() - start
    path = root / "demo.yaml"
    path.write_text(recipe_text(root), encoding="utf-8")
    project = Project(recipe.load(path))
    done = [first, *run.make(project)]
    if all(summary.complete for summary in done):
        start = time.monotonic()
        pages.current_report(project, _extras(root))
        pages.write_gallery(project, 40)
        done.append(Summary("report", made=2, seconds=time.monotonic() - start, notes=[str(root / "report.html")]))
    return done


def recipe_text(root: Path) -> str:
    """The demo's recipe. ValueError for a folder whose name would be read as a pattern."""
    if any(character in str(root) for character in "{}[]*?"):
        raise ValueError(f"--out: {root} holds one of {{}}[]*?, of which patterns are made; choose another name")
    samples = root / "samples"
    places = {"root": root, "train": samples / "train-*.tar", "val": samples / "val-*.tar"}
    return RECIPE.format(**{name: json.dumps(str(place)) for name, place in places.items()})


def _extras(root: Path) -> dict[str, Any]:
    import numpy as np

    from ... import __version__
    from ...pipelines.demo import photos
    from ...report.html.report import Command, CreditedPhoto

    splits = {"train": "train", "val": "validation"}
    credits = [
        CreditedPhoto(
            p.name, np.asarray(photos.load(p).convert("RGB")), p.attribution, p.licence, p.source, splits[p.split]
        )
        for p in photos.PHOTOS
    ]
    return {
        "title": "fourmill demo",
        "subtitle": "From photos to shards, labels, tokens, a small 4M, and any modality from any other.",
        "about": f"{date.today().isoformat()}, fourmill {__version__}, on this machine's CPU",
        "photos": credits,
        "corpus_note": "Samples are crops of these photos; validation photos are never trained on. Captions are ours.",
        "caveats": [
            "A few hundred crops of twenty photos teach a small model these photos and little else: training losses "
            "fall, validation losses on unseen photos say how little of it carries over.",
            "Boxes come from OpenCV's people detector, which finds few people in crops like these.",
        ],
        "commands": [Command(*line) for line in next_commands(root)],
    }


def next_commands(root: Path) -> list[tuple[str, str]]:
    """What to try after the demo."""
    recipe_path = root / "demo.yaml"
    return [
        (f"fourmill status {recipe_path}", "what exists, and what is missing"),
        (f"fourmill inspect {root}/tokens/caption/val-00000.parquet", "a column of the token store"),
        (f"fourmill generate {recipe_path} --set generate.seed=1", "other samples from the same model"),
        (f"fourmill run {recipe_path} --set train.steps=2000", "train longer; only that and what follows is redone"),
        ("fourmill init --samples 'data/{00000..00009}.tar' --root out > recipe.yaml", "start with your own shards"),
    ]


def closing_words(out: str) -> str:
    """The last lines of the demo."""
    root = Path(out).expanduser().resolve()
    lines = [f"\nLook at  {root / 'report.html'}", f"and at   {root / 'gallery.html'}\n", "Try next:"]
    return "\n".join([*lines, *(f"  {command}\n      {purpose}" for command, purpose in next_commands(root))])
