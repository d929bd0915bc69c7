// SPDX-License-Identifier: Apache-2.0
// States in files: what is saved comes back bit for bit; what was altered, cut or made for another model is refused.
#include "carousel/model/saved_state.h"

#include <gtest/gtest.h>

#include <cstring>
#include <filesystem>
#include <fstream>

#include "carousel/core/error.h"
#include "carousel/cpu/isa.h"
#include "carousel/formats/safetensors.h"
#include "carousel/model/runner.h"
#include "tests/scratch.h"

namespace carousel::model {
namespace {

namespace fs = std::filesystem;

class SavedStates : public testing::Test {
 protected:
  SavedStates() : pool_(2), stream_{&Memory::host(), cpu::best_isa(), &pool_} {
    path_ = (folder_ / "state.safetensors").string();
  }

  Model fixture(const std::string& name) { return load(CAROUSEL_SOURCE_DIR "/tests/fixtures/models/" + name, stream_); }

  SavedState run(const Model& model, int64_t count) {
    SavedState saved;
    for (int64_t i = 0; i < count; ++i) saved.tokens.push_back(static_cast<int32_t>((i * 7 + 3) % 64));
    Runner runner(*model.lm, stream_);
    const Tensor hidden = runner.prefill(saved.tokens, saved.state);
    if (hidden.defined()) saved.logits = runner.logits(hidden).clone().reshape(Shape{model.lm->vocab_size()});
    return saved;
  }

  std::string refusal(const Model& model) {
    try {
      load_state(path_, model);
    } catch (const Error& error) {
      return error.what();
    }
    return "accepted";
  }

  ThreadPool pool_;
  Stream stream_;
  const Scratch scratch_;
  const fs::path folder_ = scratch_.path();
  std::string path_;
};

TEST_F(SavedStates, ComeBackBitForBitAndGoOnAlike) {
  for (const char* name : {"xlstm-odd", "lfm2-conv7", "llama3-rope"}) {
    const Model model = fixture(name);
    SavedState kept = run(model, 70);
    save_state(path_, kept, model);
    SavedState loaded = load_state(path_, model);
    EXPECT_EQ(loaded.tokens, kept.tokens);
    EXPECT_EQ(std::memcmp(loaded.logits.raw(), kept.logits.raw(), kept.logits.size_bytes()), 0);
    Runner runner(*model.lm, stream_);
    const std::vector<int32_t> more{5, 6, 7};
    const Tensor a = runner.logits(runner.prefill(more, kept.state));
    const Tensor b = runner.logits(runner.prefill(more, loaded.state));
    EXPECT_EQ(std::memcmp(a.raw(), b.raw(), a.size_bytes()), 0) << name;
  }
}

TEST_F(SavedStates, TheZeroStateIsAValue) {
  const Model model = fixture("lfm2-v4");
  save_state(path_, SavedState{}, model);
  const SavedState loaded = load_state(path_, model);
  EXPECT_EQ(loaded.state.pos(), 0);
  EXPECT_FALSE(loaded.logits.defined());
}

TEST_F(SavedStates, AnotherModelsStateIsRefused) {
  const Model model = fixture("xlstm-odd");
  save_state(path_, run(model, 5), model);
  const Model other = fixture("xlstm-onehead-caps");
  EXPECT_EQ(refusal(other), path_ + ": state of another model (fingerprint " + model.fingerprint + ", expected " +
                                other.fingerprint + ")");
}

TEST_F(SavedStates, EveryCutAndEveryAlteredByteIsRefused) {
  const Model model = fixture("xlstm-onehead-caps");
  save_state(path_, run(model, 9), model);
  std::string bytes;
  {
    std::ifstream file(path_, std::ios::binary);
    bytes.assign(std::istreambuf_iterator<char>(file), {});
  }
  const auto put = [&](const std::string& content) { std::ofstream(path_, std::ios::binary) << content; };
  for (size_t size = 0; size < bytes.size(); size += bytes.size() / 61 + 1) {
    put(bytes.substr(0, size));
    EXPECT_NE(refusal(model), "accepted") << "cut to " << size;
  }
  for (size_t i = 0; i < bytes.size(); i += i < 2048 ? 7 : 997) {
    std::string altered = bytes;
    altered[i] = static_cast<char>(altered[i] ^ 0x10);
    put(altered);
    EXPECT_NE(refusal(model), "accepted") << "byte " << i;
  }
  put(bytes);
  EXPECT_EQ(refusal(model), "accepted");
}

TEST_F(SavedStates, AModelFileIsNoState) {
  const Model model = fixture("xlstm-odd");
  path_ = CAROUSEL_SOURCE_DIR "/tests/fixtures/models/xlstm-odd/model.safetensors";
  EXPECT_NE(refusal(model).find("not a saved state") == std::string::npos &&
                refusal(model).find("format is") == std::string::npos,
            true);
}

}  // namespace
}  // namespace carousel::model
