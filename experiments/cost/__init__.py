"""What `experiments.benchmark` measures, and how."""
