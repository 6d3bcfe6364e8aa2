"""Inputs of one's own become the tokens that the store has, from memory and from files."""

from __future__ import annotations

import io
import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from fourmill_tests.small import SmallRoot
from fourmill_tests.tiny import every
from PIL import Image

from fourmill.modalities import LABELS, MODALITIES, Kind, Storage
from fourmill.model.config import FourMConfig
from fourmill.model.fourm import FourM
from fourmill.runs.coder import stack
from fourmill.runs.files import files_of
from fourmill.runs.origin import Origin
from fourmill.runs.run import Run, open_run
from fourmill.tokenize.labels import decode_cell, encode_cell


def encoded(run: Run, **inputs: Any) -> dict[str, Any]:
    ((_, tokens),) = run.encode(inputs)
    return tokens


def as_file(folder: Path, label: str, value: Any, key: str = "000001") -> Path:
    """A label as the file that a person would give: as the label's storage writes it."""
    cell = encode_cell(LABELS[label].storage, value)
    suffix = {Storage.IMAGE: "png", Storage.ARRAY: "npy", Storage.JSON: "json"}[LABELS[label].storage]
    if label == "caption":
        cell, suffix = value, "txt"
    path = folder / f"{key}.{suffix}"
    path.write_bytes(cell.encode() if isinstance(cell, str) else cell)
    return path


@pytest.mark.parametrize("name", every.NAMES)
def test_a_label_gives_the_tokens_of_its_column(run: Run, name: str, tmp_path: Path) -> None:
    label = MODALITIES[name].label
    stored = decode_cell(LABELS[label].storage, encode_cell(LABELS[label].storage, every.labels()[label]))
    expected = every.tokens(Path(run.origin.root), name, "000001", stored)
    inputs = {name: as_file(tmp_path, label, stored)}
    # What says nothing of pixels is relative to the sample's picture.
    picture = tmp_path / "rgb" / "000001.png"
    picture.parent.mkdir()
    Image.fromarray(every.labels()["rgb"]).save(picture)
    if name != "rgb":
        inputs |= {"rgb": picture}
    found = encoded(run, **{one: str(path) for one, path in inputs.items()})[name]
    np.testing.assert_array_equal(found.tokens, expected)


def test_the_store_of_a_root_has_the_same_tokens(small_root: SmallRoot) -> None:
    """Real specialists, fitted tokenizers, columns as a shard worker wrote them."""
    shard = small_root.folder / "s" / "train-00000.tar"
    compared = every.compare_with_store(small_root.root, small_root.recipe, shard)
    assert set(compared) == set(small_root.recipe.modalities) and all(compared.values())


@pytest.mark.parametrize("name", [n for n in every.NAMES if MODALITIES[n].is_target])
def test_what_is_written_can_be_given_again(run: Run, name: str, tmp_path: Path) -> None:
    """Every form that results are saved in is a form that inputs may have."""
    label = MODALITIES[name].label
    value = every.labels()[label]
    if label == "color_palette":
        value = value[1]
    for suffix, content in files_of(label, value).items():
        path = tmp_path / f"{label}.{suffix}"
        path.write_bytes(content)
        tokens = encoded(run, **{label if label != "rgb" else name: str(path)})
        assert list(tokens) == [name] and len(tokens[name].tokens)


def test_a_picture_is_cropped_and_what_is_cut_away_is_said(run: Run) -> None:
    wide = np.zeros((60, 101, 3), np.uint8)
    wide[:, 20:80] = 255
    one = encoded(run, rgb=wide)["rgb"]
    assert one.notes == ("101 x 60 px; the model sees the centre square, without 20 px left and 21 px right",)
    assert one.seen.shape == (112, 112, 3) and one.seen.min() > 250
    assert encoded(run, rgb=np.zeros((60, 60, 3), np.uint8))["rgb"].notes == ()


def test_pixels_of_boxes_are_those_of_the_picture(run: Run) -> None:
    picture = np.zeros((120, 240, 3), np.uint8)
    shares = encoded(run, rgb=picture, det=[{"class": "cat", "box": [0.5, 0.25, 0.75, 0.5]}])["det"]
    pixels = encoded(run, rgb=picture, det=[{"class": "cat", "box": [120, 30, 180, 60]}])["det"]
    alone = encoded(run, det={"size": [240, 120], "boxes": [{"label": "cat", "box": [120, 30, 180, 60]}]})["det"]
    np.testing.assert_array_equal(shares.tokens, pixels.tokens)
    np.testing.assert_array_equal(shares.tokens, alone.tokens)
    # The square of 120 pixels begins at 60: the box is its right half.
    (box,) = shares.seen
    np.testing.assert_allclose(box["box"], [0.5, 0.25, 1.0, 0.5], atol=1e-3)


def test_boxes_beyond_the_square_are_named(run: Run) -> None:
    picture = np.zeros((100, 200, 3), np.uint8)
    boxes = [{"class": "cat", "box": [60, 0, 140, 100]}, {"class": "dog", "box": [0, 0, 40, 40]}]
    one = encoded(run, rgb=picture, det=boxes)["det"]
    assert [box["label"] for box in one.seen] == ["cat"]
    assert one.notes == ("1 of 2 boxes are read; the others are outside of the centre square, or beyond its room",)


def test_every_polygon_is_read(run: Run) -> None:
    """Random points would miss small ones: each that a person draws is asked for at a point of its own."""
    corners = [[(0.1 + 0.2 * i, 0.1), (0.15 + 0.2 * i, 0.1), (0.15 + 0.2 * i, 0.16)] for i in range(4)]
    one = encoded(run, sam_instance=[{"polygon": c} for c in corners])["sam_instance"]
    boxes = sorted(instance["box"][0] for instance in one.seen)
    np.testing.assert_allclose(boxes, [0.1, 0.3, 0.5, 0.7], atol=0.01)
    assert one.notes == ()
    many = [
        {"polygon": [(x, y), (x + 0.06, y), (x + 0.06, y + 0.06)]} for x in np.arange(0, 0.9, 0.1) for y in (0, 0.5)
    ]
    assert encoded(run, sam_instance=many)["sam_instance"].notes[0].startswith("12 of 18 instances are read")


def test_instances_may_be_a_picture_of_one_colour_each(run: Run) -> None:
    drawn = np.zeros((100, 100, 3), np.uint8)
    drawn[10:40, 10:40], drawn[60:90, 50:95] = (255, 0, 0), (0, 0, 255)
    one = encoded(run, sam_instance=drawn)["sam_instance"]
    assert len(one.seen) == 2
    given = [[(0.1, 0.1), (0.4, 0.1), (0.4, 0.4), (0.1, 0.4)], [(0.5, 0.6), (0.95, 0.6), (0.95, 0.9), (0.5, 0.9)]]
    same = encoded(run, sam_instance=given)["sam_instance"]
    assert sorted(i["box"] for i in same.seen) == sorted(i["box"] for i in one.seen)


def test_ink_on_paper_is_inverted(run: Run) -> None:
    edges = every.labels()["canny_edge"]
    label = encoded(run, canny_edge=edges)["tok_canny_edge"]
    paper = encoded(run, canny_edge=255 - edges)["tok_canny_edge"]
    np.testing.assert_array_equal(paper.tokens, label.tokens)
    assert any("inverted" in note for note in paper.notes) and not any("inverted" in note for note in label.notes)


def test_classes_may_be_drawn_in_the_colours_of_the_report(run: Run, tmp_path: Path) -> None:
    from fourmill.tokenize.id_colors import class_table

    classes = np.arange(134, dtype=np.uint8).repeat(200).reshape(134, 200).clip(max=133)
    classes[classes == 133] = 255
    Image.fromarray(class_table()[classes]).save(tmp_path / "colours.png")
    (tmp_path / "indexed.png").write_bytes(files_of("semseg", classes)["png"])
    assert Image.open(tmp_path / "indexed.png").mode == "P"
    shown = np.asarray(Image.open(tmp_path / "indexed.png").convert("RGB"))
    np.testing.assert_array_equal(shown, class_table()[classes])
    expected = encoded(run, semseg=classes)["tok_semseg"].tokens
    for name in ("colours.png", "indexed.png"):
        np.testing.assert_array_equal(encoded(run, semseg=str(tmp_path / name))["tok_semseg"].tokens, expected)


def test_colours_of_classes_are_those_of_the_page() -> None:
    from fourmill.modalities import COCO_PANOPTIC_CLASSES
    from fourmill.tokenize.id_colors import class_table

    text = (Path(__file__).parents[2] / "docs" / "classes.md").read_text()
    rows = re.findall(r"(\d+) \| `#(\w{6})` \| ([\w -]+?) \|", text)
    colours = class_table()
    assert {(int(i), color, name) for i, color, name in rows} == {
        (i, colours[i].tobytes().hex(), name) for i, name in enumerate(COCO_PANOPTIC_CLASSES)
    }
    assert len(rows) == len(set(color for _, color, _ in rows)) == len(COCO_PANOPTIC_CLASSES)


def test_a_list_of_ones_own_has_its_names(tmp_path: Path) -> None:
    """Its tokenizers say which classes there are, so that a run needs nothing else."""
    run = open_run(every.write(tmp_path / "out", classes={"semseg": ["sky", "floor", "ball"], "det": ["ball", "box"]}))
    boxes = [{"class": "Ball", "box": [0, 0, 0.5, 0.5]}, {"class": "box", "box": [0.5, 0.5, 1, 1]}]
    assert [box["label"] for box in encoded(run, det=boxes)["det"].seen] == ["ball", "box"]
    with pytest.raises(ValueError, match="the vocabulary has no class 'dog'; expected one of its 2, ball, box"):
        run.encode({"det": [{"class": "dog", "box": [0, 0, 1, 1]}]})
    assert encoded(run, semseg=np.full((9, 9), 2, np.uint8))
    with pytest.raises(ValueError, match="got the classes 3; expected 0 to 2"):
        run.encode({"semseg": np.full((9, 9), 3, np.uint8)})
    made = run.generate({"det": boxes}, "semseg", seed=0)
    assert made.classes == {"det": ("ball", "box"), "semseg": ("sky", "floor", "ball")}
    assert set(np.unique(made[0]["tok_semseg"])) <= {0, 1, 2, 255}


def test_depth_and_normals_may_be_pictures(run: Run, tmp_path: Path) -> None:
    made = every.labels()
    for label, tolerance in (("depth", 0.15), ("normal", 0.2)):
        (tmp_path / f"{label}.png").write_bytes(files_of(label, made[label])["png"])
        name = f"tok_{label}"
        exact = encoded(run, **{label: made[label]})[name].tokens
        drawn = encoded(run, **{label: str(tmp_path / f"{label}.png")})[name].tokens
        assert (exact != drawn).mean() <= tolerance, label
    metres = made["depth"].astype(np.float32) * 12 + 0.5
    one = encoded(run, depth=metres)["tok_depth"]
    assert "0.5 (near) to 12.5 (far) were scaled to 0..1" in one.notes[0]
    # The ids of a map that differs in scale and shift alone are the same but for rounding.
    assert (one.tokens != encoded(run, depth=made["depth"])["tok_depth"].tokens).mean() < 0.1


def test_poses_may_be_rotation_vectors(run: Run) -> None:
    (person,) = every.labels()["human_poses"]
    vectors = person | {"global_orient": [0.0] * 3, "body_pose": [[0.0] * 3] * 23}
    expected = encoded(run, human_poses=[person])["human_poses"].tokens
    np.testing.assert_array_equal(encoded(run, human_poses=[vectors])["human_poses"].tokens, expected)
    assert encoded(run, human_poses=[])["human_poses"].seen == []


def test_what_is_transparent_is_not_known(run: Run, tmp_path: Path) -> None:
    picture = every.labels()["rgb"]
    alpha = np.zeros((120, 150), np.uint8)
    alpha[:, 75:] = 255
    Image.fromarray(np.dstack([picture, alpha])).save(tmp_path / "half.png")
    ((_, one),) = run.encode({"tok_rgb": str(tmp_path / "half.png"), "rgb": str(tmp_path / "half.png")})
    known = np.arange(49).reshape(7, 7) % 7 >= 3  # half of the middle column is opaque
    np.testing.assert_array_equal(one["tok_rgb"].known.reshape(7, 7), known)
    assert one["tok_rgb"].notes[-1] == "21 of 49 tokens are not known, where the picture is transparent"
    assert one["rgb"].notes[-1] == "what is transparent is white" and one["rgb"].known is None
    given = stack(run.specs, [one])
    assert ((given["tok_rgb"][0] == -1).reshape(7, 7) == ~known).all()
    assert run.generate({"tok_rgb": str(tmp_path / "half.png")}, "depth:steps=1")
    Image.fromarray(np.dstack([picture, alpha * 0])).save(tmp_path / "none.png")
    with pytest.raises(ValueError, match="transparent all over; leave it out, or paint what is known"):
        run.encode({"tok_rgb": str(tmp_path / "none.png")})


def test_palettes_and_metadata_may_be_words(run: Run, tmp_path: Path) -> None:
    for given in ("#ff0000,#00ff00", "red lime", [[255, 0, 0], [0, 255, 0]], "[[255, 0, 0], [0, 255, 0]]"):
        assert encoded(run, color_palette=given)["color_palette"].seen == [[255, 0, 0], [0, 255, 0]]
    (tmp_path / "a.json").write_text(json.dumps({"n_humans": 2, "brightness": 120}))
    for given in ("n_humans=2, brightness=120", {"n_humans": 2, "brightness": 120.0}, str(tmp_path / "a.json")):
        seen = encoded(run, metadata=given)["metadata"].seen
        assert seen["n_humans"] == 2 and abs(seen["brightness"] - 120) < 6


def test_the_grid_of_a_map_alone_is_that_of_a_square_picture(run: Run) -> None:
    """Features say nothing of pixels; a map whose picture is not given is cropped by its own ratio."""
    features = every.labels()["clip"]
    assert encoded(run, clip=features)["tok_clip"].tokens.shape == (49,)


def test_kinds_without_a_text_need_no_vocabulary(tmp_path: Path) -> None:
    config = FourMConfig((spec_of("rgb"), spec_of("tok_rgb")), dim=16, num_heads=2, encoder_depth=1, decoder_depth=1)
    run = Run("somewhere", FourM(config).eval(), Origin(""))
    assert encoded(run, rgb=np.zeros((32, 32, 3), np.uint8))["rgb"].seen.shape == (64, 64, 3)
    with pytest.raises(ValueError, match="tok_rgb needs the tokenizer tok_rgb, and no folder above the model has"):
        encoded(run, tok_rgb=np.zeros((32, 32, 3), np.uint8))


def spec_of(name: str) -> Any:
    from fourmill.modalities import spec

    return spec(name, image_size=64, patch_size=16, vocab_size=64)


def test_pictures_of_other_kinds_are_one_picture(run: Run, tmp_path: Path) -> None:
    """A PIL image, an array, a PNG and a path object give the same tokens."""
    picture = every.labels()["rgb"]
    buffer = io.BytesIO()
    Image.fromarray(picture).save(buffer, "PNG")
    (tmp_path / "a.png").write_bytes(buffer.getvalue())
    expected = encoded(run, tok_rgb=picture)["tok_rgb"].tokens
    for given in (Image.fromarray(picture), tmp_path / "a.png", str(tmp_path / "a.png")):
        np.testing.assert_array_equal(encoded(run, tok_rgb=given)["tok_rgb"].tokens, expected)


def test_every_form_can_be_given() -> None:
    forms = {LABELS[MODALITIES[name].label].form for name in every.NAMES}
    every_form = {LABELS[modality.label].form for modality in MODALITIES.values()}  # of labels that have tokens
    assert forms == every_form and {MODALITIES[name].kind for name in every.NAMES} == set(Kind)
