"""Training on several processes: started, watched and ended together."""
