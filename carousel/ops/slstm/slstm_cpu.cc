// SPDX-License-Identifier: Apache-2.0
// The sLSTM recurrence on CPUs. All sequences of a group advance in step: a tile of rows is multiplied with a panel of
// the head's matrix, which a cache keeps (slstm_tile_cpu.h), and the sums, all four gates of 16 elements, advance
// those elements at once. Between steps y, c, n and m are kept in a small buffer: the caller's lie far apart, often in
// the same cache sets.
#include "carousel/ops/slstm/slstm_cpu.h"

#include "carousel/cpu/divide.h"
#include "carousel/ops/slstm/slstm_advance_cpu.h"
#include "carousel/ops/slstm/slstm_order_cpu.h"
#include "carousel/ops/slstm/slstm_tile_cpu.h"

namespace carousel::cpu::CAROUSEL_ISA {
namespace {

/// copy_cells copies c, n and m of panel q of head h from the caller's states (kIn), or back to them (kOut).
enum class Copy { kIn, kOut };
template <Copy kWay>
void copy_cells(const Group& group, int64_t h, int64_t q, int64_t r) {
  const int64_t dh = group.args->dims.dh, j = q * kElements, lanes = dh - j < kElements ? dh - j : kElements;
  const Sequence& seq = group.sequence(r);
  float* cells = group.cells(r, h, q);
  float* kept[] = {seq.c + h * dh + j, seq.n + h * dh + j, seq.m + h * dh + j};
  const auto bytes = sizeof(float) * static_cast<size_t>(lanes);
  for (int64_t i = 0; i < 3; ++i) {
    if (kWay == Copy::kIn) {
      std::memset(cells + i * kElements, 0, sizeof(float) * kElements);
      std::memcpy(cells + i * kElements, kept[i], bytes);
    } else {
      std::memcpy(kept[i], cells + i * kElements, bytes);
    }
  }
}

/// The addresses of one panel's elements in one row.
struct Place {
  const float* wx;         // inputs of gate i; those of the next gate lie D floats further
  float *cells, *y, *out;  // c, n and m; the output for the next step; the caller's output
  int64_t lanes;           // how many of the elements exist for the caller
};
/// Finds the places of panel q of head h and rows r to r + count at step t, and prefetches their inputs near.
void find_places(const Group& group, int64_t h, int64_t q, int64_t r, int64_t count, int64_t t, Place* places) {
  const Call& args = *group.args;
  const int64_t dh = args.dims.dh, width = args.dims.heads * dh, stride = y_stride(args.dims);
  const int64_t j = q * kElements, lanes = dh - j < kElements ? dh - j : kElements;
  const Sequence* seq = &group.sequence(r);
  float *cells = group.cells(r, h, q), *y = group.y(r, h, t) + j;
  for (int64_t i = 0; i < count; ++i, cells += 3 * kElements, y += stride) {
    const int64_t row = seq[i * args.groups].first_row + t;
    const float* wx = args.wx.f32() + row * 4 * width + h * dh + j;
    places[i] = {wx, cells, y, args.out.f32() + row * width + h * dh + j, lanes};
#pragma GCC unroll 4
    for (int64_t g = 0; g < kGates; ++g) prefetch_near(wx + g * width);
  }
}

/// Keeps the sums of one place for the backward, where its inputs lie in wx.
void keep_sums(const Call& args, const Place& place, const float* sums) {
  const int64_t width = args.dims.heads * args.dims.dh, lanes = place.lanes < kElements ? place.lanes : kElements;
  float* const kept = args.raw + (place.wx - args.wx.f32());
  for (int64_t g = 0; g < kGates; ++g) {
    std::memcpy(kept + g * width, sums + g * kElements, sizeof(float) * static_cast<size_t>(lanes));
  }
}

/// Advances the elements of `count` places; raw holds their products, and with kKeeps their sums afterwards. kPartial:
/// some have fewer than kElements lanes.
template <bool kPartial, bool kKeeps>
void advance_places(const Call& args, const Place* places, int64_t count, float (*raw)[kPanel]) {
  const int64_t width = args.dims.heads * args.dims.dh;
  const Vec f_gate_max = set1(args.dims.f_gate_max);
  const auto lanes_from = [](const Place& place, int64_t v) { return place.lanes < v ? 0 : place.lanes - v; };
  for (int64_t i = 0; i < count; ++i) {
    const Place& place = places[i];
    for (int64_t v = 0; v < kElements; v += kLanes) {
      const bool partial = kPartial && lanes_from(place, v) < kLanes;
      const auto gate = [&](int64_t g) __attribute__((always_inline)) {
        const float* p = place.wx + g * width + v;
        const Vec sum = (partial ? load_partial(p, lanes_from(place, v)) : load(p)) + load(raw[i] + g * kElements + v);
        if (kKeeps) store(raw[i] + g * kElements + v, sum);
        return sum;
      };
      float *c = place.cells + v, *n = c + kElements, *m = n + kElements;
      const Cell next =
          advance({Vec{}, load(c), load(n), load(m)}, gate(0), gate(1), gate(2), gate(3), f_gate_max).cell;
      store(c, next.c);
      store(n, next.n);
      store(m, next.m);
      store(place.y + v, next.y);
    }
  }
  // Results are stored after all inputs are loaded. They often lie a multiple of 4 KiB apart, and a load waits for a
  // store whose address has the same low bits.
  for (int64_t i = 0; i < count; ++i) {
    for (int64_t v = 0; v < kElements; v += kLanes) {
      const Vec y = load(places[i].y + v);
      if (kPartial && lanes_from(places[i], v) < kLanes)
        store_partial(places[i].out + v, y, lanes_from(places[i], v));
      else
        store(places[i].out + v, y);
    }
    if (kKeeps) keep_sums(args, places[i], raw[i]);
  }
}

/// Rows times panels whose products are computed before their elements advance. With few rows the elements of several
/// panels advance together, so that their functions overlap while R is read on.
constexpr int64_t kBulk = 16;
static_assert(kBulk >= kRows);

/// The panels [begin, end) of a head in the order of one step, by units of one panel, or of two where rows are few. Odd
/// steps go backwards: they read the panels that the second level of cache still holds before they push them out.
struct PanelOrder {
  int64_t begin, end, unit, step;

  int64_t units() const { return (end - begin + unit - 1) / unit; }
  /// The first panel of the n-th unit, and how many it has.
  int64_t first(int64_t n) const { return begin + (step % 2 == 0 ? n : units() - 1 - n) * unit; }
  int64_t count(int64_t n) const { return end - first(n) < unit ? end - first(n) : unit; }
  /// Calls f(panel) for the panels of units [from, to).
  template <class F>
  CAROUSEL_INLINE void each(int64_t from, int64_t to, F&& f) const {
    for (int64_t n = from; n < to; ++n) {
      for (int64_t q = first(n), past = q + count(n); q < past; ++q) f(q);
    }
  }
};

/// Rows r to r + count of a group, which share a tile.
struct TileRows {
  int64_t r, count;
  bool last;  // the last tile of the step: another unit follows
};

/// Computes the products of the tile's rows with the panels of units [from, to) of head h.
void multiply_units(const Group& group, const PanelOrder& order, int64_t h, int64_t from, int64_t to,
                    const TileRows& rows, float (*raw)[kPanel]) {
  const Call& args = *group.args;
  const auto panel = [&](int64_t q) { return args.panels + (h * args.panels_of_head + q) * args.dims.dh * kPanel; };
  for (int64_t n = from; n < to; ++n) {
    const int64_t q = order.first(n), next = n + 1 < order.units() ? n + 1 : n;
    const int64_t following = rows.last ? order.first(next) : q;
    const TileFunction tile = (order.count(n) == 2 ? kPairTiles : kTiles)[rows.count - 1];
    tile(group, panel(q), panel(following), h, q, rows.r, order.step, raw);
    raw += order.count(n) * rows.count;
  }
}

/// Advances the elements of units [from, to) in the tile's rows. Cells are copied from the caller before the first
/// step, and back after a row's last step.
void advance_units(const Group& group, const PanelOrder& order, int64_t h, int64_t from, int64_t to,
                   const TileRows& rows, float (*raw)[kPanel]) {
  const int64_t t = order.step;
  Place places[kBulk];
  Place* next = places;
  order.each(from, to, [&](int64_t q) {
    for (int64_t row = rows.r; t == 0 && row < rows.r + rows.count; ++row) copy_cells<Copy::kIn>(group, h, q, row);
    find_places(group, h, q, rows.r, rows.count, t, next);
    next += rows.count;
  });
  const bool partial = group.args->dims.dh % kElements != 0;
  if (group.args->raw == nullptr) {
    (partial ? advance_places<true, false> : advance_places<false, false>)(*group.args, places, next - places, raw);
  } else {
    (partial ? advance_places<true, true> : advance_places<false, true>)(*group.args, places, next - places, raw);
  }
  order.each(from, to, [&](int64_t q) {  // longest first
    for (int64_t row = rows.r + rows.count - 1; row >= rows.r && group.sequence(row).rows == t + 1; --row)
      copy_cells<Copy::kOut>(group, h, q, row);
  });
}

/// Advances panels [begin, end) of head h in all running sequences of the group, at step t.
void advance_head(const Group& group, int64_t h, int64_t begin, int64_t end, int64_t t) {
  int64_t rows = group.count;
  while (rows > 0 && group.sequence(rows - 1).rows <= t) --rows;  // longest first
  if (rows == 0 || begin == end) return;
  const int64_t tiles = (rows + kRows - 1) / kRows;
  const PanelOrder order = {begin, end, rows <= kPairRows ? 2 : 1, t};
  const int64_t bulk = tiles > 1 ? 1 : kBulk / (rows * order.unit);  // units
  alignas(64) float raw[kBulk][kPanel];
  for (int64_t from = 0; from < order.units(); from += bulk) {
    const int64_t to = from + bulk < order.units() ? from + bulk : order.units();
    for (int64_t i = 0, r = 0; i < tiles; ++i) {
      const TileRows tile = {r, rows / tiles + (i < rows % tiles ? 1 : 0), i + 1 == tiles};
      multiply_units(group, order, h, from, to, tile, raw);
      advance_units(group, order, h, from, to, tile, raw);
      r += tile.count;
    }
  }
}

/// Advances panels [begin, end), counted over all heads in order.
void advance_panels(const Group& group, int64_t begin, int64_t end, int64_t t) {
  const int64_t panels = group.args->panels_of_head, first = begin / panels,
                heads = (end + panels - 1) / panels - first;
  for (int64_t i = 0; i < heads; ++i) {
    const int64_t h = first + (t % 2 == 0 ? i : heads - 1 - i), from = begin - h * panels, to = end - h * panels;
    advance_head(group, h, from < 0 ? 0 : from, to < panels ? to : panels, t);
  }
}

/// Copies the caller's y to where step 0 reads the outputs of the step before.
void copy_y(const Group& group, int64_t h) {
  const int64_t dh = group.args->dims.dh;
  for (int64_t r = 0; r < group.count; ++r)
    std::memcpy(group.y(r, h, -1), group.sequence(r).y + h * dh, sizeof(float) * static_cast<size_t>(dh));
}

/// Most sequences that share a pass over R: a tile's with AVX-512, fewer otherwise.
constexpr int64_t kRowsOfPass = 12;

inline int64_t least(int64_t a, int64_t b) { return a < b ? a : b; }

// Measured: two threads in step took over from one at 0.3 us a step; whole recurrences win where they occupy more than
// half the threads, since none waits for another, and where a group fills the tiles that read R for several rows.
constexpr int64_t kWorthThreads = int64_t{1} << 19;  // operations of a call
constexpr int64_t kWorthSteps = int64_t{1} << 15;    // operations of a step
constexpr int64_t kFullTile = 6;                     // rows
constexpr int64_t kSlicesPerThread = 4;              // slices of a single step, after which no thread waits

Division divide(const ops::SlstmDims& dims, const Sequence* sequences, int64_t active, int64_t threads) {
  int64_t rows = 0;
  for (int64_t s = 0; s < active; ++s) rows += sequences[s].rows;
  const int64_t row_work = 8 * dims.heads * dims.dh * dims.dh, panels = dims.heads * ops::slstm_panels(dims);
  if (threads == 1 || rows * row_work < kWorthThreads) return {};
  if (sequences[0].rows == 1) return {1, least(least(kSlicesPerThread * threads, panels), kMaxSlices)};
  // There are as few groups as occupy the threads: the more sequences share a pass over R, the better. More sequences
  // than a tile cannot share a pass, so they become groups of their own, which threads claim as fast as each is.
  const int64_t occupying = least(active, (threads + dims.heads - 1) / dims.heads);
  const int64_t passes = (active + kRowsOfPass - 1) / kRowsOfPass;
  const int64_t groups = occupying > passes ? occupying : passes;
  const bool in_step = 2 * dims.heads <= threads && active < kFullTile * groups && active * row_work >= kWorthSteps;
  return in_step ? Division{1, least(least(threads, panels), kMaxSlices)} : Division{groups, 0};
}

/// The sequences that have rows, longest first: at any time those still running are the first ones of their group.
/// Where the caller keeps no state, zeros [B, 4, D] stand in.
int64_t list_sequences(const ops::SlstmArgs& args, float* zeros, Sequence* out) {
  const int64_t width = args.dims.heads * args.dims.dh;
  int64_t count = 0;
  for (int64_t s = 0; s < args.seqs.batch; ++s) {
    if (args.seqs.length(s) == 0) continue;
    Sequence seq = {args.seqs.first_row(s), args.seqs.length(s), nullptr, nullptr, nullptr, nullptr};
    if (args.y != nullptr) {
      seq.y = args.y[s], seq.c = args.c[s], seq.n = args.n[s], seq.m = args.m[s];
    } else {
      seq.y = zeros + s * 4 * width;
      seq.c = seq.y + width, seq.n = seq.y + 2 * width, seq.m = seq.y + 3 * width;
    }
    out[count++] = seq;
  }
  sort_longest_first(out, count);
  return count;
}

struct Layout {
  float* zeros;         // [B, 4, D], or null
  Sequence* sequences;  // [B]
  float *y, *cells;     // y_rows and cells of a Call
};
Layout lay_out(const ops::SlstmArgs& args, Workspace& workspace) {
  const int64_t heads = args.dims.heads, width = heads * args.dims.dh, panels = ops::slstm_panels(args.dims);
  int64_t active = 0;
  for (int64_t s = 0; s < args.seqs.batch; ++s) active += args.seqs.length(s) > 0 ? 1 : 0;
  Layout layout;
  layout.zeros = args.y == nullptr ? workspace.take<float>(args.seqs.batch * 4 * width) : nullptr;
  layout.sequences = workspace.take<Sequence>(args.seqs.batch);
  layout.y = workspace.take<float>(2 * heads * active * y_stride(args.dims));
  layout.cells = workspace.take<float>(heads * panels * active * 3 * kElements);
  return layout;
}

Call make_call(const Stream& stream, const ops::SlstmArgs& args, const Layout& layout) {
  Call call;
  static_cast<ops::SlstmArgs&>(call) = args;
  call.panels_of_head = ops::slstm_panels(args.dims);
  call.batch = list_sequences(args, layout.zeros, layout.sequences);
  call.sequences = layout.sequences;
  const Division division = divide(args.dims, call.sequences, call.batch, stream.pool->threads());
  call.groups = division.groups;
  call.slices = division.slices;
  call.y_rows = layout.y;
  call.cells = layout.cells;
  return call;
}

}  // namespace

int64_t slstm_workspace(const Stream&, const ops::SlstmArgs& args) {
  Workspace counted;
  lay_out(args, counted);
  return counted.bytes();
}

void slstm(const Stream& stream, const ops::SlstmArgs& given) {
  Workspace workspace(given.workspace);
  const Layout layout = lay_out(given, workspace);
  const int64_t width = given.dims.heads * given.dims.dh;
  if (layout.zeros != nullptr) {
    std::memset(layout.zeros, 0, sizeof(float) * static_cast<size_t>(given.seqs.batch * 4 * width));
  }
  const Call args = make_call(stream, given, layout);
  const int64_t heads = args.dims.heads, dh = args.dims.dh, panels = heads * args.panels_of_head;
  int64_t rows = 0;
  for (int64_t s = 0; s < args.batch; ++s) rows += args.sequences[s].rows;
  if (args.slices > 0) {
    const Group group = group_of(args, 0);
    for (int64_t h = 0; h < heads; ++h) copy_y(group, h);
    parallel_steps(*stream.pool, args.slices, args.sequences[0].rows, [&](int64_t slice, int64_t t) {
      advance_panels(group, panels * slice / args.slices, panels * (slice + 1) / args.slices, t);
    });
  } else {
    parallel_workers(stream, heads * args.groups, rows * heads * dh * (8 * dh + 200), [&](int64_t, int64_t item) {
      const int64_t h = item % heads, first = item / heads;
      const Group group = group_of(args, first);
      copy_y(group, h);
      for (int64_t t = 0; t < group.sequence(0).rows; ++t) advance_head(group, h, 0, args.panels_of_head, t);
    });
  }
  const auto bytes = sizeof(float) * static_cast<size_t>(heads * dh);
  for (int64_t s = 0; s < args.batch; ++s) {
    const Sequence& seq = args.sequences[s];
    std::memcpy(seq.y, args.out.f32() + (seq.first_row + seq.rows - 1) * heads * dh, bytes);
  }
}

}  // namespace carousel::cpu::CAROUSEL_ISA
