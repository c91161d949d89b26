"""A store on PostgreSQL: the same rows as on SQLite, shared by any number of machines.

Needs the extra ``postgres``; nothing here is imported before a PostgreSQL database is asked for.
"""
