"""What all tests share: a PostgreSQL server, started when the first test asks for it."""

from tests.postgres_server import (
    make_poor_role,
    make_postgres_store,
    make_schema,
    postgres_schema,
    postgres_server,
    postgres_url,
    proxy,
)

__all__ = [
    "make_poor_role",
    "make_postgres_store",
    "make_schema",
    "postgres_schema",
    "postgres_server",
    "postgres_url",
    "proxy",
]
