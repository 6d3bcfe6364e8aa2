"""Fine-tuning an encoder on a few pictures: it learns, the same way each time, and comes back from disk."""

from __future__ import annotations

import signal
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pytest
import torch

from fourmill.infra import stopping
from fourmill.modalities import Kind, ModalitySpec
from fourmill.model.config import FourMConfig
from fourmill.model.fourm import FourM
from fourmill.train.downstream import kept, transfer
from fourmill.train.downstream.transfer import Settings
from fourmill.train.schedule import cosine_lr

torch.set_num_threads(1)

SETTINGS = Settings(
    epochs=6, batch_size=8, lr=5e-3, warmup_epochs=1, drop_path=0.1, image_size=16, crop_scale=(0.6, 1.0), smoothing=0.0
)


@dataclass
class Stripes:
    """Noisy stripes: class 0 runs across, class 1 down."""

    labels: np.ndarray
    classes: tuple[str, ...] = ("across", "down")

    def __len__(self) -> int:
        return len(self.labels)

    def image(self, index: int) -> np.ndarray:
        rng = np.random.default_rng(index)
        bars = (np.arange(20) // 2 % 2 * 160)[:, None] + rng.integers(0, 90, (20, 24))
        bars = bars if self.labels[index] == 0 else (np.arange(24) // 2 % 2 * 160)[None] + rng.integers(0, 90, (20, 24))
        return np.repeat(bars[..., None], 3, axis=2).astype(np.uint8)


@pytest.fixture(scope="module")
def model() -> FourM:
    specs = (ModalitySpec("rgb", Kind.PIXELS, 0, 16, 48), ModalitySpec("tok_rgb", Kind.GRID, 8, 16))
    torch.manual_seed(0)
    return FourM(FourMConfig(specs, dim=32, num_heads=2, encoder_depth=2, decoder_depth=1))


@pytest.fixture(scope="module")
def images() -> Stripes:
    return Stripes(np.arange(40) % 2)


def test_images_have_the_models_size_by_themselves(model: FourM, images: Stripes, tmp_path: Path) -> None:
    own = replace(SETTINGS, image_size=None, epochs=1)
    assert transfer.resolved(own, model.config).image_size == 16
    classifier, history = transfer.finetune(model, images, images, own)
    assert history == transfer.finetune(model, images, images, replace(own, image_size=16))[1]
    transfer.save(classifier, model.config, images.classes, own, str(tmp_path))
    assert transfer.load(str(tmp_path))[2].image_size == 16
    with pytest.raises(ValueError, match="without image_size"):
        transfer.accuracy(classifier, images, own)


def test_it_learns_and_comes_back_from_disk(model: FourM, images: Stripes, tmp_path: Path) -> None:
    classifier, history = transfer.finetune(model, images, images, SETTINGS)
    assert len(history) == 6 and history[-1]["loss"] < history[0]["loss"]
    assert history[-1]["top1"] == 1.0 and history[-1]["top5"] == 1.0
    transfer.save(classifier, model.config, images.classes, SETTINGS, str(tmp_path))
    loaded, classes, settings = transfer.load(str(tmp_path))
    assert (classes, settings) == (images.classes, SETTINGS)
    batch = {"rgb": torch.from_numpy(np.stack([images.image(i)[:16, :16] for i in range(4)])).permute(0, 3, 1, 2)}
    assert torch.equal(loaded(batch), classifier(batch))
    (tmp_path / "config.json").unlink()
    with pytest.raises(ValueError, match="written whole"):
        transfer.load(str(tmp_path))


def test_the_same_call_gives_the_same_weights(model: FourM, images: Stripes) -> None:
    short = replace(SETTINGS, epochs=1)
    (first, history), (second, second_history) = (transfer.finetune(model, images, images, short) for _ in range(2))
    assert history == second_history
    weights, second_weights = first.state_dict(), second.state_dict()
    assert all(torch.equal(weights[name], second_weights[name]) for name in weights)
    other, _ = transfer.finetune(model, images, images, replace(short, seed=1))
    assert not torch.equal(other.head.linear.weight, first.head.linear.weight)


@pytest.mark.parametrize("steps", [[2], [5], [3, 7]])
def test_one_that_was_stopped_ends_with_the_same_weights(
    model: FourM, images: Stripes, tmp_path: Path, steps: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    """In an epoch, and at the end of one; twice. Stochastic depth goes on with its random numbers."""
    settings = replace(SETTINGS, epochs=2)
    whole, history = transfer.finetune(model, images, images, settings)

    class Stopping(kept.Keeper):
        calls = 0

        @property
        def is_due(self) -> bool:
            self.calls += 1
            self.stop.signum = signal.SIGTERM * (self.calls == step - before)
            return bool(self.stop.signum)

    before = 0
    for step in steps:
        with pytest.raises(stopping.Stopped, match=f"step {step} of 10 is saved in .* goes on from there") as stopped:
            transfer.finetune(model, images, images, settings, keeper=Stopping(str(tmp_path), "call"))
        assert stopped.value.signum == signal.SIGTERM
        before = step
    torch.rand(5)  # somebody else's
    assert kept.Keeper(str(tmp_path), "another").newest("cpu") is None
    resumed, same = transfer.finetune(model, images, images, settings, keeper=kept.Keeper(str(tmp_path), "call"))
    assert same == history
    expected = whole.state_dict()
    assert all(torch.equal(value, expected[name]) for name, value in resumed.state_dict().items())


def test_a_classifier_is_that_of_its_call(model: FourM, tmp_path: Path) -> None:
    call = kept.call_of(model, SETTINGS, [["a"]])
    assert call == kept.call_of(model, SETTINGS, [["a"]])
    assert call != kept.call_of(model, replace(SETTINGS, seed=1), [["a"]]) != kept.call_of(model, SETTINGS, [["b"]])
    classifier = transfer.build(model, 2, SETTINGS)
    transfer.save(
        classifier, model.config, ("a", "b"), SETTINGS, str(tmp_path), {"call": call, "history": [{"loss": 1}]}
    )
    assert kept.finished(str(tmp_path), call) == [{"loss": 1}] and kept.finished(str(tmp_path), "other") is None
    (tmp_path / "model.safetensors").unlink()
    assert kept.finished(str(tmp_path), call) is None and kept.finished(str(tmp_path / "no"), call) is None


@pytest.mark.parametrize("epochs, images, expected", [(1, 8, 0), (1, 16, 1), (1, 24, 2), (20, 80, 10)])
def test_some_step_has_a_rate(epochs: int, images: int, expected: int) -> None:
    plan = transfer.schedule(images, replace(SETTINGS, epochs=epochs))
    assert plan["warmup"] == expected
    assert any(cosine_lr(step, peak=1.0, minimum=0.0, **plan) > 0 for step in range(plan["steps"]))


def test_lora_leaves_the_encoder_as_it_was(model: FourM, images: Stripes, tmp_path: Path) -> None:
    pytest.importorskip("peft")
    settings = replace(SETTINGS, lora_rank=4, pool="class", lr=2e-2)
    classifier, history = transfer.finetune(model, images, images, settings)
    assert history[-1]["top1"] > 0.9
    weight = classifier.encoder.blocks[0].mlp.fc1.base_layer.weight
    assert torch.equal(weight, model.encoder[0].mlp.fc1.weight)
    transfer.save(classifier, model.config, images.classes, settings, str(tmp_path))
    loaded, _, _ = transfer.load(str(tmp_path))
    assert transfer.accuracy(loaded, images, settings) == {k: history[-1][k] for k in ("top1", "top5")}


def test_every_training_image_is_seen_once_an_epoch(images: Stripes) -> None:
    seen = [labels.tolist() for _, labels in transfer._training_batches(images, SETTINGS, 0, "cpu")]
    assert [len(part) for part in seen] == [8] * 5 and sum(map(sum, seen)) == 20
    few = [batch.shape for batch, _ in transfer._training_batches(images, replace(SETTINGS, batch_size=64), 0, "cpu")]
    assert few == [(40, 3, 16, 16)]


def test_settings_out_of_range_are_refused() -> None:
    with pytest.raises(ValueError, match="epochs 0"):
        Settings(epochs=0)
