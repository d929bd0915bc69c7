// SPDX-License-Identifier: Apache-2.0
// The one list of blocks. A new block adds its make_ declaration and its line here, and nothing elsewhere.
#include <fmt/format.h>
#include <fmt/ranges.h>

#include "carousel/blocks/block.h"
#include "carousel/core/error.h"

namespace carousel::blocks {

std::unique_ptr<Block> make_attention(const BlockConfig&, Params);
std::unique_ptr<Block> make_mlstm(const BlockConfig&, Params);
std::unique_ptr<Block> make_mlstm_v1(const BlockConfig&, Params);
std::unique_ptr<Block> make_moe(const BlockConfig&, Params);
std::unique_ptr<Block> make_ncps_cfc(const BlockConfig&, Params);
std::unique_ptr<Block> make_ncps_ltc(const BlockConfig&, Params);
std::unique_ptr<Block> make_short_conv(const BlockConfig&, Params);
std::unique_ptr<Block> make_slstm(const BlockConfig&, Params);
std::unique_ptr<Block> make_swiglu(const BlockConfig&, Params);

namespace {

constexpr Entry kBlocks[] = {
    {"attention", make_attention, "causal grouped-query attention with rotary positions"},
    {"mlstm", make_mlstm, "xLSTM-7B's matrix-memory LSTM with per-head norm and output gate"},
    {"mlstm_v1", make_mlstm_v1, "the 2024 xLSTM's mLSTM with convolution, block-diagonal q, k, v and skip"},
    {"moe", make_moe, "mixture of gated feed-forward networks with a sigmoid router"},
    {"ncps_cfc", make_ncps_cfc, "closed-form continuous-time cell, plain or wired"},
    {"ncps_ltc", make_ncps_ltc, "liquid time-constant cell on a wiring of neurons"},
    {"short_conv", make_short_conv, "LFM2's gated short convolution"},
    {"slstm", make_slstm, "scalar-memory LSTM with exponential gates and recurrent heads"},
    {"swiglu", make_swiglu, "gated feed-forward network"},
};

}  // namespace

std::vector<Entry> registry() { return {std::begin(kBlocks), std::end(kBlocks)}; }

Entry find_block(const std::string& name, const std::string& where) {
  std::vector<std::string> known;
  for (const Entry& entry : kBlocks) {
    if (name == entry.name) return entry;
    known.emplace_back(entry.name);
  }
  fail(ErrorKind::kInput, "{}: unknown block \"{}\"; known blocks: {}", where, name, fmt::join(known, ", "));
}

}  // namespace carousel::blocks
