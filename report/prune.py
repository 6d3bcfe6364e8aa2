"""What a root holds that none of its recipes asks for: columns, labels, tokenizers, runs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from ..infra import ledger, storage
from ..infra.configuration import RecipeError
from ..pipelines import chunk_files

if TYPE_CHECKING:
    from ..pipelines.outputs import Output
    from ..project import Project


@dataclass(frozen=True)
class Unasked:
    """One output, tokenizer or run that no recipe asks for.

    what: "tokens/det", "tokenizers/tok_rgb", "runs/4m/FINGERPRINT". why: that, in words.
    urls: its files. records: of the ledger, which are deleted first: without its record a file is nothing.
    """

    what: str
    why: str
    urls: tuple[str, ...]
    records: tuple[str, ...]
    bytes: int

    @property
    def files(self) -> int:
        return len(self.urls)


@dataclass
class Found:
    """What no recipe asks for, and what could not be decided, in sentences."""

    found: list[Unasked] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)


def unasked(projects: Sequence[Project]) -> Found:
    """Compare a root with its recipes.

    Args:
        projects: at least one, all of one root.
    """
    root, found = projects[0].root, Found()
    asked: dict[str, list[Output]] = {}
    fitted = True
    for project in projects:
        outputs = dict(project.label_outputs)
        if project.unfitted:
            fitted = False
            names = {f"tokens/{name}" for name in project.recipe.modalities}
            found.notes.append(f"its tokenizers are not fitted as a recipe asks: {', '.join(sorted(names))} are kept")
            asked |= {name: [*asked.get(name, [])] for name in names}
        else:
            outputs |= project.token_outputs
        for name, output in outputs.items():
            asked.setdefault(name, []).append(output)
    for family in ledger.FAMILIES:
        for name in storage.list_names(storage.join(root, family)):
            found.found += _of_output(root, f"{family}/{name}", asked, fitted)
    found.found += _chunks(root, asked, fitted)
    needed = {name for project in projects for name in project.fits}
    for name in storage.list_names(storage.join(root, "tokenizers")):
        if name not in needed:
            record = ledger.record_url(root, "tokenizers", name)
            folder = storage.join(root, "tokenizers", name)
            found.found.append(_thing(f"tokenizers/{name}", "no recipe needs it", storage.list_below(folder), [record]))
    found.found += _runs(root, projects, found.notes)
    return found


def _of_output(root: str, output: str, asked: dict[str, list[Output]], fitted: bool) -> list[Unasked]:
    """The files of one column or label that no recipe asks for."""
    sizes = storage.list_sizes(storage.join(root, output))
    shards = [name.removesuffix(".parquet") for name in sizes if name.endswith(".parquet")]
    if output not in asked:
        return [_of_shards(root, output, shards, sizes, "no recipe names it")] if shards else []
    if not asked[output] or (output.startswith("tokens/") and not fitted):
        return []
    with ThreadPoolExecutor(ledger.THREADS) as pool:
        records = dict(zip(shards, pool.map(lambda shard: ledger.read(root, output, shard), shards), strict=True))
    others = [
        shard
        for shard, record in records.items()
        if record is not None and not any(one.is_asked_for(record.fingerprint) for one in asked[output])
    ]
    why = "made with other options or by another tokenizer than a recipe asks for"
    return [_of_shards(root, output, others, sizes, why)] if others else []


def _chunks(root: str, asked: Mapping[str, Sequence[Output]], fitted: bool) -> list[Unasked]:
    """Chunks of outputs that no recipe asks for, and damaged ones; those of columns are kept while it cannot be said
    which a recipe asks for."""
    unasked = []
    for shard in chunk_files.shards(root):
        places = [one for one in chunk_files.of_shard(root, shard) if not _is_wanted(root, one, asked, fitted)]
        if places:
            urls = {storage.join(root, place.path): 0 for place in places}
            sizes = storage.list_sizes(storage.join(root, chunk_files.FOLDER, shard))
            urls = {url: sizes.get(url.rpartition("/")[2], 0) for url in urls}
            what = f"{chunk_files.FOLDER}/{shard}"
            unasked.append(_thing(what, "rows of outputs that no recipe asks for", urls, []))
    return unasked


def _is_wanted(root: str, place: chunk_files.Place, asked: Mapping[str, Sequence[Output]], fitted: bool) -> bool:
    try:
        chunk = chunk_files.read(root, place)
    except FileNotFoundError:
        return True
    except ValueError:
        return False
    for output, print_ in chunk.fingerprints.items():
        if not fitted and output.startswith("tokens/"):
            return True
        if any(one.is_asked_for(print_) for one in asked.get(output, ())):
            return True
    return False


def _of_shards(root: str, output: str, shards: Sequence[str], sizes: dict[str, int], why: str) -> Unasked:
    urls = tuple(ledger.output_url(root, output, shard) for shard in shards)
    records = tuple(ledger.record_url(root, output, shard) for shard in shards)
    return Unasked(output, why, urls, records, sum(sizes[f"{shard}.parquet"] for shard in shards))


def _runs(root: str, projects: Sequence[Project], notes: list[str]) -> list[Unasked]:
    """Runs of other fingerprints. None if what a recipe asks for cannot be said: its columns are not complete."""
    asked = {(f"fit-{name}", print_) for project in projects for name, print_ in project.fit_fingerprints.items()}
    for project in projects:
        try:
            asked.add((project.recipe.train.name, project.train_job.fingerprint))
        except RecipeError as error:
            notes.append(f"runs are kept: which one a recipe asks for cannot be said: {error}")
            return []
    found = []
    for name in storage.list_names(runs := storage.join(root, "runs")):
        for print_ in storage.list_names(storage.join(runs, name)):
            if (name, print_) not in asked:
                folder = storage.join(runs, name, print_)
                records = [ledger.record_url(root, f"runs/{name}", print_)]
                generated = storage.list_names(storage.join(folder, "generated"))
                records += [ledger.record_url(root, f"generated/{name}", one) for one in generated]
                what = f"runs/{name}/{print_}"
                found.append(_thing(what, "another run than a recipe asks for", storage.list_below(folder), records))
    return found


def _thing(what: str, why: str, files: Mapping[str, int], records: Sequence[str]) -> Unasked:
    return Unasked(what, why, tuple(files), tuple(records), sum(files.values()))


def delete(root: str, one: Unasked) -> None:
    """Delete its records, and then its files. What is killed in between leaves files without records, which `fourmill
    check --repair` removes, or this does at its next call."""
    for url in (*one.records, *one.urls):
        storage.delete(url)
    if storage.is_local(root):
        for folder in sorted({storage.local_path(url).parent for url in one.urls}, reverse=True):
            while folder != storage.local_path(root) and folder.is_dir() and not any(folder.iterdir()):
                folder.rmdir()
                folder = folder.parent
