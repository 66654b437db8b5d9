"""Daemons of a cloud: each composes the library for one job, any number of copies side by side."""
