"""The `train` section: steps by tokens, workers and micro-batches that fit the batch, what makes another run."""

from __future__ import annotations

import re
from typing import Any

import pytest
import yaml
from pydantic import ValidationError

from fourmill.infra.fingerprint import hashed
from fourmill.train.settings import DERIVED, OPERATIONS, Mixture, Train

PAPER = {"batch_size": 8192, "total_tokens": "500e9", "warmup_tokens": 10e9}


def test_steps_are_counted_in_tokens() -> None:
    """4M-7: 500 B tokens at 128 + 128 tokens for each of 8192 samples (ml-4m rounds up)."""
    train = Train.model_validate(PAPER)
    assert (train.steps, train.warmup_steps) == (238_419, 4_769)
    wide = Train.model_validate({**PAPER, "batch_size": 4096, "input_tokens": [64, 256], "target_tokens": 256})
    assert (wide.tokens_per_sample, wide.steps, wide.warmup_steps) == (512, 238_419, 4_769)
    assert Train.model_validate({"warmup_tokens": 0}).warmup_steps == 0


def test_a_resolved_recipe_can_be_read_again() -> None:
    train = Train.model_validate(PAPER)
    assert Train.model_validate(train.model_dump(mode="json")) == train


def test_steps_and_tokens_must_agree() -> None:
    with pytest.raises(ValidationError, match=r"500e\+09|5e\+11 tokens are 238419 steps of 2097152, and steps says 10"):
        Train.model_validate({**PAPER, "steps": 10})
    other = Train.model_validate({**PAPER, "total_tokens": None, "warmup_tokens": None, "steps": 10})
    assert (other.steps, other.warmup_steps) == (10, 0)


def test_warm_up_keeps_its_share_of_the_steps() -> None:
    assert Train().warmup_steps == 2_000 and Train(steps=2_000).warmup_steps == 40
    assert Train(total_tokens=1e8).warmup_steps == round(Train(total_tokens=1e8).steps / 50) > 0
    assert Train(steps=2_000, warmup_steps=300).warmup_steps == 300 and Train(steps=100, warmup_steps=0).steps == 100
    for settings in ({"steps": 100, "warmup_steps": 100}, {"steps": 10, "warmup_tokens": 10e9}):
        with pytest.raises(ValidationError, match=r"warmup_steps: \d+ of \d+ steps never reach the learning rate"):
            Train.model_validate(settings)


@pytest.mark.parametrize(("least", "most", "batch"), [(2, 8, 256), (2, 4, 8192), (5, 5, 7)])
def test_what_is_suggested_for_elastic_workers_works(least: int, most: int, batch: int) -> None:
    with pytest.raises(ValidationError, match="does not divide") as caught:
        Train(workers=(least, most), batch_size=batch)
    said = re.search(r"multiple of \d+, such as (\d+), or with this batch workers: (.+?) \[type", str(caught.value))
    assert said is not None
    assert Train(workers=(least, most), batch_size=int(said[1]))
    assert Train(workers=yaml.safe_load(said[2]), batch_size=batch)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"batch_size": 10, "workers": 3}, "10 does not divide among 3 workers; for 3 workers .* multiple of 3, .* 9"),
        ({"batch_size": 8, "workers": [1, 4]}, "8 does not divide among 3 workers; for any number of 1 to 4 .* of 12"),
        ({"batch_size": 8, "workers": 2, "accumulate": 3}, "among 2 workers x accumulate 3; .* multiple of 6"),
        ({"workers": [4, 2]}, r"workers: got \[4, 2\], expected \[least, most\]"),
        ({"workers": [0, 2]}, "workers"),
        ({"ema": 1.0}, "ema"),
        ({"min_lr": 1.0}, r"min_lr: 1 is above the highest learning rate, base_lr x batch_size / 256 = 0.0001"),
        ({"nonfinite": "ignore"}, "nonfinite"),
        ({"trackers": ["tensorboard"]}, "trackers"),
        ({"datasets": [{"root": "a", "weight": 0}]}, "weight"),
    ],
)
def test_what_does_not_fit_is_a_sentence(change: dict[str, Any], said: str) -> None:
    with pytest.raises(ValidationError, match=said):
        Train.model_validate(change)


def test_the_learning_rate_may_stay() -> None:
    train = Train(base_lr=1e-4, batch_size=96, min_lr=1e-4 * 96 / 256)
    assert train.min_lr == pytest.approx(3.75e-5)


def test_elastic_workers_have_a_range() -> None:
    assert Train.model_validate({"workers": [2, 4], "batch_size": 24}).worker_range == (2, 4)
    assert Train(workers=3, batch_size=6).worker_range == (3, 3)


def test_every_field_is_counted_once() -> None:
    """Fields are operations, derived, or part of what a run is; the first two sets name fields that exist."""
    assert OPERATIONS | DERIVED <= set(Train.model_fields) and not OPERATIONS & DERIVED


def test_at_every_moment_some_mixture_is_drawn() -> None:
    early, late = {"during": [0, 0.1]}, {"during": [0.1, 1]}
    assert len(Train(mixtures=[early, late]).mixtures) == 2
    with pytest.raises(ValidationError, match=r"mixtures: none is drawn from 0.1 of the run on"):
        Train(mixtures=[early])
    with pytest.raises(ValidationError, match=r"mixtures: none is drawn from 0 of the run on"):
        Train(mixtures=[late])
    with pytest.raises(ValidationError, match=r"during: got \[0.5, 0.5\], expected \[begin, end\]"):
        Train(mixtures=[{"during": [0.5, 0.5]}])
    with pytest.raises(ValidationError, match=r"datasets\[0\].mixtures: none is drawn from 0.1"):
        Train(datasets=[{"mixtures": [early]}])


def test_mixtures_at_their_default_have_the_print_of_before() -> None:
    assert "during" not in hashed(Train(mixtures=[Mixture()]))["mixtures"][0]
    assert "grid_temperature" not in hashed(Train())["model"]
    assert hashed(Train(mixtures=[Mixture(), Mixture(during=(0, 0.1))]))["mixtures"][1]["during"] == [0.0, 0.1]
