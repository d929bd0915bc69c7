// SPDX-License-Identifier: Apache-2.0
// PyTorch's checkpoints: the pickle's records of tensors, matched with the archive's storages.
#include "carousel/formats/torch_zip.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <limits>
#include <unordered_map>

#include "carousel/core/error.h"
#include "carousel/formats/pickle.h"
#include "carousel/formats/zip.h"

namespace carousel::formats {
namespace {

using Kind = PickleValue::Kind;

constexpr size_t kMaxSettings = 100'000;  // values in hyper_parameters; a shared one counts wherever it appears
constexpr int kMaxDepth = 32;

struct StorageClass {
  const char* name;
  DType dtype;
};
constexpr StorageClass kStorages[] = {{"torch.FloatStorage", DType::kF32},     {"torch.HalfStorage", DType::kF16},
                                      {"torch.BFloat16Storage", DType::kBF16}, {"torch.DoubleStorage", DType::kF64},
                                      {"torch.LongStorage", DType::kI64},      {"torch.IntStorage", DType::kI32},
                                      {"torch.ShortStorage", DType::kI16},     {"torch.CharStorage", DType::kI8},
                                      {"torch.ByteStorage", DType::kU8},       {"torch.BoolStorage", DType::kBool}};
constexpr const char* kRebuildTensor = "torch._utils._rebuild_tensor_v2";
constexpr const char* kRebuildParameter = "torch._utils._rebuild_parameter";
// Names of things, not of actions: kept as text.
constexpr std::string_view kNames[] = {"collections.OrderedDict",
                                       "torch.Size",
                                       "torch.device",
                                       "torch.float32",
                                       "torch.float16",
                                       "torch.bfloat16",
                                       "torch.float64",
                                       "torch.int64",
                                       "torch.int32",
                                       "torch.int16",
                                       "torch.int8",
                                       "torch.uint8",
                                       "torch.bool"};

bool allowed_global(std::string_view name) {
  if (name == kRebuildTensor || name == kRebuildParameter) return true;
  if (std::find(std::begin(kNames), std::end(kNames), name) != std::end(kNames)) return true;
  return std::any_of(std::begin(kStorages), std::end(kStorages), [&](const StorageClass& s) { return s.name == name; });
}

class Reader {
 public:
  Reader(std::span<const std::byte> bytes, const std::string& where, std::shared_ptr<const MappedFile> file,
         bool checks_sums = true)
      : where_(where),
        file_(std::move(file)),
        zip_(bytes, where, checks_sums),
        folder_(find_folder()),
        pickle_(zip_.read(*zip_.find(folder_ + "data.pkl")), where + ": " + folder_ + "data.pkl", allowed_global) {}

  TorchFile read();

 private:
  std::string find_folder() const;
  void check_byte_order();
  void add_tensor(const std::string& name, const PickleValue& value, TorchFile& out);
  std::span<const std::byte> storage(const std::string& name, const PickleValue& id, DType* dtype);
  std::vector<int64_t> integers(const std::string& name, const char* what, const PickleValue& value) const;
  int64_t integer(const std::string& name, const char* what, const PickleValue& value) const;
  void check_utf8(const std::string& text) const;
  Json to_json(const PickleValue& value, int depth, size_t& count) const;
  [[noreturn]] void wrong(const std::string& name, const std::string& text) const {
    constexpr size_t kShown = 120;
    fail(ErrorKind::kInput, "{}: \"{}\": {}", where_, name.substr(0, kShown), text);
  }

  std::string where_;
  std::shared_ptr<const MappedFile> file_;
  ZipDirectory zip_;
  std::string folder_;  // "archive/"
  Pickle pickle_;
};

// Every member lies in one folder, named after the file that was first written.
std::string Reader::find_folder() const {
  constexpr std::string_view kPickle = "data.pkl";
  std::string folder;
  for (const ZipMember& member : zip_.members()) {
    const size_t slash = member.name.find('/');
    if (slash == std::string::npos || member.name.substr(slash + 1) != kPickle) continue;
    if (!folder.empty()) fail(ErrorKind::kInput, "{}: two data.pkl in one archive", where_);
    folder = member.name.substr(0, slash + 1);
  }
  if (folder.empty()) {
    fail(ErrorKind::kInput, "{}: no data.pkl in the archive: a zip file that torch.save did not write", where_);
  }
  return folder;
}

void Reader::check_byte_order() {
  const ZipMember* member = zip_.find(folder_ + "byteorder");
  if (member == nullptr) return;  // older files: little
  const std::span<const std::byte> bytes = zip_.read(*member);
  const std::string_view order(reinterpret_cast<const char*>(bytes.data()), std::min<size_t>(bytes.size(), 16));
  if (order != "little") fail(ErrorKind::kInput, "{}: byteorder is not \"little\"", where_);
}

TorchFile Reader::read() {
  check_byte_order();
  const PickleValue& root = pickle_.root();
  if (root.kind != Kind::kDict) {
    fail(ErrorKind::kInput, "{}: holds {}, expected a dict of tensors", where_, pickle_kind(root));
  }
  TorchFile out;
  const PickleValue* state = pickle_.find(root, "state_dict");
  const PickleValue& tensors = state == nullptr ? root : *state;
  if (tensors.kind != Kind::kDict) {
    fail(ErrorKind::kInput, "{}: \"state_dict\" is {}, expected a dict", where_, pickle_kind(tensors));
  }
  std::unordered_map<std::string, bool> names;
  for (size_t i = 0; i + 1 < tensors.items.size(); i += 2) {
    const PickleValue& name = pickle_.at(tensors.items[i]);
    if (name.kind != Kind::kText) {
      fail(ErrorKind::kInput, "{}: a tensor is named by {}, expected text", where_, pickle_kind(name));
    }
    if (!names.emplace(name.text, true).second) wrong(name.text, "is twice in the file");
    add_tensor(name.text, pickle_.at(tensors.items[i + 1]), out);
  }
  if (const PickleValue* settings = pickle_.find(root, "hyper_parameters"); settings != nullptr) {
    size_t count = 0;
    out.hyper_parameters = to_json(*settings, 0, count);
  }
  return out;
}

int64_t Reader::integer(const std::string& name, const char* what, const PickleValue& value) const {
  if (value.kind != Kind::kInt || value.integer < 0) {
    wrong(name, fmt::format("{} is {}, expected an integer from 0", what,
                            value.kind == Kind::kInt ? std::to_string(value.integer) : pickle_kind(value)));
  }
  return value.integer;
}

std::vector<int64_t> Reader::integers(const std::string& name, const char* what, const PickleValue& value) const {
  const bool size = value.kind == Kind::kCall && value.text == "torch.Size" && value.items.size() == 1;
  const PickleValue& list = size ? pickle_.at(value.items[0]) : value;
  if (list.kind != Kind::kTuple || list.items.size() > static_cast<size_t>(Shape::kMaxRank)) {
    wrong(name,
          fmt::format("{} is {}, expected a tuple of at most {} integers", what, pickle_kind(list), Shape::kMaxRank));
  }
  std::vector<int64_t> out;
  for (const uint32_t item : list.items) out.push_back(integer(name, what, pickle_.at(item)));
  return out;
}

// ("storage", class, key, device, number of elements)
std::span<const std::byte> Reader::storage(const std::string& name, const PickleValue& id, DType* dtype) {
  const auto part = [&](size_t i) -> const PickleValue& { return pickle_.at(id.items[i]); };
  if (id.kind != Kind::kTuple || id.items.size() != 5 || part(0).text != "storage" || part(1).kind != Kind::kGlobal ||
      part(2).kind != Kind::kText) {
    wrong(name, "a storage that is not (\"storage\", class, key, device, count)");
  }
  const auto found = std::find_if(std::begin(kStorages), std::end(kStorages),
                                  [&](const StorageClass& known) { return part(1).text == known.name; });
  if (found == std::end(kStorages)) wrong(name, fmt::format("storage type \"{}\" is not supported", part(1).text));
  *dtype = found->dtype;
  const ZipMember* member = zip_.find(folder_ + "data/" + part(2).text);
  if (member == nullptr) {
    wrong(name, fmt::format("storage \"{}data/{}\" is not in the archive", folder_, part(2).text.substr(0, 40)));
  }
  const std::span<const std::byte> bytes = zip_.read(*member, [&](std::span<const std::byte> piece) {
    if (file_ != nullptr) file_->release(piece.data(), piece.size());
  });
  const int64_t count = integer(name, "its storage's count", part(4));
  if (bytes.size() % dtype_size(*dtype) != 0 || static_cast<uint64_t>(count) != bytes.size() / dtype_size(*dtype)) {
    wrong(name,
          fmt::format("a storage of {} bytes, expected {} elements of {}", bytes.size(), count, dtype_name(*dtype)));
  }
  return bytes;
}

// _rebuild_tensor_v2(storage, offset, size, stride, requires_grad, hooks), in a _rebuild_parameter or not.
void Reader::add_tensor(const std::string& name, const PickleValue& given, TorchFile& out) {
  const PickleValue* value = &given;
  if (value->kind == Kind::kCall && value->text == kRebuildParameter && !value->items.empty()) {
    value = &pickle_.at(value->items[0]);
  }
  if (value->kind != Kind::kCall || value->text != kRebuildTensor || value->items.size() < 4) {
    wrong(name,
          fmt::format("is {}, expected a tensor", value->kind == Kind::kCall ? value->text : pickle_kind(*value)));
  }
  const PickleValue& id = pickle_.at(value->items[0]);
  if (id.kind != Kind::kPersistent) wrong(name, fmt::format("its storage is {}", pickle_kind(id)));
  TensorEntry entry;
  entry.name = name;
  entry.file = file_;
  const std::span<const std::byte> bytes = storage(name, pickle_.at(id.items[0]), &entry.dtype);
  const int64_t offset = integer(name, "storage_offset", pickle_.at(value->items[1]));
  const std::vector<int64_t> size = integers(name, "size", pickle_.at(value->items[2]));
  const std::vector<int64_t> stride = integers(name, "stride", pickle_.at(value->items[3]));
  if (stride.size() != size.size()) {
    wrong(name, fmt::format("{} sizes and {} strides, expected as many", size.size(), stride.size()));
  }
  const auto held = static_cast<int64_t>(bytes.size() / dtype_size(entry.dtype));
  int64_t count = 1;
  for (const int64_t dim : size) {
    if (dim > 0 && count > std::numeric_limits<int64_t>::max() / dim) wrong(name, "its size overflows");
    count *= dim;
  }
  entry.shape = Shape(size);
  int64_t expected = 1;
  for (size_t i = size.size(); i-- > 0 && count > 0;) {
    if (size[i] != 1 && stride[i] != expected) {
      wrong(name, fmt::format("stride {} of dimension {} is not {}: only contiguous tensors are read", stride[i], i,
                              expected));
    }
    expected *= size[i];
  }
  if (offset > held || count > held - offset) {
    wrong(name, fmt::format("{} elements from {} on, but its storage holds {}", count, offset, held));
  }
  entry.bytes = bytes.data() + static_cast<size_t>(offset) * dtype_size(entry.dtype);
  entry.size_bytes = static_cast<size_t>(count) * dtype_size(entry.dtype);
  out.entries.push_back(std::move(entry));
}

void Reader::check_utf8(const std::string& text) const {
  try {
    static_cast<void>(Json(text).dump());
  } catch (const Json::exception&) {
    wrong("hyper_parameters", "text that is not UTF-8");
  }
}

Json Reader::to_json(const PickleValue& value, int depth, size_t& count) const {
  if (depth > kMaxDepth || ++count > kMaxSettings) wrong("hyper_parameters", "too deep or too many values");
  switch (value.kind) {
    case Kind::kNone:
      return {};
    case Kind::kBool:
      return value.integer != 0;
    case Kind::kInt:
      return value.integer;
    case Kind::kFloat:
      if (!std::isfinite(value.number)) wrong("hyper_parameters", "a number that is not finite");
      return value.number;
    case Kind::kText:
    case Kind::kGlobal:
      check_utf8(value.text);
      return value.text;
    case Kind::kPersistent:
    case Kind::kCall:
      return nullptr;  // a tensor or the like: no setting
    case Kind::kTuple:
    case Kind::kList: {
      Json list = Json::array();
      for (const uint32_t item : value.items) list.push_back(to_json(pickle_.at(item), depth + 1, count));
      return list;
    }
    case Kind::kDict:
      break;
  }
  Json object = Json::object();
  for (size_t i = 0; i + 1 < value.items.size(); i += 2) {
    const PickleValue& key = pickle_.at(value.items[i]);
    if (key.kind != Kind::kText) wrong("hyper_parameters", fmt::format("a key is {}, expected text", pickle_kind(key)));
    check_utf8(key.text);
    object[key.text] = to_json(pickle_.at(value.items[i + 1]), depth + 1, count);
  }
  return object;
}

}  // namespace

TorchFile parse_torch_zip(std::span<const std::byte> bytes, const std::string& where, bool checks_sums) {
  return Reader(bytes, where, nullptr, checks_sums).read();
}

TorchFile open_torch_zip(const std::string& path) {
  const std::shared_ptr<const MappedFile> file = MappedFile::open(path);
  return Reader(file->bytes(), path, file).read();
}

bool is_torch_zip(const std::string& path) { return looks_like_zip(MappedFile::open(path)->bytes()); }

}  // namespace carousel::formats
