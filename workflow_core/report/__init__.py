"""Drawings of executions: timelines and tables of histories as HTML, for reports, the command line and servers."""
