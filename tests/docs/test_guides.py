"""What the guides say can be typed: commands parse, recipes load, links lead somewhere, every verb has its page."""

from __future__ import annotations

import re
import shlex
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from fourmill import cli, recipe
from fourmill.pipelines.packing import pack
from fourmill.project import Project
from fourmill.verbs.make import fit, generate, label, run, tokenize, train
from fourmill.verbs.summary import Summary

DOCS = Path(__file__).parents[2] / "docs"
PAGES = sorted(str(path.relative_to(DOCS).with_suffix("")) for path in DOCS.rglob("*.md"))


def _verbs() -> set[str]:
    return set(cli.verbs())


def _commands(text: str) -> list[str]:
    """`fourmill ...` as a line of a shell block (continued lines joined) or in backticks."""
    blocks = "".join(re.findall(r"^```sh\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)).replace("\\\n", " ")
    lines = [re.sub(r"^(\w+=\S+ |uv run |\$ )+", "", line.strip()) for line in blocks.splitlines()]
    inline = re.findall(r"`(fourmill [^`]*)`", re.sub(r"^```.*?^```$", "", text, flags=re.MULTILINE | re.DOTALL))
    return [line for line in lines if line.startswith("fourmill ")] + inline


def test_every_verb_has_its_page() -> None:
    assert _verbs() - {Path(page).name for page in PAGES} == set()


@pytest.mark.parametrize("page", PAGES)
def test_every_command_parses(guide: Callable[[str], Any], page: str) -> None:
    for command in _commands(guide(page).text):
        words = shlex.split(command, comments=True)[1:]
        words = words[: words.index(">")] if ">" in words else words
        if words == ["VERB"] or (words[0] in _verbs() and len(words) == 1 and words[0] != "demo"):
            continue  # the verb by its name, as in "run `fourmill fit` first"
        try:
            cli.parser().parse_args(words)
        except SystemExit as end:
            pytest.fail(f"docs/{page}.md: {command!r} does not parse ({end.code})")


def test_every_verb_is_shown_with_its_options(guide: Callable[[str], Any]) -> None:
    commands = [shlex.split(c, comments=True) for page in PAGES for c in _commands(guide(page).text)]
    shown = {words[1] for words in commands if len(words) > 2 or words[1:] == ["demo"]}
    assert shown >= _verbs()


@pytest.mark.parametrize("page", PAGES)
def test_every_recipe_or_part_of_one_loads(guide: Callable[[str], Any], page: str) -> None:
    for block in guide(page).blocks("yaml"):
        part = yaml.safe_load(block)
        if "modules" in part:
            continue  # tried with its module in test_examples
        if "layers" in part:
            pack.check(part, f"docs/{page}.md")
            continue
        recipe.parse({"root": "out", "samples": "a.tar"} | part, f"docs/{page}.md")


@pytest.mark.parametrize("page", PAGES)
def test_links_lead_to_files_and_headings(guide: Callable[[str], Any], page: str) -> None:
    for target in re.findall(r"\]\(([^)\s]+)\)", guide(page).text):
        name, _, heading = target.partition("#")
        if "://" in name:
            continue
        path = (DOCS / page).parent / name if name else DOCS / f"{page}.md"
        assert path.exists(), f"docs/{page}.md links to {target}"
        if not heading:
            continue
        headings = re.findall(r"^#+ (.*)$", path.read_text(encoding="utf-8"), re.MULTILINE)
        anchors = {re.sub(r"[^\w -]", "", h.lower()).replace(" ", "-") for h in headings}
        assert heading in anchors, f"docs/{page}.md links to {target}"


@pytest.mark.parametrize("page", PAGES)
def test_pages_are_plain_and_short(guide: Callable[[str], Any], page: str) -> None:
    text = guide(page).text
    assert text.isascii() and text.startswith("# ")
    assert len(text.splitlines()) <= (450 if page == "recipe" else 220)  # a line for each field


def _unreached(name: str) -> Callable[[recipe.Recipe], Summary]:
    def stage(_: recipe.Recipe) -> Summary:
        raise AssertionError(f"{name} must wait")

    return stage


def test_run_tells_what_training_waits_for_as_the_guide_says(
    guide: Callable[[str], Any], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    def make_labels(_: Project, defer: bool) -> Summary:
        return Summary("label", missing={"shard 00007": "there is no shard at /data/00007.tar"})

    monkeypatch.setattr(label, "make", make_labels)
    for name, stage in (("fit", fit), ("tokenize", tokenize)):
        monkeypatch.setattr(stage, "make", lambda _, name=name: Summary(name))
    for name, stage in (("train", train), ("generate", generate)):
        monkeypatch.setattr(stage, "make", _unreached(name))
    (tmp_path / "a.tar").touch()
    settings = {"root": str(tmp_path), "samples": str(tmp_path / "a.tar"), "fit": {"gpus": 1}}
    done = run.make(Project(recipe.parse(settings)))
    rows = {f"{s.stage}: {what}": why for s in done for what, why in s.missing.items()}
    assert set(rows) == {"label: shard 00007", "train: train", "generate: generate"}
    shown = re.sub(r" +", " ", guide("run").text)
    assert f"| label: shard 00007 | {rows['label: shard 00007']} |" in shown
    assert f"| train: train | {rows['train: train']} |" in shown
