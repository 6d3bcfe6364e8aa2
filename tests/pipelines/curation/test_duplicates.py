"""Duplicates: planted copies are found and others are not; the order in which shards came decides, whatever happens."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from fourmill_tests import data

from fourmill.infra import ledger
from fourmill.infra.ledger import Record, Source
from fourmill.modalities import Storage
from fourmill.pipelines.curation.duplicates import join, neighbours, pictures
from fourmill.pipelines.curation.duplicates.join import Method
from fourmill.pipelines.curation.duplicates.neighbours import Neighbours
from fourmill.pipelines.outputs import Output
from fourmill.pipelines.scenes import draw
from fourmill.pipelines.scenes.render import render
from fourmill.tokenize import labels as label_files

OUTPUT = Output("labels/duplicate", "duplicate", "print", {"specialist": "duplicates"})
SIGNATURE = Method("signature", 0.965)


def texture(index: int) -> np.ndarray:
    """Noise of the spectrum of a photo, uint8 (120, 160, 3): another one for each index."""
    rng = np.random.default_rng(index)
    frequencies = np.hypot(np.fft.fftfreq(120)[:, None], np.fft.rfftfreq(160)[None])
    spectrum = rng.normal(size=frequencies.shape) + 1j * rng.normal(size=frequencies.shape)
    waves = np.fft.irfft2(spectrum / np.maximum(frequencies, 1 / 160) ** 1.4, s=(120, 160))
    grey = np.clip(128 + 50 * (waves - waves.mean()) / waves.std(), 0, 255).astype(np.uint8)
    return np.repeat(grey[..., None], 3, 2)


def scene(index: int) -> np.ndarray:
    return render(draw.draw(23, "train", index, "medium"), 48).rgb


def cropped(image: np.ndarray, index: int, width: float = 0.8**0.5) -> np.ndarray:
    rng, (high, wide) = np.random.default_rng(index), image.shape[:2]
    across, down = round(wide * width), round(high * 0.8 / width)
    left, top = int(rng.integers(0, wide - across + 1)), int(rng.integers(0, high - down + 1))
    return np.ascontiguousarray(image[top : top + down, left : left + across])


def jpeg(image: np.ndarray) -> np.ndarray:
    decoded = cv2.imdecode(np.frombuffer(data.encode(image, quality=50), np.uint8), cv2.IMREAD_COLOR)
    return np.ascontiguousarray(decoded[..., ::-1])


CHANGES = {
    "crop": cropped,
    "wide crop": lambda image, index: cropped(image, index, 1.0),
    "tall crop": lambda image, index: cropped(image, index, 0.8),
    "jpeg": lambda image, index: jpeg(image),
    "half": lambda image, index: cv2.resize(image, None, fx=0.5, fy=0.5, interpolation=cv2.INTER_AREA),
    "mirrored": lambda image, index: np.ascontiguousarray(image[:, ::-1]),
}


def nearest(values: np.ndarray, folder: Path, method: Method = SIGNATURE) -> dict[int, int]:
    """The nearest earlier value of each one that has some."""
    best: dict[int, join.Match] = {}
    for number, match in join.found(values, np.arange(1, len(values) + 1, dtype=np.uint64), method, folder):
        if number not in best or match.distance < best[number].distance:
            best[number] = match
    return {number: match.earlier for number, match in best.items()}


@pytest.mark.parametrize("make, count", [(texture, 48), (scene, 18), (lambda i: data.picture(i, 160, 140), 1)])
def test_planted_copies_are_found_and_others_are_not(make: Any, count: int, tmp_path: Path) -> None:
    distinct = [make(i) for i in range(count)]
    copies = [(name, i) for k, name in enumerate(CHANGES) for i in range(k % count, count, 3)]
    images = distinct + [CHANGES[name](distinct[i], i) for name, i in copies]
    found = nearest(np.stack([pictures.small(image) for image in images]), tmp_path)
    assert not [i for i in range(count) if i in found]
    source = [*range(count), *(i for _, i in copies)]
    missed = [copies[n] for n in range(len(copies)) if source[found.get(count + n, -1)] != copies[n][1]]
    assert len(missed) <= 0.03 * len(copies), missed


def test_a_picture_without_detail_is_known_by_nothing() -> None:
    assert not pictures.has_detail(pictures.small(np.full((50, 60, 3), 90, np.uint8)))
    ramp = np.repeat(np.linspace(90, 130, 200, dtype=np.uint8)[None], 90, 0)
    assert not pictures.has_detail(pictures.small(np.repeat(ramp[..., None], 3, 2)))
    assert pictures.has_detail(pictures.small(data.picture(1)))
    assert not pictures.entries(np.zeros((1, pictures.SIDE, pictures.SIDE, 3), np.uint8)).any()


def test_windows_keep_four_fifths_of_the_area() -> None:
    for left, right, top, bottom in pictures.windows()[1:]:
        assert -1e-9 <= left and right <= 1 + 1e-9 and -1e-9 <= top and bottom <= 1 + 1e-9
        assert (right - left) * (bottom - top) == pytest.approx(0.8, abs=1e-6)


def vectors(count: int, seed: int = 0) -> np.ndarray:
    """float32 (count, 16) of length 1; every third is near to the one before it."""
    made = np.random.default_rng(seed).normal(size=(count, 16)).astype(np.float32)
    made[2::3] = made[1:-1:3] + 0.05 * made[2::3]
    return made / np.linalg.norm(made, axis=1, keepdims=True)


def entered(folder: Path, points: np.ndarray) -> Neighbours:
    folder.mkdir()
    space = Neighbours(folder, points, len(points), 0.95)
    for part in np.array_split(np.arange(len(points)), 4):
        space.add(part, points[part][:, None], points[part][:, None])
    return space


def as_set(space: Neighbours, first: int = 0) -> set[tuple[int, int]]:
    """(later, earlier) of each pair."""
    pairs = neighbours.joined(list(space.pairs(first)))
    return set(zip(pairs.later.tolist(), pairs.earlier.tolist(), strict=True))


def test_near_vectors_are_those_of_all_products(tmp_path: Path) -> None:
    points = vectors(301)
    near = points @ points.T
    expected = {(i, j) for i in range(301) for j in range(i) if near[i, j] >= 0.9505}
    loose = {(i, j) for i in range(301) for j in range(i) if near[i, j] >= 0.9495}  # half-precision rounds
    found = as_set(entered(tmp_path / "a", points))
    assert expected <= found <= loose and len(expected) >= 99


def test_buckets_miss_few_and_parts_are_the_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    points = vectors(3_000, seed=1)
    whole = as_set(entered(tmp_path / "whole", points))
    sizes = {"ALL_WITH_ALL": 200, "IN_BUCKET": 200, "LATER": 700, "_TILE": 5_000, "_ROWS": 90, "_BUFFERED": 10_000}
    for name, size in sizes.items():
        monkeypatch.setattr(neighbours, name, size)
    space = entered(tmp_path / "parts", points)
    assert len(space.centres) == 15
    found = as_set(space)
    assert found <= whole and len(found) >= 0.98 * len(whole)
    assert as_set(space, 1_700) == {pair for pair in found if pair[0] >= 1_700}
    parts = [part.later for part in space.pairs()]
    assert len(parts) == 5 and all((part // 700 == i).all() for i, part in enumerate(parts))
    assert not list((tmp_path / "parts").glob("pairs-*"))


def test_many_copies_of_one_cost_each_a_few_pairs(tmp_path: Path) -> None:
    points = np.repeat(vectors(1), 400, 0)
    pairs = neighbours.joined(list(entered(tmp_path / "same", points).pairs()))
    assert len(pairs.near) <= neighbours.MOST * 400 and set(pairs.later.tolist()) == set(range(1, 400))


# A root whose shards hold labels that nobody has made by an engine.


def write(root: str, label: str, shard: str, keys: Sequence[str], values: Sequence[Any]) -> Record:
    rejects = [{"key": k, "reason": "no image"} for k, v in zip(keys, values, strict=True) if v is None]
    source = Source(1, "v", f"sha of {shard}")
    record = Record(f"labels/{label}", shard, "print", source, len(keys), len(rejects), rejects, 0, "", 0.0)
    return ledger.commit(root, record, label_files.encode_labels(label, Storage.ARRAY, keys, values)).record


SHARDS = {
    "a": [0, 1, None, 2],
    "b": [10, 1, 3],  # 1 of "a" again
    "c": [3, 10, 1, 4],
}


def filled(root: Path, names: Sequence[str] = tuple(SHARDS)) -> dict[tuple[str, str], Record]:
    records = {}
    for name in names:
        keys = [f"{name}{i}" for i in range(len(SHARDS[name]))]
        values = [None if i is None else pictures.small(texture(i)) for i in SHARDS[name]]
        records["labels/signature", name] = write(str(root), "signature", name, keys, values)
    return records


def decided(root: Path, records: dict[tuple[str, str], Record], shards: Sequence[str]) -> list[str]:
    """Decide what is not decided yet; returns which shards these were."""
    done = {name: one for name in shards if (one := ledger.read(str(root), OUTPUT.name, name)) is not None}
    kept, new = join.ordered(shards, done, records, [SIGNATURE])
    join.decide(str(root), OUTPUT, kept, new, records, [SIGNATURE])
    return new


def said(root: Path, *shards: str) -> dict[str, Any]:
    """What the column says, by key: false, None, or the key of the sample that is kept."""
    found = {}
    for shard in shards:
        keys, values = label_files.read_labels(ledger.output_url(str(root), OUTPUT.name, shard))
        found |= {k: v["of"] if isinstance(v, dict) else v for k, v in zip(keys, values, strict=True)}
    return found


WHOLE = {
    "a0": False, "a1": False, "a2": None, "a3": False, "b0": False, "b1": "a1", "b2": False, "c0": "b2", "c1": "b0",
    "c2": "a1", "c3": False,
}  # fmt: skip


def test_each_shard_says_of_what_its_samples_are_copies(tmp_path: Path) -> None:
    records = filled(tmp_path)
    assert decided(tmp_path, records, "abc") == ["a", "b", "c"]
    assert said(tmp_path, *"abc") == WHOLE
    record = ledger.read(str(tmp_path), OUTPUT.name, "a")
    assert record is not None and record.nulls == 1
    assert record.rejects == [{"key": "a2", "reason": "duplicate: there is no signature"}]
    assert decided(tmp_path, records, "abc") == []


def test_a_set_that_grows_keeps_what_was_said(tmp_path: Path) -> None:
    decided(tmp_path, filled(tmp_path, "a"), "a")
    before = ledger.read(str(tmp_path), OUTPUT.name, "a")
    assert decided(tmp_path, filled(tmp_path), "cab") == ["c", "b"]  # in the order in which they came
    assert ledger.read(str(tmp_path), OUTPUT.name, "a") == before
    assert said(tmp_path, *"abc") == WHOLE | {"b0": "c1", "b2": "c0", "c0": False, "c1": False}


def test_a_job_that_was_killed_goes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    records, commit, left = filled(tmp_path), ledger.commit, 2

    def dying(*arguments: Any) -> Record:
        nonlocal left
        left -= 1
        if left < 0:
            raise KeyboardInterrupt
        return commit(*arguments)

    monkeypatch.setattr(ledger, "commit", dying)
    with pytest.raises(KeyboardInterrupt):
        decided(tmp_path, records, "abc")
    monkeypatch.setattr(ledger, "commit", commit)
    assert decided(tmp_path, records, "abc") == ["c"] and said(tmp_path, *"abc") == WHOLE


@pytest.mark.parametrize("gone", ["a", "b"])
def test_what_hung_on_a_shard_that_is_gone_is_said_again(tmp_path: Path, gone: str) -> None:
    records = filled(tmp_path)
    decided(tmp_path, records, "abc")
    rest = [name for name in "abc" if name != gone]
    assert decided(tmp_path, records, rest) == rest[rest.index("c") if gone == "b" else 0 :]
    found = said(tmp_path, *rest)
    assert found["c2"] == ("b1" if gone == "a" else "a1") and found["c1"] == ("b0" if gone == "a" else False)


def test_labels_that_were_made_again_are_compared_again(tmp_path: Path) -> None:
    records = filled(tmp_path)
    decided(tmp_path, records, "abc")
    records["labels/signature", "b"] = replace(records["labels/signature", "b"], sha256="another")
    assert decided(tmp_path, records, "abc") == ["b", "c"]


def test_embeddings_are_compared_by_their_cosine(tmp_path: Path) -> None:
    points = (4 * vectors(9)).astype(np.float16)
    keys = [str(i) for i in range(9)]
    method = Method("clip_global", 0.97)
    records = {("labels/clip_global", "a"): write(str(tmp_path), "clip_global", "a", keys, list(points))}
    join.decide(str(tmp_path), OUTPUT, [], ["a"], records, [method])
    copies = {"2": "1", "5": "4", "8": "7"}
    assert said(tmp_path, "a") == dict.fromkeys(keys, False) | copies
    (tmp_path / "x").mkdir()
    assert nearest(points.astype(np.float32), tmp_path / "x", method) == {2: 1, 5: 4, 8: 7}


def test_vectors_of_two_sizes_are_named(tmp_path: Path) -> None:
    values = [np.ones(4, np.float16), np.ones(5, np.float16)]
    records = {("labels/clip_global", "a"): write(str(tmp_path), "clip_global", "a", ["x", "y"], values)}
    with pytest.raises(ValueError, match=r"shard a, sample 'y': labels/clip_global has the shape \(5,\)"):
        join.decide(str(tmp_path), OUTPUT, [], ["a"], records, [Method("clip_global", 0.9)])
