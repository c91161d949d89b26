"""What a result raises of its execution's end, its steps that are made later, and which configurations there are."""

import copy
from datetime import UTC, datetime

import pydantic
import pytest

from workflow_core import (
    ErrorInfo,
    ExecutionResult,
    PanicConfig,
    PanicError,
    RetryConfig,
    StepResult,
    ValidationError,
    WorkflowError,
    WorkflowTimeoutError,
)


def result(status, **error):
    return ExecutionResult(
        execution_id="e",
        workflow_name="w",
        status=status,
        error=ErrorInfo(**error) if error else None,
        started_at=datetime(2026, 1, 1, tzinfo=UTC),
    )


@pytest.mark.parametrize("status", ["running", "completed", "sleeping", "restarting"])
def test_an_execution_that_did_not_fail_is_returned(status):
    told = result(status)
    assert told.raise_for_status() is told


@pytest.mark.parametrize("status", ["failed", "panicked", "cancelled"])
def test_an_execution_that_did_not_come_to_its_end_raises(status):
    with pytest.raises(WorkflowError) as caught:
        result(status).raise_for_status()
    assert str(caught.value) == f'Execution "e" of workflow "w" is {status}'


def test_the_error_of_a_step_names_the_step_and_its_attempt():
    with pytest.raises(WorkflowError) as caught:
        result("failed", type="OSError", message="gone", step_id="charge", attempt=3).raise_for_status()
    assert type(caught.value) is WorkflowError
    assert str(caught.value) == 'Execution "e" of workflow "w" is failed: OSError: gone'
    assert (caught.value.step_id, caught.value.attempt) == ("charge", 3)


def test_an_error_outside_of_steps_has_one_attempt():
    with pytest.raises(WorkflowError) as caught:
        result("failed", type="OSError", message="").raise_for_status()
    assert str(caught.value) == 'Execution "e" of workflow "w" is failed: OSError'
    assert (caught.value.step_id, caught.value.attempt) == (None, 1)


def test_a_panic_says_what_was_recognised_as_one():
    panic = {"type": "MemoryError", "message": "full", "step_id": "charge", "attempt": 2, "indicator": "out of memory"}
    with pytest.raises(PanicError) as caught:
        result("panicked", **panic).raise_for_status()
    error = caught.value
    assert str(error) == 'Execution "e" of workflow "w" is panicked: MemoryError: full'
    assert (error.step_id, error.attempt, error.indicator) == ("charge", 2, "out of memory")
    assert error.__cause__ is None


def test_a_time_out_is_an_error_of_its_own():
    with pytest.raises(WorkflowTimeoutError) as caught:
        result("failed", type="WorkflowTimeoutError", message="500 ms").raise_for_status()
    assert str(caught.value) == 'Execution "e" of workflow "w" is failed: WorkflowTimeoutError: 500 ms'


@pytest.mark.parametrize("value", [True, "3", b"3", 11, 0, 2.5, None])
def test_a_number_is_given_as_a_number_and_in_its_range(value):
    with pytest.raises(ValidationError, match=r"RetryConfig.*max_attempts"):
        RetryConfig(max_attempts=value)


def test_a_text_says_that_a_number_is_needed():
    with pytest.raises(ValidationError, match="a number is needed, not str"):
        PanicConfig(restart_delay_ms="5000")


@pytest.mark.parametrize("given", [OSError, (OSError,), ["OSError"], {"OSError"}, frozenset([OSError])])
def test_classes_that_are_not_tried_again_are_kept_by_name(given):
    assert RetryConfig(non_retryable=given).non_retryable == ("OSError",)


def test_what_is_no_class_of_errors_is_refused():
    with pytest.raises(ValidationError, match="non_retryable"):
        RetryConfig(non_retryable=5)


def test_a_trusted_model_is_like_one_that_was_validated():
    validated = ErrorInfo(type="OSError", message="gone", step_id=None, attempt=None, indicator=None)
    trusted = ErrorInfo.trusted(type="OSError", message="gone", step_id=None, attempt=None, indicator=None)
    assert trusted == validated
    assert trusted.model_fields_set == validated.model_fields_set
    assert trusted.__getstate__() == validated.__getstate__()  # so other processes can be given it
    assert trusted.model_copy(update={"message": "back"}).message == "back"


def lazy_result(made):
    """A result with one step, which notes when its steps are made, and the same result made at once."""
    moment = datetime(2026, 1, 1, tzinfo=UTC)
    fields = {
        "execution_id": "e",
        "workflow_name": "w",
        "status": "completed",
        "input": None,
        "output": {"n": 1},
        "error": None,
        "started_at": moment,
        "completed_at": moment,
        "restart_attempt": 1,
    }
    steps = {"a": StepResult(step_id="a", status="completed", result=[1])}

    def make():
        made.append(True)
        return dict(steps)

    return ExecutionResult.with_steps_later(make, **fields), ExecutionResult(**fields, steps=steps)


def test_steps_are_made_once_and_only_for_who_looks_at_them():
    made = []
    result, _ = lazy_result(made)
    assert result.output == {"n": 1}
    assert result.raise_for_status() is result
    assert not made
    assert result.steps is result.steps
    assert made == [True]
    assert result._make_steps is None, "the rows are let go of"
    with pytest.raises(AttributeError, match="nothing"):
        _ = result.nothing


@pytest.mark.parametrize(
    "look",
    [
        lambda result: result,
        lambda result: result.model_dump(),
        lambda result: result.model_dump_json(),
        repr,
        dict,
        lambda result: dict(vars(result)),
        copy.copy,
        copy.deepcopy,
        lambda result: result.model_copy(update={"status": "failed"}),
        lambda result: pydantic.TypeAdapter(list[ExecutionResult]).dump_python([result]),
        lambda result: ExecutionResult.model_validate(result.model_dump()),
        lambda result: result.model_fields_set,
    ],
)
def test_a_result_whose_steps_come_later_is_like_any_other(look):
    later, at_once = lazy_result([])
    assert look(later) == look(at_once)
