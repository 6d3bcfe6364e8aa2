"""Sensors whose size is no square: crops, tokens, columns, positions and patches are (height, width) throughout."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from fourmill_tests.tiny.landscape import forgotten
from hypothesis import given, settings
from hypothesis import strategies as st

from fourmill import modalities
from fourmill.modalities import Kind, ModalitySpec
from fourmill.model.config import FourMConfig
from fourmill.model.patches import patchify
from fourmill.model.positions import position_table
from fourmill.recipe import Recipe
from fourmill.sensors.declared import Sensors, window_of
from fourmill.sensors.sensor import Sensor
from fourmill.tokenize import codecs, inputs, store, tokenizer
from fourmill.tokenize.codec import Labelled, Options
from fourmill.tokenize.crops import Crop, apply, crops
from fourmill.tokenize.networks.tables import Table, TableConfig
from fourmill.tokenize.sensors import raster
from fourmill.tokenize.sensors.statistics import measure
from fourmill.train.data.samples import decode_patches
from fourmill.train.downstream.evaluation import truth
from fourmill.train.tokenizers import build
from fourmill.verbs import sensor_starter

SIZE = (16, 40)
RNG = np.random.default_rng(0)
SENSOR = {"member": "npy", "bands": ["t", "u"], "size": list(SIZE)}
TINY = {
    "decoder": "vit", "dim": 32, "heads": 2, "encoder_depth": 1, "decoder_depth": 1, "latent_dim": 8, "out_conv": False,
    "codebook_size": 16,
}  # fmt: skip


@pytest.fixture(autouse=True)
def _declared() -> Iterator[None]:
    with forgotten():
        Sensors({"wx": Sensor.model_validate(SENSOR)}).declare()
        yield


def recipe(root: Path, **changes: object) -> Recipe:
    plain = {
        "root": str(root), "samples": {"train": "x/{0..1}.tar"}, "sensors": {"wx": SENSOR}, "images": {"patch_size": 8},
        "modalities": ["wx", "tok_wx"], "tokenizers": {"common": TINY},
    }  # fmt: skip
    return Recipe.model_validate({**plain, **changes})


@settings(deadline=None, max_examples=50)
@given(st.integers(1, 900), st.integers(1, 900), st.integers(1, 300), st.integers(1, 300), st.floats(0.05, 1.0))
def test_crops_have_the_shape_of_the_size(width: int, height: int, high: int, wide: int, low: float) -> None:
    windows = crops(1, "k", width, height, 4, scale=(low, 1.0), shape=(high, wide))
    whole = windows[0]
    assert whole.width == width or whole.height == height
    for one in windows:
        assert one.left >= 0 <= one.top and one.left + one.width <= width and one.top + one.height <= height
        # One pixel of rounding in either side.
        assert abs(one.width * high - one.height * wide) <= high + wide
    assert crops(1, "k", width, height, 4, shape=(high, high)) == crops(1, "k", width, height, 4)


def test_a_window_is_the_same_place_at_any_resolution() -> None:
    drawing = raster.Drawing(3, 4, (0.3, 1.0), 0.5)
    fine, coarse = drawing.windows("k", (192, 96), (96, 192)), drawing.windows("k", (64, 32), (32, 64))
    assert fine[0] == Crop(0, 0, 192, 96)  # of its own shape nothing is cut off
    for one, other in zip(fine, coarse, strict=True):
        there = [one.left / 3, one.top / 3, one.width / 3, one.height / 3]
        np.testing.assert_allclose(there, [other.left, other.top, other.width, other.height], atol=1.5)


def test_values_stay_where_they_are() -> None:
    values = RNG.normal(size=(32, 80, 2)).astype(np.float32)
    np.testing.assert_array_equal(raster.window(values, Crop(0, 0, 80, 32), (32, 80)), values)
    halves = values.reshape(16, 2, 40, 2, 2).mean((1, 3))
    np.testing.assert_allclose(raster.window(values, Crop(0, 0, 80, 32), SIZE), halves, rtol=1e-5, atol=1e-6)
    ids = np.arange(12, dtype=np.uint8).reshape(3, 4)
    np.testing.assert_array_equal(apply(Crop(0, 0, 4, 3), ids, (6, 8), "labels"), ids.repeat(2, 0).repeat(2, 1))


@pytest.mark.parametrize("frame", [(32, 80), (48, 80), (32, 96), (33, 81)])
def test_the_truth_of_an_evaluation_is_the_centre_crop(frame: tuple[int, int]) -> None:
    values = RNG.normal(size=(*frame, 1)).astype(np.float32)
    crop = crops(0, "k", frame[1], frame[0], 1, shape=SIZE)[0]
    inside = values[crop.top : crop.top + crop.height, crop.left : crop.left + crop.width]
    found = truth.crop(values, SIZE)
    assert found.shape == (*SIZE, 1) and np.isin(found, inside).all()
    # Corners come from the corners: two source pixels a pixel.
    np.testing.assert_array_equal(found[0, 0], inside[1, 1])
    assert found[-1, -1] in inside[-2:, -2:]


def test_a_square_in_words_is_a_square() -> None:
    square = Sensor.model_validate({**SENSOR, "size": [40, 40]})
    assert square == Sensor.model_validate({**SENSOR, "size": 40}) and square.of_fits() == {"size": 40}
    assert square.window == 1 and window_of("wx") == SIZE and window_of("rgb") == 1
    for wrong in ([16], [16, 40, 2], [16, 0], [16, -8], "16x40", 16.5, True):
        with pytest.raises(ValueError, match="expected pixels along a side, 96, or height and width"):
            Sensor.model_validate({**SENSOR, "size": wrong})


def test_sizes_that_are_no_whole_patches_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="wx: an image of 16 x 40 px does not divide into patches of 16 px"):
        recipe(tmp_path, images={"patch_size": 16})


def test_specs_and_files_of_squares_are_as_before() -> None:
    square = modalities.spec("tok_rgb", image_size=224)
    assert square.grid == (14, 14) and "columns" not in square.plain()
    column = store.ColumnSpec("tok_rgb", Kind.GRID, 1, 196, 16)
    assert "width" not in column.plain() and store.ColumnSpec("rgb", Kind.PIXELS, 1, 224).picture == (224, 224)
    with pytest.raises(ValueError, match="10 tokens are no square grid"):
        _ = ModalitySpec("tok_x", Kind.GRID, 16, 10).grid


@pytest.mark.parametrize(("size", "grid"), [((8, 40), (1, 5)), ((40, 8), (5, 1))])
def test_one_row_and_one_column_are_grids(tmp_path: Path, size: tuple[int, int], grid: tuple[int, int]) -> None:
    asked = recipe(tmp_path, sensors={"wx": {**SENSOR, "size": list(size)}})
    spec = asked.specs()[1]
    network = build.model("tok_wx", asked.tokenizer("tok_wx"), 224, (*size, 2))
    tokenizer.save(network, tmp_path / "tokenizers" / "tok_wx", {})
    column = codecs.load(spec, Options(0, 224, 1), str(tmp_path)).column_spec({})
    assert spec.grid == grid and (column.length, column.width) == (5, grid[1]) == (spec.max_tokens, spec.columns)


def test_a_run_knows_its_rows_and_columns(tmp_path: Path) -> None:
    pixels, tokens = recipe(tmp_path).specs()
    assert pixels.grid == tokens.grid == (2, 5) and tokens.max_tokens == 10 and pixels.input_dim == 2 * 64
    config = FourMConfig((pixels, tokens), dim=16, num_heads=2, encoder_depth=1, decoder_depth=1)
    assert FourMConfig.from_dict(config.to_dict()) == config
    with pytest.raises(ValueError, match="no square"):
        _ = tokens.side
    # As wide a square has the same rows and columns of waves.
    table, square = position_table(tokens, 16), position_table(ModalitySpec("x", Kind.GRID, 16, 25), 16)
    torch.testing.assert_close(table, square.view(5, 5, 16)[:2].reshape(10, 16))


def test_apple_has_no_such_grid(tmp_path: Path) -> None:
    from fourmill.model.published import ml4m

    config = FourMConfig(tuple(recipe(tmp_path).specs()), dim=16, num_heads=2, encoder_depth=1, decoder_depth=1)
    with pytest.raises(ValueError, match="wx, tok_wx: grids of apple/ml-4m are square"):
        ml4m.configuration(config)


def test_tokens_and_pixels_there_and_back(tmp_path: Path) -> None:
    """A tokenizer, its columns, and the patches that the model reads."""
    rows = RNG.normal([280, 0], [10, 5], (8, *SIZE, 2)).astype(np.float32)
    found, asked = measure(rows, ["t", "u"]), recipe(tmp_path)
    network = build.model("tok_wx", asked.tokenizer("tok_wx"), 224, rows.shape[1:], statistics=found)
    assert network.config.image_size == SIZE and network.encoder.pos_emb.shape[2:] == (2, 5)
    tokenizer.save(network, tmp_path / "tokenizers" / "tok_wx", {})
    table = Table(TableConfig(table="statistics", codebook_size=2, statistics=found))
    tokenizer.save(table, tmp_path / "tokenizers" / "wx", {})
    options = Options(0, 224, 2)
    pixels, tokens = (codecs.load(one, options, str(tmp_path)) for one in asked.specs())
    value = np.concatenate([rows[0], rows[1]])  # twice as high
    windows = raster.Drawing(0, 2, (0.5, 1.0), 0.0).windows("a", (40, 32), window_of("wx"))
    sample = Labelled("a", value, windows, (40, 32))

    (ids,) = tokens.encode([sample])
    assert ids.shape == (2, 10) and tokens.decode(ids[0]).shape == (*SIZE, 2)
    whole = inputs.to_input("tok_wx", tokens.truth(sample, 0)[None], statistics=found)
    assert whole.shape == (1, 2, *SIZE)
    np.testing.assert_array_equal(network.eval().encode(whole).flatten().numpy(), ids[0])
    spec = tokens.column_spec({})
    assert (spec.length, spec.width) == (10, 5)
    read = store.ColumnReader(store.encode_column(spec, ["a"], [ids])).read([0])
    assert read.spec == spec and np.array_equal(read.sample(0), ids)

    turned = Labelled("b", value.transpose(1, 0, 2)[:, :16], crops(0, "b", 16, 40, 2, shape=SIZE), (16, 40))
    for codec in (pixels, tokens):
        (why,) = codec.encode([turned])
        assert "40 x 16 pixels, and its size is 16 x 40: height and width are exchanged" in str(why)

    (files,) = pixels.encode([sample])
    assert pixels.column_spec({}).picture == SIZE
    np.testing.assert_allclose(pixels.decode(files[0]), value[8:24], rtol=1e-2, atol=0.05)
    patches = decode_patches(np.frombuffer(files[0], np.uint8), pixels.spec)
    standard = found.standardized(torch.from_numpy(value[8:24])).permute(2, 0, 1)[None].numpy()
    np.testing.assert_allclose(patches, patchify(standard, 8)[0], atol=2e-3)
    with pytest.raises(ValueError, match="expected float16 of 2 bands and 16 x 40 px"):
        decode_patches(np.frombuffer(files[0], np.uint8)[:-4], pixels.spec)


@pytest.mark.parametrize(
    ("there", "size"),
    [((96, 192), [96, 192]), ((721, 1440), [160, 320]), ((64, 256), [64, 256]), ((2000, 70), [1200, 48])],
)
def test_init_keeps_the_shape(there: tuple[int, int], size: list[int]) -> None:
    assert sensor_starter._oblong(there, 16) == size
