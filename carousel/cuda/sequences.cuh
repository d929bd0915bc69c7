// SPDX-License-Identifier: Apache-2.0
// The ragged batch as kernels of the GPU read it.
#pragma once

#include <cstdint>

namespace carousel::cuda {

/// A sequence of the batch: its rows, and the position of the first.
struct BatchSequence {
  int64_t first_row, rows, pos;
};
/// `there` is SeqsView::there: offsets [B+1], then positions [B].
__device__ inline BatchSequence sequence_at(const int64_t* there, int64_t batch, int64_t s) {
  return {there[s], there[s + 1] - there[s], there[batch + 1 + s]};
}

/// The sequence that row n belongs to.
__device__ inline int64_t sequence_of_row(const int64_t* there, int64_t batch, int64_t n) {
  int64_t low = 0, high = batch - 1;  // the last one that begins at n or before it
  while (low < high) {
    const int64_t middle = (low + high + 1) / 2;
    if (there[middle] <= n) {
      low = middle;
    } else {
      high = middle - 1;
    }
  }
  return low;
}

/// Whether every sequence of a SeqsView has one row, as in decoding: row n then is that of sequence n.
template <class Seqs>
bool one_row_each(const Seqs& seqs) {
  for (int64_t s = 0; s < seqs.batch; ++s) {
    if (seqs.length(s) != 1) return false;
  }
  return true;
}

}  // namespace carousel::cuda
