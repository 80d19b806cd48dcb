"""The experiments on scikit-learn's handwritten digits."""
