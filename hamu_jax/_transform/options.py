"""The options that the transformations and the measurements share, and their checks. `transform` documents each of them."""

import dataclasses
from typing import Any, Literal, TypeAlias, get_args

from hamu_jax import rules
from hamu_jax._base import validate
from hamu_jax._base.device_axes import AxisName
from hamu_jax._kernel.blocks import Blocks
from hamu_jax._kernel.budget import NAMES, Distribution
from hamu_jax._transform.level import Level, as_level
from hamu_jax._transform.state import Number
from hamu_jax._transform.step import Settings

Variant: TypeAlias = Literal["q", "u"]

WRAPPERS = "wrappers such as optax.flatten, masked, partition and MultiSteps see the retain gradient only"


@dataclasses.dataclass(frozen=True, kw_only=True)
class Options:
    """The options of `combine`, checked.

    Raises:
      TypeError, ValueError: naming the option.
    """

    rule: rules.Rule
    improvement: Number = 0.0
    radius: Number | None = None
    blocks: Blocks = "leaf"
    distribution: Distribution = "grad_norm"
    clip_norm: float | None = None
    num_requests: int | None = None
    retain_axis: int | None = None
    axis_name: AxisName | None = None
    shard_axis_name: AxisName | None = None
    until: Level | float | None = None

    def __post_init__(self) -> None:
        check_rule("rule", self.rule)
        validate.number("improvement", self.improvement, many=self.rule.many)
        if self.radius is not None:
            validate.number("radius", self.radius)
        check_options(self.blocks, self.distribution, self.clip_norm)
        validate.axis("retain_axis", self.retain_axis)
        validate.axis_name("axis_name", self.axis_name)
        validate.axis_name("shard_axis_name", self.shard_axis_name)
        as_level(self.until, self.rule)
        if not self.rule.many and (self.num_requests is not None or self.retain_axis is not None):
            raise ValueError("num_requests, retain_axis: expected None with a rule for one forget objective")

    @property
    def settings(self) -> Settings:
        """The options that stay the same from step to step; they are hashable, so that `jit` compiles once for them."""
        clip_norm = None if self.clip_norm is None else float(self.clip_norm)
        return Settings(self.rule, self.blocks, self.distribution, clip_norm, self.shard_axis_name)

    @property
    def level(self) -> Level | None:
        """The level that `until` means."""
        return as_level(self.until, self.rule)


def hamu_rule(variant: Variant, infeasible: rules.Infeasible) -> rules.Rule:
    """HAMU-Q or HAMU-U."""
    validate.choice("variant", variant, get_args(Variant), "'q' or 'u'")
    return (rules.hamu_q if variant == "q" else rules.hamu_u)(infeasible)


def check_rule(name: str, rule: Any) -> None:
    """Checks that a rule is one, and not the function that makes it (`rules.gru` without parentheses)."""
    if not isinstance(rule, rules.Rule):
        made_by = getattr(rule, "__name__", "")
        called = f": call it, {name}={made_by}()" if made_by in rules.__all__ else ""
        raise TypeError(
            f"{name}: got {validate.shown(rule)}, expected a Rule, as the functions of hamu_jax.rules return{called}"
        )


def check_options(blocks: Any, distribution: Any, clip_norm: Any) -> float | None:
    """Checks the options that every measurement shares; returns the clipping norm as a plain number."""
    if not callable(blocks):
        validate.choice("blocks", blocks, ("leaf", "global"), "'leaf', 'global' or a function from a key path to a label")
    if not callable(distribution):
        validate.choice("distribution", distribution, NAMES, f"one of {', '.join(NAMES)}, or a function")
    return None if clip_norm is None else validate.constant("clip_norm", clip_norm, positive=True)
