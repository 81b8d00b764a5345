"""The life of `mirror serve`: sockets, signals, reloads, TLS, and notifications to systemd."""

import asyncio
import fcntl
import json
import os
import shutil
import signal
import socket
import ssl
import stat
import sys
import threading
import time
from collections.abc import AsyncIterator
from pathlib import Path

import aiohttp
import pytest
import trustme
from yarl import URL

from mirror.config import Settings
from mirror.errors import ConfigError, StorageFull, UpstreamProtocolError
from mirror.service.process import Service
from mirror.service.services import Mirror
from tests.builders import gem, wheel
from tests.serving import _toml, repositories, serving, spawned
from tests.simulator import Corrupt, Simulator, Stall, Status

ROOT = Path(__file__).parents[2]
WAIT = 60

# As systemd does: the sockets at descriptors 3 and up, their number in the environment, then the service itself.
ACTIVATE = """
import os, sys
os.dup2(int(sys.argv[1]), 3, inheritable=True)
os.environ.update(LISTEN_PID=str(os.getpid()), LISTEN_FDS="1")
os.execv(sys.executable, [sys.executable, "-m", "mirror", "serve", "--config", sys.argv[2]])
"""


class Manager:
    """The service manager: a notify socket, and a listening socket that outlives the service."""

    def __init__(self, directory: Path, simulator: Simulator, **settings: object) -> None:
        self.directory = directory
        self.notify = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self.notify.bind(str(directory / "notify"))
        self.notify.setblocking(False)
        self.listening = socket.create_server(("127.0.0.1", 0), backlog=1024)
        self.url = f"http://127.0.0.1:{self.listening.getsockname()[1]}"
        self.messages: list[str] = []
        self.table: dict[str, object] = {
            "data_dir": str(directory / "data"),
            "repositories": repositories(simulator),
            "limits": {"shutdown_grace": 20},
        } | settings
        self.write()

    def write(self, **changes: object) -> None:
        self.table |= changes
        text = "".join(f"{key} = {_toml(value)}\n" for key, value in self.table.items())
        (self.directory / "mirror.toml").write_text(text)

    async def start(self, watchdog: str = "") -> asyncio.subprocess.Process:
        fd = fcntl.fcntl(self.listening, fcntl.F_DUPFD, 20)
        environment = {name: value for name, value in os.environ.items() if not name.startswith("MIRROR_")}
        environment["NOTIFY_SOCKET"] = str(self.directory / "notify")
        if watchdog:
            environment["WATCHDOG_USEC"] = watchdog
        try:
            with (self.directory / "log").open("ab") as log:
                process = await asyncio.create_subprocess_exec(
                    sys.executable, "-c", ACTIVATE, str(fd), str(self.directory / "mirror.toml"),
                    pass_fds=[fd], stdout=log, stderr=log, env=environment, cwd=ROOT,
                )  # fmt: skip
        finally:
            os.close(fd)
        await self.receive("READY=1")
        return process

    async def receive(self, word: str) -> str:
        """Return the next message with this word; what came before it is kept in `messages`."""
        loop = asyncio.get_running_loop()
        async with asyncio.timeout(WAIT):
            while True:
                message = (await loop.sock_recv(self.notify, 4096)).decode()
                self.messages.append(message)
                if word in message.split("\n"):
                    return message

    @property
    def log(self) -> str:
        return (self.directory / "log").read_text()

    async def close(self) -> None:
        self.notify.close()
        self.listening.close()


@pytest.fixture
async def manager(tmp_path: Path, simulator: Simulator) -> AsyncIterator[Manager]:
    manager = Manager(tmp_path, simulator)
    yield manager
    await manager.close()


class Load:
    """The statuses that clients got, which send one request after another."""

    def __init__(self) -> None:
        self.running = True
        self.statuses: list[int] = []
        self._wanted = 0
        self._reached = asyncio.Event()

    def answered(self, status: int) -> None:
        self.statuses.append(status)
        if len(self.statuses) >= self._wanted:
            self._reached.set()

    async def more(self, number: int) -> None:
        """Wait for so many more answers."""
        self._wanted = len(self.statuses) + number
        self._reached.clear()
        await asyncio.wait_for(self._reached.wait(), WAIT)


async def ended(process: asyncio.subprocess.Process) -> int:
    if process.returncode is None:
        process.terminate()
    async with asyncio.timeout(WAIT):
        return await process.wait()


async def test_a_service_reports_its_life_and_serves_the_socket_that_it_is_given(manager: Manager) -> None:
    manager.write(listen=["127.0.0.1:1"])  # where it may not: what systemd hands over counts instead
    process = await manager.start(watchdog="400000")
    try:
        assert manager.url in manager.messages[-1]
        await manager.receive("WATCHDOG=1")
        async with aiohttp.ClientSession() as session:
            async with session.get(f"{manager.url}/ready") as answer:
                assert answer.status == 200
            process.send_signal(signal.SIGHUP)
            assert "MONOTONIC_USEC=" in await manager.receive("RELOADING=1")
            assert "STATUS=" in await manager.receive("READY=1")
            await manager.receive("WATCHDOG=1")
            async with session.get(f"{manager.url}/ready") as answer:
                assert answer.status == 200
        process.terminate()
        await manager.receive("STOPPING=1")
        assert await ended(process) == 0
        with socket.create_connection(manager.listening.getsockname(), 5):
            pass  # it still listens: the next one will answer
    finally:
        await ended(process)


async def test_a_restart_under_load_loses_no_request(manager: Manager, simulator: Simulator) -> None:
    simulator.pypi.publish(wheel("six", "1.16.0"))
    process = await manager.start()
    load = Load()
    failures: list[str] = []

    async def client(number: int) -> None:
        # Half of them connect anew for each request, half keep their connection.
        connector = aiohttp.TCPConnector(force_close=number % 2 == 0)
        timeout = aiohttp.ClientTimeout(total=WAIT)
        async with aiohttp.ClientSession(connector=connector, timeout=timeout) as session:
            while load.running:
                try:
                    async with session.get(f"{manager.url}/simple/six/") as answer:
                        await answer.read()
                        load.answered(answer.status)
                except aiohttp.ClientError as error:
                    failures.append(repr(error))
                await asyncio.sleep(0.01)

    try:
        clients = [asyncio.create_task(client(number)) for number in range(32)]
        for _ in range(2):
            await load.more(300)
            assert await ended(process) == 0
            process = await manager.start()
        await load.more(300)
        load.running = False
        await asyncio.gather(*clients)
    finally:
        await ended(process)
    assert failures == []
    assert set(load.statuses) == {200}
    assert simulator.count("GET", "/simple/six/") <= 3


async def test_a_reload_under_load_loses_no_request_and_changes_the_settings(
    manager: Manager, simulator: Simulator
) -> None:
    simulator.pypi.publish(wheel("six", "1.16.0"))
    process = await manager.start()
    load = Load()

    async def client() -> None:
        async with aiohttp.ClientSession() as session:
            while load.running:
                async with session.get(f"{manager.url}/simple/six/") as answer:
                    await answer.read()
                    load.answered(answer.status)
                await asyncio.sleep(0.01)

    try:
        clients = [asyncio.create_task(client()) for _ in range(16)]
        await load.more(16)  # the page is held before the mirror goes offline
        for offline in (True, False, True):
            manager.write(offline=offline)
            process.send_signal(signal.SIGHUP)
            await manager.receive("READY=1")
            assert ("offline" in manager.messages[-1]) is offline
            await load.more(100)
        manager.write(nonsense=1)
        process.send_signal(signal.SIGHUP)
        await manager.receive("READY=1")
        assert "offline" in manager.messages[-1], "nothing has changed"
        load.running = False
        await asyncio.gather(*clients)
        async with aiohttp.ClientSession() as session, session.get(f"{manager.url}/-/status") as answer:
            assert (await answer.json())["offline"] is True
    finally:
        assert await ended(process) == 0
    assert set(load.statuses) == {200}
    faults = [line for line in manager.log.splitlines() if "settings stay" in line]
    assert len(faults) == 1
    assert "nonsense: is not a setting" in faults[0]


def settings_of(directory: Path, simulator: Simulator, **changes: object) -> Settings:
    return Settings.model_validate(
        {
            "listen": ["127.0.0.1:0"],
            "data_dir": str(directory / "data"),
            "repositories": repositories(simulator),
            "log": {"access": False},
            "limits": {"shutdown_grace": 5},
        }
        | changes
    )


@pytest.fixture
async def service(tmp_path: Path, simulator: Simulator) -> AsyncIterator[Service]:
    service = Service(settings_of(tmp_path, simulator))
    await service.start()
    yield service
    await service.stop()


async def get(url: str, path: str = "health") -> int:
    async with aiohttp.ClientSession() as session, session.get(url + path) as answer:
        return answer.status


async def test_addresses_come_and_go_with_the_settings(service: Service, tmp_path: Path, simulator: Simulator) -> None:
    (first,) = service.urls
    path = tmp_path / "mirror.sock"
    await service.reload(settings_of(tmp_path, simulator, listen=["127.0.0.1:0", f"unix:{path}"], socket_mode="0600"))
    assert service.urls[0] == first, "an address that stays keeps its socket"
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    async with (
        aiohttp.ClientSession(connector=aiohttp.UnixConnector(str(path))) as session,
        session.get("http://mirror/health") as answer,
    ):
        assert answer.status == 200
    await service.reload(settings_of(tmp_path, simulator, listen=[f"unix:{path}"]))
    with pytest.raises(aiohttp.ClientConnectionError):
        await get(first)
    await service.reload(settings_of(tmp_path, simulator))
    assert not path.exists()
    assert await get(service.urls[0]) == 200


@pytest.mark.parametrize("fault", ["address", "directory", "certificate", "records"])
async def test_settings_that_cannot_be_used_change_nothing(
    service: Service, tmp_path: Path, simulator: Simulator, fault: str
) -> None:
    (url,), mirror = service.urls, service.mirror
    with socket.create_server(("127.0.0.1", 0)) as taken:
        rule = {"name": "bad", "kind": "known-bad", "reason": "no", "folder": str(tmp_path / "missing")}
        changes = {
            "address": {"listen": ["127.0.0.1:0", f"127.0.0.1:{taken.getsockname()[1]}"]},
            "directory": {"data_dir": str(tmp_path / "elsewhere")},
            "certificate": {"tls": {"certificate": __file__}},
            "records": {"policy": [rule]},
        }[fault]
        with pytest.raises(ConfigError):
            await service.reload(settings_of(tmp_path, simulator, offline=True, **changes))
    assert service.mirror is mirror
    assert service.urls == [url]
    assert await get(url) == 200


async def test_a_mirror_that_cannot_begin_leaves_the_old_one_at_work(
    service: Service, tmp_path: Path, simulator: Simulator, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def full(self: Mirror) -> None:
        raise StorageFull("The disk is full.")

    simulator.push(gem("rack", "1.0"))
    async with aiohttp.ClientSession() as session:
        async with session.get(f"{service.urls[0]}versions") as answer:
            assert b"rack 1.0" in await answer.read()
        mirror = service.mirror
        changed = settings_of(tmp_path, simulator, listen=["127.0.0.1:0", f"unix:{tmp_path}/s"])
        with monkeypatch.context() as patch:
            patch.setattr(Mirror, "start", full)
            with pytest.raises(StorageFull):
                await service.reload(changed)
        assert service.mirror is mirror
        assert not (tmp_path / "s").exists()
        simulator.push(gem("rack", "2.0"))
        for one in mirror.upstream_indexes.values():
            one.asked_at = 0
        async with session.get(f"{service.urls[0]}versions", headers={"Cache-Control": "no-cache"}) as answer:
            assert b"rack 2.0" in await answer.read()


async def test_the_gem_index_goes_on_growing_over_a_reload(
    service: Service, tmp_path: Path, simulator: Simulator
) -> None:
    simulator.push(gem("rack", "1.0"))
    async with aiohttp.ClientSession() as session:
        async with session.get(f"{service.urls[0]}versions") as answer:
            before = await answer.read()
        await service.reload(settings_of(tmp_path, simulator))
        simulator.push(gem("rack", "2.0"))
        after = b""
        async with asyncio.timeout(WAIT):
            while b"rack 2.0" not in after:  # it first reads what is stored
                for one in service.mirror.upstream_indexes.values():
                    one.asked_at = 0
                async with session.get(f"{service.urls[0]}versions", headers={"Cache-Control": "no-cache"}) as answer:
                    after = await answer.read()
    assert after.startswith(before)
    assert after.count(b"rack 2.0") == 1


async def test_what_has_begun_before_a_reload_ends_after_it(
    service: Service, tmp_path: Path, simulator: Simulator
) -> None:
    large = wheel("large", "1.0", size=3_000_000)
    simulator.pypi.publish(large)
    stalled = simulator.inject("*.whl", Stall(after=1_000_000), times=1)
    async with aiohttp.ClientSession() as session:
        async with session.get(f"{service.urls[0]}packages/large/{large.filename}") as answer:
            first = await answer.content.readexactly(10_000)
            await service.reload(settings_of(tmp_path, simulator, offline=True))
            stalled.release()
            rest = await answer.content.read()
        assert first + rest == large.content
        async with session.get(f"{service.urls[0]}packages/large/{large.filename}") as answer:
            assert answer.headers["X-Mirror-Cache"] in ("hit", "offline")
            assert await answer.read() == large.content
    assert simulator.count("GET", f"*/{large.filename}") == 1


async def test_stopping_closes_the_mirror_before_a_reload_too(tmp_path: Path, simulator: Simulator) -> None:
    large = wheel("large", "1.0", size=30_000_000)
    simulator.pypi.publish(large)
    settings = settings_of(tmp_path, simulator, log={"access": True}, limits={"shutdown_grace": 0.5})
    service = Service(settings)
    await service.start()
    address = URL(service.urls[0])
    reader, writer = await asyncio.open_connection(address.host, address.port, limit=1024)  # it takes little more
    writer.write(f"GET /packages/large/{large.filename} HTTP/1.1\r\nHost: localhost\r\n\r\n".encode())
    async with asyncio.timeout(WAIT):
        assert (await reader.readline()).startswith(b"HTTP/1.1 200 ")
        await service.reload(settings)
        await service.stop()
    writer.close()
    assert [thread for thread in threading.enumerate() if thread.name == "access-log"] == []


async def test_counters_go_on_over_a_reload(service: Service, tmp_path: Path, simulator: Simulator) -> None:
    for _ in range(3):
        await get(service.urls[0], "simple/none/")
    await service.reload(settings_of(tmp_path, simulator))
    async with aiohttp.ClientSession() as session, session.get(f"{service.urls[0]}metrics") as answer:
        lines = (await answer.text()).splitlines()
    (requests,) = [line for line in lines if line.startswith("mirror_requests_total") and 'status="4xx"' in line]
    assert requests.endswith(" 3.0")


async def test_a_dead_socket_is_replaced_and_a_living_one_or_a_file_is_not(
    tmp_path: Path, simulator: Simulator
) -> None:
    path = tmp_path / "mirror.sock"
    with socket.socket(socket.AF_UNIX) as dead:
        dead.bind(str(path))
    settings = settings_of(tmp_path, simulator, listen=[f"unix:{path}"])
    service = Service(settings)
    await service.start()
    try:
        second = Service(settings_of(tmp_path / "two", simulator, listen=[f"unix:{path}"]))
        with pytest.raises(ConfigError, match="another process"):
            await second.start()
        assert path.is_socket()
    finally:
        await service.stop()
    assert not path.exists()
    path.write_text("precious")
    third = Service(settings)
    with pytest.raises(ConfigError, match="something else"):
        await third.start()
    assert path.read_text() == "precious"


def certify(authority: trustme.CA, directory: Path) -> None:
    certificate = authority.issue_cert("127.0.0.1")
    (directory / "cert.pem").write_bytes(b"".join(blob.bytes() for blob in certificate.cert_chain_pems))
    (directory / "key.pem").write_bytes(certificate.private_key_pem.bytes())


async def test_https_serves_pages_files_and_a_certificate_that_is_replaced_while_it_runs(
    tmp_path: Path, simulator: Simulator
) -> None:
    large = wheel("large", "1.0", size=1_000_000)
    simulator.pypi.publish(large)
    before, after = trustme.CA(), trustme.CA()
    certify(before, tmp_path)
    tls = {"certificate": str(tmp_path / "cert.pem"), "key": str(tmp_path / "key.pem")}
    service = Service(settings_of(tmp_path, simulator, tls=tls))
    await service.start()
    try:
        (url,) = service.urls
        assert url.startswith("https://127.0.0.1:")

        async def fetch(authority: trustme.CA, path: str) -> bytes:
            context = ssl.create_default_context()
            authority.configure_trust(context)
            async with (
                aiohttp.ClientSession(connector=aiohttp.TCPConnector(ssl=context)) as session,
                session.get(url + path) as answer,
            ):
                assert answer.status == 200
                return await answer.read()

        assert await fetch(before, f"packages/large/{large.filename}") == large.content
        context = ssl.create_default_context()
        before.configure_trust(context)
        async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(ssl=context)) as session:
            for _ in range(5):  # on one connection: the last ones are replayed
                async with session.get(f"{url}simple/large/") as answer:
                    assert b"large-1.0" in await answer.read()
                async with session.get(f"{url}packages/large/{large.filename}") as answer:
                    assert await answer.read() == large.content
        legacy = json.loads(await fetch(before, "pypi/large/json"))
        assert legacy["urls"][0]["url"].startswith(url)

        (tmp_path / "key.pem").write_text("half written")
        assert service._tls is not None
        assert not service._tls.reload_if_changed()
        assert await fetch(before, "health") == b"ok\n"
        certify(after, tmp_path)
        assert service._tls.reload_if_changed()
        assert await fetch(after, "health") == b"ok\n"
        with pytest.raises(aiohttp.ClientConnectorCertificateError):
            await fetch(before, "health")

        await service.reload(settings_of(tmp_path, simulator))
        (plain,) = service.urls
        assert plain == url.replace("https", "http")
        assert await get(plain) == 200
        await service.reload(settings_of(tmp_path, simulator, tls=tls))
        assert await fetch(after, "health") == b"ok\n"
    finally:
        await service.stop()


async def test_a_client_whose_handshake_ends_after_a_reload_is_answered_by_the_new_mirror(
    tmp_path: Path, simulator: Simulator
) -> None:
    authority = trustme.CA()
    certify(authority, tmp_path)
    tls = {"certificate": str(tmp_path / "cert.pem"), "key": str(tmp_path / "key.pem")}
    service = Service(settings_of(tmp_path, simulator, tls=tls))
    await service.start()
    try:
        address = URL(service.urls[0])
        context = ssl.create_default_context()
        authority.configure_trust(context)
        reader, writer = await asyncio.open_connection(address.host, address.port)
        await asyncio.sleep(0.1)  # until it is accepted
        await service.reload(settings_of(tmp_path, simulator, tls=tls, offline=True))
        await asyncio.wait(service._retiring.values(), timeout=WAIT)
        await writer.start_tls(context, server_hostname="127.0.0.1")
        writer.write(b"GET /-/status HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")
        async with asyncio.timeout(WAIT):
            assert b'"offline":true' in await reader.read()
        writer.close()
    finally:
        await service.stop()


async def test_many_reloads_leave_nothing_behind(service: Service, tmp_path: Path, simulator: Simulator) -> None:
    await get(service.urls[0], "simple/none/")

    def open_files() -> int:
        return len(os.listdir("/proc/self/fd"))

    async def settled() -> None:
        if service._retiring:
            _, late = await asyncio.wait(service._retiring.values(), timeout=WAIT)
            assert not late

    await service.reload(settings_of(tmp_path, simulator))
    await settled()
    listeners, files, tasks = len(service.mirror.journal.subscriptions), open_files(), len(asyncio.all_tasks())
    for _ in range(5):
        await service.reload(settings_of(tmp_path, simulator))
    await settled()
    assert len(service.mirror.journal.subscriptions) == listeners
    assert open_files() <= files + 2
    assert len(asyncio.all_tasks()) <= tasks + 2, [
        task.get_name() + repr(task.get_coro()) for task in asyncio.all_tasks()
    ]


async def test_monitors_learn_no_name_that_is_not_for_everyone(tmp_path: Path, simulator: Simulator) -> None:
    rules = {"rules": [{"projects": ["acme-*"], "read": ["alice"]}], "tokens": {}, "users": {}}
    async with serving(tmp_path / "data", repositories(simulator), auth=rules) as mirror:
        upstream = next(iter(mirror.mirror.upstreams.values()))
        upstream.record_error(UpstreamProtocolError("index.example/simple/acme-secret/ answered 500."))
        for path in ("metrics", "-/status", "health", "ready"):
            answer = await mirror.get(path)
            assert answer.status == 200
            assert b"acme" not in answer.body, path
        assert 'cause="protocol"' in (await mirror.get("metrics")).text


async def test_what_upstreams_do_wrong_is_counted_by_its_cause(tmp_path: Path, simulator: Simulator) -> None:
    six = wheel("six", "1.16.0")
    simulator.publish(six)
    simulator.inject("*.whl", Corrupt(), times=1)
    simulator.inject("/simple/broken/", Status(500))
    simulator.inject("/simple/closed/", Status(403))
    async with serving(tmp_path / "data", repositories(simulator), network={"retries": 0}) as mirror:
        await mirror.get("simple/six/")
        assert (await mirror.get(f"packages/six/{six.filename}")).status == 502
        assert (await mirror.get("simple/broken/")).status == 503
        assert (await mirror.get("simple/closed/")).status == 502
        await simulator.go_down()
        assert (await mirror.get("simple/absent/")).status == 503
        text = (await mirror.get("metrics")).text
    errors = [line for line in text.splitlines() if line.startswith("mirror_upstream_errors_total")]
    for cause in ("digest", "status", "refused", "connect"):
        assert any(f'cause="{cause}"' in line and 'repository="pypi"' in line for line in errors), (cause, errors)


async def test_promtool_finds_no_fault_in_the_metrics(tmp_path: Path, simulator: Simulator) -> None:
    if shutil.which("promtool") is None:
        pytest.skip("promtool (Debian: prometheus) is not installed")
    simulator.pypi.publish(wheel("six", "1.16.0"))
    async with spawned(tmp_path / "data", repositories(simulator)) as mirror:
        for path in ("simple/six/", "simple/six/", "simple/none/", "packages/six/six-1.16.0-py3-none-any.whl"):
            await mirror.get(path)
        body = (await mirror.get("metrics")).body
    process = await asyncio.create_subprocess_exec(
        "promtool", "check", "metrics",
        stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.STDOUT,
    )  # fmt: skip
    output, _ = await process.communicate(body)
    assert (process.returncode, output.decode()) == (0, "")
    text = body.decode()
    for line in (
        'mirror_pages{state="fresh"} 1.0',
        "mirror_files 1.0",
        "mirror_degraded 0.0",
        "mirror_client_connections 1.0",
        'mirror_requests_total{kind="page",outcome="hit",repository="pypi",status="2xx"} 1.0',
    ):
        assert line in text, line
    assert "mirror_event_loop_lag_seconds_count" in text
    assert "mirror_store_free_bytes" in text


async def test_stopping_ends_within_its_grace_whatever_still_runs(tmp_path: Path, simulator: Simulator) -> None:
    grace = 4.0
    simulator.publish(built := wheel("big", "1.0", size=300_000))
    simulator.inject("*.whl", Stall(after=100_000))
    limits = {"shutdown_grace": grace}
    async with spawned(tmp_path / "data", repositories(simulator), limits=limits) as mirror:
        await mirror.get("simple/big/")
        url = URL(mirror.url)
        writers = []
        for path in (f"packages/big/{built.filename}", f"packages/big/{built.filename}.metadata", "-/feed?wait=60"):
            _, writer = await asyncio.open_connection(url.host, url.port)
            writer.write(f"GET /{path} HTTP/1.1\r\nHost: localhost\r\n\r\n".encode())
            writers.append(writer)
        _, upload = await asyncio.open_connection(url.host, url.port)
        upload.write(b"POST /legacy/ HTTP/1.1\r\nHost: localhost\r\nContent-Length: 1000\r\n\r\nabc")
        await simulator.until(lambda: simulator.bytes_sent("*.whl") >= 100_000)
        began = time.monotonic()
        assert await mirror.end() == 0
        took = time.monotonic() - began
        for writer in (*writers, upload):
            writer.close()
    assert took < grace + 1, "one time for all of it, not one for each part"
