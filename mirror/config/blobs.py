"""[blobs]: where the bytes of files are kept, when that is not the data directory."""

import re
from typing import Annotated, Literal, NamedTuple, Self
from urllib.parse import urlsplit

from pydantic import AfterValidator, BeforeValidator, model_validator

from mirror.config.values import Section, Size, size

SCHEMES = ("s3", "gs", "az")
"""The kinds of object stores: S3 and what is compatible with it, Google Cloud Storage, Azure Blob Storage."""

_OBJECTS = re.compile(r"(?:s3|gs|az)://[a-z0-9][a-z0-9._-]{1,221}(?:/[A-Za-z0-9._-]{1,100}){0,8}/?", re.ASCII)


class ObjectLocation(NamedTuple):
    """The place of a mirror's objects in an object store."""

    scheme: str
    """One of SCHEMES."""
    bucket: str
    prefix: str
    """In front of the names of all objects; without slashes at its ends, empty for the whole bucket."""


def object_url(value: str) -> str:
    """Return the URL of a bucket, perhaps with a prefix: "s3://bucket/prefix". Raises ValueError."""
    if not _OBJECTS.fullmatch(value) or any(set(part) == {"."} for part in value.split("/")[2:]):
        raise ValueError(
            'should be "s3://bucket/prefix", "gs://bucket/prefix" or "az://container/prefix", without credentials'
        )
    return value


def endpoint_url(value: str) -> str:
    """Return the http or https URL of an object store's server, without credentials. Raises ValueError."""
    try:
        parts = urlsplit(value)
        valid = parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
    except ValueError:
        valid = False
    if not valid:
        raise ValueError("should be an absolute http:// or https:// URL")
    if parts.username is not None or parts.query or parts.fragment:
        raise ValueError("should be a URL without credentials, query and fragment")
    return value.rstrip("/")


def redirect_size(value: object) -> object:
    """Return "never", or a size in bytes. Raises ValueError."""
    try:
        return value if value == "never" else size(value)
    except ValueError:
        raise ValueError('should be "never", or a size: bytes, or text such as "16MB"') from None


class BlobsSettings(Section):
    """[blobs]: an object store in place of the data directory, for the bytes of files."""

    url: Annotated[str, AfterValidator(object_url)] | None = None
    """The bucket and a prefix: "s3://bucket/prefix", "gs://…" or "az://…". Without it, files are in the data directory.
    Needs `pip install 'mirror[objects]'`; credentials come from the environment and files, as usual for each store."""
    endpoint: Annotated[str, AfterValidator(endpoint_url)] | None = None
    """The server, for stores that are compatible with one of these: "https://objects.example"."""
    cache: Size = 50_000_000_000
    """How much of it may lie in the data directory as well; the least recently used goes first."""
    redirect: Annotated[Literal["never"] | int, BeforeValidator(redirect_size)] = "never"
    """Which files clients fetch from the object store themselves, by a signed redirect: those larger than this size.
    Never pages, metadata, the gem index, a HEAD, or what policy blocks."""

    @property
    def location(self) -> ObjectLocation | None:
        """The place of the objects; None where files are in the data directory."""
        if self.url is None:
            return None
        scheme, _, rest = self.url.partition("://")
        bucket, _, prefix = rest.partition("/")
        return ObjectLocation(scheme, bucket, prefix.strip("/"))

    @model_validator(mode="after")
    def _belong_to_a_url(self) -> Self:
        if self.url is None and (self.endpoint is not None or self.redirect != "never"):
            raise ValueError('has an endpoint or a redirect, but no url: set it to "s3://bucket/prefix", for example')
        return self
