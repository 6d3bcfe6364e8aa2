"""Nearest neighbours by cosine, and votes over them."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from fourmill.model.downstream import retrieval
from fourmill.model.downstream.retrieval import knn_accuracy, knn_scores, nearest, predict_vectors, retrieve
from fourmill.model.fourm import FourM


def test_nearest_are_those_of_the_full_table(monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(0)
    queries, gallery = rng.standard_normal((5, 7)), rng.standard_normal((50, 7)) * rng.random((50, 1)) * 100
    table = queries @ gallery.T / np.linalg.norm(queries, axis=1)[:, None] / np.linalg.norm(gallery, axis=1)
    for chunk in (1_000, 50, 7, 1):
        monkeypatch.setattr(retrieval, "CHUNK", chunk)
        index, cosine = nearest(queries, gallery.astype(np.float32), 6)
        assert np.array_equal(index, np.argsort(-table, axis=1)[:, :6])
        np.testing.assert_allclose(cosine, -np.sort(-table, axis=1)[:, :6], atol=1e-5)
    assert nearest(queries, gallery, 100)[0].shape == (5, 50)


def test_of_equally_near_ones_the_first(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(retrieval, "CHUNK", 2)
    index, cosine = nearest(np.ones((1, 3)), np.stack([np.ones(3), np.zeros(3), np.full(3, 2.0), np.ones(3)]), 4)
    assert index.tolist() == [[0, 2, 3, 1]]
    assert cosine[0].tolist() == pytest.approx([1, 1, 1, 0])


@pytest.mark.parametrize("dtype", [np.float16, np.float32])
@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_what_is_not_finite_is_not_ranked(bad: float, dtype: type, monkeypatch: pytest.MonkeyPatch) -> None:
    gallery = np.array([[bad, 1], [1, 1], [bad, bad], [-1, 0], [1, 0]], dtype)
    for chunk in (1_000, 2, 1):
        monkeypatch.setattr(retrieval, "CHUNK", chunk)
        index, cosine = nearest(np.array([[1.0, 0.0]]), gallery, 5)
        assert index.tolist() == [[4, 1, 3]] and np.isfinite(cosine).all()
    with pytest.raises(ValueError, match="queries 1 are not finite"):
        nearest(np.array([[1.0, 0.0], [bad, 0.0]]), gallery, 1)
    with pytest.raises(ValueError, match="none of the 1 vectors"):
        nearest(np.ones((1, 2)), gallery[:1], 1)


def test_votes_are_weighted_by_nearness() -> None:
    gallery = np.array([[1, 0], [0.8, 0.6], [0.8, -0.6], [-1, 0]])
    scores = knn_scores(np.array([[2.0, 0]]), gallery, np.array([1, 0, 0, 2]), 3, k=3, temperature=0.5)
    expected = np.array([2 * np.exp(-0.2 / 0.5), 1.0, 0.0])
    np.testing.assert_allclose(scores[0], expected, rtol=1e-5)
    assert int(scores.argmax()) == 0
    sharp = knn_scores(np.array([[2.0, 0]]), gallery, np.array([1, 0, 0, 2]), 3, k=3, temperature=0.07)
    assert int(sharp.argmax()) == 1, "a low temperature listens to the nearest alone"


def test_accuracy_counts_the_best_voted() -> None:
    scores = torch.tensor([[0.1, 0.9, 0.0], [0.5, 0.3, 0.2], [0.2, 0.3, 0.5]])
    assert knn_accuracy(scores, np.array([1, 1, 0]), top=(1, 2)) == pytest.approx({1: 1 / 3, 2: 2 / 3})
    assert knn_accuracy(scores, np.array([1, 1, 0]), top=(5,)) == {5: 1.0}


def test_separable_classes_are_told_apart() -> None:
    rng = np.random.default_rng(1)
    labels = rng.integers(0, 4, 200)
    vectors = np.eye(4, 16)[labels] * 3 + rng.standard_normal((200, 16))
    scores = knn_scores(vectors[:50], vectors[50:], labels[50:], 4)
    assert knn_accuracy(scores, labels[:50])[1] > 0.9


def test_predicted_vectors_follow_from_the_query_alone(model: FourM) -> None:
    table = np.random.default_rng(0).standard_normal((20, 8))
    captions = [[20, 3], [21, 22, 3], [23, 3]]

    def vectors(chosen: list[int], **options: object) -> np.ndarray:
        given = {"caption": [captions[i] for i in chosen]}
        return predict_vectors(model, given, "tok_dinov2_global", lambda ids: table[ids].sum(1), **options)

    whole = vectors([0, 1, 2])
    assert whole.shape == (3, 8) and whole.dtype == np.float32
    assert np.array_equal(vectors([2, 0], sample_ids=[2, 0]), whole[[2, 0]])


@pytest.mark.parametrize(
    ("queries", "gallery", "k"), [((2, 3), (4, 5), 1), ((2, 3), (0, 3), 1), ((2, 3), (4, 3), 0), ((3,), (4, 3), 1)]
)
def test_shapes_that_do_not_fit_are_refused(queries: tuple, gallery: tuple, k: int) -> None:
    with pytest.raises(ValueError, match="expected"):
        nearest(np.ones(queries), np.ones(gallery), k)


def test_labels_that_do_not_fit_are_refused() -> None:
    with pytest.raises(ValueError, match="3 labels from 0 to 2 for 3 vectors, expected one each, 0 to 1"):
        knn_scores(np.ones((1, 2)), np.ones((3, 2)), np.array([0, 1, 2]), 2)


class Table:
    """A tokenizer whose vectors are sums of rows."""

    def __init__(self) -> None:
        self.rows = torch.from_numpy(np.random.default_rng(0).standard_normal((20, 8)))

    def decode(self, ids: torch.Tensor) -> torch.Tensor:
        return self.rows[ids].sum(1)


def test_retrieval_finds_what_is_predicted(model: FourM) -> None:
    captions, tokenizer = {"caption": [[20, 3], [21, 22, 3]]}, Table()
    vectors = predict_vectors(model, captions, "tok_dinov2_global", lambda ids: tokenizer.rows[ids.astype(int)].sum(1))
    gallery = np.random.default_rng(1).integers(0, 20, (300, 4)).astype(np.uint16)
    decoded = tokenizer.decode(torch.from_numpy(gallery.astype(np.int64))).float()
    expected = nearest(vectors, decoded, 7)
    for searched in (gallery, decoded, decoded.numpy()):
        found = retrieve(model, captions, searched, target="tok_dinov2_global", tokenizer=tokenizer, k=7)
        assert torch.equal(found[0], expected[0]) and torch.equal(found[1], expected[1])
    with pytest.raises(ValueError, match="N above 0"):
        retrieve(model, captions, gallery[:0], target="tok_dinov2_global", tokenizer=tokenizer)
