// SPDX-License-Identifier: Apache-2.0
// One step of elements of the sLSTM, from their four sums. The forward and the backward share it, bit for bit.
#pragma once

#include "carousel/cpu/vec.h"

namespace carousel::cpu::CAROUSEL_ISA {
namespace {

/// Elements between steps.
struct Cell {
  Vec y, c, n, m;
};

/// An element after a step, and the gates it was advanced with.
struct Advanced {
  Cell cell;
  Vec i, f;
};

CAROUSEL_INLINE Advanced advance(Cell old, Vec raw_i, Vec raw_f, Vec raw_z, Vec raw_o, Vec f_gate_max) {
  const Vec one = set1(1.0f);
  const Vec capped = min(f_gate_max, raw_f);
  const Vec log_f = old.m + (min(capped, Vec{}) - log1p_unit(exp_decay(negative_abs(capped))));
  // The larger of the two gates is e^0. Where n is 0, i is e^0, since m' is raw_i.
  const Vec ahead = raw_i - log_f;
  const Vec e = exp_decay(negative_abs(ahead));
  const Vec f = ahead >= Vec{} ? e : one;
  Vec i = ahead >= Vec{} ? one : e;
  i = old.n == Vec{} ? one : i;
  Cell next;
  next.m = old.n == Vec{} ? raw_i : max(raw_i, log_f);
  next.c = fma(f, old.c, i * tanh(raw_z));
  next.n = fma(f, old.n, i);
  // sigmoid(o) c / n, where sigmoid(o) = w / (1 + e^-|o|) with w = 1 or e^-|o|: one division.
  const Vec o = exp_decay(negative_abs(raw_o));
  next.y = (raw_o >= Vec{} ? one : o) * next.c / fma(o, next.n, next.n);
  return {next, i, f};
}

}  // namespace
}  // namespace carousel::cpu::CAROUSEL_ISA
