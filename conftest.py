"""Settings of this repository's own test suite."""
