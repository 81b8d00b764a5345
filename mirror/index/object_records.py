"""The records of uploads as objects: `uploads/<repository>/<project>/<filename>.json` beside the blobs.

Every node of a mirror reads and writes the same ones, and a new record is only written where there is none, so that of
two nodes that add the same name at the same time one loses. The content is that of the files in `records`.
"""

import re
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import TYPE_CHECKING, TypeVar

import msgspec

from mirror.catalog import Upload
from mirror.errors import Invalid, StorageUnavailable
from mirror.index.records import DamagedRecord, check_names, encoded

if TYPE_CHECKING:
    from obstore.store import AzureStore, GCSStore, S3Store

UPLOADS = "uploads"
"""The prefix of the records' objects."""
AT_ONCE = 16
"""Records of one call that are read or written at the same time."""

_UNSAFE = re.compile(r"[^A-Za-z0-9._+!-]")

T = TypeVar("T")
R = TypeVar("R")


class ObjectRecords:
    """The records of all repositories in an object store. All methods block, and raise StorageUnavailable."""

    def __init__(self, connect: "Callable[[], S3Store | GCSStore | AzureStore]") -> None:
        """`connect` returns the client, when it is needed for the first time."""
        self._connect = connect
        self._client: S3Store | GCSStore | AzureStore | None = None

    def check(self, upload: Upload) -> None:
        """Check that there can be a record under these names. Raises Invalid."""
        check_names(upload)

    def add_all(self, uploads: Sequence[Upload]) -> list[Upload]:
        """Write new records, and return for each the one that is there now: another one when the name was taken."""
        return _each(self._add, uploads)

    def remove(self, upload: Upload) -> None:
        """Remove a record that was just added."""
        with _errors():
            self._store.delete(_key(upload))

    def replace(self, upload: Upload) -> None:
        """Replace the record of that name."""
        with _errors():
            self._store.put(_key(upload), encoded(upload))

    def read(self, repository: str) -> Iterator[Upload | DamagedRecord]:
        """Yield every record of a repository, by project and file name; for one that cannot be read, the error."""
        yield from _each(self._read, sorted(self._keys(repository)))

    def any(self, repository: str) -> bool:
        """Return whether a repository has any record."""
        return any(True for _ in self._keys(repository))

    @property
    def _store(self) -> "S3Store | GCSStore | AzureStore":
        if self._client is None:
            self._client = self._connect()
        return self._client

    def _add(self, upload: Upload) -> Upload:
        from obstore.exceptions import AlreadyExistsError, PreconditionError

        with _errors():
            try:
                self._store.put(_key(upload), encoded(upload), mode="create")
            except (AlreadyExistsError, PreconditionError):
                present = self._read(_key(upload))
                if isinstance(present, DamagedRecord):
                    raise present from None
                return present
        return upload

    def _read(self, key: str) -> Upload | DamagedRecord:
        try:
            with _errors():
                content = bytes(self._store.get(key).bytes())
            upload = msgspec.json.decode(content, type=Upload)
            if _key(upload) != key:
                return DamagedRecord(f"The record {key} is about another file.")
        except (msgspec.MsgspecError, UnicodeDecodeError, FileNotFoundError):
            return DamagedRecord(f"The record {key} cannot be read.")
        except Invalid as error:
            return DamagedRecord(f"The record {key} is about no file: {error}")
        return upload

    def _keys(self, repository: str) -> Iterator[str]:
        pages = self._store.list(f"{UPLOADS}/{_part(repository)}/").__iter__()
        while True:
            with _errors():
                page = next(pages, None)
            if page is None:
                return
            yield from (one["path"] for one in page if one["path"].endswith(".json"))


def _each(work: Callable[[T], R], things: Sequence[T]) -> list[R]:
    if len(things) < 2:
        return [work(one) for one in things]
    with ThreadPoolExecutor(AT_ONCE, thread_name_prefix="records") as pool:
        return list(pool.map(work, things))


def _key(upload: Upload) -> str:
    """Return the key of a record. Raises Invalid for names that cannot be those of files: they come from outside."""
    check_names(upload)
    return f"{UPLOADS}/{_part(upload.repository)}/{_part(upload.project)}/{_part(upload.filename)}.json"


def _part(name: str) -> str:
    """Return a name as a part of a key, for all stores the same."""
    return _UNSAFE.sub(lambda found: "".join(f"={byte:02x}" for byte in found[0].encode()), name)


@contextmanager
def _errors() -> Iterator[None]:
    from obstore.exceptions import AlreadyExistsError, BaseError, PreconditionError

    try:
        yield
    except (AlreadyExistsError, PreconditionError, FileNotFoundError):
        raise
    except (BaseError, OSError):
        raise StorageUnavailable("The object store cannot be used at this moment.") from None
