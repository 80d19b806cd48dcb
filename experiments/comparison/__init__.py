"""One engine for every comparison: what is varied, which runs are made, and the tables and pictures of them."""
