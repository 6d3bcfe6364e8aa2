"""What a recipe needs, looked at before anything is done: all that is wrong is named at once."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any, ClassVar, NamedTuple

import numpy as np
import pyarrow as pa
import pytest
from fourmill_tests import data
from fourmill_tests.s3 import S3
from fourmill_tests.tiny import hub as hubs
from fourmill_tests.tiny.hub import Hub, Model
from pyarrow import parquet
from safetensors.numpy import save_file

from fourmill.pipelines.specialists import pins
from fourmill.pipelines.specialists.base import Specialist
from fourmill.pipelines.specialists.dense.depth import Depth
from fourmill.recipe import Recipe
from fourmill.report.doctor import amounts, doctor
from fourmill.report.doctor.doctor import Report
from fourmill.report.doctor.finding import State
from fourmill.report.doctor.machine import Has

HERE = Has("here", 64.0)
SAFE = {"config.json": 300, "model.safetensors": 4_000_000}
PICKLE = {"config.json": 300, "pytorch_model.bin": 598_641_023}
MODALITIES = {
    "depth": "tok_depth", "normal": "tok_normal", "semseg": "tok_semseg", "clip": "tok_clip", "t5_caption": "t5_caption"
}  # fmt: skip
STATED = {"depth": {"predicts": "depth"}, "normal": {"flip": "yz"}}  # of models that nobody knows
TOKEN = "hf_" + "x" * 34


class Needy(Specialist):
    label: ClassVar[str] = "canny_edge"
    packages: ClassVar[dict[str, str]] = {"no_such_package": "fourmill[thing]"}


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    with hubs.alone(tmp_path, monkeypatch) as server:
        yield server


def recipe(folder: Path, weights: dict[str, Any], **changes: Any) -> Recipe:
    """A recipe whose labels have these weights: an id, a folder, or options."""
    options = {
        name: STATED.get(name, {}) | (one if isinstance(one, dict) else {"weights": str(one)})
        for name, one in weights.items()
    }
    plain = {
        "modalities": ["rgb", *(MODALITIES[name] for name in weights)], "labels__keep": [], "generate__chains": [],
        "labels__specialists": options, "images__size": 112,
    }  # fmt: skip
    return data.recipe(folder / "out", data.good_shards(folder / "s", 2, 4), **(plain | changes))


def examine(asked: Recipe, has: Has = HERE, seconds: float = 20.0) -> Report:
    return doctor.examine(asked, has, seconds=seconds)


def said(report: Report, *states: State) -> str:
    return "\n".join(f"{one.what}: {one.why}; {one.do}" for one in report.of(*(states or State)))


def test_what_is_there_is_good(tmp_path: Path, hub: Hub) -> None:
    hub.models["org/depth"] = Model(SAFE)
    report = examine(recipe(tmp_path, {"depth": "org/depth"}))
    assert report.is_good and not report.findings, said(report)
    (found,) = report.weights
    assert (found.state, found.format, found.size, found.licence) == (
        "can be fetched", "safetensors", 4_000_000, "apache-2.0"
    )  # fmt: skip
    assert found.revision == hubs.COMMIT and found.fetch == 4_000_300
    assert not (tmp_path / "out").exists() and {method for method, _ in hub.requests} == {"GET", "HEAD"}
    assert not any("storage" in path for _, path in hub.requests)  # behind the hub


def test_five_faults_are_named_at_once(tmp_path: Path, hub: Hub, s3: S3, monkeypatch: pytest.MonkeyPatch) -> None:
    hub.models |= {"org/pickle": Model(PICKLE), "org/nc": Model(SAFE, "cc-by-nc-4.0")}
    weights = {"depth": "org/missing", "normal": "org/pickle", "clip": "org/nc"}
    asked = recipe(tmp_path, weights).model_copy(update={"root": f"{s3.bucket('doctor')}/out"})

    class Usage(NamedTuple):
        free: int = 1_000

    monkeypatch.setattr(shutil, "disk_usage", lambda path: Usage())
    s3.refuses_writes = True
    try:
        report = examine(asked)
    finally:
        s3.refuses_writes = False
    assert len(report.of(State.WRONG)) == 4 and len(report.of(State.KNOW)) == 1, said(report)
    text = said(report)
    for part in (
        "labels.specialists.depth: org/missing: there is no repository",
        "labels.specialists.normal: org/pickle: holds only pickles (pytorch_model.bin, 599 MB)",
        "labels.specialists.clip: org/nc: is not for commercial use (cc-by-nc-4.0)",
        "1 kB are free, and a run needs about 4 MB",
        "cannot write below s3://doctor/out",
    ):
        assert part in text, text


def test_what_a_model_leaves_open_must_be_stated(tmp_path: Path, hub: Hub) -> None:
    hub.models |= {"org/depth": Model(SAFE), "org/normals": Model(SAFE)}
    stated = {"depth": {"weights": "org/depth", "predicts": "auto"}, "normal": {"weights": "org/normals", "flip": ""}}
    text = said(examine(recipe(tmp_path, stated)), State.WRONG)
    assert "labels.specialists.depth: " in text and "state labels.specialists.depth.predicts" in text
    assert "labels.specialists.normal: " in text and 'frame: "x right' in text


def test_several_faults_of_one_kind_are_all_named(tmp_path: Path, hub: Hub) -> None:
    report = examine(recipe(tmp_path, {"depth": "org/a", "normal": "org/b", "semseg": "nowhere/at/all"}))
    text = said(report, State.WRONG)
    assert "org/a" in text and "org/b" in text and "nowhere/at/all" in text, text


@pytest.mark.parametrize(
    ("token", "state", "part"),
    [
        ("", State.WRONG, "org/gated is gated; accept its terms at https://huggingface.co/org/gated and set HF_TOKEN"),
        ("hf_good", State.WRONG, "is gated, and the token may not read it; accept its terms"),
        ("hf_wrong", State.WRONG, "the hub does not accept the token"),
        ("hf_reader", None, ""),
    ],
)
def test_gated(
    tmp_path: Path, hub: Hub, monkeypatch: pytest.MonkeyPatch, token: str, state: State | None, part: str
) -> None:
    hub.models["org/gated"] = Model(SAFE, gated=True)
    if token:
        monkeypatch.setenv("HF_TOKEN", token)
    report = examine(recipe(tmp_path, {"depth": "org/gated"}))
    assert report.is_good == (state is None) and part in said(report), said(report)
    assert "hf_" not in said(report).replace("hf auth", "")


@pytest.mark.parametrize("said_so", ["", "Access to model org/gated is restricted. You must be authenticated."])
def test_a_gate_before_the_list_of_files(
    tmp_path: Path, hub: Hub, monkeypatch: pytest.MonkeyPatch, said_so: str
) -> None:
    hub.models["org/gated"] = Model(SAFE, gated=True, hides=True, message=said_so)
    asked = recipe(tmp_path, {"depth": "org/gated"})
    text = said(examine(asked), State.WRONG)
    assert "HF_TOKEN" in text and ("org/gated is gated" in text) == bool(said_so), text
    monkeypatch.setenv("HF_TOKEN", "hf_wrong")
    assert "the hub does not accept the token" in said(examine(asked), State.WRONG)
    monkeypatch.setenv("HF_TOKEN", "hf_reader")
    report = examine(asked)
    assert report.is_good and f"{hub.url} is asked with a token" in report.facts


def test_a_mirror_that_knows_no_sizes(tmp_path: Path, hub: Hub) -> None:
    hub.models["org/depth"] = Model(SAFE, sizes=False)
    hub.knows_blobs = False
    report = examine(recipe(tmp_path, {"depth": "org/depth"}))
    assert report.is_good and report.weights[0].size == 4_000_000, said(report)


def test_private_and_missing_repositories_ask_for_a_token(
    tmp_path: Path, hub: Hub, monkeypatch: pytest.MonkeyPatch
) -> None:
    hub.models["org/private"] = Model(SAFE, private=True)
    asked = recipe(tmp_path, {"depth": "org/private"})
    assert "set HF_TOKEN" in said(examine(asked), State.WRONG)
    monkeypatch.setenv("HF_TOKEN", "hf_good")
    assert "or the token may not see it" in said(examine(asked), State.WRONG)


def test_a_revision_that_does_not_exist(tmp_path: Path, hub: Hub) -> None:
    hub.models["org/depth"] = Model(SAFE, revisions=("main", "v1"))
    weights = {"depth": {"weights": "org/depth", "revision": "v2"}}
    assert "org/depth has no revision 'v2'" in said(examine(recipe(tmp_path, weights)), State.WRONG)
    weights["depth"]["revision"] = "v1"
    assert examine(recipe(tmp_path, weights)).is_good


def test_sizes_come_from_headers_where_the_list_has_none(tmp_path: Path, hub: Hub) -> None:
    parts = {f"model-0000{n}-of-00003.safetensors": 5_000_000 + n for n in (1, 2, 3)}
    hub.models["org/depth"] = Model({"config.json": 1, **parts}, sizes=False)
    (found,) = examine(recipe(tmp_path, {"depth": "org/depth"})).weights
    assert found.size == 15_000_006


@pytest.mark.parametrize(
    ("licence", "name", "remark"),
    [
        ("mit", "", ""),
        ("cc-by-nc-sa-4.0", "", "is not for commercial use (cc-by-nc-sa-4.0)"),
        ("other", "dinov3-license", "has terms of its own (other (dinov3-license))"),
        ("other", "", "has terms of its own (other)"),
        ("other", "research-only-rail-m", "is not for commercial use"),
        ("", "", "states no licence"),
        ("unknown", "", "states no licence"),
    ],
)
def test_licences(tmp_path: Path, hub: Hub, licence: str, name: str, remark: str) -> None:
    hub.models["org/depth"] = Model(SAFE, licence, name)
    report = examine(recipe(tmp_path, {"depth": "org/depth"}))
    assert report.is_good and (remark in said(report, State.KNOW) if remark else not report.findings)


def test_what_is_known_of_a_licence_counts_where_none_is_stated(tmp_path: Path, hub: Hub) -> None:
    t5, tips, clip = "city96/t5-v1_1-xxl-encoder-bf16", "google/tipsv2-b14-dpt", "timm/vit_base_patch16_clip_224.openai"
    hub.models |= {t5: Model(SAFE, ""), tips: Model(SAFE, "mit"), clip: Model({"open_clip_model.safetensors": 9}, "")}
    report = examine(recipe(tmp_path, {"t5_caption": t5, "normal": tips, "clip": clip}))
    (found,) = report.findings
    assert found.what == f"labels.specialists.t5_caption: {t5}" and found.why == "states no licence"
    assert {one.need.weights: one.licence for one in report.weights}[clip] == "Apache-2.0"


def test_a_pickle_that_is_trusted_is_said(tmp_path: Path, hub: Hub) -> None:
    hub.models["org/pickle"] = Model(PICKLE)
    report = examine(recipe(tmp_path, {"depth": {"weights": "org/pickle", "allow_pickle": True}}))
    assert report.is_good and report.weights[0].format == "pickle" and "is a pickle" in said(report, State.KNOW)


@pytest.mark.parametrize("trouble", ["503", "429", "late"])
def test_what_gives_no_answer_is_said_and_waits_for_nothing(tmp_path: Path, hub: Hub, trouble: str) -> None:
    hub.models |= {"org/slow": Model(SAFE, trouble=trouble), "org/depth": Model(SAFE)}
    report = examine(recipe(tmp_path, {"depth": "org/depth", "normal": "org/slow"}), seconds=2.0)
    (found,) = report.findings
    assert found.state is State.UNASKED and "org/slow" in found.what and not report.is_good
    assert [one.state for one in report.weights] == ["can be fetched", "not asked"]


def test_offline_says_what_it_could_not_ask(tmp_path: Path, hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    report = examine(recipe(tmp_path, {"depth": "org/a", "normal": "org/b"}))
    (found,) = report.findings
    assert found.state is State.UNASKED and "org/a" in found.what and "org/b" in found.what
    assert "HF_HUB_OFFLINE" in found.why and not hub.requests


def test_what_the_cache_holds_needs_no_hub(tmp_path: Path, hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    snapshot = tmp_path / "cache" / "models--org--depth" / "snapshots" / hubs.COMMIT
    folder(snapshot)
    refs = snapshot.parents[1] / "refs"
    refs.mkdir()
    (refs / "main").write_text(hubs.COMMIT)
    asked = recipe(tmp_path, {"depth": "org/depth"})
    hub.models["org/depth"] = Model(SAFE)
    for offline in ("", "1"):
        monkeypatch.setenv("HF_HUB_OFFLINE", offline)
        report = examine(asked)
        assert report.is_good and report.weights[0].state == "there" and report.weights[0].revision == hubs.COMMIT


# Folders of this machine.


def folder(path: Path, name: str = "model.safetensors") -> Path:
    path.mkdir(parents=True, exist_ok=True)
    (path / "config.json").write_text("{}")
    save_file({"a": np.zeros(300, np.float32)}, path / name)
    return path


def _pointer(path: Path) -> None:
    (path / "model.safetensors").write_text("version https://git-lfs.github.com/spec/v1\noid sha256:ab\nsize 12\n")


def _cut(path: Path) -> None:
    file = path / "model.safetensors"
    file.write_bytes(file.read_bytes()[:-5])


def _half(path: Path) -> None:
    (path / "model.safetensors").rename(path / "model-00001-of-00002.safetensors")


def _broken_off(path: Path) -> None:
    (path / ".cache" / "huggingface" / "download").mkdir(parents=True)
    (path / "model.safetensors").rename(path / ".cache" / "huggingface" / "download" / "x.incomplete")


def _indexed(path: Path) -> None:
    _half(path)
    parts = {"a": "model-00001-of-00002.safetensors", "b": "model-00002-of-00002.safetensors"}
    (path / "model.safetensors.index.json").write_text(f'{{"weight_map": {parts}}}'.replace("'", '"'))


def _emptied(path: Path) -> None:
    (path / "model.safetensors").unlink()


@pytest.mark.parametrize(
    ("spoil", "why"),
    [
        (_pointer, "is a pointer of Git LFS in place of the weights; run `git lfs pull`"),
        (_cut, "is cut short or broken"),
        (_half, "lacks 1 of 2 parts of its weights, model-00002-of-00002.safetensors first"),
        (_indexed, "lacks 1 of 2 parts of its weights, model-00002-of-00002.safetensors first"),
        (_broken_off, "is the rest of a download that broke off; fetch it again"),
        (_emptied, "holds no weights"),
    ],
)
def test_folders_that_are_not_whole(tmp_path: Path, hub: Hub, spoil: Any, why: str) -> None:
    spoil(place := folder(tmp_path / "weights"))
    report = examine(recipe(tmp_path, {"depth": place}))
    assert why in said(report, State.WRONG) and not report.is_good, said(report)
    assert not hub.requests


def test_a_whole_folder_with_its_card(tmp_path: Path, hub: Hub) -> None:
    place = folder(tmp_path / "weights")
    (place / "old.incomplete").write_bytes(b"")  # what a download left behind does no harm to whole weights
    assert examine(recipe(tmp_path, {"depth": place})).findings == []
    (place / "README.md").write_text("---\nlicense: cc-by-nc-4.0\n---\n# A model\n")
    report = examine(recipe(tmp_path, {"depth": place}))
    assert report.is_good and "cc-by-nc-4.0" in said(report, State.KNOW)


# Data, disks and the machine.


def test_samples_that_cannot_be_read(tmp_path: Path, hub: Hub) -> None:
    asked = recipe(tmp_path, {})
    samples = asked.samples
    broken = tmp_path / "broken.tar"
    broken.write_bytes(b"<html>" * 200)
    for train, part in (
        (["/nowhere/*.tar"], "nothing found at '/nowhere/*.tar'"),
        ([*samples.train, str(tmp_path / "lost.tar")], "1 of 3 shards are not there"),
        ([str(broken)], "it is no tar"),
        (["s3x://bucket/a.tar"], "fsspec knows no storage s3x://"),
    ):
        update = {"samples": samples.model_copy(update={"train": train})}
        assert part in said(examine(asked.model_copy(update=update)), State.WRONG)


def test_a_bucket_that_is_not_there_and_one_without_access(tmp_path: Path, hub: Hub, s3: S3) -> None:
    asked = recipe(tmp_path, {})
    samples = asked.samples.model_copy(update={"train": ["s3://no-such-bucket/{00000..00003}.tar"]})
    assert "samples.train" in said(examine(asked.model_copy(update={"samples": samples})), State.WRONG)
    s3.refuses = True
    try:
        text = said(examine(asked.model_copy(update={"samples": samples, "root": "s3://doctor/x"})), State.WRONG)
    finally:
        s3.refuses = False
    assert "samples.train" in text and "root: cannot write below s3://doctor/x" in text and "credentials" in text


def test_a_root_that_is_a_file_or_that_nobody_may_write(tmp_path: Path, hub: Hub) -> None:
    asked = recipe(tmp_path, {})
    (tmp_path / "file").write_text("")
    for place in (tmp_path / "file", tmp_path / "file" / "below", Path("/proc/nothing")):
        assert "root: " in said(examine(asked.model_copy(update={"root": str(place)})), State.WRONG), place


def test_memory_gpus_and_packages(tmp_path: Path, hub: Hub) -> None:
    large = {"config.json": 1, "model.safetensors": 9 * 2**30}
    hub.models |= {"org/a": Model(large), "org/b": Model(large)}
    asked = recipe(
        tmp_path, {"depth": "org/a", "normal": "org/b"}, train__gpus=2, train__trackers=["wandb"],
        labels__keep=["canny_edge"],
    )  # fmt: skip
    asked.labels.specialists["canny_edge"] = {"specialist": f"{__name__}:Needy"}
    text = said(examine(asked, Has("a laptop", 10.0)), State.WRONG)
    assert "a laptop holds 7.0 GiB; alone too large: depth 9.1 GiB, normal 9.1 GiB" in text
    assert "train.gpus 2 (with their workers) are asked for, and a laptop has 0" in text
    assert "labels.specialists.canny_edge: the package no_such_package is not installed" in text
    assert "pip install 'fourmill[thing]'" in text
    text = said(examine(asked, Has("a server", 500.0, 1, 12.0)), State.WRONG)
    assert "a GPU of a server holds 12.0" in text and "label in several runs" in text
    assert not any(one.what in ("memory", "GPUs") for one in examine(asked, Has("a server", 500.0, 2, 80.0)).findings)


def test_the_same_weights_are_asked_for_once(tmp_path: Path, hub: Hub) -> None:
    hub.models["org/dino"] = Model(SAFE)
    both = {name: {"weights": "org/dino"} for name in ("dinov2", "dinov2_global")}
    asked = recipe(tmp_path, {}, modalities=["rgb", "tok_dinov2", "tok_dinov2_global"], labels__specialists=both)
    (found,) = examine(asked).weights
    assert found.need.where == "labels.specialists.dinov2, labels.specialists.dinov2_global"
    assert len(hub.requests) == 2


def test_tokenizers_and_initial_weights_are_looked_at(tmp_path: Path, hub: Hub) -> None:
    hub.models["org/tokenizer"] = Model(SAFE, "other")
    each = {"tok_rgb": {"weights": "org/tokenizer"}}
    asked = recipe(tmp_path, {}, modalities=["rgb", "tok_rgb"], tokenizers__each=each, train__init="org/lost")
    report = examine(asked)
    assert {one.need.where: one.state for one in report.weights} == {
        "tokenizers.each.tok_rgb": "can be fetched",
        "train.init": "missing",
    }
    for init, part in (
        ("runs/a/model", "there is no such file or folder"),
        (str(tmp_path / "empty"), "holds no weights"),
    ):
        (tmp_path / "empty").mkdir(exist_ok=True)
        text = said(examine(recipe(tmp_path, {}, train__init=init)), State.WRONG)
        assert f"train.init: {Path(init).resolve()}: " in text and part in text and "allow_pickle" not in text, text


@pytest.mark.parametrize("place", ["org/words", "spaces/org/words"])
def test_text_tokenizers_are_json(tmp_path: Path, hub: Hub, place: str) -> None:
    words = {"weights": place}
    asked = recipe(tmp_path, {}, modalities=["rgb", "caption"], tokenizers__text=words)
    assert "there is no repository org/words" in said(examine(asked), State.WRONG)
    hub.models[place] = Model({"README.md": 9, "app.py": 9})
    assert "holds no weights (expected tokenizer.json or" in said(examine(asked), State.WRONG)
    hub.models[place] = Model({"text_tokenizer_4m.json": 700_000, "app.py": 9})
    report = examine(asked)
    (found,) = report.weights
    assert report.is_good and (found.format, found.size) == ("JSON", 700_000), said(report)
    file = tmp_path / "words.json"
    file.write_text("{}")
    report = examine(recipe(tmp_path, {}, modalities=["caption"], tokenizers__text={"weights": str(file)}))
    assert report.is_good and report.weights[0].state == "there", said(report)


def test_a_root_that_has_pinned_a_commit_is_asked_for_it(tmp_path: Path, hub: Hub) -> None:
    hub.models["org/depth"] = Model(SAFE)
    asked = recipe(tmp_path, {"depth": "org/depth"})
    pins.keep(asked.root, [Depth(weights="org/depth")], {})
    hub.models["org/depth"] = Model(SAFE, commit="beef" + "0" * 36, revisions=("main", hubs.COMMIT))
    (found,) = examine(asked).weights
    assert found.revision == hubs.COMMIT


def test_the_first_shard_may_be_parquet(tmp_path: Path) -> None:
    parquet.write_table(pa.table({"x": list(range(10))}), tmp_path / "rows.parquet")
    data = (tmp_path / "rows.parquet").read_bytes()
    assert amounts.look(str(tmp_path / "rows.parquet")).bytes == len(data) / 10
    (tmp_path / "cut.parquet").write_bytes(data[:-9])
    with pytest.raises(ValueError, match="not Parquet that can be read"):
        amounts.look(str(tmp_path / "cut.parquet"))
