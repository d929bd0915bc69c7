// SPDX-License-Identifier: Apache-2.0
// The tape and the bookkeeping of gradients: who has one, which columns of it are written, who shares it.
#include "carousel/ops/tape.h"

#include <algorithm>

#include "carousel/core/error.h"
#include "carousel/ops/tape_cpu.h"

namespace carousel {
namespace {

/// Whether every op has a gradient under these numerics. How the cells of ltc are solved is part of their backward
/// (ops/cells/ltc.cc), and draws are of no op.
bool has_gradients(const Numerics& numerics) {
  const Numerics& native = Numerics::native();
  if (&numerics == &native) return true;
  Numerics known = native;
  known.name = numerics.name;
  known.description = numerics.description;
  known.ltc = numerics.ltc;
  known.init = numerics.init;
  return numerics == known;
}

/// Whether two tensors are views of one storage: then a copy of one is an owner of the other's.
bool share(const Tensor& a, const Tensor& b) {
  const long before = b.owners();
  const Tensor copy = a;
  return b.owners() > before;
}

/// A tensor as a matrix: all but the last dimension are rows.
Tensor as_matrix(const Tensor& tensor) {
  const int64_t width = tensor.dim(-1);
  return tensor.reshape(Shape{width > 0 ? tensor.count() / width : 0, width});
}

}  // namespace

void Trained::add(const Tensor& master, float* gradient, float* table_gradient) {
  CAROUSEL_ASSERT(master.dtype() == DType::kF32);
  if (master.device() == Device::kMeta) {
    CAROUSEL_ASSERT(master.owners() > 0);
    on_meta_.push_back(master);
    return;
  }
  CAROUSEL_ASSERT(master.raw() != nullptr && gradient != nullptr);
  places_[master.raw()] = {gradient, table_gradient != nullptr ? table_gradient : gradient};
}

Trained::Places Trained::find(const Tensor& master) const {
  static float place;  // no kernel runs on meta
  if (master.device() == Device::kMeta) {
    const bool any =
        std::any_of(on_meta_.begin(), on_meta_.end(), [&](const Tensor& one) { return share(one, master); });
    return any ? Places{&place, &place} : Places{nullptr, nullptr};
  }
  const auto found = master.raw() != nullptr ? places_.find(master.raw()) : places_.end();
  return found != places_.end() ? found->second : Places{nullptr, nullptr};
}

float* Trained::gradient(const Tensor& master) const { return find(master).gradient; }
float* Trained::table_gradient(const Tensor& master) const { return find(master).table_gradient; }

void Ctx::without_backward(const char* op) const {
  if (tape != nullptr) fail(ErrorKind::kUsage, "{}: got a tape, and there is no gradient of this op yet", op);
}

void Tape::watch(const Tensor& activation) {
  CAROUSEL_ASSERT(activation.id() != 0);
  needed_[activation.id()] = activation.shape();
}

bool Tape::needs(const Tensor& tensor) const {
  if (!tensor.defined()) return false;
  return tensor.id() != 0 ? needed_.contains(tensor.id()) : trained_.gradient(tensor) != nullptr;
}

void Tape::record(const Ctx& ctx, const char* op, std::initializer_list<Tensor> inputs,
                  std::initializer_list<Tensor> outputs, Backward backward, const LayerStates& states) {
  if (std::none_of(inputs.begin(), inputs.end(), [&](const Tensor& input) { return needs(input); })) return;
  record_needed(ctx, op, outputs, std::move(backward), states);
}

void Tape::record_needed(const Ctx& ctx, const char* op, std::initializer_list<Tensor> outputs, Backward backward,
                         const LayerStates& states) {
  if (!has_gradients(ctx.numerics)) {
    fail(ErrorKind::kUsage, "{}: got a profile of numerics under a tape, expected native numbers", op);
  }
  Node node{{}, states, std::move(backward)};
  for (const Tensor& output : outputs) {
    CAROUSEL_ASSERT(output.id() != 0 && !needed_.contains(output.id()));  // no master, no view of an input
    needed_[output.id()] = output.shape();
    node.outputs.push_back({output.id(), output.shape()});
  }
  nodes_.push_back(std::move(node));
}

void Tape::backward(Ctx& ctx, Grads& grads) {
  CAROUSEL_ASSERT(&grads.tape_ == this && ctx.tape == nullptr);
  while (!nodes_.empty()) {
    const Node node = std::move(nodes_.back());
    nodes_.pop_back();
    std::vector<Tensor> d;
    bool any = false;
    for (const Output& output : node.outputs) {
      d.push_back(grads.take(ctx, output.id));
      any = any || d.back().defined();
    }
    if (!any && !grads.states(node.states).empty()) {
      for (size_t i = 0; i < d.size(); ++i) d[i] = ctx.arena.zeros(node.outputs[i].shape);
      any = true;
    }
    if (any) node.backward(ctx, d, grads);
    grads.add_pending(ctx);
    for (const Output& output : node.outputs) needed_.erase(output.id);
  }
}

Columns Grads::write(Ctx& ctx, const Columns& input) {
  const uint64_t id = input.of.id();
  const auto found = tape_.needed_.find(id);
  CAROUSEL_ASSERT(found != tape_.needed_.end() && found->second == input.of.shape());  // wanted, and no view of rows
  Entry& entry = entries_[id];
  if (!entry.d.defined()) {
    entry.d = ctx.arena.empty(input.of.shape());
    entry.unwritten = {{0, input.of.dim(-1)}};
  }
  if (!entry.shared && take_unwritten(entry, input.first, input.count)) {
    return columns(as_matrix(entry.d), input.first, input.count);
  }
  pending_.push_back({id, input.first, ctx.arena.empty({as_matrix(input.of).dim(0), input.count})});
  return columns(pending_.back().d);
}

void Grads::give(Ctx& ctx, const Tensor& input, const Tensor& d) {
  CAROUSEL_ASSERT(tape_.needs(input) && input.id() != 0 && d.shape() == input.shape());
  Entry& entry = entries_[input.id()];
  if (!entry.d.defined()) {
    entry = {d, true, {}};
    return;
  }
  pending_.push_back({input.id(), 0, as_matrix(d)});
  add_pending(ctx);
}

/// Removes columns first to first + count from those that nobody wrote, if all of them are there.
bool Grads::take_unwritten(Entry& entry, int64_t first, int64_t count) {
  for (size_t i = 0; i < entry.unwritten.size(); ++i) {
    const auto [begin, end] = entry.unwritten[i];
    if (first < begin || first + count > end) continue;
    entry.unwritten.erase(entry.unwritten.begin() + static_cast<std::ptrdiff_t>(i));
    const auto at = entry.unwritten.begin() + static_cast<std::ptrdiff_t>(i);
    if (first + count < end) entry.unwritten.insert(at, {first + count, end});
    if (begin < first) entry.unwritten.insert(entry.unwritten.begin() + static_cast<std::ptrdiff_t>(i), {begin, first});
    return true;
  }
  return false;
}

void Grads::zero_unwritten(Ctx& ctx, Entry& entry) {
  const Tensor matrix = as_matrix(entry.d);
  for (const auto& [begin, end] : entry.unwritten) {
    kernels::fill_zero(ctx.stream, {{}, view(columns(matrix, begin, end - begin)), matrix.dim(0), end - begin});
  }
  entry.unwritten.clear();
}

Grads::Entry& Grads::writable(Ctx& ctx, uint64_t id) {
  Entry& entry = entries_.at(id);
  if (entry.shared) {
    const Tensor own = ctx.arena.empty(entry.d.shape());
    Memory::copy(entry.d.memory(), static_cast<const std::byte*>(entry.d.raw()), own.memory(),
                 static_cast<std::byte*>(own.raw()), own.size_bytes());
    entry = {own, false, {}};
  }
  zero_unwritten(ctx, entry);
  return entry;
}

void Grads::add_pending(Ctx& ctx) {
  for (const Pending& pending : pending_) {
    const Tensor matrix = as_matrix(writable(ctx, pending.id).d);
    const int64_t rows = matrix.dim(0), width = pending.d.dim(1);
    kernels::add_to(ctx.stream, {view(pending.d), view(columns(matrix, pending.first, width)), rows, width});
  }
  pending_.clear();
}

LayerStates Grads::states(const LayerStates& forward) const {
  return d_states_ == nullptr || forward.empty() ? LayerStates() : d_states_->layer(forward.first_entry());
}

Tensor Grads::take(Ctx& ctx, const Tensor& activation) { return take(ctx, activation.id()); }

Tensor Grads::take(Ctx& ctx, uint64_t id) {
  const auto found = entries_.find(id);
  if (found == entries_.end()) return {};
  zero_unwritten(ctx, found->second);
  const Tensor d = found->second.d;
  entries_.erase(found);
  return d;
}

Tensor keep_state(Ctx& ctx, const Seqs& seqs, const LayerStates& states, size_t spec, int64_t count) {
  if (states.empty()) return {};
  const Tensor kept = ctx.arena.empty({seqs.batch(), count});
  kernels::copy_states(ctx.stream, {states.fixed(spec), view(kept), seqs.batch(), count});
  return kept;
}

void restore_state(Ctx& ctx, const Tensor& kept, const LayerStates& states, size_t spec) {
  kernels::write_states(ctx.stream, {view(kept), states.fixed(spec), kept.dim(0), kept.dim(1)});
}

}  // namespace carousel
