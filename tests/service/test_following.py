"""What processes tell each other of following another mirror."""

from pathlib import Path
from types import SimpleNamespace
from typing import cast

import msgspec

from mirror.airgap.follow.follower import Follower
from mirror.api.state import FollowState
from mirror.catalog import Catalog
from mirror.catalog.sqlite import SQLite
from mirror.service.following import _show_reported


async def test_a_state_that_another_version_has_reported_is_passed_over(tmp_path: Path) -> None:
    database = SQLite(tmp_path / "catalog.sqlite")
    await database.open()
    cursors = Catalog(database).cursors
    waiting = cast(Follower, SimpleNamespace(name="f", state=FollowState(serial=3)))
    await cursors.report("f", '{"serial": "of another version"}')
    await _show_reported(waiting, cursors)
    assert waiting.state.serial == 3
    await cursors.report("f", msgspec.json.encode(FollowState(serial=5)).decode())
    await _show_reported(waiting, cursors)
    assert waiting.state.serial == 5
    await database.close()
