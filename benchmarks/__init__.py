"""Timings against peers and hand-written loops, run as `python -m benchmarks.<name>`.

They stand apart from the tests: their verdicts are ratios of contenders measured in turns.
"""
