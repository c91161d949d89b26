"""What the tests of workers share."""

import pytest

from tests.reliability.fleet import Fleet


@pytest.fixture(scope="session")
def workers_nursery(nursery):
    """Give birth to workers, too, in milliseconds."""
    return nursery.know(
        "workflow_core.cli.commands.cleanup", "workflow_core.cli.commands.worker", "workflow_core.cluster.worker"
    )


@pytest.fixture
def fleet(postgres_server, workers_nursery, tmp_path, monkeypatch, postgres_schema):
    """Give workers of the storm's workflows; they end with the test."""
    monkeypatch.setenv("WORKFLOW_DATABASE_URL", postgres_server.url)
    monkeypatch.setenv("WORKFLOW_DATABASE_SCHEMA", postgres_schema)
    fleet = Fleet(workers_nursery, tmp_path, postgres_schema)
    yield fleet
    if fleet.workers:  # the test has not come to its end
        print(fleet.told(postgres_server.url))
    fleet.destroy()
