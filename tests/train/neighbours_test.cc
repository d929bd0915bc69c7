// SPDX-License-Identifier: Apache-2.0
// Two documents in one row of a language model: what one of them holds changes no bit of the other's losses, nor of the
// gradients of its loss, those of the embedding and the head included.
#include <gtest/gtest.h>

#include "carousel/model/families/family.h"
#include "carousel/ops/tokens/ids.h"
#include "carousel/train/objective.h"
#include "tests/cli/tiny_model.h"
#include "tests/isas.h"
#include "tests/ops/machine.h"

namespace carousel::train {
namespace {

constexpr int64_t kVocab = 256;

/// A document: its tokens and the target of each.
struct Document {
  std::vector<int32_t> tokens, targets;
};

Document drawn_document(int64_t length, uint64_t seed) {
  Document document;
  Rng rng(seed);
  for (int64_t t = 0; t < length; ++t) {
    document.tokens.push_back(static_cast<int32_t>(rng.bits() % kVocab));
    document.targets.push_back(static_cast<int32_t>(rng.bits() % kVocab));
  }
  return document;
}

/// The same document, whose loss is none of the batch's.
Document not_scored(Document document) {
  document.targets.assign(document.targets.size(), -1);
  return document;
}

Document with_last_token(Document document, int32_t token) {
  document.tokens.back() = token;
  return document;
}

Batch row_of(const std::vector<Document>& documents) {
  Batch batch;
  for (const Document& document : documents) {
    batch.tokens.insert(batch.tokens.end(), document.tokens.begin(), document.tokens.end());
    batch.targets.insert(batch.targets.end(), document.targets.begin(), document.targets.end());
    batch.lengths.push_back(static_cast<int64_t>(document.tokens.size()));
  }
  batch.rows = {{.first = 0, .end = static_cast<int64_t>(documents.size())}};
  return batch;
}

/// Losses of all rows [N].
Tensor losses_of(const model::TrainedModel& trained, const Stream& stream, const Batch& batch) {
  model::Pass pass(stream, Numerics::native());
  const model::Lm& lm = *trained.model.lm;
  return pass.run(batch.lengths, [&](Ctx& ctx, const Seqs& seqs, const StateBatch* states) {
    const ops::Ids tokens = ops::token_ids(ctx, batch.tokens, lm.vocab_size());
    const ops::Targets targets = ops::training_targets(ctx, batch.targets, lm.vocab_size());
    return lm.loss(ctx, lm.forward(ctx, tokens, seqs, states), targets, nullptr, 1).clone();
  });
}

/// The gradients of all parameters, from one row of a run that drops elements.
Tensor gradients_of(model::TrainedModel& trained, const Stream& stream, const Batch& batch, double* loss) {
  Objective objective(trained, stream);
  objective.drop(0.1f, 5);
  trained.params->clear_gradients();
  *loss = 0;
  objective.add_gradients(batch, 0.01f, loss);
  trained.params->finish_gradients();
  return trained.params->gradients().clone();
}

/// Every layer type in one model.
std::string all_layers(bool tied) {
  const Json config = {{"model_type", "carousel"},    {"vocab_size", kVocab},
                       {"hidden_size", 64},           {"layer_types", model::layer_type_names()},
                       {"tie_word_embeddings", tied}, {"ffn_config", {{"type", "moe"}, {"num_dense_layers", 3}}}};
  return config.dump();
}

class Neighbours : public testing::TestWithParam<std::string> {};

TEST_P(Neighbours, TheLastTokenOfADocumentChangesNoBitOfAnother) {
  const Scratch scratch;
  cli::write_file(scratch / "config.json", GetParam());
  const Document a = drawn_document(67, 1), b = drawn_document(75, 2);
  const Document other_a = with_last_token(a, (a.tokens.back() + 100) % kVocab);
  const int64_t a_rows = 67, b_rows = 75;
  for (const Isa isa : tested_isas()) {
    Machine machine(isa);
    model::TrainedModel trained = model::load_trained(scratch / "config.json", machine.stream, 7);
    for (const bool a_first : {true, false}) {
      const auto row = [&](const Document& one) { return row_of(a_first ? std::vector{one, b} : std::vector{b, one}); };
      const int64_t a_at = a_first ? 0 : b_rows, b_at = a_first ? a_rows : 0;
      const Tensor losses = losses_of(trained, machine.stream, row(a));
      const Tensor other = losses_of(trained, machine.stream, row(other_a));
      EXPECT_TRUE(same_bits(losses.f32() + b_at, other.f32() + b_at, b_rows));
      EXPECT_TRUE(same_bits(losses.f32() + a_at, other.f32() + a_at, a_rows - 1));
      EXPECT_NE(losses.f32()[a_at + a_rows - 1], other.f32()[a_at + a_rows - 1]) << "the token is read";

      double loss = 0, other_loss = 0;
      const Tensor gradients = gradients_of(trained, machine.stream, row(not_scored(a)), &loss);
      EXPECT_TRUE(same_bits(gradients, gradients_of(trained, machine.stream, row(not_scored(other_a)), &other_loss)));
      EXPECT_EQ(loss, other_loss);
      EXPECT_FALSE(same_bits(gradients, gradients_of(trained, machine.stream, row(a), &other_loss)));
    }
  }
}

INSTANTIATE_TEST_SUITE_P(Tiny, Neighbours,
                         testing::Values(cli::kTinyXlstm, cli::kTinyLfm2, cli::kTinyLlama, cli::kTinyMixed,
                                         all_layers(false), all_layers(true)),
                         [](const auto& named) { return "model" + std::to_string(named.index); });

}  // namespace
}  // namespace carousel::train
