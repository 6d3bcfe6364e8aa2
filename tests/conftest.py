"""Order and markers of the tests, the folder of their helpers, and what is started once for all of them.

tests/support/ is on the path of the tests and of Ray's workers: `fourmill_tests` holds small datasets made of photos,
specialists that misbehave, a local S3 server and a browser.
"""

from __future__ import annotations

import ast
import contextlib
import fcntl
import functools
import gc
import os
import pickle
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import hypothesis
import pytest

if TYPE_CHECKING:
    from fourmill_tests.browser import Browser
    from fourmill_tests.runs import Run
    from fourmill_tests.s3 import S3
    from fourmill_tests.small import SmallRoot

    from fourmill.recipe import Recipe

T = TypeVar("T")

TESTS = Path(__file__).parent
SUPPORT = str(TESTS / "support")
FIRST, LAST = ("laws",), ("e2e", "chaos")

# No clock decides whether a law holds: cores are shared with other work.
hypothesis.settings.register_profile("fourmill", deadline=None, suppress_health_check=[hypothesis.HealthCheck.too_slow])
hypothesis.settings.load_profile("fourmill")

# Models of tests are tiny: threads would only wait for each other.
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # as Ray's workers have it, so that they can be forked
sys.path.insert(0, SUPPORT)
_paths = os.environ.get("PYTHONPATH", "").split(os.pathsep)
if SUPPORT not in _paths:  # processes of `-n 3` have it from the one that started them
    os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, [SUPPORT, *_paths]))


# Many processes import the same modules: each is compiled once, also where the environment says otherwise.
os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
sys.dont_write_bytecode = False
# Half a minute of CPU: modules and tests stay, so that nothing is to be collected until all are there, and none of
# them is looked at later.
gc.disable()


_until_the_end = contextlib.ExitStack()


def pytest_configure() -> None:
    if "PYTEST_XDIST_WORKER" not in os.environ:  # workers have that of the process that started them
        from fourmill_tests.processes import forked

        _until_the_end.enter_context(forked.spawner())


def pytest_collection_finish() -> None:
    gc.freeze()
    gc.enable()


def pytest_unconfigure() -> None:
    gc.unfreeze()  # what is left at the end is a leak, says a library
    _until_the_end.close()


# Tests that use one of these fixtures run in one process of `-n 3`, so that there is one Ray.
OF_RAY = {"ray_cluster", "whole_run"}


def _needs_ray(item: pytest.Item) -> bool:
    return "ray_cluster" in getattr(item, "fixturenames", ())


def _rank(item: pytest.Item) -> int:
    folder = item.path.relative_to(TESTS).parts[0]
    if folder in FIRST:
        return 0
    if folder in LAST:
        return 4 + LAST.index(folder)
    return 3 if _needs_ray(item) else 1 + bool(item.get_closest_marker("slow"))


@pytest.hookimpl(tryfirst=True)  # before `-m` selects by marker
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark what follows from a test's place and fixtures; then fast tests first, those of the one Ray together."""
    for item in items:
        folder = item.path.relative_to(TESTS).parts[0]
        if folder == "chaos":
            item.add_marker(pytest.mark.chaos)
        if folder in LAST or _needs_ray(item):
            item.add_marker(pytest.mark.slow)
        if "browser" in getattr(item, "fixturenames", ()):
            item.add_marker(pytest.mark.browser)
    # Processes end at the same time if what takes long comes first.
    shared = "PYTEST_XDIST_WORKER" in os.environ
    items.sort(key=lambda item: -_rank(item) if shared else _rank(item))  # stable: the order within a file stays


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Any:
    """Hand out whole files. (Groups of tests by xdist's marker are without effect: xdist 3.8 writes them where pytest
    9.2 does not look.)"""
    from xdist.scheduler.loadscope import LoadScopeScheduling

    class ByFile(LoadScopeScheduling):
        def _split_scope(self, nodeid: str) -> str:
            file = nodeid.partition("::")[0]
            function = nodeid.split("::")[1].partition("[")[0]
            return "on Ray" if function in _on_ray(file) else file

    return ByFile(config, log)


@functools.cache
def _on_ray(file: str) -> set[str]:
    """The functions of a file that name a fixture of Ray; all of them where one of these is a fixture."""
    functions = [
        node for node in ast.parse((TESTS.parent / file).read_text()).body if isinstance(node, ast.FunctionDef)
    ]
    on_ray = {one.name for one in functions if OF_RAY & {argument.arg for argument in one.args.args}}
    if all(name.startswith("test_") for name in on_ray):
        return on_ray
    return {one.name for one in functions}


@pytest.fixture(scope="session")
def s3() -> Iterator[S3]:
    """A real S3 server on loopback that notes every request. Its address is in the environment of later processes."""
    from fourmill_tests.s3 import serve

    with serve() as server:
        yield server


@pytest.fixture(scope="session")
def ray_cluster(s3: S3) -> Iterator[str]:
    """The address of one local Ray for all tests, whose workers know the S3 server. Stages called here run in it."""
    from fourmill_tests.processes import forked

    from fourmill.infra.cluster import cluster

    forked.ready()
    # Of the processes that Ray starts before any is asked for, most wait for work in vain here.
    os.environ.setdefault("RAY_prestart_worker_first_driver", "0")
    with contextlib.ExitStack() as stack:
        for attempt in (1, 2, 3):  # Ray gives its head 30 s, which is not enough on busy cores
            try:
                ray = stack.enter_context(cluster())
                break
            except Exception as error:
                if attempt == 3 or "timed out during startup" not in str(error):
                    raise
        yield ray.get_runtime_context().gcs_address


@pytest.fixture(scope="session")
def browser() -> Iterator[Browser]:
    """One headless Chromium for all tests."""
    from fourmill_tests.browser import CHROMIUM, Browser

    if CHROMIUM is None:
        pytest.skip("no chromium on PATH")
    pytest.importorskip("playwright", reason="playwright is in the group dev")
    browser = Browser()
    yield browser
    browser.close()


def _once(factory: pytest.TempPathFactory, name: str, make: Callable[[Path], T]) -> T:
    """What `make` returns for a folder of this name: made by the first process of `-n 3` that asks, read by others."""
    base = factory.getbasetemp()
    folder = (base.parent if "PYTEST_XDIST_WORKER" in os.environ else base) / f"once-{name}"
    folder.mkdir(exist_ok=True)
    made = folder / "made.pickle"
    with open(folder / "lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not made.exists():
            made.write_bytes(pickle.dumps(make(folder / name)))
    result: T = pickle.loads(made.read_bytes())
    return result


@pytest.fixture(scope="session")
def two_ranks(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What two ranks of a gloo group have learned, see `tokenizer_ranks.work`: rank{0,1}.npz and fit{0,1}.pt."""
    from fourmill_tests import ranks, tokenizer_ranks

    def make(folder: Path) -> Path:
        folder.mkdir()
        ranks.spawn(tokenizer_ranks.work, 2, folder)
        return folder

    return _once(tmp_path_factory, "two_ranks", make)


@pytest.fixture(scope="session")
def small_root(tmp_path_factory: pytest.TempPathFactory) -> SmallRoot:
    """Four shards, good and bad: labelled, fitted, tokenized without Ray. Read only: a test that writes copies it."""
    from fourmill_tests import small

    return small.build(tmp_path_factory.mktemp("small"))


@pytest.fixture(scope="session")
def every_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of every modality with untrained tokenizers, ROOT/runs/4m/print. Read only, as `small_root`."""
    from fourmill_tests.tiny import every

    return _once(tmp_path_factory, "every", lambda folder: every.write(folder / "out"))


@pytest.fixture(scope="session")
def known_root(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Recipe]:
    """A folder and recipe of a small root whose truth is known, with a trained model. Read only: see `truth.copy`."""
    from fourmill_tests.tiny import truth

    return _once(tmp_path_factory, "known", lambda folder: (folder, truth.build(folder)))


@pytest.fixture(scope="session")
def whole_run(ray_cluster: str, tmp_path_factory: pytest.TempPathFactory) -> Run:
    """`init` and `run` on small shards, good and bad, in this process. Read only: a test that writes copies it."""
    from fourmill_tests import runs

    return runs.whole(tmp_path_factory.mktemp("whole"))
