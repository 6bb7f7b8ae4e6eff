"""Proof of which engine advances a run."""

from __future__ import annotations

from typing import NamedTuple


class Fence(NamedTuple):
    """Proof that the engine which advances a run owns it.

    A system outside that keeps the highest epoch of each shard can refuse what comes from an engine
    that has lost the shard and does not know it yet. Epochs of different shards can't be compared: a
    run that moves to another engine because its owner has no code for it has another shard there.

    Attributes:
        shard: The share of the runs that the run belongs to.
        epoch: How often the shard has changed hands.
    """

    shard: int
    epoch: int


def as_fence(told: tuple[int, int] | None) -> Fence | None:
    return None if told is None else Fence(*told)
