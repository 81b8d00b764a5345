"""The types of single settings: durations, sizes, addresses, mounts, URLs, lists.

Each is a pure function from what a file or a variable contains to the value that the program uses. It raises
ValueError with half a sentence about what is expected, which never repeats the input: that may be a secret.

The surprise: a list may be one string, split at commas, as environment variables have no lists.
"""

import ipaddress
import json
import math
import re
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    PlainSerializer,
    PlainValidator,
    SecretStr,
    StringConstraints,
)
from yarl import URL

SECONDS = {"": 1, "ms": 0.001, "s": 1, "m": 60, "h": 3600, "d": 86400, "w": 604800} | {
    word + plural: size
    for word, size in (("second", 1), ("minute", 60), ("hour", 3600), ("day", 86400), ("week", 604800))
    for plural in ("", "s")
}
BYTES = {"": 1, "B": 1} | {
    f"{letter}{unit}": base**power
    for power, letter in enumerate("KMGT", start=1)
    for unit, base in (("B", 1000), ("iB", 1024))
}
RESERVED = frozenset(
    {"-", ".", "..", "api", "at", "gems", "info", "integrity", "legacy", "names"}
    | {"packages", "pypi", "quick", "simple", "versions"}
)
"""Path segments that the protocols or the mirror's own endpoints use, so that no mount may contain them."""


class Section(BaseModel):
    """One table of the file: frozen, and an unknown key is an error."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class WordList:
    """Marks a field whose environment variable is passed on as text, since it is not JSON."""


class Text(str):
    """The text of an environment variable: the only text that may stand for a number or a truth value."""


def flag(value: object) -> bool:
    """Return true or false, also from the text of a variable. Raises ValueError."""
    match value:
        case bool():
            return value
        case Text() if value.lower() in {"true", "yes", "on", "1"}:
            return True
        case Text() if value.lower() in {"false", "no", "off", "0"}:
            return False
    raise ValueError("should be true or false")


def whole(value: object) -> int:
    """Return a whole number, also from the text of a variable. Raises ValueError."""
    match value:
        case int() if not isinstance(value, bool):
            return value
        case Text() if re.fullmatch(r"[0-9]{1,18}", value):
            return int(value)
    raise ValueError("should be a whole number")


def seconds(value: object) -> float:
    """Return seconds from a number, or from text such as "90", "10m", "1h", "3d" or "forever". Raises ValueError."""
    match value:
        case bool():
            raise ValueError('should be a duration: seconds, or text such as "10m", "1h", "3d"')
        case int() | float() if value >= 0:
            return float(value)
        case "forever":
            return math.inf
        case str() if found := re.fullmatch(r"([0-9]{1,12}(?:\.[0-9]{1,6})?) *([a-z]*)", value.strip()):
            if found[2] in SECONDS:
                return float(found[1]) * SECONDS[found[2]]
    raise ValueError('should be a duration: seconds, or text such as "10m", "1h", "3d"')


def size(value: object) -> int:
    """Return bytes from a whole number, "64MB" (powers of 1000) or "64MiB" (powers of 1024). Raises ValueError."""
    match value:
        case bool():
            raise ValueError('should be a size: bytes, or text such as "64MB", "4GiB"')
        case int() if value >= 0:
            return value
        case str() if found := re.fullmatch(r"([0-9]{1,12}(?:\.[0-9]{1,6})?) *([A-Za-z]*)", value.strip()):
            if found[2] in BYTES:
                return int(float(found[1]) * BYTES[found[2]])
    raise ValueError('should be a size: bytes, or text such as "64MB", "4GiB"')


@dataclass(frozen=True, slots=True)
class Address:
    """An address to listen at: a TCP host and port (0 for any free one), or the path of a Unix socket."""

    host: str = ""
    port: int = 0
    path: Path | None = None

    def __str__(self) -> str:
        if self.path:
            return f"unix:{self.path}"
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"

    @property
    def url(self) -> URL:
        """The URL at which a client on this machine reaches a TCP address."""
        host = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(self.host, self.host)
        return URL.build(scheme="http", host=host, port=self.port, path="/")


def address(value: object) -> Address:
    """Parse "host:port", "[::1]:port" or "unix:/path". Raises ValueError."""
    if isinstance(value, Address):
        return value
    if isinstance(value, str):
        if value.startswith("unix:/") and len(value.encode()) < 108:  # the longest path that a socket can have
            return Address(path=Path(value.removeprefix("unix:")))
        found = re.fullmatch(r"(?:\[([0-9A-Fa-f:.]+)\]|([A-Za-z0-9._-]+)):([0-9]{1,5})", value)
        if found and int(found[3]) <= 65535:
            return Address(host=found[1] or found[2], port=int(found[3]))
    raise ValueError('should be "host:port", "[::1]:port" or "unix:/path"')


def mount(value: str) -> str:
    """Return "/" or "/team", with one slash in front and none at the end. Raises ValueError."""
    segments = [segment for segment in value.split("/") if segment]
    if any(not re.fullmatch(r"[A-Za-z0-9._~-]{1,100}", segment) for segment in segments):
        raise ValueError("should be a path of letters, digits, '.', '_', '~' and '-'")
    if taken := RESERVED.intersection(segments):
        raise ValueError(f"may not contain {min(taken)!r}, which the protocols use: set another mount")
    return "/" + "/".join(segments)


def index_url(value: object) -> URL:
    """Return an absolute http or https URL, with a slash at its end so that paths can be joined. Raises ValueError."""
    try:
        url = value if isinstance(value, URL) else URL(str(value))
        valid = isinstance(value, str | URL) and url.scheme in {"http", "https"} and bool(url.host)
    except ValueError:
        valid = False
    if not valid:
        raise ValueError("should be an absolute http:// or https:// URL")
    if url.query_string or url.fragment:
        raise ValueError("should be a URL without query and fragment")
    return url if url.path.endswith("/") else url.with_path(url.path + "/")


def proxy_url(value: SecretStr) -> SecretStr:
    """Return the URL of an HTTP proxy; it may contain a password, and so is never shown. Raises ValueError."""
    index_url(value.get_secret_value())
    return value


def file_path(value: Path) -> Path:
    """Return an absolute path; `~` is the home directory. Raises ValueError."""
    try:
        return value.expanduser().absolute()
    except RuntimeError:
        raise ValueError("begins with ~, but the home directory is not known") from None


def readable_file(value: Path) -> Path:
    """Return the absolute path of a file that can be opened. Raises ValueError."""
    value = file_path(value)
    try:
        with value.open("rb"):
            return value
    except OSError as error:
        raise ValueError(f"names a file that cannot be read: {error.strerror}") from None


def listed(value: object) -> object:
    """Turn text into a list: a JSON array, or items separated by commas. Raises ValueError."""
    if not isinstance(value, str):
        return value
    if value.lstrip().startswith("["):
        try:
            return json.loads(value)
        except ValueError:
            raise ValueError("looks like a JSON array, but is not one") from None
    return tuple(item.strip() for item in value.split(",") if item.strip())


def patterns_or_true(value: object) -> object:
    """Turn text into a list of patterns; `true` stands for the pattern of all names, `false` for none."""
    match value.strip().lower() if isinstance(value, str) else value:
        case True | "true":
            return ("*",)
        case False | "false":
            return ()
    return listed(value)


def with_zone(value: datetime) -> datetime:
    """Return the time with a zone; without one it is UTC."""
    return value if value.tzinfo else value.replace(tzinfo=UTC)


def network(value: str) -> str:
    """Return an IP address, a network ("10.0.0.0/8") or "unix". Raises ValueError."""
    if value == "unix":
        return value
    try:
        return str(ipaddress.ip_network(value))
    except ValueError:
        raise ValueError('should be an address, a network such as "10.0.0.0/8", or "unix"') from None


def host_rule(value: str) -> str:
    """Return a host ("files.example"), all below one ("*.example"), an address or a network. Raises ValueError."""
    try:
        return str(ipaddress.ip_network(value.strip("[]")))
    except ValueError:
        pass
    if re.fullmatch(r"(?=.*[A-Za-z])(?:\*?\.)?[A-Za-z0-9_-]+(?:\.[A-Za-z0-9_-]+)*\.?", value):
        return value.lower()
    raise ValueError('should be a host, all hosts of a domain ("*.example"), an address, or a network ("10.0.0.0/8")')


def host_pattern(value: str) -> str:
    """Return a host name or a pattern of host names, without a port. Raises ValueError."""
    if re.fullmatch(r"[A-Za-z0-9._*-]{1,253}|[0-9A-Fa-f:.]{2,45}", value):
        return value.lower()
    raise ValueError('should be a host name without a port, or a pattern such as "*.example.com"')


def mode(value: object) -> int:
    """Return the mode of a file, from octal digits as text: "0660". Raises ValueError."""
    if isinstance(value, str) and re.fullmatch(r"0?[0-7]{3}", value):
        return int(value, 8)
    raise ValueError('should be the mode of a file as text, such as "0660"')


def workers(value: object) -> int:
    """Return a number of processes, 1 to 64; 0 for "auto". Raises ValueError."""
    if value == "auto":
        return 0
    try:
        number = int(value) if isinstance(value, Text) else value
    except ValueError:
        number = None
    if type(number) is int and 1 <= number <= 64:
        return number
    raise ValueError('should be a number of processes from 1 to 64, or "auto"')


Flag = Annotated[bool, BeforeValidator(flag)]
Workers = Annotated[int, BeforeValidator(workers)]
Mode = Annotated[int, BeforeValidator(mode)]
Network = Annotated[str, AfterValidator(network)]
Networks = Annotated[tuple[Network, ...], WordList, BeforeValidator(listed)]
HostRule = Annotated[str, AfterValidator(host_rule)]
HostRules = Annotated[tuple[HostRule, ...], WordList, BeforeValidator(listed)]

HostPatterns = Annotated[tuple[Annotated[str, AfterValidator(host_pattern)], ...], WordList, BeforeValidator(listed)]
Time = Annotated[datetime, AfterValidator(with_zone)]
Whole = Annotated[int, BeforeValidator(whole)]
Duration = Annotated[float, BeforeValidator(seconds)]
Size = Annotated[int, BeforeValidator(size)]
Mount = Annotated[str, AfterValidator(mount)]
IndexUrl = Annotated[URL, PlainValidator(index_url)]
ProxyUrl = Annotated[SecretStr, AfterValidator(proxy_url)]
FilePath = Annotated[Path, AfterValidator(file_path)]
ReadableFile = Annotated[Path, AfterValidator(readable_file)]
Pattern = Annotated[str, StringConstraints(min_length=1, max_length=200, pattern=r"^[A-Za-z0-9._*?-]+$")]

# WordList: `listed` splits the text of a variable.
Patterns = Annotated[tuple[Pattern, ...], WordList, BeforeValidator(listed)]
PatternsOrTrue = Annotated[tuple[Pattern, ...], WordList, BeforeValidator(patterns_or_true)]
ListenAddress = Annotated[Address, PlainValidator(address), PlainSerializer(str)]
Addresses = Annotated[tuple[ListenAddress, ...], WordList, BeforeValidator(listed)]
