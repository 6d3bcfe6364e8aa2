"""The labels of a batch: what is refused, what a sample lacks, and what is not made again."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any, ClassVar

import numpy as np
import pytest

from fourmill.pipelines.reject import Reject
from fourmill.pipelines.specialists.base import ImageItem, Item, Specialist
from fourmill.pipelines.worker.label import begin, checked
from fourmill.pipelines.worker.lane import Shared
from fourmill.pipelines.worker.lanes import Lanes
from fourmill.pipelines.worker.sample import LabelledSample

IMAGE = np.zeros((4, 6, 3), np.uint8)
GREY = np.zeros((4, 6), np.uint8)


@pytest.mark.parametrize(
    ("name", "value", "reason"),
    [
        ("canny_edge", GREY, ""),
        ("canny_edge", IMAGE, ""),
        ("canny_edge", None, "the specialist returned nothing"),
        ("canny_edge", [[0]], "empty label"),
        ("canny_edge", GREY[:0], "empty label"),
        ("canny_edge", GREY.astype(np.float32), r"float32 \(4, 6\), expected uint8"),
        ("canny_edge", GREY[0], r"uint8 \(6,\), expected uint8"),
        ("canny_edge", GREY[None, None], "expected uint8"),
        ("canny_edge", GREY[:, :5], r"\(4, 5\), expected the image's frame, \(4, 6\)"),
        ("canny_edge", GREY[:3], r"\(3, 6\), expected the image's frame"),
        ("depth", np.ones((2, 3), np.float16), ""),  # arrays have frames of their own
        ("depth", np.ones(7, np.int64), ""),
        ("depth", np.full((2, 200), 6e4, np.float16), ""),  # whose sum is no float16
        ("depth", np.array([0.0, np.nan]), "NaN or infinite values"),
        ("depth", np.array([0.0, -np.inf], np.float16), "NaN or infinite values"),
        ("depth", "far", "empty label"),
        ("det", [], ""),
        ("det", {"a": 1.5}, ""),
        ("det", [float("inf")], "not JSON"),
        ("det", GREY, "not JSON"),
    ],
)  # fmt: skip
def test_a_label_is_what_its_storage_holds(name: str, value: Any, reason: str) -> None:
    found = checked(name, value, IMAGE)
    if reason:
        assert isinstance(found, Reject)
        with pytest.raises(Reject, match=f"^{name}: .*{reason}"):
            raise found
    else:
        assert found is value


def test_a_picture_without_an_image_has_any_frame() -> None:
    assert not isinstance(checked("canny_edge", GREY[:3], None), Reject)


class Length(Specialist):
    """The length of the caption; it refuses empty ones, breaks at "break", and notes the batches that it sees."""

    label: ClassVar[str] = "det"
    needs: ClassVar[tuple[str, ...]] = ("caption",)
    needs_image: ClassVar[bool] = False
    batch_size: ClassVar[int] = 2
    seen: ClassVar[list[list[str]]] = []

    def __call__(self, items: Sequence[Item]) -> list[Any]:
        texts = [item.labels["caption"] for item in items]
        self.seen.append(texts)
        if "break" in texts:
            raise RuntimeError("no such word")
        return [len(text) or Reject("det: no words") for text in texts]


def sample(key: str, **labels: Any) -> LabelledSample:
    return LabelledSample(Item(key, None, None, labels=labels))


def label(samples: list[LabelledSample], *specialists: Specialist) -> dict[str, float]:
    """Give the samples of a batch their labels. Returns the seconds of each."""
    spent: Counter[str] = Counter()
    begin(samples, {})
    lanes = Lanes({one.label: one for one in specialists}, Shared(lambda name, seconds: spent.update({name: seconds})))
    assert list(lanes.labelled([samples])) == [samples]
    return dict(spent)


def test_a_batch_that_fails_is_tried_again_and_one_by_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Length, "seen", [])
    samples = [sample(text, caption=text) for text in ("a", "bb", "break", "ccc", "dddd")]
    label(samples, Length())
    assert [one.item.labels.get("det") for one in samples] == [1, 2, None, 3, 4]
    assert samples[2].reasons["det"] == "det: RuntimeError: no such word"
    # The next part is with the network while this one is tried again.
    assert sorted(Length.seen) == [["a", "bb"], ["break"], *2 * [["break", "ccc"]], ["ccc"], ["dddd"]]


def test_what_a_sample_lacks_is_its_reason(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Length, "seen", [])
    good, empty, lost, bare = sample("a", caption="text"), sample("b", caption=""), sample("c"), sample("d")
    lost.reasons["caption"] = "caption: not UTF-8"
    seconds = label([good, empty, lost, bare], Length())
    assert good.item.labels["det"] == 4 and Length.seen == [["text", ""]]
    assert [one.reasons.get("det") for one in (good, empty, lost, bare)] == [
        None,
        "det: no words",
        "det: needs caption, which is missing (caption: not UTF-8)",
        "det: needs caption, which is missing (none)",
    ]
    assert list(seconds) == ["labels/det"] and seconds["labels/det"] > 0


class Seeing(Length):
    needs: ClassVar[tuple[str, ...]] = ()
    needs_image: ClassVar[bool] = True

    def __call__(self, items: Sequence[Any]) -> list[Any]:
        return [item.image.shape[0] for item in items]


def test_what_needs_an_image_never_sees_a_sample_without_one() -> None:
    seen, bare, broken = LabelledSample(ImageItem("a", IMAGE, None)), sample("b"), sample("c")
    broken.reasons["rgb"] = "image: 0 bytes"
    label([seen, bare, broken], Seeing())
    assert seen.item.labels["det"] == 4 and seen.item.labels["rgb"] is IMAGE
    assert (bare.reasons["det"], broken.reasons["det"]) == ("image: there is none", "image: 0 bytes")
    assert (seen.size, bare.size) == ((6, 4), (0, 0))


def test_what_is_stored_is_read_and_null_where_it_is_not() -> None:
    batch = [sample("a", caption="text"), sample("b", caption="text"), sample("c", caption="text")]
    begin(batch, {"det": {"a": "[7]", "b": Reject("det: was dark")}})
    assert batch[0].item.labels["det"] == [7]
    assert [one.reasons.get("det") for one in batch] == [None, "det: was dark", "det: no value is stored"]
