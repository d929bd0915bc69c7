// SPDX-License-Identifier: Apache-2.0
// An encoding for Oniguruma: libonig's UTF-8 with the ranges that Unicode 16 has changed.
#include "carousel/text/unicode_encoding.h"

#include <oniguruma.h>

#include <algorithm>
#include <array>
#include <cstdint>
#include <map>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "carousel/core/error.h"
#include "carousel/text/unicode.h"

namespace carousel::text {
namespace {

#include "carousel/text/unicode_changes.inc"

using Range = std::pair<OnigCodePoint, OnigCodePoint>;  // first, last

constexpr OnigCtype kStandard = ONIGENC_CTYPE_ASCII + 1;  // ctypes below have names in brackets, [:alpha:]
constexpr OnigCtype kFirstNew = 1 << 20;                  // ctypes of properties that libonig does not have
constexpr char32_t kLastChange = 0xE1000;                 // nothing is assigned from there on

// The properties that differ from libonig's tables.
struct Properties {
  std::map<OnigCtype, std::vector<OnigCodePoint>> ranges;  // [0] is their number, then first and last of each
  std::array<const std::vector<OnigCodePoint>*, kStandard> standard{};  // into ranges; null: libonig's
  std::vector<OnigCodePoint> younger{0};                                // ranges that libonig takes for unassigned
  std::map<std::string, OnigCtype> names;  // properties by the names that plain_property_name gives
};

bool contains(const std::vector<OnigCodePoint>& ranges, OnigCodePoint code) {
  size_t low = 0;
  size_t high = ranges[0];
  while (low < high) {
    const size_t middle = (low + high) / 2;
    if (code > ranges[2 + 2 * middle]) {
      low = middle + 1;
    } else {
      high = middle;
    }
  }
  return low < ranges[0] && code >= ranges[1 + 2 * low];
}

int libonig_ctype(std::string_view name) {
  std::string copy(name);
  auto* begin = reinterpret_cast<OnigUChar*>(copy.data());
  return ONIG_ENCODING_UTF8->property_name_to_ctype(ONIG_ENCODING_UTF8, begin, begin + copy.size());
}

bool in_set(const ChangedRange& range, uint16_t property) {
  for (const uint16_t* p = kPropertySets + range.set; *p != kEnd; ++p) {
    if (*p == property) return true;
  }
  return false;
}

// Disjoint ranges in the form that Oniguruma reads.
std::vector<OnigCodePoint> joined(std::vector<Range> parts) {
  std::sort(parts.begin(), parts.end());
  std::vector<OnigCodePoint> out = {0};
  for (const Range& part : parts) {
    if (out.size() > 1 && out.back() + 1 == part.first) {
      out.back() = part.second;
    } else {
      out.insert(out.end(), {part.first, part.second});
    }
  }
  out[0] = static_cast<OnigCodePoint>(out.size() / 2);
  return out;
}

std::vector<Range> pairs(const std::vector<OnigCodePoint>& ranges) {
  std::vector<Range> out;
  for (OnigCodePoint i = 0; i < ranges[0]; ++i) out.emplace_back(ranges[1 + 2 * i], ranges[2 + 2 * i]);
  return out;
}

// The ranges of `old` where Unicode changed nothing, kChangedRanges elsewhere.
std::vector<OnigCodePoint> merged(const std::vector<Range>& old, uint16_t property) {
  std::vector<Range> parts;
  const ChangedRange* change = std::begin(kChangedRanges);
  for (auto [first, last] : old) {
    while (change != std::end(kChangedRanges) && change->last < first) ++change;
    for (const ChangedRange* cut = change; cut != std::end(kChangedRanges) && cut->first <= last; ++cut) {
      if (cut->first > first) parts.emplace_back(first, cut->first - 1);
      first = cut->last + 1;
    }
    if (first <= last) parts.emplace_back(first, last);
  }
  for (const ChangedRange& range : kChangedRanges) {
    if (in_set(range, property)) parts.emplace_back(range.first, range.last);
  }
  return joined(std::move(parts));
}

std::vector<Range> libonig_ranges(OnigCtype ctype) {
  OnigCodePoint single_bytes = 0;
  const OnigCodePoint* ranges = nullptr;
  CAROUSEL_ASSERT(ONIG_ENCODING_UTF8->get_ctype_code_range(ctype, &single_bytes, &ranges) == 0);
  return pairs(std::vector<OnigCodePoint>(ranges, ranges + 1 + 2 * ranges[0]));
}

Properties make_properties() {
  Properties out;
  OnigCtype next_new = kFirstNew;
  for (uint16_t p = 0; p < std::size(kChangedProperties); ++p) {
    std::string_view names = kChangedProperties[p];
    const int found = libonig_ctype(names.substr(0, names.find('|')));
    const OnigCtype ctype = found >= 0 ? static_cast<OnigCtype>(found) : next_new++;
    out.ranges[ctype] = merged(found >= 0 ? libonig_ranges(ctype) : std::vector<Range>(), p);
    while (found < 0 && !names.empty()) {
      const size_t end = std::min(names.find('|'), names.size());
      out.names[plain_property_name(names.substr(0, end))] = ctype;
      names.remove_prefix(std::min(end + 1, names.size()));
    }
  }
  std::vector<Range> marks = pairs(out.ranges.at(static_cast<OnigCtype>(libonig_ctype("P"))));
  const std::vector<Range> symbols = pairs(out.ranges.at(static_cast<OnigCtype>(libonig_ctype("S"))));
  marks.insert(marks.end(), symbols.begin(), symbols.end());
  out.ranges[ONIGENC_CTYPE_PUNCT] = joined(std::move(marks));  // 6.9.8 leaves the symbols out
  for (const auto& [ctype, ranges] : out.ranges) {
    if (ctype < kStandard) out.standard[ctype] = &ranges;
  }
  const auto unassigned = static_cast<OnigCtype>(libonig_ctype("Cn"));
  const std::vector<Range> still = pairs(out.ranges.at(unassigned));
  auto next = still.begin();  // the first range that does not end before `code`; both lists ascend
  for (const auto& [first, last] : libonig_ranges(unassigned)) {
    for (OnigCodePoint code = first; code <= last && code < kLastChange; ++code) {
      while (next != still.end() && next->second < code) ++next;
      if (next != still.end() && next->first <= code) {
        code = next->second;  // all up to here are unassigned still
        continue;
      }
      out.younger.insert(out.younger.end(), {code, code});
      ++out.younger[0];
    }
  }
  return out;
}

const Properties& properties() {
  static const Properties made = make_properties();
  return made;
}

int property_name_to_ctype(OnigEncoding, OnigUChar* begin, OnigUChar* end) {
  const std::string_view name(reinterpret_cast<const char*>(begin), static_cast<size_t>(end - begin));
  const std::string plain = plain_property_name(name);
  if (plain == "punct") return libonig_ctype("Punctuation");  // older versions take it for [:punct:], which has more
  const int found = libonig_ctype(name);
  if (found >= 0) return found;
  const auto it = properties().names.find(plain);
  return it == properties().names.end() ? found : static_cast<int>(it->second);
}

// Below U+0100 Oniguruma's own table decides on \w and \b: it has superscripts and fractions that the ranges lack.
int is_code_ctype(OnigCodePoint code, OnigCtype ctype) {
  const bool own = code < 0x80 || (code < 0x100 && ctype != ONIGENC_CTYPE_PUNCT);
  if (own || ctype >= kStandard || properties().standard[ctype] == nullptr) {
    return ONIG_ENCODING_UTF8->is_code_ctype(code, ctype);
  }
  return contains(*properties().standard[ctype], code) ? 1 : 0;
}

int get_ctype_code_range(OnigCtype ctype, OnigCodePoint* single_bytes, const OnigCodePoint* ranges[]) {
  const auto it = properties().ranges.find(ctype);
  if (it == properties().ranges.end()) return ONIG_ENCODING_UTF8->get_ctype_code_range(ctype, single_bytes, ranges);
  *single_bytes = 0x80;
  *ranges = it->second.data();
  return 0;
}

// The other case of a letter that libonig may be too old to know; 0: none.
OnigCodePoint other_case(OnigCodePoint code) {
  for (const auto& fold : kNewFolds) {
    if (code == fold[0]) return fold[1];
    if (code == fold[1]) return fold[0];
  }
  return 0;
}

int mbc_case_fold(OnigCaseFoldType flag, const OnigUChar** pp, const OnigUChar* end, OnigUChar* to) {
  if (**pp >= 0xC0 && (flag & ONIGENC_CASE_FOLD_ASCII_ONLY) == 0) {
    const OnigCodePoint code = ONIG_ENCODING_UTF8->mbc_to_code(*pp, end);
    for (const auto& fold : kNewFolds) {
      if (code != fold[0]) continue;
      *pp += ONIG_ENCODING_UTF8->mbc_enc_len(*pp);
      return ONIG_ENCODING_UTF8->code_to_mbc(fold[1], to);
    }
  }
  return ONIG_ENCODING_UTF8->mbc_case_fold(flag, pp, end, to);
}

int apply_all_case_fold(OnigCaseFoldType flag, OnigApplyAllCaseFoldFunc f, void* arg) {
  int status = ONIG_ENCODING_UTF8->apply_all_case_fold(flag, f, arg);
  if ((flag & ONIGENC_CASE_FOLD_ASCII_ONLY) != 0) return status;
  for (const auto& fold : kNewFolds) {
    OnigCodePoint upper = fold[0];
    OnigCodePoint lower = fold[1];
    if (status == 0) status = f(upper, &lower, 1, arg);
    if (status == 0) status = f(lower, &upper, 1, arg);
  }
  return status;
}

int get_case_fold_codes_by_str(OnigCaseFoldType flag, const OnigUChar* begin, const OnigUChar* end,
                               OnigCaseFoldCodeItem items[]) {
  const int count = ONIG_ENCODING_UTF8->get_case_fold_codes_by_str(flag, begin, end, items);
  if (count != 0 || *begin < 0xC0 || (flag & ONIGENC_CASE_FOLD_ASCII_ONLY) != 0) return count;
  const OnigCodePoint other = other_case(ONIG_ENCODING_UTF8->mbc_to_code(begin, end));
  if (other == 0) return 0;
  items[0].byte_len = ONIG_ENCODING_UTF8->mbc_enc_len(begin);
  items[0].code_len = 1;
  items[0].code[0] = other;
  return 1;
}

struct Encoding {
  OnigEncodingType type = OnigEncodingUTF8;

  Encoding() {
    type.property_name_to_ctype = property_name_to_ctype;
    type.is_code_ctype = is_code_ctype;
    type.get_ctype_code_range = get_ctype_code_range;
    type.mbc_case_fold = mbc_case_fold;
    type.apply_all_case_fold = apply_all_case_fold;
    type.get_case_fold_codes_by_str = get_case_fold_codes_by_str;
    OnigEncoding list[] = {&type};
    CAROUSEL_ASSERT(onig_initialize(list, 1) == ONIG_NORMAL);
  }
};

}  // namespace

std::string plain_property_name(std::string_view name) {
  std::string out;
  for (const char c : name) {
    if (c == ' ' || c == '-' || c == '_') continue;
    out.push_back(c >= 'A' && c <= 'Z' ? static_cast<char>(c - 'A' + 'a') : c);
  }
  return out;
}

char32_t first_younger_than_libonig(std::string_view text) {
  for (size_t pos = 0; pos < text.size();) {
    const Decoded next = decode_utf8(text, pos);
    if (next.code >= 0x300 && contains(properties().younger, next.code)) return next.code;
    pos += next.size;
  }
  return 0;
}

OnigEncodingTypeST* unicode_encoding() {
  static Encoding encoding;
  return &encoding.type;
}

}  // namespace carousel::text
