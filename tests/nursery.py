"""Python processes that are born in milliseconds: forked from one, the nursery, that has imported what they need.

To start an interpreter and to import pytest, the engine and what they need takes most of a second, and the tests start
hundreds of processes. A process of the nursery's differs from one of `subprocess.Popen` in nothing that a test looks
at: it has its own directory, environment, arguments and streams, runs the same file or module as ``__main__``, ends
like an interpreter, and dies of the signals of which an interpreter dies. But modules that it has not imported are
there.

The nursery is a process of its own, with one thread, because one with several must not fork. It is spoken to by lines
of JSON over a socket, each with the three streams of a process if it asks for one, and answers each with a number.
"""

from __future__ import annotations

import atexit
import contextlib
import ctypes
import gc
import importlib
import io
import json
import os
import runpy
import select
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, Self

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

ROOT = Path(__file__).parents[1]
LOOK_SECONDS = 0.01
LONGEST_SECONDS = 60.0
STILL_RUNS = 1_000
"""What is answered for a process that has not ended; no exit code is that large."""

IMPORTED = (
    "pdb",
    "pytest_workflow.crash_everywhere",
    "pytest_workflow.environment",
    "pytest_workflow.fault_calls",
    "pytest_workflow.faults",
    "pytest_workflow.freezer",
    "pytest_workflow.harness",
    "pytest_workflow.markers",
    "workflow_core.cli.application",
    "workflow_core.cli.commands.start",
    "workflow_core.cli.interruption",
    "workflow_core.cli.logging_setup",
    "workflow_core.database.directory",
    "workflow_core.definitions.builtin",
    "workflow_core.engine",
    "workflow_core.views.saved",
    "workflow_core.workflow",
)
"""What most of the processes import, besides pytest and its own plugins."""

OF_THE_INTERPRETER = ("PYTHONHASHSEED", "PYTHONWARNINGS", "PYTHONOPTIMIZE", "PYTHONASYNCIODEBUG", "PYTHONUTF8", "TZ")
"""Variables that an interpreter reads when it starts: whoever sets one differently needs a new interpreter."""


class Born:
    """A process of the nursery's, with what tests use of `subprocess.Popen`.

    Attributes:
        args: Its command line.
        pid: Its number.
        stdout: What it writes, if that was asked for; ``stderr`` likewise.
        stdin: What it reads, if that was asked for.
        returncode: Its exit code once it was waited for; that of a signal is negative.
    """

    def __init__(self, nursery: Nursery, args: Sequence[str], pid: int, streams: Sequence[IO[Any] | None]) -> None:
        self.args, self.pid, self.returncode = args, pid, None
        self.stdin, self.stdout, self.stderr = streams
        self._nursery = nursery

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._close()
        self.wait()

    def poll(self) -> int | None:
        """Return its exit code; None while it runs."""
        if self.returncode is None:
            code = self._nursery.ask(act="look", pid=self.pid)
            self.returncode = None if code == STILL_RUNS else code
        return self.returncode

    def wait(self, timeout: float | None = LONGEST_SECONDS) -> int:
        """Wait for its end, and return its exit code."""
        deadline = time.monotonic() + (LONGEST_SECONDS if timeout is None else timeout)
        if self.poll() is None and hasattr(os, "pidfd_open"):
            descriptor = os.pidfd_open(self.pid)
            try:
                select.select([descriptor], [], [], max(0.0, deadline - time.monotonic()))
            finally:
                os.close(descriptor)
        while (code := self.poll()) is None:
            if time.monotonic() >= deadline:
                raise subprocess.TimeoutExpired(self.args, timeout or LONGEST_SECONDS)
            time.sleep(LOOK_SECONDS)
        return code

    def send_signal(self, number: int) -> None:
        """Send it a signal, unless it was found to have ended."""
        if self.poll() is None:
            os.kill(self.pid, number)

    def terminate(self) -> None:
        """Ask it to end."""
        self.send_signal(signal.SIGTERM)

    def kill(self) -> None:
        """Kill it."""
        self.send_signal(signal.SIGKILL)

    def communicate(self, text: str | None = None, timeout: float | None = LONGEST_SECONDS) -> tuple[Any, Any]:
        """Write ``text``, read all that it writes, and wait for its end."""
        found: dict[str, Any] = {}

        def read(name: str) -> None:
            found[name] = getattr(self, name).read()

        names = [name for name in ("stdout", "stderr") if getattr(self, name) and not getattr(self, name).closed]
        readers = [threading.Thread(target=read, args=(name,), daemon=True) for name in names]
        for reader in readers:
            reader.start()
        if self.stdin is not None:
            with contextlib.suppress(BrokenPipeError):
                self.stdin.write(text or "")
                self.stdin.close()
        self.wait(timeout)
        for reader in readers:
            reader.join()
        self._close()
        return found.get("stdout"), found.get("stderr")

    def _close(self) -> None:
        for stream in (self.stdin, self.stdout, self.stderr):
            if stream is not None:
                with contextlib.suppress(BrokenPipeError):
                    stream.close()


class Nursery:
    """Gives birth to processes, and knows how they end; begun with the first that is asked for."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._socket: socket.socket | None = None
        self._answers: IO[str] | None = None
        self._process: subprocess.Popen[bytes] | None = None

    def know(self, *modules: str) -> Nursery:
        """Import more modules, for all processes that are born from now on."""
        if hasattr(os, "fork"):
            self.ask(act="know", modules=modules)
        return self

    def popen(
        self,
        command: Sequence[str | os.PathLike[str]],
        *,
        cwd: str | os.PathLike[str] | None = None,
        env: Mapping[str, str] | None = None,
        stdin: Any = None,
        stdout: Any = None,
        stderr: Any = None,
        text: bool = True,
        start_new_session: bool = False,
        **options: Any,
    ) -> Born | subprocess.Popen[Any]:
        """Begin a process like `subprocess.Popen`; one that is not of this interpreter, or needs a new one, is one.

        Args:
            command: ``sys.executable`` or a script of its environment, and arguments.
            cwd: Its directory, by default that of this process.
            env: All of its environment, by default that of this process.
            stdin: What it reads: a file, ``PIPE``, ``DEVNULL``, or by default what this process reads.
            stdout: Where it writes, likewise.
            stderr: Where it complains, likewise, or ``STDOUT``.
            text: Whether pipes are read as text.
            start_new_session: Whether it leads a session, and so a group of processes, of its own.
            options: Others of `subprocess.Popen`, which need a new interpreter.
        """
        words, environment = [os.fspath(word) for word in command], dict(os.environ if env is None else env)
        main = None if options else _main_of(words, environment)
        if main is None:
            options |= {"cwd": cwd, "env": env, "start_new_session": start_new_session}
            return subprocess.Popen(words, stdin=stdin, stdout=stdout, stderr=stderr, text=text, **options)
        ours: list[int | None] = []
        theirs: list[int] = []
        opened = []
        try:
            for number, given in enumerate((stdin, stdout, stderr)):
                if given == subprocess.PIPE:
                    pair = os.pipe() if number else os.pipe()[::-1]
                    ours.append(pair[0])
                    theirs.append(pair[1])
                    opened.append(pair[1])
                    continue
                ours.append(None)
                if given == subprocess.STDOUT:
                    theirs.append(theirs[1])
                elif given == subprocess.DEVNULL:
                    theirs.append(os.open(os.devnull, os.O_RDWR))
                    opened.append(theirs[-1])
                else:
                    theirs.append(number if given is None else given if isinstance(given, int) else given.fileno())
            directory = os.path.abspath(cwd or ".")  # noqa: PTH100 - a path may be frozen, and links stay links
            pid = self.ask(
                theirs,
                act="begin",
                main=main,
                directory=directory,
                environment=environment,
                leads=start_new_session,
            )
        finally:
            for descriptor in opened:
                os.close(descriptor)
        modes = ("w", "r", "r") if text else ("wb", "rb", "rb")
        streams = [None if each is None else open(each, mode) for each, mode in zip(ours, modes, strict=True)]  # noqa: SIM115, PTH123
        return Born(self, words, pid, streams)

    def run(
        self,
        command: Sequence[str | os.PathLike[str]],
        *,
        input: str | None = None,  # noqa: A002 - as subprocess names it
        timeout: float | None = LONGEST_SECONDS,
        capture_output: bool = True,
        check: bool = False,
        **options: Any,
    ) -> subprocess.CompletedProcess[Any]:
        """Run a process to its end, like `subprocess.run`; one that takes longer than ``timeout`` seconds is killed."""
        if capture_output:
            options = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, **options}
        if input is not None:
            options["stdin"] = subprocess.PIPE
        process = self.popen(command, **options)
        try:
            out, err = process.communicate(input, timeout=timeout)
        finally:
            if process.poll() is None:
                process.kill()
                process.wait()
        done = subprocess.CompletedProcess(process.args, process.returncode, out, err)
        if check:
            done.check_returncode()
        return done

    def ask(self, streams: Sequence[int] = (), **request: Any) -> int:
        """Send a request, and return its answer."""
        with self._lock:
            if self._socket is None:
                self._begin()
            assert self._socket is not None
            assert self._answers is not None
            line = json.dumps(request).encode() + b"\n"
            if streams:
                sent = socket.send_fds(self._socket, [line], list(streams))
                line = line[sent:]
            self._socket.sendall(line)
            return int(self._answers.readline())

    def close(self) -> None:
        """End the nursery, and with it every process that it gave birth to."""
        if self._socket is not None and self._answers is not None and self._process is not None:
            self._answers.close()
            self._socket.close()
            self._process.wait()
        self._socket = self._answers = self._process = None

    def _begin(self) -> None:
        ours, theirs = socket.socketpair()
        with theirs:
            number = theirs.fileno()
            command = [sys.executable, "-m", "tests.nursery", str(number)]
            self._process = subprocess.Popen(command, cwd=ROOT, stdin=subprocess.DEVNULL, pass_fds=[number])
        self._socket, self._answers = ours, ours.makefile("r")


def _main_of(words: list[str], environment: Mapping[str, str]) -> list[str] | None:
    """Return what an interpreter of this environment would be told to run; None if it needs a new interpreter."""
    if not hasattr(os, "fork") or any(environment.get(name) != os.environ.get(name) for name in OF_THE_INTERPRETER):
        return None
    program, *main = words
    found = shutil.which(program, path=environment.get("PATH"))
    if found is None:
        return None
    if not _is_interpreter(Path(found)):
        if not _is_script(Path(found)):
            return None
        main = [found, *main]
    if main and main[0][:2] in {"-m", "-c"} and main[0][2:]:
        main = [main[0][:2], main[0][2:], *main[1:]]  # as pytester writes it: -mpytest
    is_plain = bool(main) and (main[0] in {"-m", "-c"} or not main[0].startswith("-"))
    return main if is_plain else None


def _is_interpreter(path: Path) -> bool:
    """Tell whether it is this interpreter, by any of its names in this environment."""
    is_beside = path.parent == Path(sys.executable).parent
    return is_beside and path.name.startswith("python") and path.resolve() == Path(sys.executable).resolve()


def _is_script(path: Path) -> bool:
    """Tell whether this interpreter runs it."""
    with path.open("rb") as file:
        first = file.readline().rstrip().decode("utf-8", "replace")
    return first.startswith("#!") and _is_interpreter(Path(first.removeprefix("#!")))


# The nursery's own process -------------------------------------------------------------------------------------------


def _begin(request: dict[str, Any], streams: list[int], line: socket.socket) -> int:
    pid = os.fork()
    if pid:
        for descriptor in streams:
            os.close(descriptor)
        return pid
    code: int | None = 70
    try:
        line.close()
        _become(request, streams)
        code = _run(request["main"])
    finally:
        _end(code)
    return 0


def _become(request: dict[str, Any], streams: list[int]) -> None:
    """Be the process that is asked for."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(1, signal.SIGKILL)  # PR_SET_PDEATHSIG
    if request["leads"]:
        os.setsid()
    for number, descriptor in enumerate(streams):
        os.dup2(descriptor, number)
    for descriptor in streams:
        os.close(descriptor)
    environment = request["environment"]
    os.environ.clear()
    os.environ.update(environment)
    os.chdir(request["directory"])
    sys.dont_write_bytecode = bool(environment.get("PYTHONDONTWRITEBYTECODE"))
    how = {"encoding": environment.get("PYTHONIOENCODING", "utf-8")}
    sys.stdin = sys.__stdin__ = open(0, **how, closefd=False)  # noqa: SIM115
    for number, name in ((1, "stdout"), (2, "stderr")):
        raw = open(number, "wb", closefd=False)  # noqa: SIM115
        stream = io.TextIOWrapper(
            raw,
            **how,
            errors="strict" if number == 1 else "backslashreplace",
            line_buffering=number == 2 or raw.isatty() or bool(environment.get("PYTHONUNBUFFERED")),
        )
        setattr(sys, name, stream)
        setattr(sys, f"__{name}__", stream)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    more = [place for place in environment.get("PYTHONPATH", "").split(os.pathsep) if place]
    sys.path[1:1] = [place for place in more if place not in sys.path]


def _run(main: list[str]) -> int | None:
    """Do what an interpreter does with these arguments; return the exit code, or None if an interrupt ends it."""
    try:
        if main[0] == "-m":
            sys.argv, sys.path[0] = main[1:], os.getcwd()  # noqa: PTH109 - as the interpreter names it
            runpy.run_module(main[1], run_name="__main__", alter_sys=True)
        elif main[0] == "-c":
            sys.argv, sys.path[0] = ["-c", *main[2:]], ""
            exec(compile(main[1], "<string>", "exec"), _new_main().__dict__)  # noqa: S102 - as asked
        else:
            path = os.path.abspath(main[0])  # noqa: PTH100
            sys.argv, sys.path[0] = main, os.path.dirname(os.path.realpath(path))  # noqa: PTH120
            new = _new_main()
            new.__dict__["__file__"] = path
            exec(compile(Path(path).read_bytes(), path, "exec"), new.__dict__)  # noqa: S102 - as asked
    except SystemExit as error:
        if error.code is None or isinstance(error.code, int):
            return (error.code or 0) & 0xFF
        print(error.code, file=sys.stderr)
        return 1
    except BaseException as error:
        sys.excepthook(type(error), error, error.__traceback__)
        return None if isinstance(error, KeyboardInterrupt) else 1
    return 0


def _new_main() -> Any:
    main = type(sys)("__main__")
    main.__dict__["__builtins__"] = __builtins__
    sys.modules["__main__"] = main
    return main


def _end(code: int | None) -> None:
    """End as an interpreter ends: threads, then what was registered, then what is still to be written."""
    with contextlib.suppress(BaseException):
        threading._shutdown()  # type: ignore[attr-defined]
    with contextlib.suppress(BaseException):
        atexit._run_exitfuncs()
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(BaseException):
            stream.flush()
    if code is None:
        signal.signal(signal.SIGINT, signal.SIG_DFL)
        os.kill(os.getpid(), signal.SIGINT)
    os._exit(70 if code is None else code)


def _look(request: dict[str, Any]) -> int:
    pid, status = os.waitpid(request["pid"], os.WNOHANG)
    return os.waitstatus_to_exitcode(status) if pid else STILL_RUNS


def _know(modules: Sequence[str]) -> int:
    for name in modules:
        importlib.import_module(name)
    gc.collect()
    gc.freeze()  # a collection in a child would copy every page that it shares with this process
    return 0


def _import_pytest() -> None:
    """Import pytest, its own plugins, and nothing that it would want to rewrite the assertions of."""
    from _pytest.assertion.rewrite import AssertionRewritingHook
    from _pytest.config import default_plugins

    for name in default_plugins:
        importlib.import_module(f"_pytest.{name}")
    # The assertions of what is imported here are none of a plugin's: nothing is lost if they are not rewritten.
    AssertionRewritingHook._warn_already_imported = lambda self, name: None  # type: ignore[method-assign]


def serve(line: socket.socket) -> None:
    """Answer requests until there are no more."""
    _import_pytest()
    _know(IMPORTED)
    streams: list[int] = []
    waiting = b""
    while True:
        received, descriptors, _, _ = socket.recv_fds(line, 1 << 20, 3)
        if not received:
            return
        streams += descriptors
        waiting += received
        while b"\n" in waiting:
            text, _, waiting = waiting.partition(b"\n")
            request = json.loads(text)
            if request["act"] == "begin":
                answer, streams = _begin(request, streams, line), []
            else:
                answer = _look(request) if request["act"] == "look" else _know(request["modules"])
            line.sendall(f"{answer}\n".encode())


if __name__ == "__main__":
    serve(socket.socket(fileno=int(sys.argv[1])))
