"""The weights that a recipe asks for: whether they are there or can be fetched, in which format, how large, whose."""

from __future__ import annotations

import fnmatch
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from ...infra import hub
from ...pipelines.specialists import weight_files
from ...pipelines.specialists.base import Specialist
from ...pipelines.specialists.pretrained import Pretrained
from ...recipe import Recipe
from ...tokenize.text import finished
from . import licences
from .finding import Finding, know, plain_size, sentence, unasked, wrong

HEADERS = 16  # files of one repository whose sizes are asked one by one, if its list does not say them


@dataclass(frozen=True)
class Need:
    """Weights that a recipe names.

    where: the fields that name them. weights: a hub id, or an absolute path. patterns: of the files that are fetched.
    label: whose specialist reads them, "" if none does. known_licence: what fourmill knows of it, "" if nothing.
    is_text: it is a text tokenizer, JSON without weights. kind: of a hub repository, "models" or "spaces".
    """

    where: str
    weights: str
    revision: str | None = None
    patterns: tuple[str, ...] = ("*.json", "*.safetensors")
    label: str = ""
    allow_pickle: bool = False
    known_licence: str = ""
    is_text: bool = False
    kind: str = "models"

    @property
    def is_local(self) -> bool:
        return Path(self.weights).is_absolute()

    @property
    def id(self) -> str:
        return self.weights + (f"@{self.revision}" if self.revision else "")


@dataclass(frozen=True)
class Weights:
    """What is known of weights.

    revision: the commit, "" of local ones. size: bytes of the weights, fetch: of what is yet to be fetched.
    state: "there", "can be fetched", "missing", "refused", "not asked".
    """

    need: Need
    state: str
    format: str = ""
    revision: str = ""
    licence: str = ""
    size: int | None = None
    fetch: int = 0
    findings: tuple[Finding, ...] = ()

    def as_json(self) -> dict[str, Any]:
        return {
            "for": self.need.where, "weights": self.need.weights, "asked": self.need.revision, "state": self.state,
            "format": self.format, "revision": self.revision, "licence": self.licence, "bytes": self.size,
            "fetch": self.fetch,
        }  # fmt: skip


def needs(recipe: Recipe, specialists: dict[str, Specialist]) -> list[Need]:
    """All weights that a recipe names, each once."""
    found = [
        Need(
            f"labels.specialists.{label}", one.weights, one.read_revision, one.patterns(), label, one.may_unpickle,
            known if (known := one.weights_licence()) != "see its source" else "",
        )
        for label, one in specialists.items()
        if isinstance(one, Pretrained)
    ]  # fmt: skip
    each = {name: recipe.tokenizer(name) for name in recipe.tokenizers_needed}
    for name, settings in each.items():
        if settings.weights:
            found.append(Need(f"tokenizers.each.{name}", _absolute(settings.weights), settings.revision))
    if (text := recipe.tokenizers.text).weights:
        found.append(_of_text(text.weights, text.revision))
    init = recipe.train.begins_with
    if init is not None and "://" not in init.weights:
        found.append(Need(init.setting, _absolute(init.weights), init.revision))
    return _once(found)


def _of_text(place: str, revision: str | None) -> Need:
    name = place.removeprefix("spaces/")
    is_space = name != place and not Path(place).exists()
    return Need(
        "tokenizers.text", _absolute(name if is_space else place), revision, finished.FILES, is_text=True,
        kind="spaces" if is_space else "models",
    )  # fmt: skip


def _absolute(place: str) -> str:
    path = Path(place).expanduser()
    return str(path.resolve()) if path.exists() or not hub.is_id(place) else place


def _once(found: Sequence[Need]) -> list[Need]:
    """Weights that several name stand once, with all their fields."""
    merged: dict[tuple[str, str | None, bool], Need] = {}
    for one in found:
        key = one.weights, one.revision, one.allow_pickle
        before = merged.get(key)
        merged[key] = one if before is None else replace(before, where=f"{before.where}, {one.where}")
    return list(merged.values())


def look(need: Need, seconds: float) -> Weights:
    """How weights stand. Only headers are asked for.

    Args:
        seconds: that one request to the hub may take.
    """
    found = _of_folder(need, Path(need.weights)) if need.is_local else _of_hub(need, seconds)
    what = f"{need.where}: {need.id}"
    stated = [one for one in dict.fromkeys((found.licence, need.known_licence)) if licences.is_known(one)]
    if not stated and found.revision:  # of a folder of the user's own without a card nothing need be said
        stated = [""]
    remarks = [text for one in stated if (text := licences.remark(one))]
    said = tuple(know(what, text, "read its terms before you use what is made with it") for text in remarks[:1])
    if found.format == "pickle" and found.state in ("there", "can be fetched"):
        said += (know(what, "is a pickle, which can run code when it is read; allow_pickle says that you trust it"),)
    return replace(found, licence=found.licence or need.known_licence, findings=found.findings + said)


def _of_folder(need: Need, path: Path) -> Weights:
    what = f"{need.where}: {path}"
    if not path.exists():
        found = wrong(what, "there is no such file or folder", f"put it there, or change {need.where}")
        return Weights(need, "missing", findings=(found,))
    if need.is_text:
        return _of_words(need, path)
    files = weight_files.listed(path)
    faults = weight_files.problems(path, need.label, need.allow_pickle)
    kind = "pickle" if files and weight_files.is_pickle(files[0].name) else "safetensors" if files else ""
    return Weights(
        need, "refused" if faults else "there", kind, licence=licences.of_folder(path),
        size=sum(file.stat().st_size for file in files), findings=tuple(sentence(what, text) for text in faults),
    )  # fmt: skip


def _of_words(need: Need, path: Path) -> Weights:
    try:
        finished.place(str(path))
    except ValueError as error:
        return Weights(need, "refused", findings=(sentence(f"{need.where}: {path}", str(error)),))
    return Weights(need, "there", "JSON", licence=licences.of_folder(path))


def cached(need: Need) -> Path | None:
    """The folder of a hub repository that is on this machine already, with weights in it."""
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import LocalEntryNotFoundError

    try:
        kind = need.kind.removesuffix("s")
        folder = Path(snapshot_download(need.weights, repo_type=kind, revision=need.revision, local_files_only=True))
    except (LocalEntryNotFoundError, OSError, ValueError):
        return None
    files = [one for pattern in need.patterns for one in folder.glob(pattern)] if need.is_text else ()
    return folder if files or weight_files.listed(folder) else None


def _of_hub(need: Need, seconds: float) -> Weights:
    here = cached(need)
    try:
        repository = hub.repository(need.weights, need.revision, seconds, need.kind)
    except (hub.Refused, hub.Unanswered) as error:
        return _unseen(need, here, error)
    return _of_repository(need, here, repository, seconds)


def _unseen(need: Need, here: Path | None, error: hub.Refused | hub.Unanswered) -> Weights:
    """Of a repository that the hub does not show: what this machine has of it."""
    what = f"{need.where}: {need.id}"
    if here is not None:
        found = replace(_of_folder(need, here), revision=here.name)
        said = "the hub does not show it now, and it is on this machine" if isinstance(error, hub.Refused) else ""
        return replace(found, findings=(*found.findings, *((know(what, said),) if said else ())))
    if isinstance(error, hub.TokenRefused):
        return Weights(need, "not asked", findings=(wrong(what, error.what, error.advice),))
    if isinstance(error, hub.Refused):
        advice = error.advice if need.revision else f"{error.advice}; or name a local folder that is there"
        return Weights(need, "missing", findings=(wrong(what, error.what, advice),))
    do = "connect to it (HF_ENDPOINT is its address), or name a local folder"
    return Weights(need, "not asked", findings=(unasked(what, str(error), do),))


def _of_repository(need: Need, here: Path | None, repository: hub.Repository, seconds: float) -> Weights:
    what = f"{need.where}: {need.id}"
    base = Weights(need, "can be fetched", revision=repository.commit, licence=repository.licence)
    fetched = [one for one in repository.files if any(fnmatch.fnmatch(one.name, p) for p in need.patterns)]
    safe = [one for one in fetched if one.name.endswith(".safetensors")]
    used = safe or [one for one in fetched if need.is_text or weight_files.is_pickle(one.name)]
    if not used:
        return replace(base, state="refused", findings=(_no_weights(need, repository),), format=_format(repository))
    format_ = "JSON" if need.is_text else "safetensors" if safe else "pickle"
    try:
        sizes = _sizes(need, used, here is None, seconds)
    except hub.Refused as error:
        return replace(base, state="refused", format=format_, findings=(wrong(what, error.what, error.advice),))
    except hub.Unanswered as error:
        said = unasked(what, f"whether it can be fetched: {error}", "ask again later")
        return replace(base, state="not asked", format=format_, findings=(said,))
    known = [size for size in sizes if size is not None]
    size = sum(known) if len(known) == len(sizes) else None
    found = replace(base, format=format_, size=size)
    if here is not None and here.name == repository.commit:
        faults = [] if need.is_text else weight_files.problems(here, need.label, need.allow_pickle)
        return replace(found, state="there", findings=tuple(sentence(what, text) for text in faults))
    others = sum(one.size or 0 for one in fetched if one not in used)
    return replace(found, fetch=(size or sum(known)) + others)


def _format(repository: hub.Repository) -> str:
    return "pickle" if any(weight_files.is_pickle(one.name) for one in repository.files) else ""


def _no_weights(need: Need, repository: hub.Repository) -> Finding:
    """What to do where a repository has nothing that may be read."""
    what = f"{need.where}: {need.id}"
    pickles = [one for one in repository.files if weight_files.is_pickle(one.name)]
    if not pickles:
        beside = () if need.is_text else (".json", ".txt", ".model")
        expected = " or ".join(one for one in need.patterns if not one.endswith(beside))
        return wrong(what, f"holds no weights (expected {expected})", "name another repository or revision")
    largest = max(pickles, key=lambda one: one.size or 0)
    why = f"holds only pickles ({largest.name}, {plain_size(largest.size)}), which can run any code when they are read"
    if need.label:
        trust = f"say labels.specialists.{need.label}.allow_pickle: true if you trust its source"
        return wrong(what, why, f"name a repository with safetensors, or {trust}")
    return wrong(what, why, "name a repository with safetensors")


def _sizes(need: Need, files: Sequence[hub.File], try_access: bool, seconds: float) -> list[int | None]:
    """The sizes of files; of those whose list does not say it by their headers. The first one is asked for in any
    case: a list of files is shown to everybody, and not the files."""
    sizes = []
    for number, one in enumerate(files):
        size = one.size
        if (number == 0 and try_access) or (size is None and number < HEADERS):
            said = hub.file_size(need.weights, need.revision or "main", one.name, seconds, need.kind)
            size = size if size is not None else said
        sizes.append(size)
    return sizes
