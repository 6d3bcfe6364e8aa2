"""Conditions of generation: what they may be, and what is refused rather than taken for something else."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from fourmill.model.config import ByName, FourMConfig
from fourmill.model.fourm import FourM
from fourmill.model.generation.generate import Step, generate
from fourmill.model.generation.known import Known, SpecialIds

PIXELS = np.random.default_rng(0).integers(0, 256, (1, 9, 12))


def known(config: FourMConfig, given: dict[str, Any], samples: int = 1) -> Known:
    return Known.of(config, given, torch.device("cpu"), samples)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"rgb": PIXELS}, "rgb: got values of the type int64, expected uint8"),
        ({"rgb": PIXELS.tolist()}, "rgb: got values of the type int64"),
        (
            {"rgb": PIXELS[:, :4].astype(np.uint8)},
            r"shape \(4, 12\) in a sample, expected \(9, 12\), or a picture \(3, 6, 6\)",
        ),
        ({"rgb": PIXELS.astype(np.uint8), "rgb@32": PIXELS}, "knows no modality 'rgb@32'"),
        ({"tok_rgb": PIXELS[0, :1, :9] % 30 + 0.7}, "tok_rgb: got values of the type float64, expected whole numbers"),
        ({"tok_rgb": [[2**64 - 1] * 9]}, "got ids 18446744073709551615 to"),
        ({"tok_rgb": np.zeros((1, 3, 3), int)}, r"shape \(1, 3, 3\), expected \(1, 9\)"),
        ({"tok_dinov2_global": [[-2, 0, 0, 0]]}, "got ids -2 to 0"),
        ({"caption": ["a dog"]}, r"got 'a dog', expected a list of ids .*WordPiece.load\(...\).encode"),
        ({"caption": "1"}, "caption: got a text, expected 1 samples"),
        ({"caption": [20]}, r"caption: got ids of shape \(\) in a sample, expected a list of ids"),
        ({"caption": [[20, -1, 3]]}, "caption: got -1 before other ids"),
        ({"caption": [[0, -1, 3]]}, "caption: got -1 before other ids"),
        ({"caption": [[20, -2]]}, "caption: got ids -2 to 20, expected 0 to 39"),
        ({"caption": [[20.9, 3]]}, "caption: got values of the type float64"),
        ({"caption": [[[20], [3, 4]]]}, "caption: got lists that are no array"),
        ({"t5_caption": [np.zeros((6, 6), np.float32)]}, r"shape \(6, 6\) in a sample, expected \(at most 5, 6\)"),
        ({"t5_caption": [np.zeros((2, 6), int)]}, "t5_caption: got values of the type int64, expected floats"),
    ],
)
def test_what_is_no_condition_is_refused(config: FourMConfig, given: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        known(config, given)


def test_pixels_are_of_one_kind_in_all_samples(config: FourMConfig) -> None:
    mixed = [PIXELS[0].astype(np.uint8), PIXELS[0] / 255.0]
    with pytest.raises(ValueError, match="rgb: got values of the type float64, uint8, expected uint8"):
        known(config, {"rgb": mixed}, 2)
    assert known(config, {"rgb": [mixed[0], None]}, 2).values["rgb"].dtype == torch.uint8
    assert known(config, {"rgb": [mixed[1], None]}, 2).values["rgb"].dtype == torch.float32


@pytest.mark.parametrize("first", [np.float16, np.float32])
def test_embeddings_keep_the_precision_of_every_sample(config: FourMConfig, first: type) -> None:
    exact = np.full((2, 6), 1 / 3, np.float32)
    values = known(config, {"t5_caption": [np.zeros((1, 6), first), exact]}, 2).values["t5_caption"]
    assert torch.equal(values[1], torch.from_numpy(exact))
    half = known(config, {"t5_caption": [exact.astype(np.float16)]}).values["t5_caption"]
    assert half.dtype == torch.float16
    wide = known(config, {"t5_caption": torch.ones(1, 2, 6, dtype=torch.bfloat16)}).values["t5_caption"]
    assert wide.dtype == torch.float32 and wide.min() == 1


@pytest.mark.parametrize("dtype", [np.uint8, np.float32])
def test_a_picture_is_its_patches(config: FourMConfig, dtype: type) -> None:
    pictures = np.random.default_rng(1).integers(0, 256, (2, 3, 6, 6)).astype(dtype)
    patches = pictures.reshape(2, 3, 3, 2, 3, 2).transpose(0, 2, 4, 3, 5, 1).reshape(2, 9, 12)
    for given in (pictures, torch.from_numpy(pictures), [pictures[0], patches[1]]):
        values = known(config, {"rgb": given}, 2).values["rgb"]
        assert values.numpy().dtype == dtype and np.array_equal(values, patches)
    assert known(config, {"rgb": [None, pictures[1]]}, 2).tokens["rgb"].valid.tolist() == [[False] * 9, [True] * 9]


def test_one_modality_has_one_name(model: FourM) -> None:
    pixels = PIXELS.astype(np.uint8)
    name = model.config.published[0]
    assert name != "rgb" and torch.equal(known(model.config, {name: pixels}).values["rgb"], torch.tensor(pixels))
    with pytest.raises(ValueError, match=f"got rgb and {name}, which are the same modality"):
        known(model.config, {"rgb": pixels, name: pixels})


def test_texts_are_cut_as_in_training(config: FourMConfig) -> None:
    tokens = known(config, {"caption": [list(range(5, 35)), torch.tensor([7, 3, -1]), None]}, 3).tokens["caption"]
    assert tokens.ids[0].tolist() == list(range(5, 17))
    assert tokens.valid.sum(1).tolist() == [12, 2, 0] and tokens.ids[1, :2].tolist() == [7, 3]


def test_a_text_that_never_ends_conditions_the_next_step(model: FourM) -> None:
    """No token ends it: it has as many as the modality may have, and its end is one too many."""
    endless = SpecialIds(pad=1, sos=2, eos=39, first_sentinel=30, num_sentinels=3)
    model.decoder_embeddings.token_table("caption").data.zero_()
    text, grid = Step("caption", "autoregressive", temperature=0), Step("tok_rgb", "roar")
    made = generate(model, {"rgb": PIXELS.astype(np.uint8)}, [text, grid], seed=0, special=endless)
    assert made["caption"] == [[0] * 12] and made["tok_rgb"].shape == (1, 9)


def test_values_by_name_are_a_mapping(config: FourMConfig) -> None:
    name = config.published[0]
    values = ByName(config, {"rgb": 1, "else": 2})
    assert name in values and "rgb" in values and "else" in values and "caption" not in values and 3 not in values
    assert values[name] == values.get(name) == values.get("rgb") == 1 and values.get("else") == 2
    assert values.get("caption") is None and values.get("nothing", 5) == 5
    with pytest.raises(KeyError, match="there is no caption; there are rgb, else"):
        values["caption"]
