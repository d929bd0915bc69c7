// SPDX-License-Identifier: Apache-2.0
// What Muon and SGD do beside products: passes over arrays, which memory bounds.
#include "carousel/ops/optimiser/muon_cpu.h"

#include "carousel/cpu/divide.h"
#include "carousel/cpu/transpose.h"
#include "carousel/cpu/vec.h"

namespace carousel::cpu::CAROUSEL_ISA {
namespace {

/// Calls body(i, lanes) for every vector of [0, count); `lanes` is kLanes but for the last one.
template <class Body>
CAROUSEL_INLINE void for_vectors(const Stream& stream, int64_t count, const Body& body) {
  constexpr int64_t kItem = 4096;
  parallel_ranges(stream, (count + kItem - 1) / kItem, kItem * 4, [&](int64_t begin, int64_t end) {
    const int64_t last = end * kItem < count ? end * kItem : count;
    int64_t i = begin * kItem;
    for (; i + kLanes <= last; i += kLanes) body.template operator()<false>(i, kLanes);
    if (i < last) body.template operator()<true>(i, last - i);
  });
}

template <bool kPartial>
CAROUSEL_INLINE Vec take(const float* p, int64_t lanes) {
  return kPartial ? load_partial(p, lanes) : load(p);
}
template <bool kPartial>
CAROUSEL_INLINE void put(float* p, Vec x, int64_t lanes) {
  if (kPartial) {
    store_partial(p, x, lanes);
  } else {
    store(p, x);
  }
}

}  // namespace

void muon_update(const Stream& stream, const ops::MuonUpdateArgs& args) {
  for_vectors(stream, args.count, [&]<bool kPartial>(int64_t i, int64_t lanes) {
    const Vec g = take<kPartial>(args.g + i, lanes) * set1(args.grad_scale);
    Vec m = take<kPartial>(args.m + i, lanes);
    m = fma(set1(1 - args.momentum), g - m, m);
    put<kPartial>(args.m + i, m, lanes);
    put<kPartial>(args.u + i, fma(set1(args.momentum), m - g, g), lanes);
  });
}

void blend(const Stream& stream, const ops::BlendArgs& args) {
  for_vectors(stream, args.count, [&]<bool kPartial>(int64_t i, int64_t lanes) {
    const Vec x = take<kPartial>(args.x + i, lanes), y = take<kPartial>(args.y + i, lanes);
    put<kPartial>(args.out + i, fma(set1(args.b), y, set1(args.a) * x), lanes);
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
    const Vec g = take<kPartial>(args.g + i, lanes) * set1(args.grad_scale);
    const Vec m = fma(set1(args.momentum), take<kPartial>(args.m + i, lanes), g);
    put<kPartial>(args.m + i, m, lanes);
    put<kPartial>(args.w + i, set1(args.keep) * take<kPartial>(args.w + i, lanes) - set1(args.lr) * m, lanes);
  });
}

}  // namespace carousel::cpu::CAROUSEL_ISA
