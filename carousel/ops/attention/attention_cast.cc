// SPDX-License-Identifier: Apache-2.0
// Attention operation by operation, as transformers' eager form computes it, with every result rounded to the type it
// has there: all scores of a row, their softmax in f32, then the values. A task is one query head of one row.
#include "carousel/cpu/divide.h"
#include "carousel/ops/attention/attention_batch_cpu.h"
#include "carousel/ops/attention/rotary.h"
#include "carousel/ops/norm/norm_cast.h"

namespace carousel::cpu::CAROUSEL_ISA {
namespace {

struct CastCall {
  Call attention;
  Numerics::Norm rule;
  DType activations, rotary, scores;
};

/// out = rotate(norm(x)) for one head of one row; `stride` floats between the elements of out, which may be x.
void prepare(const CastCall& cast, const float* x, const float* norm, int64_t row, float* normed, float* out,
             int64_t stride) {
  const Call& args = cast.attention;
  const Rounding round(cast.activations), rotary(cast.rotary);
  const int64_t d = args.head_dim, half = args.rotary / 2;
  if (norm != nullptr) {
    const ops::NormArgs rms = {ops::Norm::Kind::kRms, args.norm_eps, norm, 0, nullptr};
    cast_norm_row({rms, cast.rule, cast.activations}, x, d, normed);
  } else {
    for (int64_t j = 0; j < d; ++j) normed[j] = x[j];
  }
  for (int64_t j = args.rotary; j < d; ++j) out[j * stride] = normed[j];
  for (int64_t j = 0; j < half; ++j) {
    const float cosine = args.cos_sin[row * args.rotary + j], sine = args.cos_sin[row * args.rotary + half + j];
    const float a = normed[j], b = normed[j + half];
    out[j * stride] = round(rotary(a * cosine) - rotary(b * sine));
    out[(j + half) * stride] = round(rotary(b * cosine) + rotary(a * sine));
  }
}

void write_row(const CastCall& cast, const Sequence& seq, int64_t t, float* scratch) {
  const Call& args = cast.attention;
  const Rounding rotary(cast.rotary);
  const int64_t d = args.head_dim, row = seq.first_row + t, pos = seq.pos + t;
  for (int64_t j = 0; j < args.rotary / 2; ++j) {
    const double angle = ops::rotary_angle(pos, args.inv_freq[j]);
    args.cos_sin[row * args.rotary + j] = rotary(static_cast<float>(std::cos(angle)));
    args.cos_sin[row * args.rotary + args.rotary / 2 + j] = rotary(static_cast<float>(std::sin(angle)));
  }
  const float* k = args.qkv.f32() + row * (args.heads + 2 * args.kv_heads) * d + args.heads * d;  // [G, d]
  const float* v = k + args.kv_heads * d;                                                         // [G, d]
  float* k_page = seq.k_pages[pos / kPage] + pos % kPage;
  float* v_page = seq.v_pages[pos / kPage] + pos % kPage * d;
  for (int64_t g = 0; g < args.kv_heads; ++g) {
    prepare(cast, k + g * d, args.k_norm, row, scratch, k_page + g * d * kPage, kPage);
    std::memcpy(v_page + g * kPage * d, v + g * d, sizeof(float) * static_cast<size_t>(d));
  }
}

/// Scores of keys first..last, then their probabilities, in place.
void softmax(float* scores, int64_t first, int64_t last, Rounding round) {
  float best = -INFINITY;
  for (int64_t j = first; j <= last; ++j) best = scores[j] > best ? scores[j] : best;
  double total = 0;
  for (int64_t j = first; j <= last; ++j) {
    scores[j] = std::exp(scores[j] - best);
    total += static_cast<double>(scores[j]);
  }
  for (int64_t j = first; j <= last; ++j) scores[j] = round(scores[j] / static_cast<float>(total));
}

void attend(const CastCall& cast, const Sequence& seq, int64_t t, int64_t head, float* scratch) {
  const Call& args = cast.attention;
  const Rounding round(cast.activations), score_round(cast.scores);
  const int64_t d = args.head_dim, row = seq.first_row + t, last = seq.pos + t;
  const int64_t first = ops::first_seen(last, args.window);
  const int64_t g = head / (args.heads / args.kv_heads);
  float* q = scratch;           // [d]
  float* values = scratch + d;  // [d]
  float* scores = values + d;   // [keys], to the end of a page
  prepare(cast, args.qkv.f32() + row * (args.heads + 2 * args.kv_heads) * d + head * d, args.q_norm, row, values, q, 1);
  const float scale = 1.0f / std::sqrt(static_cast<float>(d));
  for (int64_t page = first / kPage; page <= last / kPage; ++page) {
    const float* k = seq.k_pages[page] + g * d * kPage;  // [d, kPage]
    float* s = scores + page * kPage;
    for (int64_t j = 0; j < kPage; ++j) s[j] = 0.0f;
    for (int64_t e = 0; e < d; ++e) {
      for (int64_t j = 0; j < kPage; ++j) s[j] += q[e] * k[e * kPage + j];
    }
    for (int64_t j = 0; j < kPage; ++j) s[j] = score_round(score_round(s[j]) * scale);
  }
  softmax(scores, first, last, score_round);
  for (int64_t e = 0; e < d; ++e) values[e] = 0.0f;
  for (int64_t j = first; j <= last; ++j) {
    const float* v = seq.v_pages[j / kPage] + (g * kPage + j % kPage) * d;  // [d]
    for (int64_t e = 0; e < d; ++e) values[e] += scores[j] * v[e];
  }
  float* out = args.out.f32() + (row * args.heads + head) * d;  // [d]
  for (int64_t e = 0; e < d; ++e) out[e] = round(values[e]);
}

/// Floats of scratch memory one thread needs, for the keys of the longest sequence.
int64_t cast_scratch_floats(const ops::AttentionArgs& args) {
  int64_t keys = 0;
  for (int64_t s = 0; s < args.seqs.batch; ++s) keys = larger(keys, args.seqs.pos[s] + args.seqs.length(s));
  return 2 * args.head_dim + (keys + kPage) / 16 * 16 + kPage;
}

}  // namespace

int64_t cast_attention_workspace(const Stream& stream, const ops::CastAttentionArgs& cast) {
  Workspace counted;
  lay_out(stream, cast.attention, cast_scratch_floats(cast.attention), false, counted);
  return counted.bytes();
}

void cast_attention(const Stream& stream, const ops::CastAttentionArgs& given) {
  Workspace workspace(given.attention.workspace);
  const CastCall cast = {lay_out(stream, given.attention, cast_scratch_floats(given.attention), false, workspace),
                         given.rule, given.activations, given.rotary, given.scores};
  const Call& args = cast.attention;
  fill_own_table(args);
  for (int64_t s = 0; s < args.batch; ++s) {
    const Sequence& seq = args.sequences[s];
    // Rows of one page share cache lines: they are written by one task.
    for (int64_t t = 0; t < seq.rows; ++t) write_row(cast, seq, t, args.scratch);
    const int64_t work = seq.rows * args.heads * (seq.pos + seq.rows) * args.head_dim * 4;
    parallel_workers(stream, seq.rows * args.heads, work, [&](int64_t worker, int64_t item) {
      attend(cast, seq, item / args.heads, item % args.heads, args.scratch + worker * args.scratch_floats);
    });
  }
}

}  // namespace carousel::cpu::CAROUSEL_ISA
