"""Under which licences columns, runs and exports are: those of the images, and of the weights that made the labels.

A column of tokens inherits from its label, a label from the labels that its specialist reads, and a run from all of its
columns. What is not known is said so: nobody may take silence for a permission.
"""

from __future__ import annotations

import importlib
import logging
import posixpath
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from .. import recipe as recipes
from ..infra import configuration, ledger, storage, sums
from ..infra.ledger import Record
from ..infra.side_files import read_object
from ..modalities import MODALITIES, import_modules
from ..pipelines.specialists import names, registry
from ..pipelines.specialists.base import Specialist
from ..pipelines.specialists.pretrained import Pretrained
from ..recipe import Recipe
from ..report.doctor.licences import FILE, is_known, of_folder, read, remark
from ..train.pretrain.job import MODEL, TrainJob

logger = logging.getLogger(__name__)

UNKNOWN = "unknown"


@dataclass(frozen=True)
class Used:
    """What a column was made with. weights: as the recipe names them, "" of a specialist without any. licence: "" if
    it has none of its own (an algorithm of fourmill's). revision: the commit, "" if it is not known."""

    by: str
    weights: str = ""
    licence: str = ""
    revision: str = ""

    @property
    def remark(self) -> str:
        """What a user should know of it, "" if nothing."""
        return remark(self.licence) if self.weights or self.licence else ""

    @property
    def is_open(self) -> bool:
        """Whether nothing of it has to be named."""
        return not self.remark


def used(root: str, recipe: Recipe | None, outputs: Mapping[str, Record]) -> dict[str, list[Used]]:
    """What each output was made with, beside the images.

    Args:
        recipe: of the root, None if it cannot be read, or asks for code that is not run.
        outputs: a record of each output, by name.
    """
    specialists = _specialists(recipe)
    pins = _pins(root)
    return {output: _of_output(output, record, specialists, pins) for output, record in outputs.items()}


def _of_output(
    output: str, record: Record, specialists: Mapping[str, Specialist], pins: Mapping[str, Mapping[str, Any]]
) -> list[Used]:
    family, _, name = output.partition("/")
    label = name if family == "labels" else (MODALITIES[name].label if name in MODALITIES else "")
    made = record.made.get("specialists", {})
    if "imported" in record.identity:
        return [Used(f"imported: {record.identity['imported'].get('from', 'made elsewhere')}", "elsewhere", "unknown")]
    found: dict[str, Used] = {}
    todo = [label]
    while todo:
        one = todo.pop()
        if one in found or not one or one == "rgb":
            continue
        specialist = specialists.get(one)
        found[one] = _of_label(one, specialist, record if one == label else None, made.get(one, {}), pins)
        if specialist is not None:
            todo += [need for need in (*specialist.needs, *specialist.looks_at()) if need in specialists]
    return list(found.values())


def _of_label(
    label: str,
    specialist: Specialist | None,
    record: Record | None,
    made: Mapping[str, Any],
    pins: Mapping[str, Mapping[str, Any]],
) -> Used:
    said = record.identity if record is not None and record.output.startswith("labels/") else {}
    if (
        specialist is None
        or said.get("specialist", specialist.identity()["specialist"]) != specialist.identity()["specialist"]
    ):
        return _by_record(label, said, made, pins)
    by = str(specialist.identity()["specialist"])
    if not isinstance(specialist, Pretrained):
        return Used(by)
    weights = str(specialist.weights)
    pin = pins.get(weights, {})
    licence = of_folder(Path(weights)) if specialist.is_local else str(pin.get("licence") or "")
    own = specialist.weights_licence()
    # What our class says of its default weights counts beside what the hub says: SMPL's terms stand on no card.
    both = [one for one in dict.fromkeys((own, licence)) if one and is_known(one)]
    return Used(by, weights, "; ".join(both) or own or "unknown", str(pin.get("commit") or made.get("revision") or ""))


def _by_record(
    label: str, said: Mapping[str, Any], made: Mapping[str, Any], pins: Mapping[str, Mapping[str, Any]]
) -> Used:
    """By what the record says alone: the recipe is not known, or has changed since."""
    by = str(said.get("specialist", "unknown"))
    ours = names.SPECIALISTS.get(by)
    cls = getattr(importlib.import_module(ours.place[0]), ours.place[1]) if ours is not None else None
    if cls is not None and not issubclass(cls, Pretrained):
        return Used(by)
    default = str(cls.model_fields["weights"].default) if cls is not None else ""
    weights = str(made.get("weights") or said.get("options", {}).get("weights") or default)
    pin = pins.get(weights, {})
    own = cls.licence if cls is not None and weights == default else ""
    both = [one for one in dict.fromkeys((own, str(pin.get("licence") or ""))) if one and is_known(one)]
    return Used(by, weights or label, "; ".join(both) or "unknown", str(pin.get("commit", "")))


def _specialists(recipe: Recipe | None) -> dict[str, Specialist]:
    if recipe is None:
        return {}
    import_modules(recipe.modules)
    made, _ = registry.build_each(recipe.made, recipe.labels, recipe.modules, recipe.class_lists)
    return made


def _pins(root: str) -> dict[str, dict[str, Any]]:
    """What the root has noted of repositories of the hub, by their names."""
    folder = storage.join(root, "ledger", "weights")
    notes = [read_object(storage.join(folder, name), ("weights",)) for name in storage.list_names(folder)]
    return {str(one["weights"]): one for one in notes if one is not None}


def _recipe_of_other(root: str) -> Recipe | None:
    """The recipe of another root; one that cannot be read stops no training."""
    try:
        return recipe_of(root)[0]
    except (ValueError, OSError):
        return None


def restricted(of: Mapping[str, Sequence[Used]]) -> dict[str, list[str]]:
    """What has to be known, by output: "hmr2 (4D-Humans) is not for commercial use (...)"."""
    said: dict[str, list[str]] = {}
    for output, several in of.items():
        for one in several:
            if not one.is_open:
                who = f"{one.by} ({one.weights})" if one.weights and one.weights != one.by else one.by
                said.setdefault(output, []).append(f"{who} {one.remark}")
    return said


def recipe_of(root: str) -> tuple[Recipe | None, str]:
    """The recipe of a root, and why it is not read: its own code is not run."""
    url = storage.join(root, "recipe.yaml")
    try:
        data = configuration.parse_yaml(storage.read_bytes(url))
        if code := recipes.code_of(data):
            return None, f"licences by the recipe, which asks for code of its own ({', '.join(code)}), which is not run"
        return recipes.parse(data | {"root": root}, url, trusted=False), ""
    except FileNotFoundError:
        return None, "licences by the recipe, which is not there"


def keep(said: dict[str, Any], folder: str) -> list[str]:
    """Write what a run inherits (`of_run`) into a folder; returns what has to be known, in words."""
    storage.put(storage.join(folder, FILE), sums.text(said))
    return [f"to be known before use, {name}: {'; '.join(why)}" for name, why in said["to_be_known"].items()]


def complete(job: TrainJob) -> None:
    """If a finished run says what it inherits, its model does, and the other way round: the driver was killed before it
    had written both, or a damaged file was removed. Those of older releases say nothing."""
    urls = [storage.join(folder, FILE) for folder in (job.folder, storage.join(job.folder, MODEL))]
    there = [url for url in urls if storage.exists(url)]
    try:
        for url in urls if len(there) == 1 else ():
            if url not in there:
                storage.put(url, sums.text(read(storage.read_bytes(there[0]))))
    except (OSError, ValueError) as error:  # of a root that is only read; damage that `check` names
        logger.warning("licences of the run cannot be kept: %s", error)


def of_run(job: TrainJob, recipe: Recipe) -> dict[str, Any]:
    """What a run inherits, as its file says it: of the images of each root, of each column, and what has to be known
    before use, by column; "images" is of all."""
    every = tuple(spec.name for spec in job.specs)
    parts = [(one.url, one.shards, one.modalities or every) for one in job.datasets]
    parts = parts or [(storage.join(job.root, "tokens"), job.shards, every)]
    images: dict[str, str] = {}
    columns: dict[str, list[Used]] = {}
    for url, shards, modalities in parts:
        root = posixpath.dirname(url)
        of_root = recipe if root == job.root else _recipe_of_other(root)
        images[root] = (of_root.licence if of_root is not None else "") or UNKNOWN
        records = (ledger.read(root, f"tokens/{name}", shards[0].name) for name in modalities)
        found = used(root, of_root, {record.output: record for record in records if record is not None})
        for output, several in found.items():
            columns.setdefault(output, []).extend(one for one in several if one not in columns.get(output, ()))
    known = {output.removeprefix("tokens/"): why for output, why in restricted(columns).items()}
    stated = dict.fromkeys(one for one in images.values() if one != UNKNOWN)
    of_images = [f"{licence} {why}" for licence in stated if (why := remark(licence))]
    return {
        "images": images,
        "columns": {of.removeprefix("tokens/"): [asdict(one) for one in several] for of, several in columns.items()},
        "began_with": None if (init := job.settings.begins_with) is None else init.weights,
        "to_be_known": ({"images": of_images} if of_images else {}) | known,
    }
