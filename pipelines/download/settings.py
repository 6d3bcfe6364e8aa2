"""Settings of what is downloaded: the section `download` of a recipe."""

from __future__ import annotations

import ipaddress
from typing import Annotated, Literal

from pydantic import Field, field_validator, model_validator

from ...infra.fields import Count, Positive, Section, UrlList
from . import failures

DIRECTIVES = ("noai", "noimageai", "noindex", "noimageindex", "tdm-reservation")


class Download(Section):
    """A table of URLs or of texts, and how its rows become shards. See docs/prepare/download.md."""

    table: (
        UrlList  # TSV, CSV, JSONL (each also as .gz, .bz2, .zst), Parquet; files, globs, brace patterns of any storage
    )
    out: str  # the folder of the shards, which `samples` then names
    columns: list[str] = []  # names of a table without a header; found unless given
    delimiter: Annotated[str, Field(min_length=1, max_length=1)] | None = None  # of CSV or TSV; found unless given
    url: str | None = None  # column; url, URL, image_url, ... unless given
    caption: str | None = None
    text: str | None = None  # column of a table of texts, of which nothing is fetched; found where there are no URLs
    hash: str | None = None  # column with MD5, SHA-1 or SHA-256 of the bytes, in hex
    shard_size: Positive = 10_000  # rows of the table that one shard takes
    size: Positive | None = 256  # pixels of the shorter side; null keeps the bytes as they came
    min_size: Count = 0  # smaller images, by their shorter side, are left out
    quality: Annotated[int, Field(ge=1, le=100)] = 95  # of JPEGs that are made smaller

    fetcher: Literal["fourmill", "img2dataset"] = "fourmill"
    contact: str = ""  # a page or address, which web servers are sent
    user_agent: str | None = None  # in place of fourmill's own, which names the contact
    robots: bool = True
    opt_out: list[str] = list(DIRECTIVES)  # headers by which a page says no; [] to not look at them
    allow: list[str] = []  # addresses, networks and hosts that may be private
    connections: Positive = 64  # of one worker at a time
    per_host: Positive | None = 4  # connections to one host, of the whole cluster; null for any number
    host_interval: Annotated[float, Field(ge=0)] = 0.0  # seconds between two requests to one host, of the whole cluster
    timeout: Annotated[float, Field(gt=0)] = 30.0  # seconds for one URL, from the first byte sent to the last that came
    slice_minutes: Annotated[float, Field(gt=0)] = 60.0  # what is left of a slice then has failed
    redirects: Count = 5
    retries: Count = 2  # of one URL at once, for failures of the classes `retry`
    retry: list[str] = list(failures.PASSING)
    longest_wait: Annotated[float, Field(ge=0)] = 120.0  # seconds; a server that asks for more is not waited for
    max_mib: Annotated[float, Field(gt=0)] = 32.0  # of one response
    buffer_mib: Annotated[float, Field(gt=0)] = 256.0  # of all responses that one worker holds

    @field_validator("allow")
    @classmethod
    def _networks(cls, value: list[str]) -> list[str]:
        for one in value:
            if "/" in one:
                try:
                    ipaddress.ip_network(one, strict=False)
                except ValueError:
                    raise ValueError(
                        f"{one!r} is no network; expected a host, an address, or a network like 10.0.0.0/8"
                    ) from None
        return value

    @field_validator("retry")
    @classmethod
    def _classes(cls, value: list[str]) -> list[str]:
        failures.check_classes(value)
        return value

    @model_validator(mode="after")
    def _one_kind(self) -> Download:
        if self.text is not None and (other := next((n for n in ("url", "caption", "hash") if getattr(self, n)), "")):
            raise ValueError(f"text says that rows are texts, of which nothing is fetched; leave out {other}")
        return self
