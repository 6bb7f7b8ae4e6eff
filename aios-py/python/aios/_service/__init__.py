"""Programs and services: settings, logs, the HTTP API and worker processes."""
