"""The evaluation table of a root whose truth is known: its values, its answers, and what happens when it is killed."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from fourmill_tests.s3 import S3
from fourmill_tests.tiny import truth

from fourmill.infra import ledger, storage
from fourmill.project import Project
from fourmill.recipe import Recipe, RecipeError
from fourmill.tokenize import store, tokenizer
from fourmill.train.downstream.evaluation import made, table_files
from fourmill.train.downstream.evaluation.evaluate import Evaluation
from fourmill.train.downstream.evaluation.table_files import Measured, Table

Known = tuple[Path, Recipe]


@pytest.fixture(scope="module")
def root(known_root: Known, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy that the tests of this module evaluate in."""
    folder = tmp_path_factory.mktemp("table")
    truth.copy(known_root, folder)
    return folder


@pytest.fixture(scope="module")
def table(root: Path) -> Table:
    return Evaluation(Project(truth.recipe(str(root))).evaluate_job).table()


def column(table: Table, label: str) -> Measured:
    (found,) = [one for one in table.columns if one.label == label]
    return found


def test_every_label_with_a_protocol_has_a_column(table: Table) -> None:
    labels = [one.label for one in table.columns]
    assert labels == ["normal", "depth", "semseg", "sam_instance", "det", "caption", "dinov2_global"]
    assert all(one.truth and one.samples == truth.COUNT for one in table.columns)
    rows = {"constant", "another", "step", "chain", "ensemble", "labels", "bound"}
    for one in table.columns:
        assert set(one.cells) == rows - ({"labels"} if one.label == "dinov2_global" else set()), one.label
        assert all(set(cell) == set(one.measures) for cell in one.cells.values())


def test_what_the_model_knows_it_has_from_its_input(table: Table) -> None:
    for label in ("depth", "semseg", "det", "caption", "dinov2_global"):
        one = column(table, label)
        step, another = (one.cells[row][one.measures[0]].value for row in ("step", "another"))
        assert step < another if table_files.SHOWN[one.measures[0]].better == "lower" else step > another, label


def test_labels_that_come_with_the_data_are_the_truth(table: Table) -> None:
    """Stored on one way and read on another: what is left is the rounding of labels and the two ways of resizing."""
    for label in ("semseg", "det", "caption", "sam_instance"):
        one = column(table, label)
        assert one.cells["labels"][one.measures[0]].value == pytest.approx(1, abs=1e-9), label
    assert column(table, "normal").cells["labels"]["mean_degrees"].value < 1
    assert column(table, "depth").cells["labels"]["l1"].value < 0.15


def test_text_loses_nothing_in_its_tokens(table: Table) -> None:
    for label in ("det", "caption", "sam_instance"):
        assert column(table, label).cells["bound"][column(table, label).measures[0]].value == pytest.approx(1)


def answers(folder: str) -> tuple[list[str], np.ndarray]:
    """Keys and ids of the answers in a folder, as a script of one's own would read them."""
    (path,) = sorted(Path(folder).glob("00-*.parquet"))
    of = store.read(str(path))
    return of.keys.to_pylist(), of.values[:, 0]


def decoded(root: Path, folder: str, name: str, side: int = 4) -> tuple[list[str], torch.Tensor]:
    keys, ids = answers(folder)
    model = tokenizer.load(root / "out/tokenizers" / name).eval()
    with torch.inference_mode():
        return keys, model.decode(torch.from_numpy(ids.astype(np.int64)).view(-1, side, side))


def middle(values: np.ndarray) -> np.ndarray:
    """The crop of a scene of 40 x 48, at 32 x 32, by nearest pixels."""
    places = np.floor((np.arange(32) + 0.5) * 40 / 32).astype(int)
    return values[:, 4:44][places][:, places]


def test_depth_follows_from_the_answers_and_the_scenes(table: Table, root: Path) -> None:
    one = column(table, "depth")
    keys, recon = decoded(root, one.answers["step"], "tok_depth")
    errors = []
    for key, found in zip(keys, recon[:, 0].double().numpy(), strict=True):
        number = int(key.removeprefix("val/"))
        distance = middle(truth.scene(number)["depth"]).astype(np.float64)
        there = distance > 0
        a, b = found[there], distance[there]
        a, b = ((x - np.median(x)) / np.abs(x - np.median(x)).mean() for x in (a, b))
        errors.append(np.abs(a - b).mean())
    assert one.cells["step"]["l1"].value == pytest.approx(np.mean(errors), rel=1e-5)


def test_classes_follow_from_the_answers_and_the_scenes(table: Table, root: Path) -> None:
    one = column(table, "semseg")
    keys, recon = decoded(root, one.answers["step"], "tok_semseg")
    found = recon.argmax(1).numpy() - 1  # class 0 of the tokenizer is none
    hits, union = np.zeros(3), np.zeros(3)
    for key, ids in zip(keys, found, strict=True):
        wanted = middle(truth.scene(int(key.removeprefix("val/")))["semseg"])
        for number in range(3):
            hits[number] += ((ids == number) & (wanted == number)).sum()
            union[number] += ((ids == number) | (wanted == number)).sum()
    assert one.cells["step"]["miou"].value == pytest.approx((hits / union).mean())


def test_another_samples_input_is_never_the_own(table: Table, root: Path) -> None:
    """Greedy answers of the chain of one step: what sample i is given as another's input is some j's own answer."""
    one = column(table, "caption")
    own, another = (
        [tuple(of.crop(i, 0)) for i in range(len(of))]
        for of in (store.read(str(next(Path(one.answers[row]).glob("00-*.parquet")))) for row in ("step", "another"))
    )
    assert sorted(own) == sorted(another)


def without_places(table: Table) -> list[Any]:
    return [(one.label, one.cells) for one in table.columns]


class Killed(BaseException):
    pass


def test_a_killed_evaluation_goes_on_where_it_stopped(
    table: Table, known_root: Known, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    job = Project(truth.copy(known_root, tmp_path)).evaluate_job
    put, calls, dies = made.storage.put, [0], [True]

    def dying(url: str, data: bytes, **more: Any) -> bool:
        calls[0] += url.endswith(".parquet")
        if dies[0] and calls[0] == 12:
            raise Killed
        return put(url, data, **more)

    monkeypatch.setattr(made.storage, "put", dying)
    with pytest.raises(Killed):
        Evaluation(job).table()
    kept = {path: path.stat().st_mtime_ns for path in (tmp_path / "out/runs").rglob("evaluation/**/*.parquet")}
    assert len(kept) == 11
    dies[0], calls[0] = False, 0
    again = Evaluation(job).table()
    assert without_places(again) == without_places(table)
    assert all(path.stat().st_mtime_ns == when for path, when in kept.items()), "answers are made once"
    # Boxes that were made before their probabilities were kept are made again, and are the same.
    for path in (tmp_path / "out/runs").rglob("evaluation/**/*.npy"):
        path.unlink()
    assert without_places(Evaluation(job).table()) == without_places(table)
    # With all answers there the model is not asked, and not even loaded.
    calls[0] = 0
    idle = Evaluation(job)
    assert without_places(idle.table()) == without_places(table) and calls[0] == 0
    assert "model" not in vars(idle)


def test_on_s3_the_table_is_the_same(table: Table, known_root: Known, s3: S3) -> None:
    bucket = s3.bucket("known")
    for path in known_root[0].rglob("*"):
        if path.is_file():
            storage.put(storage.join(bucket, str(path.relative_to(known_root[0]))), path.read_bytes())
    job = Project(truth.recipe(bucket)).evaluate_job
    there = Evaluation(job).table()
    assert without_places(there) == without_places(table)
    assert there.columns[0].answers["step"].startswith("s3://known/out/runs/")
    assert storage.list_names(there.columns[0].answers["step"]) == ["00-0000.parquet"]


def changed(root: Path, **evaluate: Any) -> Table:
    given = {"truth": truth.TRUTH, "ensemble": 1, "draws": 0, "training_samples": 8} | evaluate
    return Evaluation(Project(truth.recipe(str(root), evaluate=given)).evaluate_job).table()


def test_without_truth_the_stored_label_is_the_reference(root: Path) -> None:
    only = changed(root, truth={})
    assert [one.label for one in only.columns] == ["normal", "depth", "semseg", "sam_instance", "det", "caption"]
    for one in only.columns:
        assert not one.truth and "labels" not in one.cells and "ensemble" not in one.cells
    assert "**No truth, compared with pseudo-labels" in only.references and "depth" in only.references
    assert column(only, "det").cells["bound"]["ap"].value == pytest.approx(1)


def test_a_chain_may_be_given(root: Path, table: Table) -> None:
    chain = [{"target": "tok_normal", "steps": 2, "temperature": 0.0}, "tok_depth"]
    chained = changed(root, chain=chain)
    depth = column(chained, "depth")
    assert depth.answers["chain"] != column(table, "depth").answers["chain"]
    assert depth.answers["step"] == column(table, "depth").answers["step"]  # what does not change is not made again
    assert "chain" not in column(chained, "semseg").cells and "step" in column(chained, "semseg").cells
    assert "evaluate.chain does not generate tok_semseg." in chained.notes
    assert "chain" in column(chained, "sam_instance").cells  # is asked by itself


def test_what_is_left_out_is_said(root: Path, table: Table) -> None:
    assert table.notes == ["The label dinov2_global is not stored (labels.keep): its row is empty."]
    without = {name: member for name, member in truth.TRUTH.items() if name != "classes"} | {"depth": "gone.npy"}
    only = changed(root, truth=without)
    assert "depth" not in [one.label for one in only.columns]
    assert only.notes == [
        "No protocol measures tok_dinov2_global.", "kNN needs the classes of images, in evaluate.truth.classes.",
        "No sample has KEY.gone.npy: tok_depth has no column.",
    ]  # fmt: skip


def test_captions_may_be_the_input(root: Path) -> None:
    from_text = changed(root, inputs=["caption"])
    assert "caption" not in [one.label for one in from_text.columns] and from_text.inputs == ["caption"]


def test_files_say_what_was_measured(table: Table) -> None:
    files = table_files.files(table)
    assert table_files.parse(json.loads(files["evaluation.json"])) == table
    text = files["evaluation.md"].decode()
    assert "Compared with the truth: normal (KEY.normal.npy), depth (KEY.depth.npy)" in text
    assert "50 draws" in text and "## Retrieval" in text and column(table, "det").answers["chain"] in text
    said = table_files.said(column(table, "depth").cells["step"]["l1"])
    assert said in text and re.fullmatch(r"[\d.]+ \[[\d.]+, [\d.]+\]", said)
    assert "depth: delta 1, % (higher is better)" in text and "caption: F1 of objects with colours, %" in text
    assert text.count("\n") > 60 and files == table_files.files(table)


def test_retrieval_finds_images_by_what_was_learned(table: Table) -> None:
    by = {one.query: one.recall for one in table.retrieval}
    assert set(by) == {"rgb", "tok_depth", "tok_normal", "tok_semseg", "det", "caption", "sam_instance"}
    assert by["rgb"]["recall1"].value > 2 / truth.COUNT >= by["rgb"]["recall1"].low - 1
    assert all(one.among == truth.COUNT and 0 <= one.recall["recall5"].value <= 1 for one in table.retrieval)


@pytest.mark.parametrize(
    ("evaluate", "message"),
    [
        ({"truth": {"deepth": "depth.npy"}}, "evaluate.truth: there is no 'deepth'; did you mean 'depth'"),
        ({"inputs": ["tok_rgb"]}, "evaluate.inputs: tok_rgb is not among"),
        ({"chain": "caption", "inputs": "caption"}, "evaluate.chain: caption is given or generated already"),
        ({"chain": ["rgb", "tok_depth"]}, "evaluate.chain: rgb is input only"),
    ],
)
def test_a_recipe_that_cannot_be_evaluated_is_refused(evaluate: dict[str, Any], message: str) -> None:
    with pytest.raises(RecipeError, match=message):
        truth.recipe("nowhere", evaluate=evaluate)


@pytest.mark.parametrize(
    ("evaluate", "message"),
    [
        ({"truth": {"semseg": {"member": "semseg.png", "classes": ["sky", "cup", "book"]}}}, "has no class 'sky'"),
        ({"truth": {"depth": "scene.json"}}, "shard val, sample '0000', scene.json"),
        ({"truth": {"det": "scene.json"}}, "expected box"),
    ],
)
def test_truth_that_is_another_is_said(root: Path, evaluate: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        changed(root, **evaluate)


def test_there_must_be_something_to_give(known_root: Known, tmp_path: Path) -> None:
    recipe = truth.copy(known_root, tmp_path)
    for path in (tmp_path / "out/tokens/rgb").glob("val.parquet"):
        of = store.read(str(path))
        nothing = [None] * len(of)
        record = ledger.read(recipe.root, "tokens/rgb", path.stem)
        assert record is not None
        ledger.commit(recipe.root, record, store.encode_column(of.spec, of.keys.to_pylist(), nothing))
    with pytest.raises(ValueError, match="none of the validation samples has rgb"):
        Evaluation(Project(recipe).evaluate_job).table()


def test_what_takes_long_may_be_asked_of_fewer_samples(root: Path) -> None:
    few = truth.COUNT // 2
    both, whole, small = changed(root, subset=few, ensemble=2), changed(root), changed(root, samples=few, ensemble=2)
    assert both.samples == truth.COUNT and both.subset == few and whole.subset is None and small.subset is None
    for one in both.columns:
        alike = column(small, one.label)
        for row in ("chain", "ensemble"):
            assert one.answers[row] == alike.answers[row], "these samples, and no others"
            for name, value in one.cells[row].items():
                assert value.value == pytest.approx(alike.cells[row][name].value, nan_ok=True), (one.label, name)
        for row in ("another", "step"):
            assert one.answers[row] == column(whole, one.label).answers[row]
        assert (one.count("chain"), one.count("step")) == (few, truth.COUNT)
    files = table_files.files(both)
    text, lines = files["evaluation.md"].decode(), files["evaluation.csv"].decode().splitlines()
    assert f"| 4M, chained, first {few} |" in text and "| 4M, one step |" in text
    assert {line.split(",")[7] for line in lines if line.startswith(("chain,", "ensemble,"))} == {str(few)}
    assert {line.split(",")[7] for line in lines if line.startswith(("step,", "labels,"))} == {str(truth.COUNT)}
    # A table of before says nothing of it: its chains were of all samples.
    data = json.loads(files["evaluation.json"])
    assert table_files.parse(data).title("chain") == f"4M, chained, first {few}"
    del data["subset"]
    for one in data["columns"]:
        del one["chained"]
    assert table_files.parse(data).title("chain") == "4M, chained"
    settings = {"truth": truth.TRUTH, "draws": 0, "subset": few}
    assert Evaluation(Project(truth.recipe(str(root), evaluate=settings)).evaluate_job).likelihoods().samples == few
