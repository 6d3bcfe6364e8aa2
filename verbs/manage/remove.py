"""`fourmill remove`: take samples out of a root for good."""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from ...pipelines.removal.removal import Outcome

ORDER = 120
HELP = "take samples out of a root for good: columns, labels, pages, generations, tars in it"
EXAMPLES = (
    "fourmill remove out --keys taken-down.txt",
    "fourmill remove s3://bucket/out --urls urls.txt",
    "fourmill remove out",
)
SHOWN = 12  # of each list


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("root", metavar="ROOT", help="a root; without --keys and --urls a removal goes on")
    parser.add_argument("--keys", metavar="FILE", help="a text file with the key of a sample in each line")
    parser.add_argument("--urls", metavar="FILE", help="a text file with a URL in each line: the samples' field `url`")


def main(args: argparse.Namespace) -> int:
    from ...infra import storage
    from ...pipelines import source
    from ...pipelines.removal import removal
    from ...report.inspect.provenance import keys_of, shards_of

    root = storage.absolute(args.root).rstrip("/")
    if not storage.list_names(root):
        raise ValueError(f"{args.root}: there is no root of this name")
    keys, urls = _lines(args.keys), _lines(args.urls)
    outcome = removal.run(root, keys, urls, shards_of(root), source.scratch_folder(), keys_of(root))
    for line in (*said(root, outcome), *_kept_by_machines(root)):
        print(line)
    return 1 if outcome.problems or outcome.unread else 0


def _kept_by_machines(root: str) -> Iterator[str]:
    """Delete what this machine's cache has of the columns of a root, and say what others may have."""
    from ...infra import configuration, storage
    from ...train.data import cache

    tokens = storage.join(root, "tokens")
    if storage.is_local(root):
        return
    try:
        recipe = configuration.parse_yaml(storage.read_bytes(storage.join(root, "recipe.yaml")))
        folder = recipe["train"]["cache"]["folder"]
    except (OSError, ValueError, LookupError, TypeError):
        folder = None
    places = [cache.CacheOptions(), *([cache.CacheOptions(folder)] if isinstance(folder, str) else [])]
    yield from _list(
        "deleted, kept on this machine for training", [str(p) for o in places if (p := cache.forget(tokens, o))]
    )
    yield (
        "other machines that trained on it may keep its columns, in train.cache.folder or below TMPDIR: delete "
        f"{cache.NAME}/{cache.place_of(tokens)} there"
    )


def _lines(path: str | None) -> list[str]:
    """The lines of a text file, without those that are empty. ValueError if it is none."""
    if path is None:
        return []
    try:
        text = Path(path).read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise ValueError(f"{path}: expected a text file with one key or URL in each line: {error}") from None
    return [line.removesuffix("\r") for line in text.split("\n") if line.strip()]


def said(root: str, outcome: Outcome) -> Iterator[str]:
    """What was done, and what was not, in sentences."""
    rows = sum(map(len, outcome.found.values()))
    yield f"{root}: {rows} samples of {len(outcome.found)} shards are removed; their rows are null, with that reason"
    yield from _list("tars in the root without their contents", outcome.tars)
    yield from _list("deleted, and made again by their verbs", outcome.deleted)
    yield from _list("nothing that is made has these keys; they stay on the list", outcome.unknown)
    yield from _list(
        "could not be looked at for URLs; ask again when they can", [f"{n}: {why}" for n, why in outcome.unread.items()]
    )
    yield from _list("could not be done; ask again", outcome.problems)
    yield from _list("sources elsewhere hold some still (the root never reads them again)", outcome.elsewhere)
    yield from _list("other files that name some", outcome.naming)
    keep = "and keep what they learned: fit and train again without them"
    yield from _list(f"have seen their shards, {keep}", outcome.models.saw)
    yield from _list(
        f"may have seen some, since an older release did not write down what they read, {keep}",
        outcome.models.may_have_seen,
    )
    if outcome.versioned or outcome.versioned is None:
        state = "keeps" if outcome.versioned else "may keep"
        yield f"the bucket {state} older versions of files: delete those of the files above by its own tools"


def _list(title: str, rows: list[str]) -> Iterator[str]:
    if rows:
        more = f", and {len(rows) - SHOWN} more" if len(rows) > SHOWN else ""
        yield f"{title}: {', '.join(rows[:SHOWN])}{more}"
