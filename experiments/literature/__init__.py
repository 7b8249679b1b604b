"""Statements of the literature, each measured here by one command."""
