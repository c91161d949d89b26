"""Failed assertions in workflows: each reaches the test, however its execution was started and whoever awaits it."""

from __future__ import annotations

from types import TracebackType
from typing import TYPE_CHECKING

import pytest

from pytest_workflow.frames import is_users

if TYPE_CHECKING:
    from types import CodeType

    from workflow_core.models import ExecutionResult
    from workflow_core.outcome import Outcome

__all__ = ["AssertionFailures", "users_traceback"]

_VERDICTS = (AssertionError, pytest.fail.Exception)


class AssertionFailures:
    """The errors of ended executions that are the test's result, until the test has met them."""

    def __init__(self) -> None:
        self._unseen: list[BaseException] = []

    def note_end(self, final: Outcome[ExecutionResult]) -> None:
        """Note how an execution ended."""
        error = final.error
        if error is not None and _is_verdict(error) and not any(error is unseen for unseen in self._unseen):
            self._unseen.append(error)

    def see(self, error: BaseException) -> bool:
        """Note that the test is about to meet an error; tell whether it is one of these."""
        before = len(self._unseen)
        self._unseen = [unseen for unseen in self._unseen if unseen is not error]
        return len(self._unseen) < before

    def surface(self) -> None:
        """Raise the first error that the test has not met.

        Raises:
            BaseException: It is the error that ended an execution.
        """
        __tracebackhide__ = True
        if self._unseen:
            error = self._unseen.pop(0)
            raise error.with_traceback(users_traceback(error.__traceback__)) from error.__cause__

    def surface_at_end(self, test: CodeType | None) -> None:
        """Raise the first error that never came as far as the test.

        Args:
            test: The test's own code: an error that it caught itself, as ``pytest.raises`` does around
                ``await Workflow.start(...)``, has come that far; one that code under test caught has not.

        Raises:
            BaseException: It is the error that ended an execution.
        """
        __tracebackhide__ = True
        self._unseen = [error for error in self._unseen if _caught_in(error) is not test or test is None]
        if self._unseen:
            self._unseen[0].add_note("This failed in a workflow, and nothing that the test called has raised it.")
        self.surface()


def _is_verdict(error: BaseException) -> bool:
    if isinstance(error, BaseExceptionGroup):
        return error.subgroup(_VERDICTS) is not None
    return isinstance(error, _VERDICTS)


def _caught_in(error: BaseException) -> CodeType | None:
    """Return the code that caught an error: a traceback begins there."""
    return error.__traceback__.tb_frame.f_code if error.__traceback__ is not None else None


def users_traceback(traceback: TracebackType | None) -> TracebackType | None:
    """Return a traceback without the frames of asyncio, the engine and the harness."""
    users: TracebackType | None = None
    frames = []
    while traceback is not None:
        frames.append(traceback)
        traceback = traceback.tb_next
    for entry in reversed(frames):
        if is_users(entry.tb_frame):
            users = TracebackType(users, entry.tb_frame, entry.tb_lasti, entry.tb_lineno)
    return users
