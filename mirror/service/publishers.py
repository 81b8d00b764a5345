"""What changes the uploads of each repository: for the mirror, and for commands, which need not import all of that."""

from mirror.config import Settings
from mirror.index.publish import Publisher
from mirror.service.ecosystems import ECOSYSTEMS
from mirror.service.store import Store


def publishers(settings: Settings, store: Store) -> dict[str, Publisher]:
    """Return what changes the uploads of each repository, by the repository's name."""
    return {
        name: Publisher(
            name,
            ECOSYSTEMS[one.format].format,
            store.catalog,
            store.blobs,
            store.records,
            store.journal,
            store.isolated,
            store.clock,
        )
        for name, one in settings.repositories.items()
    }
