"""Gradients: of both losses, of requests, and of single examples."""
