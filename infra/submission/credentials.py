"""Which environment variables storage, the hub and trackers are reached with: their names, and never their values."""

from __future__ import annotations

import os
from collections.abc import Iterable

_S3 = (
    "AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN", "AWS_PROFILE", "AWS_ROLE_ARN",
    "AWS_WEB_IDENTITY_TOKEN_FILE", "AWS_SHARED_CREDENTIALS_FILE", "AWS_CONFIG_FILE", "AWS_DEFAULT_REGION", "AWS_REGION",
    "AWS_ENDPOINT_URL", "AWS_ENDPOINT_URL_S3", "AWS_CA_BUNDLE", "FSSPEC_S3",
)  # fmt: skip
_GCS = ("GOOGLE_APPLICATION_CREDENTIALS", "GCSFS_DEFAULT_PROJECT", "FSSPEC_GCS", "FSSPEC_GS")
_AZURE = (
    "AZURE_STORAGE_ACCOUNT_NAME", "AZURE_STORAGE_ACCOUNT_KEY", "AZURE_STORAGE_CONNECTION_STRING",
    "AZURE_STORAGE_SAS_TOKEN", "AZURE_CLIENT_ID", "AZURE_CLIENT_SECRET", "AZURE_TENANT_ID", "FSSPEC_ABFS",
)  # fmt: skip
OF_STORAGE = {
    **dict.fromkeys(("s3", "s3a"), _S3),
    **dict.fromkeys(("gs", "gcs"), _GCS),
    **dict.fromkeys(("abfs", "abfss", "az", "adl"), _AZURE),
}
OF_HUB = ("HF_TOKEN", "HF_ENDPOINT")
OF_TRACKERS = {"wandb": ("WANDB_API_KEY", "WANDB_BASE_URL"), "mlflow": ("MLFLOW_TRACKING_URI", "MLFLOW_TRACKING_TOKEN")}
# Of these the value is a file or a section of one: it means nothing on another machine.
OF_FILES = frozenset({
    "AWS_CA_BUNDLE", "AWS_CONFIG_FILE", "AWS_PROFILE", "AWS_SHARED_CREDENTIALS_FILE", "AWS_WEB_IDENTITY_TOKEN_FILE",
    "GOOGLE_APPLICATION_CREDENTIALS",
})  # fmt: skip


def of(urls: Iterable[str], trackers: Iterable[str] = ()) -> list[str]:
    """The variables that have to do with these places and trackers, and with the hub."""
    schemes = dict.fromkeys(url.partition("://")[0].lower() for url in urls if "://" in url)
    names = [name for scheme in schemes for name in OF_STORAGE.get(scheme, ())]
    names += [name for tracker in trackers for name in OF_TRACKERS.get(tracker, ())]
    return list(dict.fromkeys([*names, *OF_HUB]))


def set_here(urls: Iterable[str], trackers: Iterable[str] = ()) -> list[str]:
    """Those of them that are set in this process's environment."""
    return [name for name in of(urls, trackers) if os.environ.get(name)]
