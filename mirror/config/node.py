"""[node]: the processes that serve, and how they reach each other."""

from typing import Annotated, Self

from pydantic import AfterValidator, model_validator

from mirror.config.passwords import content
from mirror.config.values import Address, ReadableFile, Section, Workers, address
from mirror.runtime import processors

SECRET_CHARACTERS = 32
"""Characters that the secret of nodes has at least."""


def address_of_node(value: str) -> Address:
    """Return the host and port of the URL of a node. Raises ValueError."""
    found = address(value.removeprefix("http://").removesuffix("/"))
    if not value.startswith("http://") or found.path or not found.port:
        raise ValueError
    return found


def node_address(value: str) -> str:
    """Return the URL at which a node is reached, without a path. Raises ValueError."""
    try:
        found = address_of_node(value)
    except ValueError:
        raise ValueError(
            'should be "http://HOST:PORT", the address of this machine in the network of the nodes'
        ) from None
    if found.host in ("0.0.0.0", "::"):
        raise ValueError("should name the one address of this machine at which the other nodes reach it")
    return f"http://{found}"


class NodeSettings(Section):
    """[node]: the processes that serve, which share all that is stored."""

    workers: Workers = 1
    """How many processes answer on this machine, on the same addresses; "auto" for one on each processor. Memory and
    connections are divided among them."""
    address: Annotated[str, AfterValidator(node_address)] | None = None
    """Where the other nodes reach this one, at a port of its own: "http://10.0.0.5:8485". What one node is fetching,
    the others read from there, so that upstream is asked once for all. Without it, each node fetches for itself."""
    secret_file: ReadableFile | None = None
    """A file with what proves that they are nodes of one mirror, the same for all: `openssl rand -hex 32` makes one."""

    @model_validator(mode="after")
    def _has_both_or_neither(self) -> Self:
        if self.address is not None and self.secret_file is None:
            raise ValueError("has an address, but no secret_file: without it anyone could ask this node")
        if self.secret_file is not None and self.address is None:
            raise ValueError("has a secret_file, but no address at which the other nodes reach this one")
        self.secret()
        return self

    def secret(self) -> bytes:
        """Return what is in `secret_file`, read at each call; empty without one. Raises ValueError."""
        if self.secret_file is None:
            return b""
        secret = content(self.secret_file, "secret_file").get_secret_value().encode()
        if len(secret) < SECRET_CHARACTERS:
            raise ValueError(f"finds fewer than {SECRET_CHARACTERS} characters in secret_file")
        return secret

    @property
    def count(self) -> int:
        """The number of processes."""
        return self.workers or processors()
