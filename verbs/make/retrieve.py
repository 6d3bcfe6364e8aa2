"""`fourmill retrieve`: find images by the global tokens that the model predicts."""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from .. import arguments

if TYPE_CHECKING:
    from ...project import Project

ORDER = 100
HELP = "find images by the global tokens that the model predicts"
EXAMPLES = (
    "fourmill retrieve recipe.yaml --query caption --text 'a red boat'",
    "fourmill retrieve recipe.yaml --query tok_canny_edge --top 10 --json",
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    arguments.add_recipe(parser)
    arguments.add_checkpoint(parser)
    text = "the modality that is given; without --text, of the first generate.samples samples that have it"
    parser.add_argument("--query", required=True, metavar="MODALITY", help=text)
    parser.add_argument("--text", action="append", default=[], help="a sentence of it; may be given several times")
    text = "the global modality that is predicted (default: the recipe's first)"
    parser.add_argument("--target", default="", metavar="MODALITY", help=text)
    parser.add_argument("--split", choices=["val", "train"], default="val", help="which images (default: val)")
    parser.add_argument("--top", type=int, default=5, help="images found for each query (default: 5)")
    arguments.add_json(parser)


def main(args: argparse.Namespace) -> int:
    if args.top < 1:
        raise ValueError(f"--top: got {args.top}, expected 1 or more")
    results, recall = make(arguments.load_project(args), args.query, args.text, args.target, args.split, args.top)
    if args.json:
        rows = [_plain(result) for result in results]
        print(json.dumps({"found": rows, "recall": recall}, indent=1, ensure_ascii=False))
        return 0
    for result in results:
        query = result.query
        print(query if isinstance(query, str) else f"{args.query} of {query[1]} ({query[0]})")
        if not result.places:
            print("  the vector that the model predicts is not finite: nothing is near to it")
        for (shard, key, _), cosine in result.places:
            print(f"  {cosine:6.3f}  {key}  ({shard})")
    for n, share in recall.items():
        print(f"own image among the first {n}: {share:.1%} of {len(results)} queries")
    return 0


def make(
    project: Project, query: str, texts: Sequence[str], target: str, split: str, top: int
) -> tuple[list[Any], dict[int, float]]:
    """The images nearest to each query, and the recall of the queries' own images; see `train.downstream.retrieve`.

    RecipeError if the model is not trained.
    """
    from ...train.downstream import retrieve
    from ...train.downstream.pool import Where
    from ...train.pretrain import weights

    project.check_model()
    where = Where(project.recipe.engine, project.recipe.declares)
    results = retrieve.run(
        project.generate_job, weights.load_model, query, texts=texts, target=target, split=split, top=top, where=where
    )
    return results, {} if texts else retrieve.recall(results, (1, min(5, top)))


def _plain(result: Any) -> dict[str, Any]:
    places = [{"shard": shard, "key": key, "row": row, "cosine": cosine} for (shard, key, row), cosine in result.places]
    return {"query": result.query, "places": places}
