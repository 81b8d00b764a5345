"""500 inputs of each fuzzer, and every input that once found a fault."""

import pytest

from tests.fuzz.fuzzer import run
from tests.fuzz.registry import FUZZERS


@pytest.mark.parametrize("name", FUZZERS)
@pytest.mark.timeout(300)
async def test_no_input_does_what_none_may_do(name: str) -> None:
    result = await run(FUZZERS[name], 500, seed=0, most=1)
    assert not result.failures, f"{result.failures[0].data[:2000]!r}\n{result.failures[0].text}"
    assert result.share > 0.1, "too few inputs were understood, so that little behind the parser was tested"
