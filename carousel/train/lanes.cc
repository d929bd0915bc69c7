// SPDX-License-Identifier: Apache-2.0
// A lane in a message: its number, its position, then for each entry of the layout the bytes of its tensor and their
// number before them. Numbers have 8 bytes, in the order of this machine.
#include "carousel/train/lanes.h"

#include <cstring>
#include <string>

#include "carousel/core/assert.h"

namespace carousel::train {
namespace {

void put(std::string& to, int64_t number) { to.append(reinterpret_cast<const char*>(&number), sizeof number); }

std::string packed(const std::vector<State>& lanes, const StateLayout& layout) {
  std::string out;
  for (size_t lane = 0; lane < lanes.size(); ++lane) {
    if (lanes[lane].empty()) continue;
    put(out, static_cast<int64_t>(lane));
    put(out, lanes[lane].pos());
    for (const NamedTensor& named : lanes[lane].tensors(layout)) {
      put(out, static_cast<int64_t>(named.tensor.size_bytes()));
      out.append(static_cast<const char*>(named.tensor.raw()), named.tensor.size_bytes());
    }
  }
  return out;
}

class Reader {
 public:
  explicit Reader(const std::string& bytes) : bytes_(bytes) {}
  bool done() const { return at_ == bytes_.size(); }
  int64_t number() {
    int64_t value = 0;
    copy(&value, sizeof value);
    return value;
  }
  /// The next tensor: what is per token has as many pages as there are bytes for.
  Tensor tensor(const StateSpec& spec) {
    const auto size_bytes = static_cast<size_t>(number());
    Shape shape = spec.shape;
    if (spec.per_token) {
      const size_t page_bytes = dtype_bytes(spec.dtype, static_cast<size_t>(spec.shape.count()));
      shape = {static_cast<int64_t>(size_bytes / page_bytes)};
      for (int i = 0; i < spec.shape.rank(); ++i) shape.push_back(spec.shape[i]);
    }
    Tensor out(shape, spec.dtype);
    CAROUSEL_ASSERT(out.size_bytes() == size_bytes);
    copy(out.raw(), size_bytes);
    return out;
  }

 private:
  void copy(void* to, size_t size_bytes) {
    CAROUSEL_ASSERT(size_bytes <= bytes_.size() - at_);
    if (size_bytes > 0) std::memcpy(to, bytes_.data() + at_, size_bytes);
    at_ += size_bytes;
  }

  const std::string& bytes_;
  size_t at_ = 0;
};

}  // namespace

std::vector<State> collect_lanes(Processes& processes, const std::vector<State>& lanes, const StateLayout& layout) {
  if (processes.size() == 1) return lanes;
  const std::vector<std::string> messages = processes.collect(packed(lanes, layout));
  std::vector<State> all(processes.rank() == 0 ? lanes.size() : 0);
  for (const std::string& message : messages) {
    for (Reader reader(message); !reader.done();) {
      const auto lane = static_cast<size_t>(reader.number());
      const int64_t pos = reader.number();
      NamedTensors tensors;
      for (const StateLayout::Entry& entry : layout.entries()) {
        tensors.push_back({entry.name, reader.tensor(entry.spec)});
      }
      CAROUSEL_ASSERT(lane < all.size());
      all[lane] = State::from(tensors, pos, layout);
    }
  }
  return all;
}

}  // namespace carousel::train
