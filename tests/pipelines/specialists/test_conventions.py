"""What publishers show of their models, against the labels that are made of them, in a room whose walls are known.

The golden values are of the publishers (tests/golden/normals.json, depth.json), and not of our table.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from fourmill_tests import runs
from fourmill_tests.tiny import dense as tiny_dense
from pydantic import ValidationError

from fourmill.infra.ledger import Record, Source
from fourmill.pipelines.outputs import label_outputs, label_prints
from fourmill.pipelines.reject import Reject
from fourmill.pipelines.scenes.room import Room, room
from fourmill.pipelines.settings import Images
from fourmill.pipelines.specialists import conventions
from fourmill.pipelines.specialists.base import ImageItem, Item
from fourmill.pipelines.specialists.dense.depth import Depth, scaled_depth
from fourmill.pipelines.specialists.dense.normals import Normals
from fourmill.pipelines.specialists.dense.normals_geometry import NormalsFromDepth
from fourmill.pipelines.specialists.dense.normals_marigold import MarigoldNormals
from fourmill.pipelines.specialists.members.member import Member
from fourmill.tokenize import frames

GOLDEN = Path(__file__).parents[2] / "golden"
NORMALS: dict[str, Any] = json.loads((GOLDEN / "normals.json").read_text())
DEPTHS: list[dict[str, str]] = json.loads((GOLDEN / "depth.json").read_text())["models"]
FACES = {"right": (0, 1), "left": (0, -1), "up": (1, 1), "toward the viewer": (2, 1)}  # axis and sign, declared
TIPS = "google/tipsv2-b14-dpt"
UNKNOWN = "someone/a-model-of-normals"


@pytest.fixture(scope="module")
def seen() -> Room:
    return room(70)


def _published(declared: np.ndarray, source: str) -> np.ndarray:
    """Normals as a publisher's model gives them, by the components that its notebook shows."""
    made, known = np.zeros_like(declared), set()
    for surface in NORMALS[source]["surfaces"]:
        axis, sign = FACES[surface["faces"]]
        place = "xyz".index(surface["axis"])
        made[..., place] = np.sign(surface["value"]) * sign * declared[..., axis]
        known.add(place)
    assert known == {0, 1, 2}
    return made


def _tensor(normals: np.ndarray) -> torch.Tensor:
    return torch.from_numpy(np.ascontiguousarray(normals.transpose(2, 0, 1)).astype(np.float32))


def _by_tips(seen: Room, folder: Path) -> Any:
    specialist = Normals(weights=str(tiny_dense.tipsv2(folder / "tipsv2")))
    specialist.setup("cpu")
    given = SimpleNamespace(normals=_tensor(_published(seen.rendered.normal, "tipsv2"))[None])
    size = seen.rendered.depth.shape
    return specialist.label_of(specialist.drawn([given], [size])[0], size)


def _by_tips_of_the_hub(seen: Room, folder: Path) -> Any:
    return Normals(weights=TIPS).in_label(_published(seen.rendered.normal, "tipsv2").astype(np.float32))


def _by_marigold(seen: Room, folder: Path) -> Any:
    made = _tensor(_published(seen.rendered.normal, "marigold"))
    return MarigoldNormals()._label(made, ImageItem("room", seen.rendered.rgb, None))


def _by_geometry(seen: Room, folder: Path) -> Any:
    depth = seen.rendered.depth
    label = scaled_depth(depth, "depth", "inverse_depth", None)
    options = {"far_ratio": float(depth.max() / depth.min()), "focal": 0.5 / float(np.tan(np.radians(36)))}
    return NormalsFromDepth(**options, smoothing=0)([Item("room", None, None, labels={"depth": label})])[0]


def _by_member(seen: Room, folder: Path) -> Any:
    """A map that comes with the data, in Omnidata's frame."""
    specialist = Member(label="normal", name="normal.npy", frame="x right, y down, z away")
    published = _published(seen.rendered.normal, "omnidata")
    return specialist([ImageItem("room", seen.rendered.rgb, None, members={"normal.npy": published})])[0]


def _by_omnidata(seen: Room, folder: Path) -> Any:
    """As published tokenizers of normals give them back."""
    return frames.turn(_published(seen.rendered.normal, "omnidata"), frames.OMNIDATA)


SOURCES: dict[str, Callable[[Room, Path], Any]] = {
    "TIPSv2, a folder": _by_tips,
    "TIPSv2, of the hub": _by_tips_of_the_hub,
    "Marigold": _by_marigold,
    "geometry": _by_geometry,
    "a member": _by_member,
    "4M's tokenizer": _by_omnidata,
}


@pytest.mark.parametrize("source", SOURCES)
def test_each_wall_of_a_room_has_the_declared_normal(seen: Room, tmp_path: Path, source: str) -> None:
    label = SOURCES[source](seen, tmp_path)
    assert not isinstance(label, Reject), label
    assert len(seen.walls) == 5
    for wall in seen.walls:
        mean = np.median(np.asarray(label, np.float32)[wall.seen], axis=0)
        assert np.linalg.norm(mean - wall.normal) < 0.2, (wall.name, mean)


@pytest.mark.parametrize("model", DEPTHS, ids=lambda model: model["weights"])
def test_what_is_near_is_0_by_every_known_model(seen: Room, model: dict[str, str]) -> None:
    distance = seen.rendered.depth
    published = 3 / distance + 1 if model["grows"] == "inverse_depth" else distance
    specialist = Depth(weights=model["weights"])
    assert not specialist.why_not({})
    label = scaled_depth(published, specialist.predicted, specialist.linear, None)
    assert label is not None and np.corrcoef(label.ravel(), distance.ravel())[0, 1] > 0.8
    exact = 1 / distance if model["grows"] == "inverse_depth" else distance
    assert abs(np.corrcoef(label.ravel(), exact.ravel())[0, 1]) > 0.9999, "and linear in what it predicts"


def test_every_fact_says_where_it_was_read() -> None:
    assert all(fact.read and fact.source for fact in conventions.FACTS)
    for fact in conventions.FACTS:
        if fact.label == "normal" and fact.says:
            assert frames.canonical(fact.says) == fact.says
        if fact.label == "depth":
            assert fact.says in (conventions.DEPTH, conventions.INVERSE)


# What nobody knows


@pytest.mark.parametrize("weights", [UNKNOWN, "facebook/sapiens2-normal-1b"])
def test_an_unknown_model_must_state_its_frame(weights: str) -> None:
    why = Normals(weights=weights).why_not({})
    assert "normal: nothing says which way the axes of" in why and 'labels.specialists.normal.frame: "x right' in why
    assert "--probe normals" in why
    for stated in ({"frame": "x right, y down, z away"}, {"flip": "yz"}):
        assert not Normals(weights=weights, **stated).why_not({})
    with pytest.raises(ValueError, match="nothing says which way"):
        MarigoldNormals(weights=weights).setup("cpu")


@pytest.mark.parametrize(
    ("options", "why"),
    [
        ({"frame": "opencv"}, "no axis of a frame"),
        ({"frame": "x right, y up, z up"}, "two axes along one line"),
        ({"frame": frames.DECLARED, "flip": "x"}, "frame and flip say the same thing"),
    ],
)
def test_what_is_no_frame_is_refused(options: dict[str, str], why: str) -> None:
    for build in (lambda: Normals(**options), lambda: Member(label="normal", name="normal.npy", **options)):
        with pytest.raises(ValidationError, match=why):
            build()


def test_plan_refuses_what_must_be_stated(tmp_path: Path) -> None:
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text(
        f"root: {tmp_path / 'out'}\nsamples: {{train: {tmp_path / 'a.tar'}}}\nmodalities: [rgb]\n"
        "labels: {keep: [normal, depth], specialists: {normal: {weights: someone/normals}}}\n"
    )
    (tmp_path / "a.tar").write_bytes(b"\0" * 10240)
    status, out, err = runs.command("plan", str(recipe), "--set", "labels.specialists.depth.weights=a/b")
    assert status == 2 and "someone/normals point; state them" in out + err
    assert "depth: nothing says whether a/b predicts" in out + err, "all that is to be stated is said at once"
    frame = "labels.specialists.normal.frame=x right, y down, z away"
    status, out, err = runs.command(
        "plan", str(recipe), "--set", frame, "--set", "labels.specialists.depth.weights=a/b"
    )
    assert status == 2 and "depth: nothing says whether a/b predicts" in out + err


def test_geometry_must_know_what_its_depth_is_linear_in() -> None:
    metric = {"depth": Depth(weights="Intel/zoedepth-nyu")}
    assert "say labels.specialists.normal.depth_is: linear" in NormalsFromDepth().why_not(metric)
    assert not NormalsFromDepth(depth_is="linear").why_not(metric)
    assert not NormalsFromDepth().why_not({"depth": Depth()})
    scanned = {"depth": Member(label="depth", name="depth.npy")}
    assert "linear in depth" in NormalsFromDepth().why_not(scanned) and not NormalsFromDepth().why_not({})


# Labels that exist


def _print(specialist: Any) -> str:
    return label_prints(Images(), {specialist.label: specialist}).current[specialist.label]


def test_the_same_frame_in_other_words_is_the_same_label() -> None:
    tips_left, omnidata = "x left, y up, z toward the viewer", "x right, y down, z away"
    same = [
        (Normals(weights=TIPS), Normals(weights=TIPS, frame=tips_left)),
        (Normals(weights=UNKNOWN), Normals(weights=UNKNOWN, frame=frames.DECLARED)),
        (Normals(weights=UNKNOWN, flip="yz"), Normals(weights=UNKNOWN, frame=omnidata)),
        (MarigoldNormals(), MarigoldNormals(frame=frames.DECLARED)),
        (MarigoldNormals(weights=UNKNOWN), MarigoldNormals(weights=UNKNOWN, frame=frames.DECLARED)),
        (Member(label="normal", name="n.npy"), Member(label="normal", name="n.npy", frame=frames.DECLARED)),
        (Member(label="normal", name="n.npy", flip="yz"), Member(label="normal", name="n.npy", frame=omnidata)),
    ]
    for one, other in same:
        assert _print(one) == _print(other)
    kinds = [Normals(weights=TIPS, **o) for o in ({}, {"flip": "x"}, {"frame": frames.DECLARED}, {"frame": omnidata})]
    kinds.append(Normals(weights=TIPS, frame="x right, y away, z up"))
    assert len({_print(one) for one in kinds}) == len(kinds)
    marigolds = [MarigoldNormals(**o) for o in ({}, {"frame": omnidata}, {"frame": tips_left})]
    assert len({_print(one) for one in marigolds}) == len(marigolds)


def test_only_labels_of_the_corrected_source_are_out_of_date() -> None:
    assert Normals(weights=TIPS).version == 2 and Normals(weights=TIPS, frame="x left, y up, z toward").version == 2
    right = Normals(weights=TIPS, flip="x"), Normals(weights=UNKNOWN, flip="x"), MarigoldNormals(), Depth()
    assert {one.version for one in right} == {1}
    specialists = {"normal": Normals(weights=TIPS)}
    (output,) = (
        o for o in label_outputs(["normal"], specialists, label_prints(Images(), specialists)).values() if o.label
    )
    record = Record("labels/normal", "a", output.fingerprint, Source(1, "", ""), 1, 0, [], 1, "", 0.0)
    (why,) = output.outdated(record, {}) or [""]
    assert "x points left" in why and output.outdated(record, {"labels/normal": 1}) == []


@pytest.mark.parametrize("label", [Normals, Depth])
def test_tipsv2_never_runs_in_float16(label: Any) -> None:
    specialist = label(weights=TIPS)
    assert specialist.dtype("cuda") == torch.float32
    assert label(weights=TIPS, precision="bf16").dtype("cuda") == torch.bfloat16
    assert "does not hold in fp16" in label(weights=TIPS, precision="fp16").why_not({})
    assert Depth().dtype("cuda") == torch.float16
