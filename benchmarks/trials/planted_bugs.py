"""Planted bugs: does the evaluation table show each, beyond the spread of runs without a bug?

    python benchmarks/trials/planted_bugs.py [--seeds 3] [--bugs classes crops normals codes captions leak]
        [--images 768] [--steps 500] [--fit-steps 160] [--workers 2] [--tiny]

Rendered scenes with labels that come with them go through `fourmill run` on Ray and the table of `fourmill evaluate`:
once for each seed, which has other scenes, tokenizers, masks and weights, and once for each bug, in a copy of the first
seed's root. A bug is what a recipe says: a wrong option, or a module of the user's that the workers import
(tests/support/fourmill_tests/bugs/). It is seen if its value is farther from all values without a bug than these are
from each other. Where a model answers that depends on how much it has learned; the rows of the labeller and of the
tokenizers need no training, and tests/train/downstream/evaluation/test_planted_bugs.py holds them at each commit.
"""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml

from fourmill import recipe as recipes
from fourmill.infra.cluster import cluster
from fourmill.pipelines.scenes import kinds, shards
from fourmill.pipelines.scenes.sample import Options
from fourmill.project import Project
from fourmill.train.downstream.evaluation.evaluate import Evaluation
from fourmill.train.downstream.evaluation.table_files import ROWS, SHOWN, Figure, Table

sys.path.insert(0, str(Path(__file__).parents[1]))  # benchmarks/, whose modules the folders share
from circumstances import ROOT, state

SUPPORT = str(ROOT / "tests/support")
sys.path.insert(0, SUPPORT)
from fourmill_tests.bugs.bugs import BUGS, Bug, shows  # noqa: E402

SIDE, PATCH = 64, 8
TRUTH: dict[str, Any] = {
    "depth": "depth.npy", "normal": "normal.npy", "semseg": "semseg.png",
    "caption": {"member": "scene.json", "objects": "objects", "name": "shape", "visible": "visible", "least": 0.35,
                "words": {name: list(shape.words) for name, shape in kinds.SHAPES.items()}},
}  # fmt: skip
ON = {"depth": "depth.npy", "normal": "normal.npy", "semseg": "semseg.png"}  # members that labels are read from


def settings(folder: Path, scenes: Path, seed: int, args: argparse.Namespace) -> dict[str, Any]:
    """The recipe without a bug."""
    width = {"dim": 32, "encoder_depth": 1, "decoder_depth": 1, "heads": 2} if args.tiny else {
        "dim": 128, "encoder_depth": 3, "decoder_depth": 3, "heads": 4}  # fmt: skip
    # A toy has what its bugs show in, no more: each tokenizer is a fit, and an untrained model writes captions of 256
    # tokens.
    shown = {"depth"} | {BUGS[bug].label for bug in args.bugs} if args.tiny else {*ON, "caption"}
    on, texts = (
        {label: ON[label] for label in ON if label in shown},
        [label for label in ("caption",) if label in shown],
    )
    grids = [f"tok_{label}" for label in on]
    first = "tok_normal" if "tok_normal" in grids else grids[0]
    inputs, targets = {"rgb": 1.0} | dict.fromkeys(grids, 0.3), dict.fromkeys(grids, 1.0) | dict.fromkeys(texts, 3.0)
    return {
        "root": str(folder / "out"), "seed": seed,
        "samples": {"train": [f"{scenes}/train-*.tar"], "val": [f"{scenes}/val-*.tar"]},
        "modalities": ["rgb", *grids, *texts],
        "classes": {"semseg": list(kinds.CLASSES), "det": list(kinds.SHAPES)},
        "images": {"size": SIDE, "patch_size": PATCH},
        "labels": {
            "keep": [*on, *texts],
            "specialists": {label: {"specialist": "member", "name": name} for label, name in on.items()},
        },
        "tokenizers": {
            "text": {"vocab_size": 5000},
            "common": {
                "decoder": "vit", "codebook_size": 256, "dim": 96, "encoder_depth": 1, "decoder_depth": 2, "heads": 4,
                "out_conv": False, "loss": "mse", "norm_latents": True, "ema_decay": 0.95, "warm_start": True,
                "precision": "fp32", "patch_size": PATCH, "steps": args.fit_steps, "batch_size": 16,
                "base_lr": 0.048, "samples": args.images, "validation_samples": 16,
            },
        },
        "engine": {"actors": args.workers},
        "fit": {"workers": args.workers, "cpus": 1},
        # As the demo trains: first where things are, then from RGB and a part of the rest to all.
        "train": {
            "model": width | {"grid_temperature": 20}, "workers": args.workers, "cpus": 1,
            "input_tokens": 64, "target_tokens": 96,
            "mixtures": [
                {"during": [0, 0.15], "input_alpha": {"rgb": 1}, "target_alpha": {first: 1}},
                {"during": [0.15, 1], "input_alpha": inputs, "target_alpha": targets},
            ],
            "loss": "token", "batch_size": 16, "steps": args.steps, "warmup_steps": args.steps // 10,
            "base_lr": 0.048, "clip_norm": 1.0, "validate_every": args.steps, "checkpoint_every": args.steps,
            "validation_samples": 16,
        },
        "evaluate": {
            "truth": {label: TRUTH[label] for label in (*on, *texts)}, "samples": args.images // 4, "ensemble": 1,
            "draws": 0, "training_samples": args.images, "chain": grids[:1],
        },
    }  # fmt: skip


def rendered(folder: Path, seed: int, images: int) -> Path:
    """The scenes of a seed, rendered once."""
    counts = {"train": images, "val": images // 4}
    shards.write(str(folder / f"scenes{seed}"), Options(seed, SIDE, "plain"), counts, images, 1)
    return folder / f"scenes{seed}"


def measured(of: dict[str, Any]) -> Table:
    """`fourmill run`, and the evaluation table."""
    path = Path(of["root"]).with_name("recipe.yaml")
    path.write_text(yaml.safe_dump(of))
    said = path.with_suffix(".log")
    with said.open("w") as log:  # no pipe: it would stay open as long as any process of Ray that has it
        command = [sys.executable, "-m", "fourmill.cli", "run", str(path)]
        status = subprocess.run(command, stdout=log, stderr=log).returncode
    if status:
        raise SystemExit(f"{path}: fourmill run ended with status {status}\n{said.read_text()}")
    return Evaluation(Project(recipes.load(path)).evaluate_job).table()


def figure(table: Table, bug: Bug) -> Figure:
    """The first measure of a bug's column, as the table shows it."""
    (column,) = [one for one in table.columns if one.label == bug.label]
    return Figure(column, next(name for name in column.measures if name in SHOWN))


def line(bug: Bug, row: str, without: Sequence[Table], table: Table) -> str:
    """One row of the table that is printed."""
    values = [value.value for one in without if (value := figure(one, bug).value(row)) is not None]
    found = figure(table, bug).value(row)
    assert found is not None and values, (bug, row)
    sound = f"{min(values):.2f} to {max(values):.2f}"
    seen = "yes" if shows(found.value, values) else "no"
    return f"| {bug.title} | {figure(table, bug).title} | {ROWS[row]} | {sound} | {found.value:.2f} | {seen} |"


def compare(folder: Path, args: argparse.Namespace) -> None:
    scenes = [rendered(folder, seed, args.images) for seed in range(args.seeds)]
    without = []
    for seed, of in enumerate(scenes):
        (folder / f"seed{seed}").mkdir()
        without.append(measured(settings(folder / f"seed{seed}", of, seed, args)))
    print(f"| bug | column | row | without, {args.seeds} seeds | with | seen |\n|---|---|---|---|---|---|", flush=True)
    for name in args.bugs:
        # What a bug does not touch is there already, but for the run: modules change no fingerprint.
        shutil.copytree(folder / "seed0/out", folder / name / "out", ignore=shutil.ignore_patterns("runs"))
        table = measured(BUGS[name].planted(settings(folder / name, scenes[0], 0, args)))
        for row in BUGS[name].rows:
            print(line(BUGS[name], row, without, table), flush=True)


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=3, help="runs without a bug")
    parser.add_argument("--bugs", nargs="+", default=list(BUGS), choices=list(BUGS))
    parser.add_argument("--images", type=int, default=768, help="for training; a fourth as many for validation")
    parser.add_argument("--steps", type=int, default=500, help="of training")
    parser.add_argument("--fit-steps", type=int, default=160, help="of each tokenizer")
    parser.add_argument("--workers", type=int, default=2, help="of each stage, one core each")
    parser.add_argument("--tiny", action="store_true", help="a model of a toy's size, to see that all runs")
    args = parser.parse_args(arguments)
    state(__file__, arguments)
    # Workers find the modules of a recipe as they find a user's.
    os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, [SUPPORT, os.environ.get("PYTHONPATH", "")]))
    with tempfile.TemporaryDirectory() as folder, cluster() as ray:
        os.environ["RAY_ADDRESS"] = ray.get_runtime_context().gcs_address
        compare(Path(folder), args)


if __name__ == "__main__":
    main()
