"""How long a step waits between two attempts, and which errors allow another."""

import pytest

from workflow_core import NonRetryableError, RetryConfig, RetryLaterError
from workflow_core.retry import backoff_ms, is_retryable, wait_ms
from workflow_core.timeouts import LONGEST_MS

DOUBLING = RetryConfig(max_attempts=10, backoff_ms=1_000)


def test_the_wait_doubles_after_each_attempt():
    assert [backoff_ms(DOUBLING, attempt) for attempt in (1, 2, 3, 4)] == [1_000, 2_000, 4_000, 8_000]


def test_a_constant_wait_stays_the_same():
    constant = RetryConfig(backoff_ms=700, exponential_backoff=False)
    assert [backoff_ms(constant, attempt) for attempt in (1, 2, 9)] == [700] * 3


@pytest.mark.parametrize(("longest", "waits"), [(2_500, [1_000, 2_000, 2_500]), (0, [0, 0, 0])])
def test_no_wait_is_longer_than_the_longest(longest, waits):
    config = RetryConfig(backoff_ms=1_000, max_backoff_ms=longest)
    assert [backoff_ms(config, attempt) for attempt in (1, 2, 3)] == waits


def test_without_a_longest_wait_none_is_longer_than_a_century():
    assert backoff_ms(RetryConfig(max_attempts=10, backoff_ms=LONGEST_MS), 9) == LONGEST_MS


@pytest.mark.parametrize(("asked", "wait"), [(0, 2_000), (1_999, 2_000), (2_001, 2_001), (60_000, 60_000)])
def test_an_error_may_ask_for_a_longer_wait_but_not_for_a_shorter_one(asked, wait):
    assert wait_ms(DOUBLING, 2, RetryLaterError("busy", retry_after_ms=asked)) == wait


def test_what_an_error_asks_for_may_exceed_the_longest_back_off():
    capped = RetryConfig(backoff_ms=1_000, max_backoff_ms=1_000)
    assert wait_ms(capped, 3, RetryLaterError("busy", retry_after_ms=60_000)) == 60_000


def test_other_errors_ask_for_nothing():
    assert wait_ms(DOUBLING, 1, ConnectionError("gone")) == 1_000


@pytest.mark.parametrize(
    ("listed", "error", "retryable"),
    [
        ((), ConnectionError(), True),
        ((), NonRetryableError("no"), False),
        ((OSError,), ConnectionError(), False),
        (("OSError",), ConnectionError(), False),
        (("ConnectionResetError",), ConnectionError(), True),
        (OSError, KeyError(), True),
        (OSError, TimeoutError(), False),
        ({"KeyError", "ValueError"}, UnicodeError(), False),
        ("ConnectionError", ConnectionError(), False),
    ],
)
def test_an_error_of_a_listed_class_or_of_one_below_it_is_not_tried_again(listed, error, retryable):
    assert is_retryable(RetryConfig(non_retryable=listed), error) is retryable
