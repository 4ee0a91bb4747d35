"""Flags, exit statuses, and what each command does."""
