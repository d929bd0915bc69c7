// SPDX-License-Identifier: Apache-2.0
// The LTC recurrence on the GPU, a block per sequence and a thread per neuron. A neuron's sums run over all sources in
// ascending order: those that do not reach it have weight zero, which changes no sum.
#include "carousel/cpu/workspace.h"
#include "carousel/ops/cells/cell_cuda.cuh"
#include "carousel/ops/cells/ltc_formulas.h"

namespace carousel::cuda {
namespace {

using ops::LtcSynapseArgs;

struct Call {
  ops::LtcArgs args;
  float* scratch;  // [B, stride], in rows of `padded`: see Buffers
  int64_t stride, padded;
};

struct Sums {
  float current, conductance;  // sum of a_ij erev_ij, sum of a_ij
};

/// What a block keeps of its sequence.
struct Buffers {
  float *v, *next;                      // potentials [Np]
  float* memory;                        // the LSTM's c where no state keeps it [Np]
  float* gates;                         // [4 Np]
  float *current, *conductance;         // of the sensory synapses [Np]
  float *stage, *total;                 // of Runge-Kutta [Np]
  float* mapped;                        // x' [I]
  static constexpr int64_t kRows = 11;  // of `padded`, before mapped

  __device__ Buffers(const Call& call, int64_t s) {
    float* const scratch = call.scratch + s * call.stride;
    const int64_t padded = call.padded;
    v = scratch;
    next = scratch + padded;
    memory = scratch + 2 * padded;
    gates = scratch + 3 * padded;
    current = scratch + 7 * padded;
    conductance = scratch + 8 * padded;
    stage = scratch + 9 * padded;
    total = scratch + 10 * padded;
    mapped = scratch + kRows * padded;
  }
  __device__ ops::LtcSums<FloatMath> with_sensory(const Sums& sums, int64_t j) const {
    return {sums.current, sums.conductance, current[j], conductance[j]};
  }
};

__device__ Sums synapse_sums(const LtcSynapseArgs& synapses, int64_t padded, const float* v, int64_t count, int64_t j) {
  Sums sums = {};
  for (int64_t i = 0; i < count; ++i) {
    const int64_t at = i * padded + j;
    const float opened = ops::ltc_opened<FloatMath>(synapses.sigma[at], v[i], synapses.mu[at]);
    sums.conductance = fmaf(synapses.w[at], opened, sums.conductance);
    sums.current = fmaf(synapses.we[at], opened, sums.current);
  }
  return sums;
}

/// Calls f(j) for the thread's neurons, and waits for the block.
template <class F>
__device__ void for_neurons(const Call& call, const F& f) {
  for (int64_t j = threadIdx.x; j < call.args.units; j += blockDim.x) f(j);
  __syncthreads();
}

/// dv/dt of neuron j at v.
__device__ float rate_of(const Call& call, const Buffers& at, const float* v, int64_t j) {
  const ops::LtcArgs& args = call.args;
  const Sums sums = synapse_sums(args.recurrent, call.padded, v, args.units, j);
  return ops::ltc_rate(args.cm[j], v[j], args.gvleak[j], args.gleak[j], at.with_sensory(sums, j));
}

/// One solver step of time `step`: at.next from at.v, then they change places.
__device__ void solver_step(const Call& call, Buffers& at, float step) {
  const ops::LtcArgs& args = call.args;
  if (args.solver == Numerics::Solver::kSemiImplicit) {
    for_neurons(call, [&](int64_t j) {
      const Sums sums = synapse_sums(args.recurrent, call.padded, at.v, args.units, j);
      at.next[j] = ops::ltc_unfold(args.cm[j] / step, at.v[j], args.gvleak[j], args.gleak[j], at.with_sensory(sums, j),
                                   args.epsilon);
    });
  } else if (args.solver == Numerics::Solver::kEuler) {
    for_neurons(call, [&](int64_t j) { at.next[j] = at.v[j] + step * rate_of(call, at, at.v, j); });
  } else {
    // A stage is read by all threads before the barrier, and written by its own thread after: so there are two of them,
    // which change places.
    const float* from = at.v;
    float *to = at.stage, *other = at.next;
    for (int i = 0; i < 4; ++i) {
      const float share = ops::runge_kutta_share(i), reach = ops::runge_kutta_reach(i);
      for_neurons(call, [&](int64_t j) {
        const float rate = rate_of(call, at, from, j);
        at.total[j] = (i == 0 ? 0.0f : at.total[j]) + share * rate;
        if (i < 3) to[j] = at.v[j] + step * reach * rate;
      });
      from = to;
      float* const swapped = to;
      to = other;
      other = swapped;
    }
    for_neurons(call, [&](int64_t j) { at.next[j] = at.v[j] + step / 6.0f * at.total[j]; });
  }
  float* const swapped = at.v;
  at.v = at.next;
  at.next = swapped;
}

/// The sums of the sensory synapses, which see the input alone.
__device__ void sense(const Call& call, const Buffers& at, const float* x) {
  const ops::LtcArgs& args = call.args;
  for (int64_t i = threadIdx.x; i < args.inputs; i += blockDim.x) {
    at.mapped[i] = ops::ltc_mapped(x[i], args.input_w, args.input_b, i);
  }
  __syncthreads();
  for_neurons(call, [&](int64_t j) {
    const Sums sums = synapse_sums(args.sensory, call.padded, at.mapped, args.inputs, j);
    at.current[j] = sums.current;
    at.conductance[j] = sums.conductance;
  });
}

__global__ void __launch_bounds__(kCellThreads) ltc_rows(const __grid_constant__ Call call) {
  const ops::LtcArgs& args = call.args;
  const int64_t s = blockIdx.x;
  Buffers at(call, s);
  CellRows seq(args.batch, s, nullptr, at.memory);
  if (seq.rows == 0) return;
  float* const state = seq.h;
  for (int64_t j = threadIdx.x; j < call.padded; j += blockDim.x) {
    at.memory[j] = 0;
    at.v[j] = state != nullptr && j < args.units ? state[j] : 0.0f;
  }
  __syncthreads();
  for (int64_t n = seq.first; n < seq.first + seq.rows; ++n) {
    const float* const x = static_cast<const float*>(args.x.data) + n * args.x.stride;
    const float dt = args.batch.seqs.dt != nullptr ? args.batch.seqs.dt[n] : 1.0f;
    seq.h = at.v;
    if (args.memory.outputs > 0) memory_step(args.memory, x, args.inputs, seq, at.gates);
    const float step = ops::ltc_step_time(args, dt);
    sense(call, at, x);
    if (step > 0) {
      for (int64_t k = 0; k < args.unfolds; ++k) solver_step(call, at, step);
    }
    float* const y = static_cast<float*>(args.y.data) + n * args.y.stride;
    for (int64_t m = threadIdx.x; m < args.outputs; m += blockDim.x) {
      y[m] = ops::ltc_mapped(at.v[m], args.output_w, args.output_b, m);
    }
    __syncthreads();  // v has been read; the memory's step replaces it
  }
  if (state == nullptr) return;
  for (int64_t j = threadIdx.x; j < args.units; j += blockDim.x) state[j] = at.v[j];
}

Call lay_out(const ops::LtcArgs& args, cpu::Workspace* workspace) {
  Call call = {};
  call.args = args;
  call.padded = ops::cell_pad(args.units);
  call.stride = Buffers::kRows * call.padded + ops::cell_pad(args.inputs);
  call.scratch = workspace->take<float>(args.batch.seqs.batch * call.stride);
  return call;
}

}  // namespace

int64_t ltc_workspace(const Stream&, const ops::LtcArgs& args) {
  cpu::Workspace counted;
  lay_out(args, &counted);
  return counted.bytes();
}

void ltc(const Stream& stream, const ops::LtcArgs& args) {
  if (args.kept.h != nullptr) not_on_device("ltc under a tape");
  cpu::Workspace workspace(args.workspace);
  const Call call = lay_out(args, &workspace);
  ltc_rows<<<static_cast<unsigned>(args.batch.seqs.batch), kCellThreads, 0, queue_of(stream)>>>(call);
  launched("ltc");
}

}  // namespace carousel::cuda
