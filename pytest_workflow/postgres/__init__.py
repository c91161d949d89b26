"""Tests of workflows on a PostgreSQL server: ``--workflow-store=postgres``."""
