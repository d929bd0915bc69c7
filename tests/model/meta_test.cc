// SPDX-License-Identifier: Apache-2.0
// Fixture models run their real forwards on meta: prompt, decode and logits reserve there what they do on the CPU, byte
// for byte, whatever types their weights are held in.
#include <gtest/gtest.h>

#include <string>
#include <vector>

#include "carousel/core/error.h"
#include "carousel/cpu/isa.h"
#include "carousel/model/cost.h"
#include "carousel/model/load.h"
#include "carousel/model/runner.h"

namespace carousel::model {
namespace {

/// Bytes the arena holds after a prompt of two sequences, a decode step, and the logits of both.
std::vector<size_t> reserved(const Lm& lm, const Stream& stream) {
  Runner runner(lm, stream);
  std::vector<State> states(2);
  const std::vector<State*> pointers = {&states[0], &states[1]};
  std::vector<size_t> sizes;
  for (const std::vector<int64_t>& lengths : std::vector<std::vector<int64_t>>{{100, 3}, {1, 1}, {0, 70}}) {
    const std::vector<int32_t> tokens(static_cast<size_t>(lengths[0] + lengths[1]), 1);
    const Tensor hidden = runner.forward(tokens, pointers, lengths);
    const Tensor logits = runner.logits(hidden);
    EXPECT_EQ(logits.dim(1), lm.vocab_size());
    sizes.push_back(runner.arena().size_bytes());
  }
  return sizes;
}

void expect_alike(const std::string& folder) {
  ThreadPool pool(3);
  const Stream host{&Memory::host(), cpu::best_isa(), &pool}, meta{&Memory::meta(), cpu::best_isa(), &pool};
  const Model loaded = load(folder, host, ModelKind::kLanguage);
  const ModelFiles files = open_model_files(folder);
  MetaParams params([&](const std::string& name) { return files.dtype_of(name); });
  const Lm shapes(files.config, params, folder);
  EXPECT_EQ(reserved(shapes, meta), reserved(*loaded.lm, host)) << folder;
}

TEST(Meta, FixtureModelsReserveWhatTheyDoOnTheCpu) {
  const std::string fixtures = CAROUSEL_SOURCE_DIR "/tests/fixtures/models/";
  for (const char* name : {"lfm2-conv7", "lfm2-v4", "llama-f16", "llama3-rope", "xlstm-bf16-sharded", "xlstm-lm-mixed",
                           "xlstm-odd", "xlstm-onehead-caps"}) {
    expect_alike(fixtures + name);
  }
  expect_alike(CAROUSEL_SOURCE_DIR "/models/stories-xlstm");
}

}  // namespace
}  // namespace carousel::model
