// SPDX-License-Identifier: Apache-2.0
// The products of ops::linear and ops::feed_forward on the CPU: which kernel multiplies which weight. Weights that one
// kernel takes go to it in one call, which streams them as one.
#include <algorithm>
#include <array>

#include "carousel/cpu/workspace.h"
#include "carousel/ops/gate/gate_cpu.h"
#include "carousel/ops/linear/linear_cpu.h"
#include "carousel/ops/linear/sparse_linear_cpu.h"

namespace carousel::cpu {
namespace {

using ops::FeedForwardArgs;
using ops::LinearArgs;
using ops::LinearFwd;
using ops::LinearPart;
using ops::packed_count;

// Panels made at a time of mapped rows: they stay in the last-level cache until they are multiplied.
constexpr int64_t kPieceBytes = int64_t{8} << 20;

const float* bias_of(const Weight& weight) { return weight.bias.defined() ? weight.bias.f32() : nullptr; }

using Kernel = void (*)(const Stream&, const LinearFwd&);

Kernel panel_kernel(DType dtype, Compute compute) {
  if (is_simple_block(dtype)) return kernels::linear_quant_fwd;
  if (is_block(dtype)) return kernels::linear_blocks_fwd;
  return compute == Compute::kBF16 && dtype == DType::kBF16 ? kernels::linear_bf16_fwd : kernels::linear_fwd;
}

int64_t panel_bytes(const Weight& weight) {
  return static_cast<int64_t>(DensePanels::panel_bytes(weight.cols(), weight.dtype()));
}
int64_t piece_panels(const Stream& stream, const Weight& weight) {
  const int64_t panels = (weight.rows() + Weight::kPanelRows - 1) / Weight::kPanelRows;
  return std::min(panels, std::max<int64_t>(4 * stream.threads(), kPieceBytes / panel_bytes(weight)));
}

/// The parts of a call that one kernel takes.
template <class Part>
struct List {
  std::array<Part, ops::kMaxParts> parts;
  int64_t count = 0;
  void add(const Part& part) { parts[static_cast<size_t>(count++)] = part; }
};

struct MappedPart {
  const Weight* weight;
  int64_t first_col;  // of y
};

/// The parts of one call by the kernel that takes them.
class Products {
 public:
  explicit Products(Compute compute) : compute_(compute) {}

  void add(const Weight& weight) {
    std::visit([&](const auto& form) { add_form(weight, form); }, weight.form());
    cols_ += weight.rows();
  }

  /// The list that has all `count` parts of the call; null if there is none.
  const List<LinearPart>* whole(int64_t count) const {
    for (const List<LinearPart>& list : panels_) {
      if (list.count == count) return &list;
    }
    return nullptr;
  }
  Kernel kernel_of(const List<LinearPart>& list) const { return panel_kernel(list.parts[0].dtype, compute_); }

  void run(const Stream& stream, const LinearArgs& args, float* packed, void* piece) const {
    const LinearFwd call = {args.x.f32(), packed, nullptr, 0, args.N, args.K, args.y.f32(), args.y.stride};
    for (const List<LinearPart>& list : panels_) {
      if (list.count > 0) run_panels(stream, call, list);
    }
    for (int64_t i = 0; i < mapped_.count; ++i) run_mapped(stream, call, mapped_.parts[static_cast<size_t>(i)], piece);
    if (sparse_.count > 0) {
      kernels::sparse_linear_fwd(
          stream, {call.x, packed, sparse_.parts.data(), sparse_.count, call.N, call.K, call.y, call.y_stride});
    }
    for (const auto& [list, dtype] : {std::pair(&sparse_q8_, DType::kQ8), std::pair(&sparse_q4_, DType::kQ4)}) {
      if (list->count == 0) continue;
      kernels::sparse_blocks_fwd(
          stream, {call.x, packed, list->parts.data(), list->count, dtype, call.N, call.K, call.y, call.y_stride});
    }
  }

 private:
  void add_form(const Weight& weight, const DensePanels& form) {
    const DType dtype = form.dtype();
    const bool rounds = dtype == DType::kBF16 && compute_ == Compute::kBF16;
    const size_t index = is_block(dtype) ? kFirstBlock + static_cast<size_t>(dtype) - static_cast<size_t>(DType::kQ8)
                         : rounds        ? kRounds
                                         : kFloats;
    List<LinearPart>& list = panels_.at(index);
    list.add({form.panels().raw(), bias_of(weight), weight.rows(), cols_, dtype});
  }
  void add_form(const Weight& weight, const MappedRows&) { mapped_.add({&weight, cols_}); }
  void add_form(const Weight& weight, const SparsePanels& form) {
    sparse_.add({form.steps(), form.first_steps(), form.counts(), form.dtype(), form.wide(), bias_of(weight),
                 weight.rows(), cols_});
  }
  void add_form(const Weight& weight, const SparseBlocks& form) {
    (form.dtype() == DType::kQ8 ? sparse_q8_ : sparse_q4_)
        .add({form.bytes(), form.first_bytes(), bias_of(weight), weight.rows(), cols_});
  }
  template <class Other>  // an op refuses what has no product
  void add_form(const Weight&, const Other&) {
    CAROUSEL_ASSERT(false);
  }

  void run_panels(const Stream& stream, LinearFwd call, const List<LinearPart>& list) const {
    call.parts = list.parts.data();
    call.part_count = list.count;
    kernel_of(list)(stream, call);
  }

  /// Some panels of a mapped weight are packed, multiplied and forgotten, then the next.
  void run_mapped(const Stream& stream, LinearFwd call, const MappedPart& mapped, void* piece) const {
    const Weight& weight = *mapped.weight;
    const int64_t piece_rows = piece_panels(stream, weight) * Weight::kPanelRows;
    LinearPart part = {piece, nullptr, 0, 0, weight.dtype()};
    call.parts = &part;
    call.part_count = 1;
    const float* const bias = bias_of(weight);
    for (int64_t first = 0; first < weight.rows(); first += piece_rows) {
      part.rows = std::min(piece_rows, weight.rows() - first);
      part.first_col = mapped.first_col + first;
      part.bias = bias != nullptr ? bias + first : nullptr;
      weight.as<MappedRows>()->pack_panels(stream, first, part.rows, piece);
      panel_kernel(weight.dtype(), compute_)(stream, call);
    }
  }

  Compute compute_;
  // Panels of floats, of bf16 that x is rounded to, and of each block type.
  enum : size_t { kFloats, kRounds, kFirstBlock };
  std::array<List<LinearPart>, kFirstBlock + kBlockTypes> panels_;
  List<MappedPart> mapped_;
  List<ops::SparsePart> sparse_;
  List<ops::SparseBlocksPart> sparse_q8_, sparse_q4_;
  int64_t cols_ = 0;  // of y so far
};

struct LinearScratch {
  LinearScratch(const Stream& stream, const LinearArgs& args, Workspace workspace) {
    bool packs = args.N > 1;  // kernels want x in an order of their own
    int64_t piece_bytes = 0;  // panels that mapped rows are packed into, some at a time
    for (int64_t i = 0; i < args.count; ++i) {
      const Weight& weight = *args.weights[i];
      packs = packs || is_block(weight.dtype()) || (stream.compute == Compute::kBF16 && weight.dtype() == DType::kBF16);
      if (weight.as<MappedRows>() != nullptr) {
        piece_bytes = std::max(piece_bytes, piece_panels(stream, weight) * panel_bytes(weight));
      }
    }
    if (packs) packed = workspace.take<float>(packed_count(args.N, args.K));
    piece = workspace.take<char>(piece_bytes);
    bytes = workspace.bytes();
  }
  float* packed = nullptr;
  void* piece = nullptr;
  int64_t bytes = 0;
};

/// How a feed-forward network is computed. Where one kernel takes all three weights and there are many rows, the units
/// go from the sums of gate and up to `hidden` as the product with down reads them; else as its three steps.
class FeedForward {
 public:
  FeedForward(const Stream& stream, const FeedForwardArgs& args)
      : args_(args), weights_{args.gate, args.up}, units_(stream.compute), last_(stream.compute) {
    F_ = args.gate->rows();
    if (args.N <= ops::kFewRows) return;
    for (const Weight* weight : weights_) units_.add(*weight);
    last_.add(*args.down);
    const auto *const unit_list = units_.whole(2), *const last_list = last_.whole(1);
    joins_ =
        unit_list != nullptr && last_list != nullptr && units_.kernel_of(*unit_list) == last_.kernel_of(*last_list);
  }

  int64_t workspace(const Stream& stream) const { return joins_ ? joint({}).bytes : steps(stream, {}).bytes; }

  void run(const Stream& stream) const {
    if (joins_) {
      run_joint(stream);
    } else {
      run_steps(stream);
    }
  }

 private:
  struct Joint {
    float *packed, *hidden;  // x and the units in the kernel's order
    int64_t bytes;
  };
  Joint joint(Workspace workspace) const {
    Joint scratch;
    scratch.packed = workspace.take<float>(packed_count(args_.N, args_.D));
    scratch.hidden = workspace.take<float>(packed_count(args_.N, F_));
    scratch.bytes = workspace.bytes();
    return scratch;
  }
  void run_joint(const Stream& stream) const {
    const Joint scratch = joint(Workspace(args_.workspace));
    const auto &units = *units_.whole(2), &last = *last_.whole(1);
    const LinearFwd next = {nullptr, scratch.hidden, last.parts.data(), 1, args_.N, F_, args_.y.f32(), args_.y.stride};
    LinearFwd first = {args_.x.f32(), scratch.packed, units.parts.data(), 2, args_.N, args_.D, nullptr, 0};
    first.next = &next;
    first.activation = args_.activation;
    units_.kernel_of(units)(stream, first);
    last_.kernel_of(last)(stream, next);
  }

  struct Steps {
    float *gate_up, *hidden;  // [N, 2F], [N, F]
    char* product;            // scratch of either product
    int64_t bytes;
  };
  LinearArgs first_step(const Steps& scratch) const {
    return {args_.x, weights_.data(), 2, args_.N, args_.D, {scratch.gate_up, 2 * F_}, scratch.product};
  }
  LinearArgs last_step(const Steps& scratch) const {
    return {{scratch.hidden, F_}, &args_.down, 1, args_.N, F_, args_.y, scratch.product};
  }
  Steps steps(const Stream& stream, Workspace workspace) const {
    Steps scratch;
    scratch.gate_up = workspace.take<float>(args_.N * 2 * F_);
    scratch.hidden = workspace.take<float>(args_.N * F_);
    scratch.product = nullptr;
    scratch.product = workspace.take<char>(
        std::max(linear_workspace(stream, first_step(scratch)), linear_workspace(stream, last_step(scratch))));
    scratch.bytes = workspace.bytes();
    return scratch;
  }
  void run_steps(const Stream& stream) const {
    const Steps scratch = steps(stream, Workspace(args_.workspace));
    linear(stream, first_step(scratch));
    kernels::gated_unit(stream, {{scratch.gate_up, 2 * F_}, {scratch.hidden, F_}, args_.N, F_, args_.activation});
    linear(stream, last_step(scratch));
  }

  const FeedForwardArgs& args_;
  std::array<const Weight*, 2> weights_;
  Products units_, last_;
  bool joins_ = false;
  int64_t F_ = 0;
};

}  // namespace

int64_t linear_workspace(const Stream& stream, const LinearArgs& args) { return LinearScratch(stream, args, {}).bytes; }

void linear(const Stream& stream, const LinearArgs& args) {
  const LinearScratch scratch(stream, args, Workspace(args.workspace));
  Products products(stream.compute);
  for (int64_t i = 0; i < args.count; ++i) products.add(*args.weights[i]);
  products.run(stream, args, scratch.packed, scratch.piece);
}

int64_t feed_forward_workspace(const Stream& stream, const FeedForwardArgs& args) {
  return FeedForward(stream, args).workspace(stream);
}

void feed_forward(const Stream& stream, const FeedForwardArgs& args) { FeedForward(stream, args).run(stream); }

}  // namespace carousel::cpu
