// SPDX-License-Identifier: Apache-2.0
// The LTC recurrence. Sensory synapses see the input alone, so their sums are computed for all rows first.
#include "carousel/cpu/vec_math.h"
#include "carousel/ops/cells/ltc_formulas.h"
#include "carousel/ops/cells/ltc_synapses_cpu.h"

namespace carousel::cpu::CAROUSEL_ISA {
namespace {

using ops::kCellPad;
using ops::LtcSynapseArgs;

constexpr int64_t kSynapseWork = 40;  // operations of a sigmoid and its two sums

/// The arguments, and what is laid out in their workspace.
struct Call : ops::LtcArgs {
  const float* dt;  // [rows] or null
  int64_t rows;
  float* sums;      // [rows, 2, Np] the sensory sums, with and without the reversal potential
  float* memory_x;  // [rows, 4 Np] the x part of the mixed memory
  float* scratch;   // [threads, scratch_stride]
  int64_t scratch_stride;
};

CAROUSEL_INLINE Sums synapse_sums(const LtcSynapseArgs& synapses, int64_t padded, const float* v, int64_t group) {
  return synapse_sums(synapses, padded, v, group, [](int32_t, int64_t, Vec) CAROUSEL_INLINE_LAMBDA {});
}

void sensory_row(const Call& args, int64_t n, float* mapped) {
  const float* x = args.x.f32() + n * args.inputs;  // [I]
  const int64_t padded = ops::cell_pad(args.units);
  for (int64_t i = 0; i < args.inputs; ++i) {
    mapped[i] = ops::ltc_mapped(x[i], args.input_w, args.input_b, i);
  }
  float* out = args.sums + n * 2 * padded;
  for (int64_t group = 0; group < padded / kCellPad; ++group) {
    const Sums sums = synapse_sums(args.sensory, padded, mapped, group);
    for (int64_t k = 0; k < kVecs; ++k) {
      store(out + group * kCellPad + k * kLanes, sums.current[k]);
      store(out + padded + group * kCellPad + k * kLanes, sums.conductance[k]);
    }
  }
}

/// One of the K solver steps: next from v, all neurons at once (Jacobi).
void unfold(const Call& args, const Stream* threads, const float* sensory, const float* c, const float* v,
            float* next) {
  const int64_t padded = ops::cell_pad(args.units);
  const Vec epsilon = set1(args.epsilon);
  for_groups(threads, padded, args.units * kCellPad * kSynapseWork, [&](int64_t begin, int64_t end) {
    for (int64_t group = begin; group < end; ++group) {
      const Sums sums = synapse_sums(args.recurrent, padded, v, group);
#pragma GCC unroll 4
      for (int64_t k = 0; k < kVecs; ++k) {
        const int64_t j = group * kCellPad + k * kLanes;
        const ops::LtcSums<VecMath> all = {sums.current[k], sums.conductance[k], load(sensory + j),
                                           load(sensory + padded + j)};
        store(next + j,
              ops::ltc_unfold(load(c + j), load(v + j), load(args.gvleak + j), load(args.gleak + j), all, epsilon));
      }
    }
  });
}

/// dv/dt of all neurons at v.
void rates(const Call& args, const Stream* threads, const float* sensory, const float* v, float* out) {
  const int64_t padded = ops::cell_pad(args.units);
  for_groups(threads, padded, args.units * kCellPad * kSynapseWork, [&](int64_t begin, int64_t end) {
    for (int64_t group = begin; group < end; ++group) {
      const Sums sums = synapse_sums(args.recurrent, padded, v, group);
      for (int64_t k = 0; k < kVecs; ++k) {
        const int64_t j = group * kCellPad + k * kLanes;
        const ops::LtcSums<VecMath> all = {sums.current[k], sums.conductance[k], load(sensory + j),
                                           load(sensory + padded + j)};
        store(out + j, ops::ltc_rate(load(args.cm + j), load(v + j), load(args.gvleak + j), load(args.gleak + j), all));
      }
    }
  });
}

/// One step of the classical Runge-Kutta method on v, in place; three more rows of scratch.
void runge_kutta(const Call& args, const Stream* threads, const float* sensory, float step, float* v, float* rate,
                 float* stage, float* total) {
  const int64_t padded = ops::cell_pad(args.units);
  std::memcpy(stage, v, static_cast<size_t>(padded) * sizeof(float));
  std::memset(total, 0, static_cast<size_t>(padded) * sizeof(float));
  for (int i = 0; i < 4; ++i) {
    rates(args, threads, sensory, stage, rate);
    for (int64_t j = 0; j < padded; ++j) {
      total[j] += ops::runge_kutta_share(i) * rate[j];
      if (i < 3) stage[j] = v[j] + step * ops::runge_kutta_reach(i) * rate[j];
    }
  }
  for (int64_t j = 0; j < padded; ++j) v[j] += step / 6.0f * total[j];
}

/// The explicit solvers: v after K steps, in place.
void solve_explicitly(const Call& args, const Stream* threads, const float* sensory, float step, float* v, float* rate,
                      float* scratch) {
  const int64_t padded = ops::cell_pad(args.units);
  for (int64_t k = 0; k < args.unfolds; ++k) {
    if (args.solver == Numerics::Solver::kRungeKutta) {
      runge_kutta(args, threads, sensory, step, v, rate, scratch, scratch + padded);
      continue;
    }
    rates(args, threads, sensory, v, rate);
    for (int64_t j = 0; j < padded; ++j) v[j] += step * rate[j];
  }
}

void read_out(const Call& args, const float* v, float* y) {
  for (int64_t m = 0; m < args.outputs; ++m) {
    y[m] = ops::ltc_mapped(v[m], args.output_w, args.output_b, m);
  }
}

void run_sequence(const Call& args, const Stream* threads, float* scratch, const CellSequence& seq) {
  const int64_t padded = ops::cell_pad(args.units);
  const size_t state_bytes = static_cast<size_t>(args.units) * sizeof(float);
  float* v = scratch;
  float* next = scratch + padded;
  float* const c = scratch + 2 * padded;       // capacitance over the time of a solver step
  float* const memory = scratch + 3 * padded;  // the LSTM's c where no state keeps it
  float* const gates = scratch + 4 * padded;   // [4 Np]
  float* const stages = scratch + 8 * padded;  // [2, Np] of Runge-Kutta
  std::memset(scratch, 0, static_cast<size_t>(10 * padded) * sizeof(float));
  if (seq.h != nullptr) std::memcpy(v, seq.h, state_bytes);
  for (int64_t n = seq.first_row; n < seq.first_row + seq.rows; ++n) {
    const float dt = args.dt != nullptr ? args.dt[n] : 1.0f;
    if (args.memory.outputs > 0) {
      memory_step(threads, args.memory, args.inputs, args.memory_x + n * args.memory.outputs, v,
                  seq.c != nullptr ? seq.c : memory, gates);
    }
    const float step_time = ops::ltc_step_time(args, dt);
    const float* sensory = args.sums + n * 2 * padded;
    if (args.solver != Numerics::Solver::kSemiImplicit) {
      if (step_time > 0) solve_explicitly(args, threads, sensory, step_time, v, next, stages);
    } else if (step_time > 0) {
      const Vec step = set1(step_time);
      for (int64_t j = 0; j < padded; j += kLanes) store(c + j, load(args.cm + j) / step);
      for (int64_t k = 0; k < args.unfolds; ++k) {
        unfold(args, threads, sensory, c, v, next);
        float* const swapped = v;
        v = next;
        next = swapped;
      }
    }
    read_out(args, v, args.y.f32() + n * args.outputs);
    keep_row(args.kept, n, args.units, v, seq.c != nullptr ? seq.c : memory);
  }
  if (seq.h != nullptr) std::memcpy(seq.h, v, state_bytes);
}

Call lay_out(const Stream& stream, const ops::LtcArgs& args, Workspace& workspace) {
  const int64_t padded = ops::cell_pad(args.units);
  Call call;
  static_cast<ops::LtcArgs&>(call) = args;
  call.dt = args.batch.seqs.dt;
  call.rows = args.batch.seqs.rows();
  call.sums = workspace.take<float>(call.rows * 2 * padded);
  call.memory_x = workspace.take<float>(call.rows * args.memory.outputs);
  // Two potentials, capacitance over time, the memory's c and gates, two more of Runge-Kutta; or, for the sensory sums,
  // one mapped input.
  call.scratch_stride = 10 * padded + ops::cell_pad(args.inputs);
  call.scratch = workspace.take<float>(stream.threads() * call.scratch_stride);
  return call;
}

}  // namespace

int64_t ltc_workspace(const Stream& stream, const ops::LtcArgs& args) {
  Workspace counted;
  lay_out(stream, args, counted);
  return counted.bytes();
}

void ltc(const Stream& stream, const ops::LtcArgs& given) {
  Workspace workspace(given.workspace);
  const Call args = lay_out(stream, given, workspace);
  const int64_t groups = ops::cell_pad(args.units) / kCellPad;
  const int64_t sensory_work =
      (args.sensory.begin[groups] + groups) * kCellPad * kSynapseWork;  // operations of one row
  parallel_workers(stream, args.rows, args.rows * sensory_work, [&](int64_t worker, int64_t n) {
    sensory_row(args, n, args.scratch + worker * args.scratch_stride);
  });
  if (args.memory.outputs > 0) map_rows(stream, args.memory, args.x.f32(), args.rows, args.inputs, args.memory_x);
  const int64_t row_work = args.unfolds * (args.recurrent.begin[groups] + groups) * kCellPad * kSynapseWork;
  for_sequences(stream, args.batch, args.rows * row_work, args.scratch, args.scratch_stride,
                [&](const Stream* threads, float* scratch, const CellSequence& seq) {
                  run_sequence(args, threads, scratch, seq);
                });
}

}  // namespace carousel::cpu::CAROUSEL_ISA
