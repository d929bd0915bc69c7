// SPDX-License-Identifier: Apache-2.0
// The gradient of the sLSTM, backwards through time, in four passes. remember() advances every element again from the
// kept sums, which needs no product, and writes down c, n and both decays of every row. A head's matrix is transposed.
// Then all sequences of a group go back in step: their elements first, then the product of the sums' gradients with the
// transposed matrix, which gives the gradients of the outputs before. The matrices' gradient is one product at the end.
//
// m only keeps c and n in range: a loss of outputs does not change when c and n are scaled by e^a and m falls by a. Its
// slope along that direction, excess = c d_c + n d_n - d_m, is carried in place of d_m, since d_m itself is a
// difference of nearly equal terms. The excess is zero unless the caller gives a gradient of the last states that is
// not.
#include "carousel/cpu/divide.h"
#include "carousel/cpu/outer.h"
#include "carousel/cpu/vec_math.h"
#include "carousel/cpu/workspace.h"
#include "carousel/ops/slstm/slstm_advance_cpu.h"
#include "carousel/ops/slstm/slstm_cpu.h"
#include "carousel/ops/slstm/slstm_order_cpu.h"

namespace carousel::cpu::CAROUSEL_ISA {
namespace {

constexpr int64_t kGates = 4;
constexpr int64_t kElements = ops::kSlstmElements;
constexpr int64_t kColumns = 64;  // of a panel of the transposed matrix

struct Sequence {
  int64_t first_row, rows;
  int64_t s;  // its place in the batch
};

/// The arguments, and what is laid out in their workspace.
struct Call : ops::SlstmBackwardArgs {
  int64_t width;        // D
  int64_t padded;       // dh, padded to whole groups of kElements
  int64_t sums_stride;  // an odd number of cache lines
  Sequence* sequences;  // [active], longest first, all with rows
  int64_t active;
  float* cells;       // [N, 4, D] c, n, and the gates i and f, of every row
  float* y_before;    // [N, D] the output of the step before; null where the matrices are not trained
  float* transposed;  // [H] panels of kColumns columns, the last one narrower: [4 * padded, columns]
  float* carried;     // [H, active, 4, padded] gradients of y, c and n, and the excess, between steps
  float* sums;        // [H, active, sums_stride] gradients of one step's sums: [4, padded] of them
  float* outer;       // [threads, kOuterScratch]

  float* cell(int64_t row, int64_t i) const { return cells + (row * 4 + i) * width; }
  float* carry(int64_t h, int64_t r, int64_t i) const { return carried + ((h * active + r) * 4 + i) * padded; }
  float* sums_of(int64_t h, int64_t r) const { return sums + (h * active + r) * sums_stride; }
};

inline Vec load_some(const float* p, int64_t count, float fill = 0.0f) {
  return count >= kLanes ? load(p) : load_partial(p, count, fill);
}
inline void store_some(float* p, Vec value, int64_t count) {
  if (count >= kLanes) {
    store(p, value);
  } else {
    store_partial(p, value, count);
  }
}

/// State `before` of sequence s from column j on; zeros where there is none.
inline Vec state_before(const View& before, int64_t s, int64_t j, int64_t count) {
  return before.data != nullptr ? load_some(before.f32() + s * before.stride + j, count) : Vec{};
}

constexpr int64_t kRemembered = 128;  // columns that a task of remember() advances

/// Advances columns j to j + kRemembered of one sequence through all of its rows.
void remember(const Call& args, const Sequence& seq, int64_t first) {
  const int64_t past = first + kRemembered < args.width ? first + kRemembered : args.width;
  const Vec f_gate_max = set1(args.dims.f_gate_max);
  alignas(64) float m[kRemembered], y[kRemembered];
  for (int64_t j = first; j < past; j += kLanes) {
    store(m + j - first, state_before(args.m, seq.s, j, past - j));
    store(y + j - first, state_before(args.y, seq.s, j, past - j));
  }
  for (int64_t t = 0; t < seq.rows; ++t) {
    const int64_t n = seq.first_row + t;
    const float* const raw = args.raw.f32() + n * args.raw.stride;
    for (int64_t j = first; j < past; j += kLanes) {
      const int64_t count = past - j;
      const auto gate = [&](int64_t g) { return load_some(raw + g * args.width + j, count); };
      const Vec c = t == 0 ? state_before(args.c, seq.s, j, count) : load_some(args.cell(n - 1, 0) + j, count);
      const Vec before = t == 0 ? state_before(args.n, seq.s, j, count) : load_some(args.cell(n - 1, 1) + j, count);
      if (args.y_before != nullptr) store_some(args.y_before + n * args.width + j, load(y + j - first), count);
      const Advanced next =
          advance({Vec{}, c, before, load(m + j - first)}, gate(0), gate(1), gate(2), gate(3), f_gate_max);
      store(m + j - first, next.cell.m);
      store(y + j - first, next.cell.y);
      store_some(args.cell(n, 0) + j, next.cell.c, count);
      store_some(args.cell(n, 1) + j, next.cell.n, count);
      store_some(args.cell(n, 2) + j, next.i, count);
      store_some(args.cell(n, 3) + j, next.f, count);
    }
  }
}

inline int64_t panel_columns(const Call& args, int64_t p) {
  return args.padded - p * kColumns < kColumns ? args.padded - p * kColumns : kColumns;
}

/// Transposes panel p of head h: row g * padded + j holds the weights from inputs p * kColumns.. to sum j of gate g.
void transpose(const Call& args, int64_t h, int64_t p) {
  const int64_t columns = panel_columns(args, p), dh = args.dims.dh, panels = ops::slstm_panels(args.dims);
  float* const out = args.transposed + (h * args.padded + p * kColumns) * 4 * args.padded;  // [4 * padded, columns]
  const float* const head = args.panels + h * panels * dh * ops::kSlstmPanel;
  for (int64_t row = 0; row < 4 * args.padded; ++row) {
    const int64_t gate = row / args.padded, j = row % args.padded;
    const float* const piece = head + (j / kElements * 2 + gate / 2) * dh * ops::kSlstmPiece;
    const float* const from = piece + gate % 2 * kElements + j % kElements;
    for (int64_t k = 0; k < columns; ++k) {
      const int64_t input = p * kColumns + k;
      out[row * columns + k] = input < dh ? from[input * ops::kSlstmPiece] : 0.0f;
    }
  }
}

/// The gradients between steps of kLanes elements.
struct Carried {
  Vec d_c, d_n, excess;
};

/// One row's values of kLanes elements.
struct Row {
  Vec raw[kGates];
  Vec c, n, i, f, c_before, n_before;
};

/// Goes back one step: `carried` becomes the gradients before it. d_raw are those of the sums.
CAROUSEL_INLINE void step_back(const Row& row, Vec d_y, Vec f_gate_max, Carried& carried, Vec* d_raw) {
  const Vec one = set1(1.0f), per_n = one / row.n;
  const Vec open = sigmoid(row.raw[3]), z = tanh(row.raw[2]);
  const Vec scaled = open * per_n, y = scaled * row.c;  // y = sigmoid(o) c / n
  d_raw[3] = d_y * y * (one - open);
  const Vec d_c = fma(d_y, scaled, carried.d_c), d_n = carried.d_n - d_y * y * per_n;
  d_raw[2] = d_c * row.i * fma(-z, z, one);
  const Vec d_i = row.i * fma(d_c, z, d_n);                            // of raw_i, with m' a constant
  const Vec d_f = row.f * fma(d_c, row.c_before, d_n * row.n_before);  // of log_f, with m' a constant
  carried.d_c = row.f * d_c;
  carried.d_n = row.f * d_n;
  // m' is raw_i where i is 1, else log_f: whichever it is takes the excess. Where n was 0, m' is raw_i, and a decay of
  // 1 is clamped.
  const Vec fresh = row.n_before == Vec{} ? one : Vec{};
  const Vec at_input = row.i == one ? one : fresh;
  const Vec clamped = row.f == one ? fresh * d_f : Vec{};
  d_raw[0] = at_input == one ? d_i - carried.excess + clamped : d_i;
  const Vec d_log_f = at_input == one ? d_f - clamped : d_f - carried.excess;
  carried.excess = at_input == one ? clamped : carried.excess;
  d_raw[1] = row.raw[1] > f_gate_max ? Vec{} : d_log_f * sigmoid(-row.raw[1]);
}

/// The gradients that come in with the states of a sequence: those of what the forward left.
void begin_row(const Call& args, const Sequence& seq, int64_t h, int64_t r) {
  const int64_t dh = args.dims.dh, last = seq.first_row + seq.rows - 1;
  for (int64_t i = 0; i < 4; ++i) std::memset(args.carry(h, r, i), 0, sizeof(float) * static_cast<size_t>(args.padded));
  std::memset(args.sums_of(h, r), 0, sizeof(float) * static_cast<size_t>(args.sums_stride));
  if (args.d_y == nullptr) return;
  for (int64_t j = 0; j < dh; j += kLanes) {
    const int64_t at = h * dh + j, count = dh - j;
    const auto in = [&](float* const* d) { return load_some(d[seq.s] + at, count); };
    const Vec d_c = in(args.d_c), d_n = in(args.d_n);
    store_some(args.carry(h, r, 0) + j, in(args.d_y), count);
    store_some(args.carry(h, r, 1) + j, d_c, count);
    store_some(args.carry(h, r, 2) + j, d_n, count);
    const Vec along =
        fma(load_some(args.cell(last, 0) + at, count), d_c, load_some(args.cell(last, 1) + at, count) * d_n);
    store_some(args.carry(h, r, 3) + j, along - in(args.d_m), count);
  }
}

/// Replaces the gradients of the states by those of the states before the forward.
void end_row(const Call& args, const Sequence& seq, int64_t h, int64_t r) {
  if (args.d_y == nullptr) return;
  const int64_t dh = args.dims.dh;
  for (int64_t j = 0; j < dh; j += kLanes) {
    const int64_t at = h * dh + j, count = dh - j;
    const auto carried = [&](int64_t i) { return load(args.carry(h, r, i) + j); };
    const Vec d_c = carried(1), d_n = carried(2);
    store_some(args.d_y[seq.s] + at, carried(0), count);
    store_some(args.d_c[seq.s] + at, d_c, count);
    store_some(args.d_n[seq.s] + at, d_n, count);
    const Vec along = fma(state_before(args.c, seq.s, at, count), d_c, state_before(args.n, seq.s, at, count) * d_n);
    store_some(args.d_m[seq.s] + at, along - carried(3), count);
  }
}

/// Prefetches what elements_back() reads at step t, which lies too scattered for the hardware to foresee.
void prefetch_step(const Call& args, const Sequence& seq, int64_t h, int64_t t) {
  const int64_t dh = args.dims.dh, n = seq.first_row + t, at = h * dh;
  for (int64_t j = at; j < at + dh; j += kLineFloats) {
    for (int64_t g = 0; g < kGates; ++g) {
      prefetch_far(args.raw.f32() + n * args.raw.stride + g * args.width + j);
      prefetch_far(args.d_wx.f32() + n * args.d_wx.stride + g * args.width + j);
      prefetch_far(args.cell(g < 2 ? n - 1 : n, g) + j);  // c and n of the step before are read with this one's
    }
    prefetch_far(args.d.f32() + n * args.d.stride + j);
  }
}

/// Goes back through step t of head h in the elements of one row.
void elements_back(const Call& args, const Sequence& seq, int64_t h, int64_t r, int64_t t) {
  const int64_t dh = args.dims.dh, n = seq.first_row + t;
  const Vec f_gate_max = set1(args.dims.f_gate_max);
  float* const sums = args.sums_of(h, r);
  if (t > 1) prefetch_step(args, seq, h, t - 1);
  for (int64_t j = 0; j < dh; j += kLanes) {
    const int64_t at = h * dh + j, count = dh - j;
    const auto cell = [&](int64_t i) { return load_some(args.cell(n, i) + at, count, 1.0f); };
    Row row;
    for (int64_t g = 0; g < kGates; ++g) {
      row.raw[g] = load_some(args.raw.f32() + n * args.raw.stride + g * args.width + at, count);
    }
    row.c = cell(0), row.n = cell(1), row.i = cell(2), row.f = cell(3);
    row.c_before = t == 0 ? state_before(args.c, seq.s, at, count) : load_some(args.cell(n - 1, 0) + at, count);
    row.n_before = t == 0 ? state_before(args.n, seq.s, at, count) : load_some(args.cell(n - 1, 1) + at, count);
    const Vec d_y = load_some(args.d.f32() + n * args.d.stride + at, count) + load(args.carry(h, r, 0) + j);
    Carried carried = {load(args.carry(h, r, 1) + j), load(args.carry(h, r, 2) + j), load(args.carry(h, r, 3) + j)};
    Vec d_raw[kGates];
    step_back(row, d_y, f_gate_max, carried, d_raw);
    store(args.carry(h, r, 1) + j, carried.d_c);
    store(args.carry(h, r, 2) + j, carried.d_n);
    store(args.carry(h, r, 3) + j, carried.excess);
    for (int64_t g = 0; g < kGates; ++g) {
      store_some(sums + g * args.padded + j, d_raw[g], count);
      store_some(args.d_wx.f32() + n * args.d_wx.stride + g * args.width + at, d_raw[g], count);
    }
  }
}

/// The gradients of the outputs before, of R rows of head h: their sums' gradients times the transposed matrix.
template <int R>
void multiply_rows(const Call& args, int64_t h, int64_t r) {
  constexpr int kVecs = R <= 2 ? 4 : 2;
  const int64_t inputs = 4 * args.padded;
  for (int64_t p = 0; p * kColumns < args.padded; ++p) {
    const int64_t columns = panel_columns(args, p);
    const float* const panel = args.transposed + (h * args.padded + p * kColumns) * inputs;
    for_column_tiles<kVecs>(columns, [&]<int V, bool kPartial>(int64_t j, int64_t) {
      Tile<R, V> tile;
      clear_tile(tile.acc);
      multiply_add<false>(tile, args.sums_of(h, r), args.sums_stride, 1, panel + j, columns, inputs, kLanes);
#pragma GCC unroll 16
      for (int i = 0; i < R; ++i) {
#pragma GCC unroll 8
        for (int v = 0; v < V; ++v) store(args.carry(h, r + i, 0) + p * kColumns + j + v * kLanes, tile.acc[i][v]);
      }
    });
  }
}

using RowsFunction = void (*)(const Call&, int64_t, int64_t);
constexpr RowsFunction kRowTiles[] = {
    multiply_rows<1>, multiply_rows<2>, multiply_rows<3>, multiply_rows<4>,
#if defined(__AVX2__)
    multiply_rows<5>, multiply_rows<6>,
#endif
#if defined(__AVX512F__)
    multiply_rows<7>, multiply_rows<8>, multiply_rows<9>, multiply_rows<10>, multiply_rows<11>, multiply_rows<12>,
#endif
};
static_assert(sizeof kRowTiles / sizeof kRowTiles[0] == kTileRows);

/// Sequences first to past of the list, which go back in step.
struct Group {
  int64_t first, past;
};

/// Goes back through all steps of head h in a group.
void head_back(const Call& args, int64_t h, const Group& group) {
  for (int64_t r = group.first; r < group.past; ++r) begin_row(args, args.sequences[r], h, r);
  int64_t running = 0;
  for (int64_t t = args.sequences[group.first].rows - 1; t >= 0; --t) {
    while (group.first + running < group.past && args.sequences[group.first + running].rows > t) ++running;
    for (int64_t r = group.first; r < group.first + running; ++r) elements_back(args, args.sequences[r], h, r, t);
    const int64_t tiles = (running + kTileRows - 1) / kTileRows;
    for (int64_t i = 0, r = group.first; i < tiles; ++i) {
      const int64_t count = running / tiles + (i < running % tiles ? 1 : 0);
      kRowTiles[count - 1](args, h, r);
      r += count;
    }
  }
  for (int64_t r = group.first; r < group.past; ++r) end_row(args, args.sequences[r], h, r);
}

/// Adds the gradients of the matrices: [dh, 4 * dh] of a head, the outputs before times the sums' gradients.
void add_recurrent(const Stream& stream, const Call& args) {
  const int64_t dh = args.dims.dh, heads = args.dims.heads, rows = args.seqs.rows();
  const int64_t strips = (dh + kOuterColumns - 1) / kOuterColumns;
  const int64_t work = rows * heads * dh * dh * 8;
  parallel_workers(stream, heads * kGates * strips, work, [&](int64_t worker, int64_t item) {
    const int64_t strip = item % strips, gate = item / strips % kGates, h = item / strips / kGates;
    const int64_t j = strip * kOuterColumns, count = dh - j < kOuterColumns ? dh - j : kOuterColumns;
    const Outer outer = {args.y_before + h * dh,
                         args.width,
                         args.d_wx.f32() + gate * args.width + h * dh + j,
                         args.d_wx.stride,
                         args.d_recurrent + h * dh * 4 * dh + gate * dh + j,
                         4 * dh,
                         rows,
                         dh,
                         count};
    add_outer(outer, args.outer + worker * kOuterScratch);
  });
}

Call lay_out(const Stream& stream, const ops::SlstmBackwardArgs& args, Workspace& workspace) {
  const int64_t heads = args.dims.heads, rows = args.seqs.rows();
  Call call;
  static_cast<ops::SlstmBackwardArgs&>(call) = args;
  call.width = heads * args.dims.dh;
  call.padded = ops::slstm_panels(args.dims) * kElements;
  call.sums_stride = (4 * call.padded / kElements | 1) * kElements;
  call.active = 0;
  for (int64_t s = 0; s < args.seqs.batch; ++s) call.active += args.seqs.length(s) > 0 ? 1 : 0;
  call.sequences = workspace.take<Sequence>(call.active);
  call.cells = workspace.take<float>(rows * 4 * call.width);
  call.y_before = workspace.take<float>(rows * call.width);
  call.transposed = workspace.take<float>(heads * call.padded * 4 * call.padded);
  call.carried = workspace.take<float>(heads * call.active * 4 * call.padded);
  call.sums = workspace.take<float>(heads * call.active * call.sums_stride);
  call.outer = workspace.take<float>(stream.threads() * kOuterScratch);
  return call;
}

void list_sequences(const Call& args) {
  int64_t count = 0;
  for (int64_t s = 0; s < args.seqs.batch; ++s) {
    if (args.seqs.length(s) > 0) args.sequences[count++] = {args.seqs.first_row(s), args.seqs.length(s), s};
  }
  sort_longest_first(args.sequences, count);
}

}  // namespace

int64_t slstm_backward_workspace(const Stream& stream, const ops::SlstmBackwardArgs& args) {
  Workspace counted;
  lay_out(stream, args, counted);
  return counted.bytes();
}

void slstm_backward(const Stream& stream, const ops::SlstmBackwardArgs& given) {
  Workspace workspace(given.workspace);
  Call args = lay_out(stream, given, workspace);
  if (args.d_recurrent == nullptr) args.y_before = nullptr;
  list_sequences(args);
  const int64_t heads = args.dims.heads, rows = args.seqs.rows();
  const int64_t blocks = (args.width + kRemembered - 1) / kRemembered;
  parallel_workers(stream, args.active * blocks, rows * args.width * 100, [&](int64_t, int64_t item) {
    remember(args, args.sequences[item / blocks], item % blocks * kRemembered);
  });
  const int64_t panels = (args.padded + kColumns - 1) / kColumns;
  parallel_ranges(stream, heads * panels, 8 * args.padded * kColumns, [&](int64_t begin, int64_t end) {
    for (int64_t item = begin; item < end; ++item) transpose(args, item / panels, item % panels);
  });
  // As few groups as occupy the threads: the more sequences share a pass over the matrix, the better.
  const int64_t wanted = (stream.threads() + heads - 1) / heads;
  const int64_t groups = args.active < wanted ? args.active : wanted;
  parallel_workers(stream, heads * groups, rows * args.width * (8 * args.dims.dh + 200), [&](int64_t, int64_t item) {
    const int64_t h = item % heads, group = item / heads;
    head_back(args, h, {args.active * group / groups, args.active * (group + 1) / groups});
  });
  if (args.d_recurrent != nullptr) add_recurrent(stream, args);
}

}  // namespace carousel::cpu::CAROUSEL_ISA
