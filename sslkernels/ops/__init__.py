# SPDX-License-Identifier: Apache-2.0
"""Holds the primitives, with one folder for each family of ops."""
