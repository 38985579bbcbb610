"""Benchmarks: each bar beside its baseline, interleaved in one run, CPU time, medians. Ratios are results; times are not."""
