// SPDX-License-Identifier: Apache-2.0
// Rows that have a target are gathered, some hundreds at a time: their logits, the gradients of these in place, and the
// two products that follow. An element of d_weight is one chain over all rows, whatever the pieces.
#include <algorithm>
#include <cstring>

#include "carousel/cpu/workspace.h"
#include "carousel/ops/gate/gate_cpu.h"
#include "carousel/ops/linear/linear_backward_cpu.h"
#include "carousel/ops/linear/linear_cpu.h"
#include "carousel/ops/tokens/cross_entropy_cpu.h"
#include "carousel/ops/tokens/linear_cross_entropy_cpu.h"

namespace carousel::cpu {
namespace {

using Args = ops::LinearCrossEntropyArgs;

/// Rows of a piece: at most 128 MiB of logits. The products of few rows would read the head for little work.
int64_t piece_rows(const Args& args) {
  constexpr int64_t kMostLogits = int64_t{1} << 25;
  return std::min(args.N, std::clamp<int64_t>(kMostLogits / args.V, 64, 512));
}

/// The products of one piece of `rows` rows.
struct Piece {
  const Args& args;
  int64_t rows;
  const Weight* weight = &args.head->weight;
  float *hidden = nullptr, *logits = nullptr, *d_hidden = nullptr;
  void* scratch = nullptr;

  ops::LinearArgs forward() const { return {{hidden, args.D}, &weight, 1, rows, args.D, {logits, args.V}, scratch}; }
  ops::LinearDwArgs d_weight() const {
    const bool rounds = weight->dtype() == DType::kBF16;
    return {{logits, args.V}, {hidden, args.D}, args.d_weight, rows, args.V, args.D, scratch, rounds};
  }
  ops::LinearDxArgs d_input() const {
    return {{logits, args.V}, &weight, 1, rows, args.D, {d_hidden, args.D}, scratch};
  }
};

struct Scratch {
  Scratch(const Stream& stream, const Args& args, Workspace workspace) : piece{args, piece_rows(args)} {
    rows = workspace.take<int32_t>(args.N);
    targets = workspace.take<int32_t>(args.N);
    nll = workspace.take<float>(piece.rows);
    piece.hidden = workspace.take<float>(piece.rows * args.D);
    piece.logits = workspace.take<float>(piece.rows * args.V);
    int64_t most = linear_workspace(stream, piece.forward());
    if (args.wants_hidden) {
      piece.d_hidden = workspace.take<float>(piece.rows * args.D);
      most = std::max(most, linear_dx_workspace(stream, piece.d_input()));
    }
    if (args.d_weight != nullptr) most = std::max(most, linear_dw_workspace(stream, piece.d_weight()));
    piece.scratch = workspace.take<char>(most);
    bytes = workspace.bytes();
  }
  int32_t *rows, *targets;  // of the rows that have a target
  float* nll;
  Piece piece;
  int64_t bytes;
};

size_t bytes_of(int64_t count) { return static_cast<size_t>(count) * sizeof(float); }

void scatter_losses(const Piece& piece, const int32_t* rows, const float* losses) {
  for (int64_t i = 0; i < piece.rows; ++i) piece.args.nll[rows[i]] = losses[i];
}

void run_piece(const Stream& stream, const Piece& piece, const Scratch& scratch, int64_t first) {
  const Args& args = piece.args;
  const int32_t *const rows = scratch.rows + first, *const targets = scratch.targets + first;
  parallel_for(*stream.pool, piece.rows, [&](int64_t i) {
    std::memcpy(piece.hidden + i * args.D, args.hidden.f32() + rows[i] * args.hidden.stride, bytes_of(args.D));
  });
  linear(stream, piece.forward());
  if (const float cap = args.head->soft_cap; cap > 0) {
    const View logits = {piece.logits, args.V};
    kernels::soft_cap(stream, {logits, logits, piece.rows * args.V, cap, DType::kF32});
  }
  if (!args.has_gradient()) {
    kernels::cross_entropy(stream, {{piece.logits, args.V}, targets, {scratch.nll, 1}, piece.rows, args.V});
    return scatter_losses(piece, rows, scratch.nll);
  }
  kernels::softmax_backward(stream,
                            {piece.logits, targets, scratch.nll, piece.rows, args.V, args.scale, args.head->soft_cap});
  scatter_losses(piece, rows, scratch.nll);
  if (args.d_weight != nullptr) linear_dw(stream, piece.d_weight());
  if (args.d_bias != nullptr) kernels::sum_rows(stream, {{piece.logits, args.V}, args.d_bias, piece.rows, args.V});
  if (!args.wants_hidden) return;
  linear_dx(stream, piece.d_input());
  parallel_for(*stream.pool, piece.rows, [&](int64_t i) {
    std::memcpy(args.d_hidden.f32() + rows[i] * args.d_hidden.stride, piece.d_hidden + i * args.D, bytes_of(args.D));
  });
}

}  // namespace

int64_t linear_cross_entropy_workspace(const Stream& stream, const Args& args) {
  return Scratch(stream, args, {}).bytes;
}

void linear_cross_entropy(const Stream& stream, const Args& args) {
  const Scratch scratch(stream, args, Workspace(args.workspace));
  int64_t live = 0;
  for (int64_t n = 0; n < args.N; ++n) {
    if (args.targets[n] >= 0) {
      scratch.rows[live] = static_cast<int32_t>(n);
      scratch.targets[live++] = args.targets[n];
      continue;
    }
    args.nll[n] = 0;
    if (args.wants_hidden) std::memset(args.d_hidden.f32() + n * args.d_hidden.stride, 0, bytes_of(args.D));
  }
  for (int64_t first = 0; first < live; first += piece_rows(args)) {
    Piece piece = scratch.piece;
    piece.rows = std::min(piece_rows(args), live - first);
    run_piece(stream, piece, scratch, first);
  }
}

}  // namespace carousel::cpu
