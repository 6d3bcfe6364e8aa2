"""The page of `fourmill view --probe`: the room, what a model says of it, and what is true."""

from __future__ import annotations

import numpy as np

from ..draw.dense import draw_depth, draw_normals
from ..draw.panels import Panel, picture
from ..probe import Probed, in_label
from . import page
from .gallery import TitledPanel

_SIDE = 250  # pixels: four pictures in a row
_LEDE = {
    "normal": "Mean components over the pixels of each wall, in the model's own axes; the truth in the label's, x "
    "right, y up, z toward the viewer.",
    "depth": "The mean over the pixels of each wall of what the model says, scaled from its smallest value, 0, to its "
    "largest, 1; the truth is the mean distance along the optical axis.",
}


def render_probe(probed: Probed) -> str:
    """The page as one self-contained HTML text; write it as UTF-8."""
    rendered = probed.room.rendered
    truth = rendered.normal if probed.label == "normal" else rendered.depth
    figures = [
        TitledPanel("the room", picture(rendered.rgb, "a rendered room", size=_SIDE)),
        TitledPanel("as the model says", _drawn(probed.label, probed.answer)),
        TitledPanel("turned into the label" if probed.found else "not clear", _drawn(probed.label, in_label(probed))),
        TitledPanel("true", _drawn(probed.label, truth)),
    ]
    return page.render(
        "probe.html",
        styles=("base.css", "report.css", "generated.css"),
        title=f"{probed.label} of a known room: {probed.model}",
        sentence=probed.sentence,
        figures=figures,
        rows=probed.rows,
        lede=_LEDE[probed.label],
    )


def _drawn(label: str, values: np.ndarray) -> Panel:
    return (draw_normals if label == "normal" else draw_depth)(values, size=_SIDE)
