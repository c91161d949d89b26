"""The fixture ``workflow_replay``: recorded executions of any source against today's code."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pytest_workflow.divergence import ReplayReport
from pytest_workflow.history_source import HistorySource, opened, recorded
from pytest_workflow.recorded_history import write_history
from pytest_workflow.replay_engine import replay_execution
from workflow_core.models import ExecutionResult

if TYPE_CHECKING:
    import os
    from collections.abc import Sequence

    from pytest_workflow.environment import Environment
    from pytest_workflow.freezer import Freezer

__all__ = ["WorkflowReplay"]


class WorkflowReplay:
    """What the fixture ``workflow_replay`` gives: call it with a source of recorded executions.

    Args:
        environment: The running test's engine and database.
        freezer: Shows virtual time to the user's code.
    """

    def __init__(self, environment: Environment, freezer: Freezer) -> None:
        self._environment = environment
        self._freezer = freezer

    def __call__(
        self,
        source: HistorySource,
        workflow: str | None = None,
        execution_id: str | None = None,
        *,
        check: bool = True,
    ) -> ReplayReport:
        """Run today's code against recorded executions; no step's function runs, and no sleep is waited for.

        Args:
            source: A database file or a runtime directory (opened for reading alone), a file of `save_history`, the
                fixture ``workflow``, or a result of this test.
            workflow: Replay executions of this workflow alone.
            execution_id: Replay this one alone.
            check: Raise an error if a replay differs from its record.

        Returns:
            The report.

        Raises:
            ReplayDivergenceError: A replay differs from its record, and ``check`` is set.
            ValueError: The source cannot be read, or holds no such execution.
            TypeError: The source is of no known kind.
        """
        __tracebackhide__ = True
        if isinstance(source, ExecutionResult):
            execution_id = source.execution_id
        environment = self._environment
        with opened(source, environment.storage) as databases:
            found = recorded(databases, workflow, execution_id)
            _refuse_nothing(found, workflow, execution_id)
            report = ReplayReport(
                tuple(
                    replay_execution(database, execution, environment.engine, self._freezer)
                    for database, execution in found
                )
            )
        return report.raise_for_divergences() if check else report

    def save_history(
        self,
        path: str | os.PathLike[str],
        source: HistorySource | None = None,
        workflow: str | None = None,
        execution_id: str | None = None,
    ) -> None:
        """Save executions as JSON, to replay them later.

        Args:
            path: The file to write; one that exists is replaced.
            source: Where the executions come from; ``None`` for the database of this test.
            workflow: Save those of this workflow alone.
            execution_id: Save this one alone.

        Raises:
            ValueError: The source cannot be read, or holds no such execution.
            TypeError: The source is of no known kind.
            OSError: The file cannot be written.
        """
        if isinstance(source, ExecutionResult):
            execution_id = source.execution_id
        with opened(self._environment.harness if source is None else source, self._environment.storage) as databases:
            found = recorded(databases, workflow, execution_id)
            _refuse_nothing(found, workflow, execution_id)
            write_history(path, [execution for _, execution in found])


def _refuse_nothing(found: Sequence[object], workflow: str | None, execution_id: str | None) -> None:
    if not found:
        wanted = f'execution "{execution_id}"' if execution_id is not None else "execution"
        of = f' of workflow "{workflow}"' if workflow is not None else ""
        raise ValueError(f"the source holds no {wanted}{of}; nothing would be replayed or saved")
