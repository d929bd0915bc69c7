// SPDX-License-Identifier: Apache-2.0
// Commands on files of K-quants: info counts them, --mmap gives the same text, convert keeps or decodes them.
#include "carousel/core/json.h"
#include "tests/cli/wide_model.h"

namespace carousel::cli {
namespace {

constexpr const char* kTypes[] = {"q4_k", "q5_k", "q6_k", "q4_k_m", "q5_k_m"};

/// `config` as a GGUF file of `type` in `scratch`.
std::string write_blocks(const Scratch& scratch, const char* config, const std::string& type) {
  const std::string gguf = scratch / (type + ".gguf");
  const Ran ran = run_carousel("quantize " + init_model(scratch, config) + " --type " + type + " --out " + gguf);
  EXPECT_EQ(ran.status, 0) << ran.err;
  return gguf;
}

/// The values of every tensor.
std::map<std::string, std::vector<float>> values_of(const std::string& path) {
  std::map<std::string, std::vector<float>> out;
  const formats::Checkpoint checkpoint = formats::Checkpoint::open(path);
  for (const formats::TensorEntry* entry : checkpoint.entries()) {
    std::vector<float>& values = out[entry->name];
    values.resize(static_cast<size_t>(entry->shape.count()));
    entry->to_f32(entry->bytes, entry->shape.count(), values.data());
  }
  return out;
}

class BlockFiles : public testing::TestWithParam<const char*> {};

TEST_P(BlockFiles, ConvertAutoKeepsEveryBlock) {
  for (const char* type : kTypes) {
    const Scratch scratch;
    const std::string gguf = write_blocks(scratch, GetParam(), type), kept = scratch / "kept";
    const Ran ran = run_carousel("convert " + gguf + " --dtype auto --out " + kept);
    ASSERT_EQ(ran.status, 0) << ran.err;
    const std::string first = type[1] == '4' ? "Q4_K" : type[1] == '5' ? "Q5_K" : "Q6_K";
    int blocks = 0;
    for (const auto& [name, held] : types_of(kept)) blocks += held == first;
    EXPECT_GT(blocks, 5) << type;
    ASSERT_EQ(run_carousel("convert " + kept + " --out " + (scratch / "again.gguf")).status, 0);
    EXPECT_EQ(tensors_of(scratch / "again.gguf"), tensors_of(gguf)) << type << ": bit for bit";
    const std::vector<int32_t> tokens = {5, 9, 2, 17, 3};
    Library from_file(gguf), from_folder(kept);
    EXPECT_EQ(from_file.step(tokens), from_folder.step(tokens)) << type;
  }
}

TEST_P(BlockFiles, ConvertDecodesToTheSameValues) {
  const Scratch scratch;
  const std::string gguf = write_blocks(scratch, GetParam(), "q4_k_m"), wide = scratch / "wide";
  ASSERT_EQ(run_carousel("convert " + gguf + " --out " + wide).status, 0);
  for (const auto& [name, type] : types_of(wide)) EXPECT_EQ(type, "F32") << name;
  ASSERT_EQ(run_carousel("convert " + wide + " --out " + (scratch / "wide.gguf")).status, 0);
  EXPECT_EQ(values_of(scratch / "wide.gguf"), values_of(gguf));
}

TEST_P(BlockFiles, MappedAndHeldGiveTheSameText) {
  for (const char* type : kTypes) {
    const Scratch scratch;
    const std::string gguf = write_blocks(scratch, GetParam(), type);
    write_file(scratch / "text", "Once upon a time, there was a little girl named Lily.");
    for (const std::string& command : {"generate " + gguf + " -p abc -n 12 --temp 0 --ignore-eos",
                                       "eval " + gguf + " --json --text " + (scratch / "text")}) {
      const Ran held = run_carousel(command), mapped = run_carousel(command + " --mmap");
      EXPECT_EQ(held.status, 0) << held.err;
      EXPECT_EQ(mapped.status, 0) << mapped.err;
      EXPECT_EQ(mapped.out, held.out) << command;
    }
  }
}

// Panels of blocks hold no more bytes than the file does. xLSTM's gates do: their 4 rows of f32 fill a panel of 32.
TEST_P(BlockFiles, InfoCountsThem) {
  for (const char* type : kTypes) {
    const Scratch scratch;
    const std::string gguf = write_blocks(scratch, GetParam(), type);
    const Json info = parse_json(run_carousel("info --json " + gguf).out, "info");
    const std::string first = type[1] == '4' ? "Q4_K" : type[1] == '5' ? "Q5_K" : "Q6_K";
    int64_t values = 0, in_first = info.at("dtypes").at(first).get<int64_t>();
    for (const auto& [name, count] : info.at("dtypes").items()) values += count.get<int64_t>();
    EXPECT_EQ(values, info.at("parameters").get<int64_t>());
    EXPECT_GT(2 * in_first, values) << type;
    const double most = GetParam() == kWideLlama ? 1.02 : 1.25;
    EXPECT_LT(info.at("bytes_in_memory").get<double>(), most * info.at("bytes_on_disk").get<double>()) << type;
  }
}

INSTANTIATE_TEST_SUITE_P(Wide, BlockFiles, testing::Values(kWideLlama, kWideXlstm),
                         [](const auto& param) { return param.index == 0 ? "llama" : "xlstm"; });

}  // namespace
}  // namespace carousel::cli
