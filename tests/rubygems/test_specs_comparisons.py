"""What processes tell each other of comparing upstream's legacy index with the published one."""

from pathlib import Path

from mirror.catalog import Catalog, SharedLog
from mirror.catalog.sqlite import SQLite
from mirror.rubygems.index import SpecsKind
from mirror.rubygems.log.specs_comparisons import SpecsComparison, SpecsComparisons

KIND: SpecsKind = "specs"
RESULT = SpecsComparison(log='"a"', revision="1", same=True, at=0.0)


async def test_a_result_that_another_version_has_stored_is_passed_over_and_replaced(tmp_path: Path) -> None:
    database = SQLite(tmp_path / "catalog.sqlite")
    await database.open()
    log = SharedLog(Catalog(database).logs, "specs r")
    assert await log.replace(b'{"specs": {"is": "of another version"}}')
    first, second = (SpecsComparisons(SharedLog(Catalog(database).logs, "specs r")) for _ in range(2))
    await first.read_on()
    assert first.known == {}
    await first.put(KIND, RESULT)
    await second.read_on()
    assert second.known == {KIND: RESULT}
    await database.close()
