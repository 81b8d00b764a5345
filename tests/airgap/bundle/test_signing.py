"""Keys: created, passed on, trusted; and which signatures are refused."""

import stat
from pathlib import Path

import pytest

from mirror.airgap.bundle.format import DamagedBundle
from mirror.airgap.bundle.signing import Keys, Signer, parse_key
from mirror.errors import Conflict, Forbidden, Invalid, NotFound


def signer(keys: Keys) -> Signer:
    own = keys.own()
    assert own is not None
    return own


def test_the_private_key_is_for_its_owner_alone(tmp_path: Path) -> None:
    Keys(tmp_path).create("a")
    (path,) = (tmp_path / "keys").glob("*.key")
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700


def test_there_is_one_key_and_it_stays(tmp_path: Path) -> None:
    key = Keys(tmp_path).create("a")
    with pytest.raises(Conflict, match="There is a key already"):
        Keys(tmp_path).create("b")
    assert signer(Keys(tmp_path)).public == key


def test_what_is_handed_on_is_what_was_made(tmp_path: Path) -> None:
    key = Keys(tmp_path).create("ci@build-host")
    assert parse_key(f"{key.line}\n") == key


def test_only_who_is_trusted_is_believed(tmp_path: Path) -> None:
    ours, theirs = Keys(tmp_path / "ours"), Keys(tmp_path / "theirs")
    key = theirs.create("theirs")
    signature = signer(theirs).sign(b"content")
    with pytest.raises(Forbidden, match="which is not trusted here"):
        ours.verify(b"content", signature)
    ours.trust(key)
    assert ours.verify(b"content", signature) == key
    with pytest.raises(DamagedBundle, match="is altered"):
        ours.verify(b"other content", signature)
    ours.distrust(key.id)
    with pytest.raises(Forbidden):
        ours.verify(b"content", signature)
    with pytest.raises(NotFound):
        ours.distrust("../../keys")


@pytest.mark.parametrize("text", ["", "x", "mirror-ed25519 AAAA a", "ssh-ed25519 AAAA", "mirror-ed25519 ../.. a"])
def test_what_is_no_key_is_refused(text: str) -> None:
    with pytest.raises(Invalid, match="That is not a public key"):
        parse_key(text)


@pytest.mark.parametrize("name", ["", "a b", "../a", "a\nb"])
def test_a_name_is_one_word(tmp_path: Path, name: str) -> None:
    with pytest.raises(Invalid):
        Keys(tmp_path).create(name)


@pytest.mark.parametrize("signature", [b"", b"\xff\x00", b"ed25519 0123456789abcdef AAAA", b"rsa 0 0"])
def test_what_is_no_signature_is_refused(tmp_path: Path, signature: bytes) -> None:
    with pytest.raises(DamagedBundle, match="signature is malformed"):
        Keys(tmp_path).verify(b"", signature)
