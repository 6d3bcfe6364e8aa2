"""The verbs of the command line. Each loads the recipe, calls one function, and prints what came of it.

Only argparse is imported here, so that `fourmill --help` answers at once; a verb imports what it needs when it runs.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Callable, Sequence
from typing import Any

RECIPE_STAGES = {
    "label": "make the raw labels that the recipe keeps",
    "fit": "fit the tokenizers that are missing",
    "tokenize": "label and tokenize every shard into columns",
    "train": "train 4M on the columns",
    "generate": "generate modalities from others with the trained model",
    "run": "all of the above, in order, and the report",
}

EPILOG = """examples:
  fourmill demo                                     the whole line on real photos, some six minutes
  fourmill init --samples 'data/{00000..00009}.tar' --root out > recipe.yaml
  fourmill run recipe.yaml                          shards -> labels -> tokens -> a trained 4M -> a report
  fourmill tokenize recipe.yaml --set engine.actors=4
  fourmill plan recipe.yaml                         what will be done, by which models, and how long it takes
  fourmill status recipe.yaml                       what exists, what is missing, and why
  fourmill inspect out/tokens/tok_rgb/00000.parquet
"""


def parser() -> argparse.ArgumentParser:
    """The command line, every verb with its help and examples."""
    top = argparse.ArgumentParser(
        prog="fourmill",
        description="Mill image-text shards into aligned multimodal tokens, and train 4M on them.",
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    top.add_argument("--version", action="store_true", help="print the version and exit")
    verbs = top.add_subparsers(dest="verb", metavar="VERB")
    text = "the whole line on the photos that scikit-image, scikit-learn and matplotlib ship"
    demo = _verb(verbs, "demo", text, ["fourmill demo", "fourmill demo --out /tmp/demo"])
    demo.add_argument("--out", default="demo", metavar="DIR", help="where everything goes (default: demo)")
    examples = [
        "fourmill init --samples 'data/{00000..00009}.tar' --root out > recipe.yaml",
        "fourmill init --samples s3://bucket/cc12m/ --val s3://bucket/val/ --root s3://bucket/out",
    ]
    init = _verb(verbs, "init", "print a starter recipe, after a look into the first shard", examples)
    text = "training shards: URL, brace pattern, glob or folder; may be given several times"
    init.add_argument("--samples", required=True, action="append", metavar="URL", help=text)
    init.add_argument("--val", action="append", default=[], metavar="URL", help="validation shards, likewise")
    init.add_argument("--root", required=True, metavar="URL", help="where outputs go")
    for name, text in RECIPE_STAGES.items():
        examples = [f"fourmill {name} recipe.yaml", f"fourmill {name} recipe.yaml --set engine.batch_size=16"]
        _recipe(_verb(verbs, name, text, examples))
    examples = ["fourmill plan recipe.yaml", "fourmill plan recipe.yaml --measure 32"]
    plan = _verb(verbs, "plan", "what the recipe will do: labels, weights, tokenizers, actors, time", examples)
    _recipe(plan)
    text = "label and tokenize so many samples here, throw them away, and estimate the time of all (default: 0)"
    plan.add_argument("--measure", type=int, default=0, metavar="N", help=text)
    plan.add_argument("--json", action="store_true", help="print JSON")
    evaluate = _verb(verbs, "evaluate", "measure what tokenizers lose", ["fourmill evaluate recipe.yaml --tokenizers"])
    _recipe(evaluate)
    text = "reconstruct validation crops with every fitted tokenizer, and write the table of their errors"
    evaluate.add_argument("--tokenizers", action="store_true", help=text)
    examples = ["fourmill status recipe.yaml", "fourmill status recipe.yaml --json"]
    status = _verb(verbs, "status", "what the recipe asks for, what exists, what is missing", examples)
    _recipe(status)
    status.add_argument("--json", action="store_true", help="print JSON")
    _downstream(verbs)
    examples = [
        "fourmill inspect data/00000.tar",
        "fourmill inspect out/tokens/caption/00000.parquet --row 3",
        "fourmill inspect out --json",
    ]
    text = "show what a shard, column, label, ledger, tokenizer, checkpoint, run or root holds"
    inspect = _verb(verbs, "inspect", text, examples)
    inspect.add_argument("path", metavar="PATH", help="a file or folder, local or any fsspec URL")
    inspect.add_argument("--row", type=int, default=0, help="which sample to show (default: 0)")
    inspect.add_argument("--json", action="store_true", help="print JSON")
    examples = ["fourmill view recipe.yaml", "fourmill view recipe.yaml --samples 200 --out gallery.html"]
    view = _verb(verbs, "view", "write a static HTML gallery of samples, labels, crops and decoded tokens", examples)
    _recipe(view)
    view.add_argument("--samples", type=int, default=60, help="how many samples, evenly from all shards (default: 60)")
    view.add_argument("--out", default=None, metavar="FILE", help="the page (default: ROOT/gallery.html)")
    report = _verb(verbs, "report", "write the HTML report of a run", ["fourmill report recipe.yaml"])
    _recipe(report)
    report.add_argument("--out", default=None, metavar="FILE", help="the page (default: ROOT/report.html)")
    return top


def _downstream(verbs: Any) -> None:
    """`retrieve` and `transfer`: what a trained model is for."""
    examples = [
        "fourmill retrieve recipe.yaml --query caption --text 'a red boat'",
        "fourmill retrieve recipe.yaml --query tok_canny_edge --top 10 --json",
    ]
    retrieve = _verb(verbs, "retrieve", "find images by the global tokens that the model predicts", examples)
    _recipe(retrieve)
    text = "the modality that is given; without --text, of the first generate.samples samples that have it"
    retrieve.add_argument("--query", required=True, metavar="MODALITY", help=text)
    retrieve.add_argument("--text", action="append", default=[], help="a sentence of it; may be given several times")
    text = "the global modality that is predicted (default: the recipe's first)"
    retrieve.add_argument("--target", default="", metavar="MODALITY", help=text)
    retrieve.add_argument("--split", choices=["val", "train"], default="val", help="which images (default: val)")
    retrieve.add_argument("--top", type=int, default=5, help="images found for each query (default: 5)")
    retrieve.add_argument("--json", action="store_true", help="print JSON")
    example = "fourmill transfer out/runs/4m/RUN/model --train 'pets/train-*.tar' --val pets/val.csv --out out/pets"
    transfer = _verb(verbs, "transfer", "fine-tune the encoder to classify images", [example])
    transfer.add_argument("model", metavar="MODEL", help="model/ of a run, or a published checkpoint: folder or hub id")
    text = "tars of KEY.jpg and KEY.cls, or a CSV with the columns path and label; may be given several times"
    transfer.add_argument("--train", required=True, action="append", metavar="URL", help=text)
    transfer.add_argument("--val", required=True, action="append", metavar="URL", help="the same, to measure on")
    transfer.add_argument("--out", required=True, metavar="DIR", help="a local folder for the classifier")
    transfer.add_argument("--epochs", type=int, default=20, help="(default: 20)")
    transfer.add_argument("--batch-size", type=int, default=256, help="(default: 256)")
    transfer.add_argument("--lr", type=float, default=1e-4, help="of the head (default: 1e-4)")
    transfer.add_argument("--image-size", type=int, default=224, help="pixels (default: 224)")
    transfer.add_argument("--lora-rank", type=int, default=0, help="low-rank corrections instead of all weights")
    transfer.add_argument("--seed", type=int, default=0)


def _verb(verbs: Any, name: str, text: str, examples: list[str]) -> argparse.ArgumentParser:
    return verbs.add_parser(
        name,
        help=text,
        description=f"{text[0].upper()}{text[1:]}.",
        epilog="examples:\n" + "".join(f"  {example}\n" for example in examples),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )


def _recipe(verb: argparse.ArgumentParser) -> None:
    verb.add_argument("recipe", metavar="RECIPE", help="a YAML file; `fourmill init` writes one")
    verb.add_argument(
        "--set", action="append", default=[], metavar="A.B=C", help="override a field, e.g. train.steps=100"
    )


def main(argv: Sequence[str] | None = None) -> int:
    """Run one verb. The exit status is 0 if all that was asked for exists, 1 if not, 2 for a mistake in asking."""
    # Threads of torch and OpenMP that wait must sleep, not spin: cores are shared with workers. Read at their import.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    top = parser()
    args = top.parse_args(argv)
    if args.version:
        from . import __version__

        print(f"fourmill {__version__}")
        return 0
    if args.verb is None:
        top.print_help()
        return 2
    try:
        return _VERBS[args.verb](args)
    except KeyboardInterrupt:
        print("stopped; run the same command again to go on from here", file=sys.stderr)
        return 130
    except BrokenPipeError:
        return 1
    except (ValueError, OSError, ImportError, RuntimeError) as error:
        # What users can mend is said in a sentence; anything else is our bug and keeps its traceback.
        mendable = isinstance(error, OSError) or type(error) in (ValueError, ImportError, ModuleNotFoundError)
        if mendable or _is_ours(error):
            print(f"fourmill {args.verb}: {error}", file=sys.stderr)
            return 2
        raise


def _is_ours(error: Exception) -> bool:
    return type(error).__module__.startswith("fourmill.")


def _stage(args: argparse.Namespace) -> int:
    from . import recipe, stages, summaries

    loaded = recipe.load(args.recipe, args.set)
    if args.verb != "run":
        return summaries.show([getattr(stages, args.verb)(loaded)])
    from . import pages

    done = stages.run(loaded)
    status = summaries.show(done)
    if status == 0:
        print(f"report: {pages.report_of(loaded)}")
    return status


def _demo(args: argparse.Namespace) -> int:
    from . import demo, summaries

    done = demo.run(args.out)
    status = summaries.show(done)
    if status == 0:
        print(demo.closing_words(args.out))
    return status


def _init(args: argparse.Namespace) -> int:
    from .pipelines import starter

    print(starter.recipe_text(args.samples, args.val, args.root), end="")
    return 0


def _status(args: argparse.Namespace) -> int:
    from . import recipe, stages, summaries

    return summaries.show_status(stages.status(recipe.load(args.recipe, args.set)), as_json=args.json)


def _plan(args: argparse.Namespace) -> int:
    from . import planning, recipe

    if args.measure < 0:
        raise ValueError(f"--measure: got {args.measure}, expected 0 or more samples")
    return planning.show(planning.describe(recipe.load(args.recipe, args.set), args.measure), as_json=args.json)


def _evaluate(args: argparse.Namespace) -> int:
    from . import evaluation, recipe, summaries

    if not args.tokenizers:
        raise ValueError("say what is measured: fourmill evaluate RECIPE --tokenizers")
    return summaries.show([evaluation.tokenizers(recipe.load(args.recipe, args.set))])


def _retrieve(args: argparse.Namespace) -> int:
    from . import downstream, recipe

    loaded = recipe.load(args.recipe, args.set)
    return downstream.retrieve(loaded, args.query, args.text, args.target, args.split, args.top, args.json)


def _transfer(args: argparse.Namespace) -> int:
    from . import downstream

    names = ("epochs", "batch_size", "lr", "image_size", "lora_rank", "seed")
    options = {name: getattr(args, name) for name in names}
    return downstream.transfer(args.model, args.train, args.val, args.out, options)


def _inspect(args: argparse.Namespace) -> int:
    from .report.inspect import inspect

    return inspect.show(args.path, row=args.row, as_json=args.json)


def _view(args: argparse.Namespace) -> int:
    from . import pages, recipe

    print(pages.write_gallery(recipe.load(args.recipe, args.set), args.samples, args.out))
    return 0


def _report(args: argparse.Namespace) -> int:
    from . import pages, recipe

    print(pages.write_report(recipe.load(args.recipe, args.set), args.out))
    return 0


_VERBS: dict[str, Callable[[argparse.Namespace], int]] = {
    **dict.fromkeys(RECIPE_STAGES, _stage),
    "demo": _demo,
    "init": _init,
    "plan": _plan,
    "evaluate": _evaluate,
    "retrieve": _retrieve,
    "transfer": _transfer,
    "status": _status,
    "inspect": _inspect,
    "view": _view,
    "report": _report,
}


if __name__ == "__main__":
    sys.exit(main())
