// SPDX-License-Identifier: Apache-2.0
// The inverse of config.cc: a model's GGUF keys, from its blocks' options and the shapes of its parameters.
#include <fmt/format.h>

#include <algorithm>

#include "carousel/core/error.h"
#include "carousel/model/gguf/gguf.h"
#include "carousel/model/gguf/key_writer.h"

namespace carousel::model {
namespace {

void llama(KeyWriter& out) {
  out.common();
  out.attention();
  out.count("attention.head_count_kv", out.options("attention").value("num_kv_heads", int64_t{1}));
  out.count("feed_forward_length", out.options("swiglu").value("intermediate_size", int64_t{1}));
}

void lfm2(KeyWriter& out) {
  out.common();
  out.attention();
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

void xlstm(KeyWriter& out) {
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
  KeyWriter out(config, records, arch);
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
