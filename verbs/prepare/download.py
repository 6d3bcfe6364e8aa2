"""`fourmill download`: a table of URLs becomes shards, as the section `download` of a recipe says."""

from __future__ import annotations

import argparse
import json
import time
from typing import TYPE_CHECKING, Any

from .. import arguments
from ..summary import Summary, console, show, table, text

if TYPE_CHECKING:
    from ...pipelines.download.download import Made
    from ...recipe import Recipe

ORDER = 18
HELP = "make shards of a table: fetch the images of its URLs, or take its texts"
EXAMPLES = (
    "fourmill download recipe.yaml",
    "fourmill download recipe.yaml --retry-failed",
    "fourmill download recipe.yaml --set download.per_host=2 --set engine.actors=8",
)
NO_CONTACT = "download.contact is not set: name a page or an address, so that owners of web servers can reach you"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    arguments.add_recipe(parser)
    help = "also fetch again what has failed in finished shards, by the classes that download.retry names"
    parser.add_argument("--retry-failed", action="store_true", help=help)


def main(args: argparse.Namespace) -> int:
    recipe = arguments.load_recipe(args)
    if recipe.download is None:
        raise ValueError(f"{args.recipe} has no section download; it needs at least download.table and download.out")
    summary, made = make(recipe, args.retry_failed)
    status = show([summary])
    out = console(120)
    rows = [("success", made.successes), *made.by_class.most_common()]
    shares = [(kind, f"{count:,}", f"{count / max(1, made.count):.1%}") for kind, count in rows]
    rows_of = "rows" if made.text else "URLs"
    out.print(table(f"what came of the {rows_of}", ("class", rows_of, "share"), shares))
    if status == 0:
        out.print(text(f"\nThe recipe reads them with `samples: {recipe.download.out}`"), soft_wrap=True)
    return status


def make(recipe: Recipe, retry_failed: bool = False) -> tuple[Summary, Made]:
    """Fetch what is missing of the section `download`, which the recipe has."""
    from ...pipelines.download import download

    assert recipe.download is not None
    start = time.monotonic()
    made = download.make(download.at(recipe.download), recipe.images.max_pixels, recipe.engine, retry_failed)
    summary = Summary("download", made.made, made.existed, samples=made.successes)
    summary.missing = {f"slice {name}": why for name, why in made.failures.items()}
    summary.seconds = time.monotonic() - start
    share = made.successes / max(1, made.count)
    of = f"rows of texts (column {made.text})" if made.text else "URLs"
    summary.notes.append(f"{made.successes:,} of {made.count:,} {of} gave a sample ({share:.1%})")
    summary.notes += [f"left out of the table: {reason} x{count:,}" for reason, count in made.skipped.items()]
    if made.made and not made.text and not recipe.download.contact and not recipe.download.user_agent:
        summary.notes.append(NO_CONTACT)
    return summary, made


def describe(recipe: Recipe) -> dict[str, Any]:
    """What the section `download` asks for and what is there, as plain values, for `plan`."""
    from ...infra.secrets import public
    from ...pipelines.download import download, slice_files
    from ...pipelines.download import table as tables

    assert recipe.download is not None
    settings = download.at(recipe.download)
    sliced = download.known(settings)
    described: dict[str, Any] = {
        "out": settings.out, "fetcher": settings.fetcher, "user_agent": download.user_agent(settings),
        "per_host": settings.per_host, "size": settings.size,
    }  # fmt: skip
    if sliced is None:
        files = tables.files(settings)
        size = sum(one or 0 for one in download.sizes(files).values())
        return described | {"table": [public(url) for url in files], "bytes": size, "slices": None, "missing": None}
    done = slice_files.found(settings.out).slices
    left = [one for one in sliced.slices if one.number not in done]
    return described | {
        "text": sliced.text or None, "slices": len(sliced.slices), "rows": sum(one.rows for one in sliced.slices),
        "missing": len(left), "missing_rows": sum(one.rows for one in left),
    }  # fmt: skip


def line(described: dict[str, Any]) -> str:
    """The same in one sentence."""
    limit = "any number of" if described["per_host"] is None else f"at most {described['per_host']}"
    how = (
        f"by {described['fetcher']} as {described['user_agent']!r}, {limit} connections to one host, into "
        f"{described['out']}"
    )
    if described["slices"] is None:
        return f"download: {len(described['table'])} files of {described['bytes']:,} bytes, not sliced yet, {how}"
    # Nobody has counted the rows of files of texts in lines.
    of = "texts" if described["text"] else "rows"
    if not described["missing"]:
        rows = f"{described['rows']:,} rows" if described["rows"] else of
        return f"download: all {described['slices']:,} slices are there ({rows}), in {described['out']}"
    rows = f"{described['missing_rows']:,} rows" if described["missing_rows"] else of
    if described["text"]:
        how = f"of the column {described['text']!r}, into {described['out']}"
    return f"download: {described['missing']:,} of {described['slices']:,} slices are missing ({rows}), {how}"


def first_of_plan(recipe: Recipe, as_json: bool) -> tuple[dict[str, Any], bool]:
    """What a plan begins with, printed, {} for a recipe without a table; and whether there is more to plan: a table may
    have no shards yet."""
    if recipe.download is None:
        return {}, True
    described = {"download": describe(recipe)}
    there = has_shards(recipe)
    if not as_json:
        print(text(line(described["download"])).plain)
    if not there:
        later = "all else can be planned when its first shards are there (`fourmill download`, or `fourmill run`)"
        print(json.dumps(described, indent=1, ensure_ascii=False) if as_json else later)
    return described, there


def has_shards(recipe: Recipe) -> bool:
    """Whether the samples of the recipe can be listed; a download may be yet to make them."""
    from ...infra.configuration import RecipeError
    from ...pipelines import plan as plans
    from ...pipelines.sensors import places

    try:
        shards = plans.list_shards(recipe.samples)
    except RecipeError:
        return False
    # One that cannot be looked at is said by the plan.
    return any(one is not None for one in places.stats(shards.urls.values()).values())
