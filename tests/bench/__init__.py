"""Benchmarks: ``python -m tests.bench`` from the repository root; see docs/performance.md."""
