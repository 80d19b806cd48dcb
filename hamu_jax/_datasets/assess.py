"""An assessment before anything is changed: how hard each example is to forget, and which retain examples would suffer."""

import dataclasses
import json
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.sharding import Mesh
from jaxtyping import Array, Float

from hamu_jax import rules
from hamu_jax._base import validate
from hamu_jax._base.history import json_row
from hamu_jax._base.markdown import table
from hamu_jax._datasets.profiles import data_set_mean_and_grad, profile
from hamu_jax._datasets.similar_pairs import Pair, similar_pairs
from hamu_jax._datasets.step_length import EXAMPLES, longest_learning_rate
from hamu_jax._gradients.losses import Loss, check_counted, check_data
from hamu_jax._gradients.paired import Paired
from hamu_jax._gradients.per_example import directional, per_example_norms
from hamu_jax._kernel.blocks import Blocks, block_labels
from hamu_jax._kernel.budget import Distribution
from hamu_jax._kernel.hardness import Hardness, Regime
from hamu_jax._kernel.inner_products import Tree, accumulation_dtype
from hamu_jax._transform.options import Variant
from hamu_jax._transform.state import get_hardness
from hamu_jax._transform.trade_off import TradeOff, trade_off
from hamu_jax._transform.transform import planned
from hamu_jax.sharding._mesh import check_mesh, shard_params

Profile = Float[np.ndarray, " examples"]


@dataclasses.dataclass(frozen=True)
class Assessment:
    """What `assess` measured. Changes are to first order, per unit of learning rate.

    Profiles have one number per row of the data, NaN where the row is padding.

    Attributes:
      hardness: of the mean gradients, per block and in total.
      labels: the blocks' names.
      trade_off: what each amount of forgetting costs the retain set at least.
      improvement: the required improvement of the planned step.
      variant: of the planned step; the trade-off is always that of variant "q".
      retain_loss: mean over the retain set.
      forget_loss: mean over the forget set.
      retain_norm: `|g_r|`, of the mean gradient, before clipping.
      forget_with_retain: `<g_i, g_r>` for each forget example: if large, forgetting it raises the retain loss.
      forget_with_forget: `<g_i, g_f>` for each forget example: negative if it opposes the rest of the forget set.
      forget_norm: `|g_i|` for each forget example: if near 0, no step raises its loss.
      forget_change: the promised change of each forget example's loss under the planned step; not forgotten if at or below 0.
      retain_change: the change of each retain example's loss under the planned step (collateral forgetting).
      most_alike: the pairs of forget examples whose gradients agree most, among the first 1,024, most similar first: `(first,
        second, cosine)`. At a cosine near 1 they are duplicates to the model, and are forgotten together.
      learning_rate: the largest power of 2 with which the planned step still does about what it promises, measured on the
        first 1,024 examples of either set; 0 if none does. Begin with this one, or with `hamu_jax.forget`, which needs none.
      verdict: the assessment in words.
    """

    hardness: Hardness
    labels: tuple[str, ...]
    trade_off: TradeOff
    improvement: float
    variant: Variant
    retain_loss: float
    forget_loss: float
    retain_norm: float
    forget_with_retain: Profile
    forget_with_forget: Profile
    forget_norm: Profile
    forget_change: Profile
    retain_change: Profile
    most_alike: tuple[Pair, ...]
    learning_rate: float
    verdict: str

    def hardest(self, count: int = 10) -> list[int]:
        """The forget examples whose gradients agree most with the retain gradient, by row number."""
        return _largest(self.cosines(), validate.integer("count", count, at_least=0))

    def most_threatened(self, count: int = 10) -> list[int]:
        """The retain examples whose loss the planned step raises most, by row number."""
        return _largest(self.retain_change, validate.integer("count", count, at_least=0))

    def cosines(self) -> Profile:
        """The cosine of each forget example's gradient with the retain gradient; 0 where one is zero."""
        scale = self.forget_norm * self.retain_norm
        return np.where(scale == 0, 0.0, self.forget_with_retain / np.where(scale == 0, 1.0, scale))

    def to_json(self) -> str:
        """Everything as one JSON object; profiles by row number of the data. Numbers that are not finite become null."""
        record: dict[str, Any] = {
            field.name: getattr(self, field.name)
            for field in dataclasses.fields(self)
            if field.name not in ("hardness", "trade_off")
        }
        record |= {"hardness": self.hardness._asdict(), "trade_off": self.trade_off._asdict()}
        record |= {"hardest": self.hardest(), "most_threatened": self.most_threatened()}
        return json.dumps(json_row(record), indent=1, allow_nan=False)

    def table(self) -> str:
        """The blocks, and the examples that are hardest to forget, most threatened, and most alike, as Markdown."""
        h = self.hardness
        regimes = [Regime(int(regime)).name.lower() for regime in h.regime]
        columns = (self.labels, h.kappa, h.angle, regimes, h.retain_change, h.forget_change)
        blocks = [_row(*row) for row in zip(*columns, strict=True)]
        total = _row("total", h.total_kappa, h.total_angle, "", h.total_retain_change, h.total_forget_change)
        cosines = self.cosines()
        return "\n\n".join(
            [
                table(("block", "kappa", "angle", "regime", "retain change", "forget change"), [*blocks, total]),
                table(
                    ("hardest to forget (row)", "cosine with retain gradient", "promised change"),
                    [(str(i), f"{cosines[i]:.3f}", f"{self.forget_change[i]:.3g}") for i in self.hardest()],
                ),
                table(
                    ("most threatened (row)", "change of its loss"),
                    [(str(j), f"{self.retain_change[j]:.3g}") for j in self.most_threatened()],
                ),
                table(
                    ("most alike to forget (rows)", "cosine of their gradients"),
                    [(f"{pair.first}, {pair.second}", f"{pair.cosine:.3f}") for pair in self.most_alike],
                ),
            ]
        )


def assess(  # noqa: D417  (`transform` documents the options)
    loss: Loss,
    params: Tree,
    retain: Any,
    forget: Any,
    improvement: float = 0.5,
    *,
    forget_loss: Loss | None = None,
    variant: Variant = "q",
    radius: float | None = None,
    blocks: Blocks = "leaf",
    distribution: Distribution = "relative",
    infeasible: rules.Infeasible = "scale",
    clip_norm: float | None = None,
    microbatch_size: int | None = 256,
    mesh: Mesh | None = None,
) -> Assessment:
    """Measures over whole data sets, without changing anything, how hard unlearning would be and what it would cost.

    One backward pass over each set for the mean gradients, two forward-mode passes over the forget set and one over the
    retain set for the profiles, and one per-example backward pass over the forget set for the norms, and one or more over
    its first 1,024 examples for those that are alike. Memory is that of one microbatch, whatever the size of the sets.

    The options of the planned step (`variant`, `radius`, `blocks`, `distribution`, `infeasible`, `clip_norm`) are those of
    `transform`.

    Args:
      loss: `loss(params, batch) -> [batch]`, one loss per example.
      params: the trained parameters.
      retain: the retain set, a pytree of arrays with a leading example axis.
      forget: the forget set, likewise.
      improvement: the required improvement of the planned step, as in `transform`; with the default distribution a cosine.
      forget_loss: the loss of the forget set if it is another one.
      microbatch_size: examples handled at once.
      mesh: split them over its devices (`hamu_jax.sharding.make_mesh`).

    Returns:
      An `Assessment`.

    Raises:
      TypeError, ValueError: as `paired_value_and_grad` and `transform`.

    Source: docs/mathematics.md, sections 2 and 6.
    """
    validate.function("loss", loss, "loss(params, batch) -> [batch]")
    validate.function("forget_loss", forget_loss, "loss(params, batch) -> [batch]", optional=True)
    validate.gradients("params", params, some=True)
    if mesh is not None:
        check_mesh(mesh)
    tx = planned(
        improvement,
        variant=variant,
        radius=radius,
        blocks=blocks,
        distribution=distribution,
        infeasible=infeasible,
        clip_norm=clip_norm,
    )
    for name, value in (("improvement", improvement), ("radius", radius)):
        if callable(value):
            raise ValueError(f"{name}: got a schedule, expected a number: one step is planned")
    if microbatch_size is not None:
        validate.integer("microbatch_size", microbatch_size)
    of_forget = loss if forget_loss is None else forget_loss
    for name, data, function in (("retain", retain, loss), ("forget", forget, of_forget)):
        check_data(name, data, function, params)
        check_counted(name, data, function)
    params = params if mesh is None else shard_params(params, mesh)
    retain_loss, retain_grad = data_set_mean_and_grad(loss, params, retain, microbatch_size, mesh, name="retain")
    mean_forget_loss, forget_grad = data_set_mean_and_grad(of_forget, params, forget, microbatch_size, mesh, name="forget")
    update, state = tx.update(retain_grad, tx.init(params), params, forget_grads=forget_grad)
    step = jax.tree.map(jnp.negative, update)
    curve = trade_off(retain_grad, forget_grad, radius=radius, blocks=blocks, distribution=distribution, clip_norm=clip_norm)
    hardness = jax.tree.map(np.asarray, get_hardness(state))

    def of_forget_set(function: Any, *direction: Tree) -> Profile:
        return profile(function, of_forget, params, forget, microbatch_size, *direction, mesh=mesh)

    profiles = {
        "forget_with_retain": of_forget_set(directional, retain_grad),
        "forget_with_forget": of_forget_set(directional, forget_grad),
        "forget_norm": of_forget_set(_norms),
        "forget_change": of_forget_set(directional, step),
        "retain_change": profile(directional, loss, params, retain, microbatch_size, step, mesh=mesh),
    }
    promised = Paired(float(hardness.total_retain_change), float(hardness.total_forget_change))
    learning_rate = longest_learning_rate(
        Paired(loss, of_forget),
        params,
        Paired(retain, forget),
        step,
        promised,
        batch_size=microbatch_size or EXAMPLES,
        mesh=mesh,
    )
    return Assessment(
        hardness=hardness,
        labels=block_labels(params, blocks),
        trade_off=jax.tree.map(np.asarray, curve),
        improvement=float(improvement),
        variant=variant,
        retain_loss=retain_loss,
        forget_loss=mean_forget_loss,
        retain_norm=float(optax.tree.norm(jax.tree.map(lambda g: g.astype(accumulation_dtype(g)), retain_grad))),
        most_alike=similar_pairs(of_forget, params, forget, microbatch_size, mesh),
        learning_rate=learning_rate,
        verdict=f"{_verdict(hardness, curve, float(improvement), variant, profiles)}{_advice(hardness, learning_rate)}",
        **profiles,
    )


def _norms(loss: Loss, params: Tree, batch: Any) -> Float[Array, " batch"]:
    """The norm of every example's gradient."""
    return per_example_norms(loss, params, batch)[0]


def _verdict(hardness: Hardness, curve: TradeOff, improvement: float, variant: Variant, profiles: dict[str, np.ndarray]) -> str:
    """The assessment in words."""
    if not np.all(hardness.finite):
        return "The gradients are not finite: nothing can be said, and nothing should be done."
    if hardness.total_forget_norm == 0:
        return "The forget loss has no gradient here: there is nothing that a step could forget."
    words = [_opening(hardness)]
    plan = f"; {improvement:g} is planned" if variant == "q" else ""
    words.append(
        f"A required improvement of up to {float(curve.free):.3g} costs the retain set nothing, and up to "
        f"{float(curve.largest):.3g} is feasible{plan}."
    )
    infeasible = int(np.sum(~hardness.feasible))
    if infeasible:
        words.append(f"{infeasible} of {hardness.feasible.size} blocks can't meet their share: ask for less.")
    if hardness.unavoidable:
        price = "raise the retain loss" if variant == "q" else "lower the forget loss"
        words.append(f"The planned step must {price}: consider whether to take it at all.")
    left_out, paying = _share(profiles["forget_change"], np.less_equal), _share(profiles["retain_change"], np.greater)
    words.append(
        f"The planned step gives {left_out:.0%} of the forget examples nothing, and raises the loss of {paying:.0%} of the "
        "retained ones."
    )
    return " ".join(words)


def _advice(hardness: Hardness, learning_rate: float) -> str:
    """How long the planned step may be, in words; an empty text where no step is possible."""
    if not np.all(hardness.finite) or hardness.total_forget_norm == 0:
        return ""
    if learning_rate == 0:
        return " At no learning rate does the step do what it promises: a loss is flat or not smooth here."
    return f" Up to a learning rate of {learning_rate:.3g} the step does about what it promises."


def _opening(hardness: Hardness) -> str:
    """The verdict's first sentence: the angle between the gradients."""
    if hardness.total_retain_norm == 0:
        return "The retain loss has no gradient: without a fixed radius there is no room to move."
    angle = float(hardness.total_angle)
    kind = next((word for limit, word in ((100, "easy"), (80, "neutral"), (30, "hard")) if angle > limit), "very hard")
    return f"The gradients meet at {angle:.0f} degrees: {kind}."


def _share(values: Profile, compare: Any) -> float:
    """The share of the examples, padding left out, whose value compares with 0."""
    real = values[~np.isnan(values)]
    return float(np.mean(compare(real, 0.0))) if real.size else 0.0


def _largest(values: Profile, count: int) -> list[int]:
    """Row numbers of the largest values, largest first; padding left out."""
    return [int(i) for i in np.argsort(-values, kind="stable") if not np.isnan(values[i])][:count]


def _row(label: str, kappa: Any, angle: Any, regime: str, *changes: Any) -> tuple[str, ...]:
    """A block's line in the table."""
    return label, f"{kappa:.3g}", f"{angle:.0f}", regime, *(f"{change:.3g}" for change in changes)
