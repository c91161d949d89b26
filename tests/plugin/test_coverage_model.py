"""The coverage model: merging, shares, groups of step ids, JSON, and the pages made of it."""

from __future__ import annotations

import json
import re
from html.parser import HTMLParser

import pytest

from pytest_workflow.coverage import RunCoverage, Share, StepCoverage
from pytest_workflow.coverage_html import page
from pytest_workflow.coverage_report import terminal_report


def seen(test, workflow="w", step="s", can=(), did=(), handlers=(), entered=()):
    run = RunCoverage()
    run.workflow(workflow).tests.add(test)
    known = run.workflow(workflow).step(step)
    known.can([*can, *did], [*handlers, *entered])
    for outcome in did:
        known.outcomes[outcome].add(test)
    for handler in entered:
        known.handlers[handler].add(test)
    return run


def merged(*runs):
    result = RunCoverage()
    for run in runs:
        result.add(run)
    return result


def test_merging_adds_tests_outcomes_and_handlers():
    run = merged(
        seen("t1", can=["failed", "panicked"], handlers=["catch"]),
        seen("t2", did=["failed"], can=["timed_out"], entered=["catch"]),
        seen("t1", did=["failed"]),
    )
    workflow = run.workflow("w")
    assert workflow.tests == {"t1", "t2"}
    assert workflow.steps["s"].outcomes == {"failed": {"t1", "t2"}, "panicked": set(), "timed_out": set()}
    assert workflow.steps["s"].handlers == {"catch": {"t2"}}
    assert run.share == workflow.share == Share(2, 4)


def test_merging_the_same_twice_changes_nothing():
    once = seen("t", did=["failed"], entered=["catch"])
    assert merged(once, once).to_json() == once.to_json()


def test_merging_does_not_share_what_can_change():
    first = seen("t1", did=["failed"])
    merged(first, seen("t2", did=["failed"]))
    assert first.workflow("w").steps["s"].outcomes["failed"] == {"t1"}


@pytest.mark.parametrize(
    ("share", "shown"),
    [
        (Share(0, 0), "100%"),
        (Share(0, 7), "0%"),
        (Share(1, 3), "33.3%"),
        (Share(1, 2), "50%"),
        (Share(9_999, 10_000), "99.9%"),
        (Share(5, 5), "100%"),
    ],
)
def test_a_share_is_rounded_down(share, shown):
    assert share.shown == shown


def test_a_workflow_that_no_test_ran_is_one_missing_thing():
    run = seen("t", did=["failed"])
    run.workflow("other")
    assert run.workflow("other").share == Share(0, 1)
    assert run.share == Share(1, 2)


def test_ids_that_differ_in_digits_are_one_row():
    run = merged(
        seen("t1", step="v2-item-1", did=["failed"], can=["panicked"]),
        seen("t2", step="v2-item-17", can=["failed"], did=["retried"]),
        seen("t2", step="v2-items", can=["failed"]),
        seen("t2", step="oauth2", can=["failed"]),
    )
    grouped = run.grouped().workflow("w")
    assert set(grouped.steps) == {"v2-item-*", "v2-items", "oauth2"}
    assert grouped.steps["v2-item-*"] == StepCoverage(
        {"failed": {"t1"}, "panicked": set(), "retried": {"t2"}}, {}, ids=2
    )
    assert grouped.steps["oauth2"].ids == 1
    assert run.workflow("w").steps["v2-item-1"].ids == 1
    assert grouped.tests == {"t1", "t2"}


def test_every_run_of_digits_that_differs_is_a_star():
    run = merged(*(seen("t", step=step) for step in ("1-2", "1-3", "10-2")))
    assert list(run.grouped().workflow("w").steps) == ["*-*"]


def test_only_some_workflows():
    run = merged(seen("t", "order"), seen("t", "order-2"), seen("t", "other"))
    assert list(run.only(["order*"]).workflows) == ["order", "order-2"]
    assert list(run.only(["other", "order"]).workflows) == ["order", "other"]


HOSTILE = '</td><script>alert("1")</script>&\x1b[31m\ud800'


def hostile():
    return merged(
        seen(f"test.py::test[{HOSTILE}]", step=HOSTILE, did=["failed"], handlers=[f"on_error:{HOSTILE}"]),
        seen("test.py::test", workflow=HOSTILE, can=["slept"]),
    )


def test_json_round_trip():
    run = merged(hostile(), seen("t1", step="a-1", did=["failed"]), seen("t2", step="a-2", entered=["on_open"]))
    run = run.grouped()
    run.workflow("never")
    text = run.to_json()
    assert text.isascii()
    again = RunCoverage.from_json(text)
    assert again.workflows == run.workflows
    assert again.to_json() == text


def test_json_tells_shares_and_tests():
    document = json.loads(seen("t", did=["failed"], can=["panicked"], handlers=["catch"]).to_json(indent=2))
    assert document == {
        "format": 1,
        "covered": 1,
        "total": 3,
        "percent": 33.33,
        "workflows": {
            "w": {
                "covered": 1,
                "total": 3,
                "percent": 33.33,
                "tests": ["t"],
                "steps": {"s": {"ids": 1, "outcomes": {"failed": ["t"], "panicked": []}, "handlers": {"catch": []}}},
            }
        },
    }


@pytest.mark.parametrize("text", ["[]", "{}", '{"format": 2, "workflows": {}}', "nonsense"])
def test_other_json_is_refused(text):
    with pytest.raises(ValueError):
        RunCoverage.from_json(text)


class Reader(HTMLParser):
    """Collects the tags of a page, and checks that they are nested."""

    def __init__(self, text):
        super().__init__()
        self.open = []
        self.tags = []
        self.text = []
        self.feed(text)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        if tag != "meta":
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.text.append(data)

    def all(self, tag):
        return [attrs for found, attrs in self.tags if found == tag]


def test_the_page_is_self_contained_and_escapes_everything():
    text = page(hostile())
    reader = Reader(text)
    assert not {"script", "link", "img", "iframe"} & {tag for tag, _ in reader.tags}
    assert not re.search(r"https?:|url\(|@import", text)
    assert "\x1b" not in text
    assert "default-src 'none'" in reader.all("meta")[1]["content"]
    assert any('<script>alert("1")' in piece for piece in reader.text)
    assert "color-scheme: light dark" in text and "prefers-color-scheme: dark" in text


def test_the_tables_of_the_page_are_accessible():
    run = seen("t", did=["failed"], can=["panicked"], entered=["catch"])
    run.workflow("never-run")
    reader = Reader(page(run))
    tables = len(reader.all("table"))
    assert tables == len(reader.all("caption")) == 2
    assert all(heading["scope"] in {"col", "row"} for heading in reader.all("th"))
    assert reader.all("html") == [{"lang": "en"}]
    targets = {f"#{heading['id']}" for heading in reader.all("h2")}
    assert [link["href"] for link in reader.all("a")] == sorted(targets)
    assert "No test ran this workflow, so its steps are not known." in reader.text


def test_the_page_names_the_tests_of_a_cell_but_not_hundreds():
    reader = Reader(page(merged(*(seen(f"test_{n:03}", did=["failed"]) for n in range(30)))))
    tips = [span["title"].splitlines() for span in reader.all("span")]
    assert {tip[0] for tip in tips} == {"test_000"}
    assert {tip[-1] for tip in tips} == {"and 10 more"}


def test_the_terminal_is_not_given_what_it_would_obey():
    lines = list(terminal_report(hostile()))
    assert all(line.isprintable() for line in lines)
