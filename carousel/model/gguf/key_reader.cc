// SPDX-License-Identifier: Apache-2.0
// Reads and checks the keys that families share: sizes, tokens that end texts, heads and rotation.
#include "carousel/model/gguf/key_reader.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>

#include "carousel/core/error.h"
#include "carousel/model/gguf/gguf.h"
#include "carousel/model/gguf/rope.h"

namespace carousel::model {
namespace {

constexpr size_t kMaxEnds = 1024;  // ids that end texts

// Keys after the architecture's name that steer nothing here.
constexpr const char* kWithoutEffect[] = {"context_length", "tensor_data_layout", "vocab_size", "rope.dimension_count"};

// Keys whose effect is not implemented, and the value at which they have none.
struct Neutral {
  const char* key;
  double value;
};
constexpr Neutral kUnsupported[] = {
    {"rope.scaling.factor", 1},
    {"rope.scale_linear", 1},
    {"rope.scaling.attn_factor", 1},
    {"rope.scaling.yarn_log_multiplier", 0},
    {"rope.scaling.yarn_ext_factor", 0},
    {"rope.scaling.yarn_attn_factor", 1},
    {"attention.sliding_window", 0},
    {"attention.clamp_kqv", 0},
    {"attention.max_alibi_bias", 0},
    {"attention.scale", 0},
    {"attention.output_scale", 1},
    {"attention.temperature_scale", 0},
    {"attention.temperature_length", 0},
    {"attn_logit_softcapping", 0},
    {"final_logit_softcapping", 0},
    {"router_logit_softcapping", 0},
    {"logit_scale", 1},
    {"embedding_scale", 1},
    {"residual_scale", 1},
    {"expert_count", 0},
    {"expert_used_count", 0},
    {"expert_shared_count", 0},
    {"expert_group_count", 0},
    {"expert_weights_norm", 0},
    {"leading_dense_block_count", 0},
    {"nextn_predict_layers", 0},
    {"use_parallel_residual", 0},
    {"swiglu_clamp_exp", 0},
    {"pooling_type", 0},
};

// Rows of the embeddings; every other statement of the vocabulary's size must agree.
int64_t vocabulary(KeyReader& keys) {
  const formats::TensorEntry* table = keys.tensor("token_embd.weight");
  if (table == nullptr || table->shape.rank() != 2) {
    fail(ErrorKind::kInput, "{}: tensor \"token_embd.weight\" with two dimensions is missing", keys.where());
  }
  const int64_t rows = table->shape[0];
  const int64_t stated = keys.integer("vocab_size", 1, kMaxDim, rows);
  if (stated != rows) {
    fail(ErrorKind::kInput, "{}: \"{}\" is {}, but \"token_embd.weight\" has {} rows", keys.where(),
         keys.name("vocab_size"), stated, rows);
  }
  return rows;
}

}  // namespace

void KeyReader::refuse_unsupported() {
  for (const Neutral& unsupported : kUnsupported) {
    const std::string key = name(unsupported.key);
    if (fields_.knows(key) || !fields_.has(key.c_str())) continue;
    const Json& value = *fields_.raw(key.c_str());
    const double number = value.is_boolean()  ? (value.get<bool>() ? 1.0 : 0.0)
                          : value.is_number() ? value.get<double>()
                                              : std::nan("");
    if (number == unsupported.value) continue;
    fail(ErrorKind::kInput, "{}: \"{}\" is {}, which is not supported, expected {:g} or none", where(), key,
         brief(value), unsupported.value);
  }
  if (!boolean("attention.causal", true)) {
    fail(ErrorKind::kInput, "{}: \"{}\" is false, expected a causal model", where(), name("attention.causal"));
  }
}

int64_t KeyReader::width(const char* key, const std::string& tensor_name) {
  const int64_t stated = integer(key, 1, kMaxWidth);
  const formats::TensorEntry* found = tensor(tensor_name);
  if (found == nullptr || found->shape.rank() < 2) return stated;
  const int64_t rows = found->shape[found->shape.rank() - 2];
  if (rows == stated || rows < 1) return stated;
  warnings.push_back(fmt::format("{}: \"{}\" is {}, but \"{}\" has {} rows; using theirs", where(), name(key), stated,
                                 tensor_name, rows));
  return rows;
}

std::vector<std::string> KeyReader::unknown() const {
  std::vector<std::string> out;
  for (const auto& [key, value] : checkpoint_.gguf()->values.items()) {
    bool known = fields_.knows(key);
    for (const char* prefix : {"general.", "tokenizer.", "split.", "quantize.", "carousel."}) {
      known = known || key.starts_with(prefix);
    }
    for (const char* neutral : kWithoutEffect) known = known || key == name(neutral);
    if (!known) out.push_back(key);
  }
  return out;
}

void read_common_keys(KeyReader& keys, Json& out) {
  out["vocab_size"] = vocabulary(keys);
  out["hidden_size"] = keys.integer("embedding_length", 1, kMaxDim);
  out["num_hidden_layers"] = keys.integer("block_count", 0, kMaxLayers);
  out["tie_word_embeddings"] = keys.tensor("output.weight") == nullptr;
  if (keys.has("context_length")) out["max_position_embeddings"] = keys.integer("context_length", 1, INT64_MAX);
  const DType dtype = keys.tensor("token_embd.weight")->dtype;
  if (is_float(dtype)) {
    out["torch_dtype"] = dtype == DType::kF16 ? "float16" : dtype == DType::kBF16 ? "bfloat16" : "float32";
  }
  // Tokens that begin and end texts. Chat models end turns by others.
  Fields& fields = keys.all();
  const auto token = [&](const char* key) -> std::optional<int64_t> {
    if (!fields.has(key)) return {};
    return fields.integer(key, 0, INT32_MAX);
  };
  if (const auto bos = token("tokenizer.ggml.bos_token_id")) out["bos_token_id"] = *bos;
  if (const auto pad = token("tokenizer.ggml.padding_token_id")) out["pad_token_id"] = *pad;
  std::vector<int64_t> ends;
  const auto take_end = [&](int64_t id) {
    if (std::find(ends.begin(), ends.end(), id) == ends.end()) ends.push_back(id);
  };
  for (const char* key :
       {"tokenizer.ggml.eos_token_id", "tokenizer.ggml.eot_token_id", "tokenizer.ggml.eom_token_id"}) {
    if (const auto id = token(key)) take_end(*id);
  }
  for (const int64_t id : fields.integers(kGgufFurtherEnds, 0, INT32_MAX, kMaxEnds)) take_end(id);
  if (ends.size() == 1) out["eos_token_id"] = ends.front();
  if (ends.size() > 1) out["eos_token_id"] = ends;
}

// Heads and rotation. kv heads: one number, or one per layer, where 0 is a layer without attention.
std::vector<int64_t> read_attention_keys(KeyReader& keys, std::optional<double> default_theta, Json& out) {
  const auto layers = out.at("num_hidden_layers").get<int64_t>();
  const int64_t heads = keys.integer("attention.head_count", 1, kMaxDim);
  out["num_attention_heads"] = heads;
  const Json* kv = keys.raw("attention.head_count_kv");
  std::vector<int64_t> schedule(static_cast<size_t>(layers), heads);
  if (kv != nullptr && kv->is_array()) {
    schedule = keys.integers("attention.head_count_kv", 0, kMaxDim);
    if (static_cast<int64_t>(schedule.size()) != layers) {
      fail(ErrorKind::kInput, "{}: \"{}\" lists {} layers, expected \"{}\" {}", keys.where(),
           keys.name("attention.head_count_kv"), schedule.size(), keys.name("block_count"), layers);
    }
  } else if (kv != nullptr) {
    schedule.assign(schedule.size(), keys.integer("attention.head_count_kv", 1, kMaxDim));
  }
  int64_t kv_heads = 0;
  for (const int64_t count : schedule) {
    if (count == 0) continue;
    if (kv_heads != 0 && count != kv_heads) {
      fail(ErrorKind::kInput, "{}: \"{}\" has layers of {} and of {}, expected the same number in all that have any",
           keys.where(), keys.name("attention.head_count_kv"), kv_heads, count);
    }
    kv_heads = count;
  }
  out["num_key_value_heads"] = kv_heads == 0 ? heads : kv_heads;
  int64_t head_dim = out.at("hidden_size").get<int64_t>() / heads;
  if (keys.has("attention.key_length")) {
    head_dim = keys.integer("attention.key_length", 1, kMaxDim);
    out["head_dim"] = head_dim;
  } else if (out.at("hidden_size").get<int64_t>() % heads != 0) {
    fail(ErrorKind::kInput, "{}: \"{}\" is {}, expected a divisor of \"{}\" {}, or \"{}\"", keys.where(),
         keys.name("attention.head_count"), heads, keys.name("embedding_length"), out.at("hidden_size").get<int64_t>(),
         keys.name("attention.key_length"));
  }
  for (const char* key : {"attention.value_length", "rope.dimension_count"}) {
    const int64_t same = keys.integer(key, 1, kMaxDim, head_dim);
    if (same == head_dim) continue;
    fail(ErrorKind::kInput, "{}: \"{}\" is {}, expected the size of a head, {}", keys.where(), keys.name(key), same,
         head_dim);
  }
  const double theta = keys.number("rope.freq_base", 1e-3, 1e12, default_theta);
  out["rope_theta"] = theta;
  if (const std::string scaling = keys.string("rope.scaling.type", "none"); scaling != "none") {
    fail(ErrorKind::kInput,
         "{}: \"{}\" is \"{}\", which is not supported, expected none or a tensor \"rope_freqs.weight\"", keys.where(),
         keys.name("rope.scaling.type"), scaling);
  }
  if (const formats::TensorEntry* freqs = keys.tensor("rope_freqs.weight")) {
    out["rope_scaling"] = read_rope_factors(*freqs, theta, head_dim, keys.all(), keys.name("rope.llama3."));
  }
  return schedule;
}

}  // namespace carousel::model
