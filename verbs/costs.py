"""What stages cost, for `fourmill plan`: hours of devices, bytes, requests, money; and what was planned and was done.

Hours follow from the time of a stage and the devices that its workers hold. Bytes are those of a sample of what exists,
or an upper bound by counting. Requests are those that `benchmarks/scale.py --s3` counts. Prices are the user's.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ..infra.ledger import Entry
    from ..project import Project

GIB = 2**30
PRICES = {
    "gpu_hour": "a GPU for an hour",
    "core_hour": "a core for an hour",
    "gib_month": "a GiB kept for a month",
    "million_requests": "a million requests to storage",
}
OF_OUTPUT, OF_SHARD = 12, 3  # requests of an output of a shard: record, file, and both read once for the index
FOLDER = "plans"
_STAGES = ("label", "fit", "tokenize", "train", "generate")


def parsed(words: Sequence[str]) -> dict[str, float]:
    """The prices of NAME=NUMBER. ValueError for another name, or a number that is none."""
    prices = {}
    for word in words:
        name, _, number = word.partition("=")
        if name not in PRICES:
            known = ", ".join(f"{one} ({what})" for one, what in PRICES.items())
            raise ValueError(f"--price: got {word!r}, expected NAME=NUMBER, where NAME is one of {known}")
        try:
            price = float(number)
        except ValueError:
            price = -1.0
        if not 0 <= price < float("inf"):
            raise ValueError(f"--price: got {word!r}, expected a number from 0 on after {name}=")
        prices[name] = price
    return prices


def of_node(path: str) -> dict[str, Any]:
    """What another machine has measured: its `plan --json`. ValueError if the file is none."""
    from ..infra import side_files, storage

    found = side_files.read_object(storage.absolute(path), ("node", "stages"))
    node = found["node"] if found else None
    if not isinstance(node, dict) or not isinstance(node.get("flops"), dict) or "machine" not in node:
        raise ValueError(
            f"--node: {path} is no plan of another machine; there, with the same recipe, run "
            "`fourmill plan recipe.yaml --measure 32 --json > node.json`"
        )
    assert found is not None
    return found


def add(
    stages: Sequence[dict[str, Any]],
    project: Project,
    described: Mapping[str, Any],
    done: Mapping[tuple[str, str], Entry],
    prices: Mapping[str, float],
) -> None:
    """Add "gpu_hours", "core_hours", "bytes", "requests" and "money" to each stage.

    Args:
        described: the plan so far. done: what exists.
        prices: of `PRICES`; money counts those that are given, and is None without any.
    """
    written, requests = _written(project, described, done), _requests(project, described)
    for stage in stages:
        name = stage["stage"]
        hours = None if stage["seconds"] is None else stage["seconds"] / 3600
        gpus, cores = _devices(project, described, name)
        is_done = stage["seconds"] == 0.0
        stage["gpu_hours"] = None if hours is None else round(hours * gpus, 3)
        stage["core_hours"] = None if hours is None else round(hours * cores, 3)
        stage["bytes"] = 0 if is_done else written.get(name)
        stage["requests"] = 0 if is_done else requests.get(name)
        stage["money"] = _money(stage, prices)


def _devices(project: Project, described: Mapping[str, Any], stage: str) -> tuple[float, float]:
    """(GPUs, cores) that a stage holds."""
    actors, recipe = described["actors"], project.recipe
    cores = actors["cluster"]["CPU"]
    if stage in ("label", "tokenize"):
        return actors["at_once"] * actors["gpus"], actors["at_once"] * actors["cpus"]
    if stage == "fit":
        return recipe.fit.workers * recipe.fit.gpus, recipe.fit.workers * recipe.fit.cpus if recipe.fit.cpus else cores
    workers = recipe.train.worker_range[1] if stage == "train" else 1
    return workers * recipe.train.gpus, workers * recipe.train.cpus if recipe.train.cpus else cores


def _written(
    project: Project, described: Mapping[str, Any], done: Mapping[tuple[str, str], Entry]
) -> dict[str, int | None]:
    """Bytes that stages write, as far as it is known: of label, tokenize and train."""
    from ..report.doctor import amounts

    recipe, samples, shards = project.recipe, described["samples"], described["shards"]
    rows, bytes_ = Counter[str](), Counter[str]()
    for (output, _), record in done.items():
        rows[output] += record.rows
        bytes_[output] += record.bytes
    written: dict[str, int | None] = {"train": round(amounts.of_training(recipe))}
    labels = {f"labels/{name}": name for name in recipe.labels.keep}
    columns = {f"tokens/{name}": name for name in recipe.made}
    for stage, outputs, counted in (("label", labels, amounts.of_label), ("tokenize", columns, amounts.of_column)):
        if samples is None:
            written[stage] = None
            continue
        of_each = {
            output: bytes_[output] / rows[output] if rows[output] else counted(recipe, name)
            for output, name in outputs.items()
        }
        missing = {output: described["missing"].get(output, shards) / max(1, shards) for output in outputs}
        written[stage] = round(sum(samples * missing[output] * of_each[output] for output in outputs))
    return written


def _requests(project: Project, described: Mapping[str, Any]) -> dict[str, int]:
    """Requests to storage that is not on the machines, of label, tokenize and train."""
    from ..infra import storage
    from ..tokenize.store import ROW_GROUP

    recipe, shards, missing = project.recipe, described["shards"], described["missing"]
    remote = not storage.is_local(project.root)
    tars = OF_SHARD * any(not storage.is_local(url) for url in project.shards.urls.values())
    found = {}
    columns = [f"tokens/{name}" for name in recipe.modalities]
    others = [name for name in missing if not name.startswith("tokens/")]
    for stage, names in (("label", others), ("tokenize", columns)):
        lacking = [missing.get(name, shards) for name in names]
        found[stage] = OF_OUTPUT * remote * sum(lacking) + tars * max(lacking, default=0)
    seen = min(recipe.train.steps * recipe.train.batch_size / recipe.train.repeat, described["samples"] or 0)
    # A footer and a row group of each column; what is read again is in the cache of the machine.
    found["train"] = round(remote * len(recipe.modalities) * (shards + seen / ROW_GROUP))
    return found


def _money(stage: Mapping[str, Any], prices: Mapping[str, float]) -> float | None:
    """What a stage costs, and its bytes for a month; None if a figure is lacking that has a price."""
    units = {
        "gpu_hour": stage["gpu_hours"],
        "core_hour": stage["core_hours"],
        "gib_month": None if stage["bytes"] is None else stage["bytes"] / GIB,
        "million_requests": None if stage["requests"] is None else stage["requests"] / 1e6,
    }
    parts = [price * units[name] for name, price in prices.items() if units[name] is not None]
    hours = {"gpu_hour", "core_hour"} & prices.keys()
    if not parts or (hours and stage["gpu_hours"] is None):
        return None
    return round(sum(parts), 4)


def keep(root: str, stages: Sequence[Mapping[str, Any]], samples: int | None) -> None:
    """Keep what is planned in the root, of stages that have something to do, for the comparison afterwards."""
    from ..infra import storage, sums

    for stage in stages:
        if stage["seconds"]:
            fields = {
                name: stage[name] for name in ("seconds", "gpu_hours", "core_hours", "bytes", "requests", "money")
            }
            content = sums.sealed({"samples": samples, **fields})
            storage.put(_url(root, FOLDER, stage["stage"]), (json.dumps(content, indent=1) + "\n").encode())


def compared(root: str, now: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Of each stage that has nothing left to do, what was planned and what it took.

    A plan of some of the samples, or a stage that had begun before it was made, is taken for the samples that the stage
    has done in all.

    Args:
        now: the stages of the present plan.
    """
    from ..infra import side_files

    done = [stage["stage"] for stage in now if stage["seconds"] == 0.0 and stage["stage"] in _STAGES]
    rows = []
    for name in done:
        planned = side_files.read_object(_url(root, FOLDER, name), ("seconds", "samples"))
        took = side_files.read_object(_url(root, "stages", name), ("seconds", "made", "samples"))
        if planned is None or took is None:
            continue
        of_samples = bool(took["samples"] and planned["samples"])
        share = took["samples"] / planned["samples"] if of_samples else 1.0
        expected = planned["seconds"] * share
        row = {"stage": name, "planned": round(expected, 1), "took": took["seconds"]}
        row["ratio"] = round(took["seconds"] / expected, 2) if expected else None
        row["hours"] = {
            kind: round(planned[kind] * share * row["ratio"], 3)
            for kind in ("gpu_hours", "core_hours")
            if planned.get(kind) and row["ratio"]
        }
        rows.append(row)
    return rows


def _url(root: str, folder: str, stage: str) -> str:
    from ..infra import storage

    return storage.join(root, "ledger", folder, f"{stage}.json")


def show(console: Any, described: Mapping[str, Any]) -> None:
    """Print both tables."""
    from ..infra.progress import duration
    from . import summary

    columns = ("stage", "GPU-hours", "core-hours", "writes", "requests", "money")
    rows = [
        (
            row["stage"], _said(row["gpu_hours"], "{:,.2f}"), _said(row["core_hours"], "{:,.2f}"),
            "" if row["bytes"] is None else f"{row['bytes'] / GIB:,.2f} GiB", _said(row["requests"], "{:,}"),
            _said(row["money"], "{:,.2f}"),
        )
        for row in described["stages"]
    ]  # fmt: skip
    console.print(summary.table("about what each stage costs", columns, rows))
    if described["prices"]:
        total = sum(row["money"] or 0.0 for row in described["stages"])
        said = ", ".join(f"{name} {price:g}" for name, price in described["prices"].items())
        lacking = [row["stage"] for row in described["stages"] if row["money"] is None]
        more = f", and what is unknown of {', '.join(lacking)}" if lacking else ""
        console.print(f"in all about {total:,.2f}{more}, by your prices: {said}")
    else:
        console.print(f"money: no prices are given; --price {' --price '.join(f'{one}=NUMBER' for one in PRICES)}")
    if described["compared"]:
        done = [
            (one["stage"], duration(one["planned"]), duration(one["took"]), _said(one["ratio"], "{:.2f}"))
            for one in described["compared"]
        ]
        console.print(summary.table("planned, and what it took", ("stage", "planned", "took", "ratio"), done))


def _said(value: float | None, form: str) -> str:
    return "" if value is None else form.format(value)
