"""What `gem push` requires: checked by pushing a gem, where the user named one for it."""

import gzip
import hashlib
import io
import tarfile
from functools import partial

from yarl import URL

from mirror.doctor import Check, Finding, IndexClient, Requirement, WireResponse
from mirror.errors import MirrorError
from mirror.rubygems.doctor.index import LOG_LIMIT, Index
from mirror.rubygems.log.versions_map import parse_versions
from mirror.rubygems.names import canonical
from mirror.rubygems.pages import parse_info

VERSION = "0.0.1"
_EPOCH = 315_532_800  # 1980, as zip files have it

_ACCEPTED = Requirement("rubygems/push", "A push is answered 200.", "gem push takes all else for a failure")
_AGAIN = Requirement(
    "rubygems/push-again",
    "The same gem again is answered 200.",
    "a release that was interrupted: CI repeats the push",
)
_OTHER = Requirement(
    "rubygems/push-other",
    "The same version with other bytes is 409.",
    "everyone who has locked the version: where it is accepted, released gems can be replaced",
)
_LOGIN = Requirement(
    "rubygems/push-login",
    "A push without a key is 401.",
    "everyone, if anyone may push; gem, which prompts for a login on 401",
)
_VISIBLE = Requirement(
    "rubygems/push-visible",
    "What was pushed is in /info at once, and /versions has its MD5.",
    "who installs right after a release: for bundler, what /versions does not list is not there",
)


def uploads(index: Index, project: str, token: str) -> list[Check]:
    """Return the check that pushes `project` 0.0.1, an empty gem, and the same gem again in the next run.

    Raises Invalid for a name that is none.
    """
    canonical(project)
    return [partial(_check, index, project, token)]


async def _check(index: Index, project: str, token: str) -> list[Finding]:
    url = index.root / "api" / "v1" / "gems"
    gem, other = gem_of(project, "1"), gem_of(project, "2")
    anonymous = await _push(index.client, url, "", gem)
    first = await _push(index.client, url, token, gem)
    found = [
        _LOGIN.judge(anonymous.status == 401, anonymous.phrase),
        _ACCEPTED.judge(first.status == 200, first.excerpt),
    ]
    if first.status != 200:
        return found
    again = await _push(index.client, url, token, gem)
    refused = await _push(index.client, url, token, other)
    return [
        *found,
        _AGAIN.judge(again.status == 200, again.excerpt),
        _OTHER.judge(refused.status == 409, refused.excerpt),
        await _visible(index, project, gem),
    ]


async def _visible(index: Index, project: str, gem: bytes) -> Finding:
    info = await index.client.get(index.root / "info" / project, Accept_Encoding="identity")
    if info.status != 200:
        return _VISIBLE.fails(f"/info/{project} is answered {info.phrase}")
    try:
        file = parse_info(info.body, project, index.root).file(f"{project}-{VERSION}.gem")
        log = await index.client.get(index.root / "versions", most=LOG_LIMIT, Accept_Encoding="gzip")
        promised = parse_versions(log.identity(LOG_LIMIT)).md5(project)
    except MirrorError as error:
        return _VISIBLE.fails(str(error))
    if file is None or file.sha256 != hashlib.sha256(gem).hexdigest():
        return _VISIBLE.fails("/info does not list it, or with another SHA-256")
    actual = hashlib.md5(info.body, usedforsecurity=False).hexdigest()
    return _VISIBLE.judge(promised == actual, f"{promised} in /versions, {actual} of /info")


async def _push(client: IndexClient, url: URL, token: str, gem: bytes) -> WireResponse:
    headers = {"Authorization": token, "Content-Type": "application/octet-stream"}
    return await client.send("POST", url, headers, gem, most=65536, part=True)


def gem_of(project: str, words: str) -> bytes:
    """Return a gem that installs nothing; equal arguments, equal bytes, so that a second run pushes the same gem."""
    data = gzip.compress(_tar({}), mtime=0)
    about = gzip.compress(_SPECIFICATION.format(name=project, version=VERSION, words=words).encode(), mtime=0)
    return _tar({"metadata.gz": about, "data.tar.gz": data})


def _tar(members: dict[str, bytes]) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=tarfile.USTAR_FORMAT) as archive:
        for path, content in members.items():
            entry = tarfile.TarInfo(path)
            entry.size, entry.mode, entry.mtime = len(content), 0o444, _EPOCH
            archive.addfile(entry, io.BytesIO(content))
    return buffer.getvalue()


_SPECIFICATION = """\
--- !ruby/object:Gem::Specification
name: "{name}"
version: !ruby/object:Gem::Version
  version: "{version}"
platform: ruby
authors:
- mirror
bindir: bin
date: 1980-01-01 00:00:00.000000000 Z
dependencies: []
description: ""
email: []
executables: []
extensions: []
extra_rdoc_files: []
files: []
homepage: ""
licenses: []
metadata: {{}}
require_paths:
- lib
required_ruby_version: !ruby/object:Gem::Requirement
  requirements:
  - - ">="
    - !ruby/object:Gem::Version
      version: "0"
required_rubygems_version: !ruby/object:Gem::Requirement
  requirements:
  - - ">="
    - !ruby/object:Gem::Version
      version: "0"
requirements: []
rubygems_version: 3.3.0
specification_version: 4
summary: "Check {words}"
test_files: []
"""
