"""What a test's author gets wrong is said in one place: the line of the test."""

from __future__ import annotations

import pytest

pytest_plugins = ["pytester"]

MISTAKES = {
    "status": ('workflow.status("nope")', 'ExecutionNotFoundError: No execution "nope" *'),
    "history": ('workflow.history("nope")', 'ExecutionNotFoundError: No execution "nope" *'),
    "wait": ('workflow.wait("nope")', 'ExecutionNotFoundError: No execution "nope" *'),
    "run": ('workflow.run("nope")', 'WorkflowNotFoundError: No workflow "nope" *'),
    "define": ('workflow.define("a", lambda: 1)', "ValidationError: *context alone*"),
    "retry": ("RetryConfig(max_attempts=50)", "ValidationError: Invalid RetryConfig: *"),
    "panic": (
        'workflow_faults.panic("a", "odd")',
        "ValidationError: workflow_faults.panic('a', 'odd'): * is no panic*",
    ),
    "fail": ('workflow_faults.fail("a", 5)', "TypeError: workflow_faults.fail('a', 5): a step can fail with *"),
    "advance": ("workflow_clock.advance(-5)", "ValueError: cannot advance by -5*"),
    "query": ('workflow_db.query("bad sql")', 'sqlite3.OperationalError: near "bad": syntax error'),
}


@pytest.mark.parametrize(("line", "message"), MISTAKES.values(), ids=MISTAKES)
def test_an_error_points_at_the_line_of_the_test(run_within, pytester, line, message):
    pytester.makepyfile(
        f"""
        from workflow_core import RetryConfig

        def test_it(workflow, workflow_faults, workflow_clock, workflow_db):
            {line}
        """
    )
    result = run_within("--tb=short")
    result.assert_outcomes(failed=1)
    result.stdout.fnmatch_lines(["test_*.py:4: in test_it", f"E *{message}"])
    for package in ("pytest_workflow", "workflow_core"):
        assert f"{package}/" not in result.stdout.str()


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("workflow_settings", '{"max_sleep_ms": 1}', "*must return a workflow_core.Settings*; not {'max_sleep_ms': 1}"),
        ("workflow_plugins", '"plugin"', "*must return a list of plugins; not 'plugin'"),
        ("workflow_plugins", "object()", "*must return a list of plugins; not <object object at *"),
    ],
)
def test_an_overridden_fixture_that_returns_something_else(run_within, pytester, name, value, message):
    pytester.makepyfile(
        f"""
        import pytest

        @pytest.fixture
        def {name}():
            return {value}

        def test_it(workflow):
            pass
        """
    )
    result = run_within()
    result.assert_outcomes(errors=1)
    result.stdout.fnmatch_lines([f"the fixture {name} {message.removeprefix('*')}"])
    assert "Traceback" not in result.stdout.str()
