"""The messages between the mirror and its isolated processes: plain values as MessagePack, behind a length."""

import struct

import msgspec

LENGTH = struct.Struct(">Q")
MOST_RESULT_BYTES = 1 << 30
"""The longest result that is read."""


class Call(msgspec.Struct, frozen=True, array_like=True):
    """A function to be called."""

    function: str
    """Its import path, `package.module:name`."""
    content: bytes
    """Its first argument."""
    options: tuple[str, ...] = ()
    """Its other arguments."""


class CallResult(msgspec.Struct, frozen=True, array_like=True):
    """The result of a call."""

    value: bytes = b""
    error: str = ""
    """The class of an error of the mirror's own, below `mirror.errors`; empty when there is a value."""
    sentence: str = ""
    """The text of the error."""
