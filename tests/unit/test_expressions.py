"""The expressions of declarative workflows: what they mean, what is malformed, what has no value."""

from datetime import UTC, datetime

import pytest

from workflow_core.definitions.expressions import (
    Expression,
    ExpressionError,
    ExpressionSyntaxError,
    expressions_of,
    parse,
    resolve,
    steps_read_by,
)


class Roots:
    def __init__(self, **roots):
        self.roots = roots

    def root(self, expression):
        return self.roots[expression.root], expression.path


VALUES = Roots(
    input={
        "order": {"id": 7, "lines": [{"sku": "a"}, {"sku": "b"}]},
        "a-b": 1,
        "odd name": 2,
        "none": None,
        "ok": True,
    },
    steps={"fetch-users": {"data": [1, 2]}, "when": datetime(2026, 1, 2, tzinfo=UTC)},
)


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("${input.order.id}", 7),
        ("${ input.order.id }", 7),
        ("${input.order.lines[1].sku}", "b"),
        ("${input.order.lines[-1].sku}", "b"),
        ("${input.a-b}", 1),
        ('${input["odd name"]}', 2),
        ("${input.none}", None),
        ("${input.ok}", True),
        ("${steps.fetch-users.data}", [1, 2]),
        ("order ${input.order.id} of ${steps.fetch-users.data}", "order 7 of [1, 2]"),
        ("${input.ok}${input.none}", "truenull"),
        ("on ${steps.when}", "on 2026-01-02T00:00:00+00:00"),
        ("no expression", "no expression"),
        ("", ""),
        ("$${input.order.id}", "${input.order.id}"),
        ("$$${input.order.id}", "$${input.order.id}"),
        ("costs $5 and {braces}", "costs $5 and {braces}"),
        ("${input.limit:-10}", 10),
        ("${input.limit:-ten of them}", "ten of them"),
        ('${input.limit:-"10"}', "10"),
        ("${input.limit:-}", ""),
        ("${input.none:-true}", True),
        ("${input.order.id:-10}", 7),
        ("${input.deep.down.there:-null}", None),
        ("${input.limit:-NaN}", "NaN"),
        ('${input.limit:-"a } in quotes"}', "a } in quotes"),
    ],
)
def test_a_text_with_expressions_has_a_value(text, value):
    assert resolve(text, VALUES) == value
    assert type(resolve(text, VALUES)) is type(value)


def test_containers_are_filled_and_other_values_stay():
    given = {"a": ["${input.order.id}", 1, None], "b": {"${input.ok}": "x${input.order.id}"}}
    assert resolve(given, VALUES) == {"a": [7, 1, None], "b": {"${input.ok}": "x7"}}


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("${input.x", "has no end"),
        ("a ${", "has no end"),
        ("${}", "begins with none of input, steps"),
        ("${inpt.x}", 'did you mean "input"'),
        ("${env.HOME}", "the environment cannot be read"),
        ("${input.x + 1}", "cannot be read from '+ 1'"),
        ("${input.__class__()}", "cannot be read from '()'"),
        ("${input..x}", "cannot be read from"),
        ("${input[x]}", "cannot be read from"),
        ("${input.x-:y}", "cannot be read from"),
        ('${input["\\x"]}', "no text in the manner of JSON"),
        ("${steps}", "has to name"),
        ("${steps[0]}", "has to name"),
        ("${secrets}", "has to name"),
        ("${secrets.A.b}", "neither parts nor a default"),
        ("${secrets.A:-x}", "neither parts nor a default"),
        ("${execution.status}", "its id can be read"),
        ("${input." + "x" * 2_000 + "}", "more than 1000 characters"),
    ],
)
def test_a_malformed_expression_is_told(text, told):
    with pytest.raises(ExpressionSyntaxError) as error:
        parse(text)
    assert told in str(error.value)


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("${input.limit}", "${input.limit} has no value: input is an object with order, a-b"),
        ("${input.order.id.x}", "input.order.id is a number"),
        ("${input.order.lines[2]}", "input.order.lines is a list of 2"),
        ("${input.order.lines.sku}", "input.order.lines is a list of 2"),
        ("${input.none.x}", "input.none is null"),
    ],
)
def test_a_missing_value_is_told_without_telling_values(text, told):
    with pytest.raises(ExpressionError) as error:
        resolve(text, VALUES)
    assert told in str(error.value)


def test_attributes_of_python_cannot_be_reached():
    with pytest.raises(ExpressionError):
        resolve("${input.__class__}", VALUES)


def test_the_templates_of_a_document_are_found_with_their_places():
    found = dict(expressions_of({"a": ["x", "${input.b}"], "c": "${oops}", "d": 1}))
    assert list(found) == [("a", 1), ("c",)]
    assert found["a", 1] == (Expression("${input.b}", "input", ("b",)),)
    assert isinstance(found["c",], ExpressionSyntaxError)
    assert steps_read_by({"a": "${steps.x.y} ${steps.z}", "b": ["${steps.x}", "${input.q}", "${bad"]}) == ("x", "z")
