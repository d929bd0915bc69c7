#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Training steps of carousel beside those of transformers, xlstm and ncps, on the same cores, in the same shapes, in
float32. The last two run the time steps of sLSTM and LTC in Python.

    tools/peer_train.py --carousel build/release/carousel --threads 4 [--case stories ...] [--steps 6] [--rounds 3]

A round runs both, one after the other; the medians of tokens per second and their ratio are printed. A step is forward,
backward, clipping and AdamW. For language models `carousel bench --train` follows in the same run: the operations of all
matrix products of a step over its whole time, beside the f32 peak that `bench --bounds` measures, taken around each
sample. Needs torch, and the package of each case.
"""
import argparse
import json
import os
import statistics
import subprocess
import tempfile
import time

import numpy
import torch
from transformers import AutoConfig, AutoModelForCausalLM

CASES = {  # config, batch, seq
    "stories": ({"model_type": "xlstm", "vocab_size": 4096, "hidden_size": 256, "embedding_dim": 256,
                 "num_hidden_layers": 8, "num_blocks": 8, "num_heads": 4, "chunk_size": 64}, 8, 256),
    "xlstm-12x768": ({"model_type": "xlstm", "vocab_size": 16384, "hidden_size": 768, "embedding_dim": 768,
                      "num_hidden_layers": 12, "num_blocks": 12, "num_heads": 4, "chunk_size": 64}, 2, 512),
    "llama-6x256": ({"model_type": "llama", "vocab_size": 4096, "hidden_size": 256, "intermediate_size": 704,
                     "num_hidden_layers": 6, "num_attention_heads": 4, "tie_word_embeddings": False}, 8, 256),
    "slstm-4x256": ({"model_type": "xlstm_lm", "vocab_size": 256, "embedding_dim": 1024, "num_blocks": 1,
                     "context_length": 256, "slstm_at": [0],
                     "slstm_block": {"slstm": {"backend": "vanilla", "num_heads": 4, "conv1d_kernel_size": 0,
                                               "dtype": "float32"}}}, 8, 256),
    "ltc-32": ({"model_type": "ltc", "input_size": 16, "wiring": {"type": "FullyConnected", "units": 32,
                                                                  "output_dim": 4}}, 16, 32),
}
OUTPUTS = 4  # of ltc


def build(folder, config):
    """The model in the package that defines it."""
    if config["model_type"] == "ltc":
        import ncps.torch
        import ncps.wirings
        return ncps.torch.LTC(config["input_size"], ncps.wirings.FullyConnected(32, OUTPUTS), batch_first=True)
    if config["model_type"] == "xlstm_lm":
        import xlstm
        sizes = {key: value for key, value in config.items() if key not in ("model_type", "slstm_block")}
        block = xlstm.sLSTMBlockConfig(slstm=xlstm.sLSTMLayerConfig(**config["slstm_block"]["slstm"]), feedforward=None)
        return xlstm.xLSTMLMModel(xlstm.xLSTMLMModelConfig(slstm_block=block, **sizes))
    loaded = AutoConfig.from_pretrained(folder)
    if loaded.model_type == "xlstm":
        loaded.mode = "train"
    return AutoModelForCausalLM.from_config(loaded, dtype=torch.float32)


def loss_of(model, config, batch, seq):
    """The loss of a drawn batch."""
    if config["model_type"] == "ltc":
        y, _ = model(torch.randn(batch, seq, config["input_size"]))
        return torch.nn.functional.mse_loss(y, torch.randn(y.shape))
    ids = torch.randint(0, config["vocab_size"], (batch, seq + 1))
    answer = model(ids[:, :-1]) if config["model_type"] == "xlstm_lm" else model(ids[:, :-1], use_cache=False).logits
    return torch.nn.functional.cross_entropy(answer.reshape(-1, answer.shape[-1]), ids[:, 1:].reshape(-1))


def run_torch(folder, config, batch, seq, steps, threads):
    """Tokens per second of the package, the first step left out."""
    torch.set_num_threads(threads)
    model = build(folder, config).train()
    optimiser = torch.optim.AdamW(model.parameters(), lr=1e-4)
    seconds = []
    for step in range(steps + 1):
        begin = time.perf_counter()
        loss = loss_of(model, config, batch, seq)
        optimiser.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimiser.step()
        if step > 0:
            seconds.append(time.perf_counter() - begin)
    return batch * seq / statistics.median(seconds)


def write_data(folder, config, batch, seq, steps):
    """The flags of drawn data for `steps` steps."""
    rows = batch * (steps + 1)
    if config["model_type"] == "ltc":
        x, y = os.path.join(folder, "x.npy"), os.path.join(folder, "y.npy")
        numpy.save(x, numpy.random.randn(rows, seq, config["input_size"]).astype(numpy.float32))
        numpy.save(y, numpy.random.randn(rows, seq, OUTPUTS).astype(numpy.float32))
        return ["--data", x, "--target", y]
    ids = os.path.join(folder, "ids.npy")
    numpy.save(ids, numpy.random.randint(0, config["vocab_size"], rows * seq + 1).astype(numpy.uint16))
    return ["--data", ids]


def run_carousel(binary, folder, config, batch, seq, steps, threads):
    """Tokens per second of carousel over all steps, as its log says."""
    data = write_data(folder, config, batch, seq, steps)
    with tempfile.TemporaryDirectory() as out:
        command = binary.split() + ["train", "--model", os.path.join(folder, "config.json"), *data,
                                    "--order", "sequential", "--steps", str(steps), "--batch", str(batch),
                                    "--seq", str(seq), "--lr", "1e-4", "--out", out + "/run", "-t", str(threads)]
        subprocess.run(command, check=True, capture_output=True)
        lines = [json.loads(line) for line in open(out + "/run/log.jsonl")]
    return [line for line in lines if "tokens_per_second" in line][-1]["tokens_per_second"]


def product_share(binary, folder, batch, seq, rounds, threads):
    """The rate of matrix products over whole steps, and the f32 peak around them, in GFLOP/s."""
    command = binary.split() + ["bench", os.path.join(folder, "config.json"), "--train", "--batch", str(batch),
                                "--rows", str(seq), "-r", str(rounds), "-t", str(threads), "--json"]
    answer = json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
    lines = answer["training"]
    return (lines[0]["matrix_gflop_per_s"], lines[0]["f32_gflop_per_s"]) if lines else (0.0, 0.0)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--carousel", required=True)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--case", action="append", choices=sorted(CASES))
    parser.add_argument("--steps", type=int, default=6)
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    for name in options.case or sorted(CASES):
        config, batch, seq = CASES[name]
        ours, theirs = [], []
        with tempfile.TemporaryDirectory() as folder:
            json.dump(config, open(os.path.join(folder, "config.json"), "w"))
            for _ in range(options.rounds):
                ours.append(run_carousel(options.carousel, folder, config, batch, seq, options.steps, options.threads))
                theirs.append(run_torch(folder, config, batch, seq, options.steps, options.threads))
            rate, peak = 0.0, 0.0
            if config["model_type"] != "ltc":
                rate, peak = product_share(options.carousel, folder, batch, seq, options.rounds, options.threads)
        ratio = statistics.median(ours) / statistics.median(theirs)
        print(f"{name}, {batch} x {seq}, {options.threads} threads: carousel {statistics.median(ours):.0f} tok/s, "
              f"peer {statistics.median(theirs):.0f} tok/s, ratio {ratio:.2f}", flush=True)
        if peak > 0:
            print(f"  matrix products {rate:.1f} of {peak:.1f} GFLOP/s, {100 * rate / peak:.1f} %", flush=True)


if __name__ == "__main__":
    main()
