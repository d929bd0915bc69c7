#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Makes <model>/expected_bf16.safetensors: what transformers computes when it runs a bf16 model in bf16, on a CPU.

Holds `ids` [1, T] and `logits` [1, T, V] (as transformers gives them: bf16, of xLSTM f32). The numeric profile `torch-bf16` is
measured against it; expected.safetensors of the same folder has the float32 results.

With --cache also OUT/<name>/expected_bf16_cache.safetensors: 150 tokens in one call with a cache, then 8 more one by
one. There transformers' chunkwise mLSTM runs, all in bf16, and states are rounded after every call. `logits` holds every
4th row and 16th column; `state.0.C` is layer 0's after the 150 tokens.

    pip install torch transformers safetensors
    python3 tools/make_bf16_fixtures.py OUT MODEL...      # writes OUT/<name of the model>/expected_bf16.safetensors
"""
import pathlib
import sys

import torch
from safetensors.torch import save_file
from transformers import AutoModelForCausalLM

LENGTH = 60  # the chunkwise mLSTM of transformers, from 64 tokens on, refuses bf16: products of f32 and bf16
WIDE_VOCAB_LENGTH = 20  # of models whose logits would make a large file


def hooks(model, records):
    """Records every module's output, for a look at where two engines part."""
    def hook(name):
        def record(_, __, output):
            tensors = output if isinstance(output, (tuple, list)) else [output]
            for i, tensor in enumerate(tensors):
                if torch.is_tensor(tensor):
                    records[f"{name}.{i}"] = tensor.detach().clone().contiguous()
        return record
    for name, module in model.named_modules():
        if name:
            module.register_forward_hook(hook(name))


def cached(model, folder):
    ids = torch.randint(0, model.config.vocab_size, (1, 158), generator=torch.Generator().manual_seed(17))
    with torch.no_grad():
        output = model(ids[:, :150], use_cache=True)
        cache, rows = output.cache_params, [output.logits]
        state = cache.rnn_state[0][0].clone()
        for t in range(150, 158):
            rows.append(model(ids[:, t : t + 1], cache_params=cache, use_cache=True).logits)
    logits = torch.cat(rows, 1)[:, ::4, ::16].contiguous()
    save_file({"ids": ids, "logits": logits, "state.0.C": state}, folder / "expected_bf16_cache.safetensors")


def main():
    out = pathlib.Path(sys.argv[1])
    debug = "--modules" in sys.argv
    for path in sys.argv[2:]:
        if path.startswith("--"):
            continue
        model = AutoModelForCausalLM.from_pretrained(path, dtype=torch.bfloat16, attn_implementation="eager").eval()
        vocab = model.config.vocab_size
        length = LENGTH if vocab < 1024 else WIDE_VOCAB_LENGTH
        ids = torch.randint(0, vocab, (1, length), generator=torch.Generator().manual_seed(13))
        records = {}
        if debug:
            hooks(model, records)
        with torch.no_grad():
            logits = model(ids, use_cache=False).logits
        folder = out / pathlib.Path(path).name
        folder.mkdir(parents=True, exist_ok=True)
        save_file({"ids": ids, "logits": logits.contiguous()}, folder / "expected_bf16.safetensors")
        if "--cache" in sys.argv:
            cached(model, folder)
        print(path, logits.dtype, tuple(logits.shape), model.config.model_type)
        if debug:
            save_file(records, folder / "modules.safetensors")
            for name, tensor in records.items():
                print("   ", name, tensor.dtype, tuple(tensor.shape))


if __name__ == "__main__":
    main()
