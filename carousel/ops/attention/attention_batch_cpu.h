// SPDX-License-Identifier: Apache-2.0
// How a call of attention is divided, and the scratch memory it needs. Every sequence has the pages it writes, blocks
// of query rows, and spans of keys; a part is one span of one block. Both kernels use this.
#pragma once

#include "carousel/cpu/vec.h"
#include "carousel/cpu/workspace.h"
#include "carousel/ops/attention/attention_cpu.h"

namespace carousel::cpu::CAROUSEL_ISA {
namespace {

constexpr int64_t kPage = kPageRows;
constexpr int64_t kRows = 48;  // query rows one task takes through the pages together

struct Sequence {
  int64_t first_row, rows;    // its rows in the batch
  int64_t pos;                // position of the first row
  float* const* k_pages;      // [pages] of [G, d, kPage]
  float* const* v_pages;      // [pages] of [G, kPage, d]
  int64_t first_page_item;    // how many pages the sequences before it write
  int64_t first_block;        // how many blocks of kRows query rows (of one key head) those sequences have
  int64_t first_span, spans;  // the spans with keys that some row sees
  int64_t first_part;         // how many parts those sequences have
};

/// The sums of every part until they are joined. A part is [rows, stride + 16]: in a row d sums, then, from `stride`
/// on, the maximum and the total.
struct Parts {
  float* memory;  // null: a thread takes all spans of a block
  int64_t rows;   // query rows of the largest block
  int64_t count;  // parts of one key head, over the batch
};

/// The arguments, the batch divided, and what is laid out in their workspace.
struct Call : ops::AttentionArgs {
  Sequence* sequences;  // [B]
  int64_t batch;
  int64_t page_items, blocks;  // pages written and blocks of one key head, over the batch
  float* cos_sin;              // [N, R] to be filled: cosines, then sines, of each row's angles; null: no rotation
  float* scratch;              // [threads, scratch_floats]
  int64_t scratch_floats;      // multiple of 16
  Parts parts;
  // These three are for a batch that keeps no state.
  float* own_pages;   // [2, P, G*d*kPage] pages of keys, then of values
  float** own_table;  // [2, P] pointers to them
  int64_t own_count;  // P
};

/// Floats of one row of queries or outputs in scratch memory.
constexpr int64_t row_stride(int64_t head_dim) { return (head_dim + 15) / 16 * 16; }
constexpr int64_t part_floats(int64_t head_dim) { return row_stride(head_dim) + 16; }
constexpr int64_t pages_for(int64_t rows) { return (rows + kPage - 1) / kPage; }
constexpr int64_t larger(int64_t a, int64_t b) { return a > b ? a : b; }

/// Whether threads share the spans of a block. They do where one block has much of all the work: the others would wait
/// for its thread.
inline bool shares_spans(const Call& call, int64_t most_spans, int64_t threads) {
  constexpr int64_t kTasksPerThread = 4;
  return threads > 1 && most_spans > 1 && call.parts.count * call.kv_heads < most_spans * threads * kTasksPerThread;
}

/// Sequence s of the batch; adds its counts to the totals of `call`. Its tables of pages are still null where no state
/// is kept.
inline Sequence divide_sequence(Call* call, int64_t s) {
  Sequence seq = {call->seqs.first_row(s),
                  call->seqs.length(s),
                  call->seqs.pos[s],
                  nullptr,
                  nullptr,
                  call->page_items,
                  call->blocks,
                  0,
                  0,
                  call->parts.count};
  if (seq.rows == 0) return seq;
  const int64_t keys = seq.pos + seq.rows;
  seq.first_span = ops::first_seen(seq.pos, call->window) / ops::kAttentionSpan;
  seq.spans = (keys - 1) / ops::kAttentionSpan + 1 - seq.first_span;
  if (call->k_pages != nullptr) {
    seq.k_pages = call->k_pages[s];
    seq.v_pages = call->v_pages[s];
  } else {
    call->own_count += pages_for(keys);
  }
  call->page_items += pages_for(keys) - seq.pos / kPage;
  const int64_t query_rows = seq.rows * (call->heads / call->kv_heads);
  const int64_t blocks = (query_rows - 1) / kRows + 1;
  call->blocks += blocks;
  call->parts.count += blocks * seq.spans;
  call->parts.rows = larger(call->parts.rows, query_rows < kRows ? query_rows : kRows);
  return seq;
}

/// The call, laid out over `workspace`. A thread's scratch memory has `scratch_floats`.
inline Call lay_out(const Stream& stream, const ops::AttentionArgs& args, int64_t scratch_floats, bool may_share,
                    Workspace& workspace) {
  Call call = {};
  static_cast<ops::AttentionArgs&>(call) = args;
  call.batch = args.seqs.batch;
  call.sequences = workspace.take<Sequence>(call.batch);
  int64_t most_spans = 0;
  for (int64_t s = 0; s < call.batch; ++s) {
    const Sequence seq = divide_sequence(&call, s);
    most_spans = larger(most_spans, seq.spans);
    if (call.sequences != nullptr) call.sequences[s] = seq;
  }
  const int64_t page_floats = args.kv_heads * args.head_dim * kPage;
  call.own_pages = workspace.take<float>(2 * call.own_count * page_floats);
  call.own_table = workspace.take<float*>(2 * call.own_count);
  if (args.rotary > 0) call.cos_sin = workspace.take<float>(args.seqs.rows() * args.rotary);
  call.scratch_floats = scratch_floats;
  call.scratch = workspace.take<float>(stream.threads() * scratch_floats);
  if (may_share && shares_spans(call, most_spans, stream.threads())) {
    call.parts.memory =
        workspace.take<float>(call.parts.count * args.kv_heads * call.parts.rows * part_floats(args.head_dim));
  }
  return call;
}

/// Points the sequences of a batch that keeps no state to pages of the workspace.
inline void fill_own_table(const Call& call) {
  const int64_t page_floats = call.kv_heads * call.head_dim * kPage;
  for (int64_t p = 0; p < 2 * call.own_count; ++p) call.own_table[p] = call.own_pages + p * page_floats;
  int64_t page = 0;
  for (int64_t s = 0; s < call.batch && call.own_count > 0; ++s) {
    call.sequences[s].k_pages = call.own_table + page;
    call.sequences[s].v_pages = call.own_table + call.own_count + page;
    page += pages_for(call.sequences[s].rows);
  }
}

}  // namespace
}  // namespace carousel::cpu::CAROUSEL_ISA
