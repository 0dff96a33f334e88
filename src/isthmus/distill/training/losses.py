"""What is made small: the answer's improbability, or the distance from a teacher's probabilities."""

from __future__ import annotations

from typing import Any


def answer_loss(logits: Any, answers: Any) -> Any:
    """The sum over the answers' tokens of their negative log-probability, in nats.

    `logits` has one row for each token of `answers`.
    """
    from torch.nn.functional import cross_entropy

    return cross_entropy(logits.float(), answers, reduction="sum")


def divergence(teacher: Any, student: Any, beta: float) -> Any:
    """The generalised Jensen-Shannon divergence of two rows of logits, summed over the rows, in nats.

    D(P, Q) = beta KL(P | M) + (1 - beta) KL(Q | M), with M = beta P + (1 - beta) Q, of the teacher's P and
    the student's Q: eq. 1 of https://arxiv.org/abs/2306.13649. At 0 and 1, where that vanishes, it stands for
    its limits after division by beta and by 1 - beta: KL(P | Q) at 0, and KL(Q | P) at 1.
    """
    import torch
    from torch.nn.functional import log_softmax

    p, q = log_softmax(teacher.float(), -1), log_softmax(student.float(), -1)
    if beta == 0:
        return _kl(p, q)
    if beta == 1:
        return _kl(q, p)
    weight = torch.tensor(beta, dtype=p.dtype, device=p.device)
    mean = torch.logaddexp(p + weight.log(), q + (-weight).log1p())
    return beta * _kl(p, mean) + (1 - beta) * _kl(q, mean)


def _kl(log_p: Any, log_q: Any) -> Any:
    return (log_p.exp() * (log_p - log_q)).sum()
