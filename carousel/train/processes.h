// SPDX-License-Identifier: Apache-2.0
// The processes that train one model together: each has all parameters and takes a span of the rows of every step.
// Gradients are summed into shards, one of each process, which also holds the optimiser's moments of its shard alone
// (ZeRO-1, arXiv:1910.02054). mpi/ has the processes that a launcher started.
#pragma once

#include <cstdint>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include "carousel/core/tensor.h"

namespace carousel::train {

/// How a flat array is cut: shard r is elements cuts[r] to cuts[r + 1]. Cuts are multiples of kCutElements.
using Cuts = std::vector<int64_t>;
constexpr int64_t kCutElements = 16;

/// Cuts of `count` elements into `size` shards, as even as they can be where none lies within one of `wholes`, ranges
/// [first, end) that rise. `count` and the borders of the ranges are multiples of kCutElements.
Cuts cut_evenly(int64_t count, int size, std::span<const std::pair<int64_t, int64_t>> wholes);

/// This class is a process that is alone; others derive from it. A member marked "meeting" is called by all processes
/// in the same order. Not for use by two threads.
class Processes {
 public:
  /// One that is alone.
  static Processes& alone();
  virtual ~Processes() = default;
  /// This process's number, from 0 on. Rank 0 writes files and speaks to the user.
  virtual int rank() const { return 0; }
  virtual int size() const { return 1; }
  /// How many of the processes may run on this one's cores, itself among them.
  virtual int sharing_cores() const { return 1; }

  /// Meeting. values [cuts.back()] f32 or longer: this process's shard becomes the sum over the processes, added in the
  /// order of ranks. The other shards keep what they hold.
  virtual void sum_shards(const Tensor& /*values*/, const Cuts& /*cuts*/) {}
  /// Meeting. values as above: every process gets each shard from the process it belongs to.
  virtual void spread_shards(const Tensor& /*values*/, const Cuts& /*cuts*/) {}
  /// Meeting. Rank 0 gets the array [cuts.back()] of all shards, others an undefined tensor.
  virtual Tensor collect_shards(const Tensor& shard, const Cuts& /*cuts*/) { return shard; }
  /// Meeting. Each value becomes the sum over the processes, added in the order of ranks.
  virtual void sum(std::span<double> /*values*/) {}
  /// Meeting. Rank 0 gets the bytes of each process in the order of ranks, others nothing.
  virtual std::vector<std::string> collect(const std::string& bytes) { return {bytes}; }
  /// Meeting. Every process gets the bytes of rank 0.
  virtual std::string from_first(const std::string& bytes) { return bytes; }
  /// Meeting. Returns once all processes have come. Those that wait long leave the cores to the others.
  virtual void wait() {}

  /// For a process that has failed: waits until all have, or until another waits for this one in a meeting (or has come
  /// to none for half a minute). Whether all have; if not, end_all() is to be called. Of several that fail, but not all
  /// do, one returns and the others wait to be ended.
  virtual bool fails_with_all() { return true; }
  /// Ends all processes, from outside of meetings.
  virtual void end_all(int /*status*/) {}

  /// Meeting. Whether `value` is true in any process.
  bool any(bool value);
  /// This process's part of `count` things: [first, end), in the order of ranks and as even as they can be.
  std::pair<int64_t, int64_t> span_of(int64_t count) const;
};

}  // namespace carousel::train
