"""Sessions of the documentation fail where a page says something else than what happens."""

import os

import pytest

from tests.docs.sessions import Session, blocks

pytestmark = pytest.mark.skipif(os.name != "posix", reason="the commands are those of a POSIX shell")

PAGE = """
Save as `hello.py`:

```python
print("hello in 12 ms", flush=True)
import time

time.sleep(30)
```

```console
$ export WHOM=ada
$ echo "hello, $WHOM"; echo and more
hello, ada
...
$ python hello.py & sleep 1; kill -9 $!
hello in 7 ms
```
"""


@pytest.fixture
def session(tmp_path, nursery):
    return Session(tmp_path, {}, nursery)


def test_a_page_that_is_true(session):
    session.follow(PAGE)


@pytest.mark.parametrize(("said", "instead"), [("hello, ada", "hello, bob"), ("hello in 7 ms", "good bye")])
def test_an_output_that_is_not_true(session, said, instead):
    with pytest.raises(AssertionError, match="but the page says"):
        session.follow(PAGE.replace(said, instead, 1))


def test_a_block_that_is_no_file(session):
    with pytest.raises(AssertionError, match="names no file"):
        session.follow(PAGE.replace("Save as `hello.py`:", "Look at this:"))


def test_names_of_blocks():
    text = "and as `a/b.yaml`:\n\n```yaml\nx: 1\n```\n\n`shop.py` is here.\n\n```python\npass\n```\n\n```\nnone\n```\n"
    assert blocks(text) == [("a/b.yaml", "yaml", "x: 1\n"), (None, "python", "pass\n")]
