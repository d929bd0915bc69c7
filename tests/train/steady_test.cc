// SPDX-License-Identifier: Apache-2.0
// The steady state of training: from the third step of one shape on no block of memory for tensors is asked for, and no
// more memory is held. Carried states are new blocks in every step, for which as many bytes are released.
#include <gtest/gtest.h>
#include <malloc.h>

#include "carousel/core/rng.h"
#include "carousel/train/trainer.h"
#include "tests/cli/tiny_model.h"
#include "tests/like_host.h"
#include "tests/slow.h"

namespace carousel::train {
namespace {

constexpr int64_t kVocab = 256, kSeq = 48;
constexpr int kSteps = 100;
constexpr size_t kSlackBytes = 32 << 10;  // freed blocks that malloc keeps for its threads count as given out

/// The host's memory, which counts.
class CountedHost final : public LikeHost {
 public:
  std::byte* allocate(size_t size_bytes) override {
    ++calls;
    held_bytes += size_bytes;
    return LikeHost::allocate(size_bytes);
  }
  void release(std::byte* bytes, size_t size_bytes) noexcept override {
    held_bytes -= size_bytes;
    LikeHost::release(bytes, size_bytes);
  }

  int64_t calls = 0;
  size_t held_bytes = 0;
};

/// Rows of random tokens that are each cut into the same three documents.
class CutRows : public Batches {
 public:
  int64_t rows() const override { return 64; }
  int64_t lanes() const override { return 4; }
  Batch take(int64_t first, int64_t count) override {
    Batch batch;
    Rng rng(1, static_cast<uint64_t>(first));
    for (int64_t row = 0; row < count; ++row) {
      const auto sequence = static_cast<int64_t>(batch.lengths.size());
      batch.rows.push_back({.first = sequence, .end = sequence + 3, .lane = (first + row) % 4, .number = first + row});
      batch.rows.back().continues = first + row >= 4;
      batch.rows.back().goes_on = true;
      for (const int64_t length : {int64_t{20}, int64_t{5}, kSeq - 25}) batch.lengths.push_back(length);
    }
    for (int64_t n = 0; n < count * kSeq; ++n) {
      batch.tokens.push_back(static_cast<int32_t>(rng.bits() % kVocab));
      batch.targets.push_back(static_cast<int32_t>(rng.bits() % kVocab));
    }
    return batch;
  }
  std::string describe(int64_t, int64_t) override { return "random tokens"; }
};

/// Bytes that malloc has given out, those of its own mappings included.
size_t malloc_bytes() {
  const struct mallinfo2 now = mallinfo2();
  return now.uordblks + now.hblkhd;
}

struct Variant {
  const char* name;
  const char* config;
  bool recompute, carry_state;
  int64_t micro_batch;
  OptimiserOptions::Method method;
};

class Steady : public testing::TestWithParam<Variant> {};

TEST_P(Steady, HoldsNoMoreFromTheThirdStepOn) {
  const Variant& variant = GetParam();
  const Scratch scratch;
  cli::write_file(scratch / "config.json", variant.config);
  CountedHost memory;  // outlives what lies in it
  ThreadPool pool(2);
  const Stream stream{&memory, cpu::best_isa(), &pool};
  model::TrainedModel trained = model::load_trained(scratch / "config.json", stream, 3);
  CutRows data;
  Recipe recipe;
  recipe.schedule.steps = kSteps;
  recipe.batch = BatchRamp(4);
  recipe.micro_batch = variant.micro_batch;
  recipe.recompute = variant.recompute;
  recipe.carry_state = variant.carry_state;
  recipe.dropout = 0.1f;
  recipe.optimiser.method = variant.method;
  Trainer trainer(trained, stream, data, recipe);
  for (int i = 0; i < 2; ++i) trainer.step();
  const int64_t calls = memory.calls;
  const size_t held = memory.held_bytes, arena = trainer.arena().size_bytes(), heap = malloc_bytes();
  while (!trainer.done()) {
    trainer.step();
    EXPECT_TRUE(variant.carry_state || memory.calls == calls) << trainer.optimiser().steps();
    EXPECT_EQ(memory.held_bytes, held) << trainer.optimiser().steps();
    EXPECT_EQ(trainer.arena().size_bytes(), arena);
  }
  if (!kSanitized) {
    EXPECT_LE(malloc_bytes(), heap + kSlackBytes);
  }
}

constexpr auto kAdamW = OptimiserOptions::Method::kAdamW;
INSTANTIATE_TEST_SUITE_P(Tiny, Steady,
                         testing::Values(Variant{"xlstm", cli::kTinyXlstm, false, false, 0, kAdamW},
                                         Variant{"lfm2_recomputed", cli::kTinyLfm2, true, false, 0, kAdamW},
                                         Variant{"llama_micro_batches", cli::kTinyLlama, false, false, 1, kAdamW},
                                         Variant{"mixed_muon", cli::kTinyMixed, false, false, 3,
                                                 OptimiserOptions::Method::kMuon},
                                         Variant{"mixed_carried", cli::kTinyMixed, false, true, 0, kAdamW}),
                         [](const auto& named) { return named.param.name; });

}  // namespace
}  // namespace carousel::train
