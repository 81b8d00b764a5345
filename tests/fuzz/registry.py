"""All fuzzers, by name."""

from tests.fuzz import documents, files, lean_client, replays, requests
from tests.fuzz.fuzzer import Fuzzer

FUZZERS: dict[str, Fuzzer] = {
    fuzzer.name: fuzzer for module in (documents, files, requests, replays, lean_client) for fuzzer in module.FUZZERS
}
