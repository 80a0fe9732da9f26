"""Equality of mathematical answers by algebra: math-verify in worker processes that can be killed.

Its own limits use signals, which never arrive inside a bytecode that computes forever: `10^{10^{10}}`.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Any, NamedTuple

from spot.grading.process_pool import WorkerPool

INNER_SECONDS = 3  # math-verify's limit for each parse and for the comparison
OUTER_SECONDS = 12.0  # then the worker is killed
WORKER_BYTES = 2 << 30  # a tower of powers must not eat the machine


class Comparison(NamedTuple):
    """Two answers to compare, floats rounded to `decimals` digits behind the point."""

    answer: str
    truth: str
    decimals: int = 6


def math_pool(workers: int | None = None, seconds: float = OUTER_SECONDS) -> WorkerPool:
    """A pool whose results are True, False, None (given up by math-verify's own limits) or an exception."""
    return WorkerPool(math_verify_equal, prepare, seconds, WORKER_BYTES, workers)


def prepare() -> None:
    """Import SymPy, whatever it takes, before the first clock starts."""
    math_verify_equal("x+1", "1+x")


def math_verify_equal(answer: str, truth: str, decimals: int = 6) -> bool | None:
    """math-verify on our own box (it takes any number outside one, and merges neighbouring ones)."""
    from math_verify import verify
    from math_verify.errors import TimeoutException

    try:
        gold, given = _parsed(truth), _parsed(answer)
        return bool(
            verify(
                gold,
                given,
                float_rounding=decimals,
                allow_set_relation_comp=True,
                timeout_seconds=INNER_SECONDS,
                raise_on_error=True,
            )
        )
    except (TimeoutException, MemoryError, RecursionError):
        return None
    except Exception:  # SymPy raises nearly anything on what is no mathematics
        return False


@lru_cache(maxsize=4096)  # a truth is met again in every trial
def _parsed(text: str) -> Any:
    from math_verify import ExprExtractionConfig, LatexExtractionConfig, parse

    return parse(
        f"\\boxed{{{text}}}",
        extraction_config=[LatexExtractionConfig(boxed_match_priority=0), ExprExtractionConfig()],
        parsing_timeout=INNER_SECONDS,
        raise_on_error=True,
    )
