"""Tokenizers, and the runs of a root: checkpoints, models, what was generated."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable

from ...infra import ledger, storage, sums
from ...infra.formats import header as headers
from ...modalities import TEXT
from ...model.config import CONFIG, WEIGHTS
from ...pipelines.removal import seen
from ...tokenize import codecs, store
from ...train.checkpoint import MARKER, Checkpoint
from ..doctor import licences
from ..inspect.weights import read_json
from .finding import Finding
from .listing import Listing

MODELS = ("model", "last", "ema")


def tokenizers(listing: Listing) -> list[Finding]:
    """Each tokenizer that has a record: its files, and its fingerprint."""
    findings = []
    for path in listing.below("ledger/tokenizers"):
        name = path.rpartition("/")[2].removesuffix(".json")
        files = tuple(listing.below(f"tokenizers/{name}"))
        try:
            record = ledger.parse_whole(storage.read_bytes(listing.url(path)), path)
        except ValueError as error:
            findings.append(Finding(path, f"damaged: {error}", remove=(path,)))
            continue
        if why := _tokenizer(listing, name, record):
            findings.append(Finding(f"tokenizers/{name}", why, remove=(path, *files)))
    return findings


def _tokenizer(listing: Listing, name: str, record: ledger.Record) -> str:
    folder = f"tokenizers/{name}"
    if not listing.below(folder):
        return "its files are missing"
    wrong = sums.damage(listing.url(folder))
    size = sum(listing.files[path].size for path in listing.below(folder))
    if not wrong and size != record.bytes:
        wrong = [f"its files have {size:,} bytes, {record.bytes:,} by its record"]
    if wrong:
        return "; ".join(wrong)
    try:
        print_ = fingerprint_of(listing.root, name)
    except (ValueError, OSError) as error:
        return f"damaged: {error}"
    return "" if print_ == record.sha256 else f"its fingerprint is {print_}, {record.sha256} by its record"


def fingerprint_of(root: str, name: str) -> str:
    """Of the contents of a tokenizer of a root."""
    if name == TEXT:
        return codecs.load_text(root).fingerprint()
    from ...tokenize import tokenizer  # loads torch

    with storage.local_folder(storage.join(root, "tokenizers", name), codecs.CODEBOOK_FILES) as folder:
        return tokenizer.fingerprint(folder)


def runs(listing: Listing) -> list[Finding]:
    """Checkpoints, models, logs and generated tokens of every run, those of fits included."""
    findings = []
    for folder in sorted({"/".join(path.split("/")[:3]) for path in listing.below("runs") if path.count("/") >= 3}):
        files = listing.below(folder)
        findings += _checkpoints(listing, folder, files)
        for name in MODELS:
            findings += _model(listing, folder, name)
        findings += _parquet(listing, folder, files)
        if f"{folder}/{seen.FILE}" in listing.files:
            findings += _shards(listing, folder)
        findings += _licences(listing, (f"{folder}/{licences.FILE}", f"{folder}/{MODELS[0]}/{licences.FILE}"))
        if f"{folder}/metrics.jsonl" in listing.files:
            findings += _log(listing, f"{folder}/metrics.jsonl")
    return findings


def _shards(listing: Listing, folder: str) -> list[Finding]:
    """What a run says of the shards that it reads. Without it, it may have read any."""
    try:
        seen.read(listing.url(folder))
    except ValueError as error:
        return [Finding(f"{folder}/{seen.FILE}", str(error), remove=(f"{folder}/{seen.FILE}",))]
    return []


def _licences(listing: Listing, paths: Iterable[str]) -> list[Finding]:
    """What a run and its model say of the licences that they inherit."""
    findings = []
    for path in (path for path in paths if path in listing.files):
        try:
            licences.read(storage.read_bytes(listing.url(path)))
        except (ValueError, RecursionError) as error:
            findings.append(Finding(path, f"damaged: {error}", remove=(path,)))
    return findings


def _checkpoints(listing: Listing, folder: str, files: Iterable[str]) -> list[Finding]:
    findings, good, bad = [], 0, []
    steps = {path.rpartition("/")[0] for path in files if path.startswith(f"{folder}/checkpoints/step-")}
    for step in sorted(steps):
        inside = tuple(listing.below(step))
        marker = f"{step}/{MARKER}"
        if marker not in listing.files:
            if listing.is_old(*inside):
                findings.append(Finding(step, "a checkpoint that was never completed", broken=False, remove=inside))
            continue
        if why := Checkpoint(int(step.rpartition("-")[2]), listing.url(step)).damage(whole=True):
            bad.append((step, why, (marker, *(path for path in inside if path != marker))))
        else:
            good += 1
    for step, why, remove in bad:
        # A run does not begin at step 0 again unless somebody wants it to.
        only = "; it is the only one: bring its files back, or delete it to begin at step 0 again"
        findings.append(Finding(step, why if good else why + only, remove=remove if good else ()))
    return findings


def _model(listing: Listing, folder: str, name: str) -> list[Finding]:
    place = f"{folder}/{name}"
    files = listing.below(place)
    if f"{place}/{CONFIG}" not in files:
        if files and listing.is_old(*files):
            return [Finding(place, "a model that was never written whole", broken=False, remove=tuple(files))]
        return []
    wrong = sums.damage(listing.url(place))
    if not wrong:
        looks = ((headers.of_url, f"{place}/{WEIGHTS}"), (read_json, f"{place}/{CONFIG}"))
        wrong = [why for look, path in looks if (why := _wrong_with(look, listing, path))]
    if not wrong:
        return []
    _, run, print_ = folder.split("/")
    return [Finding(place, "; ".join(wrong), remove=(f"ledger/runs/{run}/{print_}.json", f"{place}/{CONFIG}", *files))]


def _wrong_with(look: Callable[[str], object], listing: Listing, path: str) -> str:
    """Why a file is not what `look` expects, "" if it is."""
    if path not in listing.files:
        return f"{path} is missing"
    try:
        look(listing.url(path))
    except ValueError as error:
        return str(error)
    return ""


def _parquet(listing: Listing, folder: str, files: Iterable[str]) -> list[Finding]:
    """Tokens that were generated, and answers of evaluations: their files have sums of their rows."""
    findings = []
    _, run, _ = folder.split("/")
    for path in files:
        if not path.endswith(".parquet"):
            continue
        try:
            store.read(storage.read_bytes(listing.url(path)))
        except (ValueError, OSError) as error:
            part = path.removeprefix(f"{folder}/").split("/")
            record = (f"ledger/generated/{run}/{part[1]}.json",) if part[0] == "generated" else ()
            findings.append(Finding(path, f"damaged: {error}", remove=(*record, path)))
    return findings


def _log(listing: Listing, path: str) -> list[Finding]:
    bad = 0
    for line in storage.read_bytes(listing.url(path)).splitlines():
        try:
            json.loads(line)
        except ValueError:
            bad += 1
    return [Finding(path, f"{bad} of its lines cannot be read", broken=False)] if bad else []
