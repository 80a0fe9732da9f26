"""The way of the data: stages, runs, plans, ranks, tracking."""
