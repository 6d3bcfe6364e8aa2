"""Laws of crops: pure functions of (seed, key, index), always inside of the image, and faithful to its pixels."""

from __future__ import annotations

import subprocess
import sys

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fourmill.tokenize.crops import Crop, Resample, apply, crops, hashed_uniforms

SIZES = st.integers(1, 5000)


@settings(deadline=None)
@given(st.integers(), st.text(), SIZES, SIZES, st.integers(1, 6), st.floats(0.01, 1.0))
def test_crops_are_square_and_inside(seed: int, key: str, width: int, height: int, count: int, low: float) -> None:
    windows = crops(seed, key, width, height, count, scale=(low, 1.0))
    assert len(windows) == count
    short = min(width, height)
    assert windows[0] == Crop((width - short) // 2, (height - short) // 2, short, short, False)
    for crop in windows:
        assert crop.width == crop.height >= 1
        assert 0 <= crop.left <= width - crop.width
        assert 0 <= crop.top <= height - crop.height
        assert crop.width >= round(short * low**0.5) - 1


def test_asking_for_more_crops_keeps_those_before() -> None:
    assert crops(3, "00012", 640, 480, 8)[:3] == crops(3, "00012", 640, 480, 3)


def test_crops_do_not_depend_on_the_process() -> None:
    code = "from fourmill.tokenize.crops import crops; print(crops(7, 'shard/000123', 640, 427, 4))"
    outputs = {
        subprocess.run(
            [sys.executable, "-c", code], capture_output=True, text=True, check=True, env={"PYTHONHASHSEED": seed}
        ).stdout
        for seed in ("1", "2")
    }
    assert outputs == {f"{crops(7, 'shard/000123', 640, 427, 4)}\n"}


def test_crops_are_pinned() -> None:
    """ORDER: if this changes, every data set tokenized before gets other windows."""
    assert [(c.left, c.top, c.width, c.flip) for c in crops(0, "a", 640, 480, 3)] == PINNED


PINNED = [(80, 0, 480, False), (36, 67, 399, True), (115, 20, 398, True)]


def test_seed_key_and_index_matter() -> None:
    draws = [crops(seed, key, 640, 480, 3)[1:] for seed in (0, 1) for key in ("a", "b")]
    assert len({crop for windows in draws for crop in windows}) == 8


def test_parts_of_a_hash_do_not_run_together() -> None:
    assert hashed_uniforms(2, "a", "bc") != hashed_uniforms(2, "ab", "c")


def test_draws_cover_scale_position_and_flip() -> None:
    windows = [crops(0, str(key), 640, 480, 2, scale=(0.25, 1.0))[1] for key in range(2000)]
    sides = np.array([c.width for c in windows])
    assert sides.min() < 260 and sides.max() > 470
    # The share of the area is uniform on [0.25, 1]; the standard error of its mean is 0.005.
    assert abs(np.mean((sides / 480) ** 2) - 0.625) < 0.02
    assert abs(np.mean([c.flip for c in windows]) - 0.5) < 0.05
    assert abs(np.mean([c.left / (640 - c.width) for c in windows]) - 0.5) < 0.03
    assert not any(c.flip for c in (crops(0, str(key), 640, 480, 2, hflip=0.0)[1] for key in range(100)))


@pytest.mark.parametrize("scale", [(0.0, 1.0), (0.5, 1.5), (0.9, 0.5)])
def test_bad_scale_is_refused(scale: tuple[float, float]) -> None:
    with pytest.raises(ValueError, match="crop scale"):
        crops(0, "a", 10, 10, 2, scale=scale)


def test_a_crop_of_its_own_size_is_a_copy_of_the_pixels() -> None:
    image = np.random.default_rng(0).integers(0, 256, (20, 30, 3), dtype=np.uint8)
    pixels = apply(Crop(4, 2, 16, 16), image, 16)
    np.testing.assert_array_equal(pixels, image[2:18, 4:20])
    pixels[:] = 0
    assert image.any()


@pytest.mark.parametrize("resample", list(Resample))
@pytest.mark.parametrize("size", [8, 16, 40])
@pytest.mark.parametrize("channels", [(), (1,), (3,)])
def test_a_flip_mirrors_the_unflipped_crop(resample: Resample, size: int, channels: tuple[int, ...]) -> None:
    image = np.where(np.random.default_rng(0).random((20, 30, *channels)) < 0.2, 255, 0).astype(np.uint8)
    plain = apply(Crop(4, 2, 16, 16), image, size, resample)
    mirrored = apply(Crop(4, 2, 16, 16, True), image, size, resample)
    assert plain.shape == (size, size, *channels) and plain.dtype == np.uint8
    np.testing.assert_array_equal(mirrored, plain[:, ::-1])


def test_pixels_outside_of_the_window_do_not_leak_in() -> None:
    image = np.zeros((40, 40, 3), np.uint8)
    image[10:30, 10:30] = 200
    assert (apply(Crop(10, 10, 20, 20), image, 7) == 200).all()
    assert (apply(Crop(10, 10, 20, 20), image, 50) == 200).all()


def test_labels_are_never_mixed() -> None:
    image = np.random.default_rng(0).choice(np.array([3, 77, 133], np.uint8), (50, 50))
    for size in (7, 50, 64):
        assert set(np.unique(apply(Crop(0, 0, 50, 50), image, size, Resample.LABELS))) <= {3, 77, 133}


@pytest.mark.parametrize("factor", [1.5, 2, 4, 7.3])
def test_thin_edges_survive_shrinking(factor: float) -> None:
    """A ring one pixel wide stays closed, binary, and thin."""
    side = 200
    yy, xx = np.mgrid[:side, :side]
    ring = np.where(abs(np.hypot(yy - 99.5, xx - 99.5) - 80) < 0.7, 255, 0).astype(np.uint8)
    small = apply(Crop(0, 0, side, side), ring, round(side / factor), Resample.EDGES)
    assert set(np.unique(small)) == {0, 255}
    angles = np.linspace(0, 2 * np.pi, 360, endpoint=False)
    centre, radius = (len(small) - 1) / 2, 80 / factor
    rows, columns = (np.round(centre + radius * f(angles)).astype(int) for f in (np.sin, np.cos))
    reach = [small[max(r - 1, 0) : r + 2, max(c - 1, 0) : c + 2].any() for r, c in zip(rows, columns, strict=True)]
    assert all(reach)
    assert (small > 0).sum() < 2.2 * 2 * np.pi * radius


def test_float16_features_are_widened() -> None:
    features = np.arange(64, dtype=np.float16).reshape(8, 8)
    pixels = apply(Crop(0, 0, 8, 8), features, 4)
    assert pixels.dtype == np.float32
    np.testing.assert_allclose(pixels[0, 0], features[:2, :2].mean())


@pytest.mark.parametrize("size", [(0, 5), (5, 0), (0, 0)])
def test_images_without_pixels_are_refused(size: tuple[int, int]) -> None:
    with pytest.raises(ValueError, match=r"expected at least 1 x 1"):
        crops(0, "k", *size, 2)


def test_a_window_of_one_pixel_fills_its_crop() -> None:
    image = np.arange(20, dtype=np.uint8).reshape(4, 5)
    assert (apply(Crop(3, 2, 1, 1), image, 4) == 13).all()


def test_a_window_outside_of_the_image_is_refused() -> None:
    with pytest.raises(ValueError, match="inside of the image"):
        apply(Crop(5, 5, 10, 10), np.zeros((12, 12), np.uint8), 8)
