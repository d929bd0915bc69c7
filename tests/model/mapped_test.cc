// SPDX-License-Identifier: Apache-2.0
// Weights used in the mapped file: the same bits as those packed in memory, whatever kind of file and type they are in;
// what is held beside them is little, or named here.
#include <gtest/gtest.h>

#include <cstring>
#include <filesystem>
#include <fstream>

#include "carousel/cpu/isa.h"
#include "carousel/model/convert.h"
#include "carousel/model/cost.h"
#include "carousel/model/load.h"
#include "carousel/model/profile.h"
#include "carousel/model/quantise.h"
#include "carousel/model/runner.h"
#include "tests/isas.h"
#include "tests/model/block_configs.h"
#include "tests/scratch.h"

namespace carousel::model {
namespace {

namespace fs = std::filesystem;

constexpr DType kTypes[] = {DType::kF32, DType::kF16, DType::kBF16, DType::kQ8, DType::kQ4};

WeightTypes mapped(WeightTypes types = {}) {
  types.mapped = true;
  return types;
}

class Mapped : public testing::Test {
 protected:
  std::string at(const std::string& name) const { return folder_ / name; }
  // Initialised, its matrices in `dtype`.
  std::string make(const std::string& config, DType dtype, const std::string& name) {
    std::ofstream(at(name + ".json")) << config;
    const bool blocks = is_block(dtype);
    write_initialised(at(name + ".json"), 3, blocks ? DType::kF32 : dtype, at(name));
    if (!blocks) return at(name);
    write_quantised(at(name), {dtype, dtype, dtype, dtype}, stream_, at(name + "-blocks"));
    return at(name + "-blocks");
  }

  // Of a prompt, and of a few tokens after it.
  std::vector<float> logits(const std::string& path, const WeightTypes& types, const Stream& stream,
                            const Numerics& numerics = Numerics::native()) {
    const Model model = load(path, stream, ModelKind::kLanguage, numerics, types);
    Runner runner(*model.lm, stream);
    State state;
    std::vector<int32_t> prompt;
    for (int32_t i = 0; i < 70; ++i) prompt.push_back(i * 7 % 31);
    std::vector<float> out;
    for (const std::vector<int32_t>& tokens : {prompt, {5}, {30}}) {
      const Tensor row = runner.logits(runner.prefill(tokens, state));
      out.insert(out.end(), row.f32(), row.f32() + row.count());
    }
    return out;
  }
  void expect_same_bits(const std::string& path, const WeightTypes& types = {}) {
    for (const Isa isa : tested_isas()) {
      for (const Compute compute : {Compute::kF32, Compute::kBF16}) {
        const Stream stream{&Memory::host(), isa, &pool_, compute};
        const std::vector<float> packed = logits(path, types, stream), in_place = logits(path, mapped(types), stream);
        ASSERT_EQ(packed.size(), in_place.size());
        EXPECT_EQ(std::memcmp(packed.data(), in_place.data(), packed.size() * sizeof(float)), 0)
            << path << " " << cpu::isa_name(isa);
      }
    }
  }
  size_t held(const std::string& path, const WeightTypes& types) { return held_bytes(open_model_files(path), types); }

  ThreadPool pool_{2};
  Stream stream_{&Memory::host(), cpu::best_isa(), &pool_};
  const Scratch folder_;
};

TEST_F(Mapped, SafetensorsGiveTheSameBits) {
  for (const DType dtype : kTypes) {
    const std::string name = std::string(dtype_name(dtype));
    for (const std::string& path : {make(kXlstm, dtype, "xlstm" + name), make(kMixed, dtype, "mixed" + name)}) {
      expect_same_bits(path);
      EXPECT_LT(held(path, mapped()), held(path, {}) / 2) << path;
    }
  }
}

TEST_F(Mapped, GgufGivesTheSameBits) {
  for (const DType dtype : kTypes) {
    const std::string name = std::string(dtype_name(dtype));
    const std::string path = make(kXlstm, dtype, "xlstm" + name), gguf = at(name + ".gguf");
    write_gguf(path, gguf, stream_);
    expect_same_bits(gguf);
    EXPECT_LT(held(gguf, mapped()), held(gguf, {}) / 4) << gguf;
  }
}

// Blocks that have no products of their own, and rows stored in another order, are converted as without.
TEST_F(Mapped, PublishedFilesGiveTheSameBits) {
  const std::string fixtures = CAROUSEL_SOURCE_DIR "/tests/fixtures/";
  for (const char* name : {"gguf/lfm2.gguf", "gguf/lfm2moe.gguf", "gguf/llama.gguf", "gguf/xlstm.gguf",
                           "gguf/split-00001-of-00003.gguf", "models/lfm2-v4", "models/llama-f16",
                           "models/xlstm-bf16-sharded", "models/xlstm-lm-mixed", "models/xlstm-odd"}) {
    SCOPED_TRACE(name);
    expect_same_bits(fixtures + name);
  }
}

TEST_F(Mapped, OtherTypesAndProfilesStillConvert) {
  const std::string path = make(kXlstm, DType::kF32, "model");
  WeightTypes types;
  types.body = DType::kQ8;
  expect_same_bits(path, types);
  EXPECT_GT(held(path, mapped(types)), held(path, mapped()));
  const Numerics rounded = find_profile("torch-bf16");
  EXPECT_EQ(logits(path, {}, stream_, rounded), logits(path, mapped(), stream_, rounded));
}

}  // namespace
}  // namespace carousel::model
