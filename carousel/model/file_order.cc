// SPDX-License-Identifier: Apache-2.0
// Tensors whose dimensions a file holds in another order than the block.
#include <array>
#include <cstring>

#include "carousel/model/params.h"

namespace carousel::model {
namespace {

// Makes one element of the last dimensions if they stay in place: whole rows, where only rows change places.
int64_t fold(Permutation& permutation) {
  int64_t inner = 1;
  int rank = permutation.view.rank();
  for (; rank > 1 && permutation.axes[static_cast<size_t>(rank) - 1] == rank - 1; --rank) {
    inner *= permutation.view[rank - 1];
  }
  Shape view;
  for (int i = 0; i < rank; ++i) view.push_back(permutation.view[i]);
  permutation.view = view;
  permutation.axes.resize(static_cast<size_t>(rank));
  return inner;
}

// Calls f(index in the file, index in the block) for every element.
template <class F>
void for_permuted(const Permutation& permutation, F&& f) {
  const Shape& view = permutation.view;
  const int rank = view.rank();
  std::array<size_t, Shape::kMaxRank> step = {};  // the step of each file dimension in the block's order
  for (int i = 0; i < rank; ++i) {
    size_t stride = 1;
    for (int j = permutation.axes[static_cast<size_t>(i)] + 1; j < rank; ++j) stride *= static_cast<size_t>(view[j]);
    step[static_cast<size_t>(i)] = stride;
  }
  std::array<int64_t, Shape::kMaxRank> index = {};
  const auto count = static_cast<size_t>(view.count());
  size_t block = 0;
  for (size_t file = 0; file < count; ++file) {
    f(file, block);
    for (int i = rank - 1; i >= 0; --i) {
      const auto at = static_cast<size_t>(i);
      const int64_t size = view[permutation.axes[at]];
      block += step[at];
      if (++index[at] < size) break;
      block -= step[at] * static_cast<size_t>(size);
      index[at] = 0;
    }
  }
}

}  // namespace

int64_t values_together(const Permutation& permutation) {
  Permutation outer = permutation;
  return fold(outer);
}

std::vector<std::byte> from_file_order(const Permutation& permutation, const std::byte* stored,
                                       const BytesOf& bytes_of) {
  Permutation outer = permutation;
  const size_t size_bytes = bytes_of(fold(outer));
  std::vector<std::byte> out(static_cast<size_t>(outer.view.count()) * size_bytes);
  for_permuted(outer, [&](size_t file, size_t block) {
    std::memcpy(out.data() + block * size_bytes, stored + file * size_bytes, size_bytes);
  });
  return out;
}

std::vector<std::byte> to_file_order(const Permutation& permutation, const std::byte* values, const BytesOf& bytes_of) {
  Permutation outer = permutation;
  const size_t size_bytes = bytes_of(fold(outer));
  std::vector<std::byte> out(static_cast<size_t>(outer.view.count()) * size_bytes);
  for_permuted(outer, [&](size_t file, size_t block) {
    std::memcpy(out.data() + file * size_bytes, values + block * size_bytes, size_bytes);
  });
  return out;
}

std::vector<std::byte> ParamPlace::reordered_bytes() const {
  return from_file_order(*permuted, bytes, [&](int64_t count) { return entry->bytes_of(count); });
}

}  // namespace carousel::model
