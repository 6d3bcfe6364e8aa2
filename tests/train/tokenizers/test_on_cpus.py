"""Fits on CPUs: the published sizes are refused with what to write, and float16 is computed in float32."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml
from fourmill_tests.tiny.landscape import forgotten

from fourmill.recipe import Recipe
from fourmill.report.doctor import machine
from fourmill.report.doctor.machine import Has
from fourmill.train.tokenizers import on_cpus
from fourmill.verbs import sensor_starter, starter

SMALL = {"decoder": "vit", "dim": 64, "heads": 2, "encoder_depth": 1, "decoder_depth": 1, "steps": 400, "batch_size": 8}


@pytest.fixture(autouse=True)
def _alone() -> Iterator[None]:
    with forgotten():
        yield


def recipe(root: Path, **common: object) -> Recipe:
    return Recipe.model_validate(
        {
            "root": str(root), "samples": {"train": "x/{0..1}.tar"}, "images": {"size": 64, "patch_size": 8},
            "sensors": {"wx": {"member": "npy", "bands": ["t", "u"]}}, "modalities": ["wx", "tok_wx"],
            "tokenizers": {"common": common},
        }
    )  # fmt: skip


@pytest.mark.parametrize(
    ("common", "gpus", "cores", "is_said"),
    [
        ({}, 0, 2, True),  # written by hand: the published decoder, by diffusion
        ({"decoder": "vit"}, 0, 2, True),  # the published number of steps
        (SMALL, 0, 2, False),
        ({}, 1, 2, False),  # GPUs are asked for
        ({}, 0, 0, False),  # the machine is not known
        ({}, 0, 100_000, False),
    ],
)
def test_a_fit_without_an_end_is_said(
    tmp_path: Path, common: dict[str, object], gpus: int, cores: int, is_said: bool
) -> None:
    asked = recipe(tmp_path, **common)
    asked = asked.model_copy(update={"fit": asked.fit.model_copy(update={"gpus": float(gpus)})})
    found = machine.fits_on_cpus(asked, asked.tokenizers_needed, Has("here", 24.0, cores=cores))
    said = [(one.what, "tok_wx" in one.why, "decoder: vit" in one.do) for one in found]
    assert said == [("fit", True, True)] * is_said


def test_what_is_advised_ends_and_is_what_init_writes(tmp_path: Path) -> None:
    advised = yaml.safe_load(on_cpus.ADVICE[on_cpus.ADVICE.index("{") :])
    asked = recipe(tmp_path, **advised)
    assert not machine.fits_on_cpus(asked, asked.tokenizers_needed, Has("here", 24.0, cores=2))
    for written in (yaml.safe_load(starter.QUICK), yaml.safe_load("{" + sensor_starter.QUICK + "}")):
        assert written.items() - {("color_jitter", 0.15)} <= advised.items()


def test_smaller_parts_make_a_fit_shorter(tmp_path: Path) -> None:
    def days(**common: object) -> float:
        return on_cpus.days("tok_wx", recipe(tmp_path, **common).tokenizer("tok_wx"), 64, 2)

    assert days() > days(unet_channels=128) > days(decoder="uvit") > days(decoder="uvit", encoder_depth=6) > 0
    assert days(steps=78_000) == pytest.approx(days() / 10)


def test_float16_is_of_gpus_alone(tmp_path: Path) -> None:
    settings = recipe(tmp_path).tokenizer("tok_wx")
    assert settings.precision == "fp16"
    assert on_cpus.on("cuda:0", settings) is settings
    assert on_cpus.on("cpu", settings) == settings.model_copy(update={"precision": "fp32"})
    narrow = settings.model_copy(update={"precision": "bf16"})
    assert on_cpus.on("cpu", narrow) is narrow
