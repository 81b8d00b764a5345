"""500 inputs of each fuzzer, and every input that once found a fault."""

import pytest

from tests.fuzz.fuzzer import run
from tests.fuzz.registry import FUZZERS


@pytest.mark.parametrize("name", FUZZERS)
@pytest.mark.timeout(300)
async def test_no_input_does_what_none_may_do(name: str) -> None:
    failures = await run(FUZZERS[name], 500, seed=0, most=1)
    assert not failures, f"{failures[0].data[:2000]!r}\n{failures[0].text}"
