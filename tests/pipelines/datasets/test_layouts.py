"""Tiny folders in the layouts of data sets: their members, and what the evaluation's judges say of known answers."""

from __future__ import annotations

import contextlib
import io
import json
import tarfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from fourmill_tests.tiny import datasets
from fourmill_tests.tiny.datasets import HEIGHT, SIDE, WIDTH
from pycocotools import mask
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from fourmill.modalities import COCO_PANOPTIC_CLASSES, Form
from fourmill.pipelines.datasets import shards
from fourmill.train.downstream.evaluation import truth
from fourmill.train.downstream.evaluation.judges import Judge, Maps
from fourmill.train.downstream.evaluation.records import Boxes, Instances
from fourmill.train.downstream.evaluation.settings import Truth
from fourmill.train.downstream.evaluation.vectors import Neighbours
from fourmill.train.measures.detections import Found

Members = dict[str, dict[str, bytes]]  # by key


def members(layout: str, root: Path, out: Path, *names: str) -> tuple[shards.Written, Members]:
    """What is written, and the members of these names as the evaluation reads them, by key in their order."""
    written = shards.write(layout, str(root), str(out))
    assert len(written.shards) == 1 and not written.left_out
    with tarfile.open(written.shards[0]) as tar:
        keys = list(dict.fromkeys(name.partition(".")[0] for name in tar.getnames()))
    found = truth.members({"s": written.shards[0]}, [("s", key, 0) for key in keys], names)
    return written, {key: found["s", key] for key in keys}


def values(judge: Judge, answers: list[Any], references: list[Any]) -> dict[str, float]:
    statistic = judge.statistic(answers, references)
    assert statistic is not None
    return {name: float(value[0]) for name, value in statistic(np.ones((1, len(answers)), np.int64)).items()}


def test_diode_has_metres_and_turned_normals(tmp_path: Path) -> None:
    names = datasets.diode(tmp_path / "diode")
    written, by_key = members("diode", tmp_path / "diode", tmp_path / "out", "depth.npy", "normal.npy", "png")
    assert sorted(by_key) == names and written.truth == {"depth": "depth.npy", "normal": "normal.npy"}
    assert any("right, up, toward the viewer are x, -y, -z of the files" in note for note in written.notes)
    for name, slope in zip(names, datasets.SLOPES, strict=True):
        depth, normal = (truth.array(by_key[name][of], of) for of in ("depth.npy", "normal.npy"))
        assert depth.dtype == np.float32 and np.isnan(depth[:, : WIDTH // 2]).all()
        assert np.array_equal(depth[:, WIDTH // 2 :], datasets.plane(slope)[:, WIDTH // 2 :])
        assert not normal[:4].any() and np.allclose(normal[4:], slope, atol=1e-3)


def test_diode_is_measured_where_its_mask_is(tmp_path: Path) -> None:
    """Normals that all face the viewer are acos(0.8) = 36.87 degrees off; depth is exact up to scale and shift."""
    datasets.diode(tmp_path / "diode")
    _, by_key = members("diode", tmp_path / "diode", tmp_path / "out", "depth.npy", "normal.npy")
    judges = {name: Maps(Form(form), HEIGHT, Truth(member=name), ()) for form, name in
              (("normals", "normal.npy"), ("depth", "depth.npy"))}  # fmt: skip
    known = {
        name: [judge.of_truth(one[name], truth.Frame(1, 1)) for one in by_key.values()]
        for name, judge in judges.items()
    }
    facing = np.tile(np.array([0, 0, 1], np.float32), (HEIGHT, HEIGHT, 1))
    found = values(judges["normal.npy"], [(facing, None)] * 3, known["normal.npy"])
    assert found["mean_degrees"] == pytest.approx(np.degrees(np.arccos(0.8)), abs=0.02)
    assert found["below_30"] == 0
    # What stands where nothing is known does not count.
    scaled = [(np.where(valid, 3 * depth + 1, -50), None) for depth, valid in known["depth.npy"]]
    found = values(judges["depth.npy"], scaled, known["depth.npy"])
    assert found["l1"] == pytest.approx(0, abs=1e-5) and found["delta1"] == pytest.approx(1)
    # By hand: of 0 and 2 m in halves the median is 1 and the deviation 1; an answer that is wrong in a quarter of
    # the pixels by two deviations, and has the same median and deviation, errs by 0.5.
    two = np.ones((HEIGHT, HEIGHT), np.float32)
    two[: HEIGHT // 2] = 3
    swapped = two.copy()
    swapped[: HEIGHT // 2, : HEIGHT // 4], swapped[HEIGHT // 2 :, : HEIGHT // 4] = 1, 3
    found = values(judges["depth.npy"], [(swapped, None)], [(two, np.ones_like(two, bool))])
    assert found["l1"] == pytest.approx(2 * (HEIGHT // 4) / HEIGHT)


def test_nyuv2_is_read_from_its_pictures(tmp_path: Path) -> None:
    keys = datasets.nyuv2(tmp_path / "nyu")
    names = ("depth.npy", "normal.npy", "semseg.png")
    written, by_key = members("nyuv2", tmp_path / "nyu", tmp_path / "out", *names)
    assert sorted(by_key) == keys and written.truth == {"depth": "depth.npy", "normal": "normal.npy"}
    for number, slope in enumerate(datasets.SLOPES):
        depth, normal, classes = (truth.array(by_key[keys[number]][name], name) for name in names)
        assert np.isnan(depth[-1]).all() and np.allclose(depth[:-1], datasets.plane(slope)[:-1], atol=1e-4)
        assert not normal[0].any() and np.degrees(np.arccos((normal[1:] @ np.array(slope)).clip(-1, 1))).max() < 2
        assert (classes == number + 1).all()


def test_coco_classes_and_boxes_map_by_name(tmp_path: Path) -> None:
    datasets.coco(tmp_path / "coco")
    written, by_key = members("coco", tmp_path / "coco", tmp_path / "out", "semseg.png", "boxes.json", "txt")
    assert written.truth == {"semseg": "semseg.png", "sam_instance": "instances.json", "det": "boxes.json"}
    first, second = by_key["000000000007"], by_key["000000000009"]
    ids = truth.array(first["semseg.png"], "semseg.png")
    named = {(0, 0): "sky-other-merged", (50, 30): "person", (130, 100): "cat"}
    assert all(COCO_PANOPTIC_CLASSES[ids[place]] == name for place, name in named.items())
    assert (truth.array(second["semseg.png"], "semseg.png")[56:] == 255).all()
    boxes = json.loads(first["boxes.json"])
    assert boxes[0] == {"box": pytest.approx([20 / 224, 40 / 224, 80 / 224, 120 / 224]), "label": "person", "score": 1}
    assert [one["label"] for one in json.loads(second["boxes.json"])] == ["cat"]  # a crowd is no thing
    assert first["txt"] == b"A cat sits." and "txt" not in second


def test_coco_miou_is_that_of_counting_pixels(tmp_path: Path) -> None:
    """An answer of sky everywhere: the sky's share of what is known is its IoU, and the other two classes have 0."""
    datasets.coco(tmp_path / "coco")
    _, by_key = members("coco", tmp_path / "coco", tmp_path / "out", "semseg.png")
    judge = Maps(Form.CLASSES, SIDE, Truth(member="semseg.png"), COCO_PANOPTIC_CLASSES)
    known = [judge.of_truth(one["semseg.png"], truth.Frame(SIDE, SIDE)) for one in by_key.values()]
    sky = np.full((SIDE, SIDE), COCO_PANOPTIC_CLASSES.index("sky-other-merged"), np.uint8)
    person, cat, strip = 60 * 80 - 20 * 20, 120 * 60, 56 * SIDE
    open_sky = SIDE * SIDE - person - cat
    found = values(judge, [(sky, None)] * 2, known)
    assert found["miou"] == pytest.approx(open_sky / (SIDE * SIDE + strip) / 3)
    assert found["accuracy"] == pytest.approx(open_sky / (SIDE * SIDE + strip))


def of_tool(root: Path, results: list[dict[str, Any]], kind: str) -> list[float]:
    """AP, AP50, AP75, as the data set's own tool has them; of masks without regard to classes."""
    with contextlib.redirect_stdout(io.StringIO()):
        whole = COCO(str(root / "annotations/instances_val2017.json"))
        tool = COCOeval(whole, whole.loadRes(results), kind)
        tool.params.useCats = int(kind == "bbox")
        tool.evaluate(), tool.accumulate(), tool.summarize()
    return [float(value) for value in tool.stats[:3]]


def test_coco_masks_are_measured_as_by_its_tool(tmp_path: Path) -> None:
    datasets.coco(tmp_path / "coco")
    _, by_key = members("coco", tmp_path / "coco", tmp_path / "out", "instances.json")
    keys, results, answers = sorted(by_key), [], []
    for key in keys:
        there = [mask.decode(one["segmentation"]) for one in json.loads(by_key[key]["instances.json"])]
        said = [np.roll(one, 9 * i, 1) for i, one in enumerate(there)]
        answers.append([Found("thing", one.astype(bool)) for one in said])
        coded = [mask.encode(np.asfortranarray(one)) for one in said]
        results += [{"image_id": int(key), "category_id": 1, "score": 1.0, "segmentation": one} for one in coded]
    judge = Instances(Truth(member="instances.json"))
    known = [judge.of_truth(by_key[key]["instances.json"], truth.Frame(SIDE, SIDE)) for key in keys]
    found = list(values(judge, answers, known).values())
    assert 0 < found[0] < 1 and found == pytest.approx(of_tool(tmp_path / "coco", results, "segm"))


def test_coco_boxes_are_measured_as_by_its_tool(tmp_path: Path) -> None:
    datasets.coco(tmp_path / "coco")
    _, by_key = members("coco", tmp_path / "coco", tmp_path / "out", "boxes.json")
    keys, results, answers, judge = sorted(by_key), [], [], Boxes(Truth(member="boxes.json"))
    numbers = {one["name"]: one["id"] for one in datasets.CATEGORIES}
    for key in keys:
        said = [
            {**one, "box": [edge + (0.04 if one["label"] == "cat" else 0) for edge in one["box"]]}
            for one in json.loads(by_key[key]["boxes.json"])
        ]
        answers.append(judge.of_label(said))
        for one in said:
            left, top, right, bottom = (SIDE * edge for edge in one["box"])
            box = {"category_id": numbers[one["label"]], "bbox": [left, top, right - left, bottom - top]}
            results.append({"image_id": int(key), "score": 1.0, **box})
    known = [judge.of_truth(by_key[key]["boxes.json"], truth.Frame(SIDE, SIDE)) for key in keys]
    found = list(values(judge, answers, known).values())
    assert 0 < found[0] < 1 and found == pytest.approx(of_tool(tmp_path / "coco", results, "bbox"))


def test_classes_of_another_data_set_have_its_names(tmp_path: Path) -> None:
    names = [{"id": i, "name": name} for i, name in ((4, "worker"), (2, "drone"), (9, "air"))]
    datasets.coco(tmp_path / "own", names)
    written, by_key = members("coco", tmp_path / "own", tmp_path / "out", "semseg.png")
    assert written.truth["semseg"] == {"member": "semseg.png", "classes": ["drone", "worker", "air"]}
    ids = truth.array(by_key["000000000007"]["semseg.png"], "semseg.png")
    assert (ids[0, 0], ids[50, 30], ids[130, 100]) == (2, 1, 0)


def test_imagenet_has_classes_for_neighbours(tmp_path: Path) -> None:
    """Vectors by hand: of the four cats one looks like a dog, so that three of four are found right."""
    datasets.imagenet(tmp_path / "in", {"n02123045": 4, "n02085620": 6})
    written, by_key = members("imagenet", tmp_path / "in", tmp_path / "out", "cls", "jpg")
    assert written.truth == {"classes": "cls"} and "2 classes, by the names of their folders" in written.notes
    assert all(one["jpg"].startswith(b"\xff\xd8") for one in by_key.values())
    judge = Neighbours(Truth(member="cls"))
    known = {key: judge.of_truth(one["cls"], truth.Frame(1, 1)) for key, one in by_key.items()}
    assert sorted(known.values()) == 6 * ["n02085620"] + 4 * ["n02123045"]
    cat, dog = np.array([1.0, 0.1]), np.array([0.1, 1.0])
    vectors = {key: cat if name == "n02123045" else dog for key, name in known.items()}
    judge.learn(list(vectors.values()), list(known.values()))
    cats = [key for key, name in known.items() if name == "n02123045"]
    found = values(judge, [dog, *(vectors[key] for key in cats[1:])], [known[key] for key in cats])
    assert found["top1"] == pytest.approx(0.75)


def test_the_first_samples_are_of_all_classes(tmp_path: Path) -> None:
    datasets.imagenet(tmp_path / "in", {f"class{i}": 8 for i in range(4)})
    _, by_key = members("imagenet", tmp_path / "in", tmp_path / "out", "cls")
    assert len({one["cls"] for one in list(by_key.values())[:12]}) == 4
