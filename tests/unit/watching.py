"""Running a workflow to its end on a machine of the tests, and watching the events of it."""

import asyncio

from workflow_core import hookimpl


class Watcher:
    """A plugin that keeps every event that it is told."""

    def __init__(self):
        self.events = []

    @hookimpl
    def on_event(self, event):
        self.events.append(event)

    def all(self, kind):
        """Return the events of a class."""
        return [event for event in self.events if type(event) is kind]

    def only(self, kind):
        """Return the one event of a class."""
        (event,) = self.all(kind)
        return event


async def broken():
    """Fail, as the function of a step."""
    raise ValueError("no")


async def cancel_something_inside():
    """Await something that is cancelled, as the function of a step or a workflow."""
    task = asyncio.ensure_future(asyncio.Event().wait())
    task.cancel()
    await task


def run(machine, flow, engine=None, **options):
    """Run a handler as the workflow "w", execution "e", and return the result."""
    machine.define("w")(flow)
    engine = engine or machine.boot()
    return asyncio.run(machine.clock.finish(engine.start_and_wait("w", "e", **options)))
