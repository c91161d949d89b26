"""Strategies of Hypothesis for workflows: fault plans, inputs and schedules. Needs the extra ``hypothesis``."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Literal, TypeAlias, get_args

try:
    import hypothesis
    from hypothesis import strategies as st
except ImportError:
    raise ImportError(
        "pytest_workflow.strategies needs Hypothesis: pip install 'pytest-workflow-core[hypothesis]'"
    ) from None

from pytest_workflow.fresh import FreshWorkflow, fresh_workflow
from pytest_workflow.matching import literal
from pytest_workflow.observation import Observation, Place
from pytest_workflow.plan import (
    STORAGE_ERRORS,
    CircuitForced,
    Delay,
    Fault,
    FaultPlan,
    FaultRule,
    Panic,
    Raise,
    StorageFailure,
    TimeOut,
    Where,
)
from pytest_workflow.scenarios import run_scenario
from pytest_workflow.schedules import Schedule
from pytest_workflow.value_strategies import values
from workflow_core.current import current_engine
from workflow_core.errors import ValidationError
from workflow_core.serialization import class_path

if TYPE_CHECKING:
    from hypothesis.strategies import SearchStrategy

__all__ = [
    "KINDS",
    "FreshWorkflow",
    "Kind",
    "Schedule",
    "Trace",
    "fault_plans",
    "fresh_workflow",
    "inputs",
    "schedules",
]

Kind: TypeAlias = Literal["crash", "raise", "panic", "storage", "delay", "timeout", "circuit"]
"""What a generated fault can be; see `pytest_workflow.plan`."""

KINDS: tuple[Kind, ...] = get_args(Kind)
"""All kinds, the simplest first."""

Trace: TypeAlias = Callable[..., object] | Iterable[str | Place]
"""A scenario to run once, or the places themselves: ids of steps, or places to die."""

_MOST_ATTEMPTS = 3
_LONGEST_DELAY_MS = 3_600_000
_MOST_CHOICE = 23  # every permutation of four tasks
_AFTER_FAILURES = ("step_attempt_failed", "step_retrying", "step_failed", "step_started")
_AFTER_PANICS = ("execution_panicked", "execution_restarted", "execution_recovered", "execution_failed")


def fault_plans(
    workflow: str,
    *,
    max_faults: int = 3,
    kinds: Sequence[Kind] = KINDS,
    trace: Trace | None = None,
    input: object = None,  # noqa: A002 - the field's own name for it
    errors: Sequence[type[BaseException]] = (ConnectionError,),
) -> SearchStrategy[FaultPlan]:
    """Return a strategy of fault plans for a workflow, none of whose rules has to strike.

    The plan without a fault comes first, then one crash at the earliest place; a crash is simpler than an error, an
    error than a panic, a panic than a storage failure, and earlier places and attempts are simpler than later ones.

    Args:
        workflow: The workflow's name.
        max_faults: Most rules of a plan.
        kinds: Which faults; a ``storage`` failure leaves an execution interrupted, which the test has to resume.
        trace: Where faults can strike: a scenario, as for `WorkflowCrashes.explore`, that is run once without faults;
            or ids of steps, or places. Without it, the workflow is run once.
        input: For that run; if it is ``None`` and the workflow declares the type of its input, the simplest one.
        errors: Classes that a ``raise`` raises, importable and callable without arguments.

    Raises:
        ValidationError: An argument is not acceptable.
    """
    if max_faults < 1:
        raise ValidationError(f"fault_plans: max_faults is at least 1; got {max_faults!r}")
    unknown = [kind for kind in kinds if kind not in KINDS]
    if unknown or not kinds:
        raise ValidationError(f"fault_plans: kinds are some of {', '.join(KINDS)}; got {unknown or 'none'}")
    if "raise" in kinds and not errors:
        raise ValidationError("fault_plans: name at least one of errors, or leave 'raise' out of kinds")
    known = trace if trace is None or callable(trace) else tuple(trace)
    if known == ():
        raise ValidationError("fault_plans: the trace is empty; name at least one step")

    def plans() -> SearchStrategy[FaultPlan]:
        places = _given(known) if isinstance(known, tuple) else _discovered(workflow, known, input)
        rules = _rules(workflow, places, kinds, errors)
        return st.lists(rules, max_size=max_faults, unique=True).map(lambda drawn: FaultPlan(rules=tuple(drawn)))

    return st.deferred(plans)


def inputs(workflow: str, *, types: Mapping[object, SearchStrategy[object]] | None = None) -> SearchStrategy[object]:
    """Return a strategy of valid inputs for a workflow whose context is annotated, as ``WorkflowContext[Order]``.

    Args:
        workflow: The workflow's name.
        types: Strategies for types that are to be made in another way, wherever in the input they occur.

    Raises:
        ValidationError: When the first value is drawn: the workflow does not declare the type of its input.
        WorkflowNotFoundError: When the first value is drawn: there is no such workflow.
    """

    def made() -> SearchStrategy[object]:
        declared = _declared_input(workflow)
        if declared is None:
            raise ValidationError(
                f'Workflow "{workflow}" does not declare the type of its input: annotate its context, such as '
                "ctx: WorkflowContext[Order], or write a strategy of its inputs"
            )
        return values(declared, types or {})

    return st.deferred(made)


def schedules(*, max_turns: int = 64) -> SearchStrategy[Schedule]:
    """Return a strategy of schedules: which of several runnable tasks goes first. asyncio's own order is the simplest.

    Args:
        max_turns: Most turns of the event loop, among those with several runnable tasks, in which a schedule chooses.
    """
    choices = st.lists(st.integers(0, _MOST_CHOICE), max_size=max_turns)
    return choices.map(lambda drawn: Schedule(tuple(drawn)))


def _declared_input(workflow: str) -> object:
    declared = current_engine().definition(workflow).input_type
    return None if declared is None else declared.declared


# Where faults can strike ---------------------------------------------------------------------------------------------


def _given(trace: Sequence[str | Place]) -> tuple[Place, ...]:
    """Return the places that ids of steps stand for, and those that are named themselves."""
    passed: list[tuple[str, str | None, int]] = [
        (point, each, 1)
        for each in trace
        if isinstance(each, str)
        for point in ("circuit_admitted", "step_started", "step_completed")
    ]
    return (*Observation(passed=passed).places_from(0), *(each for each in trace if isinstance(each, Place)))


def _discovered(workflow: str, scenario: Callable[..., object] | None, given: object) -> tuple[Place, ...]:
    """Run the workflow, or a scenario, once without faults; return its places, the earliest first."""
    observation = Observation()
    if scenario is None and given is None and _declared_input(workflow) is not None:
        given = _simplest(inputs(workflow))
    with fresh_workflow(FaultPlan(), observation=observation, remark=False) as fresh:
        if scenario is None:
            fresh.run(workflow, input=given)
        else:
            run_scenario(scenario, fresh._environment)
    passed = list(observation.passed)
    times = {(point, step_id): nth for point, step_id, nth in passed}
    steps = tuple(dict.fromkeys(step_id for point, step_id, _ in passed if point == "step_started" and step_id))
    more: list[tuple[str, str | None, int]] = [
        (point, step_id, times.get((point, step_id), 0) + 1) for step_id in steps for point in _AFTER_FAILURES
    ]
    more += [(point, None, times.get((point, None), 0) + 1) for point in _AFTER_PANICS]
    return tuple(Observation(passed=[*passed, *more]).places_from(0))


def _simplest(strategy: SearchStrategy[object]) -> object:
    quiet = hypothesis.settings(
        database=None,
        deadline=None,
        derandomize=True,
        phases=[hypothesis.Phase.generate, hypothesis.Phase.shrink],
        suppress_health_check=list(hypothesis.HealthCheck),
    )
    return hypothesis.find(strategy, lambda _: True, settings=quiet)


# Rules ---------------------------------------------------------------------------------------------------------------

# Every kind draws a position among the same places first, so that a fault can become one of a simpler kind at the same
# place while Hypothesis shrinks a plan. A step's attempt is drawn as the place just after its start, where a crash cuts
# that attempt off.


def _rules(
    workflow: str, places: Sequence[Place], kinds: Sequence[Kind], errors: Sequence[type[BaseException]]
) -> SearchStrategy[FaultRule]:
    made: dict[Kind, SearchStrategy[FaultRule]] = {
        "crash": _positions(places).map(lambda place: _lenient(place.rule(), workflow)),
        "storage": st.builds(
            lambda place, fault: _lenient(place.rule(), workflow).model_copy(update={"what": fault}),
            _positions(places),
            st.sampled_from([StorageFailure(message=message) for message in STORAGE_ERRORS]),
        ),
    }
    if any(place.point == "step_started" for place in places):
        count = st.integers(1, _MOST_ATTEMPTS)
        attempts = st.builds(lambda begin, more: tuple(range(begin, begin + more)), count, count)

        def at_attempts(faults: SearchStrategy[Fault]) -> SearchStrategy[FaultRule]:
            return st.builds(
                lambda place, runs, fault: FaultRule(
                    where=Where(workflow=workflow, step=literal(place.step_id), attempts=runs), what=fault, strict=False
                ),
                _positions(places, "step_started"),
                attempts,
                faults,
            )

        made["raise"] = at_attempts(st.sampled_from([Raise(error=class_path(error)) for error in errors]))
        made["panic"] = at_attempts(st.just(Panic()))
        made["delay"] = at_attempts(st.integers(1, _LONGEST_DELAY_MS).map(lambda ms: Delay(ms=ms)))
        made["timeout"] = at_attempts(st.just(TimeOut()))
    if any(place.point == "circuit_admitted" for place in places):
        made["circuit"] = st.builds(
            lambda place, nth, fault: FaultRule(
                where=Where(workflow=workflow, step=literal(place.step_id), nth=nth), what=fault, strict=False
            ),
            _positions(places, "circuit_admitted"),
            st.integers(1, _MOST_ATTEMPTS),
            st.sampled_from([CircuitForced(status="open"), CircuitForced(status="half_open")]),
        )
    possible = [made[kind] for kind in KINDS if kind in kinds and kind in made]
    if not possible:
        raise ValidationError(f'fault_plans: workflow "{workflow}" passes no place for {" or ".join(kinds)}')
    return st.one_of(*possible)


def _positions(places: Sequence[Place], point: str | None = None) -> SearchStrategy[Place]:
    """Return a strategy of places, the earliest first; with ``point``, of those just after such a point alone."""
    if point is None:
        return st.integers(0, len(places) - 1).map(lambda position: places[position])
    marks = [position for position, each in enumerate(places) if each.point == point and each.when == "after"]
    return st.integers(marks[0], len(places) - 1).map(
        lambda position: places[max(mark for mark in marks if mark <= position)]
    )


def _lenient(rule: FaultRule, workflow: str) -> FaultRule:
    where = rule.where.model_copy(update={"workflow": workflow})
    return rule.model_copy(update={"where": where, "strict": False})
