"""What is said of workflows whose databases cannot be read."""

from __future__ import annotations

from typing import TYPE_CHECKING

from workflow_core.cli.failures import STORAGE, Failure

if TYPE_CHECKING:
    from collections.abc import Sequence

    from workflow_core.views.overviews import Overview

__all__ = ["raise_for_problems"]


def raise_for_problems(overviews: Sequence[Overview]) -> None:
    """End the command with what is wrong with databases, if anything is.

    Raises:
        Failure: Some database cannot be read.
    """
    problems = [each.problem for each in overviews if each.problem is not None]
    if problems:
        raise Failure("\n".join(problems), STORAGE)
