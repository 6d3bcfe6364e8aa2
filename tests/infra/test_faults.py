"""Which errors are of a sample and which of the place."""

from __future__ import annotations

import errno
import json
import socket
from typing import Any

import pytest
from PIL import Image, UnidentifiedImageError

from fourmill.infra import faults
from fourmill.infra.faults import Of
from fourmill.pipelines.reject import Reject


class HTTPError(Exception):
    """As of requests, urllib, aiohttp or gcsfs: the status stands in one of several places."""

    def __init__(self, **where: Any) -> None:
        super().__init__("no")
        self.__dict__.update(where)


def client_error(code: str, status: int) -> Exception:
    from botocore.exceptions import ClientError

    return ClientError({"Error": {"Code": code}, "ResponseMetadata": {"HTTPStatusCode": status}}, "PutObject")


def of_torch(name: str) -> Exception:
    import torch

    error: Exception = getattr(torch, name)("of torch")
    return error


PLACE = {
    "memory": [MemoryError(), RuntimeError("CUDA out of memory. Tried to allocate 2 GiB"), OSError(errno.ENOMEM, "")],
    "interpreter": [SystemError("AST constructor recursion depth mismatch (before=45, after=42)")],
    "device": [
        RuntimeError("CUDA error: device-side assert triggered"), RuntimeError("cuDNN error: CUDNN_STATUS_EXEC_FAILED"),
        RuntimeError("NCCL error in: ProcessGroupNCCL.cpp:1"), ValueError("HIP error: invalid device"),
        RuntimeError("CUBLAS_STATUS_EXECUTION_FAILED when calling cublasSgemm"),
    ],
    "full": [OSError(errno.ENOSPC, ""), OSError(errno.EDQUOT, ""), client_error("XMinioStorageFull", 507)],
    "access": [client_error("ExpiredToken", 400), HTTPError(status=403), OSError(errno.EROFS, "")],
    "busy": [
        client_error("SlowDown", 503), client_error("ConditionalRequestConflict", 409), HTTPError(code=429),
        HTTPError(response=HTTPError(status_code=500)),
    ],
    "network": [
        ConnectionResetError(), TimeoutError(), socket.gaierror(-3, "Temporary failure in name resolution"),
        RuntimeError("HTTPSConnectionPool: Max retries exceeded"),
    ],
    "files": [OSError(errno.EIO, ""), OSError(errno.ESTALE, ""), OSError(errno.EMFILE, ""), OSError(errno.EBADF, "")],
}  # fmt: skip


@pytest.mark.parametrize(("name", "error"), [(name, error) for name, errors in PLACE.items() for error in errors])
def test_errors_of_the_place(name: str, error: Exception) -> None:
    assert (faults.name(error), faults.of(error)) == (name, Of.PLACE)
    assert faults.sentence(error).endswith(next(row.advice for row in faults.TABLE if row.name == name))


def test_errors_of_libraries_that_are_known_by_name() -> None:
    import aiohttp
    from botocore.exceptions import EndpointConnectionError, NoCredentialsError
    from huggingface_hub.errors import OfflineModeIsEnabled

    errors = [
        of_torch("OutOfMemoryError"), of_torch("AcceleratorError"), aiohttp.ClientPayloadError(), NoCredentialsError(),
        EndpointConnectionError(endpoint_url="http://x"), OfflineModeIsEnabled(),
    ]  # fmt: skip
    assert [faults.name(error) for error in errors] == ["memory", "device", "network", "access", "network", "network"]


@pytest.mark.parametrize(
    "error", [Reject("image: 0 bytes"), UnidentifiedImageError(), Image.DecompressionBombError(), UnicodeError()]
)
def test_errors_of_the_sample(error: Exception) -> None:
    assert faults.of(error) is Of.SAMPLE


@pytest.mark.parametrize(
    "error",
    [
        RuntimeError("this image only"), ValueError("shapes (3,) and (4,)"), KeyError("label"), HTTPError(status=404),
        FileNotFoundError(errno.ENOENT, ""), OSError("image file is truncated"), client_error("NoSuchKey", 404),
        json.JSONDecodeError("no", "", 0),  # an answer of a service, maybe
    ],
)  # fmt: skip
def test_all_else_is_unknown(error: Exception) -> None:
    assert faults.of(error) is Of.UNKNOWN and not faults.sentence(error).endswith(";")


def test_a_cause_of_the_place_counts_whatever_was_made_of_it() -> None:
    try:
        try:
            raise RuntimeError("CUDA error: an illegal memory access was encountered")
        except RuntimeError as error:
            raise Reject("det: cannot be read") from error
    except Reject as reject:
        assert faults.of_place(reject)


@pytest.mark.parametrize(
    ("reason", "expected"),
    [
        ("det: RuntimeError: CUDA error: device-side assert triggered", True),
        ("det: needs depth, which is missing (depth: MemoryError: )", True),
        ("det: ConnectionError: no route", True),
        ("det: gaierror: [Errno -3] failed", True),
        ("det: OSError: [Errno 28] disk", True),
        ("det: ClientError: An error occurred (SlowDown) when calling the GetObject operation", True),
        ("det: RuntimeError: this image only", False),
        ("image: truncated or damaged (OSError: image file is truncated (1 bytes not processed))", False),
        ("image: there is none", False),
        ("det: HTTPError: HTTP Error 404: Not Found", False),
        ("det: FileNotFoundError: [Errno 2] No such file or directory", False),
    ],
)
def test_reasons_say_what_older_versions_recorded(reason: str, expected: bool) -> None:
    assert faults.reads_as_place(reason) is expected
