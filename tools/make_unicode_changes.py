#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Writes carousel/text/unicode_changes.inc: how the character properties of the Oniguruma inside the reference library
differ from those of an older libonig. Every property is asked of both, on every code point.
Needs: pip install tokenizers (0.23.3), libonig.so.5 (6.9.8, the oldest that is supported), and the list of names in
Oniguruma's repository, doc/UNICODE_PROPERTIES of the version inside the library.
Run: python3 tools/make_unicode_changes.py UNICODE_PROPERTIES"""

import ctypes
import os
import sys

from tokenizers import Regex, pre_tokenizers

# Planes 4 to 13 are empty in both, 15 and 16 private use.
CODES = [c for c in [*range(0x34000), *range(0xE0000, 0xE1000)] if not 0xD800 <= c < 0xE000]
TEXT = "".join(map(chr, CODES))
# Not punct, which is P and S where libonig may have P alone: unicode_encoding.cc knows.
POSIX = "alnum alpha ascii blank cntrl digit graph lower print space upper xdigit word".split()


def spread(runs):
    return {c for low, high in runs for c in range(low, high)}


def library_set(pattern):
    """The code points that `pattern`, one character long, matches in the reference library."""
    split = pre_tokenizers.Split(Regex(f"(?:{pattern})+"), "removed", invert=True)
    runs = [offsets for _, offsets in split.pre_tokenize_str(TEXT)]
    return {CODES[i] for low, high in runs for i in range(low, high)}


class Encoding(ctypes.Structure):  # struct OnigEncodingTypeST
    _fields_ = [(name, ctypes.c_void_p) for name in ("mbc_enc_len", "name")] + [
        ("max_enc_len", ctypes.c_int), ("min_enc_len", ctypes.c_int)] + [(name, ctypes.c_void_p) for name in (
            "is_mbc_newline", "mbc_to_code", "code_to_mbclen", "code_to_mbc", "mbc_case_fold", "apply_all_case_fold",
            "get_case_fold_codes_by_str", "property_name_to_ctype", "is_code_ctype", "get_ctype_code_range")]


class Onig:
    def __init__(self):
        library = ctypes.CDLL("libonig.so.5")
        self.utf8 = Encoding.in_dll(library, "OnigEncodingUTF8")
        library.onig_version.restype = ctypes.c_char_p
        self.version = library.onig_version().decode()
        self.by_name = ctypes.CFUNCTYPE(ctypes.c_int, ctypes.c_void_p, ctypes.c_char_p, ctypes.c_void_p)(
            self.utf8.property_name_to_ctype)
        self.ranges = ctypes.CFUNCTYPE(ctypes.c_int, ctypes.c_uint, ctypes.POINTER(ctypes.c_uint),
                                       ctypes.POINTER(ctypes.POINTER(ctypes.c_uint)))(self.utf8.get_ctype_code_range)
        folds = ctypes.CFUNCTYPE(ctypes.c_int, ctypes.c_uint, ctypes.POINTER(ctypes.c_uint), ctypes.c_int,
                                 ctypes.c_void_p)
        self.pairs = set()

        def add(code, to, size, _):
            if size == 1:
                self.pairs.add((code, to[0]))
            return 0

        ctypes.CFUNCTYPE(ctypes.c_int, ctypes.c_uint, folds, ctypes.c_void_p)(self.utf8.apply_all_case_fold)(
            1 << 30, folds(add), None)

    def ctype(self, name):
        raw = ctypes.create_string_buffer(name.encode())
        start = ctypes.addressof(raw)
        return self.by_name(ctypes.addressof(self.utf8), ctypes.cast(start, ctypes.c_char_p), start + len(name))

    def set_of(self, ctype):
        out, ranges = ctypes.c_uint(), ctypes.POINTER(ctypes.c_uint)()
        if self.ranges(ctype, ctypes.byref(out), ctypes.byref(ranges)) != 0:
            raise ValueError(ctype)
        return spread((ranges[1 + 2 * i], ranges[2 + 2 * i] + 1) for i in range(ranges[0])) & ALL


ALL = set(CODES)


def read_names(path):
    names = [line.strip() for line in open(path) if line.startswith(" ") or line.strip()]
    names = [n for n in names if n and n != "punct" and not n.startswith("#") and "(" not in n and ":" not in n]
    return list(dict.fromkeys(POSIX + names))


def main():
    onig = Onig()
    changed, members, new = {}, {}, {}  # name -> ctype; name -> set; set -> names
    where = set()
    seen = set()
    for name in read_names(sys.argv[1]):
        ctype = onig.ctype(name)
        if ctype in seen:
            continue
        try:
            # In brackets, since \\p{Word} alone is \\w, which has a table of its own below U+0100.
            theirs = library_set(f"[[:{name}:]]" if name in POSIX else f"\\p{{{name}}}")
        except Exception as error:  # noqa: BLE001
            print("not a property:", name, error)
            continue
        if ctype < 0:
            new.setdefault(frozenset(theirs), []).append(name)
            continue
        seen.add(ctype)
        ours = onig.set_of(ctype)
        if ours != theirs:
            changed[name] = ctype
            members[name] = theirs
            where |= ours ^ theirs
    for theirs in new:
        where |= theirs if len(theirs) < 20000 else set()
    print(f"{onig.version}: {len(changed)} properties differ on {len(where)} code points, {len(new)} are new")
    properties = list(changed) + ["|".join(names) for names in new.values()]
    sets = [members[name] for name in changed] + list(new)
    rows, lists = [], {}
    for code in sorted(where):
        true = tuple(i for i, s in enumerate(sets) if code in s)
        key = lists.setdefault(true, len(lists))
        if rows and rows[-1][2] == key and rows[-1][1] == code - 1:
            rows[-1][1] = code
        else:
            rows.append([code, code, key])
    folds = []
    upper, lower = library_set("\\p{Upper}"), library_set("\\p{Lower}")
    for code in sorted(where & upper):
        twins = library_set(f"(?i:\\x{{{code:X}}})") - {code}
        if {(code, t) for t in twins} - onig.pairs:
            assert len(twins) == 1, (hex(code), twins)
            assert twins <= lower
            folds.append((code, twins.pop()))
    path = os.path.join(os.path.dirname(__file__), "..", "carousel", "text", "unicode_changes.inc")
    with open(path, "w") as f:
        f.write("// Written by tools/make_unicode_changes.py: Unicode 16 where libonig's tables are older.\n")
        f.write("// Names of the properties that differ; '|' parts the names of one that libonig may not have.\n")
        f.write("constexpr std::string_view kChangedProperties[] = {\n")
        wrap(f, [f'"{name}"' for name in properties])
        f.write("};\n// Sets of them, each ended by kEnd: what a code point is.\nconstexpr uint16_t kEnd = 65535;\n")
        f.write("constexpr uint16_t kPropertySets[] = {\n")
        starts, at, words = [], 0, []
        for true in lists:
            starts.append(at)
            at += len(true) + 1
            words += [str(i) for i in true] + ["kEnd"]
        wrap(f, words)
        f.write("};\nstruct ChangedRange {\n  char32_t first, last;\n  uint16_t set;  // where it begins in kPropertySets\n};\n")
        f.write("constexpr ChangedRange kChangedRanges[] = {\n")
        wrap(f, [f"{{0x{low:X}, 0x{high:X}, {starts[key]}}}" for low, high, key in rows])
        f.write("};\n// Upper and lower case of letters that may be younger than libonig.\n")
        f.write("constexpr char32_t kNewFolds[][2] = {\n")
        wrap(f, [f"{{0x{a:X}, 0x{b:X}}}" for a, b in folds])
        f.write("};\n")
    print(f"{len(rows)} ranges, {len(lists)} sets, {len(folds)} folds, {os.path.getsize(path)} bytes")


def wrap(f, words):
    line = "   "
    for word in words:
        if len(line) + len(word) + 2 > 119:
            f.write(line + "\n")
            line = "   "
        line += f" {word},"
    f.write(line + "\n")


if __name__ == "__main__":
    main()
