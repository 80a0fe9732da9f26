"""From questions to pages: stages, runs and their status, plans, ranks, tracking."""
