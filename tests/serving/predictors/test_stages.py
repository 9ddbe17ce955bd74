"""What fails beside the requests, told once and in as many words as it needs."""

from collections.abc import Callable

import pytest

from recsys.errors import Retryable
from serving.predictors import stages


@pytest.mark.parametrize(("error", "stack"), [(Retryable("Redis is away"), False), (ValueError("no such row"), True)])
def test_a_failure_beside_the_requests_ends_there_counted_once(
    error: Exception, stack: bool, failures: Callable[[str, str], float], caplog: pytest.LogCaptureFixture
) -> None:
    kind = type(error).__name__
    before = failures("shelves", kind)
    with stages.beside("shelves"):
        raise error
    assert failures("shelves", kind) == before + 1
    [record] = caplog.records
    assert record.getMessage() == f"shelves could not be brought up to date: {error}"
    assert bool(record.exc_info) is stack
