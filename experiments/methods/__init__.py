"""Every unlearning method by name (`registry`: add a method there), and what makes it an optimizer (`build`)."""

from experiments.methods.build import Built, build_method, logits, prepare, requests
from experiments.methods.registry import FORGET_CALLS, METHODS, Method, Subject, whole_loss

__all__ = [
    "FORGET_CALLS",
    "METHODS",
    "Built",
    "Method",
    "Subject",
    "build_method",
    "logits",
    "prepare",
    "requests",
    "whole_loss",
]
