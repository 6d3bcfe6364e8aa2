"""SAM instances: the masks of segment-anything itself, in the frame of the image, from any form of the weights."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch
from fourmill_tests.tiny import features as tiny_features
from fourmill_tests.tiny import sam as tiny_sam
from pydantic import ValidationError
from segment_anything import SamAutomaticMaskGenerator, build_sam_vit_b, build_sam_vit_h
from skimage import data as photos

from fourmill.pipelines.reject import Reject
from fourmill.pipelines.specialists.base import Item
from fourmill.pipelines.specialists.instances import sam_grid, sam_models
from fourmill.pipelines.specialists.instances.sam import SamInstances
from fourmill.tokenize import masks

ANY = {"points_per_side": 4, "pred_iou_thresh": 0, "stability_score_thresh": 0.5, "box_nms_thresh": 0.95}


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], str]:
    root = tmp_path_factory.mktemp("sam")
    makers = {"sam": tiny_sam.sam, "sam2": tiny_sam.sam2, "t5": tiny_features.t5}

    def make(name: str) -> str:
        path = root / name
        return str(path if path.exists() else makers.get(name, tiny_sam.segment_anything)(path))

    return make


def photo(width: int, height: int) -> np.ndarray:
    return cv2.resize(photos.astronaut(), (width, height), interpolation=cv2.INTER_AREA)


def ready(**options: Any) -> SamInstances:
    torch.set_num_threads(1)
    specialist = SamInstances(**{**ANY, **options})
    specialist.setup("cpu")
    return specialist


def found(specialist: SamInstances, image: np.ndarray) -> list[dict[str, Any]]:
    (label,) = specialist([Item("k", image, None)])
    assert isinstance(label, list)
    return label


def bright(image: np.ndarray) -> sam_grid.View:
    """What a SAM would see that knows one rule: what is bright belongs together, and what is dark."""
    side = 64
    scale = side / max(image.shape[:2])
    rows, columns = (max(1, round(edge * scale)) for edge in image.shape[:2])
    seen = np.zeros((side, side), np.float32)
    seen[:rows, :columns] = cv2.resize(image[..., 0], (columns, rows), interpolation=cv2.INTER_AREA)
    logits = torch.from_numpy(seen).sub(127.5).div(5)

    def decode(points: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        x, y = points.long().unbind(1)
        signs = torch.where(logits[y, x] > 0, 1, -1)
        return signs[:, None, None, None] * logits.expand(len(points), 1, side, side), torch.full((len(points), 1), 0.9)

    return sam_grid.View(decode, (rows, columns), side)


def one_by_one(view: Callable[[np.ndarray], sam_grid.View]) -> sam_models.Network:
    """A network that sees the image itself."""
    return sam_models.Network(lambda image: image, lambda images: [view(image) for image in images])


def square(width: int, height: int, left: int, top: int, right: int, bottom: int) -> np.ndarray:
    image = np.zeros((height, width, 3), np.uint8)
    image[top:bottom, left:right] = 255
    return image


@pytest.mark.parametrize(
    ("size", "box"),
    [
        ((64, 64), (16, 8, 40, 56)),
        ((128, 64), (64, 16, 112, 48)),
        ((96, 192), (12, 96, 60, 180)),
        ((1280, 960), (320, 200, 800, 640)),
        ((4096, 2048), (1024, 512, 3072, 1536)),
    ],
)
def test_masks_stand_where_things_stand(size: tuple[int, int], box: tuple[int, int, int, int]) -> None:
    """At sizes below and above those of network and working frame."""
    width, height = size
    specialist = SamInstances(points_per_side=8, working_size=512)
    specialist._network = one_by_one(bright)
    background, thing = found(specialist, square(width, height, *box))
    pixel = max(size) / 64  # of what the network saw
    np.testing.assert_allclose(np.array(thing["box"]) * [width, height, width, height], box, atol=pixel)
    assert background["box"] == [0, 0, 1, 1]
    for instance in (background, thing):
        mask = masks.decode(instance["mask"])
        assert mask.shape == (height, width)
        assert instance["area"] == mask.mean()
        rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
        extent = [columns[0] / width, rows[0] / height, (columns[-1] + 1) / width, (rows[-1] + 1) / height]
        assert instance["box"] == extent
        x, y = instance["point"]
        assert mask[int(y * height), int(x * width)] == 1
        assert instance["iou"] == pytest.approx(0.9) and 0.9 < instance["stability"] <= 1
    assert thing["area"] == pytest.approx((box[2] - box[0]) * (box[3] - box[1]) / (width * height), rel=0.1)
    assert json.loads(json.dumps(thing)) == thing


def test_a_working_size_saves_work_and_changes_little() -> None:
    image = square(600, 500, 100, 100, 300, 400)
    results = []
    for size in (256, 4096):
        specialist = SamInstances(points_per_side=8, working_size=size, stability_score_thresh=0.5)
        specialist._network = one_by_one(bright)
        results.append(found(specialist, image))
    for small, large in zip(*results, strict=True):
        assert small["mask"] == large["mask"]
        assert small["stability"] == pytest.approx(large["stability"], abs=0.05)


def test_few_masks_are_held_at_the_size_of_the_image(monkeypatch: pytest.MonkeyPatch) -> None:
    image, most = square(1000, 800, 100, 100, 300, 400), []

    def watched(self: sam_grid.View, logits: torch.Tensor, height: int, width: int) -> torch.Tensor:
        grown = enlarge(self, logits, height, width)
        most.append(grown.numel())
        return grown

    specialist = SamInstances(points_per_side=8, stability_score_thresh=0.5)
    specialist._network = one_by_one(bright)
    enlarge, freely = sam_grid.View.enlarge, found(specialist, image)
    monkeypatch.setattr(sam_grid.View, "enlarge", watched)
    monkeypatch.setattr(sam_grid, "_PIXELS", 3 * 1000 * 800)
    assert found(specialist, image) == freely
    assert max(most) == 3 * 1000 * 800


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"points_per_side": 7, "points_per_batch": 5, "box_nms_thresh": 0.9},
        {"pred_iou_thresh": 0.88, "stability_score_thresh": 0.6, "stability_score_offset": 3.0},
        {"crop_n_layers": 1, "crop_n_points_downscale_factor": 2, "stability_score_thresh": 0.1},
        {"min_mask_region_area": 60, "stability_score_thresh": 0.1},
    ],
)
def test_the_masks_are_those_of_segment_anything(options: dict[str, Any]) -> None:
    """Of its own generator, mask by mask, for an image that the network must shrink."""
    torch.set_num_threads(1)
    sam, image = sam_models.from_state(tiny_sam.tensors()), photo(90, 61)
    asked: dict[str, Any] = {**ANY, **options}
    overlap = {"crop_nms_thresh": asked["box_nms_thresh"]}
    expected = SamAutomaticMaskGenerator(sam, output_mode="coco_rle", **asked, **overlap).generate(image)
    network, settings = sam_models.segment_anything(sam, "cpu", torch.float32), sam_grid.Settings(**asked)
    looks = [
        sam_grid.look(view, window, image.shape, sam_grid.grids(settings)[window.layer], settings)
        for window in sam_grid.windows(image.shape, settings)
        for view in network.encode([network.prepare(window.of(image))])
    ]
    seen = sam_grid.instances(looks, image.shape, settings)
    assert len(seen) == len(expected) > 1

    def key(counts: str, point: Sequence[float]) -> tuple[str, float, float]:
        return counts, round(point[0], 3), round(point[1], 3)

    by_mask = {key(mask["segmentation"]["counts"], mask["point_coords"][0]): mask for mask in expected}
    assert {key(instance.code["counts"], instance.point) for instance in seen} == set(by_mask)
    for instance in seen:
        mask = by_mask[key(instance.code["counts"], instance.point)]
        left, top, width, height = mask["bbox"]
        assert instance.box == (left, top, left + width, top + height)
        assert instance.area == mask["area"]
        assert instance.iou == pytest.approx(mask["predicted_iou"], abs=1e-5)
        assert instance.stability == pytest.approx(mask["stability_score"], abs=1e-5)


@pytest.mark.parametrize("shape", [(64, 64), (90, 61), (33, 127)])
def test_masks_of_sam2_are_those_of_its_own_classes(shape: tuple[int, int], weights: Callable[[str], str]) -> None:
    """By transformers' Sam2Model and Sam2Processor for single points, at the size of the image."""
    from transformers import AutoImageProcessor, Sam2Model, Sam2Processor

    torch.set_num_threads(1)
    folder, image = weights("sam2"), photo(shape[1], shape[0])
    model: Any = Sam2Model.from_pretrained(folder).eval()
    images = AutoImageProcessor.from_pretrained(folder)
    processor = Sam2Processor(images)
    points = torch.tensor([[0.2, 0.3], [0.5, 0.5], [0.9, 0.75]])
    with torch.inference_mode():
        network = sam_models.transformers(model, images, "cpu")
        (view,) = network.encode([network.prepare(image)])
        logits, iou = view.masks(points)
        pixels = (points * torch.tensor([shape[1], shape[0]])).tolist()
        inputs = processor(images=image, input_points=[[[p] for p in pixels]], return_tensors="pt")
        labels = torch.ones(1, len(pixels), 1, dtype=torch.int64)
        known = {name: inputs[name] for name in ("pixel_values", "input_points")}
        out = model(**known, input_labels=labels, multimask_output=True)
        (expected,) = processor.post_process_masks(out.pred_masks, inputs["original_sizes"], binarize=False)
    torch.testing.assert_close(iou, out.iou_scores[0], atol=1e-4, rtol=1e-4)
    for found, mask in zip(logits, expected, strict=True):
        torch.testing.assert_close(view.enlarge(found, *shape), mask, atol=2e-3, rtol=1e-3)


def test_folder_and_file_of_weights_are_one_model(weights: Callable[[str], str]) -> None:
    image = photo(64, 43)  # neither has to shrink it, which they do with other filters
    by_file = found(ready(weights=weights("sam.safetensors")), image)
    by_folder = found(ready(weights=weights("sam")), image)
    assert len(by_file) > 2
    for one, other in zip(by_file, by_folder, strict=True):
        assert one["mask"] == other["mask"] and one["point"] == other["point"]
        assert one["iou"] == pytest.approx(other["iou"], abs=1e-4)


def test_pickled_weights_need_consent_and_are_the_same(weights: Callable[[str], str]) -> None:
    path = weights("sam.pth")
    with pytest.raises(ValueError, match="allow_pickle: true"):
        ready(weights=path)
    trusted = ready(weights=path, allow_pickle=True)
    safe = ready(weights=weights("sam.safetensors"))
    assert found(trusted, photo(50, 64)) == found(safe, photo(50, 64))


@pytest.mark.parametrize("name", ["sam.safetensors", "sam", "sam2"])
def test_batches_repetition_and_points_at_a_time_do_not_matter(name: str, weights: Callable[[str], str]) -> None:
    specialist = ready(weights=weights(name), stability_score_thresh=0)
    images = [photo(64, 64), photo(33, 71), photo(130, 57), photo(64, 64)]
    labels = specialist([Item(str(i), image, None) for i, image in enumerate(images)])
    assert [found(specialist, image) for image in images] == labels
    assert labels[0] == labels[3] and labels[0]
    one_by_one = ready(weights=weights(name), stability_score_thresh=0, points_per_batch=1)
    alone = found(one_by_one, images[1])
    assert [i["mask"]["size"] for i in alone] == [i["mask"]["size"] for i in labels[1]]
    assert [i["area"] for i in alone] == pytest.approx([i["area"] for i in labels[1]], abs=2e-3)
    assert one_by_one.identity() == specialist.identity()


@pytest.mark.parametrize("name", ["sam.safetensors", "sam", "sam2"])
@pytest.mark.parametrize("shape", [(1, 1), (1, 9), (40, 3), (2, 500), (301, 64)])
def test_any_size(name: str, shape: tuple[int, int], weights: Callable[[str], str]) -> None:
    image = np.random.default_rng(0).integers(0, 256, (*shape, 3), dtype=np.uint8)
    label = found(ready(weights=weights(name), stability_score_thresh=0, crop_n_layers=1), image)
    for instance in label:
        assert instance["mask"]["size"] == list(shape)
        xmin, ymin, xmax, ymax = instance["box"]
        assert 0 <= xmin < xmax <= 1 and 0 <= ymin < ymax <= 1
        assert 0 < instance["area"] <= 1 and 0 <= instance["iou"] <= 1 and 0 <= instance["stability"] <= 1
    assert [i["area"] for i in label] == sorted((i["area"] for i in label), reverse=True)


def test_lower_precision_gives_nearly_the_same_masks(weights: Callable[[str], str]) -> None:
    for name in ("sam.safetensors", "sam", "sam2"):
        exact = found(ready(weights=weights(name), stability_score_thresh=0, points_per_side=2), photo(64, 64))
        half = ready(weights=weights(name), stability_score_thresh=0, points_per_side=2, precision="bf16")
        rough = found(half, photo(64, 64))
        first, second = masks.decode(exact[0]["mask"]), masks.decode(rough[0]["mask"])
        assert (first & second).sum() / (first | second).sum() > 0.9


def test_only_the_largest_are_kept(weights: Callable[[str], str]) -> None:
    path = weights("sam.safetensors")
    every, some = found(ready(weights=path), photo(90, 60)), found(ready(weights=path, max_instances=2), photo(90, 60))
    assert len(every) > 2 and some == every[:2]


def test_nothing_found_is_a_label(weights: Callable[[str], str]) -> None:
    strict = ready(weights=weights("sam.safetensors"), stability_score_thresh=1, stability_score_offset=1e6)
    assert found(strict, photo(64, 64)) == []


def test_what_cannot_be_right_is_a_reject(weights: Callable[[str], str]) -> None:
    specialist = ready(weights=weights("sam.safetensors"))
    (thin,) = specialist([Item("k", np.zeros((2, 2000, 3), np.uint8), None)])
    assert isinstance(thin, Reject) and "2000 x 2" in thin.reason

    def broken(points: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        return torch.zeros(len(points), 1, 8, 8), torch.full((len(points), 1), torch.nan)

    specialist._network = one_by_one(lambda image: sam_grid.View(broken, (8, 8), None))
    (label,) = specialist([Item("k", photo(20, 20), None)])
    assert isinstance(label, Reject) and "not finite" in label.reason


@pytest.mark.parametrize(
    ("build", "width", "depth", "heads", "globally"),
    [(build_sam_vit_h, 1280, 32, 16, (7, 15, 23, 31)), (build_sam_vit_b, 768, 12, 12, (2, 5, 8, 11))],
)
def test_published_sizes_are_read_from_the_tensors(
    build: Callable[[], Any], width: int, depth: int, heads: int, globally: tuple[int, ...]
) -> None:
    with torch.device("meta"):  # sizes without 2.5 GB
        state = build().state_dict()
        encoder = sam_models.from_state(state).image_encoder
    assert encoder.img_size == 1024 and len(encoder.blocks) == depth
    assert encoder.patch_embed.proj.out_channels == width
    assert {block.attn.num_heads for block in encoder.blocks} == {heads}
    assert [block.window_size for block in encoder.blocks] == [0 if i in globally else 14 for i in range(depth)]


def test_wrong_weights_are_told(weights: Callable[[str], str], tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="promptable segmentation"):
        ready(weights=weights("t5"))
    stranger = tmp_path / "stranger.safetensors"
    tiny_sam.save_file({"a": torch.zeros(2)}, stranger)
    with pytest.raises(ValueError, match="no weights of segment-anything"):
        ready(weights=str(stranger))
    state = tiny_sam.tensors()
    del state["mask_decoder.iou_token.weight"]
    tiny_sam.save_file(state, stranger)
    with pytest.raises(ValueError, match=r"iou_token"):
        ready(weights=str(stranger))
    cut = tmp_path / "cut.safetensors"
    cut.write_bytes(Path(weights("sam.safetensors")).read_bytes()[:-10])
    with pytest.raises(ValueError, match="cut short"):
        SamInstances(weights=str(cut)).setup_on_node()


def test_a_grid_without_points_is_refused_before_any_work() -> None:
    with pytest.raises(ValidationError, match="leave none"):
        SamInstances(points_per_side=4, crop_n_layers=3, crop_n_points_downscale_factor=2)
