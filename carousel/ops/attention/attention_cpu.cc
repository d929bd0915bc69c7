// SPDX-License-Identifier: Apache-2.0
// Attention on CPUs: new keys and values are written to their pages, then blocks of query rows pass over the pages with
// a running maximum (arXiv:1805.02867), span by span. Every row meets the same pages with the same operations in the
// same order, alone or in a block: decoding and prefill give the same bits.
#include "carousel/ops/attention/attention_cpu.h"

#include "carousel/cpu/divide.h"
#include "carousel/cpu/matmul.h"
#include "carousel/cpu/prefetch.h"
#include "carousel/ops/attention/attention_batch_cpu.h"
#include "carousel/ops/attention/attention_rows_cpu.h"

namespace carousel::cpu::CAROUSEL_ISA {
namespace {

// Blocks of few rows, as in decoding, wait for memory: their tiles are as wide as a page where registers allow, so that
// lines are read and prefetched in the order of their addresses.
constexpr int kStreamingRows = 8, kStreamingTileRows = 4;
constexpr int kStreamingVecs = kLanes == 16 ? 4 : kTileVecs;
constexpr int64_t kSoftmaxShare = 16;  // a row's softmax prefetches this part of the next slice; more at once stalls

/// out = rotate(norm(x)) * scale for one head of one row; kStride floats between the elements of out, known when this
/// is compiled so that queries are prepared in vectors.
template <int64_t kStride>
void prepare(const Call& args, const float* x, const float* norm, int64_t row, float scale, float* out) {
  const int64_t d = args.head_dim, half = args.rotary / 2;
  const float r = norm != nullptr ? norm_scale(args, x) : 1.0f;
  const auto normed = [&](int64_t j) { return norm == nullptr ? x[j] : x[j] * r * norm[j]; };
  for (int64_t j = args.rotary; j < d; ++j) out[j * kStride] = normed(j) * scale;
  if (args.cos_sin == nullptr) return;
  const float* cosine = args.cos_sin + row * args.rotary;  // [R/2]
  const float* sine = cosine + half;                       // [R/2]
  for (int64_t j = 0; j < half; ++j) {
    const auto pair = ops::rotate<LaneMath>({normed(j), normed(j + half)}, cosine[j], sine[j]);
    out[j * kStride] = pair.a * scale;
    out[(j + half) * kStride] = pair.b * scale;
  }
}

/// Writes the keys and values of one row into its pages, and its rotary angles into the table.
void write_row(const Call& args, const Sequence& seq, int64_t t) {
  const int64_t d = args.head_dim, row = seq.first_row + t, pos = seq.pos + t;
  if (args.cos_sin != nullptr) write_angles(args, pos, args.cos_sin + row * args.rotary);
  const float* k = args.qkv.f32() + row * (args.heads + 2 * args.kv_heads) * d + args.heads * d;  // [G, d]
  const float* v = k + args.kv_heads * d;                                                         // [G, d]
  float* k_page = seq.k_pages[pos / kPage] + pos % kPage;      // [G, d] at this row, kPage apart
  float* v_page = seq.v_pages[pos / kPage] + pos % kPage * d;  // [G, kPage, d] at this row
  for (int64_t g = 0; g < args.kv_heads; ++g) {
    prepare<kPage>(args, k + g * d, args.k_norm, row, 1.0f, k_page + g * d * kPage);
    std::memcpy(v_page + g * kPage * d, v + g * d, sizeof(float) * static_cast<size_t>(d));
  }
}

/// Writes item `item` of the batch: the rows of one page that one sequence writes. No two items share a cache line.
void write_page(const Call& args, int64_t item) {
  int64_t s = args.batch - 1;
  while (args.sequences[s].first_page_item > item || args.sequences[s].rows == 0) --s;
  const Sequence& seq = args.sequences[s];
  const int64_t page = seq.pos / kPage + item - seq.first_page_item;
  const int64_t begin = page * kPage > seq.pos ? page * kPage - seq.pos : 0;
  const int64_t end = (page + 1) * kPage - seq.pos;
  for (int64_t t = begin; t < (end < seq.rows ? end : seq.rows); ++t) write_row(args, seq, t);
}

/// A block of query rows of one key head: row r is query head r % rep of time first_time + r / rep.
struct Block {
  const Call* args;
  const Sequence* seq;
  int64_t g, rep;
  int64_t first_row, rows;  // among the T * rep query rows of (sequence, g)
  int64_t stride;           // floats from row to row of q and o
  float* q;                 // [kRows, stride] prepared and scaled by d^-1/2
  float* o;                 // [kRows, stride] unnormalised outputs
  float* p;                 // [kRows, kPage] scores, then their exponentials
  float max[kRows];
  float rescale[kRows];         // what brings the sums before the current page under the new maximum
  float totals[kRows][kLanes];  // the exponentials' sums so far, which are added up when a span has ended
  int64_t keys[kRows];          // how many keys row r may see of the sequence
  int64_t visible[kRows];       // how many keys of the current page lie at or before row r's position
  int64_t hidden[kRows];        // how many of these, from the first on, lie before row r's window

  int64_t time(int64_t r) const { return (first_row + r) / rep; }
  int64_t row(int64_t r) const { return seq->first_row + time(r); }
  int64_t head(int64_t r) const { return g * rep + (first_row + r) % rep; }
  float total(int64_t r) const { return sum(load(totals[r])); }
};

void prepare_queries(const Block& block) {
  const Call& args = *block.args;
  const int64_t d = args.head_dim;
  const float scale = 1.0f / std::sqrt(static_cast<float>(d));
  for (int64_t r = 0; r < block.rows; ++r) {
    const float* q = args.qkv.f32() + block.row(r) * (args.heads + 2 * args.kv_heads) * d + block.head(r) * d;  // [d]
    prepare<1>(args, q, args.q_norm, block.row(r), scale, block.q + r * block.stride);
  }
}

void start_span(Block* block) {
  for (float& factor : block->rescale) factor = 0.0f;
  for (int64_t r = 0; r < block->rows; ++r) {
    std::memset(block->o + r * block->stride, 0, sizeof(float) * static_cast<size_t>(block->args->head_dim));
    block->max[r] = -INFINITY;
    store(block->totals[r], Vec{});
  }
}

/// p = q k^T for the columns of the page that some row of a tile sees. Rows are the outer loop: a page's keys stay in
/// the first level of cache, queries and scores pass through it. The first tile of a page prefetches the values.
template <int kMaxRows, int kMaxVecs>
void page_scores(const Block& block, const float* k_page, const float* v_page) {
  const int64_t d = block.args->head_dim;
  for_row_tiles<kMaxRows>(block.rows, [&]<int R>(int64_t r) {
    const int64_t columns = block.visible[r + R - 1];
    for_column_tiles<kMaxVecs>(kPage, [&]<int V, bool kPartial>(int64_t j, int64_t lanes) {
      if (j >= columns) return;
      Tile<R, V> tile;
      clear_tile(tile.acc);
      const auto product = [&]<bool kFetch>() CAROUSEL_INLINE_LAMBDA {
        multiply_add<kPartial, kFetch>(tile, block.q + r * block.stride, block.stride, 1, k_page + j, kPage, d, lanes,
                                       v_page + j);
      };
      r == 0 ? product.template operator()<true>() : product.template operator()<false>();
      store_tile(tile.acc, block.p + r * kPage + j, kPage);
    });
  });
}

/// Prefetches row r's share of the next keys, so that they are read during the softmax.
void fetch_share(const Block& block, int64_t r, const float* next_k_page) {
  const int64_t floats = block.args->head_dim * kPage / kSoftmaxShare;
  prefetch_far_floats(next_k_page + r * floats, floats);
}

/// Each row's largest score up to this page's end, and the factor that brings its sums so far under it. Keys that a row
/// does not see score -infinity.
void page_maxima(Block* block, const float* next_k_page) {
  constexpr int kVecs = kPage / kLanes;
  for (int64_t r = 0; r < block->rows; ++r) {
    if (next_k_page != nullptr) fetch_share(*block, r, next_k_page);
    float* p = block->p + r * kPage;  // [kPage]
    const int64_t visible = block->visible[r], hidden = block->hidden[r];
    block->rescale[r] = 0.0f;
    if (hidden >= visible) continue;
    for (int64_t j = 0; j < hidden; ++j) p[j] = -INFINITY;
    for (int64_t j = visible; j < kPage; ++j) p[j] = -INFINITY;
    Vec best = load(p);
#pragma GCC unroll 16
    for (int v = 1; v < kVecs; ++v) best = max(best, load(p + v * kLanes));
    const float page_max = max_lane(best);
    if (page_max > block->max[r]) {
      block->rescale[r] = block->max[r] - page_max;
      block->max[r] = page_max;
    }
  }
  for (int64_t r = 0; r < block->rows; r += kLanes) store(block->rescale + r, exp_decay(load(block->rescale + r)));
}

/// The scores become exponentials under their row's maximum. Keys before the row's window weigh zero: the row still
/// takes its chain through them, so that it is the same chain beside rows that see more of the page.
void page_softmax(Block* block) {
  constexpr int kVecs = kPage / kLanes;
  for (int64_t r = 0; r < block->rows; ++r) {
    float* p = block->p + r * kPage;  // [kPage]
    if (block->hidden[r] >= block->visible[r]) {
      for (int64_t j = 0; j < block->visible[r]; ++j) p[j] = 0.0f;
      continue;
    }
    const Vec top = set1(block->max[r]);
    Vec total = {};
#pragma GCC unroll 16
    for (int v = 0; v < kVecs; ++v) {
      const Vec e = exp_decay(load(p + v * kLanes) - top);
      store(p + v * kLanes, e);
      total = total + e;
    }
    store(block->totals[r], fma(load(block->totals[r]), set1(block->rescale[r]), total));
  }
}

/// o = rescale * o + p v over the keys each row sees. Rows of a tile share the keys its first row sees; the rest of
/// the later rows' keys follow one row at a time, so that a row's chain is the same in every tile. The first tile of a
/// page prefetches the next keys.
template <int kMaxRows, int kMaxVecs>
void page_values(const Block& block, const float* v_page, const float* next_k_page) {
  const int64_t d = block.args->head_dim;
  for_row_tiles<kMaxRows>(block.rows, [&]<int R>(int64_t r) {
    const int64_t common = block.visible[r];
    for_column_tiles<kMaxVecs>(d, [&]<int V, bool kPartial>(int64_t j, int64_t lanes) {
      float* o = block.o + r * block.stride + j;
      Tile<R, V> tile;
      load_tile<kPartial>(tile.acc, o, block.stride, lanes);
      scale_tile(tile.acc, [&](int i) { return block.rescale[r + i]; });
      const auto product = [&]<bool kFetch>() CAROUSEL_INLINE_LAMBDA {
        multiply_add<kPartial, kFetch>(tile, block.p + r * kPage, kPage, 1, v_page + j, d, common, lanes,
                                       next_k_page + j);
      };
      r == 0 ? product.template operator()<true>() : product.template operator()<false>();
      store_tile<kPartial>(tile.acc, o, block.stride, lanes);
      for (int64_t i = 1; i < R; ++i) {
        const int64_t rest = block.visible[r + i] - common;
        if (rest == 0) continue;
        float* o_i = o + i * block.stride;
        Tile<1, V> one;
        load_tile<kPartial>(one.acc, o_i, 0, lanes);
        multiply_add<kPartial>(one, block.p + (r + i) * kPage + common, 0, 1, v_page + common * d + j, d, rest, lanes);
        store_tile<kPartial>(one.acc, o_i, 0, lanes);
      }
    });
  });
}

/// A row's d sums over keys, not yet divided by `total`; sums and total are relative to e^max.
struct Share {
  float* o;  // [d]
  float max, total;
};

/// sum += share. A share whose row sees none of its keys (total 0) adds nothing; sums that are not finite stay so.
void join(Share* sum, const Share& share, int64_t d) {
  if (share.total == 0.0f) return;
  if (sum->total == 0.0f) {
    std::memcpy(sum->o, share.o, sizeof(float) * static_cast<size_t>(d));
    sum->max = share.max;
    sum->total = share.total;
    return;
  }
  const float top = share.max > sum->max ? share.max : sum->max;
  const float a = std::exp(sum->max - top), b = std::exp(share.max - top);
  for (int64_t j = 0; j < d; ++j) sum->o[j] = sum->o[j] * a + share.o[j] * b;
  sum->total = sum->total * a + share.total * b;
  sum->max = top;
}

void write_out(const Block& block, int64_t r, const Share& sum) {
  const int64_t d = block.args->head_dim;
  float* out = block.args->out.f32() + block.row(r) * block.args->heads * d + block.head(r) * d;  // [d]
  for (int64_t j = 0; j < d; ++j) out[j] = sum.o[j] / sum.total;
  if (block.args->log_sums == nullptr) return;
  block.args->log_sums[block.row(r) * block.args->heads + block.head(r)] = sum.max + std::log(sum.total);
}

/// Block `index` of the batch for key head g, without scratch memory.
Block block_of(const Call& args, int64_t index, int64_t g) {
  int64_t s = args.batch - 1;
  while (args.sequences[s].first_block > index || args.sequences[s].rows == 0) --s;
  Block block;
  block.args = &args;
  block.seq = &args.sequences[s];
  block.g = g;
  block.rep = args.heads / args.kv_heads;
  block.first_row = (index - block.seq->first_block) * kRows;
  const int64_t rest = block.seq->rows * block.rep - block.first_row;
  block.rows = rest < kRows ? rest : kRows;
  block.stride = row_stride(args.head_dim);
  for (int64_t r = 0; r < block.rows; ++r) block.keys[r] = block.seq->pos + block.time(r) + 1;
  return block;
}

void give_scratch(Block* block, int64_t worker) {
  block->q = block->args->scratch + worker * block->args->scratch_floats;
  block->o = block->q + kRows * block->stride;
  block->p = block->o + kRows * block->stride;
}

/// Forms the sums over the keys of one span, from the first page that some row of the block sees.
void attend_span(Block* block, int64_t span) {
  const Call& args = *block->args;
  constexpr int64_t kPages = ops::kAttentionSpan / kPage;
  start_span(block);
  const int64_t last_key = block->seq->pos + block->time(block->rows - 1);
  const int64_t before = ops::first_seen(block->seq->pos + block->time(0), args.window);  // keys no row sees
  const int64_t first = before > span * ops::kAttentionSpan ? before / kPage : span * kPages;
  const bool shared = args.parts.memory != nullptr;  // then another thread takes the next span
  const int64_t last = last_key / kPage < (span + 1) * kPages ? last_key / kPage : (span + 1) * kPages - 1;
  for (int64_t page = first; page <= last; ++page) {
    for (int64_t r = 0; r < block->rows; ++r) {
      const int64_t visible = block->keys[r] - page * kPage;
      const int64_t hidden = args.window > 0 ? visible - args.window : 0;
      block->visible[r] = visible < 0 ? 0 : visible < kPage ? visible : kPage;
      block->hidden[r] = hidden < 0 ? 0 : hidden < kPage ? hidden : kPage;
    }
    const int64_t slice = block->g * args.head_dim * kPage;  // where this key head begins in a page
    const int64_t next = page < (shared ? last : last_key / kPage) ? page + 1 : page;
    const float *k = block->seq->k_pages[page] + slice, *v = block->seq->v_pages[page] + slice;
    const float* const next_k = block->seq->k_pages[next] + slice;
    const bool streams = block->rows <= kStreamingRows;
    (streams ? page_scores<kStreamingTileRows, kStreamingVecs> : page_scores<kTileRows, kTileVecs>)(*block, k, v);
    page_maxima(block, streams ? next_k : nullptr);
    page_softmax(block);
    (streams ? page_values<kStreamingTileRows, kStreamingVecs> : page_values<kTileRows, kTileVecs>)(*block, v, next_k);
  }
}

/// Attends to all spans of a block.
void attend(const Call& args, int64_t worker, int64_t item) {
  // The last blocks of a sequence see the most keys: they are claimed first, so that no thread ends with one alone.
  Block block = block_of(args, args.blocks - 1 - item / args.kv_heads, item % args.kv_heads);
  give_scratch(&block, worker);
  prepare_queries(block);
  if (block.seq->spans == 1) {
    attend_span(&block, block.seq->first_span);
    for (int64_t r = 0; r < block.rows; ++r) {
      write_out(block, r, {block.o + r * block.stride, block.max[r], block.total(r)});
    }
    return;
  }
  float* const memory = block.p + kRows * kPage;  // [kRows, stride]
  Share sums[kRows];
  for (int64_t r = 0; r < block.rows; ++r) sums[r] = {memory + r * block.stride, -INFINITY, 0.0f};
  for (int64_t span = block.seq->first_span; span < block.seq->first_span + block.seq->spans; ++span) {
    attend_span(&block, span);
    for (int64_t r = 0; r < block.rows; ++r) {
      join(&sums[r], {block.o + r * block.stride, block.max[r], block.total(r)}, args.head_dim);
    }
  }
  for (int64_t r = 0; r < block.rows; ++r) write_out(block, r, sums[r]);
}

/// Where row r's sums in part `part` of key head g are kept.
float* part_row(const Call& args, int64_t part, int64_t g, int64_t r) {
  const int64_t stride = part_floats(args.head_dim);
  return args.parts.memory + ((part * args.kv_heads + g) * args.parts.rows + r) * stride;
}

/// Attends to one span of a block and keeps the sums in its part.
void attend_part(const Call& args, int64_t worker, int64_t item) {
  const int64_t part = item / args.kv_heads;
  int64_t s = args.batch - 1;
  while (args.sequences[s].first_part > part || args.sequences[s].rows == 0) --s;
  const Sequence& seq = args.sequences[s];
  const int64_t in_sequence = part - seq.first_part;
  Block block = block_of(args, seq.first_block + in_sequence / seq.spans, item % args.kv_heads);
  give_scratch(&block, worker);
  prepare_queries(block);
  attend_span(&block, seq.first_span + in_sequence % seq.spans);
  for (int64_t r = 0; r < block.rows; ++r) {
    float* row = part_row(args, part, block.g, r);
    std::memcpy(row, block.o + r * block.stride, sizeof(float) * static_cast<size_t>(args.head_dim));
    row[block.stride] = block.max[r];
    row[block.stride + 1] = block.total(r);
  }
}

/// Joins the parts of a block in their order.
void join_parts(const Call& args, int64_t index, int64_t g) {
  const Block block = block_of(args, index, g);
  const int64_t first = block.seq->first_part + (index - block.seq->first_block) * block.seq->spans;
  for (int64_t r = 0; r < block.rows; ++r) {
    const auto share = [&](int64_t part) {
      float* row = part_row(args, part, g, r);
      return Share{row, row[block.stride], row[block.stride + 1]};
    };
    Share sum = share(first);
    for (int64_t i = 1; i < block.seq->spans; ++i) join(&sum, share(first + i), args.head_dim);
    write_out(block, r, sum);
  }
}

/// Floats of scratch memory of one thread: a block's queries, its outputs of one span, its scores, and its outputs so
/// far.
constexpr int64_t scratch_floats(int64_t head_dim) {
  return kRows * (2 * row_stride(head_dim) + kPage + part_floats(head_dim));
}

}  // namespace

int64_t attention_workspace(const Stream& stream, const ops::AttentionArgs& args) {
  Workspace counted;
  lay_out(stream, args, scratch_floats(args.head_dim), true, counted);
  return counted.bytes();
}

void attention(const Stream& stream, const ops::AttentionArgs& given) {
  Workspace workspace(given.workspace);
  const Call args = lay_out(stream, given, scratch_floats(given.head_dim), true, workspace);
  fill_own_table(args);
  const int64_t d = args.head_dim;
  int64_t rows = 0, keys = 0;
  for (int64_t s = 0; s < args.batch; ++s) {
    rows += args.sequences[s].rows;
    const int64_t seen = args.sequences[s].pos + args.sequences[s].rows;
    keys += args.sequences[s].rows * (args.window > 0 && args.window < seen ? args.window : seen);
  }
  const int64_t write_work = rows * d * (args.kv_heads * 8 + 50) / args.page_items;  // 50: a cosine and a sine
  parallel_ranges(stream, args.page_items, write_work, [&](int64_t begin, int64_t end) {
    for (int64_t item = begin; item < end; ++item) write_page(args, item);
  });
  const int64_t work = keys * args.heads * d * 4, items = args.blocks * args.kv_heads;
  if (args.parts.memory == nullptr) {
    parallel_workers(stream, items, work, [&](int64_t worker, int64_t item) { attend(args, worker, item); });
    return;
  }
  parallel_workers(stream, args.parts.count * args.kv_heads, work,
                   [&](int64_t worker, int64_t item) { attend_part(args, worker, item); });
  const int64_t join_work = args.parts.count * args.parts.rows * d * 3 / args.blocks;
  parallel_ranges(stream, items, join_work, [&](int64_t begin, int64_t end) {
    for (int64_t item = begin; item < end; ++item) join_parts(args, item / args.kv_heads, item % args.kv_heads);
  });
}

}  // namespace carousel::cpu::CAROUSEL_ISA
