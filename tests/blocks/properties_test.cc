// SPDX-License-Identifier: Apache-2.0
// What every block owes by being registered: forks, saved states, cuts, batches and threads change no bit; any other
// cut changes rounding only. A new block is tested here without an edit.
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <cstring>
#include <map>

#include "carousel/blocks/block.h"
#include "carousel/core/rng.h"
#include "carousel/cpu/isa.h"
#include "carousel/model/stack.h"
#include "tests/blocks/random_params.h"
#include "tests/slow.h"
#include "tests/targets.h"

namespace carousel {
namespace {

struct Param {
  std::string block;
  Target target;
  DType weights = DType::kF32;
  Compute compute = Compute::kF32;

  /// Whether the results of a row do not depend on how its sequence is cut at multiples of 64. On a GPU that computes
  /// in bf16 the number of rows says which kernels round (docs/numerics.md).
  bool keeps_bits() const { return compute == Compute::kF32; }
  /// How far other cuts may be off. Chunk and step round differently. Before a q8 or q4 weight such a difference can
  /// move a value across the border between two of its 8-bit codes, one step of 1 / 127 of a block's peak. In bf16 the
  /// bounds of docs/numerics.md add up over a stack.
  double rounding() const { return compute == Compute::kBF16 ? 2e-2 : is_block(weights) ? 2e-3 : 2e-5; }
};

struct Sequence {
  Tensor x;  // [T, D], repeated when the sequence grows longer
  State state;
  std::vector<float> y;  // rows so far
};

class Subject {
 public:
  Subject(const Param& param, int threads)
      : pool_(threads),
        stream_{param.target.memory, param.target.isa, &pool_, param.compute},
        arena_(*param.target.memory) {
    const model::ModelConfig config = stack_of(param.block);
    RandomParams source(stream_, param.weights);
    stack_ = std::make_unique<model::Stack>(config, Params(source, ""), "test");
  }

  // The next lengths[s] rows of every sequence, as one ragged batch.
  void run(const std::vector<Sequence*>& sequences, const std::vector<int64_t>& lengths) {
    Seqs seqs;
    seqs.offsets = {0};
    std::vector<State*> states;
    for (size_t s = 0; s < sequences.size(); ++s) {
      seqs.pos.push_back(sequences[s]->state.pos());
      seqs.offsets.push_back(seqs.offsets.back() + lengths[s]);
      states.push_back(&sequences[s]->state);
    }
    Memory& memory = *stream_.memory;
    Tensor x(Shape{seqs.rows(), kWidth}, DType::kF32);
    for (size_t s = 0; s < sequences.size(); ++s) {
      const Tensor& rows = sequences[s]->x;  // read round and round
      for (int64_t i = 0; i < lengths[s]; ++i) {
        const float* row = rows.f32() + (seqs.pos[s] + i) % rows.dim(0) * kWidth;
        std::copy(row, row + kWidth, x.f32() + (seqs.offsets[s] + i) * kWidth);
      }
    }
    Ctx ctx{stream_, arena_};
    StateBatch batch;
    seqs.bring_to(memory);
    batch.bind(layout(), states, lengths, memory);
    const Tensor y = stack_->forward(ctx, x.to(memory), seqs, &batch).to_host();
    batch.advance(lengths);
    for (size_t s = 0; s < sequences.size(); ++s) {
      const float* rows = y.f32() + seqs.offsets[s] * kWidth;
      sequences[s]->y.insert(sequences[s]->y.end(), rows, rows + lengths[s] * kWidth);
    }
  }

  Sequence cut(const Tensor& x, const std::vector<int64_t>& pieces) {
    Sequence sequence{x, {}, {}};
    for (const int64_t piece : pieces) run({&sequence}, {piece});
    return sequence;
  }

  const StateLayout& layout() const { return stack_->state_layout(); }
  /// What the layout states, each block as the memory grants it.
  size_t bytes_at(int64_t pos) const {
    const Memory& memory = *stream_.memory;
    if (!memory.is_apart()) return layout().bytes_at(pos);
    size_t bytes = memory.granted(layout().fixed_bytes());
    for (const StateLayout::Entry& entry : layout().entries()) {
      const size_t page_bytes = static_cast<size_t>(entry.spec.shape.count()) * sizeof(float);
      if (entry.spec.per_token)
        bytes += static_cast<size_t>((pos + kPageRows - 1) / kPageRows) * memory.granted(page_bytes);
    }
    return bytes;
  }
  size_t arena_bytes() const { return arena_.size_bytes(); }

 private:
  ThreadPool pool_;
  Stream stream_;
  Arena arena_;
  std::unique_ptr<model::Stack> stack_;
};

Tensor random_rows(int64_t rows, uint64_t seed) {
  Rng rng(seed);
  Tensor x(Shape{rows, kWidth}, DType::kF32);
  for (int64_t i = 0; i < x.count(); ++i) x.f32()[i] = static_cast<float>(rng.normal());
  return x;
}

bool same_bits(const std::vector<float>& a, const std::vector<float>& b) {
  return a.size() == b.size() && (a.empty() || std::memcmp(a.data(), b.data(), a.size() * sizeof(float)) == 0);
}

bool same_state(const Sequence& a, const Sequence& b, const StateLayout& layout) {
  const NamedTensors left = a.state.tensors(layout);
  const NamedTensors right = b.state.tensors(layout);
  for (size_t i = 0; i < left.size(); ++i) {
    const Tensor& x = left[i].tensor;
    const Tensor& y = right[i].tensor;
    if (!(x.shape() == y.shape()) || std::memcmp(x.raw(), y.raw(), x.size_bytes()) != 0) return false;
  }
  return a.state.pos() == b.state.pos();
}

double relative(const std::vector<float>& got, const std::vector<float>& expected) {
  if (expected.empty()) return 0;
  double error = 0;
  double norm = 0;
  for (size_t i = 0; i < expected.size(); ++i) {
    error += std::pow(static_cast<double>(got[i]) - expected[i], 2);
    norm += std::pow(static_cast<double>(expected[i]), 2);
  }
  return std::sqrt(error / norm);
}

std::vector<int64_t> pieces_of(int64_t total, int64_t piece) {
  std::vector<int64_t> pieces;
  for (int64_t done = 0; done < total; done += piece) pieces.push_back(std::min(piece, total - done));
  return pieces;
}

class BlockProperties : public testing::TestWithParam<Param> {
 protected:
  Subject subject{GetParam(), 2};
};

TEST_P(BlockProperties, CutsAtMultiplesOfTheChunkChangeNoBit) {
  const Tensor x = random_rows(225, 1);
  const Sequence whole = subject.cut(x, {225});
  for (const std::vector<int64_t>& pieces :
       {std::vector<int64_t>{64, 161}, {128, 97}, {64, 64, 64, 33}, {192, 33}, {0, 64, 0, 128, 33, 0}}) {
    const Sequence cut = subject.cut(x, pieces);
    if (!GetParam().keeps_bits()) {
      EXPECT_LE(relative(cut.y, whole.y), GetParam().rounding());
      continue;
    }
    EXPECT_TRUE(same_bits(cut.y, whole.y));
    EXPECT_TRUE(same_state(cut, whole, subject.layout()));
  }
}

TEST_P(BlockProperties, WhereStatesMayBeCutAnywhereNoCutChangesABit) {
  const std::vector<StateLayout::Entry>& entries = subject.layout().entries();
  const auto exact = [](const StateLayout::Entry& entry) { return entry.spec.cut_anywhere; };
  if (GetParam().target.memory->is_apart() || !std::all_of(entries.begin(), entries.end(), exact)) return;
  const Tensor x = random_rows(150, 2);
  const Sequence whole = subject.cut(x, {150});
  for (const int64_t piece : {1, 2, 7, 63, 65, 149}) {
    const Sequence cut = subject.cut(x, pieces_of(150, piece));
    EXPECT_TRUE(same_bits(cut.y, whole.y)) << "pieces of " << piece;
    EXPECT_TRUE(same_state(cut, whole, subject.layout())) << "pieces of " << piece;
  }
}

TEST_P(BlockProperties, AnyOtherCutAgreesToRounding) {
  const Tensor x = random_rows(150, 2);
  const Sequence whole = subject.cut(x, {150});
  for (const int64_t piece : {1, 2, 7, 63, 65}) {
    const Sequence cut = subject.cut(x, pieces_of(150, piece));
    EXPECT_LE(relative(cut.y, whole.y), GetParam().rounding()) << "pieces of " << piece;
  }
}

TEST_P(BlockProperties, ForkEqualsColdAndLeavesTheParentAlone) {
  const Tensor common = random_rows(170, 3);
  Tensor other = common.clone();
  for (int64_t i = 100 * kWidth; i < other.count(); ++i) other.f32()[i] = -other.f32()[i];

  Sequence parent = subject.cut(common, {100});
  Sequence fork = parent;  // the fork: a copy of the value
  fork.x = other;
  const Sequence untouched = parent;
  subject.run({&fork}, {1});
  subject.run({&fork}, {69});
  EXPECT_TRUE(same_state(parent, untouched, subject.layout()));
  subject.run({&parent}, {70});

  const Sequence cold_fork = subject.cut(other, {100, 1, 69});
  const Sequence cold_parent = subject.cut(common, {100, 70});
  EXPECT_TRUE(same_bits(fork.y, cold_fork.y));
  EXPECT_TRUE(same_state(fork, cold_fork, subject.layout()));
  EXPECT_TRUE(same_bits(parent.y, cold_parent.y));
  EXPECT_TRUE(same_state(parent, cold_parent, subject.layout()));
}

TEST_P(BlockProperties, RewindingToASnapshotRepeatsTheBits) {
  const Tensor x = random_rows(140, 4);
  Sequence sequence = subject.cut(x, {70});
  const State snapshot = sequence.state;
  subject.run({&sequence}, {70});
  const std::vector<float> first(sequence.y.end() - 70 * kWidth, sequence.y.end());
  sequence.state = snapshot;
  subject.run({&sequence}, {70});
  const std::vector<float> second(sequence.y.end() - 70 * kWidth, sequence.y.end());
  EXPECT_TRUE(same_bits(first, second));
}

TEST_P(BlockProperties, SavedAndLoadedEqualsKept) {
  const Tensor x = random_rows(140, 5);
  Sequence kept = subject.cut(x, {77});
  Sequence loaded = kept;
  loaded.state = State::from(kept.state.tensors(subject.layout()), kept.state.pos(), subject.layout());
  subject.run({&kept}, {63});
  subject.run({&loaded}, {63});
  EXPECT_TRUE(same_bits(kept.y, loaded.y));
  EXPECT_TRUE(same_state(kept, loaded, subject.layout()));
}

// On a GPU products sum in another order where there are few rows (docs/numerics.md).
TEST_P(BlockProperties, ASequenceAloneEqualsBatchedInAnyOrder) {
  const bool to_the_bit = GetParam().target.on_host();
  const std::vector<int64_t> first{0, 1, 5, 64, 70, 130};
  const std::vector<int64_t> second{3, 1, 66, 1, 0, 20};
  std::vector<Sequence> alone;
  for (size_t s = 0; s < first.size(); ++s) {
    alone.push_back(subject.cut(random_rows(first[s] + second[s], 50 + s), {first[s], second[s]}));
  }
  std::vector<size_t> order{0, 1, 2, 3, 4, 5};
  for (int round = 0; round < 4; ++round) {
    std::vector<Sequence> batched;
    for (size_t s = 0; s < first.size(); ++s) batched.push_back({random_rows(first[s] + second[s], 50 + s), {}, {}});
    for (const std::vector<int64_t>* lengths : {&first, &second}) {
      std::vector<Sequence*> batch;
      std::vector<int64_t> rows;
      for (const size_t s : order) {
        batch.push_back(&batched[s]);
        rows.push_back((*lengths)[s]);
      }
      subject.run(batch, rows);
      std::next_permutation(order.begin(), order.end());
    }
    std::rotate(order.begin(), order.begin() + 1 + round, order.end());
    for (size_t s = 0; s < first.size(); ++s) {
      if (!to_the_bit) {
        EXPECT_LE(relative(batched[s].y, alone[s].y), GetParam().rounding()) << "sequence " << s << ", round " << round;
        continue;
      }
      EXPECT_TRUE(same_bits(batched[s].y, alone[s].y)) << "sequence " << s << ", round " << round;
      EXPECT_TRUE(same_state(batched[s], alone[s], subject.layout())) << "sequence " << s;
    }
  }
}

TEST_P(BlockProperties, ThreadsChangeNoBit) {
  const Tensor x = random_rows(140, 6);
  const Sequence two = subject.cut(x, {131, 1, 8});
  for (const int threads : {1, 3, 4}) {
    Subject other(GetParam(), threads);
    const Sequence sequence = other.cut(x, {131, 1, 8});
    EXPECT_TRUE(same_bits(sequence.y, two.y)) << threads << " threads";
    EXPECT_TRUE(same_state(sequence, two, subject.layout()));
  }
}

TEST_P(BlockProperties, NoRowsAndNoSequencesAreFine) {
  Sequence empty{random_rows(0, 7), {}, {}};
  subject.run({&empty}, {0});
  subject.run({}, {});
  EXPECT_EQ(empty.state.pos(), 0);
  EXPECT_TRUE(empty.y.empty());
}

// A stream is as large as its layout says at every length: constant where nothing is kept per token. Keys and values
// make the cost of a row grow, so such blocks run a shorter one; so do all where each would take minutes.
TEST_P(BlockProperties, ALongStreamStaysFiniteAndInTheMemoryItsLayoutStates) {
  const bool recurrent = subject.layout().page_bytes() == 0;
  const int64_t total = recurrent && !kEmulated ? 200000 : 4096;
  const Tensor x = random_rows(512, 8);
  State state;
  size_t arena_bytes = 0;
  for (int64_t done = 0; done < total; done += 512) {
    Sequence slab{x, std::move(state), {}};
    subject.run({&slab}, {512});
    state = std::move(slab.state);
    if (done == 512) arena_bytes = subject.arena_bytes();
    ASSERT_EQ(state.bytes(), subject.bytes_at(state.pos()));
    ASSERT_TRUE(std::all_of(slab.y.begin(), slab.y.end(), [](float v) { return std::isfinite(v); })) << "at " << done;
  }
  EXPECT_GE(state.pos(), total);
  EXPECT_EQ(subject.arena_bytes(), arena_bytes);
  if (recurrent) {
    EXPECT_EQ(subject.layout().bytes_at(state.pos()), subject.layout().bytes_at(1));
  }
}

std::vector<Param> subjects() {
  std::vector<Param> out;
  for (const Target& target : targets()) {
    for (const DType weights : {DType::kF32, DType::kBF16, DType::kQ8, DType::kQ4}) {
      if (target.on_host() && weights == DType::kBF16) continue;  // widened, it is f32
      const Compute compute = weights == DType::kBF16 ? Compute::kBF16 : Compute::kF32;
      for (const blocks::Entry& entry : blocks::registry()) out.push_back({entry.name, target, weights, compute});
      out.push_back({"all", target, weights, compute});
      if (!target.on_host()) continue;  // masks are not there
      for (const char* stack : {"all_wired", "mlstm_wired"}) out.push_back({stack, target, weights});
    }
  }
  return out;
}

INSTANTIATE_TEST_SUITE_P(Registry, BlockProperties, testing::ValuesIn(subjects()), [](const auto& named) {
  const DType dtype = named.param.weights;
  const std::string weights = dtype == DType::kF32 ? "" : "_" + std::string(dtype_name(dtype));
  return named.param.block + "_" + named.param.target.name() + weights;
});

TEST(Registry, UnknownBlockListsTheKnownOnes) {
  try {
    blocks::find_block("gru", "config.json");
    FAIL();
  } catch (const std::exception& error) {
    std::string known;
    for (const blocks::Entry& entry : blocks::registry())
      known += (known.empty() ? "" : ", ") + std::string(entry.name);
    EXPECT_EQ(error.what(), "config.json: unknown block \"gru\"; known blocks: " + known);
  }
}

}  // namespace
}  // namespace carousel
