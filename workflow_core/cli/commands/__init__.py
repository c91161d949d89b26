"""One module for each command; `workflow_core.cli.application` imports the one that is asked for."""
