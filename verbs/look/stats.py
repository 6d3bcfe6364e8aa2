"""`fourmill stats`: how labels and tokens are distributed, and which shards are unlike the others."""

from __future__ import annotations

import argparse
import json
from typing import TYPE_CHECKING, Any

from .. import arguments, summary

if TYPE_CHECKING:
    from ...report.stats.stats import Stats

ORDER = 17
HELP = "distributions of labels and tokens, dead and drifting shards first, samples to look at"
EXAMPLES = (
    "fourmill stats out",
    "fourmill stats recipe.yaml",
    "fourmill stats s3://bucket/out --json",
    "fourmill stats out --outputs labels/depth,tokens/tok_depth",
)
SHOWN = 40  # findings


def add_arguments(parser: argparse.ArgumentParser) -> None:
    arguments.add_recipe_or_root(parser)
    text = "these alone, with commas between them (default: all labels and columns that are there)"
    parser.add_argument("--outputs", metavar="NAMES", default=None, help=text)
    parser.add_argument("--out", metavar="FILE", default=None, help="the page (default: ROOT/stats.html)")
    arguments.add_json(parser)


def main(args: argparse.Namespace) -> int:
    """0 if nothing has to be looked at, 1 if there are alarms."""
    from ...report.stats import stats
    from .. import pages

    pages.check_place(args.out)
    job, records = _asked(args)
    records = _chosen(records, args.outputs)
    made = stats.make(job, records)
    place = pages.write_stats(made, args.out)
    if args.json:
        print(json.dumps(made.as_json() | {"page": place}, indent=1, ensure_ascii=False))
    else:
        show(made, place)
    return 1 if made.alarms else 0


def _asked(args: argparse.Namespace) -> tuple[Any, dict[str, Any]]:
    """The job, and the records of what is looked at: all of a root, or what a recipe asks for and is there."""
    from ...report.stats import stats
    from ...report.stats.collect import StatsJob

    if root := arguments.root_of(args):
        return StatsJob(root), stats.records_of(root)
    project = arguments.load_to_look(args)
    outputs = dict(project.label_outputs) | ({} if project.unfitted else project.token_outputs)
    records = stats.by_output(project.plan(outputs).done)
    if not records:
        raise ValueError(f"{args.recipe}: no shard is labelled as it asks; run `fourmill label` first")
    return StatsJob(project.root, project.recipe.engine, tuple(project.recipe.modules)), records


def _chosen(records: dict[str, Any], names: str | None) -> dict[str, Any]:
    if names is None:
        return records
    wanted = [name.strip() for name in names.split(",") if name.strip()]
    if missing := sorted(set(wanted) - records.keys()):
        raise ValueError(f"--outputs: there is no {', '.join(missing)}; there are {', '.join(records)}")
    return {name: records[name] for name in wanted}


def show(made: Stats, place: str) -> None:
    """Print the findings, the worst first, and a line for each output."""
    out = summary.console(120)
    for one in made.findings[:SHOWN]:
        out.print(summary.text(one.said), soft_wrap=True)
    if len(made.findings) > SHOWN:
        out.print(f"... and {len(made.findings) - SHOWN} other findings")
    if not made.alarms:
        out.print("nothing is null, constant, saturated or out of range over a shard, and no shard drifts")
    rows = [
        (name, f"{of['shards']:,}", f"{of['rows']:,}", f"{of['nulls']:,}", _told(of))
        for name, of in made.outputs.items()
    ]
    out.print(summary.table(made.root, ("output", "shards", "rows", "nulls", "what is in it"), rows))
    read = f"{made.files:,} files were read" if made.files else "no file was read again"
    out.print(summary.text(f"{read}; {place}"), soft_wrap=True)


def _told(of: dict[str, Any]) -> str:
    """An output in a few words."""
    parts = []
    if codes := of.get("codes"):
        parts.append(f"{codes['used']:,} of {codes['size']:,} codes, perplexity {codes['perplexity']:,.1f}")
    channels = of.get("channels") or []
    if channels and channels[0]["mean"] is not None:
        means = ", ".join(f"{one['mean']:.3g} +- {one['std']:.3g}" for one in channels[:4] if one["mean"] is not None)
        parts.append(f"channels {means}{', ...' if len(channels) > 4 else ''}")
    chosen = ("height", "width", "items", "words", "characters", "tokens", "different classes")
    for name in (one for one in chosen if one in of["samples"]):
        one = of["samples"][name]
        parts.append(f"{name} {one['p2']:.4g} to {one['p98']:.4g}")
    if counts := of.get("counts"):
        parts.append(f"most often {', '.join(list(counts)[:3])}")
    return "; ".join(parts)
