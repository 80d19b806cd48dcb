"""What `experiments.sweep` varies, runs and shows."""
