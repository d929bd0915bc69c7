// SPDX-License-Identifier: Apache-2.0
// The search for scales, of many parts of a block at once, each in a lane (lanes.h). A part's codes follow from its
// scale and offset by rounding, and the best scale and offset for given codes by least squares; the search takes turns.
// quant_encode.cc packs what it finds, each type of block in its way.
#pragma once

#include "carousel/core/lanes.h"

namespace carousel {

// N parts of `kValues` values, value i of every part in x[i].
template <int N, int kValues>
struct Parts {
  Lanes<N> x[kValues];
  Lanes<N> sum_x, sum_xx;
};

// Reads `count` parts that follow each other; the parts after them are zero.
template <int N, int kValues>
void read_parts(const float* values, int count, Parts<N, kValues>& parts) {
  parts.sum_x = parts.sum_xx = {};
  for (int i = 0; i < kValues; ++i) {
    Lanes<N>& x = parts.x[i];
    x = {};
    for (int lane = 0; lane < count; ++lane) x.set(lane, values[lane * kValues + i]);
    parts.sum_x += x;
    parts.sum_xx += x * x;
  }
}

// Parts with a scale and an offset: value = scale * code - drop, codes in [0, top].

template <int N>
struct Affine {
  Lanes<N> scale = {}, drop = {}, error;
};

// The least-squares scale and drop for the codes that `inverse_scale` and `drop` give.
//   kFree: drop may be negative
template <int N, int kValues, bool kFree>
Affine<N> fit_affine(const Parts<N, kValues>& parts, const Lanes<N>& inverse_scale, const Lanes<N>& drop, float top) {
  Lanes<N> sum_q = {}, sum_qq = {}, sum_xq = {};
  const Lanes<N> start = drop * inverse_scale;
  for (const Lanes<N>& x : parts.x) {
    const Lanes<N> q = nearest(x * inverse_scale + start, 0, top);
    sum_q += q;
    sum_qq += q * q;
    sum_xq += q * x;
  }
  const Lanes<N> zero = {}, n = Lanes<N>::of(kValues);
  const Lanes<N> spread = n * sum_qq - sum_q * sum_q;
  const Lanes<N> over = inverse(spread);
  Affine<N> fit;
  fit.scale = (n * sum_xq - parts.sum_x * sum_q) * over;
  fit.drop = (sum_q * sum_xq - sum_qq * parts.sum_x) * over;
  // Equal codes leave the scale open: they are all zero, or the drop is.
  const Lanes<N> level = zero - parts.sum_x * (1.0f / kValues);
  const Lanes<N> flat_drop = where_less(zero, sum_q, zero, kFree ? level : most(level, zero));
  const Lanes<N> alone = sum_xq * inverse(sum_qq);
  fit.scale = where_less(zero, spread, fit.scale, alone);
  fit.drop = where_less(zero, spread, fit.drop, flat_drop);
  if (!kFree) {
    fit.scale = where_less(fit.drop, zero, alone, fit.scale);
    fit.drop = most(fit.drop, zero);
  }
  fit.error = parts.sum_xx - fit.scale * sum_xq + fit.drop * parts.sum_x;
  return fit;
}

template <int N>
void keep_better(const Affine<N>& other, Affine<N>& best) {
  best.scale = where_less(other.error, best.error, other.scale, best.scale);
  best.drop = where_less(other.error, best.error, other.drop, best.drop);
  best.error = least(other.error, best.error);
}

// Starts from scales about the one that spans the values, and improves each by the codes that its own fit gives.
template <int N, int kValues, bool kFree>
Affine<N> search_affine(const Parts<N, kValues>& parts, float top) {
  Lanes<N> low = {}, high = {};
  if (kFree) low = high = parts.x[0];
  for (const Lanes<N>& x : parts.x) {
    low = least(low, x);
    high = most(high, x);
  }
  const Lanes<N> drop = Lanes<N>{} - low, over = inverse(high - low);
  Affine<N> best;
  best.error = Lanes<N>::of(3e38f);
  constexpr float kStarts[] = {-0.9f, -0.6f, -0.3f, 0, 0.3f, 0.6f};  // by so much the codes' range differs from top
  for (const float start : kStarts) {
    Affine<N> fit = fit_affine<N, kValues, kFree>(parts, over * (top + start), drop, top);
    keep_better(fit, best);
    fit = fit_affine<N, kValues, kFree>(parts, inverse(fit.scale), fit.drop, top);
    keep_better(fit, best);
  }
  for (int turn = 0; turn < 2; ++turn)
    keep_better(fit_affine<N, kValues, kFree>(parts, inverse(best.scale), best.drop, top), best);
  return best;
}

// Parts with a scale alone: value = scale * code, codes in [-top - 1, top].

template <int N>
struct Scaled {
  Lanes<N> scale, explained;  // explained: what the fit takes off the sum of squares
};

template <int N, int kValues>
Scaled<N> fit_scale(const Parts<N, kValues>& parts, const Lanes<N>& inverse_scale, float top) {
  Lanes<N> sum_qq = {}, sum_xq = {};
  for (const Lanes<N>& x : parts.x) {
    const Lanes<N> q = nearest(x * inverse_scale, -top - 1, top);
    sum_qq += q * q;
    sum_xq += q * x;
  }
  const Lanes<N> scale = sum_xq * inverse(sum_qq);
  return {scale, scale * sum_xq};
}

template <int N>
void keep_better(const Scaled<N>& other, Scaled<N>& best) {
  best.scale = where_less(best.explained, other.explained, other.scale, best.scale);
  best.explained = most(best.explained, other.explained);
}

// Starts from scales that give the largest value a code near the ends of the range, and improves each once.
template <int N, int kValues>
Scaled<N> search_scale(const Parts<N, kValues>& parts, float top) {
  Lanes<N> peak = {};
  for (const Lanes<N>& x : parts.x) peak = where_less(peak * peak, x * x, x, peak);
  const Lanes<N> over = inverse(peak);
  Scaled<N> best = {};
  const float low = -top - 1;
  const float starts[] = {low - 1.2f, low - 0.6f, low, low + 0.5f, low + 1, low + 1.5f, low + 2, low + 2.5f,
                          low + 3,    top + 0.6f, top, top - 0.5f, top - 1, top - 1.5f, top - 2};
  for (const float code : starts) {
    Scaled<N> fit = fit_scale(parts, over * code, top);
    keep_better(fit, best);
    fit = fit_scale(parts, inverse(fit.scale), top);
    keep_better(fit, best);
  }
  keep_better(fit_scale(parts, inverse(best.scale), top), best);
  return best;
}

}  // namespace carousel
