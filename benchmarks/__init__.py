"""The benchmarks: what the product does a second, beside other queues on the same machine.

``python -m benchmarks --help``; each figure is explained in `benchmarks.figures`, and the
last complete run is told in ``docs/performance.md``.
"""
