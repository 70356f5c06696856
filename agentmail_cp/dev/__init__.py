"""Local processes for `make dev` and for tests: PostgreSQL, Stalwart."""
