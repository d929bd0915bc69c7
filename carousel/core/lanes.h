// SPDX-License-Identifier: Apache-2.0
// N floats side by side: the scales of N parts of a block are searched at once, each in a lane of its own. A lane's
// result depends on its own values alone, and every operation rounds once, so the bits are those of any machine. Halves
// of halves leave no loop for the compiler to keep in memory.
#pragma once

#include <cstddef>

namespace carousel {

typedef float FourLanes __attribute__((vector_size(16)));

template <int N>
struct Lanes {
  Lanes<N / 2> low = {}, high = {};

  static Lanes of(float x) { return {Lanes<N / 2>::of(x), Lanes<N / 2>::of(x)}; }
  float operator[](int lane) const { return lane < N / 2 ? low[lane] : high[lane - N / 2]; }
  void set(int lane, float x) { lane < N / 2 ? low.set(lane, x) : high.set(lane - N / 2, x); }
  float sum() const { return (low + high).sum(); }
};
template <>
struct Lanes<4> {
  FourLanes v = {};

  static Lanes of(float x) { return {FourLanes{x, x, x, x}}; }
  float operator[](int lane) const { return v[lane]; }
  void set(int lane, float x) { v[lane] = x; }
  float sum() const { return (v[0] + v[1]) + (v[2] + v[3]); }
};

#define CAROUSEL_LANES_OPERATOR(op)                                                          \
  inline Lanes<4> operator op(const Lanes<4>& a, const Lanes<4>& b) { return {a.v op b.v}; } \
  template <int N>                                                                           \
  inline Lanes<N> operator op(const Lanes<N>& a, const Lanes<N>& b) {                        \
    return {a.low op b.low, a.high op b.high};                                               \
  }
CAROUSEL_LANES_OPERATOR(+)
CAROUSEL_LANES_OPERATOR(-)
CAROUSEL_LANES_OPERATOR(*)
CAROUSEL_LANES_OPERATOR(/)
#undef CAROUSEL_LANES_OPERATOR

template <int N>
inline Lanes<N>& operator+=(Lanes<N>& a, const Lanes<N>& b) {
  return a = a + b;
}
template <int N>
inline Lanes<N> operator*(const Lanes<N>& a, float b) {
  return a * Lanes<N>::of(b);
}
template <int N>
inline Lanes<N> operator+(const Lanes<N>& a, float b) {
  return a + Lanes<N>::of(b);
}

/// In each lane `yes` where a < b, else `no`.
inline Lanes<4> where_less(const Lanes<4>& a, const Lanes<4>& b, const Lanes<4>& yes, const Lanes<4>& no) {
  return {a.v < b.v ? yes.v : no.v};
}
template <int N>
inline Lanes<N> where_less(const Lanes<N>& a, const Lanes<N>& b, const Lanes<N>& yes, const Lanes<N>& no) {
  return {where_less(a.low, b.low, yes.low, no.low), where_less(a.high, b.high, yes.high, no.high)};
}
template <int N>
inline Lanes<N> least(const Lanes<N>& a, const Lanes<N>& b) {
  return where_less(a, b, a, b);
}
template <int N>
inline Lanes<N> most(const Lanes<N>& a, const Lanes<N>& b) {
  return where_less(b, a, a, b);
}
/// The nearest integers in [bottom, top], ties to even.
template <int N>
inline Lanes<N> nearest(const Lanes<N>& x, float bottom, float top) {
  const Lanes<N> magic = Lanes<N>::of(12582912.0f);  // 1.5 * 2^23: adding it rounds to an integer
  return (least(most(x, Lanes<N>::of(bottom)), Lanes<N>::of(top)) + magic) - magic;
}
/// 1 / x, and 0 where the square of x is 0.
template <int N>
inline Lanes<N> inverse(const Lanes<N>& x) {
  const Lanes<N> zero = {}, one = Lanes<N>::of(1), square = x * x;
  return where_less(zero, square, one / where_less(zero, square, x, one), zero);
}

}  // namespace carousel
