// SPDX-License-Identifier: Apache-2.0
// The iteration of Muon. All its products are of the form x^T y, that of a weight's gradient: they are taken of the
// matrix stood upright, so that A = X X^T is x^T x of x = X^T, and of A, which is symmetric to the bit.
#include <algorithm>

#include "carousel/cpu/workspace.h"
#include "carousel/ops/linear/linear_backward_cpu.h"
#include "carousel/ops/optimiser/muon_cpu.h"

namespace carousel::cpu {
namespace {

constexpr int kSteps = 5;
constexpr float kA = 3.4445f, kB = -4.7750f, kC = 2.0315f;

/// A matrix of f32 in memory that follows itself row by row.
struct Dense {
  float* values;
  int64_t rows, cols;
};

/// out += x^T y.
ops::LinearDwArgs product_of(const Dense& x, const Dense& y, float* out, void* workspace) {
  return {{x.values, x.cols, DType::kF32}, {y.values, y.cols, DType::kF32}, out, x.rows, x.cols, y.cols, workspace};
}

struct Scratch {
  Scratch(const Stream& stream, const ops::OrthogonaliseArgs& args, Workspace workspace)
      : x{args.x, args.L, args.S},
        gram{workspace.take<float>(args.S * args.S), args.S, args.S},
        square{workspace.take<float>(args.S * args.S), args.S, args.S},
        flat{workspace.take<float>(args.S * args.L), args.S, args.L} {
    int64_t most = 0;
    for (const ops::LinearDwArgs& each : {product_of(x, x, nullptr, nullptr), product_of(gram, gram, nullptr, nullptr),
                                          product_of(flat, gram, nullptr, nullptr)}) {
      most = std::max(most, kernels::linear_dw_workspace(stream, each));
    }
    product = workspace.take<char>(most);
    bytes = workspace.bytes();
  }
  Dense x;             // [L, S]
  Dense gram, square;  // [S, S]
  Dense flat;          // [S, L], the transpose of x
  void* product;       // scratch memory of one product
  int64_t bytes;
};

}  // namespace

int64_t orthogonalise_workspace(const Stream& stream, const ops::OrthogonaliseArgs& args) {
  return Scratch(stream, args, Workspace()).bytes;
}

void orthogonalise(const Stream& stream, const ops::OrthogonaliseArgs& args) {
  const Scratch scratch(stream, args, Workspace(args.workspace));
  const auto add_product = [&](const Dense& x, const Dense& y, const Dense& out) {
    kernels::linear_dw(stream, product_of(x, y, out.values, scratch.product));
  };
  const int64_t squares = args.S * args.S, all = args.L * args.S;
  const Dense &x = scratch.x, &gram = scratch.gram, &square = scratch.square, &flat = scratch.flat;
  for (int step = 0; step < kSteps; ++step) {
    std::fill(gram.values, gram.values + squares, 0.0f);
    std::fill(square.values, square.values + squares, 0.0f);
    add_product(x, x, gram);
    add_product(gram, gram, square);
    kernels::blend(stream, {gram.values, square.values, gram.values, squares, kB, kC});
    kernels::transpose_matrix(stream, {x.values, flat.values, args.L, args.S});
    kernels::blend(stream, {x.values, x.values, x.values, all, kA, 0});
    add_product(flat, gram, x);
  }
}

}  // namespace carousel::cpu
