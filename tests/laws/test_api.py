"""The public API: its names, its signatures, that importing it is light, and that its examples run."""

from __future__ import annotations

import doctest
import inspect
import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from fourmill_tests import roots

import fourmill
from fourmill import modalities
from fourmill.runs.run import Run
from fourmill.tokenize.open_store import Store

# A change here breaks what others wrote: say so in CHANGELOG.md.
FUNCTIONS = {
    "declare": "(*entries: 'Label | Modality') -> 'None'",
    "generate": "(model: 'FourM', conditions: 'Mapping[str, Any]', chain: 'Sequence[Step]', *, seed: 'int', "
    "sample_ids: 'Sequence[int] | None' = None, special: 'SpecialIds' = SpecialIds(pad=0, unk=1, sos=2, eos=3, "
    "first_sentinel=4, num_sentinels=200), "
    "begun: 'Mapping[str, Sequence[Sequence[int]]] | None' = None) -> 'Generated'",
    "load_model": "(source: 'str | os.PathLike[str]', device: 'str' = 'cpu') -> 'FourM'",
    "load_recipe": "(path: 'str | Path', overrides: 'list[str] | None' = None) -> 'Recipe'",
    "load_tokenizer": "(folder_or_hub_id: 'str | Path', revision: 'str | None' = None) -> 'Tokenizer'",
    "nearest": "(queries: 'np.ndarray | Tensor', gallery: 'np.ndarray | Tensor', k: 'int') -> 'tuple[Tensor, Tensor]'",
    "open_run": "(source: 'str | os.PathLike[str]', device: 'str' = 'cpu', "
    "root: 'str | os.PathLike[str] | None' = None) -> 'Run'",
    "open_store": "(url: 'str | os.PathLike[str]') -> 'Store'",
    "retrieve": "(model: 'FourM', conditions: 'Mapping[str, Any]', gallery: 'np.ndarray | Tensor', *, target: 'str', "
    "tokenizer: 'VectorTokenizer', k: 'int' = 5, seed: 'int' = 0, special: 'SpecialIds' = SpecialIds(pad=0, unk=1, "
    "sos=2, eos=3, first_sentinel=4, num_sentinels=200)) -> 'tuple[Tensor, Tensor]'",
}
# Class -> what code outside may call or override; dataclasses are made by these arguments, in this order.
CLASSES = {
    "ImageItem": ["key", "image", "caption", "info", "labels", "shared", "members", "window", "raw"],
    "Item": ["key", "image", "caption", "info", "labels", "shared", "members", "window", "raw"],
    "Label": ["name", "storage", "form", "specialist", "summary"],
    "Labelled": ["key", "value", "crops", "size"],
    "Modality": ["name", "label", "kind", "codec", "vocab_size", "max_tokens", "summary", "patch_size", "channels",
                 "spatial", "chunked", "hub_suffix", "tokenizer", "image_size", "length"],
    "Specialist": [],
    "Step": ["target", "scheme", "steps", "temperature", "temperature_schedule", "schedule", "top_k", "top_p",
             "guidance", "max_tokens", "ends_above"],
    "Grid": ["spec", "options", "tokenizer"],
    "Text": ["spec", "options", "wordpiece"],
    "WordPiece": ["tokenizer", "classes"],
}  # fmt: skip
METHODS = {
    "Specialist": {"setup": "(self, device: 'str') -> 'None'", "setup_on_node": "(self) -> 'None'",
                   "__call__": "(self, items: 'Sequence[Any]') -> 'list[Any | Reject]'"},
    "Grid": {"encode_one": "(self, sample: 'Labelled') -> 'np.ndarray'",
             "truth": "(self, sample: 'Labelled', crop: 'int') -> 'Any'"},
    "Text": {"texts": "(self, sample: 'Labelled') -> 'list[str]'", "parse": "(self, text: 'str') -> 'Any'",
             "encode_one": "(self, sample: 'Labelled') -> 'list[np.ndarray]'"},
    "WordPiece": {"load": "(path: 'str | Path') -> 'WordPiece'",
                  "encode": "(self, text: 'str', max_tokens: 'int', control: 'bool' = False) -> 'np.ndarray'",
                  "decode": "(self, ids: 'Sequence[int] | np.ndarray') -> 'str'"},
}  # fmt: skip
STORE = {
    "shards": "(self, modalities: 'Sequence[str] | None' = None) -> 'tuple[str, ...]'",
    "column": "(self, modality: 'str', shard: 'str') -> 'Column'",
    "spec": "(self, modality: 'str') -> 'ColumnSpec'",
    "dataset": "(self, modalities: 'Sequence[str] | None' = None, shards: 'Sequence[str] | None' = None, "
    "crop: 'int' = 0) -> 'StoreDataset'",
}
RUN = {
    "encode": "(self, inputs: 'Mapping[str, Any] | Sequence[Mapping[str, Any]]') -> "
    "'list[tuple[GivenSample, dict[str, Encoded]]]'",
    "generate": "(self, inputs: 'Mapping[str, Any] | Sequence[Mapping[str, Any]]', to: 'Target | Sequence[Target]', *, "
    "seed: 'int | None' = None, variations: 'int' = 1, ensemble: 'int' = 1, **options: 'Any') -> 'Generation'",
}
ENUMS = {
    "Form": ["colors", "edges", "classes", "depth", "distance", "normals", "features", "vector", "sequence", "record",
             "series", "raster", "numbers", "coordinates", "time", "catalogue"],
    "Kind": ["pixels", "grid", "sequence", "embedding"],
    "Storage": ["image", "json", "array"],
}  # fmt: skip
HEAVY = {"torch", "ray", "cv2", "numpy", "pyarrow", "pydantic", "yaml", "fsspec", "transformers", "tokenizers"}
PAGE = Path(__file__).parents[2] / "docs" / "api.md"
NAMES = sorted(fourmill.__all__)


@pytest.fixture(scope="module")
def example_root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder that examples run in: recipe.yaml, and the root out/."""
    folder = tmp_path_factory.mktemp("api")
    roots.write(folder / "out")
    return folder


@pytest.fixture
def scope(example_root: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[dict[str, object]]:
    """What examples may use: fourmill, numpy as np, torch. What they declare is gone afterwards."""
    monkeypatch.chdir(example_root)
    tables: list[dict[str, Any]] = [modalities.LABELS, modalities.MODALITIES, modalities.TOKENIZERS]
    before = [dict(table) for table in tables]
    yield {"fourmill": fourmill, "np": np, "torch": torch}
    for table, entries in zip(tables, before, strict=True):
        table.clear()
        table.update(entries)


def test_names_are_frozen() -> None:
    assert set(NAMES) == {*FUNCTIONS, *CLASSES, *ENUMS, "Reject"} and set(NAMES) <= set(dir(fourmill))
    with pytest.raises(AttributeError, match="no attribute 'load_modle'; its public names are Form, Grid, ImageItem"):
        _ = fourmill.load_modle


@pytest.mark.parametrize("name", FUNCTIONS)
def test_signatures_are_frozen(name: str) -> None:
    assert str(inspect.signature(getattr(fourmill, name))) == FUNCTIONS[name]


@pytest.mark.parametrize("name", CLASSES)
def test_classes_are_frozen(name: str) -> None:
    cls = getattr(fourmill, name)
    assert list(inspect.signature(cls).parameters) == CLASSES[name]
    assert {m: str(inspect.signature(getattr(cls, m))) for m in METHODS.get(name, {})} == METHODS.get(name, {})


def test_reject_is_a_value_error_with_a_reason() -> None:
    assert issubclass(fourmill.Reject, ValueError) and fourmill.Reject("det: no image").reason == "det: no image"


@pytest.mark.parametrize("name", ENUMS)
def test_enumerations_are_frozen(name: str) -> None:
    assert list(getattr(fourmill, name)) == ENUMS[name]


def test_store_methods_are_frozen() -> None:
    assert {name: str(inspect.signature(getattr(Store, name))) for name in STORE} == STORE


def test_run_methods_are_frozen() -> None:
    assert {name: str(inspect.signature(getattr(Run, name))) for name in RUN} == RUN


def test_import_is_light() -> None:
    script = "import json, sys\nbefore = set(sys.modules)\nimport fourmill\ndir(fourmill)\n"
    script += "print(json.dumps([sorted(sys.modules), sorted(set(sys.modules) - before)]))"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, cwd="/", env=os.environ)
    loaded, new = json.loads(done.stdout)
    assert not {name.partition(".")[0] for name in loaded} & HEAVY
    assert [name for name in new if name.startswith("fourmill")] == ["fourmill"]
    assert len(new) < 10


@pytest.mark.parametrize("name", NAMES)
def test_everything_public_is_documented(name: str) -> None:
    text = inspect.getdoc(getattr(fourmill, name)) or ""
    assert len(text) > 40, name
    if name in FUNCTIONS:
        assert "Raises:" in text and "Examples:" in text
    assert f"`{name}" in PAGE.read_text(), f"docs/api.md does not show {name}"


def _examples() -> list[doctest.DocTest]:
    finder = doctest.DocTestFinder()
    objects = {**{name: getattr(fourmill, name) for name in NAMES}, "Store": Store, "Run": Run}
    return [test for name, value in objects.items() for test in finder.find(value, name) if test.examples]


@pytest.mark.parametrize("example", _examples(), ids=lambda test: test.name)
def test_docstring_examples_run(example: doctest.DocTest, scope: dict[str, object]) -> None:
    said: list[str] = []
    example.globs = scope
    result = doctest.DocTestRunner(optionflags=doctest.NORMALIZE_WHITESPACE).run(example, out=said.append)
    assert not result.failed, "".join(said)


def test_examples_of_the_page_run(scope: dict[str, object]) -> None:
    blocks = re.findall(r"^```python\n(.*?)^```$", PAGE.read_text(), re.MULTILINE | re.DOTALL)
    assert len(blocks) > 4
    for block in blocks:
        exec(compile(block, str(PAGE), "exec"), scope)


def test_functions_have_examples() -> None:
    shown = {test.name for test in _examples()}
    assert shown >= {
        *FUNCTIONS,
        "Step",
        "Specialist",
        "Text",
        "WordPiece",
        "Store.column",
        "Store.dataset",
        "Run.generate",
    }
