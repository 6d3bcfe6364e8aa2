"""`fourmill generate`: the recipe's chains, or modalities from inputs of one's own, with the trained model."""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from .. import arguments, stage
from ..summary import Summary, show

if TYPE_CHECKING:
    from ...modalities import Size
    from ...project import Project
    from ...runs.results import Generation
    from ...runs.run import Run

ORDER = 90
HELP = "generate modalities from others with the trained model"
EXAMPLES = (
    "fourmill generate recipe.yaml",
    "fourmill generate recipe.yaml --set generate.seed=1",
    "fourmill generate out/runs/4m --input rgb=photo.jpg --to depth,semseg,caption --out generated",
    "fourmill generate out/runs/4m --input caption='a red boat' --to rgb:steps=12:guidance=2 --out boats",
    "fourmill generate out/runs/4m --input s2=scene.tif --to dem,lulc --tile 96 --ensemble 8 --out maps",
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    text = "a recipe; with --input or --to also the folder of a run, or of an exported or published model"
    parser.add_argument("recipe", metavar="RECIPE|RUN", help=text)
    arguments.add_set(parser)
    arguments.add_update(parser)
    arguments.add_checkpoint(parser)
    arguments.add_trust(parser)
    own = parser.add_argument_group("from inputs of your own")
    text = "a modality or label and its value: a file, a folder, or words; may be given several times"
    own.add_argument("--input", action="append", default=[], metavar="NAME=VALUE", help=text)
    text = (
        "what to generate, in this order, with options: tok_depth,caption:temperature=0.6; may be given several times"
    )
    own.add_argument("--to", action="append", default=[], metavar="TARGETS", help=text)
    own.add_argument("--out", metavar="DIR", help="a folder for pictures, texts and the page; it must be new or empty")
    own.add_argument("--seed", type=int, help="of all random numbers (default: the recipe's generate.seed)")
    own.add_argument("--variations", type=int, default=1, metavar="N", help="results of each input (default: 1)")
    own.add_argument("--ensemble", type=int, default=1, metavar="N", help="average N generations (default: 1)")
    text = (
        "cut a scene, one file for each sensor, into tiles of PX pixels that overlap, or of height x width (96x192), "
        "and blend the results into a map"
    )
    own.add_argument("--tile", type=_tile, metavar="PX", help=text)
    own.add_argument("--root", help="the root of the model's tokenizers (default: the one that holds RUN)")
    shared = parser.add_argument_group("options of all targets (default: as the recipe's chains have them)")
    shared.add_argument("--scheme", choices=["maskgit", "roar", "autoregressive"], help="how tokens are chosen")
    shared.add_argument("--steps", type=int, metavar="N", help="forward passes of a grid")
    shared.add_argument("--temperature", type=float, metavar="T", help="0 takes the likeliest tokens")
    shared.add_argument("--top-p", type=float, metavar="P", help="sample among the likeliest tokens of this mass")
    shared.add_argument("--top-k", type=int, metavar="K", help="sample among the K likeliest tokens")
    shared.add_argument("--guidance", type=float, metavar="S", help="classifier-free guidance by all that is known")


def _tile(text: str) -> Size:
    """96, or 96x192: height and width."""
    from ...infra.fields import sized

    sides = [int(one) if one.isdecimal() else 0 for one in text.lower().split("x")]
    if len(sides) > 2 or min(sides) < 1:
        raise argparse.ArgumentTypeError(f"got {text!r}; expected pixels, 96, or height x width, 96x192")
    return sized(sides[0], sides[-1])


OPTIONS = ("scheme", "steps", "temperature", "top_p", "top_k", "guidance")


def main(args: argparse.Namespace) -> int:
    if args.input or args.to:
        return own_inputs(args)
    if args.out or not arguments.is_recipe(args.recipe):
        raise ValueError("say what to generate, and from what: --to tok_depth,caption --input rgb=photo.jpg --out DIR")
    return show([make(arguments.load_project(args))])


def own_inputs(args: argparse.Namespace) -> int:
    """Generate from the inputs of the command line, write it, and say what came of it."""
    from ...runs import files

    if not args.out:
        raise ValueError("say where to write it: --out DIR, a new or an empty folder")
    files.check(args.out)
    inputs = _inputs(args.input)
    run = _run(args)
    run.watch = _watched if args.tile is None else run.watch
    options = {name: getattr(args, name) for name in OPTIONS if getattr(args, name) is not None}
    if args.tile is not None:
        return _scene(args, run, inputs, options)
    made = run.generate(inputs, args.to, seed=args.seed, variations=args.variations, ensemble=args.ensemble, **options)
    page = made.save(args.out)
    for line in said(made):
        print(line)
    print(page)
    return 0


def _scene(args: argparse.Namespace, run: Run, inputs: Mapping[str, Any], options: Mapping[str, Any]) -> int:
    """Generate maps of a whole scene, and name them."""
    from ...runs import mosaic

    if args.variations != 1:
        raise ValueError(f"--tile: got {args.variations} variations, expected one result")
    for path in mosaic.generate(run, inputs, args.to, args.tile, args.out, args.ensemble, args.seed, **options):
        print(path)
    return 0


@contextmanager
def _watched(total: int) -> Iterator[Callable[[int], None]]:
    from ...infra.progress import Progress

    with Progress("generate", total, "samples") as progress:
        yield progress.update


def _inputs(pairs: Sequence[str]) -> dict[str, Any]:
    """Values by name; a name that is given several times has a list."""
    values: dict[str, list[str]] = {}
    for pair in pairs:
        name, equals, value = pair.partition("=")
        if not equals or not name or not value:
            raise ValueError(f"--input {pair}: expected a name and a value, such as rgb=photo.jpg")
        values.setdefault(name.strip(), []).append(value)
    return {name: listed[0] if len(listed) == 1 else listed for name, listed in values.items()}


def _run(args: argparse.Namespace) -> Run:
    """The model that the command line names, on the GPU where there is one."""
    import torch

    from ...runs.run import opened
    from ...train.pretrain.load import at_step

    device = "cuda" if torch.cuda.is_available() else "cpu"
    if not arguments.is_recipe(args.recipe):
        if args.set or args.update:
            raise ValueError("--set and --update change a recipe; name the recipe in the place of the run")
        if args.trust:
            arguments.trust(args.recipe)
        return opened(at_step(args.recipe, args.checkpoint), device, args.root)
    project = arguments.load_project(args)
    project.check_model()
    root = args.root or project.root
    place = at_step(project.train_job.folder, project.model_step())
    return opened(place, device, root, project.recipe)


def said(generation: Generation) -> Iterator[str]:
    """What was done to the inputs, and the texts that were generated, whole."""
    import json

    from ...report.terminal import plain

    for number, made in enumerate(generation):
        which = f"{number:04d}" + (f" ({made.key})" if made.key != f"{number:04d}" else "")
        if made.variation == 0:
            for name, one in made.inputs.items():
                yield from (plain(f"{made.key}: {name}: {note}") for note in one.notes)
        for name, value in made.items():
            if isinstance(value, str):
                yield plain(f"{which} {name}: {value}")
            elif isinstance(value, list | dict):
                yield plain(f"{which} {name}: {json.dumps(value, ensure_ascii=False, default=float)}")


def make(project: Project) -> Summary:
    """Generate every chain. RecipeError if the model is not trained."""
    start, chains = time.monotonic(), project.recipe.generate.chains
    summary = Summary("generate")
    if not chains:
        summary.notes.append("the recipe has no generate.chains")
        return summary
    project.check_model()
    job = project.generate_job
    if project.generated_record() is not None:
        summary.existed = len(chains)
    else:
        from ...train.downstream import generation
        from ...train.downstream.pool import Where
        from ...train.pretrain import weights

        stage.prepare_root(project)
        where = Where(project.recipe.engine, project.recipe.declares)
        generation.run(job, weights.load_model, where)
        summary.made = len(chains)
    summary.notes.append(job.folder)
    return stage.finish(project, summary, start, "chains", job.fingerprint)
