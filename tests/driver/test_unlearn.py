"""The driver, against a loop that is written out: once in numpy and float64, once with optax."""

import itertools
import math
from collections.abc import Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from tiny_runs import ADAMW, FORGET, RETAIN, SGD, assert_same, bits, examples, loss, plain, run, start

import hamu_jax
from hamu_jax._datasets.batches import batches
from hamu_jax._driver import run as run_module

RATE, IMPROVEMENT = 0.05, 0.5
GLOBAL = hamu_jax.hamu(RATE, IMPROVEMENT, blocks="global")


def first_weight(params: Any, batch: Any) -> Any:
    """A metric that shows a parameter."""
    return jnp.broadcast_to(params["w"][0], batch["y"].shape)


def evaluation(every: int, **splits: Any) -> hamu_jax.Evaluation:
    return hamu_jax.Evaluation(splits or {"retain": RETAIN, "forget": FORGET}, {"w0": first_weight}, every=every, batch_size=8)


class Loader:
    """An iterable of batches that can be started again."""

    def __init__(self, content: list[Any]) -> None:
        self.content = content

    def __iter__(self) -> Iterator[Any]:
        return iter(self.content)


RETAIN_BATCHES = [examples(10 + i, 6) for i in range(5)]
FORGET_BATCHES = [examples(20 + i, 4) for i in range(3)]


class Oracle:
    """The whole loop in float64 numpy: linear regression, one global block, gradient steps (docs/mathematics.md, section 2)."""

    def __init__(self, steps: int) -> None:
        self.theta = np.concatenate([[0.1], [0.9, -1.8, 0.3]])
        self.thetas: list[np.ndarray] = []
        self.rows: list[dict[str, float]] = []
        for retain, forget in itertools.islice(zip(itertools.cycle(RETAIN_BATCHES), itertools.cycle(FORGET_BATCHES)), steps):
            self.thetas.append(self.theta)
            self._step(retain, forget)
        self.thetas.append(self.theta)

    @staticmethod
    def loss(theta: np.ndarray, batch: Any) -> tuple[float, np.ndarray]:
        features = np.column_stack([np.ones(len(batch["y"])), batch["x"].astype(np.float64)])
        error = features @ theta - batch["y"]
        return float(np.mean(error**2)), 2 * features.T @ error / len(error)

    def _step(self, retain: Any, forget: Any) -> None:
        (retain_loss, g), (forget_loss, f) = self.loss(self.theta, retain), self.loss(self.theta, forget)
        q, r, kappa, ff = IMPROVEMENT, np.linalg.norm(g), g @ f, f @ f
        p = g - kappa / ff * f
        direct = kappa <= -q
        d = -g if direct else q / ff * f - math.sqrt(r**2 - q**2 / ff) * p / np.linalg.norm(p)
        after = self.theta + RATE * d
        self.rows.append(
            {
                "retain_loss": retain_loss,
                "forget_loss": forget_loss,
                "kappa": kappa,
                "kappa_1": -q,
                "kappa_2": r * math.sqrt(ff - q**2 / r**2),
                "angle": math.degrees(math.acos(kappa / r / math.sqrt(ff))),
                "retain_norm": r,
                "forget_norm": math.sqrt(ff),
                "improvement": q,
                "retain_change": g @ d,
                "forget_change": f @ d,
                "unavoidable": g @ d > 0,
                "direct": direct,
                "rectified": not direct,
                "step_length": RATE * np.linalg.norm(d),
                "retain_promised": RATE * g @ d,
                "forget_promised": RATE * f @ d,
                "retain_measured": self.loss(after, retain)[0] - retain_loss,
                "forget_measured": self.loss(after, forget)[0] - forget_loss,
            }
        )
        self.theta = after


@pytest.fixture(scope="module")
def oracle() -> Oracle:
    return Oracle(12)


@pytest.fixture(scope="module")
def measured_run() -> hamu_jax.Unlearned:
    """Twelve steps over iterables of unlike batch sizes and lengths, everything measured."""
    options = {"measure_every": 1, "evaluation": evaluation(5, retain=RETAIN, forget=FORGET)}
    return run(GLOBAL, retain=RETAIN_BATCHES, forget=Loader(FORGET_BATCHES), **options)


def test_every_row_against_numpy(measured_run: hamu_jax.Unlearned, oracle: Oracle) -> None:
    assert [row["step"] for row in measured_run.history.rows] == [*range(12), 12]
    assert {"direct", "rectified"} <= {name for row in oracle.rows for name in ("direct", "rectified") if row[name]}
    for name in oracle.rows[0]:
        got, expected = measured_run.history.column(name)[:-1], np.array([float(row[name]) for row in oracle.rows])
        # Changes of the losses are differences of float32 numbers near 5, and errors build up over the steps.
        np.testing.assert_allclose(got, expected, rtol=2e-5, atol=5e-6, err_msg=name)


def test_parameters_against_numpy(measured_run: hamu_jax.Unlearned, oracle: Oracle) -> None:
    got = np.concatenate([[measured_run.params["b"]], measured_run.params["w"]])
    np.testing.assert_allclose(got, oracle.thetas[12], rtol=3e-6)
    assert (measured_run.steps, measured_run.status) == (12, "completed")
    assert measured_run.reason == "all 12 steps were taken"


def test_row_t_describes_the_parameters_after_t_updates(measured_run: hamu_jax.Unlearned, oracle: Oracle) -> None:
    steps, weights = measured_run.history.measured("retain/w0")
    np.testing.assert_array_equal(steps, [0, 5, 10, 12])  # every five steps, and the end
    np.testing.assert_allclose(weights, [oracle.thetas[step][1] for step in steps], rtol=3e-6)
    for split, data in (("retain", RETAIN), ("forget", FORGET)):
        _, losses = measured_run.history.measured(f"{split}/loss")
        np.testing.assert_allclose(losses, [oracle.loss(oracle.thetas[step], data)[0] for step in steps], rtol=1e-5)
    assert set(measured_run.history.rows[-1]) == {"step", "retain/loss", "retain/w0", "forget/loss", "forget/w0"}


def test_the_promise_is_the_predicted_change_times_the_learning_rate(measured_run: hamu_jax.Unlearned) -> None:
    for side in ("retain", "forget"):
        predicted = RATE * measured_run.history.column(f"{side}_change")[:-1]
        np.testing.assert_allclose(measured_run.history.column(f"{side}_promised")[:-1], predicted, rtol=1e-5)
    assert np.all(measured_run.history.column("forget_change")[:-1] >= IMPROVEMENT * (1 - 1e-5))


@pytest.mark.parametrize("optimizer", [SGD, ADAMW], ids=["sgd", "adamw"])
def test_equals_a_plain_loop_with_optax(optimizer: Any) -> None:
    got = run(optimizer, steps=7, seed=3)
    params = start()
    state = optimizer.init(params)
    pairs = zip(batches("retain", RETAIN, 8, (3, 0), 0), batches("forget", FORGET, 4, (3, 1), 0), strict=True)
    for retain, forget in itertools.islice(pairs, 7):
        of_retain, of_forget = (jax.grad(lambda p, batch=batch: jnp.mean(loss(p, batch)))(params) for batch in (retain, forget))
        updates, state = optimizer.update(of_retain, state, params, forget_grads=of_forget)
        params = optax.apply_updates(params, updates)
    jax.tree.map(lambda x, y: np.testing.assert_allclose(x, y, rtol=2e-6, atol=1e-6), got.params, params)
    # The state too; inner products cancel, so relative to 1.
    jax.tree.map(lambda x, y: np.testing.assert_allclose(x, y, rtol=1e-4, atol=1e-5), got.state, state)


def test_the_same_seed_gives_the_same_bits() -> None:
    first = run(seed=5)
    assert_same(run(seed=5), first)
    assert bits(run(seed=6).params) != bits(first.params)


def test_weakly_typed_parameters_are_traced_once_too() -> None:
    calls = []

    def counted(params: Any, batch: Any) -> Any:
        calls.append(1)
        return loss(params, batch)

    params = {"b": jnp.asarray(0.1), "w": jnp.full(3, 0.5)}  # of Python numbers: their type gives way to others
    assert params["w"].weak_type
    run(loss=counted, params=params, steps=3)
    assert len(calls) == 2 + 2  # the step, and the last look at the result


@pytest.mark.parametrize(
    ("measure_every", "traces"),
    # Each trace calls the loss twice, and twice more where the change is measured; the last look at the result is one more.
    [(0, 2 + 2), (1, 4 + 2), (5, 2 + 4 + 2)],
)
def test_one_trace_for_many_steps(measure_every: int, traces: int) -> None:
    calls = []

    def counted(params: Any, batch: Any) -> Any:
        calls.append(1)
        return loss(params, batch)

    result = run(loss=counted, measure_every=measure_every, steps=13)
    assert len(calls) == traces
    rows = result.history.rows
    measured = [row["step"] for row in rows if "forget_measured" in row]
    assert measured == (list(range(0, 13, measure_every)) if measure_every else [])


@pytest.mark.skipif(jax.__version_info__ < (0, 10), reason="jax 0.9 logs no name of a functools.partial")
@pytest.mark.parametrize("committed", [False, True])
def test_one_compilation_for_many_steps(committed: bool, caplog: pytest.LogCaptureFixture) -> None:
    """Also of parameters that a checkpoint left on a certain device, where batches and counters are not."""
    params = {"b": jnp.float32(0.1), "w": jnp.full(3, 0.5, jnp.float32)}
    if committed:
        params = jax.device_put(params, jax.devices()[0])
    with jax.log_compiles():
        result = run(params=params, steps=3)
    assert sum("Compiling jit(_advance)" in record.getMessage() for record in caplog.records) == 1
    assert all(x.committed is committed for x in jax.tree.leaves(result.params))


def test_being_ahead_changes_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    losses = run().history.column("forget_loss")[:12]
    highs = [step for step in range(2, 12 - run_module.AHEAD) if losses[step] > losses[:step].max()]
    target = hamu_jax.Target("forget_loss", at_least=float(losses[highs[-1]]))
    options = {"evaluation": evaluation(3), "stopping": hamu_jax.Stopping(targets=(target,))}
    ahead = run(**options)
    assert 0 < ahead.steps < 12 - run_module.AHEAD, "stops with steps dispatched behind it"
    monkeypatch.setattr(run_module, "AHEAD", 0)
    assert_same(run(**options), ahead)
    assert bits(run(steps=ahead.steps).params) == bits(ahead.params)
    losses = ahead.history.column("forget_loss")
    assert losses[-1] >= target.at_least > losses[:-1].max()
    assert ahead.history.rows[-1]["step"] == ahead.steps
    assert "forget/loss" in ahead.history.rows[-1], "the end is evaluated"


def as_array(data: dict[str, np.ndarray]) -> np.ndarray:
    return np.column_stack([data["x"], data["y"]])


def as_tuple(data: dict[str, np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
    return data["x"], data["y"]


@pytest.mark.parametrize(
    ("form", "read"),
    [(as_array, lambda batch: {"x": batch[:, :3], "y": batch[:, 3]}), (as_tuple, lambda batch: {"x": batch[0], "y": batch[1]})],
    ids=["array", "tuple"],
)
def test_any_pytree_of_arrays(form: Any, read: Any) -> None:
    got = run(retain=form(RETAIN), forget=form(FORGET), loss=lambda params, batch: loss(params, read(batch)), steps=4)
    # Another program for the same numbers: equal up to rounding.
    jax.tree.map(lambda x, y: np.testing.assert_allclose(x, y, rtol=2e-6), got.params, plain(steps=4).params)


def test_a_generator_that_runs_out() -> None:
    forget = (batch for batch in FORGET_BATCHES)
    with pytest.raises(ValueError, match="forget: got an iterator that ended after 1 pass, expected arrays, or an iterable"):
        run(GLOBAL, retain=RETAIN_BATCHES, forget=forget)
    enough = run(GLOBAL, retain=RETAIN_BATCHES, forget=(batch for batch in FORGET_BATCHES), steps=3)
    assert enough.status == "completed"


def test_the_users_parameters_are_not_consumed() -> None:
    params = start()
    before = bits(params)
    first = run(params=params, steps=3)
    assert bits(params) == before
    assert_same(first, plain(steps=3))
    ended = bits(first.params)
    run(params=first.params, steps=3)
    assert bits(first.params) == ended


def test_numpy_parameters() -> None:
    params = jax.tree.map(np.asarray, start())
    assert_same(run(params=params, steps=3), plain(steps=3))
    np.testing.assert_array_equal(params["w"], start()["w"])


def test_a_loss_of_its_own_for_the_forget_set() -> None:
    def shifted(params: Any, batch: Any) -> Any:
        return loss(params, batch) + 100.0

    usual, own = plain(steps=3), run(steps=3, forget_loss=shifted, evaluation=evaluation(3))
    np.testing.assert_allclose(own.history.column("forget_loss")[:3], usual.history.column("forget_loss")[:3] + 100, rtol=1e-6)
    assert own.history.rows[0]["forget/loss"] < 50, "splits are evaluated with the first loss"


def test_microbatches_change_rounding_only() -> None:
    whole, parts = plain(steps=4), run(steps=4, microbatch_size=3)
    jax.tree.map(lambda x, y: np.testing.assert_allclose(x, y, rtol=2e-6), parts.params, whole.params)


def test_one_batch_size_for_both() -> None:
    assert_same(run(batch_size=6, steps=2), run(batch_size=(6, 6), steps=2))


def test_progress_goes_to_standard_error(capsys: pytest.CaptureFixture[str]) -> None:
    shown = run(steps=3, progress=True)
    captured = capsys.readouterr()
    assert "unlearning" in captured.err
    assert "3/3" in captured.err
    assert captured.out == ""
    assert_same(shown, plain(steps=3))
