"""What `fourmill submit` makes of a recipe: one file without includes, the user's modules, the names of variables."""

from __future__ import annotations

import datetime
import os
import re
import secrets
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..infra import configuration, faults, storage
from ..infra.configuration import RecipeError
from ..infra.submission import credentials, package

if TYPE_CHECKING:
    from ..project import Project
    from ..recipe import Recipe

OF_RUN = ("label", "fit", "tokenize", "train", "generate")
STAGES = ("run", "download", *OF_RUN, "evaluate")


@dataclass(frozen=True)
class Submission:
    """What a job is made of.

    stage: a verb of STAGES. recipe: as it was loaded here. text: the same for the nodes, with places that do not depend
    on a working folder. sent: files and folders by the path that they get in the job's folder.
    variables: names of environment variables that are set here and that have to do with the recipe's places.
    notes: sentences for the user.
    """

    stage: str
    recipe: Recipe
    text: str
    sent: Mapping[str, Path]
    variables: Sequence[str]
    notes: Sequence[str] = field(default_factory=tuple)

    @property
    def job(self) -> str:
        """A name that no other job has had, with the stage, the folder of the root and the time (UTC) in it."""
        time = datetime.datetime.now(datetime.UTC).strftime("%Y%m%d-%H%M%S")
        return f"{self.stage}-{last_folder(self.recipe.root)}-{time}-{secrets.token_hex(2)}"


def last_folder(root: str) -> str:
    """In letters and digits of ASCII."""
    return re.sub(r"[^A-Za-z0-9]+", "-", root.rstrip("/").rpartition("/")[2])[:30].strip("-") or "root"


def prepare(path: str, overrides: list[str], stage: str, others: Sequence[str] = ()) -> Submission:
    """Read a recipe, and collect what a job of one of its stages needs.

    Args:
        path, overrides: as of `recipe.load`. others: more files and folders to be sent, below the working folder.

    Raises:
        RecipeError: of `recipe.load`.
        ValueError: one of the others is not there, or not below the working folder.
    """
    from .. import recipe as recipes

    data = recipes.read(path, overrides)
    recipe = recipes.parse(data, path)
    _make_absolute(data)
    # The job runs on the cluster that it was submitted to, whatever the recipe says to others.
    data["engine"] = (data.get("engine") or {}) | {"address": "auto"}
    sent, installed = package.modules(recipes.code_asked(data))
    sent |= dict(_others(others))
    notes = [f"module {name} is an installed package here: every node needs it" for name in installed]
    notes += _local_files(data, sent)
    places = [recipe.root, *recipe.samples.places]
    places += [recipe.download.out, *recipe.download.table] if recipe.download else []
    variables = credentials.set_here(places, recipe.train.trackers)
    return Submission(stage, recipe, configuration.dump(data), sent, variables, notes)


def _others(paths: Sequence[str]) -> Iterator[tuple[str, Path]]:
    for name in paths:
        path = Path(name).absolute()
        if not path.exists():
            raise ValueError(f"--with {name}: there is no such file or folder")
        if not path.is_relative_to(Path.cwd()) or path == Path.cwd():
            raise ValueError(f"--with {name}: expected a file or folder below {Path.cwd()}; it keeps its path there")
        yield str(path.relative_to(Path.cwd())), path


def _make_absolute(data: dict[str, Any]) -> None:
    """Roots and shards by paths that mean the same in another working folder."""
    data["root"] = _absolute(data["root"])
    samples = data.get("samples")
    if isinstance(samples, dict):
        data["samples"] = {split: _absolute(spec) for split, spec in samples.items()}
    else:
        data["samples"] = _absolute(samples)
    if isinstance(download := data.get("download"), dict):
        data["download"] = download | {name: _absolute(download[name]) for name in ("table", "out")}
    for one in (data.get("train") or {}).get("datasets") or ():
        if isinstance(one, dict) and one.get("root"):
            one["root"] = _absolute(one["root"])


def _absolute(place: Any) -> Any:
    if isinstance(place, list):
        return [_absolute(one) for one in place]
    if not isinstance(place, str) or not storage.is_local(place) or place.startswith(("/", "~", "file:")):
        return place
    return os.path.abspath(place)


def _local_files(data: Any, sent: Mapping[str, Path], where: str = "") -> Iterator[str]:
    """A note for each relative path of the recipe that is there in this folder, and would not be in the job's."""
    if isinstance(data, dict | list):
        for name, value in data.items() if isinstance(data, dict) else enumerate(data):
            yield from _local_files(value, sent, f"{where}.{name}".strip("."))
    elif isinstance(data, str) and ("/" in data or Path(data).suffix) and not data.startswith(("/", "~")):
        if "://" in data or not _is_there(data) or any(Path(data).is_relative_to(one) for one in sent):
            return
        yield f"{where}: {data} is in this folder, and not on the nodes: --with {data} sends it, if it is read there"


def _is_there(path: str) -> bool:
    try:
        return Path(path).exists()
    except (OSError, ValueError):  # too long for a path
        return False


def nothing_to_do(stage: str, project: Project) -> bool:
    """Whether all that a stage makes exists, by the ledger of the root."""
    from ..recipe import RecipeError

    if stage == "run" and not _is_downloaded(project.recipe):
        return False
    try:
        return not any(_work(one, project) for one in (OF_RUN if stage == "run" else (stage,)))
    except RecipeError:  # which the job will say, perhaps after other stages
        return False


def _is_downloaded(recipe: Recipe) -> bool:
    """Whether all slices are there, or there are none to download."""
    from ..pipelines.download import download, slice_files

    if recipe.download is None:
        return True
    settings = download.at(recipe.download)
    try:
        sliced = download.known(settings)
        return sliced is not None and {one.number for one in sliced.slices} <= set(
            slice_files.found(settings.out).slices
        )
    except (ValueError, OSError):  # which the job will say
        return False


def _work(stage: str, project: Project) -> bool:
    if stage == "label":
        return bool(project.plan(project.label_outputs, footers=True).missing)
    if stage == "fit":
        return bool(project.unfitted)
    if stage == "tokenize":
        outputs = {**project.label_outputs, **project.token_outputs}
        return bool(project.plan(outputs, project.stored_labels, footers=True).missing)
    if stage == "train":
        return project.run_record() is None
    if stage == "generate":
        return bool(project.recipe.generate.chains) and project.generated_record() is None
    return True


def seen_from_here(recipe: Recipe, update: bool) -> tuple[Project | None, str]:
    """The recipe resolved, or why its root and its shards cannot be looked at from this machine.

    RecipeError if a bucket holds none of its shards, or an option is wrong.
    """
    from ..project import Project

    places = [recipe.root, *recipe.samples.places]
    try:
        return Project(recipe, update), ""
    except RecipeError as error:
        # Shards of the cluster's own disks are not here, nor those that are yet to be downloaded. Otherwise it is a
        # mistake that a bucket has none.
        here = recipe.download is not None or any(map(storage.is_local, places))
        if not (str(error).startswith("samples: ") and here):
            raise
        return None, str(error)
    except Exception as error:
        if not (isinstance(error, OSError) or faults.of_place(error) or faults.of_service(error)):
            raise
        return None, faults.sentence(error)
