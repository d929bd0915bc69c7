#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Bytes of tinyshakespeare at the CPU setting of nanoGPT: 4 layers of width 128, 12 rows of 64, 2,000 steps.

The first 90 % of the text train, the rest validates, all of it. The rate is 1e-3, after 100 steps of warmup a cosine
down to 1e-4, AdamW with betas .9 and .99. It passes if the validation loss is at most 1.88 nats a byte, which nanoGPT
publishes for its GPT, and both models together take at most 10 minutes.

    python3 experiments/tinyshakespeare.py TEXT [--carousel build/release/carousel] [--model xlstm|llama] [--out DIR]
"""

import argparse
import json
import pathlib
import subprocess
import sys
import tempfile
import time

BOUND = 1.88
MINUTES = 10  # at most, on two cores
STEPS = 2000
RECIPE = (f"--steps {STEPS} --batch 12 --seq 64 --lr 1e-3 --lr-min 0.1 --schedule cosine --warmup 100 --betas .9,.99 "
          "--weight-decay 0.1 --clip 1 --eval-every 500 --eval-rows 2000 --log-every 250").split()
COMMON = {"vocab_size": 256, "hidden_size": 128, "num_hidden_layers": 4, "tie_word_embeddings": False}
CONFIGS = {
    "xlstm": COMMON | {"model_type": "xlstm", "architectures": ["xLSTMForCausalLM"], "embedding_dim": 128,
                       "num_blocks": 4, "num_heads": 4, "chunk_size": 64, "weight_mode": "single"},
    "llama": COMMON | {"model_type": "llama", "architectures": ["LlamaForCausalLM"], "intermediate_size": 384,
                       "num_attention_heads": 4, "num_key_value_heads": 4, "max_position_embeddings": 64},
}


def train(options, out, name):
    """Trains a model; returns its last validation loss in nats a byte."""
    config = out / f"{name}.json"
    config.write_text(json.dumps(CONFIGS[name], indent=1))
    subprocess.run([options.carousel, "train", "--model", config, "--data", out / "train.txt", "--valid",
                    out / "valid.txt", "--out", out / name, "--threads", options.threads, *RECIPE], check=True)
    losses = [json.loads(line) for line in (out / name / "log.jsonl").read_text().splitlines()]
    return [line["valid_loss"] for line in losses if "valid_loss" in line and line["step"] == STEPS][-1]


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("text", type=pathlib.Path, help="tinyshakespeare, 1,115,394 bytes")
    parser.add_argument("--carousel", default="build/release/carousel", help="the binary")
    parser.add_argument("--model", choices=CONFIGS, help="one of them (default: both)")
    parser.add_argument("--threads", default="2")
    parser.add_argument("--out", type=pathlib.Path, help="an empty folder for the runs (default: a temporary one)")
    options = parser.parse_args()
    text = options.text.read_bytes()
    cut = len(text) * 9 // 10
    passed, begin = True, time.monotonic()
    with tempfile.TemporaryDirectory() as temporary:
        out = options.out or pathlib.Path(temporary)
        out.mkdir(parents=True, exist_ok=True)
        (out / "train.txt").write_bytes(text[:cut])
        (out / "valid.txt").write_bytes(text[cut:])
        for name in [options.model] if options.model else CONFIGS:
            loss = train(options, out, name)
            passed = passed and loss <= BOUND
            print(f"{name}: validation loss {loss:.4f}, expected at most {BOUND}", flush=True)
    minutes = (time.monotonic() - begin) / 60
    print(f"{minutes:.1f} minutes, expected at most {MINUTES}")
    return 0 if passed and minutes <= MINUTES else 1


if __name__ == "__main__":
    sys.exit(main())
