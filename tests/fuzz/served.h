// SPDX-License-Identifier: Apache-2.0
// The endpoints of a small model without a connection: a call is handed over and waited for.
#pragma once

#include <condition_variable>
#include <cstdlib>
#include <deque>
#include <filesystem>
#include <functional>
#include <memory>
#include <mutex>
#include <string>
#include <utility>

#include "carousel/core/error.h"
#include "carousel/model/params.h"
#include "carousel/serve/service.h"

namespace carousel::serve {

class Served {
 public:
  Served() : pool_(1), stream_{&Memory::host(), Isa::kPortable, &pool_} {
    constexpr const char* kConfig =
        R"({"model_type": "carousel", "vocab_size": 256, "hidden_size": 16, "layer_types": ["mlstm", "full_attention"],
            "mlstm_config": {"num_heads": 2}, "attention_config": {"num_heads": 2, "num_kv_heads": 1}})";
    model_.config = model::parse_config(parse_json(kConfig, "fuzz"), "fuzz");
    model::DrawnParams params(stream_, 1, DType::kF32);
    model_.lm = std::make_unique<model::Lm>(model_.config, params, "fuzz");
    model_.tokenizer = text::Tokenizer::bytes();
    model_.fingerprint = "fuzz";
    ServiceOptions options;
    options.name = "fuzz";
    options.chat_template = "chatml";
    options.scratch = std::filesystem::temp_directory_path();
    options.limits.max_tokens = 3;
    options.limits.samples = 3;
    options.engine.cache_bytes = size_t{1} << 20;
    options.engine.memory_bytes = size_t{64} << 20;
    options.state_bytes = size_t{4} << 20;
    service_ = std::make_unique<Service>(model_, stream_, options, [this](std::function<void()> then) {
      const std::lock_guard lock(mutex_);
      posted_.push_back(std::move(then));
      news_.notify_one();
    });
  }

  /// The answer: a status that is known, and JSON where it is an error. `leaves`: the client does not wait for it.
  std::string ask(const std::string& method, const std::string& path, std::string body, bool leaves = false) {
    HttpRequest request;
    request.method = method;
    request.path = path;
    request.body = std::move(body);
    const auto call = std::make_shared<Call>(std::move(request));
    service_->handle(call);
    if (leaves) call->leave();
    while (!call->ended()) run_posted();
    if (leaves) return "";
    const int status = call->status();
    if (status < 200 || status > 599 || status == 500) std::abort();  // 500: a bug, here where no disk is full
    const bool streams = call->streams();
    std::string said = call->take();
    if (status >= 400 && !parse_json(said, "answer").contains("error")) std::abort();
    if (status == 200 && streams && said.find("data: ") == said.npos) std::abort();
    return said;
  }

 private:
  void run_posted() {
    std::deque<std::function<void()>> posted;
    {
      std::unique_lock lock(mutex_);
      news_.wait(lock, [this] { return !posted_.empty(); });
      posted.swap(posted_);
    }
    for (const auto& then : posted) then();
  }

  ThreadPool pool_;
  const Stream stream_;
  model::Model model_;
  std::mutex mutex_;
  std::condition_variable news_;
  std::deque<std::function<void()>> posted_;  // guarded by mutex_
  std::unique_ptr<Service> service_;          // last: it posts until it is gone
};

}  // namespace carousel::serve
