"""No secret leaves the process by way of the engine: every byte of the runtime directory is searched for it.

Each workflow below leaks in another way. Afterwards the directory, what was logged, the histories and the results are
searched for the value, for its escaped forms, and for its pieces.
"""

import asyncio
import base64
import linecache
import logging
import traceback
from dataclasses import dataclass

import pydantic
import pytest

from workflow_core import (
    PanicConfig,
    RetryConfig,
    Settings,
    UnstorableResultError,
    ValidationError,
    WorkflowContext,
    WorkflowEngine,
)
from workflow_core.failures import rebuild_error

SECRET = 'Zebra-Quagga-"Okapi\\Gnu-' + "Xylophone-Zither-" * 3  # longer than what pydantic shows, and to be escaped
PIECES = ("Zebra", "Quagga", "Okapi", "Gnu-", "Xylophone", "Zither")


class ServiceError(Exception):
    def __init__(self, message, token):
        super().__init__(message)
        self.token = token
        self.more = {"headers": [token]}


class Login(pydantic.BaseModel):
    password: int


@dataclass
class Session:
    token: str


LEAKS = {}


def leak(function):
    LEAKS[function.__name__] = function
    return function


def use(ctx):
    return ctx.config.secrets["API_KEY"]


def raising(error):
    def work():
        raise error

    return work


@leak
async def a_result(ctx):
    await ctx.step("s", lambda: use(ctx))


@leak
async def a_nested_result(ctx):
    await ctx.step("s", lambda: {"a": [{"b": f"Bearer {use(ctx)}"}]})


@leak
async def a_key_of_a_result(ctx):
    await ctx.step("s", lambda: {use(ctx): 1})


@leak
async def a_result_of_bytes(ctx):
    await ctx.step("s", lambda: b"user:" + use(ctx).encode())


@leak
async def a_result_of_a_declared_type(ctx):
    await ctx.step("s", lambda: Session(use(ctx)), returns=Session)


@leak
async def a_result_in_base64(ctx):
    await ctx.step("s", lambda: base64.b64encode(b"u:" + use(ctx).encode()).decode())


@leak
async def a_result_that_cannot_be_stored(ctx):
    await ctx.step("s", lambda: {"token": use(ctx), "object": object()})


@leak
async def the_output(ctx):
    return await asyncio.sleep(0, use(ctx))


@leak
async def a_message(ctx):
    await ctx.step("s", raising(ValueError(f"401 for {use(ctx)}")))


@leak
async def an_argument(ctx):
    await ctx.step("s", raising(KeyError(use(ctx), {"deep": use(ctx)}, use(ctx).encode())))


@leak
async def an_attribute(ctx):
    error = ServiceError("401", use(ctx))
    error.add_note(f"used {use(ctx)}")
    await ctx.step("s", raising(error))


@leak
async def a_chained_error(ctx):
    def work():
        try:
            raise ServiceError(use(ctx), use(ctx))
        except ServiceError as error:
            raise RuntimeError("outer") from error

    await ctx.step("s", work)


@leak
async def a_group(ctx):
    await ctx.step("s", raising(ExceptionGroup(use(ctx), [ValueError(use(ctx)), ServiceError("x", use(ctx))])))


@leak
async def an_error_of_pydantic_which_shortens_it(ctx):
    await ctx.step("s", lambda: Login(password=use(ctx)))


@leak
async def a_source_line(ctx):
    """The source of the failing line holds the value itself, as generated code may."""
    source = f"def work():\n    raise ValueError({use(ctx)!r})\n"
    space = {}
    exec(compile(source, "<generated>", "exec"), space)  # noqa: S102
    linecache.cache["<generated>"] = (len(source), None, source.splitlines(keepends=True), "<generated>")
    await ctx.step("s", space["work"])


@leak
async def the_name_of_a_class(ctx):
    await ctx.step("s", raising(type(f"Error_{use(ctx)}", (Exception,), {})("x")))


@leak
async def a_panic(ctx):
    await ctx.step("s", raising(MemoryError(use(ctx))))


@leak
async def a_panic_outside_every_step(ctx):
    raise ServiceError(f"outside {use(ctx)}", use(ctx))


@leak
async def a_log_line(ctx):
    ctx.logger.warning("using %s", use(ctx))
    ctx.logger.error(" ".join(["using", use(ctx)]), extra={"token": use(ctx)})
    try:
        raise ServiceError(use(ctx), 1)
    except ServiceError:
        ctx.logger.exception("it failed")
        logging.getLogger("workflow_core.workflow.a_log_line").exception("it failed")


@leak
async def a_handlers_result(ctx):
    await ctx.step("s", raising(ValueError())).on_error({ValueError: lambda error, ctx: use(ctx)})


@leak
async def a_handlers_error(ctx):
    def handle(error, ctx):
        raise ServiceError(use(ctx), use(ctx))

    await ctx.step("s", raising(ValueError())).catch(handle)


@leak
async def on_open(ctx):
    failing = ctx.step("s", raising(ValueError())).with_circuit_breaker(1, on_open=use)
    await failing


@leak
async def a_step_id(ctx):
    await ctx.step(f"charge {use(ctx)}", lambda: None)


@leak
async def the_id_of_a_sleep(ctx):
    await ctx.sleep(use(ctx), 1)


@leak
async def a_retry(ctx):
    def work():
        if ctx.attempt == 1:
            raise ServiceError(use(ctx), use(ctx))
        return "fine"

    return await ctx.step("s", work).with_retry(max_attempts=2)


@leak
async def a_time_out(ctx):
    async def work():
        try:
            await asyncio.sleep(60)
        except asyncio.CancelledError as error:
            raise ServiceError(use(ctx), 1) from error

    await ctx.step("s", work, timeout_ms=1)


def boot(root):
    return WorkflowEngine(settings=Settings(directory=root, sync_handlers="inline"))


def define(engine, handler, name="flow"):
    engine.define(
        name,
        handler,
        retry_config=RetryConfig(max_attempts=1, backoff_ms=0),
        panic_config=PanicConfig(enable_auto_restart=False),
    )


def configure(root, name):
    directory = root / "workflows" / name
    directory.mkdir(parents=True, exist_ok=True)
    (directory / "config.json").write_text('{"secrets": {"API_KEY": "env:FLOW_API_KEY"}}')


@pytest.fixture
def root(tmp_path, monkeypatch):
    monkeypatch.setenv("FLOW_API_KEY", SECRET)
    configure(tmp_path / "state", "flow")
    return tmp_path / "state"


def files(directory):
    return [path for path in directory.rglob("*") if path.is_file()]


def search(where, text):
    for piece in PIECES:
        assert piece not in text, where
    encoded = base64.b64encode(SECRET.encode()).decode()
    assert encoded[8:40] not in text, where


def search_all(root, engine, caplog):
    for path in files(root):
        search(path, path.read_bytes().decode("latin-1"))
    search("logging", caplog.text + "".join(str(vars(record)) for record in caplog.records))

    async def look():
        for record in await engine.store.list_executions():
            history = await engine.history(record.execution_id)
            search("history", repr(history))
            result = await engine.get_status(record.execution_id)
            search("result", result.model_dump_json() + repr(result))

    try:
        asyncio.run(look())
    finally:
        engine.close()


def test_nothing_that_a_workflow_does_writes_a_secret(root, caplog):
    caplog.set_level("DEBUG")
    engine = boot(root)
    for name, handler in LEAKS.items():
        configure(root, name)
        define(engine, handler, name)
        result = engine.run(name, f"{name}-1")
        if name == "on_open":
            result = engine.run(name, f"{name}-2")  # the circuit is open now
        search(name, result.model_dump_json() + repr(result))
        expected = {"a_retry": "completed", "a_log_line": "completed"}.get(name, "failed")
        assert result.status == ("panicked" if "panic" in name else expected), name
    engine.close()
    for name in LEAKS.keys() - {"a_time_out", "a_result_that_cannot_be_stored"}:
        written = [path.read_bytes() for path in files(root / "workflows" / name)]
        assert b"secret API_KEY" in b"".join(written), name  # it was met, and masked or refused by its name
    log = (root / "workflows" / "a_log_line" / "logs" / "executions" / "a_log_line-1.log").read_text("utf-8")
    assert log.count("[secret API_KEY]") == 4 and caplog.text.count("[secret API_KEY]") >= 4
    search_all(root, boot(root), caplog)


def test_a_refused_result_names_the_secret_and_the_step(root):
    engine = boot(root)
    define(engine, a_nested_result)
    result = engine.run("flow", "e-1")
    assert result.error.type == UnstorableResultError.__name__
    assert 'the result of step "s"' in result.error.message and "the secret API_KEY" in result.error.message
    assert result.steps["s"].attempt == 1
    engine.close()


def test_an_input_with_a_secret_is_refused_before_anything_is_written(root):
    """The secret is known although no workflow has used it yet."""
    engine = boot(root)
    define(engine, a_message)
    before = sorted(root.rglob("*"))
    for value in (SECRET, {"token": [SECRET]}, SECRET.encode()):
        with pytest.raises(ValidationError, match="the secret API_KEY") as caught:
            engine.run("flow", "e-1", value)
        search("message", str(caught.value) + repr(caught.value.errors))
    assert sorted(root.rglob("*")) == before
    engine.close()


def test_an_id_with_a_secret_is_refused(root, monkeypatch):
    monkeypatch.setenv("FLOW_API_KEY", "plain-secret-value")
    engine = boot(root)
    define(engine, a_message)
    with pytest.raises(ValidationError, match="the secret API_KEY"):
        engine.run("flow", "e-plain-secret-value")
    engine.close()


def test_the_caller_has_the_error_as_it_was_raised(root):
    """What is raised in the caller's own process is the caller's own object."""
    engine = boot(root)
    define(engine, an_attribute)
    with pytest.raises(Exception, match="401") as caught:
        asyncio.run(engine.start("flow", "e-1"))
    assert caught.value.original_error.token == SECRET
    engine.close()


def test_an_error_that_is_built_again_has_the_name_in_its_place(root):
    engine = boot(root)
    define(engine, an_attribute)
    engine.run("flow", "e-1")

    async def errors():
        return await engine.store.workflow("flow").load_errors("flow", "e-1")

    ((step_id, record),) = asyncio.run(errors())
    error = rebuild_error(record, step_id, [ServiceError], engine.codec)
    assert isinstance(error, ServiceError)
    assert (error.token, error.more) == ("[secret API_KEY]", {"headers": ["[secret API_KEY]"]})
    assert "used [secret API_KEY]" in record.error_stack
    engine.close()


def test_old_and_new_value_are_both_masked(root, monkeypatch, caplog):
    engine = boot(root)

    async def rotated(ctx: WorkflowContext):
        before = use(ctx)
        monkeypatch.setenv("FLOW_API_KEY", "the next value of it")
        await ctx.step("s", raising(ValueError(f"{before} and {use(ctx)}")))

    define(engine, rotated)
    result = engine.run("flow", "e-1")
    assert result.steps["s"].error.message == "[secret API_KEY] and [secret API_KEY]"
    engine.close()
    search_all(root, boot(root), caplog)


def test_a_backup_holds_no_secret_either(root, tmp_path, caplog):
    engine = boot(root)
    define(engine, a_chained_error)
    engine.run("flow", "e-1")
    copy = asyncio.run(engine.backup(tmp_path / "copy"))
    engine.close()
    search_all(copy, boot(copy), caplog)


def test_the_search_would_find_it(root, caplog):
    """The control of the experiment: without the configuration, each kind of leak is found."""
    (root / "workflows" / "flow" / "config.json").unlink()
    engine = boot(root)

    async def careless(ctx):
        ctx.logger.warning(SECRET)
        await ctx.step("s", lambda: SECRET)

    define(engine, careless)
    engine.run("flow", "e-1")
    engine.close()
    with pytest.raises(AssertionError):
        search_all(root, boot(root), caplog)
    with pytest.raises(AssertionError):
        search("traceback", "".join(traceback.format_exception(ValueError(SECRET))))
