"""Chunks: rows of shards that are not done yet. None counts against a root, since nobody takes a damaged one."""

from __future__ import annotations

from collections.abc import Iterator

from ...infra import ledger
from ...pipelines import chunk_files
from ...pipelines.chunk_files import Place
from .finding import Finding
from .listing import Listing


def left(listing: Listing) -> list[Finding]:
    """What there is of chunks, but for those that were written a moment ago."""
    paths = listing.below(chunk_files.FOLDER)
    return [one for path in paths if listing.is_old(path) for one in _findings(listing, path)]


def _findings(listing: Listing, path: str) -> Iterator[Finding]:
    place = chunk_files.place_of(path)
    if place is None:  # temporary files are found elsewhere
        return
    try:
        chunk = chunk_files.read(listing.root, place)
    except FileNotFoundError:  # its shard is done by now
        return
    except ValueError as error:
        yield Finding(path, f"damaged: {error}", broken=False, remove=(path,))
        return
    if all(_is_committed(listing.root, place, output, print_) for output, print_ in chunk.fingerprints.items()):
        yield Finding(path, "rows of a shard that is done", broken=False, remove=(path,))
        return
    said = f"rows {place.start} to {place.stop} of a shard that is not done: the next run goes on from them"
    yield Finding(path, said, broken=False)


def _is_committed(root: str, place: Place, output: str, print_: str) -> bool:
    record = ledger.read(root, output, place.shard)
    return record is not None and record.fingerprint == print_
