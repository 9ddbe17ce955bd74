"""The circuit breaker: who is let through, and when."""

import asyncio
import logging

import pytest

from serving.api.breaker import Breaker


class Clock:
    """A clock that a test moves."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


def opened(clock: Clock) -> Breaker:
    """Open since the moment 0, for a second."""
    made = Breaker("ranking", limit=3, pause=1.0, clock=clock)
    for _ in range(3):
        assert made.allows()
        made.failed("late")
    return made


def test_it_opens_after_failures_in_a_row_only() -> None:
    breaker = Breaker("ranking", limit=3, clock=Clock())
    for _ in range(5):
        breaker.failed("late")
        breaker.failed("late")
        breaker.succeeded()
    assert breaker.allows()


async def test_of_many_callers_at_once_one_alone_is_the_trial() -> None:
    clock = Clock()
    breaker = opened(clock)
    called = 0

    async def call() -> None:
        nonlocal called
        if breaker.allows():
            called += 1
            await asyncio.sleep(0)  # the others ask while the trial is under way
            breaker.failed("late")

    async def crowd() -> int:
        nonlocal called
        called = 0
        await asyncio.gather(*(call() for _ in range(100)))
        return called

    assert await crowd() == 0
    clock.now = 1.0
    assert await crowd() == 1
    clock.now = 1.5
    assert await crowd() == 0  # the trial has failed: another pause
    clock.now = 2.0
    assert await crowd() == 1


def test_a_part_that_is_back_is_used_by_all_after_the_first_trial() -> None:
    clock = Clock()
    breaker = opened(clock)
    clock.now = 1.0
    assert breaker.allows()
    assert not breaker.allows()
    breaker.succeeded()
    assert all(breaker.allows() for _ in range(10))


def test_an_outage_is_two_lines_in_the_log(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    clock = Clock()
    breaker = opened(clock)
    for second in range(1, 20):
        clock.now = second
        assert breaker.allows()
        breaker.failed("down")
    breaker.succeeded()
    breaker.succeeded()
    first, last = caplog.messages
    assert first.startswith("ranking does not serve (late, 3 times in a row)")
    assert last == "ranking serves again"


def test_a_trial_that_could_not_tell_is_passed_on() -> None:
    clock = Clock()
    breaker = opened(clock)
    clock.now = 1.0
    assert breaker.allows()
    breaker.undecided()  # its caller was in a hurry
    assert breaker.allows()
    assert not breaker.allows()
