"""Own files of a few questions, held-out questions or none, texts that do not fit the model, runs without numbers."""

import dataclasses
import json
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from experiments.data import fictional
from experiments.data.questions import Question
from experiments.language import __main__ as program
from experiments.language import base, commands, models, question_splits, report, runs, task
from experiments.language.config import Evaluation, ModelSettings, Problem, Training, Unlearning
from experiments.runs import command
from experiments.runs.config import replaced

pytestmark = pytest.mark.usefixtures("as_users_promote", "unoptimised")


def write(path: Path, rows: range) -> str:
    lines = [json.dumps({"question": f"What is {row}?", "answer": f"It is {row}."}) for row in rows]
    path.write_text("\n".join(lines), encoding="utf-8")
    return str(path)


def of_files(directory: Path, retain: int, forget: int, **changed: Any) -> Problem:
    kept, gone = write(directory / "retain.jsonl", range(retain)), write(directory / "forget.jsonl", range(50, 50 + forget))
    return Problem(model="tiny", data=(kept, gone), **changed)


def tiny_task(asked: tuple[Question, ...] = (), **sizes: Any) -> task.Task:
    """The tiny model with other sizes, and questions to retain; its weights are not looked at."""
    tokenizer = base.tiny_tokenizer()
    config = dataclasses.replace(base.tiny_config(tokenizer), **sizes)
    parts = question_splits.Parts(asked, fictional.load()[:1], (), (), (), ())
    model: Any = base.Base(base.llama.Network(config), None, tokenizer)  # pyright: ignore[reportArgumentType]
    return task.Task(Problem(model="tiny"), parts, model)


@pytest.mark.parametrize("forget", [1, 2, 3, 4])
def test_so_few_rows_that_none_is_held_out(tmp_path: Path, forget: int) -> None:
    with pytest.warns(
        UserWarning, match=rf"held_out: got 0\.2, which holds out no question to forget of {forget}: .* on the forget set"
    ):
        found = question_splits.read_splits(of_files(tmp_path, 10, forget))
    assert (len(found.retain), len(found.validation_retain)) == (8, 2)
    assert (len(found.forget), len(found.validation_forget)) == (forget, 0)
    assert found.watched(50) == {"validation retain": found.validation_retain, "validation forget": found.forget}
    assert set(found.evaluated(50)) == {"retain", "forget", "validation retain"}
    assert len(found.trained_on("full")) == 10 + forget
    number, count = question_splits.requests(found.forget, 10)
    assert count == forget  # no request is empty
    np.testing.assert_array_equal(number, np.arange(forget))


def test_nothing_is_held_out_on_request(tmp_path: Path) -> None:
    found = question_splits.read_splits(of_files(tmp_path, 10, 5, held_out=0.0))
    assert (len(found.retain), len(found.forget)) == (10, 5)
    assert found.validation_retain == found.validation_forget == ()
    everyone = question_splits.read_splits(Problem(held_out=0.0))
    assert (len(everyone.retain), len(everyone.forget)) == (40, 10)
    with pytest.raises(ValueError, match=r"held_out: got 0\.1, which holds out no question to retain, expected more, or 0: "):
        question_splits.read_splits(Problem(held_out=0.1))


def test_unseen_questions_that_are_trained_on_are_said(tmp_path: Path) -> None:
    config = of_files(tmp_path, 10, 5)
    unseen = write(tmp_path / "unseen.jsonl", range(8, 12))
    with pytest.warns(
        UserWarning, match=r"2 of 4 rows of the unseen file .* are in the retain or the forget file too \(rows 0, 1,"
    ):
        question_splits.read_splits(dataclasses.replace(config, data=(*config.data, unseen)))


def test_texts_that_the_model_has_no_positions_for() -> None:
    asked = (Question(0, "Why?", "So."), Question(7, "Why?", "word " * 60))
    made = tiny_task(asked, positions=64)
    with pytest.raises(
        ValueError, match=r"max_length: got None for row 7, of \d+ tokens, expected at most 64, the model's max_pos"
    ):
        made.check()
    cut = dataclasses.replace(made, problem=dataclasses.replace(made.problem, max_length=64))
    with pytest.warns(UserWarning, match=r"1 of 4 answers were cut off at 64 tokens \(rows 7\)"):
        cut.tokens([*asked, *asked[:1], *asked[:1]])
    made = tiny_task(asked[:1], positions=64)
    with pytest.raises(
        ValueError, match=r"max_new_tokens: got 64 after a prompt of (\d+) tokens, expected at most \d+: .* 64 positions"
    ):
        made.check()
    dataclasses.replace(made, evaluation=Evaluation(max_new_tokens=8)).check()


def test_tokens_that_the_model_has_no_embedding_of() -> None:
    made = tiny_task((Question(3, "Why?", "So."),), vocabulary=100)
    with pytest.raises(
        ValueError, match=r"model: got the token \d+ in row \d+, expected tokens below 100, the model's vocab_size"
    ):
        made.check()
    tokenizer = dataclasses.replace(base.tiny_tokenizer(), pad=900)
    assert base.fitting(tokenizer, 600).pad == tokenizer.end
    assert base.fitting(tokenizer, 901).pad == 900
    with pytest.raises(ValueError, match="model: got 700 as the token that ends answers, expected one below vocab_size, 600"):
        base.fitting(dataclasses.replace(tokenizer, end=700), 600)


def test_a_system_prompt_makes_another_model() -> None:
    made = tiny_task()
    named = dataclasses.replace(made, problem=dataclasses.replace(made.problem, system_prompt="Be kind."))
    assert models.model_directory(made, "full") != models.model_directory(named, "full")
    tokenizer = base.tiny_tokenizer("Be kind.")
    assert tokenizer.render([{"role": "user", "content": "Why?"}], prompt=True) == "Be kind.\n\nQuestion: Why?\nAnswer:"
    with pytest.raises(ValueError, match=r"date_string: got '1 May', which the model's chat template leaves out"):
        base.tiny_tokenizer(date_string="1 May")


@pytest.mark.parametrize("name", ["finetune", "retrain", "unlearn", "evaluate", "report"])
def test_all_commands_take_the_same_options(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """As the documentation has it."""
    called: list[Any] = []
    monkeypatch.setattr(command, "run", lambda _, settings: called.append(settings))
    options = ["--model", "tiny", "--authors", "4", "--method", "hamu-q", "--steps", "2", "--training.epochs", "2"]
    monkeypatch.setattr("sys.argv", ["language", name, *options])
    command.main("language", program.__doc__, program.COMMANDS)
    assert (called[0].problem.training.epochs, called[0].method.steps) == (2, 2)


def test_training_says_which_options_it_does_not_read() -> None:
    settings = replaced(Unlearning(), learning_rate=0.1, steps=2, samples=1, training=Training(epochs=3))
    text = commands._unread(settings)
    assert text == "\nTraining does not read --learning-rate, --steps, --samples; its own options begin with --training\n"
    assert commands._unread(Unlearning()) == commands._unread(ModelSettings()) == ""


def test_a_run_without_numbers_fails(tmp_path: Path) -> None:
    record = {"status": "completed", "steps": 3, "reason": "all", "measured": {"validation retain/loss": 1.0}}
    runs.check_finite(record, tmp_path)
    for changed in ({"status": "nonfinite"}, {"measured": {"validation retain/loss": None}}):
        with pytest.raises(
            RuntimeError, match=r"ended after 3 steps with losses that are not finite \(all\): its adapter is not"
        ):
            runs.check_finite(record | changed, tmp_path)


def test_an_adapter_that_is_not_finite_is_not_stored(tmp_path: Path) -> None:
    made = task.build_task(ModelSettings(out=tmp_path, problem=Problem(model="tiny")))
    broken: Any = jax.tree.map(lambda leaf: leaf.at[0].set(jnp.nan), made.base.adapter(0))
    with pytest.raises(ValueError, match=r"adapter: got numbers that are not finite, .* not stored in .*run"):
        models.save_adapter(made, tmp_path / "run", broken)
    assert not (tmp_path / "run").exists()


def test_a_conclusion_without_held_out_questions() -> None:
    numbers = {"forget/probability": 0.5, "retain/probability": 0.75}
    text = report.conclude(dict.fromkeys(("full", "retrained", "unlearned"), numbers), {"steps": 2, "reason": "all were taken"})
    assert "Answers to other questions" not in text
    assert "The run ended after 2 steps" in text


@pytest.mark.slow
def test_one_question_is_forgotten(tmp_path: Path) -> None:
    """From a file of one row; and a run that overflows stores nothing."""
    training = Training(epochs=15, batch_size=3, learning_rate=1e-2, checkpoints=1)
    settings = replaced(
        Unlearning(dataclasses.replace(of_files(tmp_path, 3, 1), training=training), out=tmp_path / "out"),
        **{"steps": 4, "batch_size": 4, "microbatch_size": None, "evaluations": 1, "learning_rate": 0.3},
        **{"questions": 4, "max_new_tokens": 4, "evaluation_batch": 4, "buckets": 1},
    )
    with pytest.warns(UserWarning, match=r"held_out: got 0\.2, which holds out no question"):
        commands.train(settings, "full")
    commands.train(settings, "retrained")
    commands.unlearn(settings)
    rows = runs.all_measured(settings)
    assert rows["unlearned"]["forget/probability"] < rows["full"]["forget/probability"]
    assert "validation forget/probability" not in rows["full"]
    made = task.build_task(settings)
    assert set(report._watched(made)) == {f"tokens of the set itself, to {name}" for name in ("retain", "forget")}
    broken = replaced(settings, learning_rate=1e30)
    with pytest.raises(RuntimeError, match="with losses that are not finite"):
        commands.unlearn(broken)
    assert (runs.directory(broken) / "run.json").is_file()
    assert not (runs.directory(broken) / models.ADAPTER).exists()
    with pytest.raises(RuntimeError, match="with losses that are not finite"):
        commands.evaluate(broken)
