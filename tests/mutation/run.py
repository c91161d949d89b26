"""Mutate one module, or a sample of its mutants, and say how many of them the fast tests kill.

    python tests/mutation/run.py step
    python tests/mutation/run.py engine --sample 120
    python tests/mutation/run.py pytest_workflow/history

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

from mutmut.stats import status_by_exit_code

ROOT = Path(__file__).parents[2]
MUTMUT = Path(sys.executable).with_name("mutmut")
SEED = 20261126
KILLED = {"killed", "timeout"}


def source(module: str) -> Path:
    """Return the file of a module, below the root: of `workflow_core`, unless its path names another package."""
    file = Path(f"{module}.py")
    return file if (ROOT / file).is_file() else "workflow_core" / file


def results(module: str) -> dict[str, str]:
    """Return what became of each mutant of a module, in the words of mutmut."""
    path = ROOT / "mutants" / f"{source(module)}.meta"
    if not path.exists():
        return {}
    codes = json.loads(path.read_text())["exit_code_by_key"]
    return {name: status_by_exit_code[code] for name, code in codes.items()}


def wilson(killed: int, of: int, z: float = 1.96) -> tuple[float, float]:
    """Return the bounds of a proportion at 95 % (E. B. Wilson, JASA 22, 1927)."""
    share, spread = killed / of, z * z / of
    middle = (share + spread / 2) / (1 + spread)
    half = z * (share * (1 - share) / of + spread / (4 * of)) ** 0.5 / (1 + spread)
    return middle - half, min(1.0, middle + half)


def mutmut(*arguments: str) -> None:
    """Run mutmut at a low priority, one mutant at a time."""
    subprocess.run([MUTMUT, *arguments], cwd=ROOT, check=False, preexec_fn=lambda: os.nice(10))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("module", help="path without .py, such as step, database/reading or pytest_workflow/history")
    parser.add_argument("--sample", type=int, help="how many mutants are drawn, always the same; default: all")
    given = parser.parse_args()
    file = source(given.module)
    if not (ROOT / file).is_file():
        parser.error(f"there is no {file}")
    pattern = f"{'.'.join(file.with_suffix('').parts)}.*"
    if given.sample is None:
        mutmut("run", "--max-children", "1", pattern)
        chosen = results(given.module)
    else:
        if not results(given.module):
            mutmut("run", "--max-children", "1", "workflow_core.retry.*")  # which makes the mutants of all modules
        names = sorted(results(given.module))
        names = random.Random(SEED).sample(names, min(given.sample, len(names)))
        if names:
            mutmut("run", "--max-children", "1", *names)
        found = results(given.module)
        chosen = {name: found[name] for name in names}
    if not chosen:
        parser.error(f"{file} has no mutants; is it among `only_mutate` in pyproject.toml?")
    killed = sum(status in KILLED for status in chosen.values())
    low, high = wilson(killed, len(chosen))
    print(f"\n{given.module}: {killed} of {len(chosen)} mutants killed, {killed / len(chosen):.1%}", end="")
    print(f" (95 %: {low:.0%} to {high:.0%} of all)" if given.sample else "")
    for name, status in sorted(chosen.items()):
        if status not in KILLED:
            print(f"  {status}: mutmut show '{name}'")


if __name__ == "__main__":
    main()
