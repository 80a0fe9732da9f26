"""Training in processes of its own, many or a GPU's single one: started, watched and ended together."""
