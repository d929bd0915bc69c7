// SPDX-License-Identifier: Apache-2.0
// y, d_x and d_w are one product. Its second factor is in panels: of W, of W^T (made when the weight is packed), and of
// x^T, which is packed here, some rows at a time: the chains go on over the pieces.
#include <algorithm>

#include "carousel/cpu/workspace.h"
#include "carousel/ops/linear/linear_backward_cpu.h"
#include "carousel/ops/linear/linear_cpu.h"
#include "carousel/ops/weight/row_slices.h"

namespace carousel::cpu {
namespace {

constexpr int64_t kPanelRows = DensePanels::kPanelRows;
constexpr int64_t kPieceRows = 1024;  // rows whose panels of x^T and packed d_y^T are held at a time

struct DwScratch {
  DwScratch(const ops::LinearDwArgs& args, Workspace workspace) {
    int64_t rows = std::min(args.N, kPieceRows);
    if (args.rounds) rows = ceil_div(rows, 2);  // a pair of them is 4 bytes
    panels = workspace.take<float>(ceil_div(args.K, kPanelRows) * kPanelRows * rows);
    packed = workspace.take<float>(ops::packed_count(args.M, rows));
    bytes = workspace.bytes();
  }
  float *panels, *packed;
  int64_t bytes;
};

/// Panels of x^T for rows first to first + rows: [ceil(K / 32)][rows][32], or pairs of rows in bf16.
void pack_panels(const Stream& stream, const ops::LinearDwArgs& args, int64_t first, int64_t rows, float* panels) {
  float* const x = args.x.f32() + first * args.x.stride;
  if (args.rounds) {
    const View piece = {x, args.x.stride};
    return kernels::pack_row_pairs(stream, {piece, rows, args.K, reinterpret_cast<char*>(panels)});
  }
  parallel_for(*stream.pool, ceil_div(args.K, kPanelRows), [&](int64_t p) {
    const int64_t column = p * kPanelRows;
    pack_transposed_panel(panels + column * rows, x + column, rows, args.x.stride,
                          std::min(kPanelRows, args.K - column));
  });
}

void multiply(const Stream& stream, const ops::LinearFwd& product) {
  (product.parts->dtype == DType::kBF16 ? kernels::linear_bf16_fwd : kernels::linear_fwd)(stream, product);
}

}  // namespace

int64_t linear_dx_workspace(const Stream&, const ops::LinearDxArgs& args) {
  int64_t most = 0;
  for (int64_t i = 0; i < args.count; ++i) most = std::max(most, args.weights[i]->rows());
  return ops::packed_count(args.N, most) * static_cast<int64_t>(sizeof(float));
}

void linear_dx(const Stream& stream, const ops::LinearDxArgs& args) {
  int64_t first = 0;  // the weight's first column of d_y
  for (int64_t i = 0; i < args.count; ++i) {
    const Weight& weight = *args.weights[i];
    const DType dtype = weight.transpose()->dtype();
    const ops::LinearPart part = {weight.transpose()->panels().raw(), nullptr, args.K, 0, dtype};
    ops::LinearFwd product = {
        args.d_y.f32() + first, static_cast<float*>(args.workspace), &part, 1, args.N, weight.rows(), args.d_x.f32(),
        args.d_x.stride};
    product.x_stride = args.d_y.stride;
    product.adds = i > 0;
    multiply(stream, product);
    first += weight.rows();
  }
}

int64_t linear_dw_workspace(const Stream&, const ops::LinearDwArgs& args) {
  return args.M <= ops::kFewOutputs ? 0 : DwScratch(args, {}).bytes;
}

void linear_dw(const Stream& stream, const ops::LinearDwArgs& args) {
  if (args.M <= ops::kFewOutputs) return kernels::linear_dw_few(stream, args);
  const DwScratch scratch(args, Workspace(args.workspace));
  for (int64_t first = 0; first < args.N; first += kPieceRows) {
    const int64_t rows = std::min(kPieceRows, args.N - first);
    pack_panels(stream, args, first, rows, scratch.panels);
    const ops::LinearPart part = {scratch.panels, nullptr, args.K, 0, args.rounds ? DType::kBF16 : DType::kF32};
    ops::LinearFwd product = {
        args.d_y.f32() + first * args.d_y.stride, scratch.packed, &part, 1, args.M, rows, args.d_w, args.K};
    product.x_stride = args.d_y.stride;
    product.transposed = product.adds = true;
    multiply(stream, product);
  }
}

}  // namespace carousel::cpu
