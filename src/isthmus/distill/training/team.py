"""Who trains together: one process, or several that share every batch and take the same step.

A batch's gradient is the sum of its lessons': each process computes those of its share, the sums are added
up, and all take the step that one process alone would have taken, but for the last bits.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, Protocol, TypeVar

T = TypeVar("T")


class Team(Protocol):
    """The processes of one training."""

    def share(self, batch: Sequence[T]) -> Sequence[T]:
        """What of a batch is this process's; it may be nothing."""
        ...

    def total(self, *numbers: float) -> tuple[float, ...]:
        """Each number, summed over all processes."""
        ...

    def add_up(self, parameters: Iterable[Any]) -> None:
        """Put the sum over all processes in place of each parameter's gradient."""
        ...


class Alone:
    """One process, whose share is all."""

    def share(self, batch: Sequence[T]) -> Sequence[T]:
        """All of it."""
        return batch

    def total(self, *numbers: float) -> tuple[float, ...]:
        """The numbers themselves."""
        return numbers

    def add_up(self, parameters: Iterable[Any]) -> None:
        """Leave the gradients as they are."""


class Group:
    """The processes of PyTorch's process group, which has been begun; `device` is where they compute."""

    def __init__(self, device: str) -> None:
        from torch import distributed

        self._group, self._device = distributed, device
        self._rank, self._size = distributed.get_rank(), distributed.get_world_size()

    def share(self, batch: Sequence[T]) -> Sequence[T]:
        """Every so manieth of it."""
        return batch[self._rank :: self._size]

    def total(self, *numbers: float) -> tuple[float, ...]:
        """Each number, summed over all processes. It waits for all of them."""
        import torch

        sums = torch.tensor(numbers, dtype=torch.float64, device=self._device)
        self._group.all_reduce(sums)
        return tuple(sums.tolist())

    def add_up(self, parameters: Iterable[Any]) -> None:
        """Sum the gradients over all processes, as one message."""
        import torch

        trained = list(parameters)
        for it in trained:
            # Who had no lesson has no gradient either.
            it.grad = torch.zeros_like(it) if it.grad is None else it.grad
        whole = torch.cat([it.grad.reshape(-1) for it in trained])
        self._group.all_reduce(whole)
        for it, part in zip(trained, whole.split([it.numel() for it in trained]), strict=True):
            it.grad.copy_(part.view_as(it))
