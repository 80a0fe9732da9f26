"""`spot plan`: memory, work, disk and price of a run, from its configuration alone."""

from spot.pipeline.plan.account import Plan, plan
from spot.pipeline.plan.table import show

__all__ = ["Plan", "plan", "show"]
