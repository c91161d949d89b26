"""What an exploration of power cuts found, and how it is shown."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal

from tabulate import tabulate

if TYPE_CHECKING:
    from collections.abc import Iterable

    from pytest_workflow.observation import StepKey

__all__ = ["PowerFailure", "PowerLossError", "PowerReport"]

_SHOWN = 5


class PowerLossError(AssertionError):
    """A power cut somewhere leaves what it must not; the message shows where."""


@dataclass(frozen=True, slots=True)
class PowerFailure:
    """Something that a power cut must not leave.

    Attributes:
        kind: ``unopenable``: SQLite cannot open the database, or finds it damaged; ``torn``: it holds a part of a
            transaction; ``lost``: ``FULL`` lost an acknowledged commit; ``violation``: it breaks an invariant.
        place: Which image of which cut.
        found: What was found, in words.
        cut: The image as ``--workflow-power-cut`` takes it.
    """

    kind: Literal["unopenable", "torn", "lost", "violation"]
    place: str
    found: str
    cut: str = ""


@dataclass(slots=True)
class PowerReport:
    """What power cuts leave of a scenario.

    Attributes:
        synchronous: SQLite's setting.
        points: Disk operations of the scenario: writes, truncations, deletions and syncs.
        commits: Commits of the scenario, the first ones of which make the tables.
        cuts: Operations after which the power was cut.
        images: Images that were opened; `different_images` of them differ.
        losing: Images that lack a commit that was acknowledged before the cut.
        commits_lost: The most acknowledged commits that one image lacks.
        executions_lost: Executions whose start had been acknowledged and that some image lacks.
        steps_lost: Steps whose completion had been acknowledged and that some image does not show as completed: they
            run again after the power cut.
        continued: Surviving states from which a new engine went on; images with the same rows count once.
        failures: What must not be.
        elapsed_seconds: Real time that everything took.
        command: The shell command that runs the test again; empty outside pytest.
    """

    synchronous: str
    points: int
    commits: int
    cuts: int = 0
    images: int = 0
    different_images: int = 0
    losing: int = 0
    commits_lost: int = 0
    executions_lost: set[str] = field(default_factory=set)
    steps_lost: set[StepKey] = field(default_factory=set)
    continued: int = 0
    failures: list[PowerFailure] = field(default_factory=list)
    elapsed_seconds: float = 0.0
    command: str = ""

    @property
    def unopenable(self) -> int:
        """How many images SQLite cannot open, or finds damaged."""
        return self._count("unopenable")

    @property
    def torn(self) -> int:
        """How many images hold a part of a transaction."""
        return self._count("torn")

    @property
    def violations(self) -> list[PowerFailure]:
        """The broken invariants."""
        return [failure for failure in self.failures if failure.kind == "violation"]

    @property
    def ok(self) -> bool:
        """Whether nothing was found that must not be."""
        return not self.failures

    def _count(self, kind: str) -> int:
        return sum(failure.kind == kind for failure in self.failures)

    def add(
        self, kind: Literal["unopenable", "torn", "lost", "violation"], place: str, found: str, cut: str = ""
    ) -> None:
        """Note a failure."""
        self.failures.append(PowerFailure(kind, place, found, cut))

    def lose(
        self, place: str, commits: int, executions: Iterable[str], steps: Iterable[StepKey], cut: str = ""
    ) -> None:
        """Note an image that lacks acknowledged commits, which under ``FULL`` is a failure."""
        self.losing += 1
        self.commits_lost = max(self.commits_lost, commits)
        self.executions_lost.update(executions)
        self.steps_lost.update(steps)
        if self.synchronous == "FULL":
            self.add("lost", place, f"{commits} acknowledged commits are lost", cut)

    def summary(self) -> str:
        """Return the bound of the exploration in one line."""
        bound = "every one cut" if self.cuts == self.points else f"{self.cuts} cut"
        return (
            f"power loss, synchronous={self.synchronous}: {self.points} disk operations, {bound}, {self.images} images "
            f"({self.different_images} different), {self.elapsed_seconds:.1f} s"
        )

    def __str__(self) -> str:
        rows = [
            ("images that cannot be opened, or are damaged", self.unopenable),
            ("images with a part of a transaction", self.torn),
            ("images without an acknowledged commit", self.losing),
            ("  most commits lost, of", f"{self.commits_lost} of {self.commits}"),
            ("  executions lost in some image", len(self.executions_lost)),
            ("  completed steps lost in some image", len(self.steps_lost)),
            ("surviving states that a new engine went on from", self.continued),
            ("  invariants broken", len(self.violations)),
        ]
        lines = [
            self.summary(),
            "",
            tabulate(rows, tablefmt="plain", disable_numparse=True, colalign=("left", "right")),
        ]
        for failure in self.failures[:_SHOWN]:
            lines += ["", f"{failure.place}", f"   {failure.kind}: {failure.found}"]
            if self.command and failure.cut:
                lines.append(f"   replay: {self.command} --workflow-power-cut={failure.cut}")
        if len(self.failures) > _SHOWN:
            lines += ["", f"... and {len(self.failures) - _SHOWN} more"]
        return "\n".join(lines)

    def raise_for_failures(self) -> None:
        """Raise an error that explains the failures, if there are any.

        Raises:
            PowerLossError: Something was found that must not be.
        """
        __tracebackhide__ = True
        if self.failures:
            raise PowerLossError(str(self))
