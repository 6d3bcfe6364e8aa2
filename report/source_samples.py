"""A sample as its shard has it, before anything is made of it."""

from __future__ import annotations

from ..pipelines import images
from ..pipelines.grouping import SourceSample
from ..pipelines.reject import Reject
from ..pipelines.source import Shard
from .html.gallery import GallerySample


def read_sample(shard: Shard, entry: SourceSample, max_pixels: int) -> GallerySample:
    """Image, caption and credit of a sample; `rejects` say by label ("rgb", "caption") why one is missing."""
    image, caption, problems = None, None, {}
    try:
        caption = shard.caption(entry)
    except Reject as reject:
        problems["caption"] = reject.reason
    try:
        image = images.decode(shard.image(entry), max_pixels)
    except Reject as reject:
        problems["rgb"] = reject.reason
    info = shard.info(entry)
    credit = dict.fromkeys(str(info[name]) for name in ("attribution", "license", "licence") if info.get(name))
    return GallerySample(entry.key, "", image, caption, rejects=problems, credit=", ".join(credit))
