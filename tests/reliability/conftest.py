"""What the tests of workers share."""

import pytest

from tests.reliability.fleet import Fleet
from tests.reliability.nursery import Nursery


@pytest.fixture(scope="session")
def nursery():
    """Give birth to processes of the command line."""
    nursery = Nursery()
    yield nursery
    nursery.close()


@pytest.fixture
def fleet(postgres_server, nursery, tmp_path, monkeypatch, postgres_schema):
    """Give workers of the storm's workflows; they end with the test."""
    monkeypatch.setenv("WORKFLOW_DATABASE_URL", postgres_server.url)
    monkeypatch.setenv("WORKFLOW_DATABASE_SCHEMA", postgres_schema)
    fleet = Fleet(nursery, tmp_path, postgres_schema)
    yield fleet
    if fleet.workers:  # the test has not come to its end
        print(fleet.told(postgres_server.url))
    fleet.destroy()
