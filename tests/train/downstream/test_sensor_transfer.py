"""An encoder learns to say numbers, series and maps of sensors, beyond what it says of another sample's input."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from fourmill.modalities import Kind, ModalitySpec
from fourmill.model.config import FourMConfig
from fourmill.model.downstream.transfer import Encoder
from fourmill.model.fourm import FourM
from fourmill.sensors.sensor import Sensor
from fourmill.train.downstream import sensor_transfer
from fourmill.train.downstream.sensor_transfer import Known, Target
from fourmill.train.downstream.tuning import Settings

torch.set_num_threads(1)

SETTINGS = Settings(epochs=20, batch_size=16, lr=1e-2, warmup_epochs=1, drop_path=0.0, layer_decay=1.0)
SIDE = 4  # tokens of a grid


@pytest.fixture(scope="module")
def model() -> FourM:
    specs = (
        ModalitySpec("px", Kind.PIXELS, 0, SIDE**2, 8),
        ModalitySpec("tok_map", Kind.GRID, 2, SIDE**2),
        ModalitySpec("tok_row", Kind.GRID, 8, 3, learned_positions=True),
    )
    torch.manual_seed(0)
    return FourM(FourMConfig(specs, dim=32, num_heads=2, encoder_depth=2, decoder_depth=1))


def known(seed: int, count: int, references: Any, *names: str) -> Known:
    """Samples whose references follow from their inputs."""
    rng = np.random.default_rng(seed)
    given = {
        "px": rng.normal(size=(count, SIDE**2, 8)).astype(np.float16),
        "tok_map": rng.integers(0, 2, (count, SIDE**2)),
        "tok_row": rng.integers(0, 8, (count, 3)),
    }
    shown = {name: given[name] for name in names or given}
    return Known([("s", str(i), i) for i in range(count)], shown, references(given), 0)


def finetuned(model: FourM, target: Target, references: Any, *names: str, **more: Any) -> Any:
    train, val = known(0, 96, references, *names), known(1, 40, references, *names)
    settings = replace(SETTINGS, **more)
    network, statistics, result = sensor_transfer.finetune(model, train, val, target, settings, 50)
    return network, statistics, result, val


def test_numbers_of_their_own_unit(model: FourM, tmp_path: Path) -> None:
    sensor = Sensor(member="json", fields=["a", "b"], unit="t")

    def references(given: dict[str, np.ndarray]) -> Sequence[np.ndarray]:
        return [np.array([100 + 20 * n, -3.0 * n], np.float32) for n in given["tok_map"].sum(1)]

    network, statistics, result, val = finetuned(model, Target("agb", sensor, 16), references, "tok_map", "tok_row")
    assert len(result.history) == 20 and result.history[-1]["loss"] < result.history[0]["loss"] / 5
    own, another, constant = (result.rows[row] for row in ("transfer", "another", "constant"))
    assert own["r2"].low > max(another["r2"].high, constant["r2"].high, 0.7)
    assert own["rmse a"].high < another["rmse a"].low and list(own)[:3] == ["rmse", "mae", "r2"]
    sensor_transfer.save(network, model, Target("agb", sensor, 16), statistics, SETTINGS, result, str(tmp_path), "c")
    loaded, target, again = sensor_transfer.load(str(tmp_path))
    assert target.sensor == sensor and again is not None
    given = {name: torch.from_numpy(values) for name, values in val.given.items()}
    with torch.no_grad():
        said = again.restored(loaded(given)).numpy()
    rmse = np.sqrt(np.mean((said - np.stack(val.references))[:, 0] ** 2))
    assert rmse == pytest.approx(own["rmse a"].value, rel=1e-4)
    (tmp_path / "config.json").unlink()
    with pytest.raises(ValueError, match="written whole"):
        sensor_transfer.load(str(tmp_path))


def test_classes_of_each_pixel(model: FourM) -> None:
    sensor = Sensor(member="l.npy", classes=["land", "water"])

    def references(given: dict[str, np.ndarray]) -> Sequence[Any]:
        maps = given["tok_map"].reshape(-1, SIDE, SIDE).repeat(2, 1).repeat(2, 2).astype(np.uint8)
        maps[:, 0, 0] = 255  # no class
        return [(one, None) for one in maps]

    _, statistics, result, _ = finetuned(model, Target("lulc", sensor, 8), references, "tok_map", epochs=6)
    assert statistics is None and result.rows["transfer"]["miou"].low > result.rows["another"]["miou"].high + 0.1


def test_a_raster_with_gaps(model: FourM) -> None:
    sensor = Sensor(member="d.npy", unit="m")

    def references(given: dict[str, np.ndarray]) -> Sequence[Any]:
        maps = given["px"][..., :1].reshape(-1, SIDE, SIDE, 1).astype(np.float32).repeat(2, 1).repeat(2, 2) * 50 + 400
        maps[:, :2, :2] = np.nan
        return list(maps)

    _, _, result, _ = finetuned(model, Target("dem", sensor, 8), references, "px", epochs=8)
    assert result.rows["transfer"]["rmse"].high < result.rows["another"]["rmse"].low
    assert all(np.isfinite(row["loss"]) for row in result.history)


def test_a_series_and_inputs_without_a_place(model: FourM) -> None:
    sensor = Sensor(member="n.npy", kind="series", length=5, bands=["x", "y"])

    def references(given: dict[str, np.ndarray]) -> Sequence[Any]:
        first = given["tok_row"][:, :1, None].astype(np.float32)
        return list(np.broadcast_to(first * np.arange(1, 6)[None, :, None], (len(first), 5, 2)).copy())

    _, _, result, _ = finetuned(model, Target("ndvi", sensor, 0), references, "tok_row")
    assert result.rows["transfer"]["r2"].low > result.rows["another"]["r2"].high + 0.3
    with pytest.raises(ValueError, match="dem is a map, and tok_row have no place in it"):
        sensor_transfer.build(model, ["tok_row"], Target("dem", Sensor(member="d.npy"), 8), SETTINGS)


def test_targets_that_are_all_the_same(model: FourM) -> None:
    target = Target("agb", Sensor(member="json", field="a"), 16)
    with pytest.raises(ValueError, match=r"--target agb: .*all values are 7, which says nothing"):
        finetuned(model, target, lambda given: [np.array([7], np.float32) for _ in given["px"]])


def test_patches_are_what_pixels_are() -> None:
    specs = (ModalitySpec("rgb", Kind.PIXELS, 0, 16, 48), ModalitySpec("tok_map", Kind.GRID, 2, SIDE**2))
    torch.manual_seed(0)
    model = FourM(FourMConfig(specs, dim=32, num_heads=2, encoder_depth=1, decoder_depth=1))
    encoder = Encoder(model, ("rgb", "tok_map")).eval()
    pixels, ids = torch.randint(0, 256, (2, 3, 16, 16), dtype=torch.uint8), torch.randint(0, 2, (2, 16))
    patches = pixels.reshape(2, 3, 4, 4, 4, 4).permute(0, 2, 4, 3, 5, 1).reshape(2, 16, 48)
    expected = encoder({"rgb": pixels, "tok_map": ids.view(2, 4, 4)}).tokens
    assert torch.equal(encoder({"rgb": patches, "tok_map": ids}).tokens, expected)
    with pytest.raises(ValueError, match=r"expected patches \(B, 16, 48\)"):
        encoder({"rgb": patches[:, :8]})


def test_a_series_on_a_grid_has_as_many_answers() -> None:
    axis = {"axis": {"wavelength": "l.npy"}, "grid": {"from": 1, "to": 9, "points": 5}}
    assert Target("flux", Sensor.model_validate({"member": "f.npy", **axis}), 0).shape == (5, 1)
    assert Target("ndvi", Sensor.model_validate({"member": "n.npy", "length": 52}), 0).shape == (52, 1)
