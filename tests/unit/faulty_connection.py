"""Connections of SQLite on which a statement goes wrong, once."""


class Faulty:
    """A connection on which a statement fails, once."""

    def __init__(self, connection, statement, error):
        self.connection, self.statement, self.error = connection, statement, error

    def execute(self, sql, *parameters):
        if self.error is not None and sql.startswith(self.statement):
            error, self.error = self.error, None
            raise error
        return self.connection.execute(sql, *parameters)

    def __getattr__(self, name):
        return getattr(self.connection, name)


class Interrupted(Faulty):
    """A connection on which an interrupt comes during a statement, and is raised when that has ended."""

    def execute(self, sql, *parameters):
        cursor = self.connection.execute(sql, *parameters)
        if self.error is not None and sql.startswith(self.statement):
            error, self.error = self.error, None
            raise error
        return cursor
