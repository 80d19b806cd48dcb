"""The assessment, against naive computations in float64 on a tiny model, and its words against the numbers."""

import functools
import json
import re
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from two_gradient_problems import flat

import hamu_jax
from hamu_jax import assess

RETAIN_SIZE, FORGET_SIZE = 13, 7


def logits(params: Any, batch: Any) -> jax.Array:
    return jnp.tanh(batch["x"] @ params["hidden"]) @ params["out"]


LOSS = hamu_jax.objectives.cross_entropy(logits)


def other_loss(params: Any, batch: Any) -> jax.Array:
    return jnp.mean((batch["x"] @ params["hidden"] - 0.5) ** 2, axis=-1)


def data(seed: int, size: int, shift: float = 0.0) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(seed)
    return {"x": rng.normal(shift, 1.0, size=(size, 3)), "label": rng.integers(0, 3, size)}


def start() -> dict[str, jax.Array]:
    rng = np.random.default_rng(9)
    return {"hidden": jnp.asarray(rng.normal(size=(3, 4))), "out": jnp.asarray(rng.normal(size=(4, 3)))}


RETAIN, FORGET = data(0, RETAIN_SIZE), data(1, FORGET_SIZE, 1.0)


def naive(loss: Any, params: Any, batch: Any) -> tuple[np.ndarray, np.ndarray]:
    """The losses `[batch]` and the gradients `[batch, n]`, one example at a time."""
    single = jax.jit(jax.value_and_grad(lambda p, example: loss(p, example)[0]))
    rows = [single(params, {key: value[i : i + 1] for key, value in batch.items()}) for i in range(len(batch["x"]))]
    return np.array([float(value) for value, _ in rows]), np.stack([flat(grads, 0) for _, grads in rows])


@functools.cache
def one_by_one(forget_loss: Any = LOSS) -> Any:
    """The losses and gradients of the retain and of the forget examples."""
    return naive(LOSS, start(), RETAIN), naive(forget_loss, start(), FORGET)


def closed_form(g: np.ndarray, f: np.ndarray, q: float, r: float) -> np.ndarray:
    """The planned step of one block (docs/mathematics.md, section 2)."""
    kappa, ff, rr = g @ f, f @ f, g @ g
    if kappa <= -q * np.sqrt(rr) / r:
        return -r * g / np.sqrt(rr)
    p = g - kappa / ff * f
    return q / ff * f - np.sqrt(r**2 - q**2 / ff) * p / np.linalg.norm(p)


@functools.cache
def found(**options: Any) -> hamu_jax.Assessment:
    """An assessment of the shared problem, in float64."""
    with jax.enable_x64(True):
        return assess(LOSS, start(), RETAIN, FORGET, **options)


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize(("improvement", "microbatch_size"), [(0.1, None), (0.9, 4), (0.9, 1), (0.1, 100)])
def test_every_number(improvement: float, microbatch_size: int | None) -> None:
    """One block, an easy and a hard requirement; sets that microbatches leave a remainder of."""
    result = found(improvement=improvement, blocks="global", microbatch_size=microbatch_size)
    (retain_losses, retain), (forget_losses, forget) = one_by_one()
    g, f = retain.mean(axis=0), forget.mean(axis=0)
    radius = np.linalg.norm(g)
    step = closed_form(g, f, improvement * radius * np.linalg.norm(f), radius)
    expected = {
        "retain_loss": retain_losses.mean(),
        "forget_loss": forget_losses.mean(),
        "retain_norm": radius,
        "forget_with_retain": forget @ g,
        "forget_with_forget": forget @ f,
        "forget_norm": np.linalg.norm(forget, axis=1),
        "forget_change": forget @ step,
        "retain_change": retain @ step,
    }
    for name, value in expected.items():
        np.testing.assert_allclose(getattr(result, name), value, rtol=1e-9, atol=1e-12, err_msg=name)
    np.testing.assert_allclose(result.cosines(), forget @ g / np.linalg.norm(forget, axis=1) / radius, rtol=1e-10)
    np.testing.assert_allclose(result.hardness.total_kappa, g @ f, rtol=1e-10)
    np.testing.assert_allclose(result.hardness.total_retain_change, result.retain_change.mean(), rtol=1e-9)
    np.testing.assert_allclose(result.hardness.total_forget_change, result.forget_change.mean(), rtol=1e-9)
    assert (result.labels, result.improvement, result.variant) == (("global",), improvement, "q")
    assert {type(value) for value in (*result.hardness, *result.trade_off)} <= {np.ndarray, np.float64, np.bool_}


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize("options", [{"variant": "u"}, {"clip_norm": 0.01, "radius": 0.3, "distribution": "uniform"}])
def test_what_transform_would_do(options: Any) -> None:
    """Per block, with another loss for the forget set: the step and the curve are those of the public functions."""
    result = assess(LOSS, start(), RETAIN, FORGET, 0.02, forget_loss=other_loss, microbatch_size=5, **options)
    options = {"distribution": "relative", **options}
    _, grads = hamu_jax.paired_value_and_grad(LOSS, forget_loss=other_loss)(start(), RETAIN, FORGET)
    tx = hamu_jax.transform(0.02, **options)
    update, state = tx.update(grads.retain, tx.init(start()), forget_grads=grads.forget)
    for (name, value), expected in zip(result.hardness._asdict().items(), hamu_jax.get_hardness(state), strict=True):
        np.testing.assert_allclose(value, expected, rtol=1e-9, atol=1e-12, err_msg=name)
    (_, retain), (_, forget) = one_by_one(other_loss)
    np.testing.assert_allclose(result.retain_change, -retain @ flat(update, 0), rtol=1e-9, atol=1e-14)
    np.testing.assert_allclose(result.forget_change, -forget @ flat(update, 0), rtol=1e-9, atol=1e-14)
    cosines = forget @ flat(grads.retain, 0) / np.linalg.norm(forget, axis=1) / np.linalg.norm(flat(grads.retain, 0))
    np.testing.assert_allclose(result.cosines(), cosines, rtol=1e-9)  # of the gradients as they are, clipped or not
    options.pop("variant", None)
    curve = hamu_jax.trade_off(grads.retain, grads.forget, **options)
    for value, expected in zip(result.trade_off, curve, strict=True):
        np.testing.assert_allclose(value, expected, rtol=1e-9, atol=1e-12)


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize("microbatch_size", [None, 4])
def test_padding(microbatch_size: int | None) -> None:
    """Rows of padding change nothing and have no number of their own; the other rows keep theirs."""

    def padded(part: dict[str, np.ndarray]) -> tuple[dict[str, np.ndarray], np.ndarray]:
        rows = np.arange(len(part["x"])) * 2  # after every example one of padding
        longer = {"x": np.full((2 * len(rows), 3), 5.0), "label": np.full(2 * len(rows), -1)}
        longer["x"][rows], longer["label"][rows] = part["x"], part["label"]
        return longer, rows

    (retain, retain_rows), (forget, forget_rows) = padded(RETAIN), padded(FORGET)
    result, plain = assess(LOSS, start(), retain, forget, microbatch_size=microbatch_size), found()
    for name in ("forget_with_retain", "forget_with_forget", "forget_norm", "forget_change", "retain_change"):
        rows, values = (retain_rows if name == "retain_change" else forget_rows), getattr(result, name)
        np.testing.assert_allclose(values[rows], getattr(plain, name), rtol=1e-9, atol=1e-13, err_msg=name)
        assert np.all(np.isnan(np.delete(values, rows)))
    np.testing.assert_allclose([result.retain_loss, result.forget_loss], [plain.retain_loss, plain.forget_loss], rtol=1e-12)
    assert result.hardest(100) == [2 * row for row in plain.hardest(100)]
    assert result.most_threatened(3) == [2 * row for row in plain.most_threatened(3)]
    assert result.verdict == plain.verdict
    assert [pair[:2] for pair in result.most_alike] == [(2 * first, 2 * second) for first, second, _ in plain.most_alike]


@pytest.mark.usefixtures("x64")
def test_most_alike() -> None:
    """The pairs of the largest cosines between single gradients; a duplicate comes first."""
    _, (_, rows) = one_by_one()
    unit = rows / np.linalg.norm(rows, axis=1, keepdims=True)
    first, second = np.triu_indices(len(rows), 1)
    cosines = np.sum(unit[first] * unit[second], axis=1)
    order = np.argsort(-cosines)[:10]
    pairs = found().most_alike
    np.testing.assert_allclose([pair.cosine for pair in pairs], cosines[order], rtol=1e-9)
    assert [pair[:2] for pair in pairs] == list(zip(first[order], second[order], strict=True))
    twice = {name: np.concatenate([x, x[2:3]]) for name, x in FORGET.items()}
    assert assess(LOSS, start(), RETAIN, twice).most_alike[0][:2] == (2, len(rows))


def test_order() -> None:
    result = found()
    hardest, threatened = result.hardest(3), result.most_threatened()
    assert hardest == list(np.argsort(-result.cosines())[:3])
    assert threatened == list(np.argsort(-result.retain_change)[:10])
    assert result.retain_change[threatened[0]] == result.retain_change.max()
    assert sorted(result.hardest(100)) == list(range(FORGET_SIZE))


def test_single_precision_params_under_x64() -> None:
    plain = found()
    params = jax.tree.map(lambda x: jnp.asarray(x, jnp.float32), start())
    sets = [{"x": part["x"].astype(np.float32), "label": part["label"].astype(np.int32)} for part in (RETAIN, FORGET)]
    with jax.enable_x64(True):
        result = assess(LOSS, params, *sets)
    np.testing.assert_allclose(result.retain_change, plain.retain_change, rtol=1e-4, atol=1e-6)
    np.testing.assert_allclose(result.cosines(), plain.cosines(), rtol=1e-4, atol=1e-6)


def parse(assessment: hamu_jax.Assessment) -> Any:
    """Reads JSON as strictly as its standard is."""

    def refuse(name: str) -> None:
        raise AssertionError(f"{name} is not JSON")

    return json.loads(assessment.to_json(), parse_constant=refuse)


def test_json() -> None:
    result = found()
    record = parse(result)
    assert record["verdict"] == result.verdict
    assert record["labels"] == ["hidden", "out"]
    assert record["retain_change"] == result.retain_change.tolist()
    assert record["hardness"]["kappa"] == result.hardness.kappa.tolist()
    assert record["hardness"]["unavoidable"] is bool(result.hardness.unavoidable)
    assert len(record["trade_off"]["improvement"]) == 101
    assert (record["hardest"], record["most_threatened"]) == (result.hardest(), result.most_threatened())


def test_table() -> None:
    result = found()
    blocks, hardest, threatened, alike = result.table().split("\n\n")
    lines = [[cell.strip() for cell in line.strip("|").split("|")] for line in blocks.splitlines()]
    assert lines[0] == ["block", "kappa", "angle", "regime", "retain change", "forget change"]
    assert [line[0] for line in lines[2:]] == ["hidden", "out", "total"]
    for line, kappa, regime in zip(lines[2:], result.hardness.kappa, result.hardness.regime, strict=False):
        assert float(line[1]) == pytest.approx(kappa, rel=1e-2)
        assert line[3] == hamu_jax.Regime(int(regime)).name.lower()
    assert hardest.splitlines()[2].startswith(f"| {result.hardest()[0]} |")
    assert threatened.splitlines()[2].startswith(f"| {result.most_threatened()[0]} |")
    assert len(threatened.splitlines()) == 2 + 10
    first, second, cosine = result.most_alike[0]
    assert alike.splitlines()[2].startswith(f"| {first}, {second} | {cosine:.3f}")
    for table in (blocks, hardest, threatened, alike):
        assert len({line.count("|") for line in table.splitlines()}) == 1


def inner(params: Any, batch: Any) -> jax.Array:
    """A loss whose gradients are the examples."""
    return batch @ params["w"]


def of(retain: Any, forget: Any, improvement: float = 0.5, **options: Any) -> hamu_jax.Assessment:
    """An assessment of gradients that are given."""
    arrays = (np.asarray(rows, np.float32) for rows in (retain, forget))
    return assess(inner, {"w": jnp.zeros(2)}, *arrays, improvement, **options)


EAST = [[1.0, 0.0], [1.0, 0.0]]


@pytest.mark.parametrize(
    ("degrees", "words"), [(170, "170 degrees: easy."), (95, "95 degrees: neutral."), (40, ": hard."), (5, ": very hard.")]
)
def test_words_for_angles(degrees: float, words: str) -> None:
    turn = np.radians(degrees)
    result = of(EAST, [[np.cos(turn), np.sin(turn)]])
    assert words in result.verdict
    assert ("must raise the retain loss" in result.verdict) == (degrees == 5)


def test_forgetting_what_is_kept() -> None:
    result = of(EAST, EAST)
    assert result.verdict == (
        "The gradients meet at 0 degrees: very hard. A required improvement of up to 0 costs the retain set nothing, and up "
        "to 1 is feasible; 0.5 is planned. The planned step must raise the retain loss: consider whether to take it at all. "
        "The planned step gives 0% of the forget examples nothing, and raises the loss of 100% of the retained ones. "
        "Up to a learning rate of 16 the step does about what it promises."
    )
    np.testing.assert_allclose(result.cosines(), 1.0, rtol=1e-6)


def test_who_is_left_out() -> None:
    """One forget example of four opposes the others, one has no gradient; one retain example of three pays."""
    result = of([[1, 0], [1, 0], [-0.5, 0]], [[-1, 0], [-1, 0], [0.5, 0], [0, 0]])
    assert "gives 50% of the forget examples nothing, and raises the loss of 33% of the retained ones." in result.verdict
    np.testing.assert_array_equal(result.cosines(), [-1, -1, 1, 0])
    assert (result.hardest(2), result.most_threatened(1)) == ([2, 3], [2])
    assert result.forget_with_forget[2] < 0


def test_more_than_is_feasible() -> None:
    words = of(EAST, [[0.0, 1.0]], 1.5).verdict
    assert "up to 1 is feasible; 1.5 is planned. 1 of 1 blocks can't meet their share: ask for less." in words


def test_variant_u() -> None:
    """The improvement is the retain loss's: the verdict doesn't compare it with the curve of variant q."""
    words = of(EAST, [[1.0, 0.1]], variant="u").verdict
    assert "is planned" not in words
    assert "The planned step must lower the forget loss: consider whether to take it at all." in words


@pytest.mark.parametrize("where", ["retain", "forget"])
def test_gradients_that_are_not_finite(where: str) -> None:
    broken = [[np.nan, 0.0], [1.0, 0.0]]
    result = of(broken, EAST) if where == "retain" else of(EAST, broken)
    assert result.verdict == "The gradients are not finite: nothing can be said, and nothing should be done."
    record = parse(result)
    assert record[f"{where}_loss"] is None
    assert record["hardness"]["finite"] == [False]
    assert "| w |" in result.table()
    np.testing.assert_array_equal(result.retain_change[1:], 0.0)  # no step is planned


def test_no_forget_gradient() -> None:
    result = of(EAST, [[0.0, 0.0]])
    assert result.verdict == "The forget loss has no gradient here: there is nothing that a step could forget."
    np.testing.assert_array_equal(result.cosines(), [0.0])
    parse(result)


def test_no_retain_gradient() -> None:
    result = of([[0.0, 0.0]], EAST)
    assert result.verdict.startswith("The retain loss has no gradient: without a fixed radius there is no room to move. ")
    assert "degrees" not in result.verdict
    np.testing.assert_array_equal(result.cosines(), [0.0, 0.0])
    assert "100% of the forget examples nothing, and raises the loss of 0%" in result.verdict
    parse(result)


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"improvement": -1.0}, "improvement: got -1.0, expected a number of at least 0"),
        ({"improvement": lambda step: 0.5}, "improvement: got a schedule, expected a number"),  # noqa: ARG005
        ({"radius": lambda step: 0.5}, "radius: got a schedule, expected a number"),  # noqa: ARG005
        ({"microbatch_size": 0}, "microbatch_size: got 0, expected a whole number of at least 1"),
        ({"variant": "x"}, "variant: got 'x'"),
        ({"blocks": "layers"}, "blocks: got 'layers'"),
        ({"retain": {"x": np.ones((0, 3)), "label": np.ones(0, int)}}, "retain: got 0 examples, expected at least 1"),
        (
            {"forget": {"x": np.ones((4, 3)), "label": np.ones(5, int)}},
            "forget: got 4 examples at 'x', expected 5 as at 'label'",
        ),
        ({"forget": {**FORGET, "label": FORGET["label"] + 1}}, "forget['label']: got label 3 at example"),
        ({"loss": lambda p, b: jnp.mean(LOSS(p, b))}, "loss: got a result of shape ()"),
    ],
)
def test_bad_input(changes: Any, message: str) -> None:
    arguments = {"loss": LOSS, "params": start(), "retain": RETAIN, "forget": FORGET, **changes}
    with pytest.raises(ValueError, match=re.escape(message)):
        assess(**arguments)


@pytest.mark.parametrize("curvature", [0.5, 4.0])
def test_how_long_a_step_may_be(curvature: float) -> None:
    """A retain loss `c w^2 / 2` at 1, and a forget loss that is linear: descent by `eta c` misses its promise by
    `eta^2 c^3 / 2` of `eta c^2 (1 + q)`, which is a half at `eta = (1 + q) / c`."""
    batch = np.ones((3, 1), np.float32)
    retain = lambda w, x: 0.5 * curvature * w[0] ** 2 + 0.0 * x[:, 0]  # noqa: E731
    forget = lambda w, x: w[1] * x[:, 0]  # noqa: E731
    result = assess(retain, jnp.array([1.0, 0.0]), batch, batch, 0.0, forget_loss=forget, blocks="global")
    assert result.learning_rate == 2.0 ** np.floor(np.log2(1.0 / curvature))
    flat = assess(retain, jnp.array([0.0, 0.0]), batch, batch, 0.0, forget_loss=retain, blocks="global")
    assert flat.learning_rate == 0.0
