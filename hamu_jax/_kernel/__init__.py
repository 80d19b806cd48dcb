"""Array mathematics on gradient pytrees: blocks, inner products, hardness, budget."""
