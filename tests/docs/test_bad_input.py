"""docs/bad-input.md: every reason that bad input gives is in its tables, and every reason in them is given here."""

from __future__ import annotations

import gzip
import io
import re
import shutil
import tarfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from fourmill_tests import data
from fourmill_tests.pictures import half_png
from fourmill_tests.small import SmallRoot
from fourmill_tests.tiny import dense
from PIL import Image

from fourmill import recipe as recipes
from fourmill.infra.explain import reason_class
from fourmill.model.checkpoint import CONFIG, WEIGHTS
from fourmill.model.generation.known import Known
from fourmill.model.published import ml4m
from fourmill.pipelines import images, labelled, source
from fourmill.pipelines.engine.calls import Calls
from fourmill.pipelines.engine.job import Care
from fourmill.pipelines.reject import Reject
from fourmill.pipelines.specialists.dense.depth import Depth
from fourmill.pipelines.specialists.dense.normals import Normals
from fourmill.pipelines.specialists.dense.segmentation import Panoptic
from fourmill.pipelines.worker.isolate import Ward
from fourmill.pipelines.worker.label import checked
from fourmill.pipelines.worker.watch import Watch
from fourmill.project import Project
from fourmill.recipe import RecipeError
from fourmill.tokenize import codecs
from fourmill.tokenize.crops import crops


@pytest.fixture(scope="module")
def reasons(guide: Callable[[str], Any]) -> set[str]:
    """The reasons that the tables quote, but for those of commands and of missing shards."""
    text = guide("bad-input").text.partition("## Recipes and commands")[0]
    cells = [row.split(" | ")[1] for row in re.findall(r"^\| (.* \| .*) \|$", text, re.MULTILINE)]
    quoted = [reason for cell in cells for reason in re.findall(r"`([^`]+)`", cell)]
    found = {reason for reason in quoted if re.match(r"[\w ]+: ", reason)}
    return {reason_class(r) for r in found if not r.startswith(("its worker", "shard URL", "there is no shard"))}


def _link() -> bytes:
    """A tar of a link, a pipe, names that lead outside or are not UTF-8, and an image of two kinds."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", encoding="utf-8", errors="surrogateescape") as archive:
        kinds = {"link": tarfile.SYMTYPE, "pipe": tarfile.FIFOTYPE, "hole": tarfile.GNUTYPE_SPARSE}
        for name, kind in kinds.items():
            info = tarfile.TarInfo(f"{name}.jpg")
            info.type = kind
            archive.addfile(info)
        for name in ("../up.jpg", "\udcff.jpg", "two.jpg", "two.png"):
            archive.addfile(tarfile.TarInfo(name), io.BytesIO())
    return buffer.getvalue()


def _tars(folder: Path) -> Iterator[str]:
    good = data.tar(data.good_entries(0, 2))
    damaged = bytearray(good)
    damaged[tarfile.BLOCKSIZE * 2 :: 7] = b"\xff" * len(damaged[tarfile.BLOCKSIZE * 2 :: 7])
    packed = gzip.compress(good)
    contents = {
        "link": _link(),
        "damaged": bytes(damaged),
        "joined": good + good,
        "packed": packed[: len(packed) // 2],
        "sidecars": data.tar([
            ("half.json", b'{"caption": "\\ud800"}'), ("list.json", b"[1]"), ("large.json", b" " * 400),
            ("long.txt", b"x" * 300), ("wide.jpg", b"x" * 500), ("long.md", b"1"),
            ("caf\u00e9.txt", b""), ("cafe\u0301.txt", b""),
        ]),
    }  # fmt: skip
    for name, content in contents.items():
        (folder / f"{name}.tar").write_bytes(content)
        yield str(folder / f"{name}.tar")


def _of_tars(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """Reasons of tars, captions, sidecars and sizes, with limits that a test can reach."""
    for limit, size in (("_MAX_IMAGE_BYTES", 400), ("MAX_CAPTION_BYTES", 200), ("_MAX_JSON_BYTES", 300)):
        monkeypatch.setattr(source, limit, size)
    for url in _tars(folder):
        with source.open_shard(url, folder) as shard:
            for sample in shard.samples:
                for read in (shard.caption, shard.image):
                    try:
                        read(sample)
                    except Reject as reject:
                        yield reject.reason
            yield from (reason for _, reason in shard.problems(()))


def _of_images() -> Iterator[str]:
    whole = {kind: data.encode(data.picture(0, 128, 128), kind) for kind in ("PNG", "JPEG", "WEBP")}
    cut = {kind: content[: len(content) // 2] for kind, content in whole.items()}
    for damaged in (
        cut["PNG"] + bytes(len(cut["PNG"])), half_png(), cut["JPEG"] + whole["JPEG"][-100:],
        cut["WEBP"] + bytes(len(whole["WEBP"]) - len(cut["WEBP"])),
    ):  # fmt: skip
        with pytest.raises(Reject) as caught:
            images.decode(damaged, 10**9)
        yield caught.value.reason
    for image, limit in ((Image.new("1", (70_000, 1)), 10**9), (Image.new("1", (20_000, 18_000)), 10**9)):
        with pytest.raises(Reject) as caught:
            images.decode(data.encode(image, "PNG"), limit)
        yield caught.value.reason


def _of_labels(folder: Path) -> Iterator[str]:
    """Reasons of a specialist that misbehaves, of its column, and of labels that no array may be."""
    shards = data.good_shards(folder / "s", 1, 8)
    odd = {"det": {"specialist": "fourmill_tests.specialists:Odd"}}
    recipe = data.recipe(
        folder / "out", shards, modalities=["det", "caption"], labels__keep=["det"], labels__specialists=odd,
        generate__chains=[],
    )  # fmt: skip
    records = data.make(recipe, data.outputs(recipe, tokens=False))
    data.fit(recipe)
    records += data.make(recipe, data.outputs(recipe, labels=False), stored=["det"])
    yield from (reject["reason"] for record in records for reject in record.rejects)
    odd_pictures = (np.zeros((0, 3), np.uint8), np.zeros((4, 4), np.float32), np.zeros((2, 2), np.uint8))
    for label, value in (*(("canny_edge", value) for value in odd_pictures), ("depth", np.array([np.nan], np.float16))):
        yield checked(label, value, np.zeros((4, 4, 3), np.uint8)).reason
    spec = next(spec for spec in recipe.specs() if spec.name == "det")
    boxes = codecs.load(spec, Project(recipe).codec_options(), recipe.root)
    sample = codecs.Labelled("0", [{"box": [0.1, 0.1, 0.9, 0.9], "score": 0.9}], crops(0, "0", 8, 8, 1), (8, 8))
    yield from (str(row) for row in boxes.encode([sample]) if isinstance(row, Exception))


def _of_networks(folder: Path) -> Iterator[str]:
    """Reasons of networks that broke: whatever they see, they say the same of every pixel."""
    answers = {
        "normals": (Normals(weights=str(dense.sapiens2(folder / "normals")), flip="yz"), 3),
        "predicted_depth": (Depth(weights=str(dense.depth_anything(folder / "depth"))), 1),
        "logits": (Panoptic(weights=str(dense.segformer(folder / "semseg"))), 133),
    }
    for name, (specialist, channels) in answers.items():
        specialist.setup("cpu")
        constant = torch.ones(1, channels, 8, 8).squeeze(1) if channels == 1 else torch.ones(1, channels, 8, 8)
        specialist._model = dense.Echo(specialist._model, lambda _, one={name: constant}: one)
        (label,) = specialist(dense.items((40, 50)))
        yield label.reason


def test_every_recorded_reason_is_in_the_tables(small_root: SmallRoot, reasons: set[str]) -> None:
    recorded = {reason_class(reject["reason"]) for record in small_root.records.values() for reject in record.rejects}
    assert len(recorded) >= 10
    assert recorded - reasons == set()


def test_every_reason_of_the_tables_is_given(
    small_root: SmallRoot, reasons: set[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    given = {reject["reason"] for record in small_root.records.values() for reject in record.rejects}
    given |= {*_of_tars(tmp_path, monkeypatch), *_of_images(), *_of_networks(tmp_path)}
    monkeypatch.undo()
    # Python says from 3.12 on which value it was.
    given |= {reason.removesuffix(": nan") for reason in _of_labels(tmp_path)}
    given.add(Ward().too_large("det", "a").reason)
    given |= set(Watch(Calls(), Care("", killers=((("det", "a"), 3),))).killers.values())
    assert len(reasons) >= 30
    assert reasons - {reason_class(reason) for reason in given} == set()


# One recipe for each sentence of the last table that the recipe alone can provoke.
MISTAKES: list[dict[str, Any]] = [
    {"train": {"steps": "many"}},
    {"train": {"stpes": 5}},
    {"tokenizers": {"text": {"vocab_size": 3000}}},
    {"train": {"name": "a/b"}},
    {"generate": {"chains": [{"inputs": "rgb", "to": [{"target": "tok_rgb", "temperature_schedule": "cosine"}]}]}},
    {"modalities": ["tok_rbg"]},
    {"modalities": ["tok_depth"], "labels": {"specialists": {"depth": {"weights": "./nowhere"}}}},
    {"modules": ["no_such_module"]},
    {"images": {"size": 65}},
    {"train": {"model": {"dim": 90, "heads": 9}}},
    {"train": {"mixtures": [{"input_alpha": 0}]}},
    {"train": {"mixtures": [{"target_alpha": {"rgb": 1, "caption": 1}}]}},
    {"train": {"mixtures": [{"keep": {"tok_canny_edge": "all"}}]}},
    {"train": {"min_lr": 1.0}},
    {"generate": {"chains": [{"inputs": "rgb", "to": [{"target": "caption", "scheme": "roar"}]}]}},
    {"generate": {"chains": [{"inputs": "rgb", "to": [{"target": "caption", "max_tokens": 300}]}]}},
    {"generate": {"chains": [{"inputs": "caption", "to": ["rgb"]}]}},
    {"generate": {"chains": [{"inputs": ["rgb", "caption"], "to": ["caption"]}]}},
    {"samples": "{folder}/*.tar"},
    {"samples": {"train": "a.tar", "val": "a.tar"}},
]


def _sentence(mistake: dict[str, Any], folder: Path) -> str:
    """What is said of a recipe that is right but for this."""
    settings = {"root": str(folder / "out"), "samples": "a.tar"} | mistake
    if settings["samples"] == "{folder}/*.tar":
        settings["samples"] = str(folder / "data" / "*.tar")
    with pytest.raises(RecipeError) as caught:
        Project(recipes.parse(settings, "recipe.yaml"))
    return str(caught.value).removeprefix("recipe.yaml: ")


def test_every_mistake_is_told_as_the_table_says(guide: Callable[[str], Any], tmp_path: Path) -> None:
    table = guide("bad-input").text.partition("## Recipes and commands")[2]
    quoted = re.findall(r"^\| .* \| `([^`]+)`.* \|$", table, re.MULTILINE)
    patterns = {quote: re.escape(quote).replace(r"\.\.\.", ".*") for quote in quoted}
    patterns = {q: p.replace("URL", ".*").replace(re.escape("data/*.tar"), ".*") for q, p in patterns.items()}
    said = [_sentence(mistake, tmp_path) for mistake in MISTAKES]
    for sentence in said:
        assert any(re.fullmatch(pattern, sentence) for pattern in patterns.values()), sentence
    unsaid = {q for q, p in patterns.items() if not any(re.fullmatch(p, sentence) for sentence in said)}
    elsewhere = ("there is no recipe at", "root: cannot write below")
    assert {quote for quote in unsaid if not quote.startswith(elsewhere)} == set()


def _refused(folder: Path) -> Iterator[Callable[[], object]]:
    """What the table of models and labelled images is about, one call for each row."""
    golden = Path(__file__).parents[1] / "golden" / "fm7_swiglu_nobias"
    for name in ("weights", "config", "other"):
        shutil.copytree(golden, folder / name)
    weights, config = (folder / name / file for name, file in (("weights", WEIGHTS), ("config", CONFIG)))
    weights.write_bytes(weights.read_bytes()[:5_000])
    config.write_text(config.read_text()[:50])
    other = folder / "other" / CONFIG
    other.write_text(other.read_text().replace('"dim": 16', '"dim": 32'))
    yield from (lambda name=name: ml4m.load(folder / name) for name in ("weights", "config", "other"))
    (folder / "a.tar").write_bytes(data.tar([("a.jpg", b"x" * 2_000), ("a.cls", b"1")])[:2_000])
    (folder / "a.csv").write_text("path,label\n0.png,dog\n1.png\n")
    (folder / "b.csv").write_bytes(b"path,label\n\xff.png,dog\n")
    yield from (lambda name=name: labelled.read(str(folder / name)) for name in ("a.tar", "a.csv", "b.csv"))
    model, device = ml4m.load(golden), torch.device("cpu")
    patches = np.zeros((1, 196, 768))
    for given in (
        {"rgb": patches.astype(int)}, {"rgb": np.zeros((1, 3, 200, 200))}, {"caption": ["a boat"]},
        {"rgb": patches, "rgb@224": patches},
    ):  # fmt: skip
        yield lambda given=given: Known.of(model.config, given, device, 1)


def test_models_and_images_are_refused_as_the_table_says(guide: Callable[[str], Any], tmp_path: Path) -> None:
    text = guide("bad-input").text.partition("## Models and labelled images")[2].partition("\n## ")[0]
    quoted = re.findall(r"^\| .* \| `([^`]+)` \|$", text, re.MULTILINE)
    patterns = [re.escape(quote).replace(r"\.\.\.", ".*") for quote in quoted]
    calls = list(_refused(tmp_path))
    assert len(calls) == len(patterns)
    for call, pattern in zip(calls, patterns, strict=True):
        with pytest.raises(ValueError) as caught:
            call()
        assert re.fullmatch(pattern, str(caught.value))
