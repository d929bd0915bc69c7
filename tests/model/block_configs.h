// SPDX-License-Identifier: Apache-2.0
// Configs whose matrices have rows of whole blocks, so that every weight type can hold them.
#pragma once

namespace carousel::model {

inline constexpr const char* kXlstm =
    R"({"model_type": "xlstm", "vocab_size": 40, "hidden_size": 64, "num_hidden_layers": 2, "num_heads": 2,
        "ffn_proj_factor": 1.5, "ffn_round_up_to_multiple_of": 16})";
inline constexpr const char* kMixed =
    R"({"model_type": "carousel", "vocab_size": 40, "hidden_size": 64, "num_hidden_layers": 4, "norm_eps": 1e-6,
        "tie_word_embeddings": true, "layer_types": ["mlstm", "conv", "full_attention", "slstm"],
        "mlstm_config": {"num_heads": 2}, "attention_config": {"num_heads": 2}, "ffn_config": {"type": "moe"},
        "moe_config": {"num_experts": 3, "intermediate_size": 32}})";

}  // namespace carousel::model
