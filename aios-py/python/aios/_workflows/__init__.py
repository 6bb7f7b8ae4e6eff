"""Workflows: their definition, their context, and the driver of their coroutines."""
