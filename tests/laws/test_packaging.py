"""The root is the package: the tree, pyproject's list and the wheel say the same."""

from __future__ import annotations

import importlib.metadata
import shutil
import subprocess
import tomllib
import zipfile
from pathlib import Path

import pytest
from packaging.requirements import Requirement

from fourmill.infra.submission import package

ROOT = Path(__file__).parents[2]
NOT_PACKAGED = {"tests", "benchmarks", "docs", "build", "dist", "demo"}


def package_files() -> set[str]:
    """Modules, templates, recipes and models of the tree, relative to the root."""
    folders = [
        f for f in ROOT.iterdir() if f.is_dir() and f.name not in NOT_PACKAGED and not f.name.startswith((".", "_"))
    ]
    files = [*ROOT.glob("*.py"), *(path for folder in folders for path in folder.rglob("*.py"))]
    files += [path for path in (ROOT / "report" / "html" / "templates").iterdir() if path.is_file()]
    files += [*(ROOT / "recipes").rglob("*.yaml"), *(ROOT / "pipelines" / "demo").glob("*.yaml")]
    files += (ROOT / "infra" / "submission").glob("*.sh")
    files += [path for path in (ROOT / "pipelines" / "demo" / "models").rglob("*") if path.is_file()]
    return {str(path.relative_to(ROOT)) for path in files if ".egg-info" not in str(path)}


def test_no_init_below_the_root() -> None:
    """With tokenize/__init__.py the standard library's tokenize would be shadowed wherever the root is on sys.path."""
    found = [path for path in ROOT.rglob("__init__.py") if ".venv" not in path.parts and path.parent != ROOT]
    assert not found
    assert (ROOT / "__init__.py").exists()


def test_pyproject_lists_every_folder_of_the_tree() -> None:
    listed = set(tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]["packages"])
    tree = {".".join(("fourmill", *Path(name).parent.parts)) for name in package_files() if name.endswith(".py")}
    assert listed == tree


def test_the_wheel_holds_every_module_and_template(tmp_path: Path) -> None:
    if shutil.which("uv") is None:
        pytest.skip("no uv here to build the wheel with")
    # Of a copy: setuptools writes build/ and *.egg-info beside what it builds.
    copy = tmp_path / "source"
    for name in [*package_files(), "pyproject.toml", "README.md"]:
        target = copy / name
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(ROOT / name, target)
    command = ["uv", "build", "--wheel", "--out-dir", str(tmp_path / "wheel"), str(copy)]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode and "setuptools" in done.stderr and ("fetch" in done.stderr or "network" in done.stderr):
        pytest.skip("uv cannot fetch setuptools here")
    assert done.returncode == 0, done.stderr
    (wheel,) = (tmp_path / "wheel").glob("*.whl")
    held = {
        name.removeprefix("fourmill/") for name in zipfile.ZipFile(wheel).namelist() if name.startswith("fourmill/")
    }
    assert held == package_files()


def test_a_job_is_sent_what_the_wheel_holds() -> None:
    assert {name for name, _ in package.files()} == package_files()


def installed_with(*requirements: str) -> set[str]:
    """Names of the packages that requirements bring here, by the metadata of what is installed."""
    names: set[str] = set()
    done: set[tuple[str, str]] = set()
    stack = [Requirement(text) for text in requirements]
    while stack:
        requirement = stack.pop()
        names.add(requirement.name.lower())
        for extra in ("", *requirement.extras):
            if (requirement.name, extra) in done:
                continue
            done.add((requirement.name, extra))
            needs = [Requirement(text) for text in importlib.metadata.requires(requirement.name) or []]
            stack += [need for need in needs if need.marker is None or need.marker.evaluate({"extra": extra})]
    return names


def test_first_command_installs_no_developers_tools() -> None:
    """`uv run fourmill demo` installs the default groups: nothing under the AGPL, no test server, no type checker."""
    pyproject = tomllib.loads((ROOT / "pyproject.toml").read_text())
    groups = pyproject["dependency-groups"]
    asked = ["fourmill", *(need for name in pyproject["tool"]["uv"]["default-groups"] for need in groups[name])]
    names = installed_with(*asked)
    assert {"torch", "scikit-image", "scikit-learn"} <= names
    assert not names & {"ultralytics", "moto", "mypy", "pytest", "ruff", "playwright", "hypothesis", "mkdocs"}
