# SPDX-License-Identifier: Apache-2.0
"""The benchmark: what is computed, who computes it, how it is checked and measured, and how that is told.

cases       one record per op: tensors, ours, eager, truth, cost, path, sizes with their targets
workloads   every case at each of its sizes
providers   who computes it: our backends, plain PyTorch, torch.compile; peers are other libraries
gate        loss and gradients against float64
timing      time, memory, peaks; device_timing is that of a CUDA device, samples what both find
runner      one record per workload, dtype and provider
records     result files; journal is one that grows while the benchmark runs
judge       what records say: ratios, losses, targets
tables      the same on a terminal; page, pictures and curves draw it
explain     one op in words
"""
