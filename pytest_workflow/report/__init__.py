"""The HTML report of workflow tests; what it draws of an execution comes from `workflow_core.report`."""
