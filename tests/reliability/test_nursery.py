"""A process of the nursery's does what one of `subprocess.Popen` does."""

import os
import signal
import subprocess
import sys

import pytest

pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="processes are forked")

PROGRAMS = {
    "arguments": "import sys; print(sys.argv, sys.path[0], __name__); sys.exit(3)",
    "an error": "import sys; sys.tracebacklimit = 0; print('before'); raise ValueError('no')",
    "a word": "import sys; sys.exit('a word')",
    "an interrupt": "import sys; sys.tracebacklimit = 0; raise KeyboardInterrupt",
    "a signal": "import os, signal; print('lost'); os.kill(os.getpid(), signal.SIGKILL)",
    "an interrupt from outside": "import os, signal, time; os.kill(os.getpid(), signal.SIGINT); time.sleep(60)",
    "a thread": "import threading; threading.Timer(0.05, print, ['late']).start()",
    "what was registered": "import atexit; atexit.register(print, 'at the end'); print('now')",
    "os._exit": "import os; print('lost'); os._exit(5)",
    "streams": "import sys; print(input(), file=sys.stderr); print(sys.stdin.read(), end='é')",
    "environment": "import os; print(sorted(os.environ.items()), os.getcwd())",
    "no bytecode": "import sys; print(sys.dont_write_bytecode)",
}


def last(run):
    """Return all that is told of a process, of a traceback its last line."""
    return run.returncode, run.stdout, run.stderr.splitlines()[-1:]


@pytest.mark.parametrize("kind", PROGRAMS)
def test_it_is_like_a_process_of_an_interpreter_of_its_own(nursery, tmp_path, kind):
    command = [sys.executable, "-c", PROGRAMS[kind], "one", "two"]
    environment = {"PATH": os.environ["PATH"], "LANG": "C.UTF-8", "PYTHONDONTWRITEBYTECODE": "1"}
    options = {"cwd": tmp_path, "env": environment, "input": "first\nsecond\n"}
    expected = subprocess.run(command, capture_output=True, text=True, check=False, **options)
    found = nursery.run(command, **options)
    assert last(found) == last(expected)


def test_files_and_modules(nursery, tmp_path):
    (tmp_path / "beside.py").write_text("print('beside')")
    (tmp_path / "main.py").write_text("import beside, sys\nprint(__file__, sys.argv[1:], sys.modules['__main__'].x)\n")
    (tmp_path / "main.py").write_text("x = 1\n" + (tmp_path / "main.py").read_text())
    for command in (["main.py", "a"], [str(tmp_path / "main.py"), "a"], ["-m", "main", "a"]):
        expected = subprocess.run([sys.executable, *command], capture_output=True, text=True, cwd=tmp_path, check=False)
        assert last(nursery.run([sys.executable, *command], cwd=tmp_path)) == last(expected)
        assert expected.stdout.startswith("beside\n/"), expected


def test_it_can_be_talked_to_and_ended(nursery):
    talk = "import sys\nfor line in sys.stdin: print(line.upper(), end='', flush=True)"
    with nursery.popen([sys.executable, "-c", talk], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        process.stdin.write("hello\n")
        process.stdin.flush()
        assert process.stdout.readline() == "HELLO\n"
        assert process.poll() is None
        with pytest.raises(subprocess.TimeoutExpired):
            process.wait(0.01)
        process.terminate()
        assert process.wait() == -signal.SIGTERM == process.poll()
        process.kill()  # it has ended, and another process may have its number


def test_a_group_of_its_own(nursery):
    leads = "import os; print(os.getpgrp() == os.getpid() == os.getsid(0))"
    for leads_a_session in (True, False):
        run = nursery.run([sys.executable, "-c", leads], start_new_session=leads_a_session)
        assert run.stdout == f"{leads_a_session}\n"


@pytest.mark.parametrize(
    "command", [["echo", "hello"], [sys.executable, "-S", "-c", "print('hello')"]], ids=["a program", "an option"]
)
def test_what_needs_another_program_or_a_new_interpreter_is_an_ordinary_process(nursery, command):
    process = nursery.popen(command, stdout=subprocess.PIPE)
    assert isinstance(process, subprocess.Popen)
    assert process.communicate(timeout=60)[0] == "hello\n"


def test_scripts_of_the_environment(nursery, tmp_path):
    script = tmp_path / "hello"
    script.write_text(f"#!{sys.executable}\nimport sys\nprint('hello', sys.argv)\n")
    script.chmod(0o700)
    process = nursery.popen(["hello"], env={"PATH": str(tmp_path)}, stdout=subprocess.PIPE)
    assert not isinstance(process, subprocess.Popen)
    assert process.communicate()[0] == f"hello ['{script}']\n"


@pytest.mark.parametrize("command", [["-c", "print('hello')"], ["-cprint('hello')"], ["-m", "hello"], ["-mhello"]])
def test_an_option_and_what_it_is_given_are_one_word_or_two(nursery, tmp_path, command):
    """Pytester writes ``-mpytest``."""
    (tmp_path / "hello.py").write_text("print('hello')")
    process = nursery.popen([sys.executable, *command], cwd=tmp_path, stdout=subprocess.PIPE)
    assert not isinstance(process, subprocess.Popen)
    assert process.communicate()[0] == "hello\n"
