#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""stories-xlstm learns 20 invented pairs by heart in 200 steps: whole, and with an adapter of rank 16.

experiments/pairs.jsonl holds prompts and completions that no story tells. The model is trained on them whole and with
`--lora 16`; a step is one row that holds all of them. `carousel generate --temp 0` must then answer each prompt with
exactly its completion and end: the whole model, the base with `--adapter`, and the model that `carousel merge` writes.

    python3 experiments/fine_tune.py [--carousel build/release/carousel] [--out DIR]
"""

import argparse
import json
import pathlib
import subprocess
import sys
import tempfile

HERE = pathlib.Path(__file__).parent
PAIRS = HERE / "pairs.jsonl"
STEPS = 200
ROW = 1024  # more than the tokens of all pairs: a pair that a row cuts would begin anew in its middle
RATE = 1e-3  # the default
LONGEST = 64  # tokens


def train(options, out, name, flags):
    subprocess.run([options.carousel, "train", "--model", options.model, "--data", PAIRS, "--out", out / name,
                    "--steps", str(STEPS), "--batch", "1", "--seq", str(ROW), "--lr", str(RATE),
                    "--log-every", "50", "--threads", options.threads, *flags], check=True)
    return out / name / f"step-{STEPS}"


def completes(options, model, pair):
    """Whether greedy decoding says the completion and ends."""
    answer = subprocess.run([options.carousel, "generate", *model, "-p", pair["prompt"], "--temp", "0", "-n",
                             str(LONGEST), "--json", "--threads", options.threads],
                            check=True, capture_output=True, text=True)
    records = [json.loads(line) for line in answer.stdout.splitlines()]
    text = "".join(record["text"] for record in records)
    return text == pair["completion"] and records[-1]["stop"] == "end_token"


def count(options, name, *model):
    pairs = [json.loads(line) for line in PAIRS.read_text(encoding="utf-8").splitlines()]
    right = sum(completes(options, model, pair) for pair in pairs)
    print(f"{name}: {right} of {len(pairs)} completed", flush=True)
    return right == len(pairs)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--carousel", default="build/release/carousel", help="the binary")
    parser.add_argument("--model", default=HERE.parent / "models/stories-xlstm", help="the base")
    parser.add_argument("--threads", default="2")
    parser.add_argument("--out", type=pathlib.Path, help="an empty folder for the runs (default: a temporary one)")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        out = options.out or pathlib.Path(temporary)
        out.mkdir(parents=True, exist_ok=True)
        passed = count(options, "whole", train(options, out, "whole", []))
        adapter = train(options, out, "lora", ["--lora", "16"])
        passed = count(options, "base with its adapter", options.model, "--adapter", adapter) and passed
        subprocess.run([options.carousel, "merge", options.model, adapter, "--out", out / "merged"], check=True)
        passed = count(options, "merged", out / "merged") and passed
    return 0 if passed else 1


if __name__ == "__main__":
    sys.exit(main())
