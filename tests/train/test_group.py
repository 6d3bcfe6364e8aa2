"""Ray Train without processes and imports that nothing asks for."""

from __future__ import annotations

import subprocess
import sys

import pytest


def test_the_controller_imports_no_torch() -> None:
    """It imports this module: two seconds of every fit and training, before a worker begins."""
    script = "import sys, fourmill.train.group as g; g._Meeting, g.Group().train_func_context; print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, cwd="/")
    assert done.returncode == 0, done.stderr
    assert not {"torch", "fourmill.train.pretrain", "fourmill.recipe"} & set(done.stdout.split())


@pytest.mark.parametrize("here", [True, False])
def test_no_process_has_nothing_to_do(monkeypatch: pytest.MonkeyPatch, here: bool) -> None:
    """Only a cluster that others have started must get the workers' places back when this process is killed."""
    from fourmill.infra import cluster
    from fourmill.train.group import Trainer

    monkeypatch.setattr(cluster, "_started_here", here)
    names = {type(one).__name__ for one in Trainer(lambda: None)._create_default_callbacks()}
    assert {"BackendSetupCallback", "AcceleratorSetupCallback"} <= names
    assert "DatasetsCallback" not in names
    assert ("PlacementGroupCleanerCallback" in names) is not here
