"""`forget`: to a level, with a verdict and a deletion record."""
