#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Makes tests/fixtures/models/xlstm-lm-mixed: a tiny random 2024 xLSTM and what the xlstm package computes with it.

The folder is a reference case: config.json and weights as the package stores them, and expected.safetensors, computed
in float32: `ids.T`, `logits.T`, `prompt` and `greedy` as in make_model_fixtures.py; `ids`, `logits` by the parallel
form, `logits.step` and the final states by the package's step form.

    pip install torch xlstm omegaconf dacite safetensors   # seen with torch 2.2.2, xlstm 1.0.8
    python3 tools/make_xlstm_lm_fixture.py tests/fixtures/models
"""
import dataclasses
import json
import pathlib
import sys

import torch
from safetensors.torch import save_file
from xlstm import (
    FeedForwardConfig,
    mLSTMBlockConfig,
    mLSTMLayerConfig,
    sLSTMBlockConfig,
    sLSTMLayerConfig,
    xLSTMLMModel,
    xLSTMLMModelConfig,
)

LENGTHS = (1, 5, 70)
VOCAB = 40


def build():
    config = xLSTMLMModelConfig(
        mlstm_block=mLSTMBlockConfig(mlstm=mLSTMLayerConfig(num_heads=2, conv1d_kernel_size=4, qkv_proj_blocksize=4)),
        slstm_block=sLSTMBlockConfig(
            slstm=sLSTMLayerConfig(backend="vanilla", num_heads=2, conv1d_kernel_size=3, dtype="float32"),
            feedforward=FeedForwardConfig(proj_factor=1.3, act_fn="gelu"),
        ),
        context_length=70,
        num_blocks=3,
        embedding_dim=32,
        slstm_at=[1],
        vocab_size=VOCAB,
    )
    return config, xLSTMLMModel(config).float().eval()


def randomise(model):
    """Values at a scale where every term matters; norms hold their distance from one."""
    generator = torch.Generator().manual_seed(7)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            noise = torch.randn(parameter.shape, generator=generator)
            if "norm" in name or "skip" in name:
                value = 0.3 * noise
            elif parameter.ndim < 2:
                value = 0.5 * noise
            elif "embedding" in name:
                value = noise
            else:
                value = noise / parameter.shape[-1] ** 0.5
            parameter.copy_(value)


def run(model, ids):
    with torch.no_grad():
        return model(ids).float()


def steps(model, ids):
    """Logits of the step form, and the states after the last token by name."""
    state, logits = {}, []
    with torch.no_grad():
        for t in range(ids.shape[1]):
            out, state = model.step(ids[:, t : t + 1], state)
            logits.append(out.float())
    named = {}
    for block, kinds in state.items():
        for kind, tensors in kinds.items():
            if torch.is_tensor(tensors):
                tensors = (tensors,)
            for i, tensor in enumerate(tensors):
                named[f"state.{block}.{kind}.{i}"] = tensor.float().contiguous().clone()
    return torch.cat(logits, dim=1), named


def main(out):
    folder = pathlib.Path(out) / "xlstm-lm-mixed"
    folder.mkdir(parents=True, exist_ok=True)
    config, model = build()
    randomise(model)
    generator = torch.Generator().manual_seed(11)
    expected = {}
    for length in LENGTHS:
        ids = torch.randint(0, VOCAB, (2, length), generator=generator)
        expected[f"ids.{length}"] = ids
        expected[f"logits.{length}"] = run(model, ids)
    ids = torch.randint(0, VOCAB, (2, 23), generator=generator)
    expected["ids"] = ids
    expected["logits"] = run(model, ids)
    expected["logits.step"], states = steps(model, ids)
    expected.update(states)
    prompt = torch.randint(0, VOCAB, (1, 17), generator=generator)
    tokens = prompt
    for _ in range(24):
        tokens = torch.cat([tokens, run(model, tokens)[:, -1:].argmax(-1)], dim=1)
    expected["prompt"] = prompt
    expected["greedy"] = tokens[:, 17:].contiguous()

    written = {"model_type": "xlstm_lm", **dataclasses.asdict(config)}
    (folder / "config.json").write_text(json.dumps(written, indent=1) + "\n")
    save_file({k: v.detach().contiguous().clone() for k, v in model.state_dict().items()}, folder / "model.safetensors")
    save_file({k: v.contiguous() for k, v in expected.items()}, folder / "expected.safetensors")


if __name__ == "__main__":
    main(sys.argv[1])
