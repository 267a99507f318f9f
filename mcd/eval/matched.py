"""Matched entropy: the temperature at which a teacher's samples are as diverse as a student's.

A lower temperature lowers Gen PPL by itself. Whether distillation did more than that is read at equal entropy.
"""

from collections.abc import Callable


def temperature_of_entropy(
    entropy_at: Callable[[float], float], target: float, low: float = 0.5, high: float = 1.2, halvings: int = 6
) -> float:
    """The temperature in [low, high] at which `entropy_at` is closest to `target`, by bisection.

    entropy_at: mean sample entropy (nats) at a temperature, increasing in it up to sampling noise; with locked
    scalars the same u and v serve every temperature, so that noise is common and the curve smooth. At the ends of the
    interval when the target lies outside.
    """
    for _ in range(halvings):
        middle = 0.5 * (low + high)
        if entropy_at(middle) < target:
            low = middle
        else:
            high = middle
    return 0.5 * (low + high)
