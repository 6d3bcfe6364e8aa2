"""How sources look: ASCII, of a size that can be read at once, and nothing that executes what it reads."""

from __future__ import annotations

import ast
import re
from collections import Counter
from pathlib import Path

ROOT = Path(__file__).parents[2]
NO_SOURCES = {"docs", "build", "dist", "demo"}
FOLDERS = tuple(
    folder.name
    for folder in ROOT.iterdir()
    if folder.is_dir() and folder.name not in NO_SOURCES and folder.name[0] not in "._"
)
MAX_LINES = 400
SLACK = 1.15  # "about" 400
MAX_FILES = 20


def sources(*folders: str) -> list[Path]:
    return [*ROOT.glob("*.py"), *(path for folder in folders for path in (ROOT / folder).rglob("*.py"))]


def test_sources_are_ascii() -> None:
    assert not [path.relative_to(ROOT) for path in sources(*FOLDERS) if not path.read_bytes().isascii()]


def test_files_can_be_read_at_once() -> None:
    lines = {str(path.relative_to(ROOT)): len(path.read_text().splitlines()) for path in sources(*FOLDERS)}
    assert not {name: count for name, count in lines.items() if count > MAX_LINES * SLACK}


def test_no_folder_is_too_large() -> None:
    folders = Counter(path.parent for path in sources(*FOLDERS))
    assert not {str(folder.relative_to(ROOT)): count for folder, count in folders.items() if count > MAX_FILES}


def test_nothing_reads_pickles_or_runs_text() -> None:
    """Shards, recipes and checkpoints come from elsewhere: reading one must never run code."""
    wrong = []
    for path in sources(*(folder for folder in FOLDERS if folder != "tests")):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Call):
                name = ast.unparse(node.func)
                options = {k.arg: ast.unparse(k.value) for k in node.keywords}
                if name in ("eval", "exec", "yaml.load", "yaml.unsafe_load") or name.startswith("pickle."):
                    wrong.append(f"{path.relative_to(ROOT)}:{node.lineno}: {name}")
                if name == "torch.load" and options.get("weights_only") != "True":
                    wrong.append(f"{path.relative_to(ROOT)}:{node.lineno}: torch.load without weights_only")
                if name == "np.load" and options.get("allow_pickle", "False") != "False":
                    wrong.append(f"{path.relative_to(ROOT)}:{node.lineno}: np.load with allow_pickle")
                if name.endswith((".extractall", ".extract")):
                    wrong.append(f"{path.relative_to(ROOT)}:{node.lineno}: {name}")
    assert not wrong


def test_words_are_plain() -> None:
    """Words that had many meanings here, or that readers of other languages need a dictionary for; written backwards,
    since this file is a source as well."""
    words = (word[::-1] for word in ("dlot", "yrub", "deirub", "tirpluc", "reveohw", "ecnehw", "wena"))
    avoided = re.compile(rf"\b(?:{'|'.join(words)})\b", re.IGNORECASE)
    found = {str(path.relative_to(ROOT)): avoided.findall(path.read_text()) for path in sources(*FOLDERS)}
    assert not {name: of for name, of in found.items() if of}
