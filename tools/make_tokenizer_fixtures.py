#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Writes tests/fixtures/tokenizers/small_tokenizers.json: small tokenizers, one feature each, and what the reference
library makes of some texts. Needs: pip install tokenizers (0.23). Run: python3 tools/make_tokenizer_fixtures.py"""

import json
import os

from tokenizers import Tokenizer

LLAMA3 = (r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+"
          r"|\s+(?!\S)|\s+")
META = "\u2581"
TEXTS = [
    "", " ", "  ", "hello world", "  leading and trailing  ", "Hello, World! It's 12345.67 today!!", "a\tb\r\n c\n\n\nd",
    "héllo wörld ÀÉ", "e\u0301 combining \u0131 \u0130", "日本語 漢字", "👩\u200d👧 🇦🇹 ☃️", "ﬁ ½ ² ™ Ⅷ\u00a0\u3000x",
    "<s>hello</s> <mask> world", "hello <mask>  world<mask>", "<sep><sep> a<sep>b <sep> c", "xwordx word words word",
    "HELLO <NORM> hello <norm>", "a\u180eb \u0085c\u2028d", "hello\u2581world\u2581", "\u2581", "x_y-z.w", "'S 'll It'LL",
    "low lower lowest newest widest", "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa", "१२३ ٣ Ⅻ x1y2",
    "\u0301\u0316\u0301 marks \u0316\u0301", "한국어 \u1112\u1161\u11ab", "abc--def..ghi", "a\u200bb\ufeffc",
]


def byte_chars():
    keep = [b for b in range(256) if 33 <= b <= 126 or 161 <= b <= 172 or b >= 174]
    table, n = {}, 0
    for b in range(256):
        table[b] = chr(b) if b in keep else chr(256 + n)
        n += b not in keep
    return table


BYTES = byte_chars()


def spell(text):
    return "".join(BYTES[b] for b in text.encode())


def vocab_of(symbols, merges):
    vocab = {}
    for token in list(symbols) + [a + b for a, b in merges]:
        vocab.setdefault(token, len(vocab))
    return vocab


def byte_model(extra=(), **options):
    words = ["hello", " world", " word", "low", "er", "est", " the", "ing", "aaaa", "123", "12", "日本", "é", "!!", "  "]
    merges, seen = [], set(BYTES.values())
    for word in [spell(w) for w in words]:
        left = word[0]
        for c in word[1:]:
            if left + c not in seen:
                merges.append((left, c))
                seen.add(left + c)
            left += c
    merges += [("Ġ", "l"), ("l", "o")]
    merges = list(dict.fromkeys(merges))
    vocab = vocab_of(list(BYTES.values()), merges)
    for token in extra:
        vocab[token] = len(vocab)
    return dict(type="BPE", dropout=None, unk_token=None, continuing_subword_prefix=None, end_of_word_suffix=None,
                fuse_unk=False, byte_fallback=False, **{"ignore_merges": False, **options}, vocab=vocab,
                merges=[list(m) for m in merges])


def char_model(byte_fallback=True, **options):
    merges = [("h", "e"), ("l", "l"), ("he", "ll"), ("hell", "o"), (META, "hello"), ("o", "r"), ("w", "or"), ("l", "d"),
              ("wor", "ld"), (META, "world"), (META, "h"), (META, META), (META + META, META + META), ("a", "a"),
              ("aa", "aa"), (META, "t"), ("e", "r"), ("日", "本")]
    symbols = ["<unk>", "<s>", "</s>"] + ([f"<0x{b:02X}>" for b in range(256)] if byte_fallback else [])
    symbols += [META] + list("abcdefghijklmnopqrstuvwxyzHW,.!'日本語é")
    return dict(type="BPE", dropout=None, **{"unk_token": "<unk>", "fuse_unk": True, "byte_fallback": byte_fallback,
                "continuing_subword_prefix": None, "end_of_word_suffix": None, **options},
                vocab=vocab_of(symbols, merges), merges=[list(m) for m in merges])


def token(content, id, **flags):
    return dict(id=id, content=content, **{"single_word": False, "lstrip": False, "rstrip": False, "normalized": False,
                                           "special": True, **flags})


def byte_level(**options):
    return {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": True, **options}


def split(pattern, behavior="Isolated", invert=False):
    return {"type": "Split", "pattern": pattern, "behavior": behavior, "invert": invert}


def sequence(key, *steps):
    return {"type": "Sequence", key: list(steps)}


def template(*pieces, **ids):
    return {"type": "TemplateProcessing",
            "single": [{"Sequence": {"id": "A", "type_id": 0}} if p == "A" else {"SpecialToken": {"id": p, "type_id": 0}}
                       for p in pieces],
            "pair": [{"Sequence": {"id": "A", "type_id": 0}}, {"Sequence": {"id": "B", "type_id": 1}}],
            "special_tokens": {p: {"id": p, "ids": ids["ids"][p], "tokens": [p] * len(ids["ids"][p])}
                               for p in pieces if p != "A"}}


def metaspace(**options):
    return {"type": "Metaspace", "replacement": META, "prepend_scheme": "always", "split": True, **options}


def file(model, added=(), normalizer=None, pre=None, post=None, decoder=None):
    return {"version": "1.0", "truncation": None, "padding": None, "added_tokens": list(added), "normalizer": normalizer,
            "pre_tokenizer": pre, "post_processor": post, "decoder": decoder, "model": model}


def fixtures():
    level = byte_level(use_regex=False)
    n = len(byte_model()["vocab"])
    meta_norm = sequence("normalizers", {"type": "Prepend", "prepend": META},
                         {"type": "Replace", "pattern": {"String": " "}, "content": META})
    meta_decode = sequence("decoders", {"type": "Replace", "pattern": {"String": META}, "content": " "},
                           {"type": "ByteFallback"}, {"type": "Fuse"},
                           {"type": "Strip", "content": " ", "start": 1, "stop": 0})
    llama_added = [token("<unk>", 0), token("<s>", 1), token("</s>", 2)]
    yield "gpt2", file(byte_model(), pre=byte_level(), decoder=byte_level())
    yield "gpt2-prefix-space", file(byte_model(), [token("<s>", n)], pre=byte_level(add_prefix_space=True),
                                    decoder=byte_level())
    llama3 = sequence("pretokenizers", split({"Regex": LLAMA3}), level)
    post = sequence("processors", level, template("<s>", "A", ids={"<s>": [n]}))
    extra = [spell(" lowest"), spell("Hello"), spell("日本語")]
    m = len(byte_model(extra)["vocab"])
    yield "llama3-ignore-merges", file(byte_model(extra, ignore_merges=True), [token("<s>", m)], pre=llama3,
                                       post=sequence("processors", level, template("<s>", "A", ids={"<s>": [m]})),
                                       decoder=byte_level())
    yield "llama3-merges", file(byte_model(extra), [token("<s>", m)], pre=llama3, decoder=byte_level())
    yield "template-both-sides", file(byte_model(), [token("<s>", n), token("</s>", n + 1)], pre=llama3,
                                      post=template("<s>", "A", "</s>", ids={"<s>": [n], "</s>": [n + 1, n]}),
                                      decoder=byte_level())
    yield "post-sequence", file(byte_model(), [token("<s>", n)], pre=llama3, post=post, decoder=byte_level())
    for form in ["NFC", "NFD", "NFKC", "NFKD"]:
        yield form, file(byte_model(), normalizer={"type": form}, pre=byte_level(), decoder=byte_level())
    yield "lower-strip-accents", file(byte_model(), normalizer=sequence(
        "normalizers", {"type": "NFD"}, {"type": "StripAccents"}, {"type": "Lowercase"},
        {"type": "Strip", "strip_left": True, "strip_right": False}), pre=byte_level(), decoder=byte_level())
    yield "lowercase", file(byte_model(), normalizer={"type": "Lowercase"}, pre=byte_level(), decoder=byte_level())
    yield "replace-regex", file(byte_model(), normalizer=sequence(
        "normalizers", {"type": "Replace", "pattern": {"Regex": r"\s+"}, "content": " "},
        {"type": "Replace", "pattern": {"String": "l"}, "content": "LL"}), pre=byte_level(), decoder=byte_level())
    flags = [("<mask>", dict(lstrip=True)), ("<sep>", dict(rstrip=True)), ("word", dict(single_word=True, special=False)),
             ("<NORM>", dict(normalized=True)), ("<s>", {}), ("<s>hell", dict(special=False)), ("</s>", dict(special=False))]
    added = [token(t, n + i, **f) for i, (t, f) in enumerate(flags)]
    yield "added-flags", file(byte_model(), added, pre=byte_level(), decoder=byte_level())
    # In lower case from the start: 0.23 decodes a normalized token to its normalized form, earlier versions do not.
    lower = [dict(t, content=t["content"].lower()) for t in added]
    yield "added-flags-lowercase", file(byte_model(), lower, normalizer={"type": "Lowercase"}, pre=byte_level(),
                                        decoder=byte_level())
    both = [token("<mask>", n, lstrip=True, rstrip=True), token("<sep>", n + 1, lstrip=True, rstrip=True, normalized=True),
            token("éa", n + 2, special=False), token("  ", n + 3, special=False, normalized=True)]
    yield "added-both-strips", file(byte_model(), both, normalizer={"type": "NFC"}, pre=byte_level(), decoder=byte_level())
    for behavior in ["Isolated", "Removed", "MergedWithPrevious", "MergedWithNext", "Contiguous"]:
        for invert in [False, True]:
            for name, pattern in [("string", {"String": "l"}), ("regex", {"Regex": r"[a-m.]|\s"})]:
                pre = sequence("pretokenizers", split(pattern, behavior, invert), level)
                yield f"split-{behavior}-{invert}-{name}", file(byte_model(), pre=pre, decoder=byte_level())
    for step in [{"type": "Whitespace"}, {"type": "WhitespaceSplit"}, {"type": "Digits", "individual_digits": True},
                 {"type": "Digits", "individual_digits": False}, {"type": "Punctuation", "behavior": "Isolated"},
                 {"type": "Punctuation", "behavior": "MergedWithPrevious"}]:
        yield "pre-" + "-".join(str(v) for v in step.values()), file(
            byte_model(), pre=sequence("pretokenizers", step, level), decoder=byte_level())
    yield "split-empty-match", file(byte_model(), pre=sequence("pretokenizers", split({"Regex": "o*"}), level),
                                    decoder=byte_level())
    yield "digits-then-gpt2", file(byte_model(), pre=sequence(
        "pretokenizers", {"type": "Digits", "individual_digits": True}, byte_level()), decoder=byte_level())
    yield "sentencepiece", file(char_model(), llama_added, normalizer=meta_norm, decoder=meta_decode,
                                post=template("<s>", "A", ids={"<s>": [1]}))
    yield "sentencepiece-ignore-merges", file(char_model(ignore_merges=True), llama_added, normalizer=meta_norm,
                                              decoder=meta_decode)
    yield "unknown-fused", file(char_model(byte_fallback=False), llama_added, normalizer=meta_norm, decoder=meta_decode)
    yield "unknown-single", file(char_model(byte_fallback=False, fuse_unk=False), llama_added, normalizer=meta_norm,
                                 decoder=meta_decode)
    yield "unknown-dropped", file(char_model(byte_fallback=False, unk_token=None), llama_added, normalizer=meta_norm,
                                  decoder=meta_decode)
    for scheme in ["always", "first", "never"]:
        for cut in [True, False]:
            meta = metaspace(prepend_scheme=scheme, split=cut)
            yield f"metaspace-{scheme}-{cut}", file(
                char_model(), llama_added, pre=meta,
                decoder=sequence("decoders", {"type": "ByteFallback"}, metaspace(prepend_scheme=scheme)))
    yield "metaspace-decoder", file(char_model(), llama_added, pre=metaspace(), decoder=metaspace())
    yield "no-decoder", file(char_model(), llama_added, pre={"type": "Whitespace"})
    yield "strip-stop", file(char_model(), llama_added, pre=metaspace(), decoder=sequence(
        "decoders", {"type": "Replace", "pattern": {"String": META}, "content": " "}, {"type": "ByteFallback"},
        {"type": "Strip", "content": " ", "start": 1, "stop": 0}, {"type": "Replace", "pattern": {"Regex": "l+"}, "content": "L"}))
    suffix = dict(type="BPE", dropout=None, unk_token=None, continuing_subword_prefix="##", end_of_word_suffix="</w>",
                  fuse_unk=False, byte_fallback=False, vocab={}, merges=[["l", "##o"], ["lo", "##w</w>"], ["##e", "##r</w>"],
                                                                         ["lo", "##w"]])
    for c in "abcdefghijklmnopqrstuvwxyz":
        for form in [c, "##" + c, c + "</w>", "##" + c + "</w>"]:
            suffix["vocab"][form] = len(suffix["vocab"])
    for t in ["lo", "low</w>", "##er</w>", "low"]:
        suffix["vocab"][t] = len(suffix["vocab"])
    yield "prefix-and-suffix", file(suffix, pre={"type": "WhitespaceSplit"})


def main():
    out = []
    for name, spec in fixtures():
        reference = Tokenizer.from_str(json.dumps(spec))
        cases = []
        for text in TEXTS:
            ids = reference.encode(text).ids
            reference.encode_special_tokens = True
            plain = reference.encode(text, add_special_tokens=False).ids
            reference.encode_special_tokens = False
            cases.append(dict(text=text, ids=ids, ids_no_special=reference.encode(text, add_special_tokens=False).ids,
                              ids_plain=plain, decoded=reference.decode(ids, skip_special_tokens=False),
                              decoded_skip_special=reference.decode(ids)))
        size = max(spec["model"]["vocab"].values()) + 1
        decodes = []
        for step in [7, 31, 101]:
            ids = [(i * step + 3) % size for i in range(60)]
            decodes.append(dict(ids=ids, decoded=reference.decode(ids, skip_special_tokens=False),
                                decoded_skip_special=reference.decode(ids)))
        out.append(dict(name=name, tokenizer=spec, cases=cases, decodes=decodes))
    path = os.path.join(os.path.dirname(__file__), "..", "tests", "fixtures", "tokenizers", "small_tokenizers.json")
    with open(path, "w", encoding="utf-8") as f:
        f.write('{"fixtures": [\n')
        f.write(",\n".join(json.dumps(x, ensure_ascii=False, separators=(",", ":")) for x in out))
        f.write("\n]}\n")
    print(f"{len(out)} fixtures, {os.path.getsize(path)} bytes")


if __name__ == "__main__":
    main()
