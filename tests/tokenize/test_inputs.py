"""Windows of labels, and what tokenizers read and write of them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.utils._python_dispatch import TorchDispatchMode

from fourmill.modalities import LABELS, TOKENIZERS, Form
from fourmill.tokenize.crops import Crop, crops
from fourmill.tokenize.inputs import examples, standardize_depth, to_input, to_label, window

GOLDEN = Path(__file__).parents[1] / "golden" / "fm_schedules_and_embeddings.npz"
BY_FORM = {entry.form: name for name, entry in TOKENIZERS.items() if LABELS[entry.label].form is entry.form}


def values(form: Form, height: int, width: int, seed: int) -> np.ndarray:
    random = np.random.default_rng(seed)
    if form is Form.COLORS:
        return random.integers(0, 256, (height, width, 3), dtype=np.uint8)
    if form is Form.EDGES:
        return np.where(random.random((height, width)) < 0.1, 255, 0).astype(np.uint8)
    if form is Form.CLASSES:
        return random.choice(np.array([0, 7, 132, 255], np.uint8), (height, width))
    if form is Form.DEPTH:
        return random.random((height, width)).astype(np.float16)
    if form is Form.NORMALS:
        normals = random.normal(size=(height, width, 3))
        return (normals / np.linalg.norm(normals, axis=-1, keepdims=True)).astype(np.float16)
    if form is Form.FEATURES:
        return random.normal(size=(-(-height // 14), -(-width // 14), 6)).astype(np.float16)
    return random.normal(size=9).astype(np.float16)


@given(
    form=st.sampled_from(sorted(BY_FORM)), height=st.integers(20, 70), width=st.integers(20, 70),
    seed=st.integers(0, 99),
)  # fmt: skip
@settings(deadline=None, max_examples=60)
def test_flipped_crop_is_the_mirrored_window(form: Form, height: int, width: int, seed: int) -> None:
    name, size = BY_FORM[form], 8
    label, value = TOKENIZERS[name].label, values(form, height, width, seed)
    (plain,) = crops(seed, "key", width, height, 1)
    mirrored = Crop(plain.left, plain.top, plain.width, plain.height, flip=True)
    here, there = (window(label, value, crop, size, (width, height)) for crop in (plain, mirrored))
    if form is Form.VECTOR:
        np.testing.assert_array_equal(here, there)
        return
    there = there[:, ::-1].copy()
    if form is Form.NORMALS:  # what looked right looks left
        there[..., 0] *= -1
    np.testing.assert_allclose(here, there, atol=1e-6)


@given(form=st.sampled_from(sorted(BY_FORM)), seed=st.integers(0, 99))
@settings(deadline=None, max_examples=40)
def test_the_whole_frame_at_its_own_size_is_the_label(form: Form, seed: int) -> None:
    value = values(form, 42, 42, seed)
    size = 3 if form is Form.FEATURES else 42
    result = window(TOKENIZERS[BY_FORM[form]].label, value, Crop(0, 0, 42, 42), size, (42, 42))
    np.testing.assert_allclose(result.astype(np.float32), value.astype(np.float32), atol=2e-3)


def test_a_crop_reads_its_part_of_a_feature_map() -> None:
    across = np.linspace(0, 1, 16, dtype=np.float32)[None, :, None].repeat(8, 0)
    frame = (320, 160)  # cells of 20 px; their centres lie at 10, 30, ...
    left, right = (window("clip", across, Crop(x, 0, 160, 160), 8, frame)[..., 0] for x in (0, 160))
    np.testing.assert_allclose(left, across[:, :8, 0], atol=1e-6)
    np.testing.assert_allclose(right, across[:, 8:, 0], atol=1e-6)
    between = window("clip", across, Crop(10, 0, 160, 160), 8, frame)[..., 0]
    np.testing.assert_allclose(between[0], (across[0, :8, 0] + across[0, 1:9, 0]) / 2, atol=1e-6)


def test_normals_stay_unit_vectors() -> None:
    value = values(Form.NORMALS, 64, 48, 0)
    for size in (16, 96):
        result = window("normal", value, Crop(0, 0, 48, 48), size, (48, 64))
        np.testing.assert_allclose(np.linalg.norm(result, axis=-1), 1, atol=1e-3)


@pytest.mark.parametrize("form", sorted(set(BY_FORM) - {Form.DEPTH}))
def test_input_and_label_are_inverse(form: Form) -> None:
    name = BY_FORM[form]
    rows = examples(name, values(form, 32, 32, 1), Crop(0, 0, 32, 32), 32 if form is not Form.FEATURES else 3, (32, 32))
    x = to_input(name, rows)
    if form is Form.CLASSES:
        assert x.dtype == torch.int64 and set(x.unique().tolist()) == {0, 1, 8, 133}
        x = torch.nn.functional.one_hot(x, TOKENIZERS[name].n_labels).movedim(-1, 1).float()
    result = to_label(name, x)
    assert result.shape == rows.shape
    np.testing.assert_allclose(result.astype(np.float32), rows.astype(np.float32), atol=2e-3)


def test_masks_keep_their_two_classes() -> None:
    masks = np.eye(64, dtype=np.uint8)[None]
    x = to_input("sam_mask", masks)
    np.testing.assert_array_equal(x.numpy(), masks)
    logits = torch.stack([1.0 - x, x.float()], dim=1)
    np.testing.assert_array_equal(to_label("sam_mask", logits), masks)


def test_depth_is_standardized_as_in_4m() -> None:
    golden = np.load(GOLDEN)
    raw = torch.from_numpy(golden["depth/raw_u16"] / 65535)  # in float64, for sums that no CPU changes
    np.testing.assert_allclose(standardize_depth(raw[None]).numpy(), golden["depth/standardised"], atol=1e-5)


@given(scale=st.floats(0.5, 4), offset=st.floats(-1, 1), seed=st.integers(0, 99))
@settings(deadline=None, max_examples=30)
def test_standardized_depth_knows_neither_scale_nor_offset(scale: float, offset: float, seed: int) -> None:
    depth = torch.from_numpy(np.random.default_rng(seed).random((2, 12, 9)))
    moved = standardize_depth(depth * scale + offset)
    torch.testing.assert_close(standardize_depth(depth), moved, atol=1e-3, rtol=1e-3)


def test_flat_depth_is_finite() -> None:
    assert torch.isfinite(standardize_depth(torch.full((1, 8, 8), 0.5))).all()
    assert np.isfinite(to_label("tok_depth", torch.zeros(1, 1, 8, 8))).all()


@pytest.mark.parametrize(
    ("name", "rows"),
    [
        ("tok_rgb", np.zeros((1, 8, 8, 3))),
        ("tok_rgb", np.zeros((1, 8, 8), np.uint8)),
        ("tok_canny_edge", np.zeros((1, 8, 8, 3), np.uint8)),
        ("tok_depth", np.zeros((1, 8, 8), np.uint8)),
        ("tok_normal", np.zeros((1, 8, 8, 2), np.float32)),
        ("tok_clip", np.zeros((1, 8, 8), np.float32)),
        ("tok_dinov2_global", np.zeros((1, 8, 8), np.float32)),
        ("tok_semseg", np.zeros((1, 8, 8), np.int64)),
        ("caption", np.zeros((1, 8, 8), np.uint8)),
    ],
)
def test_rows_of_another_form_are_refused(name: str, rows: np.ndarray) -> None:
    with pytest.raises(ValueError, match=rf"{name}.*expected"):
        to_input(name, rows)


class Devices(TorchDispatchMode):
    """Where operations are done, in their order: (name, kind of device)."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: list[tuple[str, str]] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        first = next((x for x in args if isinstance(x, torch.Tensor)), None)
        self.seen.append((func.overloadpacket.__name__, "" if first is None else first.device.type))
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize("name", ["tok_rgb", "tok_depth", "tok_normal", "tok_semseg", "tok_clip"])
def test_rows_are_copied_before_anything_is_done_to_them(name: str) -> None:
    """Of depth above all, which is sorted: on the device, and not on a core of the host before the copy."""
    shape = (2, 8, 8) if name in ("tok_depth", "tok_semseg") else (2, 8, 8, 3)
    rows = np.zeros(shape, np.uint8 if name in ("tok_rgb", "tok_semseg") else np.float16)
    with Devices() as devices:
        to_input(name, rows, device="meta")
    copies = [i for i, (operation, _) in enumerate(devices.seen) if operation == "_to_copy"]
    assert {device for _, device in devices.seen[: copies[0]]} <= {"", "cpu"} and copies[0] <= 1
    assert {device for _, device in devices.seen[copies[0] + 1 :]} == {"meta"}
    assert ("sort", "meta") in devices.seen or name != "tok_depth"
