"""The stores: a protocol, SQLite behind it, and the runtime directory of one database per workflow."""
