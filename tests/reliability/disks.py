"""Real disks for tests: small ones that can be full, and ones that can be mounted read-only."""

import contextlib
import os
import shutil
import subprocess

import pytest


def lacking(reason):
    """Skip the test because a real part is missing; in continuous integration it must be there."""
    if os.environ.get("CI"):
        pytest.fail(reason)
    pytest.skip(reason)


class SmallDisk:
    """A file system of its own, in memory.

    Args:
        path: Where it is mounted.
    """

    def __init__(self, path):
        self.path = path
        self.filler = path / "filler"
        path.mkdir(parents=True, exist_ok=True)
        if os.geteuid() != 0 or shutil.which("mount") is None:
            lacking("mounting a small disk needs root and mount(8)")
        command = ["mount", "-t", "tmpfs", "-o", "size=3m,mode=0755", "tmpfs", str(path)]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode:
            lacking(f"cannot mount a small disk: {done.stderr.strip()}")

    def fill(self):
        """Leave no room."""
        with self.filler.open("ab", buffering=0) as file, contextlib.suppress(OSError):
            while True:
                file.write(b"\0" * 4_096)
        assert os.statvfs(self.path).f_bavail == 0

    def clear(self):
        """Make room again."""
        self.filler.unlink(missing_ok=True)

    def remount(self, options):
        """Mount again, as ``ro`` or ``rw``."""
        subprocess.run(["mount", "-o", f"remount,{options}", str(self.path)], check=True)

    def unmount(self):
        """Take the disk away."""
        subprocess.run(["umount", "-l", str(self.path)], check=False)


@contextlib.contextmanager
def small_disk(path):
    """Mount a small disk, and take it away at the end."""
    disk = SmallDisk(path)
    try:
        yield disk
    finally:
        disk.unmount()
