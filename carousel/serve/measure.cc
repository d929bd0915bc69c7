// SPDX-License-Identifier: Apache-2.0
// The table of lines, and what they share. The lines' own work is in measure_rates.cc, measure_waits.cc and
// measure_open.cc.
#include "carousel/serve/measure.h"

#include "carousel/core/error.h"
#include "carousel/core/rng.h"
#include "carousel/serve/measure_lines.h"

namespace carousel::serve {
namespace {

struct Row {
  const char *name, *work, *unit;
  double bound;
  bool at_least, counterpart;
  std::unique_ptr<Line> (*make)(const Setting& setting);
};

std::unique_ptr<Line> make_streams_64(const Setting& setting) { return make_streams(setting, 64); }
std::unique_ptr<Line> make_streams_8(const Setting& setting) { return make_streams(setting, 8); }

const Row kRows[] = {
    {"streams-64", "tokens of 64 streams / of a batcher alone", "tokens/s", 0.8, true, true, make_streams_64},
    {"streams-8", "tokens of 8 streams / of a batcher alone", "tokens/s", 0.97, true, true, make_streams_8},
    {"seen", "first token after a prompt that was seen / that is new", "ms", 0.03, false, true, make_seen},
    {"stored", "first token from a stored state / reading its file", "ms", 3, false, true, make_stored},
    {"choices", "first tokens of all choices / of one, after a new prompt", "ms", 1.3, false, true, make_choices},
    {"gap-read", "p99 gap of a stream while a prompt is read / --tick-ms", "ms", 1.5, false, false, make_gap_read},
    {"gap-saved", "p99 gap of a stream while states are saved / before", "ms", 1.5, false, true, make_gap_saved},
    {"open-memory", "memory of an open stream / 16 KiB", "KiB", 1, false, false, make_open_memory},
    {"open-health", "p99 of /health beside open streams / 20 ms", "ms", 1, false, false, make_open_health},
    {"disconnect", "disconnect to freed sequence / a tick and 50 ms", "ms", 1, false, true, make_disconnect},
};

}  // namespace

std::vector<std::string> measured_names() {
  std::vector<std::string> names;
  for (const Row& row : kRows) names.emplace_back(row.name);
  return names;
}

std::unique_ptr<Loopback> Setting::serve(const std::string& store, size_t state_bytes) const {
  ServiceOptions service;
  service.name = "measured";
  service.chat_template = "chatml";
  service.scratch = options.scratch;
  service.limits.max_tokens = kEndless;
  service.engine.tick_ms = kTickMs;
  service.engine.parallel = std::max<int64_t>(options.choices, 64) + 1;
  service.engine.queue = options.open_streams + 64;
  service.engine.cache_bytes = std::min(size_t{2} << 30, stream.memory->available_bytes() / 4);
  service.state_bytes = state_bytes;
  service.store.folder = store;
  return std::make_unique<Loopback>(model, stream, service);
}

std::vector<int32_t> Setting::prompt(int64_t tokens, uint64_t draw) const {
  Rng rng(draw, 0);
  std::vector<int32_t> ids;
  const auto vocab = static_cast<uint64_t>(model.lm->vocab_size());
  for (int64_t i = 0; i < tokens; ++i) ids.push_back(static_cast<int32_t>(rng.bits() % vocab));
  return ids;
}

Json Setting::body(int64_t prompt_tokens, int64_t max_tokens, uint64_t draw) const {
  return {{"prompt", prompt(prompt_tokens, draw)},
          {"max_tokens", max_tokens},
          {"seed", draw % 1000},
          {"ignore_eos", true},
          {"stream", true}};
}

Caller& call(const Loopback& server, Callers& callers, const Json& body, const std::string& path) {
  callers.push_back(std::make_unique<Caller>(server.port()));
  callers.back()->ask("POST", path, body);
  return *callers.back();
}

double first_token_ms(const Setting& setting, const Loopback& server, const Json& body) {
  Callers callers;
  callers.push_back(std::make_unique<Caller>(server.port()));
  Caller& caller = *callers.back();
  const auto begin = std::chrono::steady_clock::now();
  caller.ask("POST", "/v1/completions", body);
  read_until(
      callers, [&] { return caller.events() > 0 || caller.ended(); }, setting.stop);
  const double ms = ms_since(begin);
  read_until(
      callers, [&] { return caller.ended(); }, setting.stop);
  return ms;
}

/// Log probabilities are asked for, so that every token is an event, also one without whole characters.
void begin_endless(const Setting& setting, const Loopback& server, Callers& callers, int64_t count) {
  for (int64_t i = 0; i < count; ++i) {
    Json body = setting.body(8, kEndless, static_cast<uint64_t>(i));
    body["logprobs"] = 0;
    call(server, callers, body).note_times();
  }
  read_until(
      callers,
      [&] {
        return std::all_of(callers.begin(), callers.end(), [](const auto& caller) { return caller->events() > 0; });
      },
      setting.stop);
}

void measure_serving(const model::Model& model, const Stream& stream, const MeasureOptions& options,
                     const std::function<void(const Measured&)>& told, const std::function<bool()>& stop) {
  model.text();
  const Setting setting{model, stream, options, stop};
  for (const Row& row : kRows) {
    const auto& only = options.only;
    if (!only.empty() && std::find(only.begin(), only.end(), row.name) == only.end()) continue;
    Measured line{row.name, row.work, row.unit, {}, {}, row.counterpart, 0, row.bound, row.at_least};
    try {
      const std::unique_ptr<Line> work = row.make(setting);
      std::vector<double> ratios;
      for (int64_t round = 0; round < options.rounds; ++round) {
        const Pair pair = work->round(static_cast<uint64_t>(round));
        line.served.push_back(pair.served);
        line.beside.push_back(pair.beside);
        ratios.push_back(pair.served / pair.beside);
      }
      line.value = median(ratios);
    } catch (const Error& error) {
      if (error.kind() == ErrorKind::kCancelled) return;
      throw;
    }
    told(line);
  }
}

}  // namespace carousel::serve
