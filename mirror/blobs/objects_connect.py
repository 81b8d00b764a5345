"""The client of an object store, made from the settings, with the credentials that each kind of store usually has.

The library reads the environment and what it names: AWS_*, GOOGLE_*, AZURE_*, the files of web identities, the services
of the machine. Only a file of AWS profiles is read here, because the library leaves that out.
"""

import configparser
import os
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING

from mirror.blobs.objects_client import ANSWER_SECONDS, SILENCE_SECONDS
from mirror.config.blobs import BlobsSettings
from mirror.errors import ConfigError

if TYPE_CHECKING:
    from obstore.store import AzureStore, ClientConfig, GCSStore, RetryConfig, S3Config, S3Store

CONNECT_SECONDS = 5
"""Time in which a connection has to open."""
RETRIES = 2
"""How often a request that failed is repeated."""


def connect(settings: BlobsSettings) -> "S3Store | GCSStore | AzureStore":
    """Return the client of an object store, which asks nothing yet. Raises ConfigError."""
    try:
        from obstore.exceptions import BaseError
        from obstore.store import AzureStore, GCSStore, S3Store
    except ImportError:
        raise ConfigError(
            "blobs.url: object stores need a part of the mirror that is not installed: pip install 'mirror[objects]'"
        ) from None
    location = settings.location
    assert location is not None, "there is an object store"
    endpoint, bucket, prefix = settings.endpoint, location.bucket, location.prefix or None
    client, retry = _client_options(endpoint), _retry_options()
    try:
        match location.scheme:
            case "s3":
                s3 = _shared_credentials()
                if endpoint is not None:
                    s3["endpoint"] = endpoint
                return S3Store(bucket, prefix=prefix, config=s3, client_options=client, retry_config=retry)
            case "gs":
                return GCSStore(
                    bucket, prefix=prefix, config={"base_url": endpoint} if endpoint else {}, client_options=client,
                    retry_config=retry,
                )  # fmt: skip
            case _:
                return AzureStore(
                    bucket, prefix=prefix, config={"endpoint": endpoint} if endpoint else {}, client_options=client,
                    retry_config=retry,
                )  # fmt: skip
    except (BaseError, ValueError, OSError):  # whose text may show what is secret
        raise ConfigError(
            "blobs.url: the environment and files of this process have no usable credentials for the object store"
        ) from None


def _client_options(endpoint: str | None) -> "ClientConfig":
    return {
        "allow_http": endpoint is not None and endpoint.startswith("http:"),
        "connect_timeout": timedelta(seconds=CONNECT_SECONDS),
        "read_timeout": timedelta(seconds=SILENCE_SECONDS),
        "timeout": timedelta(days=1),  # of a whole file, however large
        "user_agent": "mirror",
    }


def _retry_options() -> "RetryConfig":
    return {
        "max_retries": RETRIES,
        "retry_timeout": timedelta(seconds=ANSWER_SECONDS),
        "backoff": {"init_backoff": timedelta(milliseconds=100), "max_backoff": timedelta(seconds=2), "base": 2},
    }


def _shared_credentials() -> "S3Config":
    """Return the keys of AWS_PROFILE in AWS_SHARED_CREDENTIALS_FILE, where the environment has none itself."""
    file = os.environ.get("AWS_SHARED_CREDENTIALS_FILE")
    if os.environ.get("AWS_ACCESS_KEY_ID") or not file:
        return {}
    profiles = configparser.ConfigParser(interpolation=None)
    found: S3Config = {}
    try:
        profiles.read_string(Path(file).read_text(encoding="utf-8"))
        profile = profiles[os.environ.get("AWS_PROFILE", "default")]
        found["access_key_id"] = profile["aws_access_key_id"]
        found["secret_access_key"] = profile["aws_secret_access_key"]
        if token := profile.get("aws_session_token"):
            found["session_token"] = token
    except (OSError, UnicodeDecodeError, configparser.Error, KeyError):
        raise ConfigError(
            "AWS_SHARED_CREDENTIALS_FILE: should be a readable file of credentials with the profile of AWS_PROFILE"
        ) from None
    return found
