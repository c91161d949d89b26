"""The HTML report of workflow tests, and the timeline of an execution that it draws.

`pytest_workflow.report.drawing.draw_timeline` draws any execution from its events and needs nothing of pytest.
"""
