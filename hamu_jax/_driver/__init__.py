"""The driver: it runs an unlearning method from the first step to the report."""
