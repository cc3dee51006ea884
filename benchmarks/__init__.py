"""Measurements that take longer than tests."""
