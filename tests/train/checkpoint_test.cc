// SPDX-License-Identifier: Apache-2.0
// What a checkpoint takes on the disk, as it is known before the first step, and how it appears there.
#include "carousel/train/checkpoint.h"

#include <gtest/gtest.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cmath>
#include <filesystem>

#include "carousel/core/error.h"
#include "carousel/core/files.h"
#include "carousel/formats/new_file.h"
#include "carousel/formats/safetensors.h"
#include "tests/cli/tiny_model.h"
#include "tests/ops/machine.h"
#include "tests/train/written.h"

namespace carousel::train {
namespace {

namespace fs = std::filesystem;

constexpr int64_t kLanes = 64;

size_t bytes_below(const std::string& folder) {
  size_t bytes = 0;
  for (const auto& entry : fs::recursive_directory_iterator(folder)) {
    if (entry.is_regular_file()) bytes += static_cast<size_t>(entry.file_size());
  }
  return bytes;
}

/// A tiny model that has taken two steps from rows that are cut in the middle of a document.
struct Trained {
  explicit Trained(const char* config) {
    write(scratch / "config.json", config);
    write(scratch / "generation_config.json", R"({"eos_token_id": 5, "note": ")" + std::string(300'000, 'x') + "\"}");
    DataOptions options;
    options.paths = {{write(scratch / "a.txt", std::string(9000, 'x')), 0}};
    options.source.cache_folder = scratch / "cache";
    options.seq = 16;
    options.order.carry_state = true;
    options.order.lanes = kLanes;
    data.emplace(options, byte_vocabulary());
    batches.emplace(*data);
    model = model::load_trained(scratch / "config.json", machine.stream, 1);
    Recipe recipe;
    recipe.schedule.steps = 2;
    recipe.batch = BatchRamp(kLanes);
    recipe.carry_state = true;
    trainer.emplace(model, machine.stream, *batches, recipe);
    predicted_bytes = checkpoint_bytes(*trainer);
    while (!trainer->done()) trainer->step();
  }

  Scratch scratch;
  Machine machine;
  std::optional<Data> data;
  std::optional<TokenBatches> batches;
  model::TrainedModel model;
  std::optional<Trainer> trainer;
  size_t predicted_bytes = 0;  // before the first step
};

TEST(Checkpoint, TakesWhatIsSaidBeforeTheFirstStep) {
  for (const char* config : {cli::kTinyXlstm, cli::kTinyMixed}) {
    Trained trained(config);
    save_checkpoint(trained.scratch / "out", *trained.trainer, {});
    const size_t written_bytes = bytes_below(checkpoint_folder(trained.scratch / "out", 2));
    EXPECT_LE(written_bytes, trained.predicted_bytes) << config;
    EXPECT_LE(trained.predicted_bytes, written_bytes + 100'000) << config;
  }
}

TEST(Checkpoint, MomentsThatNoRunHasAreRefusedByName) {
  Trained trained(cli::kTinyXlstm);
  const std::string out = trained.scratch / "out", folder = checkpoint_folder(out, 2);
  save_checkpoint(out, *trained.trainer, {});
  const std::string path = folder + "/train.safetensors", whole = cli::read_file(path);
  for (const auto& [prefix, value] : {std::pair("m.", NAN), std::pair("v.", INFINITY), std::pair("v.", -1.0f)}) {
    write(path, whole);
    std::string name;
    {
      const formats::SafetensorsFile file = formats::SafetensorsFile::open(path);
      NamedTensors tensors = file.load_all();
      for (NamedTensor& tensor : tensors) {
        if (!name.empty() || !tensor.name.starts_with(prefix)) continue;
        name = tensor.name;
        tensor.tensor.f32()[1] = value;
      }
      formats::write_safetensors(path, tensors, file.metadata());
    }
    std::string message;
    try {
      load_checkpoint(folder, *trained.trainer);
    } catch (const Error& error) {
      message = error.what();
    }
    EXPECT_NE(message.find("\"" + name + "\" is "), std::string::npos) << message;
    EXPECT_NE(message.find(" at element 1, expected a finite number"), std::string::npos) << message;
  }
  write(path, whole);
  EXPECT_NO_THROW(load_checkpoint(folder, *trained.trainer));
}

/// Ends as by kill -9 within a write.
void die_while_writing(const std::string& folder) {
  const pid_t child = fork();
  if (child == 0) {
    write_text_file((new formats::NewFolder(folder))->file("config.json"), "{}");
    _exit(0);
  }
  waitpid(child, nullptr, 0);
}

TEST(Checkpoint, TakesOverWhatAKilledRunLeft) {
  Trained trained(cli::kTinyXlstm);
  const std::string out = trained.scratch / "out", folder = checkpoint_folder(out, 2);
  die_while_writing(out + "/.step-2.partial");
  die_while_writing(out + "/.step-1.partial");
  die_while_writing(folder);                       // as versions did that wrote it under its own name
  write(out + "/.step-2.partial/other", "whole");  // as after a kill before the rename
  EXPECT_FALSE(latest_checkpoint(out));
  save_checkpoint(out, *trained.trainer, {});
  EXPECT_EQ(latest_checkpoint(out), folder);
  EXPECT_FALSE(file_exists(folder + "/other"));
  EXPECT_FALSE(file_exists(folder + "/.carousel.partial"));
  prune_checkpoints(out, 1, 0);
  EXPECT_EQ(names_in(out), std::vector<std::string>{"step-2"});
}

}  // namespace
}  // namespace carousel::train
