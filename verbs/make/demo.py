"""`fourmill demo`: the whole line on rendered scenes, or on real photos, with a recipe like any other's.

Nothing here does work of its own: samples become shards, the recipe is written beside them and run, and what was
learned is measured. `fourmill run OUT/demo.yaml` does the same again, which is nothing.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path

from ..summary import Summary, show

ORDER = 10
HELP = "the whole line, from images to a model that answers, on rendered scenes or real photos"
EXAMPLES = (
    "fourmill demo",
    "fourmill demo --seed 7 --out /tmp/demo",
    "fourmill demo --hour",
    "fourmill demo --photos --out photos",
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--out", default="demo", metavar="DIR", help="where everything goes (default: demo)")
    text = "the photos that scikit-image, scikit-learn and matplotlib ship, which are too few to learn much from"
    parser.add_argument("--photos", action="store_true", help=text)
    text = "four times the scenes and a longer training: an hour on two cores, in place of minutes"
    parser.add_argument("--hour", action="store_true", help=text)
    parser.add_argument("--seed", type=int, default=0, metavar="S", help="other scenes, other weights (default: 0)")


def main(args: argparse.Namespace) -> int:
    status = show(make(args.out, photos=args.photos, hour=args.hour, seed=args.seed))
    if status == 0:
        print(closing_words(args.out))
    return status


def make(out: str, *, photos: bool = False, hour: bool = False, seed: int = 0) -> list[Summary]:
    """Make the shards, run the recipe, write tables, report and gallery below the local folder `out`."""
    from ... import recipe
    from ...project import Project
    from ...report.html.report import Command
    from .. import demos, pages
    from . import evaluate, run

    if seed < 0:
        raise ValueError(f"--seed: got {seed}, expected 0 or more")
    if photos and hour:
        raise ValueError("--hour: the photos have one length; leave --hour or --photos away")
    root = Path(out).expanduser().resolve()
    if root.is_file():
        raise ValueError(f"--out: {root} is a file, expected a folder, which may be new")
    demo = demos.PHOTOS if photos else demos.HOUR if hour else demos.SCENES
    text = demo.recipe(root, seed)
    done = [demo.write(root / "samples", seed)]
    path = root / "demo.yaml"
    path.write_text(text, encoding="utf-8")
    project = Project(recipe.load(path))
    done += run.make(project)
    if all(summary.complete for summary in done):
        done.append(evaluate.make(project))
        start = time.monotonic()
        words = {"title": "fourmill demo", "about": demos.about(), **demo.words()}
        pages.current_report(project, words | {"commands": [Command(*line) for line in next_commands(root)]})
        pages.write_gallery(project, 40)
        done.append(Summary("report", made=2, seconds=time.monotonic() - start, notes=[str(root / "report.html")]))
    return done


def next_commands(root: Path) -> list[tuple[str, str]]:
    """What to try after the demo."""
    recipe_path = root / "demo.yaml"
    return [
        (f"fourmill status {recipe_path}", "what exists, and what is missing"),
        (f"fourmill inspect {root}/tokens/caption/val-00000.parquet", "a column of the token store"),
        (f"fourmill generate {recipe_path} --set generate.seed=1", "other samples from the same model"),
        (f"fourmill demo --hour --out {root}", "more scenes and a longer training: an hour on two cores"),
        ("fourmill init --samples 'data/{00000..00009}.tar' --root out > recipe.yaml", "start with your own shards"),
    ]


def closing_words(out: str) -> str:
    """The last lines of the demo."""
    root = Path(out).expanduser().resolve()
    lines = [f"\nLook at  {root / 'report.html'}", f"and at   {root / 'gallery.html'}\n", "Try next:"]
    return "\n".join([*lines, *(f"  {command}\n      {purpose}" for command, purpose in next_commands(root))])
