"""What needs no cluster: addresses, versions of Ray, exit statuses."""

from __future__ import annotations

import pytest

pytest.importorskip("ray.job_submission")
from ray.job_submission import JobDetails, JobStatus

from fourmill.infra.cluster import ClusterError
from fourmill.infra.submission import jobs


@pytest.mark.parametrize("address", ["auto", "ray://head:10001", "http://", "ftp://head:8265"])
def test_what_is_no_dashboard_is_refused(address: str) -> None:
    with pytest.raises(ClusterError, match="jobs are submitted over HTTP, to the dashboard"):
        jobs.Jobs(address)


def test_another_address_in_the_environment_is_not_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    """Ray's client would ask RAY_ADDRESS, whatever address it is given."""
    monkeypatch.setenv("RAY_ADDRESS", "127.0.0.1:6379")
    with pytest.raises(ClusterError, match=r"http://127.0.0.1:1: no Jobs API answers.*Connection refused"):
        jobs.Jobs("http://127.0.0.1:1")


def test_a_password_in_an_address_is_not_shown() -> None:
    with pytest.raises(ClusterError) as caught:
        jobs.Jobs("http://me:hunter2@127.0.0.1:1")
    assert "hunter2" not in str(caught.value)


def test_an_unlike_ray_is_named() -> None:
    assert jobs.unlike_ray("2.60.0") == "" == jobs.unlike_ray("2.60.1")
    assert jobs.unlike_ray("2.54.0").startswith("the cluster runs Ray 2.54.0, and this fourmill needs ray")


@pytest.mark.parametrize(
    ("status", "code", "expected"),
    [("SUCCEEDED", 0, 0), ("FAILED", 2, 2), ("FAILED", -9, 137), ("FAILED", None, 1), ("STOPPED", None, 143)],
)
def test_the_exit_status_is_that_of_the_command(status: str, code: int | None, expected: int) -> None:
    details = JobDetails(type="SUBMISSION", status=JobStatus(status), entrypoint="x", driver_exit_code=code)
    assert jobs.exit_status(details) == expected
