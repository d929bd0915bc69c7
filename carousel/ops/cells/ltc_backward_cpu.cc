// SPDX-License-Identifier: Apache-2.0
// The gradient of the LTC cell. A sequence goes back row by row. In a row the solver's steps are taken again from the
// potentials that the row before left, and what every synapse opened is written down; then they are undone, the last
// first. Gradients of synapses are summed for each sequence alone, then added in the order of the sequences.
#include "carousel/ops/cells/cell_backward_cpu.h"
#include "carousel/ops/cells/ltc_formulas.h"
#include "carousel/ops/cells/ltc_synapses_cpu.h"

namespace carousel::cpu::CAROUSEL_ISA {
namespace {

using ops::kCellPad;
using ops::LtcSynapseArgs;
using ops::LtcSynapseBackwardArgs;

constexpr int64_t kSynapseWork = 60;  // operations of a sigmoid, its sums and its gradients

/// The gradients of one sequence: those of the packed values of S sources, [S, Np] each.
struct SynapseSums {
  float *w, *we, *mu, *sigma;
};
/// All of them.
struct SequenceSums {
  SynapseSums sensory, recurrent;
  float *cm, *gleak, *gvleak;  // [Np]
};

/// Scratch memory of one worker.
struct Scratch {
  float* v;         // [K + 1, Np] the potentials before every solver step, and after the last
  float* below;     // [K, Np] the divisors
  float* open;      // [K, entries, kCellPad] of recurrent synapses
  float* sensory;   // [entries, kCellPad] of sensory synapses
  float* sums;      // [2, Np] of the sensory synapses: current, conductance
  float* d_sums;    // [2, Np] their gradients
  float* c;         // [Np] capacitance over the time of a step
  float* d_c;       // [Np]
  float* d_v;       // [Np] the gradient of the potentials, carried from row to row
  float* d_step;    // [2, Np] of one step: the gradients of its current and its conductance
  float* d_memory;  // [Np] the gradient of the LSTM's memory, carried
  float* d_z;       // padded input of the memory's map
  float* by_group;  // [groups, sources] what each group gives to the gradient of a source
};

struct Call : ops::LtcBackwardArgs {
  int64_t rows, padded, groups, at_once;
  int64_t recurrent_entries, sensory_entries;
  Start start;
  float* mapped;       // [N, I] the inputs that synapses see
  float* d_mapped;     // [N, I]
  SequenceSums* sums;  // [at_once]
  Scratch* scratch;    // [at_once]
  float* outer;        // [threads, kOuterScratch]
};

/// Currents and conductances [2, Np] of synapses from `v`; `open` [entries, kCellPad] is what each opened.
void open_synapses(const Stream* threads, const LtcSynapseArgs& synapses, int64_t padded, const float* v, float* open,
                   float* out) {
  for_groups(threads, padded, padded * kCellPad * kSynapseWork, [&](int64_t begin, int64_t end) {
    for (int64_t group = begin; group < end; ++group) {
      const auto write_down = [&](int32_t n, int64_t k, Vec opened)
                                  CAROUSEL_INLINE_LAMBDA { store(open + n * kCellPad + k * kLanes, opened); };
      const Sums sums = synapse_sums(synapses, padded, v, group, write_down);
      for (int64_t k = 0; k < kVecs; ++k) {
        store(out + group * kCellPad + k * kLanes, sums.current[k]);
        store(out + padded + group * kCellPad + k * kLanes, sums.conductance[k]);
      }
    }
  });
}

/// Adds to `sums` what d [2, Np], the gradients of currents and conductances, give to the synapses' values, and writes
/// to by_group what they give to the sources' potentials v.
void synapses_back(const Stream* threads, const LtcSynapseArgs& synapses, int64_t padded, int64_t sources,
                   const float* v, const float* open, const float* d, const SynapseSums& sums, float* by_group) {
  for_groups(threads, padded, padded * kCellPad * kSynapseWork, [&](int64_t begin, int64_t end) {
    for (int64_t group = begin; group < end; ++group) {
      float* const to_sources = by_group + group * sources;
      std::memset(to_sources, 0, sizeof(float) * static_cast<size_t>(sources));
      Vec d_current[kVecs], d_conductance[kVecs];
      for (int64_t k = 0; k < kVecs; ++k) {
        d_current[k] = load(d + group * kCellPad + k * kLanes);
        d_conductance[k] = load(d + padded + group * kCellPad + k * kLanes);
      }
      for (int32_t n = synapses.begin[group]; n < synapses.begin[group + 1]; ++n) {
        const int64_t i = synapses.sources[n], at = i * padded + group * kCellPad;
        const Vec v_i = set1(v[i]);
        Vec to_source{};
#pragma GCC unroll 4
        for (int64_t k = 0; k < kVecs; ++k) {
          const int64_t j = at + k * kLanes;
          const Vec opened = load(open + n * kCellPad + k * kLanes);
          store(sums.w + j, fma(d_conductance[k], opened, load(sums.w + j)));
          store(sums.we + j, fma(d_current[k], opened, load(sums.we + j)));
          const Vec d_open = fma(load(synapses.w + j), d_conductance[k], load(synapses.we + j) * d_current[k]);
          const Vec d_pre = d_open * opened * (set1(1.0f) - opened), sloped = d_pre * load(synapses.sigma + j);
          store(sums.sigma + j, fma(d_pre, v_i - load(synapses.mu + j), load(sums.sigma + j)));
          store(sums.mu + j, load(sums.mu + j) - sloped);
          to_source = to_source + sloped;
        }
        to_sources[i] = sum(to_source);
      }
    }
  });
}

/// Takes the K steps of a row again from scratch.v[0].
void take_steps(const Call& args, const Stream* threads, int64_t n, const Scratch& scratch, float step_time) {
  const ops::LtcArgs& cell = args.forward;
  const int64_t padded = args.padded;
  const Vec step = set1(step_time), epsilon = set1(cell.epsilon);
  for (int64_t j = 0; j < padded; j += kLanes) store(scratch.c + j, load(cell.cm + j) / step);
  open_synapses(threads, cell.sensory, padded, args.mapped + n * cell.inputs, scratch.sensory, scratch.sums);
  for (int64_t k = 0; k < cell.unfolds; ++k) {
    const float* const v = scratch.v + k * padded;
    float* const next = scratch.v + (k + 1) * padded;
    open_synapses(threads, cell.recurrent, padded, v, scratch.open + k * args.recurrent_entries * kCellPad,
                  scratch.d_step);
    for (int64_t j = 0; j < padded; j += kLanes) {
      const Vec above =
          load(scratch.c + j) * load(v + j) + load(cell.gvleak + j) + load(scratch.d_step + j) + load(scratch.sums + j);
      const Vec below = load(scratch.c + j) + load(cell.gleak + j) + load(scratch.d_step + padded + j) +
                        load(scratch.sums + padded + j) + epsilon;
      store(next + j, above / below);
      store(scratch.below + k * padded + j, below);
    }
  }
}

/// Adds rows of by_group to d [count], the groups in order.
void add_groups(const Call& args, const float* by_group, int64_t count, float* d) {
  for (int64_t group = 0; group < args.groups; ++group) {
    const float* const from = by_group + group * count;
    for (int64_t i = 0; i < count; ++i) d[i] += from[i];
  }
}

/// Undoes the K steps of row n: scratch.d_v becomes the gradient of the potentials before the row.
void undo_steps(const Call& args, const Stream* threads, int64_t n, const Scratch& scratch, const SequenceSums& sums,
                float step_time) {
  const ops::LtcArgs& cell = args.forward;
  const int64_t padded = args.padded;
  std::memset(scratch.d_sums, 0, sizeof(float) * static_cast<size_t>(2 * padded));
  std::memset(scratch.d_c, 0, sizeof(float) * static_cast<size_t>(padded));
  for (int64_t k = cell.unfolds - 1; k >= 0; --k) {
    const float* const v = scratch.v + k * padded;
    for (int64_t j = 0; j < padded; j += kLanes) {
      const Vec d_above = load(scratch.d_v + j) / load(scratch.below + k * padded + j);
      const Vec d_below = -d_above * load(v + padded + j);
      store(scratch.d_step + j, d_above);
      store(scratch.d_step + padded + j, d_below);
      store(scratch.d_sums + j, load(scratch.d_sums + j) + d_above);
      store(scratch.d_sums + padded + j, load(scratch.d_sums + padded + j) + d_below);
      store(scratch.d_c + j, fma(d_above, load(v + j), load(scratch.d_c + j) + d_below));
      store(scratch.d_v + j, d_above * load(scratch.c + j));
    }
    synapses_back(threads, cell.recurrent, padded, cell.units, v, scratch.open + k * args.recurrent_entries * kCellPad,
                  scratch.d_step, sums.recurrent, scratch.by_group);
    add_groups(args, scratch.by_group, cell.units, scratch.d_v);
  }
  const Vec step = set1(step_time);
  for (int64_t j = 0; j < padded; j += kLanes) {
    store(sums.gvleak + j, load(sums.gvleak + j) + load(scratch.d_sums + j));
    store(sums.gleak + j, load(sums.gleak + j) + load(scratch.d_sums + padded + j));
    store(sums.cm + j, load(sums.cm + j) + load(scratch.d_c + j) / step);
  }
  synapses_back(threads, cell.sensory, padded, cell.inputs, args.mapped + n * cell.inputs, scratch.sensory,
                scratch.d_sums, sums.sensory, scratch.by_group);
  add_groups(args, scratch.by_group, cell.inputs, args.d_mapped + n * cell.inputs);
}

void sequence_back(const Call& args, const Stream* threads, int64_t s, const Scratch& scratch,
                   const SequenceSums& sums) {
  const ops::LtcArgs& cell = args.forward;
  const CellSequence seq = cell_sequence(args.batch, s);
  const size_t state_bytes = sizeof(float) * static_cast<size_t>(cell.units);
  for (float* carried : {scratch.d_v, scratch.d_memory}) {
    std::memset(carried, 0, sizeof(float) * static_cast<size_t>(args.padded));
  }
  std::memset(scratch.v, 0, sizeof(float) * static_cast<size_t>(args.padded));
  if (seq.h != nullptr) std::memcpy(scratch.d_v, seq.h, state_bytes);
  if (seq.c != nullptr) std::memcpy(scratch.d_memory, seq.c, state_bytes);
  for (int64_t n = seq.first_row + seq.rows - 1; n >= seq.first_row; --n) {
    const float* const d = args.d.f32() + n * args.d.stride;
    for (int64_t m = 0; m < cell.outputs; ++m) {
      scratch.d_v[m] = cell.output_w != nullptr ? fma1(d[m], cell.output_w[m], scratch.d_v[m]) : scratch.d_v[m] + d[m];
    }
    const float dt = args.batch.seqs.dt != nullptr ? args.batch.seqs.dt[n] : 1.0f;
    const float step_time = ops::ltc_step_time(cell, dt);
    std::memset(args.d_mapped + n * cell.inputs, 0, sizeof(float) * static_cast<size_t>(cell.inputs));
    if (step_time > 0) {
      std::memcpy(scratch.v, args.start.h + n * cell.units, state_bytes);
      take_steps(args, threads, n, scratch, step_time);
      undo_steps(args, threads, n, scratch, sums, step_time);
    }
    float* const d_x = args.d_x.data != nullptr ? args.d_x.f32() + n * args.d_x.stride : nullptr;
    for (int64_t i = 0; d_x != nullptr && i < cell.inputs; ++i) {
      const float d_i = args.d_mapped[n * cell.inputs + i];
      d_x[i] = cell.input_w != nullptr ? d_i * cell.input_w[i] : d_i;
    }
    if (args.start.c != nullptr) {
      memory_back(threads, args.start, args.history.c, n, cell.units, scratch.d_v, scratch.d_memory, d_x, scratch.d_z);
    }
  }
  if (seq.h != nullptr) std::memcpy(seq.h, scratch.d_v, state_bytes);
  if (seq.c != nullptr) std::memcpy(seq.c, scratch.d_memory, state_bytes);
}

/// Adds one sequence's sums to the gradients of rows [begin, end) of sources.
void add_synapses(const LtcSynapseArgs& packed, const LtcSynapseBackwardArgs& args, const SynapseSums& sums,
                  int64_t units, int64_t begin, int64_t end) {
  const int64_t padded = ops::cell_pad(units);
  for (int64_t i = begin; i < end; ++i) {
    for (int64_t j = 0; j < units; ++j) {
      const int64_t to = i * units + j, from = i * padded + j;
      if (args.mask[to] == 0) continue;
      if (args.d_w != nullptr) args.d_w[to] += fma1(sums.we[from], args.erev[to], sums.w[from]) * args.slope[to];
      if (args.d_erev != nullptr) args.d_erev[to] += sums.we[from] * packed.w[from];
      if (args.d_mu != nullptr) args.d_mu[to] += sums.mu[from];
      if (args.d_sigma != nullptr) args.d_sigma[to] += sums.sigma[from];
    }
  }
}

/// Adds the sums of `count` sequences to the gradients, one sequence after the other.
void add_sums(const Stream& stream, const Call& args, int64_t count) {
  const ops::LtcArgs& cell = args.forward;
  const auto each_source = [&](int64_t sources, auto&& add) {
    parallel_ranges(stream, sources, count * cell.units * 10, [&](int64_t begin, int64_t end) {
      for (int64_t s = 0; s < count; ++s) add(args.sums[s], begin, end);
    });
  };
  each_source(cell.units, [&](const SequenceSums& sums, int64_t begin, int64_t end) {
    add_synapses(cell.recurrent, args.recurrent, sums.recurrent, cell.units, begin, end);
  });
  each_source(cell.inputs, [&](const SequenceSums& sums, int64_t begin, int64_t end) {
    add_synapses(cell.sensory, args.sensory, sums.sensory, cell.units, begin, end);
  });
  for (int64_t s = 0; s < count; ++s) {
    const SequenceSums& sums = args.sums[s];
    for (int64_t j = 0; j < cell.units; ++j) {
      if (args.d_cm != nullptr) args.d_cm[j] += sums.cm[j] * args.cm_slope[j];
      if (args.d_vleak != nullptr) args.d_vleak[j] += sums.gvleak[j] * cell.gleak[j];
      if (args.d_gleak == nullptr) continue;
      args.d_gleak[j] += fma1(sums.gvleak[j], args.vleak[j], sums.gleak[j]) * args.gleak_slope[j];
    }
  }
}

SynapseSums take_sums(int64_t sources, int64_t padded, Workspace& workspace) {
  float* const all = workspace.take<float>(4 * sources * padded);
  if (all == nullptr) return {};
  return {all, all + sources * padded, all + 2 * sources * padded, all + 3 * sources * padded};
}

SequenceSums take_sequence(const ops::LtcArgs& cell, int64_t padded, Workspace& workspace) {
  SequenceSums sums;
  sums.sensory = take_sums(cell.inputs, padded, workspace);
  sums.recurrent = take_sums(cell.units, padded, workspace);
  for (float** row : {&sums.cm, &sums.gleak, &sums.gvleak}) *row = workspace.take<float>(padded);
  return sums;
}

void clear_sums(const Call& args, const SequenceSums& sums) {
  const auto zero = [](float* p, int64_t count) { std::memset(p, 0, sizeof(float) * static_cast<size_t>(count)); };
  zero(sums.sensory.w, 4 * args.forward.inputs * args.padded);
  zero(sums.recurrent.w, 4 * args.forward.units * args.padded);
  for (float* row : {sums.cm, sums.gleak, sums.gvleak}) zero(row, args.padded);
}

Scratch take_scratch(const Call& call, Workspace& workspace) {
  const ops::LtcArgs& cell = call.forward;
  const int64_t padded = call.padded, unfolds = cell.unfolds;
  const int64_t most_sources = cell.inputs > cell.units ? cell.inputs : cell.units;
  Scratch scratch;
  scratch.v = workspace.take<float>((unfolds + 1) * padded);
  scratch.below = workspace.take<float>(unfolds * padded);
  scratch.open = workspace.take<float>(unfolds * call.recurrent_entries * kCellPad);
  scratch.sensory = workspace.take<float>(call.sensory_entries * kCellPad);
  for (float** pair : {&scratch.sums, &scratch.d_sums, &scratch.d_step}) *pair = workspace.take<float>(2 * padded);
  for (float** row : {&scratch.c, &scratch.d_c, &scratch.d_v, &scratch.d_memory}) *row = workspace.take<float>(padded);
  scratch.d_z = workspace.take<float>(ops::cell_pad(cell.memory.inputs));
  scratch.by_group = workspace.take<float>(call.groups * most_sources);
  return scratch;
}

Call lay_out(const Stream& stream, const ops::LtcBackwardArgs& args, Workspace& workspace) {
  const ops::LtcArgs& cell = args.forward;
  Call call = {};
  static_cast<ops::LtcBackwardArgs&>(call) = args;
  call.rows = args.batch.seqs.rows();
  call.padded = ops::cell_pad(cell.units);
  call.groups = call.padded / kCellPad;
  call.recurrent_entries = call.groups * cell.units;  // as if every source reached every group: the shapes decide
  call.sensory_entries = call.groups * cell.inputs;
  call.at_once = args.batch.seqs.batch < stream.threads() ? args.batch.seqs.batch : stream.threads();
  call.start = take_start(cell.memory, call.rows, cell.units, workspace);
  call.mapped = workspace.take<float>(call.rows * cell.inputs);
  call.d_mapped = workspace.take<float>(call.rows * cell.inputs);
  call.sums = workspace.take<SequenceSums>(call.at_once);
  call.scratch = workspace.take<Scratch>(call.at_once);
  for (int64_t s = 0; s < call.at_once; ++s) {
    const SequenceSums sums = take_sequence(cell, call.padded, workspace);
    const Scratch scratch = take_scratch(call, workspace);
    if (call.sums == nullptr) continue;
    call.sums[s] = sums;
    call.scratch[s] = scratch;
  }
  call.outer = workspace.take<float>(stream.threads() * kOuterScratch);
  return call;
}

void map_inputs(const Stream& stream, const Call& args) {
  const ops::LtcArgs& cell = args.forward;
  for_rows(stream, args.batch.seqs, cell.inputs * 4, [&](int64_t, int64_t n, bool) {
    const float* const x = cell.x.f32() + n * cell.x.stride;
    float* const mapped = args.mapped + n * cell.inputs;
    for (int64_t i = 0; i < cell.inputs; ++i) {
      mapped[i] = cell.input_w != nullptr ? x[i] * cell.input_w[i] : x[i];
      if (cell.input_b != nullptr) mapped[i] += cell.input_b[i];
    }
  });
}

/// Adds the gradients of what every row reads alike: the maps of inputs and outputs, and the memory.
void add_maps(const Stream& stream, const Call& args) {
  const ops::LtcArgs& cell = args.forward;
  const View &x = cell.x, &v = args.history.h;
  const auto inputs = [&](float* g, const float* by) {
    if (g != nullptr) add_columns(g, args.d_mapped, cell.inputs, by, x.stride, args.rows, cell.inputs);
  };
  const auto outputs = [&](float* g, const float* by) {
    if (g != nullptr) add_columns(g, args.d.f32(), args.d.stride, by, v.stride, args.rows, cell.outputs);
  };
  inputs(args.d_input_w, x.f32());
  inputs(args.d_input_b, nullptr);
  outputs(args.d_output_w, v.f32());
  outputs(args.d_output_b, nullptr);
  if (args.start.c != nullptr) add_map_gradient(stream, args.start.memory, args.rows, args.outer);
}

}  // namespace

int64_t ltc_backward_workspace(const Stream& stream, const ops::LtcBackwardArgs& args) {
  Workspace counted;
  lay_out(stream, args, counted);
  return counted.bytes();
}

void ltc_backward(const Stream& stream, const ops::LtcBackwardArgs& given) {
  Workspace workspace(given.workspace);
  Call args = lay_out(stream, given, workspace);
  args.start.memory.gradient = given.d_memory;
  const SeqsView& seqs = args.batch.seqs;
  compute_start(stream, args.start, args.history, seqs, args.forward.x, args.forward.units);
  map_inputs(stream, args);
  const int64_t entries = args.forward.unfolds * args.recurrent_entries + args.sensory_entries;
  const int64_t row_work = 2 * entries * kCellPad * kSynapseWork;
  for (int64_t first = 0; first < seqs.batch; first += args.at_once) {
    const int64_t left = seqs.batch - first, count = left < args.at_once ? left : args.at_once;
    const auto back = [&](const Stream* threads, int64_t i) {
      clear_sums(args, args.sums[i]);
      if (seqs.length(first + i) > 0) sequence_back(args, threads, first + i, args.scratch[i], args.sums[i]);
    };
    if (seqs.batch == 1) {
      back(&stream, 0);
    } else {
      parallel_workers(stream, count, args.rows * row_work, [&](int64_t, int64_t i) { back(nullptr, i); });
    }
    add_sums(stream, args, count);
  }
  add_maps(stream, args);
}

}  // namespace carousel::cpu::CAROUSEL_ISA
