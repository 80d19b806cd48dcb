"""Makes the fixtures of the Llama tests with transformers, torch and PEFT, which hamu_jax does not depend on.

    python tests/data/make_llama_fixtures.py tiny      # tests/data/llama: tiny random models, an adapter, their logits
    python tests/data/make_llama_fixtures.py variants  # tests/data/llama/variants: other adapters and settings of llama3
    python tests/data/make_llama_fixtures.py real DIR  # tests/data/llama/smollm2.json, of the converted SmolLM2 in DIR
    python tests/data/make_llama_fixtures.py open DIR  # opens what `hf_format.save` wrote in DIR, prints logits and a chat

Made with transformers 5.24.0, torch 2.13.0 (CPU), peft 0.21.2.
"""

import json
import shutil
import sys
import tempfile
from pathlib import Path

import numpy as np
import peft
import torch
import transformers

OUT = Path(__file__).parent / "llama"
SIZES = {"vocab_size": 61, "hidden_size": 24, "intermediate_size": 40, "num_hidden_layers": 2, "num_attention_heads": 4}
LLAMA3 = {
    "rope_type": "llama3",
    "rope_theta": 500000.0,
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 32,
}
MODELS = {
    "llama2": transformers.LlamaConfig(**SIZES, num_key_value_heads=4, rms_norm_eps=1e-5, max_position_embeddings=64),
    "llama3": transformers.LlamaConfig(
        **SIZES, num_key_value_heads=2, head_dim=8, rms_norm_eps=1e-5, rope_parameters=LLAMA3, max_position_embeddings=64
    ),
    "qwen2": transformers.Qwen2Config(
        **SIZES, num_key_value_heads=2, rms_norm_eps=1e-6, tie_word_embeddings=True, max_position_embeddings=64
    ),
}
PROMPTS = ("What is the capital of France?", "Name three colors.", "Who wrote Romeo and Juliet?")
TARGETS = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")


def scaled(model):
    """The model with weights so large that every part of it matters to the logits."""
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for name, weight in model.named_parameters():
            noise = torch.randn(weight.shape, generator=generator)
            weight.copy_(1 + 0.2 * noise if "norm" in name else 0.35 * noise)
    return model


def tiny():
    """Random models as transformers writes them, llama3 in several files; logits of two texts; an adapter of llama3."""
    tokens = torch.randint(0, 61, (2, 20), generator=torch.Generator().manual_seed(1))
    for name, config in MODELS.items():
        model = scaled(transformers.AutoModelForCausalLM.from_config(config).float().eval())
        model.save_pretrained(OUT / name, max_shard_size="20KB" if name == "llama3" else "1GB")
        with torch.no_grad():
            np.savez(OUT / name / "logits.npz", tokens=tokens.numpy(), logits=model(tokens).logits.numpy())
    model = transformers.AutoModelForCausalLM.from_pretrained(OUT / "llama3").float()
    lora = peft.LoraConfig(r=3, lora_alpha=5, lora_dropout=0.1, target_modules=list(TARGETS), task_type="CAUSAL_LM")
    adapted = peft.get_peft_model(model, lora).eval()
    with torch.no_grad():
        generator = torch.Generator().manual_seed(2)
        for name, weight in adapted.named_parameters():
            if "lora_B" in name:
                weight.copy_(0.3 * torch.randn(weight.shape, generator=generator))
        adapted.save_pretrained(OUT / "adapter")
        np.savez(OUT / "adapter" / "logits.npz", tokens=tokens.numpy(), logits=adapted(tokens).logits.numpy())
    (OUT / "adapter" / "README.md").unlink()
    settings = OUT / "adapter" / "adapter_config.json"
    values = json.loads(settings.read_text(encoding="utf-8")) | {"base_model_name_or_path": None}  # it was a path here
    settings.write_text(json.dumps(values, indent=2) + "\n", encoding="utf-8")


def variants():
    """Two adapters whose modules are named in other ways, and llama3's stretching without its original length."""
    tokens = torch.randint(0, 61, (2, 20), generator=torch.Generator().manual_seed(1))
    kinds = {
        "regex": {"target_modules": r".*\.(q_proj|up_proj)", "use_rslora": True, "init_lora_weights": "gaussian"},
        "names": {"target_modules": ["self_attn.q_proj", "mlp.down_proj", "v_proj"], "exclude_modules": ["v_proj"]},
    }
    found = {"tokens": tokens.numpy()}
    for name, options in kinds.items():
        torch.manual_seed(0)
        model = transformers.AutoModelForCausalLM.from_pretrained(OUT / "llama3").float()
        adapted = peft.get_peft_model(model, peft.LoraConfig(r=2, lora_alpha=3, task_type="CAUSAL_LM", **options)).eval()
        generator = torch.Generator().manual_seed(3)
        with torch.no_grad():
            for key, weight in adapted.named_parameters():
                if "lora_B" in key:
                    weight.copy_(0.3 * torch.randn(weight.shape, generator=generator))
            adapted.save_pretrained(OUT / "variants" / name)
            found[name] = adapted(tokens).logits.numpy()
        (OUT / "variants" / name / "README.md").unlink()
        settings = OUT / "variants" / name / "adapter_config.json"
        values = json.loads(settings.read_text(encoding="utf-8")) | {"base_model_name_or_path": None}
        settings.write_text(json.dumps(values, indent=2) + "\n", encoding="utf-8")
    with tempfile.TemporaryDirectory() as directory:
        copied = Path(directory) / "llama3"
        shutil.copytree(OUT / "llama3", copied)
        settings = json.loads((copied / "config.json").read_text(encoding="utf-8")) | {"max_position_embeddings": 256}
        del settings["rope_parameters"]["original_max_position_embeddings"]
        (copied / "config.json").write_text(json.dumps(settings), encoding="utf-8")
        model = transformers.AutoModelForCausalLM.from_pretrained(copied).float().eval()
        with torch.no_grad():
            found["rope"] = model(tokens).logits.numpy()
    np.savez_compressed(OUT / "variants" / "logits.npz", **found)


def real(directory):
    """The converted SmolLM2's greedy answers, and the 50 largest logits after each prompt."""
    tokenizer = transformers.AutoTokenizer.from_pretrained(directory)
    model = transformers.AutoModelForCausalLM.from_pretrained(directory, dtype=torch.float32).eval()
    records = []
    for prompt in PROMPTS:
        chat = [{"role": "user", "content": prompt}]
        options = {"add_generation_prompt": True, "return_dict": True, "return_tensors": "pt"}
        tokens = tokenizer.apply_chat_template(chat, **options)["input_ids"]
        with torch.no_grad():
            top = model(tokens).logits[0, -1].topk(50)
            mask = torch.ones_like(tokens)
            answer = model.generate(tokens, attention_mask=mask, do_sample=False, max_new_tokens=24)[0, tokens.shape[1] :]
        record = {"prompt": prompt, "tokens": tokens[0].tolist(), "answer": answer.tolist()}
        record |= {"answer_text": tokenizer.decode(answer, skip_special_tokens=True)}
        record |= {"top_tokens": top.indices.tolist(), "top_logits": [round(x, 5) for x in top.values.tolist()]}
        records.append(record)
        print(prompt, "->", record["answer_text"])
    (OUT / "smollm2.json").write_text(json.dumps(records, indent=1) + "\n", encoding="utf-8")


def opened(directory):
    """What transformers makes of a directory, and of the adapter in `DIRECTORY/adapter` if there is one."""
    model = transformers.AutoModelForCausalLM.from_pretrained(directory, dtype="auto").eval()
    tokens = torch.arange(12)[None]
    with torch.no_grad():
        print(type(model).__name__, model.dtype, model(tokens).logits[0, -1, :5].tolist())
    if (Path(directory) / "tokenizer.json").exists():
        tokenizer = transformers.AutoTokenizer.from_pretrained(directory)
        print(repr(tokenizer.apply_chat_template([{"role": "user", "content": "Hi 123"}], tokenize=False)))
    if (Path(directory) / "adapter").exists():
        adapted = peft.PeftModel.from_pretrained(model, Path(directory) / "adapter").eval()
        with torch.no_grad():
            print("with the adapter", adapted(tokens).logits[0, -1, :5].tolist())


if __name__ == "__main__":
    {"tiny": tiny, "variants": variants, "real": real, "open": opened}[sys.argv[1]](*sys.argv[2:])
