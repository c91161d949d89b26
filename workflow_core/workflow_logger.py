"""``ctx.logger``: what a workflow's own code logs, marked with its execution and step."""

from __future__ import annotations

import logging
import re
import traceback
from typing import TYPE_CHECKING, Any, Final

from workflow_core.errors import error_text
from workflow_core.logs import format_line, level_name
from workflow_core.secrets import REDACTION

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, MutableMapping

    from workflow_core.execution import Execution
    from workflow_core.log_files import LogFiles

__tracebackhide__ = True  # pytest leaves the frames of this module out
__all__ = ["WorkflowLogger", "logger_of"]

_FIELD_NAME: Final = re.compile(r"[A-Za-z_][A-Za-z0-9_.-]*")
_OUR_FIELDS: Final = frozenset({"execution", "step", "attempt", "seq", "event", "message", "exception"})


def logger_of(workflow_name: str) -> logging.Logger:
    """Return the logger of a workflow: ``workflow_core.workflow.NAME``."""
    logger = logging.getLogger(f"workflow_core.workflow.{workflow_name}")
    logger.addFilter(REDACTION)  # does nothing if it is there
    return logger


class WorkflowLogger(logging.LoggerAdapter[logging.Logger]):
    """A logger whose records name the execution, the step and the attempt, and go into the log files as well.

    Records have the attributes ``workflow_name``, ``execution_id``, ``step_id``, ``attempt`` and ``restart_attempt``.
    Whether they reach the handlers of the application is decided by the levels of the module `logging`, as usual;
    whether they reach the log files, by ``Settings.log_level``. What runs again after a crash logs again.

    Args:
        execution: The execution.
    """

    def __init__(self, execution: Execution) -> None:
        super().__init__(logger_of(execution.definition.name), {})
        self._execution = execution

    def isEnabledFor(self, level: int) -> bool:  # noqa: N802 - its name in the module logging
        """Tell whether a record of this level goes anywhere."""
        files = self._execution.log
        return (files is not None and level >= files.level) or self.logger.isEnabledFor(level)

    def process(self, msg: Any, kwargs: MutableMapping[str, Any]) -> tuple[Any, MutableMapping[str, Any]]:  # noqa: ANN401
        """Add the attributes of the record."""
        execution = self._execution
        step_id = execution.current_step()
        place = {
            "workflow_name": execution.definition.name,
            "execution_id": execution.execution_id,
            "step_id": step_id,
            "attempt": execution.current_attempt(),
            "restart_attempt": execution.restart_attempt,
        }
        kwargs["extra"] = {**(kwargs.get("extra") or {}), **place}
        return msg, kwargs

    def log(self, level: int, msg: object, *args: object, **kwargs: Any) -> None:  # noqa: ANN401 - as in the module logging
        """Log a message, as ``logging.Logger.log`` does."""
        if not self.isEnabledFor(level):
            return
        extensions = self._execution.extensions
        added = kwargs.get("extra") or {}
        if extensions.adds_log_fields:
            kwargs["extra"] = added = {**added, **extensions.log_fields()}
        msg, kwargs = self.process(msg, kwargs)  # type: ignore[assignment]  # a dictionary stays one
        if self.logger.isEnabledFor(level):
            kwargs["stacklevel"] = kwargs.get("stacklevel", 1) + 1
            self.logger.log(level, msg, *args, **kwargs)
        files = self._execution.log
        if files is not None and level >= files.level:
            self._write(files, level, _message(msg, args), added, kwargs.get("exc_info"))

    def _write(self, files: LogFiles, level: int, message: str, added: Mapping[str, object], exc_info: object) -> None:
        execution = self._execution
        step_id = execution.current_step()
        fields: Iterable[tuple[str, object]] = (
            ("execution", execution.execution_id),
            ("step", step_id),
            ("attempt", execution.current_attempt() if step_id is not None else None),
            ("message", message),
            *(
                (name, value)
                for name, value in added.items()
                if _FIELD_NAME.fullmatch(name) and name not in _OUR_FIELDS
            ),
            ("exception", _exception(exc_info)),
        )
        redact = execution.engine.secrets.redact
        shown = [(name, value if value is None else redact(error_text(value))) for name, value in fields]
        at = execution.now()
        line = format_line(at, level_name(level), shown)
        files.line(execution.definition.name, at, execution.execution_id, line, level)


def _message(msg: object, args: tuple[object, ...]) -> str:
    """Return the text of a record, by the rules of the module `logging`."""
    try:
        return logging.LogRecord("", 0, "", 0, msg, args, None).getMessage()
    except Exception:  # noqa: BLE001 - a mistake in the call must not stop the workflow; the handlers report it as well
        return f"{msg} {args}"


def _exception(exc_info: object) -> str | None:
    """Return the traceback that a record shows, if it shows one."""
    if isinstance(exc_info, BaseException):
        return "".join(traceback.format_exception(exc_info))
    if isinstance(exc_info, tuple):
        return None if exc_info[1] is None else "".join(traceback.format_exception(*exc_info))
    if exc_info:
        text = traceback.format_exc()
        return None if text == "NoneType: None\n" else text
    return None
