"""Stress tests of a server: fuzzed messages, kill -9, network faults, churn and overload."""
