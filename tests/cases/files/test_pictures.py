"""Pictures that look whole and are not."""

from __future__ import annotations

from fourmill_tests import data, pictures
from fourmill_tests.cases import require
from PIL import Image

from fourmill.pipelines import images
from fourmill.pipelines.reject import Reject


def _is_taken(content: bytes) -> bool:
    try:
        images.decode(content, 10**8)
    except Reject:
        return False
    return True


def test_png_whose_tail_is_zeros_is_a_reject() -> None:
    """A preallocated download, a hole after a crash: Pillow does not check the CRC of IDAT (Pillow#5800)."""
    taken = []
    for mode in ("RGB", "L", "RGBA"):
        whole = data.encode(Image.fromarray(data.picture(0, 128, 128)).convert(mode), "PNG")
        if not _is_taken(whole):
            raise RuntimeError("a whole picture is taken for a damaged one")
        for percent in (10, 50, 90):
            kept = len(whole) * percent // 100
            if _is_taken(whole[:kept] + bytes(len(whole) - kept)):
                taken.append(f"{mode}, {percent} % of the file")
    require(not taken, f"taken for whole: {taken}")


def test_png_stream_of_half_the_rows_is_a_reject() -> None:
    """Chunks and their CRCs are right; the lower half is missing."""

    half = pictures.half_png()
    require(not _is_taken(half), "half a picture is taken for a whole one")
