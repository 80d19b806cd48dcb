"""Forgetting in one call: to the level of data that was never seen, at the least cost to the rest."""

from collections.abc import Sequence
from typing import Any

import optax
from jax.sharding import Mesh

from hamu_jax import rules
from hamu_jax._base import validate
from hamu_jax._base.history import History
from hamu_jax._driver.checkpoints import Checkpoints
from hamu_jax._driver.fingerprint import of_value
from hamu_jax._driver.keep_best import KeepBest
from hamu_jax._driver.protected import SignedLoss, marked, protecting
from hamu_jax._driver.settings_checks import pair_of_sizes
from hamu_jax._driver.trust_region import TrustRegion
from hamu_jax._driver.unlearn import Unlearned, unlearn
from hamu_jax._forget.checks import check_forget
from hamu_jax._forget.conclude import conclude
from hamu_jax._forget.evaluation import COST, OUTSIDE
from hamu_jax._forget.outcome import Forgotten
from hamu_jax._forget.problem import ForgetProblem, build_problem
from hamu_jax._gradients.groups import Groups
from hamu_jax._gradients.losses import Loss
from hamu_jax._kernel.blocks import Blocks
from hamu_jax._transform.combine import combine
from hamu_jax._transform.level import Level

COSINE = 0.3  # the most that a step is asked for, as a share of what its ball allows
PATIENCE = 6  # evaluations without a better point


def forget(
    loss: Loss,
    params: Any,
    retain: Any,
    forget: Any,
    *,
    unseen: Any = None,
    level: float | Sequence[float] | None = None,
    held_out: Any = None,
    requests: Groups | None = None,
    rule: rules.Rule | None = None,
    blocks: Blocks = "global",
    tolerance: float = 0.1,
    max_cost: float | None = None,
    protect_unseen: bool = False,
    batch_size: int | tuple[int, int] = 256,
    microbatch_size: int | None = None,
    steps: int = 300,
    checkpoints: Checkpoints | None = None,
    mesh: Mesh | None = None,
    seed: int = 0,
    progress: bool = True,
) -> Forgotten:
    """Makes a model forget: the forget set gets the loss of data that was never seen, at the least cost to the rest.

    No learning rate, required improvement or number of steps has to be chosen. Every step is asked for what is left to the
    level, and no more than its trust region can promise (`TrustRegion`); where the level is reached, steps repair the retain
    loss without letting the forget loss fall. Whole sets are evaluated every few steps, and the best parameters are returned.

    Args:
      loss: `loss(params, batch) -> [batch]`, one loss per example; `hamu_jax.objectives` has some.
      params: the trained parameters, a pytree of floating-point arrays.
      retain: the retain set, a pytree of arrays with a leading example axis.
      forget: the forget set, likewise.
      unseen: data of the same kind as the forget set that the model was never trained on: its mean loss under the original
        parameters is the level.
      level: the level itself, in units of the loss, in the place of `unseen`'s; with `requests` one number, or one for each.
        For a whole class, chance: `log(number of classes)` for a cross-entropy.
      held_out: data whose loss must not suffer, by which the best parameters are chosen. None: a tenth of the retain set is set
        aside, at most 2,048 examples, which no step sees.
      requests: the deletion requests that the forget examples belong to: each is brought to its own level.
      rule: one of `hamu_jax.rules`. None: `rules.hamu_q()`, or with requests `rules.projected()`. With a rule that promises
        nothing the level only ends the run.
      blocks: which tensors solve their problem together, as in `transform`.
      tolerance: the relative half-width of the band around the level that counts as reached.
      max_cost: the largest acceptable rise of the cost (see below). The run then returns the point nearest to the level among
        those within it. None: any.
      protect_unseen: let no step raise the loss of the unseen data, to first order, above where it was. Half of the unseen
        examples, chosen at random, become one more request of `rules.projected`, for minus their loss; the other half stays
        unseen and measures. Where that half is above its original loss, a step must lower it. The hardness in the history is
        then that of the mean over all requests, this one among them.
      batch_size: examples of either set in a batch, or a pair `(retain, forget)`. A forget set that fits is taken whole.
      microbatch_size: as in `paired_value_and_grad`.
      steps: the most steps.
      checkpoints: as in `unlearn`: a run that was interrupted goes on and ends with the same bits.
      mesh: as in `unlearn`.
      seed: of the order of examples and of the held-out split.
      progress: show a progress bar on standard error.

    Returns:
      The parameters, a status, a verdict in words, and what was measured. The parameters are those of smallest cost among the
      evaluated points whose forget loss is in the band. The cost of a point is its held-out loss plus the rise of the unseen
      loss (where a `level` is given: the rise above the level, if it is the higher one): what looks like the forget set may
      suffer with it.

    Raises:
      TypeError: if parameters are not floating-point.
      ValueError: for neither `level` nor `unseen`, a level that is not finite, empty or uneven data, `protect_unseen` without
        unseen data or with a rule for one forget objective, or another run's checkpoints.
      ImportError: naming the extra, if a library of the driver is missing.

    Example:
      >>> import jax.numpy as jnp, numpy as np, hamu_jax
      >>> loss = lambda w, batch: (batch["x"] @ w - batch["y"]) ** 2
      >>> x = np.eye(4, dtype=np.float32)[[0, 0, 1, 1, 2, 2, 3, 3]]
      >>> data = lambda rows: {"x": x[rows], "y": np.ones(len(rows), np.float32)}
      >>> result = hamu_jax.forget(
      ...     loss,
      ...     1.1 * jnp.ones(4),
      ...     retain=data([0, 1, 2, 3, 4, 5]),
      ...     forget=data([6, 7]),
      ...     held_out=data([0, 2, 4]),
      ...     level=1.0,
      ...     progress=False,
      ... )
      >>> print(result.status, bool(abs(result.losses["forget"].after - 1.0) < 0.1))
      reached True

    Source: DESIGN.md, section 2.9; docs/mathematics.md, section 8.
    """
    check_forget(
        loss,
        params,
        {"retain": retain, "forget": forget, "unseen": unseen, "held_out": held_out},
        level=level,
        rule=rule,
        blocks=blocks,
        mesh=mesh,
        max_cost=max_cost,
        protect_unseen=protect_unseen,
        requests=(requests, Groups),
        checkpoints=(checkpoints, Checkpoints),
    )
    settings = {
        "seed": validate.integer("seed", seed, at_least=0),
        "steps": validate.integer("steps", steps),
        "batch_size": list(pair_of_sizes(batch_size)),
        "tolerance": validate.constant("tolerance", tolerance, positive=True),
        "max_cost": max_cost,
        "blocks": "a function" if callable(blocks) else str(blocks),
        "rule": "default" if rule is None else of_value("rule", rule.solve),
        "requests": None if requests is None else requests.count,
        "cosine": COSINE,
        "protect_unseen": protect_unseen,
    }
    microbatch_size = None if microbatch_size is None else validate.integer("microbatch_size", microbatch_size)
    problem = build_problem(
        loss,
        params,
        {"retain": retain, "forget": forget, "held_out": held_out, "unseen": unseen},
        level=level,
        requests=requests,
        batch_sizes=pair_of_sizes(batch_size),
        settings=settings,
    )
    return _run(
        problem, rule, blocks, max_cost, microbatch_size=microbatch_size, checkpoints=checkpoints, mesh=mesh, progress=progress
    )


def _run(problem: ForgetProblem, rule: rules.Rule | None, blocks: Blocks, max_cost: float | None, **options: Any) -> Forgotten:
    """Takes the steps, unless the level is reached already; `options` are those of `unlearn`."""
    evaluation, target = problem.evaluation(), problem.target()
    optimizer = _optimizer(rule, blocks, target)
    most = None if max_cost is None else problem.mean_loss(problem.held_out) + max_cost
    keep = KeepBest(COST, OUTSIDE, most, PATIENCE)
    if problem.band.is_reached:
        row = {"step": 0, **evaluation.measure(problem.loss, problem.params)}
        nothing = Unlearned(
            problem.params, optimizer.init(problem.params), History([row]), 0, "completed", "no step was needed", 0
        )
        return conclude(problem, keep, nothing)
    forget, losses, groups = problem.forget, None, problem.requests
    if problem.protected is not None:
        forget, groups = marked(problem.forget, problem.protected), protecting(problem.requests)
        losses = SignedLoss(problem.loss)
    run = unlearn(
        problem.loss,
        problem.params,
        problem.retain,
        forget,
        optimizer,
        steps=problem.settings["steps"],
        batch_size=problem.batch_sizes,
        seed=problem.settings["seed"],
        forget_loss=losses,
        evaluation=evaluation,
        keep=keep,
        trust_region=TrustRegion(level=target),
        forget_groups=groups,
        **options,
    )
    return conclude(problem, keep, run)


def _optimizer(rule: rules.Rule | None, blocks: Blocks, target: Level) -> optax.GradientTransformationExtraArgs:
    """Steps that the trust region scales: of length 1 if the whole model is one block, else as long as the retain gradient."""
    rule = rule or (rules.hamu_q() if target.count is None else rules.projected())
    options: dict[str, Any] = {"blocks": blocks, "clip_norm": 1.0}
    if blocks == "global":
        options["radius"] = 1.0
    if rule.promises:
        options |= {"improvement": COSINE, "distribution": "cosine"}
    if rule.promises and rule.guaranteed == "forget":
        options["until"] = target
    if target.count is not None:
        options["num_requests"] = target.count
    return optax.chain(combine(rule, **options), optax.scale(-1.0))
