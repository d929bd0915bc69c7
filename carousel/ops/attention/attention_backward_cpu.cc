// SPDX-License-Identifier: Apache-2.0
// The gradient of attention. A thread takes one sequence and key head: blocks of query rows pass over the pages once,
// and the scores of each tile are made again from the logarithms of the rows' sums (arXiv:2205.14135, appendix B.2):
//   p = exp(q k - log_sum)   d_p = d_out v   d_s = p (d_p - d_out out)   d_v += p d_out   d_k += d_s q   d_q += d_s k
// A key's gradient is one chain over the query rows in their order, a query's one chain over the keys in theirs. What a
// mask hides is an exact zero in these chains, so tiles leave it out.
#include "carousel/ops/attention/attention_backward_cpu.h"

#include "carousel/cpu/divide.h"
#include "carousel/cpu/matmul.h"
#include "carousel/cpu/transpose.h"
#include "carousel/ops/attention/attention_batch_cpu.h"
#include "carousel/ops/attention/attention_rows_cpu.h"

namespace carousel::cpu::CAROUSEL_ISA {
namespace {

constexpr int64_t kAngleWork = 50;  // of a cosine and a sine

/// A sequence and the pages it sees, counted from page `first_page` of its state on.
struct Span {
  int64_t first_row, rows, pos;  // its rows in the batch, and the position of the first one
  int64_t first_page, pages;     // pages with keys that some row sees
  int64_t kept, first_kept;      // how many of them have rows before this forward, and where these were kept
};

/// What is laid out in the workspace.
struct Backward : ops::AttentionBackwardArgs {
  Span* spans;       // [B]
  float* cos_sin;    // [N, R]; null: no rotation
  float* norm_sums;  // [B, G, 2, stride] gradients of q_norm and k_norm; null: not wanted
  float* scratch;    // [threads, scratch_floats]
  int64_t scratch_floats;
  int64_t stride;      // floats from row to row in scratch memory
  int64_t most_pages;  // of one sequence

  int64_t width() const { return (attention.heads + 2 * attention.kv_heads) * attention.head_dim; }
};

Span span_of(const ops::AttentionArgs& args, int64_t s, int64_t first_kept) {
  const ops::KeptPages kept = {args.window};
  Span span = {args.seqs.first_row(s), args.seqs.length(s), args.seqs.pos[s], 0, 0, 0, first_kept};
  span.first_page = kept.first(span.pos);
  span.kept = kept.count(span.pos, span.rows);
  span.pages = pages_for(span.pos + span.rows) - span.first_page;
  return span;
}

Backward lay_out(const Stream& stream, const ops::AttentionBackwardArgs& args, Workspace& workspace) {
  Backward call = {};
  static_cast<ops::AttentionBackwardArgs&>(call) = args;
  const ops::AttentionArgs& forward = args.attention;
  const int64_t batch = forward.seqs.batch;
  call.stride = row_stride(forward.head_dim);
  call.spans = workspace.take<Span>(batch);
  int64_t kept = 0;
  for (int64_t s = 0; s < batch; ++s) {
    const Span span = span_of(forward, s, kept);
    kept += span.kept;
    if (span.rows > 0) call.most_pages = larger(call.most_pages, span.pages);
    if (call.spans != nullptr) call.spans[s] = span;
  }
  if (forward.rotary > 0) call.cos_sin = workspace.take<float>(forward.seqs.rows() * forward.rotary);
  if (args.d_q_norm != nullptr || args.d_k_norm != nullptr) {
    call.norm_sums = workspace.take<float>(batch * forward.kv_heads * 2 * call.stride);
  }
  const int64_t of_page = kPage * (2 * forward.head_dim + 3 * call.stride);
  call.scratch_floats = call.most_pages * row_stride(of_page) + kPage * call.stride + 3 * kRows * call.stride +
                        2 * kRows * kPage + call.stride;
  call.scratch = workspace.take<float>(stream.threads() * call.scratch_floats);
  return call;
}

/// One sequence and key head, over the scratch memory of a thread. Its rows are rep * T: row i is query head i % rep of
/// time i / rep. A block holds `rows` of them from `first_row` on.
struct Head {
  const Backward* call;
  const Span* span;
  int64_t g, rep;
  float *k_t, *v_t;        // [pages, d, kPage] keys, normed and rotated, and values
  float* k;                // [pages * kPage, stride] keys, normed and rotated
  float *d_k, *d_v;        // [pages * kPage, stride]
  float* values;           // [kPage, stride] of one page
  float *q, *d_out, *d_q;  // [kRows, stride] q normed, rotated and scaled by d^-1/2
  float *p, *d_s;          // [kRows, kPage] weights, and the gradients of scores
  float* normed;           // [stride] the gradient of one normed head
  int64_t first_row, rows;
  int64_t pos[kRows];  // of every row
  float log_sum[kRows];
  float share[kRows];  // d_out out

  const ops::AttentionArgs& args() const { return call->attention; }
  int64_t time(int64_t r) const { return (first_row + r) / rep; }
  int64_t row(int64_t r) const { return span->first_row + time(r); }
  int64_t head(int64_t r) const { return g * rep + (first_row + r) % rep; }
  /// How many keys of a page lie at or before row r's position, and how many of these before its window.
  int64_t seen(int64_t r, int64_t page) const {
    const int64_t count = pos[r] + 1 - (span->first_page + page) * kPage;
    return count < 0 ? 0 : count < kPage ? count : kPage;
  }
  int64_t hidden(int64_t r, int64_t page) const {
    if (args().window == 0) return 0;
    const int64_t count = pos[r] + 1 - args().window - (span->first_page + page) * kPage;
    return count < 0 ? 0 : count < kPage ? count : kPage;
  }
  /// The first row that sees key i of a page, and the first one after it that no longer sees key `last`.
  int64_t first_seeing(int64_t i, int64_t page) const {
    const int64_t r = ((span->first_page + page) * kPage + i - span->pos) * rep - first_row;
    return r < 0 ? 0 : r < rows ? r : rows;
  }
  int64_t end_seeing(int64_t last, int64_t page) const {
    if (args().window == 0) return rows;
    const int64_t r = ((span->first_page + page) * kPage + last - span->pos + args().window) * rep - first_row;
    return r < 0 ? 0 : r < rows ? r : rows;
  }
};

Head head_of(const Backward& call, int64_t worker, int64_t item) {
  const ops::AttentionArgs& args = call.attention;
  Head head;
  head.call = &call;
  head.span = &call.spans[item / args.kv_heads];
  head.g = item % args.kv_heads;
  head.rep = args.heads / args.kv_heads;
  const int64_t keys = call.most_pages * kPage;
  float* memory = call.scratch + worker * call.scratch_floats;
  const auto take = [&](int64_t floats) {
    float* const place = memory;
    memory += floats;
    return place;
  };
  head.k = take(keys * call.stride);
  head.d_k = take(keys * call.stride);
  head.d_v = take(keys * call.stride);
  head.values = take(kPage * call.stride);
  head.q = take(kRows * call.stride);
  head.d_out = take(kRows * call.stride);
  head.d_q = take(kRows * call.stride);
  head.normed = take(call.stride);
  head.p = take(kRows * kPage);
  head.d_s = take(kRows * kPage);
  head.k_t = take(keys * args.head_dim);
  head.v_t = take(keys * args.head_dim);
  return head;
}

/// to [d, kPage] = from [kPage, stride], transposed.
void transpose_rows(const float* from, int64_t stride, int64_t d, float* to) {
  for (int64_t i = 0; i < kPage; i += kLanes) {
    for (int64_t j = 0; j < d; j += kLanes) {
      Vec rows[kLanes];
      for (int64_t r = 0; r < kLanes; ++r) rows[r] = load(from + (i + r) * stride + j);
      transpose(rows);
      for (int64_t r = 0; r < kLanes && j + r < d; ++r) store(to + (j + r) * kPage + i, rows[r]);
    }
  }
}

/// to [kPage, stride] = from [d, kPage], transposed.
void transpose_page(const float* from, int64_t stride, int64_t d, float* to) {
  for (int64_t i = 0; i < kPage; i += kLanes) {
    for (int64_t j = 0; j < d; j += kLanes) {
      Vec rows[kLanes];
      for (int64_t r = 0; r < kLanes; ++r) rows[r] = j + r < d ? load(from + (j + r) * kPage + i) : Vec{};
      transpose(rows);
      for (int64_t r = 0; r < kLanes; ++r) store(to + (i + r) * stride + j, rows[r]);
    }
  }
}

inline Vec load_at(const float* p, int64_t count) { return count >= kLanes ? load(p) : load_partial(p, count); }

/// out [d] = rotate(norm(x)) * scale, by the operations of the forward.
void prepare(const Head& head, const float* x, const float* norm, int64_t row, float scale, float* out) {
  const ops::AttentionArgs& args = head.args();
  const int64_t d = args.head_dim, half = args.rotary / 2;
  const Vec r = set1(norm != nullptr ? norm_scale(args, x) : 1.0f), by = set1(scale);
  const auto normed = [&]<bool kPartial>(int64_t j, int64_t lanes) {
    const Vec x_j = load_lanes<kPartial>(x + j, lanes);
    return norm == nullptr ? x_j : x_j * r * load_lanes<kPartial>(norm + j, lanes);
  };
  for_column_tiles<1>(d - args.rotary, [&]<int V, bool kPartial>(int64_t i, int64_t lanes) {
    const int64_t j = args.rotary + i;
    store_lanes<kPartial>(out + j, normed.template operator()<kPartial>(j, lanes) * by, lanes);
  });
  const float* const cosine = head.call->cos_sin + row * args.rotary;  // [R/2]
  const float* const sine = cosine + half;                             // [R/2]
  for_column_tiles<1>(half, [&]<int V, bool kPartial>(int64_t j, int64_t lanes) {
    const Vec a = normed.template operator()<kPartial>(j, lanes);
    const Vec b = normed.template operator()<kPartial>(j + half, lanes);
    const Vec c = load_lanes<kPartial>(cosine + j, lanes), s = load_lanes<kPartial>(sine + j, lanes);
    const auto pair = ops::rotate<VecMath>({a, b}, c, s);
    store_lanes<kPartial>(out + j, pair.a * by, lanes);
    store_lanes<kPartial>(out + j + half, pair.b * by, lanes);
  });
}

/// The gradient of x from that of prepare(x): d_x [d] is written unless null, d_norm [d] is added to unless null.
void prepare_backward(const Head& head, const float* x, const float* norm, int64_t row, float scale,
                      const float* d_prepared, float* d_x, float* d_norm) {
  const ops::AttentionArgs& args = head.args();
  const int64_t d = args.head_dim, half = args.rotary / 2;
  const Vec by = set1(scale);
  float* const y = norm != nullptr || d_x == nullptr ? head.normed : d_x;  // [d]
  for_column_tiles<1>(d - args.rotary, [&]<int V, bool kPartial>(int64_t i, int64_t lanes) {
    const int64_t j = args.rotary + i;
    store_lanes<kPartial>(y + j, load_lanes<kPartial>(d_prepared + j, lanes) * by, lanes);
  });
  const float* const cosine = head.call->cos_sin + row * args.rotary;  // [R/2]
  const float* const sine = cosine + half;                             // [R/2]
  for_column_tiles<1>(half, [&]<int V, bool kPartial>(int64_t j, int64_t lanes) {
    const Vec a = load_lanes<kPartial>(d_prepared + j, lanes) * by;
    const Vec b = load_lanes<kPartial>(d_prepared + j + half, lanes) * by;
    const Vec c = load_lanes<kPartial>(cosine + j, lanes), s = load_lanes<kPartial>(sine + j, lanes);
    store_lanes<kPartial>(y + j, fma(a, c, b * s), lanes);
    store_lanes<kPartial>(y + j + half, fma(b, c, -(a * s)), lanes);
  });
  if (norm == nullptr) return;
  const float r = norm_scale(args, x);
  Vec along = {};
  for_column_tiles<1>(d, [&]<int V, bool kPartial>(int64_t j, int64_t lanes) {
    const Vec normed = load_lanes<kPartial>(x + j, lanes) * set1(r), d_j = load_lanes<kPartial>(y + j, lanes);
    along = fma(d_j * load_lanes<kPartial>(norm + j, lanes), normed, along);
    if (d_norm == nullptr) return;
    store_lanes<kPartial>(d_norm + j, fma(d_j, normed, load_lanes<kPartial>(d_norm + j, lanes)), lanes);
  });
  if (d_x == nullptr) return;
  const Vec slope = set1(-sum(along) / static_cast<float>(d));
  for_column_tiles<1>(d, [&]<int V, bool kPartial>(int64_t j, int64_t lanes) {
    const Vec normed = load_lanes<kPartial>(x + j, lanes) * set1(r), d_j = load_lanes<kPartial>(y + j, lanes);
    const Vec d_x_j = fma(slope, normed, d_j * load_lanes<kPartial>(norm + j, lanes)) * set1(r);
    store_lanes<kPartial>(d_x + j, d_x_j, lanes);
  });
}

/// Row `t` of the sequence: its key head g in qkv or in d_qkv; the value lies kv_heads * d further.
inline float* key_row(const Head& head, const View& qkv, int64_t t) {
  const ops::AttentionArgs& args = head.args();
  return qkv.f32() + (head.span->first_row + t) * qkv.stride + (args.heads + head.g) * args.head_dim;
}

/// Fills k, k_t and v_t of a page from the pages that were kept and from this forward's rows.
void load_page(const Head& head, int64_t page) {
  const ops::AttentionArgs& args = head.args();
  const Span& span = *head.span;
  const int64_t d = args.head_dim, stride = head.call->stride, page_floats = args.kv_heads * d * kPage;
  const int64_t first = (span.first_page + page) * kPage;  // the position of the page's first row
  float* const k = head.k + page * kPage * stride;
  std::memset(k, 0, sizeof(float) * static_cast<size_t>(kPage * stride));
  std::memset(head.values, 0, sizeof(float) * static_cast<size_t>(kPage * stride));
  if (page < span.kept) {
    const float* const k_page = head.call->kept + (2 * span.first_kept + page) * page_floats + head.g * d * kPage;
    const float* const v_page = k_page + span.kept * page_floats;
    transpose_page(k_page, stride, d, k);
    for (int64_t i = 0; i < kPage && first + i < span.pos; ++i) {
      std::memcpy(head.values + i * stride, v_page + i * d, sizeof(float) * static_cast<size_t>(d));
    }
  }
  for (int64_t i = first < span.pos ? span.pos - first : 0; i < kPage && first + i < span.pos + span.rows; ++i) {
    const int64_t t = first + i - span.pos;
    const float* const k_row = key_row(head, args.qkv, t);
    prepare(head, k_row, args.k_norm, span.first_row + t, 1.0f, k + i * stride);
    std::memcpy(head.values + i * stride, k_row + args.kv_heads * d, sizeof(float) * static_cast<size_t>(d));
  }
  transpose_rows(k, stride, d, head.k_t + page * d * kPage);
  transpose_rows(head.values, stride, d, head.v_t + page * d * kPage);
}

/// The block of query rows from `first_row` on.
void load_block(Head* head, int64_t first_row) {
  const Backward& call = *head->call;
  const ops::AttentionArgs& args = head->args();
  const int64_t d = args.head_dim, rest = head->span->rows * head->rep - first_row;
  head->first_row = first_row;
  head->rows = rest < kRows ? rest : kRows;
  const float scale = 1.0f / std::sqrt(static_cast<float>(d));
  for (int64_t r = 0; r < head->rows; ++r) {
    const int64_t row = head->row(r), h = head->head(r);
    head->pos[r] = head->span->pos + head->time(r);
    prepare(*head, args.qkv.f32() + row * args.qkv.stride + h * d, args.q_norm, row, scale, head->q + r * call.stride);
    const float* const out = args.out.f32() + row * args.out.stride + h * d;        // [d]
    const float* const d_out = call.d_out.f32() + row * call.d_out.stride + h * d;  // [d]
    std::memcpy(head->d_out + r * call.stride, d_out, sizeof(float) * static_cast<size_t>(d));
    Vec share = {};
    for (int64_t j = 0; j < d; j += kLanes) share = fma(load_at(out + j, d - j), load_at(d_out + j, d - j), share);
    head->share[r] = sum(share);
    head->log_sum[r] = args.log_sums[row * args.heads + h];
  }
  std::memset(head->d_q, 0, sizeof(float) * static_cast<size_t>(kRows * call.stride));
}

/// out [rows, kPage] = rows b, b [d, kPage], for the first `columns` columns.
void page_products(const Head& head, const float* a, const float* b, int64_t columns, float* out) {
  const int64_t stride = head.call->stride, d = head.args().head_dim;
  for_column_tiles<kTileVecs>(kPage, [&]<int V, bool kPartial>(int64_t j, int64_t lanes) {
    if (j >= columns) return;
    for_row_tiles(head.rows, [&]<int R>(int64_t r) {
      Tile<R, V> tile;
      clear_tile(tile.acc);
      multiply_add<kPartial>(tile, a + r * stride, stride, 1, b + j, kPage, d, lanes);
      store_tile(tile.acc, out + r * kPage + j, kPage);
    });
  });
}

/// p becomes the weights, and d_s, which holds d_out v, the gradients of the scores; zero where a row sees no key.
void page_weights(const Head& head, int64_t page, int64_t columns) {
  float lane[kLanes];
  for (int64_t i = 0; i < kLanes; ++i) lane[i] = static_cast<float>(i);
  for (int64_t r = 0; r < head.rows; ++r) {
    const Vec seen = set1(static_cast<float>(head.seen(r, page)));
    const Vec hidden = set1(static_cast<float>(head.hidden(r, page)));
    for (int64_t j = 0; j < columns; j += kLanes) {
      float *const p = head.p + r * kPage + j, *const d_s = head.d_s + r * kPage + j;
      const Vec at = load(lane) + set1(static_cast<float>(j)), zero = {};
      const Vec weight = exp(load(p) - set1(head.log_sum[r])), d = weight * (load(d_s) - set1(head.share[r]));
      store(p, at < hidden ? zero : at < seen ? weight : zero);
      store(d_s, at < hidden ? zero : at < seen ? d : zero);
    }
  }
}

/// sums [keys, stride] += weights^T rows over the block's rows: weights [rows, kPage], rows [rows, stride].
void add_to_keys(const Head& head, int64_t page, int64_t keys, const float* weights, const float* rows, float* sums) {
  const int64_t stride = head.call->stride;
  for_column_tiles<kTileVecs>(stride, [&]<int V, bool kPartial>(int64_t j, int64_t lanes) {
    for_row_tiles(keys, [&]<int R>(int64_t i) {
      const int64_t begin = head.first_seeing(i, page), end = head.end_seeing(i + R - 1, page);
      if (begin >= end) return;
      Tile<R, V> tile;
      float* const sum = sums + i * stride + j;
      load_tile(tile.acc, sum, stride);
      multiply_add<false>(tile, weights + begin * kPage + i, 1, kPage, rows + begin * stride + j, stride, end - begin,
                          lanes);
      store_tile(tile.acc, sum, stride);
    });
  });
}

/// d_q += d_s k over the keys of a page.
void add_to_queries(const Head& head, int64_t page) {
  const int64_t stride = head.call->stride;
  const float* const k = head.k + page * kPage * stride;
  for_column_tiles<kTileVecs>(stride, [&]<int V, bool kPartial>(int64_t j, int64_t lanes) {
    for_row_tiles(head.rows, [&]<int R>(int64_t r) {
      const int64_t begin = head.hidden(r, page), end = head.seen(r + R - 1, page);
      if (begin >= end) return;
      Tile<R, V> tile;
      float* const d_q = head.d_q + r * stride + j;
      load_tile(tile.acc, d_q, stride);
      multiply_add<false>(tile, head.d_s + r * kPage + begin, kPage, 1, k + begin * stride + j, stride, end - begin,
                          lanes);
      store_tile(tile.acc, d_q, stride);
    });
  });
}

/// The gradients that one block of query rows has with one page.
void meet_page(const Head& head, int64_t page) {
  const int64_t stride = head.call->stride, keys = head.seen(head.rows - 1, page), slice = page * kPage * stride;
  if (keys == 0 || head.hidden(0, page) == kPage) return;
  const int64_t transposed = page * kPage * head.args().head_dim;
  page_products(head, head.q, head.k_t + transposed, keys, head.p);
  page_products(head, head.d_out, head.v_t + transposed, keys, head.d_s);
  page_weights(head, page, keys);
  add_to_keys(head, page, keys, head.p, head.d_out, head.d_v + slice);
  add_to_keys(head, page, keys, head.d_s, head.q, head.d_k + slice);
  add_to_queries(head, page);
}

void finish_queries(const Head& head, float* d_norm) {
  const Backward& call = *head.call;
  const ops::AttentionArgs& args = head.args();
  const int64_t d = args.head_dim;
  const float scale = 1.0f / std::sqrt(static_cast<float>(d));
  for (int64_t r = 0; r < head.rows; ++r) {
    const int64_t row = head.row(r), h = head.head(r);
    float* const d_x = call.d_qkv.data != nullptr ? call.d_qkv.f32() + row * call.d_qkv.stride + h * d : nullptr;
    prepare_backward(head, args.qkv.f32() + row * args.qkv.stride + h * d, args.q_norm, row, scale,
                     head.d_q + r * call.stride, d_x, d_norm);
  }
}

/// Joins a row's gradients with those in the pages: they are added here for this forward's rows, there for rows before.
void join_page_row(const Head& head, int64_t pos, float* d_k, float* d_v) {
  const Backward& call = *head.call;
  const int64_t d = head.args().head_dim, s = head.span - call.spans;
  float* const k_page = call.d_k_pages[s][pos / kPage] + head.g * d * kPage + pos % kPage;    // [d], kPage apart
  float* const v_page = call.d_v_pages[s][pos / kPage] + (head.g * kPage + pos % kPage) * d;  // [d]
  const bool before = pos < head.span->pos;
  for (int64_t j = 0; j < d; ++j) {
    float &k_to = before ? k_page[j * kPage] : d_k[j], &v_to = before ? v_page[j] : d_v[j];
    k_to += before ? d_k[j] : k_page[j * kPage];
    v_to += before ? d_v[j] : v_page[j];
  }
}

void finish_keys(const Head& head, float* d_norm) {
  const Backward& call = *head.call;
  const ops::AttentionArgs& args = head.args();
  const Span& span = *head.span;
  const int64_t d = args.head_dim, first = span.first_page * kPage;
  for (int64_t pos = first; pos < span.pos + span.rows; ++pos) {
    float *const d_k = head.d_k + (pos - first) * call.stride, *const d_v = head.d_v + (pos - first) * call.stride;
    if (call.d_k_pages != nullptr) join_page_row(head, pos, d_k, d_v);
    const int64_t t = pos - span.pos;
    if (t < 0) continue;
    float* const d_x = call.d_qkv.data != nullptr ? key_row(head, call.d_qkv, t) : nullptr;
    prepare_backward(head, key_row(head, args.qkv, t), args.k_norm, span.first_row + t, 1.0f, d_k, d_x, d_norm);
    if (d_x == nullptr) continue;
    std::memcpy(d_x + args.kv_heads * d, d_v, sizeof(float) * static_cast<size_t>(d));
  }
}

void run_head(const Backward& call, int64_t worker, int64_t item) {
  Head head = head_of(call, worker, item);
  const int64_t stride = call.stride, keys = head.span->pages * kPage;
  float* const norm_sums = call.norm_sums != nullptr ? call.norm_sums + item * 2 * stride : nullptr;
  if (norm_sums != nullptr) std::memset(norm_sums, 0, sizeof(float) * static_cast<size_t>(2 * stride));
  if (head.span->rows == 0) return;
  for (int64_t page = 0; page < head.span->pages; ++page) load_page(head, page);
  std::memset(head.d_k, 0, sizeof(float) * static_cast<size_t>(keys * stride));
  std::memset(head.d_v, 0, sizeof(float) * static_cast<size_t>(keys * stride));
  std::memset(head.q, 0, sizeof(float) * static_cast<size_t>(2 * kRows * stride));  // and d_out, behind it
  for (int64_t first_row = 0; first_row < head.span->rows * head.rep; first_row += kRows) {
    load_block(&head, first_row);
    for (int64_t page = 0; page < head.span->pages; ++page) meet_page(head, page);
    finish_queries(head, norm_sums);
  }
  finish_keys(head, norm_sums != nullptr ? norm_sums + stride : nullptr);
}

/// d_norm [d] += the sum of a sequence's heads, sequence by sequence.
void add_norm_sums(const Backward& call, int64_t which, float* d_norm) {
  const int64_t heads = call.attention.kv_heads;
  for (int64_t s = 0; s < call.attention.seqs.batch && d_norm != nullptr; ++s) {
    for (int64_t j = 0; j < call.attention.head_dim; ++j) {
      float sum = 0;
      for (int64_t g = 0; g < heads; ++g) sum += call.norm_sums[((s * heads + g) * 2 + which) * call.stride + j];
      d_norm[j] += sum;
    }
  }
}

}  // namespace

void attention_keep(const Stream& stream, const ops::AttentionKeepArgs& args) {
  const ops::AttentionArgs& forward = args.attention;
  const ops::KeptPages pages = {forward.window};
  const int64_t page_floats = forward.kv_heads * forward.head_dim * kPage;
  float* to = args.kept;
  for (int64_t s = 0; s < forward.seqs.batch; ++s) {
    const int64_t first = pages.first(forward.seqs.pos[s]),
                  count = pages.count(forward.seqs.pos[s], forward.seqs.length(s));
    parallel_ranges(stream, 2 * count, page_floats, [&](int64_t begin, int64_t end) {
      for (int64_t i = begin; i < end; ++i) {
        const float* const from = i < count ? forward.k_pages[s][first + i] : forward.v_pages[s][first + i - count];
        std::memcpy(to + i * page_floats, from, sizeof(float) * static_cast<size_t>(page_floats));
      }
    });
    to += 2 * count * page_floats;
  }
}

int64_t attention_backward_workspace(const Stream& stream, const ops::AttentionBackwardArgs& args) {
  Workspace counted;
  lay_out(stream, args, counted);
  return counted.bytes();
}

void attention_backward(const Stream& stream, const ops::AttentionBackwardArgs& given) {
  Workspace workspace(given.workspace);
  const Backward call = lay_out(stream, given, workspace);
  const ops::AttentionArgs& args = call.attention;
  int64_t keys = 0;
  for (int64_t s = 0; s < args.seqs.batch; ++s) {
    const Span span = call.spans[s];
    keys += span.rows * span.pages * kPage;
    parallel_ranges(stream, span.rows, args.rotary * kAngleWork, [&](int64_t begin, int64_t end) {
      for (int64_t t = begin; t < end && args.rotary > 0; ++t) {
        write_angles(args, span.pos + t, call.cos_sin + (span.first_row + t) * args.rotary);
      }
    });
  }
  parallel_workers(stream, args.seqs.batch * args.kv_heads, keys * args.heads * args.head_dim * 10,
                   [&](int64_t worker, int64_t item) { run_head(call, worker, item); });
  add_norm_sums(call, 0, call.d_q_norm);
  add_norm_sums(call, 1, call.d_k_norm);
}

}  // namespace carousel::cpu::CAROUSEL_ISA
