"""The optax gradient transformations and the one step behind them."""
