"""COCO panoptic classes: the order of classes, the frame, every kind of model on tiny random weights."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from fourmill_tests.tiny import dense as tiny_dense

from fourmill.infra.versions import outdated
from fourmill.modalities import COCO_PANOPTIC_CLASSES, NO_CLASS
from fourmill.pipelines.reject import Reject
from fourmill.pipelines.specialists.base import Item
from fourmill.pipelines.specialists.dense.depth import Depth
from fourmill.pipelines.specialists.dense.normals import Normals
from fourmill.pipelines.specialists.dense.segmentation import (
    Panoptic,
    argmax_at,
    class_table,
    classes_of_segments,
    published_classes,
)

GOLDEN = Path(__file__).parents[3] / "golden" / "mask2former" / "panoptic.npz"
FAMILIES: dict[str, Callable[[Path], Path]] = {
    "mask2former": tiny_dense.mask2former,
    "mask2former_padded": lambda folder: tiny_dense.mask2former(folder, pad_size={"height": 128, "width": 160}),
    "eomt": tiny_dense.eomt,
    "oneformer": tiny_dense.oneformer,
    "segformer": tiny_dense.segformer,
    "tipsv2": tiny_dense.tipsv2,
}
MASKS = ("mask2former", "mask2former_padded", "eomt", "oneformer")
EVERYTHING = {"min_score": 0.0, "mask_threshold": 0.0, "min_visible": 0.0}  # random weights are sure of nothing
PERSON, GRASS = 0, COCO_PANOPTIC_CLASSES.index("grass-merged")


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    root = tmp_path_factory.mktemp("segmentation")
    return {name: build(root / name) for name, build in FAMILIES.items()}


def _ready(folder: Path, **options: Any) -> Panoptic:
    specialist = Panoptic(weights=str(folder), **options)
    specialist.setup("cpu")
    return specialist


@pytest.mark.parametrize("family", FAMILIES)
def test_whole_frame_is_labelled_alone_as_in_a_batch(folders: dict[str, Path], family: str) -> None:
    specialist = _ready(folders[family], **EVERYTHING)
    items = tiny_dense.items()
    labels = specialist(items)
    for item, size, label in zip(items, tiny_dense.SIZES, labels, strict=True):
        assert isinstance(label, np.ndarray)
        assert label.dtype == np.uint8 and label.shape == size
        assert ((label < 133) | (label == NO_CLASS)).all() and (label < 133).any()
        alone = specialist([Item(item.key, item.image, None)])[0]
        assert np.mean(alone == label) > 0.999
    again = specialist(tiny_dense.items())
    assert all(np.array_equal(a, b) for a, b in zip(labels, again, strict=True))


def _two_segments(pixels: torch.Tensor) -> dict[str, torch.Tensor]:
    """A sure mask classifier, or a semantic head: bright pixels are a person, dark ones grass, grey ones are unsure."""
    bright = torch.nn.functional.interpolate(pixels.mean(1, keepdim=True), scale_factor=0.5, mode="area")
    classes = torch.zeros(len(pixels), 3, 134)
    classes[:, 0, PERSON], classes[:, 1, GRASS], classes[:, 2, -1] = 20, 20, 20
    logits = torch.full((len(pixels), 133, *bright.shape[2:]), -20.0)
    logits[:, PERSON], logits[:, GRASS] = bright[:, 0], -bright[:, 0]
    masks = torch.cat([50 * bright, -50 * bright, 0 * bright], dim=1)
    return {"class_queries_logits": classes, "masks_queries_logits": masks, "logits": logits}


@pytest.mark.parametrize("family", [name for name in FAMILIES if name != "tipsv2"])
def test_segments_lie_where_the_picture_has_them(folders: dict[str, Path], family: str) -> None:
    specialist = _ready(folders[family], min_visible=0.5)
    specialist._model = tiny_dense.Echo(specialist._model, _two_segments)
    grey = float(np.mean(specialist._processor.image_mean)) * 255
    items = tiny_dense.items()
    for item, label in zip(items, specialist(items), strict=True):
        assert isinstance(label, np.ndarray) and item.image is not None
        image = item.image[..., 0]
        sure = np.abs(image - grey) > 20
        assert np.mean(label[sure] == np.where(image > grey, PERSON, GRASS)[sure]) > 0.98
        assert {PERSON, GRASS} <= set(np.unique(label).tolist()) <= {PERSON, GRASS, NO_CLASS}


@pytest.mark.parametrize("processing", [{}, {"do_resize": False, "do_pad": True}])
def test_the_label_is_the_librarys_own_panoptic_segmentation(
    folders: dict[str, Path], tmp_path: Path, processing: dict[str, Any]
) -> None:
    from transformers import AutoImageProcessor, AutoModelForUniversalSegmentation

    folder = tiny_dense.mask2former(tmp_path / "mask2former", **processing) if processing else folders["mask2former"]
    item = tiny_dense.items((97, 211))[0]
    label = _ready(folder, **EVERYTHING, inference="transformers")([item])[0]
    processor = AutoImageProcessor.from_pretrained(folder)
    model = AutoModelForUniversalSegmentation.from_pretrained(folder).eval()
    with torch.no_grad():
        outputs = model(**processor(images=[item.image], return_tensors="pt"))
    published = processor.post_process_panoptic_segmentation(
        outputs, 0.0, 0.0, 0.0, label_ids_to_fuse=set(), target_sizes=[(97, 211)]
    )[0]
    by_id = {segment["id"]: segment["label_id"] for segment in published["segments_info"]}
    expected = np.vectorize(lambda i: by_id.get(i, NO_CLASS))(published["segmentation"].numpy())
    np.testing.assert_array_equal(label, expected)


@pytest.mark.parametrize(("number", "size", "visible"), [(0, (37, 55), 0.5), (1, (32, 32), 0.3), (2, (61, 20), 0.3)])
def test_segments_are_those_of_mask2formers_authors(number: int, size: tuple[int, int], visible: float) -> None:
    """Recorded from `panoptic_inference` of facebookresearch/Mask2Former (9b0651c), things merged by class."""
    recorded = np.load(GOLDEN)
    logits, masks = (torch.from_numpy(recorded[f"{number}_{name}"]) for name in ("logits", "masks"))
    found = published_classes([logits], [masks], [size], 0.8, 0.5, visible)[0].numpy()
    np.testing.assert_array_equal(np.where(found < 0, NO_CLASS, found), recorded[f"{number}_classes"])


@pytest.mark.parametrize("size", [(97, 211), (60, 45)])
def test_the_default_is_the_authors_inference(folders: dict[str, Path], size: tuple[int, int]) -> None:
    """From the image to the label, beside their rule spelled out on the network's own output."""
    from transformers import AutoImageProcessor, AutoModelForUniversalSegmentation

    item = tiny_dense.items(size)[0]
    label = _ready(folders["mask2former"], min_score=0.02, min_visible=0.1)([item])[0]
    processor = AutoImageProcessor.from_pretrained(folders["mask2former"])
    model = AutoModelForUniversalSegmentation.from_pretrained(folders["mask2former"]).eval()
    with torch.no_grad():
        outputs = model(**processor(images=[item.image], return_tensors="pt"))
    logits, masks = outputs.class_queries_logits, outputs.masks_queries_logits
    found = published_classes(list(logits), list(masks), [size], 0.02, 0.5, 0.1)[0]
    assert isinstance(label, np.ndarray) and len(np.unique(label)) > 1
    np.testing.assert_array_equal(label, np.where(found < 0, NO_CLASS, found))


@pytest.mark.parametrize("family", ["segformer", "tipsv2"])
def test_a_semantic_head_says_what_its_own_classes_say(folders: dict[str, Path], family: str) -> None:
    from transformers import AutoImageProcessor, AutoModelForSemanticSegmentation

    for size in ((97, 211), (64, 45)):
        item = tiny_dense.items(size)[0]
        label = _ready(folders[family])([item])[0]
        model = AutoModelForSemanticSegmentation.from_pretrained(folders[family]).eval()
        inputs = AutoImageProcessor.from_pretrained(folders[family])(images=[item.image], return_tensors="pt")
        with torch.no_grad():
            logits = model(pixel_values=inputs["pixel_values"]).logits
        logits = torch.nn.functional.interpolate(logits, size, mode="bilinear", align_corners=False)
        assert np.mean(label == logits[0].argmax(0).numpy()) > 0.999


def test_eomts_segments_are_those_of_its_own_classes(folders: dict[str, Path]) -> None:
    from transformers import AutoImageProcessor, AutoModelForUniversalSegmentation

    item = tiny_dense.items((97, 211))[0]
    label = _ready(folders["eomt"], min_score=0.02, min_visible=0.1)([item])[0]
    processor = AutoImageProcessor.from_pretrained(folders["eomt"], do_pad=True, do_split_image=False)
    model = AutoModelForUniversalSegmentation.from_pretrained(folders["eomt"]).eval()
    with torch.no_grad():
        outputs = model(pixel_values=processor(images=[item.image], return_tensors="pt")["pixel_values"])
    (found,) = processor.post_process_panoptic_segmentation(outputs, [(97, 211)], 0.02, 0.5, 0.1)
    ids = found["segmentation"].numpy().astype(int)
    expected = np.full(ids.shape, NO_CLASS)
    for segment in found["segments_info"]:
        expected[ids == segment["id"]] = segment["label_id"]
    assert len(np.unique(expected)) > 1
    np.testing.assert_array_equal(label, expected)


def test_thresholds_are_the_authors_unless_others_are_asked_for(folders: dict[str, Path]) -> None:
    specialists = {name: _ready(folders[name]) for name in ("mask2former", "oneformer", "eomt")}
    assert {one.least_score for one in specialists.values()} == {0.8}
    assert _ready(folders["mask2former"], min_score=0.3).least_score == 0.3


def test_labels_of_the_first_release_are_out_of_date() -> None:
    hashed = [Panoptic(**options).fingerprint_parts() for options in ({}, {"min_score": 0.5}, {"min_score": 0.8})]
    assert hashed[0]["options"]["min_score"] == 0.5 and "inference" not in hashed[0]["options"]
    assert hashed[0] != hashed[1] != hashed[2] != hashed[0] and {one["version"] for one in hashed} == {1}
    (why,) = outdated([Panoptic().part()], {}, {})
    assert "below a class probability of 0.8" in why


@pytest.mark.parametrize("family", [name for name in FAMILIES if name != "tipsv2"])
@pytest.mark.parametrize("size", [(900, 9), (1, 3000)])
def test_thin_pictures_lie_in_their_frame(folders: dict[str, Path], family: str, size: tuple[int, int]) -> None:
    specialist = _ready(folders[family], min_visible=0.5)
    specialist._model = tiny_dense.Echo(specialist._model, _two_segments)
    image = np.zeros((*size, 3), np.uint8)
    half = image[: size[0] // 2] if size[0] > size[1] else image[:, : size[1] // 2]
    half[:] = 255
    label = specialist([Item("thin", image, None)])[0]
    assert isinstance(label, np.ndarray) and label.shape == size
    assert np.mean(label == np.where(image[..., 0] > 0, PERSON, GRASS)) > 0.95


def test_large_pictures_keep_their_frame(folders: dict[str, Path]) -> None:
    specialist = _ready(folders["mask2former"], min_visible=0.5)
    specialist._model = tiny_dense.Echo(specialist._model, _two_segments)
    item = tiny_dense.items((700, 1501))[0]
    label = specialist([item])[0]
    assert isinstance(label, np.ndarray) and item.image is not None and label.shape == (700, 1501)
    image = item.image[..., 0].astype(float)
    assert np.mean((label == PERSON)[image > 150]) > 0.97 and np.mean((label == GRASS)[image < 90]) > 0.97


def test_thresholds_drop_segments(folders: dict[str, Path]) -> None:
    unsure = _ready(folders["mask2former"])(tiny_dense.items((64, 64)))[0]
    assert isinstance(unsure, np.ndarray) and (unsure == NO_CLASS).all()  # no class of random weights reaches 0.5
    loose, tight = (_ready(folders["eomt"], min_visible=0.5, mask_threshold=threshold) for threshold in (0.5, 0.9999))
    for specialist in (loose, tight):
        specialist._model = tiny_dense.Echo(specialist._model, _two_segments)
    some, more = (np.mean(s(tiny_dense.items((97, 211)))[0] == NO_CLASS) for s in (loose, tight))
    assert some < more < 0.5


def test_nan_rejects_its_own_image_only(folders: dict[str, Path]) -> None:
    specialist = _ready(folders["mask2former"])

    def answer(pixels: torch.Tensor) -> dict[str, torch.Tensor]:
        found = _two_segments(pixels)
        found["class_queries_logits"][pixels.flatten(1).std(1) < 0.5] = torch.nan
        return found

    specialist._model = tiny_dense.Echo(specialist._model, answer)
    good = tiny_dense.items((50, 50), (50, 50))
    flat = Item("flat", np.full((50, 50, 3), 116, np.uint8), None)
    labels = specialist([good[0], flat, good[1]])
    assert isinstance(labels[1], Reject) and labels[1].reason == "semseg: NaN or infinite values"
    assert isinstance(labels[0], np.ndarray) and isinstance(labels[2], np.ndarray)


def test_the_same_scores_everywhere_are_a_reject(folders: dict[str, Path]) -> None:
    specialist = _ready(folders["segformer"])
    for shift, broken in ((0.0, True), (1.0, False)):

        def answer(pixels: torch.Tensor, scale: float = shift) -> dict[str, torch.Tensor]:
            return {"logits": pixels.mean(1, keepdim=True).repeat(1, 133, 1, 1) * scale + 2}

        specialist._model = tiny_dense.Echo(specialist._model, answer)
        label = specialist(tiny_dense.items((40, 50)))[0]
        assert (isinstance(label, Reject) and label.reason == "semseg: the same everywhere") is broken


@pytest.mark.parametrize("family", ["mask2former", "oneformer", "eomt", "segformer"])
@pytest.mark.parametrize("precision", ["bf16", "fp16"])
def test_half_precision_runs(folders: dict[str, Path], family: str, precision: Any) -> None:
    label = _ready(folders[family], precision=precision, **EVERYTHING)(tiny_dense.items((60, 70)))[0]
    assert isinstance(label, np.ndarray) and label.shape == (60, 70) and (label < 133).any()


def test_half_precision_is_for_networks_that_stand_it(folders: dict[str, Path]) -> None:
    found = {family: Panoptic(weights=str(folders[family])).dtype("cuda:0") for family in FAMILIES}
    assert found["mask2former"] == found["oneformer"] == torch.float32
    assert found["eomt"] == Depth().dtype("cuda:0") == torch.float16
    # The same as depth and normals, which share TIPSv2's trunk.
    tips = Depth(weights="google/tipsv2-l14-dpt"), Normals()
    assert found["tipsv2"] == tips[0].dtype("cuda:0") == tips[1].dtype("cuda:0") == torch.float32


def test_oneformer_needs_no_hub(folders: dict[str, Path]) -> None:
    assert "class_info_file" in (folders["oneformer"] / "preprocessor_config.json").read_text()
    specialist = _ready(folders["oneformer"])
    assert specialist._task_tokens.shape == (1, 12) and specialist._task_tokens.any()


def test_other_classes_and_tasks_are_refused(tmp_path: Path) -> None:
    names = dict(enumerate(["wall", "building", "carpet"]))
    with pytest.raises(ValueError, match=r"knows 3 classes, and 131 of COCO panoptic's 133 .*trained on COCO panoptic"):
        _ready(tiny_dense.segformer(tmp_path / "ade", names))
    with pytest.raises(ValueError, match="no model for COCO panoptic segmentation"):
        _ready(tiny_dense.depth_anything(tmp_path / "depth"))


NAMES = list(COCO_PANOPTIC_CLASSES)
SHORT = [name.replace("-other", "").replace("-merged", "") for name in NAMES]  # detectron2's spelling


@pytest.mark.parametrize(
    "names",
    [NAMES, SHORT, [f"LABEL_{i}" for i in range(133)], [*NAMES[:80], *(f"stuff {i}" for i in range(53))]],
    ids=["coco", "detectron2", "unnamed", "things"],
)
def test_coco_panoptic_order_is_recognized(names: list[str]) -> None:
    assert class_table(dict(enumerate(names))).tolist() == list(range(133))


@pytest.mark.parametrize("names", [NAMES, SHORT])
def test_classes_go_by_name_where_the_order_is_another(names: list[str]) -> None:
    order = np.random.default_rng(0).permutation(133)
    table = class_table({0: "background", **{i + 1: names[c] for i, c in enumerate(order)}})
    assert table.tolist() == [NO_CLASS, *order.tolist()]


@pytest.mark.parametrize(
    "names", [[], ["person", "carpet"], [f"thing {i}" for i in range(133)], [f"LABEL_{i}" for i in range(134)]]
)
def test_other_sets_of_classes_are_refused(names: list[str]) -> None:
    with pytest.raises(ValueError, match=f"knows {len(names)} classes"):
        class_table(dict(enumerate(names)))


def test_classes_go_by_name_or_else_by_position() -> None:
    assert class_table({0: "sky-other-merged", 1: "person"}).tolist() == [NAMES.index("sky-other-merged"), 0]
    assert class_table({0: "LABEL_0", 1: "LABEL_1"}).tolist() == [0, 1]


def test_names_of_coco_panoptic_stay_apart_when_shortened() -> None:
    table = class_table(dict(enumerate(reversed(NAMES))))
    assert table.tolist() == list(reversed(range(133)))


def test_segments_become_classes() -> None:
    segments = [{"id": 1, "label_id": 4}, {"id": 3, "label_id": 2}, {"id": 7, "label_id": 0}]
    table = np.array([10, 11, 12, 13, NO_CLASS], np.uint8)
    found = classes_of_segments(np.array([[0, 1, 3], [-1, 2, 3]]), segments, table)
    assert found.tolist() == [[NO_CLASS, NO_CLASS, 12], [NO_CLASS, NO_CLASS, 12]]
    empty = classes_of_segments(np.full((2, 2), -1.0, np.float32), [], table)
    assert empty.dtype == np.uint8 and (empty == NO_CLASS).all()


@pytest.mark.parametrize("classes", [1, 16, 37])
def test_the_largest_logit_wins_however_many_classes(classes: int) -> None:
    torch.manual_seed(classes)
    logits = torch.randn(classes, 7, 5)
    whole = torch.nn.functional.interpolate(logits[None], (31, 22), mode="bilinear", align_corners=False)[0].argmax(0)
    assert torch.equal(argmax_at(logits, (31, 22)), whole)


def test_a_model_of_coco_serves_a_list_of_the_recipes_own() -> None:
    own = ["person", "sky", "Floor", "dog"]
    table = class_table(dict(enumerate(NAMES)), wanted=own)
    by_name = {name: int(table[NAMES.index(name)]) for name in ("sky-other-merged", "floor-other-merged", "dog", "cat")}
    assert by_name == {"sky-other-merged": 1, "floor-other-merged": 2, "dog": 3, "cat": NO_CLASS}
    assert np.count_nonzero(table != NO_CLASS) == 4
    assert class_table({0: "LABEL_0", 1: "LABEL_1"}, wanted=own).tolist() == [0, 1]
    assert class_table({0: "dog", 1: "sky"}, wanted=own).tolist() == [3, 1]
    with pytest.raises(
        ValueError, match=r"knows 133 classes, and 1 of the recipe's 2 are not .*the list classes.semseg"
    ):
        class_table(dict(enumerate(NAMES)), wanted=["sky", "ball"])
