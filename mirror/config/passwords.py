"""Passwords for other servers: in the settings, in a file, or in a systemd credential."""

import os
from pathlib import Path

from pydantic import SecretStr


def read_password(password: SecretStr | None, password_file: Path | None, credential: str | None) -> SecretStr | None:
    """Return the password from the one place that is given, read at each call; None without any. Raises ValueError."""
    if sum(given is not None for given in (password, password_file, credential)) > 1:
        raise ValueError("should have only one of password, password_file and credential")
    if credential is not None:
        directory = os.environ.get("CREDENTIALS_DIRECTORY")
        if not directory:
            raise ValueError("names a credential, but systemd has not given any (CREDENTIALS_DIRECTORY is not set)")
        return content(Path(directory, credential), f"the credential {credential!r}")
    if password_file is not None:
        return content(password_file, "password_file")
    return password


def content(path: Path, what: str) -> SecretStr:
    """Return what a file contains, without the space around it; `what` is how a message calls it. Raises ValueError."""
    try:
        with path.open("rb") as file:
            text = file.read(65536).decode().strip()
    except (OSError, UnicodeDecodeError):
        raise ValueError(f"cannot read {what}") from None
    if not text:
        raise ValueError(f"finds nothing in {what}")
    return SecretStr(text)
