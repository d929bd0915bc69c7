#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Writes the malformed files of tests/fixtures/malformed and the seeds of tests/fuzz/corpus.

Each sub-folder belongs to one loader; expected.json gives, file by file, what its one error message must contain.
"""
import json
import pathlib
import shutil
import struct

from malformed_gguf import BLOCK_SEEDS, GGUF, GGUF_MODEL, SEEDS
from torch_file import op, pickled, tensor_of, torch_zip

ROOT = pathlib.Path(__file__).resolve().parent.parent
MALFORMED = ROOT / "tests" / "fixtures" / "malformed"
CORPUS = ROOT / "tests" / "fuzz" / "corpus"


def raw(header, body=b""):
    """A file whose header is this text, whatever it is."""
    text = header if isinstance(header, bytes) else header.encode()
    return struct.pack("<Q", len(text)) + text + body


def tensor(dtype="F32", shape=(2,), offsets=(0, 8), **more):
    return {"dtype": dtype, "shape": list(shape), "data_offsets": list(offsets), **more}


def st(body=b"", **tensors):
    return raw(json.dumps(tensors), body)


def blocks(types, **tensors):
    """Tensors of zeros, some of which the metadata calls blocks."""
    size = max(t["data_offsets"][1] for t in tensors.values())
    return raw(json.dumps({"__metadata__": {"carousel.blocks": types}, **tensors}), bytes(size))


def without(key):
    return {k: v for k, v in tensor().items() if k != key}


F32x2 = bytes(8)
SAFETENSORS = {
    # the header
    "empty": (b"", "0 bytes, too short for a safetensors file, expected at least 8"),
    "seven_bytes": (bytes(7), "7 bytes, too short for a safetensors file"),
    "header_length_zero": (bytes(8), "header does not start with {"),
    "header_length_huge": (struct.pack("<Q", 2**64 - 1) + b"{}", "header of 18446744073709551615 bytes, expected at most"),
    "header_length_wraps": (struct.pack("<Q", 2**64 - 8) + b"{}", "header of 18446744073709551608 bytes, expected at most"),
    "header_length_over_limit": (struct.pack("<Q", 100_000_001) + b"{}", "header of 100000001 bytes, expected at most 100000000"),
    "header_beyond_file": (struct.pack("<Q", 3) + b"{}", "header of 3 bytes, but only 2 follow: the file is truncated"),
    "header_not_an_object": (raw("[]"), "header does not start with {"),
    "header_not_json": (raw("{\"a\": "), "not valid JSON at byte 7"),
    "header_not_utf8": (raw(b"{\"\xff\": 1}"), "not valid JSON at byte 3"),
    "header_trailing_text": (raw("{}{}"), "not valid JSON at byte 3"),
    "header_nul_padding": (raw(b"{}\0\0"), "not valid JSON at byte 3"),
    "header_nests_deep": (raw("{\"a\":" + "[" * 5000), "JSON nests deeper than 4 levels"),
    "metadata_not_an_object": (raw('{"__metadata__": 3}'), "__metadata__ is 3, expected an object"),
    "metadata_not_text": (raw('{"__metadata__": {"pos": 3}}'), '__metadata__ "pos" is 3, expected a string'),
    "pickle": (b"\x80\x02}q\x00X\x01\x00\x00\x00a", "bytes, expected at most 100000000: not a safetensors file"),
    # one tensor
    "tensor_not_an_object": (raw('{"w": 1}'), '"w": got 1, expected an object'),
    "tensor_twice": (raw('{"w": %s, "w": %s}' % ((json.dumps(tensor()),) * 2), F32x2), 'key "w" appears twice in one object'),
    "dtype_missing": (st(F32x2, w=without("dtype")), '"w": "dtype" is missing'),
    "dtype_unknown": (st(F32x2, w=tensor("F31")), '"w": dtype "F31" is not supported, expected one of: F32, F16, BF16'),
    "dtype_f8": (st(bytes(2), w=tensor("F8_E4M3", (2,), (0, 2))), '"w": dtype "F8_E4M3" is not supported'),
    "dtype_number": (st(F32x2, w=tensor(4)), '"w": "dtype" is 4, expected a string'),
    "shape_missing": (st(F32x2, w=without("shape")), '"w": "shape" is missing'),
    "shape_negative": (st(F32x2, w=tensor(shape=(-2,))), '"w": "shape" is -2, expected integers from 0'),
    "shape_fraction": (st(F32x2, w=tensor(shape=(2.5,))), '"w": "shape" is 2.5, expected integers from 0'),
    "shape_text": (st(F32x2, w=tensor(shape=("2",))), '"w": "shape" is "2", expected integers from 0'),
    "shape_not_a_list": (st(F32x2, w={**tensor(), "shape": 2}), '"w": "shape" is 2, expected a list of at most 6'),
    "shape_of_rank_7": (st(F32x2, w=tensor(shape=(1,) * 6 + (2,))), '"w": "shape" is [1,1,1,1,1,1,2], expected a list of at most 6'),
    "shape_over_int64": (st(F32x2, w=tensor(shape=(2**63,))), '"w": "shape" is 9223372036854775808, expected integers'),
    "shape_overflows": (st(F32x2, w=tensor(shape=(2**62, 4))), '"w": shape [4611686018427387904, 4] of F32 overflows'),
    "shape_wraps_to_size": (st(F32x2, w=tensor(shape=(2**32, 2**32, 2))), '"w": shape [4294967296, 4294967296, 2] of F32 overflows'),
    "size_too_small": (st(bytes(4), w=tensor(offsets=(0, 4))), '"w": data_offsets [0, 4] hold 4 bytes, expected 8 for F32 [2]'),
    "size_too_large": (st(bytes(12), w=tensor(offsets=(0, 12))), '"w": data_offsets [0, 12] hold 12 bytes, expected 8 for F32 [2]'),
    "offsets_missing": (st(F32x2, w=without("data_offsets")), '"w": 0 data_offsets, expected [begin, end]'),
    "offsets_three": (st(F32x2, w=tensor(offsets=(0, 8, 8))), '"w": "data_offsets" is [0,8,8], expected a list of at most 2'),
    "offsets_reversed": (st(F32x2, w=tensor(offsets=(8, 0))), '"w": data_offsets [8, 0] are reversed'),
    "offsets_negative": (st(F32x2, w=tensor(offsets=(-8, 0))), '"w": "data_offsets" is -8, expected integers from 0'),
    "offsets_beyond_file": (st(F32x2, w=tensor(offsets=(8, 16))), '"w": data_offsets [8, 16] end beyond the 8 bytes of data'),
    "offsets_huge": (st(F32x2, w=tensor(offsets=(2**63 - 8, 2**63 - 1))), "end beyond the 8 bytes of data: the file is truncated"),
    "unknown_field": (st(F32x2, w=tensor(scale=2)), '"w": unknown key "scale"'),
    # blocks
    "blocks_not_json": (blocks("Q8", w=tensor("U8", (1, 34), (0, 34))), "carousel.blocks: not valid JSON"),
    "blocks_not_an_object": (blocks("[]", w=tensor("U8", (1, 34), (0, 34))), "carousel.blocks: got [], expected an object"),
    "blocks_type_unknown": (blocks('{"w": "Q5"}', w=tensor("U8", (1, 34), (0, 34))),
                            'carousel.blocks: "w" is "Q5", expected "Q8" or "Q4"'),
    "blocks_type_a_number": (blocks('{"w": 8}', w=tensor("U8", (1, 34), (0, 34))), '"w" is 8, expected "Q8" or "Q4"'),
    "blocks_not_bytes": (blocks('{"w": "Q8"}', w=tensor("I8", (1, 34), (0, 34))),
                         '"w" is I8 [1, 34], expected U8 with rows of whole Q8 blocks of 34 bytes'),
    "blocks_cut": (blocks('{"w": "Q4"}', w=tensor("U8", (1, 34), (0, 34))), '"w" is U8 [1, 34], expected U8 with rows of whole Q4'),
    "blocks_without_rows": (blocks('{"w": "Q4"}', w=tensor("U8", (), (0, 1))), '"w" is U8 [], expected U8 with rows of whole Q4'),
    "blocks_of_no_tensor": (blocks('{"v": "Q8"}', w=tensor("U8", (1, 34), (0, 34))), 'carousel.blocks: "v" is not in the file'),
    # tensors among themselves
    "tensors_overlap": (st(bytes(12), a=tensor(), b=tensor(offsets=(4, 12))), '"b" begins at byte 4 and overlaps "a", which ends at 8'),
    "tensors_share": (st(F32x2, a=tensor(), b=tensor()), '"b" begins at byte 0 and overlaps "a", which ends at 8'),
    "hole_first": (st(bytes(12), w=tensor(offsets=(4, 12))), '4 bytes before "w" belong to no tensor'),
    "hole_between": (st(bytes(20), a=tensor(), b=tensor(offsets=(12, 20))), '4 bytes before "b" belong to no tensor'),
    "bytes_after_the_last": (st(bytes(9), w=tensor()), "1 bytes after the last tensor belong to no tensor"),
    "bytes_without_tensors": (raw("{}", b"x"), "1 bytes after the last tensor belong to no tensor"),
}

GOOD = st(F32x2, w=tensor())


def index(**weight_map):
    return json.dumps({"metadata": {}, "weight_map": weight_map})


# Folders: the index and the shards beside it.
INDEX = {
    "no_weight_map": ({"index": "{}"}, '"weight_map" is missing'),
    "weight_map_a_list": ({"index": '{"weight_map": []}'}, '"weight_map" is [], expected an object'),
    "weight_map_empty": ({"index": index()}, '"weight_map" is {}, expected an object'),
    "index_a_list": ({"index": "[1]"}, "got [1], expected an object"),
    "index_not_json": ({"index": "{"}, "not valid JSON at byte 2"),
    "index_empty": ({"index": ""}, "not valid JSON at byte 1"),
    "index_nests_deep": ({"index": '{"a":' + "[" * 100}, "JSON nests deeper than 8 levels"),
    "tensor_twice": ({"index": '{"weight_map": {"w": "a", "w": "b"}}'}, 'key "w" appears twice in one object'),
    "shard_a_number": ({"index": index(w=3)}, '"w" is in 3, expected the name of a file in the same folder'),
    "shard_empty": ({"index": index(w="")}, '"w" is in "", expected the name of a file in the same folder'),
    "shard_above": ({"index": index(w="../a.safetensors")}, '"w" is in "../a.safetensors", expected the name of a file'),
    "shard_dots": ({"index": index(w="..")}, '"w" is in "..", expected the name of a file'),
    "shard_absolute": ({"index": index(w="/etc/passwd")}, '"w" is in "/etc/passwd", expected the name of a file'),
    "shard_below": ({"index": index(w="x/a.safetensors")}, '"w" is in "x/a.safetensors", expected the name of a file'),
    "shard_backslash": ({"index": index(w="..\\a")}, "expected the name of a file in the same folder"),
    "shard_nul": ({"index": index(w="a.safetensors\0")}, "expected the name of a file in the same folder"),
    "shard_missing": ({"index": index(w="a.safetensors")}, 'shard "a.safetensors" is not in the folder'),
    "shard_malformed": ({"index": index(w="a.safetensors"), "a.safetensors": b"x"}, "1 bytes, too short for a safetensors file"),
    "tensor_not_in_shard": ({"index": index(w="a.safetensors", v="a.safetensors"), "a.safetensors": GOOD},
                            '"v" is not in "a.safetensors", where the index puts it'),
    "tensor_in_other_shard": ({"index": index(w="b.safetensors", v="a.safetensors"), "a.safetensors": GOOD,
                               "b.safetensors": st(F32x2, v=tensor())},
                              '"v" is not in "a.safetensors", where the index puts it'),
    "tensor_in_two_shards": ({"index": index(w="a.safetensors", v="b.safetensors"), "a.safetensors": GOOD,
                              "b.safetensors": st(bytes(16), v=tensor(), w=tensor(offsets=(8, 16)))},
                             '"w" is also in'),
}

JSON = {
    "empty": ("", "not valid JSON at byte 1"),
    "open_object": ('{"a": 1', "not valid JSON at byte 8"),
    "trailing_comma": ('{"a": 1,}', "not valid JSON at byte 9"),
    "trailing_text": ("{} x", "not valid JSON at byte 4"),
    "two_values": ("1 2", "not valid JSON at byte 3"),
    "key_twice": ('{"a": {"b": 1, "b": 2}}', 'key "b" appears twice in one object'),
    "nests_deep": ("[" * 20000, "JSON nests deeper than 64 levels"),
    "nests_deep_objects": ('{"a":' * 20000, "JSON nests deeper than 64 levels"),
    "not_utf8": (b'"\xc3\x28"', "not valid JSON at byte"),
    "lone_surrogate": ('"\\ud800"', "not valid JSON at byte"),
    "number_overflow": ("1e999", "not valid JSON at byte"),
    "nan": ("NaN", "not valid JSON at byte"),
    "single_quotes": ("{'a': 1}", "not valid JSON at byte 2"),
    "nul": (b"\0", "not valid JSON at byte 1"),
    "utf16": ('{"a": 1}'.encode("utf-16"), "not valid JSON at byte"),
    "control_character": ('"a\nb"', "not valid JSON at byte 3"),
}


def config(**changes):
    base = {"model_type": "carousel", "vocab_size": 256, "hidden_size": 16, "num_hidden_layers": 1,
            "mlstm_config": {"num_heads": 2}}
    return json.dumps({k: v for k, v in {**base, **changes}.items() if v is not ...})


CONFIG = {
    "a_list": ("[]", "got [], expected an object"),
    "model_type_missing": (config(model_type=...), '"model_type" is missing'),
    "model_type_a_number": (config(model_type=3), '"model_type" is 3, expected a string'),
    "model_type_unknown": (config(model_type="gpt5"), 'model_type "gpt5" is not supported; known types: carousel, '),
    "quantized": (config(quantization_config={"bits": 4}), '"quantization_config" is set'),
    "vocab_size_missing": (config(vocab_size=...), '"vocab_size" is missing and has no default'),
    "vocab_size_zero": (config(vocab_size=0), '"vocab_size" is 0, expected an integer from 1 to 16777216'),
    "vocab_size_negative": (config(vocab_size=-1), '"vocab_size" is -1, expected an integer from 1'),
    "hidden_size_huge": (config(hidden_size=2**62), '"hidden_size" is 4611686018427387904, expected an integer from 1'),
    "hidden_size_over_int64": (config(hidden_size=2**64 - 1), '"hidden_size" is 18446744073709551615, expected an integer'),
    "hidden_size_text": (config(hidden_size="16"), '"hidden_size" is "16", expected an integer'),
    "hidden_size_fraction": (config(hidden_size=16.5), '"hidden_size" is 16.5, expected an integer'),
    "layers_huge": (config(num_hidden_layers=10**9), '"num_hidden_layers" is 1000000000, expected an integer from 0 to 4096'),
    "layer_types_too_short": (config(num_hidden_layers=2, layer_types=["mlstm"]),
                              '"layer_types" names 1 layers, expected "num_hidden_layers" 2'),
    "layer_types_unknown": (config(layer_types=["lstm"]), 'unknown layer type "lstm"; known types: '),
    "layer_types_numbers": (config(layer_types=[1]), '"layer_types" is 1, expected a string in the list'),
    "section_a_list": (config(mlstm_config=[]), '"mlstm_config" is [], expected an object'),
    "section_key_unknown": (config(mlstm_config={"num_heads": 2, "heads": 2}), 'unknown key "heads"; known keys: '),
    "key_unknown": (config(hidden=16), 'unknown key "hidden"; known keys: '),
    "heads_zero": (config(mlstm_config={"num_heads": 0}), '"num_heads" is 0, expected an integer from 1'),
    "heads_do_not_divide": (config(mlstm_config={"num_heads": 3}),
                            '8 query and 16 value channels do not divide into "num_heads" 3'),
    "norm_eps_nan": (config(norm_eps={"__float__": "NaN"}), '"norm_eps" is nan, expected a number from 0 to 1'),
    "norm_eps_negative": (config(norm_eps=-1), '"norm_eps" is -1, expected a number from 0 to 1'),
    "tie_a_number": (config(tie_word_embeddings=1), '"tie_word_embeddings" is 1, expected true or false'),
    "ffn_a_number": (config(mlstm_config={"num_heads": 2, "ffn": 1}), '"ffn" is 1, expected true or false'),
    "eos_negative": (config(eos_token_id=-1), '"eos_token_id" is -1, expected an integer from 0'),
}

CSV = {
    "empty": ("", "no rows"),
    "blank_lines": ("\n\r\n   \n", "no rows"),
    "header_alone": ("a,b\n", "no rows below the header"),
    "row_too_short": ("a,b\n1,2\n3\n", ":3: 1 cells, expected 2 as in the first row"),
    "row_too_long": ("a,b\n1,2,3\n", ":2: 3 cells, expected 2 as in the first row"),
    "quote_open": ('a,b\n1,"2\n3,4\n', ":2: a quoted cell is never closed"),
    "quote_then_text": ('a,b\n"1"x,2\n', ":2: text after a closing quote"),
    "nul": (b"a,b\n1,\x002\n", ":2: a NUL byte, expected text"),
    "too_wide": ("," * 65536, ":1: 65537 columns, expected at most 65536"),
    "text_for_number": ("a,b\n1,2\n3,x\n", ':3: column 2 "b": got "x", expected a finite number or a missing value'),
    "infinity": ("a\n1\ninf\n", ':3: column 1 "a": got "inf", expected a finite number'),
    "overflow": ("1\n1e999\n", ':2: column 1: got "1e999", expected a finite number'),
    "decimal_comma": ('a;b\n1,5;2\n', ':2: column 1 "a": got "1,5", expected a finite number'),
    "hexadecimal": ("0x10\n", ':1: column 1: got "0x10", expected a finite number'),
}

def one_tensor(**changes):
    """A torch file of one tensor "w", and the errors each changed part of it must give."""
    return torch_zip(pickled({"w": tensor_of((2,), **changes)}), {"0": F32x2})


GOOD_TORCH = one_tensor()
TORCH_ZIP = {
    "truncated": (GOOD_TORCH[:-1], "no zip end record: the file is truncated or no zip archive"),
    "directory_beyond_file": (GOOD_TORCH[:-6] + struct.pack("<I", 2**31) + GOOD_TORCH[-2:],
                              "lies beyond the"),
    "count_too_large": (GOOD_TORCH[:-12] + struct.pack("<H", 1000) + GOOD_TORCH[-10:], "cannot hold 1000 members"),
    "compressed": (torch_zip(pickled({"w": tensor_of((2,))}), {"0": F32x2}, compress=True),
                   "is compressed (zip method 8), expected stored bytes"),
    "no_pickle": (torch_zip(None, {"0": F32x2}), "no data.pkl in the archive"),
    "big_endian": (torch_zip(pickled({}), {}, byteorder=b"big"), 'byteorder is not "little"'),
    "not_a_dict": (torch_zip(pickled([1, 2]), {}), "holds a list, expected a dict of tensors"),
    "state_dict_a_number": (torch_zip(pickled({"state_dict": 3}), {}), '"state_dict" is an integer, expected a dict'),
    "number_for_tensor": (torch_zip(pickled({"w": 3}), {}), '"w": is an integer, expected a tensor'),
    "key_a_number": (torch_zip(pickled({3: 3}), {}), "a tensor is named by an integer, expected text"),
    "storage_missing": (torch_zip(pickled({"w": tensor_of((2,))}), {}), 'storage "archive/data/0" is not in the archive'),
    "storage_short": (torch_zip(pickled({"w": tensor_of((2,))}), {"0": bytes(4)}), "a storage of 4 bytes, expected 2 elements of F32"),
    "storage_type": (one_tensor(storage="ComplexFloatStorage"), 'global "torch.ComplexFloatStorage" is not understood here'),
    "offset_beyond": (one_tensor(offset=1), "2 elements from 1 on, but its storage holds 2"),
    "offset_negative": (one_tensor(offset=-1), "storage_offset is -1, expected an integer from 0"),
    "size_beyond": (torch_zip(pickled({"w": tensor_of((3,), count=2)}), {"0": F32x2}),
                    "3 elements from 0 on, but its storage holds 2"),
    "size_overflows": (torch_zip(pickled({"w": tensor_of((2**40, 2**40), count=2)}), {"0": F32x2}), "its size overflows"),
    "size_of_rank_7": (torch_zip(pickled({"w": tensor_of((1,) * 7, count=2)}), {"0": F32x2}),
                       "size is a tuple, expected a tuple of at most 6 integers"),
    "stride": (one_tensor(stride=(2,)), "stride 2 of dimension 0 is not 1: only contiguous tensors are read"),
    "stride_missing": (one_tensor(stride=()), "1 sizes and 0 strides, expected as many"),
    "system": (torch_zip(op(b"cposix\nsystem\nX\x04\0\0\0true\x85R."), {}),
               'global "posix.system" is not understood here; nothing in a pickle is executed'),
    "evaluate": (torch_zip(op(b"c__builtin__\neval\n."), {}), 'global "__builtin__.eval" is not understood here'),
    "opcode_unknown": (torch_zip(op(b"\xff."), {}), "0xff is no opcode"),
    "opcode_inst": (torch_zip(op(b"(iposix\nsystem\n."), {}), "opcode INST is not understood here"),
    "opcode_newobj": (torch_zip(op(b"}}\x81."), {}), "opcode NEWOBJ is not understood here"),
    "protocol_4": (torch_zip(b"\x80\x04}.", {}), "not a pickle of protocol 2"),
    "stack_empty": (torch_zip(op(b"."), {}), "pickle byte 2: the stack is empty"),
    "stack_left": (torch_zip(op(b"}}."), {}), "1 values are left on the stack"),
    "mark_missing": (torch_zip(op(b"}u."), {}), "no mark on the stack"),
    "memo_missing": (torch_zip(op(b"h\x05."), {}), "memo entry 5 was never set"),
    "text_beyond": (torch_zip(op(b"X\xff\xff\xff\xffab"), {}), "an operand of 4294967295 bytes, but 2 are left"),
    "key_without_value": (torch_zip(op(b"}(K\x01u."), {}), "a key without a value"),
    "items_for_a_number": (torch_zip(op(b"K\x01K\x02a."), {}), "items for an integer"),
    "call_of_a_number": (torch_zip(op(b"K\x01)R."), {}), "a call of an integer"),
    "ends_early": (torch_zip(op(b"}"), {}), "an operand of 1 bytes, but 0 are left"),
    "bytes_after_the_end": (torch_zip(op(b"}.x"), {}), "1 bytes follow the end"),
    "settings_cyclic": (torch_zip(op(b"}(X\x10\0\0\0hyper_parameters]q\0h\0aX\x0a\0\0\0state_dict}u."), {}),
                        "too deep or too many values"),
    # 8^20 values by 20 lists, each of which holds the one before eight times
    "settings_wide": (torch_zip(op(b"}(X\x0a\0\0\0state_dict}X\x01\0\0\0x](]q\0" + b"".join(
        b"](" + b"h%c" % i * 8 + b"eq%c" % (i + 1) for i in range(20)) + b"eX\x10\0\0\0hyper_parametersh\x14u."), {}),
        "too deep or too many values"),
}


def tokenizer(vocab='{"a": 0}', merges="[]", **more):
    rest = "".join(f', "{key}": {json.dumps(value)}' for key, value in more.items())
    return '{"model": {"type": "BPE", "vocab": %s, "merges": %s}%s}' % (vocab, merges, rest)


TOKENIZER = {
    "truncated": ('{"model":', "not valid JSON"),
    "array": ("[]", "got '[' at byte 0, expected '{'"),
    "unigram": ('{"model": {"type": "Unigram", "vocab": []}}', 'model: type "Unigram" is not supported, expected "BPE"'),
    "id_negative": (tokenizer('{"a": -1}'), 'token "a" has id -1, expected 0 to '),
    "id_huge": (tokenizer('{"a": 99999999999}'), 'token "a" has id 99999999999, expected 0 to '),
    "token_twice": (tokenizer('{"a": 0, "a": 1}'), 'token "a" has id 0 and id 1'),
    "merge_of_unknown": (tokenizer(merges='["a b"]'), 'merge 0 ("a", "b"): "b" is not in vocab'),
    "normalizer_unknown": (tokenizer(normalizer={"type": "Precompiled"}), 'normalizer: type "Precompiled" is not supported'),
    "regex_open": (tokenizer(pre_tokenizer={"type": "Split", "pattern": {"Regex": "("}, "behavior": "Isolated"}),
                   'pre_tokenizer: regex "(" does not compile'),
    "added_id": (tokenizer(added_tokens=[{"id": "x", "content": "y"}]), 'added_tokens[0]: "id" is "x"'),
}


def state(body=b"", tensors=None, **metadata):
    return raw(json.dumps({"__metadata__": metadata, **(tensors or {})}), body)


STATE_HEAD = {"format": "carousel.state", "version": "1"}
STATE = {
    "empty": (b"", "0 bytes, too short for a safetensors file"),
    "no_metadata": (st(F32x2, w=tensor()), 'not a saved state: metadata "format" is missing'),
    "other_format": (state(format="other", version="1"), 'format is "other" version "1", expected "carousel.state"'),
    "later_version": (state(format="carousel.state", version="2"), 'version "2", expected "carousel.state" version "1"'),
    "no_model": (state(**STATE_HEAD), 'metadata "model" is missing'),
    "other_model": (state(**STATE_HEAD, model="0123456789abcdef", pos="1", checksum="0"),
                    "state of another model (fingerprint 0123456789abcdef, expected "),
}


def fresh(folder):
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    return folder


def as_bytes(text):
    return text if isinstance(text, bytes) else text.encode()


def write_files(folder, cases, suffix):
    fresh(folder)
    expected = {}
    for name, (content, message) in cases.items():
        (folder / (name + suffix)).write_bytes(as_bytes(content))
        expected[name + suffix] = message
    (folder / "expected.json").write_text(json.dumps(expected, indent=1, sort_keys=True) + "\n")


def write_folders(folder, cases):
    fresh(folder)
    expected = {}
    for name, (files, message) in cases.items():
        (folder / name).mkdir()
        for file, content in files.items():
            target = "model.safetensors.index.json" if file == "index" else file
            (folder / name / target).write_bytes(as_bytes(content))
        expected[name] = message
    (folder / "expected.json").write_text(json.dumps(expected, indent=1, sort_keys=True) + "\n")


def write_seeds(target, seeds):
    folder = fresh(CORPUS / target)
    for name, content in seeds.items():
        (folder / name).write_bytes(as_bytes(content))


write_files(MALFORMED / "safetensors", SAFETENSORS, ".safetensors")
write_folders(MALFORMED / "index", INDEX)
write_files(MALFORMED / "json", JSON, ".json")
write_files(MALFORMED / "config", CONFIG, ".json")
write_files(MALFORMED / "torch_zip", TORCH_ZIP, ".ckpt")
write_files(MALFORMED / "csv", CSV, ".csv")
write_files(MALFORMED / "tokenizer", TOKENIZER, ".json")
write_files(MALFORMED / "state", STATE, ".safetensors")
write_files(MALFORMED / "gguf", GGUF, ".gguf")
write_files(MALFORMED / "gguf_model", GGUF_MODEL, ".gguf")

write_seeds("gguf", SEEDS)
write_seeds("ggml_blocks", BLOCK_SEEDS)

write_seeds("safetensors", {
    "one": GOOD,
    "two": st(bytes(13), a=tensor(), b=tensor("BF16", (1, 2), (8, 12)), c=tensor("U8", (1,), (12, 13))),
    "metadata": raw(json.dumps({"__metadata__": {"format": "pt"}, "w": tensor(shape=(0, 3), offsets=(0, 0))})),
    "overlap": SAFETENSORS["tensors_overlap"][0],
    "hole": SAFETENSORS["hole_between"][0],
    "blocks": blocks('{"w": "Q8", "v": "Q4"}', w=tensor("U8", (2, 34), (0, 68)), v=tensor("U8", (1, 36), (68, 104))),
})
write_seeds("json", {
    "object": '{"a": [1, -2.5e3, true, false, null, "\\u00e9\\n"], "b": {"c": {}}}',
    "float": '{"a": {"__float__": "-Infinity"}}',
    "integer": '{"a": 18446744073709551615}',
    "list": '{"a": ["x", "y"]}',
})
write_seeds("index", {
    "two": index(w="a.safetensors", v="b.safetensors"),
    "above": index(w="../a.safetensors"),
})
write_seeds("torch_zip", {
    "one": GOOD_TORCH,
    "lightning": torch_zip(pickled({"state_dict": {"w": tensor_of((2,)), "v": tensor_of((1, 2), parameter=True)},
                                    "hyper_parameters": {"a": [1, 2.5, None, True], "b": {"c": "d"}}}), {"0": F32x2}),
    "system": TORCH_ZIP["system"][0],
    "cyclic": TORCH_ZIP["settings_cyclic"][0],
})
write_seeds("csv", {
    "wide": 'ds,"a ""b""",c\r\n2020-01-31,1.5,NaN\r\n2020-02-29,-2e3,\r\n',
    "semicolon": "\ufeffid;y\n x ; +1\n\n",
    "tab": '1\t"2\n3"\n',
})

SMALL = {"model_type": "carousel", "vocab_size": 256, "hidden_size": 16, "num_hidden_layers": 2}
write_seeds("config", {
    "carousel": json.dumps({**SMALL, "norm_eps": 1e-6, "tie_word_embeddings": False, "layer_types": ["mlstm", "full_attention"],
                            "mlstm_config": {"num_heads": 2},
                            "attention_config": {"num_heads": 2, "num_kv_heads": 1}}),
    "conv": json.dumps({**SMALL, "layer_types": ["conv", "ffn_only"], "conv_config": {}, "ffn_config": {}}),
    "xlstm": json.dumps({"model_type": "xlstm", "vocab_size": 256, "hidden_size": 32, "num_heads": 2, "num_hidden_layers": 2,
                         "qk_dim_factor": 0.5, "v_dim_factor": 1.0, "gate_soft_cap": 15.0, "ffn_proj_factor": 2.667}),
    "lfm2": json.dumps({"model_type": "lfm2", "vocab_size": 256, "hidden_size": 32, "num_hidden_layers": 2,
                        "num_attention_heads": 2, "num_key_value_heads": 1, "conv_L_cache": 3, "block_ff_dim": 64,
                        "full_attn_idxs": [1]}),
    "llama": json.dumps({"model_type": "llama", "vocab_size": 256, "hidden_size": 32, "num_hidden_layers": 1,
                         "num_attention_heads": 2, "intermediate_size": 64, "rope_theta": 1e4}),
    "wired": json.dumps({**SMALL, "hidden_size": 8, "layer_types": ["mlstm", "slstm"],
                         "mlstm_config": {"num_heads": 2, "wiring": {
                             "q": {"type": "random", "sparsity": 0.9, "seed": 1, "polarity": True},
                             "igate": {"type": "explicit", "matrix": [[1, 0, -1, 0, 0, 0, 1, 1], [0, 1, 0, 0, 0, 1, 0, 0]]},
                             "v": {"type": "AutoNCP", "output_size": 2, "seed": 3},
                             "out": {"type": "checkpoint", "init": {"type": "random", "sparsity": 0.5}}}},
                         "slstm_config": {"num_heads": 2, "wiring": {"*": {"type": "random", "sparsity": 1}}},
                         "ffn_config": {"intermediate_size": 16, "wiring": {
                             "up": {"type": "NCP", "inter_neurons": 8, "command_neurons": 4, "motor_neurons": 4,
                                    "sensory_fanout": 2, "inter_fanout": 2, "recurrent_command_synapses": 3,
                                    "motor_fanin": 2, "polarity": True}}}}),
})
write_seeds("state", {
    "zero": struct.pack("<q", 0) + raw("{}"),
    "header": struct.pack("<q", 1) + raw(json.dumps({"__metadata__": {"format": "carousel.state", "version": "1",
                                                                      "model": "0", "pos": "1", "checksum": "0"}})),
    # What the small model of state_fuzz.cc remembers after one token.
    "one": struct.pack("<q", 1) + st(bytes(4392), **{"0.C": tensor(shape=(2, 4, 8), offsets=(0, 256)),
                                                     "0.n": tensor(shape=(2, 4), offsets=(256, 288)),
                                                     "0.m": tensor(shape=(2,), offsets=(288, 296)),
                                                     "1.k": tensor(shape=(1, 1, 8, 64), offsets=(296, 2344)),
                                                     "1.v": tensor(shape=(1, 1, 64, 8), offsets=(2344, 4392))}),
})
