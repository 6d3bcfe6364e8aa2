"""Masked dictionaries of apple/ml-4m that do not fit are refused: packed, they would give plausible losses."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from fourmill.model.fourm import FourM
from fourmill.model.published import ml4m

GOLDEN = Path(__file__).parents[1] / "golden" / "fm21_qknorm"
Arrays = dict[str, np.ndarray]


@pytest.fixture(scope="module")
def model() -> FourM:
    return ml4m.load(GOLDEN)


@pytest.fixture
def given() -> dict[str, Arrays]:
    result: dict[str, Arrays] = {name: {} for name in json.loads((GOLDEN / "expected.json").read_text())["mod_order"]}
    with np.load(GOLDEN / "inputs.npz") as file:
        for key in file.files:
            name, part = key.split("/")
            result[name][part] = file[key]
    return result


@pytest.mark.parametrize(
    ("name", "change", "message"),
    [
        ("caption", {"tensor": lambda x: x[:, 3:]}, r"caption: got input_mask of .*\(2, 514\), expected \(2, 511\)"),
        ("caption", {"input_mask": lambda x: x[:, :5]}, r"caption: got input_mask of shape \(2, 5\)"),
        ("caption", {"target_mask": lambda x: x[:, :5]}, r"caption: got target_mask of shape \(2, 5\)"),
        ("caption", {"decoder_attention_mask": lambda x: x[:, 1:]}, "caption: got decoder_attention_mask of shape"),
        ("caption", {"tensor": lambda x: x[0]}, r"caption: got tensor of shape \(\d+,\), expected"),
        ("caption", {"tensor": lambda x: x.astype(float)}, "caption: got a tensor of the type float64, expected ids"),
        ("tok_rgb@224", {"tensor": lambda x: x[:, :-1]}, r"tok_rgb: got tensor of .*195\), expected \(2, 196\)"),
        ("tok_rgb@224", {"tensor": lambda x: np.tile(x, 2)}, r"tok_rgb: got tensor of shape \(2, 392\)"),
        ("t5_caption", {"tensor": lambda x: x[..., :-1]}, "t5_caption: got tensor of shape"),
        ("t5_caption", {"input_mask": lambda x: x[:, :-1]}, "t5_caption: got input_mask of shape"),
        ("rgb@224", {"tensor": lambda x: np.tile(x, (1, 1, 2, 2))}, r"got tensor of shape \(2, 3, 448, 448\)"),
        ("rgb@224", {"tensor": lambda x: x.transpose(0, 2, 3, 1)}, r"expected \(2, 3, 224, 224\)"),
        ("caption", dict.fromkeys(("tensor", "input_mask", "target_mask", "decoder_attention_mask"), lambda x: x[:1]),
         "as many of each modality"),
    ],
)  # fmt: skip
def test_arrays_fit_each_other(
    model: FourM, given: dict[str, Arrays], name: str, change: dict[str, Callable[..., Any]], message: str
) -> None:
    given[name] |= {part: f(given[name][part]) for part, f in change.items()}
    with pytest.raises(ValueError, match=message):
        ml4m.pack(model, given, 64, 64)


@pytest.mark.parametrize("part", ["tensor", "input_mask", "target_mask", "decoder_attention_mask"])
def test_every_part_is_there(model: FourM, given: dict[str, Arrays], part: str) -> None:
    del given["caption"][part]
    with pytest.raises(ValueError, match=f"caption: got .*, expected {part} as well"):
        ml4m.pack(model, given, 64, 64)


def test_targets_that_nobody_asks_for_need_no_masks(model: FourM, given: dict[str, Arrays]) -> None:
    del given["caption"]["target_mask"]
    assert ml4m.pack(model, given, 64, 64, decoder_order=["tok_rgb"]).outputs == ("tok_rgb",)


@pytest.mark.parametrize("budgets", [(0, 64), (64, 0), (-1, 64)])
def test_budgets_are_above_0(model: FourM, given: dict[str, Arrays], budgets: tuple[int, int]) -> None:
    with pytest.raises(ValueError, match=f"got budgets {budgets[0]} and {budgets[1]}, expected 1 or more"):
        ml4m.pack(model, given, *budgets)


def test_no_modality_is_there_twice(model: FourM, given: dict[str, Arrays]) -> None:
    with pytest.raises(ValueError, match=r"decoder_order is caption, tok_rgb, tok_rgb, .* none twice"):
        ml4m.pack(model, given, 64, 64, decoder_order=["caption", "tok_rgb", "tok_rgb@224"])
    with pytest.raises(ValueError, match="got rgb@224 and rgb, which are the same modality"):
        ml4m.pack(model, given | {"rgb": given["rgb@224"]}, 64, 64)


def test_pixels_are_bytes_or_normalized(model: FourM, given: dict[str, Arrays]) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (2, 3, 224, 224))
    with torch.no_grad():
        for dtype in (np.uint8, np.float32):
            given["rgb@224"]["tensor"] = pixels.astype(dtype)
            assert model(ml4m.pack(model, given, 64, 64)).loss.isfinite()
        given["rgb@224"]["tensor"] = pixels
        with pytest.raises(ValueError, match=r"pixels: got torch.int64, expected uint8"):
            model(ml4m.pack(model, given, 64, 64))


def test_logits_are_of_outputs(model: FourM, given: dict[str, Arrays]) -> None:
    output = model(ml4m.pack(model, given, 64, 64))
    assert output.logits("tok_rgb@224").shape[0] == output.counts["tok_rgb"]
    with pytest.raises(KeyError, match="there is no rgb; there are caption, "):
        output.logits("rgb")
