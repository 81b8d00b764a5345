"""Provenance of files (PEP 740): made of uploaded attestations, and checked where an upstream has it.

Signatures are not verified: that needs a transparency log, which a mirror may not reach, and installers verify them
anyway.
"""

import base64
import binascii
from collections.abc import Sequence
from typing import Any

import msgspec

from mirror.errors import Invalid, TooLarge, UpstreamProtocolError
from mirror.model import File

ATTESTATIONS_LIMIT = 256 << 10
"""The largest attestations of one file, in bytes."""


class _Envelope(msgspec.Struct):
    statement: str
    signature: str


class _Attestation(msgspec.Struct):
    """An attestation of PEP 740, of which only the statement is read."""

    version: int
    verification_material: dict[str, Any]
    envelope: _Envelope


class _Subject(msgspec.Struct):
    name: str
    digest: dict[str, str]


class _Statement(msgspec.Struct):
    subject: list[_Subject]
    predicate_type: str = msgspec.field(name="predicateType")


def from_attestations(attestations: str, file: File) -> str:
    """Return the provenance object to serve (PEP 740) for uploaded attestations. Raises Invalid."""
    if len(attestations) > ATTESTATIONS_LIMIT:
        raise TooLarge(f"The attestations are larger than {ATTESTATIONS_LIMIT:,} bytes.")
    try:
        found = msgspec.json.decode(attestations, type=list[_Attestation])
        raw = msgspec.json.decode(attestations, type=list[msgspec.Raw])
        statements = [
            msgspec.json.decode(base64.b64decode(one.envelope.statement, validate=True), type=_Statement)
            for one in found
        ]
    except (msgspec.MsgspecError, binascii.Error, ValueError, RecursionError):
        raise Invalid("The attestations are not those that PEP 740 describes.") from None
    if not found or any(one.version != 1 for one in found):
        raise Invalid("There should be one attestation or more, of version 1.")
    _check_subjects(statements, file)
    bundle = {"publisher": {"kind": "mirror", "claims": None}, "attestations": raw}
    return msgspec.json.encode({"version": 1, "attestation_bundles": [bundle]}).decode()


def _check_subjects(statements: Sequence[_Statement], file: File) -> None:
    for statement in statements:
        if [(one.name, one.digest.get("sha256")) for one in statement.subject] != [(file.filename, file.sha256)]:
            raise Invalid(f"An attestation is about another file than {file.filename} with SHA-256 {file.sha256}.")


class _ListedEnvelope(msgspec.Struct):
    statement: Any


class _ListedAttestation(msgspec.Struct):
    envelope: _ListedEnvelope


class _Bundle(msgspec.Struct):
    attestations: list[_ListedAttestation]


class _Provenance(msgspec.Struct):
    version: int
    attestation_bundles: list[_Bundle]


def check_provenance(file: File, body: bytes) -> None:
    """Check that an upstream's document is the provenance of a file. Raises UpstreamProtocolError.

    Its URL is one that the upstream chose: what has another form is of no concern to clients, whatever it is.
    """
    about = (file.sha256 or file.filename).encode()
    try:
        found = msgspec.json.decode(body, type=_Provenance)
        statements = [each.envelope.statement for bundle in found.attestation_bundles for each in bundle.attestations]
        texts = [
            base64.b64decode(one, validate=True) if isinstance(one, str) else msgspec.json.encode(one)
            for one in statements
        ]
    except (msgspec.MsgspecError, binascii.Error, ValueError, RecursionError) as error:
        raise UpstreamProtocolError(f"What is linked as provenance of {file.filename} is none: {error}.") from error
    if found.version != 1 or not texts or any(about not in text for text in texts):
        raise UpstreamProtocolError(f"What is linked as provenance of {file.filename} is about another file.")
