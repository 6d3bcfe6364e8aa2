"""A run, opened: what it generates, with which options, and what it refuses."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import fsspec
import numpy as np
import pytest
from fourmill_tests.tiny import every
from PIL import Image

from fourmill.modalities import MODALITIES
from fourmill.model.generation.generate import Step, generate
from fourmill.model.published import ml4m
from fourmill.runs.run import Run, open_run
from fourmill.runs.targets import chain
from fourmill.train.downstream.settings import Generate

BLACK = np.zeros((120, 150, 3), np.uint8)


def test_every_target_is_generated_and_saved(run: Run, tmp_path: Path) -> None:
    targets = [name for name in run.targets]
    made = run.generate({"rgb": every.labels()["rgb"]}, targets, seed=1, steps=2)
    assert list(made[0]) == targets and made[0].key == "0000"
    page = Path(made.save(tmp_path / "out"))
    assert page == tmp_path / "out" / "index.html"
    suffixes = {name: {p.suffix for p in (tmp_path / "out" / "0000").glob(f"{name}.*")} for name in targets}
    assert suffixes["tok_rgb"] == suffixes["tok_semseg"] == suffixes["tok_canny_edge"] == {".png"}
    assert suffixes["tok_depth"] == suffixes["tok_normal"] == {".png", ".npy"}
    assert suffixes["tok_clip"] == suffixes["tok_dinov2_global"] == {".npy"}
    assert suffixes["caption"] == {".txt"}
    assert suffixes["det"] == suffixes["sam_instance"] == suffixes["metadata"] == {".json"}
    html = page.read_text()
    assert "cannot be drawn" not in html
    assert all(name in html for name in targets) and html.count("<figure") == len(targets) + 1
    with Image.open(tmp_path / "out" / "inputs" / "0000" / "rgb.png") as seen:
        assert seen.size == (every.SIZE, every.SIZE)


def test_tokens_are_those_that_generate_gives(run: Run) -> None:
    """The three lines of Python and the command are the public `generate` on encoded inputs."""
    made = run.generate({"caption": "a red boat"}, ["tok_depth:steps=3:temperature=0.5", "caption"][:1], seed=3)
    ids = run.coder.encode(*_sample({"caption": "a red boat"}))["caption"].tokens
    step = Step("tok_depth", "maskgit", steps=3, temperature=0.5)
    expected = generate(run.model, {"caption": [ids.tolist()]}, [step], seed=3, special=run.coder.special_ids())
    np.testing.assert_array_equal(made[0].tokens["tok_depth"], np.asarray(expected["tok_depth"])[0])


def _sample(values: dict[str, Any]) -> tuple[Any, dict[str, str]]:
    from fourmill.pipelines.given.listing import GivenSample, Source

    return GivenSample("0", {n: Source(n, v) for n, v in values.items()}), {name: name for name in values}


def test_variations_differ_and_the_first_is_the_one_of_one(run: Run) -> None:
    def tokens(**options: Any) -> list[np.ndarray]:
        made = run.generate({"caption": "two cats"}, "depth", seed=0, steps=2, **options)
        return [one.tokens["tok_depth"] for one in made]

    (one,), three = tokens(), tokens(variations=3)
    np.testing.assert_array_equal(three[0], one)
    assert len({row.tobytes() for row in three}) == 3
    np.testing.assert_array_equal(tokens(variations=3)[2], three[2])
    made = run.generate({"caption": "two cats"}, "depth", steps=2, variations=2)
    assert [(m.key, m.variation) for m in made] == [("0000", 0), ("0000", 1)]


def test_an_ensemble_averages_what_is_decoded(run: Run) -> None:
    one = run.generate({"rgb": BLACK}, "depth", seed=0, steps=2)[0]
    three = run.generate({"rgb": BLACK}, "depth", seed=0, steps=2, ensemble=3)[0]
    np.testing.assert_array_equal(one.tokens["tok_depth"], three.tokens["tok_depth"])
    assert not np.array_equal(one["tok_depth"], three["tok_depth"])


def test_a_folder_is_a_sample_for_each_file(run: Run, tmp_path: Path) -> None:
    (tmp_path / "photos").mkdir()
    for i, name in enumerate(("b", "a")):
        Image.fromarray(every.labels(i)["rgb"]).save(tmp_path / "photos" / f"{name}.png")
    made = run.generate({"rgb": str(tmp_path / "photos"), "caption": "a boat"}, "depth", steps=1, seed=0)
    assert [one.key for one in made] == ["a", "b"]
    made.save(tmp_path / "out")
    about = json.loads((tmp_path / "out" / "settings.json").read_text())
    assert [(s["folder"], s["key"], Path(s["given"]["rgb"]).name) for s in about["samples"]] == [
        ("0000", "a", "a.png"), ("0001", "b", "b.png"),
    ]  # fmt: skip
    alone = run.generate({"rgb": str(tmp_path / "photos" / "a.png"), "caption": "a boat"}, "depth", steps=1, seed=0)
    np.testing.assert_array_equal(alone[0].tokens["tok_depth"], made[0].tokens["tok_depth"])


def test_other_files_of_a_folder_are_named(run: Run, tmp_path: Path) -> None:
    folder("photos/b.png", "photos/a.png")(tmp_path)
    for name in ("readme.md", ".DS_Store"):
        (tmp_path / "photos" / name).write_text("words")
    found = run.encode({"rgb": str(tmp_path / "photos")})
    assert [sample.key for sample, _ in found] == ["a", "b"]
    assert found[0][1]["rgb"].notes[0] == "another file of the folder is not read (readme.md)"


def test_samples_may_be_a_list(run: Run) -> None:
    made = run.generate([{"rgb": BLACK}, {"rgb": BLACK + 255}], "caption:max_tokens=2")
    assert [one.key for one in made] == ["0000", "0001"]


def test_samples_may_lack_what_others_have(run: Run) -> None:
    """Each is generated as if it were alone."""
    given = [{"rgb": BLACK, "caption": "a boat"}, {"caption": "two cats"}, {"depth": every.labels()["depth"]}]
    made = run.generate(given, "normal:steps=2:temperature=0", seed=0)
    for one, inputs in zip(made, given, strict=True):
        alone = run.generate(inputs, "normal:steps=2:temperature=0", seed=0)[0]
        np.testing.assert_array_equal(one.tokens["tok_normal"], alone.tokens["tok_normal"])
        assert len(one.inputs) == len(inputs)


def test_nothing_is_a_condition_too(run: Run) -> None:
    made = run.generate({}, "tok_rgb:steps=1", variations=2)
    assert len(made) == 2 and made[0]["tok_rgb"].shape == (112, 112, 3) and not made[0].inputs


def steps_of(run: Run, to: Any, generate: Generate | None = None, **common: Any) -> list[dict[str, Any]]:
    steps = chain(run.model.config, to, ["rgb", "metadata"], generate or Generate(), common)
    return [step.model_dump(exclude_defaults=True) for step in steps]


def test_options_of_targets(run: Run) -> None:
    assert steps_of(run, "depth:steps=3:top_p=0.5, det") == [
        {"target": "tok_depth", "steps": 3, "top_p": 0.5}, {"target": "det"},
    ]  # fmt: skip
    assert steps_of(run, ["normal:temperature_schedule=onex:0.5:1:scheme=roar"]) == [
        {"target": "tok_normal", "temperature_schedule": "onex:0.5:1", "scheme": "roar"}
    ]
    assert steps_of(run, "depth:guidance.rgb=2:guidance.metadata=-1") == [
        {"target": "tok_depth", "guidance": {"rgb": 2.0, "metadata": -1.0}}
    ]
    assert steps_of(run, {"target": "rgb", "guidance": 2}) == [{"target": "tok_rgb", "guidance": 2.0}]
    assert steps_of(run, Step("tok_rgb", "roar", steps=2)) == [{"target": "tok_rgb", "scheme": "roar", "steps": 2}]
    # Flags are for those targets that have them, and what a target says itself comes first.
    assert steps_of(run, "depth,caption:temperature=0.1", steps=5, temperature=0.7, scheme="roar") == [
        {"target": "tok_depth", "steps": 5, "temperature": 0.7, "scheme": "roar"},
        {"target": "caption", "temperature": 0.1},
    ]


def test_defaults_are_those_of_the_recipes_chains(run: Run) -> None:
    assert steps_of(run, "depth,caption", run.settings) == [
        {"target": "tok_depth", "steps": 3, "temperature": 0.7}, {"target": "caption", "max_tokens": 8, "top_p": 0.9},
    ]  # fmt: skip
    assert steps_of(run, "depth:steps=2", run.settings, temperature=0.1) == [
        {"target": "tok_depth", "steps": 2, "temperature": 0.1}
    ]


@pytest.mark.parametrize(
    ("to", "message"),
    [
        ("tok_depht", "there is no modality 'tok_depht'; did you mean 'tok_depth'"),
        ("t5_caption", "t5_caption is input only and cannot be generated; the model predicts tok_rgb"),
        ("tok_rgb@448", "the model does not know tok_rgb@448; it predicts tok_rgb"),
        ("caption", "caption is given or generated already"),
        ("depth,tok_depth", "tok_depth is given or generated already"),
        ("depth:step=3", "step: no such field; did you mean 'steps'"),
        ("depth:steps=many", "steps: Input should be a valid integer"),
        ("depth:steps", "got 'steps'; expected option=value, such as depth:temperature=0.6"),
        ("depth:temperature=-1", "temperature: Input should be greater than or equal to 0"),
        ("det:scheme=maskgit", "det with the scheme maskgit; text is autoregressive"),
        ("depth:guidance.det=2", "guidance by det, which is neither given nor generated before; known are caption,"),
        ("", "say what to generate: --to some of tok_rgb"),
    ],
)  # fmt: skip
def test_targets_that_cannot_be_are_refused(run: Run, to: str, message: str) -> None:
    with pytest.raises(ValueError) as error:
        run.generate({"rgb": BLACK, "caption": "a boat"}, to)
    assert message in str(error.value) and "\n" not in str(error.value)


Make = Callable[[Path], Any]


def file(name: str, content: bytes | str = b"") -> Make:
    def make(folder: Path) -> str:
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content.encode() if isinstance(content, str) else content)
        return str(path)

    return make


def folder(*names: str) -> Make:
    def make(folder_: Path) -> str:
        for name in names:
            path = folder_ / name
            path.parent.mkdir(exist_ok=True)
            Image.fromarray(BLACK).save(path)
        return str((folder_ / names[0]).parent)

    return make


BOX = '{"class": "dog", "box": [0, 0, 0.5, 0.5]}'


@pytest.mark.parametrize(
    ("name", "given", "message"),
    [
        ("rgb", lambda _: "missing.jpg", "rgb: there is no file missing.jpg; check the path"),
        ("rgb", file("a.jpg", b"no picture"), "rgb (a.jpg): not a JPEG, PNG, WebP, GIF or BMP file; give a picture"),
        ("rgb", file("a.png"), "rgb (a.png): 0 bytes; give a picture that opens in a viewer"),
        ("rgb", lambda f: str(f / "*.png"), "rgb: no file fits"),
        ("rgb", lambda f: str(f), "has no file that ends in .jpg, .jpeg, .png"),
        ("rgb", lambda _: 7, "rgb: got int; expected a picture: a path, an array or a PIL image"),
        ("rbg", lambda _: BLACK, "there is no modality 'rbg'; did you mean 'rgb'"),
        ("tok_rgb@448", lambda _: BLACK, "the model does not know tok_rgb@448; it reads rgb"),
        ("caption", lambda _: "boat " * 300, "caption: it is 301 tokens, and the model reads at most 256; shorten it"),
        ("caption", lambda _: "  ", "caption: there is no word in it"),
        ("caption", file("a.txt", b"\xff\xfe\xff"), "caption: byte 0 of"),
        ("caption", lambda _: 3, "caption: got 3; expected a text, or a .txt file"),
        ("caption", file("a.md", "a boat"), "is a file; words are read from .txt files"),
        ("caption", file("a.json", "[1]"), "caption (a.json): got [1]; expected a text"),
        ("det", file("a.json", "{"), "is no JSON (Expecting"),
        ("det", file("a.json", "7"), "det (a.json): got 7; expected a list"),
        ("det", file("a.json", '{"boxs": []}'), 'expected {"class": "dog", "box": [x0, y0, x1, y1]}'),
        ("det", lambda _: [{"class": "dgo", "box": [0, 0, 1, 1]}], "box 1: the vocabulary has no class 'dgo'; did you"),
        ("det", lambda _: [{"class": "qqq", "box": [0, 0, 1, 1]}], "no class 'qqq'; expected one of its 80, person"),
        ("det", lambda _: [{"class": "dog", "box": [0, 0, 200, 50]}], "leaves the picture of 150 x 120 px"),
        ("det", lambda _: [{"class": "dog", "box": [-0.1, 0, 0.5, 1]}], "leaves the picture; give coordinates in it"),
        ("det", lambda _: [{"class": "dog", "box": [0.1, 0.1, 1.2, 0.9]}], "less than a pixel; give shares of 0 to 1"),
        ("det", lambda _: [{"class": "dog", "box": [9, 9, 1, 1]}], "expected x0 below x1 and y0 below y1"),
        ("det", lambda _: [{"class": "dog", "box": [1, 2, 3]}], "box 1: got [1, 2, 3]; expected 4 numbers"),
        ("det", lambda _: [{"class": "dog", "box": "abcd"}], 'box 1: got "abcd"; expected 4 numbers'),
        ("det", lambda _: ["dog"], 'box 1: got "dog"; expected {"class": "dog", "box"'),
        ("det", lambda _: json.loads(f"[{BOX}]") * 60, "det: it is 301 tokens, and the model reads at most 256"),
        ("sam_instance", lambda _: [{"polygon": [[0, 0], [1, 1]]}], "a polygon has 3 or more corners x, y; got 4 num"),
        ("sam_instance", lambda _: [{"shape": 1}], 'instance 1: got {"shape": 1}; expected {"polygon": [[x, y]'),
        ("sam_instance", lambda _: [{"mask": {"size": [2, 2], "counts": "!!"}}], "instance 1: mask: got"),
        ("sam_instance", lambda _: every.labels()["rgb"], "colours besides black; expected one for each instance"),
        ("human_poses", lambda _: [{"box": [0, 0, 1, 1]}], "person 1: it lacks global_orient, body_pose, camera; exp"),
        ("human_poses", lambda _: [7], "person 1: got 7; expected SMPL's numbers"),
        ("color_palette", lambda _: "#zz0000", "got the colour '#zz0000'; expected #rrggbb, a name such as red"),
        ("color_palette", lambda _: [[300, 0, 0]], "got the colour [300, 0, 0]; expected whole numbers"),
        ("color_palette", lambda _: ",".join(["red"] * 8), "got 8 colours; expected 1 to 7"),
        ("metadata", lambda _: "brightnes=3", "there is no metadata 'brightnes'; did you mean 'brightness'"),
        ("metadata", lambda _: "brightness", "got 'brightness'; expected name=value, such as brightness=120"),
        ("metadata", lambda _: "brightness=high", 'brightness: got "high"; expected a number: mean grey'),
        ("canny_edge", lambda _: np.full((120, 150), 255, np.uint8), "canny_edge: the drawing is white all over"),
        ("canny_edge", lambda _: BLACK[:50], "canny_edge: it is 150 x 50 px, and the sample's picture is 150 x 120 px"),
        ("semseg", lambda _: np.full((120, 150), 200, np.uint8), "semseg: got the classes 200; expected 0 to 132"),
        ("semseg", lambda _: every.labels()["rgb"], "of the pixels have colours of no class"),
        ("depth", lambda _: np.zeros((3, 4, 5)), "depth: got an array of shape (3, 4, 5); expected (H, W), 0 nearest"),
        ("depth", lambda _: np.full((120, 150), np.nan), "depth: the array holds NaN or infinite numbers"),
        ("depth", file("a.npy", b"x"), "a.npy is no .npy file of numbers"),
        ("normal", lambda _: np.zeros((120, 150, 3)), "normal: got vectors of length 0; expected unit vectors"),
        ("normal", lambda _: BLACK[..., 0], "normal: got an array of shape (120, 150); expected (H, W, 3)"),
        ("clip", file("a.png", b""), "clip (a.png): features are no picture; give a .npy of shape (h, w, C)"),
        ("clip", lambda _: np.zeros((8, 10, 5)), "clip: tok_clip of "),
        ("dinov2_global", lambda _: np.zeros((2, 5)), "got an array of shape (2, 5); expected a .npy of shape (D,)"),
        ("t5_caption", lambda _: np.zeros((2, 5)), "t5_caption: got vectors (2, 5), expected (n, 16)"),
    ],
)  # fmt: skip
def test_inputs_that_cannot_be_are_refused(run: Run, tmp_path: Path, name: str, given: Make, message: str) -> None:
    """One sentence each, which names the input, and no traceback."""
    picture = {} if name.endswith("rgb") or "@" in name or name == "rbg" else {"rgb": BLACK}
    with pytest.raises(ValueError) as error:
        run.encode({name: given(tmp_path)} | picture)
    assert message in str(error.value), error.value
    assert "\n" not in str(error.value)


def test_pixels_without_a_picture_are_refused(run: Run) -> None:
    with pytest.raises(ValueError, match=r"pixels of a picture whose size is not known; give rgb, too, or shares"):
        run.encode({"det": [{"class": "dog", "box": [10, 10, 50, 50]}]})


def test_colours_are_no_depth(run: Run, tmp_path: Path) -> None:
    Image.fromarray(every.labels()["rgb"]).save(tmp_path / "a.png")
    with pytest.raises(ValueError, match=r"depth \(a.png\): the picture has colours; give a grey one"):
        run.encode({"depth": str(tmp_path / "a.png")})


def test_folders_of_unlike_sizes_are_refused(run: Run, tmp_path: Path) -> None:
    two, three = folder("a/x.png", "a/y.png")(tmp_path), folder("b/x.png", "b/y.png", "b/z.png")(tmp_path)
    with pytest.raises(ValueError, match=r"rgb has 2 \(.*a\), canny_edge has 3 \(.*b\); give as many of each"):
        run.encode({"rgb": two, "canny_edge": three})
    other = folder("c/x.png", "c/w.png")(tmp_path)
    with pytest.raises(ValueError, match=r"has no file y for rgb, .*files of one sample have the same name"):
        run.encode({"rgb": two, "canny_edge": other})


def test_names_of_one_modality_twice_are_refused(run: Run) -> None:
    with pytest.raises(ValueError, match="depth and tok_depth are the same modality; give one of them"):
        run.encode({"depth": every.labels()["depth"], "tok_depth": every.labels()["depth"]})


def test_lines_of_a_text_are_samples(run: Run, tmp_path: Path) -> None:
    (tmp_path / "captions.txt").write_text("a red boat\n\ntwo cats\n")
    found = run.encode({"caption": str(tmp_path / "captions.txt")})
    assert [tokens["caption"].seen for _, tokens in found] == ["a red boat", "two cats"]
    (tmp_path / "texts").mkdir()
    for name in ("b", "a"):
        (tmp_path / "texts" / f"{name}.txt").write_text(f"{name} boat\non the sea")
    found = run.encode({"caption": f"{tmp_path}/texts/"})
    assert [(s.key, t["caption"].seen) for s, t in found] == [("a", "a boat on the sea"), ("b", "b boat on the sea")]


def test_results_never_replace_files_of_others(run: Run, tmp_path: Path) -> None:
    made = run.generate({"caption": "a boat"}, "depth,color_palette", steps=1)
    made.save(tmp_path / "out")
    assert (tmp_path / "out" / "0000" / "tok_depth.npy").exists()
    run.generate({"caption": "a boat"}, "color_palette").save(tmp_path / "out")  # an earlier generation may go
    assert not (tmp_path / "out" / "0000" / "tok_depth.npy").exists()
    (tmp_path / "out" / "0000" / "notes.txt").write_text("mine")
    with pytest.raises(
        ValueError, match=r"holds files that `fourmill generate` has not written there \(0000/notes.txt"
    ):
        made.save(tmp_path / "out")
    assert not (tmp_path / "out" / "0000" / "tok_depth.npy").exists()
    (tmp_path / "file").write_text("mine")
    with pytest.raises(ValueError, match="is a file; name a folder"):
        made.save(tmp_path / "file")


def test_tokenizers_of_another_fit_are_refused(every_run: Path, tmp_path: Path) -> None:
    shutil.copytree(every_run.parents[2], tmp_path / "out")
    config = tmp_path / "out" / "tokenizers" / "tok_depth" / "config.json"
    config.write_text(config.read_text().replace('"ema_decay": 0.99', '"ema_decay": 0.98'))
    assert "0.98" in config.read_text()
    run = open_run(tmp_path / "out" / "runs" / "4m")
    with pytest.raises(ValueError, match="tok_depth is another fit than the model was trained with"):
        run.generate({"rgb": BLACK}, "depth")
    assert run.generate({"rgb": BLACK}, "caption:max_tokens=1")


def test_places_of_a_model(every_run: Path, tmp_path: Path) -> None:
    """A run, its model, one of several runs, an exported model beside a root: the same tokens from each."""
    root = every_run.parents[2]

    def tokens(run: Run) -> np.ndarray:
        return run.generate({"rgb": every.labels()["rgb"]}, "depth:steps=1:temperature=0", seed=0)[0].tokens[
            "tok_depth"
        ]

    expected = tokens(open_run(every_run))
    for place in (every_run.parent, every_run / "model"):
        np.testing.assert_array_equal(tokens(open_run(place)), expected)
    shutil.copytree(every_run / "model", tmp_path / "copied")
    exported = open_run(tmp_path / "copied", root=root)
    assert exported.coder.options.image_size == every.SIZE and exported.origin.recipe is None
    np.testing.assert_array_equal(tokens(exported), expected)
    with pytest.raises(ValueError, match=r"tok_depth needs the tokenizer tok_depth, and no folder above .*--root ROOT"):
        tokens(open_run(tmp_path / "copied"))
    with pytest.raises(ValueError, match="there is no tokenizers/ in"):
        open_run(every_run, root=tmp_path)


def test_a_run_on_an_object_store(every_run: Path) -> None:
    """In the memory of fsspec: a run, its root and an input by URL."""
    memory = fsspec.filesystem("memory")
    memory.put(str(every_run.parents[2]), "/bucket/out", recursive=True)
    memory.pipe("/bucket/caption.txt", b"a red boat")
    run = open_run("memory://bucket/out/runs/4m")
    assert run.origin.root == "memory://bucket/out" and run.origin.fingerprints and run.origin.recipe
    made = run.generate({"caption": "memory://bucket/caption.txt"}, "depth:steps=1", seed=0)
    assert made[0].inputs["caption"].seen == "a red boat"
    for _ in range(2):
        assert made.save("memory://bucket/made") == "memory://bucket/made/index.html"
    assert memory.exists("/bucket/made/0000/tok_depth.npy")
    with pytest.raises(ValueError, match="holds files that"):
        made.save("memory://bucket/out")


def test_a_published_model_with_tokenizers(every_run: Path, tmp_path: Path) -> None:
    """Weights in apple/ml-4m's format, with a root whose tokenizers fit them."""
    run = open_run(every_run)
    ml4m.save(run.model, tmp_path / "published")
    published = open_run(tmp_path / "published", root=every_run.parents[2])
    assert "tok_depth@112" in published.targets
    made = published.generate({"rgb": BLACK}, "depth:steps=1", seed=0)
    expected = run.generate({"rgb": BLACK}, "depth:steps=1:temperature=1", seed=0)
    np.testing.assert_array_equal(made[0].tokens["tok_depth@112"], expected[0].tokens["tok_depth"])
    made.save(tmp_path / "out")
    assert (tmp_path / "out" / "0000" / "tok_depth@112.png").exists()


def test_labels_and_modalities_name_inputs(run: Run) -> None:
    """The label's name will do where it is unlike the modality's."""
    for name in every.NAMES:
        label = MODALITIES[name].label
        ((_, tokens),) = run.encode({label: every.labels()[label]})
        assert list(tokens) == [name] or label == "rgb"
