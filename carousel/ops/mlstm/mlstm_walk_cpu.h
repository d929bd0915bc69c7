// SPDX-License-Identifier: Apache-2.0
// Many rows of the mLSTM cell. An item is one head of one sequence, or a block of its value columns. A worker walks an
// item's rows from one piece of the chunk grid to the next; a worker that finds no item left takes panels of the chunk
// that another one is at (cpu/offer.h). Here "piece" of rows is piece() of mlstm_head_cpu.h; an Offer's piece is a few
// panels.
//
// 1. An item belongs to the worker whose fetch_add on `next` returned it. Items write disjoint columns of C and out.
// 2. The owner prepares a chunk before it calls Offer::share: q, k_t, s, the decays, n and m. While the chunk is
//    shared, these are only read. share() publishes them, and the pointer walk->chunk with them.
// 3. A panel of C, in the chunk's scratch and in the state, and the same columns of out, are written by the one thread
//    that took the panel. It works on the values in the first [L, kPanel] floats of its own worker's scratch; the
//    packed chunk lies behind these, so an owner's panel and its chunk do not overlap.
// 4. The owner alone prefetches the next chunk's rows (RowsAhead): helpers get a null pointer.
// 5. share() returns when every panel is done. So a chunk may live on its owner's stack, and change for the next rows.
// 6. An item that is a whole head updates n and m in place. Where column blocks share a head, all of them read seq.n
//    and seq.m; the first block writes n_next and m_next, and walk_all copies these over n and m after the region.
// 7. A worker adds 1 to `ended`, with release, after each item, and helps until `ended` is the number of items or its
//    patience is over. It may leave early: the region ends only when the owners have returned too.
#pragma once

#include "carousel/cpu/divide.h"
#include "carousel/cpu/offer.h"
#include "carousel/ops/mlstm/mlstm_chunk_cpu.h"
#include "carousel/ops/mlstm/mlstm_step_cpu.h"

namespace carousel::cpu::CAROUSEL_ISA {
namespace {

constexpr int64_t kColumnUnit = 64;  // the value columns of an item are a multiple of this

/// Blocks of value columns per head: more than one where there are fewer heads than threads, and as many as still have
/// a thread each.
int64_t column_blocks(int64_t heads, int64_t threads, int64_t dv) {
  int64_t blocks = 1;
  while (heads * blocks * 2 <= threads && dv / (blocks * 2) >= kColumnUnit) blocks *= 2;
  return blocks;
}

/// What a worker shares of the item it walks.
struct Walk {
  Offer offer;         // panels of the chunk it is at
  const Chunk* chunk;  // that chunk; read only by who has taken a piece of the offer
};

/// Panels in one piece of an Offer: one, unless that made more pieces than an Offer may have.
int64_t panels_of_piece(const Chunk& chunk) { return (chunk.panels() - 1) / Offer::kMostPieces + 1; }

void chunk_piece(const Chunk& chunk, int64_t i, float* values, RowsAhead* rows) {
  const int64_t panels = panels_of_piece(chunk), first = i * panels, rest = chunk.panels() - first;
  for (int64_t j = 0; j < panels && j < rest; ++j) chunk_panel(chunk, first + j, values, rows);
}

void walk_rows(Head* head, const Sequence& seq, Walk* walk) {
  Chunk chunk;
  chunk.head = head;
  chunk.p = packed_in(head->scratch, head->args->dims.dk);
  chunk.stores = true;
  walk->chunk = &chunk;
  for (int64_t t = 0, count = piece(seq, 0), next = 0; t < seq.rows; t += count, count = next) {
    next = piece(seq, t + count);
    chunk.kept = keep_border(*head, seq, t);
    if (count == 1) {
      if (chunk.kept != nullptr) keep_rows(*head, chunk.kept, 0, head->args->dims.dk);
      step(head, seq.first_row + t);
      continue;
    }
    chunk.first_row = seq.first_row + t;
    chunk.count = count;
    chunk.loads = chunk.stores;  // C is where the chunk before left it: in the state, or packed
    chunk.stores = next <= 1;
    if (chunk.loads) rows_ahead(*head, chunk.first_row, count).fetch_all();
    prepare_chunk(head, &chunk);
    RowsAhead ahead = rows_ahead(*head, chunk.first_row + count, next);
    const int64_t pieces = (chunk.panels() - 1) / panels_of_piece(chunk) + 1;
    walk->offer.share(pieces, seq.rows - t, [&](int64_t i) { chunk_piece(chunk, i, head->scratch, &ahead); });
  }
}

/// Does panels of the walk that has most left to do; false if no thread shares any.
bool help_a_walk(Walk* walks, int64_t count, float* values) {
  Walk* best = walks;
  for (int64_t w = 1; w < count; ++w) best = walks[w].offer.left() > best->offer.left() ? walks + w : best;
  return best->offer.left() > 0 && best->offer.help([&](int64_t i) { chunk_piece(*best->chunk, i, values, nullptr); });
}

/// Runs f(worker, item, walk) for every item; a worker that finds none left helps with those that are not done.
template <class F>
void parallel_walks(const Stream& stream, const Call& args, int64_t items, int64_t total_work, F&& f) {
  constexpr int64_t kMostWorkers = 128;
  const int64_t threads = stream.pool->threads() < kMostWorkers ? stream.pool->threads() : kMostWorkers;
  const int64_t workers = total_work < 2 * kTaskWork ? 1 : threads;
  Walk walks[kMostWorkers];
  int64_t next = 0, ended = 0;
  parallel_for(*stream.pool, workers, [&](int64_t worker) {
    for (;;) {
      const int64_t item = __atomic_fetch_add(&next, int64_t{1}, __ATOMIC_RELAXED);
      if (item >= items) break;
      f(worker, item, &walks[worker]);
      __atomic_fetch_add(&ended, int64_t{1}, __ATOMIC_RELEASE);
    }
    float* const values = args.scratch + worker * args.scratch_floats;
    // An owner that offers nothing for long has lost its core. A thread that waits outside the region can give it one.
    Patience patience;
    while (__atomic_load_n(&ended, __ATOMIC_ACQUIRE) < items && !patience.is_over()) {
      if (help_a_walk(walks, workers, values)) {
        patience = Patience();
      } else {
        patience.wait();
      }
    }
  });
}

/// One item: head h of `seq`, value columns first_column to first_column + block_width. Where blocks share a head, each
/// computes an n of its own; the first block's becomes the state's.
void walk_item(const Call& call, const Sequence& seq, int64_t h, int64_t first_column, int64_t block_width,
               float* scratch, Walk* own) {
  const int64_t dk = call.dims.dk, dv = call.dims.dv;
  const bool shared = block_width < dv;
  Head head = {};
  head.args = &call;
  head.h = h;
  head.first_column = first_column;
  head.width = dv - first_column < block_width ? dv - first_column : block_width;
  head.c = seq.c + h * dk * dv + first_column;
  head.m = seq.m[h];
  head.scratch = scratch;
  head.n = seq.n + h * dk;
  if (shared) {
    head.n = first_column == 0 ? seq.n_next + h * dk : scratch + call.scratch_floats - (dk + 15) / 16 * 16;
    std::memcpy(head.n, seq.n + h * dk, sizeof(float) * static_cast<size_t>(dk));
  }
  walk_rows(&head, seq, own);
  if (first_column == 0) (shared ? seq.m_next : seq.m)[h] = head.m;
}

/// The walks of all sequences of more than one row: `active` sequences, which have `rows` rows together.
void walk_all(const Stream& stream, const Call& call, int64_t active, int64_t rows) {
  const int64_t heads = call.dims.heads, dk = call.dims.dk, dv = call.dims.dv;
  const int64_t blocks = column_blocks(active * heads, stream.pool->threads(), dv);
  const int64_t block_width = ((dv - 1) / blocks / kColumnUnit + 1) * kColumnUnit;
  const int64_t items = call.batch * heads * blocks;
  parallel_walks(stream, call, items, rows * heads * dk * dv * 5, [&](int64_t worker, int64_t item, Walk* own) {
    const Sequence& seq = call.sequences[item / (heads * blocks)];
    const int64_t h = item / blocks % heads, first_column = item % blocks * block_width;
    if (seq.rows < 2 || first_column >= dv) return;
    walk_item(call, seq, h, first_column, blocks > 1 ? block_width : dv, call.scratch + worker * call.scratch_floats,
              own);
  });
  for (int64_t s = 0; s < call.batch && blocks > 1; ++s) {
    const Sequence& seq = call.sequences[s];
    if (seq.rows < 2) continue;
    std::memcpy(seq.n, seq.n_next, sizeof(float) * static_cast<size_t>(heads * dk));
    std::memcpy(seq.m, seq.m_next, sizeof(float) * static_cast<size_t>(heads));
  }
}

}  // namespace
}  // namespace carousel::cpu::CAROUSEL_ISA
