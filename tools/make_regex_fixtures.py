#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Writes tests/fixtures/tokenizers/regexes.json: what patterns match, what classes hold, and where Metaspace puts its
mark, in the reference library. Needs: pip install tokenizers (0.23.3). Run: python3 tools/make_regex_fixtures.py"""

import json
import os

from tokenizers import Regex, Tokenizer, __version__, normalizers, pre_tokenizers

MARK = "⟦⟧"
CODES = [c for c in [*range(0x34000), *range(0xE0000, 0xE1000)] if not 0xD800 <= c < 0xE000]
ALL = "".join(map(chr, CODES))

TEXTS = [
    "aaaab aab ab b", "abcabc xyzzy\nab\r\nAB\n", "a{2} a{,2} {x} a{ }", "Straße STRASSE ſs ß ẞ ﬀ ff ﬃ K k K", "x² Ⅷ ① Ⓐ ½ 12 ٣ ३",
    "e\u0301 👩\u200d👧 🇦🇹 한 \u0301", "\t\v\f\r\n\x07\x1b\x00\x08 \u0085\u00a0\u2028\u3000", "日本語 ひらがな カタカナ Ωμέγα",
    "foo_bar-baz [q] \\ $9 <=> ^`|~ (p)", "((a)(b(c))) <t>x</t> abba noon", "line one\nline two\n", "DŽ Dž dž Σσς İıi ΐ ŉ ʼn",
]

PATTERNS = r"""
a+ | a* | a? | a+? | a*? | a?? | a++b | a*+b | a?+b | a{2} | a{2,} | a{1,2} | a{,2} | a{2}? | a{2,}? | a{1,2}? | a{,2}?
a{2}+ | a{2,}+ | a{1,2}+ | a{,2}+ | a{2}+a | a{2,1} | a{2,1}b | a{2}{2} | a{2}* | (?:a{2})+ | a{,} | a{ | a{2 | a{x} | {x}
a{2}?+ | a+* | a*?+ | a+{2} | a?{2} | \{2} | a{0} | a{0,0}b | {,2} a
. | .+ | (?m:.)+ | (?m).+ | (?-m:.)+ | \N+ | \O+ | \R | \R+ | \w+\R | [^x]+\R | \X | \X{2} | x\X | \y | \Y | \y\w | (?y{w}:\y) | (?y{w})\X
^ | $ | ^. | .$ | \A. | .\z | .\Z | \b | \B | \bb | b\b | \G. | \Ga | a\Kb | a\K | \w\K\s
\w+ | \W+ | \d+ | \D+ | \s+ | \S+ | \h+ | \H+ | [\w]+ | [\W]+ | [^\w]+ | [\S\s] | [\H]+ | [\D]+
\t | \v | \n | \r | \f | \a | \e | \0 | \00 | \010 | \101 | \x41 | \x{41} | \x{df} | \u00df | \o{101} | \cA | \C-H | \x{61 62} | [\b] | [\v] | [\e\a] | [\x41-\x{5a}]
[a-c]+ | [^a-c]+ | [a-c&&b-z]+ | [^a-z&&[^aeiou]]+ | [a[bc]]+ | [^a[bc]]+ | [a-w&&[^c-g]z]+ | []a]+ | [^]a]+ | [a-]+ | [-a]+ | [a\-c]+ | [\]]+ | [a&&]+ | [.*+?]+
[[:alpha:]]+ | [[:^alpha:]]+ | [^[:alpha:]]+ | [[:punct:]]+ | [[:^punct:]]+ | [[:word:]]+ | [[:upper:][:digit:]]+ | [[:space:]a]+ | [[:xdigit:]]+ | [[:cntrl:]]+ | [[:print:]]+ | [[:graph:]]+ | [[:ascii:]]+ | [[:blank:]]+ | [[:alnum:]_]+
\p{L}+ | \P{L}+ | \p{^L}+ | \P{^L}+ | [\p{L}\p{N}]+ | [^\p{L}]+ | \p{Lu} | \p{letter}+ | \p{Uppercase Letter} | \p{uppercase-letter} | \p{UPPERCASE_LETTER} | \p{Han}+ | \p{hiragana}+ | \p{Greek}+ | \p{Word}+ | \P{word}+ | \p{punct}+ | \p{Alnum}+ | \p{In_Hiragana}+ | \p{inkatakana}+ | \p{Any} | \p{Emoji}+ | \p{Extended_Pictographic} | \p{Cn} | \p{Kawi} | \pL+ | \PL+
(?i)strasse | (?i)straße | (?i:ß) | (?i:ss) | (?i)[ß] | (?i)[^ß]+ | (?i)k | (?i)\x{212A} | (?i:ff) | (?i:ﬀ) | (?i:ffi) | (?i)dž | (?i)σ+ | (?i)İ | (?i)i | (?i)ŉ | (?i)[a-z]+ | (?i)[[:lower:]]+ | (?i)\p{Lu}+ | a(?i)b|c | a(?i:B) | (?i-i:AB) | (?i)a(?-i)b
(?x) a b | (?x: a  b ) | (?x) a \  b | (?x)[a b]+ | (?W)\w+ | (?W:\w)+ | (?D)\d+ | (?S)\s+ | (?P)[[:alpha:]]+ | (?P)\p{Upper}+ | (?W)\b. | (?a)a | (?C)(a)b | (?s).
(a)(b) | (a)\1 | (.)(.)\2\1 | (?<x>.)\k<x> | (?<x>a)|b\k<x> | (?'y'o)\k'y' | (.)\k<1> | (.)\k<-1> | (a)|\1 | (?<n>\((?:[^()]|\g<n>)*\)) | \g<0>? | (?:a(?<b>b)){0}\g<b> | <(?<t>\w+)>.*</\k<t>> | (?<a>.|(?:(?<b>.)\g<a>\k<b+0>)) | (\w)\g<1>
a(?=b) | a(?!b) | (?<=a)b | (?<!a)b | (?<=a|bc). | (?<=a+)b | (?<!a{2,3})b | (?<=\w\s)\w | (?<=(?i:A))b | (?<=\R). | (?<!\R). | (?=a)* | (?!\S)\s+ | \s+(?!\S)|\s+
(?>a+)b | (?>a+)a | (?>a|ab)b | (?~ab) | (?~|ab|.+) | (?~|ab)\w+ | (?#c)a | a(?#c\)d)b | (?(a)b|c) | (?(?=a)ab|\w) | (a)?(?(1)b|c) | (?<q>a)?(?(<q>)b|c) | x*(?(a)b|c) | (?(a)b|c)* | (?(a)|c) | (?(1)a)
|a | a| | a||b | () | (|a)+ | (a|)+ | (?:)* | (a*)* | (a*)+ | (a*|b)* | (?:a?)*?b | ( | ) | [ | [a | a** | * | + | ? | (?<n) | (?<1>a) | \ | \p{Nope} | \p{L | [z-a] | [[:nope:]] | \k<n> | \1 | (?<=a(?=b))b | (?z) | (*FAIL)|a | (*NOPE) | [a-\d] | \xZ | \u12 | [[:alpha:] | [:alpha:] | \x{110000}
(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+
'(?i:[sdmt]|ll|ve|re)|[^\r\n\p{L}\p{N}]?+\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]++[\r\n]*|\s*[\r\n]|\s+(?!\S)|\s+
[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+(?i:'s|'t|'re|'ve|'m|'ll|'d)?|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+
"""
WHOLE = 3  # of the last lines each is one pattern
CLASSES = r"""\w \W \d \s \h . \N [\w] [^\w] (?W)\w (?D)\d (?S)\s (?P)[[:alpha:]] (?i)k (?i)[a-z] (?i)\p{Lu} (?i)\p{Ll} \p{L} \p{Lu} \p{Ll}
\p{Lt} \p{Lm} \p{Lo} \p{M} \p{Mn} \p{N} \p{Nd} \p{Nl} \p{No} \p{P} \p{Punct} \p{S} \p{Sc} \p{Sm} \p{Z} \p{C} \p{Cn} \p{Cf} \p{Co} \p{Letter}
\p{Alphabetic} \p{Uppercase} \p{Lowercase} \p{White_Space} \p{Ideographic} \p{Dash} \p{ID_Start} \p{XID_Continue} \p{Word} \p{Alnum} \p{Emoji}
\p{Assigned} \p{Common} \p{Inherited} \p{Latin} \p{Greek} \p{Cyrillic} \p{Han} \p{Hiragana} \p{Katakana} \p{Hangul} \p{Arabic} \p{Devanagari}
\p{Kawi} \p{Nagm} \p{Garay} \p{Tutg} \p{In_Kawi} \p{In_CJK_Unified_Ideographs_Extension_I} \p{In_No_Block} \p{In_Basic_Latin}
\p{Grapheme_Extend} \p{Extended_Pictographic} \p{Cased} \p{Case_Ignorable} \p{Math} \p{Diacritic} [[:alnum:]] [[:alpha:]] [[:blank:]]
[[:cntrl:]] [[:digit:]] [[:graph:]] [[:lower:]] [[:print:]] [[:punct:]] [[:space:]] [[:upper:]] [[:word:]] [[:xdigit:]] [[:^punct:]]""".split()


def patterns():
    lines = PATTERNS.strip("\n").split("\n")
    for line in lines[:-WHOLE]:
        yield from line.split(" | ")
    yield from lines[-WHOLE:]


def fnv(numbers):  # FNV-1a over 32-bit numbers
    h = 0xCBF29CE484222325
    for n in numbers:
        h = (h ^ n) * 0x100000001B3 % 2**64
    return h


def run(pattern):
    try:
        regex = Regex(pattern)
    except Exception:  # noqa: BLE001
        return {"pattern": pattern, "refused": True}
    replace = normalizers.Replace(regex, MARK)
    split = pre_tokenizers.Split(regex, "removed", invert=True)
    return {"pattern": pattern, "replaced": [replace.normalize_str(t) for t in TEXTS],
            "matched": [[w for w, _ in split.pre_tokenize_str(t)] for t in TEXTS]}


def held(pattern):
    split = pre_tokenizers.Split(Regex(f"(?:{pattern})+"), "removed", invert=True)
    ends = [CODES[i] if i < len(CODES) else 0x110000 for _, o in split.pre_tokenize_str(ALL) for i in o]
    return {"pattern": pattern, "ranges": len(ends) // 2, "hash": f"{fnv(ends):016x}"}


def seq(key, steps):
    return steps[0] if len(steps) == 1 else {"type": "Sequence", key: steps} if steps else None


def tokenizers():
    symbols = "▁ aAbcdéex.,-1\n日ﬁfi<s>Ġ\u0301½²⁄Ã©"
    vocab = {c: i for i, c in enumerate(dict.fromkeys(symbols))}
    vocab["<unk>"] = len(vocab)
    split = {"type": "Split", "pattern": {"Regex": "[ab]"}, "behavior": "Isolated", "invert": False}
    strip = {"type": "Strip", "strip_left": True, "strip_right": True}
    names = {
        "replace": {"type": "Replace", "pattern": {"String": "a"}, "content": "xx"},
        "drop": {"type": "Replace", "pattern": {"Regex": "^[ab]"}, "content": ""},
        "insert": {"type": "Replace", "pattern": {"Regex": "$"}, "content": "x"},
        "prepend": {"type": "Prepend", "prepend": "x"}, "strip": strip, "NFC": {"type": "NFC"}, "NFD": {"type": "NFD"},
        "NFKC": {"type": "NFKC"}, "lower": {"type": "Lowercase"}, "accents": {"type": "StripAccents"},
    }
    chains = [[n] for n in names] + [["strip", "prepend"], ["NFD", "accents"], ["prepend", "strip", "lower"], ["drop", "drop"]]
    pres = {
        "alone": [], "split": [split], "space": [{"type": "WhitespaceSplit"}], "words": [{"type": "Whitespace"}],
        "digits": [{"type": "Digits", "individual_digits": True}], "punct": [{"type": "Punctuation", "behavior": "Removed"}],
        "bytes": [{"type": "ByteLevel", "add_prefix_space": True, "trim_offsets": True, "use_regex": True}],
        "split-space": [split, {"type": "WhitespaceSplit"}],
    }
    added = [dict(id=len(vocab), content="<s>", single_word=False, lstrip=False, rstrip=False, normalized=False, special=True)]
    meta = [dict(type="Metaspace", replacement="▁", prepend_scheme=scheme, split=cut)
            for scheme, cut in [("first", True), ("first", False), ("always", True), ("never", True)]]
    meta.append({"type": "Metaspace", "replacement": "▁", "add_prefix_space": True})
    cases = [([], name, m, False) for name in pres for m in meta] + [(c, n, meta[0], False) for c in chains
                                                                     for n in ["alone", "split", "space"]]
    cases += [([], "split", meta[0], True), (["strip"], "alone", meta[0], True)]
    for chain, pre, m, twice in cases:
        yield {"version": "1.0", "truncation": None, "padding": None, "added_tokens": added, "post_processor": None,
               "decoder": None, "normalizer": seq("normalizers", [names[n] for n in chain]),
               "pre_tokenizer": seq("pretokenizers", pres[pre] + [m] + ([m] if twice else [])),
               "model": dict(type="BPE", dropout=None, unk_token="<unk>", continuing_subword_prefix=None,
                             end_of_word_suffix=None, fuse_unk=False, byte_fallback=False, vocab=vocab, merges=[])}


META_TEXTS = ["", " ", "ab", " ab", "  ab", "ab cd", "a b", "<s>ab", " <s>ab", "ab<s>ab", "<s>", "éab", "e\u0301b", "ﬁ a", "½", "\nab",
              ".ab", "1a", "▁ab", "日a", "\u0301a", "A b", "<s> ab <s>a"]


def main():
    found = [run(p) for p in patterns()]
    metas = []
    for spec in tokenizers():
        reference = Tokenizer.from_str(json.dumps(spec))
        metas.append({"normalizer": spec["normalizer"], "pre_tokenizer": spec["pre_tokenizer"],
                      "ids": [reference.encode(t, add_special_tokens=False).ids for t in META_TEXTS]})
    base = {k: v for k, v in spec.items() if k not in ("normalizer", "pre_tokenizer")}
    out = {"reference": f"tokenizers {__version__}", "texts": TEXTS, "patterns": found, "classes": [held(c) for c in CLASSES],
           "metaspace_texts": META_TEXTS, "metaspace_base": base, "metaspace": metas}
    path = os.path.join(os.path.dirname(__file__), "..", "tests", "fixtures", "tokenizers", "regexes.json")
    with open(path, "w", encoding="utf-8") as f:
        f.write("{" + ",\n".join(
            json.dumps(k) + ": " + ("[\n" + ",\n".join(json.dumps(x, ensure_ascii=False, separators=(",", ":")) for x in v) + "\n]"
                                    if k in ("patterns", "classes", "metaspace") else json.dumps(v, ensure_ascii=False))
            for k, v in out.items()) + "}\n")
    print(len(found), "patterns", sum("refused" in p for p in found), "refused", len(metas), "tokenizers", os.path.getsize(path))


if __name__ == "__main__":
    main()
