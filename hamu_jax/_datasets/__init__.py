"""Passes over whole data sets: batches, evaluation, profiles, assessment."""
