"""Mutate one module, or a sample of its mutants, and say how many of them the fast tests kill.

    python tests/mutation/run.py step
    python tests/mutation/run.py engine --sample 120

What is mutated and which tests are run stands in `pyproject.toml`, in the table ``tool.mutmut``.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]
MUTMUT = Path(sys.executable).with_name("mutmut")
SEED = 20261126
KILLED = {1, 3, 24, -24, 36, 152, 255}
"""Exit codes of a mutant's tests: failed, could not be run, or took too long."""


def results(module: str) -> dict[str, int | None]:
    """Return the exit code of each mutant of a module; ``None`` for those that were not run."""
    path = ROOT / "mutants" / "workflow_core" / f"{module}.py.meta"
    if not path.exists():
        return {}
    return dict(json.loads(path.read_text())["exit_code_by_key"])


def wilson(killed: int, of: int, z: float = 1.96) -> tuple[float, float]:
    """Return the bounds of a proportion at 95 % (E. B. Wilson, JASA 22, 1927)."""
    share, spread = killed / of, z * z / of
    middle = (share + spread / 2) / (1 + spread)
    half = z * (share * (1 - share) / of + spread / (4 * of)) ** 0.5 / (1 + spread)
    return middle - half, min(1.0, middle + half)


def mutmut(*arguments: str) -> None:
    """Run mutmut at a low priority, one mutant at a time."""
    subprocess.run([MUTMUT, *arguments], cwd=ROOT, check=False, preexec_fn=lambda: os.nice(10))  # noqa: PLW1509


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("module", help="path below workflow_core without .py, such as step or database/reading")
    parser.add_argument("--sample", type=int, help="how many mutants are drawn, always the same; default: all")
    given = parser.parse_args()
    if not (ROOT / "workflow_core" / f"{given.module}.py").is_file():
        parser.error(f"there is no workflow_core/{given.module}.py")
    pattern = f"workflow_core.{given.module.replace('/', '.')}.*"
    if given.sample is None:
        mutmut("run", "--max-children", "1", pattern)
        chosen = results(given.module)
    else:
        mutmut("print-time-estimates", pattern)  # makes the mutants, and runs none
        names = sorted(results(given.module))
        names = random.Random(SEED).sample(names, min(given.sample, len(names)))
        if names:
            mutmut("run", "--max-children", "1", *names)
        found = results(given.module)
        chosen = {name: found[name] for name in names}
    if not chosen:
        parser.error(f"workflow_core/{given.module}.py has no mutants; is it among `only_mutate` in pyproject.toml?")
    killed = sum(code in KILLED for code in chosen.values())
    low, high = wilson(killed, len(chosen))
    print(f"\n{given.module}: {killed} of {len(chosen)} mutants killed, {killed / len(chosen):.1%}", end="")
    print(f" (95 %: {low:.0%} to {high:.0%} of all)" if given.sample else "")
    for name, code in sorted(chosen.items()):
        if code not in KILLED:
            print(f"  not killed: {name}   see: mutmut show '{name}'")


if __name__ == "__main__":
    main()
