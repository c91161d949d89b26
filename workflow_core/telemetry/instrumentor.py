"""Tracing without a line of code: what ``opentelemetry-instrument`` finds and calls."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

from workflow_core.extensions import provide, withdraw
from workflow_core.telemetry.plugin import OpenTelemetryPlugin

if TYPE_CHECKING:
    from collections.abc import Callable

    from opentelemetry.metrics import MeterProvider
    from opentelemetry.trace import TracerProvider

__all__ = ["WorkflowInstrumentor"]


class WorkflowInstrumentor:
    """Gives every engine that is made from now on an `OpenTelemetryPlugin`, but those that are given one themselves."""

    _make: ClassVar[Callable[[], object] | None] = None

    def instrument(
        self,
        tracer_provider: TracerProvider | None = None,
        meter_provider: MeterProvider | None = None,
        **options: object,
    ) -> None:
        """Begin; does nothing the second time.

        Args:
            tracer_provider: Where spans go; ``None`` for the global provider.
            meter_provider: Where metrics go; ``None`` for the global provider.
            options: What ``opentelemetry-instrument`` says to all instrumentors; nothing of it concerns workflows.
        """
        del options
        if WorkflowInstrumentor._make is None:
            WorkflowInstrumentor._make = lambda: OpenTelemetryPlugin(
                tracer_provider=tracer_provider, meter_provider=meter_provider
            )
            provide(WorkflowInstrumentor._make)

    def uninstrument(self, **options: object) -> None:
        """End; engines that have the plugin keep it."""
        del options
        if WorkflowInstrumentor._make is not None:
            withdraw(WorkflowInstrumentor._make)
            WorkflowInstrumentor._make = None
