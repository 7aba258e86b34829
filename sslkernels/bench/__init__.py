# SPDX-License-Identifier: Apache-2.0
"""The benchmark: workloads, who runs them, how they are checked and measured, and how that is told.

workloads   what is computed, on which tensors, what it costs and which target stands
providers   who computes it: our backends, plain PyTorch, torch.compile, peers
measure     the gate, time, memory, peaks
runner      one record per workload, dtype and provider
report      tables and the picture
"""
