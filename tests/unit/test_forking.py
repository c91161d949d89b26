"""What begins again in a forked child."""

import os

import pytest

from workflow_core.forking import after_fork

pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork here")


class Part:
    def __init__(self, *, is_broken):
        self.is_broken, self.process = is_broken, os.getpid()
        after_fork(self)

    def forked(self):
        if self.is_broken:
            raise OSError("nothing is left of this one")
        self.process = os.getpid()


@pytest.mark.parametrize("broken", [(), (0,), (3, 7), (9,)])
def test_one_that_cannot_begin_again_keeps_no_other_from_it(broken, capfd):
    parts = [Part(is_broken=number in broken) for number in range(10)]
    child = os.fork()
    if not child:
        try:
            begun = [number for number, part in enumerate(parts) if part.process == os.getpid()]
            os._exit(0 if begun == [number for number in range(10) if number not in broken] else 1)
        finally:
            os._exit(2)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    assert all(part.process == os.getpid() for part in parts)
    capfd.readouterr()


def test_what_is_used_no_more_does_not_begin_again():
    part = Part(is_broken=True)
    del part
    child = os.fork()
    if not child:
        os._exit(0)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
