"""Many machines: workers that run the executions of one PostgreSQL database, handed to them by Procrastinate."""
