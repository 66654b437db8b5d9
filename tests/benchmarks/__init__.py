"""Benchmarks: `nox -s bench -- NAME [--json]`; a benchmark is a module `bench_NAME.py` here (see harness.py)."""
