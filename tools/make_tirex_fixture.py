#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Writes tests/fixtures/tirex/tiny.ckpt: a TiRex of 4512 parameters in the published form (a Lightning checkpoint, names
with "block_stack."), its values given by a formula, so that its forecasts can be computed in float64 elsewhere.

Element i of the k-th tensor is a * sin(1 + 0.7 i + 1.3 k): a = .4 for matrices, .2 for biases, .1 for the group norm;
RMSNorm weights are 1 + .1 sin.
"""
import math
import pathlib
import struct

from torch_file import pickled, tensor_of, torch_zip

ROOT = pathlib.Path(__file__).resolve().parent.parent
P, E, HEADS, FF, UP, Q, BLOCKS = 4, 8, 2, 16, 64, 3, 2
DH = E // HEADS


def residual(name, inner, outer):
    return [(name + ".hidden_layer.weight", (FF, inner)), (name + ".hidden_layer.bias", (FF,)),
            (name + ".output_layer.weight", (outer, FF)), (name + ".output_layer.bias", (outer,)),
            (name + ".residual_layer.weight", (outer, inner)), (name + ".residual_layer.bias", (outer,))]


def block(n):
    prefix = f"block_stack.blocks.{n}."
    gates = [(f"slstm_layer.{g}gate.weight", (HEADS, DH, DH)) for g in "fizo"]
    rest = [("slstm_layer.slstm_cell._recurrent_kernel_", (HEADS, DH, 4 * DH)), ("slstm_layer.slstm_cell._bias_", (4 * E,)),
            ("slstm_layer.group_norm.weight", (E,)), ("norm_ffn.weight", (E,)), ("ffn.proj_up_gate.weight", (UP, E)),
            ("ffn.proj_up.weight", (UP, E)), ("ffn.proj_down.weight", (E, UP))]
    return [(prefix + name, shape) for name, shape in [("norm_slstm.weight", (E,))] + gates + rest]


def values(name, shape, k):
    amplitude, base = .4, 0.0
    if name.endswith("bias") or name.endswith("_bias_"):
        amplitude = .2
    elif "norm" in name:
        amplitude, base = .1, 0.0 if "group_norm" in name else 1.0
    count = math.prod(shape)
    return struct.pack(f"<{count}f", *(base + amplitude * math.sin(1 + .7 * i + 1.3 * k) for i in range(count)))


tensors = residual("input_patch_embedding", 2 * P, E) + [t for n in range(BLOCKS) for t in block(n)]
tensors += [("block_stack.out_norm.weight", (E,))] + residual("output_patch_embedding", E, Q * P)
state_dict, storages = {}, {}
for k, (name, shape) in enumerate(tensors):
    state_dict[name] = tensor_of(shape, key=str(k))
    storages[str(k)] = values(name, shape, k)
settings = {"model_config": {"input_patch_size": P, "output_patch_size": P, "quantiles": [.1, .5, .9], "input_ff_dim": FF,
                             "block_kwargs": {"embedding_dim": E, "num_heads": HEADS, "num_blocks": BLOCKS,
                                              "all_slstm": True, "return_last_states": True, "vocab_size": 0}},
            "train_ctx_len": 16}
checkpoint = {"epoch": 0, "global_step": 1, "state_dict": state_dict, "hyper_parameters": settings, "loops": {}}
target = ROOT / "tests" / "fixtures" / "tirex" / "tiny.ckpt"
target.parent.mkdir(parents=True, exist_ok=True)
target.write_bytes(torch_zip(pickled(checkpoint), storages))
