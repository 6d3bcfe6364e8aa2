"""`fourmill inspect PATH`: what a file or folder is, what it holds, and one sample of it.

Decisions:
- What a path is follows from its contents, not from where it lies; names decide only among text files.
- Everything is read through fsspec and as little as will do: footers, headers, some row groups.
- A damaged file is a `ValueError` that says which, and what was expected. Only a file that is provably a damaged one
  of fourmill's is ever called one to delete: `records.advice` holds the proofs.
- JSON and Parquet files of other programs are shown for what they are.

The kinds live beside this file: files (columns, labels), shards, weights (tokenizers, checkpoints), runs (runs,
generations, recipes), records (the ledger), root, foreign (files of other programs); view prints them.
"""

from __future__ import annotations

import posixpath
from typing import Any

from ...infra import storage
from ...infra.secrets import public
from ...recipe import RecipeError
from . import view
from .view import Inspection

KINDS = (
    "a shard (.tar), a column or label file (.parquet) or a folder of them, a ledger record (.json) or its folder, a "
    "tokenizer, a 4M checkpoint, a run, a generated chain, a recipe (.yaml), or the root of a dataset"
)
MAX_CONTENTS = 64  # children of a folder that are looked at
SUMMARY = (
    "modality", "label", "type", "count", "files", "rows", "vocab_size", "codebook_size", "steps", "bytes", "elements",
)  # fmt: skip
_TARS = (".tar", ".tar.gz", ".tgz")
# Files that say what their folder is.
PARTS = ("config.json", "model.safetensors", "tokenizer.json", "complete.json", "metrics.jsonl", "samples.json")


def show(path: str, row: int = 0, as_json: bool = False, key: str | None = None) -> int:
    """Print what `path` holds.

    Args:
        path: a file or folder, local or any fsspec URL.
        row: which sample to show; counted over all shards for folders of columns and labels, and for a whole dataset.
        as_json: print the facts as one JSON object and nothing else.
        key: of the sample of a root that is looked for, in the place of a row.

    Returns:
        The exit status, 0.

    Raises:
        ValueError, FileNotFoundError: as `look`.
    """
    inspection = look(path, row, pictures=not as_json, key=key)
    if as_json:
        print(view.to_json(inspection))
    else:
        view.show(inspection)
    return 0


def look(path: str, row: int = 0, *, pictures: bool = True, key: str | None = None) -> Inspection:
    """What `path` holds, as facts; `pictures` says whether tokens are decoded to be seen.

    Raises:
        FileNotFoundError: there is nothing at `path`.
        ValueError: it is nothing that can be inspected, it is damaged, or there is no such row.
    """
    url, path = storage.absolute(path).rstrip("/"), public(path)
    try:
        if key is not None:
            return _of_key(path, url, key)
        return _look(path, url, row, pictures, nested=False)
    except (FileNotFoundError, RecipeError):
        raise
    except (OSError, ValueError) as error:
        # Subclasses of ValueError (of JSON, of Unicode) and errors of files are said in one sentence, too.
        if type(error) is ValueError:
            raise
        raise ValueError(f"{path}: cannot be read: {type(error).__name__}: {error}") from error


def _look(path: str, url: str, row: int, pictures: bool, nested: bool) -> Inspection:
    if _is_file(url):
        return _file(path, url, row, pictures)
    names = storage.list_names(url)
    if not names:
        if storage.exists(url):
            raise ValueError(f"{path}: this folder is empty; expected {KINDS}")
        raise FileNotFoundError(f"there is nothing at {path}")
    inspection = _folder(path, url, set(names), row, pictures)
    return inspection or _contents(path, url, sorted(names), nested)


def _of_key(path: str, url: str, key: str) -> Inspection:
    from . import provenance, root

    if not storage.list_names(url) or not root.is_root(url):
        raise ValueError(f"{path}: --key looks for a sample of a root, a folder with ledger/ and tokens/ or labels/")
    return provenance.inspect_key(path, url, key)


def _is_file(url: str) -> bool:
    return storage.is_file(url)


def _file(path: str, url: str, row: int, pictures: bool) -> Inspection:
    name = posixpath.basename(url).lower()
    start = _start(url)
    if not start:
        from . import records

        raise ValueError(f"{path}: this file is empty (0 bytes){records.advice(url)}")
    if name.endswith(".parquet") or start.startswith(b"PAR1"):
        from . import files

        return files.inspect(path, [url], row, pictures)
    if name.endswith(_TARS) or start[257:262] == b"ustar":
        from . import shards

        return shards.inspect_shard(path, url, row)
    if name.endswith((".yaml", ".yml")):
        from . import runs

        return runs.inspect_recipe(path, url)
    if name in PARTS:
        folder = posixpath.dirname(url)
        if inspection := _one_thing(path, folder, set(storage.list_names(folder)), row):
            return inspection
    if name.endswith(".json"):
        from . import records

        return records.inspect_json(path, url)
    raise ValueError(f"{path}: got a file of no known kind; expected {KINDS}")


def _start(url: str) -> bytes:
    with storage.open_binary(url) as file:
        return file.read(512)


def _folder(path: str, url: str, names: set[str], row: int, pictures: bool) -> Inspection | None:
    """The folder as one thing, None if it is only a folder of things."""
    if inspection := _one_thing(path, url, names, row):
        return inspection
    if "ledger" in names:
        from . import root

        if root.is_root(url):
            return root.inspect_root(path, url, row)
    # Tars come before Parquet: downloaders leave Parquet files of their own beside the shards.
    if tars := sorted(name for name in names if name.endswith(_TARS)):
        from . import shards

        return shards.inspect_shards(path, url, tars, sorted(names - set(tars)), row)
    if parquet := sorted(name for name in names if name.endswith(".parquet")):
        from . import files

        return files.inspect(path, [storage.join(url, name) for name in parquet], row, pictures)
    if posixpath.basename(url) == "ledger" or "/ledger/" in url:
        from . import records

        if inspection := records.inspect_ledger(path, url):
            return inspection
    if names & {"tokens", "labels"}:
        from . import root

        if root.is_root(url):
            return root.inspect_root(path, url, row)
    if posixpath.basename(url) == "runs":
        from . import runs

        if rows := runs.run_rows(url):
            return Inspection({"path": path, "kind": "runs", "runs": rows, "sample": None})
    return None


def _one_thing(path: str, url: str, names: set[str], row: int) -> Inspection | None:
    """A folder whose files belong together: weights, a generated chain or a run."""
    if inspection := _weights(path, url, names, row):
        return inspection
    if not names & {"samples.json", "metrics.jsonl", "checkpoints"}:
        return None
    from . import runs  # loads torch

    if "samples.json" in names and runs.is_generated(url):
        return runs.inspect_generated(path, url, row)
    if "metrics.jsonl" in names or runs.has_checkpoints(url):
        return runs.inspect_run(path, url)
    return None


def _weights(path: str, url: str, names: set[str], row: int) -> Inspection | None:
    """A folder with weights; its configuration says of what."""
    from . import weights

    if "tokenizer.json" in names:
        return weights.inspect_text(path, url, row)
    if "model.safetensors" not in names:
        return None
    config = weights.model_config(url)
    if config is None:
        raise ValueError(f"{path}: there are weights but no config.json; was the folder copied whole?")
    if "modalities" in config or "domains_in" in config:
        return weights.inspect_checkpoint(path, url, config)
    if "codebook_size" in config:
        return weights.inspect_tokenizer(path, url, config)
    raise ValueError(f"{path}: config.json is neither of a 4M model nor of a VQ tokenizer; it has {sorted(config)}")


def _contents(path: str, url: str, names: list[str], nested: bool) -> Inspection:
    """A folder of folders (tokens/, runs/NAME, tokenizers/): each child and what it is, in a line; no deeper."""
    rows: list[dict[str, Any]] = []
    for name in names[:MAX_CONTENTS] if not nested else ():
        child = storage.join(url, name)
        try:
            facts = _look(name, child, 0, False, True).facts
            rows.append({"name": name, "kind": facts["kind"], "holds": _in_a_line(facts)})
        except (ValueError, OSError) as error:
            rows.append(
                {"name": name, "kind": None, "holds": str(error).removeprefix(f"{name}: ").split("; expected")[0]}
            )
    if not nested and all(row["kind"] in (None, "folder") for row in rows):
        raise ValueError(f"{path}: nothing in this folder can be inspected; expected {KINDS}")
    facts = {"path": path, "kind": "folder", "names": names[:MAX_CONTENTS], "count": len(names), "contents": rows}
    return Inspection(facts | {"sample": None})


def _in_a_line(facts: dict[str, Any]) -> str:
    short = {name: facts[name] for name in SUMMARY if isinstance(facts.get(name), int | str) and facts[name] != ""}
    return ", ".join(f"{name} {value:,}" if isinstance(value, int) else str(value) for name, value in short.items())
