"""OpenTelemetry for workflows: a trace for each execution, across crashes; metrics; and logs that name their span.

Needs the extra ``[otel]``. The engine knows nothing of it: it is a plugin.
"""

from workflow_core.telemetry.identity import trace_id_of

try:
    from workflow_core.telemetry.plugin import OpenTelemetryPlugin
except ModuleNotFoundError as error:
    if (error.name or "").partition(".")[0] != "opentelemetry":
        raise
    raise ModuleNotFoundError(
        'workflow_core.telemetry needs OpenTelemetry: pip install "pytest-workflow-core[otel]"', name=error.name
    ) from error

__all__ = ["OpenTelemetryPlugin", "trace_id_of"]
