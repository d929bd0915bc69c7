#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Makes tests/fixtures/models/*: tiny random models and what transformers computes with them.

Each folder is a reference case: config.json, the weights as transformers (or its config's older spelling) stores them,
and expected.safetensors with `ids.T`, `logits.T`, `prompt` and `greedy`, computed in float32. bf16 and f16 cases hold
rounded weights; their expectations come from the same weights widened to float32.

    pip install torch transformers safetensors
    python3 tools/make_model_fixtures.py tests/fixtures/models
"""
import json
import pathlib
import sys

import torch
from safetensors.torch import save_file
from transformers import AutoConfig, AutoModelForCausalLM

LENGTHS = (1, 5, 70)
VOCAB = 64


def randomise(model, dtype):
    """Values at a scale where every term matters, rounded to the dtype the file will have."""
    generator = torch.Generator().manual_seed(7)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            noise = torch.randn(parameter.shape, generator=generator)
            if "norm" in name and name.endswith("weight"):
                value = 1 + 0.3 * noise
            elif parameter.ndim < 2:
                value = 0.5 * noise
            elif "embed" in name:
                value = noise
            else:
                value = noise / parameter.shape[-1] ** 0.5
            parameter.copy_(value.to(dtype).float())


def run(model, ids):
    with torch.no_grad():
        return model(ids, use_cache=False).logits.float()


def make(folder, config, dtype=torch.float32, shards=None, spelling=None):
    model = AutoModelForCausalLM.from_config(AutoConfig.for_model(**config)).float().eval()
    randomise(model, dtype)
    generator = torch.Generator().manual_seed(11)
    expected = {}
    for length in LENGTHS:
        ids = torch.randint(0, VOCAB, (2, length), generator=generator)
        expected[f"ids.{length}"] = ids
        expected[f"logits.{length}"] = run(model, ids)
    prompt = torch.randint(0, VOCAB, (1, 17), generator=generator)
    tokens = prompt
    for _ in range(24):
        tokens = torch.cat([tokens, run(model, tokens)[:, -1:].argmax(-1)], dim=1)
    expected["prompt"] = prompt
    expected["greedy"] = tokens[:, 17:].contiguous()

    folder.mkdir(parents=True, exist_ok=True)
    model = model.to(dtype)
    model.config.dtype = dtype
    if shards:
        model.save_pretrained(folder, max_shard_size=shards)
    else:
        model.save_pretrained(folder)
    (folder / "generation_config.json").unlink(missing_ok=True)
    if spelling:
        written = json.loads((folder / "config.json").read_text())
        for key in spelling.get("drop", ()):
            written.pop(key, None)
        written.update(spelling.get("add", {}))
        (folder / "config.json").write_text(json.dumps(written, indent=2) + "\n")
    save_file({name: tensor.contiguous() for name, tensor in expected.items()}, folder / "expected.safetensors")


def main():
    root = pathlib.Path(sys.argv[1])
    xlstm = dict(model_type="xlstm", vocab_size=VOCAB, num_hidden_layers=2, chunkwise_kernel="chunkwise--native_autograd",
                 sequence_kernel="native_sequence__native", step_kernel="native", ffn_round_up_to_multiple_of=16,
                 ffn_proj_factor=1.5, eos_token_id=0)
    # Widths that are no multiple of 64 and do not divide evenly into vectors.
    make(root / "xlstm-odd", dict(xlstm, hidden_size=60, embedding_dim=60, num_heads=3, use_bias=True))
    make(root / "xlstm-onehead-caps", dict(xlstm, hidden_size=48, embedding_dim=48, num_heads=1, v_dim_factor=2.0,
                                            gate_soft_cap=4.0, output_logit_soft_cap=6.0))
    make(root / "xlstm-bf16-sharded", dict(xlstm, hidden_size=48, embedding_dim=48, num_heads=2), torch.bfloat16, "20KB")
    lfm2 = dict(model_type="lfm2", vocab_size=VOCAB, hidden_size=48, num_hidden_layers=4, num_attention_heads=4,
                num_key_value_heads=2, block_multiple_of=16, eos_token_id=0)
    # The spelling of the published v4 configs: block_ff_dim, full_attn_idxs, top-level rope_theta, tie_embedding.
    make(root / "lfm2-v4", dict(lfm2, intermediate_size=150, full_attn_idxs=[1, 3], conv_L_cache=3), torch.bfloat16,
         spelling={"drop": ["layer_types", "rope_parameters", "intermediate_size", "tie_word_embeddings"],
                   "add": {"block_ff_dim": 150, "rope_theta": 1000000.0, "tie_embedding": True, "num_heads": 4}})
    make(root / "lfm2-conv7", dict(lfm2, intermediate_size=96, block_auto_adjust_ff_dim=False, conv_L_cache=7,
                                   conv_bias=True, tie_word_embeddings=False,
                                   layer_types=["conv", "conv", "full_attention", "conv"]))
    llama = dict(model_type="llama", vocab_size=VOCAB, hidden_size=48, intermediate_size=80, num_hidden_layers=2,
                 num_attention_heads=6, num_key_value_heads=2, eos_token_id=0)
    make(root / "llama3-rope", dict(llama, head_dim=16, tie_word_embeddings=True, attention_bias=True, mlp_bias=True,
                                    max_position_embeddings=256,
                                    rope_parameters=dict(rope_type="llama3", rope_theta=500.0, factor=8.0,
                                                         low_freq_factor=1.0, high_freq_factor=4.0,
                                                         original_max_position_embeddings=32)))
    make(root / "llama-f16", dict(llama, tie_word_embeddings=False), torch.float16)


if __name__ == "__main__":
    main()
