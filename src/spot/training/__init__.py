"""Pairs in, a trained checkpoint out: packs, log-probs, losses, reference, memory."""
