"""Every error that the mirror raises on purpose, sorted by whose fault it is.

A message is one clear sentence, fit to be shown to the person at the other end: it never contains a secret, a path of
this machine or a traceback. Facts that code needs are fields, never only text. One table, in
`mirror.server.middleware`, gives each its HTTP status.
"""


class MirrorError(Exception):
    """Base class of every error that the mirror raises on purpose."""


class LostLease(MirrorError):
    """Another process has taken over the work, so that nothing more of it is done here."""

    def __init__(self, name: str) -> None:
        super().__init__(f"The lease {name!r} has gone to another process.")
        self.name = name


class NotFound(MirrorError):
    """The requested thing does not exist."""

    existed = False
    """Whether the one that answered says that it did exist."""


class UnknownProject(NotFound):
    """No source of the repository has a project of that name."""

    def __init__(self, name: str) -> None:
        super().__init__(f"No project named {name!r} is known here.")
        self.name = name


class ReservedName(UnknownProject):
    """A source that has no project of that name any more, or is ours, keeps the name from the sources after it."""

    def __init__(self, name: str) -> None:
        super().__init__(name)
        self.args = (
            f"No project named {name!r} is known here. The index that had it does so no longer, and no other one is"
            f" asked for it until the operator runs: mirror release {name}",
        )


class GoneForGood(NotFound):
    """An upstream answered 410: it had such a thing, and has it no longer."""

    existed = True


class UnknownFile(NotFound):
    """The project exists, but has no such file."""

    def __init__(self, project: str, filename: str) -> None:
        super().__init__(f"The project {project!r} has no file {filename!r}.")
        self.project = project
        self.filename = filename


class NoSidecar(UnknownFile):
    """A file out of which no sidecar can be made."""


class Invalid(MirrorError):
    """The client sent something malformed or contradictory."""


class TooLarge(Invalid):
    """The client sent more than the configured limit."""


class InvalidLock(Invalid):
    """A lock or requirements file that cannot be used; `line` is None where the whole file is at fault."""

    def __init__(self, file: str, line: int | None, reason: str) -> None:
        place = file if line is None else f"{file}, line {line}"
        super().__init__(f"{place}: {reason}.")
        self.file = file
        self.line = line
        self.reason = reason


class Conflict(MirrorError):
    """The request contradicts what is stored; stored files are never overwritten."""


class Unauthorized(MirrorError):
    """The request has no credentials, or wrong ones."""


class Forbidden(MirrorError):
    """The client is known, but does not have the right."""


class Misdirected(MirrorError):
    """The request names a host that this mirror does not have."""


class Blocked(MirrorError):
    """Policy refuses the file; `rule` and `reason` are those of the settings."""

    def __init__(self, filename: str, rule: str, reason: str) -> None:
        super().__init__(f"{filename} is blocked here by the rule {rule!r}: {reason}")
        self.filename = filename
        self.rule = rule
        self.reason = reason


class Unavailable(MirrorError):
    """The answer may exist, but cannot be given at this moment. `retry_after` is in seconds."""

    def __init__(self, message: str, retry_after: float = 10.0) -> None:
        super().__init__(message)
        self.retry_after = retry_after


class StorageError(MirrorError):
    """The store cannot keep what has to be kept: what comes from upstream is served without it."""


class StorageFull(StorageError):
    """The store has no room for what has to be kept."""


class StorageUnavailable(StorageError, Unavailable):
    """The database or the object store cannot be reached at this moment; whether it has kept something is not known."""


class ConstraintViolation(MirrorError):
    """A transaction contradicts a constraint of the catalog's tables, and nothing of it is stored."""


class Offline(Unavailable):
    """The requested thing is not held, and the settings forbid asking an upstream."""


class UpstreamError(MirrorError):
    """An upstream did not give what was requested."""

    cause = "other"
    """One word for the metrics: connect, timeout, slow, status, paused, refused, protocol, digest."""


class UpstreamUnavailable(UpstreamError, Unavailable):
    """The upstream cannot be reached, is too slow, or answers with an error of its own."""

    cause = "connect"


class UpstreamRefused(UpstreamError):
    """The upstream answered 401 or 403: the credentials in the settings are missing, wrong or not enough."""

    cause = "refused"


class UpstreamProtocolError(UpstreamError):
    """The upstream's response does not parse, is too large, or contradicts its index."""

    cause = "protocol"


class AbsentPage(UpstreamProtocolError):
    """The upstream's index lists a project of which the upstream has no page."""


class DigestMismatch(UpstreamProtocolError):
    """The received bytes are not those that the index promises."""

    cause = "digest"

    def __init__(self, filename: str, algorithm: str, expected: str, actual: str) -> None:
        super().__init__(f"{filename} has {algorithm} {actual}, but its index promises {expected}.")
        self.filename = filename
        self.algorithm = algorithm
        self.expected = expected
        self.actual = actual


class MissingBlob(MirrorError):
    """The store does not hold a blob of that digest."""

    def __init__(self, digest: str) -> None:
        super().__init__(f"No blob {digest} is held.")
        self.digest = digest


class ConfigError(MirrorError):
    """The configuration is wrong; the message names the file and the place in it."""


class Misconfigured(ConfigError):
    """A setting that is wrong in the light of others; `place` is the path to it from the top."""

    def __init__(self, place: tuple[str | int, ...], sentence: str) -> None:
        super().__init__(sentence)
        self.place = place
