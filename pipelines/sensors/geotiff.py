"""What a GeoTIFF says of its bands, in GDAL's tags: names, the value that stands for none, a unit."""

from __future__ import annotations

import html
import io
import math
import re
import struct
from typing import Any, NamedTuple

_ITEM = re.compile(r'<Item [^>]*\bsample="(\d+)"[^>]*\brole="(description|unittype)"[^>]*>([^<]*)</Item>')
_METADATA, _NODATA, _GEO_KEYS = 42112, 42113, 34735


class Said(NamedTuple):
    """names: of the bands, in order, if all have one of their own. nodata: None if the file says none. unit: "" if it
    says none, or not one for all bands. is_placed: whether it says where it lies."""

    names: tuple[str, ...] = ()
    nodata: float | None = None
    unit: str = ""
    is_placed: bool = False


def said(data: bytes) -> Said:
    """Of the bytes of a TIFF; nothing of a file that cannot be read."""
    import tifffile

    try:
        with tifffile.TiffFile(io.BytesIO(data)) as file:
            return of_file(file)
    except (tifffile.TiffFileError, IndexError, KeyError, TypeError, ValueError, struct.error):
        return Said()


def of_file(file: Any) -> Said:
    """Of an open TiffFile."""
    tags = file.pages[0].tags
    items = _ITEM.findall(str(tags.valueof(_METADATA) or ""))
    names = {int(number): html.unescape(name).strip() for number, role, name in items if role == "description"}
    units = {html.unescape(name).strip() for _, role, name in items if role == "unittype"}
    is_whole = sorted(names) == list(range(len(names))) and len(set(names.values())) == len(names)
    try:
        nodata = float(str(tags.valueof(_NODATA)).strip("\0 "))
    except ValueError:
        nodata = math.nan
    return Said(
        tuple(names[i] for i in sorted(names)) if is_whole else (),
        None if math.isnan(nodata) else nodata,
        units.pop() if len(units) == 1 else "",
        _GEO_KEYS in tags,
    )
