"""Chat templates and tokenizers: transformers' texts and tokens, options, and templates of strangers."""

import datetime
import functools
import json
import time
from pathlib import Path
from typing import Any

import pytest
import tokenizers

from experiments.data import chat_templates, questions, tokenise, tokenizer

FIXTURES = Path(__file__).parents[2] / "data" / "templates.json"
CLOCK = "{{ strftime_now('%d %b %Y') }}: {% for m in messages %}{{ m.content }}{% endfor %}{{ eos_token }}"
DATED = "{% if date_string is not defined %}{% set date_string = strftime_now('%d') %}{% endif %}{{ date_string }}"


@functools.cache
def fixtures() -> Any:
    return json.loads(FIXTURES.read_text(encoding="utf-8"))


def words(**changed: Any) -> tokenizers.Tokenizer:
    """The tokenizer of the fixtures, of words, which puts nothing around a text."""
    return tokenizers.Tokenizer.from_str(json.dumps({**fixtures()["encoded"][0]["tokenizer"], **changed}))


def write(directory: Path, case: Any, **settings: Any) -> Path:
    """A tokenizer's directory."""
    directory.mkdir(exist_ok=True)
    (directory / "tokenizer.json").write_text(json.dumps(case["tokenizer"]), encoding="utf-8")
    (directory / "tokenizer_config.json").write_text(json.dumps(case["settings"] | settings), encoding="utf-8")
    return directory


@pytest.mark.parametrize("name", ["date", "tools", "generation", "json", "macro"])
def test_texts_are_those_of_transformers(name: str) -> None:
    cases = [case for case in fixtures()["rendered"] if case["template"] == name]
    assert len(cases) == 8
    for case in cases:
        made = tokenizer.Tokenizer(
            words(),
            2,
            2,
            {"bos_token": "<s>", "eos_token": "</s>"},
            fixtures()["templates"][name],
            case["system_prompt"],
            case["date_string"],
        )
        assert made.render(fixtures()["chat"][: 1 if case["prompt"] else 2], prompt=case["prompt"]) == case["text"]


def test_tokens_are_those_of_transformers(tmp_path: Path) -> None:
    """Neither cut off nor filled up, whatever is stored; and `add_bos_token: true` is no token."""
    for number, case in enumerate(fixtures()["encoded"]):
        made = tokenizer.load(write(tmp_path / str(number), case))
        assert (made.encode("a b c a b c", special=True), made.encode("a b c a b c")) == (case["tokens"], case["inner"])
        begins = case["tokens"][0] == 1
        asked = tokenise.encode(questions.Question(0, "a", "b"), made)  # without a template of the model's
        assert (asked.tokens[0] == 1) == begins


def test_special_tokens_are_texts(tmp_path: Path) -> None:
    case = fixtures()["encoded"][0]
    for wrong in (True, 3, ["</s>"], {"id": 2}):
        with pytest.raises(ValueError, match=r"tokenizer_config\.json: got eos_token=.*, expected a text"):
            tokenizer.load(write(tmp_path, case, eos_token=wrong))
    with pytest.raises(ValueError, match=r"specials: got pad_token = '<none>', expected a token of the vocabulary"):
        tokenizer.load(write(tmp_path, case, pad_token="<none>"))


def test_a_system_prompt_and_a_date_are_rendered_or_refused(tmp_path: Path) -> None:
    case = fixtures()["encoded"][0]
    plain = write(tmp_path, case)
    asked = questions.Question(0, "a", "b")
    made = tokenizer.load(plain, system_prompt="c")
    assert made.render([{"role": "user", "content": "a"}], prompt=True) == "c\n\nQuestion: a\nAnswer:"
    assert tokenise.encode(asked, made).tokens[:1] == [5]
    with pytest.raises(ValueError, match=r"date_string: got '1 May', which the model's chat template leaves out"):
        tokenizer.load(plain, date_string="1 May")
    with pytest.raises(ValueError, match=r"system_prompt: got 'Be kind\.', which the model's chat template leaves out"):
        tokenizer.load(plain, template="{{ messages[-1].content }}", system_prompt="Be kind.")


def test_tools_reach_the_template(tmp_path: Path) -> None:
    listed = "{% for tool in tools or [] %}{{ tool | tojson }}{% endfor %}{{ tools is none }}"
    plain = write(tmp_path, fixtures()["encoded"][0])
    assert tokenizer.load(plain, template=listed).render([], prompt=True) == "True"
    assert tokenizer.load(plain, template=listed, tools=[{"a": 1}]).render([], prompt=True) == '{"a": 1}False'


def test_the_clock_is_read_with_a_word(tmp_path: Path) -> None:
    plain = write(tmp_path, fixtures()["encoded"][0])
    with pytest.warns(UserWarning, match="reads the clock, .* day to day: it has no date_string to fix the date"):
        made = tokenizer.load(plain, template=CLOCK)
    day = datetime.datetime.now().strftime("%d %b %Y")
    assert made.render([{"role": "user", "content": "a"}], prompt=True).startswith(day)  # unless it is midnight
    with pytest.warns(UserWarning, match="day to day: date_string fixes the date"):
        tokenizer.load(plain, template=DATED)
    assert tokenizer.load(plain, template=DATED, date_string="1 May").render([], prompt=True) == "1 May"


@pytest.mark.parametrize(
    ("template", "message"),
    [
        ("{% for i in range(99999) %}{% for j in range(99999) %}{% endfor %}{% endfor %}", "more than 100000 loop iterations"),
        ("{% for i in range(10 ** 9) %}{% endfor %}", "Range too big"),
        ("{% macro f(n) %}{% if n %}{{ f(n - 1) }}{{ f(n - 1) }}{% endif %}{% endmacro %}{{ f(40) }}", "more than 100000"),
        ("{% for a in [1] recursive %}{{ loop([1, 2]) }}{% endfor %}", "maximum recursion depth"),
        ("{{ 'a' * 10 ** 10 }}", r"\* of texts or numbers so large"),
        ("{{ 10 ** (10 ** 9) }}", r"\*\* of texts or numbers so large"),
        ("{{ '%999999999d' % 1 }}", "a format whose width may be great"),
        ("{{ '{:999999999}'.format(1) }}", "a format whose width may be great"),
        ("{{ '%999999999d' | format(1) }}", "a format whose width may be great"),
        ("{{ 'a'.center(999999999) }}", "center of texts or numbers so large"),
        ("{{ 'a' | indent(999999999) }}", "indent of texts or numbers so large"),
        ("{% set n = namespace(s='ab') %}{% for i in range(60) %}{% set n.s = n.s ~ n.s %}{% endfor %}", "more than 10000000"),
        ("{% set n = namespace(s='ab') %}{% for i in range(60) %}{% set n.s = n.s + n.s %}{% endfor %}", "a sum of more than"),
        ("{% set n = namespace(s=['a']) %}{% for i in range(60) %}{% set n.s = n.s + n.s %}{% endfor %}", "a sum of more than"),
        ("{{ ''.__class__.__mro__[1].__subclasses__() }}", "unsafe"),
        ("{% set n = namespace(__class__=1) %}", "begins with an underscore"),
        ("{% set messages = messages.append(1) %}", "unsafe|not safely"),
        ("{{ 1 / 0 }}", "division by zero"),
        ("{{ messages + 1 }}", "can only concatenate list"),
        ("{{ messages[0].content.nothing.more }}", "has no attribute 'nothing'"),
        ("{{ 'a' | tojson(indent='x' * 3, sort_keys=messages[9].x) }}", "list object has no element 9"),
        ("{% include 'x' %}", "no loader for this environment"),
        ("{% if", "unexpected 'end of template'"),
        ("{{ raise_exception('no system prompt') }}", "no system prompt"),
    ],
)
def test_a_stranger_s_template(template: str, message: str) -> None:
    """Every error is the promised one, and comes soon."""
    begun = time.monotonic()
    with pytest.raises(ValueError, match=rf"^template: got one that fails with .*({message})"):
        chat_templates.render_template(template, {"messages": [{"role": "user", "content": "Hi"}]})
    assert time.monotonic() - begun < 5  # the nested loops alone would take minutes


def test_a_template_is_a_text_of_bounded_length(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="template: got 1000001 characters, expected a text of at most 1000000"):
        chat_templates.render_template("x" * 1_000_001, {})
    case = fixtures()["encoded"][0]
    for wrong in (3, {"a": "b"}, [{"name": "default", "template": 3}]):
        with pytest.raises(ValueError, match=r"tokenizer_config\.json, chat_template: got (int|dict), expected a text"):
            tokenizer.load(write(tmp_path, case, chat_template=wrong))
    several = [{"name": "rag", "template": "1"}, {"name": "default", "template": "2"}, 5]
    assert tokenizer.load(write(tmp_path, case, chat_template=several)).template == "2"


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("tokenizer.json", "{", r"tokenizer\.json: got what the tokenizers library does not read"),
        ("tokenizer.json", '{"model": {"type": "none"}}', r"tokenizer\.json: got what the tokenizers library does not read"),
        ("tokenizer_config.json", '{"eos_token": ', r"tokenizer_config\.json: got what is not JSON"),
        ("tokenizer_config.json", "[1]", r"tokenizer_config\.json: got list, expected a JSON object"),
        ("tokenizer_config.json", "[" * 10**5, r"tokenizer_config\.json: got JSON that is nested too deeply"),
        ("tokenizer.json", "version https://git-lfs.github.com/spec/v1\noid", r"tokenizer\.json: got a Git LFS pointer"),
    ],
)
def test_files_of_a_tokenizer_that_are_broken(tmp_path: Path, name: str, content: str, message: str) -> None:
    directory = write(tmp_path, fixtures()["encoded"][0])
    (directory / name).write_text(content, encoding="utf-8")
    with pytest.raises(ValueError, match=message):
        tokenizer.load(directory)
