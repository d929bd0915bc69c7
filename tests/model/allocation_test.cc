// SPDX-License-Identifier: Apache-2.0
// A steady decode loop allocates nothing: counted at operator new, model and logits included.
#include <gtest/gtest.h>

#include <atomic>
#include <cstdlib>
#include <new>

#include "carousel/cpu/isa.h"
#include "carousel/model/families/family.h"
#include "carousel/model/params.h"
#include "carousel/model/runner.h"

namespace {

std::atomic<int64_t> allocations{0};

}  // namespace

// Sanitizers bring their own allocator; the plain build is the one that counts.
#if defined(__has_feature)  // clang's way of telling
#if __has_feature(address_sanitizer) || __has_feature(thread_sanitizer)
#define CAROUSEL_COUNTS_NOTHING
#endif
#endif
#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)  // g++'s
#define CAROUSEL_COUNTS_NOTHING
#endif
#ifndef CAROUSEL_COUNTS_NOTHING
__attribute__((noinline)) void* operator new(size_t size) {
  allocations.fetch_add(1, std::memory_order_relaxed);
  void* block = std::malloc(size > 0 ? size : 1);
  if (block == nullptr) throw std::bad_alloc();
  return block;
}
__attribute__((noinline)) void operator delete(void* block) noexcept { std::free(block); }
__attribute__((noinline)) void operator delete(void* block, size_t) noexcept { std::free(block); }
#endif

namespace carousel::model {
namespace {

// Every layer type there is, and experts as the FFN of the later layers.
ModelConfig mixed() {
  const Json config = {{"model_type", "carousel"},
                       {"vocab_size", 256},
                       {"hidden_size", 64},
                       {"layer_types", layer_type_names()},
                       {"ffn_config", {{"type", "moe"}, {"num_dense_layers", 3}}}};
  return parse_config(config, "mixed");
}

TEST(Decode, AllocatesNothingInTheSteadyState) {
#ifdef CAROUSEL_COUNTS_NOTHING
  GTEST_SKIP() << "the sanitizer's allocator is in use";
#endif
  ThreadPool pool(2);
  const Stream stream{&Memory::host(), cpu::best_isa(), &pool};
  const ModelConfig config = mixed();
  DrawnParams params(stream, 1, DType::kBF16);
  const Lm lm(config, params, "mixed");
  Runner runner(lm, stream);

  std::vector<State> states(3);
  const std::vector<State*> pointers{&states[0], &states[1], &states[2]};
  const std::vector<int64_t> lengths{1, 1, 1};
  std::vector<int32_t> tokens{1, 2, 3};
  const auto step = [&] {
    const Tensor logits = runner.logits(runner.forward(tokens, pointers, lengths));
    tokens[0] = static_cast<int32_t>(logits.f32()[0] > 0);
  };
  for (int i = 0; i < 8; ++i) step();
  const int64_t before = allocations.load();
  for (int i = 0; i < 48; ++i) step();  // within one page of keys: a page is the one thing that is added, every 64 rows
  EXPECT_EQ(allocations.load() - before, 0);
  for (int i = 0; i < 16; ++i) step();
  EXPECT_GT(allocations.load() - before, 0) << "the counter counts: a page was added";
}

}  // namespace
}  // namespace carousel::model
