// SPDX-License-Identifier: Apache-2.0
// Reads Python's pickle as plain values. Nothing is ever executed: a global is a name, and a call of it is a record of
// name and arguments; the caller decides which names mean something. Protocol 2 is read, with the opcodes of
// containers, numbers and text; every other opcode is refused by name.
#pragma once

#include <cstdint>
#include <span>
#include <string>
#include <string_view>
#include <vector>

namespace carousel::formats {

/// One value. Containers refer to others by index, so that a shared or even cyclic pickle is a flat table here.
struct PickleValue {
  enum class Kind : uint8_t {
    kNone,
    kBool,
    kInt,
    kFloat,
    kText,
    kTuple,
    kList,
    kDict,        // items: key, value, key, value, ...
    kGlobal,      // text: "module.name"
    kCall,        // text: the global's name; items: the arguments
    kPersistent,  // items: the one identifier
  };
  Kind kind = Kind::kNone;
  int64_t integer = 0;  // kInt, kBool
  double number = 0;    // kFloat
  std::string text;
  std::vector<uint32_t> items;
};

struct PickleLimits {
  size_t max_bytes = size_t{16} << 20;
  size_t max_values = 1'000'000;
};

/// Whether a global ("collections.OrderedDict") may appear. It is asked once for each.
using PickleGlobals = bool (*)(std::string_view name);

class Pickle {
 public:
  /// Throws Error(kInput) "where: pickle byte 7: ...": an unknown opcode or global, a truncated operand, an empty
  /// stack, a memo entry that is not there, too large.
  Pickle(std::span<const std::byte> bytes, const std::string& where, PickleGlobals allowed,
         const PickleLimits& limits = {});

  const PickleValue& root() const { return values_[root_]; }
  const PickleValue& at(uint32_t index) const { return values_[index]; }
  /// The value of a text key of a dict; nullptr when absent.
  const PickleValue* find(const PickleValue& dict, std::string_view key) const;

 private:
  friend class PickleMachine;
  std::vector<PickleValue> values_;
  uint32_t root_ = 0;
};

/// "a dict", "text", ... for messages.
const char* pickle_kind(const PickleValue& value);

}  // namespace carousel::formats
