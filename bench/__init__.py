"""The benchmark: drives the runtime from outside, beside the other ways to answer, and says what came of it.

Its source is in `bench/` at the top of the repository. It needs the extra `bench` (numpy, matplotlib, the workloads'
libraries); `snapruntime bench` is its command line.
"""
