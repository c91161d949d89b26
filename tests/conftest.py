"""What all tests share: a PostgreSQL server and a nursery of processes, begun when the first test asks for them."""

import pytest

from tests.nursery import Nursery
from tests.postgres_server import (
    make_poor_role,
    make_postgres_store,
    make_schema,
    postgres_programs,
    postgres_queue,
    postgres_schema,
    postgres_server,
    postgres_url,
    proxy,
    schema_of_stores,
    used_schemas,
)

__all__ = [
    "make_poor_role",
    "make_postgres_store",
    "make_schema",
    "postgres_programs",
    "postgres_queue",
    "postgres_schema",
    "postgres_server",
    "postgres_url",
    "proxy",
    "schema_of_stores",
    "used_schemas",
]


@pytest.fixture(scope="session")
def nursery():
    """Give birth to Python processes."""
    nursery = Nursery()
    yield nursery
    nursery.close()
