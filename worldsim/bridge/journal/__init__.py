"""Durable sessions: journal state, write-ahead log and blob store."""
