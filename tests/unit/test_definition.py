"""What `define` accepts, what it reads from annotations, and when it warns."""

import functools
import unittest.mock
import warnings
from typing import Annotated

import pydantic
import pytest

from workflow_core import PanicConfig, RetryConfig, ValidationError, WorkflowContext, WorkflowRedefinedWarning
from workflow_core.definition import Definitions, configured, is_module_level, make_definition


class Order(pydantic.BaseModel):
    number: int


def handler(ctx: WorkflowContext[Order]) -> Order:
    """Ship an order.

    At length.
    """
    return ctx.input


def make(name="w", function=handler, description=None):
    return make_definition(name, function, description, "1.0.0", None, None)


@pytest.mark.parametrize("name", ["a", "A.b_c-9", "9lives", "x" * 128, "order..v2"])
def test_names_that_can_be_directories(name):
    assert make(name).name == name


@pytest.mark.parametrize(
    "name", ["", ".", "..", ".hidden", "-x", "_x", "a/b", "a\\b", "a b", "a\n", "a\x00", "é", "x" * 129, None, 5, b"a"]
)
def test_names_that_cannot(name):
    with pytest.raises(ValidationError, match="Invalid workflow name"):
        make(name)


@pytest.mark.parametrize("function", [None, 5, "f", object()], ids=lambda value: type(value).__name__)
def test_a_handler_must_be_callable(function):
    with pytest.raises(ValidationError, match="must be a function of the context"):
        make(function=function)


def test_the_description_is_the_first_line_of_the_docstring():
    assert make().description == "Ship an order."
    assert make(description="By hand.").description == "By hand."
    assert make(function=lambda ctx: None).description == ""


def test_input_and_output_types_come_from_the_annotations():
    definition = make()
    assert definition.input_type.adapter().validate_python({"number": "5"}) == Order(number=5)
    assert definition.returns.adapter().validate_python({"number": 6}) == Order(number=6)
    assert make(function=lambda ctx: None).input_type is None


def test_an_input_type_need_not_be_hashable():
    def remarked(ctx: WorkflowContext[Annotated[Order, ["remark"]]]) -> None: ...

    assert make(function=remarked).input_type.adapter().validate_python({"number": "5"}) == Order(number=5)


def test_configurations_as_models_dictionaries_or_nothing():
    assert configured(RetryConfig, None) == RetryConfig()
    assert configured(RetryConfig, {"max_attempts": 5}) == RetryConfig(max_attempts=5)
    given = PanicConfig(max_restart_attempts=1)
    assert configured(PanicConfig, given) is given
    with pytest.raises(ValidationError, match="Expected a RetryConfig"):
        configured(RetryConfig, 5)
    with pytest.raises(ValidationError, match="Expected a RetryConfig"):
        configured(RetryConfig, PanicConfig())


def test_only_another_handler_is_a_redefinition():
    definitions = Definitions()
    definitions.add(make(), stacklevel=1)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        definitions.add(make(), stacklevel=1)
    with pytest.warns(WorkflowRedefinedWarning, match="the new one replaces it"):
        definitions.add(make(function=lambda ctx: 2), stacklevel=1)
    assert definitions.names() == ["w"]


def test_what_stands_at_the_top_of_a_module():
    assert is_module_level(handler)
    assert not is_module_level(lambda ctx: None)


def no_parameter():
    pass


def two_parameters(ctx, other):
    pass


def named_parameter(*, ctx):
    pass


class Service:
    def handler(self, ctx):
        pass


@pytest.mark.parametrize("function", [no_parameter, two_parameters, named_parameter, Service.handler])
def test_handlers_that_cannot_be_called_with_the_context_alone(function):
    with pytest.raises(ValidationError, match="the handler is called with the context alone"):
        make(function=function)


@pytest.mark.parametrize(
    "function",
    [
        lambda ctx: None,
        lambda ctx, other=1: None,
        lambda *args: None,
        Service().handler,
        functools.partial(two_parameters, other=1),
        unittest.mock.Mock(),
        unittest.mock.AsyncMock(),
        dict,
        print,
    ],
)
def test_handlers_that_can_or_do_not_tell(function):
    assert make(function=function).handler is function
