"""One unlearning run: its settings, its devices, where it is stored and what produced it."""
