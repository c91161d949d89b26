"""Which processes are born in the nursery: a process that needs a new interpreter takes much of a second longer."""

import os
import sys

import pytest

from tests.nursery import ROOT, main_of

pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="nothing is born without fork")


@pytest.mark.parametrize(
    ("words", "main"),
    [
        (["-m", "pytest", "-q"], ["-m", "pytest", "-q"]),
        (["-mpytest", "-q"], ["-m", "pytest", "-q"]),  # as pytester writes it
        (["-c", "print()"], ["-c", "print()"]),
        (["-cprint()"], ["-c", "print()"]),
        (["shop.py", "-m"], ["shop.py", "-m"]),
    ],
)
def test_what_is_born(words, main):
    assert main_of([sys.executable, *words], os.environ) == main


@pytest.mark.parametrize("words", [[], ["-X", "importtime", "-c", "print()"], ["-S", "-m", "pytest"]])
def test_what_an_option_of_the_interpreter_is_for_gets_a_new_one(words):
    assert main_of([sys.executable, *words], os.environ) is None


def test_what_the_interpreter_reads_when_it_starts_needs_a_new_one():
    assert main_of([sys.executable, "-m", "pytest"], {**os.environ, "PYTHONHASHSEED": "1"}) is None


def test_another_program_is_no_process_of_the_nursery():
    assert main_of(["sh", "-c", "true"], os.environ) is None
    assert main_of([str(ROOT / "nothing")], os.environ) is None
