"""Which errors are of a sample and which of the place: the machine, its devices and disks, the network, a service.

One table, `TABLE`. An error of a sample (its bytes, its content) comes again wherever the sample is looked at. An error
of the place says nothing about the sample that happened to be there: what failed by it is tried again, elsewhere if
need be, and is never recorded. An error that is in no row is unknown.

Types are matched by their names, so that nothing is imported for it.
"""

from __future__ import annotations

import errno
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from enum import Enum
from functools import lru_cache
from typing import Any


class Of(Enum):
    SAMPLE = "sample"
    PLACE = "place"
    UNKNOWN = "unknown"


@dataclass(frozen=True)
class Fault:
    """One kind of error.

    advice: what a user can do about it. source: where the names and numbers come from.
    types: "module.Name" of exceptions; subclasses count, and a module stands for those below it.
    errnos: of OSError. statuses: of HTTP. codes: of S3's answers. text: what messages say.
    soon: whether it may be over in seconds, so that asking again at once makes sense.
    """

    name: str
    of: Of
    advice: str
    source: str
    types: tuple[str, ...] = ()
    errnos: frozenset[int] = frozenset()
    statuses: frozenset[int] = frozenset()
    codes: frozenset[str] = frozenset()
    text: re.Pattern[str] | None = None
    soon: bool = False

    _short: frozenset[str] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "_short", frozenset(name.rpartition(".")[2] for name in self.types) - {"HTTPError"})


def _errnos(*names: str) -> frozenset[int]:
    return frozenset(getattr(errno, name) for name in names if hasattr(errno, name))


def _text(*parts: str) -> re.Pattern[str]:
    return re.compile("|".join(parts), re.IGNORECASE)


# Libraries whose errors say that a service cannot be reached; their types are neither OSError nor classes of fourmill.
SERVICES = frozenset("aiohttp azure botocore gcsfs google httpcore httpx httpx2 huggingface_hub requests".split())

# The first row that matches counts.
TABLE = (
    Fault(
        "memory",
        Of.PLACE,
        "give it more memory: fewer actors (engine.actors), smaller batches, or lower images.max_pixels",
        "Python's MemoryError; torch/__init__.py OutOfMemoryError; torch's CPU allocator (c10/core/CPUAllocator.cpp); "
        "NumPy _ArrayMemoryError; OpenCV StsNoMem; CUDA runtime error 2",
        types=("builtins.MemoryError", "torch.OutOfMemoryError", "torch.cuda.OutOfMemoryError"),
        errnos=_errnos("ENOMEM"),
        text=_text(
            r"\bout of memory\b", r"DefaultCPUAllocator", r"can(?:'|no)t allocate memory", r"\bbad_alloc\b",
            r"unable to allocate [\d.]+ ?\w*B\b", r"insufficient memory", r"CUDA_ERROR_OUT_OF_MEMORY",
            r"(?:CUBLAS|CUDNN)_STATUS_ALLOC_FAILED", r"RESOURCE_EXHAUSTED",
        ),
    ),
    Fault(
        "device",
        Of.PLACE,
        "look at the accelerator (nvidia-smi, dmesg); a process in which this happened cannot go on",
        "CUDA runtime API, error types (device-side assert 710, illegal address 700, ECC 214, ...); "
        "c10/cuda/CUDAException.cpp and torch.AcceleratorError; cuDNN, cuBLAS, NCCL status codes; HIP",
        types=("torch.AcceleratorError", "torch.distributed.DistBackendError", "torch._C._DistBackendError"),
        text=_text(
            r"\b(?:CUDA|HIP|cuDNN|cuBLAS|cuFFT|NVRTC|NCCL|ROCm|MPS|XPU) (?:\w+ )?(?:error|failure)", r"CUDA_ERROR_\w+",
            r"cudaError\w*", r"hipError\w+", r"(?:CUDNN|CUBLAS|CUFFT|CUSOLVER|CUSPARSE)_STATUS_(?!SUCCESS)\w+",
            r"\bnccl(?:Internal|System|Unhandled|Remote|Invalid)\w*", r"device-side assert", r"illegal memory access",
            r"misaligned address", r"unspecified launch failure", r"uncorrectable ECC",
            r"GPU (?:is lost|has fallen off)",
            r"no CUDA GPUs are available", r"no CUDA-capable device", r"CUDA driver (?:version|initialization)",
            r"driver shutting down", r"context is destroyed", r"device kernel image is invalid",
        ),
    ),
    Fault(
        "full",
        Of.PLACE,
        "make room, or raise the quota",
        "errno(3); S3-compatible servers: MinIO cmd/api-errors.go; HTTP 507 (RFC 4918)",
        errnos=_errnos("ENOSPC", "EDQUOT", "EFBIG"),
        statuses=frozenset({507}),
        codes=frozenset({"XMinioStorageFull", "QuotaExceeded", "InsufficientStorage", "StorageFull"}),
        text=_text(r"no space left on device", r"disk quota exceeded"),
    ),
    Fault(
        "access",
        Of.PLACE,
        "look at the credentials (AWS_PROFILE, AWS_ACCESS_KEY_ID, a role that may have expired, HF_TOKEN) and at what "
        "they may do there",
        "S3 error responses (API reference); botocore.exceptions; errno(3)",
        types=(
            "botocore.exceptions.NoCredentialsError", "botocore.exceptions.PartialCredentialsError",
            "botocore.exceptions.CredentialRetrievalError", "botocore.exceptions.ProfileNotFound",
            "botocore.exceptions.TokenRetrievalError", "botocore.exceptions.SSOError",
            "google.auth.exceptions.GoogleAuthError", "azure.core.exceptions.ClientAuthenticationError",
            "builtins.PermissionError",
        ),
        errnos=_errnos("EACCES", "EPERM", "EROFS"),
        statuses=frozenset({401, 403}),
        codes=frozenset({
            "AccessDenied", "ExpiredToken", "ExpiredTokenException", "InvalidAccessKeyId", "InvalidToken",
            "RequestExpired", "SignatureDoesNotMatch", "TokenRefreshRequired", "RequestTimeTooSkewed", "AuthFailure",
            "AccountProblem", "AllAccessDisabled", "UnauthorizedAccess", "KMS.DisabledException",
            "KMS.AccessDeniedException",
        }),
        text=_text(r"unable to locate credentials", r"the (?:provided|security) token .{0,40}expired"),
    ),
    Fault(
        "busy",
        Of.PLACE,
        "wait and run the same command again",
        "S3 error responses (API reference): 409 ConditionalRequestConflict and OperationAborted, 503 SlowDown; "
        "HTTP status codes (RFC 9110, RFC 6585); s3fs/errors.py",
        errnos=_errnos("EBUSY", "EAGAIN", "EINTR"),
        statuses=frozenset({408, 409, 423, 425, 429, 500, 502, 503, 504, 509, 522, 524}),
        codes=frozenset({
            "SlowDown", "InternalError", "ServiceUnavailable", "RequestTimeout", "OperationAborted", "BadDigest",
            "ConditionalRequestConflict", "RequestLimitExceeded", "Throttling", "ThrottlingException",
            "RequestThrottled", "TooManyRequests", "BandwidthLimitExceeded", "IncompleteBody", "RestoreInProgress",
        }),
        text=_text(
            r"too many requests", r"service (?:is )?(?:temporarily )?unavailable", r"bad gateway", r"gateway time-?out",
            r"internal server error", r"please reduce your request rate",
        ),
        soon=True,
    ),
    Fault(
        "network",
        Of.PLACE,
        "look at the address (AWS_ENDPOINT_URL, HF_ENDPOINT), the network, the name server and the proxy",
        "errno(3), getaddrinfo(3); exceptions of the standard library, aiohttp, botocore, urllib3, requests, httpx, "
        "huggingface_hub, gcsfs, azure-core, grpc",
        types=(
            "builtins.ConnectionError", "builtins.TimeoutError", "socket.gaierror", "socket.herror", "ssl.SSLError",
            "http.client.IncompleteRead", "http.client.RemoteDisconnected", "http.client.BadStatusLine",
            "urllib.error.URLError", "aiohttp.client_exceptions.ClientConnectionError",
            "aiohttp.client_exceptions.ClientPayloadError", "asyncio.exceptions.IncompleteReadError",
            "fsspec.exceptions.FSTimeoutError", "botocore.exceptions.HTTPClientError",
            "botocore.exceptions.ConnectionError", "botocore.exceptions.EndpointConnectionError",
            "botocore.exceptions.ResponseStreamingError", "botocore.exceptions.IncompleteReadError",
            "aiobotocore.response.AioReadTimeoutError", "urllib3.exceptions.HTTPError",
            "requests.exceptions.ConnectionError", "requests.exceptions.Timeout",
            "requests.exceptions.ChunkedEncodingError", "httpx.TransportError", "httpcore",
            "huggingface_hub.errors.OfflineModeIsEnabled", "huggingface_hub.errors.LocalEntryNotFoundError",
            "azure.core.exceptions.ServiceRequestError", "azure.core.exceptions.ServiceResponseError",
            "google.api_core.exceptions.RetryError", "grpc.RpcError",
        ),
        errnos=_errnos(
            "ECONNREFUSED", "ECONNRESET", "ECONNABORTED", "EPIPE", "ETIMEDOUT", "EHOSTUNREACH", "ENETUNREACH",
            "ENETDOWN", "ENETRESET", "EHOSTDOWN", "ENOTCONN", "ESHUTDOWN", "EADDRNOTAVAIL", "ENOBUFS", "ECOMM",
        ),
        text=_text(
            r"temporary failure in name resolution", r"name or service not known", r"nodename nor servname",
            r"getaddrinfo failed", r"failed to resolve", r"connection (?:refused|reset|aborted|timed out|was closed)",
            r"remote end closed connection", r"read timed out", r"network is unreachable", r"no route to host",
            r"max retries exceeded", r"response payload is not completed",
        ),
        soon=True,
    ),
    Fault(
        "files",
        Of.PLACE,
        "look at the disk or the share, and at the limits of the process (ulimit -n, ulimit -u)",
        "errno(3); nfs(5) on stale handles; fuse: ENOTCONN",
        errnos=_errnos("EIO", "EMFILE", "ENFILE", "ESTALE", "EBADF", "ENODEV", "ENXIO", "EREMOTEIO", "ENOLCK"),
        text=_text(r"too many open files", r"stale file handle", r"input/output error", r"can't start new thread"),
        soon=True,
    ),
    Fault(
        "interpreter",
        Of.PLACE,
        "run it again; if it comes back, update Python",
        "SystemError is raised for defects of CPython and of extensions, such as its issue 106905: threads that parse "
        "Python at once",
        types=("builtins.SystemError",),
        soon=True,
    ),
    Fault(
        "ray",
        Of.PLACE,
        "look at the cluster (ray status)",
        "ray/exceptions.py (2.60); the engine's own",
        types=(
            "ray.exceptions.RayError", "concurrent.futures.process.BrokenProcessPool",
            "fourmill.pipelines.engine.job.PlaceError",
        ),
    ),
    # Few: a specialist may call a service, whose broken answers raise what broken samples do. Bytes of a sample are
    # decoded elsewhere (pipelines/images.py, members.py), where whatever is not of the place is of the sample.
    Fault(
        "content",
        Of.SAMPLE,
        "",
        "fourmill's own Reject; Pillow (PIL/Image.py)",
        types=(
            "fourmill.pipelines.reject.Reject", "PIL.UnidentifiedImageError", "PIL.Image.DecompressionBombError",
            "builtins.UnicodeError",
        ),
    ),
)  # fmt: skip


def find(error: BaseException) -> Fault | None:
    """The row of an error, or of what caused it: a place anywhere in the chain counts before the error itself."""
    chain = list(_chain(error))
    rows = [row for one in chain if (row := _row(one)) is not None]
    return next((row for row in rows if row.of is Of.PLACE), rows[0] if rows and _row(error) else None)


def of(error: BaseException) -> Of:
    """Whether an error is of a sample or of the place."""
    row = find(error)
    return row.of if row is not None else Of.UNKNOWN


def of_place(error: BaseException) -> bool:
    return of(error) is Of.PLACE


def of_service(error: BaseException) -> bool:
    """Whether an error, which may be in no row, is of a library that speaks to services."""
    return type(error).__module__.partition(".")[0] in SERVICES


def status(error: BaseException) -> int:
    """The HTTP status that an error, or what caused it, holds; 0 without one."""
    return next((number for one in _chain(error) if (number := _status(one)[0])), 0)


def name(error: BaseException) -> str:
    """The name of its row, "" of an unknown error."""
    row = find(error)
    return row.name if row is not None else ""


def _chain(error: BaseException) -> Iterator[BaseException]:
    seen: set[int] = set()
    one: BaseException | None = error
    while one is not None and id(one) not in seen:
        seen.add(id(one))
        yield one
        one = one.__cause__ or (None if one.__suppress_context__ else one.__context__)


def _row(error: BaseException) -> Fault | None:
    names = _names(type(error).__mro__)
    number, code = _status(error)
    # What the answer says is exact: an HTTP error of 404 is none of the network, whatever its class.
    for row in TABLE:
        if number in row.statuses or code in row.codes:
            return row
    if number >= 400:
        return None
    if isinstance(error, OSError) and error.errno is not None:
        for row in TABLE:
            if error.errno in row.errnos:
                return row
    text = str(error)
    for row in TABLE:
        if names & set(row.types) or (row.text is not None and row.text.search(text)):
            return row
    return None


@lru_cache(maxsize=512)
def _names(classes: tuple[type, ...]) -> frozenset[str]:
    """The full names of a class and of those that it inherits from, each also as its packages are called."""
    found = set()
    for one in classes:
        module = one.__module__
        found.add(f"{module}.{one.__name__}")
        # `torch.OutOfMemoryError` and `botocore.exceptions.X` may be defined in a module below.
        while module := module.rpartition(".")[0]:
            found |= {f"{module}.{one.__name__}", module}
        found.add(one.__module__)
    return frozenset(found)


def _status(error: BaseException) -> tuple[int, str]:
    """(status of HTTP, code of S3) that an error holds; (0, "") without them."""
    response: Any = getattr(error, "response", None)
    if isinstance(response, dict):  # botocore's ClientError
        number = response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0)
        return int(number or 0), str(response.get("Error", {}).get("Code", ""))
    for holder in (error, response):
        for attribute in ("status", "status_code", "code"):
            value = getattr(holder, attribute, None)
            if isinstance(value, int) and 100 <= value < 600:
                return value, ""
    return 0, ""


_EXCEPTION = re.compile(r"\b([A-Za-z]\w*(?:[Ee]rror|Exception|Timeout|Read|Disconnected))\b(?:: |\()")
_CODE = re.compile(r"\((\w+)\) when calling")
_ERRNO = re.compile(r"\[Errno (\d+)\]")


@lru_cache(maxsize=1 << 16)
def reads_as_place(reason: str) -> bool:
    """Whether the reason of a reject was written from an error of the place: what older versions have recorded, or a
    specialist has made of an exception."""
    rows = [row for row in TABLE if row.of is Of.PLACE]
    if any(row.text is not None and row.text.search(reason) for row in rows):
        return True
    if any(int(number) in row.errnos for number in _ERRNO.findall(reason) for row in rows):
        return True
    if any(code in row.codes for code in _CODE.findall(reason) for row in rows):
        return True
    return any(found in row._short for found in _EXCEPTION.findall(reason) for row in rows)


def sentence(error: BaseException) -> str:
    """What happened, in one line, and what to do about it if that is known."""
    text = " ".join(str(error).split()) or type(error).__name__
    row = find(error)
    return f"{text}; {row.advice}" if row is not None and row.advice and row.advice not in text else text
