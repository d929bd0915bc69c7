// SPDX-License-Identifier: Apache-2.0
// Writes a model's keys under its architecture's prefix, the sizes taken from its parameters.
#include "carousel/model/gguf/key_writer.h"

#include "carousel/core/error.h"

namespace carousel::model {

int64_t KeyWriter::rows(const std::string& parameter) const {
  for (const ParamRecord& record : records_) {
    if (record.name == parameter) return record.shape[0];
  }
  fail(ErrorKind::kInput, "GGUF: the model has no parameter {}", parameter);
}

Json KeyWriter::options(const std::string& block) const {
  for (const Sublayer& sublayer : config_.sublayers) {
    if (sublayer.block == block) return sublayer.options;
  }
  return Json::object();
}

void KeyWriter::common() {
  count("block_count", config_.num_layers);
  count("embedding_length", config_.hidden_size);
  count("vocab_size", config_.vocab_size);
  const Json& source = config_.source;
  const auto context = source.find("max_position_embeddings");
  const bool stated = context != source.end() && context->is_number_unsigned() && *context <= UINT32_MAX;
  // Readers of the format ask for one; a recurrent memory has no longest text.
  count("context_length", stated ? context->get<int64_t>() : int64_t{1} << 20);
  real("attention.layer_norm_rms_epsilon", config_.final_norm.eps);
}

void KeyWriter::attention() {
  const Json options = this->options("attention");
  if (options.empty()) {  // convolutions alone
    count("attention.head_count", stated(config_.source, "num_attention_heads", 32).get<int64_t>());
    real("rope.freq_base", 1e6);
    return;
  }
  const auto heads = options.at("num_heads").get<int64_t>();
  count("attention.head_count", heads);
  if (options.contains("head_dim")) {
    count("attention.key_length", options.at("head_dim").get<int64_t>());
    count("attention.value_length", options.at("head_dim").get<int64_t>());
  }
  count("rope.dimension_count", options.value("head_dim", config_.hidden_size / heads));
  real("rope.freq_base", options.at("rope_theta").get<double>());
  if (options.value("rope_type", "default") != "llama3") return;
  put("rope.llama3.factor", options.at("rope_factor").get<double>());
  put("rope.llama3.low_freq_factor", options.at("rope_low_freq_factor").get<double>());
  put("rope.llama3.high_freq_factor", options.at("rope_high_freq_factor").get<double>());
  put("rope.llama3.original_context_length", options.at("rope_original_max_position").get<uint64_t>());
}

}  // namespace carousel::model
