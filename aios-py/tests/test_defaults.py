"""Python reads defaults, limits and status names from the native module."""

from __future__ import annotations

import inspect
import typing
from collections.abc import Callable
from typing import Any

import aios
import aios.sync
import pytest
from aios._aios import DEFAULTS
from aios._clients.records import RunState


def default(function: Callable[..., Any], parameter: str) -> Any:
    return inspect.signature(function).parameters[parameter].default


def test_should_have_the_retry_policy_of_the_engine() -> None:
    assert aios.RetryPolicy() == (
        DEFAULTS.retry_max_attempts,
        DEFAULTS.retry_initial_delay,
        DEFAULTS.retry_factor,
        DEFAULTS.retry_max_delay,
        DEFAULTS.retry_jitter,
        (),
    )
    # As documented.
    assert aios.RetryPolicy() == (5, 1.0, 2.0, 60.0, 0.5, ())


@pytest.mark.parametrize("module", [aios, aios.sync])
def test_should_have_the_defaults_of_the_native_module(module: Any) -> None:
    client, runtime = module.Client, module.Runtime
    assert default(client.call, "timeout") == DEFAULTS.call_timeout == 60.0
    assert default(runtime, "lease_time") == DEFAULTS.lease_time == 10.0
    assert default(runtime, "blocked_after") == DEFAULTS.blocked_after == 5.0
    assert default(runtime.projection, "batch_size") == DEFAULTS.projection_batch_size == 100
    assert default(runtime.projection, "lease_time") == DEFAULTS.projection_lease_time == 10.0
    for expire in (client.expire_runs, client.expire_streams):
        assert default(expire, "batch_size") == DEFAULTS.expire_batch_size == 50
        assert default(expire, "pause") == DEFAULTS.expire_pause == 0.1
    for pages in (client.runs, client.tasks, client.agents, client.workflows):
        assert default(pages, "limit") == DEFAULTS.page_limit == 100
    assert DEFAULTS.max_page_limit == 10_000
    assert DEFAULTS.concurrency == 256


def test_should_have_the_run_statuses_of_the_store() -> None:
    assert list(typing.get_args(RunState)) == DEFAULTS.run_statuses
