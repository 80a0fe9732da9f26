"""Pairs in, a trained checkpoint out. Plain values only; nothing here knows of oracles or configs."""
