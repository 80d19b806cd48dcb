"""The solver behind `rules.projected`: a second-order cone program in Gram space."""
