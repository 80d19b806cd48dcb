"""Model files: Hugging Face directories, PEFT adapters, GGUF, and where a model is looked for."""

import json
import shutil
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest
from llama_fixtures import DATA, MODELS, model, smollm2

from experiments.models import checkpoints, gguf_format, hf_config, hf_format, lora, peft_format, rotary
from experiments.models.directories import new_directory

pytestmark = pytest.mark.usefixtures("as_users_promote")

TEMPLATE = "{% for m in messages %}{{ m['content'] }}{% endfor %}"


def assert_same(left: Any, right: Any) -> None:
    """The same names and the same bits."""
    assert jax.tree.structure(left) == jax.tree.structure(right)
    jax.tree.map(np.testing.assert_array_equal, left, right)


@pytest.mark.parametrize("name", MODELS)
def test_a_model_comes_back(name: str, tmp_path: Path) -> None:
    config, weights = hf_format.load(DATA / name)
    given = jax.device_get(weights) if name == "llama2" else weights  # numpy's transposes are not contiguous
    hf_format.save(tmp_path / "out", config, given, like=DATA / name)
    again, loaded = hf_format.load(tmp_path / "out")
    assert again == config
    assert_same(loaded, weights)
    kept = json.loads((tmp_path / "out" / "config.json").read_text(encoding="utf-8"))
    assert kept["eos_token_id"] == json.loads((DATA / name / "config.json").read_text(encoding="utf-8"))["eos_token_id"]
    assert (tmp_path / "out" / "generation_config.json").exists()


def test_bfloat16_comes_back(tmp_path: Path) -> None:
    config, weights = hf_format.load(DATA / "qwen2", dtype="bfloat16")
    hf_format.save(tmp_path / "out", config, weights)
    assert_same(hf_format.load(tmp_path / "out", dtype="bfloat16")[1], weights)
    assert json.loads((tmp_path / "out" / "config.json").read_text(encoding="utf-8"))["torch_dtype"] == "bfloat16"


@pytest.mark.parametrize("given", [lambda tree: tree, jax.device_get], ids=["jax", "numpy"])
def test_an_adapter_comes_back(tmp_path: Path, given: Any) -> None:
    """Numpy's arrays too, whose transposes are views that are not contiguous."""
    config, adapter = peft_format.load(DATA / "adapter")
    assert config == lora.LoraConfig(rank=3, alpha=5.0, dropout=0.1)
    peft_format.save(tmp_path / "out", config, given(adapter))
    again, loaded = peft_format.load(tmp_path / "out")
    assert again == config
    assert_same(loaded, adapter)


def test_some_targets_only(tmp_path: Path) -> None:
    config = lora.LoraConfig(rank=2, targets=("v", "down"))
    adapter = lora.init(config, model("qwen2")[1], jax.random.key(0))
    peft_format.save(tmp_path / "out", config, adapter)
    again, loaded = peft_format.load(tmp_path / "out")
    assert again == config
    assert_same(loaded, adapter)


def test_nothing_is_overwritten_or_left_half(tmp_path: Path) -> None:
    (tmp_path / "there").mkdir()
    (tmp_path / "there" / "file").touch()
    with pytest.raises(FileExistsError, match=r"out: got .*there, which exists"), new_directory(tmp_path / "there"):
        pass
    with pytest.raises(IsADirectoryError), new_directory(tmp_path / "half") as out:
        out.write_text("not a file", encoding="utf-8")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["there"]


@pytest.mark.parametrize(
    ("change", "match"),
    [
        ({"model_type": "mixtral"}, "model_type='mixtral'"),
        ({"hidden_act": "gelu"}, "hidden_act='gelu'"),
        ({"attention_bias": True}, "attention_bias=True"),
        ({"rope_parameters": {"rope_type": "yarn", "factor": 2.0}}, "rope_type='yarn', expected 'llama3'"),
    ],
)
def test_models_that_we_do_not_compute(change: dict[str, Any], match: str) -> None:
    values = json.loads((DATA / "llama3" / "config.json").read_text(encoding="utf-8"))
    with pytest.raises(ValueError, match=match):
        hf_config.parse({**values, **change})


def test_files_that_are_missing_or_wrong(tmp_path: Path) -> None:
    shutil.copytree(DATA / "llama3", tmp_path / "model")
    (tmp_path / "model" / "model-00002-of-00003.safetensors").unlink()
    with pytest.raises(FileNotFoundError, match=r"model-00002-of-00003\.safetensors is not there"):
        hf_format.load(tmp_path / "model")
    with pytest.raises(FileNotFoundError, match=r"config\.json is not there"):
        hf_format.load(tmp_path)
    with pytest.raises(FileNotFoundError, match=r"adapter: .*adapter_config\.json is not there"):
        peft_format.load(tmp_path)
    config, weights = hf_format.load(DATA / "qwen2")
    shutil.copytree(DATA / "qwen2", tmp_path / "wide")
    path = tmp_path / "wide" / "config.json"
    path.write_text(json.dumps(hf_config.render(config, "float32") | {"intermediate_size": 41}), encoding="utf-8")
    with pytest.raises(ValueError, match=r"gate_proj\.weight: got shape \(24, 40\), expected \(24, 41\)"):
        hf_format.load(tmp_path / "wide")
    assert weights["layers"]["gate"]["kernel"].shape == (2, 24, 40)


def test_where_a_model_is(tmp_path: Path) -> None:
    assert checkpoints.resolve(DATA / "llama3") == DATA / "llama3"
    with pytest.raises(FileNotFoundError, match="model: got nowhere, expected a directory"):
        checkpoints.resolve("nowhere")
    with pytest.raises(FileNotFoundError, match="not there, expected a GGUF file"):
        checkpoints.resolve(tmp_path / "missing.gguf")


def write_gguf(path: Path, name: str, *, pre: str = "smollm") -> None:
    """A tiny model as llama.cpp's converter would write it, by gguf's own writer."""
    gguf = pytest.importorskip("gguf")
    config, weights = hf_format.load(DATA / name)
    kind = "qwen2" if config.qkv_bias else "llama"
    writer = gguf.GGUFWriter(path, kind)
    writer.add_block_count(config.layers)
    writer.add_context_length(config.positions)
    writer.add_embedding_length(config.width)
    writer.add_feed_forward_length(config.hidden)
    writer.add_head_count(config.heads)
    writer.add_head_count_kv(config.kv_heads)
    writer.add_key_length(config.head_dim)
    writer.add_rope_freq_base(config.rope_theta)
    writer.add_layer_norm_rms_eps(config.norm_eps)
    letters = [*"abcdefghijklmnopqrstuvwxyz0123456789", "Ġ", "ab", "Ġa"]
    tokens = ["<|begin|>", "<|end|>", *letters, *(f"<unused{i}>" for i in range(20))]
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre(pre)
    writer.add_token_list(tokens)
    writer.add_token_types([3, 3, *[1] * (len(tokens) - 2)])
    writer.add_token_merges(["a b", "Ġ a"])
    writer.add_bos_token_id(0)
    writer.add_eos_token_id(1)
    writer.add_add_bos_token(pre != "smollm")
    writer.add_chat_template(TEMPLATE)
    names = gguf.get_tensor_name_map(gguf.MODEL_ARCH[kind.upper()], config.layers)
    turned = {} if config.qkv_bias else {"q_proj": config.heads, "k_proj": config.kv_heads}
    for theirs, tensor in hf_format.scatter(config, weights).items():
        value, heads = np.asarray(tensor), turned.get(theirs.split(".")[-2])
        if heads is not None:  # as llama.cpp's converter permutes them
            value = value.reshape(heads, 2, -1, *value.shape[1:]).swapaxes(1, 2).reshape(value.shape)
        writer.add_tensor(names.get_name(theirs, (".weight", ".bias")), np.ascontiguousarray(value))
    if config.rope_scaling is not None:
        plain = rotary.frequencies(config)
        writer.add_tensor("rope_freqs.weight", rotary.stretch(config.rope_scaling, plain).astype(np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


@pytest.mark.parametrize(("name", "pre"), [("llama2", "smollm"), ("qwen2", "qwen2")])
def test_gguf_is_converted_once(name: str, pre: str, tmp_path: Path) -> None:
    tokenizers = pytest.importorskip("tokenizers")
    write_gguf(tmp_path / "tiny.gguf", name, pre=pre)
    directory = checkpoints.resolve(tmp_path / "tiny.gguf")
    assert checkpoints.resolve(tmp_path / "tiny.gguf") == directory == tmp_path / "tiny-gguf"
    config, weights = hf_format.load(directory)
    expected, same = hf_format.load(DATA / name)
    assert config == expected
    assert_same(weights, same)
    settings = json.loads((directory / "tokenizer_config.json").read_text(encoding="utf-8"))
    assert (settings["chat_template"], settings["bos_token"], settings["eos_token"]) == (TEMPLATE, "<|begin|>", "<|end|>")
    found = tokenizers.Tokenizer.from_file(str(directory / "tokenizer.json"))
    encoded = found.encode("ab a42<|end|>")
    assert encoded.tokens == [*(["<|begin|>"] if pre != "smollm" else []), "ab", "Ġa", "4", "2", "<|end|>"]
    assert found.decode(encoded.ids) == "ab a42"


def test_gguf_with_llama_3_stretching(tmp_path: Path) -> None:
    write_gguf(tmp_path / "tiny.gguf", "llama3")
    with pytest.raises(ValueError, match="rope_freqs that are not Llama 3's"):  # the tiny one's first texts had 32 tokens
        gguf_format.convert(tmp_path / "tiny.gguf", tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_unknown_tokenizers(tmp_path: Path) -> None:
    write_gguf(tmp_path / "tiny.gguf", "llama2", pre="other")
    with pytest.raises(ValueError, match="tokenizer: got model 'gpt2' with pre-tokeniser 'other'"):
        gguf_format.convert(tmp_path / "tiny.gguf", tmp_path / "out")


@pytest.mark.slow
def test_smollm2_tokens_come_back() -> None:
    tokenizers = pytest.importorskip("tokenizers")
    tokenizer = tokenizers.Tokenizer.from_file(str(smollm2() / "tokenizer.json"))
    for text in ("Who wrote  1984?\n", "Zoë's café: 12,345 €\t…", "<|im_start|>user\nHi<|im_end|>"):
        ids = tokenizer.encode(text).ids
        assert tokenizer.decode(ids, skip_special_tokens=False) == text
    assert [tokenizer.id_to_token(i) for i in tokenizer.encode("1984").ids] == ["1", "9", "8", "4"]
