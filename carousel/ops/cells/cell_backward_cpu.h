// SPDX-License-Identifier: Apache-2.0
// Steps shared by the backward kernels of continuous-time cells. What a step computed is computed again for all rows at
// once, from the states that every row left; then every sequence goes back row by row; then gradients of parameters are
// chains over all rows.
#pragma once

#include "carousel/cpu/outer.h"
#include "carousel/ops/cells/cell_cpu.h"

namespace carousel::cpu::CAROUSEL_ISA {
namespace {

/// A map for a backward: its sums in every row, what they were made from, and its transpose.
struct BackMap {
  ops::CellMapArgs map;
  ops::CellMapArgs transposed;  // [outputs, cell_pad(inputs)]
  float* weight;                // the memory of `transposed`
  float* z;                     // [N, inputs]
  float* sums;                  // [N, outputs] with the bias; later their gradients
  float* gradient;              // [inputs + 1, outputs], the bias last; or null
};

inline BackMap take_back_map(const ops::CellMapArgs& map, int64_t rows, Workspace& workspace) {
  BackMap back = {};
  const int64_t padded = ops::cell_pad(map.inputs);
  back.map = map;
  back.weight = workspace.take<float>(map.outputs * padded);
  back.transposed = {back.weight, nullptr, map.outputs, padded};
  back.z = workspace.take<float>(rows * map.inputs);
  back.sums = workspace.take<float>(rows * map.outputs);
  return back;
}

inline void transpose_map(const Stream& stream, const BackMap& back) {
  const int64_t inputs = back.map.inputs, padded = back.transposed.outputs;
  parallel_ranges(stream, back.map.outputs, padded * 4, [&](int64_t begin, int64_t end) {
    for (int64_t j = begin; j < end; ++j) {
      for (int64_t k = 0; k < padded; ++k) {
        back.weight[j * padded + k] = k < inputs ? back.map.weight[k * back.map.outputs + j] : 0.0f;
      }
    }
  });
}

/// Computes the sums of all rows from z.
inline void sum_rows_of(const Stream& stream, const BackMap& back, int64_t rows) {
  const int64_t outputs = back.map.outputs;
  map_rows(stream, back.map, back.z, rows, back.map.inputs, back.sums);
  parallel_ranges(stream, rows, outputs, [&](int64_t begin, int64_t end) {
    for (int64_t n = begin; n < end; ++n) {
      float* const sums = back.sums + n * outputs;
      for (int64_t j = 0; j < outputs; j += kLanes) store(sums + j, load(sums + j) + load(back.map.bias + j));
    }
  });
}

/// d_z [cell_pad(inputs)] of one row from the gradients of its sums.
inline void input_gradient(const Stream* threads, const BackMap& back, const float* d_sums, float* d_z) {
  std::memset(d_z, 0, sizeof(float) * static_cast<size_t>(back.transposed.outputs));
  map_step(threads, back.transposed, 0, d_sums, back.map.outputs, d_z, d_z);
}

/// Adds sum over rows of a (* b) to g, each element by one chain. b may be null.
inline void add_columns(float* g, const float* a, int64_t a_stride, const float* b, int64_t b_stride, int64_t rows,
                        int64_t columns) {
  for (int64_t j = 0; j < columns; j += kLanes) {
    const int64_t count = columns - j;
    Vec sum = load_some(g + j, count);
    for (int64_t n = 0; n < rows; ++n) {
      const Vec a_n = load_some(a + n * a_stride + j, count);
      sum = b != nullptr ? fma(a_n, load_some(b + n * b_stride + j, count), sum) : sum + a_n;
    }
    store_some(g + j, sum, count);
  }
}

/// Adds the gradient of a map, whose sums are gradients by then. scratch: kOuterScratch floats of each thread.
inline void add_map_gradient(const Stream& stream, const BackMap& back, int64_t rows, float* scratch) {
  if (back.gradient == nullptr) return;
  const int64_t inputs = back.map.inputs, outputs = back.map.outputs;
  const int64_t strips = (outputs + kOuterColumns - 1) / kOuterColumns;
  parallel_workers(stream, strips, rows * inputs * outputs * 2, [&](int64_t worker, int64_t strip) {
    const int64_t j = strip * kOuterColumns, count = outputs - j < kOuterColumns ? outputs - j : kOuterColumns;
    const Outer outer = {back.z, inputs, back.sums + j, outputs, back.gradient + j, outputs, rows, inputs, count};
    add_outer(outer, scratch + worker * kOuterScratch);
    add_columns(back.gradient + inputs * outputs + j, back.sums + j, outputs, nullptr, 0, rows, count);
  });
}

/// Calls f(s, n, first) for every row n of every sequence s; first: whether it is the sequence's first.
template <class F>
inline void for_rows(const Stream& stream, const SeqsView& seqs, int64_t row_work, F&& f) {
  parallel_ranges(stream, seqs.rows(), row_work, [&](int64_t begin, int64_t end) {
    int64_t s = 0;
    for (int64_t n = begin; n < end; ++n) {
      while (n >= seqs.offsets[s + 1]) ++s;
      f(s, n, n == seqs.first_row(s));
    }
  });
}

/// Row n of `out` [N, H] becomes what `rows` held before it: the row before, or row s of `before`, or zeros.
inline void copy_before(const View& rows, const View& before, int64_t s, int64_t n, bool first, int64_t units,
                        float* out) {
  const auto bytes = sizeof(float) * static_cast<size_t>(units);
  if (!first) {
    std::memcpy(out, rows.f32() + (n - 1) * rows.stride, bytes);
  } else if (before.data != nullptr) {
    std::memcpy(out, before.f32() + s * before.stride, bytes);
  } else {
    std::memset(out, 0, bytes);
  }
}

/// The states that the cell proper started every row from: those before the row, or what the memory made of them.
struct Start {
  BackMap memory;  // no outputs: there is none
  float* h;        // [N, H]
  float* c;        // [N, H] the memory before the row, where there is one
};
inline Start take_start(const ops::CellMapArgs& memory, int64_t rows, int64_t units, Workspace& workspace) {
  Start start = {};
  start.h = workspace.take<float>(rows * units);
  if (memory.outputs == 0) return start;
  start.memory = take_back_map(memory, rows, workspace);
  start.c = workspace.take<float>(rows * units);
  return start;
}
inline void compute_start(const Stream& stream, const Start& start, const ops::CellHistory& history,
                          const SeqsView& seqs, const View& x, int64_t units) {
  const bool remembers = start.memory.map.outputs > 0;
  const int64_t inputs = start.memory.map.inputs - units, stride = start.memory.map.outputs / 4;
  for_rows(stream, seqs, 4 * units, [&](int64_t s, int64_t n, bool first) {
    float* const h = remembers ? start.memory.z + n * (inputs + units) + inputs : start.h + n * units;
    copy_before(history.h, history.h_before, s, n, first, units, h);
    if (!remembers) return;
    std::memcpy(h - inputs, x.f32() + n * x.stride, sizeof(float) * static_cast<size_t>(inputs));
    copy_before(history.c, history.c_before, s, n, first, units, start.c + n * units);
  });
  if (!remembers) return;
  transpose_map(stream, start.memory);
  sum_rows_of(stream, start.memory, seqs.rows());
  for_rows(stream, seqs, 60 * units, [&](int64_t, int64_t n, bool) {
    const float* const o = start.memory.sums + n * 4 * stride + 3 * stride;
    for (int64_t j = 0; j < units; j += kLanes) {
      const Vec c = load_some(history.c.f32() + n * history.c.stride + j, units - j);
      store_some(start.h + n * units + j, ops::memory_output<VecMath>(c, sigmoid(load(o + j))), units - j);
    }
  });
}

/// Goes back through the memory in row n: d_h and d_c [H], the gradients of what it made, become those of what it read.
/// d_x [I] is added to, unless it is null. d_z [cell_pad(I + H)] is scratch memory.
inline void memory_back(const Stream* threads, const Start& start, const View& c_rows, int64_t n, int64_t units,
                        float* d_h, float* d_c, float* d_x, float* d_z) {
  const int64_t inputs = start.memory.map.inputs - units, stride = start.memory.map.outputs / 4;
  const Vec one = set1(1.0f);
  float* const sums = start.memory.sums + n * 4 * stride;  // cand, i, f, o
  for (int64_t j = 0; j < units; j += kLanes) {
    const int64_t count = units - j;
    const auto sum = [&](int64_t g) { return load(sums + g * stride + j); };
    const auto open = ops::memory_gates<VecMath>({sum(0), sum(1), sum(2), sum(3)});
    const Vec cand = open.cand, i = open.i, f = open.f, o = open.o;
    const Vec t = tanh(load_some(c_rows.f32() + n * c_rows.stride + j, count));
    const Vec d = load_some(d_h + j, count), d_memory = fma(d * o, fma(-t, t, one), load_some(d_c + j, count));
    store(sums + j, d_memory * i * fma(-cand, cand, one));
    store(sums + stride + j, d_memory * cand * i * (one - i));
    store(sums + 2 * stride + j, d_memory * load_some(start.c + n * units + j, count) * f * (one - f));
    store(sums + 3 * stride + j, d * t * o * (one - o));
    store_some(d_c + j, d_memory * f, count);
  }
  input_gradient(threads, start.memory, sums, d_z);
  for (int64_t k = 0; d_x != nullptr && k < inputs; ++k) d_x[k] += d_z[k];
  std::memcpy(d_h, d_z + inputs, sizeof(float) * static_cast<size_t>(units));
}

}  // namespace
}  // namespace carousel::cpu::CAROUSEL_ISA
