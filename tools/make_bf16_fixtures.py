#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Makes <model>/expected_bf16.safetensors: what transformers computes when it runs a bf16 model in bf16, on a CPU.

Holds `ids` [1, T] and `logits` [1, T, V] (as transformers gives them: bf16, of xLSTM f32). The numeric profile `torch-bf16` is
measured against it; expected.safetensors of the same folder has the float32 results.

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
        print(path, logits.dtype, tuple(logits.shape), model.config.model_type)
        if debug:
            save_file(records, folder / "modules.safetensors")
            for name, tensor in records.items():
                print("   ", name, tensor.dtype, tuple(tensor.shape))


if __name__ == "__main__":
    main()
