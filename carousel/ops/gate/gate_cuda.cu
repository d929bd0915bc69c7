// SPDX-License-Identifier: Apache-2.0
// Elementwise gates on the GPU: a thread an element, bound by memory.
#include "carousel/ops/gate/gated_unit_cuda.cuh"

namespace carousel::cuda {
namespace {

constexpr int kThreads = 256;

/// The element of the calling thread, once the inputs are there.
__device__ int64_t element() {
  await_inputs();
  return int64_t{blockIdx.x} * blockDim.x + threadIdx.x;
}

template <class Kernel, class... Args>
void for_elements(const Stream& stream, int64_t count, Kernel* kernel, const Args&... args) {
  launch_early(gpu_of(stream), kernel, dim3(static_cast<unsigned>(blocks_of(count, kThreads))), kThreads, 0, args...);
}

void refuse_rounding(const char* name, bool rounds) {
  if (rounds) not_on_device(name);
}

__global__ void units(ops::GatedUnitArgs args) {
  const int64_t i = element(), n = i / args.width, j = i % args.width;
  if (n >= args.rows) return;
  const auto* const gate = static_cast<const float*>(args.gate_up.data) + n * args.gate_up.stride + j;
  static_cast<float*>(args.out.data)[n * args.out.stride + j] =
      ops::activate<FloatMath>(args.activation, *gate) * gate[args.width];
}

__global__ void capped(const float* x, float* out, int64_t count, float cap) {
  const int64_t i = element();
  if (i < count) out[i] = ops::soft_capped<FloatMath>(x[i], cap);
}

__global__ void gated_heads(ops::GateHeadsArgs args) {
  const int64_t width = args.heads * args.dim, i = element(), n = i / width, j = i % width;
  if (n >= args.rows) return;
  const float pre = static_cast<const float*>(args.gate_pre.data)[n * args.gate_pre.stride + j / args.dim];
  const float x = static_cast<const float*>(args.x.data)[n * args.x.stride + j];
  static_cast<float*>(args.out.data)[n * args.out.stride + j] = x * sigmoid(pre);
}

__global__ void above_zero(const float* x, float* out, int64_t count) {
  const int64_t i = element();
  if (i < count) out[i] = x[i] > 0 ? x[i] : 0.0f;
}

__global__ void sums(const float* x, const float* y, float* out, int64_t count) {
  const int64_t i = element();
  if (i < count) out[i] = x[i] + y[i];
}

}  // namespace

void gated_unit(const Stream& stream, const ops::GatedUnitArgs& args) {
  refuse_rounding("gated_unit, rounded", args.gates != DType::kF32 || args.product != DType::kF32);
  if (args.width % 4 == 0 && has_fours(args.gate_up) && has_fours(args.out)) {
    return run_unit_fours(stream, args.gate_up, args.rows, args.width, args.activation, args.out.f32(),
                          args.out.stride);
  }
  for_elements(stream, args.rows * args.width, units, args);
}

void soft_cap(const Stream& stream, const ops::SoftCapArgs& args) {
  refuse_rounding("soft_cap, rounded", args.dtype != DType::kF32);
  for_elements(stream, args.count, capped, args.x.f32(), args.out.f32(), args.count, args.cap);
}

void gate_heads(const Stream& stream, const ops::GateHeadsArgs& args) {
  refuse_rounding("gate_heads, rounded", args.gates != DType::kF32 || args.product != DType::kF32);
  for_elements(stream, args.rows * args.heads * args.dim, gated_heads, args);
}

void relu(const Stream& stream, const ops::ElementwiseArgs& args) {
  for_elements(stream, args.count, above_zero, args.x.f32(), args.out.f32(), args.count);
}

void add(const Stream& stream, const ops::ElementwiseArgs& args) {
  for_elements(stream, args.count, sums, args.x.f32(), args.y.f32(), args.out.f32(), args.count);
}

}  // namespace carousel::cuda
