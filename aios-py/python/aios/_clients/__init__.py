"""Clients, handles of runs, and what they read."""
