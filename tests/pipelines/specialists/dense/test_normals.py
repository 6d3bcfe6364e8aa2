"""Surface normals: axes, frames and unit length; from models, by diffusion, and from depth by geometry."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import cv2
import numpy as np
import pytest
import torch
from fourmill_tests.tiny import dense as tiny_dense
from safetensors.torch import load_file, save_file
from transformers import Tipsv2DptForDensePrediction

from fourmill.pipelines.reject import Reject
from fourmill.pipelines.specialists.base import Item
from fourmill.pipelines.specialists.dense.depth import Depth
from fourmill.pipelines.specialists.dense.framed import unit_vectors
from fourmill.pipelines.specialists.dense.metric_depth import MetricDepth
from fourmill.pipelines.specialists.dense.normals import Normals
from fourmill.pipelines.specialists.dense.normals_geometry import NormalsFromDepth, normals_of, smoothed
from fourmill.pipelines.specialists.dense.normals_marigold import MarigoldNormals
from fourmill.pipelines.specialists.dense.segmentation import Panoptic
from fourmill.tokenize import frames

FAMILIES: dict[str, Callable[[Path], Path]] = {
    "tipsv2": tiny_dense.tipsv2,
    "sapiens2": tiny_dense.sapiens2,
    "segformer": lambda folder: tiny_dense.segformer(folder, dict(enumerate("xyz"))),
    "sapiens2_padded": lambda folder: tiny_dense.sapiens2(folder, do_pad=True),
}


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    root = tmp_path_factory.mktemp("normals")
    return {name: build(root / name) for name, build in {**FAMILIES, "marigold": tiny_dense.marigold}.items()}


def _ready(folder: Path, cls: Any = Normals, **options: Any) -> Any:
    unknown = cls is Normals and not Normals(weights=str(folder)).known_frame and "flip" not in options
    specialist = cls(weights=str(folder), **({"frame": frames.DECLARED} if unknown else {}) | options)
    specialist.setup("cpu")
    return specialist


def _check(label: Any, size: tuple[int, int]) -> None:
    assert isinstance(label, np.ndarray)
    assert label.dtype == np.float16 and label.shape == (*size, 3)
    np.testing.assert_allclose(np.linalg.norm(np.float32(label), axis=2), 1, atol=2e-3)


def _degrees(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    return np.degrees(2 * np.arcsin(np.minimum(np.linalg.norm(np.float32(a) - np.float32(b), axis=2) / 2, 1)))


@pytest.mark.parametrize("family", FAMILIES)
def test_whole_frame_is_labelled_alone_as_in_a_batch(folders: dict[str, Path], family: str) -> None:
    specialist = _ready(folders[family])
    items = tiny_dense.items()
    for item, size, label in zip(items, tiny_dense.SIZES, specialist(items), strict=True):
        _check(label, size)
        alone = specialist([Item(item.key, item.image, None)])[0]
        np.testing.assert_allclose(np.float32(alone), np.float32(label), atol=2e-3)


@pytest.mark.parametrize("family", ["sapiens2", "sapiens2_padded", "segformer"])
def test_a_prediction_lies_where_the_picture_has_it(folders: dict[str, Path], family: str) -> None:
    specialist = _ready(folders[family])

    def answer(pixels: torch.Tensor) -> dict[str, torch.Tensor]:  # bright pixels lean right
        lean = pixels.mean(1)
        name = "logits" if family == "segformer" else "normals"
        return {name: torch.stack([lean, 0 * lean, 0 * lean + 1], dim=1)}

    specialist._model = tiny_dense.Echo(specialist._model, answer)
    items = tiny_dense.items()
    for item, label in zip(items, specialist(items), strict=True):
        assert item.image is not None
        slope = np.float32(label[..., 0]) / np.float32(label[..., 2])
        assert np.corrcoef(slope.ravel(), item.image[..., 0].ravel())[0, 1] > 0.97


def test_flip_turns_axes(folders: dict[str, Path]) -> None:
    items = tiny_dense.items((64, 64))
    plain, turned = (_ready(folders["sapiens2"], flip=flip)(items)[0] for flip in ("x", "xyz"))
    np.testing.assert_array_equal(turned, plain * np.array([1, -1, -1], np.float16))


def test_vectors_have_unit_length_or_face_the_viewer() -> None:
    found = unit_vectors(np.array([[[0, 0, 0], [3, 0, 4], [0, -1e-5, 0]]], np.float32))
    assert found is not None
    np.testing.assert_allclose(np.float32(found[0]), [[0, 0, 1], [0.6, 0, 0.8], [0, 0, 1]], atol=1e-3)
    assert unit_vectors(np.zeros((2, 2, 3), np.float32)) is None


def test_a_prediction_without_directions_is_a_reject(folders: dict[str, Path]) -> None:
    specialist = _ready(folders["sapiens2"])
    for value, reason in ((0.0, "normal: no direction anywhere"), (torch.nan, "normal: NaN or infinite values")):
        specialist._model = tiny_dense.Echo(specialist._model, lambda pixels, v=value: {"normals": pixels * 0 + v})
        label = specialist(tiny_dense.items((40, 50)))[0]
        assert isinstance(label, Reject) and label.reason == reason


@pytest.mark.parametrize("family", ["sapiens2", "segformer"])
def test_one_direction_everywhere_is_a_reject(folders: dict[str, Path], family: str) -> None:
    specialist = _ready(folders[family])
    name = "logits" if family == "segformer" else "normals"
    constant = torch.tensor([0.0, 0.6, 0.8])[None, :, None, None]
    specialist._model = tiny_dense.Echo(specialist._model, lambda pixels: {name: pixels[:, :3] * 0 + constant})
    label = specialist(tiny_dense.items((40, 50)))[0]
    assert isinstance(label, Reject) and label.reason in (
        "normal: the same direction everywhere",
        "normal: the same everywhere",
    )


@pytest.mark.parametrize(("family", "precision"), [("tipsv2", "bf16"), ("sapiens2", "fp16")])
def test_half_precision_says_nearly_the_same(folders: dict[str, Path], family: str, precision: Any) -> None:
    items = tiny_dense.items((97, 211))
    whole = _ready(folders[family])(items)[0]
    half = _ready(folders[family], precision=precision)(tiny_dense.items((97, 211)))[0]
    assert _degrees(whole, half).mean() < 3


def test_a_folder_of_another_task_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"normal: .* is no model for surface normal estimation"):
        _ready(tiny_dense.dpt(tmp_path / "dpt"))
    # A semantic head, whose three outputs are no axes.
    with pytest.raises(ValueError, match=r"normal: .* is no model for surface normal estimation"):
        _ready(tiny_dense.segformer(tmp_path / "classes", dict(enumerate(("floor", "wall", "sky")))))


def test_the_trunk_of_tipsv2_runs_once_for_three_labels(folders: dict[str, Path]) -> None:
    from transformers import AutoImageProcessor, Tipsv2DptForDensePrediction

    folder = folders["tipsv2"]
    specialists = [_ready(folder, cls) for cls in (Depth, Normals, Panoptic)]
    trunk = specialists[0]._model.backbone
    assert all(specialist._model.backbone is trunk for specialist in specialists)
    seen: list[int] = []
    hook = trunk.register_forward_pre_hook(lambda _, inputs, options: seen.append(1), with_kwargs=True)
    rows = trunk.embeddings.register_forward_pre_hook(lambda _, inputs: seen.append(len(inputs[0])))
    item = tiny_dense.items((97, 211))[0]
    seen.clear()
    labels = [specialist([item])[0] for specialist in specialists]
    hook.remove()
    rows.remove()
    assert [count for count in seen if count] == [1] * len(seen) and len(seen) <= 2

    # They are what the library's model of all three heads says.
    model = Tipsv2DptForDensePrediction.from_pretrained(folder).eval()
    processor = AutoImageProcessor.from_pretrained(folder)
    with torch.no_grad():
        outputs = model(**processor(images=[item.image], return_tensors="pt"))
    depth = processor.post_process_depth_estimation(outputs, target_sizes=[(97, 211)])[0]["predicted_depth"].numpy()
    normals = processor.post_process_normal_estimation(outputs, target_sizes=[(97, 211)])[0]["normals"].numpy()
    classes = processor.post_process_semantic_segmentation(outputs, target_sizes=[(97, 211)])[0].numpy()
    np.testing.assert_allclose(labels[0], (depth - depth.min()) / (depth.max() - depth.min()), atol=1e-3)
    normals /= np.linalg.norm(normals, axis=0)
    normals[0] *= -1  # its x points left
    assert _degrees(labels[1], normals.transpose(1, 2, 0)).max() < 3
    np.testing.assert_array_equal(labels[2], classes)


def test_tipsv2_with_one_head_serves_its_own_label_only(folders: dict[str, Path], tmp_path: Path) -> None:
    from transformers import AutoImageProcessor, AutoModelForNormalEstimation

    AutoModelForNormalEstimation.from_pretrained(folders["tipsv2"]).save_pretrained(tmp_path)
    AutoImageProcessor.from_pretrained(folders["tipsv2"]).save_pretrained(tmp_path)
    items = tiny_dense.items((64, 64))
    np.testing.assert_array_equal(_ready(tmp_path)(items)[0], _ready(folders["tipsv2"])(items)[0])
    with pytest.raises(ValueError, match=r"depth: the weights of .* lack"):
        _ready(tmp_path, Depth)


def test_trunks_at_other_precisions_are_not_mixed(folders: dict[str, Path]) -> None:
    item = tiny_dense.items((64, 64))[0]
    first = _ready(folders["tipsv2"])([item])[0]
    _ready(folders["tipsv2"], precision="bf16")([item])
    assert len(item.shared) == 2
    np.testing.assert_array_equal(_ready(folders["tipsv2"])([item])[0], first)


# Marigold


@pytest.mark.parametrize("ensemble", [1, 3])
def test_marigold_labels_the_whole_frame_alone_as_in_company(folders: dict[str, Path], ensemble: int) -> None:
    specialist = _ready(folders["marigold"], MarigoldNormals, ensemble=ensemble)
    items = tiny_dense.items()
    for item, size, label in zip(items, tiny_dense.SIZES, specialist(items), strict=True):
        _check(label, size)
        np.testing.assert_allclose(np.float32(specialist([item])[0]), np.float32(label), atol=5e-3)


def test_marigolds_noise_is_a_function_of_seed_and_key(folders: dict[str, Path]) -> None:
    specialist = _ready(folders["marigold"], MarigoldNormals)
    item = tiny_dense.items((64, 64))[0]
    other = Item("another key", item.image, None)
    first, again, elsewhere = (specialist([i])[0] for i in (item, item, other))
    np.testing.assert_array_equal(first, again)
    assert not np.array_equal(first, elsewhere)
    assert not np.array_equal(first, _ready(folders["marigold"], MarigoldNormals, seed=1)([item])[0])


def test_marigolds_prediction_lies_where_the_picture_has_it(folders: dict[str, Path]) -> None:
    specialist = _ready(folders["marigold"], MarigoldNormals)

    class Stub:
        default_processing_resolution = 32

        def __call__(self, stack: torch.Tensor, **_: Any) -> SimpleNamespace:
            assert max(stack.shape[2:]) == 32
            lean = stack[:, 0]
            return SimpleNamespace(prediction=torch.stack([lean, 0 * lean, 0 * lean + 1], dim=1))

    specialist._pipeline = Stub()
    items = tiny_dense.items()
    for item, label in zip(items, specialist(items), strict=True):
        assert item.image is not None
        slope = np.float32(label[..., 0]) / np.float32(label[..., 2])
        assert np.abs(slope - item.image[..., 0] / 255).mean() < 0.03


def test_marigold_runs_in_half_precision(folders: dict[str, Path]) -> None:
    items = tiny_dense.items((40, 60))
    whole, half = (_ready(folders["marigold"], MarigoldNormals, precision=p)(items)[0] for p in ("fp32", "bf16"))
    assert _degrees(whole, half).mean() < 5


def test_marigold_refuses_other_folders_and_lacking_tensors(folders: dict[str, Path], tmp_path: Path) -> None:
    import shutil

    with pytest.raises(ValueError, match=r"expected a folder with a model_index\.json of MarigoldNormalsPipeline"):
        _ready(folders["tipsv2"], MarigoldNormals)
    folder = Path(shutil.copytree(folders["marigold"], tmp_path / "marigold"))
    file = folder / "unet" / "diffusion_pytorch_model.safetensors"
    state = load_file(file)
    save_file({name: state[name] for name in list(state)[1:]}, file, {"format": "pt"})
    with pytest.raises(ValueError, match=r"the unet of .* lacks 1 tensors"):
        _ready(folder, MarigoldNormals)


# From depth, by geometry: scenes whose normals are known

FOCAL = 1.0
HEIGHT, WIDTH = 96, 128


def _rays() -> np.ndarray:
    """Directions (H, W, 3) of pixels in camera coordinates, x right, y up, z toward the viewer; depth 1."""
    focal = FOCAL * WIDTH
    x = (np.arange(WIDTH) - (WIDTH - 1) / 2) / focal
    y = -(np.arange(HEIGHT)[:, None] - (HEIGHT - 1) / 2) / focal
    return np.stack(
        [np.broadcast_to(x, (HEIGHT, WIDTH)), np.broadcast_to(y, (HEIGHT, WIDTH)), -np.ones((HEIGHT, WIDTH))], 2
    )


def _plane(normal: np.ndarray, distance: float = 3.0) -> np.ndarray:
    """Depth (H, W) of the plane that the viewer looks at, `distance` along its normal."""
    return -distance / (_rays() @ normal)


def _label(depth: np.ndarray, kind: str) -> np.ndarray:
    """What a depth specialist would say of it."""
    value = -1 / depth if kind == "inverse" else depth
    return ((value - value.min()) / (value.max() - value.min())).astype(np.float16)


def _normals(depth: np.ndarray, kind: str = "inverse", **options: Any) -> np.ndarray:
    specialist = NormalsFromDepth(
        depth_is=kind,
        focal=FOCAL,
        far_ratio=float(depth.max() / depth.min()),
        **options,  # type: ignore[arg-type]
    )
    label = specialist([Item("key", None, None, labels={"depth": _label(depth, kind)})])[0]
    _check(label, depth.shape)  # type: ignore[arg-type]
    return np.asarray(label)


PLANES = {
    "floor": (0.0, 0.8, 0.6),
    "ceiling": (0.0, -0.8, 0.6),
    "left wall, facing right": (0.8, 0.0, 0.6),
    "right wall, facing left": (-0.8, 0.0, 0.6),
    "slanted": (0.3, 0.5, 0.81),
}


@pytest.mark.parametrize("kind", ["inverse", "linear"])
@pytest.mark.parametrize("name", PLANES)
def test_planes_have_their_normal_up_to_the_border(name: str, kind: str) -> None:
    normal = np.array(PLANES[name]) / np.linalg.norm(PLANES[name])
    found = _normals(_plane(normal), kind)
    error = _degrees(found, np.broadcast_to(normal, found.shape))
    assert error.mean() < 1 and error.max() < 8, (error.mean(), error.max())


def test_a_sphere_before_a_wall_has_the_normals_of_a_sphere() -> None:
    rays, radius = _rays(), 1.0
    centre = np.array([0.3, 0.1, -4.0])
    # |t r - centre| = radius, nearest root
    b, a = rays @ centre, np.sum(rays * rays, axis=2)
    discriminant = b * b - a * (centre @ centre - radius**2)
    hit = discriminant > 0
    depth = np.where(hit, (b - np.sqrt(np.maximum(discriminant, 0))) / a, 8.0)
    expected = (depth[..., None] * rays - centre) / radius
    found = _normals(depth, smoothing=0.004)
    inside = hit & (np.linalg.norm(expected[..., :2], axis=2) < 0.85)  # off the outline, where the wall blends in
    assert np.median(_degrees(found, expected)[inside]) < 3
    assert np.percentile(_degrees(found, expected)[inside], 95) < 10
    wall = _degrees(found, np.broadcast_to([0.0, 0.0, 1.0], found.shape))[~hit]
    assert np.median(wall) < 1
    rows, columns = np.nonzero(inside)
    assert found[rows.min(), int(columns.mean())][1] > 0.6  # its top looks up
    assert found[int(rows.mean()), columns.min()][0] < -0.6  # its left side looks left


def test_a_real_scene_has_a_green_floor_and_a_blue_wall() -> None:
    import skimage.data

    disparity = skimage.data.stereo_motorcycle()[2].astype(np.float32)  # true, and linear in inverse depth
    known = np.isfinite(disparity)
    _, nearest = cv2.distanceTransformWithLabels(
        (~known).astype(np.uint8), cv2.DIST_L2, 5, labelType=cv2.DIST_LABEL_PIXEL
    )
    lookup = np.zeros(nearest.max() + 1, np.float32)
    lookup[nearest[known]] = disparity[known]
    disparity = lookup[nearest]
    label = (1 - (disparity - disparity.min()) / np.ptp(disparity)).astype(np.float16)
    found = NormalsFromDepth(focal=1.35, far_ratio=2.4)([Item("key", None, None, labels={"depth": label})])[0]
    _check(found, disparity.shape)
    floor, wall = (
        np.median(np.float32(found)[rows, columns][known[rows, columns]], axis=0)
        for rows, columns in ((slice(420, 490), slice(0, 741)), (slice(60, 150), slice(180, 290)))
    )
    assert floor[1] > 0.9 and wall[2] > 0.6 and np.argmax(np.abs(wall)) == 2
    # The camera looks down a little; the two stand at a right angle whatever it does.
    assert abs(np.dot(floor, wall) / np.linalg.norm(floor) / np.linalg.norm(wall)) < 0.25


def test_a_mirrored_depth_has_mirrored_normals() -> None:
    depth = _plane(np.array([0.3, 0.5, 0.81]))
    straight, mirrored = _normals(depth), _normals(depth[:, ::-1])
    np.testing.assert_allclose(mirrored, straight[:, ::-1] * np.array([-1, 1, 1], np.float16), atol=2e-3)


def test_normals_face_the_viewer() -> None:
    noise = np.random.default_rng(0).uniform(1, 3, (HEIGHT, WIDTH))
    toward = -np.sum(_normals(noise) * _rays(), axis=2)
    assert (toward > 0).all()


def test_smoothing_hides_the_steps_of_float16() -> None:
    exact = np.repeat(np.linspace(0.7, 0.75, HEIGHT)[:, None], WIDTH, axis=1)  # about one step for each row
    truth = unit_vectors(normals_of((1 + (1 - exact) * 7) / 8, WIDTH))
    assert truth is not None
    items = [Item("key", None, None, labels={"depth": exact.astype(np.float16)})]
    rough, smooth = (_degrees(NormalsFromDepth(smoothing=share)(items)[0], truth).mean() for share in (0, 0.03))
    assert smooth < rough / 3


def test_slopes_survive_smoothing_up_to_the_border() -> None:
    slope = np.add.outer(np.arange(40.0), 2 * np.arange(30.0)).astype(np.float32)
    np.testing.assert_allclose(smoothed(slope, 3), slope, atol=1e-3)
    assert smoothed(slope, 0) is slope


def test_scale_of_inverse_depth_does_not_matter() -> None:
    inverse = 1 / _plane(np.array([0.3, 0.5, 0.81]))
    small, large = (unit_vectors(normals_of(scale * inverse, 100)) for scale in (0.1, 10))
    assert small is not None and large is not None
    np.testing.assert_allclose(small, large, atol=1e-3)


def test_geometry_needs_depth_of_some_size() -> None:
    for labels, reason in (({}, "there is no depth"), ({"depth": np.zeros((2, 9), np.float16)}, "has no gradient")):
        label = NormalsFromDepth()([Item("key", None, None, labels=labels)])[0]
        assert isinstance(label, Reject) and reason in label.reason


def test_geometry_declares_what_it_needs() -> None:
    assert NormalsFromDepth.needs == ("depth",) and not NormalsFromDepth.sees_image


def test_tipsv2_says_what_its_publishers_code_says(tmp_path: Path) -> None:
    """Recorded with google-deepmind/tips 4db271d (image_encoder.py, decoders.py) on the same weights: normals of length
    1 at the decoder's resolution; depth in metres, with `output_activation`, as its pull request 31 says."""
    folder = tiny_dense.tipsv2(tmp_path / "tipsv2")
    model = Tipsv2DptForDensePrediction.from_pretrained(folder).eval()
    tiny_dense.fill(model)
    model.save_pretrained(folder)
    recorded = np.load(Path(__file__).parents[3] / "golden" / "tipsv2" / "heads.npz")
    item = Item("key", tiny_dense.scene(56, 56, seed=11), None)
    expected = torch.nn.functional.interpolate(torch.from_numpy(recorded["normals"])[None], (56, 56), mode="bilinear")
    expected = torch.nn.functional.normalize(expected[0], dim=0).permute(1, 2, 0) * torch.tensor([-1, 1, 1])
    (normals,) = _ready(folder)([item])
    assert _degrees(normals, expected.numpy()).max() < 0.1
    metres = torch.nn.functional.interpolate(torch.from_numpy(recorded["depth"])[None, None], (56, 56), mode="bilinear")
    distances = MetricDepth(weights=str(folder))
    distances.setup("cpu")
    np.testing.assert_allclose(distances([item])[0], metres[0, 0].numpy(), rtol=2e-3)
