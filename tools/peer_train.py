#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Training steps of carousel beside those of transformers, on the same cores, in the same shapes, in float32.

    tools/peer_train.py --carousel build/release/carousel --threads 4 [--case stories ...] [--steps 6] [--rounds 3]

A round runs both, one after the other; the medians of tokens per second and their ratio are printed. A step is forward,
backward, clipping and AdamW. Needs torch and transformers.
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
                 "num_hidden_layers": 6, "num_blocks": 6, "num_heads": 4, "chunk_size": 64}, 8, 256),
    "xlstm-12x768": ({"model_type": "xlstm", "vocab_size": 16384, "hidden_size": 768, "embedding_dim": 768,
                      "num_hidden_layers": 12, "num_blocks": 12, "num_heads": 4, "chunk_size": 64}, 2, 512),
    "llama-6x256": ({"model_type": "llama", "vocab_size": 4096, "hidden_size": 256, "intermediate_size": 704,
                     "num_hidden_layers": 6, "num_attention_heads": 4, "tie_word_embeddings": False}, 8, 256),
}


def run_torch(folder, batch, seq, steps, threads):
    """Tokens per second of transformers, the first step left out."""
    torch.set_num_threads(threads)
    config = AutoConfig.from_pretrained(folder)
    if config.model_type == "xlstm":
        config.mode = "train"
    model = AutoModelForCausalLM.from_config(config, dtype=torch.float32)
    model.train()
    optimiser = torch.optim.AdamW(model.parameters(), lr=1e-4)
    seconds = []
    for step in range(steps + 1):
        ids = torch.randint(0, config.vocab_size, (batch, seq + 1))
        begin = time.perf_counter()
        logits = model(ids[:, :-1], use_cache=False).logits
        loss = torch.nn.functional.cross_entropy(logits.reshape(-1, logits.shape[-1]), ids[:, 1:].reshape(-1))
        optimiser.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimiser.step()
        if step > 0:
            seconds.append(time.perf_counter() - begin)
    return batch * seq / statistics.median(seconds)


def run_carousel(binary, folder, batch, seq, steps, threads):
    """Tokens per second of carousel over all steps, as its log says."""
    ids = os.path.join(folder, "ids.npy")
    vocab = json.load(open(os.path.join(folder, "config.json")))["vocab_size"]
    numpy.save(ids, numpy.random.randint(0, vocab, batch * seq * (steps + 1) + 1).astype(numpy.uint16))
    with tempfile.TemporaryDirectory() as out:
        command = binary.split() + ["train", "--model", os.path.join(folder, "config.json"), "--data", ids, "--order",
                                    "sequential", "--steps", str(steps), "--batch", str(batch), "--seq", str(seq),
                                    "--lr", "1e-4", "--out", out + "/run", "-t", str(threads)]
        subprocess.run(command, check=True, capture_output=True)
        lines = [json.loads(line) for line in open(out + "/run/log.jsonl")]
    return [line for line in lines if "tokens_per_second" in line][-1]["tokens_per_second"]


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
                ours.append(run_carousel(options.carousel, folder, batch, seq, options.steps, options.threads))
                theirs.append(run_torch(folder, batch, seq, options.steps, options.threads))
        ratio = statistics.median(ours) / statistics.median(theirs)
        print(f"{name}, {batch} x {seq}, {options.threads} threads: carousel {statistics.median(ours):.0f} tok/s, "
              f"transformers {statistics.median(theirs):.0f} tok/s, ratio {ratio:.2f}", flush=True)


if __name__ == "__main__":
    main()
