"""The paper's experiments on language models."""
