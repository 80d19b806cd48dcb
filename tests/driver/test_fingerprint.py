"""A checkpoint belongs to one run: whatever decides it is compared, and what cannot be told never stands in the way."""

import functools
import json
import os
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import tiny_runs
from beartype import beartype
from flax import nnx
from jaxtyping import Float, jaxtyped
from tiny_runs import FORGET, RETAIN, assert_same, bits, examples, loss, numbers_of, run, start

import hamu_jax
from hamu_jax import Checkpoints, Evaluation, rules
from hamu_jax._driver import fingerprint_content, fingerprint_walk
from hamu_jax._driver.fingerprint import UNKNOWN, difference, of_arrays, of_value

EVALUATION = Evaluation({"retain": RETAIN}, every=4)
SETTINGS: dict[str, Any] = {"steps": 4, "evaluation": EVALUATION, "trust_region": hamu_jax.TrustRegion(0.5)}
OTHER = examples(7, 200)


def hamu(rate: float = 0.05, improvement: float = 0.5, **options: Any) -> Any:
    return hamu_jax.hamu(rate, improvement, **options)


def combined(rule: rules.Rule, **options: Any) -> Any:
    return optax.chain(hamu_jax.combine(rule, improvement=0.5), optax.sgd(0.05, **options))


def scheduled(end: float) -> Any:
    return hamu(improvement=optax.linear_schedule(0.5, end, 10))  # pyright: ignore[reportArgumentType]


def power(exponent: float) -> Callable[[Any, Any], Any]:
    return lambda params, batch: jnp.abs(batch["x"] @ params["w"] + params["b"] - batch["y"]) ** exponent


def other_formula(params: Any, batch: Any) -> Any:
    return (batch["x"] @ params["w"] - params["b"] - batch["y"]) ** 2


DIFFERENT: dict[str, tuple[dict[str, Any], str]] = {
    "forget set of equal size": ({"forget": OTHER}, "another forget set (forget['x'].content: got "),
    "one label": ({"forget": {**FORGET, "y": FORGET["y"] + (np.arange(200) == 7)}}, "another forget set (forget['y']"),
    "retain set of equal size": ({"retain": examples(8, 400)}, "another retain set (retain['x'].content"),
    "dtype of data": ({"forget": {**FORGET, "y": np.float16(FORGET["y"])}}, "['y']: got float32[200], expected float16[200]"),
    "starting parameters": ({"params": {**start(), "b": jnp.float32(0.2)}}, "another starting parameters (params['b'].content"),
    "dtype of parameters": ({"params": jax.tree.map(jnp.bfloat16, start())}, "['b']: got float32[], expected bfloat16[]"),
    "learning rate": ({"optimizer": hamu(0.06)}, "got -0.05, expected -0.06"),
    "improvement": ({"optimizer": hamu(improvement=0.6)}, "improvement: got 0.5, expected 0.6"),
    "schedule": ({"optimizer": scheduled(0.1)}, "another optimizer (optimizer.update"),
    "radius": ({"optimizer": hamu(radius=0.5)}, "radius: got None, expected 0.5"),
    "variant": ({"optimizer": hamu(variant="u")}, "guaranteed: got 'forget', expected 'retain'"),
    "blocks": ({"optimizer": hamu(blocks="global")}, "got 'leaf', expected 'global'"),
    "infeasible": ({"optimizer": hamu(infeasible="skip")}, "infeasible: got 'scale', expected 'skip'"),
    "distribution": ({"optimizer": hamu(distribution="uniform")}, "got 'grad_norm', expected 'uniform'"),
    "clip_norm": ({"optimizer": hamu(clip_norm=1.0)}, "clip_norm: got None, expected 1.0"),
    "level": ({"optimizer": hamu(until=hamu_jax.Level(9.0, 0.05))}, "another optimizer (optimizer.update"),
    "band of the level": ({"optimizer": hamu(until=hamu_jax.Level(9.0, 0.05, 0.1))}, "another optimizer (optimizer.update"),
    "keep": ({"keep": hamu_jax.KeepBest("retain/loss")}, "another keep (keep: got None, expected KeepBest)"),
    "rule": ({"optimizer": combined(rules.gdiff())}, "another optimizer (optimizer"),
    "momentum": ({"optimizer": combined(rules.hamu_q(), momentum=0.9)}, "another optimizer (optimizer"),
    "loss": ({"loss": other_formula}, "another loss (loss: got loss, expected other_formula)"),
    "forget loss": ({"forget_loss": power(2)}, "forget_loss (forget_loss: got loss, expected power.<locals>.<lambda>)"),
    "stopping": ({"stopping": hamu_jax.Stopping(unavoidable=3)}, "stopping (stopping.unavoidable: got None, expected 3)"),
    "evaluated data": ({"evaluation": Evaluation({"retain": OTHER}, every=4)}, "another evaluation (evaluation.splits["),
    "evaluated how often": ({"evaluation": Evaluation({"retain": RETAIN})}, "evaluation.every: got 4, expected 10)"),
    "trust": (
        {"trust_region": hamu_jax.TrustRegion(0.25)}, "(trust_region.start: got 0.5, expected 0.25)"),
    "no trust": ({"trust_region": None}, "another trust_region (trust_region: got TrustRegion, expected None)"),
    "microbatch": ({"microbatch_size": 2}, "another microbatch_size (microbatch_size: got None, expected 2)"),
    "measure_every": ({"measure_every": 2}, "another measure_every (measure_every: got 0, expected 2)"),
}  # fmt: skip


@pytest.fixture(scope="module")
def one_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The directory of a run of four steps."""
    directory = tmp_path_factory.mktemp("one_run")
    run(hamu(), **SETTINGS, checkpoints=Checkpoints(directory))
    return directory


@pytest.mark.parametrize("what", DIFFERENT)
@pytest.mark.parametrize("steps", [4, 6], ids=["finished", "longer"])
def test_another_run_is_refused_and_what_differs_is_named(what: str, steps: int, one_run: Path) -> None:
    options, message = DIFFERENT[what]
    with pytest.raises(ValueError, match=re.escape(message)) as error:
        run(**{"optimizer": hamu(), **SETTINGS, **options, "steps": steps, "checkpoints": Checkpoints(one_run)})
    assert str(error.value).startswith(f"checkpoints: {one_run} holds a run with another ")
    assert str(error.value).endswith("): use another directory, or the same settings")


def test_groups_are_part_of_it(tmp_path: Path) -> None:
    grouped = {**FORGET, "group": (np.arange(200) % 2).astype(np.int32)}
    options = {"forget": grouped, "steps": 2, "checkpoints": Checkpoints(tmp_path)}
    optimizer = hamu(forget_axis=0, num_requests=2)
    run(optimizer, **options, forget_groups=hamu_jax.Groups(numbers_of, 2))
    with pytest.raises(ValueError, match=re.escape("another forget_groups (forget_groups.of: got numbers_of, expected ")):
        run(optimizer, **options, forget_groups=hamu_jax.Groups(lambda batch: 1 - batch["group"], 2))


def test_a_list_of_batches_is_read_and_another_iterable_is_compared_by_shape(tmp_path: Path) -> None:
    batches = [examples(30 + i, 4) for i in range(3)]

    class Loader:
        def __init__(self, content: Any) -> None:
            self.content = content

        def __iter__(self) -> Any:
            return iter(self.content)

    run(steps=2, forget=batches, checkpoints=Checkpoints(tmp_path / "list"))
    with pytest.raises(ValueError, match=re.escape("another forget set (forget['2/x'].content: got")):
        run(steps=3, forget=[*batches[:2], examples(9, 4)], checkpoints=Checkpoints(tmp_path / "list"))

    run(steps=2, forget=Loader(batches), checkpoints=Checkpoints(tmp_path / "loader"))
    wider = [{**batch, "x": batch["x"].astype(np.float16)} for batch in batches]
    with pytest.raises(ValueError, match=re.escape("another forget batches (forget.batches: got [('x', 'float32', [3]),")):
        run(steps=3, forget=Loader(wider), checkpoints=Checkpoints(tmp_path / "loader"))
    longer = run(steps=3, forget=Loader(batches), checkpoints=Checkpoints(tmp_path / "loader"))
    assert_same(longer, run(steps=3, forget=batches))


def test_more_steps_and_the_same_settings_made_anew(one_run: Path) -> None:
    """Equal settings that are other objects, numpy and jax arrays alike, and another `steps` and `every`, are the same run."""
    again = {
        "params": jax.tree.map(np.asarray, start()),
        "retain": {name: jnp.array(leaf) for name, leaf in RETAIN.items()},
        "evaluation": hamu_jax.Evaluation({"retain": dict(RETAIN)}, every=4),
        "trust_region": hamu_jax.TrustRegion(0.5),
    }
    longer = run(hamu(), **SETTINGS | again | {"steps": 6}, checkpoints=Checkpoints(one_run, every=3))
    assert bits(longer.params) == bits(run(hamu(), **SETTINGS | {"steps": 6}).params)


def test_a_checkpoint_without_a_fingerprint(tmp_path: Path) -> None:
    run(steps=2, checkpoints=Checkpoints(tmp_path))
    record = next((tmp_path / "2" / "run").glob("metadata"))
    content = json.loads(record.read_text())
    del content["fingerprint"]
    record.write_text(json.dumps(content))
    with pytest.raises(ValueError, match="holds a run without a fingerprint, written by an earlier version of hamu_jax, exp"):
        run(steps=2, checkpoints=Checkpoints(tmp_path))


def test_byte_code_of_another_python_is_not_compared(tmp_path: Path) -> None:
    first = run(steps=2, checkpoints=Checkpoints(tmp_path))
    record = next((tmp_path / "2" / "run").glob("metadata"))
    content = json.loads(record.read_text())
    content["python"], content["fingerprint"]["loss"]["loss.code"] = "3.9", "another"
    record.write_text(json.dumps(content))
    assert_same(run(steps=2, checkpoints=Checkpoints(tmp_path)), first)


# ----------------------------------------------------------------------------------------------------- of functions


SCALE = 2.0


def helper(x: Any) -> Any:
    return SCALE * x


def uses_a_helper(params: Any, batch: Any) -> Any:
    return helper(batch["y"]) * params["b"]


class Weighted:
    """A callable object of a user's class, which counts its calls and keeps a cache."""

    def __init__(self, factor: float) -> None:
        self.factor, self.calls, self.cache = factor, 0, {}

    def __call__(self, params: Any, batch: Any) -> Any:
        self.calls += 1
        self.cache[self.calls] = self.factor
        return self.factor * loss(params, batch)


def counted() -> Callable[[Any, Any], Any]:
    """A loss that counts its calls in three ways."""
    calls, seen, cache = 0, [], {}

    def of(params: Any, batch: Any) -> Any:
        nonlocal calls
        calls += 1
        seen.append(calls)
        cache[calls] = seen
        return loss(params, batch)

    return of


def network() -> Callable[[Any, Any], Any]:
    graph, _, rest = nnx.split(
        nnx.Sequential(nnx.Linear(3, 4, rngs=nnx.Rngs(0)), nnx.BatchNorm(4, rngs=nnx.Rngs(1))), nnx.Param, ...
    )
    return lambda params, batch: nnx.merge(graph, params, rest)(batch["x"])


def teacher(value: float) -> Any:
    original = {"w": jnp.full(3, value)}
    return hamu_jax.objectives.kl(loss, lambda batch: batch["x"] @ original["w"])


@jaxtyped(typechecker=beartype)
def checked(params: Any, batch: dict[str, Float[Any, "n ..."]]) -> Float[Any, " n"]:
    return power(1.5)(params, batch)


FUNCTIONS: dict[str, Callable[[], Any]] = {
    "checked": lambda: checked,
    "function": lambda: loss,
    "closure": lambda: power(1.5),
    "jitted": lambda: jax.jit(power(1.5)),
    "partial": lambda: functools.partial(loss, extra={"b", "a", "c"}),
    "objective": lambda: hamu_jax.objectives.lowered(hamu_jax.objectives.npo(power(1.5), power(2.0), beta=0.2)),
    "teacher": lambda: teacher(1.0),
    "network": network,
    "object": lambda: Weighted(2.0),
    "method": lambda: Weighted(2.0).__call__,
    "globals": lambda: uses_a_helper,
    "adam": lambda: optax.chain(hamu_jax.transform(0.5, blocks=lambda path: str(path[0])), tiny_runs.adamw()),
    "schedule": lambda: scheduled(0.2),
    "frozen": lambda: optax.multi_transform({"a": optax.sgd(0.1), "b": optax.adam(0.1)}, {"w": "a", "b": "b"}),
}


def marks_of_functions() -> dict[str, dict[str, str]]:
    return {name: of_value(name, make()) for name, make in FUNCTIONS.items()}


def test_another_process_computes_the_same() -> None:
    """With another order of sets, other addresses, and the module under another name."""
    script = "import json, test_fingerprint as t; print(json.dumps(t.marks_of_functions()))"
    path = [str(Path(__file__).parent), str(Path(tiny_runs.__file__).parent), *sys.path]
    told = subprocess.run(
        [sys.executable, "-c", f"import sys; sys.path[:0] = {path!r}; {script}"],
        capture_output=True, text=True, check=True, env={**os.environ, "PYTHONHASHSEED": "17"},
    )  # fmt: skip
    assert json.loads(told.stdout.splitlines()[-1]) == marks_of_functions()
    assert not re.search(r"0x[0-9a-f]{6}", told.stdout)  # no address in any token


@pytest.mark.parametrize("pair", [
    (lambda: power(1.5), lambda: power(1.6)),
    (lambda: jax.jit(power(1.5)), lambda: jax.jit(power(1.6))),
    (lambda: teacher(1.0), lambda: teacher(2.0)),
    (lambda: Weighted(2.0), lambda: Weighted(3.0)),
    (lambda: hamu_jax.objectives.npo(loss, loss, beta=0.1), lambda: hamu_jax.objectives.npo(loss, loss, beta=0.2)),
    (lambda: hamu_jax.objectives.npo(loss, loss), lambda: hamu_jax.objectives.simnpo(loss)),
    (lambda: functools.partial(loss, a=1), lambda: functools.partial(loss, a=2)),
    (lambda: optax.adam(0.1), lambda: optax.adam(0.1, b1=0.8)),
    (lambda: hamu(blocks=lambda path: str(path[0])), lambda: hamu(blocks=lambda path: str(path[-1]))),
])  # fmt: skip
def test_functions_that_differ(pair: Any) -> None:
    one, other = (of_value("it", make()) for make in pair)
    assert difference(one, other) is not None


def test_a_helper_or_a_constant_of_the_module_that_changes(monkeypatch: pytest.MonkeyPatch) -> None:
    before = of_value("it", uses_a_helper)
    monkeypatch.setattr(sys.modules[__name__], "SCALE", 3.0)
    assert difference(before, of_value("it", uses_a_helper)) == ("it.helper.SCALE", "2.0", "3.0")


@pytest.mark.parametrize("make", [counted, lambda: Weighted(2.0)])
def test_counters_logs_and_caches_are_not_settings(make: Any) -> None:
    function = make()
    before = of_value("it", function)
    function(start(), FORGET)
    assert difference(before, of_value("it", function)) is None


def test_circles_and_strange_objects_end() -> None:
    circle: dict[str, Any] = {}
    circle["self"] = circle
    marks = of_value("it", (circle, object(), (x for x in ()), sys.stdout))
    assert {marks["it[1]"], marks["it[2]"], marks["it[3]"]} == {UNKNOWN}
    assert difference(marks, of_value("it", (circle, 3, 4, {"any": 5}))) is None
    assert len(of_value("it", [[i] for i in range(10**4)])) <= fingerprint_walk.MOST + 2
    assert difference(of_value("it", list(range(10**4))), of_value("it", [*range(9999), 0])) is not None


def test_arrays_are_read_in_pieces(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A memory map and an array-like of another library, without ever being read whole; the same as the array in memory."""
    monkeypatch.setattr(fingerprint_content, "CHUNK", 100)
    array = np.arange(300, dtype=np.float32).reshape(100, 3)
    np.save(tmp_path / "x.npy", array)

    class OnDisk:
        shape, dtype, ndim = array.shape, array.dtype, 2

        def __getitem__(self, rows: slice) -> np.ndarray:
            assert len(range(*rows.indices(100))) <= 10
            return array[rows]

    expected = of_arrays("it", {"x": array})
    assert of_arrays("it", {"x": np.load(tmp_path / "x.npy", mmap_mode="r")}) == expected
    assert of_arrays("it", {"x": OnDisk()})["it['x'].content"] == expected["it['x'].content"]
    assert of_arrays("it", {"x": np.asfortranarray(array)}) == expected
    for other in (array[::-1], array.T.reshape(100, 3), -array, np.arange(300, dtype=np.int32).reshape(100, 3)):
        assert difference(of_arrays("it", {"x": other}), expected) is not None
