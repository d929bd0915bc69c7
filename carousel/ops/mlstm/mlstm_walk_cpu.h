// SPDX-License-Identifier: Apache-2.0
// Many rows of the mLSTM cell: a thread walks a head's rows, or those of a block of its value columns, from piece to
// piece of the chunk grid. Panels of the piece it is at may be taken by threads that have no walk left (cpu/offer.h).
#pragma once

#include "carousel/cpu/divide.h"
#include "carousel/cpu/offer.h"
#include "carousel/ops/mlstm/mlstm_chunk_cpu.h"
#include "carousel/ops/mlstm/mlstm_step_cpu.h"

namespace carousel::cpu::CAROUSEL_ISA {
namespace {

constexpr int64_t kColumnUnit = 64;  // value columns of a walk: a multiple of this

/// Blocks of value columns per head: with fewer heads than threads, as many as leave each block a thread.
int64_t column_blocks(int64_t heads, int64_t threads, int64_t dv) {
  int64_t blocks = 1;
  while (heads * blocks * 2 <= threads && dv / (blocks * 2) >= kColumnUnit) blocks *= 2;
  return blocks;
}

/// Rows from `t` to the end of the sequence's piece or to the next chunk, whichever comes first.
inline int64_t piece(const Sequence& seq, int64_t t) {
  const int64_t to_grid = kL - (seq.pos + t) % kL, rest = seq.rows - t;
  return to_grid < rest ? to_grid : rest;
}

/// What a thread works on: a head's rows in order, and the chunk whose panels others may take.
struct Walk {
  Offer offer;
  const Chunk* chunk;
};

/// Panels go to threads in pieces: one by one, unless that were more pieces than an Offer has.
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
    if (count == 1) {
      step(head, seq.first_row + t);
      continue;
    }
    chunk.first_row = seq.first_row + t;
    chunk.count = count;
    chunk.loads = chunk.stores;  // where the one before left it
    chunk.stores = next <= 1;
    if (chunk.loads) rows_ahead(*head, chunk.first_row, count).fetch_all();
    prepare_chunk(head, &chunk);
    RowsAhead ahead = rows_ahead(*head, chunk.first_row + count, next);
    const int64_t pieces = (chunk.panels() - 1) / panels_of_piece(chunk) + 1;
    walk->offer.share(pieces, seq.rows - t, [&](int64_t i) { chunk_piece(chunk, i, head->scratch, &ahead); });
  }
}

/// Panels of the walk that has most left to do; false if no thread shares any.
bool help_a_walk(Walk* walks, int64_t count, float* values) {
  Walk* best = walks;
  for (int64_t w = 1; w < count; ++w) best = walks[w].offer.left() > best->offer.left() ? walks + w : best;
  return best->offer.left() > 0 && best->offer.help([&](int64_t i) { chunk_piece(*best->chunk, i, values, nullptr); });
}

/// f(worker, item, walk) for every item; a worker that finds none left helps with those that are not done.
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
    // A walk that offers nothing for long has lost its core. Whoever waits outside of the region can give it another.
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
/// has an n of its own, of which the first block's becomes the new one.
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

/// All sequences of more than one row: `active` of them, `rows` in all.
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
