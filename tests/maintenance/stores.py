"""The store of a serving mirror, as tests of its maintenance open and fill it."""

from pathlib import Path

from mirror.config import Settings
from mirror.service.store import Store
from tests.builders import Built
from tests.serving import Serving
from tests.uploading import basic, fields_of, form, make_token


def settings(mirror: Serving) -> Settings:
    return mirror.mirror.settings


def store_of(mirror: Serving) -> Store:
    """The store of a running mirror, as a command in another process would open it: its own connections."""
    return Store(settings(mirror), mirror.mirror.clock)


async def upload(mirror: Serving, built: Built) -> None:
    token = await make_token(mirror)
    data = form(fields_of(built).items(), built.filename, built.content)
    assert (await mirror.ask("POST", "/legacy/", data, Authorization=basic(token))).status == 200


def stored(tmp_path: Path) -> set[str]:
    return {path.name for path in (tmp_path / "data" / "blobs").glob("??/*")}
