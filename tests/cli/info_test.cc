// SPDX-License-Identifier: Apache-2.0
#include <fmt/format.h>

#include "carousel/core/json.h"
#include "carousel/cpu/isa.h"
#include "carousel/model/load.h"
#include "carousel/model/runner.h"
#include "carousel/model/saved_state.h"
#include "tests/cli/tiny_model.h"

namespace carousel::cli {
namespace {

Json info_of_config(const std::string& config) {
  const Scratch scratch;
  write_file(scratch / "config.json", config);
  const Ran ran = run_carousel("info --json " + (scratch / "config.json"));
  EXPECT_EQ(ran.status, 0) << ran.err;
  return ran.status == 0 ? parse_json(ran.out, "info") : Json::object();
}

TEST(Info, DefaultsOfXlstmAreTheSevenBillionModel) {
  const Scratch scratch;
  write_file(scratch / "config.json", R"({"model_type": "xlstm"})");
  const Ran ran = run_carousel("info " + (scratch / "config.json"));
  EXPECT_EQ(ran.status, 0) << ran.err;
  for (const char* text : {"6,865,424,896", "128.25 MiB", "32 x (mlstm, swiglu)", "50,304"})
    EXPECT_NE(ran.out.find(text), std::string::npos) << text << "\n" << ran.out;
  // 32 layers of 8 heads: C [256, 512], n [256] and m, f32.
  EXPECT_EQ(info_of_config(R"({"model_type": "xlstm"})").at("state_bytes"), 32 * 8 * (256 * 512 + 256 + 1) * 4);
}

// Published sizes of LFM2 350M, 700M, 1.2B and 2.6B.
TEST(Info, ReleasedSizesOfLfm2) {
  struct Size {
    int64_t hidden, layers, heads, ff_dim;
    const char* auto_adjust;
    const char* attention;
    int64_t parameters;
  };
  const char* const sixteen = "[2, 5, 8, 10, 12, 14]";
  const Size sizes[] = {{1024, 16, 16, 6656, "true", sixteen, 354483968},
                        {1536, 16, 24, 10240, "true", sixteen, 742489344},
                        {2048, 16, 32, 12288, "true", sixteen, 1170340608},
                        {2048, 30, 32, 10752, "false", "[2, 5, 9, 13, 17, 21, 24, 27]", 2569272320}};
  for (const Size& size : sizes) {
    const Json described = info_of_config(fmt::format(
        R"({{"model_type": "lfm2", "vocab_size": 65536, "hidden_size": {}, "num_hidden_layers": {},
             "num_attention_heads": {}, "num_key_value_heads": 8, "block_ff_dim": {},
             "block_auto_adjust_ff_dim": {}, "full_attn_idxs": {}}})",
        size.hidden, size.layers, size.heads, size.ff_dim, size.auto_adjust, size.attention));
    EXPECT_EQ(described.at("parameters"), size.parameters);
    int64_t sum = 0;
    for (const Json& part : described.at("parts")) sum += part.at("parameters").get<int64_t>();
    EXPECT_EQ(sum, size.parameters) << "the parts make up the whole";
  }
}

TEST(Info, TrainingIsTheSumOfItsParts) {
  const Scratch scratch;
  write_file(scratch / "config.json", kTinyLfm2);
  const std::string start = "info " + (scratch / "config.json") + " --train --batch 4 --seq 64 --micro-batch 2";
  const Ran ran = run_carousel(start + " --json");
  ASSERT_EQ(ran.status, 0) << ran.err;
  const Json training = parse_json(ran.out, "info").at("training");
  int64_t sum = 0;
  for (const char* part : {"master_bytes", "gradient_bytes", "moment_bytes", "packed_bytes", "activation_bytes"}) {
    EXPECT_GT(training.at(part).get<int64_t>(), 0) << part;
    sum += training.at(part).get<int64_t>();
  }
  EXPECT_EQ(training.at("bytes"), sum);
  EXPECT_NE(run_carousel(start + " --recompute").out.find("4 rows of 64 tokens, 2 at a time, recomputed"),
            std::string::npos);
}

TEST(Info, TrainingTakesTheFlagsOfTrain) {
  const Scratch scratch;
  const std::string start = "info " + init_model(scratch, kTinyXlstm) + " --train --json --seq 64 ";
  const auto training = [&](const std::string& flags) {
    const Ran ran = run_carousel(start + flags);
    EXPECT_EQ(ran.status, 0) << ran.err;
    return parse_json(ran.out, "info").at("training");
  };
  const auto bytes = [](const Json& json, const char* part) { return json.at(part).get<int64_t>(); };
  const Json whole = training(""), lora = training("--lora 2 --lora-targets q");
  EXPECT_LT(bytes(lora, "gradient_bytes"), bytes(whole, "gradient_bytes") / 8);
  EXPECT_LT(bytes(lora, "moment_bytes"), bytes(whole, "moment_bytes") / 8);
  EXPECT_GT(bytes(lora, "sum_bytes"), 0);
  EXPECT_LT(bytes(training("--freeze '*embeddings*'"), "gradient_bytes"), bytes(whole, "gradient_bytes"));
  EXPECT_EQ(bytes(training("--optim sgd"), "moment_bytes"), bytes(whole, "moment_bytes") / 2);
  EXPECT_GT(bytes(training("--optim muon"), "update_bytes"), 0);
  EXPECT_FLOAT_EQ(training("--dropout 0.1").at("dropout").get<float>(), 0.1f);
  EXPECT_GT(bytes(training("--carry-state"), "state_bytes"), 0);
  EXPECT_EQ(bytes(training("--batch-ramp 2@0,16@5"), "activation_bytes"),
            bytes(training("--batch 16"), "activation_bytes"));
  for (const std::string flags : {"--train --lora-targets q", "--train --batch-ramp 8", "--optim sgd"}) {
    const Ran ran = run_carousel("info " + (scratch / "model") + " " + flags);
    EXPECT_EQ(ran.status, 2) << flags << ran.err;
    EXPECT_EQ(std::count(ran.err.begin(), ran.err.end(), '\n'), 1) << ran.err;
  }
}

TEST(Info, ForecasterFromACheckpointAndFromAnInitialisedConfig) {
  const std::string checkpoint = CAROUSEL_SOURCE_DIR "/tests/fixtures/tirex/tiny.ckpt";
  const Ran published = run_carousel("info " + checkpoint);
  EXPECT_EQ(published.status, 0) << published.err;
  for (const char* text : {"tirex", "2 x (slstm, swiglu)", "16 values seen, in patches of 4; 3 quantiles"})
    EXPECT_NE(published.out.find(text), std::string::npos) << text << "\n" << published.out;

  const Scratch scratch;
  write_file(scratch / "config.json", R"({"model_type": "tirex", "train_ctx_len": 32, "input_patch_size": 8,
      "output_patch_size": 8, "quantiles": [0.1, 0.5, 0.9], "input_ff_dim": 24,
      "block_kwargs": {"embedding_dim": 16, "num_heads": 2, "num_blocks": 2}})");
  const Ran init = run_carousel("init " + (scratch / "config.json") + " --out " + (scratch / "model"));
  ASSERT_EQ(init.status, 0) << init.err;
  const Ran described = run_carousel("info --json " + (scratch / "model"));
  ASSERT_EQ(described.status, 0) << described.err;
  const Json info = parse_json(described.out, "info");
  EXPECT_EQ(info.at("bytes_on_disk"), 4 * info.at("parameters").get<int64_t>());
  write_file(scratch / "series.csv", "y\n1\n2\n3\n4\n");
  const Ran forecast =
      run_carousel("forecast " + (scratch / "model") + " --csv " + (scratch / "series.csv") + " --horizon 3");
  EXPECT_EQ(forecast.status, 0) << forecast.err;
  const Ran generate = run_carousel("generate " + (scratch / "model") + " -p x");
  EXPECT_EQ(generate.status, 1);
  EXPECT_NE(generate.err.find("forecaster of series"), std::string::npos) << generate.err;
}

TEST(Info, AttentionStateGrowsByToken) {
  const Json described = info_of_config(kTinyLlama);
  EXPECT_EQ(described.at("state_bytes"), 0);
  // 2 layers of keys and values, 2 heads of 8 channels, f32.
  EXPECT_EQ(described.at("state_bytes_per_token"), 2 * 2 * 2 * 8 * 4);
  EXPECT_EQ(described.at("tokenizer").at("kind"), "bytes");
}

TEST(Info, FolderSaysWhatIsOnDiskAndInMemory) {
  const Scratch scratch;
  const std::string folder = init_model(scratch, kTinyXlstm, "--dtype bf16");
  const Ran ran = run_carousel("info --json " + folder);
  ASSERT_EQ(ran.status, 0) << ran.err;
  const Json described = parse_json(ran.out, "info");
  EXPECT_EQ(described.at("bytes_on_disk"), 2 * described.at("parameters").get<int64_t>());
  EXPECT_EQ(described.at("dtypes").at("BF16"), described.at("parameters"));
  EXPECT_GE(described.at("bytes_in_memory").get<int64_t>(), described.at("bytes_on_disk").get<int64_t>());
  const Ran file = run_carousel("info " + folder + "/model.safetensors");
  EXPECT_EQ(file.status, 0) << file.err;
  EXPECT_NE(file.out.find("2 x (mlstm, swiglu)"), std::string::npos) << file.out;
}

TEST(Info, CountsTheWeightsThatAreAskedFor) {
  const std::string folder = CAROUSEL_SOURCE_DIR "/models/stories-xlstm";
  const auto info = [&](const std::string& flags) {
    const Ran ran = run_carousel("info --json -t 1 " + folder + flags);
    EXPECT_EQ(ran.status, 0) << ran.err;
    return parse_json(ran.out, "info");
  };
  const Json own = info(""), blocks = info(" --weights q4");
  EXPECT_LT(blocks.at("bytes_in_memory").get<int64_t>(), own.at("bytes_in_memory").get<int64_t>() * 2 / 3);
  EXPECT_EQ(blocks.at("held_dtype"), "Q4");
  for (const Json& one : {own, blocks}) {
    EXPECT_GE(one.at("bytes_needed").get<int64_t>(), one.at("bytes_in_memory").get<int64_t>() +
                                                         one.at("activations").at("prompt_bytes").get<int64_t>() +
                                                         one.at("state_bytes").get<int64_t>());
  }
  EXPECT_EQ(run_carousel("info " + folder + " --weights q7").status, 2);
}

TEST(Info, ActivationsAreWhatARunReserves) {
  const std::string folder = CAROUSEL_SOURCE_DIR "/models/stories-xlstm";
  const Ran ran = run_carousel("info --json -t 2 " + folder);
  ASSERT_EQ(ran.status, 0) << ran.err;
  const Json said = parse_json(ran.out, "info").at("activations");
  EXPECT_EQ(said.at("threads"), 2);
  ThreadPool pool(2);
  const Stream stream{&Memory::host(), cpu::best_isa(), &pool};
  const model::Model loaded = model::load(folder, stream);
  const std::vector<int32_t> prompt(said.at("prompt_rows").get<size_t>(), 7);
  State state;
  model::Runner runner(*loaded.lm, stream);
  runner.logits(runner.prefill(prompt, state));
  EXPECT_EQ(said.at("prompt_bytes"), runner.arena().size_bytes());
  State other;
  State* const states[] = {&other};
  const int64_t lengths[] = {1};
  model::Runner decode(*loaded.lm, stream);
  decode.logits(decode.forward(std::span(prompt).first(1), states, lengths));
  EXPECT_EQ(said.at("decode_bytes"), decode.arena().size_bytes());
  const Ran page = run_carousel("info -t 2 " + folder);
  EXPECT_NE(page.out.find(" for a token, "), std::string::npos) << page.out;
  EXPECT_NE(page.out.find(" for 512 of a prompt, on 2 threads\n"), std::string::npos) << page.out;
}

TEST(Info, SavedStateIsDescribed) {
  const Scratch scratch;
  const std::string folder = init_model(scratch, kTinyXlstm);
  const Library library(folder);
  model::save_state(scratch / "saved.state", model::SavedState(), library.model);
  const Ran ran = run_carousel("info " + (scratch / "saved.state"));
  EXPECT_EQ(ran.status, 0) << ran.err;
  EXPECT_NE(ran.out.find("saved state"), std::string::npos) << ran.out;
  EXPECT_NE(ran.out.find(library.model.fingerprint), std::string::npos) << ran.out;
}

TEST(Info, NamesWhatItCannotRead) {
  const Scratch scratch;
  EXPECT_EQ(run_carousel("info " + (scratch / "nowhere")).status, 1);
  write_file(scratch / "config.json", R"({"model_type": "retnet"})");
  const Ran ran = run_carousel("info " + (scratch / "config.json"));
  EXPECT_EQ(ran.status, 1);
  EXPECT_NE(ran.err.find("retnet"), std::string::npos) << ran.err;
  EXPECT_EQ(run_carousel("info").status, 2);
  write_file(scratch / "notes.txt", "no model, and no state");
  const Ran notes = run_carousel("info " + (scratch / "notes.txt"));
  EXPECT_EQ(notes.status, 1);
  EXPECT_NE(notes.err.find("notes.txt: expected a model folder"), std::string::npos) << notes.err;
  // A state without metadata.
  const std::string header = R"({"carousel.state":{"dtype":"U8","shape":[1],"data_offsets":[0,1]}})";
  write_file(scratch / "bare", std::string(1, static_cast<char>(header.size())) + std::string(7, '\0') + header + "x");
  EXPECT_EQ(run_carousel("info " + (scratch / "bare")).err, "");
}

TEST(Info, PredictsTheTrainingOfCells) {
  const Scratch scratch;
  for (const char* kind : {"cfc", "ltc"}) {
    write_file(scratch / "config.json",
               std::string(R"({"model_type": ")") + kind + R"(", "input_size": 2, "units": 6})");
    const Ran ran = run_carousel("info " + (scratch / "config.json") + " --train --batch 2 --seq 20");
    EXPECT_EQ(ran.status, 0) << kind << ran.err;
    EXPECT_NE(ran.out.find("training"), std::string::npos) << ran.out;
  }
}

}  // namespace
}  // namespace carousel::cli
