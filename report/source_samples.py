"""A sample as its shard has it, before anything is made of it."""

from __future__ import annotations

from ..pipelines.borders import photo
from ..pipelines.grouping import SourceSample
from ..pipelines.reject import Reject
from ..pipelines.settings import Images
from ..pipelines.source import Shard
from .html.gallery import GallerySample


def read_sample(shard: Shard, entry: SourceSample, settings: Images) -> GallerySample:
    """Image, caption and credit of a sample; `rejects` say by label ("rgb", "caption") why one is missing."""
    image, caption, problems = None, None, {}
    info = shard.info(entry)
    try:
        caption = shard.caption(entry)
    except Reject as reject:
        problems["caption"] = reject.reason
    try:
        image, _ = photo.decode(shard.image(entry), info, settings)
    except Reject as reject:
        problems["rgb"] = reject.reason
    credit = dict.fromkeys(str(info[name]) for name in ("attribution", "license", "licence") if info.get(name))
    return GallerySample(entry.key, "", image, caption, rejects=problems, credit=", ".join(credit))
