#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""300 steps of an 8 x 256 xLSTM on stories follow those of transformers from the same weights on the same batches.

The folder CURVE holds the initial weights, the tokens (ids.npy) and curve.safetensors with the losses that transformers
computes in float32. It passes if the loss of every step is within 0.001 nats of them.

    python3 experiments/curve_stories.py CURVE [--carousel build/release/carousel] [--out DIR]
"""

import argparse
import json
import pathlib
import struct
import subprocess
import sys
import tempfile

BOUND = 1e-3
RECIPE = ("--ids u16 --order sequential --steps 300 --batch 8 --seq 512 --lr 1e-3 --lr-min 0.1 --schedule cosine "
          "--warmup 20 --log-every 10").split()


def reference_losses(path):
    """`losses` of a .safetensors: f64, one a step."""
    content = path.read_bytes()
    size = struct.unpack("<Q", content[:8])[0]
    begin, end = json.loads(content[8 : 8 + size])["losses"]["data_offsets"]
    return struct.unpack(f"<{(end - begin) // 8}d", content[8 + size + begin : 8 + size + end])


def compare(log, expected):
    """The number of steps in the log, and the largest distance with its step."""
    lines = [json.loads(line) for line in log.read_text().splitlines()]
    losses = {line["step"]: line["loss"] for line in lines if "loss" in line}
    far, step = max((abs(loss - expected[step - 1]), step) for step, loss in losses.items())
    return len(losses), far, step


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("curve", type=pathlib.Path, help="the folder of the reference")
    parser.add_argument("--carousel", default="build/release/carousel", help="the binary")
    parser.add_argument("--threads", default="2")
    parser.add_argument("--out", type=pathlib.Path, help="an empty folder for the run (default: a temporary one)")
    options = parser.parse_args()
    expected = reference_losses(options.curve / "curve.safetensors")
    with tempfile.TemporaryDirectory() as temporary:
        out = (options.out or pathlib.Path(temporary)) / "run"
        subprocess.run([options.carousel, "train", "--model", options.curve, "--data", options.curve / "ids.npy",
                        "--out", out, "--threads", options.threads, *RECIPE], check=True)
        steps, far, step = compare(out / "log.jsonl", expected)
    passed = steps == len(expected) and far <= BOUND
    print(f"{steps} steps, loss within {far:.2e} (step {step}), expected {len(expected)} within {BOUND:g}")
    return 0 if passed else 1


if __name__ == "__main__":
    sys.exit(main())
