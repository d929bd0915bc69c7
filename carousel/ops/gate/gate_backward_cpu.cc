// SPDX-License-Identifier: Apache-2.0
// Gradients of the elementwise gates: bound by memory.
#include "carousel/cpu/divide.h"
#include "carousel/cpu/matmul.h"
#include "carousel/ops/gate/activations_cpu.h"
#include "carousel/ops/gate/gate_cpu.h"

namespace carousel::cpu::CAROUSEL_ISA {
namespace {

constexpr int64_t kWorkPerElement = 32;

}  // namespace

void gated_unit_backward(const Stream& stream, const ops::GatedUnitBackwardArgs& args) {
  for_activation(args.activation, [&](auto unit) {
    parallel_ranges(stream, args.rows, args.width * kWorkPerElement, [&](int64_t begin, int64_t end) {
      for (int64_t n = begin; n < end; ++n) {
        const float* const gate = args.gate_up.f32() + n * args.gate_up.stride;  // [F]
        const float* const up = gate + args.width;                               // [F]
        const float* const d = args.d.f32() + n * args.d.stride;                 // [F]
        float* const d_gate = args.d_gate_up.f32() + n * args.d_gate_up.stride;  // [F]
        float* const d_up = d_gate + args.width;                                 // [F]
        for_column_tiles<1>(args.width, [&]<int V, bool kPartial>(int64_t j, int64_t lanes) {
          const Slope at = activation_slope<decltype(unit)::kValue>(load_lanes<kPartial>(gate + j, lanes));
          const Vec d_j = load_lanes<kPartial>(d + j, lanes);
          store_lanes<kPartial>(d_gate + j, d_j * load_lanes<kPartial>(up + j, lanes) * at.slope, lanes);
          store_lanes<kPartial>(d_up + j, d_j * at.value, lanes);
        });
      }
    });
  });
}

void soft_cap_backward(const Stream& stream, const ops::SoftCapBackwardArgs& args) {
  const Vec cap = set1(args.cap), one = set1(1.0f);
  parallel_ranges(stream, args.rows, args.width * 4, [&](int64_t begin, int64_t end) {
    for (int64_t n = begin; n < end; ++n) {
      const float* const capped = args.capped.f32() + n * args.capped.stride;  // [D]
      const float* const d = args.d.f32() + n * args.d.stride;                 // [D]
      float* const d_x = args.d_x.f32() + n * args.d_x.stride;                 // [D]
      for_column_tiles<1>(args.width, [&]<int V, bool kPartial>(int64_t j, int64_t lanes) {
        const Vec tanh_j = load_lanes<kPartial>(capped + j, lanes) / cap;
        store_lanes<kPartial>(d_x + j, load_lanes<kPartial>(d + j, lanes) * fma(-tanh_j, tanh_j, one), lanes);
      });
    }
  });
}

void gate_heads_backward(const Stream& stream, const ops::GateHeadsBackwardArgs& args) {
  parallel_ranges(stream, args.rows, args.heads * (args.dim * 4 + kWorkPerElement), [&](int64_t begin, int64_t end) {
    for (int64_t n = begin; n < end; ++n) {
      for (int64_t h = 0; h < args.heads; ++h) {
        Vec pre = {};
        pre[0] = args.gate_pre.f32()[n * args.gate_pre.stride + h];
        const float share = sigmoid(pre)[0];
        const float* const x = args.x.f32() + n * args.x.stride + h * args.dim;  // [d]
        const float* const d = args.d.f32() + n * args.d.stride + h * args.dim;  // [d]
        float* const d_x = args.d_x.data != nullptr ? args.d_x.f32() + n * args.d_x.stride + h * args.dim : nullptr;
        Vec along = {};
        for_column_tiles<1>(args.dim, [&]<int V, bool kPartial>(int64_t j, int64_t lanes) {
          const Vec d_j = load_lanes<kPartial>(d + j, lanes);
          along = fma(d_j, load_lanes<kPartial>(x + j, lanes), along);
          if (d_x != nullptr) store_lanes<kPartial>(d_x + j, d_j * set1(share), lanes);
        });
        if (args.d_gate_pre.data == nullptr) continue;
        args.d_gate_pre.f32()[n * args.d_gate_pre.stride + h] = sum(along) * share * (1.0f - share);
      }
    }
  });
}

void relu_backward(const Stream& stream, const ops::ReluBackwardArgs& args) {
  parallel_ranges(stream, args.rows, args.width, [&](int64_t begin, int64_t end) {
    for (int64_t n = begin; n < end; ++n) {
      const float* const x_n = args.x.f32() + n * args.x.stride;
      const float* const d_n = args.d.f32() + n * args.d.stride;
      float* const d_x_n = args.d_x.f32() + n * args.d_x.stride;
      for (int64_t j = 0; j < args.width; ++j) d_x_n[j] = x_n[j] > 0 ? d_n[j] : 0.0f;
    }
  });
}

}  // namespace carousel::cpu::CAROUSEL_ISA
