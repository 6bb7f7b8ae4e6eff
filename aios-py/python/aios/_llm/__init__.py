"""Agents over language models: models, tools, guardrails, budgets and the loop."""
