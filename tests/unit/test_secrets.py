"""How secrets are recognised in texts."""

import base64
import gc
import json
import logging
from urllib.parse import quote

import pytest

from workflow_core.secrets import Secrets

SECRET = 'p@ss"wörd\\/with spaces'  # noqa: S105


@pytest.fixture
def secrets():
    secrets = Secrets()
    assert secrets.learn("KEY", SECRET) == SECRET
    return secrets


FORMS = {
    "as it is": SECRET,
    "JSON": json.dumps({"key": SECRET}),
    "JSON in JSON": json.dumps([json.dumps({"key": SECRET})]),
    "JSON as it is stored": json.dumps({"key": SECRET}, ensure_ascii=False),
    "a literal": repr({"key": SECRET}),
    "an ASCII literal": ascii(SECRET),
    "a literal of bytes": repr(SECRET.encode()),
    "a URL": f"https://user:{quote(SECRET, safe='')}@host/",
    "base64": base64.b64encode(SECRET.encode()).decode(),
    "base64 of more, at the second place": base64.b64encode(b"u:" + SECRET.encode() + b"!").decode(),
    "base64 of more, at the third place": base64.b64encode(b"user:" + SECRET.encode() + b"!!").decode(),
    "its beginning": SECRET[:18] + "...",
    "its end": "..." + SECRET[-17:],
}


@pytest.mark.parametrize("form", FORMS)
def test_a_secret_is_masked_in_every_form(secrets, form):
    masked = secrets.redact(f"before {FORMS[form]} after")
    assert "[secret KEY]" in masked
    assert masked.startswith("before ") and masked.endswith(" after")
    for piece in (
        SECRET[:16],
        SECRET[-16:],
        json.dumps(SECRET)[1:17],
        base64.b64encode(SECRET.encode()).decode()[4:20],
    ):
        assert piece not in masked
    if form not in {"its beginning", "its end"}:
        assert secrets.name_in(FORMS[form]) == "KEY"


def test_ordinary_text_stays(secrets):
    assert secrets.redact("p@ss and word") == "p@ss and word"
    assert secrets.name_in("p@ss and word") is None


def test_of_two_secrets_the_longer_one_is_seen_first():
    secrets = Secrets()
    secrets.learn("SHORT", "abcdef")
    secrets.learn("LONG", "abcdefghi")
    assert secrets.redact("abcdefghi abcdef") == "[secret LONG] [secret SHORT]"


def test_the_lines_of_a_secret_are_masked_where_they_stand_alone():
    secrets = Secrets()
    secrets.learn("PEM", "-----BEGIN-----\nMIIEvQIBADANBgkqhkiG\nAoIBAQC7VJTUt9Us8cKj\n-----END-----\n")
    assert secrets.redact("  | MIIEvQIBADANBgkqhkiG\n  | AoIBAQC7VJTUt9Us8cKj") == "  | [secret PEM]\n  | [secret PEM]"


@pytest.mark.timeout(20)
@pytest.mark.parametrize("value", ["DATABASE_PASSWORD", "DATABASE_PASSWORD_OF_TEST", "the DATABASE_PASSWORD"])
def test_a_secret_that_its_name_resembles_is_masked_once(value):
    secrets = Secrets()
    secrets.learn("DATABASE_PASSWORD", value)
    masked = "[secret DATABASE_PASSWORD]"
    assert secrets.redact(f"a {value} b") == f"a {masked} b"
    assert secrets.redact(f"{value[:16]} - {value[-16:]}") == f"{masked} - {masked}"


def test_a_value_that_was_changed_is_remembered(secrets):
    secrets.learn("KEY", "another value")
    assert secrets.redact(f"{SECRET} another value") == "[secret KEY] [secret KEY]"


def test_a_secret_that_is_found_while_it_is_learnt_has_a_name():
    class Watched(Secrets):
        """Is asked by another thread after each change."""

        def __setattr__(self, attribute, value):
            super().__setattr__(attribute, value)
            if "_whole" in vars(self) and attribute.startswith("_"):
                assert self.name_in(SECRET) in {None, "KEY"}

    assert Watched().learn("KEY", SECRET) == SECRET


def test_a_secret_that_is_learnt_while_a_text_is_redacted_is_masked():
    class Late(Secrets):
        """Learns a second secret in another thread, just before its first text is searched."""

        def __getattribute__(self, attribute):
            if attribute == "_whole" and not vars(self).setdefault("late", False):
                vars(self)["late"] = True
                self.learn("SECOND", "second secret")
            return super().__getattribute__(attribute)

    secrets = Late()
    secrets.learn("FIRST", "first secret")
    assert secrets.redact("first secret, second secret") == "[secret FIRST], [secret SECOND]"


def test_a_short_value_is_told_of_once(caplog):
    secrets = Secrets()
    for _ in range(2):
        assert secrets.learn("PIN", "12345") == "12345"
    assert not secrets.known
    (record,) = caplog.records
    assert "PIN is shorter than 6 characters" in record.getMessage() and "12345" not in caplog.text


def test_what_the_engine_logs_is_masked(secrets, caplog):
    logger = logging.getLogger("workflow_core")
    try:
        raise ValueError(SECRET)
    except ValueError:
        logger.exception("it was %s", SECRET, extra={"more": SECRET})
    logger.warning("a wrong call %s %s", SECRET)  # noqa: PLE1206
    logger.warning("ordinary %s", 1)
    assert SECRET not in caplog.text and caplog.text.count("[secret KEY]") >= 3
    assert caplog.records[0].more == "[secret KEY]"
    assert caplog.records[2].args == (1,)


def test_a_secret_is_forgotten_with_its_engine(secrets, caplog):
    del secrets
    gc.collect()
    logging.getLogger("workflow_core").warning("%s", "plain text of nobody")
    assert "plain text of nobody" in caplog.text
