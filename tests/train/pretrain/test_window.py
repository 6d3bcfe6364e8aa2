"""The losses between two log lines: means, guards against NaN, and which steps and samples are named."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor

from fourmill.train.pretrain.window import NAMED, Entry, Window, by_modality, target_weights

OUTPUTS = ("tok_rgb", "tok_depth", "caption")


def entry(step: int, loss: float, sums: list[float], counts: list[int], norm: float = 1.0) -> Entry:
    keys = [f"step{step}-{i}" for i in range(NAMED + 2)]
    return Entry(step, torch.tensor(loss), torch.tensor(sums), counts, torch.tensor(norm), keys)


def alone(tensor: Tensor) -> Tensor:
    return tensor


def test_a_line_has_means_over_targets_and_steps() -> None:
    window = Window(OUTPUTS)
    window.entries = [
        entry(1, 2.0, [6.0, 0.0, 1.0], [3, 0, 1], norm=5.0),
        entry(2, 4.0, [10.0, 0.0, 3.0], [5, 0, 1], norm=0.5),
    ]
    values, predicted = window.close(alone)
    assert values == {"loss": 3.0, "loss/tok_rgb": 2.0, "loss/caption": 2.0, "gradient_norm": 0.5}
    assert predicted == {"tok_rgb": 8.0, "tok_depth": 0.0, "caption": 2.0}


def test_a_line_adds_up_the_parts_of_all_workers() -> None:
    """The loss is the sum of the workers' parts, a modality's loss the mean over the targets of all."""
    other = torch.tensor([1.0, 2.0, 8.0, 3.0, 2.0, 2.0, 1.0], dtype=torch.float64)
    window = Window(OUTPUTS)
    window.entries = [entry(1, 2.0, [6.0, 4.0, 1.0], [2, 2, 1])]
    values, predicted = window.close(lambda tensor: tensor + other)
    assert values["loss"] == 3.0
    assert [values[f"loss/{name}"] for name in OUTPUTS] == [8 / 4, 12 / 4, 4 / 2]
    assert predicted == {"tok_rgb": 4.0, "tok_depth": 4.0, "caption": 2.0}


def test_a_loss_that_is_not_finite_names_its_modality() -> None:
    window = Window(OUTPUTS)
    window.entries = [entry(6, 1.0, [1.0] * 3, [1] * 3), entry(7, math.nan, [1.0, math.inf, 1.0], [1] * 3)]
    with pytest.raises(
        FloatingPointError, match=r"the loss is nan at step 7 .*modalities: tok_depth; samples: "
    ) as error:
        window.close(alone)
    assert f"step7-{NAMED - 1}, ..." in str(error.value) and f"step7-{NAMED}" not in str(error.value)


def test_a_gradient_that_is_not_finite_may_be_of_any_modality() -> None:
    window = Window(OUTPUTS)
    window.entries = [entry(3, 1.0, [1.0] * 3, [1] * 3, norm=math.inf)]
    with pytest.raises(FloatingPointError, match=r"the norm of the gradient is inf at step 3 .*modalities: all"):
        window.close(alone)


def test_skipped_steps_name_the_workers_they_come_from() -> None:
    """Of two workers the second has the bad caption at step 2; at step 4 all losses are finite."""
    window = Window(OUTPUTS)
    window.entries = [
        entry(1, 1.0, [1.0] * 3, [1] * 3),
        entry(2, 1.0, [1.0] * 3, [1] * 3, norm=math.nan),
        entry(3, 1.0, [1.0] * 3, [1] * 3),
        entry(4, 1.0, [1.0] * 3, [1] * 3, norm=math.inf),
    ]

    def gather(own: Any) -> list[Any]:
        return [own, [(["caption"], ["other2"]), ([], ["other4"])]]

    first, second = window.take_skipped(gather)
    assert first == {"step": 2, "modalities": ["caption"], "samples": ["other2"]}
    assert second["step"] == 4 and second["modalities"] == list(OUTPUTS)
    assert second["samples"] == [f"step4-{i}" for i in range(NAMED)]
    assert [one.step for one in window.entries] == [1, 3]
    assert window.take_skipped(lambda value: pytest.fail("nothing is skipped: nothing is gathered")) == []


def test_samples_of_several_workers_are_named_up_to_a_number() -> None:
    window = Window(OUTPUTS)
    window.entries = [entry(1, math.nan, [math.nan, 1.0, 1.0], [1] * 3, norm=math.nan)]
    (line,) = window.take_skipped(lambda own: [own, [(["caption"], ["other"])]])
    assert line["modalities"] == ["tok_rgb", "caption"], "in the order of the outputs"
    assert len(line["samples"]) == NAMED


@pytest.mark.parametrize("weighting", ["modality", "token"])
def test_weights_make_the_loss_that_of_the_whole_batch(weighting: Any) -> None:
    """Two workers with two micro-batches each, one modality without targets."""
    counts = torch.tensor([[3.0, 0.0, 1.0], [1.0, 0.0, 1.0], [4.0, 0.0, 0.0], [2.0, 0.0, 6.0]])
    means = torch.tensor([[1.0, 0.0, 5.0], [2.0, 0.0, 7.0], [3.0, 0.0, 0.0], [4.0, 0.0, 2.0]])
    totals = counts.sum(0)
    workers = zip(counts.split(2), means.split(2), strict=True)
    loss = sum((target_weights(part, totals, weighting, 3) * mean).sum() for part, mean in workers)
    of_modality = (counts * means).sum(0)
    expected = (
        (of_modality / totals.clamp(min=1)).sum() / 3 if weighting == "modality" else of_modality.sum() / totals.sum()
    )
    torch.testing.assert_close(loss, expected)
    single = torch.tensor([[0.0, 1.0, 0.0]])
    share = 1 / 3 if weighting == "modality" else 1.0
    torch.testing.assert_close(target_weights(single, single.sum(0), weighting, 3), share * single)
    nothing = torch.zeros(2, 3)
    assert not target_weights(nothing, nothing.sum(0), weighting, 3).any()


def test_modalities_without_targets_have_no_mean() -> None:
    sums, counts = torch.tensor([4.0, 0.0, 3.0]), torch.tensor([2.0, 0.0, 1.0])
    assert by_modality(OUTPUTS, sums, counts) == {"loss/tok_rgb": 2.0, "loss/caption": 3.0}
