// SPDX-License-Identifier: Apache-2.0
// Checks, and the list of parts the kernel streams as one. linear_cpu.cc holds the products.
#include "carousel/ops/linear/linear.h"

#include <algorithm>
#include <array>

#include "carousel/core/error.h"
#include "carousel/ops/linear/linear_cpu.h"
#include "carousel/ops/linear/sparse_linear_cpu.h"
#include "carousel/ops/rounding/rounding.h"

namespace carousel::ops {
namespace {

constexpr size_t kMaxParts = 16;
// Panels made at a time of a weight held elsewhere as rows: they stay in the last-level cache until they are
// multiplied.
constexpr int64_t kPieceBytes = int64_t{8} << 20;

void check_weight(size_t index, const Weight* weight, int64_t K) {
  if (weight == nullptr || !weight->defined()) {
    fail(ErrorKind::kShape, "ops::linear: weight {} is empty, expected [*, {}]", index, K);
  }
  if (weight->cols() != K) {
    fail(ErrorKind::kShape, "ops::linear: weight {} is [{}, {}], expected [*, {}] (last dim of x)", index,
         weight->rows(), weight->cols(), K);
  }
  if (weight->layout() != Weight::Layout::kPanels && !weight->in_place()) {
    fail(ErrorKind::kShape, "ops::linear: weight {} is held as rows, expected panels", index);
  }
  if (weight->bias.defined()) {
    check_shape("ops::linear", "bias", weight->bias, {weight->rows()});
    check_dtype("ops::linear", "bias", weight->bias, DType::kF32);
  }
}

const float* bias_of(const Weight& weight) { return weight.bias.defined() ? weight.bias.f32() : nullptr; }

bool takes_bf16(const Weight& weight, Compute compute) {
  return compute == Compute::kBF16 && weight.dtype() == DType::kBF16;
}

/// The parts of one call, laid side by side in y; every kind of weight has a list, for its kernel.
struct Parts {
  template <class Part>
  struct List {
    std::array<Part, kMaxParts> parts;
    int64_t count = 0;
    void add(const Part& part) { parts[static_cast<size_t>(count++)] = part; }
  };
  struct InPlace {
    const Weight* weight;
    int64_t first_col;
  };
  List<LinearPart> floats, bf16, q8, q4;
  List<SparsePart> sparse;
  List<SparseBlocksPart> sparse_q8, sparse_q4;
  List<InPlace> in_place;
  bool packs = false;  // x, whatever N is
  int64_t cols = 0;    // of y

  /// The list that has all `count` parts of the call; null if there is none.
  const List<LinearPart>* whole(int64_t count) const {
    for (const auto* list : {&floats, &bf16, &q8, &q4}) {
      if (list->count == count) return list;
    }
    return nullptr;
  }

  void add(const Weight& weight, Compute compute) {
    const float* const bias = bias_of(weight);
    const DType dtype = weight.dtype();
    const int64_t rows = weight.rows();
    packs = packs || is_block(dtype) || takes_bf16(weight, compute);
    if (weight.in_place()) {
      in_place.add({&weight, cols});
    } else if (const SparsePanels* it = weight.sparse(); it != nullptr) {
      sparse.add({it->steps(), it->first_steps(), it->counts(), it->dtype(), it->wide(), bias, rows, cols});
    } else if (const SparseBlocks* blocks = weight.sparse_blocks(); blocks != nullptr) {
      (dtype == DType::kQ8 ? sparse_q8 : sparse_q4).add({blocks->bytes(), blocks->first_bytes(), bias, rows, cols});
    } else {
      List<LinearPart>& list = dtype == DType::kQ8           ? q8
                               : dtype == DType::kQ4         ? q4
                               : takes_bf16(weight, compute) ? bf16
                                                             : floats;
      list.add({weight.storage().raw(), bias, rows, cols, dtype});
    }
    cols += rows;
  }
};

using Kernel = void (*)(const Stream&, const LinearFwd&);

Kernel kernel_of(DType dtype, Compute compute) {
  if (is_block(dtype)) return kernels::linear_quant_fwd;
  return compute == Compute::kBF16 && dtype == DType::kBF16 ? kernels::linear_bf16_fwd : kernels::linear_fwd;
}

Parts check_and_list(const Tensor& x, std::initializer_list<const Weight*> weights, Compute compute) {
  check_shape("ops::linear", "x", x, {-1, -1});
  check_dtype("ops::linear", "x", x, DType::kF32);
  if (weights.size() == 0 || weights.size() > kMaxParts) {
    fail(ErrorKind::kShape, "ops::linear: got {} weights, expected 1 to {}", weights.size(), kMaxParts);
  }
  Parts parts;
  size_t index = 0;
  for (const Weight* weight : weights) {
    check_weight(index++, weight, x.dim(1));
    parts.add(*weight, compute);
  }
  return parts;
}

/// The products of a weight held elsewhere as rows: some panels are packed, multiplied and forgotten, then the next.
void run_in_place(Ctx& ctx, const Weight& weight, LinearFwd args, int64_t first_col) {
  const int64_t panel_bytes = static_cast<int64_t>(Weight::panel_bytes(weight.cols(), weight.dtype()));
  const int64_t panels = (weight.rows() + Weight::kPanelRows - 1) / Weight::kPanelRows;
  const int64_t piece = std::min(panels, std::max<int64_t>(4 * ctx.stream.threads(), kPieceBytes / panel_bytes));
  const Tensor packed = ctx.arena.empty({piece * panel_bytes}, DType::kU8);
  LinearPart part = {packed.raw(), nullptr, 0, 0, weight.dtype()};
  args.parts = &part;
  args.part_count = 1;
  const float* const bias = bias_of(weight);
  for (int64_t first = 0; first < weight.rows(); first += piece * Weight::kPanelRows) {
    part.rows = std::min(piece * Weight::kPanelRows, weight.rows() - first);
    part.first_col = first_col + first;
    part.bias = bias != nullptr ? bias + first : nullptr;
    weight.pack_panels(ctx.stream, first, part.rows, packed.raw());
    kernel_of(weight.dtype(), ctx.stream.compute)(ctx.stream, args);
  }
}

void run(Ctx& ctx, const Tensor& x, const Parts& parts, float* packed, const Tensor& y) {
  const int64_t N = x.dim(0), K = x.dim(1), cols = parts.cols;
  const auto args = [&](const Parts::List<LinearPart>& list) {
    return LinearFwd{x.f32(), packed, list.parts.data(), list.count, N, K, y.f32(), cols};
  };
  for (const auto* list : {&parts.floats, &parts.bf16, &parts.q8, &parts.q4}) {
    if (list->count > 0) kernel_of(list->parts[0].dtype, ctx.stream.compute)(ctx.stream, args(*list));
  }
  for (int64_t i = 0; i < parts.in_place.count; ++i) {
    const Parts::InPlace& part = parts.in_place.parts[static_cast<size_t>(i)];
    run_in_place(ctx, *part.weight, {x.f32(), packed, nullptr, 0, N, K, y.f32(), cols}, part.first_col);
  }
  if (const auto& list = parts.sparse; list.count > 0) {
    kernels::sparse_linear_fwd(ctx.stream, {x.f32(), packed, list.parts.data(), list.count, N, K, y.f32(), cols});
  }
  for (const DType dtype : {DType::kQ8, DType::kQ4}) {
    const auto& list = dtype == DType::kQ8 ? parts.sparse_q8 : parts.sparse_q4;
    if (list.count == 0) continue;
    kernels::sparse_blocks_fwd(ctx.stream,
                               {x.f32(), packed, list.parts.data(), list.count, dtype, N, K, y.f32(), cols});
  }
}

}  // namespace

// A block of 32 columns of x is 44 bytes to the kernels of q8 and q4: 11 f32, fewer than 32 but for the smallest K.
int64_t packed_count(int64_t N, int64_t K) { return N * std::max<int64_t>(K, 11) + kSparseSlack; }

Tensor linear(Ctx& ctx, const Tensor& x, std::initializer_list<const Weight*> weights) {
  const Parts parts = check_and_list(x, weights, ctx.stream.compute);
  const int64_t N = x.dim(0);
  const Tensor y = ctx.arena.empty({N, parts.cols});
  if (N == 0) return y;
  const bool packs = N > 1 || parts.packs;
  const Tensor packed = packs ? ctx.arena.empty({packed_count(N, x.dim(1))}) : Tensor();
  run(ctx, x, parts, packs ? packed.f32() : nullptr, y);
  return rounded(ctx, y);
}

void linear_into(Ctx& ctx, const Tensor& x, std::initializer_list<const Weight*> weights, const Tensor& y,
                 const Tensor& packed) {
  const Parts parts = check_and_list(x, weights, ctx.stream.compute);
  check_shape("ops::linear", "y", y, {x.dim(0), parts.cols});
  check_dtype("ops::linear", "y", y, DType::kF32);
  if (packed.count() < packed_count(x.dim(0), x.dim(1))) {
    fail(ErrorKind::kShape, "ops::linear: packed holds {} elements, expected {} for x {}", packed.count(),
         packed_count(x.dim(0), x.dim(1)), x.shape().str());
  }
  if (x.dim(0) == 0) return;
  run(ctx, x, parts, packed.f32(), y);
  rounded(ctx, y);
}

Tensor feed_forward(Ctx& ctx, const Tensor& x, const Weight& gate, const Weight& up, const Weight& down,
                    Activation activation) {
  const Compute compute = ctx.stream.compute;
  const Parts units = check_and_list(x, {&gate, &up}, compute);
  if (up.rows() != gate.rows()) {
    fail(ErrorKind::kShape, "ops::feed_forward: up has {} rows, expected those of gate, {}", up.rows(), gate.rows());
  }
  check_weight(2, &down, gate.rows());
  Parts last;
  last.add(down, compute);
  const auto* const unit_list = units.whole(2);
  const auto* const last_list = last.whole(1);
  const int64_t N = x.dim(0), D = x.dim(1), F = gate.rows();
  const bool native = ctx.numerics.activations == DType::kF32 && ctx.numerics.gates == DType::kF32;
  const auto kernel = [&](const Parts::List<LinearPart>* list) { return kernel_of(list->parts[0].dtype, compute); };
  if (N <= kFewRows || !native || unit_list == nullptr || last_list == nullptr ||
      kernel(unit_list) != kernel(last_list)) {
    return linear(ctx, gated_unit(ctx, linear(ctx, x, {&gate, &up}), activation), {&down});
  }
  const Tensor packed = ctx.arena.empty({packed_count(N, D)}), hidden = ctx.arena.empty({packed_count(N, F)});
  const Tensor y = ctx.arena.empty({N, last.cols});
  const LinearFwd next = {nullptr,   hidden.f32(), last_list->parts.data(), 1, N, F, y.f32(),
                          last.cols, nullptr,      Activation::kSilu};
  const LinearFwd first = {x.f32(), packed.f32(), unit_list->parts.data(),       2, N, D, nullptr,
                           0,       &next,        activation_of(ctx, activation)};
  kernel(unit_list)(ctx.stream, first);
  kernel(last_list)(ctx.stream, next);
  return y;
}

}  // namespace carousel::ops
