"""From the members of a tar to samples with decoded images, in threads ahead of the shard worker."""

from __future__ import annotations

from collections import deque
from collections.abc import Collection, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor

from ...infra import logs, removals
from .. import source
from ..borders import photo
from ..grouping import SourceSample
from ..reject import Reject
from ..specialists.base import ImageItem, Item
from .job import Job
from .sample import LabelledSample
from .watch import Watch

IMAGE = "image"  # what decodes images and members, by the name that reasons begin with


def decoded(
    job: Job,
    shard: source.Shard,
    entries: Sequence[SourceSample],
    wants_image: bool,
    members: Collection[str] = (),
    watch: Watch | None = None,
    raw: Collection[str] = (),
) -> Iterator[list[LabelledSample]]:
    """Batches of samples in the order of `entries`, decoded ahead by threads.

    Args:
        members: that specialists ask for, by extension. raw: those whose bytes they ask for.
        watch: then each is decoded when it is asked for, and no thread beside it.
    """
    size = job.engine.batch_size
    if watch is not None:
        run = watch.over(IMAGE, lambda some: [_decode(job, shard, entry, wants_image, members, raw) for entry in some])
        for start in range(0, len(entries), size):
            some = entries[start : start + size]
            made = zip(some, run(some), strict=True)
            lost = (*members, *raw)
            yield [_unread(job, shard, e, s.reason, lost) if isinstance(s, Reject) else s for e, s in made]
        return
    # Decoded images are large (36 MB at 4,000 x 3,000): no more than the next batch and what the threads are at.
    ahead = size + 2 * job.engine.decode_threads
    pending: deque[Future[LabelledSample]] = deque()
    with ThreadPoolExecutor(job.engine.decode_threads, initializer=logs.inherited()) as pool:
        batch: list[LabelledSample] = []
        for entry in entries:
            pending.append(pool.submit(_decode, job, shard, entry, wants_image, members, raw))
            if len(pending) >= ahead:
                batch.append(pending.popleft().result())  # the oldest first: the order of the shard
            if len(batch) == size:
                yield batch
                batch = []
        for future in pending:
            batch.append(future.result())
            if len(batch) == size:
                yield batch
                batch = []
        if batch:
            yield batch


def _unread(
    job: Job, shard: source.Shard, entry: SourceSample, reason: str, members: Collection[str]
) -> LabelledSample:
    """A sample whose image and members are not looked at."""
    sample = decode(job, shard, entry, False)
    sample.reasons.setdefault("rgb", reason)
    sample.lacking |= dict.fromkeys(members, reason)
    return sample


def _decode(
    job: Job,
    shard: source.Shard,
    entry: SourceSample,
    wants_image: bool,
    members: Collection[str],
    raw: Collection[str] = (),
) -> LabelledSample:
    with logs.about(key=entry.key):
        sample = decode(job, shard, entry, wants_image)
        for names, read, into in (
            (members, shard.member, sample.item.members),
            (raw, shard.member_bytes, sample.item.raw),
        ):
            for name in names:
                try:
                    into[name] = read(entry, name)
                except Reject as reject:
                    sample.lacking[name] = reject.reason
        return sample


def decode(job: Job, shard: source.Shard, entry: SourceSample, wants_image: bool) -> LabelledSample:
    """One sample: sidecar, caption and, if asked for, the image with its crops. What is missing has its reason."""
    if shard.is_removed(entry):
        reasons = dict.fromkeys(("rgb", "caption"), removals.REASON)
        return LabelledSample(Item(entry.key, None, None, {}), reasons=reasons, is_removed=True)
    info = shard.info(entry)
    caption, reasons = None, {}
    try:
        caption = shard.caption(entry)
    except Reject as reject:
        reasons["caption"] = reject.reason
    if not wants_image:
        return LabelledSample(Item(entry.key, None, caption, info), reasons=reasons)
    try:
        image, window = photo.decode(shard.image(entry), info, job.images)
    except Reject as reject:
        reasons["rgb"] = reject.reason
        return LabelledSample(Item(entry.key, None, caption, info), reasons=reasons)
    height, width = image.shape[:2]
    windows = job.drawing.windows(entry.key, (width, height))
    item = ImageItem(entry.key, image, caption, info)
    if window.is_whole:
        return LabelledSample(item, windows, reasons)
    if job.images.trim_borders:
        item.window = window
    return LabelledSample(item, windows, reasons, has_bars=True)
