"""`init` and `plan` say at once what cannot work."""

from __future__ import annotations

import json
from pathlib import Path

import yaml
from fourmill_tests import data, first, runs
from fourmill_tests.cases import require


def test_init_without_images_asks_for_none(tmp_path: Path) -> None:
    """Shards of arrays and sidecars: no modality of images, or a sentence that there is no image."""
    members = [
        (f"{i:04d}{suffix}", text) for i in range(4) for suffix, text in ((".bands.npy", b"x"), (".json", b"{}"))
    ]
    (tmp_path / "a.tar").write_bytes(data.tar(members))
    status, out, _ = runs.command("init", "--samples", str(tmp_path / "a.tar"), "--root", str(tmp_path / "out"))
    require(status != 0 or "tok_rgb" not in yaml.safe_load(out)["modalities"], "its recipe lists tok_rgb")


def test_init_fits_sizes_to_the_data(tmp_path: Path) -> None:
    """For a hundred photos it asked for 50,000 steps of 256, and for a worker of 20.5 GB."""
    (shard,) = data.good_shards(tmp_path / "s", 1, 100)
    status, out, err = runs.command("init", "--samples", shard, "--root", str(tmp_path / "out"))
    assert status == 0, err
    recipe = yaml.safe_load(out)
    for settings in (recipe["tokenizers"]["common"], recipe["train"]):
        assert settings["batch_size"] <= 100 and settings["steps"] * settings["batch_size"] <= 100_000, settings


def test_plan_says_that_all_is_rejected(tmp_path: Path) -> None:
    """`--measure` on shards in which every sample is rejected."""
    (tmp_path / "a.tar").write_bytes(data.tar([(f"{i}.json", json.dumps({"ndvi": 0.1}).encode()) for i in range(8)]))
    small = "tokenizers: {common: {decoder: vit, dim: 32, encoder_depth: 1, decoder_depth: 1, heads: 2}}"
    (tmp_path / "r.yaml").write_text(
        f"root: {tmp_path}/out\nsamples: {tmp_path}/a.tar\nmodalities: [rgb, tok_rgb]\n{small}\n"
    )
    _, out, err = runs.command("plan", str(tmp_path / "r.yaml"), "--measure", "8")
    require("reject" in (out + err).lower(), out[-200:])


def test_a_finished_text_tokenizer_can_be_named(tmp_path: Path) -> None:
    """Without it published weights cannot go on with captions, boxes and metadata."""
    root = first.copy(tmp_path)
    (tmp_path / "r.yaml").write_text(
        f"root: {tmp_path}/out\nsamples: {root}/shards/train-*.tar\nmodalities: [caption]\n"
    )
    arguments = ["plan", str(tmp_path / "r.yaml"), "--set", "generate.chains=[]"]
    if runs.command(*arguments)[0] != 0:
        raise RuntimeError(f"the recipe is wrong without it: {runs.command(*arguments)}")
    status, _, said = runs.command(*arguments, "--set", f"tokenizers.text.weights={root}/out/tokenizers/text")
    require(status == 0, f"tokenizers.text.weights: {said}")
