// SPDX-License-Identifier: Apache-2.0
// The inverse of config.cc: a model's GGUF keys, from its blocks' options and the shapes of its parameters.
#include <fmt/format.h>

#include <algorithm>

#include "carousel/core/error.h"
#include "carousel/model/gguf/gguf.h"

namespace carousel::model {
namespace {

class Writer {
 public:
  Writer(const ModelConfig& config, const std::vector<ParamRecord>& records, std::string arch)
      : config_(config), records_(records), arch_(std::move(arch)) {
    keys.emplace_back("general.architecture", arch_);
    keys.emplace_back("general.type", std::string("model"));
  }

  void put(const char* key, formats::GgufValue value) { keys.emplace_back(arch_ + "." + key, std::move(value)); }
  void count(const char* key, int64_t value) { put(key, static_cast<uint32_t>(value)); }
  void real(const char* key, double value) { put(key, static_cast<float>(value)); }

  int64_t rows(const std::string& parameter) const {
    for (const ParamRecord& record : records_) {
      if (record.name == parameter) return record.shape[0];
    }
    fail(ErrorKind::kInput, "GGUF: the model has no parameter {}", parameter);
  }
  /// The options of the first sublayer with this block; empty when there is none.
  Json options(const std::string& block) const {
    for (const Sublayer& sublayer : config_.sublayers) {
      if (sublayer.block == block) return sublayer.options;
    }
    return Json::object();
  }
  const ModelConfig& config() const { return config_; }

  void common() {
    count("block_count", config_.num_layers);
    count("embedding_length", config_.hidden_size);
    count("vocab_size", config_.vocab_size);
    const Json& source = config_.source;
    const auto context = source.find("max_position_embeddings");
    const bool stated = context != source.end() && context->is_number_unsigned() && *context <= UINT32_MAX;
    // Readers of the format require the key; a recurrent memory has no longest text.
    count("context_length", stated ? context->get<int64_t>() : int64_t{1} << 20);
    real("attention.layer_norm_rms_epsilon", config_.final_norm.eps);
  }

  formats::GgufKeys keys;

 private:
  const ModelConfig& config_;
  const std::vector<ParamRecord>& records_;
  std::string arch_;
};

void attention(Writer& out) {
  const Json options = out.options("attention");
  if (options.empty()) {  // an LFM2 that has convolutions only
    out.count("attention.head_count", out.config().source.value("num_attention_heads", 32));
    out.real("rope.freq_base", 1e6);
    return;
  }
  const auto heads = options.at("num_heads").get<int64_t>();
  out.count("attention.head_count", heads);
  if (options.contains("head_dim")) {
    out.count("attention.key_length", options.at("head_dim").get<int64_t>());
    out.count("attention.value_length", options.at("head_dim").get<int64_t>());
  }
  out.count("rope.dimension_count", options.value("head_dim", out.config().hidden_size / heads));
  out.real("rope.freq_base", options.at("rope_theta").get<double>());
  if (options.value("rope_type", "default") != "llama3") return;
  out.put("rope.llama3.factor", options.at("rope_factor").get<double>());
  out.put("rope.llama3.low_freq_factor", options.at("rope_low_freq_factor").get<double>());
  out.put("rope.llama3.high_freq_factor", options.at("rope_high_freq_factor").get<double>());
  out.put("rope.llama3.original_context_length", options.at("rope_original_max_position").get<uint64_t>());
}

void llama(Writer& out) {
  out.common();
  attention(out);
  out.count("attention.head_count_kv", out.options("attention").value("num_kv_heads", int64_t{1}));
  out.count("feed_forward_length", out.options("swiglu").value("intermediate_size", int64_t{1}));
}

void lfm2(Writer& out) {
  out.common();
  attention(out);
  const int64_t kv_heads = out.options("attention").value("num_kv_heads", int64_t{0});
  std::vector<int32_t> schedule(static_cast<size_t>(out.config().num_layers), 0);
  for (const Sublayer& sublayer : out.config().sublayers) {
    if (sublayer.block == "attention") schedule[static_cast<size_t>(sublayer.layer)] = static_cast<int32_t>(kv_heads);
  }
  out.put("attention.head_count_kv", schedule);
  out.count("shortconv.l_cache", out.options("short_conv").value("kernel_size", int64_t{3}));
  const Json dense = out.options("swiglu"), experts = out.options("moe");
  if (out.config().model_type == "lfm2") {
    return out.count("feed_forward_length", dense.value("intermediate_size", int64_t{1}));
  }
  const auto of_dense = out.config().source.value("intermediate_size", int64_t{7168});
  out.count("feed_forward_length", dense.value("intermediate_size", of_dense));
  const auto is_dense = [](const Sublayer& sublayer) { return sublayer.block == "swiglu"; };
  out.count("leading_dense_block_count",
            std::count_if(out.config().sublayers.begin(), out.config().sublayers.end(), is_dense));
  if (experts.empty()) fail(ErrorKind::kInput, "GGUF: a lfm2_moe without experts, expected some layer to have them");
  out.count("expert_count", experts.at("num_experts").get<int64_t>());
  out.count("expert_used_count", experts.at("num_experts_per_tok").get<int64_t>());
  out.count("expert_feed_forward_length", experts.at("intermediate_size").get<int64_t>());
  out.count("expert_gating_func", 2);  // sigmoid
  out.real("expert_weights_scale", experts.at("routed_scaling_factor").get<double>());
  out.put("expert_weights_norm", experts.at("norm_topk_prob").get<bool>());
}

void xlstm(Writer& out) {
  out.common();
  const Json mlstm = out.options("mlstm");
  const int64_t heads = mlstm.value("num_heads", out.config().source.value("num_heads", int64_t{8}));
  out.count("mlstm.head_count", heads);
  out.count("mlstm.key_length", out.rows("layers.0.mlstm.q.weight") / heads);
  out.count("mlstm.value_length", out.rows("layers.0.mlstm.v.weight") / heads);
  out.real("mlstm.epsilon", mlstm.value("eps", 1e-6));
  out.real("mlstm.gate_soft_cap", mlstm.value("gate_soft_cap", 15.0));
  out.real("final_logit_softcapping", out.config().logit_soft_cap);
  out.count("feed_forward_length", out.rows("layers.0.ffn.gate.weight"));
  if (out.config().final_norm.kind == ops::Norm::Kind::kNone) out.put("output_norm", false);
}

}  // namespace

formats::GgufKeys gguf_keys(const ModelConfig& config, const std::vector<ParamRecord>& records) {
  const std::string arch = gguf_architecture(config);
  Writer out(config, records, arch);
  if (arch == "llama") {
    llama(out);
  } else if (arch == "xlstm") {
    xlstm(out);
  } else if (arch == "carousel") {
    out.put("config", config.source.dump());
  } else {
    lfm2(out);
  }
  return out.keys;
}

}  // namespace carousel::model
