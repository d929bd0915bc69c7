#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""What `carousel train` writes loads in the reference implementations and gives their outputs.

    pip install torch safetensors transformers peft xlstm omegaconf dacite ncps
    tools/check_export.py [--carousel build/release/carousel] [--case lfm2 ...]

Each case trains a tiny model from fresh parameters for 20 steps, loads step-20 with transformers, xlstm or ncps, and
writes what that computes in float32 beside the weights as expected.safetensors. `carousel verify --strict` then compares
(relative L2 at most 2e-5). The case lora trains an adapter on the trained xlstm, which PEFT then loads. Exit status: 0 all agree, 1 one differs or does not load, 2 the rest agrees but packages for
some are missing.
"""
import argparse
import array
import importlib.util
import json
import math
import pathlib
import random
import subprocess
import sys
import tempfile

VOCAB, TOKENS, STEPS, ROWS, INPUTS = 96, 4000, 20, 32, 3
LENGTHS = (1, 5, 33)  # of what is compared
LM = {"vocab_size": VOCAB, "hidden_size": 64, "bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0}
HEADS = {"num_attention_heads": 4, "num_key_value_heads": 2}
LFM2 = LM | HEADS | {"num_hidden_layers": 3, "layer_types": ["conv", "full_attention", "conv"], "conv_L_cache": 3,
                     "conv_bias": False, "norm_eps": 1e-5, "max_position_embeddings": 256,
                     "rope_parameters": {"rope_theta": 1e6, "rope_type": "default"}, "tie_word_embeddings": True}
WIRING = {"type": "AutoNCP", "units": 12, "output_size": 2, "sparsity_level": 0.5, "seed": 77}
CONFIGS = {
    "xlstm": LM | {"architectures": ["xLSTMForCausalLM"], "embedding_dim": 64, "num_hidden_layers": 2, "num_blocks": 2,
                   "num_heads": 2, "chunk_size": 16, "weight_mode": "single", "tie_word_embeddings": False},
    "lfm2": LFM2 | {"architectures": ["Lfm2ForCausalLM"], "intermediate_size": 96, "block_auto_adjust_ff_dim": False},
    "lfm2_moe": LFM2 | {"architectures": ["Lfm2MoeForCausalLM"], "intermediate_size": 96, "moe_intermediate_size": 48,
                        "num_dense_layers": 1, "num_experts": 6, "num_experts_per_tok": 2, "norm_topk_prob": True,
                        "routed_scaling_factor": 1.0, "use_expert_bias": True},
    "llama": LM | HEADS | {"architectures": ["LlamaForCausalLM"], "intermediate_size": 96, "num_hidden_layers": 2,
                           "max_position_embeddings": 256, "tie_word_embeddings": False},
    "xlstm_lm": {
        "mlstm_block": {"mlstm": {"num_heads": 2, "conv1d_kernel_size": 4, "qkv_proj_blocksize": 4}},
        "slstm_block": {"slstm": {"backend": "vanilla", "num_heads": 2, "conv1d_kernel_size": 3, "dtype": "float32"},
                        "feedforward": {"proj_factor": 1.3, "act_fn": "gelu"}},
        "context_length": 64, "num_blocks": 3, "embedding_dim": 32, "slstm_at": [1], "vocab_size": VOCAB},
    "lora": {},
    "cfc": {"input_size": INPUTS, "wiring": WIRING, "mode": "default"},
    "ltc": {"input_size": INPUTS, "wiring": WIRING, "ode_unfolds": 6, "epsilon": 1e-8},
}
REGRESSORS = ("cfc", "ltc")
PACKAGES = {"lora": ["transformers", "peft"], "xlstm_lm": ["xlstm", "omegaconf", "dacite"], "cfc": ["ncps"], "ltc": ["ncps"]}


def train(carousel, out, kind):
    """Trains a case; returns the folder of its last checkpoint."""
    if kind == "lora":
        return train_adapter(carousel, out)
    draw = random.Random(3)
    (out / "config.json").write_text(json.dumps({"model_type": kind} | CONFIGS[kind], indent=1))
    if kind in REGRESSORS:
        (out / "x.csv").write_text("".join(
            ",".join(f"{draw.gauss(0, 1):.6g}" for _ in range(INPUTS)) + "\n" for _ in range(ROWS)))
        (out / "y.csv").write_text("".join(f"{math.sin(t / 4):.6g},{math.cos(t / 4):.6g}\n" for t in range(ROWS)))
        data = ["--data", out / "x.csv", "--target", out / "y.csv", "--batch", "1"]
    else:
        ids = array.array("H", (draw.randrange(VOCAB) for _ in range(TOKENS)))
        if sys.byteorder == "big":
            ids.byteswap()
        (out / "ids.bin").write_bytes(ids.tobytes())
        data = ["--data", out / "ids.bin", "--ids", "u16", "--batch", "2"]
    subprocess.run([carousel, "train", "--model", out / "config.json", "--out", out / "run", "--steps", str(STEPS),
                    "--seq", str(ROWS), "--lr", "1e-2", *data], check=True, capture_output=True, text=True)
    return out / "run" / f"step-{STEPS}"


def train_adapter(carousel, out):
    base = train(carousel, out, "xlstm")
    subprocess.run([carousel, "train", "--model", base, "--lora", "4:8", "--out", out / "lora", "--data",
                    out / "ids.bin", "--ids", "u16", "--batch", "2", "--seq", str(ROWS), "--steps", str(STEPS),
                    "--lr", "1e-2"], check=True, capture_output=True, text=True)
    return out / "lora" / f"step-{STEPS}"


def build(folder, kind):
    """The model of a folder, in the package that defines it."""
    if kind == "lora":
        import peft
        base = json.loads((folder / "adapter_config.json").read_text())["base_model_name_or_path"]
        return peft.PeftModel.from_pretrained(build(base, "xlstm"), folder).eval()
    if kind not in PACKAGES:
        import transformers
        return transformers.AutoModelForCausalLM.from_pretrained(folder, local_files_only=True).float().eval()
    config = CONFIGS[kind]
    if kind == "xlstm_lm":
        import xlstm
        blocks = {
            "mlstm_block": xlstm.mLSTMBlockConfig(mlstm=xlstm.mLSTMLayerConfig(**config["mlstm_block"]["mlstm"])),
            "slstm_block": xlstm.sLSTMBlockConfig(
                slstm=xlstm.sLSTMLayerConfig(**config["slstm_block"]["slstm"]),
                feedforward=xlstm.FeedForwardConfig(**config["slstm_block"]["feedforward"]))}
        model = xlstm.xLSTMLMModel(xlstm.xLSTMLMModelConfig(**config | blocks))
    else:
        import ncps.torch
        import ncps.wirings
        wiring = ncps.wirings.AutoNCP(*(WIRING[key] for key in ("units", "output_size", "sparsity_level", "seed")))
        kinds = {"cfc": ncps.torch.CfC, "ltc": ncps.torch.LTC}
        model = kinds[kind](INPUTS, wiring, batch_first=True)
    from safetensors.torch import load_file
    model.load_state_dict(load_file(folder / "model.safetensors"))
    return model.float().eval()


def compute(model, kind):
    """Inputs and outputs under the names of a reference case."""
    import torch
    draw = torch.Generator().manual_seed(5)
    expected = {}
    with torch.no_grad():
        if kind in REGRESSORS:
            expected["x"] = torch.randn((2, ROWS, INPUTS), generator=draw)
            expected["y"], expected["h.0"] = model(expected["x"])
        else:
            for length in LENGTHS:
                ids = expected[f"ids.{length}"] = torch.randint(0, VOCAB, (2, length), generator=draw)
                # Where the xlstm package is installed too, transformers runs its layers on a cache of another shape.
                answer = model(ids) if kind == "xlstm_lm" else model(ids, use_cache=False)
                expected[f"logits.{length}"] = answer if torch.is_tensor(answer) else answer.logits
    return {name: value.contiguous() for name, value in expected.items()}


def check(carousel, out, kind):
    """True if the case agrees; prints what was compared."""
    try:
        folder = train(carousel, out, kind)
        expected = compute(build(folder, kind), kind)
        from safetensors.torch import save_file
        save_file(expected, folder / "expected.safetensors")
        verified = subprocess.run([carousel, "verify", "--strict", folder], capture_output=True, text=True)
    except subprocess.CalledProcessError as error:
        print(f"{kind}: does not train: {error.stderr}")
        return False
    except Exception as error:  # what a package throws on a file that it cannot load
        print(f"{kind}: does not load: {type(error).__name__}: {error}")
        return False
    print(f"{kind}: {'agrees' if verified.returncode == 0 else 'DIFFERS'}\n{verified.stdout}{verified.stderr}", flush=True)
    return verified.returncode == 0


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--carousel", default="build/release/carousel", help="the binary")
    parser.add_argument("--case", nargs="+", choices=CONFIGS, default=list(CONFIGS))
    options = parser.parse_args()
    failed = skipped = 0
    for kind in options.case:
        needed = ["torch", "safetensors", *PACKAGES.get(kind, ["transformers"])]
        missing = [name for name in needed if importlib.util.find_spec(name) is None]
        if missing:
            print(f"{kind}: not checked, missing: {', '.join(missing)}")
            skipped += 1
            continue
        with tempfile.TemporaryDirectory() as out:
            failed += not check(options.carousel, pathlib.Path(out), kind)
    return 1 if failed else 2 if skipped else 0


if __name__ == "__main__":
    sys.exit(main())
