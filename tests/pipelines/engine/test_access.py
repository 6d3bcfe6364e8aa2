"""What each node is asked before it gets actors: the same versions, and access to root and samples."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import ray

from fourmill.infra.submission import ready
from fourmill.pipelines.engine import nodes
from fourmill.pipelines.engine.access import Access


@pytest.fixture
def root(tmp_path: Path) -> Path:
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "recipe.yaml").touch()
    (tmp_path / "a.tar").write_bytes(b"tar")
    return tmp_path / "out"


def test_a_node_that_reaches_all_leaves_nothing_behind(root: Path) -> None:
    Access(str(root), str(root.parent / "a.tar")).setup_on_node()
    assert [path.name for path in root.iterdir()] == ["recipe.yaml"]


def test_a_folder_that_is_not_shared_is_named(root: Path) -> None:
    (root / "recipe.yaml").unlink()
    with pytest.raises(ValueError, match=r"does not see what the driver has written below .*a folder that all nodes"):
        Access(str(root)).setup_on_node()
    assert not list(root.iterdir())


def test_a_shard_that_is_not_seen_is_named(root: Path) -> None:
    with pytest.raises(ValueError, match=r"it does not see the shard .*b.tar, which the driver sees"):
        Access(str(root), str(root.parent / "b.tar")).setup_on_node()


def test_variables_that_a_node_lacks_are_named(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(ready.NAMES, "AWS_PROFILE,HF_TOKEN")
    monkeypatch.setenv("HF_TOKEN", "hf_secret")
    asked = Access.of(str(root), "/nowhere.tar")
    assert set(asked.variables) == {"AWS_PROFILE", "HF_TOKEN"}
    monkeypatch.delenv("AWS_PROFILE", raising=False)
    with pytest.raises(ValueError, match=r"where the job was started: AWS_PROFILE$") as caught:
        asked.setup_on_node()
    assert "hf_secret" not in str(caught.value) + repr(asked)


class Held:
    """Counts the nodes on which it was set up."""

    done = 0

    def setup_on_node(self) -> None:
        self.done += 1


@pytest.fixture
def held(monkeypatch: pytest.MonkeyPatch) -> Held:
    monkeypatch.setattr(ray, "get", lambda one: [one])
    return Held()


def test_a_node_like_the_driver_is_set_up(held: Held) -> None:
    nodes.set_up()(nodes.versions(ray), [held])
    assert held.done == 1


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"versions": {"Python": "3.10"}}, r"it has Python 3\.\d+, and the driver 3.10"),
        ({"versions": {"Ray": "2.59.0"}}, r"it has Ray 2\.\S+, and the driver 2.59.0"),
        ({"files": {"infra/ledger.py": "0" * 64}}, r"another fourmill than the driver, \S*infra/ledger.py differs"),
        ({"files": {"infra/later.py": "0" * 64}}, r"another fourmill than the driver, \S*infra/later.py differs"),
    ],
)
def test_an_unlike_node_is_named_before_it_is_set_up(held: Held, change: dict[str, Any], said: str) -> None:
    driver = nodes.versions(ray)
    assert "pipelines/engine/nodes.py" in driver["files"]
    with pytest.raises(ValueError, match=said):
        nodes.set_up()(driver | change, [held])
    assert held.done == 0


def test_a_node_without_fourmill_can_say_so() -> None:
    """What it runs is sent whole, and imports nothing of fourmill."""
    import ray.cloudpickle as cloudpickle

    script = (
        "import sys; sys.modules['fourmill'] = None; from ray import cloudpickle\n"
        "set_up, driver = cloudpickle.loads(sys.stdin.buffer.read()); set_up(driver, [])"
    )
    sent = cloudpickle.dumps((nodes.set_up(), nodes.versions(ray)))
    done = subprocess.run([sys.executable, "-c", script], input=sent, capture_output=True)
    assert b"ValueError: it has no fourmill; install the same everywhere, or use `fourmill submit`" in done.stderr


def test_a_root_without_a_recipe_asks_for_none(tmp_path: Path) -> None:
    """Jobs that no stage of a recipe has begun: benchmarks, and users of the engine."""
    Access.of(str(tmp_path / "out")).setup_on_node()
    (tmp_path / "out" / "recipe.yaml").write_text("{}")
    asked = Access.of(str(tmp_path / "out"))
    (tmp_path / "out" / "recipe.yaml").unlink()
    with pytest.raises(ValueError, match="does not see what the driver has written"):
        asked.setup_on_node()
