"""Models and adapters that are of another kind than they look: read as transformers and PEFT read them, or refused."""

import dataclasses
import json
import pickle
import shutil
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import safetensors.numpy
from llama_fixtures import DATA, forward, model

from experiments.models import hf_config, hf_format, llama, lora, peft_format

pytestmark = pytest.mark.usefixtures("as_users_promote", "unoptimised")

VARIANTS = DATA / "variants"


def variant(name: str) -> tuple[Any, Any]:
    """Tokens and logits of a variant, by PEFT or transformers."""
    with np.load(VARIANTS / "logits.npz") as file:
        return file["tokens"].astype(np.int32), file[name]


def copied(source: Path, target: Path, **changed: Any) -> Path:
    """A model's or an adapter's directory with other settings."""
    shutil.copytree(source, target)
    path = next(target / name for name in ("config.json", "adapter_config.json") if (target / name).is_file())
    path.write_text(json.dumps(json.loads(path.read_text(encoding="utf-8")) | changed), encoding="utf-8")
    return target


def config_of(name: str) -> dict[str, Any]:
    return json.loads((DATA / name / "config.json").read_text(encoding="utf-8"))


def tensors_of(name: str) -> dict[str, Any]:
    return safetensors.numpy.load_file(DATA / name / "model.safetensors")


@pytest.mark.parametrize(
    ("name", "targets", "scale"), [("regex", ("q", "up"), 3 / np.sqrt(2)), ("names", ("q", "down"), 3 / 2)]
)
def test_adapters_with_other_names_have_the_logits_of_peft(name: str, targets: tuple[str, ...], scale: float) -> None:
    config, adapter = peft_format.load(VARIANTS / name)
    assert config.targets == targets
    assert config.scale == pytest.approx(scale)
    tokens, expected = variant(name)
    network = dataclasses.replace(model("llama3")[0], lora=config)
    np.testing.assert_allclose(forward(network, model("llama3")[1], tokens, adapter=adapter), expected, rtol=0, atol=1e-4)


def test_llama_3_without_its_original_length_has_the_logits_of_transformers() -> None:
    values = config_of("llama3") | {"max_position_embeddings": 256}
    del values["rope_parameters"]["original_max_position_embeddings"]
    config = hf_config.parse(values)
    assert config.rope_scaling is not None
    assert config.rope_scaling.original_positions == config.positions == 256
    tokens, expected = variant("rope")
    plain = forward(*model("llama3"), tokens)
    assert np.max(np.abs(plain - expected)) > 0.1  # with the original length of 32 it is another model
    np.testing.assert_allclose(forward(llama.Network(config), model("llama3")[1], tokens), expected, rtol=0, atol=5e-5)
    with pytest.raises(ValueError, match=r"config\.json: got high_freq_factor=1\.0, expected more than low_freq_factor=4\.0"):
        hf_config.parse(
            values | {"rope_parameters": values["rope_parameters"] | {"low_freq_factor": 4.0, "high_freq_factor": 1.0}}
        )
    with pytest.raises(ValueError, match=r"config\.json: got factor=None, expected a positive number"):
        hf_config.parse(values | {"rope_parameters": {"rope_type": "llama3"}})


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        *[({"init_lora_weights": kind}, f"init_lora_weights='{kind}', expected one of True, False")
          for kind in ("pissa", "pissa_niter_4", "olora", "corda", "loftq", "mica", "lora_ga", "new")],
        ({"init_lora_weights": 1}, "init_lora_weights=1, expected one of"),
        ({"alora_invocation_tokens": [1, 2]}, r"alora_invocation_tokens=\[1, 2\], expected none"),
        ({"layer_replication": [[0, 2], [1, 2]]}, "layer_replication=.*, expected none"),
        ({"layers_to_transform": 0}, "layers_to_transform=0, expected none"),
        ({"layers_to_transform": [1]}, r"layers_to_transform=\[1\], expected none"),
        ({"loftq_config": {"loftq_bits": 4}}, "loftq_config=.*, expected none"),
        ({"corda_config": {"corda_method": "ipm"}}, "corda_config=.*, expected none"),
        ({"trainable_token_indices": [1]}, "trainable_token_indices=.*, expected none"),
        ({"target_parameters": ["x"]}, "target_parameters=.*, expected none"),
        ({"rank_pattern": {"q_proj": 2}}, "rank_pattern=.*, expected none"),
        ({"use_dora": True}, "use_dora=True, expected none"),
        ({"lora_bias": True}, "lora_bias=True, expected none"),
        ({"use_qalora": True}, "use_qalora=True, expected none"),
        ({"a_setting_of_tomorrow": 1}, "a_setting_of_tomorrow=1, expected none"),
        ({"bias": "all"}, "bias='all', expected 'LORA' and 'none'"),
        ({"peft_type": "IA3"}, "peft_type='IA3'"),
        ({"target_modules": None}, "target_modules=None, expected a regular expression or a list"),
        ({"target_modules": ["q_proj"]}, r"target_modules \['q_proj'\], and tensors that differ in model\.layers\.0"),
        ({"target_modules": ["q_proj", "lm_head"]}, "target_modules with 'lm_head', expected some of q_proj, k_proj"),
        ({"exclude_modules": ["q_proj"]}, "and tensors that differ in model.layers.0.self_attn.q_proj"),
        ({"r": 4}, r"lora_A\.weight of shape \(3, 24\), expected rank 4"),
        ({"r": 3.0}, "r=3.0, expected a whole number"),
        ({"r": "3"}, "r='3', expected a whole number"),
        ({"lora_alpha": None}, "lora_alpha=None, expected a number"),
        ({"lora_alpha": float("nan")}, "lora_alpha=nan, expected a number"),
        ({"lora_dropout": True}, "lora_dropout=True, expected a number"),
    ],
)  # fmt: skip
def test_adapters_that_are_not_plain(tmp_path: Path, changed: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        peft_format.load(copied(DATA / "adapter", tmp_path / "adapter", **changed))


@pytest.mark.parametrize("begun", [False, None, "gaussian", "orthogonal", "eva"])
def test_how_a_and_b_began_does_not_matter(tmp_path: Path, begun: Any) -> None:
    config, _ = peft_format.load(
        copied(DATA / "adapter", tmp_path / "adapter", init_lora_weights=begun, target_modules="all-linear")
    )
    assert config == peft_format.load(DATA / "adapter")[0]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"base_model.model.model.layers.20000000.self_attn.q_proj.lora_A.weight": (3, 24)}, "got the tensor .*20000000"),
        (
            {"base_model.model.model.layers.99999.self_attn.q_proj.lora_A.weight": (3, 24)},
            "expected .*layers.2.*layers adapted alike",
        ),
        (
            {"base_model.model.lm_head.lora_A.weight": (3, 24)},
            "got the tensor base_model.model.lm_head.lora_A.weight, expected A",
        ),
        ({"base_model.model.model.layers.1.mlp.up_proj.lora_A.weight": (4, 24)}, r"up_proj.lora_A.weight of shape \(4, 24\)"),
        ({"base_model.model.model.layers.1.mlp.up_proj.lora_A.weight": (3,)}, r"up_proj.lora_A.weight of shape \(3,\)"),
    ],
)
def test_tensors_of_an_adapter_that_do_not_fit(tmp_path: Path, change: dict[str, Any], message: str) -> None:
    directory = copied(DATA / "adapter", tmp_path / "adapter")
    tensors = safetensors.numpy.load_file(directory / "adapter_model.safetensors")
    new = {name: np.zeros(shape, np.float32) for name, shape in change.items()}
    safetensors.numpy.save_file(tensors | new, directory / "adapter_model.safetensors")
    with pytest.raises(ValueError, match=message):
        peft_format.load(directory)


def test_an_adapter_of_other_layers_than_the_model() -> None:
    network, weights = model("llama3")
    config = lora.LoraConfig(rank=1, targets=("q",))
    short = {"q": {"a": jnp.zeros((1, 24, 1)), "b": jnp.zeros((1, 1, 32))}}
    with pytest.raises(ValueError, match="adapter: got q of 1 layers, expected those of the model, 2"):
        llama.forward(dataclasses.replace(network, lora=config), weights, jnp.zeros((1, 2), jnp.int32), adapter=short)


def test_tokens_beyond_the_vocabulary_are_no_token() -> None:
    """They were taken for the last one, and negative ones counted from the end."""
    network, weights = model("llama3")
    logits = forward(network, weights, jnp.array([[1, 61], [1, -1], [1, 2]]))
    assert np.isnan(logits[:2]).all()
    assert np.isfinite(logits[2]).all()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"quantization_config": {"quant_method": "gptq", "bits": 4}}, "quantization_config with 'gptq', expected none"),
        ({"quantization_config": {}}, "quantization_config with None, expected none"),
        ({"rms_norm_eps": "x"}, "rms_norm_eps='x', expected a positive number"),
        ({"rms_norm_eps": -1e-5}, "rms_norm_eps=-1e-05, expected a positive number"),
        ({"rms_norm_eps": float("nan")}, "rms_norm_eps=nan, expected a positive number"),
        ({"tie_word_embeddings": "no"}, "tie_word_embeddings='no', expected true or false"),
        ({"tie_word_embeddings": 1}, "tie_word_embeddings=1, expected true or false"),
        ({"num_hidden_layers": 10**9}, "num_hidden_layers=1000000000, expected a whole number from 1 to 10000"),
        ({"num_hidden_layers": 2.0}, "num_hidden_layers=2.0, expected a whole number"),
        ({"num_attention_heads": 0}, "num_attention_heads=0, expected a whole number"),
        ({"num_attention_heads": True}, "num_attention_heads=True, expected a whole number"),
        ({"vocab_size": None}, "vocab_size=None, expected a whole number"),
        ({"hidden_size": "24"}, "hidden_size='24', expected a whole number"),
        ({"max_position_embeddings": -1}, "max_position_embeddings=-1, expected a whole number"),
        ({"head_dim": [8]}, r"head_dim=\[8\], expected a whole number"),
        ({"rope_parameters": [1]}, r"rope_parameters=\[1\], expected an object"),
        ({"rope_parameters": {"rope_theta": "1e4"}}, "rope_theta='1e4', expected a positive number"),
        (
            {"rope_parameters": {"full_attention": {"rope_type": "default"}}},
            "rope_parameters with full_attention=.*, expected the same",
        ),
        ({"rope_parameters": {"partial_rotary_factor": 0.5}}, "partial_rotary_factor=0.5, expected 1"),
        ({"partial_rotary_factor": 0.5}, "partial_rotary_factor=0.5, expected 1"),
        ({"rope_parameters": {"rope_type": ["llama3"]}}, r"rope_type=\['llama3'\], expected 'llama3'"),
        (
            {"layer_types": ["full_attention", "sliding_attention"]},
            "layer_types='sliding_attention', expected 'full_attention'",
        ),
        ({"model_type": ["llama"]}, r"model_type=\['llama'\], expected"),
        ({"mlp_bias": "yes"}, "mlp_bias='yes', expected true or false"),
    ],
)
def test_settings_of_a_model(change: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=rf"^config\.json: got {message}"):
        hf_config.parse(config_of("llama3") | change)


@pytest.mark.parametrize("dtype", [np.int8, np.uint8, np.int32])
def test_quantised_weights_are_refused(tmp_path: Path, dtype: Any) -> None:
    """Also those without `quantization_config`, whose integers would be read as if they were weights."""
    directory = copied(DATA / "llama2", tmp_path / "model")
    tensors = tensors_of("llama2")
    name = "model.layers.1.mlp.up_proj.weight"
    safetensors.numpy.save_file(tensors | {name: tensors[name].astype(dtype)}, directory / "model.safetensors")
    with pytest.raises(ValueError, match=rf"model\.safetensors: got {name} of [IU]\d+, expected one of F64, .*quantised"):
        hf_format.load(directory)


def test_float8_weights_are_refused(tmp_path: Path) -> None:
    directory = copied(DATA / "llama2", tmp_path / "model")
    name = "model.layers.1.mlp.up_proj.weight"
    narrow = jnp.asarray(tensors_of("llama2")[name]).astype(jnp.float8_e4m3fn)
    safetensors.flax.save_file({**tensors_of("llama2"), name: narrow}, directory / "model.safetensors")
    with pytest.raises(ValueError, match=rf"got {name} of F8_E4M3, expected"):
        hf_format.load(directory)


def test_more_layers_than_there_are(tmp_path: Path) -> None:
    """Nothing of the 10,000 layers that the file announces is allocated."""
    with pytest.raises(
        ValueError, match=r"has no tensor model\.layers\.2\.input_layernorm\.weight, which config\.json asks for"
    ):
        hf_format.load(copied(DATA / "llama2", tmp_path / "many", num_hidden_layers=10**4))
    with pytest.raises(ValueError, match=r"embed_tokens\.weight: got shape \(61, 24\), expected \(1000000000, 24\)"):
        hf_format.load(copied(DATA / "llama2", tmp_path / "wide", vocab_size=10**9))


def test_pickles_and_shards(tmp_path: Path) -> None:
    directory = copied(DATA / "llama2", tmp_path / "bin")
    (directory / "model.safetensors").unlink()
    with pytest.raises(FileNotFoundError, match=r"bin holds neither, expected model\.safetensors or model\.safetensors\.index"):
        hf_format.load(directory)
    (directory / "pytorch_model.bin").write_bytes(pickle.dumps({}))
    with pytest.raises(FileNotFoundError, match=r"holds pytorch_model\.bin: pickles, .* not read; save_pretrained writes"):
        hf_format.load(directory)
    shards = copied(DATA / "llama3", tmp_path / "shards")
    (shards / "model.safetensors.index.json").unlink()
    assert hf_format.load(shards)[0] == model("llama3")[0].config
    jax.tree.map(np.testing.assert_array_equal, hf_format.load(shards)[1], model("llama3")[1])
    (shards / "model-00002-of-00003.safetensors").unlink()
    with pytest.raises(FileNotFoundError, match=r"holds 2 shards without .*index\.json, expected model-00002-of-00003"):
        hf_format.load(shards)
    adapter = copied(DATA / "adapter", tmp_path / "adapter")
    (adapter / "adapter_model.safetensors").rename(adapter / "adapter_model.bin")
    with pytest.raises(FileNotFoundError, match=r"is not there, which holds adapter_model\.bin, a pickle that is not read"):
        peft_format.load(adapter)


def test_a_single_file_beside_an_index(tmp_path: Path) -> None:
    """As in transformers the single file is read, say of a merged model that was saved over shards."""
    directory = copied(DATA / "llama3", tmp_path / "both")
    config, weights = model("llama3")[0].config, jax.tree.map(lambda x: 2 * x, model("llama3")[1])
    hf_format.write_tensors(directory / "model.safetensors", hf_format.scatter(config, weights))
    with pytest.warns(UserWarning, match=r"both: got model\.safetensors and .*index\.json; model\.safetensors is read"):
        found = hf_format.load(directory)[1]
    np.testing.assert_array_equal(found["norm"], weights["norm"])


def test_links_are_not_followed_out_of_the_directory(tmp_path: Path) -> None:
    secret = tmp_path / "secret"
    secret.write_text("mine", encoding="utf-8")
    directory = copied(DATA / "qwen2", tmp_path / "model")
    (directory / "merges.txt").symlink_to(secret)
    config, weights = hf_format.load(directory)
    with pytest.raises(ValueError, match=r"merges\.txt: got a link to .*secret, expected a file inside"):
        hf_format.save(tmp_path / "out", config, weights, like=directory)
    assert not (tmp_path / "out").exists()
    snapshot = tmp_path / "hub" / "snapshots" / "1"  # as the hub's cache has it
    shutil.copytree(DATA / "qwen2", snapshot)
    (tmp_path / "hub" / "blobs").mkdir()
    (tmp_path / "hub" / "blobs" / "0").write_text("a b", encoding="utf-8")
    (snapshot / "merges.txt").symlink_to("../../blobs/0")
    hf_format.save(tmp_path / "saved", config, weights, like=snapshot)
    assert (tmp_path / "saved" / "merges.txt").read_text(encoding="utf-8") == "a b"
    assert not (tmp_path / "saved" / "merges.txt").is_symlink()
