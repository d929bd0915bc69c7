# SPDX-License-Identifier: Apache-2.0
"""Malformed GGUF files for make_malformed.py: the container, the keys of a model, its tokenizer."""
import struct

U8, I8, U16, I16, U32, I32, F32, BOOL, STRING, ARRAY, U64, I64, F64 = range(13)
PACK = {U8: "B", I8: "b", U16: "H", I16: "h", U32: "I", I32: "i", F32: "f", BOOL: "B", U64: "Q", I64: "q", F64: "d"}


def text(value):
    data = value if isinstance(value, bytes) else value.encode()
    return struct.pack("<Q", len(data)) + data


def scalar(kind, value):
    return text(value) if kind == STRING else struct.pack("<" + PACK[kind], value)


def key(name, kind, value):
    return text(name) + struct.pack("<I", kind) + scalar(kind, value)


def array(name, kind, values):
    return (text(name) + struct.pack("<IIQ", ARRAY, kind, len(values)) + b"".join(scalar(kind, v) for v in values))


def info(name, dims, kind=0, offset=0):
    return text(name) + struct.pack("<I", len(dims)) + b"".join(struct.pack("<Q", d) for d in dims) + struct.pack("<IQ", kind, offset)


def container(keys=(), infos=(), body=b"", version=3, counts=None, alignment=32, magic=b"GGUF"):
    tensors, kvs = counts or (len(infos), len(keys))
    head = magic + struct.pack("<IQQ", version, tensors, kvs) + b"".join(keys) + b"".join(infos)
    return head + bytes(-len(head) % alignment) + body


BODY = bytes(64)
W = info("w", [2])
BLOCK = bytes(34)


# Small models: every tensor of F32 zeros but the norms, so that what is wrong is the one thing changed.
def model(arch, keys, tensors, drop=(), more=(), infos_more=()):
    listed = [key("general.architecture", STRING, arch)] + [v for k, v in keys.items() if k not in drop] + list(more)
    infos, offset = [], 0
    for name, dims in tensors.items():
        if name in drop:
            continue
        infos.append(info(name, dims, 0, offset))
        size = 4
        for dim in dims:
            size *= dim
        offset += (size + 31) // 32 * 32
    return container(listed, infos + list(infos_more), bytes(offset))


def u32(name, value):
    return {name: key(name, U32, value)}


LLAMA_KEYS = {**u32("llama.block_count", 1), **u32("llama.embedding_length", 8), **u32("llama.feed_forward_length", 8),
              **u32("llama.attention.head_count", 2), **u32("llama.attention.head_count_kv", 1),
              "llama.attention.layer_norm_rms_epsilon": key("llama.attention.layer_norm_rms_epsilon", F32, 1e-5)}
BLOCK_TENSORS = {"blk.0.attn_norm.weight": [8], "blk.0.ffn_norm.weight": [8], "blk.0.ffn_gate.weight": [8, 8],
                 "blk.0.ffn_up.weight": [8, 8], "blk.0.ffn_down.weight": [8, 8]}
LLAMA_TENSORS = {"token_embd.weight": [8, 4], "output_norm.weight": [8], "blk.0.attn_q.weight": [8, 8],
                 "blk.0.attn_k.weight": [8, 4], "blk.0.attn_v.weight": [8, 4], "blk.0.attn_output.weight": [8, 8],
                 **BLOCK_TENSORS}
LFM2_KEYS = {**u32("lfm2.block_count", 1), **u32("lfm2.embedding_length", 8), **u32("lfm2.feed_forward_length", 8),
             **u32("lfm2.attention.head_count", 2), **u32("lfm2.shortconv.l_cache", 3),
             "lfm2.attention.head_count_kv": array("lfm2.attention.head_count_kv", I32, [0]),
             "lfm2.rope.freq_base": key("lfm2.rope.freq_base", F32, 1e6),
             "lfm2.attention.layer_norm_rms_epsilon": key("lfm2.attention.layer_norm_rms_epsilon", F32, 1e-5)}
LFM2_TENSORS = {"token_embd.weight": [8, 4], "token_embd_norm.weight": [8], "blk.0.shortconv.in_proj.weight": [8, 24],
                "blk.0.shortconv.conv.weight": [3, 8], "blk.0.shortconv.out_proj.weight": [8, 8], **BLOCK_TENSORS}
XLSTM_KEYS = {**u32("xlstm.block_count", 1), **u32("xlstm.embedding_length", 8), **u32("xlstm.feed_forward_length", 8),
              **u32("xlstm.mlstm.head_count", 2), **u32("xlstm.mlstm.key_length", 2), **u32("xlstm.mlstm.value_length", 4),
              **{n: key(n, F32, v) for n, v in {"xlstm.mlstm.gate_soft_cap": 15.0, "xlstm.mlstm.epsilon": 1e-6,
                                                "xlstm.final_logit_softcapping": 30.0,
                                                "xlstm.attention.layer_norm_rms_epsilon": 1e-6}.items()}}
XLSTM_TENSORS = {"token_embd.weight": [8, 4], "output_norm.weight": [8], "output.weight": [8, 4],
                 "blk.0.mlstm.q.weight": [8, 4], "blk.0.mlstm.k.weight": [8, 4], "blk.0.mlstm.v.weight": [8, 8],
                 "blk.0.mlstm.ogate.weight": [8, 8], "blk.0.mlstm.igate.weight": [8, 2], "blk.0.mlstm.igate.bias": [2],
                 "blk.0.mlstm.fgate.weight": [8, 2], "blk.0.mlstm.fgate.bias": [2], "blk.0.mlstm.norm.weight": [8],
                 "blk.0.mlstm.out.weight": [8, 8], **BLOCK_TENSORS}


def llama(drop=(), more=(), **kind):
    return model("llama", LLAMA_KEYS, LLAMA_TENSORS, drop, more, **kind)


def lfm2(drop=(), more=()):
    return model("lfm2", LFM2_KEYS, LFM2_TENSORS, drop, more)


def xlstm(drop=(), more=()):
    return model("xlstm", XLSTM_KEYS, XLSTM_TENSORS, drop, more)


GPT2 = {"model": key("tokenizer.ggml.model", STRING, "gpt2"), "pre": key("tokenizer.ggml.pre", STRING, "gpt-2"),
        "tokens": array("tokenizer.ggml.tokens", STRING, ["a", "b", "ab", "<e>"]),
        "types": array("tokenizer.ggml.token_type", I32, [1, 1, 1, 3]),
        "merges": array("tokenizer.ggml.merges", STRING, ["a b"])}
SPM = {"model": key("tokenizer.ggml.model", STRING, "llama"),
       "tokens": array("tokenizer.ggml.tokens", STRING, ["<unk>", "<s>", "a", "<0x41>"]),
       "types": array("tokenizer.ggml.token_type", I32, [2, 3, 1, 6]),
       "scores": array("tokenizer.ggml.scores", F32, [0, 0, -1, -2])}


def tokenizer(base, drop=(), more=(), **changed):
    parts = {**base, **changed}
    return llama(more=[v for k, v in parts.items() if k not in drop] + list(more))


GGUF = {
    # the container
    "empty": (b"", "does not begin with \"GGUF\""),
    "short": (b"GGUF" + bytes(8), "does not begin with \"GGUF\" and a header of 24 bytes"),
    "magic": (container(magic=b"GGML"), "does not begin with \"GGUF\""),
    "version_1": (container(version=1), "GGUF version 1, expected 2 or 3"),
    "version_4": (container(version=4), "GGUF version 4, expected 2 or 3"),
    "big_endian": (container(version=3 << 24), "the file is big-endian, expected little-endian"),
    "tensors_huge": (container(counts=(2**64 - 1, 0)), "18446744073709551615 tensors, expected at most 0"),
    "keys_huge": (container(counts=(0, 2**63)), "9223372036854775808 keys, expected at most 0"),
    "key_truncated": (container(counts=(0, 1), keys=[struct.pack("<Q", 40) + b"abc" + bytes(20)]), "key 0 takes 40 bytes, but only"),
    "key_empty": (container([text("") + struct.pack("<IB", U8, 1)]), "key 0 is empty or no UTF-8 text"),
    "key_not_utf8": (container([text(b"\xff") + struct.pack("<IB", U8, 1)]), "key 0 is empty or no UTF-8 text"),
    "key_long": (container([text("k" * 65536) + struct.pack("<IB", U8, 1)]), "key 0 is a string of 65536 bytes, expected at most 65535"),
    "key_twice": (container([key("a", U8, 1), key("a", U8, 1)]), '"a" appears twice'),
    "key_twice_array": (container([key("a", U8, 1), array("a", STRING, ["x"])]), '"a" appears twice'),
    "type_unknown": (container([text("a") + struct.pack("<IQ", 13, 1)]), '"a" is of type 13, expected 0 to 12'),
    "bool_two": (container([key("a", BOOL, 2)]), '"a" is a bool of value 2, expected 0 or 1'),
    "bools_two": (container([array("a", BOOL, [0, 1, 7])]), '"a" is a bool of value 7, expected 0 or 1'),
    "string_huge": (container([text("a") + struct.pack("<IQ", STRING, 2**62)]), '"a" is a string of 4611686018427387904 bytes'),
    "string_beyond": (container([text("a") + struct.pack("<IQ", STRING, 500)]), '"a" takes 500 bytes, but only'),
    "string_not_utf8": (container([key("a", STRING, b"\xc3(")]), '"a" is not valid UTF-8'),
    "array_huge": (container([text("a") + struct.pack("<IIQ", ARRAY, U32, 2**62)]), '"a" with 4611686018427387904 elements takes'),
    "array_wraps": (container([text("a") + struct.pack("<IIQ", ARRAY, U64, 2**61)]), '"a" with 2305843009213693952 elements takes'),
    "array_strings_huge": (container([text("a") + struct.pack("<IIQ", ARRAY, STRING, 2**63)]), '"a" with 9223372036854775808 strings takes'),
    "array_of_arrays": (container([text("a") + struct.pack("<IIQ", ARRAY, ARRAY, 0)]), '"a" is an array of type 9'),
    "array_type": (container([text("a") + struct.pack("<IIQ", ARRAY, 77, 0)]), '"a" is an array of type 77'),
    "alignment_zero": (container([key("general.alignment", U32, 0)]), '"general.alignment" is 0, expected a power of two from 8 to 65536'),
    "alignment_odd": (container([key("general.alignment", U32, 24)]), '"general.alignment" is 24, expected a power of two'),
    "alignment_text": (container([key("general.alignment", STRING, "32")]), '"general.alignment" is "32", expected a power of two'),
    "alignment_array": (container([array("general.alignment", U32, [32])]), '"general.alignment" is [32], expected a power of two'),
    "alignment_huge": (container([key("general.alignment", U64, 2**40)]), '"general.alignment" is 1099511627776, expected a power of two'),
    "name_long": (container([], [info("w" * 256, [2])], BODY), "name of tensor 0 is a string of 256 bytes, expected at most 255"),
    "rank_zero": (container([], [info("w", [])], BODY), 'tensor "w" has 0 dimensions, expected 1 to 4'),
    "rank_five": (container([], [info("w", [1] * 5)], BODY), 'tensor "w" has 5 dimensions, expected 1 to 4'),
    "dim_zero": (container([], [info("w", [2, 0])], BODY), 'tensor "w" has a dimension of 0'),
    "dims_overflow": (container([], [info("w", [2**32, 2**32, 2])], BODY), 'tensor "w" has a dimension of 4294967296'),
    "dims_wrap_to_zero": (container([], [info("w", [2**32, 2**32])], BODY), 'tensor "w" has a dimension of 4294967296'),
    "tensor_type": (container([], [info("w", [2], 31)], BODY), 'tensor "w" is of type 31, expected one of: F32, F16, BF16, Q8_0'),
    "row_not_blocks": (container([], [info("w", [31, 2], 8)], bytes(128)), 'tensor "w" has rows of 31, expected a multiple of 32 for Q8_0'),
    "row_not_large_blocks": (container([], [info("w", [32, 8], 12)], bytes(256)), 'tensor "w" has rows of 32, expected a multiple of 256 for Q4_K'),
    "offset_odd": (container([], [info("w", [2], 0, 4)], BODY), 'tensor "w" begins at byte 4, expected a multiple of 32'),
    "offset_beyond": (container([], [info("w", [2], 0, 2**63)], BODY), 'tensor "w" has 8 bytes from byte 9223372036854775808 of the data'),
    "tensor_beyond": (container([], [info("w", [17])], BODY), 'tensor "w" has 68 bytes from byte 0 of the data, expected them within its 64'),
    "tensor_exabyte": (container([], [info("w", [2**58])], BODY), 'tensor "w" has 1152921504606846976 bytes from byte 0'),
    "tensor_twice": (container([], [W, info("w", [2], 0, 32)], BODY), 'tensor "w" appears twice'),
    "tensors_overlap": (container([], [info("v", [10]), info("w", [2], 0, 32)], BODY), 'tensor "w" overlaps "v"'),
    "tensors_share": (container([], [info("v", [2]), W], BODY), 'tensor "w" overlaps "v"'),
    "info_truncated": (container([], [W[:-4]], b"", counts=(1, 0))[:24 + len(W) - 4], 'tensor "w" takes 8 bytes, but only 4 follow'),
}

GGUF_MODEL = {
    # keys and tensors
    "no_architecture": (container([key("a", U8, 1)]), '"general.architecture" is missing'),
    "architecture": (container([key("general.architecture", STRING, "mamba")]), '"general.architecture" is "mamba", expected one of: llama, lfm2'),
    "architecture_number": (container([key("general.architecture", U32, 7)]), '"general.architecture" is 7, expected a string'),
    "general_type": (llama(more=[key("general.type", STRING, "adapter")]), '"general.type" is "adapter", expected a model'),
    "quantization_version": (llama(more=[key("general.quantization_version", U32, 1)]), '"general.quantization_version" is 1, expected 2'),
    **{"llama_without_" + k.split(".")[-1]: (llama(drop=[k]), f'"{k}" is missing')
       for k in LLAMA_KEYS if not k.endswith("_kv")},
    **{"llama_without_" + k.replace(".", "_"): (llama(drop=[k]), f'"{k}"') for k in LLAMA_TENSORS},
    "llama_vocab_size": (llama(more=[key("llama.vocab_size", U32, 5)]), '"llama.vocab_size" is 5, but "token_embd.weight" has 4 rows'),
    "llama_layers_huge": (llama(["llama.block_count"], [key("llama.block_count", U32, 2**31)]), '"llama.block_count" is 2147483648, expected'),
    "llama_layers_negative": (llama(["llama.block_count"], [key("llama.block_count", I32, -1)]), '"llama.block_count" is -1, expected'),
    "llama_layers_text": (llama(["llama.block_count"], [key("llama.block_count", STRING, "1")]), '"llama.block_count" is "1", expected'),
    "llama_layers_two": (llama(["llama.block_count"], [key("llama.block_count", U32, 2)]), "blk.1.attn_norm.weight"),
    "llama_layers_none": (llama(["llama.block_count"], [key("llama.block_count", U32, 0)]), "belongs to no parameter"),
    "llama_eps_nan": (llama(["llama.attention.layer_norm_rms_epsilon"], [key("llama.attention.layer_norm_rms_epsilon", F32, float("nan"))]),
                      '"llama.attention.layer_norm_rms_epsilon" is nan, expected'),
    "llama_heads": (llama(["llama.attention.head_count"], [key("llama.attention.head_count", U32, 3)]), '"llama.attention.head_count" is 3, expected a divisor of "llama.embedding_length" 8'),
    "llama_kv_zero": (llama(["llama.attention.head_count_kv"], [array("llama.attention.head_count_kv", I32, [0])]), "has layers without attention"),
    "llama_kv_length": (llama(["llama.attention.head_count_kv"], [array("llama.attention.head_count_kv", I32, [1, 1])]), "lists 2 layers, expected"),
    "llama_scaling": (llama(more=[key("llama.rope.scaling.type", STRING, "yarn"), key("llama.rope.scaling.factor", F32, 4)]),
                      '"llama.rope.scaling.type" is "yarn", which is not supported'),
    "llama_scale_linear": (llama(more=[key("llama.rope.scale_linear", F32, 2)]), '"llama.rope.scale_linear" is 2.0, which is not supported'),
    "llama_window": (llama(more=[key("llama.attention.sliding_window", U32, 128)]), '"llama.attention.sliding_window" is 128, which is not supported'),
    "llama_experts": (llama(more=[key("llama.expert_count", U32, 8)]), '"llama.expert_count" is 8, which is not supported'),
    "llama_soft_cap": (llama(more=[key("llama.attn_logit_softcapping", F32, 50)]), '"llama.attn_logit_softcapping" is 50.0, which is not supported'),
    "llama_not_causal": (llama(more=[key("llama.attention.causal", BOOL, 0)]), '"llama.attention.causal" is false, expected a causal model'),
    "llama_rotary_part": (llama(more=[key("llama.rope.dimension_count", U32, 2)]), '"llama.rope.dimension_count" is 2, expected the size of a head, 4'),
    "lfm2_without_kv": (lfm2(["lfm2.attention.head_count_kv"]), '"lfm2.attention.head_count_kv" is missing, expected the kv heads of every layer'),
    "lfm2_without_norm": (lfm2(["token_embd_norm.weight"]), 'tensor "token_embd_norm.weight" or "output_norm.weight" is missing'),
    "lfm2_without_theta": (lfm2(["lfm2.rope.freq_base"]), '"lfm2.rope.freq_base" is missing'),
    "lfm2_without_cache": (lfm2(["lfm2.shortconv.l_cache"]), '"lfm2.shortconv.l_cache" is missing'),
    "lfm2_kv_text": (lfm2(["lfm2.attention.head_count_kv"], [array("lfm2.attention.head_count_kv", F32, [0.5])]), '"lfm2.attention.head_count_kv" is 0.5, expected'),
    "lfm2_window": (lfm2(more=[key("lfm2.attention.sliding_window", U32, 64)]), '"lfm2.attention.sliding_window" is 64, which is not supported'),
    "widened_scalar": (llama(more=[key("carousel.widened.bf16", STRING, "output_norm.weight")]), '"carousel.widened.bf16" is "output_norm.weight", expected a list of tensor names'),
    "widened_numbers": (llama(more=[array("carousel.widened.f16", U32, [1])]), '"carousel.widened.f16" is an array of u32, expected strings'),
    **{"xlstm_without_" + k.split(".")[-1]: (xlstm([k]), f'"{k}" is missing') for k in XLSTM_KEYS},
    "xlstm_without_norm": (xlstm(["output_norm.weight"]), '"output_norm.weight"'),
    "xlstm_heads": (xlstm(["xlstm.mlstm.head_count"], [key("xlstm.mlstm.head_count", U32, 4)]), '"blk.0.mlstm.q.weight" is F32 [4, 8], expected [8, 8]'),
    "carousel_without_config": (model("carousel", {}, {}), '"carousel.config" is missing'),
    "carousel_config_list": (model("carousel", {}, {}, more=[key("carousel.config", STRING, "[]")]), '"carousel.config" is [], expected an object'),
    "carousel_config_text": (model("carousel", {}, {}, more=[key("carousel.config", STRING, "{")]), "not valid JSON"),
    # the tokenizer
    "tokenizer_model": (tokenizer(GPT2, model=key("tokenizer.ggml.model", STRING, "bert")), '"tokenizer.ggml.model" is "bert", expected one of: gpt2, llama'),
    "tokenizer_without_pre": (tokenizer(GPT2, ["pre"]), '"tokenizer.ggml.pre" is missing'),
    "tokenizer_pre": (tokenizer(GPT2, pre=key("tokenizer.ggml.pre", STRING, "tekken")), '"tokenizer.ggml.pre" is "tekken", expected one of: gpt-2'),
    "tokenizer_without_tokens": (tokenizer(GPT2, ["tokens"]), '"tokenizer.ggml.tokens" is missing'),
    "tokenizer_tokens_scalar": (tokenizer(GPT2, tokens=key("tokenizer.ggml.tokens", U32, 3)), '"tokenizer.ggml.tokens" is 3, expected an array'),
    "tokenizer_tokens_numbers": (tokenizer(GPT2, tokens=array("tokenizer.ggml.tokens", U8, [1, 2, 3, 4])), '"tokenizer.ggml.tokens" is an array of u8, expected strings'),
    "tokenizer_tokens_empty": (tokenizer(GPT2, ["types"], tokens=array("tokenizer.ggml.tokens", STRING, [])), '"tokenizer.ggml.tokens" is empty'),
    "tokenizer_token_twice": (tokenizer(GPT2, tokens=array("tokenizer.ggml.tokens", STRING, ["a", "b", "ab", "a"]), types=array("tokenizer.ggml.token_type", I32, [1] * 4)),
                              '"tokenizer.ggml.tokens" has "a" as 0 and as 3'),
    "tokenizer_token_not_utf8": (tokenizer(GPT2, tokens=array("tokenizer.ggml.tokens", STRING, ["a", "b", "ab", b"\xff"])), "text that is not valid UTF-8"),
    "tokenizer_types_short": (tokenizer(GPT2, types=array("tokenizer.ggml.token_type", I32, [1])), '"tokenizer.ggml.token_type" has 1 elements, expected one for each of the 4 tokens'),
    "tokenizer_types_unknown": (tokenizer(GPT2, types=array("tokenizer.ggml.token_type", I32, [1, 1, 1, 9])), '"tokenizer.ggml.token_type" has a 9, expected 0 to 6'),
    "tokenizer_types_floats": (tokenizer(GPT2, types=array("tokenizer.ggml.token_type", F32, [1, 1, 1, 3])), '"tokenizer.ggml.token_type" is an array of f32, expected integers'),
    "tokenizer_without_merges": (tokenizer(GPT2, ["merges"]), '"tokenizer.ggml.merges" is missing'),
    "tokenizer_merge_unknown": (tokenizer(GPT2, merges=array("tokenizer.ggml.merges", STRING, ["a c"])), '"c" is not in vocab'),
    "tokenizer_merge_one": (tokenizer(GPT2, merges=array("tokenizer.ggml.merges", STRING, ["ab"])), "expected two tokens with a space between"),
    "tokenizer_bos": (tokenizer(GPT2, more=[key("tokenizer.ggml.bos_token_id", U32, 4)]), '"tokenizer.ggml.bos_token_id" is 4, expected'),
    "tokenizer_add_bos": (tokenizer(GPT2, more=[key("tokenizer.ggml.add_bos_token", BOOL, 1)]), 'expected "tokenizer.ggml.bos_token_id" to name a token'),
    "tokenizer_without_scores": (tokenizer(SPM, ["scores"]), '"tokenizer.ggml.scores" is missing'),
    "tokenizer_scores_short": (tokenizer(SPM, scores=array("tokenizer.ggml.scores", F32, [0])), '"tokenizer.ggml.scores" has 1 elements'),
    "tokenizer_scores_nan": (tokenizer(SPM, scores=array("tokenizer.ggml.scores", F32, [0, 0, float("nan"), 0])), '"tokenizer.ggml.scores" has a nan'),
    "tokenizer_byte_token": (tokenizer(SPM, tokens=array("tokenizer.ggml.tokens", STRING, ["<unk>", "<s>", "a", "<0x-1>"])), "a byte token, expected <0x00> to <0xFF>"),
    "tokenizer_token_long": (tokenizer(SPM, tokens=array("tokenizer.ggml.tokens", STRING, ["<unk>", "<s>", "a" * 600, "<0x41>"])), "one of 600 bytes as 2, expected at most 512"),
    "tokenizer_whitespace": (tokenizer(SPM, more=[key("tokenizer.ggml.remove_extra_whitespaces", BOOL, 1)]), '"tokenizer.ggml.remove_extra_whitespaces" is true, expected false'),
    "tokenizer_whole": (llama(more=[key("tokenizer.huggingface.json", STRING, "{}")]), '"model" is missing'),
}

SEEDS = {
    "keys": container([key("a", U8, 1), key("b", STRING, "text"), array("c", I32, [1, -2]), array("d", STRING, ["x", ""])], [W], BODY),
    "blocks": container([], [info("q", [32], 8), info("k", [256], 12, 64)], bytes(64) + bytes(144)),
    "llama": llama(), "lfm2": lfm2(), "xlstm": xlstm(), "gpt2": tokenizer(GPT2), "spm": tokenizer(SPM),
}
BLOCK_SEEDS = {str(kind): bytes([kind]) + bytes((i * 37 + 11) & 255 for i in range(300)) for kind in
               (0, 1, 2, 3, 6, 7, 8, 10, 11, 12, 13, 14, 20, 23, 30)}
