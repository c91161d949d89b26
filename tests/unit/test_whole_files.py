"""Files that are written as a whole or not at all."""

import pytest

from workflow_core.whole_files import write_whole


@pytest.mark.parametrize("name", ["x" * 120, "\u65e5" * 85, "short"], ids=["long", "long in UTF-8", "short"])
@pytest.mark.parametrize("replace", [True, False])
def test_a_file_may_have_a_long_name(tmp_path, name, replace):
    path = tmp_path / name
    write_whole(path, b"first", replace=replace)
    write_whole(path, b"second", replace=replace)
    assert path.read_bytes() == (b"second" if replace else b"first")
    assert list(tmp_path.iterdir()) == [path]
