"""`forget` and unseen data that look like the forget set: their loss counts as a cost, and can be protected."""

import re
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from tiny_runs import bits

import hamu_jax
from hamu_jax import Checkpoints, Groups, Stopping, TrustRegion, rules, verify
from hamu_jax._driver.carry import first_carry
from hamu_jax._driver.protected import SignedLoss, marked, protecting
from hamu_jax._driver.step import driver_step
from hamu_jax._forget.band import Band
from hamu_jax._forget.evaluation import COST, ForgetEvaluation
from hamu_jax._forget.forget import _optimizer
from hamu_jax._transform.level import Level

START = jnp.array([0.3, 0.2, 0.1])
RNG = np.random.default_rng(4)


def quadratic(params: Any, batch: Any) -> Any:
    return 0.5 * (batch["x"] @ params) ** 2


def rows(direction: Any, size: int) -> dict[str, np.ndarray]:
    """Examples that look along one direction, no two of them alike."""
    scale = RNG.uniform(0.9, 1.1, (size, 1))
    return {"x": (scale * np.asarray(direction)).astype(np.float32), "owner": np.arange(size, dtype=np.int32) % 2}


# Forgetting along the second axis lifts the unseen loss, unless the third makes up for it; retain looks at the first.
RETAIN, FORGET, UNSEEN, HELD = rows([1, 0, 0], 12), rows([0, 1, 0], 3), rows([0, 8, 8], 10), rows([1, 0, 0], 4)
SETS = {"retain": RETAIN, "forget": FORGET, "unseen": UNSEEN, "held_out": HELD}


def forgotten(**options: Any) -> hamu_jax.Forgotten:
    given: dict[str, Any] = {**SETS, "progress": False, **options}
    return hamu_jax.forget(quadratic, START, **given)


def rise(result: hamu_jax.Forgotten, name: str) -> float:
    change = result.losses[name]
    return change.after / change.before - 1


PLAIN, PROTECTED = forgotten(), forgotten(protect_unseen=True)


def test_a_rise_of_the_unseen_loss_is_a_cost_that_is_told() -> None:
    assert PLAIN.status == "reached_at_higher_cost"
    assert PLAIN.worse_on == ("unseen",)
    assert rise(PLAIN, "unseen") > 1.0
    assert "worse than before on unseen data" in PLAIN.verdict
    assert rise(PLAIN, "held_out") < 0.0


def test_protection_reaches_the_level_without_the_rise() -> None:
    """On unseen examples that are not protected themselves."""
    assert PROTECTED.status == "reached"
    assert PROTECTED.worse_on == ()
    assert abs(rise(PROTECTED, "protected")) < 0.1
    assert abs(rise(PROTECTED, "unseen")) < 0.1
    assert PROTECTED.losses["forget"].after == pytest.approx(PROTECTED.level[0], rel=0.1)
    assert "Loss of the protected unseen examples" in PROTECTED.verdict


def test_what_the_history_tells_is_of_the_forget_requests_alone() -> None:
    row = PROTECTED.history.rows[0]
    assert row["forget_loss"] == pytest.approx(PROTECTED.losses["forget"].before, rel=1e-5)
    assert row["forget_promised"] == row["least_promised"]
    assert row["forget_promised"] > 0
    assert row["protected_promised"] == pytest.approx(0.0, abs=1e-5), "where it was, the first step leaves it"
    taken = [row for row in PROTECTED.history.rows[: PROTECTED.best_step] if row["step_accepted"]]
    total = sum(row["protected_measured"] for row in taken)
    change = PROTECTED.losses["protected"]
    assert total == pytest.approx(change.after - change.before, abs=1e-4)


@pytest.mark.parametrize("shift", [0.0, 0.3, -0.02])
@pytest.mark.parametrize("requests", [None, Groups(lambda batch: batch["owner"], 2)])
def test_no_step_raises_the_protected_loss(shift: float, requests: Groups | None) -> None:
    """By its own gradient: at its level it does not rise, above it falls, below it may rise back as far as the level."""
    loss, groups, data = SignedLoss(quadratic), protecting(requests), marked(FORGET, UNSEEN)

    def protected_loss(params: Any) -> Any:
        return jnp.mean(quadratic(params, UNSEEN))

    params = START + jnp.array([0.0, 0.0, shift])
    level = Level((*[3.0] * (groups.count - 1), -float(protected_loss(START))), band=0.3)
    optimizer, region = _optimizer(None, "global", level), TrustRegion(0.05, level=level)
    carry = first_carry(params, optimizer, trust_region=region)
    options: dict[str, Any] = {"microbatch_size": None, "trust_region": region, "groups": groups}
    updates = driver_step((quadratic, loss), optimizer, Stopping(), **options).propose(carry, RETAIN, data).updates
    change = float(jax.grad(protected_loss)(params) @ updates)
    room = float(protected_loss(START) - protected_loss(params))
    assert change <= max(room, 0.0) + 1e-5
    if room < 0:
        assert change < -1e-3
    assert float(jax.grad(lambda p: jnp.mean(quadratic(p, FORGET)))(params) @ updates) > 1e-4


def test_an_example_that_no_request_owns_stays_unowned() -> None:
    groups = protecting(Groups(lambda batch: batch["owner"], 2))
    examples = {"x": np.ones((4, 3), np.float32), "owner": np.array([0, 1, 2, -1], np.int32)}
    member = groups.of(marked(examples, UNSEEN))
    assert member[:4].tolist()[:2] == [0, 1]
    assert not set(member[2:4].tolist()) & {0, 1, 2}
    assert set(member[4:].tolist()) == {2}


def test_the_cost_by_hand() -> None:
    options: dict[str, Any] = {"band": Band(np.array([1.0]), np.array([0.1]), np.array([0.5]))}
    held = float(jnp.mean(quadratic(START, HELD)))
    unseen = float(jnp.mean(quadratic(START, UNSEEN)))
    for most, extra in ((unseen - 0.5, 0.5), (unseen + 0.5, 0.0)):
        evaluation = ForgetEvaluation({"forget": FORGET, "held_out": HELD, "unseen": UNSEEN}, **options, most_unseen=most)
        assert evaluation.measure(quadratic, START)[COST] == pytest.approx(held + extra, rel=1e-5)
    without = ForgetEvaluation({"forget": FORGET, "held_out": HELD}, **options, most_unseen=0.0)
    assert without.measure(quadratic, START)[COST] == pytest.approx(held, rel=1e-5)


def test_the_guard_counts_the_unseen_loss() -> None:
    result = forgotten(max_cost=1.0)
    assert result.status == "not_reached"
    assert result.losses["unseen"].after - result.losses["unseen"].before <= 1.0


def test_a_given_level_says_how_far_the_unseen_loss_may_rise() -> None:
    """A whole class is forgotten: unseen examples of the class must be forgotten as well."""
    result = forgotten(unseen=rows([0, 1, 0], 10), level=2.0)
    assert result.status == "reached"
    assert result.losses["unseen"].after == pytest.approx(2.0, rel=0.2)
    assert result.level_error is None


def test_the_verdict_says_what_may_be_chance() -> None:
    assert PLAIN.auc_interval is not None
    low, high = PLAIN.auc_interval
    assert PLAIN.auc is not None
    assert low <= PLAIN.auc.after <= high
    assert f"95% interval {low:.2f} to {high:.2f}" in PLAIN.verdict
    unseen = np.asarray(quadratic(START, UNSEEN))
    assert PLAIN.level_error == pytest.approx(unseen.std(ddof=1) * np.sqrt(1 / 10 + 1 / 3), rel=1e-5)


def test_the_record_says_which_rows_were_protected() -> None:
    record = PROTECTED.record("TICKET-1")
    assert record.content["settings"]["protect_unseen"] is True
    assert len(record.content["protected_rows"]) == 5
    checks = verify.verify(record, params=PROTECTED.params, params_before=START, data=SETS, loss=quadratic)
    assert all(holds for _, holds in checks)
    assert {text.split(" loss ")[0] for text, _ in checks if " loss " in text} >= {"the unseen", "the protected"}
    other = verify.verify(record, params=START, data=SETS, loss=quadratic)
    assert any(not holds for _, holds in other)


def test_it_resumes_to_the_same_bits(tmp_path: Any) -> None:
    whole = forgotten(protect_unseen=True, steps=12)
    store = Checkpoints(tmp_path, every=3)
    forgotten(protect_unseen=True, steps=7, checkpoints=store)
    again = forgotten(protect_unseen=True, steps=12, checkpoints=store)
    assert (bits(again.params), again.best_step) == (bits(whole.params), whole.best_step)


@pytest.mark.parametrize(
    ("options", "kind", "message"),
    [
        ({"protect_unseen": 1}, TypeError, "protect_unseen: got 1, expected True or False"),
        ({"unseen": None, "level": 1.0}, ValueError, "protect_unseen: got True with unseen=None, expected unseen data"),
        ({"rule": rules.hamu_q()}, ValueError, "protect_unseen: got True with a rule for one forget objective"),
        ({"unseen": rows([0, 1, 0], 1)}, ValueError, "unseen: got 1 example, expected at least 2"),
        (
            {"unseen": {**UNSEEN, "owner": UNSEEN["owner"].astype(np.int16)}},
            ValueError,
            "unseen: got examples of another structure, shape or dtype than those of forget",
        ),
    ],
)
def test_errors_name_the_argument(options: dict[str, Any], kind: type[Exception], message: str) -> None:
    with pytest.raises(kind, match=re.escape(message)):
        forgotten(**{"protect_unseen": True, **options})
