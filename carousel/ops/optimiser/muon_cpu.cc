// SPDX-License-Identifier: Apache-2.0
// What Muon and SGD do beside products: passes over arrays, which memory bounds.
#include "carousel/ops/optimiser/muon_cpu.h"

#include "carousel/cpu/transpose.h"
#include "carousel/ops/optimiser/arrays_cpu.h"

namespace carousel::cpu::CAROUSEL_ISA {
void muon_update(const Stream& stream, const ops::MuonUpdateArgs& args) {
  for_vectors(stream, args.count, [&]<bool kPartial>(int64_t i, int64_t lanes) {
    const Vec g = load_lanes<kPartial>(args.g + i, lanes) * set1(args.grad_scale);
    Vec m = load_lanes<kPartial>(args.m + i, lanes);
    m = fma(set1(1 - args.momentum), g - m, m);
    store_lanes<kPartial>(args.m + i, m, lanes);
    store_lanes<kPartial>(args.u + i, fma(set1(args.momentum), m - g, g), lanes);
  });
}

void blend(const Stream& stream, const ops::BlendArgs& args) {
  for_vectors(stream, args.count, [&]<bool kPartial>(int64_t i, int64_t lanes) {
    const Vec x = load_lanes<kPartial>(args.x + i, lanes), y = load_lanes<kPartial>(args.y + i, lanes);
    store_lanes<kPartial>(args.out + i, fma(set1(args.b), y, set1(args.a) * x), lanes);
  });
}

void transpose_matrix(const Stream& stream, const ops::TransposeArgs& args) {
  constexpr int64_t kColumns = 64;
  parallel_ranges(stream, (args.cols + kColumns - 1) / kColumns, args.rows * kColumns, [&](int64_t begin, int64_t end) {
    const int64_t first = begin * kColumns, last = end * kColumns < args.cols ? end * kColumns : args.cols;
    transpose_matrix<false>(args.from + first, args.cols, args.rows, last - first, args.to + first * args.rows,
                            args.rows);
  });
}

void sgd(const Stream& stream, const ops::SgdArgs& args) {
  for_vectors(stream, args.count, [&]<bool kPartial>(int64_t i, int64_t lanes) {
    const Vec g = load_lanes<kPartial>(args.g + i, lanes) * set1(args.grad_scale);
    const Vec m = fma(set1(args.momentum), load_lanes<kPartial>(args.m + i, lanes), g);
    store_lanes<kPartial>(args.m + i, m, lanes);
    store_lanes<kPartial>(args.w + i, set1(args.keep) * load_lanes<kPartial>(args.w + i, lanes) - set1(args.lr) * m,
                          lanes);
  });
}

}  // namespace carousel::cpu::CAROUSEL_ISA
