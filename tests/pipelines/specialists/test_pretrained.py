"""Where weights come from: hub, folder, file; what is refused, what is shared, what a label depends on."""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from typing import Any, ClassVar

import pytest
import torch
from fourmill_tests.tiny import dense as tiny_dense
from pydantic import Field, ValidationError
from safetensors.torch import load_file, save_file

from fourmill.pipelines.specialists.dense.depth import Depth
from fourmill.pipelines.specialists.pretrained import Pretrained, batches, loaded
from fourmill.pipelines.specialists.weight_files import digest


class Probe(Pretrained):
    label: ClassVar[str] = "depth"
    task: ClassVar[str] = "monocular depth estimation"
    licence: ClassVar[str] = "MIT"
    unneeded: ClassVar[tuple[str, ...]] = (r"layers\.0\.residual_layer1\.",)

    weights: str = Field("org/default")


AUTO = "AutoModelForDepthEstimation"


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_dense.dpt(tmp_path_factory.mktemp("weights") / "dpt")


@pytest.fixture
def folder(built: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(built, tmp_path / "model"))


def _change(folder: Path, name: str | None = None, **tensors: torch.Tensor) -> None:
    file = folder / "model.safetensors"
    state = load_file(file) | tensors
    if name is not None:
        state = {key: value for key, value in state.items() if name not in key}
    save_file(state, file, {"format": "pt"})


def test_a_folder_loads_as_it_was_saved(folder: Path) -> None:
    model = Probe(weights=str(folder)).load(AUTO, "cpu")
    state = load_file(folder / "model.safetensors")
    assert not model.training
    assert all(torch.equal(model.state_dict()[name], tensor) for name, tensor in state.items())


def test_weights_are_absolute_for_workers_elsewhere(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(folder.parent)
    assert Probe(weights="model").weights == str(folder)
    monkeypatch.setenv("HOME", str(folder.parent))
    assert Probe(weights="~/model").weights == str(folder)
    assert not Probe(weights="org/name").is_local


@pytest.mark.parametrize("weights", ["no such folder", "/nowhere/at/all", "a/b/c", ""])
def test_what_is_neither_path_nor_hub_id_is_refused(weights: str) -> None:
    with pytest.raises(ValidationError, match="no hub id of the form org/name"):
        Probe(weights=weights)


@pytest.mark.parametrize(
    ("precision", "dtype"), [("auto", torch.float32), ("fp16", torch.float16), ("bf16", torch.bfloat16)]
)
def test_precision_is_that_of_the_loaded_weights(folder: Path, precision: Any, dtype: torch.dtype) -> None:
    probe = Probe(weights=str(folder), precision=precision)
    assert probe.load(AUTO, "cpu").dtype == probe.dtype("cpu") == dtype


def test_auto_precision_is_the_classes_own_on_a_gpu() -> None:
    assert Probe().dtype("cuda:0") == torch.bfloat16
    assert Probe(precision="fp32").dtype("cuda:0") == torch.float32


def test_float32_of_a_gpu_is_tf32_unless_the_recipe_says_fp32(folder: Path) -> None:
    """A recipe that says fp32 gets all of its digits; records tell the two apart."""

    class Exact(Probe):
        gpu_precision = "fp32"

    exact = Exact(weights=str(folder))
    assert exact.in_tf32("cuda:0") and exact.made_with("cuda:0")["precision"] == "tf32"
    assert not exact.in_tf32("cpu") and exact.made_with("cpu")["precision"] == "float32"
    assert not Exact(weights=str(folder), precision="fp32").in_tf32("cuda:0")
    assert not Probe(weights=str(folder)).in_tf32("cuda:0") and not Exact(
        weights=str(folder), precision="fp16"
    ).in_tf32("cuda:0")


def test_cut_weights_are_refused_before_and_at_loading(folder: Path) -> None:
    file = folder / "model.safetensors"
    file.write_bytes(file.read_bytes()[:-100])
    with pytest.raises(ValueError, match=r"depth: .*model\.safetensors is cut short or broken"):
        Probe(weights=str(folder)).setup_on_node()
    with pytest.raises(ValueError, match="cut short"):
        Probe(weights=str(folder)).load(AUTO, "cpu")
    file.write_bytes(b"<html>404</html>" * 100)
    with pytest.raises(ValueError, match="cut short or broken"):
        Probe(weights=str(folder)).setup_on_node()


def test_whole_weights_pass_the_check(folder: Path) -> None:
    Probe(weights=str(folder)).setup_on_node()


def test_lacking_tensors_are_refused_and_named(folder: Path) -> None:
    _change(folder, name="head.head.0.weight")
    with pytest.raises(ValueError, match=r"lack 1 tensors .* 'head\.head\.0\.weight' first"):
        Probe(weights=str(folder)).load(AUTO, "cpu")


def test_tensors_that_inference_never_reads_may_lack(folder: Path) -> None:
    _change(folder, name="fusion_stage.layers.0.residual_layer1")
    Probe(weights=str(folder)).load(AUTO, "cpu")


def test_tensors_of_another_shape_are_refused(folder: Path) -> None:
    _change(folder, **{"head.head.0.weight": torch.zeros(2, 8, 3, 3)})
    with pytest.raises(ValueError, match="no model for monocular depth estimation"):
        Probe(weights=str(folder)).load(AUTO, "cpu")


def test_a_folder_of_another_task_is_refused(folder: Path) -> None:
    with pytest.raises(ValueError, match=r"no model for monocular depth estimation .* AutoModelForObjectDetection"):
        Probe(weights=str(folder)).load("AutoModelForObjectDetection", "cpu")


def test_incomplete_folders_are_refused(folder: Path) -> None:
    (folder / "preprocessor_config.json").unlink()
    with pytest.raises(ValueError, match="has no AutoImageProcessor"):
        Probe(weights=str(folder)).processor()
    (folder / "config.json").unlink()
    with pytest.raises(ValueError, match="no model for monocular depth estimation"):
        Probe(weights=str(folder)).config()
    (folder / "model.safetensors").unlink()
    with pytest.raises(ValueError, match="holds no weights"):
        Probe(weights=str(folder)).setup_on_node()


def test_pickles_need_consent(folder: Path) -> None:
    state = load_file(folder / "model.safetensors")
    (folder / "model.safetensors").unlink()
    torch.save(state, folder / "pytorch_model.bin")
    for act in (Probe.setup_on_node, Probe.state_dict, lambda probe: probe.load(AUTO, "cpu")):
        with pytest.raises(ValueError, match=r"pytorch_model\.bin is a pickle.*allow_pickle: true"):
            act(Probe(weights=str(folder)))
    trusted = Probe(weights=str(folder), allow_pickle=True)
    trusted.setup_on_node()
    name = "head.head.0.weight"
    assert torch.equal(trusted.load(AUTO, "cpu").state_dict()[name], state[name])
    assert torch.equal(trusted.state_dict()[name], state[name])


class _Bomb:
    def __reduce__(self) -> Any:
        return os.system, ("touch exploded",)


def test_a_consented_pickle_runs_no_code(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    torch.save({"weight": _Bomb()}, tmp_path / "weights.pt")
    with pytest.raises(Exception, match=r"[Ww]eights.only"):
        Probe(weights=str(tmp_path / "weights.pt"), allow_pickle=True).state_dict()
    assert not (tmp_path / "exploded").exists()


def test_a_single_file_is_found_read_and_named(tmp_path: Path) -> None:
    tensors = {"a": torch.arange(3.0)}
    save_file(tensors, tmp_path / "one.safetensors")
    assert torch.equal(Probe(weights=str(tmp_path / "one.safetensors")).state_dict()["a"], tensors["a"])
    assert Probe(weights=str(tmp_path)).file("*.safetensors") == tmp_path / "one.safetensors"
    save_file(tensors, tmp_path / "two.safetensors")
    with pytest.raises(ValueError, match=r"has 2 files \*\.safetensors, expected one"):
        Probe(weights=str(tmp_path)).file("*.safetensors")


def _identity(path: Path, **options: Any) -> Any:
    return Probe(weights=str(path), **options).identity()


def test_identity_follows_the_bytes_and_not_the_place(folder: Path) -> None:
    before = _identity(folder)
    assert str(folder) not in str(before)
    moved = folder.rename(folder.with_name("elsewhere"))
    assert _identity(moved) == before
    assert _identity(moved, allow_pickle=True) == before
    assert _identity(moved, precision="bf16") != before
    (moved / ".cache").mkdir()
    (moved / ".cache" / "fetched.lock").write_text("today")
    assert _identity(moved) == before
    file = moved / "model.safetensors"
    data = bytearray(file.read_bytes())
    data[-1] ^= 1
    file.write_bytes(data)
    assert _identity(moved) != before


def test_digests_of_large_files_are_cached_until_they_change(tmp_path: Path) -> None:
    file = tmp_path / "large.bin"
    file.write_bytes(bytes(2**20 + 1))
    first = digest(file)
    assert digest(file) == first
    file.write_bytes(bytes(2**20) + b"\1")
    os.utime(file, ns=(0, file.stat().st_mtime_ns + 1))
    assert digest(file) != first


def test_identity_of_hub_weights_is_their_name_and_revision() -> None:
    assert Probe().identity() != Probe(revision="v2").identity()
    assert Probe().identity()["options"]["weights"] == "org/default"


def test_equal_weights_are_loaded_once(folder: Path) -> None:
    first = Probe(weights=str(folder)).load(AUTO, "cpu")
    assert Probe(weights=str(folder)).load(AUTO, "cpu") is first
    assert Probe(weights=str(folder), precision="bf16").load(AUTO, "cpu") is not first


def test_shared_objects_live_as_long_as_somebody_holds_them() -> None:
    class Thing:
        pass

    thing = loaded("key of this test", Thing)
    assert loaded("key of this test", Thing) is thing
    marker = id(thing)
    del thing
    made = []
    loaded("key of this test", lambda: made.append(marker) or Thing())
    assert made == [marker]


def test_only_equal_sizes_are_stacked_and_none_is_lost() -> None:
    sizes = [(2, 3), (3, 2), (2, 3), (2, 3), (3, 2)]
    tensors = [torch.full(size, float(i)) for i, size in enumerate(sizes)]
    seen = []
    for indices, stack in batches(tensors, 2):
        assert len(indices) == len(stack) <= 2
        assert all(torch.equal(stack[row], tensors[i]) for row, i in enumerate(indices))
        seen += indices
    assert sorted(seen) == list(range(5))
    assert list(batches([], 2)) == []


def test_memory_is_measured_for_local_weights(folder: Path) -> None:
    size = (folder / "model.safetensors").stat().st_size
    assert Probe(weights=str(folder)).resident_gb() == pytest.approx(size / 2**30 + 0.1)
    assert Probe().resident_gb() == Probe.memory_gb
    assert Probe(weights="another/model").resident_gb() == min(Probe.memory_gb, 2.0)


class Hub:
    """A hub that holds one folder, offline or not."""

    def __init__(self, folder: Path, cached: bool, error: Exception | None = None) -> None:
        self.folder, self.cached, self.error = folder, cached, error
        self.calls: list[dict[str, Any]] = []

    def __call__(self, repo: str, local_files_only: bool = False, **options: Any) -> str:
        from huggingface_hub.errors import LocalEntryNotFoundError

        self.calls.append({"repo": repo, "local": local_files_only, **options})
        if local_files_only and not self.cached:
            raise LocalEntryNotFoundError("not in the cache")
        if not local_files_only and self.error:
            raise self.error
        self.cached = True
        return str(self.folder)


def _hub(monkeypatch: pytest.MonkeyPatch, *arguments: Any) -> Hub:
    hub = Hub(*arguments)
    monkeypatch.setattr("huggingface_hub.snapshot_download", hub)
    return hub


def test_fetched_weights_need_no_network(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    hub = _hub(monkeypatch, folder, True, OSError("no network"))
    Probe().load(AUTO, "cpu")
    assert all(call["local"] for call in hub.calls)


def test_a_node_fetches_once_at_the_revision_and_no_pickles(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    hub = _hub(monkeypatch, folder, False)
    probe = Probe(revision="abc")
    probe.setup_on_node()
    probe.load(AUTO, "cpu")
    fetched = [call for call in hub.calls if not call["local"]]
    assert [call["revision"] for call in fetched] == ["abc"]
    assert not {"*.bin", "*.pt", "*.pth"} & set(fetched[0]["allow_patterns"])
    assert "*.bin" in Probe(allow_pickle=True).patterns()


def _http_error(kind: str) -> Exception:
    import httpx
    from huggingface_hub import errors

    response = httpx.Response(401, request=httpx.Request("GET", "https://hub"))
    error: Exception = getattr(errors, kind)("refused", response=response)
    return error


@pytest.mark.parametrize(
    ("kind", "advice"),
    [
        ("GatedRepoError", "accepted.*HF_TOKEN"),
        ("RepositoryNotFoundError", "no repository 'org/default'.*check `weights`"),
        ("HfHubHTTPError", r"cannot be fetched.*labels\.specialists\.depth\.weights"),
        ("OSError", "cannot be fetched.*local folder"),
    ],
)
def test_hub_errors_say_what_to_do(folder: Path, monkeypatch: pytest.MonkeyPatch, kind: str, advice: str) -> None:
    _hub(monkeypatch, folder, False, OSError("no network") if kind == "OSError" else _http_error(kind))
    with pytest.raises(ValueError, match=advice):
        Probe().setup_on_node()


def test_a_repository_of_pickles_only_says_how_to_consent(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "config.json").write_text("{}")
    _hub(monkeypatch, tmp_path, False)
    with pytest.raises(ValueError, match=r"holds no weights.*allow_pickle: true"):
        Probe().setup_on_node()


def test_one_file_of_a_folder_is_refused_if_config_counts(tmp_path: Path) -> None:
    folder = tiny_dense.depth_anything(tmp_path / "depth")
    specialist = Depth(weights=str(folder / "model.safetensors"))
    with pytest.raises(ValueError, match=r"is a file of a model's folder.*name the folder"):
        specialist.setup("cpu")
