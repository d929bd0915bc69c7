// SPDX-License-Identifier: Apache-2.0
// carousel serve: a model behind OpenAI's HTTP interface, until a signal or the loss of its device. The endpoints are
// serve/service.
#include <fmt/format.h>

#include <atomic>
#include <chrono>
#include <filesystem>
#include <thread>
#include <utility>

#include "carousel/cli/command.h"
#include "carousel/cli/generation.h"
#include "carousel/cli/options.h"
#include "carousel/cli/progress.h"
#include "carousel/cli/scratch.h"
#include "carousel/cli/signals.h"
#include "carousel/core/error.h"
#include "carousel/core/json.h"
#include "carousel/core/tensor.h"
#include "carousel/core/thread.h"
#include "carousel/serve/http.h"
#include "carousel/serve/service.h"

namespace carousel::cli {

#ifdef CAROUSEL_NO_SERVE

std::function<int()> setup_serve(CLI::App& app) {
  app.allow_extras();
  return
      []() -> int { fail(ErrorKind::kInput, "serve: this carousel was built without Boost, which the server needs"); };
}

#else

namespace {

constexpr int64_t kMaxKeyFile = 1 << 20;

struct ServeOptions : GenerationOptions {
  serve::HttpOptions http;
  serve::ServiceOptions service;
  int64_t port = 8080, connections = 4096, memory = -1, state_bytes = -1, cache_bytes = -1,
          store_bytes = int64_t{16} << 30;
  std::string key_file;
  bool no_key = false;
};

bool is_loopback(const std::string& host) { return host == "localhost" || host == "::1" || host.starts_with("127."); }

/// Keys of --api-key and the lines of --api-key-file.
std::vector<std::string> read_keys(const ServeOptions& options) {
  std::vector<std::string> keys = options.service.keys;
  if (!options.key_file.empty()) {
    std::string line;
    for (const char c : read_text_file(options.key_file, kMaxKeyFile) + "\n") {
      if (c != '\n' && c != '\r') {
        line += c;
      } else if (!line.empty()) {
        keys.push_back(std::move(line));
        line.clear();
      }
    }
    if (keys.empty()) fail(ErrorKind::kInput, "{}: no key is in it, expected one on each line", options.key_file);
  }
  for (const std::string& key : keys) {
    if (key.empty()) fail(ErrorKind::kUsage, "--api-key: got \"\", expected a key");
  }
  return keys;
}

void check_reach(const ServeOptions& options, bool has_key) {
  if (options.no_key && has_key) fail(ErrorKind::kUsage, "serve: got both --no-key and a key, expected at most one");
  if (is_loopback(options.http.host) || has_key || options.no_key) return;
  fail(ErrorKind::kUsage,
       "--host: got {}, which other machines reach, without a key; expected --api-key, --api-key-file or --no-key",
       options.http.host);
}

/// The last part of the model's path, without an ending that says its format.
std::string name_of(const std::string& path) {
  std::filesystem::path place(path);
  if (place.filename().empty()) place = place.parent_path();
  const std::string ending = place.extension();
  return ending == ".gguf" || ending == ".safetensors" ? place.stem() : place.filename();
}

int run_serve(ServeOptions& options) {
  options.service.keys = read_keys(options);
  check_reach(options, !options.service.keys.empty());
  serve::StoreOptions& store = options.service.store;
  if (serve::is_redis(store.folder)) store.redis = serve::parse_redis(std::exchange(store.folder, {}));
  const Stream stream = options.machine.stream();
  const model::Model model = options.load(stream);
  model.text();  // throws where there is none
  serve::ServiceOptions& service_options = options.service;
  service_options.path = options.model;
  if (service_options.name.empty()) service_options.name = name_of(options.model);
  const ScratchFolder scratch;  // nobody else may read the conversations in it
  service_options.scratch = scratch.path();
  const size_t quarter = stream.memory->available_bytes() / 4;
  const auto or_quarter = [&](int64_t bytes) { return bytes >= 0 ? static_cast<size_t>(bytes) : quarter; };
  service_options.engine.memory_bytes = or_quarter(options.memory);
  service_options.state_bytes = or_quarter(options.state_bytes);
  service_options.engine.cache_bytes = or_quarter(options.cache_bytes);
  store.most_bytes = static_cast<size_t>(options.store_bytes);
  if (is_loopback(options.http.host)) service_options.hosts = {"localhost", "127.0.0.1", "[::1]", options.http.host};
  options.http.port = static_cast<int>(options.port);
  options.http.connections = static_cast<size_t>(options.connections);

  std::atomic<bool> over = false, lost = false;
  std::string why;  // the device was lost; written before `lost` is set
  service_options.engine.on_lost = [&](const std::string& words) {
    why = words;
    lost = true;
  };
  std::unique_ptr<serve::Service> service;
  serve::HttpServer server(
      options.http, [&](const std::shared_ptr<serve::Call>& call) { service->handle(call); },
      [&](const serve::HttpRequest& head) { service->screen(head); });
  service = std::make_unique<serve::Service>(model, stream, service_options,
                                             [&](std::function<void()> then) { server.post(std::move(then)); });
  catch_interrupts();
  end_by_itself();
  Thread watcher([&] {
    while (!over && !lost && !interrupted()) std::this_thread::sleep_for(std::chrono::milliseconds(20));
    if (over) return;
    server.post([&] { service->drain(); });
    server.stop();
  });
  note(fmt::format("serving {} at http://{}:{}", service_options.name, options.http.host, server.port()));
  server.run();
  over = true;
  watcher.join();
  service.reset();
  if (lost) fail(ErrorKind::kLost, "{}", why);
  note("stopped");
  return 0;
}

}  // namespace

std::function<int()> setup_serve(CLI::App& app) {
  const auto options = std::make_shared<ServeOptions>();
  options->add_model(app);
  app.add_option("--host", options->http.host, "Address to listen at")->capture_default_str();
  add_integer(app, "--port", options->port, 0, 65535, "Port to listen at; 0: any that is free");
  app.add_option("--name", options->service.name, "The model's name in answers (default: that of its folder)");
  app.add_option("--api-key", options->service.keys, "A key that callers must have; repeatable");
  app.add_option("--api-key-file", options->key_file, "File with a key on each line");
  app.add_flag("--no-key", options->no_key, "Let anybody call who reaches the address");
  app.add_option("--cors-origin", options->http.origins, "A site whose pages may read answers; *: any; repeatable");
  app.add_option("--chat-template", options->service.chat_template, "chatml: whatever template the model has")
      ->check(CLI::IsMember({"chatml"}));
  serve::EngineOptions& engine = options->service.engine;
  add_integer(app, "--parallel", engine.parallel, 1, (1 << 16) - 1, "Sequences at a time");
  add_integer(app, "--queue", engine.queue, 1, 1 << 20, "Requests that wait for them");
  add_number(app, "--tick-ms", engine.tick_ms, 1, 60000, "Time between tokens of a stream while prompts are read");
  add_integer(app, "--max-tokens", options->service.limits.max_tokens, 1, int64_t{1} << 30,
              "The most tokens of an answer");
  add_integer(app, "--memory", options->memory, -1, INT64_MAX,
              "Memory for the states of running requests; -1: a quarter of what is free");
  add_integer(app, "--state-bytes", options->state_bytes, -1, INT64_MAX,
              "Memory for the states that clients keep; -1: a quarter of what is free");
  add_integer(app, "--cache-bytes", options->cache_bytes, -1, INT64_MAX,
              "Memory for beginnings of prompts that were read; 0: none, -1: a quarter of what is free");
  app.add_option_function<std::string>(
         "--cache", [&engine](const std::string& name) { engine.reuse = serve::reuse_of(name); },
         "States that requests may begin with: exact (those that change no bit), any (2e-5 in logits), off")
      ->check(CLI::IsMember({"exact", "any", "off"}))
      ->default_str("exact");
  serve::StoreOptions& store = options->service.store;
  app.add_option("--store", store.folder,
                 "Folder or redis://[:PASSWORD@]HOST:PORT/DATABASE for states that outlive the server; servers of one "
                 "model may share it");
  add_integer(app, "--store-bytes", options->store_bytes, 0, INT64_MAX, "The most that the states of --store take");
  add_integer(app, "--store-ttl", store.ttl, 0, int64_t{1} << 40, "Seconds until a state there expires; 0: never");
  add_integer(app, "--connections", options->connections, 1, 1 << 20, "Connections at a time");
  add_number(app, "--timeout", options->http.call_seconds, 0.001, 1e7,
             "Seconds after which a request that still runs ends with an error");
  add_number(app, "--drain", options->http.drain_seconds, 0, 86400, "Seconds for answers under way after SIGTERM");
  options->weights.add_options(app);
  options->weights.add_mmap(app);
  options->machine.add_compute(app);
  options->machine.add_options(app);
  return [options] { return run_serve(*options); };
}

#endif

}  // namespace carousel::cli
