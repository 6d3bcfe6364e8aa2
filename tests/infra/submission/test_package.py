"""What a job is sent: all that the wheel holds, nothing that nodes have, and the user's own modules."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from fourmill.infra.submission import package, ready


@pytest.fixture(scope="module")
def laid_out(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("job")
    package.lay_out(folder)
    return folder


def test_it_is_the_package_and_its_metadata(laid_out: Path) -> None:
    """Of the package all that the wheel holds: tests/laws/test_packaging.py."""
    held = {str(path.relative_to(laid_out)) for path in laid_out.rglob("*") if path.is_file()}
    sources = {f"fourmill/{name}" for name, _ in package.files()}
    assert {"fourmill/cli.py", "fourmill/recipes/4m21.yaml", "fourmill/report/html/templates/base.html"} < sources
    assert held - sources == {"fourmill-0.1.0.dist-info/METADATA"} and sources < held


def run(folder: Path, *command: str, **variables: str) -> subprocess.CompletedProcess[str]:
    """Python in a job's folder, as on a node whose own fourmill comes later on its path."""
    environment = {"PATH": os.environ["PATH"], "PYTHONPATH": str(folder)} | variables
    return subprocess.run([sys.executable, *command], cwd=folder, env=environment, capture_output=True, text=True)


def test_it_runs_from_the_folder_of_the_job(laid_out: Path) -> None:
    done = run(laid_out, "-c", "import fourmill.cli as c; print(c.__file__); c.main(['--version'])")
    assert done.stdout.splitlines() == [str(laid_out / "fourmill" / "cli.py"), "fourmill 0.1.0"], done.stderr


def test_a_machine_that_lacks_dependencies_is_told(laid_out: Path, tmp_path: Path) -> None:
    done = run(laid_out, "-m", ready.__name__)
    assert done.returncode == 0 and not done.stderr
    package.lay_out(tmp_path)
    (metadata,) = tmp_path.glob("fourmill-*.dist-info/METADATA")
    text = metadata.read_text().replace("Requires-Dist: numpy>=2.2", "Requires-Dist: numpy>=99\nRequires-Dist: nowhere")
    metadata.write_text(text.replace("Requires-Python: ", "Requires-Python: >=3.99,"))
    done = run(tmp_path, "-m", ready.__name__)
    assert done.returncode == 2 and done.stderr.count("\n") == 1
    for part in ("Python ", ">=3.99", "numpy>=99, and ", "nowhere, which is not installed"):
        assert part in done.stderr


def test_variables_that_are_not_set_are_named(laid_out: Path) -> None:
    done = run(laid_out, "-m", ready.__name__, FOURMILL_CREDENTIALS="HF_TOKEN,AWS_PROFILE", HF_TOKEN="hf_secret")
    assert done.returncode == 0 and done.stderr.endswith("where the job was submitted: AWS_PROFILE\n")


def test_own_modules_come_with_those_beside_them(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "own_labels").mkdir()
    (tmp_path / "own_labels" / "depth.py").write_text("import own_helper\n")
    (tmp_path / "own_labels" / "classes.txt").write_text("a\nb\n")
    (tmp_path / "own_labels" / "__pycache__").mkdir()
    (tmp_path / "own_helper.py").touch()
    (tmp_path / "other.py").touch()
    monkeypatch.syspath_prepend(str(tmp_path))
    import own_labels.depth  # type: ignore[import-not-found]  # noqa: F401

    try:
        found, installed = package.modules(["own_labels.depth:Depth", "own_labels", "yaml", "json"])
        assert found == {"own_labels": tmp_path / "own_labels", "own_helper.py": tmp_path / "own_helper.py"}
        assert installed == ["yaml", "json"]
        package.lay_out(tmp_path / "job", found)
        sent = {path.name for path in (tmp_path / "job" / "own_labels").iterdir()}
        assert sent == {"depth.py", "classes.txt"}
    finally:
        for name in ("own_labels", "own_labels.depth", "own_helper"):
            sys.modules.pop(name, None)


def test_a_large_file_is_refused_by_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(package, "MAX_BYTES", 2**20)
    (tmp_path / "weights.bin").write_bytes(bytes(2**21 + 2**20))
    with pytest.raises(ValueError, match=r"largest file is data/weights.bin with 3 MiB: put it where every node"):
        package.lay_out(tmp_path / "job", {"data/weights.bin": tmp_path / "weights.bin"})


def test_a_missing_module_is_a_sentence() -> None:
    with pytest.raises(ValueError, match="there is no 'no_such_module'; set PYTHONPATH"):
        package.modules(["no_such_module"])
