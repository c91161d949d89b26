"""The page of the report: hostile text, valid structure, nothing from elsewhere."""

from __future__ import annotations

import base64
import dataclasses
import hashlib
import re
from collections import Counter
from datetime import UTC, datetime
from html.parser import HTMLParser
from itertools import pairwise

import pytest

from pytest_workflow import ExecutionStarted, StepCompleted, StepStarted
from pytest_workflow.report.model import Report, TestEntry, WorkflowRecord
from pytest_workflow.report.page import render
from workflow_core.events import EVENT_TYPES
from workflow_core.report.drawing import draw_timeline, timeline_definitions, timeline_styles
from workflow_core.report.markup import Markup, escaped, tag
from workflow_core.report.model import ErrorEntry, EventEntry, ExecutionEntry, StepEntry
from workflow_core.report.timeline import BAR_KINDS, MARK_KINDS, FaultStrike

HOSTILE = (
    "</script></style><script>alert(1)</script>\"'><img src=x onerror=alert(1)>&amp;"
    "\u2028\u2029\u202e\x00\x1b[31m\r\ufeff"
)
AT = datetime(2025, 1, 1, tzinfo=UTC)
VOID = {"meta", "input", "br"}


class Page(HTMLParser):
    """Reads a page, and refuses elements that do not close."""

    def __init__(self, text):
        super().__init__(convert_charrefs=True)
        self.elements = []
        self.open = []
        self.texts = Counter()
        self.feed(text)
        self.close()
        assert self.open == []

    def handle_starttag(self, name, attributes):
        self.elements.append((name, dict(attributes)))
        assert len(dict(attributes)) == len(attributes), "an attribute given twice"
        if name not in VOID:
            self.open.append(name)

    def handle_endtag(self, name):
        assert self.open.pop() == name

    def handle_data(self, data):
        self.texts[self.open[-1] if self.open else ""] += 1

    def all(self, name):
        return [attributes for found, attributes in self.elements if found == name]


def event(cls, seq, **fields):
    given = {name: fields.get(name) for name in cls.own_field_names()}
    return cls(seq=seq, at=AT, execution_id="x", workflow_name="flow", **given)


def one_of_each(text):
    """Return an event of every class, with a text wherever one goes."""
    texts = dict.fromkeys(("step_id", "error", "message", "indicator", "handled_by"), text)
    numbers = {
        "attempt": 1,
        "backoff_ms": 5,
        "duration_ms": 5,
        "failures": 2,
        "restart_attempt": 2,
        "restart_delay_ms": 1,
    }
    kinds = [cls for cls in EVENT_TYPES.values() if not cls.__subclasses__()]
    return [event(cls, seq, **texts, **numbers) for seq, cls in enumerate(kinds, start=1)]


def report(*tests, **changes):
    given = {
        "title": "shop",
        "written_at": AT,
        "tests": tests,
        "other_tests": 3,
        "seconds": 1.5,
        "environment": {"pytest": "9"},
    }
    return Report(**(given | changes))


def make_test(text="plain", outcome="passed"):
    execution = ExecutionEntry(
        execution_id=text,
        workflow_name=text,
        status="completed",
        input=text,
        output=f"{text}\n{text}",
        error=text,
        events=tuple(EventEntry.of(found) for found in one_of_each(text)),
        left_out=3,
        steps=(StepEntry(step_id=text, status="completed", result=text),),
        errors=(ErrorEntry(step_id=text, attempt=1, type=text, message=text, stack=text),),
        faults=(FaultStrike(2, text, text), FaultStrike(0, None, text)),
    )
    record = WorkflowRecord(virtual_ms=300_000, executions=(execution, execution), problem=text)
    return TestEntry(
        node_id=f"tests/test_shop.py::test_it[{text}]",
        file="tests/test_shop.py",
        line=3,
        outcome=outcome,
        seconds=0.25,
        failure=text,
        record=record,
    )


# Markup --------------------------------------------------------------------------------------------------------------


def test_everything_but_markup_is_escaped():
    assert tag("b", "<i>", Markup("<i></i>"), 3, title='"&') == '<b title="&quot;&amp;">&lt;i&gt;<i></i>3</b>'


def test_attributes():
    drawn = tag("input", aria_label="x", class_="y", hidden=True, open=False, id=None, width=0)
    assert drawn == '<input aria-label="x" class="y" hidden width="0">'


@pytest.mark.parametrize("hidden", ["\x00", "\x1b", "\r", "\u2028", "\u202e", "\u2066", "\ufeff", "\ud800"])
def test_what_hides_becomes_visible(hidden):
    assert escaped(f"a{hidden}b") == f"a\\u{ord(hidden):04x}b"
    escaped(hidden).encode("utf-8")


def test_ordinary_text_stays():
    assert escaped("naïve 日本 👍\n\t") == "naïve 日本 👍\n\t"


# Pages ---------------------------------------------------------------------------------------------------------------


def test_a_hostile_text_adds_no_element_and_no_attribute():
    hostile, plain = (Page(render(report(make_test(text), title=text))) for text in (HOSTILE, "x" * len(HOSTILE)))
    assert [(name, sorted(given)) for name, given in hostile.elements] == [
        (name, sorted(given)) for name, given in plain.elements
    ]
    for name in ("script", "style"):
        assert hostile.all(name) == [{}]


def test_no_data_is_in_the_script():
    scripts = [
        re.search(r"<script>(.*?)</script>", render(report(make_test(text))), re.DOTALL)[1] for text in ("a", HOSTILE)
    ]
    assert scripts[0] == scripts[1]


def test_nothing_comes_from_elsewhere():
    page = Page(render(report(make_test(HOSTILE))))
    for name, attributes in page.elements:
        assert name not in {"link", "img", "iframe", "object", "embed", "base"}
        assert not {"src", "style", "srcset", "action"} & set(attributes)
        assert not [key for key in attributes if key.startswith("on")]
        assert attributes.get("href", "#").startswith("#")


def test_the_policy_allows_this_style_and_this_script_alone():
    text = render(report(make_test()))
    (policy,) = [found["content"] for found in Page(text).all("meta") if "http-equiv" in found]
    assert policy.startswith("default-src 'none';")
    for name in ("style", "script"):
        content = re.search(rf"<{name}>(.*?)</{name}>", text, re.DOTALL)[1]
        digest = base64.b64encode(hashlib.sha256(content.encode()).digest()).decode()
        assert f"{name}-src 'sha256-{digest}'" in policy


def test_ids_are_unique_and_links_lead_to_them():
    page = Page(render(report(make_test(), make_test())))
    ids = Counter(attributes["id"] for _, attributes in page.elements if "id" in attributes)
    assert set(ids.values()) == {1}
    targets = {found["href"][1:] for name in ("a", "use") for found in page.all(name)}
    assert targets <= set(ids)
    patterns = set(re.findall(r"url\(#([\w-]+)\)", render(report(make_test()))))
    assert patterns <= set(ids)


def test_structure_for_assistive_technology():
    page = Page(render(report(make_test())))
    names = [name for name, _ in page.elements]
    assert names.count("h1") == names.count("main") == 1
    assert names.index("h1") < names.index("h2") < names.index("h3") < names.index("h4")
    assert page.elements[names.index("body") + 1] == ("a", {"href": "#tests", "class": "skip"})
    assert all(found.get("scope") in {"col", "row"} for found in page.all("th"))
    assert len(page.all("caption")) == len(page.all("table")) == 2
    assert all(found["aria-label"] for found in page.all("a") if found.get("class") == "wt-event")
    assert page.all("html") == [{"lang": "en"}]


def test_what_the_filter_reads():
    (found,) = [
        found for found in Page(render(report(make_test("Größe", "failed")))).all("details") if "data-search" in found
    ]
    assert found["data-outcome"] == "failed"
    assert "test_it[grösse]" in found["data-search"]
    assert "open" in found  # failed tests are shown at once


def test_the_summary():
    text = re.sub(r"<[^>]+>", " ", render(report(make_test(), make_test(outcome="failed"))))
    summary = " ".join(text.split())
    assert "Workflow tests 2 1 failed 1 passed of 5 tests in the run" in summary
    assert "Executions 4 4 completed" in summary
    assert "Virtual time lived 10 min 1,200 times as fast as real time" in summary
    assert "Real time 500 ms in a run of 1.5 s" in summary


@pytest.mark.parametrize(
    ("others", "said"), [(3, "3 tests ran, but none took a workflow"), (0, "No test ran that took a workflow")]
)
def test_an_empty_report_says_what_to_do(others, said):
    text = render(report(other_tests=others))
    assert said in text
    assert "No workflow tests ran" in text
    assert 'id="filter"' not in text


def test_a_report_travels_as_json():
    record = make_test("naïve \u2028").record
    again = WorkflowRecord.model_validate_json(record.model_dump_json())
    assert again == record
    for event, made in zip(again.executions[0].history(), one_of_each("naïve \u2028"), strict=True):
        assert event == dataclasses.replace(made, execution_id="naïve \u2028", workflow_name="naïve \u2028")


def test_texts_that_cannot_be_encoded_are_shown_as_escapes():
    record = WorkflowRecord(virtual_ms=0, problem="name \udc80")
    assert record.problem == "name \\udc80"
    record.model_dump_json()


# Drawings ------------------------------------------------------------------------------------------------------------


def test_a_drawing_without_anchor_leads_nowhere():
    drawn = draw_timeline([event(ExecutionStarted, 1), event(StepStarted, 2, step_id="a", attempt=1)])
    page = Page(drawn)
    assert page.all("a") == []
    assert [found["aria-label"] for found in page.all("g")] == [
        "execution started, at +0 ms",
        "a, attempt 1, attempt not finished, at +0 ms for 0 ms",
    ]


def test_a_drawing_with_an_anchor_leads_to_the_events():
    drawn = draw_timeline([event(ExecutionStarted, 1), event(StepStarted, 2, step_id="a", attempt=1)], anchor="row")
    assert [found["href"] for found in Page(drawn).all("a")] == ["#row-1", "#row-2"]


def test_a_drawing_of_nothing():
    assert draw_timeline([]) == '<p class="wt-empty">No events.</p>'


def test_bars_of_one_instant_do_not_overlap():
    events = [event(ExecutionStarted, 1)]
    for number in range(5):
        events += [
            event(StepStarted, len(events) + 1, step_id="a", attempt=number),
            event(StepCompleted, len(events) + 2, step_id="a", attempt=number),
        ]
    places = [
        (float(found["x"][:-1]), float(found["width"][:-1]))
        for found in Page(draw_timeline(events)).all("rect")
        if "wt-bar" in found.get("class", "")
    ]
    assert len(places) == 5
    assert all(width > 0 for _, width in places)
    assert all(left + width <= following for (left, width), (following, _) in pairwise(places))


def test_every_kind_has_its_shape_and_its_colour():
    styles, shapes = timeline_styles(), Page(timeline_definitions())
    assert {found["id"].removeprefix("wt-m-") for found in shapes.all("path") if "id" in found} >= set(MARK_KINDS)
    for kind in {*BAR_KINDS, *MARK_KINDS}:
        assert re.search(rf"\.wt-{kind}\b", styles), kind


def test_a_long_history_scrolls_rather_than_shrinks():
    few, many = ([event(StepStarted, seq, step_id="a", attempt=seq) for seq in range(1, last)] for last in (5, 400))
    widths = [int(re.search(r"wt-w(\d+)", draw_timeline(events))[1]) for events in (few, many)]
    assert widths[1] > 10 * widths[0]
    assert all(f".wt-w{width}{{" in timeline_styles() for width in widths)
