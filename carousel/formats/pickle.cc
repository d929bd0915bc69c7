// SPDX-License-Identifier: Apache-2.0
// A stack machine that builds values from a pickle's opcodes and calls nothing.
#include "carousel/formats/pickle.h"

#include <cstring>
#include <unordered_map>

#include "carousel/core/error.h"

namespace carousel::formats {

using Kind = PickleValue::Kind;

namespace {

constexpr size_t kMaxArguments = 16;

struct OpcodeName {
  char code;
  const char* name;
};
// What other pickles are made of: the message should say what was met.
constexpr OpcodeName kRefused[] = {{'0', "POP"},
                                   {'1', "POP_MARK"},
                                   {'2', "DUP"},
                                   {'F', "FLOAT"},
                                   {'I', "INT"},
                                   {'L', "LONG"},
                                   {'P', "PERSID"},
                                   {'S', "STRING"},
                                   {'V', "UNICODE"},
                                   {'T', "BINSTRING"},
                                   {'U', "SHORT_BINSTRING"},
                                   {'d', "DICT"},
                                   {'g', "GET"},
                                   {'i', "INST"},
                                   {'l', "LIST"},
                                   {'o', "OBJ"},
                                   {'p', "PUT"},
                                   {'B', "BINBYTES"},
                                   {'C', "SHORT_BINBYTES"},
                                   {'\x81', "NEWOBJ"},
                                   {'\x82', "EXT1"},
                                   {'\x83', "EXT2"},
                                   {'\x84', "EXT4"},
                                   {'\x8b', "LONG4"},
                                   {'\x8c', "SHORT_BINUNICODE"},
                                   {'\x8d', "BINUNICODE8"},
                                   {'\x8e', "BINBYTES8"},
                                   {'\x8f', "EMPTY_SET"},
                                   {'\x90', "ADDITEMS"},
                                   {'\x91', "FROZENSET"},
                                   {'\x92', "NEWOBJ_EX"},
                                   {'\x93', "STACK_GLOBAL"},
                                   {'\x94', "MEMOIZE"},
                                   {'\x95', "FRAME"},
                                   {'\x96', "BYTEARRAY8"},
                                   {'\x97', "NEXT_BUFFER"},
                                   {'\x98', "READONLY_BUFFER"}};

}  // namespace

/// The stack machine. Every value is made by some bytes of the input, so memory is linear in it.
class PickleMachine {
 public:
  PickleMachine(std::span<const std::byte> bytes, const std::string& where, PickleGlobals allowed,
                const PickleLimits& limits, std::vector<PickleValue>& values)
      : bytes_(bytes), where_(where), allowed_(allowed), limits_(limits), values_(values) {}

  uint32_t run();

 private:
  bool step(char opcode);  // false: not an opcode of this group
  bool step_number(char opcode);
  bool step_container(char opcode);
  bool step_memo(char opcode);
  void step_global();
  void step_reduce();
  [[noreturn]] void refuse(char opcode) const;
  template <class... Args>
  [[noreturn]] void wrong(fmt::format_string<Args...> format, Args&&... args) const {
    fail(ErrorKind::kInput, "{}: pickle byte {}: {}", where_, op_at_, fmt::format(format, std::forward<Args>(args)...));
  }

  uint64_t unsigned_operand(size_t size_bytes);
  std::string_view take(size_t size_bytes);
  std::string_view line();
  PickleValue& push(Kind kind);
  uint32_t pop();
  std::vector<uint32_t> pop_to_mark();
  PickleValue& top_of(Kind a, Kind b);

  std::span<const std::byte> bytes_;
  const std::string& where_;
  PickleGlobals allowed_;
  const PickleLimits& limits_;
  std::vector<PickleValue>& values_;
  size_t at_ = 0, op_at_ = 0;
  std::vector<uint32_t> stack_;
  std::vector<size_t> marks_;  // heights of the stack
  std::unordered_map<uint64_t, uint32_t> memo_;
};

std::string_view PickleMachine::take(size_t size_bytes) {
  if (size_bytes > bytes_.size() - at_) {
    wrong("an operand of {} bytes, but {} are left: the file is truncated", size_bytes, bytes_.size() - at_);
  }
  const auto* begin = reinterpret_cast<const char*>(bytes_.data() + at_);
  at_ += size_bytes;
  return {begin, size_bytes};
}

uint64_t PickleMachine::unsigned_operand(size_t size_bytes) {
  const std::string_view bytes = take(size_bytes);
  uint64_t value = 0;
  for (size_t i = size_bytes; i-- > 0;) value = value << 8 | static_cast<unsigned char>(bytes[i]);
  return value;
}

std::string_view PickleMachine::line() {
  const std::string_view rest(reinterpret_cast<const char*>(bytes_.data() + at_), bytes_.size() - at_);
  const size_t end = rest.find('\n');
  if (end == rest.npos) wrong("a line that never ends");
  at_ += end + 1;
  return rest.substr(0, end);
}

PickleValue& PickleMachine::push(Kind kind) {
  if (values_.size() >= limits_.max_values) wrong("more than {} values", limits_.max_values);
  stack_.push_back(static_cast<uint32_t>(values_.size()));
  values_.emplace_back().kind = kind;
  return values_.back();
}

uint32_t PickleMachine::pop() {
  if (stack_.size() <= (marks_.empty() ? 0 : marks_.back())) wrong("the stack is empty");
  const uint32_t value = stack_.back();
  stack_.pop_back();
  return value;
}

std::vector<uint32_t> PickleMachine::pop_to_mark() {
  if (marks_.empty()) wrong("no mark on the stack");
  const auto begin = stack_.begin() + static_cast<std::ptrdiff_t>(marks_.back());
  std::vector<uint32_t> items(begin, stack_.end());
  stack_.erase(begin, stack_.end());
  marks_.pop_back();
  return items;
}

PickleValue& PickleMachine::top_of(Kind a, Kind b) {
  if (stack_.size() <= (marks_.empty() ? 0 : marks_.back())) wrong("the stack is empty");
  PickleValue& value = values_[stack_.back()];
  if (value.kind != a && value.kind != b) wrong("items for {}", pickle_kind(value));
  return value;
}

uint32_t PickleMachine::run() {
  if (take(2) != "\x80\x02") fail(ErrorKind::kInput, "{}: not a pickle of protocol 2", where_);
  for (;;) {
    op_at_ = at_;
    const char opcode = take(1)[0];
    if (opcode == '.') break;
    if (!step(opcode) && !step_number(opcode) && !step_container(opcode) && !step_memo(opcode)) refuse(opcode);
  }
  const uint32_t root = pop();
  if (!stack_.empty() || !marks_.empty()) wrong("{} values are left on the stack", stack_.size());
  if (at_ != bytes_.size()) wrong("{} bytes follow the end", bytes_.size() - at_);
  return root;
}

void PickleMachine::refuse(char opcode) const {
  for (const OpcodeName& known : kRefused) {
    if (known.code == opcode) wrong("opcode {} is not understood here", known.name);
  }
  wrong("0x{:02x} is no opcode", static_cast<unsigned char>(opcode));
}

void PickleMachine::step_global() {
  const std::string module(line());
  const std::string name = module + "." + std::string(line());
  if (name.size() > 200) wrong("a global with a name of {} bytes", name.size());
  if (!allowed_(name)) wrong("global \"{}\" is not understood here; nothing in a pickle is executed", name);
  push(Kind::kGlobal).text = name;
}

void PickleMachine::step_reduce() {
  const uint32_t arguments = pop();
  const uint32_t function = pop();
  if (values_[function].kind != Kind::kGlobal) wrong("a call of {}", pickle_kind(values_[function]));
  if (values_[arguments].kind != Kind::kTuple) wrong("arguments in {}", pickle_kind(values_[arguments]));
  // Arguments are copied: few of them, or calls of one shared tuple would take memory beyond the input's size.
  if (values_[arguments].items.size() > kMaxArguments) wrong("a call with more than {} arguments", kMaxArguments);
  // An OrderedDict is filled like a dict.
  const bool dict = values_[function].text == "collections.OrderedDict";
  if (dict && !values_[arguments].items.empty()) wrong("an OrderedDict with arguments, expected items");
  PickleValue& call = push(dict ? Kind::kDict : Kind::kCall);
  if (dict) return;
  call.text = values_[function].text;
  call.items = values_[arguments].items;
}

bool PickleMachine::step(char opcode) {
  switch (opcode) {
    case '(':
      marks_.push_back(stack_.size());
      return true;
    case 'X': {
      const std::string_view text = take(unsigned_operand(4));
      push(Kind::kText).text = text;
      return true;
    }
    case 'c':
      step_global();
      return true;
    case 'R':
      step_reduce();
      return true;
    case 'Q': {
      const uint32_t id = pop();
      push(Kind::kPersistent).items = {id};
      return true;
    }
    case 'b':  // attributes of the value below: torch's state dicts carry "_metadata" so; without effect
      pop();
      if (stack_.size() <= (marks_.empty() ? 0 : marks_.back())) wrong("the stack is empty");
      return true;
    default:
      return false;
  }
}

bool PickleMachine::step_number(char opcode) {
  switch (opcode) {
    case 'N':
      push(Kind::kNone);
      return true;
    case '\x88':
    case '\x89':
      push(Kind::kBool).integer = opcode == '\x88';
      return true;
    case 'J': {
      const auto value = static_cast<int32_t>(unsigned_operand(4));
      push(Kind::kInt).integer = value;
      return true;
    }
    case 'K':
    case 'M': {
      const uint64_t value = unsigned_operand(opcode == 'K' ? 1 : 2);
      push(Kind::kInt).integer = static_cast<int64_t>(value);
      return true;
    }
    case '\x8a': {  // little-endian two's complement of any length
      const size_t size = unsigned_operand(1);
      if (size > 8) wrong("an integer of {} bytes, expected at most 8", size);
      const uint64_t value = unsigned_operand(size);
      const unsigned unused = 64 - 8 * static_cast<unsigned>(size);
      push(Kind::kInt).integer = size == 0 ? 0 : static_cast<int64_t>(value << unused) >> unused;
      return true;
    }
    case 'G': {  // big-endian
      uint64_t bits = 0;
      for (const char byte : take(8)) bits = bits << 8 | static_cast<unsigned char>(byte);
      double value;
      std::memcpy(&value, &bits, sizeof value);
      push(Kind::kFloat).number = value;
      return true;
    }
    default:
      return false;
  }
}

bool PickleMachine::step_container(char opcode) {
  switch (opcode) {
    case ']':
      push(Kind::kList);
      return true;
    case '}':
      push(Kind::kDict);
      return true;
    case ')':
      push(Kind::kTuple);
      return true;
    case 't': {
      std::vector<uint32_t> items = pop_to_mark();
      push(Kind::kTuple).items = std::move(items);
      return true;
    }
    case '\x85':
    case '\x86':
    case '\x87': {
      std::vector<uint32_t> items(static_cast<size_t>(static_cast<unsigned char>(opcode) - 0x84));
      for (size_t i = items.size(); i-- > 0;) items[i] = pop();
      push(Kind::kTuple).items = std::move(items);
      return true;
    }
    case 'a':
    case 'e': {
      const std::vector<uint32_t> items = opcode == 'a' ? std::vector<uint32_t>{pop()} : pop_to_mark();
      PickleValue& list = top_of(Kind::kList, Kind::kList);
      list.items.insert(list.items.end(), items.begin(), items.end());
      return true;
    }
    case 's':
    case 'u': {
      std::vector<uint32_t> items;
      if (opcode == 's') {
        const uint32_t value = pop();
        items = {pop(), value};
      } else {
        items = pop_to_mark();
      }
      if (items.size() % 2 != 0) wrong("a key without a value");
      PickleValue& dict = top_of(Kind::kDict, Kind::kDict);
      dict.items.insert(dict.items.end(), items.begin(), items.end());
      return true;
    }
    default:
      return false;
  }
}

bool PickleMachine::step_memo(char opcode) {
  switch (opcode) {
    case 'q':
    case 'r': {
      const uint64_t slot = unsigned_operand(opcode == 'q' ? 1 : 4);
      if (stack_.size() <= (marks_.empty() ? 0 : marks_.back())) wrong("the stack is empty");
      memo_[slot] = stack_.back();
      return true;
    }
    case 'h':
    case 'j': {
      const uint64_t slot = unsigned_operand(opcode == 'h' ? 1 : 4);
      const auto found = memo_.find(slot);
      if (found == memo_.end()) wrong("memo entry {} was never set", slot);
      stack_.push_back(found->second);
      return true;
    }
    default:
      return false;
  }
}

Pickle::Pickle(std::span<const std::byte> bytes, const std::string& where, PickleGlobals allowed,
               const PickleLimits& limits) {
  if (bytes.size() > limits.max_bytes) {
    fail(ErrorKind::kInput, "{}: a pickle of {} bytes, expected at most {}", where, bytes.size(), limits.max_bytes);
  }
  root_ = PickleMachine(bytes, where, allowed, limits, values_).run();
}

const PickleValue* Pickle::find(const PickleValue& dict, std::string_view key) const {
  if (dict.kind != Kind::kDict) return nullptr;
  const PickleValue* found = nullptr;  // the last one counts, as in Python
  for (size_t i = 0; i + 1 < dict.items.size(); i += 2) {
    const PickleValue& name = at(dict.items[i]);
    if (name.kind == Kind::kText && name.text == key) found = &at(dict.items[i + 1]);
  }
  return found;
}

const char* pickle_kind(const PickleValue& value) {
  switch (value.kind) {
    case Kind::kNone:
      return "None";
    case Kind::kBool:
      return "a truth value";
    case Kind::kInt:
      return "an integer";
    case Kind::kFloat:
      return "a number";
    case Kind::kText:
      return "text";
    case Kind::kTuple:
      return "a tuple";
    case Kind::kList:
      return "a list";
    case Kind::kDict:
      return "a dict";
    case Kind::kGlobal:
      return "a global";
    case Kind::kCall:
      return "a call";
    case Kind::kPersistent:
      return "a storage";
  }
  return "a value";
}

}  // namespace carousel::formats
