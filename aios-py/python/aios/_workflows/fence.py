"""Proof of which engine owns a run."""

from __future__ import annotations

from typing import NamedTuple


class Fence(NamedTuple):
    """Proof that the engine which executes a run owns it.

    An external system that keeps the highest epoch of each shard can reject writes from an engine
    that has lost the shard without knowing it yet. Epochs of different shards can't be compared: a
    run that moves to another engine because its owner has no code for it gets another shard there.

    Attributes:
        shard: The shard that the run belongs to.
        epoch: How many times the shard has changed owners.
    """

    shard: int
    epoch: int


def as_fence(pair: tuple[int, int] | None) -> Fence | None:
    """Converts the shard and epoch of the native module."""
    return None if pair is None else Fence(*pair)
