"""Execution of sparse layers on their active weights."""
