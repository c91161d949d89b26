"""The database of a test, to look at with SQL."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, TypeAlias

if TYPE_CHECKING:
    from pytest_workflow.storages import SQLConnection

__tracebackhide__ = True  # pytest leaves the frames of this module out
__all__ = ["Row", "WorkflowDatabase"]

Row: TypeAlias = dict[str, Any]


class WorkflowDatabase:
    """The rows that the engine has written; all workflows of a test share one database.

    Attributes:
        path: The database file, ``":memory:"``, or the address of a PostgreSQL database without any secret.
        connection: An open connection to it.
    """

    def __init__(self, connection: SQLConnection, path: str) -> None:
        self.connection = connection
        self.path = path

    def __repr__(self) -> str:
        return f"<WorkflowDatabase {self.path}>"

    def query(self, sql: str, *params: object) -> list[Row]:
        """Run a query and return its rows as dictionaries.

        Args:
            sql: Any SQL, with ``?`` for parameters.
            *params: The parameters.
        """
        cursor = self.connection.execute(sql, params)
        names = [column[0] for column in cursor.description or ()]
        return [dict(zip(names, row, strict=True)) for row in cursor.fetchall()]

    def executions(self) -> list[Row]:
        """Return the rows of ``executions``, the first started first."""
        return self.query("SELECT * FROM executions ORDER BY rowid")

    def steps(self, execution_id: str) -> list[Row]:
        """Return the rows of an execution's ``steps``, the first started first."""
        return self.query(
            "SELECT * FROM steps WHERE execution_id = ? ORDER BY created_at, coalesce(started_seq, completed_seq)",
            execution_id,
        )

    def circuit_breakers(self) -> list[Row]:
        """Return the rows of ``circuit_breaker_state``."""
        return self.query("SELECT * FROM circuit_breaker_state ORDER BY workflow_name, step_id")

    def step_errors(self, execution_id: str) -> list[Row]:
        """Return the rows of an execution's ``step_errors``, the oldest first."""
        return self.query("SELECT * FROM step_errors WHERE execution_id = ? ORDER BY id", execution_id)

    def step_events(self, execution_id: str) -> list[Row]:
        """Return the rows of an execution's history, the oldest first."""
        return self.query("SELECT * FROM step_events WHERE execution_id = ? ORDER BY seq", execution_id)
