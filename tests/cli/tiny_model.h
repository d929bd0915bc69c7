// SPDX-License-Identifier: Apache-2.0
// Small models for the tests of commands: configs of every family on bytes, and what the library itself computes with
// an initialised one.
#pragma once

#include <map>
#include <string>
#include <vector>

#include "carousel/cpu/isa.h"
#include "carousel/formats/checkpoint.h"
#include "carousel/formats/safetensors.h"
#include "carousel/model/load.h"
#include "carousel/model/runner.h"
#include "tests/cli/run_command.h"

namespace carousel::cli {

constexpr const char* kTinyXlstm = R"({"model_type": "xlstm", "vocab_size": 256, "hidden_size": 32,
  "num_hidden_layers": 2, "num_heads": 2, "tie_word_embeddings": false})";
constexpr const char* kTinyLfm2 = R"({"model_type": "lfm2", "vocab_size": 256, "hidden_size": 32,
  "num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2, "block_ff_dim": 96,
  "block_multiple_of": 16, "full_attn_idxs": [1]})";
constexpr const char* kTinyLlama = R"({"model_type": "llama", "vocab_size": 256, "hidden_size": 32,
  "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2,
  "tie_word_embeddings": true})";
constexpr const char* kTinyMixed = R"({"model_type": "carousel", "vocab_size": 256, "hidden_size": 32,
  "num_hidden_layers": 4, "norm_eps": 1e-6, "tie_word_embeddings": false,
  "layer_types": ["mlstm", "conv", "full_attention", "ffn_only"], "mlstm_config": {"num_heads": 2},
  "attention_config": {"num_heads": 4, "num_kv_heads": 2}})";

/// An initialised model in folder "model" of `scratch`.
inline std::string init_model(const Scratch& scratch, const std::string& config, const std::string& flags = "") {
  write_file(scratch / "config.json", config);
  const std::string folder = scratch / "model";
  const Ran ran = run_carousel("init " + (scratch / "config.json") + " --out " + folder + " " + flags);
  EXPECT_EQ(ran.status, 0) << ran.err;
  return folder;
}

/// Type, shape and bytes of every tensor.
inline std::map<std::string, std::string> tensors_of(const std::string& folder) {
  std::map<std::string, std::string> out;
  const formats::Checkpoint checkpoint = formats::Checkpoint::open(folder);
  for (const formats::TensorEntry* entry : checkpoint.entries()) {
    const std::string bytes(reinterpret_cast<const char*>(entry->bytes), entry->size_bytes);
    out[entry->name] = entry->type_name() + entry->shape.str() + bytes;
  }
  return out;
}

/// The library on one thread.
struct Library {
  explicit Library(const std::string& folder, const model::WeightTypes& types = {})
      : pool(1),
        stream{&Memory::host(), cpu::best_isa(), &pool},
        model(model::load(folder, stream, model::ModelKind::kLanguage, Numerics::native(), types)) {}

  /// Logits [T, V] of `tokens` from the zero state, one token at a time.
  std::vector<std::vector<float>> step(const std::vector<int32_t>& tokens) {
    model::Runner runner(*model.lm, stream);
    State state;
    State* const states[] = {&state};
    const int64_t lengths[] = {1};
    std::vector<std::vector<float>> logits;
    for (const int32_t& token : tokens) {
      const Tensor row = runner.logits(runner.forward({&token, 1}, states, lengths));
      logits.emplace_back(row.f32(), row.f32() + row.count());
    }
    return logits;
  }

  ThreadPool pool;
  Stream stream;
  model::Model model;
};

/// Writes expected.safetensors into `folder`: ids.T [2, T] and logits.T as the library steps through them.
inline void write_expected(const std::string& folder, int64_t length, float error = 0) {
  Library library(folder);
  const int64_t vocab = library.model.config.vocab_size;
  Tensor ids(Shape{2, length}, DType::kI64);
  Tensor logits(Shape{2, length, vocab}, DType::kF32);
  for (int64_t s = 0; s < 2; ++s) {
    std::vector<int32_t> tokens;
    for (int64_t t = 0; t < length; ++t) {
      tokens.push_back(static_cast<int32_t>((s * 91 + t * 37 + 5) % vocab));
      ids.i64()[s * length + t] = tokens.back();
    }
    const std::vector<std::vector<float>> rows = library.step(tokens);
    for (int64_t t = 0; t < length; ++t) {
      for (int64_t v = 0; v < vocab; ++v)
        logits.f32()[(s * length + t) * vocab + v] = rows[static_cast<size_t>(t)][static_cast<size_t>(v)];
    }
  }
  logits.f32()[logits.count() / 2] += error;
  const std::string suffix = "." + std::to_string(length);
  formats::write_safetensors(folder + "/expected.safetensors", {{"ids" + suffix, ids}, {"logits" + suffix, logits}});
}

}  // namespace carousel::cli
