// SPDX-License-Identifier: Apache-2.0
// Gradients of the norms in two passes over slabs of rows: along rows, for what is activations, then along columns,
// where a parameter's gradient is one chain over the rows in their order. With x^ = (x - mean) / deviation and g the
// gradient before weight,
//   d_x = (g - mean(g) - x^ mean(g x^)) / deviation      (rms: without mean(g))
#include "carousel/ops/norm/norm_backward_cpu.h"

#include "carousel/cpu/divide.h"
#include "carousel/cpu/matmul.h"
#include "carousel/cpu/vec_math.h"
#include "carousel/cpu/workspace.h"
#include "carousel/ops/norm/norm_rows_cpu.h"

namespace carousel::cpu::CAROUSEL_ISA {
namespace {

using ops::Norm;
using ops::NormGate;

constexpr int64_t kWorkPerElement = 16, kGateWork = 32;
constexpr int64_t kColumns = 256;      // of one head that a thread takes: long enough to be read in order
constexpr int64_t kChunk = 16;         // rows that a tile of columns takes before the next tile
constexpr int64_t kSlabFloats = 4096;  // kChunk times as many of a thread are in its cache when columns are summed
constexpr int kColumnVecs = kLanes == 16 ? 4 : 2;

struct Call : ops::NormBackwardArgs {
  int64_t slab;    // rows that both passes take before the next ones
  Affine* affine;  // [slab, H] the statistics of every row and head
  View d_normed;   // [slab, H*Dv] the gradient before the gate
};

Call lay_out(const Stream& stream, const ops::NormBackwardArgs& args, Workspace& workspace) {
  Call call = {};
  static_cast<ops::NormBackwardArgs&>(call) = args;
  const int64_t width = args.heads * args.dv, slab = (stream.threads() * kSlabFloats / width + 1) * kChunk;
  call.slab = slab < args.rows ? slab : args.rows;
  call.affine = workspace.take<Affine>(call.slab * args.heads);
  call.d_normed = args.d;
  if (args.gate != NormGate::Kind::kNone) call.d_normed = {workspace.take<float>(call.slab * width), width};
  return call;
}

/// The rows of the call from `first` on, at most a slab of them.
Call slab_of(const Call& call, int64_t first) {
  Call slab = call;
  for (View* const view :
       {&slab.x, &slab.pre, &slab.skip, &slab.d, &slab.d_more, &slab.d_x, &slab.d_pre, &slab.d_skip}) {
    if (view->data != nullptr) view->data = view->f32() + first * view->stride;
  }
  if (call.gate == NormGate::Kind::kNone) slab.d_normed = slab.d;
  slab.rows = call.rows - first < call.slab ? call.rows - first : call.slab;
  return slab;
}

inline void store_at(float* p, Vec v, int64_t count) {
  if (count >= kLanes) {
    store(p, v);
  } else {
    store_partial(p, v, count);
  }
}

inline Vec weight_at(const ops::NormArgs& norm, int64_t j, int64_t count) {
  return norm.weight == nullptr ? set1(1.0f) : load_at(norm.weight + j, count) + set1(norm.weight_offset);
}

inline const float* row_at(const View& view, int64_t n, int64_t first) { return view.f32() + n * view.stride + first; }
inline float* write_at(const View& view, int64_t n, int64_t first) { return view.f32() + n * view.stride + first; }

/// The gate's own gradient, and the gradient before it, of one head of one row.
void gate_head(const Call& args, int64_t n, int64_t first, Affine affine) {
  const float *x = row_at(args.x, n, first), *pre = row_at(args.pre, n, first), *d = row_at(args.d, n, first);
  float* const d_normed = write_at(args.d_normed, n, first);
  const Vec one = set1(1.0f);
  for (int64_t j = 0; j < args.dv; j += kLanes) {
    const int64_t count = args.dv - j;
    const Vec z = load_at(pre + j, count), s = sigmoid(z), d_j = load_at(d + j, count);
    const bool silu = args.gate == NormGate::Kind::kSilu;
    store_at(d_normed + j, d_j * ops::norm_gate<VecMath>(args.gate, z), count);
    if (args.d_pre.data == nullptr) continue;
    Vec u = (load_at(x + j, count) - set1(affine.shift)) * set1(affine.scale) * weight_at(args.norm, first + j, count);
    if (args.norm.bias != nullptr) u = u + load_at(args.norm.bias + first + j, count);
    if (args.skip.data != nullptr) {
      u = fma(load_at(args.skip_weight + first + j, count), load_at(row_at(args.skip, n, first) + j, count), u);
    }
    const Vec slope = silu ? ops::silu_slope<VecMath>(z, s) : s * (one - s);
    store_at(write_at(args.d_pre, n, first) + j, d_j * u * slope, count);
  }
}

void skip_head(const Call& args, int64_t n, int64_t first) {
  const float* const d_normed = row_at(args.d_normed, n, first);
  float* const d_skip = write_at(args.d_skip, n, first);
  for (int64_t j = 0; j < args.dv; j += kLanes) {
    const int64_t count = args.dv - j;
    store_at(d_skip + j, load_at(d_normed + j, count) * load_at(args.skip_weight + first + j, count), count);
  }
}

/// d_x of one head of one row.
void norm_head(const Call& args, int64_t n, int64_t first, Affine affine) {
  const ops::NormArgs norm = args.norm;
  const float *x = row_at(args.x, n, first), *d_normed = row_at(args.d_normed, n, first);
  const float* const d_more = args.d_more.data != nullptr ? row_at(args.d_more, n, first) : nullptr;
  float* const d_x = write_at(args.d_x, n, first);
  const Vec shift = set1(affine.shift), scale = set1(affine.scale);
  Vec total = {}, along = {};  // of g, and of g x^
  if (norm.kind != Norm::Kind::kNone) {
    for (int64_t j = 0; j < args.dv; j += kLanes) {
      const int64_t count = args.dv - j;
      const Vec g = load_at(d_normed + j, count) * weight_at(norm, first + j, count);
      total = total + g;
      along = fma(g, (load_at(x + j, count) - shift) * scale, along);
    }
  }
  const auto width = static_cast<float>(args.dv);
  const Vec mean = set1(norm.kind == Norm::Kind::kLayer ? sum(total) / width : 0.0f);
  const Vec slope = set1(norm.kind != Norm::Kind::kNone ? -sum(along) / width : 0.0f);
  for (int64_t j = 0; j < args.dv; j += kLanes) {
    const int64_t count = args.dv - j;
    const Vec g = load_at(d_normed + j, count) * weight_at(norm, first + j, count);
    const Vec normed = (load_at(x + j, count) - shift) * scale;
    const Vec d = fma(slope, normed, g - mean) * scale;
    store_at(d_x + j, d_more != nullptr ? d + load_at(d_more + j, count) : d, count);
  }
}

/// Adds the gradients of columns [first, first + count) of one head's parameters.
void add_columns(const Call& args, int64_t h, int64_t first, int64_t columns) {
  for (int64_t begin = 0; begin < args.rows; begin += kChunk) {
    const int64_t end = args.rows - begin < kChunk ? args.rows : begin + kChunk;
    for_column_tiles<kColumnVecs>(columns, [&]<int V, bool kPartial>(int64_t tile, int64_t lanes) {
      const int64_t j = first + tile;
      Vec weight[V], bias[V], skip_weight[V];
      const auto load_sums = [&](const float* from, Vec(&sums)[V]) {
        for (int v = 0; v < V; ++v)
          sums[v] = from == nullptr ? Vec{} : load_lanes<kPartial>(from + j + v * kLanes, lanes);
      };
      load_sums(args.d_weight, weight);
      load_sums(args.d_bias, bias);
      load_sums(args.d_skip_weight, skip_weight);
      for (int64_t n = begin; n < end; ++n) {
        const Affine affine = args.affine[n * args.heads + h];
        for (int v = 0; v < V; ++v) {
          const int64_t at = j + v * kLanes;
          const Vec d = load_lanes<kPartial>(row_at(args.d_normed, n, at), lanes);
          const Vec x = load_lanes<kPartial>(row_at(args.x, n, at), lanes);
          weight[v] = fma(d, (x - set1(affine.shift)) * set1(affine.scale), weight[v]);
          bias[v] = bias[v] + d;
          if (args.d_skip_weight != nullptr) {
            skip_weight[v] = fma(d, load_lanes<kPartial>(row_at(args.skip, n, at), lanes), skip_weight[v]);
          }
        }
      }
      const auto store_sums = [&](float* to, const Vec(&sums)[V]) {
        for (int v = 0; v < V && to != nullptr; ++v) store_lanes<kPartial>(to + j + v * kLanes, sums[v], lanes);
      };
      store_sums(args.d_weight, weight);
      store_sums(args.d_bias, bias);
      store_sums(args.d_skip_weight, skip_weight);
    });
  }
}

void pass_rows(const Stream& stream, const Call& args) {
  const bool gated = args.gate != NormGate::Kind::kNone;
  const int64_t work = kWorkPerElement + (gated ? kGateWork : 0);
  parallel_ranges(stream, args.rows, args.heads * args.dv * work, [&](int64_t begin, int64_t end) {
    for (int64_t n = begin; n < end; ++n) {
      for (int64_t h = 0; h < args.heads; ++h) {
        const int64_t first = h * args.dv;
        const Affine affine = row_statistics(row_at(args.x, n, first), args.dv, args.norm);
        args.affine[n * args.heads + h] = affine;
        if (gated) gate_head(args, n, first, affine);
        if (args.d_skip.data != nullptr) skip_head(args, n, first);
        if (args.d_x.data != nullptr) norm_head(args, n, first, affine);
      }
    }
  });
}

void pass_columns(const Stream& stream, const Call& args) {
  const int64_t blocks = (args.dv - 1) / kColumns + 1;
  parallel_ranges(stream, args.heads * blocks, args.rows * (args.dv / blocks) * 8, [&](int64_t begin, int64_t end) {
    for (int64_t item = begin; item < end; ++item) {
      const int64_t h = item / blocks, first = item % blocks * kColumns;
      add_columns(args, h, h * args.dv + first, args.dv - first < kColumns ? args.dv - first : kColumns);
    }
  });
}

}  // namespace

int64_t norm_backward_workspace(const Stream& stream, const ops::NormBackwardArgs& args) {
  Workspace counted;
  lay_out(stream, args, counted);
  return counted.bytes();
}

void norm_backward(const Stream& stream, const ops::NormBackwardArgs& given) {
  Workspace workspace(given.workspace);
  const Call call = lay_out(stream, given, workspace);
  for (int64_t first = 0; first < call.rows; first += call.slab) {
    const Call args = slab_of(call, first);
    pass_rows(stream, args);
    if (args.parameters()) pass_columns(stream, args);
  }
}

}  // namespace carousel::cpu::CAROUSEL_ISA
