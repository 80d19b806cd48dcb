"""Models, gradients and data at the edge of what there is; others are where the part that meets them is tested."""

import dataclasses
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import Phase, given, settings
from hypothesis import strategies as st
from tiny_runs import examples, run, start
from two_gradient_problems import PLAIN_COMPILE

import hamu_jax
from hamu_jax import Regime, report


def scalar_loss(params: Any, batch: Any) -> Any:
    """The squared error of a model that is one number."""
    return (batch["x"][:, 0] * params - batch["y"]) ** 2


def test_a_model_of_one_parameter() -> None:
    """All gradients are parallel: the step is the retain gradient's, cut to what the promise leaves, or nothing is left."""
    params = jnp.float32(2.0)
    tx = hamu_jax.transform(0.25)
    update, state = tx.update(jnp.float32(3.0), tx.init(params), forget_grads=jnp.float32(-1.0))
    # A step of d changes the losses by 3 d and -d: the forget loss rises by at least 1/4 if d <= -1/4; the ball ends at -3.
    assert float(update) == pytest.approx(3.0)
    assert bool(hamu_jax.get_hardness(state).feasible[0])
    result = run(loss=scalar_loss, params=params, optimizer=hamu_jax.hamu(0.01, 0.1), steps=3)
    assert (result.status, result.params.shape) == ("completed", ())


def test_sets_of_one_example() -> None:
    one, other = examples(3, 1), examples(4, 1)
    result = run(retain=one, forget=other, steps=3, measure_every=1)
    assert result.status == "completed"
    assert np.all(result.history.column("forget_measured")[:3] > 0)


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Module:
    """A model as equinox has them: arrays, nothing, and settings that are no leaves."""

    weight: Any
    bias: Any
    activation: str = dataclasses.field(metadata={"static": True}, default="tanh")


def test_a_module_with_nothing_and_settings_in_it() -> None:
    params = Module(jnp.array([0.9, -1.8, 0.3], jnp.float32), None)

    def module_loss(params: Module, batch: Any) -> Any:
        return (getattr(jnp, params.activation)(batch["x"] @ params.weight) - batch["y"]) ** 2

    result = run(loss=module_loss, params=params, steps=3)
    assert result.status == "completed"
    assert (result.params.bias, result.params.activation) == (None, "tanh")
    assert jax.tree.structure(result.params) == jax.tree.structure(params)


def test_a_loss_that_overflows_in_float16() -> None:
    """Nothing is done to the parameters."""
    params = {"w": jnp.full(3, 60000.0, jnp.float16)}

    def narrow(params: Any, batch: Any) -> Any:
        return batch["x"].astype(jnp.float16) @ params["w"] * jnp.float16(10.0)

    result = run(loss=narrow, params=params, steps=3)
    assert (result.status, result.steps) == ("nonfinite", 0)
    np.testing.assert_array_equal(result.params["w"], params["w"])


def widened(tree: Any) -> Any:
    return jax.tree.map(lambda x: x.astype(jnp.float32), tree)


def test_gradients_whose_squares_overflow_in_float16() -> None:
    """Inner products are taken in float32."""
    retain, forget = {"w": jnp.array([6e4, 0.0], jnp.float16)}, {"w": jnp.array([3e4, 4e4], jnp.float16)}
    tx = hamu_jax.transform(0.5, distribution="relative")
    update, state = tx.update(retain, tx.init(retain), forget_grads=forget)
    wide, _ = tx.update(widened(retain), tx.init(widened(retain)), forget_grads=widened(forget))
    assert update["w"].dtype == jnp.float16
    assert bool(jnp.all(hamu_jax.get_hardness(state).finite))
    np.testing.assert_allclose(update["w"].astype(np.float32), wide["w"], rtol=1e-3)


@pytest.mark.parametrize(("value", "layer"), [(np.nan, "'b'"), (np.inf, "'w'")])
def test_one_example_whose_gradient_breaks_one_layer(value: float, layer: str) -> None:
    """One example of many, one layer of two, one objective of two: nothing happens to any parameter, and two are named."""
    bad = examples(3, 8) | {"poison": np.where(np.arange(8) == 5, value, 0.0).astype(np.float32)}

    def poisoned(params: Any, batch: Any) -> Any:
        part = params["b"] if layer == "'b'" else params["w"][1]
        return (batch["x"] @ params["w"] + params["b"] - batch["y"]) ** 2 + batch["poison"] * part

    good = examples(4, 8) | {"poison": np.zeros(8, np.float32)}
    result = run(loss=poisoned, retain=good, forget=bad, batch_size=8, steps=3)
    assert (result.status, result.steps) == ("nonfinite", 0)
    assert "forget loss" in result.reason
    assert f"not finite in {layer}" in result.reason
    jax.tree.map(np.testing.assert_array_equal, result.params, start())


def test_a_loss_that_does_not_move() -> None:
    """All gradients are 0: no step, and the state says that nothing can be promised."""
    result = run(loss=lambda params, batch: 0.0 * params["b"] * batch["y"], steps=2)
    jax.tree.map(np.testing.assert_array_equal, result.params, start())
    hardness = hamu_jax.get_hardness(result.state)
    np.testing.assert_array_equal(hardness.regime, Regime.INFEASIBLE)
    assert np.all(hardness.finite)
    assert (result.status, bool(hardness.unavoidable)) == ("ineffective", False)


def test_forgetting_what_is_kept() -> None:
    """kappa is the square of the gradient's norm, and everybody says so: state and report; `assess` in its own tests."""
    both = examples(5, 20)
    result = run(retain=both, forget=both, batch_size=20, steps=2)
    hardness = hamu_jax.get_hardness(result.state)
    np.testing.assert_allclose(hardness.kappa, hardness.retain_norm**2, rtol=1e-5)
    np.testing.assert_allclose(hardness.angle, 0.0, atol=1e-2)
    assert hardness.unavoidable
    assert np.all(hardness.kappa > hardness.kappa_2)
    names = {"retain": "kept", "forget": "gone", "unlearned": "after", "original": "before"}
    words = report.conclude(result, {name: {"kept": 0.9, "gone": 0.9} for name in ("before", "after")}, **names)
    assert "From step 0 on a rise of the retain loss was unavoidable" in words


def never(*_: Any) -> Any:
    """A loss that must not be looked at."""
    raise AssertionError("traced")


NOTHING = {"x": np.zeros((0, 3), np.float32), "y": np.zeros(0, np.float32)}


@pytest.mark.parametrize("empty", ["retain", "forget"])
def test_an_empty_set_is_refused_before_anything_is_traced(empty: str) -> None:
    sets = {"retain": examples(1, 4), "forget": examples(2, 4), empty: NOTHING}
    message = rf"^{empty}: got 0 examples, expected at least 1$"
    with pytest.raises(ValueError, match=message):
        run(loss=never, **sets)
    with pytest.raises(ValueError, match=message):
        hamu_jax.assess(never, start(), sets["retain"], sets["forget"], improvement=0.5)
    with pytest.raises(ValueError, match=rf"^{empty}_batch: got 0 examples, expected at least 1$"):
        hamu_jax.paired_value_and_grad(never)(start(), sets["retain"], sets["forget"])


def test_no_batches_are_refused_before_anything_is_traced() -> None:
    with pytest.raises(ValueError, match=r"^forget: got no batches, expected arrays, or an iterable of batches"):
        run(loss=never, forget=[])


@pytest.mark.parametrize(
    ("leaf", "got"), [(np.ones(2, np.int32), "int32"), (np.ones(2, np.complex64), "complex64"), (np.ones(2, bool), "bool")]
)
def test_leaves_that_have_no_gradient(leaf: Any, got: str) -> None:
    good = {"layers": [Module(jnp.ones(2), None), Module(jnp.ones(2), jnp.ones(2))]}
    bad = {"layers": [good["layers"][0], dataclasses.replace(good["layers"][1], bias=leaf)]}
    tx = hamu_jax.transform(0.1)
    state = tx.init(good)
    named = rf"got {got} at 'layers/1/bias', expected a floating-point array"
    with pytest.raises(TypeError, match=rf"^params: {named}"):
        tx.init(bad)
    with pytest.raises(TypeError, match=rf"^updates \(the retain gradient\): {named}"):
        tx.update(bad, state, forget_grads=good)
    with pytest.raises(TypeError, match=rf"^forget_grads: {named}"):
        tx.update(good, state, forget_grads=bad)


@pytest.mark.parametrize("variant", ["q", "u"])
def test_the_update_has_the_dtypes_of_the_retain_gradient(variant: Any) -> None:
    """Whatever those of the forget gradient are, which is the first row of variant "u"."""
    retain = {"a": jnp.ones(3), "b": jnp.arange(3.0, dtype=jnp.bfloat16)}
    forget = {"a": jnp.arange(3.0, dtype=jnp.float16), "b": jnp.ones(3)}
    tx = hamu_jax.transform(0.1, variant=variant)
    updates, _ = tx.update(retain, tx.init(retain), forget_grads=forget)
    assert jax.tree.map(lambda x: x.dtype, updates) == jax.tree.map(lambda x: x.dtype, retain)


KEYS = {"a": (), "b": (3,), "c": (2, 2), "d": (0,)}
GROUPS = {"leaf": [["a"], ["b"], ["c"], ["d"]], "global": [["a", "b", "c", "d"]], "pairs": [["a", "c"], ["b", "d"]]}


def pairs(path: Any) -> str:
    """The third of `GROUPS`."""
    return "ac" if path[0].key in "ac" else "bd"


def random_tree(rng: np.random.Generator, kinds: list[Any], exponents: list[int]) -> dict[str, np.ndarray]:
    """One dtype and one scale a tensor; a tenth of the numbers are 0."""
    tree = {}
    for (name, shape), dtype, exponent in zip(KEYS.items(), kinds, exponents, strict=True):
        values = np.asarray(rng.normal(size=shape) * (rng.random(shape) > 0.1) * 10.0**exponent)
        largest = float(jnp.finfo(dtype).max)
        tree[name] = np.clip(values, -largest, largest).astype(dtype)
    return tree


def vectors(tree: Any, blocks: str) -> list[np.ndarray]:
    """Every block's numbers in double precision."""
    return [np.concatenate([np.ravel(tree[name].astype(np.float64)) for name in names]) for names in GROUPS[blocks]]


def assert_kept(update: Any, free: Any, kept: Any, hardness: hamu_jax.Hardness, blocks: str, *, ascends: bool) -> None:
    """Every block stays in its ball, and keeps its promise if it can; `kept` is the row of the loss that must fall."""
    eps = max(float(jnp.finfo(x.dtype).eps) for tree in (free, kept) for x in tree.values())
    for i, (d, promised) in enumerate(zip(vectors(update, blocks), vectors(kept, blocks), strict=True)):
        # Rounding: of sums in their dtype, and of the update, in its own.
        reach = hardness.radius[i] * np.linalg.norm(promised)
        if hardness.feasible[i]:
            assert d @ promised >= hardness.improvement[i] - 10 * eps * reach
        if hardness.feasible[i] or not ascends:
            assert np.linalg.norm(d) <= hardness.radius[i] * (1 + 10 * eps)


class Case(NamedTuple):
    """What comes: four dtypes and four scales for either tree, whether float32 is float64 instead, and what is broken."""

    seed: int
    kinds: tuple[list[Any], list[Any]]
    scales: tuple[list[int], list[int]]
    double: bool
    poison: float | None

    def trees(self) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray]]:
        """The retain and the forget gradient."""
        rng = np.random.default_rng(self.seed)
        wide = jnp.float64 if self.double else jnp.float32
        kinds = [[wide if kind == jnp.float32 else kind for kind in own] for own in self.kinds]
        retain, forget = (random_tree(rng, *own) for own in zip(kinds, self.scales, strict=True))
        if self.poison is not None:
            (retain, forget)[self.seed % 2]["b"][1] = self.poison
        return retain, forget


kinds = st.lists(st.sampled_from([jnp.float32, jnp.float32, jnp.float16, jnp.bfloat16]), min_size=4, max_size=4)
scales = st.lists(st.integers(-10, 10), min_size=4, max_size=4)
poison = st.sampled_from([None, None, np.nan, np.inf])
cases = st.builds(Case, st.integers(0, 2**32 - 1), st.tuples(kinds, kinds), st.tuples(scales, scales), st.booleans(), poison)
transforms = st.fixed_dictionaries(
    {
        "improvement": st.sampled_from([0.0, 1e-6, 0.3, 1e3]),
        "radius": st.sampled_from([None, 1e-4, 10.0]),
        "distribution": st.sampled_from(["grad_norm", "uniform", "softmax", "relative"]),
        "infeasible": st.sampled_from(["scale", "ascend", "skip"]),
        "variant": st.sampled_from("qu"),
    }
)


@settings(max_examples=30, phases=[Phase.generate])  # smaller cases would each be compiled, and this is small enough
@given(case=cases, blocks=st.sampled_from(sorted(GROUPS)), options=transforms)
def test_whatever_comes(case: Case, blocks: str, options: dict[str, Any]) -> None:
    """No error, no NaN; balls, promises, dtypes; and a number that can't be used voids the step, and its block is named."""
    retain, forget = case.trees()
    with jax.enable_x64(case.double):
        tx = hamu_jax.transform(**options, blocks=pairs if blocks == "pairs" else blocks)
        step = jax.jit(lambda r, f: tx.update(r, tx.init(r), forget_grads=f), compiler_options=PLAIN_COMPILE)
        updates, state = jax.device_get(step(retain, forget))
    assert {name: x.dtype for name, x in updates.items()} == {name: x.dtype for name, x in retain.items()}
    broken = case.poison is not None
    np.testing.assert_array_equal(state.hardness.finite, [not (broken and "b" in names) for names in GROUPS[blocks]])
    assert not any(np.any(np.isnan(x)) for x in updates.values())
    if broken:
        assert not any(np.any(x) for x in updates.values())
        return
    assert all(np.all(np.isfinite(x)) for x in state.hardness)
    rows = (retain, jax.tree.map(np.negative, forget))
    free, kept = rows if options["variant"] == "q" else rows[::-1]
    assert_kept(updates, free, kept, state.hardness, blocks, ascends=options["infeasible"] == "ascend")
