"""A process for the test of traces: runs or recovers one workflow, and writes each ended span into a file at once."""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor, SpanExporter, SpanExportResult

from workflow_core import WorkflowContext, WorkflowEngine
from workflow_core.telemetry import OpenTelemetryPlugin

if TYPE_CHECKING:
    from collections.abc import Sequence


class FileExporter(SpanExporter):
    """Appends spans to a file, one line of JSON each."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def export(self, spans: Sequence[ReadableSpan]) -> SpanExportResult:
        with self._path.open("a", encoding="utf-8") as file:
            file.writelines(f"{span.to_json(indent=None)}\n" for span in spans)
        return SpanExportResult.SUCCESS


async def main(command: str, path: Path) -> None:
    """Start the execution, or recover it and wait for it."""
    provider = TracerProvider(resource=Resource({"service.instance.id": command}))
    provider.add_span_processor(SimpleSpanProcessor(FileExporter(path)))
    engine = WorkflowEngine(plugins=[OpenTelemetryPlugin(provider)])
    tracer = provider.get_tracer("users")

    @engine.define("order")
    async def order(ctx: WorkflowContext) -> None:
        await ctx.step("first", lambda: 1)

        async def hang() -> None:
            with tracer.start_as_current_span("request"):
                pass
            if command == "start":
                print("HANGS", flush=True)
                await asyncio.sleep(600)

        await ctx.step("hang", hang)

    if command == "start":
        await engine.start("order", "o-1")
    else:
        await engine.recover()
        print("RESULT", (await engine.wait("o-1")).status, flush=True)
    await engine.aclose()


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1], Path(sys.argv[2])))
