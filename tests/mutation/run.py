"""Mutate one module, or a sample of its mutants, and say how many of them the fast tests kill.

    python tests/mutation/run.py step
    python tests/mutation/run.py engine --sample 120
    python tests/mutation/run.py pytest_workflow/history.py
    python tests/mutation/run.py engine --survivors

What is mutated and which tests are run stands in `pyproject.toml`, in the table ``tool.mutmut``. mutmut makes the
mutants and finds out which tests call what; `forked.py` tries them.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import re
import subprocess
import sys
import tomllib
from pathlib import Path

ROOT = Path(__file__).parents[2]
MUTANTS = ROOT / "mutants"
MUTMUT = Path(sys.executable).with_name("mutmut")
SEED = 20261126
KILLED = {"killed", "timeout"}
LONGEST_WITH_A_MUTANT_S = 20
"""What takes longer waits for what the mutant keeps from happening; every test takes less than two seconds without."""

ANY_MUTANT = "workflow_core.retry.x_is_retryable__mutmut_1"
"""One that is quickly tried: mutmut makes and measures all when it is asked for one."""


def options() -> dict[str, list[str]]:
    """Return the settings of mutmut."""
    found: dict[str, list[str]] = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["tool"]["mutmut"]
    return found


def source(module: str) -> Path:
    """Return the file of a module, below the root: of `workflow_core`, unless its path names another package.

    Raises:
        ValueError: The module is not among those that are mutated.
    """
    file = Path(module).with_suffix(".py")
    mutated = options()["only_mutate"]
    for each in (file, "workflow_core" / file):
        if each.as_posix() in mutated:
            return each
    raise ValueError(
        f"{module} is not mutated; choose one of `only_mutate` in pyproject.toml: {' '.join(sorted(mutated))}"
    )


def report_of(module: str) -> Path:
    """Return the file that tells what became of the mutants of a module when they were last tried."""
    return MUTANTS / "reports" / f"{'.'.join(source(module).with_suffix('').parts)}.json"


def wilson(killed: int, of: int, z: float = 1.96) -> tuple[float, float]:
    """Return the bounds of a proportion at 95 % (E. B. Wilson, JASA 22, 1927)."""
    share, spread = killed / of, z * z / of
    middle = (share + spread / 2) / (1 + spread)
    half = z * (share * (1 - share) / of + spread / (4 * of)) ** 0.5 / (1 + spread)
    return middle - half, min(1.0, middle + half)


def at_low_priority(*command: str | Path, cwd: Path, **environment: str) -> None:
    subprocess.run(command, cwd=cwd, check=True, env={**os.environ, **environment}, preexec_fn=lambda: os.nice(10))


def make_mutants() -> None:
    """Let mutmut make the mutants of all modules, and measure the tests, as far as something has changed.

    Raises:
        SystemExit: mutmut could not; its own words end with why: a test fails without any mutant, for example.
    """
    print("mutmut makes the mutants and measures the tests; this takes a minute or two ...", flush=True)
    command = ["nice", "-n", "10", MUTMUT, "run", "--max-children", "1", ANY_MUTANT]
    made = subprocess.run(command, cwd=ROOT, check=False, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    if made.returncode:
        turning_wheels = re.compile(r".*\r")
        sys.exit(f"{turning_wheels.sub('', made.stdout)}\nmutmut ended with {made.returncode}")


def mutants_of(module: str) -> list[str]:
    """Return the names of the mutants of a module."""
    made = MUTANTS / f"{source(module)}.meta"
    return sorted(json.loads(made.read_text(encoding="utf-8"))["exit_code_by_key"])


def try_mutants(names: dict[str, list[str]], budget_s: float, words: list[str]) -> dict[str, dict[str, dict[str, str]]]:
    """Run the tests for each mutant of some modules; return what became of it."""
    order = MUTANTS / "reports" / "order.json"
    order.parent.mkdir(exist_ok=True)
    tried = {module: report_of(module).with_suffix(".tried") for module in names}
    given = {
        "names": {str(source(module)): names[module] for module in names},
        "reports": {str(source(module)): str(tried[module]) for module in names},
        "budget_s": budget_s,
        "words": words,
    }
    order.write_text(json.dumps(given), encoding="utf-8")
    arguments = ["--rootdir=.", "-q", "-ptests.mutation.forked", *options()["pytest_add_cli_args"]]
    arguments += [f"--timeout={LONGEST_WITH_A_MUTANT_S}", *options()["pytest_add_cli_args_test_selection"]]
    at_low_priority(sys.executable, "-m", "pytest", *arguments, cwd=MUTANTS, MUTANTS_TO_TRY=str(order))
    return {module: json.loads(tried[module].read_text(encoding="utf-8")) for module in names}


def tell(module: str, outcomes: dict[str, dict[str, str]]) -> None:
    """Print what became of the mutants of a module."""
    killed = sum(each["outcome"] in KILLED for each in outcomes.values())
    late = sum(each["outcome"] == "timeout" for each in outcomes.values())
    low, high = wilson(killed, len(outcomes))
    print(f"\n{module}: {killed} of {len(outcomes)} mutants killed, {killed / len(outcomes):.1%}", end="")
    print(f" (95 %: {low:.0%} to {high:.0%} of all), {late} of them because nothing ended in time")
    for name, each in sorted(outcomes.items()):
        if each["outcome"] not in KILLED:
            print(f"  {each['outcome']}: mutmut show '{name}'")


def chosen(module: str, given: argparse.Namespace, before: dict[str, dict[str, str]]) -> list[str]:
    """Return the names of the mutants of a module that are to be tried."""
    names = mutants_of(module)
    if given.survivors:
        return [name for name in names if name in before and before[name]["outcome"] not in KILLED]
    if given.sample is not None:
        return random.Random(given.seed).sample(names, min(given.sample, len(names)))
    return names


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("modules", nargs="+", help="step, database/reading, pytest_workflow/history.py")
    parser.add_argument("--sample", type=int, help="how many mutants of each are drawn; default: all")
    parser.add_argument("--seed", type=int, default=SEED, help="draws another sample; default: always the same")
    parser.add_argument("--survivors", action="store_true", help="only those that survived when they were last tried")
    parser.add_argument("--budget", type=float, default=30.0, help="seconds of tests for a mutant, the shortest first")
    parser.add_argument("--tests", nargs="*", default=[], help="parts of names: only tests that have one of them")
    parser.add_argument("--made", action="store_true", help="nothing has changed since the mutants were made")
    given = parser.parse_args()
    try:
        for module in given.modules:
            source(module)
    except ValueError as error:
        parser.error(str(error))
    if not given.made:
        make_mutants()
    before: dict[str, dict[str, dict[str, str]]] = {module: {} for module in given.modules}
    if given.survivors:
        before = {module: json.loads(report_of(module).read_text(encoding="utf-8")) for module in given.modules}
    names = {module: chosen(module, given, before[module]) for module in given.modules}
    tried = try_mutants({module: each for module, each in names.items() if each}, given.budget, given.tests)
    for module in given.modules:
        outcomes = {**before[module], **tried.get(module, {})}
        report_of(module).write_text(json.dumps(outcomes, indent=1), encoding="utf-8")
        tell(module, outcomes)


if __name__ == "__main__":
    main()
