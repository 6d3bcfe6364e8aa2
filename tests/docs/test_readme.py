"""README.md and its neighbours: links lead to files, examples run; docs/api.md has every public name."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
from fourmill_tests import roots

import fourmill
from fourmill import modalities

ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize("page", ["README", "CONTRIBUTING", "CHANGELOG"])
def test_links_lead_to_files(page: str) -> None:
    targets = re.findall(r"\]\(([^)\s#]+)[^)]*\)", (ROOT / f"{page}.md").read_text(encoding="utf-8"))
    assert [target for target in targets if "://" not in target and not (ROOT / target).exists()] == []


def test_moved_modules_are_where_the_changelog_says() -> None:
    text = (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")
    rows = re.findall(r"^\| (`.*) \| (.*) \|$", text.partition("### Moved modules")[2], re.MULTILINE)
    assert len(rows) > 20
    for old, new in rows:
        names = re.findall(r"`([\w.]+)\*?`", new)
        if folder := re.search(r"the same names in `([\w.]+)`", new):
            moved = [name.rpartition(".")[2] for name in re.findall(r"`([\w.]+)\*?`", old)]
            moved = [name for name in moved if name not in new.partition(", the same")[0]]
            names = [name for name in names if name != folder[1]] + [f"{folder[1]}.{name}" for name in moved]
        for name in names:
            path = ROOT / name.replace(".", "/")
            assert path.with_suffix(".py").is_file() or name == "verbs.make", f"{old} -> {name}"


def test_python_examples_of_the_readme_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    roots.write(tmp_path / "out")
    monkeypatch.chdir(tmp_path)
    for name in ("LABELS", "MODALITIES", "TOKENIZERS"):
        monkeypatch.setattr(modalities, name, dict(getattr(modalities, name)))
    blocks = re.findall(r"^```python\n(.*?)^```$", (ROOT / "README.md").read_text(), re.MULTILINE | re.DOTALL)
    scope: dict[str, Any] = {}
    for block in blocks:
        exec(compile(block, "README.md", "exec"), scope)
    assert len(blocks) == 2
    given = [fourmill.Item("0", None, None, {"alt": "a red boat"}), fourmill.Item("1", None, None)]
    assert [str(label) for label in scope["AltText"]()(given)] == ["a red boat", "alt_text: there is none"]


def test_the_reference_has_every_public_name() -> None:
    directives = re.findall(r"^::: fourmill\.(\w+)$", (ROOT / "docs" / "api.md").read_text(), re.MULTILINE)
    assert sorted(directives) == sorted(fourmill.__all__)
