#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Writes tests/fixtures/gguf with the public gguf package (pip install gguf): what others' tools write, and what they
read out of it.

  blocks.safetensors  random blocks of every type, and the values the package decodes from them
  NAME.gguf           a tiny model of each architecture in several types; split-0000N-of-0000M.gguf in parts
  expected.json       per file: sum and sum of squares of every tensor, token ids of some texts, logits of the llama
"""
import json
import pathlib
import struct

import gguf
import numpy as np

OUT = pathlib.Path(__file__).resolve().parent.parent / "tests" / "fixtures" / "gguf"
RNG = np.random.default_rng(20261123)
Q = gguf.GGMLQuantizationType
BLOCKS = ["Q8_0", "Q4_0", "Q4_1", "Q5_0", "Q5_1", "Q2_K", "Q3_K", "Q4_K", "Q5_K", "Q6_K", "IQ4_NL", "IQ4_XS"]
# Byte offsets of the halves that scale a block.
HALVES = {"Q8_0": [0], "Q4_0": [0], "Q4_1": [0, 2], "Q5_0": [0], "Q5_1": [0, 2], "Q2_K": [80, 82], "Q3_K": [108],
          "Q4_K": [0, 2], "Q5_K": [0, 2], "Q6_K": [208], "IQ4_NL": [0], "IQ4_XS": [0]}


def random_blocks(name, count, scale):
    """Blocks of random bytes whose scales are small halves: values around `scale`."""
    _, size = gguf.GGML_QUANT_SIZES[Q[name]]
    out = RNG.integers(0, 256, (count, size), dtype=np.uint8)
    largest = {"Q8_0": 128, "Q2_K": 45, "Q3_K": 128, "Q4_K": 945, "Q5_K": 1953, "Q6_K": 4096, "IQ4_NL": 127,
               "IQ4_XS": 4064}.get(name, 16)
    for at in HALVES[name]:
        halves = (RNG.uniform(0.5, 1, count) * scale / largest).astype(np.float16)
        out[:, at:at + 2] = halves.view(np.uint8).reshape(count, 2)
    return out


def encoded(rows, cols, name, scale=1.0):
    """A matrix in this type: (bytes as the package takes them, f32 values)."""
    if name in ("F32", "F16"):
        values = (RNG.standard_normal((rows, cols)) * scale * 0.5).astype(np.float32 if name == "F32" else np.float16)
        return values, values.astype(np.float32)
    if name in ("BF16", "Q8_0", "Q4_0", "Q4_1", "Q5_0", "Q5_1"):
        values = (RNG.standard_normal((rows, cols)) * scale * 0.5).astype(np.float32)
        data = gguf.quants.quantize(values, Q[name])
    else:
        block, size = gguf.GGML_QUANT_SIZES[Q[name]]
        data = random_blocks(name, rows * cols // block, scale).reshape(rows, cols // block * size)
    return data, gguf.quants.dequantize(data, Q[name])


class Model:
    def __init__(self, name, arch, **split):
        self.name, self.values = name, {}
        self.writer = gguf.GGUFWriter(None if split else OUT / f"{name}.gguf", arch, **split)

    def add(self, name, rows, cols, kind, scale=None):
        data, values = encoded(rows, cols, kind, scale or 2 / np.sqrt(cols))
        raw = None if kind in ("F32", "F16") else Q[kind]
        self.writer.add_tensor(name, data, raw_dtype=raw)
        self.values[name] = values

    def vector(self, name, shape, centre=1.0):
        values = (centre + 0.2 * RNG.standard_normal(shape)).astype(np.float32)
        self.writer.add_tensor(name, values)
        self.values[name] = values

    def finish(self, path=None):
        self.writer.write_header_to_file(path)
        self.writer.write_kv_data_to_file()
        self.writer.write_tensors_to_file()
        self.writer.close()
        return {name: [float(v.astype(np.float64).sum()), float((v.astype(np.float64) ** 2).sum())]
                for name, v in self.values.items()}


# Tokenizers. SentencePiece's: the best-scored pair of neighbours is merged, leftmost first.
PIECES = ["\u2581t", "he", "in", "\u2581a", "\u2581the", "nd", "\u2581and", "er", "\u2581\u2581"]
LLAMA_TOKENS = (["<unk>", "<s>", "</s>"] + [f"<0x{b:02X}>" for b in range(256)] + PIECES + ["\u2581"] +
                [chr(c) for c in range(97, 123)] + ["<user>"])
LLAMA_TYPES = [2, 3, 3] + [6] * 256 + [1] * (len(PIECES) + 27) + [4]
LLAMA_SCORES = [0.0] * 259 + [-float(i) for i in range(len(PIECES) + 27)] + [0.0]


def spm_ids(text):
    index = {t: i for i, t in enumerate(LLAMA_TOKENS)}
    symbols = list("\u2581" + text.replace(" ", "\u2581"))
    while True:
        best = None
        for i in range(len(symbols) - 1):
            token = index.get(symbols[i] + symbols[i + 1])
            if token is not None and LLAMA_TYPES[token] == 1 and (best is None or LLAMA_SCORES[token] > best[0]):
                best = (LLAMA_SCORES[token], i)
        if best is None:
            break
        symbols[best[1]:best[1] + 2] = [symbols[best[1]] + symbols[best[1] + 1]]
    ids = [1]
    for symbol in symbols:
        ids += [index[symbol]] if symbol in index else [3 + b for b in symbol.encode()]
    return ids


def byte_alphabet():
    plain = list(range(33, 127)) + list(range(161, 173)) + list(range(174, 256))
    names, extra = {}, 0
    for b in range(256):
        names[b] = chr(b) if b in plain else chr(256 + extra)
        extra += b not in plain
    return names


ALPHABET = byte_alphabet()
MERGES = ["\u0120 t", "h e", "\u0120t he", "i n", "1 2", "12 3"]
GPT2_TOKENS = ["<|pad|>", "<|startoftext|>", "<|im_end|>"] + [ALPHABET[b] for b in range(256)] + [
    m.replace(" ", "") for m in MERGES]
GPT2_TYPES = [3, 3, 3] + [1] * (256 + len(MERGES))


def llama_tokenizer(writer):
    writer.add_tokenizer_model("llama")
    writer.add_tokenizer_pre("default")
    writer.add_token_list(LLAMA_TOKENS)
    writer.add_token_scores(LLAMA_SCORES)
    writer.add_token_types(LLAMA_TYPES)
    writer.add_bos_token_id(1)
    writer.add_eos_token_id(2)
    writer.add_unk_token_id(0)
    writer.add_add_bos_token(True)


def gpt2_tokenizer(writer, pre):
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre(pre)
    writer.add_token_list(GPT2_TOKENS)
    writer.add_token_types(GPT2_TYPES)
    writer.add_token_merges(MERGES)
    writer.add_bos_token_id(1)
    writer.add_eos_token_id(2)
    writer.add_pad_token_id(0)


def llama(name, types, **split):
    """GQA llama of one layer; `types` of q, k, v, out, gate, up, down, embeddings."""
    d, heads, kv, dim, width, vocab = 256, 4, 2, 16, 256, len(LLAMA_TOKENS)
    model = Model(name, "llama", **split)
    w = model.writer
    w.add_block_count(1)
    w.add_context_length(512)
    w.add_embedding_length(d)
    w.add_feed_forward_length(width)
    w.add_head_count(heads)
    w.add_head_count_kv(kv)
    w.add_key_length(dim)
    w.add_value_length(dim)
    w.add_rope_dimension_count(dim)
    w.add_rope_freq_base(10000.0)
    w.add_layer_norm_rms_eps(1e-5)
    w.add_vocab_size(vocab)
    w.add_file_type(gguf.LlamaFileType.MOSTLY_Q4_K_M)
    w.add_quantization_version(2)
    llama_tokenizer(w)
    model.add("token_embd.weight", vocab, d, types[7], 1.0)
    model.vector("blk.0.attn_norm.weight", d)
    model.add("blk.0.attn_q.weight", heads * dim, d, types[0])
    model.add("blk.0.attn_k.weight", kv * dim, d, types[1])
    model.add("blk.0.attn_v.weight", kv * dim, d, types[2])
    model.add("blk.0.attn_output.weight", d, heads * dim, types[3])
    model.vector("blk.0.ffn_norm.weight", d)
    model.add("blk.0.ffn_gate.weight", width, d, types[4])
    model.add("blk.0.ffn_up.weight", width, d, types[5])
    model.add("blk.0.ffn_down.weight", d, width, types[6])
    model.vector("output_norm.weight", d)
    ids = [1, 260, 263, 20, 275]
    return model, ids, lambda: llama_logits(model.values, ids, heads, kv, dim)


def llama_logits(v, ids, heads, kv, dim):
    """Of the last token, in f64, rotating neighbouring pairs as the format's rows are meant for."""
    norm = lambda x, w: x / np.sqrt((x * x).mean(-1, keepdims=True) + 1e-5) * w
    v = {k: a.astype(np.float64) for k, a in v.items()}
    x = v["token_embd.weight"][ids]
    h = norm(x, v["blk.0.attn_norm.weight"])
    t = len(ids)
    angle = np.arange(t)[:, None] * 10000.0 ** (-2.0 * np.arange(dim // 2) / dim)

    def rotated(y, count):
        y = y.reshape(t, count, dim // 2, 2)
        c, s = np.cos(angle)[:, None], np.sin(angle)[:, None]
        return np.stack([y[..., 0] * c - y[..., 1] * s, y[..., 1] * c + y[..., 0] * s], -1).reshape(t, count, dim)

    q = rotated(h @ v["blk.0.attn_q.weight"].T, heads)
    k = rotated(h @ v["blk.0.attn_k.weight"].T, kv)
    val = (h @ v["blk.0.attn_v.weight"].T).reshape(t, kv, dim)
    out = np.zeros((t, heads, dim))
    for n in range(heads):
        score = q[:, n] @ k[:, n * kv // heads].T / np.sqrt(dim)
        score[np.triu_indices(t, 1)] = -np.inf
        weight = np.exp(score - score.max(-1, keepdims=True))
        out[:, n] = weight / weight.sum(-1, keepdims=True) @ val[:, n * kv // heads]
    x = x + out.reshape(t, -1) @ v["blk.0.attn_output.weight"].T
    h = norm(x, v["blk.0.ffn_norm.weight"])
    gate = h @ v["blk.0.ffn_gate.weight"].T
    x = x + (gate / (1 + np.exp(-gate)) * (h @ v["blk.0.ffn_up.weight"].T)) @ v["blk.0.ffn_down.weight"].T
    return (norm(x, v["output_norm.weight"]) @ v["token_embd.weight"].T)[-1]


def lfm2(name, arch, final_norm):
    d, heads, kv, width, vocab, taps = 64, 4, 2, 96, len(GPT2_TOKENS), 3
    model = Model(name, arch)
    w = model.writer
    w.add_block_count(3)
    w.add_context_length(512)
    w.add_embedding_length(d)
    w.add_feed_forward_length(width)
    w.add_head_count(heads)
    w.add_head_count_kv([0, kv, 0])
    w.add_rope_freq_base(1e6)
    w.add_layer_norm_rms_eps(1e-5)
    w.add_vocab_size(vocab)
    w.add_uint32(f"{arch}.shortconv.l_cache", taps)
    experts = arch == "lfm2moe"
    if experts:
        w.add_expert_count(4)
        w.add_expert_used_count(2)
        w.add_expert_feed_forward_length(32)
        w.add_leading_dense_block_count(1)
        w.add_expert_gating_func(gguf.ExpertGatingFuncType.SIGMOID)
    gpt2_tokenizer(w, "lfm2")
    model.add("token_embd.weight", vocab, d, "Q8_0", 1.0)
    model.vector(final_norm, d)
    for i in range(3):
        b = f"blk.{i}."
        model.vector(b + "attn_norm.weight", d)
        if i == 1:
            model.add(b + "attn_q.weight", d, d, "Q5_0")
            model.add(b + "attn_k.weight", d // 2, d, "Q5_1")
            model.add(b + "attn_v.weight", d // 2, d, "Q4_1")
            model.add(b + "attn_output.weight", d, d, "Q4_0")
            model.vector(b + "attn_q_norm.weight", d // heads)
            model.vector(b + "attn_k_norm.weight", d // heads)
        else:
            model.add(b + "shortconv.in_proj.weight", 3 * d, d, "Q4_0")
            model.vector(b + "shortconv.conv.weight", (d, taps), 0.3)
            model.add(b + "shortconv.out_proj.weight", d, d, "BF16")
        model.vector(b + "ffn_norm.weight", d)
        if experts and i > 0:
            model.vector(b + "ffn_gate_inp.weight", (4, d), 0.0)
            model.vector(b + "exp_probs_b.bias", 4, 0.0)
            for matrix, rows, cols in (("gate", 32, d), ("up", 32, d), ("down", d, 32)):
                data = [encoded(rows, cols, "Q8_0", 0.3) for _ in range(4)]
                tensor = f"{b}ffn_{matrix}_exps.weight"
                w.add_tensor(tensor, np.stack([x for x, _ in data]), raw_dtype=Q.Q8_0)
                model.values[tensor] = np.stack([y for _, y in data])
            continue
        model.add(b + "ffn_gate.weight", width, d, "IQ4_NL")
        model.add(b + "ffn_up.weight", width, d, "F16")
        model.add(b + "ffn_down.weight", d, width, "Q8_0")
    return model


def xlstm():
    d, heads, dk, dv, width, vocab = 64, 2, 16, 32, 128, len(GPT2_TOKENS)
    model = Model("xlstm", "xlstm")
    w = model.writer
    for key, value in {"block_count": 2, "embedding_length": d, "vocab_size": vocab, "feed_forward_length": width,
                       "mlstm.head_count": heads, "mlstm.key_length": dk, "mlstm.value_length": dv}.items():
        w.add_uint32("xlstm." + key, value)
    for key, value in {"mlstm.gate_soft_cap": 15.0, "mlstm.epsilon": 1e-6, "final_logit_softcapping": 30.0,
                       "attention.layer_norm_rms_epsilon": 1e-6}.items():
        w.add_float32("xlstm." + key, value)
    gpt2_tokenizer(w, "gpt-2")
    model.add("token_embd.weight", vocab, d, "BF16", 1.0)
    for i in range(2):
        b = f"blk.{i}."
        model.vector(b + "attn_norm.weight", d)
        model.add(b + "mlstm.q.weight", heads * dk, d, "Q8_0")
        model.add(b + "mlstm.k.weight", heads * dk, d, "Q8_0")
        model.add(b + "mlstm.v.weight", heads * dv, d, "Q4_0")
        model.add(b + "mlstm.ogate.weight", heads * dv, d, "Q4_0")
        for gate, centre in (("igate", -2.0), ("fgate", 4.0)):
            model.add(f"{b}mlstm.{gate}.weight", heads, d, "F32")
            model.vector(f"{b}mlstm.{gate}.bias", heads, centre)
        model.vector(b + "mlstm.norm.weight", heads * dv)
        model.add(b + "mlstm.out.weight", d, heads * dv, "Q5_1")
        model.vector(b + "ffn_norm.weight", d)
        model.add(b + "ffn_gate.weight", width, d, "Q8_0")
        model.add(b + "ffn_up.weight", width, d, "Q8_0")
        model.add(b + "ffn_down.weight", d, width, "F16")
    model.vector("output_norm.weight", d)
    model.add("output.weight", vocab, d, "Q8_0")
    return model


def write_safetensors(path, tensors):
    header, body = {}, b""
    for name, array in sorted(tensors.items(), key=lambda item: item[1].dtype != np.float32):
        data = np.ascontiguousarray(array).tobytes()
        header[name] = {"dtype": "F32" if array.dtype == np.float32 else "U8", "shape": list(array.shape),
                        "data_offsets": [len(body), len(body) + len(data)]}
        body += data
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    path.write_bytes(struct.pack("<Q", len(text)) + text + body)


def main():
    OUT.mkdir(parents=True, exist_ok=True)
    for old in OUT.glob("*"):
        old.unlink()
    tensors = {}
    for name in BLOCKS:
        blocks = random_blocks(name, 4, 4.0)
        tensors[name + ".blocks"] = blocks
        tensors[name + ".values"] = gguf.quants.dequantize(blocks, Q[name]).reshape(4, -1).astype(np.float32)
    write_safetensors(OUT / "blocks.safetensors", tensors)

    texts = ["the end and her", "abc  the\n", "q\u00e9 <user>x"]
    spm = {text: spm_ids(text) for text in texts[:2]}
    expected = {}
    model, ids, logits = llama("llama", ["Q4_K", "Q6_K", "Q5_K", "Q5_1", "Q3_K", "Q2_K", "IQ4_XS", "Q6_K"])
    expected["llama.gguf"] = {"tensors": model.finish(), "ids": ids, "logits": [float(x) for x in logits()], "texts": spm}
    model, ids, logits = llama("split", ["F16"] + ["Q8_0"] * 3 + ["Q4_0"] * 3 + ["Q8_0"], split_max_tensors=4)
    expected["split-00001-of-00003.gguf"] = {"tensors": model.finish(OUT / "split.gguf"), "ids": ids,
                                             "logits": [float(x) for x in logits()], "texts": spm}
    index = {t: i for i, t in enumerate(GPT2_TOKENS)}
    byte = lambda text: [index[ALPHABET[b]] for b in text.encode()]
    bpe = {" the": [index["\u0120the"]], "in1234": [index["in"], index["123"], index["4"]],
           "h\u00e9": byte("h\u00e9"), "<|im_end|>": [2]}
    with_bos = {text: [1] + ids for text, ids in bpe.items()}
    expected["lfm2.gguf"] = {"tensors": lfm2("lfm2", "lfm2", "token_embd_norm.weight").finish(), "texts": with_bos}
    expected["lfm2moe.gguf"] = {"tensors": lfm2("lfm2moe", "lfm2moe", "output_norm.weight").finish(), "texts": with_bos}
    bpe["in1234"] = [index["in"], index["123"], index["4"]]
    expected["xlstm.gguf"] = {"tensors": xlstm().finish(), "texts": bpe}
    (OUT / "expected.json").write_text(json.dumps(expected, indent=1) + "\n")


main()
