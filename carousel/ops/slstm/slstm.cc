// SPDX-License-Identifier: Apache-2.0
#include "carousel/ops/slstm/slstm.h"

#include <algorithm>

#include "carousel/core/error.h"
#include "carousel/ops/rounding/rounding.h"

namespace carousel::ops {
namespace {

constexpr const char* kWhere = "ops::slstm";

void check_dims(const SlstmDims& dims) {
  if (dims.heads < 1 || dims.dh < 1) {
    fail(ErrorKind::kShape, "{}: heads {}, dh {}, expected at least 1 each", kWhere, dims.heads, dims.dh);
  }
}

/// The sequences that have rows, longest first: at any time those still running are the first ones of their group.
int64_t list_sequences(const Seqs& seqs, LayerStates states, size_t first, float* zeros, int64_t width,
                       SlstmSequence* out) {
  int64_t count = 0;
  for (int64_t s = 0; s < seqs.batch(); ++s) {
    if (seqs.length(s) == 0) continue;
    SlstmSequence& seq = out[count++];
    seq.first_row = seqs.offsets[static_cast<size_t>(s)];
    seq.rows = seqs.length(s);
    float* fresh = zeros == nullptr ? nullptr : zeros + s * 4 * width;
    seq.y = states.empty() ? fresh : states.fixed(first)[s];
    seq.c = states.empty() ? fresh + width : states.fixed(first + 1)[s];
    seq.n = states.empty() ? fresh + 2 * width : states.fixed(first + 2)[s];
    seq.m = states.empty() ? fresh + 3 * width : states.fixed(first + 3)[s];
  }
  std::sort(out, out + count, [](const SlstmSequence& a, const SlstmSequence& b) { return a.rows > b.rows; });
  return count;
}

struct Division {
  int64_t groups = 1;
  int64_t slices = 0;
};

// Measured: two threads in step took over from one at 0.3 us a step; whole recurrences win where they occupy more than
// half the threads, since none waits for another, and where a group fills the tiles that read R for several rows.
constexpr int64_t kWorthThreads = int64_t{1} << 19;  // operations of a call
constexpr int64_t kWorthSteps = int64_t{1} << 15;    // operations of a step
constexpr int64_t kFullTile = 6;                     // rows
constexpr int64_t kSlicesPerThread = 4;              // of a single step, where nothing waits for the slowest

Division divide(const SlstmDims& dims, const SlstmSequence* sequences, int64_t active, int64_t threads) {
  int64_t rows = 0;
  for (int64_t s = 0; s < active; ++s) rows += sequences[s].rows;
  const int64_t row_work = 8 * dims.heads * dims.dh * dims.dh, panels = dims.heads * slstm_panels(dims);
  if (threads == 1 || rows * row_work < kWorthThreads) return {};
  if (sequences[0].rows == 1) return {1, std::min({kSlicesPerThread * threads, panels, kMaxSlices})};
  // As few groups as occupy the threads: the more sequences share a pass over R, the better. What is more than a tile
  // of them shares it no further, so that threads can as well claim more groups, as fast as each is.
  const int64_t groups = std::max(std::min(active, (threads + dims.heads - 1) / dims.heads),
                                  (active + kSlstmTileRows - 1) / kSlstmTileRows);
  const bool in_step = 2 * dims.heads <= threads && active < kFullTile * groups && active * row_work >= kWorthSteps;
  return in_step ? Division{1, std::min({threads, panels, kMaxSlices})} : Division{groups, 0};
}

}  // namespace

Tensor pack_slstm_recurrent(const Tensor& recurrent, const SlstmDims& dims) {
  check_dims(dims);
  const int64_t heads = dims.heads, dh = dims.dh, panels = slstm_panels(dims);
  check_shape(kWhere, "recurrent", recurrent, {heads, dh, 4 * dh});
  check_dtype(kWhere, "recurrent", recurrent, DType::kF32);
  Tensor packed(Shape{heads, panels, 2, dh, kSlstmPiece}, DType::kF32);
  for (int64_t h = 0; h < heads; ++h) {
    for (int64_t k = 0; k < dh; ++k) {
      const float* row = recurrent.f32() + (h * dh + k) * 4 * dh;  // [4*dh]
      for (int64_t j = 0; j < 4 * dh; ++j) {
        const int64_t gate = j / dh, out = j % dh;
        float* panel = packed.f32() + (h * panels + out / kSlstmElements) * dh * kSlstmPanel;
        panel[(gate / 2 * dh + k) * kSlstmPiece + gate % 2 * kSlstmElements + out % kSlstmElements] = row[j];
      }
    }
  }
  return packed;
}

Tensor slstm(Ctx& ctx, const Tensor& wx, const Tensor& packed, const SlstmDims& dims, const Seqs& seqs,
             LayerStates states, size_t first) {
  check_dims(dims);
  const int64_t rows = seqs.rows(), batch = seqs.batch(), width = dims.heads * dims.dh;
  check_shape(kWhere, "wx", wx, {rows, 4 * width});
  check_dtype(kWhere, "wx", wx, DType::kF32);
  check_shape(kWhere, "packed", packed, {dims.heads, slstm_panels(dims), 2, dims.dh, kSlstmPiece});
  Tensor out = ctx.arena.empty({rows, width});
  if (rows == 0) return out;

  const Tensor zeros = states.empty() ? ctx.arena.zeros({batch, 4, width}) : Tensor();
  const Tensor list = ctx.arena.empty({batch, static_cast<int64_t>(sizeof(SlstmSequence))}, DType::kU8);
  auto* sequences = static_cast<SlstmSequence*>(list.raw());
  const int64_t active = list_sequences(seqs, states, first, zeros.defined() ? zeros.f32() : nullptr, width, sequences);
  const Tensor y = ctx.arena.empty({2, dims.heads, active, slstm_y_stride(dims)});
  const Tensor cells = ctx.arena.empty({dims.heads, slstm_panels(dims), active, 3, kSlstmElements});
  const Division division = divide(dims, sequences, active, ctx.stream.pool->threads());
  kernels::slstm(ctx.stream, {wx.f32(), packed.f32(), out.f32(), dims, slstm_panels(dims), sequences, active,
                              division.groups, division.slices, y.f32(), cells.f32()});
  return rounded(ctx, out);
}

}  // namespace carousel::ops
