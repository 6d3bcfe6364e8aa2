"""Every benchmark runs, at a toy's size, and prints its table with its circumstances."""

from __future__ import annotations

import json
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
from fourmill_tests.processes import forked

ROOT = Path(__file__).parents[2]
FOLDER = ROOT / "benchmarks"

# Script -> arguments, the rows of its table, and whether it takes more than a few seconds.
RUNS: list[tuple[str, str, int, bool]] = [
    ("store", "--samples 50 --tokens 16 --repeats 1", 4, False),
    ("scenes", "--images 10 --sizes 16 --processes 1", 1, False),
    ("trials/duplicates", "--images 20 --kinds textures photos", 2, False),
    ("masking", "--batch 8 --seconds 0.05", 4, False),
    ("scale", "--shards 12 --columns 2 --made 4 --steps write load status", 4, False),
    ("overlap", "--batches 4 --milliseconds 1", 2, False),
    ("loader", "--rows 64 --batch 16 --seconds 0.05", 4, False),
    ("remote_loader", "--milliseconds 1 --rows 32 --shards 2 --batch 16 --seconds 0.5", 3, True),
    ("download", "--urls 40 --side 64 --fetchers fourmill", 1, False),
    ("encode", "--image-size 32 --seconds 0 --device cpu --tiny", 1, False),
    ("train_step", "--size Ti --vocabulary 512 --batch 1 --steps 1 --eager", 4, True),
    ("generation", "--size Ti --vocabulary 512 --rounds 1 --text-tokens 2", 7, True),
]
ON_RAY: list[tuple[str, str, int]] = [
    ("engine", "--samples 20 --crops 1 --processes 1", 1),
    ("fused", "--samples 4 --crops 1 --shards 1 --dim 64 --depth 1", 2),
    ("trials/planted_bugs", "--seeds 1 --bugs leak --images 8 --steps 2 --fit-steps 2 --workers 1 --tiny", 1),
]
# Those that write into a folder.
INTO_A_FOLDER: list[tuple[str, str, int]] = [
    (
        "labellers",
        "--simple 4 --medium 4 --held-out 4 --effort 0.0005 --processes 1 --cache {folder} --out {folder}",
        4,
    ),
]
# Rows of benchmarks/counts.py that take a moment, and tables that take seconds: the others are counted by hand.
COUNTED = ["tok_depth", "sam_mask"]
QUICK_TABLES = ["training", "reduced", "gathered", "collectives", "staging", "encode"]
TABLES = sorted(path.stem for path in (FOLDER / "counted").glob("*.py"))
SCRIPTS = ["counts", "gpu", *(script for script, *_ in (*RUNS, *ON_RAY, *INTO_A_FOLDER))]  # of gpu: test_gpu.py
# Comparisons behind docs/decisions.md, what needs a finished root, and what takes minutes: run by hand.
BY_HAND = {
    "trials/download_chaos",
    "ray_data", "shards", "servers/proxy", "servers/s3", "trials/beside", "trials/chaos", "trials/damages",
    "trials/nodes", "trials/recompute",
}  # fmt: skip


def run(script: str, arguments: str, ray_address: str = "") -> subprocess.CompletedProcess[str]:
    """As a user does; in a process of its own, because some change its allocator and its threads."""
    environment = os.environ | ({"RAY_ADDRESS": ray_address} if ray_address else {})
    return forked.script(FOLDER / f"{script}.py", shlex.split(arguments), environment)


def check(done: subprocess.CompletedProcess[str], script: str, arguments: str, rows: int) -> None:
    """It ended well, and printed its circumstances and a table of so many rows with figures."""
    assert done.returncode == 0, done.stderr
    head, _, table = done.stdout.partition("\n\n")
    assert head.splitlines()[0] == f"command:  python benchmarks/{script}.py {arguments}"
    assert re.search(r"^commit:   [0-9a-f]{7,}", head, re.MULTILINE) or "no git repository" in head
    assert re.search(r"^date:     \d{4}-\d\d-\d\d \d\d:\d\d UTC$", head, re.MULTILINE)
    assert re.search(r"^hardware: \d+ cores of .+; Python .+, torch ", head, re.MULTILINE)
    row = re.compile(r"\|| *(\d+|bare loop|fused)  ")
    lines = [line for line in table.splitlines() if row.match(line)]
    body = lines[2:] if lines[0].startswith("|") else lines
    assert len(body) == rows and all(re.search(r"\d", line) for line in body), table


@pytest.mark.parametrize(
    ("script", "arguments", "rows"),
    [
        pytest.param(script, arguments, rows, id=script, marks=[pytest.mark.slow] if slow else [])
        for script, arguments, rows, slow in RUNS
    ],
)
def test_a_benchmark_prints_its_table(script: str, arguments: str, rows: int) -> None:
    check(run(script, arguments), script, arguments, rows)


def test_counts_are_not_above_their_most() -> None:
    done = run("counts", f"--only {shlex.join(COUNTED)}")
    assert done.stdout.rstrip().endswith("above benchmarks/counts.json: nothing"), done.stdout + done.stderr
    rows = [line.split(" | ")[0].removeprefix("| ") for line in done.stdout.splitlines() if line.startswith("| ")]
    assert set(COUNTED) <= set(rows) | {"row"}, done.stdout


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_no_count_of_a_quick_table_is_above_its_most() -> None:
    done = run("counts", f"--only {shlex.join(QUICK_TABLES)}")
    assert done.stdout.rstrip().endswith("above benchmarks/counts.json: nothing"), done.stdout + done.stderr


def test_every_bar_is_of_a_row_that_is_counted() -> None:
    """A bar of a row that nobody counts would hold nothing."""
    source = {table: (FOLDER / "counted" / f"{table}.py").read_text() for table in TABLES}
    for bar in json.loads((FOLDER / "counts.json").read_text()):
        assert bar.partition(": ")[0] in source, bar


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.parametrize(("script", "arguments", "rows"), ON_RAY, ids=[script for script, *_ in ON_RAY])
def test_a_benchmark_on_ray_prints_its_table(ray_cluster: str, script: str, arguments: str, rows: int) -> None:
    check(run(script, arguments, ray_cluster), script, arguments, rows)


@pytest.mark.slow
@pytest.mark.parametrize(("script", "arguments", "rows"), INTO_A_FOLDER, ids=[row[0] for row in INTO_A_FOLDER])
def test_a_benchmark_that_writes_prints_its_table(tmp_path: Path, script: str, arguments: str, rows: int) -> None:
    arguments = arguments.format(folder=tmp_path)
    check(run(script, arguments), script, arguments, rows)
    assert all((tmp_path / label / "model.safetensors").exists() for label in ("depth", "normal", "semseg", "det"))


def test_every_benchmark_is_run() -> None:
    paths = [path for path in FOLDER.rglob("*.py") if "__main__" in path.read_text()]
    scripts = {path.relative_to(FOLDER).with_suffix("").as_posix() for path in paths}
    assert scripts == set(SCRIPTS) | BY_HAND


@pytest.mark.parametrize("script", SCRIPTS)
def test_options_in_the_head_of_a_script_exist(script: str) -> None:
    """What the docstring shows is what the parser takes."""
    text = (FOLDER / f"{script}.py").read_text()
    shown = set(re.findall(r"--[a-z][a-z0-9-]*", text.split('"""')[1]))
    assert shown <= set(re.findall(r'add_argument\("(--[a-z0-9-]+)"', text))


@pytest.mark.slow
def test_a_bare_loop_that_dies_ends_the_engine_benchmark() -> None:
    """Its parent must not wait for a process that is gone."""
    script = (
        f"import sys; sys.path.insert(0, {str(FOLDER)!r})\n"
        "import engine\n"
        "if __name__ == '__main__':\n"
        "    engine.time_bare(['nowhere.tar'], {}, 1)\n"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, cwd="/")
    assert done.returncode == 1 and "ended with the exit codes [1]" in done.stderr
