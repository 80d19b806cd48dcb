"""The experiments on language models, with a random model of two layers: every command, every method, the hard case."""

import dataclasses
import json
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import hamu_jax
from experiments import methods
from experiments.data import fictional
from experiments.language import base, commands, get_smollm2, measures, models, question_splits, report, runs, task
from experiments.language.comparison import QUESTIONS, sweep_questions
from experiments.language.config import ModelSettings, Problem, Sweep, Training, Unlearning
from experiments.models import peft_format
from experiments.runs.config import replaced
from hamu_jax import metrics, objectives

pytestmark = pytest.mark.usefixtures("as_users_promote", "unoptimised")

TRAINING = Training(epochs=20, batch_size=10, learning_rate=1e-2, checkpoints=2, seed=0)
DATA: dict[str, Any] = {"model": "tiny", "authors": 4, "questions": 4, "max_new_tokens": 4, "evaluation_batch": 8, "buckets": 1}
SMALL: dict[str, Any] = {**DATA, "training": TRAINING}
RUN: dict[str, Any] = {**SMALL, "steps": 2, "batch_size": 4, "microbatch_size": None, "evaluations": 1, "learning_rate": 0.1}
TEACHERS = ("kl", "scrub", "npo", "random-label", "salun", "hamu-projected", "gru")


@pytest.fixture(scope="module")
def out(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory that all tests share, so that models are trained once."""
    return tmp_path_factory.mktemp("language")


def unlearning(out: Path, **changed: Any) -> Unlearning:
    return replaced(Unlearning(), out=out, **{**RUN, **changed})


@pytest.fixture(scope="module")
def made(out: Path) -> task.Task:
    """Questions and the tiny model, with a full and a retrained model that were not trained for long."""
    found = task.build_task(replaced(ModelSettings(), out=out, **SMALL))
    for kind in ("full", "retrained"):
        models.train_if_missing(found, kind)
    return found


def texts(some: question_splits.Questions) -> set[str | None]:
    return {one.question for one in some}


def test_parts_are_disjoint() -> None:
    found = question_splits.read_splits(Problem(model="tiny"))
    everyone = [found.retain, found.forget, found.validation_retain, found.validation_forget, found.unseen]
    assert sum(len(part) for part in everyone) == len(set().union(*map(texts, everyone))) == 60
    assert [len(part) for part in everyone] == [32, 8, 8, 2, 10]
    assert texts(found.trained_on("full")) == set().union(*map(texts, everyone[:4]))
    assert texts(found.trained_on("retrained")) == texts(found.retain) | texts(found.validation_retain)
    persons = [{one.person for one in part} for part in everyone]
    assert persons[1] == persons[3]
    assert not (persons[0] | persons[4]) & persons[1]


@pytest.mark.parametrize("hard", ["semantic", "exact"])
def test_the_hard_case_retains_duplicates(hard: Any) -> None:
    """Of the forgotten questions, and of those held out, in other words or in the same: and both models learn them."""
    easy, found = (question_splits.read_splits(Problem(hard=kind)) for kind in ("none", hard))
    assert [one.row for one in found.duplicates] == [one.row for one in found.forget]
    assert [one.row for one in found.validation_duplicates] == [one.row for one in found.validation_forget]
    assert (texts(found.duplicates) == texts(found.forget)) == (hard == "exact")
    assert found.retain == easy.retain
    for kind in ("full", "retrained"):
        assert found.trained_on(kind) == (*easy.trained_on(kind), *found.duplicates, *found.validation_duplicates)
    assert found.sha256 != easy.sha256
    assert "duplicates" in found.evaluated(3)


def test_a_request_is_a_person_where_that_is_known() -> None:
    forget = question_splits.read_splits(Problem()).forget
    number, count = question_splits.requests(forget, 10)
    assert count == 2
    assert [forget[i].person == forget[0].person for i in range(8)] == (number == 0).tolist()
    unknown = tuple(one._replace(person=None) for one in forget)
    np.testing.assert_array_equal(question_splits.requests(unknown, 3)[0], [0, 1, 2, 0, 1, 2, 0, 1])


def test_files_and_their_held_out_questions(tmp_path: Path) -> None:
    for name, rows in (("retain", range(10)), ("forget", range(10, 15)), ("unseen", range(15, 18))):
        lines = [json.dumps({"question": f"What is {row}?", "answer": f"It is {row}."}) for row in rows]
        (tmp_path / f"{name}.jsonl").write_text("\n".join(lines), encoding="utf-8")
    files = tuple(str(tmp_path / f"{name}.jsonl") for name in ("retain", "forget", "unseen"))
    found = question_splits.read_splits(Problem(data=files))
    assert [one.row for one in found.validation_retain] == [8, 9]
    assert [one.row for one in found.validation_forget] == [4]
    assert len(found.unseen) == 3
    assert question_splits.read_splits(Problem(data=files[:2])).unseen == ()
    with pytest.raises(ValueError, match=r"kind: got 'semantic', of which this data has none"):
        question_splits.read_splits(Problem(data=files, hard="semantic"))


@pytest.mark.parametrize(
    ("changed", "error", "message"),
    [
        ({"data": ("tofu",)}, ValueError, r"data_dir: got None, expected the directory of tofu"),
        ({"data": ("tofu",), "data_dir": Path("none")}, FileNotFoundError, r"data_dir: got none, which holds no directory"),
        ({"data": ("tofi",)}, ValueError, r"data: got tofi, expected one of fictional, tofu, waterdrum, or two or three files"),
        ({"data": ("a.jsonl", "b.jsonl")}, FileNotFoundError, r"path: got a.jsonl, expected a file of JSON lines"),
        ({"data": ("fictional", "more")}, ValueError, r"data: got fictional more, expected fictional alone"),
        ({"authors": 11}, ValueError, r"authors: got 11, expected a number from 2 to 10, without those unseen"),
        ({"forgotten": 10}, ValueError, r"forgotten: got 10, expected a number from 1 to 9, fewer than the authors"),
        ({"unseen": 11}, ValueError, r"unseen: got 11, expected a number from 0 to 10"),
        ({"held_out": 0.1}, ValueError, r"held_out: got 0.1, which holds out no question to retain, expected more"),
        ({"held_out": 1.0}, ValueError, r"held_out: got 1.0, expected a number of at least 0 and below 1"),
    ],
)
def test_what_is_asked_of_data_is_checked(changed: dict[str, Any], error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        question_splits.read_splits(Problem(**{k: v for k, v in changed.items() if k != "data_dir"}), changed.get("data_dir"))


def test_without_a_model_the_error_says_how_to_get_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(get_smollm2, "DIRECTORY", tmp_path / "none")
    with pytest.raises(
        FileNotFoundError, match=r"model: .*none is not there; python -m experiments.language get-smollm2 makes it"
    ):
        base.load(Problem())
    with pytest.raises(FileNotFoundError, match=r"model: got nowhere, expected a directory, a .gguf file, or a hub id"):
        base.load(Problem(model="nowhere"))


def test_the_tiny_tokenizer_gives_texts_back() -> None:
    tokenizer = base.tiny_tokenizer()
    for one in (*fictional.load()[:3], fictional.load()[0]._replace(answer="Ünïcødé, 漢字")):
        assert tokenizer.decode(tokenizer.encode(one.answer)) == one.answer
    assert base.tiny_tokenizer().encode("Where was she born?") == tokenizer.encode("Where was she born?")


def test_numbers_are_those_of_the_library(made: task.Task) -> None:
    """Computed at once, bucket by bucket and filled up, as metric by metric on one array."""
    adapter, asked = models.load(made, "full"), made.parts.retain[:5]
    found, data = made.numbers(adapter, asked), made.arrays(asked)
    expected = {
        "loss": made.loss,
        "accuracy": metrics.accuracy(made.apply),
        "min-k": metrics.min_k(made.apply, fraction=0.1),
        "extraction": metrics.extraction_strength(made.apply),
    }
    for name, metric in expected.items():
        np.testing.assert_allclose(found[name], metrics.values(metric, adapter, data), rtol=1e-4, atol=1e-5, err_msg=name)
    np.testing.assert_array_equal(found["tokens"], (data["label"] >= 0).sum(axis=1))
    whole = hamu_jax.evaluate(made.loss, adapter, {"x": data}, {"accuracy": metrics.accuracy(made.apply)})
    means = measures.means("x", found)
    for name in ("x/loss", "x/accuracy"):
        assert means[name] == pytest.approx(whole[name], rel=1e-4)


def test_training_learns(made: task.Task) -> None:
    """More than the adapter that changes nothing; and the training loss is that which is evaluated, but for dropout."""
    asked, start = made.evaluated["retain"], made.base.adapter(0)
    before, after = (made.numbers(adapter, asked)["loss"] for adapter in (start, models.load(made, "full")))
    assert np.mean(after) < np.mean(before)


def test_models_are_kept_for_whoever_has_their_questions(made: task.Task) -> None:
    """The full model is the same for another division of its questions; other training makes another model."""
    problem = dataclasses.replace(made.problem, held_out=0.4)
    evaluation = dataclasses.replace(made.evaluation, questions=3)
    other = dataclasses.replace(made, problem=problem, evaluation=evaluation, parts=question_splits.read_splits(problem))
    assert models.model_directory(other, "full") == models.model_directory(made, "full")
    config, _ = peft_format.load(models.model_directory(made, "full") / "adapter")
    assert (config.rank, config.alpha, config.dropout) == (8, 16.0, 0.05)
    again = dataclasses.replace(made, problem=dataclasses.replace(made.problem, training=Training()))
    with pytest.raises(FileNotFoundError, match=r"no retrained model, expected one: python -m experiments.language retrain"):
        models.load(again, "retrained")


@pytest.mark.slow
def test_every_command(out: Path, made: task.Task) -> None:
    """Each says what is asked of it; what is there is read, not made again."""
    config = unlearning(out, measure_every=1, assessed=4, samples=1)
    for kind in ("full", "retrained"):
        assert "| validation forget/loss |" in commands.train(config, kind)
    said = commands.unlearn(config)
    assert "completed after 2 steps" in said
    place = runs.directory(config)
    record = json.loads((place / "run.json").read_text(encoding="utf-8"))
    assert record["split"] == made.parts.sha256
    assert len((place / "history.jsonl").read_text(encoding="utf-8").splitlines()) == 3
    assert peft_format.load(place / "adapter")[1].keys() == set("qkvo") | {"gate", "up", "down"}
    shown = commands.evaluate(config)
    wanted = ("retain/rouge", "forget/truth ratio", "forget/extraction", "forget unseen AUC, min-k++", "model utility")
    assert [name for name in wanted if f"| {name} |" not in shown] == []
    last = next(line for line in shown.splitlines() if line.startswith("| forget quality |"))
    assert last.split(" | ")[2] == "1.0000"  # of the retrained model, beside itself
    files = {path: path.stat().st_mtime_ns for path in out.glob("*/*/*.json") if path.name != "run.json"}
    assert "## Conclusion" in report.write_report(config).read_text(encoding="utf-8")
    assert all(path.stat().st_mtime_ns == stamp for path, stamp in files.items())
    written = {path.name for path in (place / "report").iterdir()}
    assert {"report.md", "samples.md", "assessment.md", "assessment.json", "assessment_examples.png"} <= written
    assessed = json.loads((place / "report" / "assessment.json").read_text(encoding="utf-8"))
    assert assessed["rows"]["forget"] == [one.row for one in made.parts.forget]
    question = made.parts.forget[0].question or ""
    assert question in (place / "report" / "assessment.md").read_text(encoding="utf-8")
    assert question in (place / "report" / "samples.md").read_text(encoding="utf-8")
    assert question not in json.dumps(assessed)
    assert question not in (place / "report" / "report.json").read_text(encoding="utf-8")


@pytest.mark.parametrize(
    ("before", "after", "said"),
    [
        (0.001, 0.3, "0.3, 0.001 before: no difference from the retrained model's truth ratios was found."),
        (0.087, 0.087, "nor was one before: too few questions to tell."),
        (0.001, 0.01, "the truth ratios differ from the retrained model's."),
    ],
)
def test_a_test_that_could_not_fail_is_no_evidence(before: float, after: float, said: str) -> None:
    """Forget quality that is as good before unlearning says nothing of it, and the report says so."""
    numbers = dict.fromkeys(("forget/probability", "validation forget/probability", "retain/probability"), 0.25)
    rows: dict[str, Any] = {
        "full": {**numbers, "forget quality": before},
        "retrained": {**numbers, "forget quality": 1.0},
        "unlearned": {**numbers, "forget quality": after, "validation forget/probability": 0.75},
    }
    text = report.conclude(rows, {"steps": 2, "reason": "all were taken"})
    assert said in text
    assert "this run did not see, have probability 0.750 (0.250 before" in text


def test_the_model_is_read_once(out: Path) -> None:
    """However it is asked for: a sweep of 27 runs once read it 54 times, and held all of them."""
    assert (
        task.build_task(unlearning(out), None)
        is task.build_task(unlearning(out, method="ga"))
        is task.build_task(unlearning(out), mesh=None)
    )


@pytest.fixture(scope="module")
def subject(out: Path, made: task.Task) -> methods.Subject:  # noqa: ARG001  (the models that it trained)
    return runs.load_scenario(unlearning(out)).subject


def test_the_original_model_is_its_own_teacher(subject: methods.Subject) -> None:
    """Where nothing has changed KL is 0, and NPO's ratio is 1."""
    divergence = objectives.kl(subject.loss.apply, subject.teacher)
    np.testing.assert_allclose(divergence(subject.params, subject.forget), 0.0, atol=1e-5)
    npo = objectives.npo(methods.whole_loss(subject.loss), subject.original_loss)
    np.testing.assert_allclose(npo(subject.params, subject.forget), 20 * np.log(2), rtol=1e-3)
    label, random = subject.forget["label"], subject.forget["random"]
    assert np.all((random >= 0) == (label >= 0))
    assert np.all(random[label >= 0] != label[label >= 0])


@pytest.mark.slow
@pytest.mark.parametrize("name", TEACHERS)
def test_methods_forget(out: Path, subject: methods.Subject, name: str) -> None:
    """A step of the methods that ask for more than gradients of the loss, in the right direction."""
    retain = {key: value[:4] for key, value in runs.load_scenario(unlearning(out)).retain.items()}
    built = methods.build_method(methods.METHODS[name], subject, learning_rate=1e-3, improvement=0.3)
    wanted = {"steps": 1, "batch_size": (4, 8), "progress": False, **built.options}
    result = hamu_jax.unlearn(built.loss, subject.params, retain, subject.forget, built.optimizer, **wanted)
    assert (result.steps, result.status) == (1, "completed")
    update = jax.tree.map(lambda new, old: new - old, result.params, subject.params)
    loss, data = (subject.loss, retain) if name == "scrub" else (built.options["forget_loss"], subject.forget)
    change = jnp.sum(hamu_jax.directional(loss, subject.params, data, update) * loss.weights(data))
    assert (float(change) < 0) == (name == "scrub")
    if name == "hamu-projected":
        assert subject.groups.count == 2


@pytest.mark.slow
def test_all_methods_are_chosen_on_held_out_questions(out: Path, made: task.Task, capsys: pytest.CaptureFixture[str]) -> None:
    """And everything is measured of what was chosen alone."""
    grid = {"learning_rates": (1e-4, 0.5), "improvements": (0.3,), "weights": (0.5,), "extensions": 0}
    few = {"methods": ("ga", "hamu-q"), **grid}
    config = replaced(Sweep(), out=out, seeds=(3,), **{**RUN, **few})
    path = sweep_questions(config, "baselines")
    said = capsys.readouterr().err
    assert "4 of 4: hamu-q, learning rate 0.5, improvement 0.3, seeds 0 and 3" in said
    assert "1 of 2: measuring ga, learning rate" in said
    assert path.parent.name == "baselines-fictional"
    rows = json.loads(path.with_suffix(".json").read_text(encoding="utf-8"))["methods"]
    assert list(rows) == ["full", "retrained", "ga", "hamu-q"]
    wanted = models.validation(made, "retrained")
    gaps = {}
    runs_of = {"method": "ga", "improvement": 0.0, "seed": 3}
    for rate in few["learning_rates"]:
        record = runs.run_record(unlearning(out, learning_rate=rate, **runs_of))
        parts_of = ("validation retain/probability", "validation forget/probability")
        gaps[rate] = np.mean([abs(record["measured"][name] - wanted[name]) for name in parts_of])
    assert rows["ga"]["setting"]["learning_rate"] == min(gaps, key=lambda rate: gaps[rate])
    assert rows["ga"]["validation gap"] == pytest.approx(min(gaps.values()))
    chosen = runs.all_measured(unlearning(out, learning_rate=rows["ga"]["setting"]["learning_rate"], **runs_of))
    assert rows["ga"]["numbers"]["forget/rouge"][0] == pytest.approx(chosen["unlearned"]["forget/rouge"])
    both = [abs(chosen["unlearned"][name] - chosen["retrained"][name]) for name in ("retain/probability", "forget/probability")]
    assert rows["ga"]["numbers"]["gap"][0] == pytest.approx(np.mean(both))
    assert len(list(out.glob("runs/ga-*seed3-*"))) == 2
    assert len(list(out.glob("runs/ga-*seed3-*/measured-*.json"))) == 1
    assert path.with_suffix(".png").read_bytes().startswith(b"\x89PNG")


@pytest.mark.slow
@pytest.mark.parametrize("name", ["hard", "constraint", "timing", "equal-forgetting"])
def test_sweeps(out: Path, made: task.Task, name: str) -> None:  # noqa: ARG001  (the models that it trained)
    methods_of = ("ft", "hamu-q") if name in ("timing", "equal-forgetting") else ("hamu-q",)
    settings = replaced(Sweep(), out=out, smoke=True, **{**RUN, "methods": methods_of})
    path = sweep_questions(settings, name)
    assert path.parent.name == (name if name == "hard" else f"{name}-fictional")
    record = json.loads(path.with_suffix(".json").read_text(encoding="utf-8"))
    if name in QUESTIONS.axes:
        values = QUESTIONS.axes[name].values
        assert [point["value"] for point in record["points"]] == [values[0], values[-1]]
        assert all(point["numbers"]["gap"] is not None for point in record["points"])
    assert path.with_suffix(".png").read_bytes().startswith(b"\x89PNG")
