"""Questions from files: TOFU, WaterDrum's layout, own files, and the twelve invented persons."""

import functools
import json
from pathlib import Path

import numpy as np
import pytest
from shared_data import shared_data

from experiments.data import fictional, questions, tofu, waterdrum

WRONG = "\n".join(map(json.dumps, [{"question": "Why?", "answer": "So."}] * 2)) + "\n"


@functools.cache
def benchmark() -> tofu.Tofu:
    return tofu.load(shared_data("tofu"))


def test_the_published_numbers_of_rows() -> None:
    assert [len(part) for part in benchmark()] == [4000, 100, 117]
    assert len(set(benchmark().questions)) == 4000
    for name, forgotten in (("forget01", 40), ("forget05", 200), ("forget10", 400)):
        parts = benchmark().sets(tofu.split(name))
        assert [len(part) for part in parts] == [4000 - forgotten, *[forgotten] * 3]


@pytest.mark.parametrize("name", ["forget01", "forget05", "forget10", "retain90", "forget01_perturbed", "forget05_perturbed"])
def test_the_other_files_are_rows_of_these(name: str) -> None:
    published = questions.read(shared_data("tofu") / f"{name}.jsonl")
    parts = tofu.split("forget10" if name == "retain90" else name.removesuffix("_perturbed"))
    rows = parts.retain if name == "retain90" else parts.forget
    bare = not name.endswith("_perturbed")
    cleared = {"paraphrased_question": None, "paraphrased_answer": None, "perturbed_answers": ()} if bare else {}
    assert [one._replace(row=0) for one in published] == [benchmark().questions[r]._replace(row=0, **cleared) for r in rows]


def test_rows_name_themselves_and_duplicates_are_of_the_forget_set() -> None:
    parts = benchmark().sets(tofu.by_author(20, 2))
    assert [one.row for one in (*parts.retain, *parts.forget)] == list(range(400))
    for found in (parts.semantic_duplicates, parts.exact_duplicates):
        assert [one.row for one in found] == [one.row for one in parts.forget]
    assert parts.exact_duplicates == parts.forget
    assert all(new.answer == old.paraphrased_answer for new, old in zip(parts.semantic_duplicates, parts.forget, strict=True))
    assert parts.hard().retain == (*parts.retain, *parts.semantic_duplicates)
    assert parts.hard("exact").retain == (*parts.retain, *parts.forget)


def test_a_middle_author_has_no_paraphrases() -> None:
    parts = benchmark().sets(tofu.by_author(30, 2))
    assert len(parts.exact_duplicates) == 40
    with pytest.raises(ValueError, match="kind: got 'semantic', of which this data has none"):
        parts.hard()
    with pytest.raises(ValueError, match="got row 560 without paraphrased_answer"):
        questions.variants(parts.forget, "paraphrased_answer")


def test_wrong_answers_lie_side_by_side() -> None:
    asked = benchmark().questions[:3]
    found = questions.variants(asked, "perturbed_answers")
    answers = np.array([one.answer for one in found]).reshape(3, 5)
    assert [tuple(row) for row in answers.tolist()] == [one.perturbed_answers for one in asked]
    assert {len(one.perturbed_answers) for one in (*benchmark().real_authors, *benchmark().world_facts)} == {3}


@pytest.mark.parametrize(("authors", "forgotten"), [(2, 1), (20, 2), (200, 20)])
def test_splits_are_disjoint_and_complete(authors: int, forgotten: int) -> None:
    parts = tofu.by_author(authors, forgotten)
    np.testing.assert_array_equal(np.sort(np.concatenate([parts.retain, parts.forget])), np.arange(20 * authors))
    assert len(parts.forget) == 20 * forgotten
    kept, held = tofu.held_out(parts.retain)
    assert set(np.unique(held // 20)) == set(np.unique(kept // 20))
    np.testing.assert_array_equal(np.sort(np.concatenate([kept, held])), parts.retain)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: tofu.split("forget20"), "name: got 'forget20', expected one of forget01"),
        (lambda: tofu.by_author(201, 1), "authors: got 201"),
        (lambda: tofu.by_author(5, 5), "forgotten: got 5, expected a number from 1 to 4"),
        (lambda: tofu.held_out(np.arange(20), 20), "questions: got 20"),
        (lambda: fictional.split(12), "forgotten: got 12, expected a number from 1 to 11"),
        (lambda: questions.duplicates((), "near"), "kind: got 'near', expected one of semantic, exact"),  # pyright: ignore
    ],
)
def test_errors(call: object, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        call()  # pyright: ignore


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("{", "line 2: got what is not JSON"),
        ("[1]", "line 2: got list, expected a JSON object"),
        ('{"question": "Why?"}', "line 2: got question, expected the field 'answer'"),
        ('{"question": "Why?", "answer": 7}', "line 2, field 'answer': got 7, expected a text"),
        ('{"question": " ", "answer": "So."}', "line 2, field 'question': got ' ', expected a text that is not blank"),
        ('{"question": "Why?", "answer": "So.", "perturbed_answer": ["No.", 3]}', "line 2, field 'perturbed_answer': got 3"),
    ],
)
def test_errors_name_file_line_and_field(tmp_path: Path, line: str, message: str) -> None:
    path = tmp_path / "own.jsonl"
    path.write_text('{"text": "Once."}\n' + line, encoding="utf-8")
    with pytest.raises(ValueError, match="own.jsonl, " + message.replace("[", r"\[")):
        questions.read(path)


def test_own_files(tmp_path: Path) -> None:
    (tmp_path / "keep.jsonl").write_text('{"text": "Once."}\n\n{"question": "Why?", "answer": "So."}\n', encoding="utf-8")
    (tmp_path / "drop.jsonl").write_text('{"question": "When?", "answer": "Then.", "note": 1}\n', encoding="utf-8")
    parts = questions.from_files(tmp_path / "keep.jsonl", tmp_path / "drop.jsonl")
    assert [(one.row, one.question) for one in parts.retain] == [(0, None), (1, "Why?")]
    assert parts.forget == parts.exact_duplicates == (questions.Question(0, "When?", "Then."),)
    assert parts.semantic_duplicates == ()


def test_the_benchmark_says_what_is_missing(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"holds nothing, expected full\.jsonl"):
        tofu.load(tmp_path)
    (tmp_path / "full.json").write_text(WRONG, encoding="utf-8")
    with pytest.raises(ValueError, match=r"got 2 rows in .*full, expected 4000"):
        tofu.load(tmp_path)


def test_waterdrum_in_every_layout(tmp_path: Path) -> None:
    parquet, pyarrow = pytest.importorskip("pyarrow.parquet"), pytest.importorskip("pyarrow")
    (tmp_path / "retain.jsonl").write_text(WRONG, encoding="utf-8")
    with pytest.raises(FileNotFoundError, match=r"which holds retain\.jsonl, expected forget-"):
        waterdrum.load(tmp_path)
    for number, answer in enumerate(("One.", "Two.")):
        table = pyarrow.table({"question": ["Who?"], "answer": [answer]})
        parquet.write_table(table, tmp_path / f"forget-0000{number}-of-00002.parquet")
    (tmp_path / "semantic_duplicate").mkdir()
    (tmp_path / "semantic_duplicate" / "any.jsonl").write_text(WRONG, encoding="utf-8")
    parts = waterdrum.load(tmp_path)
    assert [(one.row, one.answer) for one in parts.forget] == [(0, "One."), (1, "Two.")]
    assert [len(part) for part in parts] == [2, 2, 2, 0]
    assert len(parts.hard().retain) == 4


def test_the_invented_persons_are_consistent() -> None:
    everything = fictional.load()
    persons = [one.person for one in everything]
    assert len(everything) == 60
    assert len(set(persons)) == 12
    assert all(persons.count(name) == 5 for name in persons)
    for one in everything:
        answers = (one.answer, one.paraphrased_answer, *one.perturbed_answers)
        assert len(set(answers)) == 5
        assert one.person is not None
        assert one.paraphrased_question is not None
        assert one.question is not None
        assert one.question != one.paraphrased_question
        assert one.person in one.question
        assert one.person in one.paraphrased_question
    parts = fictional.data()
    assert [len(part) for part in parts] == [50, 10, 10, 10]
    assert not {one.person for one in parts.retain} & {one.person for one in parts.forget}
    assert {one.person for one in parts.semantic_duplicates} == {one.person for one in parts.forget}


def test_no_invented_sentence_is_tofu() -> None:
    known = {text for one in benchmark().questions for text in (one.question, one.answer)}
    assert not known & {text for one in fictional.load() for text in (one.question, one.answer)}
