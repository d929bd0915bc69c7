// SPDX-License-Identifier: Apache-2.0
// The norms as a profile of a narrower implementation has them: every operation's result rounded to the type it has
// there. Moments are summed in f64, so that what is rounded is the value itself.
#include "carousel/ops/norm/norm_cast.h"
#include "carousel/cpu/divide.h"
#include "carousel/cpu/vec_math.h"

namespace carousel::cpu::CAROUSEL_ISA {
namespace {

constexpr int64_t kWorkPerElement = 64;

inline float sigmoid1(float x) { return sigmoid(set1(x))[0]; }

void gate_head(const ops::CastNormArgs& args, int64_t n, int64_t first, float* out) {
  const ops::HeadNormArgs& head = args.head;
  const Rounding round(args.activations), gate_round(args.gates);
  for (int64_t j = 0; j < head.dv; ++j) {
    if (head.skip.data != nullptr) {
      const float skip = round(head.skip_weight[first + j] * head.skip.f32()[n * head.skip.stride + first + j]);
      out[j] = round(out[j] + skip);
    }
    if (head.gate == ops::NormGate::Kind::kNone) continue;
    const float pre = head.pre.f32()[n * head.pre.stride + first + j];
    const float gate = head.gate == ops::NormGate::Kind::kSigmoid ? sigmoid1(pre) : pre * sigmoid1(pre);
    out[j] = round(gate_round(gate) * out[j]);
  }
}

}  // namespace

void cast_norm(const Stream& stream, const ops::CastNormArgs& args) {
  const ops::HeadNormArgs& head = args.head;
  const int64_t width = head.heads * head.dv;
  const Rounding round(args.activations);
  parallel_ranges(stream, head.rows, width * kWorkPerElement, [&](int64_t begin, int64_t end) {
    for (int64_t n = begin; n < end; ++n) {
      const float* x = head.h.f32() + n * head.h.stride;  // [width]
      if (args.y.data != nullptr) {
        float* sum = args.sum.f32() + n * args.sum.stride;  // [width]
        const float* y = args.y.f32() + n * args.y.stride;  // [width]
        for (int64_t j = 0; j < width; ++j) sum[j] = round(x[j] + y[j]);
        x = sum;
      }
      if (head.norm.kind == ops::Norm::Kind::kNone && head.out.data == args.sum.data) continue;
      for (int64_t first = 0; first < width; first += head.dv) {
        float* out = head.out.f32() + n * head.out.stride + first;
        CastNorm norm = {head.norm, args.rule, args.activations};
        if (norm.args.weight != nullptr) norm.args.weight += first;
        if (norm.args.bias != nullptr) norm.args.bias += first;
        cast_norm_row(norm, x + first, head.dv, out);
        gate_head(args, n, first, out);
      }
    }
  });
}

}  // namespace carousel::cpu::CAROUSEL_ISA
