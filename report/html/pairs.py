"""The page of `fourmill duplicates`: pairs of images side by side, the least alike first."""

from __future__ import annotations

import numpy as np

from ..draw.panels import Panel, TextPanel, picture
from ..duplicates import Found
from . import page
from .gallery import TitledPanel

_SIDE = 250  # pixels


def render_pairs(root: str, found: Found) -> str:
    """The page as one self-contained HTML text; write it as UTF-8."""
    total = found.duplicates.total()
    by = ", ".join(f"{count:,} by {name}" for name, count in found.duplicates.most_common())
    sentence = f"{total:,} of {found.samples:,} samples are copies of earlier ones ({by or 'none'})"
    if found.across:
        sentence += f"; {found.across:,} in validation shards are copies of samples in training shards"
    pairs = [
        [
            TitledPanel(f"{pair.key} in {pair.shard}, distance {pair.said['distance']:.4f}", _panel(pair.image)),
            TitledPanel(f"{pair.said['nearest']} in {pair.said['nearest_shard']}", _panel(pair.nearest)),
        ]
        for pair in found.pairs
    ]
    return page.render(
        "pairs.html",
        styles=("base.css", "report.css", "generated.css"),
        title=f"duplicates of {root}",
        sentence=sentence,
        pairs=pairs,
    )


def _panel(image: np.ndarray | None) -> Panel:
    if image is None:
        return TextPanel("its shard cannot be read", quiet=True)
    return picture(image, "a sample", size=_SIDE)
