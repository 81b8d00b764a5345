"""The upload form of twine, uv, Poetry, PDM and Flit.

Everything about a file is read from the file; the form only has to agree with it.

The surprise: attestations (PEP 740) are checked to be about these bytes and stored, but their signatures are not
verified: that needs a transparency log, which a mirror may not reach, and installers verify them anyway.
"""

from pathlib import Path

from aiohttp import web
from packaging.specifiers import InvalidSpecifier, SpecifierSet

from mirror.auth import Guard, Identity
from mirror.auth.audit import address_of, audit
from mirror.config import LimitsSettings
from mirror.errors import Conflict, Invalid, TooLarge
from mirror.index.additions import AlreadyUploaded, Change
from mirror.index.publish import Publisher
from mirror.model import AcceptedUpload
from mirror.pypi.names import canonical, canonical_version, kind_of, parse_filename
from mirror.pypi.provenance import from_attestations
from mirror.server.facts import facts_of
from mirror.server.receive import Form, incoming, receive_form

_DIGESTS = {"md5_digest": "md5", "sha256_digest": "sha256", "blake2_256_digest": "blake2b_256"}
_FILETYPES = {"bdist_wheel": "wheel", "sdist": "sdist"}


class UploadRoutes:
    """The handler of one repository's uploads."""

    def __init__(self, publisher: Publisher, guard: Guard, directory: Path, limits: LimitsSettings, mount: str) -> None:
        """`directory` is for files while they are received."""
        self._publisher = publisher
        self._guard = guard
        self._directory = directory
        self._limits = limits
        self._prefix = mount.rstrip("/")

    def table(self) -> list[web.RouteDef]:
        """Return the routes: every URL that clients may be configured with, as they refuse redirects."""
        paths = ("/legacy/", "/legacy", "/", "/simple/", "/simple")
        return [web.post(f"{self._prefix}{path}", self.upload) for path in paths]

    async def upload(self, request: web.Request) -> web.Response:
        """Store a new file; the same bytes again are accepted too."""
        facts = facts_of(request)
        facts.kind, facts.repository = "upload", self._publisher.repository
        try:
            change = await self._upload(request)
        except AlreadyUploaded as error:
            # twine --skip-existing looks for these words, in the reason of a 400 or in its body.
            kind = "deleted" if error.deleted else f"sha256 {error.digest}"
            words = "File name was used before" if error.deleted else "File already exists"
            return _refusal(f"{words} ({error.filename}, {kind}): {error}")
        except TooLarge:
            raise
        except (Invalid, Conflict) as error:
            return _refusal(str(error))
        return web.Response(text=f"{change.upload.filename} is here.\n")

    async def _upload(self, request: web.Request) -> Change:
        async def require(project: str) -> Identity:
            return await self._guard.require(request, "upload", self._publisher.repository, project)

        async def accept(form: Form) -> None:
            await require(parse_filename(form.filename or "").project)

        await self._guard.require_any(request, "upload", self._publisher.repository)
        async with incoming(self._directory) as file:
            form = await receive_form(request, "content", file, self._limits, accept)
            if form.filename is None:
                await require(canonical(form.required("name")))
                raise Invalid("The form has no file: it should be in the field 'content'.")
            who = await require(parse_filename(form.filename).project)
            check_action(form)
            attestations = form.value("attestations") or ""
            accepted = await self._publisher.inspect(form.filename, file.path, bool(attestations))
            check_form(form, accepted)
            document = from_attestations(attestations, accepted.file) if attestations else ""
            change = await self._publisher.add(
                file.path, accepted, by=str(who), origin=address_of(request), attestations=document
            )
        if change.serial is not None:
            audit(
                "upload", who=str(who), client=address_of(request), serial=change.serial,
                repository=self._publisher.repository, project=accepted.project, filename=form.filename,
            )  # fmt: skip
        return change


def _refusal(reason: str) -> web.Response:
    """Return a 400 with the reason in its status line too, which is all that some clients show."""
    line = " ".join(reason.split())[:300].encode("latin-1", "replace").decode("latin-1")
    return web.Response(status=400, reason=line, text=f"{reason}\n")


def check_action(form: Form) -> None:
    """Check that the form is an upload. Raises Invalid."""
    if (action := form.value(":action")) != "file_upload":
        raise Invalid(f"The form's ':action' is {(action or '')[:40]!r}: only 'file_upload' is known here.")
    if (version := form.value("protocol_version")) not in (None, "1"):
        raise Invalid(f"The form's 'protocol_version' is {(version or '')[:20]!r}: only '1' is known here.")


def check_form(form: Form, accepted: AcceptedUpload) -> None:
    """Check that the form agrees with the metadata in the file. Raises Invalid."""
    file = accepted.file
    if canonical(name := form.required("name")) != accepted.project:
        raise Invalid(f"The form is about {name[:80]!r}, but the file is one of {accepted.project!r}.")
    if canonical_version(version := form.required("version")) != file.version:
        raise Invalid(f"The form says version {version[:80]!r}, but the file is version {file.version!r}.")
    filetype, kind = form.required("filetype"), kind_of(file.filename)
    if _FILETYPES.get(filetype) != kind:
        raise Invalid(f"The form's 'filetype' is {filetype[:40]!r}, but the file is named like a {kind}.")
    pyversion = form.value("pyversion")
    if pyversion and (pyversion == "source") != (kind == "sdist"):
        raise Invalid(f"The form's 'pyversion' is {pyversion[:40]!r}, which no {kind} has.")
    requires = form.value("requires_python")
    if requires and not _same_specifiers(requires, file.requires or ""):
        raise Invalid(f"The form requires Python {requires[:80]!r}, but the file {(file.requires or 'any')[:80]!r}.")
    digests = {**file.extra.get("digests", {}), **file.digests}
    for field, algorithm in _DIGESTS.items():
        promised = form.value(field)
        if promised and promised.strip().lower() != digests[algorithm]:
            raise Invalid(
                f"The {algorithm} of the file is {digests[algorithm]}, but the form promises {promised[:128]!r}."
            )


def _same_specifiers(one: str, other: str) -> bool:
    try:
        return SpecifierSet(one[:4096]) == SpecifierSet(other)
    except InvalidSpecifier:
        return one.strip() == other.strip()
