"""Samples, images and histograms in the terminal; what `fourmill inspect` prints, with rich.

Decisions:
- An image is half-block characters, two pixels to a cell, in true colour (rich reduces it where a terminal has fewer
  colours); without colour it is shades of ASCII, so that logs and pipes stay legible.
- Nothing from the data reaches the terminal raw: control characters (so escape sequences) and direction marks become
  U+FFFD, and no text is read as markup.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from PIL import Image
from rich.color import Color
from rich.console import Console, Group, RenderableType
from rich.padding import Padding
from rich.rule import Rule
from rich.style import Style
from rich.table import Table
from rich.text import Text

from ..modalities import LABELS, MODALITIES, Form, Kind
from .draw import labels as draw
from .html.gallery import GallerySample, TokenView, label_title

HALF_BLOCK = "\u2580"  # the upper half in the foreground colour, the lower half in the background colour
SHADES = " .:-=+*#%@"
CELL_RATIO = 2.0  # a character cell is about twice as high as wide
CAPTION_LIMIT = 600
CLASS_MAP_SIZE = 160  # pixels at which the shares of classes are counted
BAR = "\u2588"


def plain(text: object, limit: int | None = None) -> str:
    """`text` without anything that could steer a terminal, cut to `limit` characters with its true length beside it."""
    whole = str(text)
    shown = whole if limit is None else whole[:limit]
    shown = "".join(char if char.isprintable() or char == "\n" else "\ufffd" for char in shown)
    return shown if len(whole) <= len(shown) else f"{shown} ... ({len(whole):,} characters)"


def image_text(image: np.ndarray, *, width: int = 48, height: int = 40, color: bool = True) -> Text:
    """An image as text, as large as its aspect ratio lets it be within `width` characters and `height` lines.

    Args:
        image: uint8 (H, W) or (H, W, 3).
        width, height: characters and lines, at most.
        color: half blocks in true colour; else ASCII shades (bright on dark).
    """
    if image.dtype != np.uint8 or image.ndim not in (2, 3) or not image.size:
        raise ValueError(f"an image is uint8 (H, W) or (H, W, 3), got {image.dtype} {image.shape}")
    ratio = image.shape[1] / image.shape[0] * CELL_RATIO  # characters to lines
    width = max(1, min(width, round(height * ratio)))
    height = max(1, min(height, round(width / ratio)))
    size = (width, 2 * height if color else height)
    small = Image.fromarray(np.ascontiguousarray(image)).convert("RGB").resize(size, Image.Resampling.BOX)
    if not color:
        levels = np.asarray(small.convert("L"), np.int64) * len(SHADES) // 256
        return Text("\n".join("".join(SHADES[level] for level in row) for row in levels))
    pixels = np.asarray(small).tolist()
    text = Text()
    for row in range(height):
        for upper, lower in zip(pixels[2 * row], pixels[2 * row + 1], strict=True):
            text.append(HALF_BLOCK, Style(color=Color.from_rgb(*upper), bgcolor=Color.from_rgb(*lower)))
        if row + 1 < height:
            text.append("\n")
    return text


def heading(text: Text) -> RenderableType:
    """A line over what follows, with all of its text: rich cuts the title of a rule that does not fit a line."""
    text.overflow = "fold"
    return Group(text, Rule(style="dim"))


def key_values(pairs: Mapping[str, Any] | Sequence[tuple[str, Any]], *, title: str = "") -> Table:
    """Names and values in two columns."""
    table = Table.grid(padding=(0, 2))
    table.title = Text(plain(title), "bold") if title else None
    table.title_justify = "left"
    table.add_column(style="dim", no_wrap=True)
    table.add_column(overflow="fold")
    for name, value in pairs.items() if isinstance(pairs, Mapping) else pairs:
        table.add_row(Text(plain(name)), value if isinstance(value, Text) else Text(plain(value)))
    return table


def bars(rows: Sequence[tuple[str, float]], *, width: int = 40, style: str = "cyan") -> Table:
    """Named values >= 0 as horizontal bars, the largest `width` characters long, with the value beside each."""
    top = max((value for _, value in rows), default=0.0)
    table = Table.grid(padding=(0, 1))
    table.add_column(justify="right", style="dim", overflow="fold")
    table.add_column(no_wrap=True, min_width=width)
    table.add_column(justify="right", no_wrap=True)
    for name, value in rows:
        if value < 0:
            raise ValueError(f"{name}: bars show values >= 0, got {value}")
        length = round(width * value / top) if top else 0
        # A value above zero never looks like none.
        table.add_row(Text(plain(name)), Text(BAR * (length or int(value > 0)), style), f"{value:,.6g}")
    return table


def histogram(values: Sequence[float] | np.ndarray, *, bins: int = 10, width: int = 40) -> Table:
    """A histogram of numbers in equal bins; numbers that are not finite are counted in a row of their own."""
    numbers = np.asarray(values, np.float64).reshape(-1)
    finite = numbers[np.isfinite(numbers)]
    rows: list[tuple[str, float]] = []
    if finite.size:
        counts, edges = np.histogram(finite, bins=bins)
        rows = [
            (f"{low:.4g} to {high:.4g}", float(n)) for n, low, high in zip(counts, edges[:-1], edges[1:], strict=True)
        ]
    if finite.size < numbers.size:
        rows.append(("not finite", float(numbers.size - finite.size)))
    return bars(rows, width=width)


def sample_view(sample: GallerySample, *, width: int = 48, color: bool = True) -> RenderableType:
    """A sample: its image, caption, labels, tokens and rejects, to be printed by rich."""
    parts: list[RenderableType] = [heading(Text(plain(sample.key), "bold"))]
    if sample.image is not None:
        parts.append(Padding(image_text(sample.image, width=width, color=color), (1, 0)))
    head: list[tuple[str, Any]] = [("shard", sample.shard)]
    if sample.image is not None:
        head.append(("size", f"{sample.image.shape[1]} x {sample.image.shape[0]}"))
    caption = Text("none", "dim italic") if sample.caption is None else plain(sample.caption, CAPTION_LIMIT)
    head.append(("caption", caption))
    if sample.credit:
        head.append(("credit", sample.credit))
    parts.append(key_values(head))
    shown = {name: label for name, label in sample.labels.items() if name not in ("rgb", "caption")}
    labels = [
        (label_title(name), describe(name, label, color=color, classes=sample.classes)) for name, label in shown.items()
    ]
    if labels:
        parts.append(Padding(key_values(labels, title="Labels"), (1, 0, 0, 0)))
    if sample.tokens:
        tokens = [(view.modality, _tokens(view)) for view in sample.tokens]
        parts.append(Padding(key_values(tokens, title="Tokens"), (1, 0, 0, 0)))
    if sample.rejects:
        rejects = [(output, Text(plain(reason), "red")) for output, reason in sample.rejects.items()]
        parts.append(Padding(key_values(rejects, title="Rejects"), (1, 0, 0, 0)))
    return Group(*parts)


def print_sample(sample: GallerySample, console: Console | None = None, *, width: int = 48) -> None:
    """Print a sample; colours follow what the console can do."""
    console = console or Console()
    color = console.color_system is not None
    console.print(sample_view(sample, width=min(width, console.width), color=color))


def describe(
    name: str, label: Any, *, color: bool = True, classes: Mapping[str, tuple[str, ...]] | None = None
) -> Text:
    """A label in a line or a few: a line for each palette, box or metadata type; the shape of arrays.

    Args:
        classes: lists of classes by label, where they are not the label's own.
    """
    if label is None:
        return Text("none", "dim italic")
    if isinstance(label, np.ndarray):
        edges = f", {(label > 127).mean():.1%} edges" if name.endswith("_edge") and label.size else ""
        shape = f"{label.dtype} {' x '.join(map(str, label.shape))}{edges}"
        if name in LABELS and LABELS[name].form is Form.CLASSES and label.size:
            panel = draw.draw(name, label, size=CLASS_MAP_SIZE, classes=classes)
            return Text(plain(f"{shape}, {panel.alt}" if isinstance(panel, draw.Picture) else shape, CAPTION_LIMIT))
        return Text(shape)
    # As a picture boxes are drawn on the image; without one they are a table, which is what a terminal can show.
    panel = draw.draw(name, label)
    if isinstance(panel, draw.Swatches):
        return Text("\n").join(_palette(palette, color) for palette in panel.palettes)
    if isinstance(panel, draw.TablePanel):
        names = max(len(row[0]) for row in panel.rows)
        return Text("\n".join(plain(f"{row[0]:<{names}}  {row[1]}  {row[2]}".rstrip()) for row in panel.rows))
    return Text(plain(panel.text if isinstance(panel, draw.TextPanel) else panel.alt, CAPTION_LIMIT))


def _palette(palette: Sequence[str], color: bool) -> Text:
    text = Text()
    for value in palette if color else ():
        text.append(BAR * 2, value)
    return text.append("  " if color else "").append(" ".join(palette))


def _tokens(view: TokenView) -> Text:
    if view.tokens is None:
        return Text("rejected", "red")
    ids = np.asarray(view.tokens).reshape(-1)
    modality = MODALITIES.get(view.modality)
    grid = f", {np.unique(ids).size} different" if modality and modality.kind is Kind.GRID else ""
    text = Text(f"{ids.size} tokens{grid}")
    if view.error:
        text.append(f", {view.error[0]} {view.error[1]:.4g}", "yellow")
    first = " ".join(map(str, ids[:12])) + (" ..." if ids.size > 12 else "")
    body = plain(view.text, CAPTION_LIMIT) if view.text else first
    return text.append("\n" + body, "dim")
