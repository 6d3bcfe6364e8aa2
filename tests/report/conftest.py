"""Samples as the stages would hand them over, made of a photo and of plain arithmetic."""

from __future__ import annotations

import cv2
import numpy as np
import pytest

from fourmill.report.html.gallery import GallerySample, TokenView
from fourmill.tokenize.crops import Crop

ATTACK = "<script>document.title='owned'</script><img src=x onerror=\"document.title='owned'\">"


@pytest.fixture(scope="session")
def photo() -> np.ndarray:
    """A scikit-image photo, uint8 (200, 300, 3)."""
    skimage_data = pytest.importorskip("skimage.data", reason="photos are in the extra [demo]")
    return cv2.resize(skimage_data.coffee(), (300, 200), interpolation=cv2.INTER_AREA)


@pytest.fixture(scope="session")
def attack() -> str:
    """A text that shows itself if it is ever taken for markup."""
    return ATTACK


@pytest.fixture(scope="session")
def sample(photo: np.ndarray) -> GallerySample:
    """A sample with every label and kind of tokens, a hostile caption and a reject."""
    palettes = [[[250 - 30 * i, 40 * i % 256, 80] for i in range(n)] for n in range(1, 8)]
    boxes = [
        {"box": [0.2, 0.1, 0.7, 0.8], "label": "cup", "score": 0.93},
        {"box": [0.6, 0.5, 0.95, 0.9], "label": "spoon", "score": 0.71},
    ]
    edges = cv2.Canny(photo, 100, 200)
    crop = Crop(50, 0, 200, 200, True)
    window = photo[:, 50:250][:, ::-1]
    return GallerySample(
        key="000000_coffee",
        shard="00003",
        image=photo,
        caption=f"An espresso on a wooden table {ATTACK}",
        labels={
            "canny_edge": edges,
            "color_palette": palettes,
            "det": boxes,
            "metadata": {"brightness": 120.0, "original_width": 300, "entropy": float("nan"), "sharpness": 0.25},
        },
        crops=[crop],
        tokens=[
            TokenView("tok_rgb", np.arange(49, dtype=np.uint16), window, window // 2, ("PSNR", 21.46), crop=0),
            TokenView(
                "det", np.arange(11, dtype=np.uint16), boxes, boxes[:1], text="v0=200 v1=100 v2=700 v3=800 cup", crop=0
            ),
            TokenView("caption", np.arange(9, dtype=np.uint16), None, "an espresso", text="an espresso [EOS]"),
            TokenView("tok_canny_edge", None, crop=0),
        ],
        rejects={"tokens/tok_canny_edge": f"canny_edge: <b>empty</b> {ATTACK}"},
        credit="Rachel Michetti; CC0",
    )
